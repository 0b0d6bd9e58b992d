//! The model test: both sides' real step functions, a network that loses, doubles and reorders, and hosts that crash.
//!
//! Every message that was ever sent may arrive at any time, any number of times, or never. A crash may come between any
//! two actions; it ends what was under way, and leaves the journal, without what was only noted or with it, and memory or
//! not. The search visits every state that can be reached, and checks:
//!
//! - **never both**: of the two sides one runs at most, and none runs at the source after it ran at the destination;
//! - **nobody runs against the disks**: whoever runs owns them, and nobody takes them at a lower epoch;
//! - **nothing lost that could be saved**: the machine is only given up where no whole copy of its memory is left; pages
//!   that only the source has are kept until the destination has them, and are not given up as long as they are kept;
//! - **nothing stuck**: from every state, without further crashes, one side comes to run and the other knows it.

use super::{Action, Destination, DestinationPhase, Epoch, Event, Message, Record, Source, SourcePhase};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What is checked: the real functions, or ones that are broken on purpose.
pub(super) trait Rules {
    fn source(s: Source, e: Event) -> (Source, Vec<Action>) {
        s.step(e)
    }
    fn destination(d: Destination, e: Event) -> (Destination, Vec<Action>) {
        d.step(e)
    }
    fn recover_source(last: Record, ram: bool) -> (Source, Vec<Action>) {
        Source::recover(last, FROM, ram)
    }
    fn recover_destination(last: Option<Record>, part: bool, ram: bool) -> (Destination, Vec<Action>) {
        Destination::recover(last, part, TO, ram)
    }
}

/// The real ones.
struct Real;
impl Rules for Real {}

/// Epochs of the source and of the destination.
pub(super) const FROM: Epoch = 7;
pub(super) const TO: Epoch = 8;

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Host<S> {
    /// What its process knows; none while it is down.
    process: Option<S>,
    todo: VecDeque<Action>,
    journal: Option<(Record, Epoch)>,
    /// What the journal says after a crash that takes what is not durable.
    durable: Option<(Record, Epoch)>,
    /// Its memory of the machine, as far as it has it.
    ram: bool,
    runs: bool,
    /// At which epoch it wrote to disks last, or would.
    epoch: Epoch,
}

impl<S> Host<S> {
    fn write(&mut self, record: Record, epoch: Epoch) {
        self.journal = Some((record, epoch));
        self.durable = self.journal;
    }

    fn crash(&mut self, memory: bool, notes: bool) {
        (self.process, self.runs) = (None, false);
        self.ram &= memory;
        self.todo.clear();
        if !notes {
            self.journal = self.durable;
        }
    }
}

/// A state of the world.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct World {
    source: Host<Source>,
    destination: Host<Destination>,
    /// Messages that were ever sent, by the side that they are for.
    to_source: BTreeSet<Message>,
    to_destination: BTreeSet<Message>,
    disks: Epoch,
    crashes: u8,
    /// Pages are left out of `Final`.
    post_copy: bool,
    /// Of the destination's memory: there are pages that have not come.
    lacks: bool,
    /// The destination's journal says that it was ready in part.
    part: bool,
    /// The destination has run.
    moved: bool,
    /// A person gave up a machine that was ready at the destination, or its journal was removed.
    meddled: bool,
}

impl World {
    fn new(crashes: u8, post_copy: bool) -> World {
        fn host<S>(process: S, runs: bool, epoch: Epoch) -> Host<S> {
            let journal = Some((Record::Begun, epoch));
            let todo = VecDeque::new();
            Host { process: Some(process), todo, journal, durable: journal, ram: runs, runs, epoch }
        }
        World {
            source: host(Source::new(FROM), true, FROM),
            destination: host(Destination::new(TO), false, TO),
            to_source: BTreeSet::new(),
            to_destination: BTreeSet::new(),
            disks: FROM,
            crashes,
            post_copy,
            lacks: false,
            part: false,
            moved: false,
            meddled: false,
        }
    }

    /// What is wrong with it.
    fn wrong(&self) -> Option<String> {
        if self.source.runs && self.destination.runs {
            return Some("both run".into());
        }
        if self.source.runs && self.moved {
            return Some("the source runs after the destination ran".into());
        }
        for (who, runs, epoch) in [
            ("source", self.source.runs, self.source.epoch),
            ("destination", self.destination.runs, self.destination.epoch),
        ] {
            if runs && epoch != self.disks {
                return Some(format!("the {who} runs at epoch {epoch}, its disks are at {}", self.disks));
            }
        }
        let gone = |h: &Option<(Record, Epoch)>, r| h.is_some_and(|(at, _)| at == r);
        let kept =
            gone(&self.source.journal, Record::Aborted) || gone(&self.source.journal, Record::Reclaimed);
        if kept
            && (gone(&self.destination.journal, Record::Owner)
                || gone(&self.destination.journal, Record::Started)
                || gone(&self.destination.journal, Record::Whole))
        {
            return Some("the source keeps what the destination owns".into());
        }
        None
    }

    /// One side runs, and nothing is left to be decided.
    fn settled(&self) -> bool {
        let here = self.source.process.is_some_and(Source::over) && self.source.todo.is_empty();
        let there =
            self.destination.process.is_some_and(Destination::over) && self.destination.todo.is_empty();
        here && there && (self.source.runs != self.destination.runs)
    }

    /// The destination has all of it, and would run it.
    fn whole_there(&self) -> bool {
        let d = &self.destination;
        d.ram && matches!(d.journal, Some((Record::Ready, _))) && d.todo.is_empty()
    }

    fn do_source(&mut self, action: Action) -> Option<String> {
        match action {
            Action::Pause => self.source.runs = false,
            Action::Write(Record::Aborted, _) if !self.source.ram && self.whole_there() && !self.meddled => {
                return Some("given up at the source while the destination has all of it".into());
            }
            Action::Write(Record::Handed | Record::HandedPart, _) if !self.source.ram && self.lacks => {
                return Some("handed over while nobody has all of it".into());
            }
            Action::Write(record, epoch) => self.source.write(record, epoch),
            Action::Note(record, epoch) => self.source.journal = Some((record, epoch)),
            Action::Send(m) => drop(self.to_destination.insert(m)),
            Action::TakeDisks(epoch) => return self.take(true, epoch),
            Action::Run if !self.source.ram => return Some("the source runs without memory".into()),
            Action::Run => self.source.runs = true,
            Action::Free if !self.moved => {
                return Some("the source frees its memory before the destination runs".into());
            }
            Action::Free if self.destination.ram && self.lacks => {
                return Some("the source frees pages that the destination has not got".into());
            }
            Action::Free => self.source.ram = false,
            Action::GiveUpPages => return Some("the source gives pages up".into()),
            Action::Lost(epoch) => {
                let wrong = self.take(true, epoch);
                self.source.runs = true;
                return wrong;
            }
        }
        None
    }

    fn do_destination(&mut self, action: Action) -> Option<String> {
        match action {
            Action::Pause => self.destination.runs = false,
            Action::Write(Record::Whole, _) if self.lacks && self.destination.ram => {
                return Some("the destination says that all pages are there, and they are not".into());
            }
            Action::Write(record, epoch) => self.destination.write(record, epoch),
            Action::Note(record, epoch) => {
                self.part |= record == Record::ReadyPart;
                self.destination.journal = Some((record, epoch));
            }
            Action::GiveUpPages if self.source.ram => {
                return Some("the destination gives up pages that the source has".into());
            }
            // It may go on without them, and is not whole any more whatever happens.
            Action::GiveUpPages => {}
            Action::Send(m) => drop(self.to_source.insert(m)),
            Action::TakeDisks(epoch) => return self.take(false, epoch),
            Action::Run if !self.destination.ram => {
                return Some("the destination runs without memory".into());
            }
            Action::Run => (self.destination.runs, self.moved) = (true, true),
            Action::Free => self.destination.ram = false,
            Action::Lost(epoch) => {
                let wrong = self.take(false, epoch);
                (self.destination.runs, self.moved) = (true, true);
                return wrong;
            }
        }
        None
    }

    fn take(&mut self, source: bool, epoch: Epoch) -> Option<String> {
        if epoch < self.disks {
            return Some(format!("disks at epoch {} are taken at {epoch}", self.disks));
        }
        self.disks = epoch;
        if source {
            self.source.epoch = epoch
        } else {
            self.destination.epoch = epoch
        }
        None
    }
}

/// A way on: its name, whether it is a crash, and where it leads.
type Step = (String, bool, Result<World, String>);

fn events(inbox: &BTreeSet<Message>, own: &[Event]) -> Vec<Event> {
    own.iter().copied().chain(inbox.iter().map(|m| Event::Got(*m))).collect()
}

fn steps<R: Rules>(world: &World) -> Vec<Step> {
    let mut all = Vec::new();
    let mut add = |name: String, crash, change: &dyn Fn(&mut World) -> Option<String>| {
        let mut next = world.clone();
        let wrong = change(&mut next);
        let wrong = wrong.or_else(|| next.wrong());
        if next != *world || wrong.is_some() {
            all.push((name, crash, wrong.map_or(Ok(next), Err)));
        }
    };
    match (world.source.process, world.source.todo.front()) {
        (Some(_), Some(action)) => add(format!("source does {action:?}"), false, &|w| {
            w.source.todo.pop_front();
            w.do_source(*action)
        }),
        (Some(s), None) => {
            for e in events(&world.to_source, &[Event::Freeze, Event::Cancel, Event::LinkLost, Event::Tick]) {
                add(format!("source: {e:?}"), false, &|w| {
                    let (next, actions) = R::source(s, e);
                    w.source.process = Some(next);
                    w.source.todo = actions.into();
                    w.meddled |= e == Event::Cancel && s.phase == SourcePhase::Unsure;
                    None
                });
            }
        }
        (None, _) => add("source comes back".into(), false, &|w| {
            let (last, _) = w.source.journal?;
            let (next, actions) = R::recover_source(last, w.source.ram);
            (w.source.process, w.source.todo) = (Some(next), actions.into());
            None
        }),
    }
    match (world.destination.process, world.destination.todo.front()) {
        (Some(_), Some(action)) => add(format!("destination does {action:?}"), false, &|w| {
            w.destination.todo.pop_front();
            w.do_destination(*action)
        }),
        (Some(d), None) => {
            let loaded = if world.post_copy { Event::LoadedPart } else { Event::Loaded };
            let own = [loaded, Event::Complete, Event::Cancel, Event::LinkLost, Event::Tick];
            // Pages come from a source that is there, and says that it gives them.
            let gives = world.source.process.is_some_and(|s| s.gives_pages()) && world.source.ram;
            for e in events(&world.to_destination, &own) {
                if e == loaded && !world.to_destination.contains(&Message::Final)
                    || e == Event::Complete
                        && !(d.phase == DestinationPhase::Pulling && (gives || !world.lacks))
                {
                    continue;
                }
                add(format!("destination: {e:?}"), false, &|w| {
                    let (next, actions) = R::destination(d, e);
                    w.destination.process = Some(next);
                    w.destination.todo = actions.into();
                    let came = e == loaded && d.phase == DestinationPhase::Receiving;
                    w.destination.ram |= came;
                    w.lacks = w.lacks && e != Event::Complete || came && w.post_copy;
                    w.meddled |= e == Event::Cancel && d.phase == DestinationPhase::Ready;
                    None
                });
            }
        }
        (None, _) => add("destination comes back".into(), false, &|w| {
            let last = w.destination.journal.map(|(r, _)| r);
            let (next, actions) = R::recover_destination(last, w.part, w.destination.ram);
            (w.destination.process, w.destination.todo) = (Some(next), actions.into());
            None
        }),
    }
    if world.crashes > 0 {
        for (memory, notes) in [(true, true), (true, false), (false, true), (false, false)] {
            let stays =
                |what, yes| if yes { format!("its {what} stays") } else { format!("with its {what}") };
            let how = format!("{}, {}", stays("memory", memory), stays("last note", notes));
            if world.source.process.is_some() {
                add(format!("source crashes, {how}"), true, &|w| {
                    w.crashes -= 1;
                    w.source.crash(memory, notes);
                    None
                });
            }
            if world.destination.process.is_some() {
                add(format!("destination crashes, {how}"), true, &|w| {
                    w.crashes -= 1;
                    w.part &= notes || w.destination.journal == w.destination.durable;
                    w.destination.crash(memory, notes);
                    None
                });
            }
        }
        if world.destination.process.is_none() && world.destination.journal.is_some() {
            add("destination's journal is removed".into(), true, &|w| {
                w.crashes -= 1;
                (w.destination.journal, w.destination.durable) = (None, None);
                (w.destination.ram, w.part) = (false, false);
                w.meddled = true;
                None
            });
        }
    }
    all
}

/// What a search has found.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) states: usize,
    pub(super) ends: usize,
    /// What went wrong first, with how it came to be.
    pub(super) wrong: Option<(String, Vec<String>)>,
    /// States from which nothing leads to an end, and how the first of them is reached.
    pub(super) stuck: usize,
    pub(super) stuck_by: Vec<String>,
}

/// Visits every state, of machines that are handed over as a whole and of those that are in part.
pub(super) fn search<R: Rules>(crashes: u8) -> Found {
    let mut worlds = vec![World::new(crashes, false), World::new(crashes, true)];
    let mut numbers: BTreeMap<World, usize> = worlds.iter().cloned().zip(0..).collect();
    // How each was reached, and from where it is reached without a crash.
    let mut came: Vec<(usize, String)> = vec![(0, "whole".into()), (1, "in part".into())];
    let mut back: Vec<Vec<usize>> = vec![vec![], vec![]];
    let path = |came: &[(usize, String)], mut at: usize| {
        let mut names = Vec::new();
        loop {
            names.push(came[at].1.clone());
            if came[at].0 == at {
                break;
            }
            at = came[at].0;
        }
        names.reverse();
        names
    };
    let mut found = Found::default();
    let mut at = 0;
    while at < worlds.len() {
        for (name, crash, to) in steps::<R>(&worlds[at].clone()) {
            let to = match to {
                Ok(to) => to,
                Err(why) => {
                    let mut how = path(&came, at);
                    how.push(name);
                    found.wrong.get_or_insert((why, how));
                    continue;
                }
            };
            let n = *numbers.entry(to).or_insert_with_key(|world| {
                worlds.push(world.clone());
                came.push((at, name));
                back.push(vec![]);
                worlds.len() - 1
            });
            if !crash {
                back[n].push(at);
            }
        }
        at += 1;
    }
    let mut good: Vec<bool> = worlds.iter().map(World::settled).collect();
    let mut queue: Vec<usize> = (0..worlds.len()).filter(|n| good[*n]).collect();
    found.ends = queue.len();
    while let Some(n) = queue.pop() {
        for &from in &back[n] {
            if !std::mem::replace(&mut good[from], true) {
                queue.push(from);
            }
        }
    }
    // A removed journal is beyond what can be decided without a person.
    let stuck = |n: &usize| !good[*n] && worlds[*n].destination.journal.is_some();
    found.states = worlds.len();
    found.stuck = (0..worlds.len()).filter(stuck).count();
    found.stuck_by = (0..worlds.len()).find(stuck).map(|n| path(&came, n)).unwrap_or_default();
    found
}

#[test]
fn nothing_runs_twice_is_lost_or_stuck() {
    let found = search::<Real>(4);
    assert_eq!(found.wrong, None);
    assert_eq!(found.stuck, 0, "{:#?}", found.stuck_by);
    assert!(found.states > 30_000 && found.ends > 300, "{} states, {} ends", found.states, found.ends);
    println!("{} states, {} of them ends", found.states, found.ends);
}

/// Without crashes there is still every order of messages.
#[test]
fn the_quiet_case_ends_at_either_side() {
    let found = search::<Real>(0);
    assert_eq!((found.wrong, found.stuck), (None, 0));
    assert!(found.ends >= 2, "{}", found.ends);
}
