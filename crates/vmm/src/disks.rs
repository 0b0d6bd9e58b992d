//! A machine's disks: opened as its spec says, and shared with the machine behind a lock, so that they can be flushed,
//! switched to a new layer, copied while they are written, handed over, and closed when it has let go of them.
//!
//! A copy that is made while the guest writes: what it does not have is a set of blocks. A write adds its blocks under the
//! lock that it writes under; whoever copies takes blocks out and reads them under the same lock. So a block that is in the
//! copy and not in the set is as it is on the disk.

use crate::exit::{Error, Kind, Result};
use crate::lost;
use crate::spec::DiskSpec;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use strata_block::{Chain, Disk, OpenDisk, OpenOptions, Owner, Staged};
use vm_memory::VolatileSlice;

/// Makes the disks durable, and writes down that they are in use, beside what else is to be done: it waits for the host's
/// disk. Gives what a person should know about them.
pub(crate) fn settle_in(disks: Vec<SharedDisk>) -> Result<Settling> {
    let settle = move || {
        let mut notes = Vec::new();
        for disk in disks {
            notes.extend(disk.settle_in()?);
        }
        Ok(notes)
    };
    let settling = std::thread::Builder::new().name("disks".into()).spawn(settle);
    let settling =
        settling.map_err(|e| Error::io("start a thread to write down which disks are in use", e))?;
    Ok(Settling(Some(settling)))
}

/// [`settle_in`], under way. Whoever drops it waits too: a machine that came to nothing writes nothing any more.
pub(crate) struct Settling(Option<JoinHandle<Result<Vec<String>>>>);

impl Settling {
    /// Waits for its end.
    pub fn finish(mut self) -> Result<Vec<String>> {
        let Some(settling) = self.0.take() else { return Ok(Vec::new()) };
        settling.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Settling {
    fn drop(&mut self) {
        if let Some(settling) = self.0.take() {
            let _ = settling.join();
        }
    }
}

/// How a disk is opened: as its spec says, on behalf of `instance`.
pub(crate) fn open_options(d: &DiskSpec, instance: &str) -> OpenOptions {
    OpenOptions {
        format: d.format.map(Into::into),
        read_only: d.read_only,
        chain: if d.base.is_none() && d.layers.is_empty() {
            Chain::SameDirectory
        } else {
            let layers = d.layers.iter().map(|l| (l.clone(), strata_block::Format::Qcow2));
            let base = d.base.iter().map(|(path, format)| (path.clone(), (*format).into()));
            Chain::Given(layers.chain(base).collect())
        },
        ..OpenOptions::new(&d.path, instance)
    }
}

/// Opens a disk as its machine does.
pub(crate) fn open_disk(d: &DiskSpec, instance: &str) -> Result<OpenDisk> {
    Ok(strata_block::open::open(open_options(d, instance))?)
}

/// Bytes of a disk whose writes are noted as one: also what one read for a copy holds a request of the guest up for.
pub(crate) const BLOCK: u64 = 64 << 10;
/// Most blocks that are copied by one read.
const RUN: usize = 4;
/// Why a disk is gone that is not ours any more.
const HANDED: &str = "it was handed over to another host";

/// A disk that the machine has and that we flush at the end.
#[derive(Clone)]
pub struct SharedDisk {
    size: u64,
    read_only: bool,
    slot: Arc<Mutex<Slot>>,
}

struct Slot {
    disk: Option<OpenDisk>,
    /// Why there is none.
    gone: &'static str,
    /// Blocks that a copy does not have yet, a bit each.
    due: Option<Vec<u64>>,
}

impl Slot {
    fn get(&mut self) -> std::io::Result<&mut OpenDisk> {
        self.disk.as_mut().ok_or_else(|| std::io::Error::other(self.gone))
    }

    /// A range changes, or may have.
    fn touch(&mut self, at: u64, len: u64) {
        if let Some(due) = &mut self.due
            && len > 0
        {
            mark(due, at, len);
        }
    }
}

fn mark(due: &mut [u64], at: u64, len: u64) {
    for block in at / BLOCK..=at.saturating_add(len.saturating_sub(1)) / BLOCK {
        if let Some(word) = due.get_mut((block / 64) as usize) {
            *word |= 1 << (block % 64);
        }
    }
}

/// What of a disk a copy does not have yet.
pub(crate) enum Due {
    /// All of it.
    Whole,
    /// What its qcow2 layers have, the writable one among them.
    Layers(Vec<PathBuf>),
}

impl SharedDisk {
    /// An open disk.
    pub fn new(disk: OpenDisk) -> SharedDisk {
        let read_only = disk.read_only();
        SharedDisk::that_is(disk, read_only)
    }

    /// An open disk that the guest may only read, if so, though we may write.
    pub(crate) fn that_is(disk: OpenDisk, read_only: bool) -> SharedDisk {
        let size = disk.size();
        let slot = Slot { disk: Some(disk), gone: "its file could not be opened again", due: None };
        SharedDisk { size, read_only, slot: Arc::new(Mutex::new(slot)) }
    }

    /// One that is still another's, and is put in later.
    pub(crate) fn to_come(size: u64) -> SharedDisk {
        let slot = Slot { disk: None, gone: "it has not been handed over yet", due: None };
        SharedDisk { size, read_only: false, slot: Arc::new(Mutex::new(slot)) }
    }

    fn lock(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with(&self, f: impl FnOnce(&mut OpenDisk) -> std::io::Result<()>) -> std::io::Result<()> {
        self.change(0, 0, f)
    }

    /// A change of a range, noted before anybody else sees the disk again.
    fn change(
        &self,
        at: u64,
        len: u64,
        f: impl FnOnce(&mut OpenDisk) -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let mut slot = self.lock();
        slot.touch(at, len);
        let done = slot.get().and_then(f);
        if done.as_ref().is_err_and(|e| e.raw_os_error() == Some(libc::EFAULT)) {
            // The page of guest memory is gone. The guest must not hear of a bad disk before its end.
            lost::refused();
        }
        done
    }

    /// Goes on with a layer over what it has; where that fails, with that again, as `back` says.
    pub(crate) fn switch(&self, to: Staged, back: &DiskSpec, instance: &str) -> Result<()> {
        let mut slot = self.lock();
        let Some(old) = slot.disk.take() else {
            return Err(Error::new(Kind::Io, "The machine has lost its disk."));
        };
        match to.put_on(old) {
            Ok(new) => slot.disk = Some(new),
            Err(e) => {
                slot.disk = Some(open_disk(back, instance)?);
                return Err(e.into());
            }
        }
        Ok(())
    }

    /// After a switch, when there is time: see [`OpenDisk::settle`].
    pub(crate) fn settle(&self) {
        if let Some(Err(e)) = self.lock().disk.as_mut().map(OpenDisk::settle) {
            tracing::warn!("a layer of a disk stays without a lock: {e}");
        }
    }

    /// See [`OpenDisk::settle_in`]; gives what a person should know. One that is to come has nothing to say.
    pub(crate) fn settle_in(&self) -> Result<Vec<String>> {
        match &mut self.lock().disk {
            Some(disk) => {
                disk.settle_in()?;
                Ok(disk.notes())
            }
            None => Ok(Vec::new()),
        }
    }

    /// At which epoch it is held, if it is written to and that is written down.
    pub(crate) fn epoch(&self) -> Option<u64> {
        self.lock().disk.as_ref().and_then(OpenDisk::epoch)
    }

    /// The format of its file.
    pub(crate) fn format(&self) -> Option<strata_block::Format> {
        self.lock().disk.as_ref().map(OpenDisk::format)
    }

    /// Puts in the disk that was to come.
    pub(crate) fn put_in(&self, disk: OpenDisk) -> Result<()> {
        if disk.size() != self.size {
            let m = format!(
                "The disk {} has {} bytes, and had {} at the machine's source: nobody may change it meanwhile.",
                disk.path().display(),
                disk.size(),
                self.size
            );
            return Err(Error::new(Kind::BadInput, m));
        }
        let mut slot = self.lock();
        (slot.disk, slot.gone) = (Some(disk), "its file could not be opened again");
        Ok(())
    }

    /// Makes it durable and leaves it to `next`: from now on nothing is written to it here. What could not be done is a
    /// sentence; whoever comes next takes it at a higher epoch in any case.
    pub(crate) fn hand_over(&self, next: &Owner) -> Option<String> {
        let mut slot = self.lock();
        slot.gone = HANDED;
        let mut disk = slot.disk.take()?;
        let done = disk.hand_over(next);
        if done.is_err() {
            disk.abandon();
        }
        done.err().map(|e| e.to_string())
    }

    /// From now on what is written is noted, and all of `due` counts as written. It is durable when this returns.
    pub(crate) fn track(&self, due: &Due) -> Result<()> {
        let mut slot = self.lock();
        let fail = |e| Error::io("make a disk durable that is to be sent", e);
        let mut bits = vec![0; self.size.div_ceil(BLOCK).div_ceil(64) as usize];
        match due {
            Due::Whole => mark(&mut bits, 0, self.size),
            // With nobody else at it, and its maps in the file, the files say what is in them.
            Due::Layers(layers) => {
                slot.get().and_then(Disk::flush).map_err(fail)?;
                for c in strata_block::held(layers)? {
                    mark(&mut bits, c.at, c.len.min(self.size.saturating_sub(c.at)));
                }
            }
        }
        slot.due = Some(bits);
        Ok(())
    }

    /// Nothing is noted any more.
    pub(crate) fn untrack(&self) {
        self.lock().due = None;
    }

    /// Bytes that a copy does not have yet.
    pub(crate) fn due(&self) -> u64 {
        let slot = self.lock();
        slot.due.iter().flatten().map(|w| u64::from(w.count_ones()) * BLOCK).sum()
    }

    /// Reads the next blocks from `from` on that a copy does not have, which has them from then on: gives their place. None
    /// if there are none behind `from`.
    pub(crate) fn next_due(&self, from: u64, buf: &mut Vec<u8>) -> std::io::Result<Option<u64>> {
        let mut slot = self.lock();
        let Some(due) = &mut slot.due else { return Ok(None) };
        let is = |due: &[u64], n: u64| due.get((n / 64) as usize).is_some_and(|w| w >> (n % 64) & 1 != 0);
        let mut first = from.div_ceil(BLOCK);
        while let Some(word) = due.get((first / 64) as usize) {
            let left = word >> (first % 64);
            if left != 0 {
                first += u64::from(left.trailing_zeros());
                break;
            }
            first = (first / 64 + 1) * 64;
        }
        let count = (first..).take(RUN).take_while(|n| is(due, *n)).count() as u64;
        if count == 0 {
            return Ok(None);
        }
        for n in first..first + count {
            if let Some(word) = due.get_mut((n / 64) as usize) {
                *word &= !(1 << (n % 64));
            }
        }
        let at = first * BLOCK;
        buf.resize((count * BLOCK).min(self.size.saturating_sub(at)) as usize, 0);
        let bytes = VolatileSlice::from(buf.as_mut_slice());
        slot.get()?.read(at, &[bytes])?;
        Ok(Some(at))
    }

    /// Writes what a source has sent.
    pub(crate) fn put(&self, at: u64, bytes: &mut [u8]) -> std::io::Result<()> {
        self.with(|d| d.write(at, &[VolatileSlice::from(bytes)]))
    }

    /// The same, of zeroes.
    pub(crate) fn put_zeroes(&self, at: u64, len: u64) -> std::io::Result<()> {
        self.with(|d| d.write_zeroes(at, len, true))
    }

    /// Makes it durable, whether the guest may write it or not.
    pub(crate) fn make_durable(&self) -> std::io::Result<()> {
        self.with(Disk::flush)
    }
}

type Slices<'a> = [VolatileSlice<'a>];

impl Disk for SharedDisk {
    fn size(&self) -> u64 {
        self.size
    }
    fn read_only(&self) -> bool {
        self.read_only
    }
    fn read(&mut self, offset: u64, bufs: &Slices<'_>) -> std::io::Result<()> {
        self.with(|d| d.read(offset, bufs))
    }
    fn write(&mut self, offset: u64, bufs: &Slices<'_>) -> std::io::Result<()> {
        let len = bufs.iter().map(|b| b.len() as u64).sum();
        self.change(offset, len, |d| d.write(offset, bufs))
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.with(Disk::flush)
    }
    fn discard(&mut self, offset: u64, len: u64) -> std::io::Result<()> {
        self.change(offset, len, |d| d.discard(offset, len))
    }
    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> std::io::Result<()> {
        self.change(offset, len, |d| d.write_zeroes(offset, len, unmap))
    }
    fn abandon(&mut self) {
        // One that is gone needs no giving up.
        let _ = self.with(|d| {
            d.abandon();
            Ok(())
        });
    }
}

/// Makes a disk durable and closes it; a sentence if that failed.
pub(crate) fn close(path: &Path, mut disk: SharedDisk) -> Option<String> {
    if disk.read_only || disk.lock().gone == HANDED {
        return None;
    }
    let e = disk.flush().err()?;
    let shown = path.display();
    Some(format!("What was last written to disk {shown} could not be made durable and may be lost: {e}."))
}
