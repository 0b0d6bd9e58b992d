//! One layer made of several that stand on each other.

use super::index::push;
use super::write::{Names, complete};
use super::{DATA, LayerChain, LayerInfo, PAGE, RunKind};
use crate::SnapshotError;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Pages that are copied together.
const BATCH: u64 = 256;

impl LayerChain {
    /// Writes a layer `id` that can take the place of the layers number `which` of this chain: it has their pages, stands on
    /// what the lowest of them stands on, and has the name of the uppermost. Their data is checked first.
    ///
    /// # Errors
    /// A layer is damaged, or the host does not let the file be written; nothing is left.
    pub fn merge(&self, which: Range<usize>, path: &Path, id: [u8; 16]) -> Result<LayerInfo, SnapshotError> {
        let layers = self.layers().get(which.clone()).unwrap_or_default();
        let (Some(top), Some(lowest)) = (layers.first(), layers.last()) else {
            return Err(SnapshotError::bad("memory", path, "it would be made of no layers"));
        };
        layers.iter().try_for_each(|l| l.verify())?;
        let fail = |e| SnapshotError::io("write", path)(e);
        let file = File::options().read(true).write(true).create_new(true).open(path).map_err(fail)?;
        let names = Names { id, parent: lowest.info().parent, stands_for: Some(top.info().name()) };
        let made = self.copy(which, &file, names).map_err(fail);
        if made.is_err() {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    fn copy(&self, which: Range<usize>, file: &File, names: Names) -> std::io::Result<LayerInfo> {
        let placed = self.runs_in(which);
        let flat = names.parent.is_none();
        let is_data = |kind| matches!(kind, RunKind::Data(_));
        let data = if flat {
            self.pages() * PAGE
        } else {
            placed.iter().filter(|p| is_data(p.run.kind)).map(|p| p.run.pages).sum::<u64>() * PAGE
        };
        file.set_len(DATA + data)?;
        let (mut runs, mut next, mut packed) = (Vec::new(), 0, DATA);
        let mut buf = vec![0; (BATCH * PAGE) as usize];
        for p in placed {
            (next..p.run.first).for_each(|page| push(&mut runs, page, RunKind::Parent));
            next = p.run.first + p.run.pages;
            let RunKind::Data(from) = p.run.kind else {
                (p.run.first..next).for_each(|page| push(&mut runs, page, RunKind::Zero));
                continue;
            };
            let to = if flat { DATA + p.run.first * PAGE } else { packed };
            packed += p.run.pages * PAGE;
            let source = self.layers().get(p.layer).ok_or(std::io::ErrorKind::NotFound)?.file();
            for done in (0..p.run.pages).step_by(BATCH as usize) {
                let len = BATCH.min(p.run.pages - done) * PAGE;
                let part = buf.get_mut(..len as usize).unwrap_or_default();
                source.read_exact_at(part, from + done * PAGE)?;
                file.write_all_at(part, to + done * PAGE)?;
            }
            (0..p.run.pages).for_each(|n| push(&mut runs, p.run.first + n, RunKind::Data(to + n * PAGE)));
        }
        (next..self.pages()).for_each(|page| push(&mut runs, page, RunKind::Parent));
        complete(file, names, self.pages(), data, &runs)
    }
}
