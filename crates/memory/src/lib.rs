//! Guest RAM and the one map of what each of its pages is.
//!
//! [`GuestRam`] is a few [`Region`]s of guest physical addresses over host mappings, and a [`PageMap`] that says of
//! every page whether it is there, whether it is still all zeroes, and since which epoch it is dirty. Snapshots,
//! migration, balloon and lazy fill all ask and mark that map.
//!
//! Who may touch guest memory, and how:
//! - **devices and their backends** through [`GuestRam::acquire`] only: presence, the dirty mark and the
//!   page's old content for a snapshot that is being taken ([`Capture`]) are dealt with in that one call, which may answer
//!   "wait"; after a write, [`GuestRam::written`] tells whoever has translated code from there. No device keeps what it was
//!   given while the machine is paused;
//! - **an engine** through [`GuestRam::engine_page`] in its slow path; it may keep the host address until the next
//!   dirty epoch or change of presence, of which the machine tells it;
//! - **the loader** through [`GuestRam::load`], before the first instruction.
//!
//! RAM is shared with running vCPUs. It is never viewed as a Rust slice: the engine uses relaxed atomics of the
//! access's width, devices use volatile slices.

mod capture;
mod code_watch;
mod late;
mod lay;
mod mapping;
mod page_map;
mod populated;
mod ram;
mod throttle;
mod userfault;

pub use capture::{Capture, PageSet, PageSink};
pub use code_watch::{Drained, Quiet};
pub use lay::Part;
pub use mapping::Backing;
pub use page_map::{FIRST_EPOCH, PageMap, Presence};
pub use ram::{Access, Acquired, EnginePage, GuestRam, PAGE, Region, RegionSpec};
pub use throttle::Throttle;
pub use userfault::can_catch_touches;
pub use vm_memory::VolatileSlice;

/// Why guest memory cannot be made or reached.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The range is not (wholly) in one region of RAM.
    #[error("guest addresses {gpa:#x}+{len:#x} are not RAM")]
    NotRam {
        /// First guest physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
    },
    /// A region is empty, unaligned, overlaps another or is too large for the host's address space.
    #[error("RAM region {gpa:#x}+{len:#x} is not usable: {why}")]
    BadRegion {
        /// First guest physical address.
        gpa: u64,
        /// Length in bytes.
        len: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// The host refused the memory.
    #[error("the host gave no {len} bytes of memory for the guest ({source}); give the machine less memory")]
    Host {
        /// Length asked for, in bytes.
        len: u64,
        /// The system's answer.
        source: rustix::io::Errno,
    },
}

#[cfg(test)]
mod tests;
