//! Where running machines are found: one private folder a user, one lock and one socket a machine.
//!
//! ```text
//! $XDG_RUNTIME_DIR/strata/      or, where there is none, /tmp/strata-<uid>/      mode 0700, ours, no link
//!     <name>.lock               held (flock) by the VMM for as long as it lives; says its process
//!     <name>.sock               its control socket
//!     <name>.log                what a detached VMM had to say; removed after a good end
//! ```
//! Invariants: a held lock means a live VMM, a free one means that what stands beside it is left over and may be
//! removed by whoever then holds the lock; a lock file that is removed is removed by its holder. Files are reached
//! through the folder's descriptor, so that nobody can swap the folder, and addresses of sockets stay short (the
//! kernel allows 107 bytes) however long the folder's path is.

use crate::{Error, Kind, Result, name::check_name};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, FlockOperation, Mode, OFlags, flock, fstat, mkdirat, openat, statat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 16;
/// How long a lock is tried: someone who only looks whether a VMM lives holds it for an instant.
const LOCK_PATIENCE: Duration = Duration::from_millis(100);

/// The user's folder of running machines.
#[derive(Clone, Debug)]
pub struct Runtime {
    dir: Arc<OwnedFd>,
    path: PathBuf,
}

/// What stands in a lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LockRecord {
    pid: u32,
    since: u64,
}

/// A machine whose process lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningEntry {
    /// The instance's name.
    pub name: String,
    /// The VMM's process; 0 in the instant before it has written it down.
    pub pid: u32,
    /// When the VMM started, in seconds since 1970.
    pub since: u64,
    /// Its control socket, for people; connect with [`Runtime::connect`].
    pub socket: PathBuf,
}

/// A machine's name, held. Dropping it removes the socket and frees the name.
#[derive(Debug)]
pub struct NameLock {
    runtime: Runtime,
    name: String,
    _file: OwnedFd,
}

impl Runtime {
    /// The user's folder, made if need be.
    ///
    /// # Errors
    /// `Permission` if something else stands in its place, or what the host answers.
    pub fn open() -> Result<Runtime> {
        let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|p| p.is_absolute());
        // Of another user (as under `sudo -E`) or gone: then it is no place for us.
        let ours = |p: &PathBuf| {
            statat(CWD, p, AtFlags::empty()).is_ok_and(|s| {
                FileType::from_raw_mode(s.st_mode) == FileType::Directory && s.st_uid == geteuid().as_raw()
            })
        };
        match base.filter(ours) {
            Some(base) => Runtime::at(base.join("strata")),
            None => Runtime::at(PathBuf::from(format!("/tmp/strata-{}", geteuid().as_raw()))),
        }
    }

    /// The folder at `path`, made if need be.
    ///
    /// # Errors
    /// As [`Runtime::open`].
    pub fn at(path: impl Into<PathBuf>) -> Result<Runtime> {
        let path = path.into();
        let shown = path.display();
        match mkdirat(CWD, &path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(Error::io(format_args!("make the folder {shown} for control sockets"), e)),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let foreign = |why: &str| {
            let advice = "remove it, or set XDG_RUNTIME_DIR to a folder of your own.";
            Error::new(Kind::Permission, format!("{shown} cannot hold control sockets: {why}; {advice}"))
        };
        let dir = match openat(CWD, &path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(foreign("it is no folder")),
            Err(e) => return Err(Error::io(format_args!("open the folder {shown}"), e)),
        };
        let stat = fstat(&dir).map_err(|e| Error::io(format_args!("look at {shown}"), e))?;
        if stat.st_uid != geteuid().as_raw() {
            return Err(foreign("it belongs to another user"));
        }
        if stat.st_mode & 0o077 != 0 {
            return Err(foreign("others may enter it (its mode should be 0700)"));
        }
        Ok(Runtime { dir: Arc::new(dir), path })
    }

    /// The folder, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes a name for this process.
    ///
    /// # Errors
    /// `InUse` if a machine of that name runs, `Config` if it is no name.
    pub fn lock(&self, name: &str) -> Result<NameLock> {
        check_name(name)?;
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            if let Some(file) = self.try_lock(name, true)? {
                self.remove(name, "sock");
                let since = crate::now();
                let record = LockRecord { pid: std::process::id(), since };
                let text = serde_json::to_vec(&record).unwrap_or_default();
                rustix::fs::ftruncate(&file, 0)
                    .and_then(|()| rustix::io::pwrite(&file, &text, 0))
                    .map_err(|e| Error::io(format_args!("write {}/{name}.lock", self.path.display()), e))?;
                return Ok(NameLock { runtime: self.clone(), name: name.to_owned(), _file: file });
            }
            if Instant::now() > until {
                let pid = self.read_lock(name).map_or(String::new(), |r| format!(" (process {})", r.pid));
                let m = format!(
                    "A machine named {name} runs already{pid}: choose another --name, or end that one with \
                     `strata stop {name}`."
                );
                return Err(Error::new(Kind::InUse, m));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// One try at a name's lock file; `None` if it is held. With `make`, the file is made if need be.
    fn try_lock(&self, name: &str, make: bool) -> Result<Option<OwnedFd>> {
        let file = format!("{name}.lock");
        let fail = |e| Error::io(format_args!("lock {}/{file}", self.path.display()), e);
        let mut flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        flags.set(OFlags::CREATE, make);
        loop {
            let fd = match openat(&self.dir, &file, flags, Mode::RUSR | Mode::WUSR) {
                Err(Errno::NOENT) if !make => return Ok(None),
                other => other.map_err(fail)?,
            };
            match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(e) => return Err(fail(e)),
            }
            // Its last holder may have removed it between our two calls: then we hold a file without a name.
            let (ours, named) =
                (fstat(&fd).map_err(fail)?, statat(&self.dir, &file, AtFlags::SYMLINK_NOFOLLOW));
            if named.is_ok_and(|n| (n.st_dev, n.st_ino) == (ours.st_dev, ours.st_ino)) {
                return Ok(Some(fd));
            }
        }
    }

    fn read_lock(&self, name: &str) -> Option<LockRecord> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(&self.dir, format!("{name}.lock"), flags, Mode::empty()).ok()?;
        let mut text = String::new();
        File::from(fd).take(4096).read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn remove(&self, name: &str, ending: &str) {
        // What is not there need not be removed; what cannot be removed is met again by whoever binds there.
        let _ = unlinkat(&self.dir, format!("{name}.{ending}"), AtFlags::empty());
    }

    fn has_lock_file(&self, name: &str) -> bool {
        statat(&self.dir, format!("{name}.lock"), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    /// Whether a VMM holds this name.
    pub fn is_running(&self, name: &str) -> bool {
        check_name(name).is_ok()
            && self.has_lock_file(name)
            && matches!(self.try_lock(name, false), Ok(None))
            && self.has_lock_file(name)
    }

    /// All machines of this user whose process lives, by name. Removes what dead ones left.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<RunningEntry>> {
        let fail = |e| Error::io(format_args!("read the folder {}", self.path.display()), e);
        let mut names: Vec<String> = Vec::new();
        for entry in Dir::read_from(&self.dir).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let file = entry.file_name().to_string_lossy();
            names.extend(file.strip_suffix(".lock").filter(|n| check_name(n).is_ok()).map(str::to_owned));
        }
        names.sort_unstable();
        let mut running = Vec::new();
        for name in names {
            if let Some(_held) = self.try_lock(&name, false)? {
                for ending in ["sock", "log", "lock"] {
                    self.remove(&name, ending);
                }
            } else if self.has_lock_file(&name) {
                let record = self.read_lock(&name).unwrap_or(LockRecord { pid: 0, since: 0 });
                let socket = self.path.join(format!("{name}.sock"));
                running.push(RunningEntry { name, pid: record.pid, since: record.since, socket });
            }
        }
        Ok(running)
    }

    /// An address for `<name>.sock` that is short whatever the folder's path is.
    fn address(&self, name: &str) -> Result<SocketAddrUnix> {
        let path = format!("/proc/self/fd/{}/{name}.sock", self.dir.as_raw_fd());
        SocketAddrUnix::new(path).map_err(|e| Error::io(format_args!("address the socket of {name}"), e))
    }

    /// Connects to a machine's control socket.
    ///
    /// # Errors
    /// `NotFound` if no such machine runs, `Config` if it is no name.
    pub fn connect(&self, name: &str) -> Result<OwnedFd> {
        check_name(name)?;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| Error::io("make a socket", e))?;
        match connect(&fd, &self.address(name)?) {
            Ok(()) => Ok(fd),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Err(Error::new(
                Kind::NotFound,
                format!(
                    "No machine named {name} runs: see `strata ps --all`, and start it with `strata start {name}`."
                ),
            )),
            Err(e) => Err(Error::io(format_args!("connect to the machine {name}"), e)),
        }
    }

    /// Kills the VMM that holds a name, as pulling the plug would, and waits until the name is free.
    ///
    /// # Errors
    /// `NotFound` if no such machine runs; `Permission`; `Host` if the process does not go away.
    pub fn kill(&self, name: &str) -> Result<()> {
        check_name(name)?;
        let absent =
            || Error::new(Kind::NotFound, format!("No machine named {name} runs: see `strata ps --all`."));
        let record = self.read_lock(name).ok_or_else(absent)?;
        let pid = i32::try_from(record.pid).ok().and_then(Pid::from_raw).ok_or_else(absent)?;
        let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| absent())?;
        // The lock is still held by the one who wrote that number: so the descriptor is of that process, not of a
        // later one with its number.
        if !self.is_running(name) || self.read_lock(name).as_ref() != Some(&record) {
            return Err(absent());
        }
        pidfd_send_signal(&process, Signal::KILL)
            .map_err(|e| Error::io(format_args!("kill the process {} of machine {name}", record.pid), e))?;
        let until = Instant::now() + Duration::from_secs(10);
        while self.is_running(name) {
            if Instant::now() > until {
                let m =
                    format!("The process {} of machine {name} does not end: the host holds it.", record.pid);
                return Err(Error::new(Kind::Host, m));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.list().map(|_| ())
    }
}

impl NameLock {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Binds the control socket.
    ///
    /// # Errors
    /// What the host answers.
    pub fn bind(&self) -> Result<OwnedFd> {
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| Error::io("make a socket", e))?;
        let shown = self.runtime.path.join(format!("{}.sock", self.name));
        bind(&fd, &self.runtime.address(&self.name)?)
            .and_then(|()| listen(&fd, BACKLOG))
            .map_err(|e| Error::io(format_args!("make the control socket {}", shown.display()), e))?;
        Ok(fd)
    }

    /// Makes the log file anew.
    ///
    /// # Errors
    /// What the host answers.
    pub fn log(&self) -> Result<OwnedFd> {
        self.runtime.remove(&self.name, "log");
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC;
        openat(self.runtime.dir.as_fd(), format!("{}.log", self.name), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Error::io(format_args!("make the log file of {}", self.name), e))
    }
}

impl Drop for NameLock {
    fn drop(&mut self) {
        for ending in ["sock", "log", "lock"] {
            self.runtime.remove(&self.name, ending);
        }
    }
}

#[cfg(test)]
mod tests;
