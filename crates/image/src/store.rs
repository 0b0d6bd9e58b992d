//! Where images and downloads are kept.
//!
//! ```text
//! <root>/images/<name>/{image.json, kernel, initrd, disk.raw}   complete, or not there
//! <root>/images/.new-*                                          being made; swept by the next maker
//! <root>/cache/<sha256>[.part]                                  downloads, right or resumable
//! <root>/cache/lock                                             held (flock) by the one maker
//! ```
//! Invariant: whoever makes an image holds the lock, builds it in a `.new-` folder and renames it as the
//! last step; so a `.new-` folder found while holding the lock is somebody's remains. Reading needs no lock.

use crate::error::{Error, Result};
use crate::fetch::hash_of;
use crate::progress::{Cancel, Progress};
use crate::record::{FileRecord, Image, Record};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MAKING: &str = ".new-";
const REMOVING: &str = ".old-";

/// The folder of images and its cache.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// The right to make images; released on drop.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "closing the file is what releases it")] File);

/// A folder in which an image is made; removed on drop unless it was put in place.
#[derive(Debug)]
pub(crate) struct Staging {
    pub dir: PathBuf,
    kept: bool,
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

impl Store {
    /// Opens, and makes if need be, the store under `root`.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::DiskFull`].
    pub fn open(root: &Path) -> Result<Store> {
        let store = Store { root: root.to_owned() };
        // For nobody else: a disk holds a password's hash, and the machine that builds it the password itself.
        for dir in [store.images(), store.cache()] {
            let mut maker = fs::DirBuilder::new();
            maker.recursive(true).mode(0o700).create(&dir).map_err(|e| Error::io("create", &dir, e))?;
        }
        Ok(store)
    }

    fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    /// The folder of downloads.
    pub fn cache(&self) -> PathBuf {
        self.root.join("cache")
    }

    fn dir(&self, name: &str) -> Result<PathBuf> {
        check_name(name)?;
        Ok(self.images().join(name))
    }

    /// All images, by name. A folder without a readable record is passed over.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn list(&self) -> Result<Vec<Image>> {
        let images = self.images();
        let mut out = Vec::new();
        for entry in fs::read_dir(&images).map_err(|e| Error::io("read", &images, e))?.flatten() {
            let hidden = entry.file_name().to_string_lossy().starts_with('.');
            if let (false, Ok(record)) = (hidden, Record::read(&entry.path())) {
                out.push(Image { dir: entry.path(), record });
            }
        }
        out.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        Ok(out)
    }

    /// One image. Aliases (`debian:trixie`) are understood.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], or [`Error::Malformed`] for a record that cannot be read.
    pub fn get(&self, name: &str) -> Result<Image> {
        let name = crate::canonical_name(name);
        let dir = self.dir(&name)?;
        if !dir.join("image.json").exists() {
            return Err(Error::NoSuchImage { name });
        }
        Ok(Image { record: Record::read(&dir)?, dir })
    }

    /// Removes an image. Machines that have its files open keep them; whether an instance still needs it
    /// is the caller's to know.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Io`].
    pub fn remove(&self, name: &str) -> Result<()> {
        let name = crate::canonical_name(name);
        let dir = self.dir(&name)?;
        // First out of sight in one step, then piece by piece.
        let grave = self.images().join(format!("{REMOVING}{}-{name}", std::process::id()));
        match fs::rename(&dir, &grave) {
            Ok(()) => fs::remove_dir_all(&grave).map_err(|e| Error::io("remove", &grave, e)),
            Err(e) if e.kind() == ErrorKind::NotFound => Err(Error::NoSuchImage { name }),
            Err(e) => Err(Error::io("remove", &dir, e)),
        }
    }

    /// Waits for the right to make images, and sweeps away what an interrupted maker left.
    ///
    /// # Errors
    /// [`Error::Cancelled`], [`Error::Io`].
    pub fn lock(&self, progress: &dyn Progress, cancel: &Cancel) -> Result<Lock> {
        let path = self.cache().join("lock");
        let file = File::create(&path).map_err(|e| Error::io("open", &path, e))?;
        let mut said = false;
        loop {
            cancel.check()?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::WOULDBLOCK) if !said => {
                    progress.note("another pull or import is running; waiting for it");
                    said = true;
                }
                Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::io("lock", &path, e.into())),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let images = self.images();
        for entry in fs::read_dir(&images).map_err(|e| Error::io("read", &images, e))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(MAKING) || name.starts_with(REMOVING) {
                fs::remove_dir_all(entry.path()).map_err(|e| Error::io("remove", &entry.path(), e))?;
            }
        }
        Ok(Lock(file))
    }

    /// A folder to make image `name` in.
    pub(crate) fn stage(&self, _held: &Lock, name: &str) -> Result<Staging> {
        if self.dir(name)?.exists() {
            return Err(Error::Exists { name: name.to_owned() });
        }
        let dir = self.images().join(format!("{MAKING}{}-{name}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| Error::io("create", &dir, e))?;
        Ok(Staging { dir, kept: false })
    }

    /// Hashes the small files, writes the record, makes all durable and visible.
    pub(crate) fn commit(&self, mut made: Staging, mut record: Record) -> Result<Image> {
        seal(&made.dir, &mut record)?;
        let dir = self.dir(&record.name)?;
        fs::rename(&made.dir, &dir).map_err(|e| Error::io("rename", &made.dir, e))?;
        made.kept = true;
        sync(&self.images())?;
        Ok(Image { dir, record })
    }

    /// Puts new files of `made` (kernel, initrd) into an existing image, record last.
    pub(crate) fn refresh(&self, made: Staging, image: &Image, mut record: Record) -> Result<Image> {
        seal(&made.dir, &mut record)?;
        for name in ["kernel", "initrd", "image.json"] {
            let from = made.dir.join(name);
            fs::rename(&from, image.dir.join(name)).map_err(|e| Error::io("rename", &from, e))?;
        }
        sync(&image.dir)?;
        Ok(Image { dir: image.dir.clone(), record })
    }

    /// Like [`Store::stage`], for files that will replace those of an existing image.
    pub(crate) fn stage_refresh(&self, _held: &Lock, name: &str) -> Result<Staging> {
        let dir = self.images().join(format!("{MAKING}{}-{name}", std::process::id()));
        fs::create_dir(&dir).map_err(|e| Error::io("create", &dir, e))?;
        Ok(Staging { dir, kept: false })
    }
}

fn seal(dir: &Path, record: &mut Record) -> Result<()> {
    record.files.clear();
    for name in ["kernel", "initrd"] {
        let path = dir.join(name);
        if let Ok(mut file) = File::open(&path) {
            let is = hash_of(&mut file, &path)?;
            record.files.insert(name.into(), FileRecord { sha256: is.sha256, size: is.size });
        }
    }
    record.write(dir)?;
    for entry in fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))?.flatten() {
        sync(&entry.path())?;
    }
    sync(dir)
}

fn sync(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|e| Error::io("sync", path, e))
}

/// Names are also folder names: no separators, no hidden ones.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let fits = (1..=64).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-:".contains(c));
    if fits { Ok(()) } else { Err(Error::BadName { name: name.to_owned() }) }
}

/// Fails early, and by name, where the file system of `path` has less than `bytes` left.
pub(crate) fn require_space(path: &Path, bytes: u64) -> Result<()> {
    let fs = rustix::fs::statvfs(path).map_err(|e| Error::io("look at", path, e.into()))?;
    if fs.f_bavail.saturating_mul(fs.f_frsize) < bytes {
        return Err(Error::DiskFull { path: path.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Silent;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        (dir, store)
    }

    #[test]
    fn an_image_appears_whole_and_goes_whole() {
        let (_dir, s) = store();
        let held = s.lock(&Silent, &Cancel::default()).unwrap();
        let made = s.stage(&held, "a:1").unwrap();
        fs::write(made.dir.join("kernel"), b"k").unwrap();
        assert!(s.list().unwrap().is_empty());
        let image = s.commit(made, Record::new("a:1", crate::Arch::default())).unwrap();
        assert_eq!(image.record.files["kernel"].size, 1);
        assert_eq!(s.get("a:1").unwrap().record, image.record);
        assert!(matches!(s.stage(&held, "a:1"), Err(Error::Exists { .. })));
        s.remove("a:1").unwrap();
        assert!(matches!(s.get("a:1"), Err(Error::NoSuchImage { .. })));
        assert!(matches!(s.remove("a:1"), Err(Error::NoSuchImage { .. })));
        assert_eq!(fs::read_dir(s.images()).unwrap().count(), 0);
    }

    #[test]
    fn remains_are_swept_and_failures_leave_none() {
        let (_dir, s) = store();
        fs::create_dir_all(s.images().join(".new-1-x/deep")).unwrap();
        fs::create_dir_all(s.images().join(".old-1-x")).unwrap();
        let held = s.lock(&Silent, &Cancel::default()).unwrap();
        assert_eq!(fs::read_dir(s.images()).unwrap().count(), 0);
        drop(s.stage(&held, "b").unwrap());
        assert_eq!(fs::read_dir(s.images()).unwrap().count(), 0);
    }

    #[test]
    fn one_maker_at_a_time_and_waiting_can_be_cancelled() {
        let (_dir, s) = store();
        let held = s.lock(&Silent, &Cancel::default()).unwrap();
        let cancel = Cancel::default();
        std::thread::scope(|t| {
            let waiter = t.spawn(|| s.lock(&Silent, &cancel));
            std::thread::sleep(Duration::from_millis(150));
            cancel.cancel();
            assert!(matches!(waiter.join().unwrap(), Err(Error::Cancelled)));
        });
        drop(held);
        s.lock(&Silent, &Cancel::default()).unwrap();
    }

    #[test]
    fn names_and_newer_records_are_refused() {
        let (_dir, s) = store();
        for bad in ["", ".x", "a/b", "..", "ä", "a b"] {
            assert!(matches!(s.get(bad), Err(Error::BadName { .. })), "{bad}");
        }
        let mut r = Record::new("n", crate::Arch::default());
        r.schema = SCHEMA_TOO_NEW;
        fs::create_dir(s.images().join("n")).unwrap();
        r.write(&s.images().join("n")).unwrap();
        assert!(s.get("n").unwrap_err().to_string().contains("newer"));
    }
    const SCHEMA_TOO_NEW: u32 = crate::record::SCHEMA + 1;

    #[test]
    fn a_full_disk_is_said_as_such() {
        let (dir, _s) = store();
        assert!(matches!(require_space(dir.path(), u64::MAX), Err(Error::DiskFull { .. })));
        require_space(dir.path(), 1).unwrap();
        let full = Path::new("/dev/full");
        let e = fs::write(full, b"x").map_err(|e| Error::io("write", full, e)).unwrap_err();
        assert!(matches!(e, Error::DiskFull { .. }));
    }
}
