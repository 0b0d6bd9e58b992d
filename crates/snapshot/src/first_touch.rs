//! Which pages a machine touched first after it had gone on from a snapshot: a hint beside the set, for whoever goes on
//! from it next.
//!
//! ```text
//! 0     magic "strataFT"   version: u32   runs: u32   id of the snapshot: 16
//! 32    runs: first page: u32, pages: u32, in the order in which they were touched
//! ...   SHA-256 of all before it
//! ```
//! It is no part of the set: whoever finds none, or one that is damaged or of another snapshot, goes on without. It is written
//! at once and never replaced, so that many may try.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat, openat};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

/// Its name in the folder of a set.
pub const FIRST_TOUCH: &str = "first-touch";
const MAGIC: &[u8; 8] = b"strataFT";
const VERSION: u32 = 1;
const HEADER: usize = 32;
const RUN: usize = 8;
const SUM: usize = 32;
/// Most runs that are kept: what comes later was not first.
const MOST: usize = 1 << 14;

/// Runs of pages in the order of their first touch: the first page, and how many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirstTouch(pub Vec<(u32, u32)>);

impl FirstTouch {
    /// What is kept in `dir` about the snapshot `id`, if anything is.
    pub fn read(dir: &Path, id: &[u8; 16]) -> Option<FirstTouch> {
        let (mut bytes, most) = (Vec::new(), HEADER + MOST * RUN + SUM);
        let file = File::open(dir.join(FIRST_TOUCH)).ok()?;
        file.take(most as u64 + 1).read_to_end(&mut bytes).ok()?;
        FirstTouch::parse(&bytes, id)
    }

    fn parse(bytes: &[u8], id: &[u8; 16]) -> Option<FirstTouch> {
        let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(SUM)?)?;
        let (header, runs) = body.split_at_checked(HEADER)?;
        let known = header.starts_with(MAGIC)
            && header.get(8..12) == Some(&VERSION.to_le_bytes())
            && header.get(12..16) == Some(&u32::try_from(runs.len() / RUN).ok()?.to_le_bytes())
            && header.get(16..) == Some(id)
            && runs.len().is_multiple_of(RUN)
            && Sha256::digest(body)[..] == *sum;
        let number = |b: &[u8]| b.iter().rev().fold(0u32, |n, b| n << 8 | u32::from(*b));
        known.then(|| FirstTouch(runs.chunks(RUN).map(|r| (number(&r[..4]), number(&r[4..]))).collect()))
    }

    fn bytes(&self, id: &[u8; 16]) -> Vec<u8> {
        let runs = self.0.get(..MOST).unwrap_or(&self.0);
        let mut b = MAGIC.to_vec();
        b.extend(VERSION.to_le_bytes());
        b.extend((runs.len() as u32).to_le_bytes());
        b.extend(id);
        for (first, pages) in runs {
            b.extend(first.to_le_bytes());
            b.extend(pages.to_le_bytes());
        }
        let sum = Sha256::digest(&b);
        b.extend(sum);
        b
    }

    /// Keeps it in `dir`, about the snapshot `id`. If something is kept there already, that stays.
    ///
    /// # Errors
    /// The host does not let it be written; nothing is left.
    pub fn write(&self, dir: &Path, id: &[u8; 16]) -> io::Result<()> {
        // Without a name until it is whole.
        let fd =
            openat(CWD, dir, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
        let mut file = File::from(fd);
        file.write_all(&self.bytes(id))?;
        let unnamed = format!("/proc/self/fd/{}", file.as_raw_fd());
        match linkat(CWD, unnamed, CWD, dir.join(FIRST_TOUCH), AtFlags::SYMLINK_FOLLOW) {
            Err(rustix::io::Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_first_is_kept_once_and_for_its_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let first = FirstTouch(vec![(7, 2), (0, 1), (1 << 29, 16)]);
        assert_eq!(FirstTouch::read(dir.path(), &[1; 16]), None);
        first.write(dir.path(), &[1; 16]).unwrap();
        FirstTouch(vec![(1, 1)]).write(dir.path(), &[1; 16]).unwrap();
        assert_eq!(FirstTouch::read(dir.path(), &[1; 16]), Some(first));
        assert_eq!(FirstTouch::read(dir.path(), &[2; 16]), None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_one_is_none() {
        let good = FirstTouch(vec![(7, 2), (9, 1)]).bytes(&[1; 16]);
        assert!(FirstTouch::parse(&good, &[1; 16]).is_some());
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(FirstTouch::parse(&bad, &[1; 16]), None, "byte {at}");
            assert_eq!(FirstTouch::parse(&good[..at], &[1; 16]), None, "cut at {at}");
        }
        let many = FirstTouch((0..MOST as u32 + 9).map(|n| (n * 2, 1)).collect());
        assert_eq!(FirstTouch::parse(&many.bytes(&[1; 16]), &[1; 16]).unwrap().0.len(), MOST);
    }
}
