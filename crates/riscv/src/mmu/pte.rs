//! A page-table entry. Volume II, "Sv39: Page-Based 39-bit Virtual-Memory System", "Svnapot", "Svpbmt".
//!
//! ```text
//!  63 62   61 60      54 53                       10 9  8 7 6 5 4 3 2 1 0
//! | N | PBMT | reserved |           PPN             | RSW|D|A|G|U|X|W|R|V|
//! ```

/// An entry as it lies in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pte(pub u64);

impl Pte {
    pub const V: u64 = 1 << 0;
    pub const R: u64 = 1 << 1;
    pub const W: u64 = 1 << 2;
    pub const X: u64 = 1 << 3;
    pub const U: u64 = 1 << 4;
    pub const G: u64 = 1 << 5;
    pub const A: u64 = 1 << 6;
    pub const D: u64 = 1 << 7;
    pub const PBMT: u64 = 3 << 61;
    pub const N: u64 = 1 << 63;
    const RESERVED: u64 = 0x7f << 54;

    /// Whether all of `bits` are set.
    pub fn has(self, bits: u64) -> bool {
        self.0 & bits == bits
    }

    /// Whether any of `bits` is set.
    pub fn any(self, bits: u64) -> bool {
        self.0 & bits != 0
    }

    /// Physical page number.
    pub fn ppn(self) -> u64 {
        self.0 >> 10 & ((1 << 44) - 1)
    }

    /// A pointer to the next table.
    pub fn is_pointer(self) -> bool {
        !self.any(Self::R | Self::W | Self::X)
    }

    /// Whether its bits form an entry at all, with memory types allowed or not. Where it stands is not considered.
    pub fn well_formed(self, pbmte: bool) -> bool {
        let type_ok = if pbmte { !self.has(Self::PBMT) } else { !self.any(Self::PBMT) };
        let pointer_ok = !self.is_pointer() || !self.any(Self::D | Self::A | Self::U | Self::PBMT | Self::N);
        let write_only = self.any(Self::W) && !self.any(Self::R);
        self.any(Self::V) && !self.any(Self::RESERVED) && type_ok && pointer_ok && !write_only
    }
}
