//! An instance's snapshots, what is made from them, and the layers of its disk.
//!
//! ```text
//! snapshots/<tag>/           a set (`strata_snapshot`); it names layers of the instance's disk
//! disk.qcow2, disk-*.qcow2   layers: the record names the writable one and those under it, a snapshot those it needs
//! ```
//! A layer that a snapshot or a record names as being under another never changes. One that nobody names is removed. A
//! clone has links of its own to memory and layers, so that neither needs the other's folder.

use super::layers;
use super::saved::{self, SAVED, read_record};
use super::{Instance, InstanceRecord, MAKING, REMOVING, Store, lock_file, remove_tree, sync_dir};
use crate::spec::NetSpec;
use crate::{Error, Kind, Result, name};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use strata_block::Format;
use strata_snapshot::{Manifest, SetReader, hex, link_set, new_id};

/// The folder of an instance's snapshots, in its folder.
pub(crate) const SNAPSHOTS: &str = "snapshots";

/// A fresh name for a set or a layer.
pub(crate) fn fresh() -> Result<String> {
    let id = new_id().map_err(|e| Error::io("name a snapshot", e))?;
    Ok(hex(&id))
}

/// All files of layers that the record or a snapshot in `dir` names.
pub(crate) fn needed(dir: &Path, record: &InstanceRecord) -> Result<BTreeSet<String>> {
    let mut all: BTreeSet<String> = record.layers.iter().chain([&record.layer]).cloned().collect();
    for (_, manifest) in manifests(dir)? {
        all.extend(manifest?.disks.into_iter().flat_map(|d| d.layers));
    }
    Ok(all)
}

/// Tag and manifest of each snapshot in an instance's folder, by tag.
pub(crate) fn manifests(dir: &Path) -> Result<Vec<(String, Result<Manifest>)>> {
    let at = dir.join(SNAPSHOTS);
    let fail = |e| Error::io(format_args!("read {}", at.display()), e);
    let entries = match fs::read_dir(&at) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(fail)?,
    };
    let mut tags = Vec::new();
    for entry in entries {
        tags.extend(entry.map_err(fail)?.file_name().into_string().ok().filter(|t| !t.starts_with('.')));
    }
    tags.sort_unstable();
    Ok(tags
        .into_iter()
        .map(|t| (t.clone(), SetReader::manifest_of(&at.join(t)).map_err(Error::from)))
        .collect())
}

/// Tags and manifests of those that can be read.
pub(crate) fn readable(dir: &Path) -> Result<Vec<(String, Manifest)>> {
    Ok(manifests(dir)?.into_iter().filter_map(|(tag, m)| Some((tag, m.ok()?))).collect())
}

/// Makes a writable layer over the first of `layers`, in `dir`, not durable yet; gives its name.
pub(super) fn layer_over(dir: &Path, layers: &[String], id: &str) -> Result<Option<String>> {
    let Some(under) = layers.first() else { return Ok(None) };
    let name = format!("disk-{id}.qcow2");
    strata_block::lay_over(&dir.join(&name), &dir.join(under), Format::Qcow2)?;
    Ok(Some(name))
}

impl Store {
    /// An instance's snapshots, by tag; one that is damaged as its error.
    ///
    /// # Errors
    /// `NotFound`, or the folder cannot be read.
    pub fn snapshots(&self, name: &str) -> Result<Vec<(String, Result<Manifest>)>> {
        self.read(name)?;
        manifests(&self.path(name)?)
    }

    pub(super) fn snapshot(&self, name: &str, tag: &str) -> Result<PathBuf> {
        self.read(name)?;
        name::check_name(tag)?;
        let dir = self.path(name)?.join(SNAPSHOTS).join(tag);
        if !dir.exists() {
            let m = format!("The instance {name} has no snapshot {tag}: see `strata snapshot list {name}`.");
            return Err(Error::new(Kind::NotFound, m));
        }
        Ok(dir)
    }

    /// Checks a snapshot: manifest, state, index and that its disk's layers are there; with `pages`, all memory too.
    ///
    /// # Errors
    /// `NotFound`; `BadInput` with what is wrong.
    pub fn verify(&self, name: &str, tag: &str, pages: bool) -> Result<Manifest> {
        let set = SetReader::open(&self.snapshot(name, tag)?)?;
        self.has_layers(name, tag, set.manifest())?;
        if pages {
            set.memory().verify()?;
        }
        Ok(set.manifest().clone())
    }

    /// Checks that the layers of the disk are there that a snapshot names.
    pub(super) fn has_layers(&self, name: &str, tag: &str, manifest: &Manifest) -> Result<()> {
        let dir = self.path(name)?;
        for layer in manifest.disks.iter().flat_map(|d| &d.layers) {
            let path = dir.join(layer);
            if layer.contains('/') || !path.is_file() {
                let m = format!(
                    "The snapshot {tag} of {name} needs the disk layer {}, which is not there.",
                    path.display()
                );
                return Err(Error::new(Kind::BadInput, m));
            }
        }
        Ok(())
    }

    /// Removes a snapshot, and the layers that nobody needs any more. Whatever was made from it stays; snapshots that came
    /// from it come from its parent now, and layers of memory that only they need are merged with theirs. Machines may run.
    ///
    /// # Errors
    /// `NotFound`, or what the host answers.
    pub fn delete_snapshot(&self, name: &str, tag: &str) -> Result<()> {
        let dir = self.path(name)?;
        self.remove_snapshot(name, tag)?;
        if let Err(e) = layers::merge_all(&dir) {
            // It is gone all the same; what was not merged takes room.
            tracing::warn!("layers of {name} were not merged: {e}");
        }
        Ok(())
    }

    fn remove_snapshot(&self, name: &str, tag: &str) -> Result<()> {
        let dir = self.path(name)?;
        let _guard = self.guard()?;
        let set = self.snapshot(name, tag)?;
        let manifest = SetReader::manifest_of(&set).ok();
        // First: if it ends here, the snapshot is there and has no children.
        if let Some(Err(e)) = manifest.as_ref().map(|m| layers::pass_on_children(&dir, m)) {
            tracing::warn!("snapshots of {name} that come from {tag} have no parent now: {e}");
        }
        let disks: Vec<String> = manifest.into_iter().flat_map(|m| m.disks).flat_map(|d| d.layers).collect();
        let old = set.with_file_name(format!("{REMOVING}{tag}"));
        remove_tree(&old)?;
        let fail = |e| Error::io(format_args!("remove the snapshot {tag} of {name}"), e);
        fs::rename(&set, &old).and_then(|()| sync_dir(set.parent().unwrap_or(&set))).map_err(fail)?;
        remove_tree(&old)?;
        // Only its own layers: others may be in the making. If something cannot be read, all stay.
        if let Ok(needed) = read_record(&dir).and_then(|record| needed(&dir, &record)) {
            for layer in disks.iter().filter(|l| !needed.contains(*l) && !l.contains('/')) {
                let _ = fs::remove_file(dir.join(layer));
            }
        }
        Ok(())
    }

    /// Makes an instance that goes on from another's snapshot, and holds its lock. It has its own links to memory and
    /// disk, and `net` for a network.
    ///
    /// # Errors
    /// `NotFound`; `BadInput` for a damaged snapshot; `CannotCreate` if `new` exists. Nothing is left behind.
    pub fn clone_from(&self, source: &str, tag: &str, new: &str, net: Option<NetSpec>) -> Result<Instance> {
        // From here on nobody rewrites the snapshot.
        let _guard = self.guard()?;
        let (set, to, from) = (self.snapshot(source, tag)?, self.path(new)?, self.path(source)?);
        // State and memory are checked by the clone's own process, and a clone that does not start leaves nothing.
        let manifest = SetReader::manifest_of(&set)?;
        self.has_layers(source, tag, &manifest)?;
        let mut record = record_of(&manifest, &format_args!("The snapshot {tag} of {source}"))?;
        rebind(&mut record, net, source)?;
        self.free(new)?;
        let making = self.dir.join(format!("{MAKING}{new}"));
        remove_tree(&making)?;
        record.name = new.to_owned();
        record.created = crate::now();
        record.ephemeral = false;
        let made = (|| {
            let fail = |e: std::io::Error| Error::io(format_args!("make the instance {new}"), e);
            fs::DirBuilder::new().mode(0o700).create(&making).map_err(fail)?;
            let lock =
                lock_file(&making, true)?.ok_or_else(|| fail(std::io::ErrorKind::WouldBlock.into()))?;
            for layer in manifest.disks.iter().flat_map(|d| &d.layers) {
                fs::hard_link(from.join(layer), making.join(layer)).map_err(fail)?;
            }
            // What it is started from, where that came with an import.
            for file in [&mut record.firmware, &mut record.kernel, &mut record.initrd].into_iter().flatten() {
                if let (true, Some(name)) = (file.starts_with(&from), file.clone().file_name()) {
                    fs::hard_link(&*file, making.join(name)).map_err(fail)?;
                    *file = to.join(name);
                }
            }
            put_back(&making, &set, &manifest, &mut record)?;
            // Its first snapshot is to have only what it has written: the one that it comes from is not its own.
            record.under = record.suspended.clone();
            durable(&making, &record).map_err(fail)?;
            saved::write_record(&making, &record)?;
            fs::rename(&making, &to).and_then(|()| sync_dir(&self.dir)).map_err(fail)?;
            Ok(Instance { record, dir: to.clone(), lock, fresh: true, from: Some(set.clone()) })
        })();
        if made.is_err() {
            let _ = remove_tree(&making);
        }
        made
    }
}

/// What a snapshot's instance was made of. `what` is what errors call the snapshot.
pub(super) fn record_of(manifest: &Manifest, what: &dyn std::fmt::Display) -> Result<InstanceRecord> {
    InstanceRecord::parse(manifest.instance.to_string().as_bytes())
        .map_err(|e| Error::new(Kind::BadInput, format!("{what} has no usable record: {e}.")))
}

/// Gives a copy of `source` a network of its own: `net`, or what of the source's another machine may have too.
pub(super) fn rebind(record: &mut InstanceRecord, net: Option<NetSpec>, source: &str) -> Result<()> {
    record.net = match (net, &record.net) {
        (Some(NetSpec::None), old) if *old != NetSpec::None => return Err(card(source, "has")),
        (Some(new), NetSpec::None) if new != NetSpec::None => return Err(card(source, "has not")),
        (Some(new), _) => new,
        (None, NetSpec::Tap { name }) => {
            let m = format!("{source} is on the interface {name}: say with --net where its clone is to be.");
            return Err(Error::new(Kind::Config, m));
        }
        // Its ports on the host are the source's.
        (None, NetSpec::User { .. }) => NetSpec::User { forwards: Vec::new() },
        (None, NetSpec::None) => NetSpec::None,
    };
    Ok(())
}

fn card(source: &str, has: &str) -> Error {
    let m = format!("{source} {has} a network card, and so its clone: give a --net that fits.");
    Error::new(Kind::Config, m)
}

/// Makes `record`, of the instance in `dir`, go on from the set: own names for its files, a new layer over its disk. None of
/// it is durable, and the record is not written. The store's lock is held.
fn put_back(dir: &Path, set: &Path, manifest: &Manifest, record: &mut InstanceRecord) -> Result<()> {
    let id = fresh()?;
    let saved = format!("{SAVED}{id}");
    link_set(set, manifest, &dir.join(&saved))?;
    let layers = manifest.disks.first().map(|d| d.layers.clone()).unwrap_or_default();
    if let Some(layer) = layer_over(dir, &layers, &id)? {
        (record.layer, record.layers) = (layer, layers);
    }
    (record.suspended, record.renewed, record.under) = (Some(saved), true, None);
    let then = record_of(manifest, &format_args!("The snapshot {}", set.display()))?;
    record.comes_from(manifest.id.clone(), then.ancestors());
    Ok(())
}

/// Makes durable what the instance in `dir` goes on from: its writable layer, and the names in its set.
pub(super) fn durable(dir: &Path, record: &InstanceRecord) -> std::io::Result<()> {
    if record.own_disk(dir).is_some() {
        fs::File::open(dir.join(&record.layer))?.sync_all()?;
    }
    record.suspended.iter().try_for_each(|set| sync_dir(&dir.join(set)))?;
    sync_dir(dir)
}

impl Instance {
    /// Goes back to a snapshot: [`Instance::spec`] says from here on how it goes on from there. When its machine runs, that is
    /// written down, and what it was before is lost, unless a snapshot has it. If that does not come to pass, it stays what
    /// it was.
    ///
    /// # Errors
    /// `NotFound`; `BadInput` if it is not whole.
    pub fn go_back(&mut self, tag: &str) -> Result<()> {
        let store = Store::of(&self.dir);
        // From here on nobody rewrites the snapshot.
        let guard = store.guard()?;
        let set = store.snapshot(&self.record.name, tag)?;
        let manifest = SetReader::manifest_of(&set)?;
        store.has_layers(&self.record.name, tag, &manifest)?;
        let mut record = self.record.clone();
        put_back(&self.dir, &set, &manifest, &mut record)?;
        drop(guard);
        (self.record, self.from) = (record, Some(set));
        Ok(())
    }
}
