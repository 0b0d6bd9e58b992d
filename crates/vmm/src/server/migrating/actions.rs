//! What the core asks of the source, carried out.

use super::{AGAIN, Attempt};
use crate::arch::processor::read_at_load;
use crate::convert::paragraph;
use crate::exit::{Error, Kind, Result};
use crate::instances::saved::write_record;
use crate::migrate::Step;
use crate::server::monotonic;
use std::time::Instant;
use strata_memory::{PAGE, PageSet};
use strata_migration::digest::digest;
use strata_migration::journal::JournalError;
use strata_migration::wire::{Frame, MAX_PIECE, Rest, send};
use strata_migration::{Action, Epoch, Event, Message, Record, SourcePhase};

impl Attempt<'_> {
    pub(super) fn event(&mut self, event: Event) -> Result<()> {
        let (next, actions) = self.side.step(event);
        self.side = next;
        actions.into_iter().try_for_each(|a| self.carry_out(a))
    }

    fn carry_out(&mut self, action: Action) -> Result<()> {
        match action {
            Action::Pause => self.freeze(),
            Action::Write(record, epoch) => self.write(record, epoch),
            Action::Send(Message::Final) => self.send_rest(),
            Action::Send(m) => {
                if m == Message::Commit {
                    self.shared.step(Step::Commitment);
                }
                // Nobody knows whether what is sent arrives: it is said again until an answer comes.
                if let Some(control) = &mut self.control
                    && send(control, &Frame::Core(m)).is_err()
                {
                    self.control = None;
                }
                Ok(())
            }
            Action::TakeDisks(epoch) => {
                self.record.epoch = epoch;
                self.take_back();
                Ok(())
            }
            Action::Run => self.go_on(),
            Action::Free => {
                if !self.shared.lock().migration.serving {
                    self.stood();
                }
                self.shared.step(Step::Activation);
                Ok(())
            }
            // A person has given up the destination, where it has run: what is left of it is its disks.
            Action::Lost(epoch) if !self.side.ram && self.side.phase == SourcePhase::Reclaimed => {
                (self.record.epoch, self.record.moving) = (epoch, None);
                self.shared.lock().migration.given_up = true;
                write_record(self.dir()?, &self.record)
            }
            // Only a source that has lost its memory does that, and then this process is not there any more.
            Action::Lost(_) | Action::GiveUpPages | Action::Note(..) => {
                Err(Error::new(Kind::Internal, "A machine that is here was given up."))
            }
        }
    }

    /// It is known to run there.
    fn stood(&self) {
        let stood = self.froze.map_or(0, |f| f.elapsed().as_micros() as u64);
        self.shared.figure(|f| f.stood = stood);
    }

    /// Makes a record durable, however long that takes: nothing may go on without it, nor as if it were not there.
    fn write(&mut self, record: Record, epoch: Epoch) -> Result<()> {
        if record == Record::Serving {
            self.stood();
        }
        // Without a journal nothing has been promised to anybody.
        let Some(journal) = &mut self.journal else { return Ok(()) };
        loop {
            match journal.write(record, epoch) {
                Ok(()) => {
                    if matches!(record, Record::Handed | Record::HandedPart) {
                        // Before anybody can hear that the machine is theirs.
                        self.let_go();
                    }
                    return Ok(());
                }
                Err(e @ JournalError::NotWritten { .. })
                    if matches!(record, Record::Handed | Record::HandedPart) =>
                {
                    self.side.phase = SourcePhase::Frozen;
                    return Err(e.into());
                }
                Err(e) => {
                    tracing::error!("{e}; the machine stands still until that works");
                    std::thread::sleep(AGAIN * 5);
                }
            }
        }
    }

    fn freeze(&mut self) -> Result<()> {
        let turn = self.shared.turn.lock().unwrap_or_else(|e| e.into_inner());
        if self.shared.machine.phase() != "running" {
            return Err(Error::new(Kind::Refused, "The machine was paused meanwhile: it stays."));
        }
        self.turn = Some(turn);
        // Whatever comes now, it runs on at full speed, here or there.
        self.brake.off();
        self.froze = Some(Instant::now());
        self.shared.machine.pause().map_err(|e| Error::new(Kind::Refused, paragraph(&e)))?;
        let froze = monotonic(Instant::now());
        self.shared.figure(|f| f.froze = froze);
        match self.shared.machine.phase() {
            "paused" => {}
            phase => {
                return Err(Error::new(
                    Kind::Refused,
                    format!("The machine is {phase}: it cannot be migrated."),
                ));
            }
        }
        self.settle_shared()
    }

    /// Its state now that it stands, and with it what it has written since the last round.
    fn last_state(&mut self) -> Result<Vec<u8>> {
        let machine = &*self.shared.machine;
        let state = machine.state()?;
        // After that: reading a vCPU's state may be what has the kernel write to memory.
        machine.collect_writes()?;
        let written = self.written_since(self.epoch);
        self.ram.begin_epoch();
        self.rounds.written(&written);
        Ok(state)
    }

    fn send_rest(&mut self) -> Result<()> {
        let state = self.last_state()?;
        let mut rest = self.rounds.rest();
        let number = self.shared.lock().migration.figures.as_ref().map_or(0, |f| f.rounds) + 1;
        let control = self.control()?;
        state.chunks(MAX_PIECE).try_for_each(|piece| send(control, &Frame::State(piece)))?;
        self.send_disks()?;
        if self.follow {
            let now = self.read_at_load(&state)?;
            if !now.is_empty() {
                self.send_round(&now, number, None)?;
                rest = PageSet::of(now.words().len() * 64, |p| rest.has(p) && !now.has(p));
            }
        }
        let absent = if self.follow && !rest.is_empty() {
            self.leave_out(&rest)?
        } else {
            self.send_round(&rest, number, None)?;
            0
        };
        let left_out = if absent > 0 { rest } else { PageSet::of(0, |_| false) };
        let memory = self.ask.verify.then(|| digest(&self.ram, &left_out)).transpose()?;
        let last = Rest {
            state: state.len() as u64,
            pages: self.meter.counts(),
            flows: self.shared.machine.open_flows(),
            files: vec![],
            disks: self.disks.iter().map(|d| d.sent).collect(),
            guest: self.shared.machine.known(),
            stood: self.froze.map_or(0, |f| f.elapsed().as_nanos() as u64),
            memory,
            hot_paths: self.hot_paths,
            absent,
        };
        Ok(send(self.control()?, &Frame::Final(Box::new(last)))?)
    }

    /// Pages that have to be there when the machine is put together.
    fn read_at_load(&self, state: &[u8]) -> Result<PageSet> {
        let region = self.ram.regions().first();
        let places = read_at_load(state)?;
        let index = |at: u64| region.and_then(|r| at.checked_sub(r.gpa())).map(|offset| offset / PAGE);
        let now: Vec<u64> = places.into_iter().filter_map(index).collect();
        let pages = if now.is_empty() { 0 } else { region.map_or(0, |r| r.pages().pages()) };
        Ok(PageSet::of(pages, |p| now.contains(&(p as u64))))
    }

    /// It runs on here, as if nothing had been asked.
    fn go_on(&mut self) -> Result<()> {
        self.forget_disks();
        let frozen = self.turn.take();
        if frozen.is_some() {
            // If it cannot it has ended meanwhile, and there is nothing to go on with.
            let _ = self.shared.machine.unpause();
        }
        drop(frozen);
        if self.record.moving.take().is_some() {
            write_record(self.dir()?, &self.record)?;
        }
        Ok(())
    }
}
