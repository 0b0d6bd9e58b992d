//! From a path to a disk: probe, lock, check, open. The only place of this crate that opens what a user named.
//!
//! Order matters: the lock is taken before anything is read, so that nobody writes between the check and the use;
//! the [`Lease`] is confirmed last, so that a refused image leaves no record behind, and one whose last owner died
//! keeps the record that says so.

use std::fs::{File, OpenOptions as FileOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use vm_memory::VolatileSlice;

use crate::lock::{FileLock, Lease, Owner, Recording, lock_shared};
use crate::qcow2::{Chain, Qcow2Disk, resolve};
use crate::staged::Unsettled;
use crate::{Disk, DiskError, Format, RawDisk, probe::probe};

/// What to open, and how.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// File or block device.
    pub path: PathBuf,
    /// Its format, if it is known; probed otherwise. Say it wherever it is known: see [`crate::probe`].
    pub format: Option<Format>,
    /// Opens and locks for reading only.
    pub read_only: bool,
    /// Who asks.
    pub owner: Owner,
    /// Epoch to own the disk at; only an owner that received the disk from another one knows it.
    pub epoch: Option<u64>,
    /// Where backing files may come from.
    pub chain: Chain,
    /// When it is written down who has the disk. [`Recording::Later`] leaves that to [`OpenDisk::settle_in`].
    pub recording: Recording,
}

impl OpenOptions {
    /// Opens `path` for writing on behalf of `instance`, format probed, chain in the same directory.
    pub fn new(path: impl Into<PathBuf>, instance: &str) -> OpenOptions {
        OpenOptions {
            path: path.into(),
            format: None,
            read_only: false,
            owner: Owner::this_process(instance),
            epoch: None,
            chain: Chain::default(),
            recording: Recording::Now,
        }
    }
}

/// An open disk with what was learned on the way. It is a [`Disk`] itself.
pub struct OpenDisk {
    /// First, because closing it may still write, which the lease below must cover.
    disk: Box<dyn Disk>,
    lease: Option<Lease>,
    format: Format,
    layers: Vec<PathBuf>,
    /// Whether the layers were found in the image, rather than given by the caller, who then knows them.
    found: bool,
    path: PathBuf,
    shared: Vec<FileLock>,
    /// Of the layer below, when this one has just been put on it.
    unsettled: Option<Unsettled>,
}

impl OpenDisk {
    /// Format of the top layer.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Backing files, nearest first.
    pub fn layers(&self) -> &[PathBuf] {
        &self.layers
    }

    /// Epoch at which the disk is owned; none if it is read-only.
    pub fn epoch(&self) -> Option<u64> {
        self.lease.as_ref().map(Lease::epoch)
    }

    /// The file that it is in.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What a person should know, a sentence each.
    pub fn notes(&self) -> Vec<String> {
        let shown = self.path.display();
        let mut notes: Vec<String> =
            self.lease.iter().flat_map(Lease::notes).map(|note| format!("Disk {shown}: {note}.")).collect();
        let found = self.layers.iter().filter(|_| self.found);
        notes.extend(found.map(|l| format!("Disk {shown} stands on {}.", l.display())));
        notes
    }

    /// Makes everything durable, then passes ownership to `next`; returns the epoch to open with. The disk takes
    /// no more requests.
    ///
    /// # Errors
    /// As [`Lease::hand_over`]; `Io` or `NoSpace` if the last flush fails, and then the disk is still ours.
    pub fn hand_over(&mut self, next: &Owner) -> Result<u64, DiskError> {
        self.flush().map_err(|e| DiskError::from_io(&self.path, "flush", e))?;
        let Some(lease) = &mut self.lease else {
            return Err(DiskError::unsupported(
                &self.path,
                "it is open for reading only",
                "Nothing need be handed over.",
            ));
        };
        let epoch = lease.hand_over(next)?;
        self.disk.abandon();
        Ok(epoch)
    }

    /// Closes it, without giving up the right to write it: its path, its format, and that right.
    pub(crate) fn close(mut self) -> (PathBuf, Format, Option<Lease>) {
        if self.check_lease().is_err() {
            self.disk.abandon();
        }
        (self.path.clone(), self.format, self.lease.take())
    }

    /// A qcow2 disk over one that was open until now, and what lies under that.
    pub(crate) fn stacked(
        disk: Box<dyn Disk>,
        lease: Lease,
        path: PathBuf,
        (layers, shared): (Vec<PathBuf>, Vec<FileLock>),
        unsettled: Unsettled,
    ) -> OpenDisk {
        let (lease, unsettled) = (Some(lease), Some(unsettled));
        OpenDisk { disk, lease, format: Format::Qcow2, layers, found: false, path, shared, unsettled }
    }

    /// After [`crate::Staged::put_on`], when there is time: lets others read the layer below.
    ///
    /// # Errors
    /// Its lock cannot be had; the disk works all the same.
    pub fn settle(&mut self) -> Result<(), DiskError> {
        if let Some(unsettled) = self.unsettled.take() {
            self.shared.push(unsettled.settle()?);
        }
        Ok(())
    }

    /// What [`Recording::Later`] and [`crate::lay_over`] have left: makes the file and its name durable, and writes down
    /// who has it. To be called before anything is written to the disk.
    ///
    /// # Errors
    /// What the host answers.
    pub fn settle_in(&mut self) -> Result<(), DiskError> {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        let synced = File::open(&self.path).and_then(|f| f.sync_all());
        synced.map_err(|e| DiskError::from_io(&self.path, "make durable", e))?;
        // Which makes the names in its folder durable, too.
        lease.record()
    }

    /// Gives the disk up if it is not ours any more.
    fn check_lease(&mut self) -> io::Result<()> {
        let Some(lease) = &mut self.lease else { return Ok(()) };
        lease.check().map_err(|e| {
            if matches!(e, DiskError::Superseded { .. }) {
                self.disk.abandon();
            }
            io::Error::other(e)
        })
    }
}

impl std::fmt::Debug for OpenDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenDisk")
            .field("path", &self.path)
            .field("format", &self.format)
            .field("layers", &self.layers)
            .field("lease", &self.lease)
            .finish_non_exhaustive()
    }
}

impl Disk for OpenDisk {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn read_only(&self) -> bool {
        self.disk.read_only()
    }

    fn read(&mut self, offset: u64, bufs: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.disk.read(offset, bufs)
    }

    fn write(&mut self, offset: u64, bufs: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.disk.write(offset, bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.check_lease()?;
        self.disk.flush()
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.disk.discard(offset, len)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.disk.write_zeroes(offset, len, unmap)
    }

    fn abandon(&mut self) {
        self.disk.abandon();
    }
}

impl Drop for OpenDisk {
    fn drop(&mut self) {
        // Closing an image writes its caches. Not if somebody else owns the file by now.
        if self.check_lease().is_err() {
            self.disk.abandon();
        }
    }
}

/// Opens a disk; see [`open`] for what is learned besides.
///
/// # Errors
/// A [`DiskError`] of any kind. Nothing is left behind and no data is changed.
pub fn open_disk(options: OpenOptions) -> Result<Box<dyn Disk>, DiskError> {
    open(options).map(|disk| Box::new(disk) as Box<dyn Disk>)
}

/// Opens a disk: file, lock, format, backing files.
///
/// # Errors
/// A [`DiskError`] of any kind. Nothing is left behind and no data is changed.
pub fn open(options: OpenOptions) -> Result<OpenDisk, DiskError> {
    let OpenOptions { path, format, read_only, owner, epoch, chain, recording } = options;
    let file = open_file(&path, read_only)?;
    let mut shared = Vec::new();
    let mut lease = if read_only {
        shared.push(lock_shared(&file, &path, &owner)?);
        None
    } else {
        Some(Lease::take(&file, &path, &owner, epoch, recording)?)
    };
    let guessed = format.is_none();
    let format = match format {
        Some(format) => format,
        None => probe(&file, &path)?,
    };
    let mut layers = Vec::new();
    let disk: Box<dyn Disk> = match format {
        Format::Raw => {
            let mut disk = RawDisk::open(file, &path, read_only)?;
            if guessed {
                disk.keep_raw();
            }
            Box::new(disk)
        }
        Format::Qcow2 => {
            let backing = resolve(&file, &path, &chain)?;
            for layer in &backing {
                shared.push(lock_shared(&layer.file, &layer.path, &owner)?);
                layers.push(layer.path.clone());
            }
            let died = lease.as_ref().is_some_and(Lease::took_over);
            Box::new(Qcow2Disk::open(file, &path, read_only, died, backing)?)
        }
    };
    if let Some(lease) = &mut lease {
        lease.confirm();
    }
    let found = !matches!(chain, Chain::Given(_));
    Ok(OpenDisk { disk, lease, format, layers, found, path, shared, unsettled: None })
}

/// Opens the file itself: a regular file or a block device, nothing else.
pub(crate) fn open_file(path: &Path, read_only: bool) -> Result<File, DiskError> {
    let fail = |e| DiskError::from_io(path, "open", e);
    // NONBLOCK: a FIFO under that name must not hang us. It changes nothing on files and block devices.
    let opened = FileOptions::new().read(true).write(!read_only).custom_flags(libc::O_NONBLOCK).open(path);
    let file = opened.map_err(fail)?;
    let kind = file.metadata().map_err(fail)?.file_type();
    if !kind.is_file() && !kind.is_block_device() {
        return Err(DiskError::unsupported(
            path,
            "it is neither a file nor a block device",
            "Name a disk image or a block device.",
        ));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::DiskErrorKind;
    use crate::testing::{get, put};

    fn kind_and_text(path: &Path, read_only: bool) -> (DiskErrorKind, String) {
        let e = open(OpenOptions { read_only, ..OpenOptions::new(path, "t") }).unwrap_err();
        assert!(!e.to_string().contains('\n'), "one paragraph: {e}");
        assert_eq!(e.path(), path);
        (e.kind(), e.to_string())
    }

    #[test]
    fn what_is_no_disk_is_refused_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for read_only in [false, true] {
            assert_eq!(kind_and_text(&path, read_only).0, DiskErrorKind::NotFound);
            assert_eq!(kind_and_text(dir.path(), read_only).0, DiskErrorKind::Unsupported);
            assert_eq!(kind_and_text(Path::new("/dev/null"), read_only).0, DiskErrorKind::Unsupported);
        }
        assert_eq!(kind_and_text(Path::new("/dev/null/x"), false).0, DiskErrorKind::Io);
        for (bytes, kind, word) in [
            (&b""[..], DiskErrorKind::TooSmall, "empty"),
            (&[1; 700], DiskErrorKind::TooSmall, "truncate -s 1024"),
            (b"\x1f\x8b, packed", DiskErrorKind::Unsupported, "gunzip"),
            (b"QFI\xfb\0\0\0\x03", DiskErrorKind::Corrupt, "ends within its header"),
        ] {
            fs::write(&path, bytes).unwrap();
            let (found, text) = kind_and_text(&path, false);
            assert!(found == kind && text.contains(word), "{found:?} {text}");
            assert_eq!(fs::read(&path).unwrap(), bytes);
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_declared_format_is_not_guessed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let mut bytes = vec![0; 4096];
        bytes[..6].copy_from_slice(b"\xfd7zXZ\0");
        fs::write(&path, &bytes).unwrap();
        let options = OpenOptions { format: Some(Format::Raw), ..OpenOptions::new(&path, "t") };
        let mut disk = open(options.clone()).unwrap();
        assert_eq!(get(&mut disk, 0, 4096).unwrap(), bytes);
        put(&mut disk, 0, b"QFI\xfb\0\0\0\x03").unwrap();
        drop(disk);
        // Guessed now, it would be an image; declared, it stays raw.
        assert_eq!(kind_and_text(&path, false).0, DiskErrorKind::Corrupt);
        let mut disk: Box<dyn Disk> = open_disk(options).unwrap();
        assert_eq!(get(&mut *disk, 0, 4).unwrap(), b"QFI\xfb");
        assert!(disk.size() == 4096 && !disk.read_only());
    }

    #[test]
    fn a_layer_is_put_on_an_open_disk() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("base"), vec![1; 1 << 20]).unwrap();
        crate::create_overlay(&at("one"), &at("base"), Format::Raw, None).unwrap();
        let given = |names: &[(&str, Format)]| Chain::Given(names.iter().map(|(n, f)| (at(n), *f)).collect());
        let options = |name: &str, chain| OpenOptions { chain, ..OpenOptions::new(at(name), "t") };
        let one = || options("one", given(&[("base", Format::Raw)]));
        let mut disk = open(one()).unwrap();
        put(&mut disk, 4096, &[2; 512]).unwrap();
        disk.flush().unwrap();
        crate::create_overlay(&at("two"), &at("one"), Format::Qcow2, None).unwrap();
        let two = || options("two", given(&[("one", Format::Qcow2), ("base", Format::Raw)]));
        let staged = crate::stage(two()).unwrap();
        // It may still be written, until it is put on.
        put(&mut disk, 8192, &[3; 512]).unwrap();
        disk.flush().unwrap();
        let mut disk = staged.put_on(disk).unwrap();
        let before = fs::read(at("one")).unwrap();
        for settled in [false, true] {
            let seen = [0, 4096, 8192].map(|o| get(&mut disk, o, 1).unwrap()[0]);
            assert_eq!(seen, [if settled { 4 } else { 1 }, 2, 3]);
            put(&mut disk, 0, &[4 + u8::from(settled); 512]).unwrap();
            disk.flush().unwrap();
            // Nobody else writes to either, before and after; and others may read the lower one afterwards.
            assert!(open(one()).is_err() && open(two()).is_err());
            assert_eq!(open(OpenOptions { read_only: true, ..one() }).is_ok(), settled);
            disk.settle().unwrap();
        }
        assert_eq!(disk.layers(), [at("one"), at("base")]);
        drop(disk);
        assert!(fs::read(at("one")).unwrap() == before);
        let mut disk = open(two()).unwrap();
        assert_eq!(get(&mut disk, 0, 1).unwrap(), [5]);
        assert_eq!(get(&mut disk, 8192, 1).unwrap(), [3]);
        assert!(disk.notes().is_empty(), "{:?}", disk.notes());
        drop(disk);
        // No record is left of anyone.
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        // A layer that has gone meanwhile: the disk below is closed, and as it was.
        crate::create_overlay(&at("three"), &at("one"), Format::Qcow2, None).unwrap();
        let staged = crate::stage(options("three", given(&[("one", Format::Qcow2)]))).unwrap();
        assert!(staged.put_on(open(one()).unwrap()).is_err());
        assert_eq!(get(&mut open(one()).unwrap(), 8192, 1).unwrap(), [3]);
    }

    #[test]
    fn a_disk_opened_read_only_takes_no_write() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for format in [Format::Raw, Format::Qcow2] {
            let _ = fs::remove_file(&path);
            match format {
                Format::Raw => fs::write(&path, vec![0; 4096]).unwrap(),
                Format::Qcow2 => crate::qcow2::create_image(&path, 4096).unwrap(),
            }
            let before = fs::read(&path).unwrap();
            let mut disk = open(OpenOptions { read_only: true, ..OpenOptions::new(&path, "t") }).unwrap();
            assert!(disk.read_only() && disk.format() == format && disk.epoch().is_none());
            assert_eq!(put(&mut disk, 0, &[1; 512]).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            assert!(disk.discard(0, 512).is_err() && disk.write_zeroes(0, 512, true).is_err());
            disk.flush().unwrap();
            drop(disk);
            assert_eq!(fs::read(&path).unwrap(), before);
        }
    }
}
