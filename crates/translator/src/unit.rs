//! What translated code is made of and remembered by.

use crate::sites::SiteSpan;
use strata_isa::Insn;

/// A page of code that a unit lies on: code entering it compares one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// Virtual address of its first byte.
    pub va: u64,
    /// Guest physical address of its first byte.
    pub pa: u64,
    /// What the pair is known as in the fetch TLB; never 0.
    pub id: u32,
}

/// An instruction of a path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// Its virtual address.
    pub pc: u64,
    /// The instruction, counting from its own address.
    pub insn: Insn,
    /// Where the path goes on.
    pub next: u64,
    /// How many of the unit's pages are entered up to here.
    pub pages: u8,
}

/// What a helper that is called from an instruction has to know of it.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Site {
    /// Its virtual address.
    pub pc: u64,
    /// The instruction, counting from its own address.
    pub insn: Insn,
    /// Instructions of the unit from this one on: what is given back if it does not complete.
    pub refund: u32,
}

/// A way out of a unit that can be linked, as the emitter made it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewExit {
    /// Guest address that it leads to.
    pub target: u64,
    /// Address of the jump's distance.
    pub patch_at: u64,
    /// Where the jump leads while it is not linked.
    pub stub: u64,
    /// How many of the unit's pages have been checked on the way there: a target on one of them needs no check.
    pub checked: u8,
}

/// Why translated code was left: the low 3 bits of what it returns; a number is above them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Leave {
    /// By an exit that is not linked; its number.
    Link = 0,
    /// The unit's page is not where it was; the unit's number.
    Guard = 1,
    /// Somebody has to look at interrupts, timers or limits before the unit runs; the unit's number.
    Fuel = 2,
    /// `core.pc` says where to go on.
    Find = 3,
    /// `core.pc` says where the interpreter is to go on.
    Interpret = 4,
    /// The instruction at `core.pc` did not complete; why is in the tier's words.
    Stopped = 5,
    /// The floating-point mode has to be put in place for what is at `core.pc`.
    Floats = 6,
    /// A page in the middle of a unit is not where it was; [`UnitPage`]. `core.pc` says where to go on.
    Page = 7,
}

/// One of a unit's pages, as [`Leave::Page`] numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnitPage {
    /// The unit's number.
    pub unit: u32,
    /// The page's, in the unit.
    pub page: u32,
}

impl UnitPage {
    /// Most pages of a unit.
    pub const MOST: usize = 8;

    /// The number for it.
    pub fn number(self) -> u32 {
        self.unit * Self::MOST as u32 + self.page
    }

    /// What a number says.
    pub fn from_number(n: u32) -> UnitPage {
        UnitPage { unit: n / Self::MOST as u32, page: n % Self::MOST as u32 }
    }
}

impl Leave {
    /// The word for it.
    pub fn with(self, n: u32) -> u32 {
        n << 3 | self as u32
    }

    /// What a word says.
    pub fn from_word(word: u64) -> (Leave, u32) {
        let why = match word & 7 {
            0 => Leave::Link,
            1 => Leave::Guard,
            2 => Leave::Fuel,
            3 => Leave::Find,
            4 => Leave::Interpret,
            6 => Leave::Floats,
            7 => Leave::Page,
            _ => Leave::Stopped,
        };
        (why, (word >> 3) as u32)
    }
}

/// How an address finds its place in the jump cache.
pub(crate) struct JumpHash {
    /// The address is combined with itself, rotated right by so much.
    pub shift: u8,
    /// What of it counts, twice the place's number.
    pub mask: i32,
}

/// Places of a jump cache: 16384, of 16 bytes, by the address without its lowest bit, mixed with the bits of the page number.
pub(crate) const JUMPS: JumpHash = JumpHash { shift: 13, mask: 0x7ffe };

impl JumpHash {
    /// How many places there are.
    pub const fn places(&self) -> usize {
        (self.mask as usize + 2) / 2
    }

    /// The place of `pc`.
    pub fn place(&self, pc: u64) -> usize {
        let low = pc as u32;
        ((low.rotate_right(self.shift.into()) ^ low) as usize & self.mask as usize) / 2
    }
}

/// The end of a list of numbers.
pub(crate) const NONE: u32 = u32::MAX;

/// A piece of translated code. What it has several of lies in the cache's lists, so that dropping all units drops nothing
/// one by one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit {
    /// Guest address of its first instruction.
    pub pc: u64,
    /// Data context that it belongs to.
    pub context: u8,
    /// Instructions.
    pub len: u32,
    /// Pages it lies on; the first is the one it begins on.
    pub pages: Span,
    /// What its helpers know, and what its guest code was.
    pub sites: SiteSpan,
    /// Where its path goes on behind it.
    pub next: u64,
    /// The aligned 8 bytes of guest memory in which it begins.
    pub head: u64,
    /// Address of the entry that checks the page.
    pub guarded: u64,
    /// Address of the entry that does not.
    pub main: u64,
    /// The first of the exits that lead here; [`Exit::next`] of each is the next.
    pub incoming: u32,
    /// Its guest code may have been written: to be compared before it runs again.
    pub suspect: bool,
}

/// Neighbours in a list of the cache's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first one's number.
    pub start: u32,
    /// How many.
    pub len: u32,
}

impl Span {
    /// As a range of numbers.
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }
}

/// A way out of a unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exit {
    /// What the emitter made.
    pub made: NewExit,
    /// The unit it leaves.
    pub from: u32,
    /// The unit it leads to.
    pub to: Option<u32>,
    /// While it leads to one: the next exit that leads there.
    pub next: u32,
}
