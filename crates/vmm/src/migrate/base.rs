//! The disk of an image as a digest: two hosts that have it need not send it.
//!
//! Holes are read as what they are, zeroes, and count as nothing: the digest is that of the blocks of 64 KiB that have any
//! other byte, each behind its place (`u64`, little-endian), and of the file's length at the end. So it takes as long as there
//! is content, however large the disk is, and does not depend on how the file came about.

use crate::exit::{Error, Result};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Bytes that count or do not count together.
const BLOCK: u64 = 64 << 10;

/// The parts of a file that are not holes, whole blocks.
pub(crate) struct Extents<'a> {
    file: &'a File,
    at: u64,
    len: u64,
}

impl Extents<'_> {
    /// Of a file of `len` bytes.
    pub(crate) fn of(file: &File, len: u64) -> Extents<'_> {
        Extents { file, at: 0, len }
    }

    fn next_part(&mut self) -> io::Result<Option<Range<u64>>> {
        if self.at >= self.len {
            return Ok(None);
        }
        let data = match seek(self.file, SeekFrom::Data(self.at)) {
            Ok(at) => at,
            Err(Errno::NXIO) => {
                self.at = self.len;
                return Ok(None);
            }
            // A file system that knows no holes.
            Err(Errno::INVAL) => self.at,
            Err(e) => return Err(e.into()),
        };
        // From the data on: where its block begins there may be a hole still.
        let end = match seek(self.file, SeekFrom::Hole(data)) {
            Ok(end) => end.next_multiple_of(BLOCK).min(self.len),
            Err(Errno::INVAL | Errno::NXIO) => self.len,
            Err(e) => return Err(e.into()),
        };
        let part = (data / BLOCK * BLOCK).max(self.at)..end;
        self.at = part.end;
        Ok(Some(part))
    }
}

impl Iterator for Extents<'_> {
    type Item = io::Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_part().transpose()
    }
}

/// The digest of a file, in hexadecimal.
pub(crate) fn digest(path: &Path) -> Result<String> {
    let file = File::open(path).map_err(|e| Error::io(format_args!("read {}", path.display()), e))?;
    digest_of(&file, path)
}

/// The same, of an open file that is, or was, at `path`.
pub(crate) fn digest_of(file: &File, path: &Path) -> Result<String> {
    let fail = |e| Error::io(format_args!("read {}", path.display()), e);
    let len = file.metadata().map_err(fail)?.len();
    let mut hash = Sha256::new();
    let mut block = vec![0; BLOCK as usize];
    for part in Extents::of(file, len) {
        let part = part.map_err(fail)?;
        for at in part.clone().step_by(BLOCK as usize) {
            let most = (part.end - at).min(BLOCK) as usize;
            let bytes = block.get_mut(..most).unwrap_or_default();
            file.read_exact_at(bytes, at).map_err(fail)?;
            if bytes.iter().any(|b| *b != 0) {
                hash.update(at.to_le_bytes());
                hash.update(bytes);
            }
        }
    }
    hash.update(len.to_le_bytes());
    Ok(strata_snapshot::hex(&hash.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_count_as_zeroes_and_content_by_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, len: u64, parts: &[(u64, Vec<u8>)]| {
            let path = dir.path().join(name);
            let file = File::create(&path).unwrap();
            file.set_len(len).unwrap();
            parts.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
            (
                digest(&path).unwrap(),
                Extents::of(&File::open(&path).unwrap(), len).map(Result::unwrap).collect::<Vec<_>>(),
            )
        };
        let len = (10 << 20) + 700;
        let (holes, extents) = file("a", len, &[(3 << 20, vec![7; 5000]), (len - 3, vec![1; 3])]);
        let (full, _) =
            file("b", len, &[(0, vec![0; len as usize]), (3 << 20, vec![7; 5000]), (len - 3, vec![1; 3])]);
        assert_eq!(holes, full);
        let covered = |at: u64| extents.iter().any(|e| e.contains(&at));
        assert!(covered(3 << 20) && covered(len - 1), "{extents:?}");
        let others = [
            file("c", len + 1, &[(3 << 20, vec![7; 5000]), (len - 3, vec![1; 3])]).0,
            file("d", len, &[(4 << 20, vec![7; 5000]), (len - 3, vec![1; 3])]).0,
            file("e", len, &[(3 << 20, vec![7; 5000]), (len - 3, vec![2; 3])]).0,
            file("f", 0, &[]).0,
        ];
        assert!(others.iter().all(|o| *o != holes), "{others:?}");
        // Data that begins in mid-block, behind a hole.
        let at = BLOCK + 8192;
        let (_, extents) = file("g", 4 * BLOCK, &[(at, vec![7; 4096]), (3 * BLOCK + 4096, vec![7])]);
        assert!(
            extents.iter().all(|e| !e.is_empty()) && extents.iter().any(|e| e.contains(&at)),
            "{extents:?}"
        );
    }
}
