//! Memory for host code: one memfd, mapped twice. Through one view it is written, through the other executed, so no
//! mapping is ever both.
//!
//! All `unsafe` that makes, writes or ends these mappings is here. Invariants: both views are `SIZE` bytes of the same
//! file and live as long as the [`CodeMemory`]; only the thread that owns it writes, and it executes nothing while it
//! does, but for single aligned words ([`CodeMemory::patch`]), which other parts of the same thread's code jump over or
//! through.

use crate::TranslatorError;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

/// Host code in executable memory.
pub(crate) struct CodeMemory {
    write: NonNull<u8>,
    run: NonNull<u8>,
    size: usize,
    used: usize,
}

// SAFETY: the mappings belong to this value alone; whoever owns it may use it from any thread.
unsafe impl Send for CodeMemory {}

fn file(size: usize) -> Result<OwnedFd, Errno> {
    // Newer kernels want to be told that a memfd will be executed; older ones know no such flag.
    let make = |flags| memfd_create("strata-code", MemfdFlags::CLOEXEC | flags);
    let fd = make(MemfdFlags::EXEC)
        .or_else(|e| if e == Errno::INVAL { make(MemfdFlags::empty()) } else { Err(e) })?;
    ftruncate(&fd, size as u64)?;
    Ok(fd)
}

fn map(fd: &OwnedFd, size: usize, prot: ProtFlags) -> Result<NonNull<u8>, Errno> {
    // SAFETY: the kernel chooses a free address range; nothing existing is replaced.
    let p = unsafe { mmap(std::ptr::null_mut(), size, prot, MapFlags::SHARED | MapFlags::NORESERVE, fd, 0) }?;
    NonNull::new(p.cast()).ok_or(Errno::NOMEM)
}

impl CodeMemory {
    /// Room for `size` bytes, a multiple of the page size. Nothing is touched before it is used.
    ///
    /// # Errors
    /// [`TranslatorError::NoCodeMemory`] where the host gives no memory that can be executed.
    pub fn new(size: usize) -> Result<CodeMemory, TranslatorError> {
        let refused = |source| TranslatorError::NoCodeMemory { size, source };
        let fd = file(size).map_err(refused)?;
        let write = map(&fd, size, ProtFlags::READ | ProtFlags::WRITE).map_err(refused)?;
        let run = map(&fd, size, ProtFlags::READ | ProtFlags::EXEC).map_err(|e| {
            unmap(write, size);
            refused(e)
        })?;
        Ok(CodeMemory { write, run, size, used: 0 })
    }

    /// Where the next piece of code will run.
    pub fn next(&self) -> u64 {
        self.run.as_ptr() as u64 + self.used as u64
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Bytes free.
    pub fn free(&self) -> usize {
        self.size - self.used
    }

    /// Adds `code`, which was made for [`CodeMemory::next`]; false if there is no room.
    #[must_use]
    pub fn push(&mut self, code: &[u8]) -> bool {
        if code.len() > self.free() {
            return false;
        }
        // SAFETY: the range is inside the mapping and no code runs (`&mut self` is the thread's own).
        unsafe {
            std::ptr::copy_nonoverlapping(code.as_ptr(), self.write.as_ptr().add(self.used), code.len());
        }
        // Pieces begin at 16-byte boundaries, as the host fetches.
        self.used = (self.used + code.len()).next_multiple_of(16).min(self.size);
        true
    }

    /// Drops everything after the first `used` bytes.
    pub fn truncate(&mut self, used: usize) {
        self.used = used.min(self.used);
    }

    /// Makes the 4 bytes of a relative jump at run address `at` lead to `target`. Both are addresses of this memory.
    pub fn patch(&mut self, at: u64, target: u64) {
        let offset = at.wrapping_sub(self.run.as_ptr() as u64) as usize;
        assert!(offset + 4 <= self.used, "a patch outside the code");
        let relative = target.wrapping_sub(at.wrapping_add(4)) as i32;
        // SAFETY: the four bytes lie inside the mapping (asserted). The write is one store; x86 needs no alignment.
        unsafe { self.write.as_ptr().add(offset).cast::<i32>().write_unaligned(relative) };
    }

    /// Runs the code at `entry` with two arguments.
    ///
    /// # Safety
    /// `entry` is the start of a function of this signature that was pushed here and is correct for its arguments.
    pub unsafe fn call(&self, entry: u64, core: *mut strata_riscv::tier::Core, code: u64) -> u64 {
        // SAFETY: by the caller's promise.
        let f: extern "sysv64" fn(*mut strata_riscv::tier::Core, u64) -> u64 =
            unsafe { std::mem::transmute(entry as usize) };
        f(core, code)
    }
}

fn unmap(at: NonNull<u8>, size: usize) {
    // SAFETY: the range was mapped by `map` with this size and nothing refers to it any longer. Failure would mean
    // that it was not mapped; there is nothing left to do then.
    let _ = unsafe { munmap(at.as_ptr().cast(), size) };
}

impl Drop for CodeMemory {
    fn drop(&mut self) {
        unmap(self.write, self.size);
        unmap(self.run, self.size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_mapping_is_both_writable_and_executable() {
        let memory = CodeMemory::new(1 << 16).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let ours: Vec<_> = maps.lines().filter(|l| l.contains("strata-code")).collect();
        assert!(ours.len() >= 2, "{maps}");
        assert!(ours.iter().all(|l| !l.contains("rwx")));
        drop(memory);
    }

    #[test]
    fn what_is_written_runs() {
        let mut memory = CodeMemory::new(1 << 16).unwrap();
        let entry = memory.next();
        // lea rax, [rsi + 1]; ret
        assert!(memory.push(&[0x48, 0x8d, 0x46, 0x01, 0xc3]));
        // SAFETY: the code above is such a function, and uses no pointer.
        assert_eq!(unsafe { memory.call(entry, std::ptr::null_mut(), 41) }, 42);
        assert!(!memory.push(&vec![0; 1 << 16]));
    }
}
