//! A machine at one moment, as a folder: who it is, the states of its parts, its memory, and which disks belong to it.
//!
//! ```text
//!  manifest.json   what a person reads: names, sizes, digests, disks        manifest.rs
//!  state           the states of all parts (`strata_state::StateFile`)
//!  memory          a layer: pages, and an index that says where they are    layer.rs
//!  memory.1, ...   the layers that it stands on, nearest first; links to those of other sets
//!  first-touch     which pages were touched first: a hint, beside the set        first_touch.rs
//! ```
//! To be carried elsewhere it is packed into one file (`export.rs`).
//!
//! The form of each byte is `docs/formats/snapshot.md`. Invariants: a set is complete under its name or not there (it is
//! written under another name, made durable, renamed); its files never change afterwards; nothing of it is used before
//! manifest, state and index have been checked against their digests; the pages themselves are checked when asked for.
//!
//! Deliberately not here: what a state means, disks, locks, and which sets an instance has.
#![forbid(unsafe_code)]

mod error;
pub mod export;
mod first_touch;
#[doc(hidden)]
pub mod fuzz;
mod layer;
mod manifest;
mod set;

pub use error::SnapshotError;
pub use export::{Contents, ExportReader, ExportWriter, Incoming, Item, PIECE, Piece};
pub use first_touch::{FIRST_TOUCH, FirstTouch};
pub use layer::{Layer, LayerChain, LayerInfo, LayerName, MAX_LAYERS, Placed, Run, RunKind};
pub use manifest::{DiskRef, FileRef, FlowRef, MachineRef, Manifest, MemoryRef};
pub use set::{
    HOT_PATHS, MANIFEST, MEMORY, Rewrite, STATE, SetReader, SetWriter, hex, link_set, new_id, rewrite_set,
};
