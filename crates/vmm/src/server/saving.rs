//! Saving a running machine into its instance: to go on later, or as a snapshot.
//!
//! ```text
//!   prepare: flush, new folder, new disk layer ─► [ stands: flush, state, dirty epoch, disk switched ] ─► runs on
//!                                                                                    └► memory is copied, all made durable
//! ```
//! A machine that is suspended stands until all is written; one whose vCPUs write without asking (KVM's) stands in a snapshot
//! until its memory is copied. Whatever fails, it goes on as if nothing had been asked.

use super::Shared;
use crate::InstanceRecord;
use crate::convert::now_ns;
use crate::exit::{Error, Kind, Result};
use crate::instances::layers::{fold, fold_disk, guard_of};
use crate::instances::saved::{SAVED, WRITING, read_record, tidy, write_record};
use crate::instances::snapshots::{SNAPSHOTS, fresh, readable};
use crate::name::check_name;
use crate::protocol::Taken;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;
use strata_memory::FIRST_EPOCH;
use strata_snapshot::{DiskRef, MAX_LAYERS, MachineRef, Manifest, SetReader, SetWriter};

/// Moments of this run that are kept as sets: since each of them the machine knows which pages were written.
pub(super) struct Bases(Vec<(String, u32)>);

impl Bases {
    /// Of a machine that has gone on from a set, or from power-on.
    pub(super) fn new(restored_from: Option<String>) -> Bases {
        Bases(restored_from.map(|id| (id, FIRST_EPOCH)).into_iter().collect())
    }

    /// Lets `writer` stand on the latest that is still among the snapshots in `dir`, if there is one.
    fn lay_under(&self, writer: &mut SetWriter, dir: &Path) {
        // So that nobody rewrites that one while its layers are linked.
        let (Ok(_guard), Ok(kept)) = (guard_of(dir), readable(dir)) else { return };
        let under = read_record(dir).ok().and_then(|r| r.under).map(|set| dir.join(set));
        let under = under.and_then(|set| Some((SetReader::manifest_of(&set).ok()?, set)));
        let kept = kept.into_iter().map(|(tag, m)| (m, dir.join(SNAPSHOTS).join(tag)));
        let kept: Vec<_> = kept.chain(under).collect();
        let found = |(id, since): &(String, u32)| {
            let (manifest, set) = kept.iter().find(|(m, _)| m.id == *id)?;
            (manifest.layers().count() < MAX_LAYERS).then_some((set, *since))
        };
        if let Some((below, since)) = self.0.iter().rev().find_map(found) {
            // Where that one is damaged, or goes this moment, the new one has all of memory.
            let _ = writer.stand_on(below, since);
        }
    }
}

/// Saves the machine as what its instance goes on from, then ends it. Nobody else lets it go meanwhile.
pub(super) fn suspend(shared: &Shared, cancelled: &AtomicBool) -> Result<()> {
    let bases = shared.saving.lock().unwrap_or_else(|e| e.into_inner());
    shared.in_turn(|_| suspend_in_turn(shared, &bases, cancelled))
}

fn suspend_in_turn(shared: &Shared, bases: &Bases, cancelled: &AtomicBool) -> Result<()> {
    let dir = instance(shared)?;
    whole(shared)?;
    let ran = shared.machine.phase() == "running";
    let saved = still(shared).and_then(|()| save(shared, bases, dir, cancelled));
    if saved.is_err() {
        if ran {
            // Nothing has changed: it goes on. If it cannot, it has ended meanwhile.
            let _ = shared.machine.unpause();
            shared.publish_phase();
        }
        return saved;
    }
    shared.lock().suspended = true;
    shared.stop("`strata suspend`");
    Ok(())
}

/// Whether all of its memory is here: what still comes from another host cannot be saved yet.
pub(super) fn whole(shared: &Shared) -> Result<()> {
    let missing = shared.machine.ram().map_or(0, |ram| ram.missing());
    if missing == 0 {
        return Ok(());
    }
    let name = &shared.spec.name;
    let m = format!(
        "{missing} pages of {name}'s memory are still on their way from the host that it came from: try again when \
         `strata migrate status {name}` says that it has moved."
    );
    Err(Error::new(Kind::Refused, m))
}

pub(super) fn instance(shared: &Shared) -> Result<&Path> {
    shared.spec.instance_dir.as_deref().ok_or_else(|| {
        let m =
            format!("The machine {} belongs to no instance: there is no place to save it.", shared.spec.name);
        Error::new(Kind::Refused, m)
    })
}

/// Takes a snapshot of the machine, which goes on as soon as its state is known and its disk has a new layer. One that is
/// `passing` is about to be removed: what comes later does not come from it.
pub(super) fn snapshot(
    shared: &Arc<Shared>,
    tag: &str,
    passing: bool,
    cancelled: &AtomicBool,
) -> Result<Taken> {
    let mut bases = shared.saving.lock().unwrap_or_else(|e| e.into_inner());
    let dir = instance(shared)?;
    whole(shared)?;
    let to = allowed(shared, dir, tag)?;
    std::fs::create_dir_all(dir.join(SNAPSHOTS)).map_err(|e| Error::io("make the folder of snapshots", e))?;
    let (id, old) = (fresh()?, read_record(dir)?);
    let mut writer = SetWriter::create(&dir.join(format!("{WRITING}{id}")))?;
    bases.lay_under(&mut writer, dir);
    put_hot_paths(shared, &writer);
    // While it runs yet: all that waits for the host's disks. What is written meanwhile is little, and flushed again.
    let record = with_new_layer(dir, &old, &id)?;
    let mut taken = Taken::default();
    let staged = record.own_disk(dir).map_or(Ok(()), |new| shared.machine.stage_disk(&new));
    let begun = staged.and_then(|()| shared.machine.flush()).and_then(|()| {
        shared.in_turn(|machine| {
            let ran = machine.phase() == "running";
            let stands = Instant::now();
            let begun = still(shared).and_then(|()| {
                let epoch = begin(shared, dir, &mut writer, &old)?;
                if machine.stands_while_copied() {
                    writer.copy(cancelled)?;
                }
                Ok(epoch)
            });
            if ran {
                // If it cannot go on it has ended meanwhile, and the snapshot is good all the same.
                let _ = machine.unpause();
            }
            taken.stood = stands.elapsed().as_micros() as u64;
            begun
        })
    });
    shared.machine.settle_disk();
    if begun.is_err() && record != old && write_record(dir, &old).is_ok() {
        let _ = std::fs::remove_file(dir.join(&record.layer));
    }
    let epoch = begun?;
    let mut manifest = manifest(shared, dir, id, &old);
    manifest.tag = tag.to_owned();
    manifest.disks = vec![DiskRef { layers: record.layers.clone() }];
    let id = manifest.id.clone();
    taken.below = writer.finish(manifest, &to, cancelled)?.below.len();
    if passing {
        return Ok(taken);
    }
    bases.0.push((id.clone(), epoch));
    let mut record = read_record(dir)?;
    let ancestors = record.ancestors();
    record.comes_from(id, ancestors);
    let stood = record.under.take();
    write_record(dir, &record)?;
    if stood.is_some() {
        // From here on it stands on its own.
        tidy(dir);
    }
    fold_later(shared, dir, tag);
    Ok(taken)
}

/// Folds the new snapshot's chains if they are deep, in the background. If the process ends meanwhile, or something goes
/// wrong, the snapshot stays as it is.
fn fold_later(shared: &Arc<Shared>, dir: &Path, tag: &str) {
    let (shared, dir, tag) = (shared.clone(), dir.to_owned(), tag.to_owned());
    let folding = std::thread::Builder::new().name("fold".into()).spawn(move || {
        // Where the record says which layers there are, nobody else may change it.
        let alone = || shared.saving.lock().unwrap_or_else(|e| e.into_inner());
        if let Err(e) = fold(&dir, &tag).and(fold_disk(&dir, alone)) {
            tracing::warn!("the snapshot {tag} was not folded: {e}");
        }
    });
    if let Err(e) = folding {
        tracing::warn!("a snapshot was not folded: {e}");
    }
}

/// Where the snapshot is to be, if there may be one.
fn allowed(shared: &Shared, dir: &Path, tag: &str) -> Result<std::path::PathBuf> {
    let name = &shared.spec.name;
    check_name(tag)?;
    let to = dir.join(SNAPSHOTS).join(tag);
    if to.exists() {
        let m = format!("{name} has a snapshot {tag} already: choose another tag, or delete that one.");
        return Err(Error::new(Kind::CannotCreate, m));
    }
    if shared.spec.ephemeral {
        let m = format!("{name} and all that belongs to it is removed when it ends: run it with a --name.");
        return Err(Error::new(Kind::Refused, m));
    }
    if let Some(d) = shared.spec.disks.iter().find(|d| !d.read_only && !d.path.starts_with(dir)) {
        let m = format!(
            "{name} can write to {}, which is not its own: a snapshot cannot keep that disk as it is.",
            d.path.display()
        );
        return Err(Error::new(Kind::Refused, m));
    }
    Ok(to)
}

/// Gives the set what the machine has found hot until now. One that fails is a set without.
fn put_hot_paths(shared: &Shared, writer: &SetWriter) {
    let paths = shared.machine.hot_paths();
    if !paths.is_empty()
        && let Err(e) = writer.put_hot_paths(&paths.to_bytes())
    {
        tracing::warn!("{e}");
    }
}

/// Gives the instance's disk a new layer, which is empty yet: with it or without it the disk is the same, so the record
/// may say so before the machine knows.
fn with_new_layer(dir: &Path, old: &InstanceRecord, id: &str) -> Result<InstanceRecord> {
    let Some(own) = old.own_disk(dir) else { return Ok(old.clone()) };
    let mut record = old.clone();
    record.layers.insert(0, std::mem::replace(&mut record.layer, format!("disk-{id}.qcow2")));
    let new = dir.join(&record.layer);
    strata_block::create_overlay(&new, &own.path, strata_block::Format::Qcow2, None)?;
    write_record(dir, &record).inspect_err(|_| {
        let _ = std::fs::remove_file(&new);
    })?;
    Ok(record)
}

/// What has to be done while it stands: state and a new dirty epoch, which is given, and a new layer for its disk.
fn begin(shared: &Shared, dir: &Path, writer: &mut SetWriter, old: &InstanceRecord) -> Result<u32> {
    let epoch = shared.machine.save(writer)?;
    if let Some(old) = old.own_disk(dir) {
        // It has not run since: the old layer is still all of its disk.
        shared.machine.switch_disk(&old)?;
    }
    Ok(epoch)
}

/// Pauses it, and makes its disks durable.
fn still(shared: &Shared) -> Result<()> {
    let refused = |why: &str| Error::new(Kind::Refused, format!("{}.", why.trim_end_matches('.')));
    shared.machine.pause().map_err(|e| refused(&e))?;
    let stood = (now_ns(), shared.machine.open_flows());
    shared.lock().stood = Some(stood);
    match shared.machine.phase() {
        "paused" => shared.machine.flush(),
        phase => Err(refused(&format!("The machine is {phase}: it cannot be saved"))),
    }
}

fn save(shared: &Shared, bases: &Bases, dir: &Path, cancelled: &AtomicBool) -> Result<()> {
    let id = fresh()?;
    let mut record = read_record(dir)?;
    let name = format!("{SAVED}{id}");
    let mut writer = SetWriter::create(&dir.join(format!("{WRITING}{id}")))?;
    bases.lay_under(&mut writer, dir);
    shared.machine.save(&mut writer)?;
    writer.finish(manifest(shared, dir, id, &record), &dir.join(&name), cancelled)?;
    (record.suspended, record.under) = (Some(name.clone()), None);
    write_record(dir, &record).inspect_err(|_| {
        // If the record does name it, it is found damaged, and told; the machine goes on either way.
        let _ = std::fs::remove_dir_all(dir.join(&name));
    })
}

fn manifest(shared: &Shared, dir: &Path, id: String, record: &InstanceRecord) -> Manifest {
    let spec = &shared.spec;
    let board = spec.arch.board();
    let (board, engine) = (board.name().into(), strata_machine::engine_of(board).into());
    let machine = MachineRef { board, engine, cpus: spec.cpus, memory: spec.memory };
    let mut manifest = Manifest::new(id, machine, json!(record));
    manifest.created = crate::now();
    // The nearest that is left; a clone's are its source's, and not here.
    let kept: Vec<String> = readable(dir).into_iter().flatten().map(|(_, m)| m.id).collect();
    manifest.parent = record.ancestors().find(|id| kept.contains(id)).or_else(|| record.at.clone());
    if let Some((stood, flows)) = shared.lock().stood.clone() {
        (manifest.stood, manifest.flows) = (Some(stood), flows);
    }
    manifest
}
