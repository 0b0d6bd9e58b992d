//! Saving a running machine into its instance, to go on later.
//!
//! The machine stands still from the first byte that is copied; whatever fails, it goes on as if nothing had been asked.

use super::Shared;
use crate::InstanceRecord;
use crate::exit::{Error, Kind, Result};
use crate::instances::saved::{SAVED, WRITING, read_record, write_record};
use serde_json::json;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};
use strata_snapshot::{MachineRef, Manifest, new_id};

/// Saves the machine as what its instance goes on from, then ends it. In its turn: nobody else lets it go meanwhile.
pub(super) fn suspend(shared: &Shared) -> Result<()> {
    let dir = shared.spec.instance_dir.as_deref().ok_or_else(|| {
        let m =
            format!("The machine {} belongs to no instance: there is no place to save it.", shared.spec.name);
        Error::new(Kind::Refused, m)
    })?;
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
    let id = new_id().map_err(|e| Error::io("name a saved machine", e))?;
    let id: String = id.iter().map(|b| format!("{b:02x}")).collect();
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
