//! The list of hot paths that stands beside an instance's record, or in a saved set: where its next run begins.
//!
//! It is a hint, so nothing that becomes of it is an error: what cannot be read is ignored, what cannot be written is not
//! there next time, and a line in the log says so. It is replaced as a whole: a crash leaves the old list or the new one.

use std::fmt::Display;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use strata_engine::hot::{HotPaths, MAX_BYTES};
use strata_snapshot::HOT_PATHS;

/// The lists in these folders, where there are any.
pub(crate) fn open<'a>(dirs: impl Iterator<Item = &'a PathBuf>) -> Vec<(PathBuf, File)> {
    dirs.filter_map(|dir| {
        let path = dir.join(HOT_PATHS);
        match File::open(&path) {
            Ok(file) => return Some((path, file)),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => ignored(&path, &e),
        }
        None
    })
    .collect()
}

/// All of `lists` in one; what cannot be used is left out.
pub(crate) fn read(lists: Vec<(PathBuf, File)>) -> HotPaths {
    let mut read = lists.into_iter().filter_map(|(path, file)| {
        let mut bytes = Vec::new();
        // One more than any list has, so that a longer file is seen to be none.
        let got = file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes);
        let got = got.map_err(|e| e.to_string());
        let list = got.and_then(|_| HotPaths::from_bytes(&bytes).map_err(|e| e.to_string()));
        list.map_err(|why| ignored(&path, &why)).ok()
    });
    let first = read.next().unwrap_or_default();
    match read.next() {
        Some(second) => HotPaths::of(first.iter().chain(second.iter()).cloned()),
        None => first,
    }
}

fn ignored(path: &Path, why: &dyn Display) {
    tracing::warn!("{} is ignored: {why}", path.display());
}

/// Replaces the list in `dir`, for the holder of the instance's lock; an empty one says nothing, and changes nothing.
pub(crate) fn keep(dir: &Path, paths: &HotPaths) {
    if paths.is_empty() {
        return;
    }
    if let Err(e) = super::replace(dir, HOT_PATHS, &paths.to_bytes()) {
        let path = dir.join(HOT_PATHS);
        tracing::warn!("the list of hot paths {} was not written: {e}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use strata_engine::hot::HotPath;

    fn read_in(dirs: &[&Path]) -> HotPaths {
        read(open(dirs.iter().map(|d| d.to_path_buf()).collect::<Vec<_>>().iter()))
    }

    #[test]
    fn a_list_is_replaced_and_a_bad_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (dir, file) = (dir.path(), dir.path().join(HOT_PATHS));
        assert!(read_in(&[dir]).is_empty());
        let list = |n: u64| HotPaths::of((0..n).map(|i| HotPath::new(0, 4 * i, i, 1, i)));
        for n in [3, 5] {
            keep(dir, &list(n));
            assert_eq!(read_in(&[dir]), list(n));
        }
        // The list of a saved set goes with the instance's.
        let other = tempfile::tempdir().unwrap();
        keep(other.path(), &HotPaths::of([HotPath::new(1, 0, 0, 1, 0)]));
        assert_eq!(read_in(&[dir, other.path()]).len(), 6);
        keep(dir, &HotPaths::default());
        assert_eq!(read_in(&[dir]), list(5), "what says nothing changes nothing");
        assert_eq!(fs::read_dir(dir).unwrap().count(), 1, "nothing is left over");

        let good = fs::read(&file).unwrap();
        let mut flipped = good.clone();
        flipped[40] ^= 1;
        let long = [&good[..], &vec![0; MAX_BYTES]].concat();
        for bad in [&good[..good.len() - 1], &flipped, &long, b""] {
            fs::write(&file, bad).unwrap();
            assert!(read_in(&[dir]).is_empty());
        }
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(read_in(&[dir]).is_empty());
        keep(dir, &list(1));
        assert!(read_in(&[dir]).is_empty(), "what stands in the way is no error");
    }
}
