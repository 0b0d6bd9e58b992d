//! The destination of a migration: a process that becomes a machine's.
//!
//! ```text
//!  listening ─► offered ─► reserved ─► receiving ─► ready ─► started
//!                  └──────────┴────────────┴─────────► refused: nothing is left but the journal's promise
//! ```
//! The core (`strata_migration::Destination`) decides; this carries its actions out, in their order. From `reserved` on the
//! instance stands in the store under its name, with a record that says that it is moving; its lock and its name are ours.
//! Once it is ready it waits for the source for ever, through as many connections as it takes.

mod afterwards;
mod offered;

use self::offered::{Offered, no, wait_for_offer};
use super::check::Coming;
use super::disks::{Disks, Plan};
use super::door::{Door, Visitor, let_speak, lock};
use super::files::{Incoming, incoming};
use super::pulling::Pull;
use super::{Arrival, Listening, Moving};
use crate::assemble::{Saved, assemble_from};
use crate::control::Assembled;
use crate::convert::paragraph;
use crate::exit::{Error, Kind, Result};
use crate::instances::{Reserved, Store, remove_ended};
use crate::runtime::{NameLock, Runtime};
use crate::spec::VmmSpec;
use crate::{InstanceRecord, home, name};
use std::net::TcpListener;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};
use strata_engine::hot::HotPaths;
use strata_machine::Restore;
use strata_memory::{GuestRam, PageSet};
use strata_migration::digest::digest;
use strata_migration::journal::{Detail, Journal, Side};
use strata_migration::link::{Link, Security, token};
use strata_migration::streams::Meter;
use strata_migration::wire::{Frame, Offer, Rest, receive as receive_frame, send, take_set};
use strata_migration::{Action, Destination, DestinationPhase, Event, Message, Record};
use strata_net::Port;

/// Largest state that is taken, in bytes.
const MAX_STATE: usize = 64 << 20;
/// Longest list of hot paths, in bytes.
const MAX_HOT_PATHS: usize = 16 << 20;
/// How long a source that has lost the answer may ask for it, after the machine has started.
const AFTERWARDS: Duration = Duration::from_secs(600);

/// A machine that has started here.
pub(crate) struct Arrived {
    pub(crate) spec: VmmSpec,
    pub(crate) machine: Assembled,
    pub(crate) name: NameLock,
    pub(crate) lock: OwnedFd,
    pub(crate) notes: Vec<String>,
    /// Memory that follows, if it does.
    pub(crate) pull: Option<Arc<Pull>>,
}

/// Waits for one machine, and starts it when that may be. `say` hears where it listens; as long as nothing was offered,
/// the end of `launcher` ends the waiting.
pub(crate) fn receive(
    ask: &Arrival,
    launcher: BorrowedFd<'_>,
    say: impl FnOnce(&Listening),
) -> Result<Arrived> {
    let listener =
        TcpListener::bind(&ask.listen).map_err(|e| Error::io(format_args!("listen at {}", ask.listen), e))?;
    let at = listener.local_addr().map_err(|e| Error::io("listen", e))?;
    if ask.plain && !at.ip().is_loopback() {
        let m = format!(
            "{at} can be reached from other hosts: without encryption only 127.0.0.1 or ::1 will do."
        );
        return Err(Error::new(Kind::Config, m));
    }
    let (secret, seed) = (name::random()?, name::random()?);
    let internal = |e| Error::new(Kind::Internal, format!("No key could be made: {e}."));
    let security = match ask.plain {
        true => Security::Plain,
        false => Security::destination(&secret, &seed).map_err(internal)?,
    };
    let shown = token(secret, &seed).map_err(internal)?.to_string();
    let listening = Listening { address: at.to_string(), token: shown };
    let door = Arc::new(Door {
        listener,
        security,
        secret,
        id: Mutex::default(),
        ram: Mutex::default(),
        meter: Meter::default(),
        streams: Mutex::default(),
        closed: AtomicBool::new(false),
        pull: OnceLock::new(),
        port: OnceLock::new(),
        network: AtomicBool::new(false),
    });
    let (inside, visitors) = channel();
    let attending = door.clone();
    std::thread::Builder::new()
        .name("door".into())
        .spawn(move || attending.attend(&inside))
        .map_err(|e| Error::io("start a thread that listens", e))?;
    say(&listening);
    let result = wait_for_offer(ask, &visitors, launcher).and_then(|offered| {
        let Offered { link, id, offer, coming } = offered;
        let keys = Detail {
            name: coming.record.name.clone(),
            address: listening.address.clone(),
            token: keys(&secret, &seed),
            plain: ask.plain,
        };
        Attempt::reserve(door.clone(), link, id, offer, coming, &keys)?.run(visitors)
    });
    if result.is_err() {
        door.closed.store(true, SeqCst);
        door.end_streams();
    }
    result
}

/// What it takes to listen again as the same destination: secret and seed, as a token of 64 bytes is written.
fn keys(secret: &[u8; 32], seed: &[u8; 32]) -> String {
    strata_migration::token::Token { secret: *secret, fingerprint: *seed }.to_string()
}

/// One machine that is coming.
struct Attempt {
    door: Arc<Door>,
    control: Option<Link>,
    side: Destination,
    journal: Journal,
    record: InstanceRecord,
    reserved: Reserved,
    name: Option<NameLock>,
    files: Vec<Option<Incoming>>,
    plan: Plan,
    disks: Option<Disks>,
    ram: GuestRam,
    state: Vec<u8>,
    /// Pages that are left out.
    absent: Vec<u64>,
    hot_paths: Vec<u8>,
    machine: Option<Assembled>,
}

impl Attempt {
    fn reserve(
        door: Arc<Door>,
        mut link: Link,
        id: [u8; 16],
        offer: Offer,
        coming: Coming,
        keys: &Detail,
    ) -> Result<Attempt> {
        let yes = coming.accept();
        let Coming { mut record, disks: plan, found, notes: _, whole_only: _ } = coming;
        let made = (|| {
            let base = record.arch.board().ram_regions(record.memory).first().map_or(0, |(gpa, _)| *gpa);
            let ram = GuestRam::single(base, record.memory)
                .map_err(|e| Error::new(Kind::Host, paragraph(&e.to_string())))?;
            let name = Runtime::open()?.lock(&record.name)?;
            let text = strata_snapshot::hex(&id);
            super::prune_journals(&home()?);
            let journal = Journal::begin(&home()?, &text, Side::Destination, offer.epoch, keys)?;
            record.moving = Some(Moving { id: text, side: Side::Destination });
            let mut files = Vec::new();
            let reserved = Store::open()?.reserve(&mut record, |dir, record| {
                files = incoming(&offer.files, dir, record, &found)?;
                Ok(())
            })?;
            Ok((ram, name, journal, reserved, files))
        })();
        let (ram, name, journal, reserved, files) = made.inspect_err(|e| no(&mut link, e))?;
        *lock(&door.id) = Some(id);
        *lock(&door.ram) = Some(ram.clone());
        let pages = ram.regions().first().map_or(0, |r| r.pages().pages());
        let mut attempt = Attempt {
            door,
            control: None,
            side: Destination::new(offer.epoch),
            journal,
            record,
            reserved,
            name: Some(name),
            files,
            plan,
            disks: None,
            ram,
            state: Vec::new(),
            absent: vec![0; pages.div_ceil(64)],
            hot_paths: Vec::new(),
            machine: None,
        };
        send(&mut link, &Frame::Accept(yes))?;
        attempt.control = Some(link);
        Ok(attempt)
    }

    fn run(mut self, visitors: Receiver<Visitor>) -> Result<Arrived> {
        let came = self.take().and_then(|rest| self.put_together(&rest));
        if self.door.pull.get().is_none() {
            self.door.end_streams();
        }
        let ready = match came {
            Ok(()) if self.door.pull.get().is_some() => self.event(Event::LoadedPart),
            Ok(()) => self.event(Event::Loaded),
            Err(e) => {
                if let Some(control) = &mut self.control {
                    // In case the source is to hear why.
                    let _ = send(control, &Frame::Why(e.message.clone()));
                    let_speak(control);
                }
                self.event(Event::LinkLost).and(Err(e))
            }
        };
        let over = ready.and_then(|()| self.until_known(&visitors));
        if over.is_err() && self.side.phase == DestinationPhase::Refused {
            drop(self.machine.take());
            // It is known here too, and would be held until this process has gone.
            self.door.port.get().into_iter().flatten().for_each(Port::close);
            drop(self.disks.take());
            // What cannot be removed says that it was refused.
            let _ = remove_ended(self.reserved.dir());
        }
        if over.is_err()
            && self.side.started()
            && let Some(disks) = self.disks.take()
        {
            // It is this host's for good, whatever has become of it, and may be started from its disks.
            disks.keep();
        }
        over?;
        self.arrived(visitors)
    }

    /// Takes what the source sends, to its last word.
    fn take(&mut self) -> Result<Rest> {
        let lost = || Error::new(Kind::Network, "The connection to the source is gone.");
        let mut buf = Vec::new();
        loop {
            let control = self.control.as_mut().ok_or_else(lost)?;
            match receive_frame(control, &mut buf) {
                // Streams carry the bulk: this connection may be quiet for long, and its keepalive tells when it is dead.
                Err(e) if e.is_quiet() => continue,
                Err(e) => return Err(e.into()),
                Ok(Frame::File(n, at, bytes)) => match self.files.get_mut(usize::from(n)) {
                    Some(Some(file)) => file.take(at, bytes)?,
                    _ => {
                        return Err(Error::new(
                            Kind::Protocol,
                            "The source sends a file that it was not asked for.",
                        ));
                    }
                },
                Ok(Frame::Disk(n, at, bytes)) => self.disks()?.take(n, at, Ok(bytes))?,
                Ok(Frame::DiskZeroes(n, at, len)) => self.disks()?.take(n, at, Err(len))?,
                Ok(Frame::State(piece)) => append(&mut self.state, piece, MAX_STATE)?,
                Ok(Frame::Absent(first, words)) => {
                    let pages = self.ram.regions().first().map_or(0, |r| r.pages().pages());
                    take_set(&mut self.absent, pages, first, &words)?;
                }
                Ok(Frame::HotPaths(piece)) => append(&mut self.hot_paths, piece, MAX_HOT_PATHS)?,
                // A state that it had a while ago: the machine is put together while it still runs there.
                Ok(Frame::Round(n)) => {
                    self.prepare()?;
                    self.state.clear();
                    let control = self.control.as_mut().ok_or_else(lost)?;
                    send(control, &Frame::Round(n))?;
                }
                Ok(Frame::Final(rest)) => return Ok(*rest),
                Ok(Frame::Why(why)) => {
                    return Err(Error::new(Kind::Refused, paragraph(&format!("The source gives up: {why}"))));
                }
                Ok(Frame::Core(Message::Abort | Message::Query)) => {
                    return Err(Error::new(Kind::Refused, "The source gives the migration up."));
                }
                Ok(_) => {
                    return Err(Error::new(Kind::Protocol, "The source sends what does not belong here."));
                }
            }
        }
    }

    /// All has come: is it what was sent, and does it make a machine?
    fn put_together(&mut self, rest: &Rest) -> Result<()> {
        let came = Instant::now();
        let short = |what: &str| Err(Error::new(Kind::Protocol, format!("Not all of {what} has arrived.")));
        if self.state.len() as u64 != rest.state {
            return short("the machine's state");
        }
        if self.door.meter.counts() != rest.pages
            || rest.pages.iter().sum::<u64>().saturating_add(rest.absent)
                < self.record.memory / strata_memory::PAGE
            || rest.absent != self.absent.iter().map(|w| u64::from(w.count_ones())).sum::<u64>()
        {
            return short("the machine's memory");
        }
        if !self.files.iter().flatten().all(Incoming::whole) {
            return short("the files that it is started from");
        }
        if !self.disks()?.whole(&rest.disks) {
            return short("the machine's disks");
        }
        let left_out = PageSet::from_words(std::mem::take(&mut self.absent));
        if let Some(sent) = &rest.memory
            && *sent != digest(&self.ram, &left_out)?
        {
            let m = "The machine's memory is not here what it is at its source: it was damaged on its way.";
            return Err(Error::new(Kind::Io, m));
        }
        // What its guest was told is on the disk is on one here before the source may forget it.
        self.disks()?.make_durable()?;
        if self.machine.is_none() {
            self.prepare()?;
        }
        let missing = || Error::new(Kind::Internal, "A machine that was put together is not there.");
        let machine = &self.machine.as_ref().ok_or_else(missing)?.machine;
        if rest.absent > 0 {
            // Before devices are loaded, which look at memory.
            self.ram.expect_late(&left_out).map_err(|e| Error::io("expect memory later", e))?;
        }
        let passed = rest.stood.saturating_add(came.elapsed().as_nanos() as u64);
        machine.begin_at(&self.state, passed, &rest.flows)?;
        if rest.absent > 0 {
            // After vCPUs are loaded: where that has the kernel look at memory, nobody fetches it yet.
            let pull = Pull::new(self.ram.clone(), &**machine)?;
            let _ = self.door.pull.set(Arc::new(pull));
        }
        machine.arrive(&rest.guest);
        Ok(())
    }

    /// Its disks, opened when all is here that they are over.
    fn disks(&mut self) -> Result<&mut Disks> {
        if self.disks.is_none() {
            if !self.files.iter().flatten().all(Incoming::whole) {
                let m = "The source sends what belongs to files that have not arrived.";
                return Err(Error::new(Kind::Protocol, m));
            }
            self.disks = Some(self.plan.open(&self.record, self.reserved.dir())?);
        }
        self.disks.as_mut().ok_or_else(|| Error::new(Kind::Internal, "Disks that were opened are not there."))
    }

    /// Disks that are handed over are ours now. Should that fail, the machine has not run here, and never will: the source,
    /// which has its memory, goes on.
    fn take_disks(&mut self) -> Result<()> {
        let taken = self.disks.as_ref().map_or(Ok(()), |d| d.take_over(&self.plan, &self.record));
        if let Err(e) = taken {
            let (side, actions) =
                Destination::recover(Some(Record::Owner), self.side.part, self.side.epoch, false);
            self.side = side;
            actions.into_iter().try_for_each(|a| self.carry_out(a))?;
            return Err(e);
        }
        Ok(())
    }

    /// Makes a machine of the state that is here: its devices, threads and connections are there before it stands still.
    fn prepare(&mut self) -> Result<()> {
        if self.machine.is_some() {
            return Err(Error::new(Kind::Protocol, "The source sends a state twice."));
        }
        self.disks()?.make_durable()?;
        let disks = self.disks()?.shared();
        // Its source may have the card's address on the same bridge, until it lets go of it.
        let spec = VmmSpec { share_mac: true, ..self.record.spec_in(self.reserved.dir()) };
        let moment =
            Restore { ram: self.ram.clone(), state: self.state.clone(), generation: None, passed: 0 };
        let saved = Saved { moment, id: String::new(), from: None, flows: vec![] };
        let mut machine = assemble_from(&spec, Some(saved), Some(disks))?;
        let settle_in = std::mem::replace(&mut machine.settle_in, Box::new(|| Ok(Vec::new())));
        machine.notes.extend(settle_in()?);
        if let Ok(paths) = HotPaths::from_bytes(&self.hot_paths) {
            machine.machine.warm(paths);
        }
        let _ = self.door.port.set(machine.machine.port());
        self.machine = Some(machine);
        Ok(())
    }

    /// Ready: what becomes of it is the source's to say, however long that takes.
    fn until_known(&mut self, visitors: &Receiver<Visitor>) -> Result<()> {
        let mut buf = Vec::new();
        let id = *lock(&self.door.id);
        while !self.side.over() && !self.side.started() {
            let heard = match &mut self.control {
                Some(control) => receive_frame(control, &mut buf)
                    .map(|f| if let Frame::Core(m) = f { Some(m) } else { None }),
                None => match visitors.recv() {
                    Ok((link, from)) if Some(from) == id => {
                        self.control = Some(link);
                        self.event(Event::Tick)?;
                        continue;
                    }
                    Ok(_) => continue,
                    Err(_) => return Err(Error::new(Kind::Internal, "The thread that listens has ended.")),
                },
            };
            match heard {
                Ok(Some(m)) => self.event(Event::Got(m))?,
                Ok(None) => {}
                Err(e) if e.is_quiet() => {}
                Err(_) => self.control = None,
            }
        }
        match self.side.phase {
            _ if self.side.started() => Ok(()),
            _ => Err(Error::new(Kind::Refused, "The machine stayed at its source.")),
        }
    }

    fn event(&mut self, event: Event) -> Result<()> {
        let (next, actions) = self.side.step(event);
        self.side = next;
        actions.into_iter().try_for_each(|a| self.carry_out(a))
    }

    fn carry_out(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Write(record, epoch) => Ok(self.journal.write(record, epoch)?),
            Action::Note(record, epoch) => Ok(self.journal.note(record, epoch)?),
            Action::Send(m) => {
                // Whoever did not hear it asks again.
                if let Some(control) = &mut self.control
                    && send(control, &Frame::Core(m)).is_err()
                {
                    self.control = None;
                }
                Ok(())
            }
            Action::Run => match &self.machine {
                Some(assembled) => {
                    if let Some(pull) = self.door.pull.get() {
                        pull.begin();
                    }
                    assembled.machine.start().map_err(|e| Error::new(Kind::Internal, paragraph(&e)))
                }
                None => Err(Error::new(Kind::Internal, "There is no machine to start.")),
            },
            Action::TakeDisks(_) => self.take_disks(),
            // Memory goes with the process; and nothing here is paused or lost.
            Action::Free | Action::Pause | Action::Lost(_) => Ok(()),
            Action::GiveUpPages => {
                tracing::error!(
                    "the host that it came from has lost the rest of its memory: it runs on without that"
                );
                if let Some(pull) = self.door.pull.get() {
                    pull.give_up();
                }
                Ok(())
            }
        }
    }
}

fn append(to: &mut Vec<u8>, piece: &[u8], most: usize) -> Result<()> {
    if to.len() + piece.len() > most {
        return Err(Error::new(Kind::Protocol, "The source sends more than a machine's state can be."));
    }
    to.extend_from_slice(piece);
    Ok(())
}
