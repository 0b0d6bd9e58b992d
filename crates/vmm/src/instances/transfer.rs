//! A snapshot to one file and back: memory, state, and all of the disk, so that it needs nothing of this host.
//!
//! What stands under its name is whole. An export has none before it is complete, where the file system can do that; an
//! import is written into a folder of its own, whose lock says that somebody is at it, and renamed.

use super::saved::write_record;
use super::snapshots::{SNAPSHOTS, durable, fresh, layer_over, rebind, record_of};
use super::{IMPORTING, InstanceRecord, Store, lock_file, remove_tree, sync_dir};
use crate::disks::open_disk;
use crate::spec::{DiskFormat, DiskSpec, NetSpec};
use crate::{Error, Kind, Result, name};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use rustix::io::Errno;
use serde_json::json;
use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use strata_block::{Disk, OpenDisk, SECTOR};
use strata_snapshot::{
    Contents, DiskRef, ExportReader, ExportWriter, Incoming, Item, Manifest, PIECE, SetReader,
};
use vm_memory::VolatileSlice;

/// The files that a machine is started from, as an import keeps them, in the order of their numbers in an export.
const BOOT: [&str; 3] = ["firmware", "kernel", "initrd"];

/// Hears how many bytes are done, of how many.
pub type OnProgress<'a> = &'a mut dyn FnMut(u64, u64);

impl Store {
    /// Writes a snapshot to the new file `to`, after all its pages have been checked.
    ///
    /// # Errors
    /// `NotFound`; `BadInput` for a damaged snapshot; `Refused` if it has disks of the user's; `CannotCreate` if `to`
    /// exists or the host is full: nothing is left.
    pub fn export(&self, name: &str, tag: &str, to: &Path, progress: OnProgress<'_>) -> Result<()> {
        let mut file = Unnamed::beside(to)?;
        // What is open stays, whoever folds layers or deletes the snapshot later.
        let guard = self.guard()?;
        let set = SetReader::open(&self.snapshot(name, tag)?)?;
        let manifest = set.manifest();
        self.has_layers(name, tag, manifest)?;
        let record = record_of(manifest, &format_args!("The snapshot {tag} of {name}"))?;
        if let Some(d) = record.disks.first() {
            let m = format!(
                "{name} has the disk {}, which is not its own: an export would not have it.",
                d.path.display()
            );
            return Err(Error::new(Kind::Refused, m));
        }
        let mut disk = closed_disk(&self.path(name)?, manifest, &record)?;
        drop(guard);
        set.memory().verify()?;
        let boot = [&record.firmware, &record.kernel, &record.initrd]
            .map(|p| p.as_deref().map(open_whole).transpose());
        let [a, b, c] = boot;
        let mut boot = [a?, b?, c?];
        let contents = Contents {
            state: manifest.state.size,
            memory: manifest.machine.memory,
            disks: disk.iter().map(Disk::size).collect(),
            boot: [0, 1, 2].map(|n: usize| boot[n].as_ref().map(|(_, len)| *len)),
        };
        let (mut done, total) = (0, contents.total());
        let mut tick = |n: u64| {
            done += n;
            progress(done, total);
        };
        let mut writer =
            ExportWriter::new(BufWriter::with_capacity(PIECE, &mut file.file), to, manifest, &contents)?;
        writer.put_set(&set, &mut tick)?;
        let mut buf = vec![0; PIECE];
        if let Some(disk) = &mut disk {
            let size = disk.size();
            for at in (0..size).step_by(PIECE) {
                let part = buf.get_mut(..(size - at).min(PIECE as u64) as usize).unwrap_or_default();
                disk.read(at, &[VolatileSlice::from(&mut *part)])
                    .map_err(|e| Error::io(format_args!("read the disk of {name}"), e))?;
                writer.put(Item::Disk(0), at, part)?;
                tick(part.len() as u64);
            }
        }
        for (n, (file, size)) in (0..).zip(&mut boot).filter_map(|(n, b)| Some((n, b.as_mut()?))) {
            for at in (0..*size).step_by(PIECE) {
                let part = buf.get_mut(..(*size - at).min(PIECE as u64) as usize).unwrap_or_default();
                file.read_exact(part)
                    .map_err(|e| Error::io(format_args!("read the boot files of {name}"), e))?;
                writer.put(Item::Boot(n), at, part)?;
                tick(part.len() as u64);
            }
        }
        drop(writer.finish()?);
        file.named()
    }

    /// Makes a stopped instance that has the snapshot in the file `from`, under the name of its source or `name`, and
    /// with `net` for a network. Gives the instance's name and the snapshot's tag.
    ///
    /// # Errors
    /// `BadInput` if the file is damaged, cut short, of a newer build or of another kind of machine; `CannotCreate` if
    /// the instance exists or the host is full. Nothing is left behind.
    pub fn import(
        &self,
        from: &Path,
        name: Option<&str>,
        net: Option<NetSpec>,
        progress: OnProgress<'_>,
    ) -> Result<(String, String)> {
        let (file, size) = open_whole(from)?;
        let mut reader = ExportReader::open(BufReader::with_capacity(PIECE, file), from)?;
        let manifest = reader.manifest().clone();
        let mut record = record_of(&manifest, &format_args!("The export {}", from.display()))?;
        let refuse =
            |why: String| Error::new(Kind::BadInput, format!("The export {} {why}.", from.display()));
        let m = &manifest.machine;
        let board = record.arch.board();
        if (m.board.as_str(), m.engine.as_str()) != (board.name(), strata_machine::engine_of(board)) {
            return Err(refuse(format!("is of a machine with board {} and engine {}", m.board, m.engine)));
        }
        if (m.cpus, m.memory) != (record.cpus, record.memory) || !record.disks.is_empty() {
            return Err(refuse("says two things about its machine".into()));
        }
        name::check_name(&manifest.tag)?;
        let name = name.unwrap_or(&record.name).to_owned();
        let to = self.free(&name)?;
        rebind(&mut record, net, &name)?;
        (record.name, record.created) = (name.clone(), crate::now());
        (record.ephemeral, record.suspended, record.renewed) = (false, None, false);
        (record.base, record.layers) = (None, Vec::new());
        record.comes_from(manifest.id.clone(), std::iter::empty());
        record.spec_in(&to).check()?;
        let making = Making::begin(self)?;
        making.fill(&mut reader, from, &to, (manifest.clone(), record), &mut |at| progress(at, size))?;
        let _guard = self.guard()?;
        self.free(&name)?;
        making.rename(&to)?;
        Ok((name, manifest.tag))
    }

    /// The folder of an instance that is yet to be.
    pub(crate) fn free(&self, name: &str) -> Result<PathBuf> {
        let to = self.path(name)?;
        if to.exists() {
            let m = format!("An instance named {name} exists already: choose another name.");
            return Err(Error::new(Kind::CannotCreate, m));
        }
        Ok(to)
    }
}

/// An import's folder. Dropped before it is renamed, it leaves nothing.
struct Making {
    dir: PathBuf,
    _lock: OwnedFd,
}

impl Drop for Making {
    fn drop(&mut self) {
        // After the rename it is not there; what cannot be removed is swept later.
        let _ = remove_tree(&self.dir);
    }
}

impl Making {
    fn begin(store: &Store) -> Result<Making> {
        let dir = store.dir.join(format!("{IMPORTING}{}", fresh()?));
        let fail = |e: std::io::Error| Error::io(format_args!("make the folder {}", dir.display()), e);
        // Whoever sweeps must not see it without its lock.
        let _guard = store.guard()?;
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(fail)?;
        match lock_file(&dir, true) {
            Ok(Some(lock)) => Ok(Making { dir, _lock: lock }),
            other => {
                let _ = remove_tree(&dir);
                other.and(Err(fail(Errno::WOULDBLOCK.into())))
            }
        }
    }

    /// Everything of the instance that will be at `to`.
    fn fill(
        &self,
        reader: &mut ExportReader<BufReader<File>>,
        from: &Path,
        to: &Path,
        (mut manifest, mut record): (Manifest, InstanceRecord),
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let contents = reader.contents().clone();
        if contents.disks.len() > 1 {
            let m = format!("The export {} has more than the one disk that an instance has.", from.display());
            return Err(Error::new(Kind::BadInput, m));
        }
        let sets = self.dir.join(SNAPSHOTS);
        fs::create_dir(&sets)
            .map_err(|e| Error::io(format_args!("make the folder {}", sets.display()), e))?;
        let mut incoming = Incoming::new(&contents, &sets.join(".new"))?;
        let layer = format!("disk-{}.qcow2", fresh()?);
        let mut disk =
            contents.disks.first().map(|size| new_disk(&self.dir.join(&layer), *size)).transpose()?;
        let mut boot = [None, None, None];
        for ((file, name), size) in boot.iter_mut().zip(BOOT).zip(contents.boot) {
            let path = self.dir.join(name);
            let make = || File::create_new(&path).and_then(|f| f.set_len(size.unwrap_or(0)).map(|()| f));
            *file = size
                .map(|_| make())
                .transpose()
                .map_err(|e| Error::io(format_args!("write {}", path.display()), e))?;
        }
        while let Some(piece) = reader.step()? {
            if !incoming.take(&piece)? {
                let written = match (piece.item, &mut disk) {
                    (Item::Disk(0), Some(disk)) => put(disk, piece.place, piece.bytes),
                    (Item::Boot(n), _) => match boot.get(usize::from(n)).and_then(Option::as_ref) {
                        Some(file) => file.write_all_at(piece.bytes, piece.place),
                        None => Ok(()),
                    },
                    _ => Ok(()),
                };
                written.map_err(|e| Error::io(format_args!("write what is in {}", from.display()), e))?;
            }
            progress(reader.at());
        }
        progress(reader.at());
        let fail = |e| Error::io(format_args!("make durable what is in {}", self.dir.display()), e);
        if let Some(mut disk) = disk {
            disk.flush().map_err(fail)?;
            drop(disk);
            File::open(self.dir.join(&layer)).and_then(|f| f.sync_all()).map_err(fail)?;
            record.layers = vec![layer];
        }
        let paths = [&mut record.firmware, &mut record.kernel, &mut record.initrd];
        for ((file, path), name) in boot.iter().zip(paths).zip(BOOT) {
            file.as_ref().map_or(Ok(()), File::sync_all).map_err(fail)?;
            *path = file.as_ref().map(|_| to.join(name));
        }
        manifest.disks = vec![DiskRef { layers: record.layers.clone() }];
        if let Some(writable) = layer_over(&self.dir, &record.layers, &fresh()?)? {
            record.layer = writable;
        }
        durable(&self.dir, &record).map_err(fail)?;
        manifest.instance = json!(record);
        let tag = sets.join(&manifest.tag);
        incoming.write(manifest, &tag, from)?;
        write_record(&self.dir, &record)
    }

    fn rename(self, to: &Path) -> Result<()> {
        let parent = to.parent().unwrap_or(to);
        fs::rename(&self.dir, to)
            .and_then(|()| sync_dir(parent))
            .map_err(|e| Error::io(format_args!("make the instance in {}", to.display()), e))
    }
}

/// The disk of a snapshot of the instance in `dir`, which nobody changes any more.
fn closed_disk(dir: &Path, manifest: &Manifest, record: &InstanceRecord) -> Result<Option<OpenDisk>> {
    let layers = manifest.disks.first().map(|d| d.layers.as_slice()).unwrap_or_default();
    let Some((top, under)) = layers.split_first() else { return Ok(None) };
    let spec = DiskSpec {
        path: dir.join(top),
        read_only: true,
        format: Some(DiskFormat::Qcow2),
        base: record.base.clone(),
        layers: under.iter().map(|l| dir.join(l)).collect(),
    };
    open_disk(&spec, &record.name).map(Some)
}

fn new_disk(path: &Path, size: u64) -> Result<OpenDisk> {
    strata_block::create_image(path, size)?;
    let options = strata_block::OpenOptions {
        format: Some(strata_block::Format::Qcow2),
        chain: strata_block::Chain::Alone,
        ..strata_block::OpenOptions::new(path, "import")
    };
    Ok(strata_block::open::open(options)?)
}

fn put(disk: &mut OpenDisk, place: u64, bytes: &[u8]) -> std::io::Result<()> {
    if !place.is_multiple_of(SECTOR) || !(bytes.len() as u64).is_multiple_of(SECTOR) {
        return Err(std::io::Error::other("a piece of its disk is not of whole sectors"));
    }
    let mut bytes = bytes.to_vec();
    disk.write(place, &[VolatileSlice::from(&mut bytes[..])])
}

/// A regular file, and its size in bytes.
fn open_whole(path: &Path) -> Result<(File, u64)> {
    let fail = |e: std::io::Error| Error::io(format_args!("open {}", path.display()), e);
    // A FIFO under that name must not hang us.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(CWD, path, flags, Mode::empty()).map_err(|e| fail(e.into()))?);
    let meta = file.metadata().map_err(fail)?;
    if !meta.is_file() {
        return Err(Error::new(Kind::BadInput, format!("{} is not a regular file.", path.display())));
    }
    Ok((file, meta.len()))
}

/// A file that gets its name when it is whole.
struct Unnamed {
    file: File,
    to: PathBuf,
    /// Its name meanwhile, on file systems where a file must have one.
    part: Option<PathBuf>,
}

impl Unnamed {
    fn beside(to: &Path) -> Result<Unnamed> {
        let to = std::path::absolute(to).map_err(|e| Error::io("find the current folder", e))?;
        let fail = |e: std::io::Error| Error::io(format_args!("write {}", to.display()), e);
        let Some((dir, name)) = to.parent().zip(to.file_name()) else {
            return Err(fail(std::io::ErrorKind::IsADirectory.into()));
        };
        if to.symlink_metadata().is_ok() {
            let m = format!("{} exists already: choose another name, or remove it.", to.display());
            return Err(Error::new(Kind::CannotCreate, m));
        }
        let mode = Mode::RUSR | Mode::WUSR;
        match openat(CWD, dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
            Ok(fd) => Ok(Unnamed { file: fd.into(), to, part: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                let part = dir.join(format!(".{}.part", name.to_string_lossy()));
                let file = File::create(&part).map_err(fail)?;
                Ok(Unnamed { file, to, part: Some(part) })
            }
            Err(e) => Err(fail(e.into())),
        }
    }

    fn named(mut self) -> Result<()> {
        self.file
            .flush()
            .and_then(|()| self.file.sync_all())
            .and_then(|()| self.link())
            .map_err(|e| Error::io(format_args!("write {}", self.to.display()), e))
    }

    fn link(&self) -> std::io::Result<()> {
        match &self.part {
            // Like the other, it takes no name that is taken; the first name goes when `self` does.
            Some(part) => fs::hard_link(part, &self.to)?,
            None => {
                let from = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                linkat(CWD, from, CWD, &self.to, AtFlags::SYMLINK_FOLLOW)?;
            }
        }
        sync_dir(self.to.parent().unwrap_or(&self.to))
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        // What cannot be removed is overwritten by the next export to that name.
        let _ = self.part.as_ref().map(fs::remove_file);
    }
}
