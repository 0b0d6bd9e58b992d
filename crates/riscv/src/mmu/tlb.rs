//! What the hart remembers of translations.
//!
//! Two memories. The **data TLB** is asked by every load and store, the **fetch TLB** when a block is looked up anew.
//! Both are direct-mapped and split by context, so that a change of privilege flushes nothing.
//!
//! ```text
//!   va      63 ............ 12 11 .... 3 2..0
//!   compare       page number      0     va & (size - 1)      with the read or write tag, in one comparison:
//!   tag           page number      0        0                 misaligned and not present both fail it
//!   invalid           0       1<<11         0                 never equal: bit 11 is not compared
//! ```
//!
//! Invariants. A tag that is present means: the page is RAM without a device over it; every permission has been checked
//! (page tables, PMP for the whole page); A is set, and for the write tag D is set and the page is marked dirty in the
//! current epoch. What can break that calls one of the named ways to forget: [`Mmu::change_space`] (satp),
//! [`Mmu::flush`] (sfence.vma of an address), [`Mmu::flush_all`] (the rest: sfence.vma, PMP, menvcfg, a dirty epoch,
//! changed presence). Nothing else clears tags, but for eviction.
//!
//! A superpage is remembered in pieces of 4 KiB. An sfence.vma of any of its addresses must forget all the pieces, so
//! the union of the ranges of superpages is kept, for each half of the addresses, and an address in it flushes everything.

use crate::host::HostPage;
use crate::trap::Privilege;

/// Mask of a page's number in an address.
pub(crate) const PAGE: u64 = !0xfff;

/// Entries a data context. 512 cover 2 MiB; 16 KiB of entries stay in a first-level cache beside the guest's data.
const DATA_ENTRIES: usize = 512;
/// Entries a fetch context: asked once a block and page, not once an instruction.
const FETCH_ENTRIES: usize = 256;

const INVALID: u64 = 1 << 11;

/// Whose loads and stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataContext {
    User,
    Supervisor,
    /// S with `mstatus.SUM`.
    SupervisorSum,
    /// M: no translation.
    Bare,
    /// S or U with `mstatus.MXR`: firmware's unprivileged accesses. Flushed whenever it is entered.
    Odd,
}
const CONTEXTS: usize = 5;

/// A page of data.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct DataEntry {
    pub read: u64,
    pub write: u64,
    /// The page.
    pub page: HostPage,
    /// Its guest physical address.
    pub pa: u64,
}

type DataSet = Box<[DataEntry; DATA_ENTRIES]>;

/// Translations of loads and stores.
pub(crate) struct DataTlb {
    /// The selected context's.
    current: DataSet,
    /// The others', with a spare in the selected one's place.
    parked: [DataSet; CONTEXTS],
    selected: DataContext,
    /// Which contexts may hold a present tag.
    filled: [bool; CONTEXTS],
}

fn empty_set() -> DataSet {
    Box::new([DataEntry { read: INVALID, write: INVALID, page: HostPage::nowhere(), pa: 0 }; DATA_ENTRIES])
}

#[inline(always)]
fn data_index(va: u64) -> usize {
    (va >> 12) as usize & (DATA_ENTRIES - 1)
}

impl DataTlb {
    /// The entry where `va` would be.
    #[inline(always)]
    pub fn entry(&self, va: u64) -> &DataEntry {
        &self.current[data_index(va)]
    }

    /// Remembers that the page of `va` may be read, or written.
    pub fn fill(&mut self, va: u64, pa: u64, page: HostPage, write: bool) {
        let e = &mut self.current[data_index(va)];
        let (tag, pa) = (va & PAGE, pa & PAGE);
        let same = e.pa == pa && (e.read == tag || e.write == tag);
        let (old_read, old_write) = if same { (e.read, e.write) } else { (INVALID, INVALID) };
        let (read, write) = if write { (old_read, tag) } else { (tag, old_write) };
        *e = DataEntry { read, write, page, pa };
        self.filled[self.selected as usize] = true;
    }

    /// Makes `context` the one that loads and stores use.
    pub fn select(&mut self, context: DataContext) {
        if context != self.selected {
            std::mem::swap(&mut self.current, &mut self.parked[self.selected as usize]);
            std::mem::swap(&mut self.current, &mut self.parked[context as usize]);
            self.selected = context;
        }
        if context == DataContext::Odd && self.filled[context as usize] {
            clear(&mut self.current);
            self.filled[context as usize] = false;
        }
    }

    fn flush_all(&mut self) {
        for n in 0..CONTEXTS {
            if std::mem::take(&mut self.filled[n]) {
                clear(if n == self.selected as usize { &mut self.current } else { &mut self.parked[n] });
            }
        }
    }

    fn flush_page(&mut self, va: u64) {
        let sets = self.parked.iter_mut().chain(std::iter::once(&mut self.current));
        for set in sets {
            let e = &mut set[data_index(va)];
            (e.read, e.write) = (INVALID, INVALID);
        }
    }
}

fn clear(set: &mut DataSet) {
    for e in set.iter_mut() {
        (e.read, e.write) = (INVALID, INVALID);
    }
}

/// A page of code.
#[derive(Clone, Copy)]
pub(crate) struct FetchEntry {
    tag: u64,
    pub page: HostPage,
    pub pa: u64,
}

/// Translations of instruction fetches.
///
/// Its **stamp** names what all translations of the selected context are at present. Whoever remembers something found
/// at a virtual address keeps the stamp with it: while it is the same, the address still leads there.
pub(crate) struct FetchTlb {
    sets: [Box<[FetchEntry; FETCH_ENTRIES]>; 3],
    stamps: [u64; 3],
    selected: usize,
    /// The selected context's stamp: every block's lookup compares it.
    stamp: u64,
    next_stamp: u64,
    /// By context, a bit for each page (hashed) given out under its stamp: flushes of others renew nothing.
    pages: [[u64; 16]; 3],
    /// By context, whether a page that is not the same in every address space was given out under its stamp.
    /// A kernel's are, and keep their stamp when the address space changes.
    local: [bool; 3],
}

fn fetch_index(va: u64) -> usize {
    (va >> 12) as usize & (FETCH_ENTRIES - 1)
}

/// Word and bit of a page in the hashed set.
fn page_bit(va: u64) -> (usize, u64) {
    let h = (va >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 54;
    ((h >> 6) as usize & 15, 1 << (h & 63))
}

impl FetchTlb {
    /// The stamp of the selected context.
    #[inline(always)]
    pub fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The page of code at `va`, if it is remembered.
    pub fn find(&self, va: u64) -> Option<FetchEntry> {
        let e = self.sets[self.selected][fetch_index(va)];
        (e.tag == va & PAGE).then_some(e)
    }

    /// Remembers the page of code at `va`, which is `global` if every address space has it there.
    pub fn fill(&mut self, va: u64, pa: u64, page: HostPage, global: bool) {
        let n = self.selected;
        self.sets[n][fetch_index(va)] = FetchEntry { tag: va & PAGE, page, pa: pa & PAGE };
        let (word, bit) = page_bit(va);
        self.pages[n][word] |= bit;
        self.local[n] |= !global;
    }

    /// Makes `mode`'s the one that fetches use.
    pub fn select(&mut self, mode: Privilege) {
        self.selected = match mode {
            Privilege::User => 0,
            Privilege::Supervisor => 1,
            Privilege::Machine => 2,
        };
        self.stamp = self.stamps[self.selected];
    }

    /// Renews the stamps: nothing found at a virtual address holds any longer.
    pub fn new_stamps(&mut self) {
        (0..3).for_each(|n| self.renew(n));
    }

    /// Renews the stamp of context `n`. Pages still in its set will be given out under the new one without a fill, so
    /// they stay noted.
    fn renew(&mut self, n: usize) {
        self.stamps[n] = self.next_stamp;
        self.next_stamp += 1;
        self.stamp = self.stamps[self.selected];
        self.pages[n] = [0; 16];
        for e in self.sets[n].iter().filter(|e| e.tag != INVALID) {
            let (word, bit) = page_bit(e.tag);
            self.pages[n][word] |= bit;
        }
    }

    /// Forgets all of context `n`. With no page given out there is nothing to forget.
    fn flush_context(&mut self, n: usize) {
        if self.pages[n] != [0; 16] {
            self.sets[n].iter_mut().for_each(|e| e.tag = INVALID);
            self.local[n] = false;
            self.renew(n);
        }
    }

    fn flush_page(&mut self, va: u64) {
        let (word, bit) = page_bit(va);
        for n in 0..3 {
            if self.pages[n][word] & bit != 0 {
                let e = &mut self.sets[n][fetch_index(va)];
                if e.tag == va & PAGE {
                    e.tag = INVALID;
                }
                self.renew(n);
            }
        }
    }
}

/// The half of the address space, by sign, in which `va` lies. No page lies in both.
fn half(va: u64) -> usize {
    (va >> 63) as usize
}

/// Both memories, and what sfence.vma has to know of superpages.
pub(crate) struct Mmu {
    pub data: DataTlb,
    pub fetch: FetchTlb,
    /// First and last address of the superpages remembered, in one range for each half of the addresses: a program's
    /// must not stretch a kernel's over all that lies between.
    supers: [Option<(u64, u64)>; 2],
}

impl Mmu {
    /// Empty.
    pub fn new() -> Mmu {
        let fetch = FetchEntry { tag: INVALID, page: HostPage::nowhere(), pa: 0 };
        Mmu {
            data: DataTlb {
                current: empty_set(),
                parked: std::array::from_fn(|_| empty_set()),
                selected: DataContext::Bare,
                filled: [false; CONTEXTS],
            },
            fetch: FetchTlb {
                sets: std::array::from_fn(|_| Box::new([fetch; FETCH_ENTRIES])),
                stamps: [1, 2, 3],
                selected: 2,
                stamp: 3,
                next_stamp: 4,
                pages: [[0; 16]; 3],
                local: [false; 3],
            },
            supers: [None; 2],
        }
    }

    /// Notes that `va` was found in a mapping of `span` bytes.
    pub fn note_span(&mut self, va: u64, span: u64) {
        if span > 4096 {
            let (low, high) = (va & !(span - 1), va | (span - 1));
            let range = &mut self.supers[half(va)];
            *range = Some(range.map_or((low, high), |(l, h)| (l.min(low), h.max(high))));
        }
    }

    /// Forgets everything.
    pub fn flush_all(&mut self) {
        self.data.flush_all();
        (0..3).for_each(|n| self.fetch.flush_context(n));
        self.supers = [None; 2];
    }

    /// Forgets what belongs to the address space that is left. Of code, that spares the contexts that have seen only
    /// global pages; data is forgotten whole.
    pub fn change_space(&mut self) {
        self.data.flush_all();
        for n in 0..3 {
            if self.fetch.local[n] {
                self.fetch.flush_context(n);
            }
        }
        // `supers` stays: it may cover pages of code that are still remembered.
    }

    /// Forgets whatever was found at `va`'s page, in every address space.
    pub fn flush(&mut self, va: u64) {
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
