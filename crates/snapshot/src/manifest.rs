//! The manifest: what a snapshot is and what belongs to it, as JSON that a person can read.
//!
//! Its last field is the digest of the whole file with that digest's own 64 digits as zeroes, so that no byte of it
//! changes unnoticed. Fields are only added; what a reader must not pass over is listed under `features`.

use crate::SnapshotError;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::net::SocketAddrV4;
use std::path::Path;

const FORMAT: u32 = 1;
const NONE: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// What this build knows of `features`: memory in several layers.
const LAYERS: &str = "layers";
const KEY: &str = "\"digest\": \"";

/// What machine it is of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRef {
    /// The board.
    pub board: String,
    /// The kind of engine.
    pub engine: String,
    /// vCPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
}

/// A file of the set, whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Bytes.
    pub size: u64,
    /// SHA-256 of all of them, in hexadecimal.
    pub sha256: String,
}

/// The layer of memory, by which it is known again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryRef {
    /// The layer's name, in hexadecimal.
    pub id: String,
    /// Digest of its header, in hexadecimal.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// Device that the file is on.
    pub device: u64,
    /// Its inode there.
    pub inode: u64,
    /// When it was last written: seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
}

/// A disk that belongs to it, by reference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRef {
    /// Files beside the set, nearest first, that never change while the set exists.
    pub layers: Vec<String>,
}

/// An open TCP connection of the guest's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRef {
    /// Its end.
    pub guest: SocketAddrV4,
    /// The other.
    pub far: SocketAddrV4,
    /// The Ethernet address of its end.
    pub mac: [u8; 6],
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this form.
    pub format: u32,
    /// The program that wrote it, for people.
    pub producer: String,
    /// What a reader must know; written by what is in the others.
    #[serde(default)]
    pub features: Vec<String>,
    /// Its name for ever: 32 hexadecimal digits.
    pub id: String,
    /// Its name among those of its instance; empty for a suspended machine.
    #[serde(default)]
    pub tag: String,
    /// The snapshot from which the machine had gone on.
    #[serde(default)]
    pub parent: Option<String>,
    /// When, in seconds since 1970.
    pub created: u64,
    /// When its clock stood still, in nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stood: Option<u64>,
    /// Connections of user-mode networking that were open: their far ends did not come along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flows: Vec<FlowRef>,
    /// What machine it is of.
    pub machine: MachineRef,
    /// The states of its parts.
    pub state: FileRef,
    /// Its memory.
    pub memory: MemoryRef,
    /// The layers below that one, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub below: Vec<MemoryRef>,
    /// Its disks, in the order of their slots.
    pub disks: Vec<DiskRef>,
    /// The instance as it was: what a new one is made from. Bindings to the host stand here, and nowhere in the state.
    pub instance: serde_json::Value,
    /// See the module.
    digest: String,
}

impl Manifest {
    /// One to be filled: no state, memory or disk yet.
    pub fn new(id: String, machine: MachineRef, instance: serde_json::Value) -> Manifest {
        Manifest {
            format: FORMAT,
            producer: concat!("strata ", env!("CARGO_PKG_VERSION")).into(),
            features: Vec::new(),
            id,
            tag: String::new(),
            parent: None,
            created: 0,
            stood: None,
            flows: Vec::new(),
            machine,
            state: FileRef::default(),
            memory: MemoryRef::default(),
            below: Vec::new(),
            disks: Vec::new(),
            instance,
            digest: NONE.into(),
        }
    }

    /// The layers of its memory, the uppermost first.
    pub fn layers(&self) -> impl Iterator<Item = &MemoryRef> {
        [&self.memory].into_iter().chain(&self.below)
    }

    /// As text, with its digest.
    pub fn bytes(&self) -> Vec<u8> {
        let features = if self.below.is_empty() { vec![] } else { vec![LAYERS.to_owned()] };
        let blank = Manifest { digest: NONE.into(), features, ..self.clone() };
        // Keys are strings and numbers finite: it cannot fail.
        let mut text = serde_json::to_string_pretty(&blank).unwrap_or_default();
        text.push('\n');
        let sum = crate::set::hex(&Sha256::digest(text.as_bytes()));
        if let Some(at) = text.rfind(KEY) {
            text.replace_range(at + KEY.len()..at + KEY.len() + NONE.len(), &sum);
        }
        text.into_bytes()
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is damaged, or needs what this build does not know.
    pub fn parse(bytes: &[u8], path: &Path) -> Result<Manifest, SnapshotError> {
        let bad = |why: &str| SnapshotError::bad("manifest", path, why);
        let damaged = || bad("it is damaged or cut short");
        let text = std::str::from_utf8(bytes).map_err(|_| damaged())?;
        let at = text.rfind(KEY).ok_or_else(damaged)? + KEY.len();
        let sum = text.get(at..at + NONE.len()).ok_or_else(damaged)?;
        let mut blank = text.to_owned();
        blank.replace_range(at..at + NONE.len(), NONE);
        if crate::set::hex(&Sha256::digest(blank.as_bytes())) != sum {
            return Err(damaged());
        }
        // Format and features first: the rest may have changed.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
            #[serde(default)]
            features: Vec<String>,
        }
        let json = |e: serde_json::Error| SnapshotError::bad("manifest", path, e.to_string());
        let head: Head = serde_json::from_str(text).map_err(json)?;
        let newer = |need: String| SnapshotError::Newer { what: "manifest", path: path.to_owned(), need };
        if head.format != FORMAT {
            return Err(newer(format!("format {}", head.format)));
        }
        if let Some(f) = head.features.iter().find(|f| *f != LAYERS) {
            return Err(newer(format!("`{f}`")));
        }
        let manifest: Manifest = serde_json::from_str(text).map_err(json)?;
        if manifest.below.len() >= crate::MAX_LAYERS {
            return Err(bad("its memory has more layers than there may be"));
        }
        Ok(manifest)
    }
}
