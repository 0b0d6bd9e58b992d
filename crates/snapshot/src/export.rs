//! A snapshot as one file, to be carried elsewhere: packed, checked piece by piece, and read from front to back.
//!
//! ```text
//! header   16 bytes: magic, version
//! pieces   each a head of 64 bytes and packed bytes: manifest, contents, then state, memory, disks and boot files
//! end      a piece of its own; nothing follows it
//! ```
//! A piece holds up to 1 MiB of one item, which begins at its place; what no piece covers is zero. The sum in a piece's
//! head is the digest of the sum before it, of the head itself, and of its bytes both packed and as they were: so
//! a piece that is changed, missing, added or moved is found where it is, and the first sum is that of the header. Items
//! come in the order of [`Item`], pieces in the order of their places.
//!
//! Deliberately not here: what a disk is, and what becomes of the items.

mod read;
mod set;
mod write;

pub use read::{ExportReader, Piece};
pub use set::Incoming;
pub use write::ExportWriter;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 8] = b"strataEX";
const VERSION: u32 = 1;
/// Bytes of the header: magic, version, features.
const HEADER: usize = 16;
/// Bytes of a piece's head.
const HEAD: usize = 64;
/// Of those, what stands before the sum.
const FIELDS: usize = 32;
/// Most bytes of a piece, unpacked.
pub const PIECE: usize = 1 << 20;
/// Most bytes of a piece, packed: zstd's own bound for what cannot be packed is 4 KiB more than it was.
const PACKED: usize = PIECE + (16 << 10);
/// Most bytes of the manifest, and of the contents.
const TEXT: u64 = 1 << 20;
/// Most bytes of the state, which a reader keeps in memory.
const STATE: u64 = 64 << 20;
/// Most bytes of anything else: 1 PiB.
const LARGEST: u64 = 1 << 50;
/// Most disks.
const DISKS: usize = 16;

/// What a piece is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// The snapshot's manifest, as it stands in its set.
    Manifest,
    /// [`Contents`] as JSON.
    Contents,
    /// The state file.
    State,
    /// Guest memory from its first page to its last.
    Memory,
    /// The disk of this number, as the guest sees it.
    Disk(u8),
    /// A file that the machine is started from: 0 the firmware, 1 the kernel, 2 the initial RAM disk.
    Boot(u8),
    /// Nothing: the end.
    End,
}

impl Item {
    fn numbers(self) -> (u8, u8) {
        match self {
            Item::Manifest => (1, 0),
            Item::Contents => (2, 0),
            Item::State => (3, 0),
            Item::Memory => (4, 0),
            Item::Disk(n) => (5, n),
            Item::Boot(n) => (6, n),
            Item::End => (255, 0),
        }
    }

    fn of(kind: u8, number: u8) -> Option<Item> {
        match (kind, number) {
            (1, 0) => Some(Item::Manifest),
            (2, 0) => Some(Item::Contents),
            (3, 0) => Some(Item::State),
            (4, 0) => Some(Item::Memory),
            (5, n) => Some(Item::Disk(n)),
            (6, n) => Some(Item::Boot(n)),
            (255, 0) => Some(Item::End),
            _ => None,
        }
    }
}

/// How large the items are, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// The state file.
    pub state: u64,
    /// Guest memory.
    pub memory: u64,
    /// The disks, in the order of their slots.
    #[serde(default)]
    pub disks: Vec<u64>,
    /// Firmware, kernel and initial RAM disk, those that there are.
    #[serde(default)]
    pub boot: [Option<u64>; 3],
}

impl Contents {
    /// Bytes of all items together.
    pub fn total(&self) -> u64 {
        let all = self.disks.iter().chain(self.boot.iter().flatten()).chain([&self.state, &self.memory]);
        all.fold(0, |sum, n| sum.saturating_add(*n))
    }

    fn size(&self, item: Item) -> Option<u64> {
        match item {
            Item::Manifest | Item::Contents => Some(TEXT),
            Item::State => Some(self.state),
            Item::Memory => Some(self.memory),
            Item::Disk(n) => self.disks.get(usize::from(n)).copied(),
            Item::Boot(n) => self.boot.get(usize::from(n)).copied().flatten(),
            Item::End => Some(0),
        }
    }

    fn sound(&self) -> bool {
        let rest = self.disks.iter().chain(self.boot.iter().flatten()).chain([&self.memory]);
        self.state <= STATE && self.disks.len() <= DISKS && rest.into_iter().all(|n| *n <= LARGEST)
    }
}

fn header() -> [u8; HEADER] {
    let mut b = [0; HEADER];
    b[..8].copy_from_slice(MAGIC);
    b[8..12].copy_from_slice(&VERSION.to_le_bytes());
    b
}

/// The head of a piece but for its sum.
fn fields(item: Item, raw: u32, packed: u32, place: u64) -> [u8; FIELDS] {
    let mut b = [0; FIELDS];
    (b[0], b[1]) = item.numbers();
    b[4..8].copy_from_slice(&raw.to_le_bytes());
    b[8..12].copy_from_slice(&packed.to_le_bytes());
    b[16..24].copy_from_slice(&place.to_le_bytes());
    b
}

fn sum(before: &[u8; 32], fields: &[u8; FIELDS], packed: &[u8], bytes: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(before)
        .chain_update(fields)
        .chain_update(packed)
        .chain_update(bytes)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests;
