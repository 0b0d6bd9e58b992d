//! A machine that has started here: its process takes it over, and its source is answered for as long as it asks, or has
//! memory of it.

use super::{AFTERWARDS, Arrived, Attempt};
use crate::exit::{Error, Kind, Result};
use crate::instances::saved::write_record;
use crate::migrate::GUEST_FIRST;
use crate::migrate::disks::Disks;
use crate::migrate::door::{Visitor, lock};
use crate::migrate::pulling::Pull;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};
use strata_migration::wire::{Frame, receive as receive_frame};
use strata_migration::{DestinationPhase, Event};

/// How often it is looked whether all memory has come.
const SHORT: Duration = Duration::from_millis(20);
/// How long between two attempts to write a journal.
const AGAIN: Duration = Duration::from_secs(1);

impl Attempt {
    /// It runs: what is left is to say so, in the record and to whoever asks again.
    pub(super) fn arrived(mut self, visitors: Receiver<Visitor>) -> Result<Arrived> {
        if self.side.phase == DestinationPhase::Running {
            self.record.moving = None;
        }
        // Nobody waits for what follows, but many may for the guest.
        std::thread::sleep(GUEST_FIRST);
        // Should that fail, the journal says the same at the next start.
        if let Err(e) = write_record(self.reserved.dir(), &self.record) {
            tracing::warn!("{e}");
        }
        self.disks.take().into_iter().for_each(Disks::keep);
        let missing = || Error::new(Kind::Internal, "A machine that arrived is not there.");
        let machine = self.machine.take().ok_or_else(missing)?;
        let spec = self.record.spec_in(self.reserved.dir());
        let (name, lock) = (self.name.take().ok_or_else(missing)?, self.reserved.lock()?);
        let notes = machine.machine.hold_address().err().map(|e| e.message).into_iter().collect();
        let pull = self.door.pull.get().cloned();
        std::thread::Builder::new()
            .name("afterwards".into())
            .spawn(move || self.answer_afterwards(&visitors))
            .map_err(|e| Error::io("start a thread that answers the source", e))?;
        Ok(Arrived { spec, machine, name, lock, notes, pull })
    }

    /// Memory follows: until all of it is here, or never will be, the source is answered through as many connections as it
    /// makes.
    fn pull(&mut self, pull: &Pull, visitors: &Receiver<Visitor>) {
        while !self.side.over() {
            while let Ok((link, from)) = visitors.try_recv() {
                if Some(from) == *lock(&self.door.id) {
                    self.control = Some(link);
                }
            }
            let event = match &mut self.control {
                _ if pull.missing() == 0 => Some(Event::Complete),
                _ if pull.take_forced() => Some(Event::Force),
                None => {
                    std::thread::sleep(SHORT);
                    None
                }
                Some(control) => match control.wait(None, SHORT) {
                    Ok(false) => None,
                    Ok(true) => match receive_frame(control, &mut Vec::new()) {
                        Ok(Frame::Core(m)) => Some(Event::Got(m)),
                        _ => {
                            self.control = None;
                            None
                        }
                    },
                    Err(_) => {
                        self.control = None;
                        None
                    }
                },
            };
            // A journal that takes no more: it is tried again.
            let before = self.side;
            if let Some(event) = event
                && let Err(e) = self.event(event)
            {
                self.side = before;
                tracing::error!("{e}; the source keeps its memory until that works");
                std::thread::sleep(AGAIN);
            }
        }
        self.record.moving = None;
        if let Err(e) = write_record(self.reserved.dir(), &self.record) {
            tracing::warn!("{e}");
        }
        pull.settled();
    }

    /// A source that did not hear the answer asks again.
    fn answer_afterwards(mut self, visitors: &Receiver<Visitor>) {
        if let Some(pull) = self.door.pull.get().cloned() {
            self.pull(&pull, visitors);
        }
        let begun = Instant::now();
        while let Some(left) = AFTERWARDS.checked_sub(begun.elapsed()) {
            while let Some(control) = &mut self.control {
                match receive_frame(control, &mut Vec::new()) {
                    Ok(Frame::Core(m)) if self.event(Event::Got(m)).is_ok() => {}
                    _ => self.control = None,
                }
            }
            match visitors.recv_timeout(left.min(Duration::from_secs(1))) {
                Ok((link, from)) if Some(from) == *lock(&self.door.id) => self.control = Some(link),
                Ok(_) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.door.closed.store(true, SeqCst);
    }
}
