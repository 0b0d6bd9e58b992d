//! qcow2 images: read and written through the crate `imago`, opened by rules of our own.
//!
//! QEMU's `docs/interop/qcow2.rst`, versions 2 and 3. The layers of an image, top first, are opened before the
//! format code sees any of them ([`chain`]), their headers and maps are checked ([`header`], [`check`]), and the
//! top one sits under a seal ([`store`]).
//!
//! ```text
//! open ──► running ──► sealed      ownership lost, a sync failed, or the format code panicked: no byte is
//!                                  written any more, all requests fail, dropping the disk writes nothing
//! ```
//!
//! What a flush means: the format's caches go to the file (refcounts before the entries that use them), then
//! `fsync`. An instance's layer is such an image over a read-only raw one ([`create_overlay`]): sparse, and within
//! a few percent of a raw file's speed.
//!
//! Not done, by name: encryption, external data files, zstd clusters, extended L2 entries, and on version 2
//! images discarding (it does nothing) and cheap zeroes (they are written out). Internal snapshots are kept, but
//! not listed or made.

mod chain;
pub(crate) mod check;
mod create;
pub(crate) mod header;
#[cfg(test)]
mod qemu_tests;
mod store;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder};
use vm_memory::VolatileSlice;

pub(crate) use chain::resolve;
pub use chain::{Chain, Layer};
pub use create::{create_image, create_overlay};

use crate::vectors::{total, within, writable};
use crate::{Disk, DiskError, Format};
use header::Header;
use store::{Seal, Store};

/// Slices given to one call of the format code, which passes them to one system call: below its limit of 1024.
const BATCH: usize = 512;

/// A disk kept in a qcow2 image, with its backing files.
#[derive(Debug)]
pub struct Qcow2Disk {
    /// Dropped by hand, because dropping flushes and may meet the same panic again.
    image: ManuallyDrop<FormatAccess<Store>>,
    seal: Seal,
    size: u64,
    read_only: bool,
}

impl Qcow2Disk {
    /// Takes an open image and its backing layers, nearest first, all open already; `name` is for messages. The
    /// image must be open for writing unless `read_only`. `died` says that its last writer is known to have died:
    /// then refcounts that did not reach the disk are repaired, instead of refusing the image.
    ///
    /// # Errors
    /// `Corrupt` for an image that is cut short or contradicts itself, `Unsupported` for features named in the
    /// module's essay and for a chain that does not match what the headers say.
    pub fn open(
        file: File,
        name: &Path,
        read_only: bool,
        died: bool,
        backing: Vec<Layer>,
    ) -> Result<Qcow2Disk, DiskError> {
        let seal = Seal::default();
        let header = checked_header(&file, name, !read_only, died)?;
        let mut below: Option<FormatAccess<Store>> = None;
        let mut above = backing.iter().map(|l| l.has_backing).collect::<Vec<_>>();
        above.insert(0, header.backing.is_some());
        if above.pop() == Some(true) || above.contains(&false) {
            return Err(DiskError::unsupported(
                name,
                "the backing files given are not those that its header asks for",
                "Give one file for each layer, nearest first; `qemu-img info --backing-chain` lists them.",
            ));
        }
        for layer in backing.into_iter().rev() {
            below = Some(open_layer(layer, &seal, below)?);
        }
        let image = open_image(file, name, &seal, !read_only, below)?;
        let disk = Qcow2Disk { size: header.size, image: ManuallyDrop::new(image), seal, read_only };
        if disk.image.size() != disk.size {
            return Err(DiskError::corrupt(name, "its size cannot be told for certain"));
        }
        Ok(disk)
    }

    /// Runs format code. A panic in it becomes an error and the end of this disk, never of the process.
    fn run<T>(&mut self, f: impl FnOnce(&mut FormatAccess<Store>) -> io::Result<T>) -> io::Result<T> {
        if self.seal.closed() {
            return Err(io::Error::other("the image was given up after an error; reopen it after a check"));
        }
        let image = &mut *self.image;
        catch_unwind(AssertUnwindSafe(|| f(image))).unwrap_or_else(|_| {
            self.seal.close();
            Err(io::Error::other(
                "the qcow2 code failed on this image, so it was closed; check it with qemu-img",
            ))
        })
    }

    fn check_write(&self, offset: u64, len: u64) -> io::Result<()> {
        within(offset, len, self.size)?;
        writable(self.read_only)
    }

    fn write_out_zeroes(&mut self, mut offset: u64, mut len: u64) -> io::Result<()> {
        static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
        while len > 0 {
            let now = len.min(ZEROES.len() as u64);
            self.run(|image| image.write(ZEROES.get(..now as usize).unwrap_or(&ZEROES), offset))?;
            offset += now;
            len -= now;
        }
        Ok(())
    }
}

impl Drop for Qcow2Disk {
    fn drop(&mut self) {
        // SAFETY: `image` is not used again; this is the only place that drops it.
        let image = unsafe { ManuallyDrop::take(&mut self.image) };
        // The crate flushes its caches here; under a closed seal that writes nothing.
        if catch_unwind(AssertUnwindSafe(|| drop(image))).is_err() {
            tracing::error!("the qcow2 code failed while it closed an image");
        }
    }
}

impl Disk for Qcow2Disk {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, mut offset: u64, bufs: &[VolatileSlice<'_>]) -> io::Result<()> {
        within(offset, total(bufs)?, self.size)?;
        for part in parts(bufs) {
            self.run(|image| {
                let (vector, _guard) = IoVectorMut::from_volatile_slice(part);
                image.readv(vector, offset)
            })?;
            offset += total(part)?;
        }
        Ok(())
    }

    fn write(&mut self, mut offset: u64, bufs: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.check_write(offset, total(bufs)?)?;
        for part in parts(bufs) {
            self.run(|image| {
                let (vector, _guard) = IoVector::from_volatile_slice(part);
                image.writev(vector, offset)
            })?;
            offset += total(part)?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.run(|image| image.flush())?;
        // A failed sync is reported once by the kernel and then forgotten: nothing after it can be trusted.
        let seal = self.seal.clone();
        self.run(|image| image.sync().inspect_err(|_| seal.close()))
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.check_write(offset, len)?;
        match self.run(|image| image.discard_to_any(offset, len)) {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.check_write(offset, len)?;
        let done = self.run(|image| match unmap {
            true => image.discard_to_zero(offset, len),
            false => image.write_zeroes(offset, len),
        });
        match done {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => self.write_out_zeroes(offset, len),
            other => other,
        }
    }

    fn abandon(&mut self) {
        self.seal.close();
    }
}

/// `bufs` in parts that the format code takes: not too many slices, and none of them empty.
fn parts<'a, 'b>(bufs: &'a [VolatileSlice<'b>]) -> impl Iterator<Item = &'a [VolatileSlice<'b>]> {
    bufs.split(|buf| buf.is_empty()).flat_map(|run| run.chunks(BATCH))
}

/// Reads and checks header and map; repairs what a dead writer can have left behind.
fn checked_header(file: &File, name: &Path, writing: bool, died: bool) -> Result<Header, DiskError> {
    let len = crate::raw::length(file).map_err(|e| DiskError::from_io(name, "find the size of", e))?;
    let header = Header::read(file, len, name)?;
    let report = check::check(file, len, &header, writing, name)?;
    if !report.complete {
        tracing::info!("{}: too large to check its whole map at open", name.display());
    }
    if report.needs_repair() {
        if !died {
            return Err(DiskError::corrupt(name, "some of its clusters are in use, but counted as free"));
        }
        let count = report.repair(file).map_err(|e| DiskError::from_io(name, "repair", e))?;
        tracing::warn!("{}: its last writer died; {count} refcounts were repaired", name.display());
    }
    Ok(header)
}

fn open_layer(
    layer: Layer,
    seal: &Seal,
    below: Option<FormatAccess<Store>>,
) -> Result<FormatAccess<Store>, DiskError> {
    let Layer { file, path, format, .. } = layer;
    match format {
        Format::Qcow2 => {
            checked_header(&file, &path, false, false)?;
            open_image(file, &path, seal, false, below)
        }
        Format::Raw => Store::new(file, seal, false)
            .and_then(|store| Raw::open_image(store, false))
            .map(FormatAccess::new)
            .map_err(|e| DiskError::from_io(&path, "open", e)),
    }
}

/// Hands one image to the format code, with what lies below it. It opens nothing by itself.
fn open_image(
    file: File,
    name: &Path,
    seal: &Seal,
    write: bool,
    below: Option<FormatAccess<Store>>,
) -> Result<FormatAccess<Store>, DiskError> {
    let store = Store::new(file, seal, true).map_err(|e| DiskError::from_io(name, "open", e))?;
    let open = || {
        Qcow2::<Store>::builder(store)
            .write(write)
            .backing(below)
            .data_file(None)
            .open(DenyImplicitOpenGate::default())
            .map(FormatAccess::new)
    };
    match catch_unwind(AssertUnwindSafe(open)) {
        Ok(Ok(image)) => Ok(image),
        Ok(Err(e)) if e.kind() == io::ErrorKind::InvalidData || e.kind() == io::ErrorKind::UnexpectedEof => {
            Err(DiskError::corrupt(name, e.to_string()))
        }
        Ok(Err(e)) => Err(DiskError::from_io(name, "open", e)),
        Err(_) => Err(DiskError::corrupt(name, "the qcow2 code failed on it")),
    }
}
