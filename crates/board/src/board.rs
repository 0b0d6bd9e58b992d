//! Which boards there are, and what can be asked of any of them.

use crate::{PartId, Place, RiscvVirt, Row, X86Micro};

/// A board by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Board {
    /// [`RiscvVirt`].
    #[default]
    RiscvVirt,
    /// [`X86Micro`].
    X86Micro,
}

impl Board {
    /// Every board.
    pub const ALL: [Board; 2] = [Board::RiscvVirt, Board::X86Micro];

    /// Its name, as in saved states.
    pub fn name(self) -> &'static str {
        match self {
            Board::RiscvVirt => "riscv-virt",
            Board::X86Micro => "x86-micro",
        }
    }

    /// The board of that name.
    pub fn by_name(name: &str) -> Option<Board> {
        Board::ALL.into_iter().find(|b| b.name() == name)
    }

    /// The architecture of its guests, as Debian calls it.
    pub fn arch(self) -> &'static str {
        match self {
            Board::RiscvVirt => "riscv64",
            Board::X86Micro => "amd64",
        }
    }

    /// Its whole table.
    pub fn rows(self) -> &'static [Row] {
        match self {
            Board::RiscvVirt => RiscvVirt::rows(),
            Board::X86Micro => X86Micro::rows(),
        }
    }

    /// The row of `part`, if it is on this board.
    pub fn row(self, part: PartId) -> Option<&'static Row> {
        self.rows().iter().find(|r| r.part == part)
    }

    /// Where place `index` of `part` is; none if there is no such place.
    pub fn place(self, part: PartId, index: u64) -> Option<Place> {
        let row = self.row(part)?;
        let base = row.address(index)?;
        Some(Place { name: row.place_name(index), base, size: row.size, offset: 0, widths: row.widths })
    }

    /// Interrupt line of place `index` of `part`.
    pub fn line(self, part: PartId, index: u64) -> Option<u32> {
        self.row(part)?.line(index)
    }

    /// First address and length of each region that `len` bytes of RAM make.
    pub fn ram_regions(self, len: u64) -> Vec<(u64, u64)> {
        match self {
            Board::RiscvVirt => vec![(RiscvVirt::ram_base(), len)],
            Board::X86Micro => X86Micro::ram_regions(len),
        }
    }
}

impl std::fmt::Display for Board {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_found_by_its_name_and_answers_for_its_table() {
        for board in Board::ALL {
            assert_eq!(Board::by_name(board.name()), Some(board));
            assert_eq!(board.ram_regions(1 << 30).iter().map(|(_, len)| len).sum::<u64>(), 1 << 30);
            let uart = board.place(PartId::Uart0, 0).unwrap();
            assert_eq!(board.row(PartId::Uart0).unwrap().base, uart.base);
        }
        assert_eq!(Board::by_name("q35"), None);
        assert_eq!(Board::X86Micro.line(PartId::VirtioMmio, 1), Some(17));
        assert!(Board::RiscvVirt.place(PartId::I8042, 0).is_none());
    }
}
