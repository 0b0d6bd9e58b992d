//! Writing a snapshot to one file.

use super::{Contents, HEAD, Item, PIECE, fields, header, sum};
use crate::{Manifest, SnapshotError};
use sha2::{Digest, Sha256};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// zstd's level: the fastest of the usual ones. Memory and disks pack to a third by it, and little better by others.
const LEVEL: i32 = 1;

/// Writes pieces in their order. It never looks back: any stream will do.
pub struct ExportWriter<W> {
    out: W,
    path: PathBuf,
    sum: [u8; 32],
    packer: zstd::bulk::Compressor<'static>,
}

impl<W: Write> ExportWriter<W> {
    /// Begins an export to `out`, which is called `path` in errors.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn new(
        mut out: W,
        path: &Path,
        manifest: &Manifest,
        contents: &Contents,
    ) -> Result<ExportWriter<W>, SnapshotError> {
        let fail = |e| SnapshotError::io("write", path)(e);
        out.write_all(&header()).map_err(fail)?;
        let packer = zstd::bulk::Compressor::new(LEVEL).map_err(fail)?;
        let mut writer =
            ExportWriter { out, path: path.to_owned(), sum: Sha256::digest(header()).into(), packer };
        writer.put(Item::Manifest, 0, &manifest.bytes())?;
        // Numbers only: it cannot fail.
        writer.put(Item::Contents, 0, &serde_json::to_vec(contents).unwrap_or_default())?;
        Ok(writer)
    }

    /// Adds `bytes` of an item, up to [`PIECE`] of them, at `place`. Zeroes are left out.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn put(&mut self, item: Item, place: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        if item != Item::End && crate::layer::is_zero(bytes) {
            return Ok(());
        }
        let path = self.path.clone();
        self.piece(item, place, bytes).map_err(SnapshotError::io("write", &path))
    }

    fn piece(&mut self, item: Item, place: u64, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > PIECE {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let packed = self.packer.compress(bytes)?;
        let fields = fields(item, bytes.len() as u32, packed.len() as u32, place);
        self.sum = sum(&self.sum, &fields, &packed, bytes);
        let mut head = [0; HEAD];
        let (first, second) = head.split_at_mut(fields.len());
        first.copy_from_slice(&fields);
        second.copy_from_slice(&self.sum);
        self.out.write_all(&head)?;
        self.out.write_all(&packed)
    }

    /// Ends it; gives the stream back, which is not durable yet.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn finish(mut self) -> Result<W, SnapshotError> {
        self.put(Item::End, 0, &[])?;
        self.out.flush().map_err(SnapshotError::io("write", &self.path))?;
        Ok(self.out)
    }
}
