//! Changes of mode without leaving translated code: the system call into the kernel, the return from it, and what a kernel
//! does to `sstatus` on the way.
//!
//! ```text
//!   ecall (U)   delegated, SUM and MXR off          ──► the unit at stvec, by S's jump cache
//!   sret (S)    TSR and MXR off, nothing pending    ──► the unit at sepc, by the jump cache of the mode it returns to
//!   sstatus     context stays, nothing pending      ──► stored; the path goes on
//! ```
//! Where a condition does not hold, the interpreter's instance does the instruction, and the hart's loop sees to what
//! follows, as for all others. These pieces do what `strata_riscv`'s `take_trap`, `sret` and `set_status` do, no more; the
//! tests compare them with those.
//!
//! *The RISC-V Instruction Set Manual*, volume II, "Supervisor Status Register", "Trap-Return Instructions".

use crate::layout::{self, Word, word};
use crate::registers::FUEL;
use crate::unit::{JUMPS, Leave, Site};
use std::mem::offset_of;
use strata_riscv::tier::{Cause, DataContext, Privilege, status};
use strata_x64::{Alu, Asm, Cc, Gpr, Label, Mem, Shift, Size};

/// Addresses of the pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Crossings {
    /// Jumped to with the site in rcx, the map in its registers.
    pub ecall: u64,
    /// The same.
    pub sret: u64,
    /// Called with the new `mstatus` in rax and the old one in rdx, which differ in what S may write; changes rcx. Stores
    /// the new one and gives "equal"; or does nothing and gives "not equal".
    pub set_status: u64,
    /// Called with `mstatus` in rdx: what `sstatus` reads as, in rax. Changes rdx.
    pub read_status: u64,
}

impl Crossings {
    /// Emits them; `interpret` and `exit` are the trampolines of these names.
    pub fn emit(asm: &mut Asm, interpret: u64, exit: u64) -> Crossings {
        let mut c = Crossings { ecall: asm.here(), ..Crossings::default() };
        ecall(asm, interpret, exit);
        c.sret = asm.here();
        sret(asm, interpret, exit);
        c.set_status = asm.here();
        set_status(asm);
        c.read_status = asm.here();
        read_status(asm);
        c
    }
}

/// A mask of `mstatus` as an immediate operand; those used here lie in the lower half.
fn mask(bits: u64) -> i32 {
    bits as u32 as i32
}

/// Everything but `bits`.
fn without(bits: u64) -> i32 {
    !mask(bits)
}

/// Has the interpreter's instance do the instruction, which leaves translated code in any case.
fn instance(asm: &mut Asm, slow: Label, interpret: u64) {
    asm.bind(slow);
    // It is called elsewhere, and drops the address behind the call.
    asm.alu_ri(Alu::Sub, Size::Q, Gpr::Rsp, 8);
    asm.jmp_abs(interpret);
}

/// To `slow` if an interrupt may be pending that is enabled, or somebody wants to be looked at. Changes `free`.
fn unless_pending(asm: &mut Asm, free: Gpr, slow: Label) {
    let m = layout::modes();
    asm.mov_rm(Size::Q, free, word(Word::Attention));
    asm.alu_mi(Alu::Cmp, Size::B, Mem::base(free, 0), 0);
    asm.jcc(Cc::Ne, slow);
    asm.mov_rm(Size::Q, free, word(Word::Pins));
    asm.mov_rm(Size::Q, free, Mem::base(free, 0));
    asm.alu_rm(Alu::Or, Size::Q, free, m.mip);
    asm.alu_rm(Alu::Or, Size::Q, free, m.timers);
    asm.alu_rm(Alu::And, Size::Q, free, m.mie);
    asm.jcc(Cc::Ne, slow);
}

/// Makes `mode` and `context` the present ones; its jump cache goes to rdx. Changes rdx only.
fn select(asm: &mut Asm, mode: Privilege, context: DataContext) {
    let m = layout::modes();
    asm.mov_mi(Size::B, m.privilege, mode as i32);
    asm.mov_mi(Size::Q, m.data, context as i32);
    asm.mov_mi(Size::Q, m.fetch, layout::fetch_context(mode));
    asm.mov_rm(Size::Q, Gpr::Rdx, layout::stamp_of(mode));
    asm.mov_mr(Size::Q, m.stamp, Gpr::Rdx);
    select_jumps(asm, context);
}

/// Makes the jump cache of `context` the present one, and puts its address into rdx.
pub(crate) fn select_jumps(asm: &mut Asm, context: DataContext) {
    let jumps = match context {
        DataContext::User => Word::JumpsUser,
        DataContext::SupervisorSum => Word::JumpsSum,
        _ => Word::JumpsSupervisor,
    };
    asm.mov_rm(Size::Q, Gpr::Rdx, word(jumps));
    asm.mov_mr(Size::Q, word(Word::Jumps), Gpr::Rdx);
}

/// Goes to the unit at the address in rax, by the jump cache at rdx, or to `miss`. Changes rcx.
pub(crate) fn jump(asm: &mut Asm, miss: Label) {
    asm.rorx(Size::D, Gpr::Rcx, Gpr::Rax, JUMPS.shift);
    asm.alu_rr(Alu::Xor, Size::D, Gpr::Rcx, Gpr::Rax);
    asm.alu_ri(Alu::And, Size::D, Gpr::Rcx, JUMPS.mask);
    asm.alu_rm(Alu::Cmp, Size::Q, Gpr::Rax, Mem::index(Gpr::Rdx, Gpr::Rcx, 8, 0));
    asm.jcc(Cc::Ne, miss);
    asm.jmp_m(Mem::index(Gpr::Rdx, Gpr::Rcx, 8, 8));
}

/// [`jump`], or leaves for that address.
fn look_up(asm: &mut Asm, exit: u64) {
    let miss = asm.label();
    jump(asm, miss);
    asm.bind(miss);
    asm.mov_mr(Size::Q, layout::pc(), Gpr::Rax);
    asm.mov_ri(Gpr::Rax, Leave::Find.with(0).into());
    asm.jmp_abs(exit);
}

fn ecall(asm: &mut Asm, interpret: u64, exit: u64) {
    use status::{MXR, SIE, SPIE, SPP, SUM};
    let (m, slow) = (layout::modes(), asm.label());
    asm.mov_rm(Size::Q, Gpr::Rax, m.medeleg);
    asm.test_ri(Size::D, Gpr::Rax, 1 << Cause::EcallUser as i32);
    asm.jcc(Cc::E, slow);
    asm.mov_rm(Size::Q, Gpr::Rdx, m.mstatus);
    asm.test_ri(Size::D, Gpr::Rdx, mask(SUM | MXR));
    asm.jcc(Cc::Ne, slow);
    // A handler that is its own system call may make no progress, which the loop watches.
    asm.mov_rm(Size::Q, Gpr::Rax, m.stvec);
    asm.alu_ri(Alu::And, Size::Q, Gpr::Rax, -4);
    let pc = Mem::base(Gpr::Rcx, offset_of!(Site, pc) as i32);
    asm.alu_rm(Alu::Cmp, Size::Q, Gpr::Rax, pc);
    asm.jcc(Cc::E, slow);
    asm.mov_rm(Size::Q, Gpr::Rcx, pc);

    // It does not retire.
    asm.alu_ri(Alu::Add, Size::Q, FUEL, 1);
    let [sepc, scause, stval] = layout::trapped();
    asm.mov_mr(Size::Q, sepc, Gpr::Rcx);
    asm.mov_mi(Size::Q, scause, Cause::EcallUser as i32);
    asm.mov_mi(Size::Q, stval, 0);
    asm.mov_rr(Size::D, Gpr::Rcx, Gpr::Rdx);
    asm.alu_ri(Alu::And, Size::D, Gpr::Rcx, mask(SIE));
    asm.shift_ri(Shift::Shl, Size::D, Gpr::Rcx, (SPIE / SIE).trailing_zeros() as u8);
    asm.alu_ri(Alu::And, Size::Q, Gpr::Rdx, without(SIE | SPIE | SPP));
    asm.alu_rr(Alu::Or, Size::Q, Gpr::Rdx, Gpr::Rcx);
    asm.mov_mr(Size::Q, m.mstatus, Gpr::Rdx);
    select(asm, Privilege::Supervisor, DataContext::Supervisor);
    look_up(asm, exit);
    instance(asm, slow, interpret);
}

fn sret(asm: &mut Asm, interpret: u64, exit: u64) {
    use status::{MPRV, MXR, SIE, SPIE, SPP, SUM, TSR};
    let (m, slow, inside, plain) = (layout::modes(), asm.label(), asm.label(), asm.label());
    asm.mov_rm(Size::Q, Gpr::Rdx, m.mstatus);
    asm.test_ri(Size::D, Gpr::Rdx, mask(TSR | MXR));
    asm.jcc(Cc::Ne, slow);
    unless_pending(asm, Gpr::Rax, slow);
    asm.mov_rr(Size::D, Gpr::Rcx, Gpr::Rdx);
    asm.mov_rr(Size::D, Gpr::Rax, Gpr::Rdx);
    asm.shift_ri(Shift::Shr, Size::D, Gpr::Rax, (SPIE / SIE).trailing_zeros() as u8);
    asm.alu_ri(Alu::And, Size::D, Gpr::Rax, mask(SIE));
    asm.alu_ri(Alu::And, Size::Q, Gpr::Rdx, without(SIE | SPP | MPRV));
    asm.alu_ri(Alu::Or, Size::Q, Gpr::Rdx, mask(SPIE));
    asm.alu_rr(Alu::Or, Size::Q, Gpr::Rdx, Gpr::Rax);
    asm.mov_mr(Size::Q, m.mstatus, Gpr::Rdx);
    let [sepc, ..] = layout::trapped();
    asm.mov_rm(Size::Q, Gpr::Rax, sepc);
    asm.test_ri(Size::D, Gpr::Rcx, mask(SPP));
    asm.jcc(Cc::Ne, inside);
    select(asm, Privilege::User, DataContext::User);
    look_up(asm, exit);
    asm.bind(inside);
    asm.test_ri(Size::D, Gpr::Rcx, mask(SUM));
    asm.jcc(Cc::E, plain);
    select(asm, Privilege::Supervisor, DataContext::SupervisorSum);
    look_up(asm, exit);
    asm.bind(plain);
    select(asm, Privilege::Supervisor, DataContext::Supervisor);
    look_up(asm, exit);
    instance(asm, slow, interpret);
}

fn set_status(asm: &mut Asm) {
    use status::{FS, MXR, SIE, SUM};
    let (m, out, no_floats, store) = (layout::modes(), asm.label(), asm.label(), asm.label());
    asm.mov_rr(Size::D, Gpr::Rcx, Gpr::Rdx);
    asm.alu_rr(Alu::Xor, Size::D, Gpr::Rcx, Gpr::Rax);
    asm.test_ri(Size::D, Gpr::Rcx, mask(SUM | MXR));
    asm.jcc(Cc::Ne, out);
    asm.test_ri(Size::D, Gpr::Rcx, mask(FS));
    asm.jcc(Cc::E, no_floats);
    // The mode that is in place for floating point is the old one's.
    asm.alu_mi(Alu::Cmp, Size::D, word(Word::FpOn), 0);
    asm.jcc(Cc::Ne, out);
    asm.bind(no_floats);
    asm.alu_rr(Alu::And, Size::D, Gpr::Rcx, Gpr::Rax);
    asm.test_ri(Size::D, Gpr::Rcx, mask(SIE));
    asm.jcc(Cc::E, store);
    unless_pending(asm, Gpr::Rcx, out);
    asm.bind(store);
    asm.mov_mr(Size::Q, m.mstatus, Gpr::Rax);
    asm.alu_rr(Alu::Cmp, Size::D, Gpr::Rax, Gpr::Rax);
    asm.bind(out);
    asm.ret();
}

fn read_status(asm: &mut Asm) {
    use status::{FS, SD, SSTATUS, UXL64};
    let clean = asm.label();
    asm.mov_ri(Gpr::Rax, UXL64 as i64);
    asm.alu_ri(Alu::And, Size::D, Gpr::Rdx, mask(SSTATUS));
    asm.alu_rr(Alu::Or, Size::Q, Gpr::Rax, Gpr::Rdx);
    asm.alu_ri(Alu::And, Size::D, Gpr::Rdx, mask(FS));
    asm.alu_ri(Alu::Cmp, Size::D, Gpr::Rdx, mask(FS));
    asm.jcc(Cc::Ne, clean);
    asm.mov_ri(Gpr::Rdx, SD as i64);
    asm.alu_rr(Alu::Or, Size::Q, Gpr::Rax, Gpr::Rdx);
    asm.bind(clean);
    asm.ret();
}
