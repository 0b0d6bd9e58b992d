//! The source's disks and files: sent while the machine runs, or handed over when it does not any more.
//!
//! A disk that is sent goes in passes: the first takes all that it has, each later one what was written meanwhile, the last
//! one is made while the machine stands. A disk that is shared stays open here until the hand-over is decided; then it is
//! made durable, its record names the next owner at the next epoch, and its lock is free, before the destination hears of it.

use super::{AGAIN, Attempt, Behind};
use crate::InstanceRecord;
use crate::disks::{Due, SharedDisk, open_options};
use crate::exit::{Error, Kind, Result};
use crate::migrate::disks::{holder, owner};
use crate::server::Shared;
use crate::spec::DiskSpec;
use std::path::Path;
use std::time::{Duration, Instant};
use strata_block::{Format, OpenOptions, Owner};
use strata_migration::packing::FilePacking;
use strata_migration::wire::{DiskOffer, DiskWay, Frame, Holder, PACKED, send};

/// A pass that lowers what is left by less than this part of it has brought nothing.
const PROGRESS: f64 = 0.10;
/// What is left of disks when the machine stops may take this long, and is not worth another pass.
const LITTLE: Duration = Duration::from_millis(3);
/// Most passes just before the machine stops.
const PASSES: u32 = 12;

/// A disk of the machine that goes.
pub(super) struct Leaving {
    disk: SharedDisk,
    /// As the machine has it.
    spec: DiskSpec,
    /// Whether it is the instance's own.
    own: bool,
    /// Who has it, where that is written down.
    holder: Option<Holder>,
    way: DiskWay,
    /// Bytes that were sent, as content or as zeroes.
    pub(super) sent: u64,
    handed: bool,
}

/// The machine's disks.
pub(super) fn leaving(shared: &Shared, dir: &Path, record: &InstanceRecord) -> Result<Vec<Leaving>> {
    let own = record.own_disk(dir);
    let specs = own.iter().chain(&record.disks).cloned();
    let disks = shared.machine.disks();
    if disks.len() != specs.clone().count() {
        let m = format!("{} has other disks than its record says.", shared.spec.name);
        return Err(Error::new(Kind::Refused, m));
    }
    let leaving = |(n, (disk, spec)): (usize, (SharedDisk, DiskSpec))| {
        let recorded = disk.epoch().and_then(|_| strata_block::recorded(&spec.path).ok().flatten());
        let ours = recorded.filter(|(_, o)| *o == Owner::this_process(&shared.spec.name));
        Leaving {
            disk,
            own: own.is_some() && n == 0,
            spec,
            holder: ours.map(|(epoch, owner)| holder(&owner, epoch)),
            way: DiskWay::Copied,
            sent: 0,
            handed: false,
        }
    };
    Ok(disks.into_iter().zip(specs).enumerate().map(leaving).collect())
}

impl Leaving {
    /// What is said of it.
    pub(super) fn offer(&self, copy: bool) -> DiskOffer {
        let layers = self.own.then_some(&self.spec.layers).into_iter().flatten();
        let on_disk = |p: &Path| {
            use std::os::unix::fs::MetadataExt;
            p.metadata().map_or(0, |m| m.blocks() * 512)
        };
        DiskOffer {
            size: strata_block::Disk::size(&self.disk),
            path: (!self.own).then(|| self.spec.path.clone()),
            format: match self.disk.format() {
                Some(Format::Raw) => "raw".into(),
                _ => "qcow2".into(),
            },
            read_only: self.spec.read_only,
            holder: self.holder.clone(),
            copy,
            bytes: layers.chain([&self.spec.path]).map(|p| on_disk(p)).sum(),
        }
    }

    /// What of it the destination does not have.
    fn all(&self) -> Due {
        match self.own {
            // Under them is what the destination has, or was sent as a file. With nothing under them the lowest says all.
            true => Due::Layers([&self.spec.path].into_iter().chain(&self.spec.layers).cloned().collect()),
            false => Due::Whole,
        }
    }
}

impl Attempt<'_> {
    /// The destination has said how each disk is to come.
    pub(super) fn choose(&mut self, ways: &[DiskWay], notes: &mut Vec<String>) -> Result<()> {
        if ways.len() != self.disks.len() {
            return Err(Error::new(Kind::Protocol, "The destination says nothing of a disk of the machine."));
        }
        for (disk, way) in self.disks.iter_mut().zip(ways) {
            let shown = disk.spec.path.display();
            match way {
                DiskWay::Copied if !self.ask.with_disks => {
                    return Err(Error::new(
                        Kind::Protocol,
                        "The destination wants a disk that was not offered.",
                    ));
                }
                DiskWay::Shared if !disk.spec.read_only && disk.holder.is_none() => {
                    let m =
                        format!("The disk {shown} has no record of who has it, and cannot be handed over.");
                    return Err(Error::new(Kind::Refused, m));
                }
                DiskWay::Copied if !disk.own => {
                    notes.push(format!(
                        "The disk {shown} is sent; what is here of it stays, and is not used any more."
                    ));
                }
                _ => {}
            }
            disk.way = *way;
        }
        Ok(())
    }

    /// Sends the files that the destination does not have.
    pub(super) fn send_files(&mut self) -> Result<()> {
        let files = std::mem::take(&mut self.files);
        let (mut pace, mut packing) =
            (Pace::new(self.ask.bandwidth), FilePacking::new(self.version >= PACKED));
        let (shared, cancelled) = (self.shared, self.cancelled);
        let stop =
            || cancelled.load(std::sync::atomic::Ordering::Acquire) || shared.lock().migration.cancelled;
        let wants = std::mem::take(&mut self.wants);
        for (n, file) in (0..).zip(&files).filter(|(n, _)| wants.contains(n)) {
            let control = self.control()?;
            file.send(n, (control, &mut packing), &mut |bytes| {
                pace.spent(bytes);
                if stop() { Err(super::cancelled()) } else { Ok(()) }
            })?;
        }
        Ok(())
    }

    /// Sends the disks that are to be sent, pass by pass, until another one would not leave less.
    pub(super) fn mirror(&mut self) -> Result<()> {
        for disk in self.disks.iter().filter(|d| d.way == DiskWay::Copied) {
            disk.disk.track(&disk.all())?;
        }
        let mut left = u64::MAX;
        loop {
            self.send_disks()?;
            let now = self.due();
            if now == 0 || now as f64 > left as f64 * (1.0 - PROGRESS) {
                return Ok(());
            }
            left = now;
        }
    }

    fn due(&self) -> u64 {
        self.disks.iter().map(|d| d.disk.due()).sum()
    }

    /// One pass: what was written to the disks since the one before.
    pub(super) fn send_disks(&mut self) -> Result<()> {
        let mut pace = Pace::new(self.ask.bandwidth);
        let mut disks = std::mem::take(&mut self.disks);
        let done = (0..).zip(&mut disks).try_for_each(|(n, disk)| self.send_disk(n, disk, &mut pace));
        self.disks = disks;
        let left = self.due();
        let sent = self.disks.iter().map(|d| d.sent).sum();
        self.shared.figure(|f| f.disks = [sent, left]);
        if pace.bytes >= 1 << 20 {
            self.disk_rate = pace.bytes as f64 / pace.begun.elapsed().as_secs_f64().max(1e-6);
        }
        done
    }

    fn send_disk(&mut self, n: u16, disk: &mut Leaving, pace: &mut Pace) -> Result<()> {
        let fail = |e| Error::io("read a disk that is to be sent", e);
        let (mut buf, mut from, mut zeroes) = (Vec::new(), 0, 0..0);
        let frozen = self.turn.is_some();
        while let Some(at) = disk.disk.next_due(from, &mut buf).map_err(fail)? {
            let end = at + buf.len() as u64;
            disk.sent += buf.len() as u64;
            if buf.iter().all(|b| *b == 0) {
                if zeroes.end == at && !zeroes.is_empty() {
                    zeroes.end = end;
                } else {
                    self.send_zeroes(n, std::mem::replace(&mut zeroes, at..end))?;
                }
            } else {
                send(self.control()?, &Frame::Disk(n, at, &buf))?;
                pace.spent(buf.len() as u64);
            }
            from = end;
            if !frozen {
                self.check_cancelled()?;
            }
        }
        self.send_zeroes(n, zeroes)
    }

    fn send_zeroes(&mut self, n: u16, range: std::ops::Range<u64>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        Ok(send(self.control()?, &Frame::DiskZeroes(n, range.start, range.end - range.start))?)
    }

    /// How long what is left of the disks would take.
    fn disk_time(&self) -> Duration {
        let due = self.due() as f64;
        if due == 0.0 { Duration::ZERO } else { Duration::from_secs_f64(due / self.disk_rate.max(1e6)) }
    }

    /// The machine is about to stop, which would take `downtime` for its memory: its disks shall not make much more of that.
    pub(super) fn catch_up(&mut self, downtime: Duration) -> Result<()> {
        let limit = Duration::from_millis(self.ask.max_downtime);
        for _ in 0..PASSES {
            let before = self.disk_time();
            if before <= LITTLE {
                return Ok(());
            }
            self.send_disks()?;
            self.check_cancelled()?;
            if self.disk_time().as_secs_f64() > before.as_secs_f64() * (1.0 - PROGRESS) {
                break;
            }
        }
        let time = self.disk_time() + downtime;
        if time > limit {
            let m = format!(
                "{} writes faster to its disk than the link takes it: stopping now would take {} ms. Allow that with \
                 --max-downtime.",
                self.shared.spec.name,
                time.as_millis()
            );
            return Err(Error::new(Kind::Refused, m));
        }
        Ok(())
    }

    /// Makes durable what is to be handed over, while that can still fail without harm.
    pub(super) fn settle_shared(&self) -> Result<()> {
        for disk in self.disks.iter().filter(|d| d.way == DiskWay::Shared && !d.spec.read_only) {
            disk.disk.make_durable().map_err(|e| Error::io("make a disk durable that is handed over", e))?;
        }
        Ok(())
    }

    /// The destination may have the machine from now on: what only one host may use is free, but the interface of its card,
    /// from which nothing is sent any more.
    pub(super) fn let_go(&mut self) {
        let next = match &self.next_holder {
            Some(next) => owner(next),
            None => Owner::this_process(&self.record.name),
        };
        for disk in self.disks.iter_mut().filter(|d| d.way == DiskWay::Shared && !d.spec.read_only) {
            disk.handed = true;
            if let Some(why) = disk.disk.hand_over(&next) {
                // It is free all the same, and whoever takes it does so at a higher epoch.
                tracing::warn!("{why}");
            }
        }
        self.behind = Behind::begin(self.shared.machine.leave_network(), self.network.take());
        self.left = true;
    }

    /// It is ours again: disks that were handed over are opened at a higher epoch than the destination's, however long that
    /// takes.
    pub(super) fn take_back(&mut self) {
        self.behind = None;
        for disk in self.disks.iter_mut().filter(|d| d.handed) {
            let epoch = disk.holder.as_ref().map(|h| h.epoch.saturating_add(2));
            let options = || OpenOptions { epoch, ..open_options(&disk.spec, &self.shared.spec.name) };
            loop {
                match strata_block::open::open(options())
                    .map_err(Error::from)
                    .and_then(|d| disk.disk.put_in(d))
                {
                    Ok(()) => break,
                    Err(e) => {
                        tracing::error!("{e}; the machine stands still until that works");
                        std::thread::sleep(AGAIN * 5);
                    }
                }
            }
            disk.handed = false;
        }
        while let Err(e) = if self.left { self.shared.machine.come_back_to_network() } else { Ok(()) } {
            tracing::error!("{e}; the machine stands still until that works");
            std::thread::sleep(AGAIN * 5);
        }
        self.left = false;
    }

    /// Nothing more is sent.
    pub(super) fn forget_disks(&self) {
        self.disks.iter().for_each(|d| d.disk.untrack());
    }
}

/// Keeps to a limit of bytes a second.
struct Pace {
    begun: Instant,
    bytes: u64,
    limit: u64,
}

impl Pace {
    fn new(limit: u64) -> Pace {
        Pace { begun: Instant::now(), bytes: 0, limit }
    }

    /// So many more were sent.
    fn spent(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.limit > 0 {
            let due = Duration::from_secs_f64(self.bytes as f64 / self.limit as f64);
            std::thread::sleep(due.saturating_sub(self.begun.elapsed()));
        }
    }
}
