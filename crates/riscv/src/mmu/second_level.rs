//! The second level: what walks of the page tables came to, for the pages that the first level has no room for or had to
//! forget when the address space changed.
//!
//! It stands in for the walk alone. A hit gives the leaf as a walk would: the present mode's rules are applied to the
//! bits of the leaf, and what follows a walk (physical protection, where the page lies, the dirty mark) follows a hit
//! too. So it knows no host addresses, and only what makes a walk come to something else must make it forget: fences, and
//! the registers that [`crate::core::Core::protection_changed`] stands for. Where the rules refuse, or the page must be
//! marked written, the walk decides.
//!
//! ```text
//!   tag      63 ............ 12 | 11 .. 8 | 7 6 5 4 3 2 1 0
//!              page of the va   |    0    | D A G U X W R V     of the leaf
//!   pa         page of the pa   |    0
//!   stamp    of the address space, or the one of global pages; never used again, so that a new one forgets
//! ```
//! An address space is a value of `satp`. Each has a stamp while it has its place among 256, by ASID; a fence of an ASID
//! takes it away, and a fence of everything raises the floor below which stamps are void. A superpage is kept in pieces
//! of 4 KiB: [`super::tlb::Mmu`] sees to it that a fence of one takes all.

use super::pte::Pte;
use super::tlb::PAGE;
use super::walk::Leaf;

/// With [`WAYS`], 64 MiB of small pages, in 384 KiB of which only what is used is ever touched.
const SETS: usize = 4096;
/// All pages of one address in different address spaces share a set, so that a fence of an address need not search.
/// Four programs that take turns keep their pages.
const WAYS: usize = 4;
const SPACES: usize = 256;

/// No page is remembered under this.
const VOID: u64 = 0;

/// See [`TAG`], [`PA`], [`STAMP`]. A plain array: the host gives a table of zeros for nothing, and memory as it is used.
type Entry = [u64; 3];
const TAG: usize = 0;
const PA: usize = 1;
const STAMP: usize = 2;

const NOTHING: Entry = [0, 0, VOID];

/// An address space that has been used.
#[derive(Clone, Copy)]
struct Space {
    satp: u64,
    stamp: u64,
}

const NO_SPACE: Space = Space { satp: 0, stamp: VOID };

/// See the module.
pub(crate) struct SecondLevel {
    sets: Box<[[Entry; WAYS]]>,
    spaces: Box<[Space]>,
    /// The space asked for last.
    current: Space,
    /// The stamp of global pages.
    global: u64,
    /// Stamps of spaces from here down are void.
    floor: u64,
    next: u64,
}

/// The address-space identifier in `satp`.
pub(super) fn asid_of(satp: u64) -> u16 {
    (satp >> 44) as u16
}

fn set_index(va: u64) -> usize {
    let page = va >> 12;
    (page ^ page >> 12 ^ page >> 24) as usize & (SETS - 1)
}

impl SecondLevel {
    /// Empty.
    pub fn new() -> SecondLevel {
        SecondLevel {
            sets: vec![[NOTHING; WAYS]; SETS].into(),
            spaces: vec![NO_SPACE; SPACES].into(),
            current: NO_SPACE,
            global: 1,
            floor: 1,
            next: 2,
        }
    }

    fn new_stamp(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    fn place_of(asid: u16) -> usize {
        usize::from(asid) & (SPACES - 1)
    }

    /// The stamp of the address space `satp`.
    fn stamp_of(&mut self, satp: u64) -> u64 {
        if self.current.satp == satp && self.current.stamp > self.floor {
            return self.current.stamp;
        }
        let n = SecondLevel::place_of(asid_of(satp));
        let known = self.spaces[n];
        if known.satp != satp || known.stamp <= self.floor {
            self.spaces[n] = Space { satp, stamp: self.new_stamp() };
        }
        self.current = self.spaces[n];
        self.current.stamp
    }

    /// What a walk of `va` in the address space `satp` came to: the leaf, its span left at one page.
    pub fn find(&mut self, satp: u64, va: u64) -> Option<Leaf> {
        let local = self.stamp_of(satp);
        let set = &self.sets[set_index(va)];
        let e = set
            .iter()
            .find(|e| e[TAG] & PAGE == va & PAGE && (e[STAMP] == local || e[STAMP] == self.global))?;
        Some(Leaf {
            pa: e[PA] | va & !PAGE,
            span: 4096,
            global: e[STAMP] == self.global,
            pte: Pte(e[TAG] & !PAGE),
        })
    }

    /// Remembers what a walk of `va` in the address space `satp` came to.
    pub fn fill(&mut self, satp: u64, va: u64, leaf: &Leaf) {
        let stamp = if leaf.global { self.global } else { self.stamp_of(satp) };
        let new = [va & PAGE | leaf.pte.0 & 0xff, leaf.pa & PAGE, stamp];
        let set = &mut self.sets[set_index(va)];
        let old = set.iter().position(|e| e[STAMP] == stamp && e[TAG] & PAGE == va & PAGE);
        // The newest comes first, and the oldest falls out.
        set[..=old.unwrap_or(WAYS - 1)].rotate_right(1);
        set[0] = new;
    }

    /// Forgets everything.
    pub fn flush_all(&mut self) {
        self.global = self.new_stamp();
        self.floor = self.global;
    }

    /// Forgets the address space `asid`, but for global pages.
    pub fn flush_space(&mut self, asid: u16) {
        let n = SecondLevel::place_of(asid);
        if asid_of(self.spaces[n].satp) == asid {
            self.spaces[n] = NO_SPACE;
        }
        if asid_of(self.current.satp) == asid {
            self.current = NO_SPACE;
        }
    }

    /// Forgets the page at `va`: in the address space `asid`, unless it is global there; or everywhere.
    pub fn flush_page(&mut self, va: u64, asid: Option<u16>) {
        let of = |space: Space, asid| if asid_of(space.satp) == asid { space.stamp } else { VOID };
        let only = asid.map(|asid| of(self.spaces[SecondLevel::place_of(asid)], asid));
        let set = &mut self.sets[set_index(va)];
        for e in set.iter_mut().filter(|e| e[TAG] & PAGE == va & PAGE) {
            if only.is_none_or(|stamp| e[STAMP] == stamp) {
                *e = NOTHING;
            }
        }
    }
}
