//! What the hart remembers of translations, and the named ways to forget.
//!
//! Two memories: of data (`data_tlb.rs`) and of fetches (`fetch_tlb.rs`).
//!
//! Invariants. A tag that is present means: the page is RAM without a device over it; every permission has been checked
//! (page tables, PMP for the whole page); A is set, and for the write tag D is set and the page is marked dirty in the
//! current epoch; no code was translated from it, or the hart is not yet bound to know (`strata_memory`'s `Quiet`). What
//! can break that calls one of the named ways to forget: [`Mmu::change_space`] (satp),
//! [`Mmu::flush`] (sfence.vma of an address), [`Mmu::flush_all`] (the rest: sfence.vma, PMP, menvcfg, a dirty epoch,
//! changed presence), [`DataTlb::drop_writes`] (watched code). Nothing else clears tags, but for eviction.
//!
//! A superpage is remembered in pieces of 4 KiB. An sfence.vma of any of its addresses must forget all the pieces, so
//! the union of the ranges of superpages is kept, for each half of the addresses, and an address in it flushes everything.

use super::data_tlb::DataTlb;
use super::fetch_tlb::FetchTlb;

/// Mask of a page's number in an address.
pub const PAGE: u64 = !0xfff;

/// A tag that no address equals.
pub(super) const INVALID: u64 = 1 << 11;

/// The half of the address space, by sign, in which `va` lies. No page lies in both.
fn half(va: u64) -> usize {
    (va >> 63) as usize
}

/// Both memories, and what sfence.vma has to know of superpages.
#[repr(C)]
pub struct Mmu {
    /// Of loads and stores.
    pub data: DataTlb,
    /// Of instruction fetches.
    pub fetch: FetchTlb,
    /// First and last address of the superpages remembered, in one range for each half of the addresses: a program's
    /// must not stretch a kernel's over all that lies between.
    supers: [Option<(u64, u64)>; 2],
}

impl Mmu {
    /// Empty.
    pub(crate) fn new() -> Mmu {
        Mmu { data: DataTlb::new(), fetch: FetchTlb::new(), supers: [None; 2] }
    }

    /// Notes that `va` was found in a mapping of `span` bytes.
    pub(crate) fn note_span(&mut self, va: u64, span: u64) {
        if span > 4096 {
            let (low, high) = (va & !(span - 1), va | (span - 1));
            let range = &mut self.supers[half(va)];
            *range = Some(range.map_or((low, high), |(l, h)| (l.min(low), h.max(high))));
        }
    }

    /// Forgets everything.
    pub(crate) fn flush_all(&mut self) {
        self.data.flush_all();
        self.fetch.flush_all();
        self.supers = [None; 2];
    }

    /// Forgets what belongs to the address space that is left: of code, what is not global; data whole.
    pub(crate) fn change_space(&mut self) {
        self.data.flush_all();
        self.fetch.flush_local();
        // `supers` stays: it may cover pages of code that are still remembered.
    }

    /// Forgets whatever was found at `va`'s page, in every address space.
    pub(crate) fn flush(&mut self, va: u64) {
        if self.supers[half(va)].is_some_and(|(low, high)| va >= low && va <= high) {
            self.flush_all();
        } else {
            self.data.flush_page(va);
            self.fetch.flush_page(va);
        }
    }
}

#[cfg(test)]
#[path = "tlb/tests.rs"]
mod tests;
