//! What the hart remembers of translations, and the named ways to forget.
//!
//! A first level of two memories, of data (`data_tlb.rs`) and of fetches (`fetch_tlb.rs`), which hold host addresses;
//! and behind both a second (`second_level.rs`), which stands in for the walk of the page tables.
//!
//! Invariants. A tag of the first level that is present means: the page is RAM without a device over it; every permission
//! has been checked (page tables, PMP for the whole page); A is set, and for the write tag D is set and the page is marked
//! dirty in the current epoch; no code was translated from it, or the hart is not yet bound to know (`strata_memory`'s
//! `Quiet`). The first level holds pages of the present address space and global ones only. What can break that calls one
//! of the named ways to forget, and nothing else clears tags, but for eviction:
//!
//! | what happens | first level | second level |
//! |---|---|---|
//! | `satp` changes: [`Mmu::change_space`] | what is not global | nothing |
//! | a fence: [`Mmu::fence`] | as it says, of any space | as it says |
//! | pages of RAM: [`Mmu::forget_pages`] | all | nothing |
//! | code is watched: [`DataTlb::drop_writes`] | rights to write | nothing |
//! | PMP, `menvcfg`, another mode of translation, new registers: [`Mmu::flush_all`] | all | all |
//!
//! A superpage is remembered in pieces of 4 KiB, and a fence of any of its addresses must forget all of them. So it is
//! noted where there were any ([`Supers`]), and a fence of an address there forgets as if it had named no address.

use super::data_tlb::DataTlb;
use super::fetch_tlb::FetchTlb;
use super::second_level::{SecondLevel, asid_of};

/// Mask of a page's number in an address.
pub const PAGE: u64 = !0xfff;

/// A tag that no address equals.
pub(super) const INVALID: u64 = 1 << 11;

/// Span of a superpage of the lowest level.
const MEGAPAGE: u64 = 2 << 20;

/// The half of the address space, by sign, in which `va` lies. No page lies in both, and a program's superpages must not
/// make a kernel's fences dear.
fn half(va: u64) -> usize {
    (va >> 63) as usize
}

/// Where superpages have been found, for each half of the addresses.
#[derive(Clone, Copy, Default)]
struct Supers {
    /// Megabyte regions (hashed) with pages of 2 MiB or 64 KiB.
    regions: [[u64; 16]; 2],
    /// First and last address of larger ones, in one range.
    larger: [Option<(u64, u64)>; 2],
}

impl Supers {
    /// Word and bit of the region of `va`.
    fn region(va: u64) -> (usize, u64) {
        let n = va / MEGAPAGE;
        ((n >> 6) as usize & 15, 1 << (n & 63))
    }

    fn note(&mut self, va: u64, span: u64) {
        if span > MEGAPAGE {
            let (low, high) = (va & !(span - 1), va | (span - 1));
            let range = &mut self.larger[half(va)];
            *range = Some(range.map_or((low, high), |(l, h)| (l.min(low), h.max(high))));
        } else if span > 4096 {
            let (word, bit) = Supers::region(va);
            self.regions[half(va)][word] |= bit;
        }
    }

    fn may_hold(&self, va: u64) -> bool {
        let (word, bit) = Supers::region(va);
        self.regions[half(va)][word] & bit != 0
            || self.larger[half(va)].is_some_and(|(low, high)| va >= low && va <= high)
    }
}

/// All that is remembered.
#[repr(C)]
pub struct Mmu {
    /// Of loads and stores.
    pub data: DataTlb,
    /// Of instruction fetches.
    pub fetch: FetchTlb,
    /// Of walks.
    pub(super) second: SecondLevel,
    supers: Supers,
}

impl Mmu {
    /// Empty.
    pub(crate) fn new() -> Mmu {
        Mmu {
            data: DataTlb::new(),
            fetch: FetchTlb::new(),
            second: SecondLevel::new(),
            supers: Supers::default(),
        }
    }

    /// Notes that `va` was found in a mapping of `span` bytes.
    pub(super) fn note_span(&mut self, va: u64, span: u64) {
        self.supers.note(va, span);
    }

    /// Forgets everything.
    pub(crate) fn flush_all(&mut self) {
        self.forget_pages();
        self.second.flush_all();
        self.supers = Supers::default();
    }

    /// Pages of RAM have come, gone, or are to be marked anew; translations are as they were.
    pub(crate) fn forget_pages(&mut self) {
        self.data.flush_all();
        self.fetch.flush_all();
    }

    /// The address space that was is left: of the first level, only what is global holds in the next.
    pub(crate) fn change_space(&mut self) {
        self.data.flush_local();
        self.fetch.flush_local();
    }

    /// sfence.vma, of one address or all, for one address space or all (global pages belong to none). `satp` is the
    /// present one.
    pub(crate) fn fence(&mut self, satp: u64, va: Option<u64>, asid: Option<u16>) {
        let present = asid.is_none_or(|asid| asid == asid_of(satp));
        match (va.filter(|&va| !self.supers.may_hold(va)), asid) {
            (None, None) => self.flush_all(),
            (None, Some(asid)) => {
                if present {
                    self.change_space();
                }
                self.second.flush_space(asid);
            }
            (Some(va), asid) => {
                if present {
                    self.data.flush_page(va);
                    self.fetch.flush_page(va);
                }
                self.second.flush_page(va, asid);
            }
        }
    }
}

#[cfg(test)]
#[path = "tlb/tests.rs"]
mod tests;
