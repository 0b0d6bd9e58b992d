//! `mstatus` and its view `sstatus`.
//!
//! *The RISC-V Instruction Set Manual*, volume II, "Machine Status Registers", "Supervisor Status Register".
//! SD is never stored; UXL and SXL are fixed at 64 bits; memory is little-endian in every mode; there is no V.

/// Interrupts for S are enabled.
pub const SIE: u64 = 1 << 1;
/// Interrupts for M are enabled.
pub const MIE: u64 = 1 << 3;
/// What SIE was before the trap.
pub const SPIE: u64 = 1 << 5;
/// What MIE was before the trap.
pub const MPIE: u64 = 1 << 7;
/// Whether the trap into S came from S.
pub const SPP: u64 = 1 << 8;
/// The mode that the trap into M came from.
pub const MPP: u64 = 3 << 11;
/// Position of [`MPP`].
pub const MPP_SHIFT: u32 = 11;
/// State of the floating-point unit; 0 is off.
pub const FS: u64 = 3 << 13;
/// M's loads and stores happen in the mode of [`MPP`].
pub const MPRV: u64 = 1 << 17;
/// S may load from and store to U's pages.
pub const SUM: u64 = 1 << 18;
/// Loads may read pages that can only be executed.
pub const MXR: u64 = 1 << 19;
/// satp and sfence.vma are illegal in S.
pub const TVM: u64 = 1 << 20;
/// wfi is illegal in S.
pub const TW: u64 = 1 << 21;
/// sret is illegal in S.
pub const TSR: u64 = 1 << 22;
/// U's registers have 64 bits.
pub const UXL64: u64 = 2 << 32;
const SXL64: u64 = 2 << 34;
/// Some unit's state is dirty.
pub const SD: u64 = 1 << 63;

/// After power-on.
pub const RESET: u64 = UXL64 | SXL64;

/// What M may write, and what S may.
const WRITABLE: u64 = SSTATUS | MIE | MPIE | MPP | MPRV | TVM | TW | TSR;
/// What S may see and write.
pub const SSTATUS: u64 = SIE | SPIE | SPP | FS | SUM | MXR;

/// What a read of `mstatus` gives.
pub(crate) fn read(mstatus: u64) -> u64 {
    if mstatus & FS == FS { mstatus | SD } else { mstatus }
}

/// What a read of `sstatus` gives.
pub(crate) fn read_s(mstatus: u64) -> u64 {
    read(mstatus) & (SSTATUS | UXL64 | SD)
}

/// The register after a write of `new` to `mstatus`. MPP keeps its value where 2 is written.
pub(crate) fn written(old: u64, new: u64) -> u64 {
    let mut v = old & !WRITABLE | new & WRITABLE;
    if new & MPP == 2 << MPP_SHIFT {
        v = v & !MPP | old & MPP;
    }
    v
}

/// The register after a write of `new` to `sstatus`.
pub(crate) fn written_s(old: u64, new: u64) -> u64 {
    old & !SSTATUS | new & SSTATUS
}

/// Whether some sequence of writes gives this value.
pub(crate) fn is_legal(mstatus: u64) -> bool {
    mstatus & !WRITABLE == RESET && mstatus & MPP != 2 << MPP_SHIFT
}
