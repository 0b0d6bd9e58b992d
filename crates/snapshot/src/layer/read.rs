//! Reading a layer: header and index are checked when it is opened, pages when asked for.

use super::index::{self, RUN, RunKind};
use super::write::digests;
use super::{DATA, LayerInfo, PAGE, Run};
use crate::SnapshotError;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use strata_memory::{Backing, GuestRam, Presence, RegionSpec};

/// An open layer whose header and index have been checked.
#[derive(Debug)]
pub struct Layer {
    file: File,
    path: PathBuf,
    info: LayerInfo,
    runs: Vec<Run>,
    digests: Vec<u8>,
}

impl Layer {
    /// Opens one and checks its header and index, not its pages.
    ///
    /// # Errors
    /// It is not there, no layer, damaged or cut short, or from a newer build.
    pub fn open(path: &Path) -> Result<Layer, SnapshotError> {
        let bad = |why: &str| SnapshotError::bad("memory", path, why);
        let fail = |e| SnapshotError::io("read", path)(e);
        let file = File::open(path).map_err(fail)?;
        let len = file.metadata().map_err(fail)?.len();
        let mut header = vec![0; PAGE as usize];
        if len < PAGE {
            return Err(bad("it is cut short"));
        }
        file.read_exact_at(&mut header, 0).map_err(fail)?;
        let info = LayerInfo::parse(&header, path)?;
        // All numbers are below 2^42: their sums are.
        if len != DATA + info.data + info.index_len() {
            return Err(bad("it is cut short, or something follows it"));
        }
        let mut bytes = vec![0; info.index_len() as usize];
        file.read_exact_at(&mut bytes, DATA + info.data).map_err(fail)?;
        if Sha256::digest(&bytes)[..] != info.index_digest {
            return Err(bad("its index is damaged"));
        }
        let digests = bytes.split_off(info.runs as usize * RUN);
        let runs = index::parse(&bytes, info.pages, info.data, info.parent.is_some()).map_err(bad)?;
        Ok(Layer { file, path: path.to_owned(), info, runs, digests })
    }

    /// Its header.
    pub fn info(&self) -> &LayerInfo {
        &self.info
    }

    /// Its runs, in order.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it was opened.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether every page stands at its own number, so that one call maps all of them.
    pub(crate) fn is_flat(&self) -> bool {
        self.info.data == self.info.pages * PAGE
            && self.runs.iter().all(|r| match r.kind {
                RunKind::Parent => false,
                RunKind::Zero => true,
                RunKind::Data(at) => at == DATA + r.first * PAGE,
            })
    }

    /// Reads all data and compares it with its digests.
    ///
    /// # Errors
    /// It differs, or cannot be read.
    pub fn verify(&self) -> Result<(), SnapshotError> {
        // All runs as data: what is said to be zero is read as well.
        let all = [Run { first: 0, pages: self.info.data / PAGE, kind: RunKind::Data(DATA) }];
        let runs: &[Run] = if self.info.data == 0 { &[] } else { &all };
        let found =
            digests(&self.file, runs, self.info.data).map_err(SnapshotError::io("read", &self.path))?;
        match found.iter().zip(self.digests.chunks_exact(32)).position(|(a, b)| a[..] != *b) {
            Some(group) => {
                let why = format!("its data is damaged between {group} and {} MiB", group + 1);
                Err(SnapshotError::bad("memory", &self.path, why))
            }
            None => Ok(()),
        }
    }

    /// Guest memory at `gpa` that begins as this layer is, which is flat: see [`super::LayerChain::map`].
    pub(super) fn map(&self, gpa: u64) -> Result<GuestRam, SnapshotError> {
        let file = self.file.try_clone().map_err(SnapshotError::io("map", &self.path))?.into();
        let backing = Backing::PrivateOverFile { file, offset: DATA };
        let ram = GuestRam::new(vec![RegionSpec { gpa, len: self.info.pages * PAGE, backing }])?;
        for region in ram.regions() {
            for run in self.runs.iter().filter(|r| r.kind == RunKind::Zero) {
                let pages = run.first as usize..(run.first + run.pages) as usize;
                region.pages().set_presences(pages, Presence::Zero);
            }
        }
        Ok(ram)
    }
}
