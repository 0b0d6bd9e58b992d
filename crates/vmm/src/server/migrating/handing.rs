//! From the last round on: the machine stands still, is handed over, or stays.

use super::{AGAIN, Attempt, READY};
use crate::convert::paragraph;
use crate::exit::{Error, Kind, Result};
use crate::migrate::Step;
use std::time::{Duration, Instant};
use strata_memory::PageSet;
use strata_migration::link::{Link, Security};
use strata_migration::wire::{Frame, Hello, Purpose, WireError, greet, receive, send};
use strata_migration::{Event, Message, SourcePhase};

/// How long a destination is told that a machine stays which it may wait for.
const AFTERWARDS: Duration = Duration::from_secs(600);
/// Longest pause between two attempts to tell it.
const SELDOM: Duration = Duration::from_secs(10);

impl Attempt<'_> {
    /// The rest is left out when it stops.
    pub(super) fn follow(&mut self) -> Result<()> {
        self.follow = true;
        let expected = self.rounds.downtime_if_it_follows().as_micros() as u64;
        self.shared.figure(|f| (f.expected, f.follows) = (expected, true));
        self.drafted()
    }

    /// Before any round: only says which pages are zero yet. Whatever is written from now on is among the rest.
    pub(super) fn follow_at_once(&mut self, all: PageSet) -> Result<()> {
        let Some(region) = self.ram.regions().first() else { return self.drafted() };
        let zero = region.pages().marked(None).1;
        self.rounds.written(&all);
        self.rounds.only(&zero);
        self.send_round(&zero, 1, Some(self.epoch))?;
        self.check_cancelled()?;
        self.follow()
    }

    /// Steps four to six: it stands still, and is handed over.
    pub(super) fn hand_over(&mut self) -> Result<()> {
        self.shared.step(Step::StopAndCopy);
        self.event(Event::Freeze)?;
        self.control()?.patience(Some(READY)).map_err(|e| Error::io("wait for the destination", e))?;
        while self.side.phase == SourcePhase::Frozen {
            let said = match receive(self.control()?, &mut Vec::new())? {
                Frame::Core(m @ (Message::Ready | Message::ReadyPart)) => {
                    // Whether something is left out is not the destination's to say.
                    if (m == Message::ReadyPart) != self.serving.is_some() {
                        return Err(Error::new(
                            Kind::Protocol,
                            "The destination says that it has something else than it was sent; the machine stays.",
                        ));
                    }
                    m
                }
                Frame::Core(m) => m,
                Frame::Why(why) => {
                    return Err(Error::new(
                        Kind::Refused,
                        paragraph(&format!("The destination gives up: {why}")),
                    ));
                }
                _ => {
                    return Err(Error::new(
                        Kind::Protocol,
                        "The destination says something else than that it is ready.",
                    ));
                }
            };
            self.event(Event::Got(said))?;
        }
        if self.side.gives_pages() { self.serve() } else { self.until_known() }
    }

    /// It may run there: until that is known, nothing is decided here.
    fn until_known(&mut self) -> Result<()> {
        while !self.side.over() {
            let heard = self.control().ok().map(|c| match receive(c, &mut Vec::new()) {
                Ok(Frame::Core(m)) => Some(m),
                _ => None,
            });
            match heard.flatten() {
                Some(m) => self.event(Event::Got(m))?,
                None => {
                    self.control = None;
                    std::thread::sleep(AGAIN);
                    self.control = self.connect(Purpose::Control).ok();
                    self.event(Event::Tick)?;
                }
            }
        }
        match self.side.phase {
            SourcePhase::Done => Ok(()),
            _ => Err(Error::new(
                Kind::Refused,
                "The destination lost the machine before it ran there; it runs on here.",
            )),
        }
    }

    /// It stays, because of `why`, if it has not been handed over. Gives the error to tell.
    pub(super) fn stay(mut self, mut why: Error) -> Error {
        self.brake.off();
        // A connection that broke may have broken for a reason, which another one tells.
        if why.kind == Kind::Network
            && let Some(control) = &mut self.control
            && control.patience(Some(Duration::from_secs(1))).is_ok()
            && let Ok(Frame::Why(text)) = receive(control, &mut Vec::new())
        {
            why = Error::new(Kind::Refused, paragraph(&format!("The destination gives up: {text}")));
        }
        if self.side.gives_pages() {
            // Whatever failed after that: the machine there still needs what is here.
            return self.serve().err().unwrap_or(why);
        }
        let frozen = self.side.phase == SourcePhase::Frozen;
        if !self.side.over() && self.side.phase != SourcePhase::Handed {
            // In case the destination is to hear why.
            if let Some(control) = &mut self.control {
                let _ = send(control, &Frame::Why(why.message.clone()));
            }
            let event = if why.kind == Kind::Cancelled { Event::Cancel } else { Event::LinkLost };
            if let Err(e) = self.event(event) {
                return Error::new(e.kind, format!("{} And then: {}", why.message, e.message));
            }
            if frozen {
                self.say_that_it_stays();
            }
        }
        let over = match self.side.phase {
            // Whatever failed after that: the other side decides, and this waits for it.
            SourcePhase::Handed => self.until_known().err(),
            _ => None,
        };
        over.unwrap_or(why)
    }

    /// The destination may be ready, and waits for our word for ever: that is said again until it is heard, in the
    /// background, however often a connection is lost meanwhile.
    fn say_that_it_stays(&self) {
        let (address, security) = (self.ask.address.clone(), self.security.clone());
        let hello = Hello { purpose: Purpose::Control, ..self.hello };
        let say = move || {
            let (begun, mut pause) = (Instant::now(), AGAIN);
            while begun.elapsed() < AFTERWARDS {
                match say_abort(&address, &security, &hello) {
                    Ok(true) | Err(WireError::Token) => break,
                    // Nobody is there who could wait.
                    Err(WireError::Io(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => break,
                    _ => std::thread::sleep(pause),
                }
                pause = (pause * 2).min(SELDOM);
            }
        };
        if let Err(e) = std::thread::Builder::new().name("aborted".into()).spawn(say) {
            tracing::warn!("the destination may wait for a machine that stays: {e}");
        }
    }
}

/// Whether the destination has heard that the machine stays, or it is too late for that.
fn say_abort(address: &str, security: &Security, hello: &Hello) -> Result<bool, WireError> {
    let mut link = Link::connect(address, security)?;
    link.patience(Some(Duration::from_secs(5)))?;
    greet(&mut link, hello)?;
    send(&mut link, &Frame::Core(Message::Abort))?;
    loop {
        match receive(&mut link, &mut Vec::new())? {
            Frame::Core(Message::Refused | Message::Unknown) => return Ok(true),
            // As everybody is greeted who is waited for.
            Frame::Core(Message::Ready | Message::ReadyPart) => {}
            Frame::Core(Message::Running | Message::Enough) => {
                tracing::error!(
                    "the machine goes on here, and was started at {address} too, which it was not handed over to: somebody has \
                     forced that there. Stop one of the two at once, and give its disks to the other alone"
                );
                return Ok(true);
            }
            _ => return Ok(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use strata_migration::wire::{NEWEST, OLDEST, answer, hear};

    #[test]
    fn who_keeps_a_machine_says_so_until_it_is_heard_or_too_late() {
        use Message::{Enough, Query, Refused, Running, Unknown};
        let rows = [(Refused, true), (Unknown, true), (Running, true), (Enough, true), (Query, false)];
        for (says, over) in rows {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap().to_string();
            let (id, secret) = ([3; 16], [4; 32]);
            let hello = Hello { oldest: OLDEST, newest: NEWEST, purpose: Purpose::Control, id, secret };
            let there = std::thread::spawn(move || {
                let mut link = Link::over(listener.accept().unwrap().0, &Security::Plain).unwrap();
                let hello = hear(&mut link).unwrap();
                answer(&mut link, &hello, &secret).unwrap();
                let mut buf = Vec::new();
                assert!(matches!(receive(&mut link, &mut buf).unwrap(), Frame::Core(Message::Abort)));
                send(&mut link, &Frame::Core(says)).unwrap();
            });
            assert_eq!(say_abort(&address, &Security::Plain, &hello).unwrap(), over, "{says:?}");
            there.join().unwrap();
        }
    }
}
