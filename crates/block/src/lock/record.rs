//! The record beside a disk: who owns it, at which epoch.
//!
//! A few lines of text in `<disk>.strata-lock`, written as a new file, synced and renamed, so that it is never
//! half there:
//!
//! ```text
//! strata-lock 1
//! epoch 7
//! instance web-1
//! host alpha.example
//! host-key 9a3c51e0442fb1d7      a digest of the host's machine id
//! boot 0f1d6c1e-...              the kernel's boot id
//! pid 4242
//! ```
//!
//! Lines with unknown words are skipped, so that later versions may add some.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::printable;

const FIRST_LINE: &str = "strata-lock 1";
/// Longest record that is read: ten times what is ever written.
const MAX_BYTES: u64 = 8 << 10;

/// Who asks for a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the instance, for messages.
    pub instance: String,
    /// The host's name, for messages.
    pub host: String,
    /// Tells hosts apart even if they have one name.
    pub host_key: String,
    /// The kernel's boot id: processes of another boot are dead if the host is the same.
    pub boot: String,
    /// Process that holds the disk.
    pub pid: u32,
}

impl Owner {
    /// This process, on behalf of `instance`.
    pub fn this_process(instance: &str) -> Owner {
        let line = |path: &str| fs::read_to_string(path).ok().map(|s| one_line(&s)).filter(|s| !s.is_empty());
        let uname = rustix::system::uname();
        let host = one_line(&uname.nodename().to_string_lossy());
        let id = line("/etc/machine-id").unwrap_or_else(|| host.clone());
        Owner {
            instance: one_line(instance),
            host_key: digest(&id),
            host,
            boot: line("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            pid: std::process::id(),
        }
    }

    /// Whether file locks of the two are seen by one kernel, or by two boots of one host: then a free lock
    /// proves that the other owner is gone.
    pub(crate) fn same_host(&self, other: &Owner) -> bool {
        (!self.boot.is_empty() && self.boot == other.boot) || self.host_key == other.host_key
    }
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Owner { instance, host, pid, .. } = self;
        write!(f, "instance '{}' on host {} (process {pid})", printable(instance), printable(host))
    }
}

/// The first line, without control characters and at a sane length.
fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or("").trim().chars().filter(|c| !c.is_control()).take(255).collect()
}

/// The machine id is not to be shown as it is; a digest tells hosts apart just as well.
fn digest(id: &str) -> String {
    // FNV-1a: stable across builds, which the standard hasher is not, and nothing here resists an attacker anyway.
    struct Fnv(u64);
    impl Hasher for Fnv {
        fn finish(&self) -> u64 {
            self.0
        }
        fn write(&mut self, bytes: &[u8]) {
            for &b in bytes {
                self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
            }
        }
    }
    let mut h = Fnv(0xcbf2_9ce4_8422_2325);
    h.write(b"strata-lock:");
    h.write(id.as_bytes());
    format!("{:016x}", h.finish())
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) epoch: u64,
    pub(crate) owner: Owner,
}

impl Record {
    /// Where the record of `disk` stands.
    pub(crate) fn path_of(disk: &Path) -> PathBuf {
        let mut name = disk.file_name().map_or_else(OsString::new, |n| n.to_os_string());
        name.push(".strata-lock");
        disk.with_file_name(name)
    }

    pub(crate) fn to_text(&self) -> String {
        let Record { epoch, owner: Owner { instance, host, host_key, boot, pid } } = self;
        format!(
            "{FIRST_LINE}\nepoch {epoch}\ninstance {}\nhost {}\nhost-key {host_key}\nboot {boot}\npid {pid}\n",
            one_line(instance),
            one_line(host)
        )
    }

    pub(crate) fn from_text(text: &str) -> Option<Record> {
        let mut lines = text.lines();
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let (mut epoch, mut pid) = (None, None);
        let [mut instance, mut host, mut host_key, mut boot] = [const { None }; 4];
        for line in lines {
            let (word, value) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "epoch" => epoch = value.parse().ok(),
                "pid" => pid = value.parse().ok(),
                "instance" => instance = Some(one_line(value)),
                "host" => host = Some(one_line(value)),
                "host-key" => host_key = Some(one_line(value)),
                "boot" => boot = Some(one_line(value)),
                _ => {}
            }
        }
        let owner = Owner { instance: instance?, host: host?, host_key: host_key?, boot: boot?, pid: pid? };
        Some(Record { epoch: epoch?, owner })
    }

    /// Reads the record. `Ok(None)` if there is none; `InvalidData` if it is not a record.
    pub(crate) fn read(path: &Path) -> io::Result<Option<Record>> {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut text = String::new();
        file.take(MAX_BYTES).read_to_string(&mut text)?;
        Record::from_text(&text).map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Writes the record: a new file, synced, renamed over the old one, directory synced.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_os_string();
        temporary.push(format!(".{}", std::process::id()));
        let temporary = PathBuf::from(temporary);
        // A leftover of a dead process with our number; a link planted there is removed, not followed.
        let _ = fs::remove_file(&temporary);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
        let written = file
            .write_all(self.to_text().as_bytes())
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&temporary, path));
        if written.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        written?;
        match path.parent() {
            Some(dir) if dir != Path::new("") => File::open(dir)?.sync_all(),
            _ => File::open(".")?.sync_all(),
        }
    }
}
