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
//!
//! Beside each set lie its *windows*: copies of rights, each for the accesses that a translator expects to stay on one page
//! (by one pointer, say). A window is found without looking at the address, so nothing of an access waits for the entry. A
//! window outlives the entry that it was copied from, never the right: whatever takes a right back closes them all.

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

/// Windows for reads, and as many for writes, of a data context.
pub const WINDOWS: usize = 64;

/// The windows of a context, for reads or for writes. Which access looks through which is the translator's choice.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Windows {
    /// As in [`DataRight`].
    pub tags: [u64; WINDOWS],
    /// As in [`DataRight`].
    pub addends: [u64; WINDOWS],
}

impl Windows {
    const CLOSED: Windows = Windows { tags: [INVALID; WINDOWS], addends: [0; WINDOWS] };

    fn close(&mut self) {
        self.tags = [INVALID; WINDOWS];
    }

    /// Those onto the page of `va`.
    fn close_page(&mut self, va: u64) {
        for tag in &mut self.tags {
            *tag = if *tag == va & PAGE { INVALID } else { *tag };
        }
    }
}

/// Translations of loads and stores.
#[repr(C)]
pub struct DataTlb {
    /// By context ([`DataContext`]) and by the low bits of the page number.
    pub sets: [[DataEntry; DATA_ENTRIES]; CONTEXTS],
    /// Guest physical addresses of the page read and the page written, apart: only atomics ask.
    pub pas: [[[u64; 2]; DATA_ENTRIES]; CONTEXTS],
    /// By context; those for reads, and those for writes.
    pub windows: [[Windows; 2]; CONTEXTS],
    /// By context: 1 if a window may be open. Whoever opens one says so.
    pub open: [u8; CONTEXTS],
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
            windows: [[Windows::CLOSED; 2]; CONTEXTS],
            open: [0; CONTEXTS],
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
        let moved = other.tag == tag && self.pas[n][at][usize::from(!write)] != pa;
        if moved {
            *other = NONE;
        }
        // The mark is for both: an address space's own page must go with it, also beside one that all have.
        let both_global = global && (other.tag == INVALID || self.marks[n].is_global(at));
        self.pas[n][at][usize::from(write)] = pa;
        self.marks[n].set(at, both_global);
        if moved {
            self.close_windows();
        }
    }

    /// Closes all windows.
    fn close_windows(&mut self) {
        for (windows, open) in self.windows.iter_mut().zip(&mut self.open) {
            if std::mem::take(open) != 0 {
                windows.iter_mut().for_each(Windows::close);
            }
        }
    }

    /// Closes the windows for writes.
    fn close_writes(&mut self) {
        for ([_, write], open) in self.windows.iter_mut().zip(self.open) {
            if open != 0 {
                write.close();
            }
        }
    }

    /// Makes `context` the one that loads and stores use.
    pub(crate) fn select(&mut self, context: DataContext) {
        self.selected = context;
        if context == DataContext::Odd {
            self.clear(context as usize);
        }
    }

    fn clear(&mut self, context: usize) {
        if std::mem::take(&mut self.open[context]) != 0 {
            self.windows[context].iter_mut().for_each(Windows::close);
        }
        let set = &mut self.sets[context];
        self.marks[context].take_all(|i| forget(&mut set[i]));
    }

    /// Forgets every right to write.
    pub(crate) fn drop_writes(&mut self) {
        self.close_writes();
        for (set, marks) in self.sets.iter_mut().zip(&self.marks) {
            marks.each(|i| set[i].write = NONE);
        }
    }

    /// Forgets the right to write to the guest physical page at `pa`, wherever it is mapped.
    pub(crate) fn drop_writes_to(&mut self, pa: u64) {
        self.close_writes();
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
        self.close_windows();
        for (set, marks) in self.sets.iter_mut().zip(&mut self.marks) {
            marks.take_local(|i| forget(&mut set[i]));
        }
    }

    pub(super) fn flush_page(&mut self, va: u64) {
        for (windows, open) in self.windows.iter_mut().zip(self.open) {
            if open != 0 {
                windows.iter_mut().for_each(|w| w.close_page(va));
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const VA: u64 = 0x7000;

    fn with_windows() -> Box<DataTlb> {
        let mut tlb = Box::new(DataTlb::new());
        for (windows, open) in tlb.windows.iter_mut().zip(&mut tlb.open) {
            windows.iter_mut().for_each(|w| (w.tags[3], w.tags[4]) = (VA, VA + 4096));
            *open = 1;
        }
        tlb
    }

    /// Tags of the windows for reads, then of those for writes, of every context alike.
    fn tags(tlb: &DataTlb) -> [[u64; 2]; 2] {
        let of = |w: &[Windows; 2]| [[w[0].tags[3], w[0].tags[4]], [w[1].tags[3], w[1].tags[4]]];
        assert!(tlb.windows.iter().all(|w| of(w) == of(&tlb.windows[0])));
        of(&tlb.windows[0])
    }

    #[test]
    fn whatever_takes_a_right_back_closes_its_windows() {
        const CLOSED: [u64; 2] = [INVALID; 2];
        const OPEN: [u64; 2] = [VA, VA + 4096];
        let after = |how: fn(&mut DataTlb)| {
            let mut tlb = with_windows();
            how(&mut tlb);
            tags(&tlb)
        };
        assert_eq!(after(DataTlb::flush_all), [CLOSED; 2]);
        assert_eq!(after(DataTlb::flush_local), [CLOSED; 2]);
        assert_eq!(after(DataTlb::drop_writes), [OPEN, CLOSED]);
        assert_eq!(after(|t| t.drop_writes_to(0)), [OPEN, CLOSED]);
        assert_eq!(after(|t| t.flush_page(VA + 8)), [[INVALID, VA + 4096]; 2]);
        assert_eq!(after(|_| {}), [OPEN; 2]);
    }

    #[test]
    fn windows_onto_a_page_that_has_moved_are_closed() {
        let fills = |fills: &[(u64, bool)]| {
            let mut tlb = with_windows();
            let page = HostPage::remembered(0x1000);
            fills.iter().for_each(|(pa, write)| tlb.fill(VA, *pa, page, false, *write));
            tags(&tlb)
        };
        const CLOSED: [[u64; 2]; 2] = [[INVALID; 2]; 2];
        const OPEN: [[u64; 2]; 2] = [[VA, VA + 4096]; 2];
        // Read at one place, then written at another, and the other way round: a window would still read the first.
        assert_eq!(fills(&[(0x1000, false), (0x2000, true)]), CLOSED);
        assert_eq!(fills(&[(0x1000, true), (0x2000, false)]), CLOSED);
        assert_eq!(fills(&[(0x1000, false), (0x1000, true)]), OPEN);
    }
}
