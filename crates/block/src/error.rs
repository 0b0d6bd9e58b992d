//! What can go wrong when a disk is opened, made or locked.
//!
//! Every error is one paragraph for a person: what was tried, on which file, what to do next. [`DiskErrorKind`]
//! is for the caller that chooses an exit code. Requests on an open disk give plain [`std::io::Error`]s instead:
//! the device turns them into a status for the guest.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Coarse kind of a [`DiskError`], one for each exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskErrorKind {
    /// Another machine, or another program, has the disk.
    InUse,
    /// The file's contents contradict its format, or end too early.
    Corrupt,
    /// No such file.
    NotFound,
    /// The host's permissions forbid it.
    Permission,
    /// A format, feature or kind of file that Strata does not handle.
    Unsupported,
    /// The disk is smaller than it has to be.
    TooSmall,
    /// The host's file system is full.
    NoSpace,
    /// Any other failure of the host's storage.
    Io,
}

/// Why a disk could not be opened, made or locked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// Another owner holds the disk.
    #[error("Disk {} is in use by another machine: {holder}. {advice}", Shown(path))]
    InUse {
        /// The disk.
        path: PathBuf,
        /// Who has it, as far as it can be told.
        holder: String,
        /// What to do.
        advice: String,
    },
    /// The record beside the disk has a higher epoch than ours: ownership has moved on.
    #[error(
        "Disk {} belongs to another machine now: its record names {holder} with epoch {recorded}, this machine \
         came with epoch {ours}. Nothing was written; stop this machine, and use the disk from its new owner.",
        Shown(path)
    )]
    Superseded {
        /// The disk.
        path: PathBuf,
        /// The epoch with which we came.
        ours: u64,
        /// The epoch in the record.
        recorded: u64,
        /// Owner in the record.
        holder: String,
    },
    /// The contents are not what the format demands.
    #[error("Disk image {} is corrupt or cut short: {what}. Nothing was changed. {advice}", Shown(path))]
    Corrupt {
        /// The image.
        path: PathBuf,
        /// What was found.
        what: String,
        /// What to do.
        advice: String,
    },
    /// No such file.
    #[error(
        "There is no disk at {}. Check the path, or make a raw disk with `truncate -s 10G FILE`.",
        Shown(path)
    )]
    NotFound {
        /// The path that was tried.
        path: PathBuf,
    },
    /// Permission denied.
    #[error("No permission to {doing} {}: {source}. {advice}", Shown(path))]
    Permission {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What to do.
        advice: String,
        /// The system's error.
        source: io::Error,
    },
    /// A format or feature that is not handled.
    #[error("Cannot use {} as a disk: {what}. {advice}", Shown(path))]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What it is.
        what: String,
        /// What to do.
        advice: String,
    },
    /// Too small, or not a whole number of sectors.
    #[error("Disk {} has the wrong size: {what}. {advice}", Shown(path))]
    TooSmall {
        /// The disk.
        path: PathBuf,
        /// What is wrong with the size.
        what: String,
        /// What to do.
        advice: String,
    },
    /// The host's file system is full.
    #[error(
        "No space left to {doing} {}: {source}. What was acknowledged before is kept; free some space in {}, then \
         try again.",
        Shown(path),
        Shown(&parent(path))
    )]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Any other failure.
    #[error(
        "Could not {doing} {}: {source}. Check the storage below it (`dmesg` may say more), then try again.",
        Shown(path)
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl DiskError {
    /// The coarse kind, for an exit code.
    pub fn kind(&self) -> DiskErrorKind {
        match self {
            DiskError::InUse { .. } | DiskError::Superseded { .. } => DiskErrorKind::InUse,
            DiskError::Corrupt { .. } => DiskErrorKind::Corrupt,
            DiskError::NotFound { .. } => DiskErrorKind::NotFound,
            DiskError::Permission { .. } => DiskErrorKind::Permission,
            DiskError::Unsupported { .. } => DiskErrorKind::Unsupported,
            DiskError::TooSmall { .. } => DiskErrorKind::TooSmall,
            DiskError::NoSpace { .. } => DiskErrorKind::NoSpace,
            DiskError::Io { .. } => DiskErrorKind::Io,
        }
    }

    /// The file that it is about.
    pub fn path(&self) -> &Path {
        match self {
            DiskError::InUse { path, .. }
            | DiskError::Superseded { path, .. }
            | DiskError::Corrupt { path, .. }
            | DiskError::NotFound { path }
            | DiskError::Permission { path, .. }
            | DiskError::Unsupported { path, .. }
            | DiskError::TooSmall { path, .. }
            | DiskError::NoSpace { path, .. }
            | DiskError::Io { path, .. } => path,
        }
    }

    /// Sorts a system error on `path` into its kind. `doing` is a verb phrase: "open", "read the header of".
    pub(crate) fn from_io(path: &Path, doing: &'static str, source: io::Error) -> DiskError {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => DiskError::NotFound { path },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                let advice = "Change the file's permissions or owner, or open it read-only.".to_string();
                DiskError::Permission { path, doing, advice, source }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                DiskError::NoSpace { path, doing, source }
            }
            io::ErrorKind::IsADirectory => DiskError::Unsupported {
                path,
                what: "it is a directory".to_string(),
                advice: "Name a disk image or a block device.".to_string(),
            },
            _ => DiskError::Io { path, doing, source },
        }
    }

    pub(crate) fn corrupt(path: &Path, what: impl Into<String>) -> DiskError {
        let advice = "If it was downloaded or copied, fetch it again and compare its checksum; `qemu-img check` \
                      tells more, and a backup is better than a repair.";
        DiskError::Corrupt { path: path.to_path_buf(), what: what.into(), advice: advice.to_string() }
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>, advice: impl Into<String>) -> DiskError {
        DiskError::Unsupported { path: path.to_path_buf(), what: what.into(), advice: advice.into() }
    }
}

/// A path as text for an error: control characters escaped, so that a hostile file name cannot write to the
/// terminal.
struct Shown<'a>(&'a Path);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(&self.0.to_string_lossy()))
    }
}

/// `text` with its control characters escaped.
pub(crate) fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
