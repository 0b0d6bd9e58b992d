//! State and memory of a set as pieces, and back.

use super::{Contents, ExportWriter, Item, PIECE, Piece};
use crate::{FileRef, LayerChain, Manifest, Placed, RunKind, SetReader, SetWriter, SnapshotError, hex};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use strata_memory::PAGE;

impl<W: Write> ExportWriter<W> {
    /// Adds state and memory of `set`: one layer of all its pages, whatever layers it is made of. `progress` hears how
    /// many bytes were added.
    ///
    /// # Errors
    /// The set cannot be mapped; it cannot be written.
    pub fn put_set(&mut self, set: &SetReader, progress: &mut dyn FnMut(u64)) -> Result<(), SnapshotError> {
        for (i, part) in set.state().chunks(PIECE).enumerate() {
            self.put(Item::State, (i * PIECE) as u64, part)?;
            progress(part.len() as u64);
        }
        let (len, runs, mut buf) = (set.manifest().machine.memory, set.memory().runs(), vec![0; PIECE]);
        for at in (0..len).step_by(PIECE) {
            let part = buf.get_mut(..(len - at).min(PIECE as u64) as usize).unwrap_or_default();
            read(set.memory(), &runs, at, part)?;
            self.put(Item::Memory, at, part)?;
            progress(part.len() as u64);
        }
        Ok(())
    }
}

/// Reads memory from byte `at` on. Only data is touched: on some file systems even reading a hole takes room.
fn read(memory: &LayerChain, runs: &[Placed], at: u64, to: &mut [u8]) -> Result<(), SnapshotError> {
    let end = at + to.len() as u64;
    to.fill(0);
    let first = runs.partition_point(|p| (p.run.first + p.run.pages) * PAGE <= at);
    for Placed { run, layer } in runs.iter().skip(first).take_while(|p| p.run.first * PAGE < end) {
        let (begin, stop) = ((run.first * PAGE).max(at), ((run.first + run.pages) * PAGE).min(end));
        if let (RunKind::Data(from), Some(layer)) = (run.kind, memory.layers().get(*layer)) {
            let part = to.get_mut((begin - at) as usize..(stop - at) as usize).unwrap_or_default();
            let read = layer.file().read_exact_at(part, from + (begin - run.first * PAGE));
            read.map_err(SnapshotError::io("read", layer.path()))?;
        }
    }
    Ok(())
}

/// State and memory on their way from an export into a set: memory into its file as it comes.
#[derive(Debug)]
pub struct Incoming {
    state: Vec<u8>,
    set: SetWriter,
}

impl Incoming {
    /// Room for what `contents` announces, in the new folder `dir`. Dropped before it is written, it leaves nothing.
    ///
    /// # Errors
    /// The host does not give it.
    pub fn new(contents: &Contents, dir: &Path) -> Result<Incoming, SnapshotError> {
        let set = SetWriter::receive(dir, contents.memory.div_ceil(PAGE))?;
        Ok(Incoming { state: vec![0; contents.state as usize], set })
    }

    /// Takes a piece, if it is of state or memory; whether it was.
    ///
    /// # Errors
    /// The host does not let it be written; it lies outside: its reader has checked that it does not.
    pub fn take(&mut self, piece: &Piece<'_>) -> Result<bool, SnapshotError> {
        match piece.item {
            Item::State => {
                let to = self.state.iter_mut().skip(piece.place as usize);
                to.zip(piece.bytes).for_each(|(to, from)| *to = *from);
            }
            Item::Memory => self.set.put(piece.place, piece.bytes)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Makes a set of them at `to`; `from` is what errors call the export.
    ///
    /// # Errors
    /// The state is not the one that the manifest names; the host does not let it be written. Nothing is left.
    pub fn write(mut self, manifest: Manifest, to: &Path, from: &Path) -> Result<Manifest, SnapshotError> {
        let found = FileRef { size: self.state.len() as u64, sha256: hex(&Sha256::digest(&self.state)) };
        if found != manifest.state {
            return Err(SnapshotError::bad(
                "export",
                from,
                "its state is not the one that its manifest names",
            ));
        }
        self.set.put_state(self.state);
        self.set.finish(manifest, to, &AtomicBool::new(false))
    }
}
