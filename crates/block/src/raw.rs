//! Raw disks: byte `n` of the disk is byte `n` of a file or block device.
//!
//! Transfers go straight between the page cache and guest memory (`preadv`, `pwritev` on the slices' own
//! addresses): one copy, made by the kernel. Rust never makes a reference to the memory, since the guest may
//! change it meanwhile.
//!
//! States: open → broken, once a flush has failed. Linux reports a lost write-back once and then forgets it, so a
//! later flush that "succeeds" would be a lie; a broken disk refuses every further flush and write.
//!
//! It does not grow the file, does not cache, and does not use `O_DIRECT` by itself: open the descriptor as wished.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use vm_memory::VolatileSlice;

use crate::qcow2::header::MAGIC;
use crate::vectors::{total, within, writable};
use crate::{Disk, DiskError, SECTOR};

/// Slices handed to the kernel by one call. Linux takes up to 1024; 64 live on the stack and cover a request of
/// 256 KiB in single pages, and longer ones cost one more call.
const BATCH: usize = 64;

/// Zeroes for file systems that cannot zero a range themselves.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// A disk kept in a file, byte for byte.
#[derive(Debug)]
pub struct RawDisk {
    file: File,
    size: u64,
    read_only: bool,
    /// What the file system under the file has not refused so far.
    can_punch: bool,
    can_zero: bool,
    broken: bool,
    keep_raw: bool,
}

impl RawDisk {
    /// Takes an open file or block device; `name` is for messages only. The file must be open for writing unless
    /// `read_only`.
    ///
    /// # Errors
    /// `TooSmall` if the size is zero or no multiple of 512, `Io` if it cannot be told.
    pub fn open(file: File, name: &Path, read_only: bool) -> Result<RawDisk, DiskError> {
        let size = length(&file).map_err(|e| DiskError::from_io(name, "find the size of", e))?;
        let wrong =
            |what: String, advice: String| DiskError::TooSmall { path: name.to_path_buf(), what, advice };
        if size == 0 {
            return Err(wrong(
                "it is empty".to_string(),
                "Give it a size, for example with `truncate -s 10G FILE`, or name the right file."
                    .to_string(),
            ));
        }
        if !size.is_multiple_of(SECTOR) {
            return Err(wrong(
                format!(
                    "{size} bytes is not a whole number of 512-byte sectors, so it may have been cut short"
                ),
                format!(
                    "Fetch or copy it again; if it is complete, pad it with `truncate -s {} FILE`.",
                    size.next_multiple_of(SECTOR)
                ),
            ));
        }
        Ok(RawDisk { file, size, read_only, can_punch: true, can_zero: true, broken: false, keep_raw: false })
    }

    /// Refuses from now on to write the magic of qcow2 at the disk's beginning: for files whose format was
    /// guessed, see [`crate::probe`].
    pub fn keep_raw(&mut self) {
        self.keep_raw = true;
    }

    /// Writes the first sector's share of `bufs` from a private copy, which the guest cannot change between our
    /// look at it and the write.
    fn write_head(&self, offset: u64, bufs: &[VolatileSlice<'_>]) -> io::Result<usize> {
        let mut sector = [0; SECTOR as usize];
        let mut free = sector.get_mut(offset as usize..).unwrap_or_default();
        let room = free.len();
        for buf in bufs {
            let copied = buf.copy_to(free);
            free = free.get_mut(copied..).unwrap_or_default();
        }
        let len = room - free.len();
        let start = offset as usize;
        if offset > 0 {
            self.file.read_exact_at(sector.get_mut(..start).unwrap_or_default(), 0)?;
        }
        let end = start + len;
        if end >= MAGIC.len() && sector.starts_with(&MAGIC) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "refused to write a qcow2 header into a disk whose format was guessed to be raw; say that it is raw",
            ));
        }
        self.file.write_all_at(sector.get(start..end).unwrap_or_default(), offset)?;
        Ok(len)
    }

    fn check_write(&self, offset: u64, len: u64) -> io::Result<()> {
        within(offset, len, self.size)?;
        writable(self.read_only)?;
        if self.broken {
            return Err(io::Error::other("an earlier flush of this disk failed, so it takes no more writes"));
        }
        Ok(())
    }

    /// Moves all that `cursor` has left at `offset`, as often as the kernel needs.
    fn transfer(&self, way: Way, mut offset: u64, mut cursor: Cursor<'_, '_>) -> io::Result<()> {
        loop {
            let (iov, count) = cursor.batch();
            if count == 0 {
                return Ok(());
            }
            let moved = way.call(&self.file, &iov, count, offset)?;
            offset += moved as u64;
            cursor.advance(moved);
        }
    }

    /// Tries `fallocate`; `Ok(false)` if the file system cannot.
    fn fallocate(&self, flags: FallocateFlags, offset: u64, len: u64) -> io::Result<bool> {
        match fallocate(&self.file, flags, offset, len) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::INVAL) => {
                Ok(false)
            }
            Err(e) => Err(e.into()),
        }
    }

    fn punch(&mut self, offset: u64, len: u64) -> io::Result<bool> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        self.can_punch = self.can_punch && self.fallocate(flags, offset, len)?;
        Ok(self.can_punch)
    }
}

impl Disk for RawDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, offset: u64, bufs: &[VolatileSlice<'_>]) -> io::Result<()> {
        within(offset, total(bufs)?, self.size)?;
        self.transfer(Way::Read, offset, Cursor { bufs, done: 0 })
    }

    fn write(&mut self, offset: u64, bufs: &[VolatileSlice<'_>]) -> io::Result<()> {
        let len = total(bufs)?;
        self.check_write(offset, len)?;
        let mut cursor = Cursor { bufs, done: 0 };
        let mut at = offset;
        if self.keep_raw && len > 0 && offset < SECTOR {
            let written = self.write_head(offset, bufs)?;
            cursor.advance(written);
            at += written as u64;
        }
        self.transfer(Way::Write, at, cursor)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.check_write(0, 0)?;
        self.file.sync_data().inspect_err(|_| self.broken = true)
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.check_write(offset, len)?;
        if len > 0 {
            self.punch(offset, len)?;
        }
        Ok(())
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.check_write(offset, len)?;
        if len == 0 || (unmap && self.punch(offset, len)?) {
            return Ok(());
        }
        self.can_zero = self.can_zero && self.fallocate(FallocateFlags::ZERO_RANGE, offset, len)?;
        if self.can_zero {
            return Ok(());
        }
        let end = offset + len;
        let mut at = offset;
        while at < end {
            let now = (end - at).min(ZEROES.len() as u64);
            self.file.write_all_at(ZEROES.get(..now as usize).unwrap_or(&ZEROES), at)?;
            at += now;
        }
        Ok(())
    }

    fn abandon(&mut self) {
        self.broken = true;
    }
}

/// Length of a file or block device.
pub(crate) fn length(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}

/// Direction of a transfer, named by what the disk does.
#[derive(Clone, Copy)]
enum Way {
    Read,
    Write,
}

impl Way {
    /// One `preadv` or `pwritev`; never returns 0.
    fn call(self, file: &File, iov: &[libc::iovec; BATCH], count: usize, offset: u64) -> io::Result<usize> {
        let fd = file.as_raw_fd();
        let at = libc::off_t::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let count = count.min(BATCH) as libc::c_int;
        loop {
            let moved = match self {
                // SAFETY: `count` of `iov`'s entries were filled by `Cursor::batch` from slices that outlive this
                // call; only the kernel touches that memory, and it expects it to change underneath.
                Way::Read => unsafe { libc::preadv(fd, iov.as_ptr(), count, at) },
                // SAFETY: as above.
                Way::Write => unsafe { libc::pwritev(fd, iov.as_ptr(), count, at) },
            };
            return match (moved, self) {
                (0, Way::Read) => Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the disk's file ends before offset {offset}: it was cut short while in use"),
                )),
                (0, Way::Write) => Err(io::ErrorKind::WriteZero.into()),
                (n, _) if n > 0 => Ok(n as usize),
                _ => match io::Error::last_os_error() {
                    e if e.kind() == io::ErrorKind::Interrupted => continue,
                    e => Err(e),
                },
            };
        }
    }
}

/// Where a transfer stands in its slices: `done` bytes of the first one are moved already.
struct Cursor<'a, 'b> {
    bufs: &'a [VolatileSlice<'b>],
    done: usize,
}

impl Cursor<'_, '_> {
    /// The next slices as the kernel wants them, and how many.
    fn batch(&self) -> ([libc::iovec; BATCH], usize) {
        let mut iov = [libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 }; BATCH];
        let mut count = 0;
        let mut skip = self.done;
        for buf in self.bufs {
            if buf.len() > skip {
                let Some(entry) = iov.get_mut(count) else { break };
                let start = buf.ptr_guard_mut().as_ptr().wrapping_add(skip);
                *entry = libc::iovec { iov_base: start.cast(), iov_len: buf.len() - skip };
                count += 1;
            }
            skip = 0;
        }
        (iov, count)
    }

    fn advance(&mut self, moved: usize) {
        self.done += moved;
        while let Some((first, rest)) = self.bufs.split_first() {
            if self.done < first.len() {
                return;
            }
            self.done -= first.len();
            self.bufs = rest;
        }
    }
}

#[cfg(test)]
mod tests;
