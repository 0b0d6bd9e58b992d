//! qcow2 images: read and written through the crate `imago`, opened by rules of our own.
//!
//! QEMU's `docs/interop/qcow2.rst`, versions 2 and 3. The layers of an image, top first, are opened before the
//! format code sees any of them (`chain`), their headers and maps are checked (`header`, `check`), and the
//! top one sits under a seal (`store`).
//!
//! ```text
//! open ──► running ──► sealed      ownership lost, a sync failed, or the format code panicked: no byte is
//!                                  written any more, all requests fail, dropping the disk writes nothing
//! ```
//!
//! What a flush means: the format's caches go to the file, each entry after what it points to (`order`), then
//! `fdatasync`. A cluster that was freed is not used again before the map that has forgotten it is durable; that
//! matters for discards followed by writes, and makes the first write to a *compressed* cluster cost a sync.
//!
//! An instance's layer is such an image over a read-only raw one ([`create_overlay`]): sparse, and as fast as a
//! raw file in large writes; small first writes to a cluster cost up to three times as much, since the rest of
//! the cluster is copied.
//!
//! Not done, by name: encryption, external data files, zstd clusters, extended L2 entries, and on version 2
//! images discarding (it does nothing) and cheap zeroes (they are written out). Internal snapshots are kept, but
//! not listed or made.

mod chain;
pub(crate) mod check;
mod create;
mod fold;
pub(crate) mod header;
mod order;
#[cfg(test)]
mod power_tests;
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
use imago::{DenyImplicitOpenGate, FormatAccess, FormatDriverBuilder, Mapping};
use vm_memory::VolatileSlice;

pub(crate) use chain::resolve;
pub use chain::{Chain, Layer};
pub use create::{create_image, create_overlay, lay_over};
pub use fold::{Cluster, fold_layers, held};

use crate::vectors::{total, within, writable};
use crate::{Disk, DiskError, Format};
use check::Report;
use header::Header;
use order::Order;
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
    /// Bytes in a cluster.
    cluster: u64,
    /// Whether there are compressed clusters: their first write frees them.
    compressed: bool,
    /// Whether clusters were freed since the map was last durable.
    freed: bool,
    #[cfg(test)]
    journal: store::Journal,
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
        let (header, report) = checked_header(&file, name, !read_only, died)?;
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
        let fail = |e| DiskError::from_io(name, "open", e);
        let l1 = header.l1_offset..header.l1_offset + u64::from(header.l1_entries) * 8;
        let order = Order::new(file.try_clone().map_err(fail)?, l1, report.tables);
        let store = Store::new(file, &seal, true).map_err(fail)?.with_order(order);
        #[cfg(test)]
        let journal = store.journal.clone();
        let image = open_image(store, name, !read_only, below)?;
        let disk = Qcow2Disk {
            image: ManuallyDrop::new(image),
            seal,
            size: header.size,
            read_only,
            cluster: header.cluster(),
            compressed: report.compressed,
            freed: false,
            #[cfg(test)]
            journal,
        };
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

    fn make_durable(&mut self) -> io::Result<()> {
        self.run(|image| image.flush())?;
        // A failed sync is reported once by the kernel and then forgotten: nothing after it can be trusted.
        let seal = self.seal.clone();
        self.run(|image| image.sync().inspect_err(|_| seal.close()))?;
        self.freed = false;
        Ok(())
    }

    /// Whether any part of the range has a mapping of that kind.
    fn holds(
        &mut self,
        mut at: u64,
        mut len: u64,
        kind: impl Fn(&Mapping<'_, Store>) -> bool,
    ) -> io::Result<bool> {
        self.run(|image| {
            while len > 0 {
                let (mapping, covered) = image.get_mapping(at, len)?;
                if kind(&mapping) {
                    return Ok(true);
                }
                let covered = covered.clamp(1, len);
                (at, len) = (at + covered, len - covered);
            }
            Ok(false)
        })
    }

    /// If the range will take new clusters, and some were freed lately, makes that durable first.
    fn before_write(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let in_place = |m: &Mapping<'_, Store>| matches!(m, Mapping::Raw { writable: true, .. });
        if self.freed && self.holds(offset, len, |m| !in_place(m))? {
            self.make_durable()?;
        }
        Ok(())
    }

    /// Zeroes take new clusters for data only where they cover a cluster in part: at their ends.
    fn before_zeroes(&mut self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset + len;
        let ends =
            [offset, end - end % self.cluster].map(|at| at..end.min(at - at % self.cluster + self.cluster));
        for part in ends.into_iter().filter(|p| !p.is_empty()) {
            if part.end - part.start < self.cluster {
                self.before_write(part.start, part.end - part.start)?;
            }
        }
        Ok(())
    }

    fn write_part(&mut self, offset: u64, part: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.run(|image| {
            let (vector, _guard) = IoVector::from_volatile_slice(part);
            image.writev(vector, offset)
        })
    }

    /// Writes where compressed clusters are: one cluster at a time, because each frees what the next might take.
    fn write_compressed(&mut self, mut offset: u64, part: &[VolatileSlice<'_>]) -> io::Result<()> {
        for buf in part {
            let mut done = 0;
            while done < buf.len() {
                let room = self.cluster - offset % self.cluster;
                let now = (buf.len() - done).min(room as usize);
                let piece = buf.subslice(done, now).map_err(io::Error::other)?;
                self.before_write(offset, now as u64)?;
                self.write_part(offset, &[piece])?;
                self.freed = true;
                done += now;
                offset += now as u64;
            }
        }
        Ok(())
    }

    fn write_out_zeroes(&mut self, mut offset: u64, mut len: u64) -> io::Result<()> {
        static ZEROES: [u8; 64 << 10] = [0; 64 << 10];
        while len > 0 {
            let now = len.min(ZEROES.len() as u64);
            self.before_write(offset, now)?;
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
            let len = total(part)?;
            if self.compressed && self.holds(offset, len, |m| matches!(m, Mapping::Special { .. }))? {
                self.write_compressed(offset, part)?;
            } else {
                self.before_write(offset, len)?;
                self.write_part(offset, part)?;
            }
            offset += len;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.make_durable()
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.check_write(offset, len)?;
        self.freed = true;
        match self.run(|image| image.discard_to_any(offset, len)) {
            Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.check_write(offset, len)?;
        self.before_zeroes(offset, len)?;
        self.freed = true;
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
fn checked_header(
    file: &File,
    name: &Path,
    writing: bool,
    died: bool,
) -> Result<(Header, Report), DiskError> {
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
    Ok((header, report))
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
            let store = Store::new(file, seal, true).map_err(|e| DiskError::from_io(&path, "open", e))?;
            open_image(store, &path, false, below)
        }
        Format::Raw => Store::new(file, seal, false)
            .and_then(|store| Raw::open_image(store, false))
            .map(FormatAccess::new)
            .map_err(|e| DiskError::from_io(&path, "open", e)),
    }
}

/// Hands one image to the format code, with what lies below it. It opens nothing by itself.
fn open_image(
    store: Store,
    name: &Path,
    write: bool,
    below: Option<FormatAccess<Store>>,
) -> Result<FormatAccess<Store>, DiskError> {
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
