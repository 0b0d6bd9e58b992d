//! The file under a qcow2 image, as the format code sees it.
//!
//! A thin layer over the format crate's own file driver that adds what a hypervisor needs: a *seal*, after which
//! no byte is written any more (ownership was lost, or the format code failed half-way); and an error instead of
//! zeroes where a whole read lies past the end of the file, since that is what a truncated image looks like. The
//! top image's writes are put in [`Order`] here, too.

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

use super::order::Order;

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
    order: Option<Order>,
    /// What a test wants to know: every change of the file, in order.
    #[cfg(test)]
    pub(crate) journal: Journal,
}

/// Changes of an image file, kept for tests that cut the power.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal(pub(crate) Arc<std::sync::Mutex<Vec<Change>>>);

#[cfg(test)]
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Write(u64, Vec<u8>),
    Resize(u64),
    Sync,
}

#[cfg(test)]
impl Journal {
    pub(crate) fn note(&self, change: Change) {
        self.0.lock().unwrap().push(change);
    }
}

impl Store {
    pub(crate) fn new(file: std::fs::File, seal: &Seal, strict: bool) -> io::Result<Store> {
        Ok(Store {
            file: File::try_from(file)?,
            seal: seal.clone(),
            strict,
            order: None,
            #[cfg(test)]
            journal: Journal::default(),
        })
    }

    /// The same, with its writes in order.
    pub(crate) fn with_order(mut self, order: Order) -> Store {
        self.order = Some(order);
        self
    }

    /// Before each change of the file.
    fn before(&self, offset: u64, len: u64, copy: impl FnOnce(&mut [u8])) -> io::Result<()> {
        self.seal.check()?;
        let Some(order) = &self.order else { return Ok(()) };
        let _synced = order.before(offset, len, copy)?;
        #[cfg(test)]
        if _synced {
            self.journal.note(Change::Sync);
        }
        Ok(())
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
        self.before(offset, bufv.len(), |bytes| bufv.copy_into_slice(bytes))?;
        #[cfg(test)]
        {
            let mut bytes = vec![0; bufv.len() as usize];
            bufv.copy_into_slice(&mut bytes);
            self.journal.note(Change::Write(offset, bytes));
        }
        // SAFETY: our caller's promises are passed on unchanged.
        unsafe { self.file.pure_writev(bufv, offset) }
    }

    unsafe fn pure_write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.before(offset, length, |_| ())?;
        #[cfg(test)]
        self.journal.note(Change::Write(offset, vec![0; length as usize]));
        // SAFETY: our caller's promises are passed on unchanged.
        unsafe { self.file.pure_write_zeroes(offset, length) }
    }

    unsafe fn pure_write_allocated_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.before(offset, length, |_| ())?;
        #[cfg(test)]
        self.journal.note(Change::Write(offset, vec![0; length as usize]));
        // SAFETY: our caller's promises are passed on unchanged.
        unsafe { self.file.pure_write_allocated_zeroes(offset, length) }
    }

    unsafe fn pure_discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.before(offset, length, |_| ())?;
        #[cfg(test)]
        self.journal.note(Change::Write(offset, vec![0; length as usize]));
        // SAFETY: our caller's promises are passed on unchanged.
        unsafe { self.file.pure_discard(offset, length) }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.flush()
    }

    fn sync(&self) -> io::Result<()> {
        self.seal.check()?;
        match &self.order {
            Some(order) => order.sync()?,
            None => self.file.sync()?,
        }
        #[cfg(test)]
        self.journal.note(Change::Sync);
        Ok(())
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
        #[cfg(test)]
        self.journal.note(Change::Resize(new_size));
        self.file.resize(new_size, prealloc_mode)
    }
}
