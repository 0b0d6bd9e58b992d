//! What is remembered of instruction fetches: asked when a block is looked up anew, not once an instruction.
//!
//! Two ways in which others may keep what was found here:
//! - under the **stamp**, which names what all translations of the selected context are at present. Whoever remembers
//!   something found at a virtual address keeps the stamp with it: while it is the same, the address still leads there;
//! - under an **id**, a number that a second tier gives to the translation in an entry. Invariant: a nonzero id at an
//!   index means that the entry there is present and leads to what the tier called by that id. Whatever forgets the
//!   entry or puts another in its place zeroes the id; nobody but the tier writes anything else there.

use super::marks::Marks;
use super::tlb::{INVALID, PAGE};
use crate::host::HostPage;
use crate::trap::Privilege;

/// Entries a fetch context.
pub const FETCH_ENTRIES: usize = 1024;
const CONTEXTS: usize = 3;

/// A page of code.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct FetchEntry {
    tag: u64,
    pub page: HostPage,
    pub pa: u64,
    /// Every address space has it there.
    global: bool,
}

/// Translations of instruction fetches.
#[repr(C)]
pub struct FetchTlb {
    /// By context (0 U, 1 S, 2 M) and by the low bits of the page number: the tier's id of the translation in the entry
    /// of the same place, or 0.
    pub ids: [[u32; FETCH_ENTRIES]; CONTEXTS],
    sets: [[FetchEntry; FETCH_ENTRIES]; CONTEXTS],
    /// By context.
    pub stamps: [u64; CONTEXTS],
    /// The context of fetches at present.
    pub selected: usize,
    /// The selected context's stamp: every block's lookup compares it.
    pub stamp: u64,
    next_stamp: u64,
    /// By context, a bit for each page (hashed) given out under its stamp: flushes of others renew nothing.
    pages: [[u64; 16]; CONTEXTS],
    /// By context, whether a page that is not the same in every address space was given out under its stamp.
    /// A kernel's are, and keep their stamp when the address space changes.
    local: [bool; CONTEXTS],
    /// Which entries may be present.
    marks: [Marks<{ FETCH_ENTRIES / 64 }>; CONTEXTS],
}

fn index_of(va: u64) -> usize {
    (va >> 12) as usize & (FETCH_ENTRIES - 1)
}

fn context_of(mode: Privilege) -> usize {
    match mode {
        Privilege::User => 0,
        Privilege::Supervisor => 1,
        Privilege::Machine => 2,
    }
}

/// Word and bit of a page in the hashed set.
fn page_bit(va: u64) -> (usize, u64) {
    let h = (va >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    ((h >> 6) as usize & 15, 1 << (h & 63))
}

impl FetchTlb {
    /// Empty.
    pub(super) fn new() -> FetchTlb {
        let nothing = FetchEntry { tag: INVALID, page: HostPage::nowhere(), pa: 0, global: false };
        FetchTlb {
            ids: [[0; FETCH_ENTRIES]; CONTEXTS],
            sets: [[nothing; FETCH_ENTRIES]; CONTEXTS],
            stamps: [1, 2, 3],
            selected: 2,
            stamp: 3,
            next_stamp: 4,
            pages: [[0; 16]; CONTEXTS],
            local: [false; CONTEXTS],
            marks: [Marks::EMPTY; CONTEXTS],
        }
    }

    /// The stamp of the selected context.
    #[inline(always)]
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// Number of `mode`'s context.
    pub fn context(mode: Privilege) -> usize {
        context_of(mode)
    }

    /// Where in [`FetchTlb::ids`] the id of the page at `va` in `mode` would be.
    pub fn id_place(mode: Privilege, va: u64) -> (usize, usize) {
        (context_of(mode), index_of(va))
    }

    /// Gives the translation of the page at `va` in `mode` the tier's `id`, if it is remembered.
    pub fn set_id(&mut self, mode: Privilege, va: u64, id: u32) {
        let (n, i) = FetchTlb::id_place(mode, va);
        if self.sets[n][i].tag == va & PAGE {
            self.ids[n][i] = id;
        }
    }

    /// The id of the translation of the page at `va` in `mode`; 0 if it has none, or is not remembered.
    pub fn id(&self, mode: Privilege, va: u64) -> u32 {
        let (n, i) = FetchTlb::id_place(mode, va);
        if self.sets[n][i].tag == va & PAGE { self.ids[n][i] } else { 0 }
    }

    /// Gives out the page of code at `va`, if it is remembered.
    pub(crate) fn find(&mut self, va: u64) -> Option<FetchEntry> {
        let e = self.sets[self.selected][index_of(va)];
        if e.tag != va & PAGE {
            return None;
        }
        self.give_out(va, e.global);
        Some(e)
    }

    /// Remembers the page of code at `va`, which is `global` if every address space has it there, and gives it out.
    pub(crate) fn fill(&mut self, va: u64, pa: u64, page: HostPage, global: bool) {
        let (n, i) = (self.selected, index_of(va));
        self.ids[n][i] = 0;
        self.sets[n][i] = FetchEntry { tag: va & PAGE, page, pa: pa & PAGE, global };
        self.marks[n].set(i, global);
        self.give_out(va, global);
    }

    fn give_out(&mut self, va: u64, global: bool) {
        let (word, bit) = page_bit(va);
        self.pages[self.selected][word] |= bit;
        self.local[self.selected] |= !global;
    }

    /// Makes `mode`'s the one that fetches use.
    pub(crate) fn select(&mut self, mode: Privilege) {
        self.selected = context_of(mode);
        self.stamp = self.stamps[self.selected];
    }

    /// Renews the stamps: nothing found at a virtual address holds any longer.
    pub(crate) fn new_stamps(&mut self) {
        (0..CONTEXTS).for_each(|n| self.renew(n));
    }

    /// Renews the stamp of context `n`, under which nothing has been given out yet.
    fn renew(&mut self, n: usize) {
        self.stamps[n] = self.next_stamp;
        self.next_stamp += 1;
        self.stamp = self.stamps[self.selected];
        self.pages[n] = [0; 16];
        self.local[n] = false;
    }

    pub(super) fn flush_all(&mut self) {
        for n in 0..CONTEXTS {
            let (set, ids) = (&mut self.sets[n], &mut self.ids[n]);
            self.marks[n].take_all(|i| forget(&mut set[i], &mut ids[i]));
            if self.pages[n] != [0; 16] {
                self.renew(n);
            }
        }
    }

    /// Forgets what is not the same in every address space.
    pub(super) fn flush_local(&mut self) {
        for n in 0..CONTEXTS {
            let (set, ids) = (&mut self.sets[n], &mut self.ids[n]);
            self.marks[n].take_local(|i| forget(&mut set[i], &mut ids[i]));
            if self.local[n] {
                self.renew(n);
            }
        }
    }

    pub(super) fn flush_page(&mut self, va: u64) {
        let (word, bit) = page_bit(va);
        for n in 0..CONTEXTS {
            let i = index_of(va);
            if self.sets[n][i].tag == va & PAGE {
                forget(&mut self.sets[n][i], &mut self.ids[n][i]);
            }
            // Also where it was evicted: it was given out under this stamp.
            if self.pages[n][word] & bit != 0 {
                self.renew(n);
            }
        }
    }
}

fn forget(e: &mut FetchEntry, id: &mut u32) {
    (e.tag, *id) = (INVALID, 0);
}
