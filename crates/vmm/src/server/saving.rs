//! Saving a running machine into its instance: to go on later, or as a snapshot.
//!
//! The machine stands still from the first byte that is copied; whatever fails, it goes on as if nothing had been asked.

use super::Shared;
use crate::InstanceRecord;
use crate::exit::{Error, Kind, Result};
use crate::instances::saved::{SAVED, WRITING, read_record, write_record};
use crate::instances::snapshots::{SNAPSHOTS, fresh};
use crate::name::check_name;
use serde_json::json;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use strata_snapshot::{DiskRef, MachineRef, Manifest, SetWriter};

/// Saves the machine as what its instance goes on from, then ends it. In its turn: nobody else lets it go meanwhile.
pub(super) fn suspend(shared: &Shared) -> Result<()> {
    let dir = instance(shared)?;
    let ran = shared.machine.phase() == "running";
    let saved = still(shared).and_then(|()| save(shared, dir));
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

fn instance(shared: &Shared) -> Result<&Path> {
    shared.spec.instance_dir.as_deref().ok_or_else(|| {
        let m =
            format!("The machine {} belongs to no instance: there is no place to save it.", shared.spec.name);
        Error::new(Kind::Refused, m)
    })
}

/// Takes a snapshot of the machine, which goes on as soon as memory is copied and its disk has a new layer. In its turn.
/// One that is `passing` is about to be removed: what comes later does not come from it.
pub(super) fn snapshot(shared: &Shared, tag: &str, passing: bool) -> Result<()> {
    let (dir, name) = (instance(shared)?, &shared.spec.name);
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
    std::fs::create_dir_all(dir.join(SNAPSHOTS)).map_err(|e| Error::io("make the folder of snapshots", e))?;
    let (id, old) = (fresh()?, read_record(dir)?);
    // While it runs yet: all that waits for the host's disks.
    shared.machine.flush()?;
    let record = with_new_layer(dir, &old, &id)?;
    let ran = shared.machine.phase() == "running";
    let copied = still(shared).and_then(|()| copy(shared, dir, &id, (&old, &record)));
    if copied.is_err() && record != old && write_record(dir, &old).is_ok() {
        let _ = std::fs::remove_file(dir.join(&record.layer));
    }
    if ran {
        // If it cannot go on it has ended meanwhile, and the snapshot is good all the same.
        let _ = shared.machine.unpause();
    }
    let writer = copied?;
    let mut manifest = manifest(shared, id, &old);
    manifest.tag = tag.to_owned();
    manifest.disks = vec![DiskRef { layers: record.layers.clone(), identity: None }];
    let id = manifest.id.clone();
    writer.finish(manifest, &to)?;
    if passing {
        return Ok(());
    }
    let mut record = read_record(dir)?;
    record.at = Some(id);
    write_record(dir, &record)
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

/// What has to be done while it stands: memory and state are copied, and it goes on with the new layer of its disk.
fn copy(
    shared: &Shared,
    dir: &Path,
    id: &str,
    (old, new): (&InstanceRecord, &InstanceRecord),
) -> Result<SetWriter> {
    let writer = shared.machine.save(&dir.join(format!("{WRITING}{id}")))?;
    if let (Some(old), Some(new)) = (old.own_disk(dir), new.own_disk(dir)) {
        // It has not run since: the old layer is still all of its disk.
        shared.machine.switch_disk(&new).or_else(|e| shared.machine.switch_disk(&old).and(Err(e)))?;
    }
    Ok(writer)
}

/// Pauses it, and makes its disks durable.
fn still(shared: &Shared) -> Result<()> {
    let refused = |why: &str| Error::new(Kind::Refused, format!("{}.", why.trim_end_matches('.')));
    shared.machine.pause().map_err(|e| refused(&e))?;
    match shared.machine.phase() {
        "paused" => shared.machine.flush(),
        phase => Err(refused(&format!("The machine is {phase}: it cannot be saved"))),
    }
}

fn save(shared: &Shared, dir: &Path) -> Result<()> {
    let id = fresh()?;
    let mut record = read_record(dir)?;
    let name = format!("{SAVED}{id}");
    let writer = shared.machine.save(&dir.join(format!("{WRITING}{id}")))?;
    writer.finish(manifest(shared, id, &record), &dir.join(&name))?;
    record.suspended = Some(name.clone());
    write_record(dir, &record).inspect_err(|_| {
        // If the record does name it, it is found damaged, and told; the machine goes on either way.
        let _ = std::fs::remove_dir_all(dir.join(&name));
    })
}

fn manifest(shared: &Shared, id: String, record: &InstanceRecord) -> Manifest {
    let spec = &shared.spec;
    let (board, engine) = ("riscv-virt".into(), "soft".into());
    let machine = MachineRef { board, engine, cpus: spec.cpus, memory: spec.memory };
    let mut manifest = Manifest::new(id, machine, json!(record));
    manifest.created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    manifest.parent = record.at.clone();
    manifest
}
