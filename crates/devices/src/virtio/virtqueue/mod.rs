//! Split virtqueues, virtio 1.3 §2.7, device side.
//!
//! ```text
//! ring.rs    available ring → head of a chain;  completion → used ring, and whether to interrupt
//! chain.rs   head → checked buffers: the only place where a descriptor is looked at
//! ```
//! Both take what they need as arguments and keep nothing: the queue's position is a [`QueueState`] record, and
//! every byte of ring, table and buffer is reached through `GuestRam::acquire`, so a queue can be parked at any
//! point before its chain is taken, saved, and gone on with elsewhere.
//!
//! Not here: packed virtqueues (`VIRTIO_F_RING_PACKED` is not offered).

pub mod chain;
pub mod ring;

pub use chain::{Chain, MAX_BYTES, MAX_SEGMENTS, Reader, Writer};
pub use ring::{Popped, QueueState, RingFeatures};

use strata_memory::MemoryError;

/// What a driver did that no working driver does. The device then asks for a reset (§2.1.1, `DEVICE_NEEDS_RESET`)
/// and serves nothing until it has one.
#[derive(Debug, thiserror::Error)]
pub enum Nonsense {
    /// A queue of no size, or not a power of two, or larger than the device's maximum.
    #[error("queue size {0} is not a power of two within the device's limit")]
    QueueSize(u32),
    /// A ring or table address without the alignment of §2.7.
    #[error("queue area at {gpa:#x} is not aligned to {align} bytes")]
    Misaligned {
        /// Guest physical address.
        gpa: u64,
        /// Alignment that the specification demands.
        align: u64,
    },
    /// Memory that is not RAM.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The available index moved by more than the queue's size.
    #[error("available index {idx} is {ahead} ahead of the device in a queue of {num}")]
    AvailJump {
        /// Index in guest memory.
        idx: u16,
        /// Its distance from the device's own.
        ahead: u16,
        /// Queue size.
        num: u16,
    },
    /// A descriptor index outside its table.
    #[error("descriptor {index} in a table of {entries}")]
    BadIndex {
        /// Index asked for.
        index: u32,
        /// Entries of the table.
        entries: u32,
    },
    /// More steps than the table has entries: the chain bites its tail.
    #[error("descriptor chain with head {head} loops")]
    Loop {
        /// Head of the chain.
        head: u16,
    },
    /// An indirect descriptor that §2.7.5.3 forbids.
    #[error("indirect descriptor refused: {0}")]
    Indirect(&'static str),
    /// A device-readable buffer behind a device-writable one (§2.7.4.2).
    #[error("descriptor chain with head {head} has a readable buffer after a writable one")]
    Order {
        /// Head of the chain.
        head: u16,
    },
    /// More data or more pieces than a chain may have.
    #[error("descriptor chain with head {head} exceeds {MAX_SEGMENTS} buffers or {MAX_BYTES} bytes")]
    TooLong {
        /// Head of the chain.
        head: u16,
    },
    /// A request that does not have the shape of the device's protocol.
    #[error("malformed request: {0}")]
    Request(&'static str),
}
