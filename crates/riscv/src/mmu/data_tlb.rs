//! What is remembered of loads and stores: asked by each of them, by the interpreter and by translated code alike.
//!
//! ```text
//!   va      63 ............ 12 11 .... 3 2..0
//!   compare       page number      0     va & (size - 1)      with the read or write tag, in one comparison:
//!   tag           page number      0        0                 misaligned and not present both fail it
//!   invalid           0       1<<11         0                 never equal: bit 11 is not compared
//! ```
//! Direct-mapped, and split by context, so that a change of privilege flushes nothing. All sets lie inside the structure
//! itself: an emitted access belongs to one context and finds its entry at a constant distance from the core.

use super::marks::Marks;
use super::tlb::{INVALID, PAGE};
use crate::host::HostPage;

/// Entries a data context. 512 cover 2 MiB; 16 KiB of entries stay in a first-level cache beside the guest's data.
pub const DATA_ENTRIES: usize = 512;

/// Whose loads and stores: the index of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum DataContext {
    /// U.
    User = 0,
    /// S without `mstatus.SUM`.
    Supervisor = 1,
    /// S with `mstatus.SUM`.
    SupervisorSum = 2,
    /// M: no translation.
    Bare = 3,
    /// S or U with `mstatus.MXR`: firmware's unprivileged accesses. Flushed whenever it is entered.
    Odd = 4,
}
const CONTEXTS: usize = 5;

/// The right to read a page, or to write it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DataRight {
    /// Page number of the virtual address, in place.
    pub tag: u64,
    /// What to add to an address in the page to have the host's.
    pub addend: u64,
}

const NONE: DataRight = DataRight { tag: INVALID, addend: 0 };

impl DataRight {
    /// The page, for an address that the tag fits.
    #[inline(always)]
    pub(crate) fn page(&self, va: u64) -> HostPage {
        HostPage::remembered(self.addend.wrapping_add(va & PAGE))
    }
}

/// A place for pages of data. What is read and what is written share it without displacing each other: a copy whose ends
/// are a multiple of the TLB's reach apart is common.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct DataEntry {
    /// What may be read.
    pub read: DataRight,
    /// What may be written.
    pub write: DataRight,
}

/// Translations of loads and stores.
#[repr(C)]
pub struct DataTlb {
    /// By context ([`DataContext`]) and by the low bits of the page number.
    pub sets: [[DataEntry; DATA_ENTRIES]; CONTEXTS],
    /// Guest physical addresses of the page read and the page written, apart: only atomics ask.
    pub pas: [[[u64; 2]; DATA_ENTRIES]; CONTEXTS],
    /// The context of loads and stores at present.
    pub selected: DataContext,
    /// Which entries may hold a present tag.
    marks: [Marks<{ DATA_ENTRIES / 64 }>; CONTEXTS],
}

#[inline(always)]
fn data_index(va: u64) -> usize {
    (va >> 12) as usize & (DATA_ENTRIES - 1)
}

impl DataTlb {
    /// Empty.
    pub(super) fn new() -> DataTlb {
        let nothing = DataEntry { read: NONE, write: NONE };
        DataTlb {
            sets: [[nothing; DATA_ENTRIES]; CONTEXTS],
            pas: [[[0; 2]; DATA_ENTRIES]; CONTEXTS],
            selected: DataContext::Bare,
            marks: [Marks::EMPTY; CONTEXTS],
        }
    }

    /// The entry where `va` would be.
    #[inline(always)]
    pub fn entry(&self, va: u64) -> &DataEntry {
        &self.sets[self.selected as usize][data_index(va)]
    }

    /// Guest physical address of the page read, or written, in the entry where `va` would be.
    pub(super) fn pa(&self, va: u64, write: bool) -> u64 {
        self.pas[self.selected as usize][data_index(va)][usize::from(write)]
    }

    /// Remembers that the page of `va` may be read, or written; `global` if every address space has it there.
    pub(crate) fn fill(&mut self, va: u64, pa: u64, page: HostPage, global: bool, write: bool) {
        let (n, at) = (self.selected as usize, data_index(va));
        let e = &mut self.sets[n][at];
        let (tag, pa) = (va & PAGE, pa & PAGE);
        let right = DataRight { tag, addend: (page.address() as u64).wrapping_sub(tag) };
        let (this, other) = if write { (&mut e.write, &mut e.read) } else { (&mut e.read, &mut e.write) };
        *this = right;
        // A page that has moved is not read at one place and written at another.
        if other.tag == tag && self.pas[n][at][usize::from(!write)] != pa {
            *other = NONE;
        }
        // The mark is for both: an address space's own page must go with it, also beside one that all have.
        let both_global = global && (other.tag == INVALID || self.marks[n].is_global(at));
        self.pas[n][at][usize::from(write)] = pa;
        self.marks[n].set(at, both_global);
    }

    /// Makes `context` the one that loads and stores use.
    pub(crate) fn select(&mut self, context: DataContext) {
        self.selected = context;
        if context == DataContext::Odd {
            self.clear(context as usize);
        }
    }

    fn clear(&mut self, context: usize) {
        let set = &mut self.sets[context];
        self.marks[context].take_all(|i| forget(&mut set[i]));
    }

    /// Forgets every right to write.
    pub(crate) fn drop_writes(&mut self) {
        for (set, marks) in self.sets.iter_mut().zip(&self.marks) {
            marks.each(|i| set[i].write = NONE);
        }
    }

    /// Forgets the right to write to the guest physical page at `pa`, wherever it is mapped.
    pub(crate) fn drop_writes_to(&mut self, pa: u64) {
        for ((set, pas), marks) in self.sets.iter_mut().zip(&self.pas).zip(&self.marks) {
            marks.each(|i| {
                if pas[i][1] == pa & PAGE {
                    set[i].write = NONE;
                }
            });
        }
    }

    pub(super) fn flush_all(&mut self) {
        (0..CONTEXTS).for_each(|n| self.clear(n));
    }

    /// Forgets what is not the same in every address space.
    pub(super) fn flush_local(&mut self) {
        for (set, marks) in self.sets.iter_mut().zip(&mut self.marks) {
            marks.take_local(|i| forget(&mut set[i]));
        }
    }

    pub(super) fn flush_page(&mut self, va: u64) {
        for set in &mut self.sets {
            let e = &mut set[data_index(va)];
            if e.read.tag == va & PAGE || e.write.tag == va & PAGE {
                forget(e);
            }
        }
    }
}

fn forget(e: &mut DataEntry) {
    *e = DataEntry { read: NONE, write: NONE };
}
