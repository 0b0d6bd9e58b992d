//! The folder of a snapshot: written beside its place and renamed into it, checked before anything of it is used.

use crate::{FileRef, Layer, LayerWriter, Manifest, MemoryRef, SnapshotError};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};
use std::fs::{self, File, Metadata};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use strata_memory::GuestRam;
use strata_state::StateFile;

/// The manifest's name in a set.
pub const MANIFEST: &str = "manifest.json";
/// The state file's name in a set.
pub const STATE: &str = "state";
/// The memory layer's name in a set.
pub const MEMORY: &str = "memory";

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A name that no other snapshot has.
///
/// # Errors
/// The host gives no randomness.
pub fn new_id() -> std::io::Result<[u8; 16]> {
    let mut id = [0; 16];
    let got = getrandom(&mut id[..], GetRandomFlags::empty())?;
    if got == id.len() { Ok(id) } else { Err(std::io::ErrorKind::UnexpectedEof.into()) }
}

fn sync_dir(dir: &Path) -> Result<(), SnapshotError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(SnapshotError::io("make durable the folder", dir))
}

fn parent(dir: &Path) -> &Path {
    dir.parent().unwrap_or(dir)
}

/// A set that is being written. Dropped before it is finished, it leaves nothing.
#[derive(Debug)]
pub struct SetWriter {
    dir: PathBuf,
    layer: Option<LayerWriter>,
    state: FileRef,
    finished: bool,
}

impl SetWriter {
    /// Copies memory and state into the new folder `dir`. Nothing of the machine may run meanwhile.
    ///
    /// # Errors
    /// The host does not let it be written.
    pub fn copy(dir: &Path, ram: &GuestRam, state: &[u8]) -> Result<SetWriter, SnapshotError> {
        fs::DirBuilder::new().mode(0o700).create(dir).map_err(SnapshotError::io("make the folder", dir))?;
        let copied = (|| {
            let path = dir.join(STATE);
            let fail = SnapshotError::io("write", &path);
            let mut file = File::create_new(&path).map_err(fail)?;
            file.write_all(state).map_err(SnapshotError::io("write", &path))?;
            LayerWriter::copy(ram, &dir.join(MEMORY))
        })();
        match copied {
            Ok(layer) => {
                let state = FileRef { size: state.len() as u64, sha256: hex(&Sha256::digest(state)) };
                Ok(SetWriter { dir: dir.to_owned(), layer: Some(layer), state, finished: false })
            }
            Err(e) => {
                // The first error is the one to tell.
                let _ = fs::remove_dir_all(dir);
                Err(e)
            }
        }
    }

    /// Completes `manifest`, makes all durable and renames the folder to `to`, which must not exist. The machine may
    /// run on meanwhile.
    ///
    /// # Errors
    /// The host does not let it be written, or `to` exists: nothing is left.
    pub fn finish(self, manifest: Manifest, to: &Path) -> Result<Manifest, SnapshotError> {
        let dir = self.dir.clone();
        let done = self.complete(manifest, to);
        if done.is_err() {
            let _ = fs::remove_dir_all(dir);
        }
        done
    }

    fn complete(mut self, mut manifest: Manifest, to: &Path) -> Result<Manifest, SnapshotError> {
        self.finished = true;
        let dir = self.dir.clone();
        let id = new_id().map_err(SnapshotError::io("name the layer of", &dir))?;
        let state = dir.join(STATE);
        File::open(&state).and_then(|f| f.sync_all()).map_err(SnapshotError::io("write", &state))?;
        let memory = dir.join(MEMORY);
        let Some(layer) = self.layer.take() else {
            return Err(SnapshotError::bad("memory", &memory, "it is gone"));
        };
        let info = layer.finish(id)?;
        let meta = fs::metadata(&memory).map_err(SnapshotError::io("look at", &memory))?;
        manifest.state = self.state.clone();
        manifest.memory = MemoryRef { id: hex(&info.id), sha256: hex(&info.digest()), ..identity(&meta) };
        let path = dir.join(MANIFEST);
        let mut file = File::create_new(&path).map_err(SnapshotError::io("write", &path))?;
        file.write_all(&manifest.bytes())
            .and_then(|()| file.sync_all())
            .map_err(SnapshotError::io("write", &path))?;
        sync_dir(&dir)?;
        if to.exists() {
            let exists = std::io::ErrorKind::AlreadyExists.into();
            return Err(SnapshotError::io("make the snapshot", to)(exists));
        }
        fs::rename(&dir, to).map_err(SnapshotError::io("make the snapshot", to))?;
        sync_dir(parent(to))?;
        Ok(manifest)
    }
}

impl Drop for SetWriter {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed is no set, and is swept with the instance.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

fn identity(meta: &Metadata) -> MemoryRef {
    MemoryRef {
        size: meta.len(),
        device: meta.dev(),
        inode: meta.ino(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        ..MemoryRef::default()
    }
}

/// Makes `to` another name for the set in `from`: both are whole, and either may be removed.
///
/// # Errors
/// The host does not let it be made; nothing is left.
pub fn link_set(from: &Path, to: &Path) -> Result<(), SnapshotError> {
    fs::DirBuilder::new().mode(0o700).create(to).map_err(SnapshotError::io("make the folder", to))?;
    let linked = [STATE, MEMORY, MANIFEST].iter().try_for_each(|name| {
        fs::hard_link(from.join(name), to.join(name)).map_err(SnapshotError::io("link", &from.join(name)))
    });
    let linked = linked.and_then(|()| sync_dir(to)).and_then(|()| sync_dir(parent(to)));
    if linked.is_err() {
        let _ = fs::remove_dir_all(to);
    }
    linked
}

/// A set whose manifest, state and index have been checked.
#[derive(Debug)]
pub struct SetReader {
    manifest: Manifest,
    state: Vec<u8>,
    layer: Layer,
}

impl SetReader {
    /// Reads only the manifest.
    ///
    /// # Errors
    /// It is not there, damaged, or from a newer build.
    pub fn manifest_of(dir: &Path) -> Result<Manifest, SnapshotError> {
        let path = dir.join(MANIFEST);
        let bytes = fs::read(&path).map_err(SnapshotError::io("read the snapshot's manifest", &path))?;
        Manifest::parse(&bytes, &path)
    }

    /// Opens the set and checks all but the pages.
    ///
    /// # Errors
    /// Something of it is missing, damaged, was replaced, or is from a newer build.
    pub fn open(dir: &Path) -> Result<SetReader, SnapshotError> {
        let manifest = SetReader::manifest_of(dir)?;
        let path = dir.join(STATE);
        let state = fs::read(&path).map_err(SnapshotError::io("read the snapshot's state", &path))?;
        let found = FileRef { size: state.len() as u64, sha256: hex(&Sha256::digest(&state)) };
        if found != manifest.state {
            return Err(SnapshotError::bad("state", &path, "it is not the one that the manifest names"));
        }
        StateFile::parse(&state).map_err(|e| SnapshotError::bad("state", &path, e.to_string()))?;
        let path = dir.join(MEMORY);
        let layer = Layer::open(&path)?;
        let meta = layer.file().metadata().map_err(SnapshotError::io("look at", &path))?;
        let info = layer.info();
        let found = MemoryRef { id: hex(&info.id), sha256: hex(&info.digest()), ..identity(&meta) };
        if (&found.id, &found.sha256) != (&manifest.memory.id, &manifest.memory.sha256) {
            return Err(SnapshotError::bad("memory", &path, "it is not the one that the manifest names"));
        }
        if found != manifest.memory {
            let why = "it has been written to, or is a copy, since the snapshot was taken";
            return Err(SnapshotError::bad("memory", &path, why));
        }
        if info.pages * strata_memory::PAGE != manifest.machine.memory {
            return Err(SnapshotError::bad("memory", &path, "it is not as large as the machine's"));
        }
        Ok(SetReader { manifest, state, layer })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The state file.
    pub fn state(&self) -> &[u8] {
        &self.state
    }

    /// The memory.
    pub fn layer(&self) -> &Layer {
        &self.layer
    }
}

#[cfg(test)]
mod tests;
