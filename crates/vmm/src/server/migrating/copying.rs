//! Step three: memory is copied while the machine runs, round after round, and what it writes meanwhile is known by dirty
//! epochs. Between two rounds the machine stands for a new one, some microseconds.

use super::Attempt;
use crate::arch::{Arch, processor::seen};
use crate::control::MachineControl;
use crate::convert::paragraph;
use crate::exit::{Error, Kind, Result};
use crate::migrate::{Step, Strategy};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use strata_memory::{PAGE, PageSet};
use strata_migration::rounds::{Done, Next};
use strata_migration::wire::{Frame, MAX_PIECE, Processor, receive, send};

impl Attempt<'_> {
    /// A new dirty epoch; gives what was written in the one that is over.
    pub(super) fn new_epoch(&mut self) -> Result<PageSet> {
        let since = self.epoch;
        self.epoch = self.standing(|m| self.begin_epoch(m))??;
        Ok(self.written_since(since))
    }

    /// A new dirty epoch of a machine that stands; what it wrote until now is marked in the one before.
    pub(super) fn begin_epoch(&self, machine: &dyn MachineControl) -> Result<u32> {
        machine.collect_writes()?;
        Ok(self.ram.begin_epoch())
    }

    /// What the destination's processor has to have: as the guest has seen it, which only a machine that stands can say.
    pub(super) fn processor(&self) -> Result<Option<Processor>> {
        match self.shared.spec.arch {
            Arch::Riscv64 => Ok(None),
            Arch::Amd64 => seen(&self.standing(|m| m.state())??),
        }
    }

    /// Does something while the machine stands for a moment.
    pub(super) fn standing<R>(&self, f: impl FnOnce(&dyn MachineControl) -> R) -> Result<R> {
        self.shared.in_turn(|m| {
            if m.phase() != "running" {
                let m = format!("The machine is {}: it stays.", m.phase());
                return Err(Error::new(Kind::Refused, m));
            }
            m.pause().map_err(|e| Error::new(Kind::Refused, paragraph(&e)))?;
            let done = f(m);
            m.unpause().map_err(|e| Error::new(Kind::Refused, paragraph(&e)))?;
            Ok(done)
        })
    }

    pub(super) fn written_since(&self, epoch: u32) -> PageSet {
        let Some(region) = self.ram.regions().first() else { return PageSet::of(0, |_| false) };
        let (data, zero) = region.pages().marked(Some(epoch));
        PageSet::from_words(data.words().iter().zip(zero.words()).map(|(a, b)| a | b).collect())
    }

    /// Sends a round; pages that were written again since the dirty epoch `since` are left for the next one.
    pub(super) fn send_round(&mut self, pages: &PageSet, number: u32, since: Option<u32>) -> Result<Done> {
        let begun = Instant::now();
        let Some(streams) = &mut self.streams else {
            return Err(Error::new(Kind::Internal, "There are no connections for pages."));
        };
        self.meter.limit.store(self.ask.bandwidth, Ordering::Relaxed);
        let round = streams.round(&self.ram, pages, (number, since), &self.meter, self.cancelled)?;
        let (sent, counts) = (self.meter.bytes.load(Ordering::Relaxed), self.meter.counts());
        self.shared.figure(|f| (f.rounds, f.sent, f.pages) = (number, sent, counts));
        Ok(Done { bytes: round.bytes, plain: round.plain, took: begun.elapsed() })
    }

    /// The first dirty epoch, and the state at that moment: the destination makes a machine of it meanwhile.
    pub(super) fn draft(&mut self) -> Result<()> {
        let (state, epoch) = self.standing(|m| Ok::<_, Error>((m.state()?, self.begin_epoch(m)?)))??;
        self.epoch = epoch;
        let control = self.control()?;
        state.chunks(MAX_PIECE).try_for_each(|piece| send(control, &Frame::State(piece)))?;
        Ok(send(control, &Frame::Round(0))?)
    }

    /// The destination has made that machine.
    pub(super) fn drafted(&mut self) -> Result<()> {
        match receive(self.control()?, &mut Vec::new())? {
            Frame::Round(0) => Ok(()),
            Frame::Why(why) => {
                Err(Error::new(Kind::Refused, paragraph(&format!("The destination gives up: {why}"))))
            }
            _ => {
                Err(Error::new(Kind::Protocol, "The destination does not say that it has made the machine."))
            }
        }
    }

    /// Step three: while it runs.
    pub(super) fn copy(&mut self) -> Result<()> {
        self.shared.step(Step::IterativeCopy);
        self.send_files()?;
        self.mirror()?;
        let paths = self.shared.machine.hot_paths();
        if !paths.is_empty() {
            let bytes = paths.to_bytes();
            self.hot_paths = bytes.len() as u64;
            let control = self.control()?;
            bytes.chunks(MAX_PIECE).try_for_each(|piece| send(control, &Frame::HotPaths(piece)))?;
        }
        // While it runs: where this is what begins the log, it takes a while.
        self.shared.machine.collect_writes()?;
        if self.ask.strategy == Strategy::StopAndCopy {
            return Ok(());
        }
        self.draft()?;
        let mut set = self.rounds.first();
        if self.ask.strategy == Strategy::PostCopy {
            return self.follow_at_once(set);
        }
        for number in 1.. {
            self.send_disks()?;
            let done = self.send_round(&set, number, Some(self.epoch))?;
            self.check_cancelled()?;
            let written = self.new_epoch()?;
            let (next, e) = self.rounds.next(&written, done);
            let pace = self.rounds.pace();
            self.brake.set(pace);
            self.shared.figure(|f| {
                f.slowest = pace * PAGE;
                (f.pending, f.expected) = ([e.pending, e.held], e.downtime.as_micros() as u64);
                (f.bandwidth, f.dirty_rate) = (e.bandwidth as u64, e.dirty_rate as u64);
            });
            self.shared.step(Step::IterativeCopy);
            match next {
                Next::Copy(pages) => set = pages,
                Next::Stop => return self.catch_up(e.downtime).and_then(|()| self.drafted()),
                Next::Follow => return self.catch_up(Duration::ZERO).and_then(|()| self.follow()),
                Next::Stalls => {
                    let m = format!(
                        "{} writes {} MB/s and {} MB/s of it can be sent: copying while it runs does not come to an end, and \
                         stopping now would take {} ms. Allow that with --max-downtime, or use {}.",
                        self.shared.spec.name,
                        e.dirty_rate as u64 / 1_000_000,
                        e.bandwidth as u64 / 1_000_000,
                        e.downtime.as_millis(),
                        self.other_ways()
                    );
                    return Err(Error::new(Kind::Refused, m));
                }
            }
        }
        Ok(())
    }

    /// What a person may try with a machine that outruns the link.
    pub(super) fn other_ways(&self) -> String {
        let strategy =
            format!("--strategy {}stop-and-copy", if self.can_follow() { "hybrid or " } else { "" });
        match (self.ask.throttle, self.shared.machine.stands_while_copied()) {
            (true, _) => format!("{strategy}: to slow it down has not helped"),
            (false, true) => strategy,
            (false, false) => format!("--throttle, or {strategy}"),
        }
    }
}
