//! The instance store: what is kept of a machine between its runs.
//!
//! ```text
//! <home>/instances/.lock                     held while something is made, removed or swept
//! <home>/instances/.new-*, .old-*            being made, being removed
//! <home>/instances/.import-*                 being imported, by whoever holds the lock in it
//! <home>/instances/<name>/instance.json      what it is made of; replaced as a whole
//!                         disk.qcow2         its writable layer over the image's disk, if the image has one
//!                         hot-paths          what its next run translates early: see `hot.rs`
//!                         saved-*            what it goes on from if it is suspended: see `saved.rs`
//!                         disk-*.qcow2       its layers since snapshots were taken: see `snapshots.rs`
//!                         snapshots/<tag>    snapshots of it
//!                         lock               held (flock) by whoever makes, runs or removes it
//! ```
//! Invariants: under its name an instance is complete or not there, whenever a process or the host dies (made in a
//! `.new-` folder, written to disk, renamed; removed by renaming first); a `.new-` or `.old-` folder that is found
//! while the store's lock is held is left over; an instance whose lock is free does not run. So an ephemeral instance
//! whose lock is free has outlived its VMM, and is swept. The lock travels as a descriptor from who made the
//! instance to its VMM, so that no moment is left in between.

pub(crate) mod hot;
pub(crate) mod layers;
mod record;
mod reserve;
pub(crate) mod saved;
pub(crate) mod snapshots;
mod transfer;

pub use record::{InstanceRecord, NewInstance, SCHEMA};
pub(crate) use reserve::Reserved;

use crate::spec::VmmSpec;
use crate::{Error, Kind, Result, name};
use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstat, fsync, openat, statat};
use rustix::io::Errno;
use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const RECORD: &str = "instance.json";
pub(crate) const LAYER: &str = "disk.qcow2";
const LOCK: &str = "lock";
const MAKING: &str = ".new-";
const REMOVING: &str = ".old-";
const IMPORTING: &str = ".import-";
/// Made-up names that are tried before giving up.
const NAME_TRIES: usize = 32;

/// The store of one home.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
}

/// An instance with its lock. One that was just made is removed when dropped, unless [`Instance::keep`] is called.
#[derive(Debug)]
pub struct Instance {
    record: InstanceRecord,
    dir: PathBuf,
    lock: OwnedFd,
    fresh: bool,
    /// The folder of the snapshot that it is about to go on from.
    from: Option<PathBuf>,
}

/// An instance in a list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// Its record.
    pub record: InstanceRecord,
    /// Whether somebody holds its lock: it runs, or is being started or removed.
    pub in_use: bool,
}

/// Where everything that is kept lives: `$STRATA_HOME`, else `$XDG_STATE_HOME/strata`, else `~/.local/state/strata`.
///
/// # Errors
/// `Config` if none of them is set to an absolute path.
pub fn home() -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|p: &PathBuf| p.is_absolute());
    var("STRATA_HOME")
        .or_else(|| var("XDG_STATE_HOME").map(|p| p.join("strata")))
        .or_else(|| var("HOME").map(|p| p.join(".local/state/strata")))
        .ok_or_else(|| {
            Error::new(Kind::Config, "Neither STRATA_HOME nor HOME is set to an absolute path: set one.")
        })
}

impl Store {
    /// The store that an instance's folder is in.
    fn of(instance: &Path) -> Store {
        Store { dir: instance.parent().unwrap_or(instance).to_owned() }
    }

    /// The store of the user's [`home`], made if need be.
    ///
    /// # Errors
    /// What the host answers.
    pub fn open() -> Result<Store> {
        Store::at(&home()?)
    }

    /// The store of a home, made if need be.
    ///
    /// # Errors
    /// What the host answers.
    pub fn at(home: &Path) -> Result<Store> {
        let dir = home.join("instances");
        let make = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        make.map_err(|e| Error::io(format_args!("make the folder {}", dir.display()), e))?;
        Ok(Store { dir })
    }

    /// The store's own lock; waits for it, since nobody holds it for long.
    fn guard(&self) -> Result<OwnedFd> {
        let path = self.dir.join(".lock");
        let fail = |e: Errno| Error::io(format_args!("lock {}", path.display()), e);
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
        while let Err(e) = flock(&fd, FlockOperation::LockExclusive) {
            if e != Errno::INTR {
                return Err(fail(e));
            }
        }
        Ok(fd)
    }

    fn path(&self, name: &str) -> Result<PathBuf> {
        name::check_name(name)?;
        Ok(self.dir.join(name))
    }

    /// The folder of an instance.
    ///
    /// # Errors
    /// `Config` for what is no name.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        self.path(name)
    }

    /// Makes an instance and holds its lock. Its disk is empty yet for what differs from the image's.
    ///
    /// # Errors
    /// `CannotCreate` if one of that name exists, or the file system is full; `NotFound` and `BadInput` about the
    /// image's disk. Nothing is left behind.
    pub fn create(&self, new: NewInstance) -> Result<Instance> {
        let _guard = self.guard()?;
        let name = match &new.name {
            Some(name) if self.path(name)?.exists() => {
                let m = format!(
                    "An instance named {name} exists already: run it with `strata start {name}`, choose another \
                     --name, or remove it with `strata delete {name}`."
                );
                return Err(Error::new(Kind::CannotCreate, m));
            }
            Some(name) => name.clone(),
            None => self.free_name()?,
        };
        let dir = self.path(&name)?;
        let making = self.dir.join(format!("{MAKING}{name}"));
        // Under the guard, whatever stands there is left over.
        let cleared = remove_tree(&making);
        let made = cleared.and_then(|()| self.make(new, &name, &making, &dir));
        if made.is_err() {
            // The first error is the one to tell; a rest is swept by whoever comes next.
            let _ = remove_tree(&making);
        }
        made
    }

    fn free_name(&self) -> Result<String> {
        for _ in 0..NAME_TRIES {
            let name = name::made_up_name()?;
            if !self.path(&name)?.exists() {
                return Ok(name);
            }
        }
        Err(Error::new(
            Kind::CannotCreate,
            "No free name was found for the instance: choose one with --name.",
        ))
    }

    fn make(&self, new: NewInstance, name: &str, making: &Path, dir: &Path) -> Result<Instance> {
        let disk_size = new.disk_size;
        let record = InstanceRecord::new(name, new)?;
        let fail =
            |e: std::io::Error| Error::io(format_args!("make the instance {name} in {}", dir.display()), e);
        fs::DirBuilder::new().mode(0o700).create(making).map_err(fail)?;
        let lock = lock_file(making, true)?.ok_or_else(|| fail(Errno::WOULDBLOCK.into()))?;
        if let Some((base, format)) = &record.base {
            let layer = making.join(LAYER);
            strata_block::create_overlay(&layer, base, (*format).into(), disk_size).map_err(Error::from)?;
            fs::File::open(&layer).and_then(|f| f.sync_all()).map_err(fail)?;
        }
        saved::write_record(making, &record)?;
        fs::rename(making, dir).map_err(fail)?;
        if let Err(e) = sync_dir(&self.dir) {
            // Removed here: an `Instance` that is dropped would wait for the guard that our caller holds.
            let _ = remove_instance(dir);
            return Err(fail(e));
        }
        Ok(Instance { record, dir: dir.to_owned(), lock, fresh: true, from: None })
    }

    /// An instance's record.
    ///
    /// # Errors
    /// `NotFound`; `BadInput` if its record cannot be read.
    pub fn read(&self, name: &str) -> Result<InstanceRecord> {
        let path = self.path(name)?.join(RECORD);
        let text = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let m = format!("There is no instance named {name}: see `strata ps --all`.");
                return Err(Error::new(Kind::NotFound, m));
            }
            other => other.map_err(|e| Error::io(format_args!("read {}", path.display()), e))?,
        };
        InstanceRecord::parse(&text)
            .and_then(|r| if r.name == name { Ok(r) } else { Err(format!("it is about `{}`", r.name)) })
            .map_err(|why| {
                let m = format!("The record {} of instance {name} cannot be used: {why}.", path.display());
                Error::new(Kind::BadInput, m)
            })
    }

    /// Takes an instance's lock, to run or delete it.
    ///
    /// # Errors
    /// `NotFound`; `InUse` if it runs; `BadInput` if its record cannot be read.
    pub fn take(&self, name: &str) -> Result<Instance> {
        self.take_after(name, crate::migrate::settle)
    }

    /// Takes an instance's lock, to delete it, though it may have moved to another host.
    ///
    /// # Errors
    /// As [`Store::take`].
    pub fn take_to_delete(&self, name: &str) -> Result<Instance> {
        self.take_after(name, |dir, record| crate::migrate::may_remove(dir, &record).map(|()| record))
    }

    fn take_after(
        &self,
        name: &str,
        settle: impl FnOnce(&Path, InstanceRecord) -> Result<InstanceRecord>,
    ) -> Result<Instance> {
        self.read(name)?;
        let dir = self.path(name)?;
        match lock_file(&dir, true)? {
            Some(lock) => {
                // Whoever held it last may have died in the middle of something.
                {
                    let _guard = self.guard()?;
                    layers::sweep(&dir);
                }
                // Read again: it may have changed before the lock was ours.
                let mut record = settle(&dir, self.read(name)?)?;
                if record.suspended.is_none() && record.under.take().is_some() {
                    // Nothing stands on it any more.
                    saved::write_record(&dir, &record)?;
                    saved::tidy(&dir);
                }
                Ok(Instance { record, dir, lock, fresh: false, from: None })
            }
            None => {
                let m = format!("The instance {name} runs: end it first with `strata stop {name}`.");
                Err(Error::new(Kind::InUse, m))
            }
        }
    }

    /// All instances, by name. A folder without a readable record is passed over.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>> {
        let mut list = Vec::new();
        for name in self.names()? {
            match self.read(&name) {
                Ok(record) => {
                    let in_use = lock_file(&self.dir.join(&name), false)?.is_none();
                    list.push(Listed { record, in_use });
                }
                // Removed since its name was read.
                Err(e) if e.kind == Kind::NotFound => {}
                Err(e) => tracing::warn!("{e}"),
            }
        }
        Ok(list)
    }

    /// The migrations that instances are in; all records can be read.
    pub(crate) fn moving(&self) -> Result<Vec<String>> {
        let id = |name: String| match self.read(&name) {
            Err(e) if e.kind == Kind::NotFound => Ok(None),
            other => other.map(|r| r.moving.map(|m| m.id)),
        };
        let ids: Vec<_> = self.names()?.into_iter().map(id).collect::<Result<_>>()?;
        Ok(ids.into_iter().flatten().collect())
    }

    fn entries(&self) -> Result<Vec<String>> {
        let fail = |e| Error::io(format_args!("read the folder {}", self.dir.display()), e);
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(fail)? {
            names.extend(entry.map_err(fail)?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn names(&self) -> Result<Vec<String>> {
        let mut names = self.entries()?;
        names.retain(|n| name::check_name(n).is_ok());
        Ok(names)
    }

    /// Removes what was left over: half-made and half-removed instances, and ephemeral ones that do not run. Gives
    /// the names of the latter.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn sweep(&self) -> Result<Vec<String>> {
        let _guard = self.guard()?;
        let mut swept = Vec::new();
        for entry in self.entries()? {
            if entry.starts_with(MAKING) || entry.starts_with(REMOVING) {
                remove_tree(&self.dir.join(&entry))?;
            } else if entry.starts_with(IMPORTING) {
                let dir = self.dir.join(&entry);
                if let Some(_lock) = lock_file(&dir, true)? {
                    remove_tree(&dir)?;
                }
            } else if name::check_name(&entry).is_ok()
                && self.read(&entry).is_ok_and(|r| r.ephemeral && r.suspended.is_none() && r.moving.is_none())
            {
                let dir = self.dir.join(&entry);
                if let Some(_lock) = lock_file(&dir, true)? {
                    remove_instance(&dir)?;
                    swept.push(entry);
                }
            }
        }
        Ok(swept)
    }
}

impl Instance {
    /// Its record.
    pub fn record(&self) -> &InstanceRecord {
        &self.record
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its lock, to be passed to the VMM.
    pub fn lock(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }

    /// What to run: its record as a spec, detached, console to whoever attaches.
    pub fn spec(&self) -> VmmSpec {
        VmmSpec { first_touch: self.from.clone(), ..self.record.spec_in(&self.dir) }
    }

    /// Gives its card a new Ethernet address, which the guest sees when its driver next looks: at a boot.
    ///
    /// # Errors
    /// The host does not let the record be written.
    pub fn renew_mac(&mut self) -> Result<()> {
        self.record.mac = name::mac_for(&self.record.name, u64::from_le_bytes(name::random::<8>()?));
        // One that goes on from somewhere is written down anew when it does.
        if self.record.suspended.is_some() { Ok(()) } else { saved::write_record(&self.dir, &self.record) }
    }

    /// It was to go on from a snapshot, and could not be started: removes what was made for that. It is what it was.
    pub fn stays(&mut self) {
        if self.from.take().is_some() && !self.fresh {
            saved::tidy(&self.dir);
        }
    }

    /// It stays: dropping it only gives up our hold on its lock.
    pub fn keep(mut self) {
        self.fresh = false;
    }

    /// Removes it with its disk.
    ///
    /// # Errors
    /// What the host answers; what is left of it is swept later.
    pub fn delete(mut self) -> Result<()> {
        self.fresh = false;
        let _guard = layers::guard_of(&self.dir)?;
        remove_instance(&self.dir)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if self.fresh {
            // What cannot be removed now is an unwanted instance, which `delete` removes.
            let _ = remove_ended(&self.dir);
        }
    }
}

/// Removes an instance's folder; for its VMM, which holds its lock.
///
/// # Errors
/// What the host answers.
pub(crate) fn remove_ended(dir: &Path) -> Result<()> {
    let _guard = layers::guard_of(dir)?;
    remove_instance(dir)
}

/// The store's lock and the instance's are held.
fn remove_instance(dir: &Path) -> Result<()> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let old = dir.with_file_name(format!("{REMOVING}{name}"));
    remove_tree(&old)?;
    fs::rename(dir, &old).map_err(|e| Error::io(format_args!("remove the instance {name}"), e))?;
    remove_tree(&old)
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|e| Error::io(format_args!("remove {}", dir.display()), e)),
    }
}

/// Replaces a file in a folder as a whole: a crash leaves the old one or the new one. One writer at a time.
pub(crate) fn replace(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    write_beside(dir, name, bytes).and_then(|()| take_place(dir, name))
}

/// The first half of it, which changes nothing yet: a durable file beside the old one.
fn write_beside(dir: &Path, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = fs::File::create(dir.join(format!(".{name}.new")))?;
    file.write_all(bytes).and_then(|()| file.sync_all())
}

/// The other half.
fn take_place(dir: &Path, name: &str) -> std::io::Result<()> {
    fs::rename(dir.join(format!(".{name}.new")), dir.join(name)).and_then(|()| sync_dir(dir))
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    let fd = openat(CWD, dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(fsync(&fd)?)
}

/// Tries an instance's lock; `None` if somebody holds it, or the instance has gone. Without `exclusive` it is only
/// asked whether it is free, which disturbs nobody who asks the same.
fn lock_file(dir: &Path, exclusive: bool) -> Result<Option<OwnedFd>> {
    let path = dir.join(LOCK);
    let fail = |e: Errno| Error::io(format_args!("lock {}", path.display()), e);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    // One who only asks holds it for an instant; one who wants it comes again.
    for _ in 0..10 {
        let fd = match openat(CWD, &path, flags, Mode::RUSR | Mode::WUSR) {
            Err(Errno::NOENT) => return Ok(None),
            other => other.map_err(fail)?,
        };
        let how = if exclusive {
            FlockOperation::NonBlockingLockExclusive
        } else {
            FlockOperation::NonBlockingLockShared
        };
        match flock(&fd, how) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) if exclusive => {
                std::thread::sleep(std::time::Duration::from_millis(5));
                continue;
            }
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(fail(e)),
        }
        // The instance may have been removed, and made anew, between our two calls.
        let (ours, named) = (fstat(&fd).map_err(fail)?, statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW));
        if named.is_ok_and(|n| (n.st_dev, n.st_ino) == (ours.st_dev, ours.st_ino)) {
            return Ok(Some(fd));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests;
