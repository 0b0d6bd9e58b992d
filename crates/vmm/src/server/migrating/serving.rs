//! The end of a migration by post-copy: the machine runs there, and fetches the memory that is still here.
//!
//! ```text
//!  handed over ─► connected: control, urgent, streams ─► all is there: freed
//!                    ▲     │ lost
//!                    └─────┴── again and again, or at once when `strata migrate recover` asks
//! ```
//! Nothing that is lost here ever lets the machine run on here: it has run there. Whoever would end this process is told what
//! that means, since the memory would end with it.

use super::{AGAIN, Attempt};
use crate::exit::{Error, Kind, Result};
use crate::migrate::Step;
use crate::migrate::pulling::Pull;
use crate::server::Shared;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use strata_memory::PageSet;
use strata_migration::late::Serving;
use strata_migration::link::Link;
use strata_migration::wire::{Frame, PACKED, POST_COPY, Purpose, WireError, receive, send_set};
use strata_migration::{Event, SourcePhase};

/// How often figures are renewed, and others' wishes looked at.
const LOOK: Duration = Duration::from_millis(50);
/// How long a destination that has been sent everything may take to say that it has it.
const TAKEN: Duration = Duration::from_secs(20);
/// How long a destination may take to answer on a connection that was made anew.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest pause between two attempts to reach a destination.
const SELDOM: Duration = Duration::from_secs(3);

/// Connections by which memory follows.
struct Links {
    urgent: Link,
    streams: Vec<Link>,
}

impl Attempt<'_> {
    /// Whether both sides can let memory follow a machine that runs there already.
    pub(super) fn can_follow(&self) -> bool {
        self.version >= POST_COPY && !self.whole_only
    }

    /// A connection of its own for what is waited for, made while there is time.
    pub(super) fn connect_urgent(&mut self) -> Result<()> {
        self.urgent = Some(self.connect(Purpose::Urgent)?);
        Ok(())
    }

    /// While it stands: leaves out the pages `rest`, and says which they are. Gives how many.
    pub(super) fn leave_out(&mut self, rest: &PageSet) -> Result<u64> {
        let pages = self.ram.regions().first().map_or(0, |r| r.pages().pages());
        let control = self.control()?;
        send_set(control, rest, false)?;
        self.serving = Some(Serving::new(pages, rest, &self.rounds.recent()));
        Ok(rest.len() as u64)
    }

    /// Gives pages until the destination has all of them.
    pub(super) fn serve(&mut self) -> Result<()> {
        let missing = || Error::new(Kind::Internal, "There is no memory to be given.");
        let serving = self.serving.take().ok_or_else(missing)?;
        self.shared.lock().migration.serving = true;
        let streams = self.streams.take().map(|s| s.into_links()).unwrap_or_default();
        let mut links = self.urgent.take().map(|urgent| Links { urgent, streams });
        let mut pause = AGAIN;
        while !self.side.over() {
            // Whatever fails, memory is kept, and given again.
            let given = links.take().map_or(Ok(()), |mut links| self.give(&serving, &mut links));
            if self.side.over() {
                break;
            }
            self.pulling(&serving, false);
            match given.and_then(|()| self.reconnect(&serving, pause)) {
                Ok(again) => {
                    links = again;
                    pause = next_pause(pause, serving.left());
                    self.pulling(&serving, true);
                    self.shared.lock().migration.again = false;
                }
                Err(e) => {
                    tracing::error!("{}; it is tried again", e.message);
                    std::thread::sleep(SELDOM);
                }
            }
        }
        self.pulling(&serving, true);
        self.shared.lock().migration.serving = false;
        match self.side.phase {
            SourcePhase::Done => Ok(()),
            SourcePhase::Reclaimed if self.side.ram => Err(Error::new(
                Kind::Refused,
                "The destination lost the machine before it ran there; it runs on here.",
            )),
            _ => Err(Error::new(
                Kind::Refused,
                "The destination was given up, and with it the machine's memory: it can be started from its disks here.",
            )),
        }
    }

    fn pulling(&self, serving: &Serving, connected: bool) {
        let (left, asked, counts) = (serving.left(), serving.asked(), self.meter.counts());
        let sent = self.meter.bytes.load(Relaxed);
        self.shared.figure(|f| {
            (f.pending, f.asked, f.sent, f.pages) = ([left, 0], asked, sent, counts);
            f.connected = connected;
        });
        self.shared.step(Step::Pulling);
    }

    /// Gives pages over these connections, until all is over or one of them is lost.
    fn give(&mut self, serving: &Serving, links: &mut Links) -> Result<()> {
        let (ram, meter, packs) = (self.ram.clone(), self.meter.clone(), self.version >= PACKED);
        let (lost, sockets) = (AtomicBool::new(false), sockets(links)?);
        let Links { urgent, streams } = links;
        let ended = |r: Result<(), WireError>| {
            if let Err(e) = r {
                lost.store(true, Relaxed);
                tracing::warn!("a connection of a migration ended: {e}");
            }
        };
        let (ram, meter, lost, ended) = (&ram, &meter, &lost, &ended);
        std::thread::scope(|s| {
            s.spawn(move || ended(serving.urgent(urgent, ram, meter)));
            for stream in streams {
                s.spawn(move || ended(serving.background(stream, ram, meter, packs, lost)));
            }
            let result = self.until_lost(serving, lost);
            lost.store(true, Relaxed);
            sockets.iter().for_each(|s| drop(s.shutdown(Shutdown::Both)));
            result
        })
    }

    fn until_lost(&mut self, serving: &Serving, lost: &AtomicBool) -> Result<()> {
        let (mut shown, mut sent) = (None::<Instant>, None::<Instant>);
        while !self.side.over() && !lost.load(Relaxed) {
            if shown.is_none_or(|at| at.elapsed() > LOOK * 4) {
                self.pulling(serving, true);
                shown = Some(Instant::now());
            }
            if std::mem::take(&mut self.shared.lock().migration.give_up) {
                self.event(Event::Force)?;
            }
            if self.shared.lock().migration.again {
                // Somebody sees more than these connections do.
                break;
            }
            sent = if serving.left() > 0 { None } else { sent.or_else(|| Some(Instant::now())) };
            if sent.is_some_and(|at| at.elapsed() > TAKEN) {
                tracing::warn!("the destination has been sent everything, and does not say that it has it");
                break;
            }
            let Some(control) = &mut self.control else { break };
            let heard = control.wait(None, LOOK).and_then(|there| match there {
                true => receive(control, &mut Vec::new())
                    .map(|f| if let Frame::Core(m) = f { Some(m) } else { None }),
                false => Ok(None),
            });
            match heard {
                Ok(Some(m)) => self.event(Event::Got(m))?,
                Ok(None) => {}
                Err(_) => self.control = None,
            }
        }
        Ok(())
    }

    /// Reaches the destination again, however long that takes; nothing if all is over then.
    fn reconnect(&mut self, serving: &Serving, mut pause: Duration) -> Result<Option<Links>> {
        loop {
            self.control = None;
            if self.wait_to_try(pause) {
                self.event(Event::Force)?;
                return Ok(None);
            }
            pause = (pause * 2).min(SELDOM);
            self.control = self.connect(Purpose::Control).ok();
            self.event(Event::Tick)?;
            // Its answer says whether it still needs anything.
            let answer = self.control.as_mut().and_then(|c| {
                c.patience(Some(ANSWER)).ok()?;
                match receive(c, &mut Vec::new()) {
                    Ok(Frame::Core(m)) => Some(m),
                    _ => None,
                }
            });
            let Some(m) = answer else { continue };
            self.event(Event::Got(m))?;
            if self.side.over() {
                return Ok(None);
            }
            match self.follow_again(serving) {
                Ok(links) => return Ok(Some(links)),
                Err(e) => tracing::warn!("the destination is reached, and takes no memory: {}", e.message),
            }
        }
    }

    fn follow_again(&self, serving: &Serving) -> Result<Links> {
        let mut urgent = self.connect(Purpose::Urgent)?;
        urgent.patience(Some(ANSWER)).map_err(|e| Error::io("wait for the destination", e))?;
        serving.resume(&mut urgent)?;
        let streams = self.ask.streams.max(1);
        let streams = (0..streams).map(|n| self.connect(Purpose::Pages(n))).collect::<Result<_>>()?;
        Ok(Links { urgent, streams })
    }

    /// Waits before the next attempt, or until somebody asks for one; whether somebody gives the destination up.
    fn wait_to_try(&self, pause: Duration) -> bool {
        let begun = Instant::now();
        loop {
            std::thread::sleep(LOOK);
            let m = &mut self.shared.lock().migration;
            let give_up = std::mem::take(&mut m.give_up);
            if give_up || m.again || begun.elapsed() >= pause {
                return give_up;
            }
        }
    }
}

/// How long to wait before the connections that were just made are made anew, should they be lost. A destination that has all
/// `left` pages and does not say so cannot write that down yet, and ends them at once: there is no hurry.
fn next_pause(last: Duration, left: u64) -> Duration {
    if left > 0 { AGAIN } else { (last * 2).min(SELDOM) }
}

fn sockets(links: &Links) -> Result<Vec<std::net::TcpStream>> {
    let all = links.streams.iter().chain([&links.urgent]).map(Link::socket);
    all.collect::<std::io::Result<_>>().map_err(|e| Error::io("keep a connection at hand", e))
}

/// Whether the machine runs elsewhere and needs memory that is here: then nothing may be done with it here.
pub(in crate::server) fn gone(shared: &Shared) -> Result<()> {
    let p = shared.lock();
    if !p.migration.serving {
        return Ok(());
    }
    let (to, left) =
        p.migration.figures.as_ref().map_or_else(Default::default, |f| (f.address.clone(), f.pending[0]));
    let m = format!(
        "{name} runs at {to} by now, and still fetches memory from here ({left} pages are left to be sent): whatever ends \
         this process loses it there. Wait until `strata migrate status {name}` says that it has moved; if {to} is lost for \
         good, `strata migrate recover --force {name}` gives it up.",
        name = shared.spec.name
    );
    Err(Error::new(Kind::Refused, m))
}

/// Makes all connections anew, at once, and waits until memory follows again, or all has come; with `force`, gives the
/// other host up. At the destination, which makes no connections, it waits for the source's.
///
/// # Errors
/// `NotFound` if this process waits for nothing: then the journal says what came of it.
pub(in crate::server) fn recover(shared: &Shared, force: bool, patience: Duration) -> Result<()> {
    if let Some(pull) = shared.pull.get().filter(|p| p.missing() > 0 && !p.is_doomed()) {
        recover_here(&shared.spec.name, pull, force, patience)?;
        shared.figure(|f| pull.show(f));
        return Ok(());
    }
    {
        let mut p = shared.lock();
        if !p.migration.serving {
            return Err(Error::new(
                Kind::NotFound,
                format!("The machine {} is in no migration that waits for anything.", shared.spec.name),
            ));
        }
        (p.migration.again, p.migration.give_up) = (!force, force);
    }
    let begun = Instant::now();
    loop {
        {
            let mut p = shared.lock();
            if !p.migration.serving || !p.migration.again && !force {
                return Ok(());
            }
            if begun.elapsed() > patience {
                p.migration.again = false;
                let to = p.migration.figures.as_ref().map(|f| f.address.clone()).unwrap_or_default();
                let m = format!(
                    "{to} does not answer. Memory is kept here for it. Run `strata migrate recover` there at the same time as \
                     here, whether it runs there or its process died. Only if that host is lost for good, `strata migrate \
                     recover --force {}` here gives it up, and the machine's memory with it.",
                    shared.spec.name
                );
                return Err(Error::new(Kind::Network, m));
            }
        }
        std::thread::sleep(LOOK);
    }
}

fn recover_here(name: &str, pull: &Pull, force: bool, patience: Duration) -> Result<()> {
    let connected = || {
        let m = format!(
            "{name} is connected to the host that it comes from, which has the rest of its memory: with --force it would lose \
             {} pages of that. Wait until they have come.",
            pull.missing()
        );
        Err(Error::new(Kind::Refused, m))
    };
    if force {
        if pull.is_connected() {
            return connected();
        }
        pull.force();
    }
    let begun = Instant::now();
    while pull.missing() > 0 && !pull.is_doomed() {
        if pull.is_connected() {
            // With force: it has come back meanwhile, so what was wished is void, if it has not been done.
            pull.take_forced();
            return if force && !pull.is_doomed() { connected() } else { Ok(()) };
        }
        if begun.elapsed() > patience {
            let m = format!(
                "The host that {name} comes from does not answer, and it is that host which makes connections: `strata migrate \
                 recover {name}` there tries at once. {name} waits here where it needs a page. If that host is lost for good, \
                 `strata migrate recover --force {name}` here gives up the {} pages that have not come: it runs on until it \
                 touches one of them, and can then be started from its disks.",
                pull.missing()
            );
            return Err(Error::new(Kind::Network, m));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_needs_nothing_and_does_not_say_so_is_asked_less_and_less_often() {
        let mut pause = AGAIN;
        for _ in 0..3 {
            let longer = next_pause(pause, 0);
            assert!(longer > pause && longer <= SELDOM);
            pause = longer;
        }
        assert_eq!((next_pause(SELDOM, 0), next_pause(SELDOM, 1)), (SELDOM, AGAIN));
    }
}
