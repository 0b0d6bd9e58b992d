//! A layer of memory that comes in pieces from elsewhere: it goes into the file as it comes.

use super::index::{RunKind, push};
use super::write::{Names, complete, is_zero};
use super::{DATA, LayerInfo, PAGE};
use crate::SnapshotError;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A layer without a parent that is being received: a file without a header, which nobody can take for a layer.
#[derive(Debug)]
pub(crate) struct Receiver {
    file: File,
    path: PathBuf,
    /// For each page, whether it has content.
    data: Vec<bool>,
}

impl Receiver {
    /// Makes the file of a layer of `pages` pages.
    ///
    /// # Errors
    /// It cannot be made.
    pub(crate) fn create(path: &Path, pages: u64) -> Result<Receiver, SnapshotError> {
        let fail = |e| SnapshotError::io("write", path)(e);
        let file = File::options().read(true).write(true).create_new(true).open(path).map_err(fail)?;
        file.set_len(DATA + pages * PAGE).map_err(fail)?;
        Ok(Receiver { file, path: path.to_owned(), data: vec![false; pages as usize] })
    }

    /// Memory has `bytes` from byte `place` on. What is put nowhere is zero; nothing is put twice.
    ///
    /// # Errors
    /// The host does not let it be written; it lies outside.
    pub(crate) fn put(&mut self, place: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        let end = place.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > self.data.len() as u64 * PAGE) {
            return Err(SnapshotError::bad("memory", &self.path, "something is to be put beyond its end"));
        }
        let (mut at, mut rest) = (place, bytes);
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min((PAGE - at % PAGE) as usize));
            // A hole stays one.
            if !is_zero(part)
                && let Some(data) = self.data.get_mut((at / PAGE) as usize)
            {
                *data = true;
                self.file.write_all_at(part, DATA + at).map_err(SnapshotError::io("write", &self.path))?;
            }
            (at, rest) = (at + part.len() as u64, after);
        }
        Ok(())
    }

    /// Completes the layer and makes it durable.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub(crate) fn finish(self, id: [u8; 16]) -> Result<LayerInfo, SnapshotError> {
        let mut runs = Vec::new();
        for (page, data) in (0..).zip(&self.data) {
            push(&mut runs, page, if *data { RunKind::Data(DATA + page * PAGE) } else { RunKind::Zero });
        }
        let pages = self.data.len() as u64;
        let names = Names { id, parent: None, stands_for: None };
        complete(&self.file, names, pages, pages * PAGE, &runs)
            .map_err(SnapshotError::io("write", &self.path))
    }
}
