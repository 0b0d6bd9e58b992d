//! The page-table walk, a pure function over whoever reads and updates entries.
//!
//! *The RISC-V Instruction Set Manual*, volume II, "Virtual Address Translation Process": the numbered steps of the
//! algorithm are the comments here. Physical protection of the entries is the reader's affair, that of the page found
//! the caller's.

use super::pte::Pte;
use crate::pmp::Access;

/// What decides how an address is translated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// Levels of tables: 3, 4 or 5.
    pub levels: u32,
    /// Physical address of the root table.
    pub root: u64,
    /// The access is U mode's.
    pub user: bool,
    /// `mstatus.SUM` and `mstatus.MXR`.
    pub sum: bool,
    pub mxr: bool,
    /// `menvcfg.PBMTE` and `menvcfg.ADUE`.
    pub pbmte: bool,
    pub adue: bool,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Physical address.
    pub pa: u64,
    /// Bytes that the entry maps.
    pub span: u64,
    /// It is the same in every address space (G, at the leaf or above it).
    pub global: bool,
    /// The entry, as it is now.
    pub pte: Pte,
}

/// Why an address cannot be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// A page fault.
    Page,
    /// An access fault: an entry is not in RAM, or protected.
    Access,
    /// An entry's page has not come yet.
    Wait,
}

/// Reads and updates page-table entries.
pub(crate) trait PteMemory {
    /// The entry at `pa`.
    fn read(&mut self, pa: u64) -> Result<u64, Fault>;
    /// Replaces `old` at `pa` by `new`, in one step; false if it was no longer `old`.
    fn update(&mut self, pa: u64, old: u64, new: u64) -> Result<bool, Fault>;
}

const BARE: u64 = 0;

/// Levels of tables of the mode in `satp`; `None` for no translation, and for modes that do not exist.
pub(crate) fn levels(satp: u64) -> Option<u32> {
    match satp >> 60 {
        8 => Some(3),
        9 => Some(4),
        10 => Some(5),
        _ => None,
    }
}

/// Whether `satp` can hold the mode in this value.
pub(crate) fn known_mode(satp: u64) -> bool {
    satp >> 60 == BARE || levels(satp).is_some()
}

/// Whether a walk that comes to the entry `pte`, whose A is set, lets the access happen and changes nothing.
pub(super) fn passes(space: &Space, pte: Pte, access: Access) -> bool {
    permit(space, pte, access).is_ok() && (access != Access::Write || pte.has(Pte::D))
}

/// Translates `va`, and sets A and D as the access demands.
pub(crate) fn walk(space: &Space, va: u64, access: Access, mem: &mut impl PteMemory) -> Result<Leaf, Fault> {
    // The bits above the virtual address repeat its highest one.
    let unused = 64 - (12 + 9 * space.levels);
    if ((va << unused) as i64 >> unused) as u64 != va {
        return Err(Fault::Page);
    }
    'restart: loop {
        let mut table = space.root; // step 1
        let mut global = false;
        for level in (0..space.levels).rev() {
            let shift = 12 + 9 * level;
            let at = table + (va >> shift & 511) * 8;
            let pte = Pte(mem.read(at)?); // step 2
            if !pte.well_formed(space.pbmte) {
                return Err(Fault::Page); // step 3
            }
            global |= pte.any(Pte::G);
            if pte.is_pointer() {
                table = pte.ppn() << 12; // step 4
                continue;
            }
            permit(space, pte, access)?; // steps 5, 6
            let (pa, span) = place(pte, va, shift)?; // steps 7, 8
            let marks = Pte::A | if access == Access::Write { Pte::D } else { 0 }; // step 9
            if !pte.has(marks) {
                if !space.adue {
                    return Err(Fault::Page);
                }
                if !mem.update(at, pte.0, pte.0 | marks)? {
                    continue 'restart;
                }
            }
            return Ok(Leaf { pa, span, global, pte: Pte(pte.0 | marks) }); // step 10
        }
        return Err(Fault::Page); // a pointer at the last level
    }
}

fn permit(space: &Space, pte: Pte, access: Access) -> Result<(), Fault> {
    let for_user = pte.any(Pte::U);
    let mode_ok = match (space.user, for_user) {
        (true, user) => user,
        (false, true) => space.sum && access != Access::Fetch,
        (false, false) => true,
    };
    let right = match access {
        Access::Read => pte.any(Pte::R) || space.mxr && pte.any(Pte::X),
        Access::Write => pte.any(Pte::W),
        Access::Fetch => pte.any(Pte::X),
    };
    if mode_ok && right { Ok(()) } else { Err(Fault::Page) }
}

/// Where `va` lies in the page of `pte`, and the page's size.
fn place(pte: Pte, va: u64, shift: u32) -> Result<(u64, u64), Fault> {
    let base = pte.ppn() << 12;
    if pte.any(Pte::N) {
        // Svnapot knows one size: 64 KiB, written as 1000 in the low bits of the page number, at the last level.
        if shift != 12 || pte.ppn() & 15 != 8 {
            return Err(Fault::Page);
        }
        let span = 1 << 16;
        return Ok((base & !(span - 1) | va & (span - 1), span));
    }
    let span = 1u64 << shift;
    if base & (span - 1) != 0 {
        return Err(Fault::Page);
    }
    Ok((base | va & (span - 1), span))
}

#[cfg(test)]
#[path = "walk/tests.rs"]
mod tests;
