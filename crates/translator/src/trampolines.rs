//! The few pieces of host code that all units share: the way in, the way out, and the calls of helpers.
//!
//! ```text
//!   enter(core, code)   saves what the caller keeps, loads the map, jumps to `code`
//!   exit                stores the map, gives the caller back what it kept, returns rax
//!   fuel                takes more of the reserve and returns to the unit, or leaves with rax
//!   interpret           stores the map, has the interpreter execute the site in rcx, loads the map
//!   crossings           change the mode without leaving: crossings.rs
//!   refill              opens a window, if the TLB has the page
//!   load, store         keep the map's volatile part on the stack around the slow path
//! ```
//! In a unit the stack is aligned to 16 bytes. The helpers' floating point must not see the guest's MXCSR, so whoever
//! calls one puts the host's back first, if the guest's is on.

use crate::crossings::Crossings;
use crate::helpers;
use crate::layout::{self, BIAS, Word, word};
use crate::registers::{BASE, FUEL, MAP, VOLATILE, slot};
use std::mem::{offset_of, size_of};
use strata_isa::ops::Width;
use strata_riscv::tier::{DATA_ENTRIES, DataContext, DataEntry, DataRight, Windows};
use strata_x64::{Alu, Asm, Cc, Gpr, Mem, Size, Xmm};

const WIDTHS: [Width; 7] = [Width::I8, Width::U8, Width::I16, Width::U16, Width::I32, Width::U32, Width::I64];

/// Instructions given out of the reserve at a time: some microsecond, after which the attention word is looked at.
const SLICE: i32 = 4096;

/// Addresses of the shared pieces.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trampolines {
    pub enter: u64,
    pub exit: u64,
    pub fuel: u64,
    pub interpret: u64,
    pub crossings: Crossings,
    loads: [u64; 7],
    stores: [u64; 7],
    refills: [[u64; 2]; CONTEXTS.len()],
}

const CONTEXTS: [DataContext; 5] = [
    DataContext::User,
    DataContext::Supervisor,
    DataContext::SupervisorSum,
    DataContext::Bare,
    DataContext::Odd,
];

fn index(w: Width) -> usize {
    WIDTHS.iter().position(|x| *x == w).unwrap_or(0)
}

impl Trampolines {
    /// Emits them into `asm`.
    pub fn emit(asm: &mut Asm) -> Trampolines {
        let mut t = Trampolines { enter: asm.here(), ..Trampolines::default() };
        enter(asm);
        t.exit = asm.here();
        exit(asm);
        t.fuel = asm.here();
        fuel(asm, t.exit);
        t.interpret = asm.here();
        interpret(asm);
        t.crossings = Crossings::emit(asm, t.interpret, t.exit);
        for (n, w) in WIDTHS.into_iter().enumerate() {
            t.loads[n] = asm.here();
            access(asm, helpers::load(w), t.exit);
            t.stores[n] = asm.here();
            access(asm, helpers::store(w), t.exit);
        }
        for (n, context) in CONTEXTS.into_iter().enumerate() {
            for write in [false, true] {
                t.refills[n][usize::from(write)] = asm.here();
                refill(asm, context, write);
            }
        }
        t
    }

    /// The slow path of a load: address in rax, site in rcx; the value comes back in rax.
    pub fn load(&self, w: Width) -> u64 {
        self.loads[index(w)]
    }

    /// Opens the window at displacement rcx onto the page rdx, for reads or for writes: "not equal" if the TLB does not
    /// have it. Changes rcx only, and flags.
    pub fn refill(&self, context: DataContext, write: bool) -> u64 {
        self.refills[context as usize][usize::from(write)]
    }

    /// The slow path of a store: address in rax, value in rdx, site in rcx.
    pub fn store(&self, w: Width) -> u64 {
        self.stores[index(w)]
    }
}

/// Those that units keep something in.
const XMM: [Xmm; 16] = [
    Xmm::Xmm0,
    Xmm::Xmm1,
    Xmm::Xmm2,
    Xmm::Xmm3,
    Xmm::Xmm4,
    Xmm::Xmm5,
    Xmm::Xmm6,
    Xmm::Xmm7,
    Xmm::Xmm8,
    Xmm::Xmm9,
    Xmm::Xmm10,
    Xmm::Xmm11,
    Xmm::Xmm12,
    Xmm::Xmm13,
    Xmm::Xmm14,
    Xmm::Xmm15,
];

const SAVED: [Gpr; 6] = [Gpr::Rbp, Gpr::Rbx, Gpr::R12, Gpr::R13, Gpr::R14, Gpr::R15];

fn load_map(asm: &mut Asm) {
    for (r, h) in MAP {
        asm.mov_rm(Size::Q, h, slot(r));
    }
}

fn store_map(asm: &mut Asm) {
    for (r, h) in MAP {
        asm.mov_mr(Size::Q, slot(r), h);
    }
}

fn enter(asm: &mut Asm) {
    SAVED.iter().for_each(|r| asm.push(*r));
    asm.alu_ri(Alu::Sub, Size::Q, Gpr::Rsp, 8);
    asm.lea(Size::Q, BASE, Mem::base(Gpr::Rdi, BIAS as i32));
    asm.mov_rr(Size::Q, Gpr::Rax, Gpr::Rsi);
    asm.mov_rm(Size::Q, FUEL, word(Word::Fuel));
    load_map(asm);
    guest_floats(asm);
    asm.jmp_r(Gpr::Rax);
}

fn exit(asm: &mut Asm) {
    store_map(asm);
    host_floats(asm);
    asm.mov_mr(Size::Q, word(Word::Fuel), FUEL);
    asm.alu_ri(Alu::Add, Size::Q, Gpr::Rsp, 8);
    SAVED.iter().rev().for_each(|r| asm.pop(*r));
    asm.ret();
}

/// Puts the host's MXCSR in force, if the guest's is.
fn host_floats(asm: &mut Asm) {
    let off = asm.label();
    asm.alu_mi(Alu::Cmp, Size::D, word(Word::FpOn), 0);
    asm.jcc(Cc::E, off);
    asm.stmxcsr(word(Word::Mxcsr));
    asm.ldmxcsr(word(Word::HostMxcsr));
    asm.bind(off);
}

/// Puts the guest's MXCSR in force, if it is on.
fn guest_floats(asm: &mut Asm) {
    let off = asm.label();
    asm.alu_mi(Alu::Cmp, Size::D, word(Word::FpOn), 0);
    asm.jcc(Cc::E, off);
    asm.ldmxcsr(word(Word::Mxcsr));
    asm.bind(off);
}

/// Called with the way out in rax by a unit that found too little fuel, which has given its charge back.
fn fuel(asm: &mut Asm, exit: u64) {
    let (leave, all) = (asm.label(), asm.label());
    asm.mov_rm(Size::Q, Gpr::Rcx, word(Word::Attention));
    asm.alu_mi(Alu::Cmp, Size::B, Mem::base(Gpr::Rcx, 0), 0);
    asm.jcc(Cc::Ne, leave);
    asm.mov_rm(Size::Q, Gpr::Rcx, word(Word::Reserve));
    asm.test_rr(Size::Q, Gpr::Rcx, Gpr::Rcx);
    asm.jcc(Cc::E, leave);
    asm.mov_ri(Gpr::Rdx, i64::from(SLICE));
    asm.alu_rr(Alu::Cmp, Size::Q, Gpr::Rcx, Gpr::Rdx);
    asm.jcc(Cc::B, all);
    asm.mov_rr(Size::Q, Gpr::Rcx, Gpr::Rdx);
    asm.bind(all);
    asm.alu_rr(Alu::Add, Size::Q, FUEL, Gpr::Rcx);
    asm.alu_mr(Alu::Sub, Size::Q, word(Word::Reserve), Gpr::Rcx);
    asm.ret();
    asm.bind(leave);
    asm.alu_ri(Alu::Add, Size::Q, Gpr::Rsp, 8);
    asm.jmp_abs(exit);
}

fn refill(asm: &mut Asm, context: DataContext, write: bool) {
    let right = if write { offset_of!(DataEntry, write) } else { offset_of!(DataEntry, read) };
    let set = layout::tlb(context) + right as i32;
    let (tag, addend) = (offset_of!(DataRight, tag) as i32, offset_of!(DataRight, addend) as i32);
    let entry = size_of::<DataEntry>();
    let out = asm.label();
    asm.push(Gpr::Rax);
    asm.rorx(Size::D, Gpr::Rax, Gpr::Rdx, 12 - entry.trailing_zeros() as u8);
    asm.alu_ri(Alu::And, Size::D, Gpr::Rax, ((DATA_ENTRIES - 1) * entry) as i32);
    // A misaligned address is in rdx with what is wrong with it, and so never found.
    asm.alu_rm(Alu::Cmp, Size::Q, Gpr::Rdx, Mem::index(BASE, Gpr::Rax, 1, set + tag));
    asm.jcc(Cc::Ne, out);
    asm.mov_rm(Size::Q, Gpr::Rax, Mem::index(BASE, Gpr::Rax, 1, set + addend));
    let (tags, addends) = (offset_of!(Windows, tags) as i32, offset_of!(Windows, addends) as i32);
    asm.mov_mr(Size::Q, Mem::index(BASE, Gpr::Rcx, 1, addends), Gpr::Rax);
    asm.mov_mr(Size::Q, Mem::index(BASE, Gpr::Rcx, 1, tags), Gpr::Rdx);
    asm.mov_mi(Size::B, layout::open(context), 1);
    asm.bind(out);
    asm.pop(Gpr::Rax);
    asm.ret();
}

fn call(asm: &mut Asm, helper: u64) {
    asm.mov_ri(Gpr::Rax, helper as i64);
    asm.call_r(Gpr::Rax);
    if cfg!(debug_assertions) {
        // A helper may change all of these, and hardly ever does: units that rely on them are to be found by tests.
        asm.mov_ri(Gpr::Rcx, 0x7ff4_dead_7fa0_dead);
        XMM.iter().for_each(|x| asm.movq_xr(*x, Gpr::Rcx));
    }
}

/// The helper gives 0, or the way out; then the map in memory is what counts.
fn interpret(asm: &mut Asm) {
    let leave = asm.label();
    store_map(asm);
    host_floats(asm);
    asm.mov_mr(Size::Q, word(Word::Fuel), FUEL);
    asm.lea(Size::Q, Gpr::Rdi, Mem::base(BASE, -(BIAS as i32)));
    asm.mov_rr(Size::Q, Gpr::Rsi, Gpr::Rcx);
    asm.alu_ri(Alu::Sub, Size::Q, Gpr::Rsp, 8);
    call(asm, helpers::interpret());
    asm.alu_ri(Alu::Add, Size::Q, Gpr::Rsp, 8);
    asm.test_rr(Size::D, Gpr::Rax, Gpr::Rax);
    asm.jcc(Cc::Ne, leave);
    guest_floats(asm);
    load_map(asm);
    asm.ret();
    asm.bind(leave);
    // The return address, and what `enter` made room for.
    asm.alu_ri(Alu::Add, Size::Q, Gpr::Rsp, 16);
    SAVED.iter().rev().for_each(|r| asm.pop(*r));
    asm.ret();
}

/// The helper gives the value in rax, and in rdx 0 or the way out.
fn access(asm: &mut Asm, helper: u64, exit: u64) {
    let leave = asm.label();
    VOLATILE.iter().for_each(|r| asm.push(*r));
    asm.alu_ri(Alu::Sub, Size::Q, Gpr::Rsp, 8);
    host_floats(asm);
    asm.lea(Size::Q, Gpr::Rdi, Mem::base(BASE, -(BIAS as i32)));
    asm.mov_rr(Size::Q, Gpr::Rsi, Gpr::Rax);
    // The value to store is in rdx and the site in rcx, where the helper wants them.
    call(asm, helper);
    guest_floats(asm);
    asm.alu_ri(Alu::Add, Size::Q, Gpr::Rsp, 8);
    VOLATILE.iter().rev().for_each(|r| asm.pop(*r));
    asm.test_rr(Size::D, Gpr::Rdx, Gpr::Rdx);
    asm.jcc(Cc::Ne, leave);
    asm.ret();
    asm.bind(leave);
    asm.mov_rr(Size::D, Gpr::Rax, Gpr::Rdx);
    asm.alu_ri(Alu::Add, Size::Q, Gpr::Rsp, 8);
    asm.jmp_abs(exit);
}
