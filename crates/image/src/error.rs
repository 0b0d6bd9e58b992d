//! Everything that can go wrong while an image is made, read or removed.
//!
//! Each error says what was tried, on what, and what to do next, in one paragraph: the binary prints
//! it as it is. [`Error::kind`] sorts them into the few families that exit codes are made from; a
//! failure of the mirror is told apart from a failure of ours.

use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The family of an [`Error`]: what an exit code, or a test deciding whom to blame, needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The request itself is wrong: a name, an option, a file given by the user.
    Usage,
    /// The network or a proxy does not answer.
    Network,
    /// The mirror answers, but what it serves is missing, stale, inconsistent or not signed well.
    Mirror,
    /// The host's file system refuses: full, read-only, no permission.
    Disk,
    /// Downloaded or stored data is malformed.
    Data,
    /// The machine that builds the image failed.
    Guest,
    /// The user cancelled.
    Cancelled,
}

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No mirror was named and the host's apt configuration has none.
    #[error(
        "no Debian mirror is known: this host's apt configuration names none{hint}; pass --mirror URL, \
         the address under which `dists/` and `pool/` of a Debian archive are found"
    )]
    NoMirror {
        /// What was looked at, as ` (looked at ...)`, or empty.
        hint: String,
    },
    /// A setting given by the user or by apt cannot be used.
    #[error("{what} cannot be used: {why}")]
    BadSetting {
        /// Which setting, with its value.
        what: String,
        /// Why not.
        why: String,
    },
    /// The connection could not be made or broke off for good.
    #[error(
        "the network does not let us have {url}: {why} (after {attempts} attempts). Check the network \
         and the proxy settings; what was downloaded is kept, and the same command resumes"
    )]
    NoNetwork {
        /// The address asked for.
        url: String,
        /// The last attempt's failure.
        why: String,
        /// How many attempts were made without progress.
        attempts: u32,
    },
    /// The server says there is no such file.
    #[error(
        "the mirror has no {url} (HTTP {status}); it may be in the middle of an update: try again later, or pass another --mirror"
    )]
    NotFound {
        /// The address asked for.
        url: String,
        /// HTTP status: 404 or 410, or 403 where a server hides what it lacks.
        status: u16,
    },
    /// A file does not have the hash that the signed index gives.
    #[error(
        "{url} is not what the signed index says: wanted SHA-256 {want}, got {got}. Nothing of it was \
         used; try again later, or pass another --mirror"
    )]
    HashMismatch {
        /// The address the bytes came from.
        url: String,
        /// Expected hash, hexadecimal.
        want: String,
        /// Found hash, hexadecimal, or a length where that already differs.
        got: String,
    },
    /// The signed Release and the index it names do not belong together.
    #[error(
        "mirror out of step: the index of suite {suite} for {arch} doesn't match its own signed Release \
         ({why}). This is a fault of the mirror, not of your system; nothing was used. {}",
        out_of_step_advice(.matching)
    )]
    OutOfStep {
        /// The suite asked for.
        suite: String,
        /// The architecture.
        arch: &'static str,
        /// What exactly differed.
        why: String,
        /// Suites, of those we know, whose index does match on the same mirror.
        matching: Vec<String>,
    },
    /// The machine that would configure the image's packages cannot run on this host.
    #[error(
        "{image} is configured in a machine of its own architecture, for which this host is not good enough: {why}"
    )]
    NoBuilder {
        /// The image.
        image: String,
        /// What is missing.
        why: String,
    },
    /// The Release file is past its Valid-Until.
    #[error(
        "the mirror's Release of suite {suite} was valid until {until} only, which is past: the mirror is \
         stale or somebody holds updates back. Try another --mirror, or pass --allow-expired if you accept \
         packages of that date"
    )]
    Expired {
        /// The suite.
        suite: String,
        /// The date, as the Release gives it.
        until: String,
    },
    /// The Release file carries a date in the future.
    #[error("the mirror's Release of suite {suite} is dated {date}, in the future: set this host's clock")]
    NotYetValid {
        /// The suite.
        suite: String,
        /// The date, as the Release gives it.
        date: String,
    },
    /// No signature by a trusted key.
    #[error(
        "the Release of suite {suite} carries no good signature by a key we trust: {why}. Nothing was used. \
         If the archive signs with a key of its own, pass --keyring FILE"
    )]
    BadSignature {
        /// The suite.
        suite: String,
        /// What was found.
        why: String,
    },
    /// A keyring file holds no usable key.
    #[error("the keyring {path} cannot be used: {why}")]
    Keyring {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// None of the suites tried could be used.
    #[error("no suite of the mirror can be used: {}", .tried.iter().map(|(s, e)| format!("[{s}] {e}")).collect::<Vec<_>>().join(" "))]
    NoSuite {
        /// Suite and reason, in the order tried.
        tried: Vec<(String, String)>,
    },
    /// A package or one of its dependencies is not in the index.
    #[error("suite {suite} has no package {package} (needed by {needed_by}); another suite may have it")]
    Unresolvable {
        /// Package or dependency group.
        package: String,
        /// Who asked for it.
        needed_by: String,
        /// The suite.
        suite: String,
    },
    /// Signed or stored data that does not parse.
    #[error("{what} is malformed: {why}")]
    Malformed {
        /// Which thing.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// The host's file system is full.
    #[error(
        "no space left on the file system of {path}: nothing half-made was left behind. Free some space \
         (a Debian image needs about 1.5 GB while it is made, a busybox image 200 MB), or set STRATA_HOME \
         to a larger file system"
    )]
    DiskFull {
        /// The file being written.
        path: PathBuf,
    },
    /// Any other failure of a file operation.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// A verb: `read`, `write`, `lock`...
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A name that no image can have, or that nothing is known to make.
    #[error(
        "{name:?} is not an image this program can make: use debian:13, debian:forky, debian:sid or busybox"
    )]
    UnknownImage {
        /// As given.
        name: String,
    },
    /// A name that cannot be used for an image.
    #[error(
        "{name:?} cannot name an image: use 1 to 64 letters, digits, '.', '_', '-' and ':', beginning with a letter or digit"
    )]
    BadName {
        /// As given.
        name: String,
    },
    /// The image is not there.
    #[error("there is no image {name} here; `strata image list` shows what there is")]
    NoSuchImage {
        /// As given.
        name: String,
    },
    /// The image is there already.
    #[error(
        "an image {name} exists already; remove it first (`strata image remove {name}`), or choose another name"
    )]
    Exists {
        /// As given.
        name: String,
    },
    /// The machine that builds the image could not run to its end.
    #[error(
        "the machine that builds the image failed while it was to {stage}: {why}. Last lines of its console: {tail}"
    )]
    Guest {
        /// What it was doing.
        stage: String,
        /// What happened.
        why: String,
        /// Last console lines, joined by ` | `.
        tail: String,
    },
    /// The user cancelled.
    #[error("cancelled; nothing half-made was left behind, and finished downloads are kept for the next try")]
    Cancelled,
}

fn out_of_step_advice(matching: &[String]) -> String {
    if matching.is_empty() {
        "None of 13, forky and sid matches there now: try again later, or pass another --mirror".into()
    } else {
        format!(
            "On the same mirror these suites match: {}. Use one of them, try again later, or pass another --mirror",
            matching.join(", ")
        )
    }
}

impl Error {
    /// The family this error belongs to.
    pub fn kind(&self) -> Kind {
        use Error::*;
        match self {
            NoMirror { .. } | BadSetting { .. } | Keyring { .. } | UnknownImage { .. } | BadName { .. } => {
                Kind::Usage
            }
            NoSuchImage { .. } | Exists { .. } => Kind::Usage,
            NoNetwork { .. } => Kind::Network,
            NotFound { .. } | HashMismatch { .. } | OutOfStep { .. } | Expired { .. } => Kind::Mirror,
            NotYetValid { .. } | BadSignature { .. } | NoSuite { .. } | Unresolvable { .. } => Kind::Mirror,
            Malformed { .. } => Kind::Data,
            DiskFull { .. } | Io { .. } => Kind::Disk,
            Guest { .. } | NoBuilder { .. } => Kind::Guest,
            Cancelled => Kind::Cancelled,
        }
    }

    /// An I/O failure on `path`; a full file system becomes [`Error::DiskFull`].
    pub(crate) fn io(doing: &'static str, path: &Path, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::StorageFull || source.kind() == io::ErrorKind::QuotaExceeded {
            return Error::DiskFull { path: path.to_owned() };
        }
        Error::Io { doing, path: path.to_owned(), source }
    }

    pub(crate) fn malformed(what: impl Into<String>, why: impl ToString) -> Error {
        Error::Malformed { what: what.into(), why: why.to_string() }
    }
}
