//! Disks: what a virtual disk's bytes are kept in.
//!
//! A [`Disk`] is the host side of a block device: sectors in a raw file, in a qcow2 image, or behind a writable
//! layer. It opens nothing by path where it can be given a descriptor, owns no thread, and knows nothing of
//! virtio. Callers run it from whichever thread serves the queue; one request at a time.
//!
//! ```text
//! open_disk(OpenOptions)          the only place that turns a path into a disk
//!     probe   which format is it, by magic
//!     lock    who may use it: an OFD lock, a record of owner and epoch beside the file
//!     raw     bytes of a file, straight to and from guest memory
//!     qcow2   copy-on-write image; format code is the crate `imago`, header and metadata are checked here first
//!     mem     bytes in memory, for tests and RAM disks
//! ```
//!
//! Invariants: a write that was acknowledged before a successful [`Disk::flush`] survives the death of this
//! process and of the host; a name found inside an image is opened only by the rules of [`Chain`]; nothing that
//! an image file contains can panic, loop without bound or allocate without bound.

#[cfg(test)]
mod crash;
pub mod error;
#[doc(hidden)]
pub mod fuzz;
pub mod lock;
pub mod mem;
#[cfg(test)]
mod model;
pub mod open;
pub mod probe;
pub mod qcow2;
pub mod raw;
mod staged;
#[cfg(test)]
mod testing;
mod vectors;

pub use error::{DiskError, DiskErrorKind};
pub use lock::{Lease, Owner, Recording, reclaim, recorded};
pub use mem::MemDisk;
pub use open::{OpenDisk, OpenOptions, open_disk};
pub use probe::Format;
pub use qcow2::{Chain, Cluster, Qcow2Disk, create_image, create_overlay, fold_layers, held, lay_over};
pub use raw::RawDisk;
pub use staged::{Staged, stage};

use vm_memory::VolatileSlice;

/// Size of the unit in which a disk's size is counted.
pub const SECTOR: u64 = 512;

/// A disk of `size` bytes, addressed by byte offset. Guest memory is handed in as volatile slices, because the
/// guest may write to it while the transfer runs; data is copied at most once.
pub trait Disk: Send {
    /// Size in bytes; a multiple of 512.
    fn size(&self) -> u64;
    /// Whether writes are refused.
    fn read_only(&self) -> bool;
    /// Fills `bufs` from `offset` on. A range that ends past `size` is an error and transfers nothing.
    fn read(&mut self, offset: u64, bufs: &[VolatileSlice<'_>]) -> std::io::Result<()>;
    /// Writes `bufs` at `offset`.
    fn write(&mut self, offset: u64, bufs: &[VolatileSlice<'_>]) -> std::io::Result<()>;
    /// Makes all acknowledged writes durable.
    fn flush(&mut self) -> std::io::Result<()>;
    /// Frees the range: later reads may give anything where the format cannot promise zeroes.
    fn discard(&mut self, offset: u64, len: u64) -> std::io::Result<()>;
    /// Makes the range read as zeroes; with `unmap`, freeing its storage where possible.
    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> std::io::Result<()>;
    /// Gives the disk up for good, because another owner has it now: whatever is still buffered is dropped, and
    /// every later request fails. The default is for disks that buffer nothing and have no other owner.
    fn abandon(&mut self) {}
}
