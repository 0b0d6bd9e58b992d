//! Layers of memory and of the disk that snapshots of an instance share: merged where nobody needs one by itself, folded
//! where a chain has grown deep.
//!
//! ```text
//!   snapshots     a    b    c        b is deleted         a      c        merged           a     c
//!   layers        A ◄─ B ◄─ C        ─────────────►       A ◄─ B ◄─ C    ───────────►      A ◄─ C'
//! ```
//! Each snapshot has links of its own to all its layers, so deleting one takes nothing from another; merging only gives
//! room back. A merged layer has the name of the upper one, so that what stands on that stands on it. It is written
//! beside the snapshots, and then takes the others' place in one snapshot after the other, each by an exchange of two
//! names under the store's lock: a crash in between leaves some with the old layers and some with the new, all whole.

use super::saved::{read_record, tidy, write_record};
use super::snapshots::{SNAPSHOTS, fresh, needed, readable};
use super::{Store, remove_tree};
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use strata_block::Format;
use strata_snapshot::{MEMORY, Manifest, Rewrite, SetReader, new_id, rewrite_set};

/// From that many layers of a disk on they are folded.
const FOLD_DISK: usize = 8;
/// Before the names of folders in which layers are merged.
const MERGING: &str = ".merge-";

/// The store's lock, for who has only an instance's folder.
pub(crate) fn guard_of(dir: &Path) -> Result<OwnedFd> {
    Store::of(dir).guard()
}

/// Removes what dead processes have left among the snapshots. The store's lock and the instance's are held.
pub(super) fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir.join(SNAPSHOTS)).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with('.') {
            // What stays is tried again next time.
            let _ = remove_tree(&entry.path());
        }
    }
    tidy(dir);
}

/// A snapshot is gone: what came from it comes from its parent now. The store's lock is held.
pub(super) fn pass_on_children(dir: &Path, gone: &Manifest) -> Result<()> {
    for (tag, manifest) in readable(dir)? {
        if manifest.parent.as_ref() == Some(&gone.id) {
            let rewrite = Rewrite { parent: Some(gone.parent.clone()), ..Rewrite::default() };
            rewrite_set(&dir.join(SNAPSHOTS).join(tag), &rewrite)?;
        }
    }
    Ok(())
}

/// A layer that no snapshot has as its own, that has a layer below it, and that only one other stands on: a snapshot that has
/// both, and the upper one's number there.
fn to_merge(sets: &[(String, Manifest)]) -> Option<(&str, usize)> {
    let tops: BTreeSet<&str> = sets.iter().map(|(_, m)| m.memory.sha256.as_str()).collect();
    for (tag, manifest) in sets {
        let layers: Vec<_> = manifest.layers().collect();
        // The lowest is large, and little of it is ever in vain.
        for (upper, pair) in layers.windows(2).enumerate().take(layers.len().saturating_sub(2)) {
            let [_, lower] = pair else { continue };
            let above = |(_, m): &(String, Manifest)| {
                let at = m.layers().position(|l| l.sha256 == lower.sha256)?;
                m.layers().nth(at.checked_sub(1)?).map(|l| l.sha256.clone())
            };
            let uppers: BTreeSet<String> = sets.iter().filter_map(above).collect();
            if !tops.contains(lower.sha256.as_str()) && uppers.len() == 1 {
                return Some((tag, upper));
            }
        }
    }
    None
}

/// Merges layers of the snapshots in `dir` that are needed for others only. Machines may run. The caller does not hold the
/// store's lock.
pub(super) fn merge_all(dir: &Path) -> Result<()> {
    let mut sets = readable(dir)?;
    // Each merge takes one layer away.
    for _ in 0..sets.iter().map(|(_, m)| m.below.len()).sum() {
        let Some((tag, upper)) = to_merge(&sets) else { break };
        merge(dir, tag, |_| Some(upper..upper + 2))?;
        sets = readable(dir)?;
    }
    Ok(())
}

/// Folds the chain of a snapshot in `dir` if it is deep: all layers but its own and the lowest become one, or all but its own
/// where those are large. Machines may run. The caller does not hold the store's lock.
pub(crate) fn fold(dir: &Path, tag: &str) -> Result<()> {
    merge(dir, tag, |set| {
        let layers = set.memory().layers();
        let middle = 1..layers.len().saturating_sub(1);
        let size = |l: &strata_snapshot::Layer| l.file().metadata().map_or(u64::MAX, |m| m.len());
        let large = layers.get(middle.clone())?.iter().map(size).fold(0, u64::saturating_add);
        let deep = set.memory().is_deep() && !middle.is_empty();
        let whole = large > set.manifest().machine.memory / 2;
        deep.then_some(if whole { 1..layers.len() } else { middle })
    })
}

/// Merges the layers of a snapshot that `which` names, and puts the new one in their place wherever they follow each other.
fn merge(dir: &Path, tag: &str, which: impl Fn(&SetReader) -> Option<Range<usize>>) -> Result<()> {
    let at = dir.join(SNAPSHOTS);
    let set = SetReader::open(&at.join(tag))?;
    let Some(which) = which(&set) else { return Ok(()) };
    let work = at.join(format!("{MERGING}{}", fresh()?));
    let fail = |e| Error::io(format_args!("make the folder {}", work.display()), e);
    fs::DirBuilder::new().mode(0o700).create(&work).map_err(fail)?;
    let merged = (|| {
        let file = work.join(MEMORY);
        let id = new_id().map_err(|e| Error::io("name a layer", e))?;
        set.memory().merge(which.clone(), &file, id)?;
        let names = |m: &Manifest| m.layers().map(|l| l.sha256.clone()).collect::<Vec<_>>();
        let old = names(set.manifest()).get(which.clone()).unwrap_or_default().to_vec();
        let _guard = guard_of(dir)?;
        for (tag, manifest) in readable(dir)? {
            if let Some(n) = names(&manifest).windows(old.len()).position(|w| w == old) {
                let rewrite = Rewrite { merged: Some((n..n + old.len(), &file)), ..Rewrite::default() };
                rewrite_set(&at.join(tag), &rewrite)?;
            }
        }
        Ok(())
    })();
    let removed = remove_tree(&work);
    merged.and(removed)
}

/// Folds the chain of layers of the disk if it is deep: all but the uppermost and the lowest of those that do not change any
/// more become one. The machine may run, and goes on with the files that it has open. `alone` is called before the record
/// changes.
pub(crate) fn fold_disk<G>(dir: &Path, alone: impl FnOnce() -> G) -> Result<()> {
    let record = read_record(dir)?;
    let (Some((base, format)), [_, upper @ .., lowest]) = (&record.base, &record.layers[..]) else {
        return Ok(());
    };
    if record.layers.len() < FOLD_DISK || upper.is_empty() {
        return Ok(());
    }
    let name = format!("disk-{}.qcow2", fresh()?);
    let paths: Vec<PathBuf> = upper.iter().map(|l| dir.join(l)).collect();
    let below = [(dir.join(lowest), Format::Qcow2), (base.clone(), (*format).into())];
    strata_block::fold_layers(&paths, &below, &dir.join(&name))?;
    let replaced = |layers: &[String]| {
        let at = layers.windows(upper.len()).position(|w| w == upper)?;
        let mut new = layers.to_vec();
        new.splice(at..at + upper.len(), [name.clone()]);
        Some(new)
    };
    let _alone = alone();
    let _guard = guard_of(dir)?;
    for (tag, manifest) in readable(dir)? {
        let mut disks = manifest.disks.clone();
        disks.iter_mut().for_each(|d| d.layers = replaced(&d.layers).unwrap_or_else(|| d.layers.clone()));
        if disks != manifest.disks {
            let rewrite = Rewrite { disks: Some(disks), ..Rewrite::default() };
            rewrite_set(&dir.join(SNAPSHOTS).join(tag), &rewrite)?;
        }
    }
    let mut record = read_record(dir)?;
    if let Some(layers) = replaced(&record.layers) {
        record.layers = layers;
        write_record(dir, &record)?;
    }
    // What somebody still needs stays, the new one too; if something cannot be read, all do.
    if let Ok(needed) = needed(dir, &record) {
        for layer in upper.iter().chain([&name]).filter(|l| !needed.contains(*l)) {
            let _ = fs::remove_file(dir.join(layer));
        }
    }
    Ok(())
}
