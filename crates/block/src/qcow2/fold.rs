//! One layer made of several that stand on each other and never change any more.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use vm_memory::VolatileSlice;

use super::check::{COMPRESSED, OFFSET, ZERO};
use super::header::{Header, be64};
use super::{checked_header, create_overlay};
use crate::open::{OpenOptions, open};
use crate::qcow2::Chain;
use crate::{Disk, DiskError, Format};

/// Makes the qcow2 layer `to` of the qcow2 layers `upper`, nearest first, which stand on `below`, nearest first: with `to` in
/// their place, the disk is the same. It is durable when this returns. None of them may change meanwhile.
///
/// # Errors
/// A [`DiskError`] of any kind; no file is left then.
pub fn fold_layers(upper: &[PathBuf], below: &[(PathBuf, Format)], to: &Path) -> Result<(), DiskError> {
    let (Some(top), Some((under, format))) = (upper.first(), below.first()) else {
        return Err(DiskError::unsupported(
            to,
            "a layer is to be made of no layers, or over none",
            "Name at least one of each.",
        ));
    };
    // The first layer may have made the disk larger.
    let size = header_of(top)?.1.size;
    create_overlay(to, under, *format, Some(size))?;
    let made = copy(upper, below, to);
    if made.is_err() {
        // The first error is the one to tell.
        let _ = std::fs::remove_file(to);
    }
    made
}

fn copy(upper: &[PathBuf], below: &[(PathBuf, Format)], to: &Path) -> Result<(), DiskError> {
    let chain = upper.iter().skip(1).map(|p| (p.clone(), Format::Qcow2)).chain(below.iter().cloned());
    let read_only = |path: &PathBuf, chain: Vec<_>| OpenOptions {
        format: Some(Format::Qcow2),
        read_only: true,
        chain: Chain::Given(chain),
        ..OpenOptions::new(path, "fold")
    };
    let top = upper.first().cloned().unwrap_or_default();
    let mut from = open(read_only(&top, chain.collect()))?;
    let into = OpenOptions { read_only: false, ..read_only(&to.to_path_buf(), below.to_vec()) };
    let mut into = open(into)?;
    let size = from.size();
    let fail = |what: &'static str| move |e| DiskError::from_io(to, what, e);
    for range in held(upper)? {
        let mut bytes = vec![0; range.len as usize];
        // Layers that were smaller end within a cluster of larger ones.
        let len = range.len.min(size.saturating_sub(range.at)) as usize;
        let part = bytes.get_mut(..len).unwrap_or_default();
        if part.is_empty() {
            continue;
        }
        from.read(range.at, &[VolatileSlice::from(&mut *part)]).map_err(fail("read what is folded into"))?;
        let done = if part.iter().all(|b| *b == 0) {
            into.write_zeroes(range.at, len as u64, true)
        } else {
            into.write(range.at, &[VolatileSlice::from(&mut *part)])
        };
        done.map_err(fail("write"))?;
    }
    into.flush().map_err(fail("write"))
}

/// A cluster of the guest's disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cluster {
    /// Where it begins, in bytes.
    pub at: u64,
    /// Its length in bytes; the last one may end behind the disk's end.
    pub len: u64,
}

/// The clusters that any of these qcow2 layers has, in order: where the disk may differ from what is under them. One that is
/// being written must have been flushed, and not be written meanwhile.
///
/// # Errors
/// A [`DiskError`] of any kind.
pub fn held(layers: &[PathBuf]) -> Result<Vec<Cluster>, DiskError> {
    let mut all = Vec::new();
    for path in layers {
        let (file, header) = header_of(path)?;
        let fail = |e| DiskError::from_io(path, "read", e);
        let cluster = header.cluster();
        let mut l1 = vec![0; header.l1_entries as usize * 8];
        file.read_exact_at(&mut l1, header.l1_offset).map_err(fail)?;
        let mut l2 = vec![0; cluster as usize];
        for (n, entry) in l1.chunks_exact(8).enumerate() {
            let table = be64(entry, 0).unwrap_or(0) & OFFSET;
            if table == 0 {
                continue;
            }
            file.read_exact_at(&mut l2, table).map_err(fail)?;
            let first = n as u64 * (cluster / 8);
            let used = |e: u64| e & (OFFSET | ZERO | COMPRESSED) != 0;
            let entries = l2.chunks_exact(8).enumerate();
            let here = entries.filter(|(_, e)| be64(e, 0).is_some_and(used));
            all.extend(here.map(|(i, _)| Cluster { at: (first + i as u64) * cluster, len: cluster }));
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// The file of a layer and its header, both checked.
fn header_of(path: &Path) -> Result<(File, Header), DiskError> {
    let file = File::open(path).map_err(|e| DiskError::from_io(path, "open", e))?;
    let (header, _) = checked_header(&file, path, false, false)?;
    Ok((file, header))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OpenDisk;
    use crate::testing::{memory_dir, pattern, put, whole};

    #[test]
    fn a_folded_layer_is_what_its_layers_were() {
        let dir = memory_dir();
        let at = |n: usize| dir.path().join(format!("l{n}"));
        std::fs::write(dir.path().join("base"), pattern(1, 1 << 20)).unwrap();
        let base = (dir.path().join("base"), Format::Raw);
        // From the top down to `n`.
        let chain = |top: usize| -> Vec<(PathBuf, Format)> {
            (0..top).rev().map(|n| (at(n), Format::Qcow2)).chain([base.clone()]).collect()
        };
        let disk = |path: PathBuf, chain: Vec<_>| -> OpenDisk {
            open(OpenOptions { chain: Chain::Given(chain), ..OpenOptions::new(path, "t") }).unwrap()
        };
        let mut seen = Vec::new();
        for n in 0..4 {
            let below = chain(n);
            // The third makes it larger.
            let size = (n == 2).then_some(3 << 20);
            create_overlay(&at(n), &below[0].0, below[0].1, size).unwrap();
            let mut d = disk(at(n), below);
            for k in 0..5u64 {
                let offset = ((n as u64 * 7 + k * 5) * 40_000 % (900 << 10)) & !511;
                put(&mut d, offset, &pattern(n as u64 * 10 + k, 3072)).unwrap();
            }
            d.write_zeroes(n as u64 * (128 << 10), 64 << 10, true).unwrap();
            if n == 2 {
                put(&mut d, (2 << 20) + 512, &pattern(99, 512)).unwrap();
            }
            d.flush().unwrap();
            seen.push(whole(&mut d));
        }
        for (from, to) in [(0, 4), (1, 3), (2, 3), (1, 4)] {
            let new = dir.path().join("new");
            let upper: Vec<PathBuf> = (from..to).rev().map(at).collect();
            let below = chain(from);
            fold_layers(&upper, &below, &new).unwrap();
            let mut all: Vec<_> = (to..4).rev().map(|n| (at(n), Format::Qcow2)).collect();
            all.push((new.clone(), Format::Qcow2));
            all.extend(below);
            let top = all.remove(0);
            assert!(whole(&mut disk(top.0, all)) == seen[3], "{from}..{to}");
            assert!(fold_layers(&upper, &chain(from), &new).is_err(), "it is there already");
            std::fs::remove_file(new).unwrap();
        }
        std::fs::write(at(1), b"nonsense").unwrap();
        let new = dir.path().join("new");
        assert!(fold_layers(&[at(2), at(1)], &chain(1), &new).is_err() && !new.exists());
    }
}
