//! Floating-point state while translated code runs: the guest's rounding mode and accrued flags live in MXCSR.
//!
//! *The RISC-V Instruction Set Manual*, volume I, "Floating-Point Control and Status Register". Intel's *Software
//! Developer's Manual*, volume 1, "MXCSR Control and Status Register". Both detect tininess after rounding and both keep
//! flags until they are cleared, so MXCSR's flags, folded into `fcsr` whenever someone else runs, are exact; the
//! denormal flag is x86's alone and is dropped.
//!
//! Code with floating-point instructions needs `mstatus.FS` dirty and a rounding mode that the host has. Where that does
//! not hold, the interpreter runs the code, which in most cases makes it hold.

use crate::layout::Word;
use strata_riscv::tier::{Core, status};

/// All exceptions masked, round to nearest even: what Rust expects.
pub(crate) const HOST: u32 = 0x1f80;
const FLAGS: u64 = 0x3f;

/// MXCSR's rounding mode for `frm`; none for round-to-nearest-ties-to-max-magnitude and what is reserved.
fn rounding(frm: u8) -> Option<u32> {
    match frm {
        0 => Some(0 << 13),
        1 => Some(3 << 13),
        2 => Some(1 << 13),
        3 => Some(2 << 13),
        _ => None,
    }
}

/// What decides whether and how translated floating point runs.
pub(crate) fn mode(core: &Core) -> u64 {
    core.csr.mstatus & status::FS | u64::from(core.csr.frm)
}

/// Puts the guest's mode in place for translated code; false if that cannot be.
pub(crate) fn turn_on(core: &mut Core) -> bool {
    fold_flags(core);
    let dirty = core.csr.mstatus & status::FS == status::FS;
    match rounding(core.csr.frm) {
        Some(bits) if dirty => {
            core.tier[Word::Mxcsr as usize] = u64::from(HOST | bits);
            core.tier[Word::FpOn as usize] = 1 | mode(core) << 8;
            true
        }
        _ => {
            turn_off(core);
            false
        }
    }
}

/// Takes it away.
pub(crate) fn turn_off(core: &mut Core) {
    fold_flags(core);
    core.tier[Word::FpOn as usize] = 0;
}

/// Makes sure that what is on is what the core now says.
pub(crate) fn settle(core: &mut Core) {
    let on = core.tier[Word::FpOn as usize];
    if on != 0 && on >> 8 != mode(core) {
        turn_off(core);
    }
}

/// Moves flags accrued by translated code to where the core keeps them.
pub(crate) fn fold_flags(core: &mut Core) {
    if core.tier[Word::FpOn as usize] == 0 {
        return;
    }
    let m = core.tier[Word::Mxcsr as usize];
    if m & FLAGS != 0 {
        // IE ZE OE UE PE of MXCSR are NV DZ OF UF NX.
        let bit = |from: u32, to: u32| ((m >> from & 1) << to) as u8;
        core.csr.fflags |= bit(0, 4) | bit(2, 3) | bit(3, 2) | bit(4, 1) | bit(5, 0);
        core.tier[Word::Mxcsr as usize] = m & !FLAGS;
    }
}
