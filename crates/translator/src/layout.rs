//! Where emitted code finds what it touches: displacements from the base register, all derived from the types.

use crate::emit::windows::Window;
use crate::registers::BASE;
use std::mem::{offset_of, size_of};
use strata_riscv::tier::{
    Core, DATA_ENTRIES, DataContext, DataEntry, FETCH_ENTRIES, FetchTlb, Privilege, Windows,
};
use strata_x64::Mem;

/// The base register points so far into the core.
pub(crate) const BIAS: usize = 128;

const fn at(offset: usize) -> i32 {
    offset as i32 - BIAS as i32
}

/// Words of [`Core::tier`], which belong to the translator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Word {
    /// What the fuel register held when translated code was left.
    Fuel = 0,
    /// Fuel that has not been given out yet.
    Reserve,
    /// Instructions of the unit that were charged and did not run.
    Refund,
    /// The `Exit` of an instruction that did not complete, by number.
    Exit,
    /// That instruction's bits.
    Raw,
    /// Address of the present context's jump cache.
    Jumps,
    /// Address of the attention word.
    Attention,
    /// 1 while MXCSR is the guest's in translated code.
    FpOn,
    /// The guest's MXCSR, while other code runs.
    Mxcsr,
    /// The host's MXCSR.
    HostMxcsr,
    /// The count of retired instructions at which all fuel is used.
    End,
    /// Address of the word of interrupt pins.
    Pins,
    /// Addresses of the jump caches of U, of S, and of S with SUM.
    JumpsUser,
    /// See [`Word::JumpsUser`].
    JumpsSupervisor,
    /// See [`Word::JumpsUser`].
    JumpsSum,
}

/// Memory operand of a word.
pub(crate) fn word(w: Word) -> Mem {
    Mem::base(BASE, at(offset_of!(Core, tier)) + w as i32 * 8)
}

/// Memory operand of the program counter.
pub(crate) fn pc() -> Mem {
    Mem::base(BASE, at(offset_of!(Core, pc)))
}

/// Memory operand of floating-point register `r`.
pub(crate) fn f(r: u8) -> Mem {
    Mem::base(BASE, at(offset_of!(Core, f)) + i32::from(r & 31) * 8)
}

/// Memory operand of the upper half of floating-point register `r`.
pub(crate) fn f_upper(r: u8) -> Mem {
    Mem::base(BASE, at(offset_of!(Core, f)) + i32::from(r & 31) * 8 + 4)
}

/// Displacement of the first entry of `context`'s data TLB.
pub(crate) fn tlb(context: DataContext) -> i32 {
    at(offset_of!(Core, mmu.data.sets)) + context as i32 * (DATA_ENTRIES * size_of::<DataEntry>()) as i32
}

/// Memory operand of the tag of a window of `context`.
pub(crate) fn window_tag(context: DataContext, w: Window) -> Mem {
    Mem::base(BASE, window(context, w) + offset_of!(Windows, tags) as i32)
}

/// Memory operand of the addend of a window of `context`.
pub(crate) fn window_addend(context: DataContext, w: Window) -> Mem {
    Mem::base(BASE, window(context, w) + offset_of!(Windows, addends) as i32)
}

/// Displacement of what is a window's in each of the arrays.
pub(crate) fn window(context: DataContext, w: Window) -> i32 {
    let half = (context as usize * 2 + usize::from(w.write)) * size_of::<Windows>();
    at(offset_of!(Core, mmu.data.windows) + half) + i32::from(w.number) * 8
}

/// Memory operand of the mark that `context` may have an open window.
pub(crate) fn open(context: DataContext) -> Mem {
    Mem::base(BASE, at(offset_of!(Core, mmu.data.open)) + context as i32)
}

/// Displacement of the first entry's guest physical addresses (read, written) in `context`'s data TLB, 8 bytes each.
pub(crate) fn pas(context: DataContext) -> i32 {
    at(offset_of!(Core, mmu.data.pas)) + context as i32 * (DATA_ENTRIES * 16) as i32
}

/// Memory operands of what LR reserved.
pub(crate) struct Reserved {
    pub va: Mem,
    pub pa: Mem,
    pub value: Mem,
    pub bytes: Mem,
}

/// Where the reservation lies.
pub(crate) fn reserved() -> Reserved {
    let field = |offset| Mem::base(BASE, at(offset));
    Reserved {
        va: field(offset_of!(Core, reservation.va)),
        pa: field(offset_of!(Core, reservation.pa)),
        value: field(offset_of!(Core, reservation.value)),
        bytes: field(offset_of!(Core, reservation.bytes)),
    }
}

/// Memory operand of the id under which the page of code at `va` is known.
pub(crate) fn page_id(privilege: Privilege, va: u64) -> Mem {
    let (set, index) = FetchTlb::id_place(privilege, va);
    Mem::base(BASE, at(offset_of!(Core, mmu.fetch.ids) + (set * FETCH_ENTRIES + index) * size_of::<u32>()))
}

/// The plain CSRs that translated code reads and writes itself.
pub(crate) fn csr(n: u16) -> Option<Mem> {
    let offset = match n {
        0x140 => offset_of!(Core, csr.sscratch),
        0x141 => offset_of!(Core, csr.sepc),
        0x142 => offset_of!(Core, csr.scause),
        0x143 => offset_of!(Core, csr.stval),
        0x340 => offset_of!(Core, csr.mscratch),
        0x341 => offset_of!(Core, csr.mepc),
        0x342 => offset_of!(Core, csr.mcause),
        0x343 => offset_of!(Core, csr.mtval),
        _ => return None,
    };
    Some(Mem::base(BASE, at(offset)))
}

/// What a change of mode touches, beside the plain CSRs.
pub(crate) struct Modes {
    pub mstatus: Mem,
    pub medeleg: Mem,
    pub stvec: Mem,
    pub mip: Mem,
    pub mie: Mem,
    pub timers: Mem,
    pub privilege: Mem,
    /// The context of loads and stores.
    pub data: Mem,
    /// The context of fetches, and its stamp.
    pub fetch: Mem,
    pub stamp: Mem,
}

/// Where that lies.
pub(crate) fn modes() -> Modes {
    let field = |offset| Mem::base(BASE, at(offset));
    Modes {
        mstatus: field(offset_of!(Core, csr.mstatus)),
        medeleg: field(offset_of!(Core, csr.medeleg)),
        stvec: field(offset_of!(Core, csr.stvec)),
        mip: field(offset_of!(Core, csr.mip)),
        mie: field(offset_of!(Core, csr.mie)),
        timers: field(offset_of!(Core, timers)),
        privilege: field(offset_of!(Core, privilege)),
        data: field(offset_of!(Core, mmu.data.selected)),
        fetch: field(offset_of!(Core, mmu.fetch.selected)),
        stamp: field(offset_of!(Core, mmu.fetch.stamp)),
    }
}

/// Where the stamp of the code of `mode` is kept while another mode's is the present one.
pub(crate) fn stamp_of(mode: Privilege) -> Mem {
    Mem::base(BASE, at(offset_of!(Core, mmu.fetch.stamps)) + FetchTlb::context(mode) as i32 * 8)
}

/// The number of the context of fetches in `mode`.
pub(crate) fn fetch_context(mode: Privilege) -> i32 {
    FetchTlb::context(mode) as i32
}

/// What a trap into S leaves: sepc, scause, stval.
pub(crate) fn trapped() -> [Mem; 3] {
    [offset_of!(Core, csr.sepc), offset_of!(Core, csr.scause), offset_of!(Core, csr.stval)]
        .map(|offset| Mem::base(BASE, at(offset)))
}
