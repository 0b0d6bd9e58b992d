//! How the work reports itself and how it is stopped. This crate prints nothing: the caller decides
//! what a stage or a note looks like.

use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What is being done, in the order it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Release and package index of a suite; unit: bytes.
    Index,
    /// Packages; unit: bytes.
    Download,
    /// Packages are decompressed and merged into one tree; unit: packages.
    Unpack,
    /// The image is formatted, its packages are unpacked and configured; unit: packages, and a few fixed steps.
    Configure,
    /// The record is put in its place; unit: files.
    Save,
}

impl Stage {
    /// A short phrase for a progress bar.
    pub fn label(self) -> &'static str {
        match self {
            Stage::Index => "reading the package index",
            Stage::Download => "downloading packages",
            Stage::Unpack => "unpacking",
            Stage::Configure => "configuring",
            Stage::Save => "saving",
        }
    }
}

/// Receives news of the work; called from several threads.
pub trait Progress: Sync {
    /// `done` of `total` units of `stage` (see [`Stage`] for the unit). `total` 0: not known yet.
    fn stage(&self, stage: Stage, done: u64, total: u64);
    /// One sentence that the user should see: a choice made by itself, or a warning.
    fn note(&self, text: &str);
}

/// Nobody is listening.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _: Stage, _: u64, _: u64) {}
    fn note(&self, _: &str) {}
}

/// A flag that stops the work at its next step. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the work to stop. May be called from a signal handler's thread; never blocks.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether [`Cancel::cancel`] was called.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}
