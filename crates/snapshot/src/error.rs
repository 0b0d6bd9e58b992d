//! What can be wrong with a snapshot.

use std::path::{Path, PathBuf};

/// Why a snapshot cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A file is not what it should be.
    #[error("the snapshot's {what} {path} cannot be used: {why}")]
    Bad {
        /// Which of its files.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// It is written in a way that this build does not know.
    #[error("the snapshot's {what} {path} needs {need}, which this build does not know; use a newer strata")]
    Newer {
        /// Which of its files.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What it takes.
        need: String,
    },
    /// The host did not do something.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: std::io::Error,
    },
    /// Guest memory cannot be made or reached.
    #[error(transparent)]
    Memory(#[from] strata_memory::MemoryError),
}

impl SnapshotError {
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> SnapshotError {
        let path = path.to_owned();
        move |source| SnapshotError::Io { doing, path, source }
    }

    pub(crate) fn bad(what: &'static str, path: &Path, why: impl Into<String>) -> SnapshotError {
        SnapshotError::Bad { what, path: path.to_owned(), why: why.into() }
    }
}
