//! The page tables of a differential program, and addresses to try under them.
//!
//! One tree serves Sv39, Sv48 and Sv57: the smaller root is entry 0 of the larger. Its windows:
//! ```text
//!   0x4000_0000  code for S mode, and the page of S-mode traps     0x8000_0000  RAM as one gigapage for U
//!   0x4020_0000  the same code for U mode                          0xc000_0000  RAM as one for S, A and D clear
//!   0x4040_0000  pages of every kind over scratch memory           2^39, 2^48   all of memory (Sv48, Sv57)
//!   0x4060_0000… megapages of every kind over RAM
//! ```

use crate::diff::layout::{CODE, NOWHERE, RAM, S_TRAP, SCRATCH, SCRATCH_SIZE, TABLES};
use strata_isa::random::SplitMix64;

/// Virtual address of the S-mode code window.
pub const CODE_S: u64 = 0x4000_0000;
/// Virtual address of the U-mode code window.
pub const CODE_U: u64 = 0x4020_0000;
/// Virtual address of the page of S-mode traps.
pub const S_TRAP_PAGED: u64 = CODE_S + 0x10_0000;
const DATA: u64 = 0x4040_0000;
const MEGAPAGES: u64 = 0x4060_0000;
/// Pages of the data window that are mapped one by one; the rest is NAPOT, then nothing.
const SINGLE: u64 = 256;

const V: u64 = 1;
const R: u64 = 2;
const W: u64 = 4;
const X: u64 = 8;
const U: u64 = 16;
const G: u64 = 32;
const A: u64 = 64;
const D: u64 = 128;
const NAPOT: u64 = 1 << 63;
const PBMT_NC: u64 = 1 << 61;

/// The tables' pages.
#[derive(Clone, Copy)]
enum Page {
    Root39,
    Root48,
    Root57,
    Windows,
    CodeS,
    CodeU,
    Data,
}
const PAGES: usize = 7;

/// The root of a mode of `satp`, as its PPN field.
pub fn root(mode: u64) -> u64 {
    let page = match mode {
        8 => Page::Root39,
        9 => Page::Root48,
        _ => Page::Root57,
    };
    at(page) >> 12
}

fn at(page: Page) -> u64 {
    TABLES + 0x1000 * page as u64
}

/// The tables, and what is needed to tell which memory an address means.
pub struct Tables {
    words: Vec<u64>,
}

impl Tables {
    /// Tables with random kinds of pages.
    pub fn new(rng: &mut SplitMix64) -> Tables {
        let mut t = Tables { words: vec![0; PAGES * 512] };
        let link = |page| at(page) >> 2 | V;
        let leaf = |pa: u64, flags: u64| pa >> 2 | flags;
        t.set(Page::Root57, 0, link(Page::Root48));
        t.set(Page::Root57, 1, leaf(0, V | R | W | U | A | D));
        t.set(Page::Root48, 0, link(Page::Root39));
        t.set(Page::Root48, 1, leaf(0, V | R | W | U | A | D));
        t.set(Page::Root39, 1, link(Page::Windows));
        t.set(Page::Root39, 2, leaf(RAM, V | R | W | U | A | D));
        t.set(Page::Root39, 3, leaf(RAM, V | R | W));
        t.set(Page::Root39, 4, leaf(RAM + 0x20_0000, V | R | W | U | A | D)); // misaligned
        t.set(Page::Windows, 0, link(Page::CodeS));
        t.set(Page::Windows, 1, link(Page::CodeU));
        t.set(Page::Windows, 2, link(Page::Data));
        let full = V | R | W | A | D;
        let megapages = [
            leaf(RAM, full | U),
            leaf(RAM, full),
            leaf(RAM + 0x1000, full | U), // misaligned
            leaf(RAM, V | R | W | U),
            leaf(RAM, full | U | NAPOT),
            leaf(RAM, full | U | PBMT_NC),
            link(Page::Data) | A, // a link with bits that only leaves may have
            link(Page::Data) | U,
            leaf(RAM, V | W | U | A | D),
            leaf(RAM, V | R | U | A),
            leaf(RAM, V | X | U | A),
            leaf(RAM, full | U | G),
        ];
        for (i, pte) in megapages.into_iter().enumerate() {
            t.set(Page::Windows, 3 + i as u64, pte);
        }
        for i in 0..256 {
            t.set(Page::CodeS, i, leaf(CODE + i * 0x1000, V | R | X | A | D));
            t.set(Page::CodeU, i, leaf(CODE + i * 0x1000, V | R | X | U | A | D));
        }
        t.set(Page::CodeS, 256, leaf(S_TRAP, V | R | X | A | D));
        for i in 0..SINGLE {
            let pte = random_leaf(rng, i);
            t.set(Page::Data, i, pte);
        }
        for i in 0..16 {
            t.set(Page::Data, SINGLE + i, leaf(SCRATCH + 0x8000, full | U | NAPOT));
            t.set(Page::Data, SINGLE + 16 + i, leaf(SCRATCH + 0x4000, full | U | NAPOT)); // no such size
            t.set(Page::Data, SINGLE + 32 + i, leaf(SCRATCH + 0x8000, V | R | W | NAPOT));
        }
        t
    }

    fn set(&mut self, page: Page, index: u64, pte: u64) {
        self.words[page as usize * 512 + index as usize] = pte;
    }

    /// The tables as bytes, to lie at [`TABLES`].
    pub fn bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|w| w.to_le_bytes()).collect()
    }

    /// A virtual address for data, and the physical one it means if it means scratch memory.
    ///
    /// For an AMO never one that may be read but not written: QEMU reads it, and sets A, before it finds that.
    pub fn target(&self, rng: &mut SplitMix64, offset: u64, amo: bool) -> (u64, u64) {
        let in_scratch = SCRATCH - RAM + offset;
        let physical = SCRATCH + offset;
        match rng.below(20) {
            0..12 => {
                let pte = |page: &u64| self.words[Page::Data as usize * 512 + *page as usize];
                let first = rng.below(SINGLE);
                // Over a page's end, QEMU translates the second page (and sets its A) before it accesses the first.
                let over = offset & 0xfff > 0xff8;
                let absent = |page: &u64| pte(page) << 2 & 0xff_ffff_ffff_f000 == NOWHERE;
                let fits = |page: &u64| (!amo || pte(page) & (R | W) != R) && !(over && absent(page));
                let page = (first..SINGLE).chain(0..first).find(fits).unwrap_or(first);
                let pte = pte(&page);
                let pa = pte << 2 & 0xff_ffff_ffff_f000;
                let known = (SCRATCH..SCRATCH + SCRATCH_SIZE).contains(&pa);
                let low = offset & 0xfff;
                (DATA + page * 0x1000 + low, if known { pa + low } else { SCRATCH })
            }
            12 => (DATA + (SINGLE + rng.below(3) * 16) * 0x1000 + offset, physical),
            13 | 14 => (MEGAPAGES + rng.below(12) * 0x20_0000 + in_scratch, physical),
            15 => (0x8000_0000 + rng.below(3) * 0x4000_0000 + in_scratch, physical),
            16 => ([CODE_S, CODE_U][rng.below(2) as usize] + (offset & 0xf_fff8), SCRATCH),
            17 => ((1 << [39, 48][rng.below(2) as usize]) + physical, physical),
            18 => (rng.next_u64(), SCRATCH),
            // Sign-extended wrongly or rightly, but nothing there.
            _ => ((!0 << [38, 39, 47, 48, 56, 57][rng.below(6) as usize]) + in_scratch, SCRATCH),
        }
    }

    /// A virtual address that no mode can execute from `user` (or S) mode.
    pub fn no_code(&self, rng: &mut SplitMix64, user: bool) -> u64 {
        let other = if user { CODE_S } else { CODE_U };
        match rng.below(4) {
            0 => other + rng.below(0x8_0000) * 2,
            1 => MEGAPAGES + 0x40_0000 + rng.below(0x1000) * 2,
            2 => DATA + 0x1f_f000 + rng.below(0x800) * 2,
            _ => (1 << 60) + rng.below(1 << 32) * 2,
        }
    }
}

fn random_leaf(rng: &mut SplitMix64, index: u64) -> u64 {
    let r = rng.next_u64();
    let page = SCRATCH + index % 16 * 0x1000;
    let pa = if r >> 60 == 0 { NOWHERE } else { page };
    // Never executable: what lies there is not code.
    let flags = match r & 7 {
        0..4 => V | R | W | A | D | (r >> 8 & (U | G)),
        4 => V | R | W | (r >> 8 & (U | G | A | D)),
        _ => r >> 8 & 0xff & !X,
    };
    let high = match r >> 16 & 31 {
        0 => NAPOT,
        1..4 => (r >> 24 & 3) << 61,
        4 => 1 << (54 + (r >> 24) % 7),
        _ => 0,
    };
    // QEMU writes the first half of a store that goes on into nothing.
    let flags = if pa == NOWHERE { flags & !W } else { flags };
    // QEMU sets A and D before it sees that there is no such NAPOT size.
    let flags = if high == NAPOT { flags | A | D } else { flags };
    pa >> 2 | flags | high | (r >> 32 & 3) << 8
}
