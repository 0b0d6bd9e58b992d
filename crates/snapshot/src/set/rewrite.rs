//! A set that is to say the same in another way: with merged layers, or another parent in the tree.
//!
//! A set's files never change, so a new folder is made of links to them and of what is new, made durable, and put in the
//! place of the old one by exchanging the two names: at every moment one of them is there, whole. Machines that have
//! mapped the old layers keep them.

use super::{known_by, layer_name, link, link_hot_paths, parent, sync_dir, write_durably};
use crate::{DiskRef, Layer, MANIFEST, STATE, SetReader, SnapshotError};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::fs;
use std::ops::Range;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Before the name of a set, while it is rewritten: the new one, then the old one.
const SWAP: &str = ".swap-";

/// What is to be other than it is.
#[derive(Clone, Debug, Default)]
pub struct Rewrite<'a> {
    /// Layers, by their number from the top, and the file of the layer that takes their place: it gets a link.
    pub merged: Option<(Range<usize>, &'a Path)>,
    /// The parent in the tree: another, or none.
    pub parent: Option<Option<String>>,
    /// Its disks: others with the same content.
    pub disks: Option<Vec<DiskRef>>,
}

/// Rewrites the set in `dir`. Others may read it meanwhile if they do so by names that they have opened already; nobody else
/// may rewrite it.
///
/// # Errors
/// The set or the merged layer cannot be used, or the host cannot exchange two names: it is as it was.
pub fn rewrite_set(dir: &Path, rewrite: &Rewrite<'_>) -> Result<(), SnapshotError> {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let making = dir.with_file_name(format!("{SWAP}{name}"));
    match fs::remove_dir_all(&making) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(SnapshotError::io("remove", &making)(e));
        }
        _ => {}
    }
    let made = make(dir, &making, rewrite).and_then(|()| {
        let exchanged = renameat_with(CWD, &making, CWD, dir, RenameFlags::EXCHANGE);
        exchanged.map_err(|e| SnapshotError::io("replace the snapshot", dir)(e.into()))?;
        sync_dir(parent(dir))
    });
    // The new one if that failed, else the old one; a rest is swept with the instance.
    let _ = fs::remove_dir_all(&making);
    made
}

fn make(dir: &Path, making: &Path, rewrite: &Rewrite<'_>) -> Result<(), SnapshotError> {
    let mut manifest = SetReader::manifest_of(dir)?;
    fs::DirBuilder::new().mode(0o700).create(making).map_err(SnapshotError::io("make the folder", making))?;
    link(&dir.join(STATE), &making.join(STATE))?;
    link_hot_paths(dir, making)?;
    let mut layers: Vec<_> = manifest.layers().cloned().collect();
    let mut files: Vec<_> = (0..layers.len()).map(|n| dir.join(layer_name(n))).collect();
    if let Some((which, file)) = &rewrite.merged {
        if which.is_empty() || which.end > layers.len() {
            return Err(SnapshotError::bad("manifest", dir, "it has not the layers that are to be merged"));
        }
        let new = known_by(&Layer::open(file)?, file)?;
        layers.splice(which.clone(), [new]);
        files.splice(which.clone(), [(*file).to_owned()]);
    }
    for (n, file) in files.iter().enumerate() {
        link(file, &making.join(layer_name(n)))?;
    }
    manifest.memory = layers.remove(0);
    manifest.below = layers;
    if let Some(parent) = &rewrite.parent {
        manifest.parent = parent.clone();
    }
    if let Some(disks) = &rewrite.disks {
        manifest.disks = disks.clone();
    }
    write_durably(&making.join(MANIFEST), &manifest.bytes())?;
    sync_dir(making)?;
    // Before it takes the other's place: it can be used.
    SetReader::open(making).map(drop)
}
