//! The moment that a suspended instance goes on from, in its folder.
//!
//! `instance.json` is the one place that decides: a set that it does not name is left over, and is removed by whoever
//! holds the instance's lock. The record is replaced as a whole, so a crash leaves the old word or the new one, and what
//! each of them names is there: sets are made durable before they are named, and removed after.

use super::{InstanceRecord, RECORD, remove_tree, sync_dir};
use crate::{Error, Kind, Result};
use std::fs;
use std::io::Write;
use std::path::Path;
use strata_snapshot::SnapshotError;

/// Before the names of sets that an instance goes on from.
pub(crate) const SAVED: &str = "saved-";
/// Before the names of sets that are being written.
pub(crate) const WRITING: &str = ".new-";

impl From<SnapshotError> for Error {
    fn from(e: SnapshotError) -> Error {
        let text = crate::convert::paragraph(&e.to_string());
        match e {
            SnapshotError::Bad { .. } | SnapshotError::Newer { .. } => Error::new(Kind::BadInput, text),
            SnapshotError::Io { source, .. } => Error { message: text, ..Error::io("", source) },
            SnapshotError::Memory(_) => Error::new(Kind::Host, text),
        }
    }
}

/// Reads the record in an instance's folder, for the holder of its lock.
pub(crate) fn read_record(dir: &Path) -> Result<InstanceRecord> {
    let path = dir.join(RECORD);
    let text = fs::read(&path).map_err(|e| Error::io(format_args!("read {}", path.display()), e))?;
    InstanceRecord::parse(&text).map_err(|why| {
        Error::new(Kind::BadInput, format!("The record {} cannot be used: {why}.", path.display()))
    })
}

/// Replaces the record in an instance's folder, for the holder of its lock.
pub(crate) fn write_record(dir: &Path, record: &InstanceRecord) -> Result<()> {
    let (path, new) = (dir.join(RECORD), dir.join(".instance.json.new"));
    let written = fs::File::create(&new)
        .and_then(|mut f| f.write_all(&record.bytes()).and_then(|()| f.sync_all()))
        .and_then(|()| fs::rename(&new, &path))
        .and_then(|()| sync_dir(dir));
    written.map_err(|e| Error::io(format_args!("write {}", path.display()), e))
}

/// The machine is about to run from what it goes on from: from now on the record says that it does not stand there any
/// more. Memory that is mapped from the set lives on without its name.
pub(crate) fn use_up(dir: &Path) -> Result<()> {
    let mut record = read_record(dir)?;
    if record.suspended.take().is_some() {
        record.renewed = false;
        write_record(dir, &record)?;
        tidy(dir);
    }
    Ok(())
}

/// Removes what a dead process, or a moment that is over, has left in an instance's folder. For the holder of its lock.
pub(crate) fn tidy(dir: &Path) {
    let (Ok(record), Ok(entries)) = (read_record(dir), fs::read_dir(dir)) else { return };
    let own = |name: &String| record.layer == *name || record.layers.contains(name);
    // All manifests are read only where there is a layer that is not the instance's own.
    let needed = std::cell::OnceCell::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let set = name.starts_with(SAVED) && record.suspended.as_ref() != Some(&name);
        // What stays is tried again next time.
        if set || name.starts_with(WRITING) {
            let _ = remove_tree(&entry.path());
        }
        if name.ends_with(".qcow2") && !own(&name) {
            let needed = needed.get_or_init(|| super::snapshots::needed(dir, &record));
            // A snapshot that cannot be read may need any of them.
            if needed.as_ref().is_ok_and(|n| !n.contains(&name)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

impl super::Instance {
    /// Throws away what it would go on from: it starts from power-on again.
    ///
    /// # Errors
    /// The host does not let the record be written.
    pub fn forget(&mut self) -> Result<()> {
        use_up(&self.dir)?;
        (self.record.suspended, self.record.renewed) = (None, false);
        Ok(())
    }
}
