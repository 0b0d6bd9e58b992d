//! System calls: a user program, a kernel that does to `sstatus` what comes to its mind, and interrupts in between.
//!
//! ```text
//!   0x4000_0000  all of RAM for U mode; the program is at its start
//!   0x8000_0000  all of RAM for S mode, the kernel at KERNEL; M mode's handler at FIRMWARE
//! ```

use super::differential::seeds;
use super::fixture::*;
use super::lockstep::*;
use strata_isa::Op::{self, *};
use strata_isa::random::SplitMix64;
use strata_riscv::tier::status::{FS, MXR, SIE, SPIE, SPP, SUM, TSR};

const USER: u64 = 0x4000_0000;
const KERNEL: u64 = BASE + 0x8000;
const FIRMWARE: u64 = BASE + 0xc000;
const TABLE: u64 = BASE + 0x2_0000;
const SSTATUS: i32 = 0x100;
const SIP: i32 = 0x144;
const SEPC: i32 = 0x141;

fn csr(op: Op, rd: u8, src: u8, n: i32) -> u32 {
    insn(op, rd, src, 0, n)
}

/// Skips the instruction that a trap came from, and goes back.
fn back(epc: i32, ret: Op) -> [u32; 4] {
    [csr(Csrrs, 18, 0, epc), insn(Addi, 18, 18, 0, 4), csr(Csrrw, 0, 18, epc), insn(ret, 0, 0, 0, 0)]
}

/// Sets or clears the software interrupt. With a limit in force, the block behind it runs in the interpreter: it is a jump.
fn sip(op: Op) -> [u32; 2] {
    [csr(op, 0, 2, SIP), insn(Jal, 0, 0, 0, 4)]
}

/// Something that a kernel may do: x19 to x25 hold masks, x27 and x28 lead to data of the user's and of its own.
fn deed(rng: &mut SplitMix64, out: &mut Vec<u32>) {
    let rd = *rng.pick(&[0, 0, 10, 12, 29]).unwrap();
    let mask = 19 + rng.below(7) as u8;
    match rng.below(20) {
        0..3 => out.push(csr(Csrrs, rd, mask, SSTATUS)),
        3..6 => out.push(csr(Csrrc, rd, mask, SSTATUS)),
        6 => out.push(csr(Csrrw, rd, mask, SSTATUS)),
        7 => out.push(csr(Csrrs, rd, 0, SSTATUS)),
        8 => out.push(csr(Csrrsi, rd, 2, SSTATUS)),
        9 => out.push(csr(Csrrci, rd, 2, SSTATUS)),
        10..14 => {
            // As the kernel's own code does around a copy.
            out.extend([insn(Lui, 26, 0, 0, SUM as i32), csr(Csrrs, rd, 26, SSTATUS)]);
            out.extend([insn(Lw, 11, 27, 0, 8), insn(Sw, 0, 27, 10, 16), insn(Add, 10, 10, 11, 0)]);
            out.extend([insn(Lui, 26, 0, 0, SUM as i32), csr(Csrrc, rd, 26, SSTATUS)]);
        }
        14 => out.push(insn(Ld, 13, 28, 0, 24)),
        15 => out.push(insn(FaddD, 2, 3, 4, 0)),
        16 => {
            // Pending, and let in by the next instruction but some.
            out.extend(sip(Csrrsi));
            (0..rng.below(3)).for_each(|_| out.push(insn(Addi, 14, 14, 0, 3)));
            out.push(csr(Csrrsi, 0, 2, SSTATUS));
        }
        17 => out.push(csr(Csrrw, 12, 12, 0x140)),
        18 => out.push(insn(Ebreak, 0, 0, 0, 0)),
        // Accesses are looked up anew, in the context that is the present one.
        19 if rng.chance(30) => out.push(insn(SfenceVma, 0, 0, 0, 0)),
        _ => out.push(insn(Addi, 14, 14, 0, 3)),
    }
}

/// What becomes of a trap: one from the kernel itself is skipped, one from the program is an occasion for deeds.
fn kernel(rng: &mut SplitMix64) -> Vec<u32> {
    let quick = back(SEPC, Sret);
    let mut out = vec![csr(Csrrs, 30, 0, SSTATUS), insn(Andi, 30, 30, 0, SPP as i32)];
    out.push(insn(Beq, 0, 30, 0, 4 + 4 * quick.len() as i32));
    out.extend(quick);
    out.push(csr(Csrrs, 7, 0, SEPC));
    if rng.chance(80) {
        out.push(csr(Csrrc, 9, 25, SSTATUS));
    }
    if rng.chance(80) {
        out.extend(sip(Csrrci));
    }
    for _ in 0..1 + rng.below(8) {
        deed(rng, &mut out);
    }
    if rng.chance(90) {
        out.extend([insn(Addi, 26, 0, 0, SPP as i32), csr(Csrrc, 0, 26, SSTATUS)]);
    }
    if rng.chance(70) {
        out.push(csr(Csrrw, 0, 9, SSTATUS));
    }
    if rng.chance(25) {
        out.extend(sip(Csrrsi));
    }
    out.push(csr(Csrrw, 0, 7, SEPC));
    out.extend(back(SEPC, Sret));
    out
}

fn user(rng: &mut SplitMix64) -> Vec<u32> {
    let mut out = Vec::new();
    for _ in 0..1 + rng.below(3) {
        for _ in 0..rng.below(6) {
            let (a, b) = (8 + rng.below(8) as u8, 8 + rng.below(8) as u8);
            out.push(
                *rng.pick(&[insn(Add, a, b, 12, 0), insn(Addiw, a, b, 0, 5), insn(Ld, a, 31, 0, 8)]).unwrap(),
            );
        }
        if rng.chance(20) {
            out.push(insn(FmulD, 1, 2, 3, 0));
        }
        out.push(insn(Ecall, 0, 0, 0, 0));
    }
    out.push(insn(Jal, 0, 0, 0, -4 * out.len() as i32));
    out
}

fn run(seed: u64) {
    let mut rng = SplitMix64::new(seed | 1 << 42);
    let word = |v: u64| v.to_le_bytes().to_vec();
    let page = |flags: u64| BASE >> 12 << 10 | flags;
    // V R W X A D, and U or global.
    let (for_user, for_kernel) = (page(0xdf), page(0xcf | 1 << 5));
    let parts = [
        (BASE, code(&user(&mut rng))),
        (KERNEL, code(&kernel(&mut rng))),
        (FIRMWARE, code(&back(0x341, Mret))),
        (TABLE + 8, word(for_user)),
        (TABLE + 16, word(for_kernel)),
    ];
    let mut all = Lockstep::new(FIRMWARE, &parts);
    let masks = [SIE, SPIE, FS, MXR, SUM, 1 << 13 | SIE, SUM | FS];
    let (delegated, floats) = (rng.chance(90), rng.chance(60));
    let (mie, fs, tsr) = (rng.chance(60), rng.below(4) << 13, rng.chance(5));
    let odd = if rng.chance(10) { *rng.pick(&[SUM, MXR]).unwrap() } else { 0 };
    all.set(|s| {
        s.pc = USER;
        (s.privilege, s.satp, s.stvec, s.mtvec) = (0, 8 << 60 | TABLE >> 12, KERNEL, FIRMWARE);
        s.medeleg = if delegated { 0xb3ff } else { 0xb2ff };
        (s.mideleg, s.mie) = (0x222, if mie { 2 } else { 0 });
        s.mstatus |= if floats { 3 << 13 } else { fs } | odd | if tsr { TSR } else { 0 };
        (s.pmpaddr[0], s.pmpcfg[0]) = (u64::MAX >> 10, 0x1f);
        s.x[19..26].copy_from_slice(&masks);
        s.x[27] = USER + (DATA - BASE);
        s.x[28] = DATA + 0x100;
        s.x[31] = USER + (DATA - BASE) + 0x200;
    });
    let what = format!("seed {seed}");
    let mut left = 12_000;
    while left > 0 {
        let most = if rng.chance(30) { 40 } else { 2500 };
        let n = 1 + rng.below(most);
        all.run(n, &what);
        left -= n.min(left);
    }
    all.compare_memory(&what);
}

#[test]
fn modes_change_alike() {
    seeds(120).for_each(run);
}
