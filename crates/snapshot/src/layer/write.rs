//! Writing a layer: pages first, while the machine stands still; digests, index and header afterwards.

use super::index::{RunKind, push};
use super::{DATA, GROUP, LayerInfo, PAGE, Run};
use crate::SnapshotError;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use strata_memory::{GuestRam, MemoryError, Presence};

/// Pages that are looked at and written together.
const BATCH: u64 = 256;

/// A layer whose pages are written and whose index is not: a file without a header, which nobody can take for a layer.
#[derive(Debug)]
pub struct LayerWriter {
    file: File,
    path: PathBuf,
    pages: u64,
    runs: Vec<Run>,
}

impl LayerWriter {
    /// Copies all of `ram`, which is one region, into a new file. Nothing may write to it meanwhile.
    ///
    /// # Errors
    /// The file cannot be made or written; a page is not there yet.
    pub fn copy(ram: &GuestRam, path: &Path) -> Result<LayerWriter, SnapshotError> {
        let [region] = ram.regions() else {
            return Err(SnapshotError::bad("memory", path, "only memory of one piece can be saved"));
        };
        let fail = |e| SnapshotError::io("write", path)(e);
        let file = File::options().read(true).write(true).create_new(true).open(path).map_err(fail)?;
        let pages = region.size() / PAGE;
        file.set_len(DATA + region.size()).map_err(fail)?;
        let mut runs = Vec::new();
        let mut buf = vec![0; (BATCH * PAGE) as usize];
        for first in (0..pages).step_by(BATCH as usize) {
            let count = BATCH.min(pages - first);
            let presence = |p: u64| region.pages().presence(p as usize);
            if (first..first + count).all(|p| presence(p) == Presence::Zero) {
                (first..first + count).for_each(|p| push(&mut runs, p, RunKind::Zero));
                continue;
            }
            let gpa = region.gpa() + first * PAGE;
            if (first..first + count).any(|p| presence(p) == Presence::Absent) {
                return Err(MemoryError::NotRam { gpa, len: count * PAGE }.into());
            }
            let bytes = buf.get_mut(..(count * PAGE) as usize).unwrap_or_default();
            ram.peek(gpa, bytes)?;
            batch(&file, &mut runs, first, bytes).map_err(fail)?;
        }
        Ok(LayerWriter { file, path: path.to_owned(), pages, runs })
    }

    /// Completes it and makes it durable. The machine may run on meanwhile.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn finish(self, id: [u8; 16]) -> Result<LayerInfo, SnapshotError> {
        let fail = |e| SnapshotError::io("write", &self.path)(e);
        let data = self.pages * PAGE;
        let mut index = Vec::new();
        self.runs.iter().for_each(|r| r.put(&mut index));
        for digest in digests(&self.file, &self.runs, data).map_err(fail)? {
            index.extend(digest);
        }
        let info = LayerInfo {
            id,
            parent: None,
            pages: self.pages,
            data,
            runs: self.runs.len() as u64,
            index_digest: Sha256::digest(&index).into(),
        };
        self.file.write_all_at(&index, DATA + data).map_err(fail)?;
        self.file.write_all_at(&info.bytes(), 0).map_err(fail)?;
        self.file.sync_all().map_err(fail)?;
        Ok(info)
    }
}

/// Writes the pages of `bytes` that are not zero, neighbours together.
fn batch(file: &File, runs: &mut Vec<Run>, first: u64, bytes: &[u8]) -> std::io::Result<()> {
    let place = |page: u64| DATA + page * PAGE;
    // Where the bytes that wait to be written begin.
    let mut waiting = None;
    for (i, page) in bytes.chunks(PAGE as usize).enumerate() {
        let (n, at) = (first + i as u64, i * PAGE as usize);
        if is_zero(page) {
            if let Some(from) = waiting.take() {
                file.write_all_at(bytes.get(from..at).unwrap_or_default(), place(first) + from as u64)?;
            }
            push(runs, n, RunKind::Zero);
        } else {
            waiting.get_or_insert(at);
            push(runs, n, RunKind::Data(place(n)));
        }
    }
    match waiting {
        Some(from) => file.write_all_at(bytes.get(from..).unwrap_or_default(), place(first) + from as u64),
        None => Ok(()),
    }
}

/// Whether all bytes are 0; of a whole page, many at a time.
fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(64).all(|c| c.iter().fold(0, |all, b| all | b) == 0)
}

/// The digest of each [`GROUP`] of the data. Groups without a page in them are not read: all their bytes are zero.
pub(super) fn digests(file: &File, runs: &[Run], data: u64) -> std::io::Result<Vec<[u8; 32]>> {
    let groups = data.div_ceil(GROUP);
    let mut used = vec![false; groups as usize];
    for run in runs {
        if let RunKind::Data(at) = run.kind {
            let (from, to) = ((at - DATA) / GROUP, (at - DATA + run.pages * PAGE - 1) / GROUP);
            used.iter_mut().take(to as usize + 1).skip(from as usize).for_each(|u| *u = true);
        }
    }
    let len = |g: u64| GROUP.min(data - g * GROUP) as usize;
    let mut buf = vec![0; GROUP as usize];
    let empty: [u8; 32] = Sha256::digest(&buf).into();
    let mut all = Vec::with_capacity(groups as usize);
    for (g, used) in (0..groups).zip(used) {
        if !used && len(g) == buf.len() {
            all.push(empty);
            continue;
        }
        let part = buf.get_mut(..len(g)).unwrap_or_default();
        file.read_exact_at(part, DATA + g * GROUP)?;
        all.push(Sha256::digest(&*part).into());
    }
    Ok(all)
}
