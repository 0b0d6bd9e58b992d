//! Address translation: from a guest virtual address to RAM or the bus.
//!
//! ```text
//!   pte.rs     a page-table entry's bits
//!   walk.rs    the walk: pure, over a reader of entries
//!   tlb.rs     what is remembered, and how it is forgotten: of data_tlb.rs, fetch_tlb.rs, second_level.rs
//!   access.rs  loads, stores, atomics and fetches that miss the TLB
//! ```
//! *The RISC-V Instruction Set Manual*, volume II, "Virtual Address Translation Process" and the chapters of Sv39, Sv48,
//! Sv57, Svnapot, Svpbmt, Svadu.

mod access;
mod data_tlb;
mod fetch_tlb;
mod marks;
mod pte;
mod second_level;
mod tlb;
mod walk;

pub use access::FetchPage;
pub use data_tlb::{DATA_ENTRIES, DataContext, DataEntry, DataRight, DataTlb, WINDOWS, Windows};
pub use fetch_tlb::{FETCH_ENTRIES, FetchTlb};
pub use tlb::{Mmu, PAGE};
pub(crate) use walk::known_mode;
