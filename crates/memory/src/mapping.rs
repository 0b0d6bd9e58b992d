//! One host mapping of guest RAM. All `unsafe` that makes or ends a mapping is here.

use crate::MemoryError;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// What is behind a region's host mapping. A feature that needs a shared one asks, and refuses by name.
#[derive(Debug)]
pub enum Backing {
    /// A memfd mapped shared: can be handed to another process.
    SharedFd(OwnedFd),
    /// A private (copy-on-write) mapping of a file that never changes: restored and cloned machines.
    PrivateOverFile {
        /// The file.
        file: OwnedFd,
        /// Where in it the region's first byte is: a multiple of the page size.
        offset: u64,
    },
    /// Private memory without a file.
    Anonymous,
}

impl Backing {
    /// A fresh memfd of `len` bytes, whose size nobody can change: where a mapped file shrinks, an access kills the
    /// process.
    pub fn memfd(len: u64) -> Result<Backing, MemoryError> {
        let host = |source| MemoryError::Host { len, source };
        let fd = memfd_create("strata-ram", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map_err(host)?;
        ftruncate(&fd, len).map_err(host)?;
        fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW).map_err(host)?;
        Ok(Backing::SharedFd(fd))
    }
}

/// A mapping of `len` bytes, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a `Mapping` is an address range that lives until drop; all access to its bytes is by atomics or volatile
// operations, whose callers deal with concurrent change.
unsafe impl Send for Mapping {}
// SAFETY: see `Send`.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) fn new(backing: &Backing, len: u64) -> Result<Mapping, MemoryError> {
        let bad = MemoryError::BadRegion { gpa: 0, len, why: "larger than the host's address space" };
        let size = usize::try_from(len).ok().filter(|&n| n <= isize::MAX as usize).ok_or(bad)?;
        let over = match backing {
            Backing::SharedFd(fd) => Some((fd, 0)),
            Backing::PrivateOverFile { file, offset } => Some((file, *offset)),
            Backing::Anonymous => None,
        };
        if let Some((fd, offset)) = over {
            let held = fstat(fd).map_err(|source| MemoryError::Host { len, source })?.st_size;
            if u64::try_from(held).unwrap_or(0) < len.saturating_add(offset) {
                return Err(MemoryError::BadRegion { gpa: 0, len, why: "longer than the file behind it" });
            }
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let null = std::ptr::null_mut();
        // NORESERVE: a guest's memory is a promise that it may never call in; the host's own policy decides.
        // SAFETY: the kernel chooses a free address range; nothing existing is replaced.
        let base = unsafe {
            match backing {
                Backing::SharedFd(fd) => {
                    mmap(null, size, prot, MapFlags::SHARED | MapFlags::NORESERVE, fd, 0)
                }
                Backing::PrivateOverFile { file, offset } => {
                    mmap(null, size, prot, MapFlags::PRIVATE | MapFlags::NORESERVE, file, *offset)
                }
                Backing::Anonymous => {
                    mmap_anonymous(null, size, prot, MapFlags::PRIVATE | MapFlags::NORESERVE)
                }
            }
        }
        .map_err(|source| MemoryError::Host { len, source })?;
        let base =
            NonNull::new(base.cast()).ok_or(MemoryError::Host { len, source: rustix::io::Errno::NOMEM })?;
        Ok(Mapping { base, len: size })
    }

    /// Puts fresh zeroes in place of everything mapped here, at the same addresses. Nobody may be using the memory.
    pub(crate) fn renew(&self) -> rustix::io::Result<()> {
        self.replace(0, self.len, None)
    }

    /// Puts a private mapping of `file` from a place in it on, or fresh zeroes, in place of the `len` bytes at `offset`,
    /// which must lie in the mapping. Nobody may be using them.
    pub(crate) fn replace(
        &self,
        offset: usize,
        len: usize,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> rustix::io::Result<()> {
        assert!(len <= self.len && offset <= self.len - len, "{offset:#x}+{len:#x} is outside a mapping");
        let (prot, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED);
        // SAFETY: the range is wholly ours (asserted), and stays mapped: one mapping replaces another.
        let at = unsafe {
            let base = self.base.as_ptr().add(offset).cast();
            match file {
                Some((fd, from)) => mmap(base, len, prot, flags, fd, from),
                None => mmap_anonymous(base, len, prot, flags),
            }
        };
        at.map(|_| ())
    }

    /// Maps `len` bytes from `offset` on for reading, as if each page had been read; whether that was done.
    pub(crate) fn read_ahead(&self, offset: usize, len: usize) -> bool {
        if len == 0 || offset >= self.len || len > self.len - offset {
            return false;
        }
        // SAFETY: the range lies in the mapping, and the call changes no byte of it.
        unsafe { madvise(self.at(offset).cast(), len, Advice::LinuxPopulateRead) }.is_ok()
    }

    /// Host address of byte `offset`, which must lie in the mapping.
    pub(crate) fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset < self.len, "offset {offset:#x} outside a mapping of {:#x} bytes", self.len);
        // SAFETY: `offset` is inside the mapping.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is ours and no reference to it outlives the `GuestRam` that owns this mapping. Failure
        // would mean the range was not mapped; there is nothing left to do then.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mapping_reaches_past_its_file() {
        let Backing::SharedFd(fd) = Backing::memfd(4096).unwrap() else { panic!("not a memfd") };
        assert!(ftruncate(&fd, 0).is_err(), "it could be cut under the mapping");
        let private = Backing::PrivateOverFile { file: fd.try_clone().unwrap(), offset: 0 };
        let past = Backing::PrivateOverFile { file: fd.try_clone().unwrap(), offset: 4096 };
        assert!(Mapping::new(&past, 4096).is_err());
        for backing in [Backing::SharedFd(fd), private] {
            assert!(Mapping::new(&backing, 4096).is_ok());
            assert!(matches!(Mapping::new(&backing, 8192), Err(MemoryError::BadRegion { len: 8192, .. })));
        }
    }
}
