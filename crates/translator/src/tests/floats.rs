//! Floating point against the interpreter: every operation on the values where formats end, and programs of it.

use super::fixture::*;
use super::program::{self, Maker, POINTERS, RESERVED};
use crate::Options;
use strata_engine::Counted;
use strata_isa::random::{Filter, SplitMix64};
use strata_isa::{Effect, Extensions, Insn, Op, Operand, ROWS, encode};
use strata_state::Stateful;

/// Operand triples of an operation in one program.
fn triples() -> u64 {
    std::env::var("STRATA_TRANSLATOR_TRIPLES").ok().and_then(|v| v.parse().ok()).unwrap_or(150)
}

const SINGLES: [u32; 16] = [
    0,
    1,
    0x007f_ffff,
    0x0080_0000,
    0x3f80_0000,
    0x3f7f_ffff,
    0x4b80_0000,
    0x4f00_0000,
    0x4f7f_ffff,
    0x5eff_ffff,
    0x5f80_0000,
    0x7f7f_ffff,
    0x7f80_0000,
    0x7fc0_0000,
    0x7f80_0001,
    0x7fd1_2345,
];
const DOUBLES: [u64; 18] = [
    0,
    1,
    0x000f_ffff_ffff_ffff,
    0x0010_0000_0000_0000,
    0x3ff0_0000_0000_0000,
    0x3fef_ffff_ffff_ffff,
    0x36a0_0000_0000_0000,
    0x380f_ffff_ffff_ffff,
    0x47ef_ffff_f000_0000,
    0x41df_ffff_ffe0_0000,
    0x41ef_ffff_fff0_0000,
    0x43df_ffff_ffff_ffff,
    0x43f0_0000_0000_0000,
    0x7fef_ffff_ffff_ffff,
    0x7ff0_0000_0000_0000,
    0x7ff8_0000_0000_0000,
    0x7ff0_0000_0000_0001,
    0x7ffa_bcde_0000_0001,
];

/// A double's bits: corners, neighbours of corners, small numbers with halves, anything.
fn double(rng: &mut SplitMix64) -> u64 {
    let sign = rng.below(2) << 63;
    let corner = *rng.pick(&DOUBLES).unwrap();
    sign ^ match rng.below(8) {
        0..3 => corner,
        3 => corner.wrapping_add(rng.below(5)).wrapping_sub(2),
        4 => (rng.below(1 << 34) as f64 / 4.0).to_bits(),
        5 => (rng.below(64) as f64 * 0.5).to_bits(),
        6 => 0x3fc0_0000_0000_0000 + (rng.next_u64() >> 8),
        _ => rng.next_u64(),
    }
}

/// A single's bits in a register: mostly boxed.
fn single(rng: &mut SplitMix64) -> u64 {
    let sign = (rng.below(2) as u32) << 31;
    let corner = *rng.pick(&SINGLES).unwrap();
    let bits = sign
        ^ match rng.below(8) {
            0..3 => corner,
            3 => corner.wrapping_add(rng.below(5) as u32).wrapping_sub(2),
            4 => (rng.below(1 << 34) as f32 / 4.0).to_bits(),
            5 => (rng.below(64) as f32 * 0.5).to_bits(),
            6 => 0x3e00_0000 + (rng.next_u64() as u32 >> 7),
            _ => rng.next_u64() as u32,
        };
    let upper = if rng.chance(97) { u64::from(u32::MAX) } else { rng.next_u64() >> 32 };
    upper << 32 | u64::from(bits)
}

fn value(rng: &mut SplitMix64, singles: bool) -> u64 {
    if singles { single(rng) } else { double(rng) }
}

/// Operands that often are the same but for the sign.
fn triple(rng: &mut SplitMix64, singles: bool) -> [u64; 3] {
    let [a, mut b, c] = [(); 3].map(|()| value(rng, singles));
    if rng.chance(25) {
        b = a ^ rng.below(2) << if singles { 31 } else { 63 };
    }
    [a, b, c]
}

/// Of conversions from integers.
fn integer(rng: &mut SplitMix64) -> u64 {
    let any = rng.next_u64() >> rng.below(64);
    match rng.below(4) {
        0 => any,
        1 => any.wrapping_neg(),
        2 => (1u64 << rng.below(64)).wrapping_add(rng.below(5)).wrapping_sub(2),
        _ => rng.next_u64() << rng.below(64),
    }
}

fn float(op: Op, rm: u8, registers: [u8; 4]) -> u32 {
    let [rd, rs1, mut rs2, mut rs3] = registers;
    let operands = op.form().operands();
    if !operands.contains(&Operand::Fs2) {
        rs2 = 0;
    }
    if !operands.contains(&Operand::Fs3) {
        rs3 = 0;
    }
    encode(&Insn { op, rd, rs1, rs2, rs3, rm, len: 4, imm: 0, raw: 0 }).unwrap()
}

/// Both machines, with the same code and data; both in rounding mode `frm`.
fn pair(code: &[u32], data: &[u64], frm: u8) -> [Machine; 2] {
    [None, Some(Options { hot: 1, awaited: 0, ..Options::default() })].map(|translated| {
        let m = Machine::new(translated, BASE);
        let bytes: Vec<u8> = code.iter().flat_map(|w| w.to_le_bytes()).collect();
        m.ram.load(BASE, &bytes).unwrap();
        let bytes: Vec<u8> = data.iter().flat_map(|w| w.to_le_bytes()).collect();
        m.ram.load(DATA, &bytes).unwrap();
        let mut m = m;
        let mut s = m.hart.state();
        s.mstatus |= 3 << 13;
        s.fcsr = frm << 5;
        s.x[8] = DATA;
        s.x[9] = data.len() as u64 / 3;
        s.x[10] = DATA + 0x10_0000;
        m.hart.set_state(s);
        m.hart.settle();
        m
    })
}

/// One operation on a table of operands, its flags each time or all together, its destination one of its sources or not.
fn operation(op: Op, rm: u8, frm: u8, rng: &mut SplitMix64, flags: bool) {
    let singles = op.name().ends_with(".s") || matches!(op, Op::FmvXW);
    let operands = op.form().operands();
    let from_x = operands.contains(&Operand::Rs1);
    let to_x = operands.contains(&Operand::Rd);
    let n = triples();
    let operands = |rng: &mut SplitMix64| if from_x { [integer(rng), 0, 0] } else { triple(rng, singles) };
    let data: Vec<u64> = (0..n).flat_map(|_| operands(rng)).collect();
    let pick = |rng: &mut SplitMix64| 1 + rng.below(3) as u8;
    let rd = if to_x { *rng.pick(&[5, 12]).unwrap() } else { *rng.pick(&[1, 2, 3, 4]).unwrap() };
    let source = if from_x { *rng.pick(&[6, 13]).unwrap() } else { pick(rng) };
    let load = if singles && !flags { Op::Flw } else { Op::Fld };
    let mut code = Vec::new();
    if from_x {
        code.push(insn(Op::Ld, source, 8, 0, 0));
    }
    code.extend([1, 2, 3].map(|f| insn(load, f, 8, 0, i32::from(f) * 8 - 8)));
    let fflags =
        |op, rd| encode(&Insn { op, rd, rs1: 0, rs2: 0, rs3: 0, rm: 0, len: 4, imm: 1, raw: 0 }).unwrap();
    if flags {
        code.push(fflags(Op::Csrrw, 0));
    }
    code.push(float(op, rm, [rd, source, pick(rng), pick(rng)]));
    if flags {
        code.push(fflags(Op::Csrrs, 11));
    }
    if to_x {
        code.push(insn(Op::Sd, 0, 10, rd, 0));
    } else {
        code.push(insn(Op::Fsd, 0, 10, rd, 0));
    }
    code.push(insn(Op::Sd, 0, 10, 11, 8));
    code.push(insn(Op::Addi, 8, 8, 0, 24));
    code.push(insn(Op::Addi, 10, 10, 0, 16));
    code.push(insn(Op::Addi, 9, 9, 0, -1));
    code.push(insn(Op::Bne, 0, 9, 0, -4 * code.len() as i32));
    code.push(fflags(Op::Csrrs, 11));
    code.push(insn(Op::Jal, 0, 0, 0, 0));
    let [mut a, mut b] = pair(&code, &data, frm);
    let insns = n * code.len() as u64;
    a.hart.run_for(insns);
    b.hart.run_for(insns);
    let out = |m: &Machine| m.memory(DATA + 0x10_0000, n as usize * 16);
    let (x, y) = (out(&a), out(&b));
    if let Some(k) = x.chunks(16).zip(y.chunks(16)).position(|(x, y)| x != y) {
        let (at, of) = (k * 16, &data[k * 3..k * 3 + 3]);
        panic!(
            "{} rm {rm} frm {frm} of {of:x?}: {:x?}, translated {:x?}\n{:x?}",
            op.name(),
            &x[at..at + 16],
            &y[at..at + 16],
            code.iter().map(|w| strata_isa::disasm(&strata_isa::decode(*w).unwrap(), 0)).collect::<Vec<_>>()
        );
    }
    assert_eq!(a.hart.state(), b.hart.state(), "{} rm {rm} frm {frm}", op.name());
}

#[test]
fn every_operation_in_every_mode() {
    let mut rng = SplitMix64::new(triples());
    for row in ROWS.iter().filter(|row| row.effect == Effect::Fp) {
        let modes: &[u8] =
            if row.op.form().operands().contains(&Operand::Rm) { &[7, 0, 1, 2, 3, 4] } else { &[0] };
        for rm in modes {
            for frm in if *rm == 7 { 0..5 } else { 1..3 } {
                operation(row.op, *rm, frm, &mut rng, true);
                operation(row.op, *rm, frm, &mut rng, false);
            }
        }
    }
}

/// What a program is made of: one format, or both.
fn filter(rng: &mut SplitMix64) -> (Filter, bool) {
    let kind = rng.below(3);
    let csrs = rng.chance(30);
    let fits = |op: Op| {
        let name = op.name();
        let (s, d) = (name.contains(".s") || name.ends_with('w'), name.contains(".d") || name.ends_with('d'));
        match kind {
            0 => s && !d,
            1 => d && !s,
            _ => true,
        }
    };
    let integer = rng.chance(50);
    let mut f = Filter::new(Extensions::ALL).only(|op| match op.effect() {
        Effect::Fp | Effect::FpLoad(_) | Effect::FpStore(_) => fits(op),
        Effect::Csr => csrs && matches!(op, Op::Csrrw | Op::Csrrs | Op::Csrrwi),
        Effect::Load(_) | Effect::Store(_) => integer && matches!(op, Op::Ld | Op::Sw),
        Effect::Pure => integer && matches!(op, Op::Addi | Op::Xor | Op::Srli),
        _ => false,
    });
    f.x_dst = !RESERVED;
    f.x_base = POINTERS;
    f.offsets = 0..=1000;
    f.csrs = vec![1, 1, 1, 2, 3];
    // Few registers meet each other often; many do not fit the host's.
    if rng.chance(50) {
        let set = 0xff << rng.below(20);
        (f.f_dst, f.f_src) = (set, set);
    }
    (f, kind == 0)
}

fn program(seed: u64) {
    let mut rng = SplitMix64::new(seed);
    let (filter, singles) = filter(&mut rng);
    let code = Maker::new(&mut rng, &filter).program();
    let data: Vec<u64> = (0..1024)
        .map(|_| {
            let singles = rng.chance(50);
            value(&mut rng, singles)
        })
        .collect();
    let (frm, fs) = (rng.below(4) as u8, if rng.chance(80) { 3 } else { rng.below(4) });
    let fault = rng.chance(15);
    let registers = rng.next_u64();
    let words: Vec<u8> = data.iter().flat_map(|w| w.to_le_bytes()).collect();
    let options = Options {
        hot: [16, 0, 1][(seed % 3) as usize],
        awaited: 0,
        code_size: [32 << 20, 0][(seed % 2) as usize],
    };
    let mut machines = [None, Some(options)].map(|translated| {
        let mut m = Machine::new(translated, BASE);
        m.ram.load(BASE, &program::bytes(&code)).unwrap();
        m.ram.load(DATA, &words).unwrap();
        m.ram.load(DATA + 0x20_0000, &words).unwrap();
        let mut rng = SplitMix64::new(registers);
        m.registers(&mut rng, POINTERS);
        let mut s = m.hart.state();
        (s.fcsr, s.mstatus) = (frm << 5, s.mstatus & !(3 << 13) | fs << 13);
        for r in 0..32 {
            s.f[r] = value(&mut rng, singles);
            if POINTERS >> r & 1 != 0 {
                // So far from each other that they push each other out of the TLB.
                s.x[r] = DATA + rng.below(2) * 0x20_0000 + rng.below(800) * 8;
            }
        }
        if fault {
            s.x[20] = BASE - 0x1000;
        }
        m.hart.set_state(s);
        m.hart.settle();
        m
    });
    let mut left = 12_000;
    while left > 0 {
        let most = if rng.chance(30) { 40 } else { 4000 };
        let n = 1 + rng.below(most);
        let [a, b] = &mut machines;
        let stops = (a.hart.run_for(n), b.hart.run_for(n));
        let (x, y) = (a.hart.state(), b.hart.state());
        let same = [DATA, DATA + 0x20_0000].iter().all(|at| a.memory(*at, 0x4000) == b.memory(*at, 0x4000));
        if x != y || !same || stops.0 != stops.1 {
            let differ: Vec<String> = (0..32)
                .filter(|r| x.f[*r] != y.f[*r] || x.x[*r] != y.x[*r])
                .map(|r| format!("{r}: f {:x} {:x}  x {:x} {:x}", x.f[r], y.f[r], x.x[r], y.x[r]))
                .collect();
            panic!(
                "seed {seed:#x} left {left} frm {frm} memory {same} {stops:?} pc {:x} {:x} fcsr {:x} {:x}\n{}\n{}",
                x.pc,
                y.pc,
                x.fcsr,
                y.fcsr,
                program::listing(&code, BASE),
                differ.join("\n")
            );
        }
        left -= n.min(left);
    }
}

#[test]
fn programs() {
    super::differential::seeds(200).for_each(|seed| program(seed | 1 << 42));
}
