//! The folder of a snapshot: written beside its place and renamed into it, checked before anything of it is used.

mod rewrite;

pub use rewrite::{Rewrite, rewrite_set};

use crate::layer::{LayerName, LayerWriter, Receiver};
use crate::{FileRef, Layer, LayerChain, MAX_LAYERS, Manifest, MemoryRef, SnapshotError};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};
use std::fs::{self, File, Metadata};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use strata_memory::GuestRam;
use strata_state::StateFile;

/// The manifest's name in a set.
pub const MANIFEST: &str = "manifest.json";
/// The state file's name in a set.
pub const STATE: &str = "state";
/// The memory layer's name in a set.
pub const MEMORY: &str = "memory";
/// The name of the list of hot paths, which a set may have: a hint, with a checksum of its own, that nothing depends on.
pub const HOT_PATHS: &str = "hot-paths";

/// The name in a set of layer number `n` of its memory, counted from the top.
pub(crate) fn layer_name(n: usize) -> String {
    if n == 0 { MEMORY.to_owned() } else { format!("{MEMORY}.{n}") }
}

/// Bytes as lower-case hexadecimal digits, as names and digests are written.
pub fn hex(bytes: &[u8]) -> String {
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
    layer: Option<Incomplete>,
    state: Vec<u8>,
    base: Option<Base>,
    finished: bool,
}

/// The layer of memory that is not complete yet.
#[derive(Debug)]
enum Incomplete {
    /// Of a machine's memory.
    Captured(LayerWriter),
    /// Of what comes from elsewhere.
    Received(Receiver),
}

/// What a set stands on: layers of another set, and since which dirty epoch memory may differ from it.
#[derive(Debug)]
struct Base {
    layers: Vec<MemoryRef>,
    parent: LayerName,
    since: u32,
}

impl SetWriter {
    /// Makes the new folder `dir`. The machine may run.
    ///
    /// # Errors
    /// The host does not let it be written.
    pub fn create(dir: &Path) -> Result<SetWriter, SnapshotError> {
        SetWriter::with(dir, |memory| LayerWriter::create(memory).map(Incomplete::Captured))
    }

    /// Makes the new folder `dir` for a machine whose `pages` pages of memory come in pieces, by [`SetWriter::put`].
    ///
    /// # Errors
    /// The host does not let it be written.
    pub fn receive(dir: &Path, pages: u64) -> Result<SetWriter, SnapshotError> {
        SetWriter::with(dir, |memory| Receiver::create(memory, pages).map(Incomplete::Received))
    }

    fn with(
        dir: &Path,
        layer: impl FnOnce(&Path) -> Result<Incomplete, SnapshotError>,
    ) -> Result<SetWriter, SnapshotError> {
        fs::DirBuilder::new().mode(0o700).create(dir).map_err(SnapshotError::io("make the folder", dir))?;
        let mut writer =
            SetWriter { dir: dir.to_owned(), layer: None, state: Vec::new(), base: None, finished: false };
        writer.layer = Some(layer(&dir.join(MEMORY))?);
        Ok(writer)
    }

    /// Memory has `bytes` from byte `place` on; what is put nowhere is zero, and nothing is put twice.
    ///
    /// # Errors
    /// The host does not let it be written, or it lies outside. It is not a set that receives.
    pub fn put(&mut self, place: u64, bytes: &[u8]) -> Result<(), SnapshotError> {
        match &mut self.layer {
            Some(Incomplete::Received(layer)) => layer.put(place, bytes),
            _ => Err(SnapshotError::bad("memory", &self.dir, "it takes no pieces")),
        }
    }

    /// The set is to have that state; memory has come.
    pub fn put_state(&mut self, state: Vec<u8>) {
        self.state = state;
    }

    /// The set is to have only those pages that were written `since` a dirty epoch, at whose beginning memory was as the
    /// set in `dir` has it. It gets links to that set's layers. The machine may run.
    ///
    /// # Errors
    /// That set cannot be used, or has as many layers as there may be: this one can be written all the same, whole.
    pub fn stand_on(&mut self, dir: &Path, since: u32) -> Result<(), SnapshotError> {
        let below = SetReader::open(dir)?;
        let (manifest, layers) = (below.manifest(), below.memory().layers());
        let (Some(top), true) = (layers.first(), layers.len() < MAX_LAYERS) else {
            return Err(SnapshotError::bad("memory", dir, "it has as many layers as there may be"));
        };
        let refs = manifest.layers().cloned().collect();
        let linked = (0..layers.len())
            .try_for_each(|n| link(&dir.join(layer_name(n)), &self.dir.join(layer_name(n + 1))));
        self.base = Some(Base { layers: refs, parent: top.info().name(), since });
        linked.inspect_err(|_| self.stand_alone())
    }

    /// All pages are to be in it after all.
    fn stand_alone(&mut self) {
        for n in 1..=self.base.take().map_or(0, |b| b.layers.len()) {
            // What cannot be removed is a name more for a file, in a set that does not speak of it.
            let _ = fs::remove_file(self.dir.join(layer_name(n)));
        }
    }

    /// Puts a list of hot paths, as bytes, beside the rest. The machine may run.
    ///
    /// # Errors
    /// The host does not let it be written: the set is as good without.
    pub fn put_hot_paths(&self, list: &[u8]) -> Result<(), SnapshotError> {
        let path = self.dir.join(HOT_PATHS);
        let written = File::create(&path).and_then(|mut f| f.write_all(list).and_then(|()| f.sync_all()));
        written.map_err(|e| {
            // Half of one would be found damaged each time.
            let _ = fs::remove_file(&path);
            SnapshotError::io("write", &path)(e)
        })
    }

    /// The moment: the set is to have memory as it is now, and `state`. Nothing of the machine may run during this call;
    /// afterwards all of it may, while [`SetWriter::finish`] copies. Gives memory's new dirty epoch.
    ///
    /// # Errors
    /// Memory cannot be saved now.
    pub fn begin(&mut self, ram: &GuestRam, state: Vec<u8>) -> Result<u32, SnapshotError> {
        self.state = state;
        match &mut self.layer {
            Some(Incomplete::Captured(layer)) => {
                let since = self.base.as_ref().map(|b| b.since);
                let begun = layer.begin(ram, since)?;
                if since.is_some() && !begun.stands_on_parent {
                    self.stand_alone();
                }
                Ok(begun.epoch)
            }
            _ => Err(SnapshotError::bad("memory", &self.dir, "it is no machine's, or gone")),
        }
    }

    /// Copies memory now: for a machine that may not run on before. [`SetWriter::finish`] does the rest.
    ///
    /// # Errors
    /// Nothing was begun, or it is `cancelled`.
    pub fn copy(&mut self, cancelled: &AtomicBool) -> Result<(), SnapshotError> {
        match &mut self.layer {
            Some(Incomplete::Captured(layer)) => layer.copy(cancelled),
            _ => Err(SnapshotError::bad("memory", &self.dir, "it is no machine's, or gone")),
        }
    }

    /// Copies memory, completes `manifest`, makes all durable and renames the folder to `to`, which must not exist. The
    /// machine may run on meanwhile.
    ///
    /// # Errors
    /// The host does not let it be written, `to` exists, or it is `cancelled`: nothing is left.
    pub fn finish(
        mut self,
        mut manifest: Manifest,
        to: &Path,
        cancelled: &AtomicBool,
    ) -> Result<Manifest, SnapshotError> {
        let dir = self.dir.clone();
        let id = new_id().map_err(SnapshotError::io("name the layer of", &dir))?;
        write_durably(&dir.join(STATE), &self.state)?;
        let memory = dir.join(MEMORY);
        let Some(layer) = self.layer.take() else {
            return Err(SnapshotError::bad("memory", &memory, "it is gone"));
        };
        let base = self.base.take();
        let info = match layer {
            Incomplete::Captured(layer) => layer.finish(id, base.as_ref().map(|b| b.parent), cancelled)?,
            Incomplete::Received(layer) => layer.finish(id)?,
        };
        manifest.below = base.map(|b| b.layers).unwrap_or_default();
        let meta = fs::metadata(&memory).map_err(SnapshotError::io("look at", &memory))?;
        let sha256 = hex(&Sha256::digest(&self.state));
        manifest.state = FileRef { size: self.state.len() as u64, sha256 };
        manifest.memory = MemoryRef { id: hex(&info.id), sha256: hex(&info.digest()), ..identity(&meta) };
        write_durably(&dir.join(MANIFEST), &manifest.bytes())?;
        sync_dir(&dir)?;
        if to.exists() {
            let exists = std::io::ErrorKind::AlreadyExists.into();
            return Err(SnapshotError::io("make the snapshot", to)(exists));
        }
        fs::rename(&dir, to).map_err(SnapshotError::io("make the snapshot", to))?;
        // Now that is what would have to go.
        self.dir = to.to_owned();
        sync_dir(parent(to))?;
        self.finished = true;
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

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), SnapshotError> {
    let mut file = File::create_new(path).map_err(SnapshotError::io("write", path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(SnapshotError::io("write", path))
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

/// Gives the set in `to` the list of hot paths of the one in `from`, if that has one.
pub(crate) fn link_hot_paths(from: &Path, to: &Path) -> Result<(), SnapshotError> {
    let list = from.join(HOT_PATHS);
    if list.exists() { link(&list, &to.join(HOT_PATHS)) } else { Ok(()) }
}

/// Makes `to` another name for the set in `from`, whose manifest is `manifest`: both are whole, and either may be removed.
/// The name is not durable yet; its files are.
///
/// # Errors
/// The host does not let it be made; nothing is left.
pub fn link_set(from: &Path, manifest: &Manifest, to: &Path) -> Result<(), SnapshotError> {
    fs::DirBuilder::new().mode(0o700).create(to).map_err(SnapshotError::io("make the folder", to))?;
    let layers = (0..manifest.layers().count()).map(layer_name);
    let files = layers.chain([STATE.into(), MANIFEST.into()]);
    let linked = files.into_iter().try_for_each(|name| link(&from.join(&name), &to.join(&name)));
    let linked = linked.and_then(|()| link_hot_paths(from, to));
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
    memory: LayerChain,
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
        let which = || fs::metadata(dir).map(|m| m.ino()).ok();
        let before = which();
        match SetReader::open_once(dir) {
            // It was rewritten meanwhile: files of both do not fit together.
            Err(_) if which() != before => SetReader::open_once(dir),
            other => other,
        }
    }

    fn open_once(dir: &Path) -> Result<SetReader, SnapshotError> {
        let manifest = SetReader::manifest_of(dir)?;
        let path = dir.join(STATE);
        let state = fs::read(&path).map_err(SnapshotError::io("read the snapshot's state", &path))?;
        let found = FileRef { size: state.len() as u64, sha256: hex(&Sha256::digest(&state)) };
        if found != manifest.state {
            return Err(SnapshotError::bad("state", &path, "it is not the one that the manifest names"));
        }
        StateFile::parse(&state).map_err(|e| SnapshotError::bad("state", &path, e.to_string()))?;
        let layers =
            manifest.layers().enumerate().map(|(n, known)| open_layer(&dir.join(layer_name(n)), known));
        let memory = LayerChain::new(layers.collect::<Result<_, _>>()?)?;
        if memory.pages() * strata_memory::PAGE != manifest.machine.memory {
            let path = dir.join(MEMORY);
            return Err(SnapshotError::bad("memory", &path, "it is not as large as the machine's"));
        }
        Ok(SetReader { manifest, state, memory })
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
    pub fn memory(&self) -> &LayerChain {
        &self.memory
    }
}

/// What a manifest knows a layer by.
fn known_by(layer: &Layer, path: &Path) -> Result<MemoryRef, SnapshotError> {
    let meta = layer.file().metadata().map_err(SnapshotError::io("look at", path))?;
    let info = layer.info();
    Ok(MemoryRef { id: hex(&info.id), sha256: hex(&info.digest()), ..identity(&meta) })
}

fn link(from: &Path, to: &Path) -> Result<(), SnapshotError> {
    fs::hard_link(from, to).map_err(SnapshotError::io("link", from))
}

/// Opens a layer, which must be the very file that is `known`.
fn open_layer(path: &Path, known: &MemoryRef) -> Result<Layer, SnapshotError> {
    let layer = Layer::open(path)?;
    let found = known_by(&layer, path)?;
    if (&found.id, &found.sha256) != (&known.id, &known.sha256) {
        return Err(SnapshotError::bad("memory", path, "it is not the one that the manifest names"));
    }
    if found != *known {
        let why = "it has been written to, or is a copy, since the snapshot was taken";
        return Err(SnapshotError::bad("memory", path, why));
    }
    Ok(layer)
}

#[cfg(test)]
mod tests;
