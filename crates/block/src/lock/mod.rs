//! Who may use a disk: a lock that the kernel keeps, and a record that names the owner.
//!
//! **The lock** is an OFD lock (`fcntl(2)`, "Open file description locks") on the disk's own file: it belongs to
//! the open file, not to the process, and goes away with it, however the process ends. Writing takes the whole
//! file exclusively. Reading takes, shared, the three bytes with which QEMU marks "I read, nobody may write or
//! resize" (100, 201, 203): so QEMU's tools may read along with a reader of ours, and may not write; and neither
//! may touch the file of a writer.
//!
//! **The record** ([`record`]) stands beside a disk that is open for writing. Its epoch counts owners:
//!
//! ```text
//! none ──open──► epoch 1 ──clean close──► none
//!                   │ owner died, lock free, same host ──open──► epoch 2        (taken over)
//!                   │ hand_over() to another owner ────────────► epoch 2        (migration)
//!                   └─ the old owner's next flush sees 2 > 1: refused, disk given up
//! ```
//!
//! The epoch is compared when a disk is opened and again before each flush: an owner that was superseded while
//! it slept is stopped before it makes anything durable. If a record has vanished although the lock is held,
//! somebody tidied up: it is written again. Where the directory cannot be written (or the disk is a block
//! device), the lock stands alone; [`Lease::notes`] says so.
//!
//! What this cannot guarantee, on NFS and the like: locks may be emulated per host (`local_lock`, `nolock`), may
//! be lost with the server's state, and a host cut off may write from its cache after its lease ran out. The
//! epoch catches an old owner at its next flush, not a single write in between. So a record left by *another* host
//! is never taken over by itself, even if the lock is free: a person says that the host is dead, by removing the
//! record. For shared storage use a file system or server that fences.

pub mod record;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::DiskError;
pub use record::Owner;
use record::Record;

/// How a disk is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Others may read too.
    Shared,
    /// Nobody else may read or write.
    Exclusive,
}

/// Bytes of a shared lock: QEMU's "consistent read" in use, "write" and "resize" not to be shared.
const SHARED_BYTES: [i64; 3] = [100, 201, 203];

/// A held lock. It ends when this is dropped, or when the last descriptor of the open file is closed.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl Drop for FileLock {
    /// Released by name, not only by closing: a child that was forked a moment ago, and has not yet run its own
    /// program, still has the descriptor.
    fn drop(&mut self) {
        if let Err(e) = ofd_lock(&self.file, libc::F_UNLCK, 0, 0) {
            tracing::warn!("could not release the lock of a disk: {e}");
        }
    }
}

impl FileLock {
    /// Locks `file`, which must be open for writing if exclusive.
    ///
    /// # Errors
    /// `InUse`, with the holder's name if there is a record; `Unsupported` on a file system without locks.
    pub fn take(file: &File, path: &Path, access: Access) -> Result<FileLock, DiskError> {
        let (kind, ranges): (_, &[(i64, i64)]) = match access {
            Access::Exclusive => (libc::F_WRLCK, &[(0, 0)]),
            Access::Shared => (libc::F_RDLCK, &SHARED_BYTES.map(|b| (b, 1))),
        };
        let held = FileLock { file: file.try_clone().map_err(|e| DiskError::from_io(path, "lock", e))? };
        for &(start, len) in ranges {
            ofd_lock(file, kind, start, len).map_err(|e| lock_error(e, path))?;
        }
        Ok(held)
    }
}

fn ofd_lock(file: &File, kind: libc::c_int, start: i64, len: i64) -> io::Result<()> {
    // SAFETY: `flock` is plain data; all zeroes is a value of it.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = start;
    lock.l_len = len;
    // SAFETY: the descriptor is open, and `lock` lives through the call.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) } == 0 {
        return Ok(());
    }
    Err(io::Error::last_os_error())
}

fn lock_error(e: io::Error, path: &Path) -> DiskError {
    match e.raw_os_error() {
        Some(libc::EAGAIN | libc::EACCES) => {
            in_use(path, Record::read(&Record::path_of(path)).ok().flatten())
        }
        Some(libc::ENOLCK | libc::EOPNOTSUPP | libc::ENOSYS) => DiskError::unsupported(
            path,
            format!("its file system has no file locks ({e})"),
            "Move it to a local file system, or mount that one with locking.",
        ),
        _ => DiskError::from_io(path, "lock", e),
    }
}

/// The lock is held by someone: say who, if the record knows.
fn in_use(path: &Path, record: Option<Record>) -> DiskError {
    let (holder, advice) = match record {
        Some(r) => (
            r.owner.to_string(),
            format!("Stop '{}' first, or give this machine a disk of its own.", r.owner.instance),
        ),
        None => (
            "a program that left no name".to_string(),
            "Stop the machine or qemu tool that has it open (`lslocks` or `fuser` may tell which)."
                .to_string(),
        ),
    };
    DiskError::InUse { path: path.to_path_buf(), holder, advice }
}

/// The record names another host, from which no lock may have reached us.
fn far_owner(disk: &Path, record: &Record, at: &Path) -> DiskError {
    DiskError::InUse {
        path: disk.to_path_buf(),
        holder: format!("{}, by its record", record.owner),
        advice: format!(
            "From here it cannot be told whether that host is alive. If it is down for certain, remove {} and try \
             again.",
            at.display()
        ),
    }
}

/// Locks `file` for reading. A record of this host without a lock is a dead writer's, and does not matter to a
/// reader; one of another host does.
///
/// # Errors
/// As [`FileLock::take`].
pub fn lock_shared(file: &File, disk: &Path, owner: &Owner) -> Result<FileLock, DiskError> {
    let lock = FileLock::take(file, disk, Access::Shared)?;
    let at = Record::path_of(&disk.canonicalize().map_err(|e| DiskError::from_io(disk, "lock", e))?);
    match Record::read(&at) {
        Ok(Some(record)) if !record.owner.same_host(owner) => Err(far_owner(disk, &record, &at)),
        _ => Ok(lock),
    }
}

/// Who has a disk by the record beside it, and at which epoch; none if there is no record.
///
/// # Errors
/// It cannot be read, or is no record.
pub fn recorded(disk: &Path) -> io::Result<Option<(u64, Owner)>> {
    let record = Record::read(&Record::path_of(&disk.canonicalize()?))?;
    Ok(record.map(|r| (r.epoch, r.owner)))
}

/// Takes back a disk that was handed to another host, which has promised never to use it, and lets go of it again: from then
/// on it is opened like one whose owner on this host has died. Harmless on one that nobody has.
///
/// # Errors
/// `InUse` if somebody has it open after all; what the host answers.
pub fn reclaim(disk: &Path, owner: &Owner) -> Result<(), DiskError> {
    let fail = |e| DiskError::from_io(disk, "read the lock record of", e);
    let Some((epoch, _)) = recorded(disk).map_err(fail)? else { return Ok(()) };
    let file = crate::open::open_file(disk, false)?;
    // Not confirmed, it leaves its record: what the last owner has not finished is still to be looked after.
    Lease::take(&file, disk, owner, Some(epoch.saturating_add(1)), Recording::Now).map(drop)
}

/// When the record of an owner is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recording {
    /// Before [`Lease::take`] returns.
    Now,
    /// By [`Lease::record`], which is called before the disk is used: it waits for the host's disk.
    Later,
}

/// The right to write a disk: the exclusive lock and the record with our epoch.
#[derive(Debug)]
pub struct Lease {
    disk: PathBuf,
    /// Where the record is; none if the lock stands alone.
    record_at: Option<PathBuf>,
    mine: Record,
    took_over: bool,
    confirmed: bool,
    superseded: bool,
    notes: Vec<String>,
    _lock: FileLock,
}

impl Lease {
    /// Takes the disk in `file`, open for writing, for `owner`. With `epoch`, the lease is taken at exactly that
    /// epoch; else at one more than a dead owner's, or 1.
    ///
    /// # Errors
    /// `InUse` if it is locked, or if the record names an owner on another host; `Superseded` if `epoch` is lower
    /// than the recorded one; `Corrupt` for a record that cannot be read.
    pub fn take(
        file: &File,
        disk: &Path,
        owner: &Owner,
        epoch: Option<u64>,
        recording: Recording,
    ) -> Result<Lease, DiskError> {
        let lock = FileLock::take(file, disk, Access::Exclusive)?;
        let fail = |e| DiskError::from_io(disk, "lock", e);
        let meta = file.metadata().map_err(fail)?;
        // The record goes where the file really is, so that two links to one disk meet at one record.
        let disk_real = disk.canonicalize().map_err(fail)?;
        let now = disk_real.metadata().map_err(fail)?;
        if (meta.dev(), meta.ino()) != (now.dev(), now.ino()) {
            return Err(fail(io::Error::other("the file was replaced while it was being opened")));
        }
        let mut lease = Lease {
            disk: disk.to_path_buf(),
            record_at: meta.is_file().then(|| Record::path_of(&disk_real)),
            mine: Record { epoch: epoch.unwrap_or(1), owner: owner.clone() },
            took_over: false,
            confirmed: false,
            superseded: false,
            notes: Vec::new(),
            _lock: lock,
        };
        if lease.record_at.is_none() {
            lease.notes.push(
                "it is not a regular file, so only a lock protects it, and no record of its owner".into(),
            );
        }
        lease.compare(epoch)?;
        if recording == Recording::Now {
            lease.record()?;
        }
        Ok(lease)
    }

    /// Compares with the record that is there.
    fn compare(&mut self, epoch: Option<u64>) -> Result<(), DiskError> {
        let Some(at) = self.record_at.clone() else { return Ok(()) };
        match Record::read(&at) {
            Ok(None) => {}
            Err(e) if e.kind() == io::ErrorKind::InvalidFilename => {
                self.notes
                    .push("its name is too long for a record beside it, so only a lock protects it".into());
                self.record_at = None;
            }
            Ok(Some(old)) => self.succeed(old, epoch, &at)?,
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(DiskError::from_io(&at, "read the lock record", e));
            }
            Err(_) => {
                return Err(DiskError::Corrupt {
                    path: self.disk.clone(),
                    what: format!("its lock record {} cannot be read", at.display()),
                    advice: "If no machine uses the disk, on any host, remove that record.".to_string(),
                });
            }
        }
        Ok(())
    }

    /// Writes our record, durably. To be called once, before the disk is written to.
    ///
    /// # Errors
    /// What the host answers; that its folder cannot be written is none, but a note.
    pub fn record(&mut self) -> Result<(), DiskError> {
        let Some(at) = self.record_at.clone() else { return Ok(()) };
        match self.mine.write(&at) {
            Ok(()) => Ok(()),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) && !self.took_over =>
            {
                let dir = at.parent().unwrap_or(Path::new("/")).display().to_string();
                self.notes.push(format!(
                    "{dir} cannot be written, so only a lock protects the disk, and no record"
                ));
                self.record_at = None;
                Ok(())
            }
            Err(e) => Err(DiskError::from_io(&at, "write the lock record", e)),
        }
    }

    /// We hold the lock, and `old` is recorded: may we follow, and at which epoch?
    fn succeed(&mut self, old: Record, epoch: Option<u64>, at: &Path) -> Result<(), DiskError> {
        self.mine.epoch = match epoch {
            Some(ours) if ours < old.epoch => return Err(self.superseded_by(&old)),
            Some(ours) if ours > old.epoch => ours,
            // The owner that `hand_over` raised the record for.
            Some(ours) if old.owner.instance == self.mine.owner.instance => ours,
            Some(_) => return Err(in_use(&self.disk, Some(old))),
            None if old.owner.same_host(&self.mine.owner) => {
                tracing::warn!("{}: taken over from {}, which is gone", self.disk.display(), old.owner);
                self.notes.push(format!("taken over from {}, which is gone", old.owner));
                old.epoch.saturating_add(1)
            }
            None => return Err(far_owner(&self.disk, &old, at)),
        };
        self.took_over = true;
        Ok(())
    }

    fn superseded_by(&self, by: &Record) -> DiskError {
        DiskError::Superseded {
            path: self.disk.clone(),
            ours: self.mine.epoch,
            recorded: by.epoch,
            holder: by.owner.to_string(),
        }
    }

    /// The epoch at which we own the disk.
    pub fn epoch(&self) -> u64 {
        self.mine.epoch
    }

    /// Whether a record was there: its owner died, or handed over.
    pub fn took_over(&self) -> bool {
        self.took_over
    }

    /// The disk was found usable: from now on a clean close removes the record. Until then the record of a dead
    /// owner stays in one form or another, since it says that the disk was not closed.
    pub fn confirm(&mut self) {
        self.confirmed = true;
    }

    /// What a person should know about this lease, a sentence each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Still the owner? To be asked before anything is made durable. Once lost, it stays lost.
    ///
    /// # Errors
    /// `Superseded` if the record has another owner at our epoch or a higher epoch; `Io` if it cannot be read.
    pub fn check(&mut self) -> Result<(), DiskError> {
        let Some(at) = self.record_at.clone() else { return Ok(()) };
        match Record::read(&at).map_err(|e| DiskError::from_io(&at, "read the lock record", e))? {
            Some(found)
                if self.superseded || found.epoch > self.mine.epoch || found.owner != self.mine.owner =>
            {
                self.superseded = true;
                Err(self.superseded_by(&found))
            }
            Some(_) => Ok(()),
            None if self.superseded => Err(self.superseded_by(&self.mine)),
            None => self.mine.write(&at).map_err(|e| DiskError::from_io(&at, "write the lock record", e)),
        }
    }

    /// Passes ownership to `next`, at one epoch higher, which is returned. From now on [`check`](Self::check)
    /// fails here; the lock stays until this is dropped, and the record stays for the new owner, which opens the
    /// disk with that epoch.
    ///
    /// # Errors
    /// `Superseded` if it is not ours any more; `Unsupported` if there is no record; `Io`.
    pub fn hand_over(&mut self, next: &Owner) -> Result<u64, DiskError> {
        self.check()?;
        let Some(at) = &self.record_at else {
            return Err(DiskError::unsupported(
                &self.disk,
                "it has no lock record, so it cannot be handed to another host",
                "Move it into a directory that can be written.",
            ));
        };
        let record = Record { epoch: self.mine.epoch.saturating_add(1), owner: next.clone() };
        record.write(at).map_err(|e| DiskError::from_io(at, "write the lock record", e))?;
        self.superseded = true;
        Ok(record.epoch)
    }
}

impl Drop for Lease {
    /// The record goes first, while the lock is still held: nobody can meet it without an owner.
    fn drop(&mut self) {
        let Some(at) = &self.record_at else { return };
        if self.took_over && !self.confirmed {
            return;
        }
        let ours = Record::read(at).ok().flatten().is_some_and(|found| found == self.mine);
        if ours && let Err(e) = std::fs::remove_file(at) {
            tracing::warn!("could not remove the lock record {}: {e}", at.display());
        }
    }
}
