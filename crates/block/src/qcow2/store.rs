//! The file under a qcow2 image, as the format code sees it.
//!
//! A thin layer over the format crate's own file driver that adds what a hypervisor needs: a *seal*, after which
//! no byte is written any more (ownership was lost, or the format code failed half-way); and an error instead of
//! zeroes where a whole read lies past the end of the file, since that is what a truncated image looks like.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use imago::Storage;
use imago::file::File;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::storage::PreallocateMode;
use imago::storage::drivers::CommonStorageHelper;

/// Shared switch: once on, every [`Store`] that has it refuses writes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seal(Arc<AtomicBool>);

impl Seal {
    pub(crate) fn close(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(crate) fn closed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    fn check(&self) -> io::Result<()> {
        if self.closed() {
            return Err(io::Error::other("the image was given up, and takes no more writes"));
        }
        Ok(())
    }
}

/// An image file under a seal.
#[derive(Debug)]
pub(crate) struct Store {
    file: File,
    seal: Seal,
    /// Whether reads that begin past the end are errors. Not for raw backing files: those have their own size.
    strict: bool,
}

impl Store {
    pub(crate) fn new(file: std::fs::File, seal: &Seal, strict: bool) -> io::Result<Store> {
        Ok(Store { file: File::try_from(file)?, seal: seal.clone(), strict })
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.file.fmt(f)
    }
}

impl Storage for Store {
    fn mem_align(&self) -> usize {
        self.file.mem_align()
    }

    fn req_align(&self) -> usize {
        self.file.req_align()
    }

    fn zero_align(&self) -> usize {
        self.file.zero_align()
    }

    fn discard_align(&self) -> usize {
        self.file.discard_align()
    }

    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn resolve_relative_path<P: AsRef<Path>>(&self, _relative: P) -> io::Result<PathBuf> {
        Err(io::ErrorKind::Unsupported.into())
    }

    unsafe fn pure_readv(&self, bufv: IoVectorMut<'_>, offset: u64) -> io::Result<()> {
        if self.strict && offset >= self.file.size()? && !bufv.is_empty() {
            let what = format!("the image file ends before offset {offset}: it was cut short");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, what));
        }
        // SAFETY: our caller's promises are passed on unchanged.
        unsafe { self.file.pure_readv(bufv, offset) }
    }

    unsafe fn pure_writev(&self, bufv: IoVector<'_>, offset: u64) -> io::Result<()> {
        self.seal.check()?;
        // SAFETY: our caller's promises are passed on unchanged.
        unsafe { self.file.pure_writev(bufv, offset) }
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.seal.check()?;
        // SAFETY: our caller's promises are passed on unchanged.
        unsafe { self.file.pure_write_zeroes(offset, length) }
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.seal.check()?;
        // SAFETY: our caller's promises are passed on unchanged.
        unsafe { self.file.pure_write_allocated_zeroes(offset, length) }
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.seal.check()?;
        // SAFETY: our caller's promises are passed on unchanged.
        unsafe { self.file.pure_discard(offset, length) }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn sync(&self) -> io::Result<()> {
        self.seal.check()?;
        self.file.sync()
    }

    unsafe fn invalidate_cache(&self) -> io::Result<()> {
        // SAFETY: our caller's promises are passed on unchanged.
        unsafe { self.file.invalidate_cache() }
    }

    fn get_storage_helper(&self) -> &CommonStorageHelper {
        self.file.get_storage_helper()
    }

    fn resize(&self, new_size: u64, prealloc_mode: PreallocateMode) -> io::Result<()> {
        self.seal.check()?;
        self.file.resize(new_size, prealloc_mode)
    }
}
