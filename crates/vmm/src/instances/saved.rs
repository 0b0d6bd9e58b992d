//! The moment that a suspended instance goes on from, in its folder.
//!
//! `instance.json` is the one place that decides: a set that it does not name is left over, and is removed by whoever
//! holds the instance's lock. The record is replaced as a whole, so a crash leaves the old word or the new one, and what
//! each of them names is there: sets and layers are made durable before they are named, and removed after. The machine's
//! process writes the record that it does not stand there any more (`NextRecord`), when all is ready for its first
//! instruction: until then nothing has changed, and a machine that cannot be started has cost nothing.

use super::{InstanceRecord, RECORD, remove_tree, replace, take_place, write_beside};
use crate::{Error, Kind, Result};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::{fs, io};
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
    replace(dir, RECORD, &record.bytes()).map_err(|e| cannot_write(dir, e))
}

fn cannot_write(dir: &Path, e: io::Error) -> Error {
    Error::io(format_args!("write {}", dir.join(RECORD).display()), e)
}

/// A record that is to take the place of an instance's, for the holder of its lock. What waits for the host's disk is done
/// beside what else is to do. Whoever drops it waits for that, so that nothing is written to the folder afterwards.
pub(crate) struct NextRecord {
    dir: PathBuf,
    written: Option<JoinHandle<io::Result<()>>>,
}

impl Drop for NextRecord {
    fn drop(&mut self) {
        if let Some(written) = self.written.take() {
            let _ = written.join();
        }
    }
}

impl NextRecord {
    /// Begins to write it beside the other.
    pub(crate) fn begin(dir: &Path, record: &InstanceRecord) -> Result<NextRecord> {
        let (to, bytes) = (dir.to_owned(), record.bytes());
        let write = move || write_beside(&to, RECORD, &bytes);
        let written = std::thread::Builder::new().name("record".into()).spawn(write);
        let written = written.map_err(|e| Error::io("start a thread to write the instance's record", e))?;
        Ok(NextRecord { dir: dir.to_owned(), written: Some(written) })
    }

    /// From now on it counts, durably.
    pub(crate) fn take_effect(mut self) -> Result<()> {
        let Some(written) = self.written.take() else { return Ok(()) };
        let written = written.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.and_then(|()| take_place(&self.dir, RECORD)).map_err(|e| cannot_write(&self.dir, e))
    }
}

/// Removes what a dead process, or a moment that is over, has left in an instance's folder. For the holder of its lock.
pub(crate) fn tidy(dir: &Path) {
    let (Ok(record), Ok(entries)) = (read_record(dir), fs::read_dir(dir)) else { return };
    let own = |name: &String| record.layer == *name || record.layers.contains(name);
    // All manifests are read only where there is a layer that is not the instance's own.
    let needed = std::cell::OnceCell::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let named = [&record.suspended, &record.under].contains(&&Some(name.clone()));
        let set = name.starts_with(SAVED) && !named;
        // What stays is tried again next time.
        if set || name.starts_with(WRITING) {
            let _ = remove_tree(&entry.path());
        }
        if name.starts_with('.') && name.ends_with(".new") {
            let _ = fs::remove_file(entry.path());
        }
        if name.ends_with(".qcow2") && !own(&name) {
            let needed = needed.get_or_init(|| super::snapshots::needed(dir, &record));
            // A snapshot that cannot be read may need any of them.
            if needed.as_ref().is_ok_and(|n| !n.contains(&name)) {
                let _ = fs::remove_file(entry.path());
            }
        }
        // Who had a disk that is gone, and died with it.
        if name.strip_suffix(".strata-lock").is_some_and(|disk| !dir.join(disk).exists()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

impl super::Instance {
    /// Throws away what it would go on from: it starts from power-on again.
    ///
    /// # Errors
    /// The host does not let the record be written.
    pub fn forget(&mut self) -> Result<()> {
        if self.record.suspended.is_some() {
            self.record = self.record.begun();
            write_record(&self.dir, &self.record)?;
            tidy(&self.dir);
        }
        Ok(())
    }
}
