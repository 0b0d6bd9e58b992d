//! Known answers: what instructions do, one by one. The expected numbers of the tables were computed apart, with
//! unbounded integers, from the manual's words; nothing here is taken from `eval.rs`.

use crate::ops::*;
use crate::record::record;
use crate::record::toy::{Event, Fault, Toy, evaluate};
use crate::table::{Effect, Form, Op};
use crate::{Insn, encode};

const A: u64 = 0xfedc_ba98_8765_4321;
const B: u64 = 0x8f1e_2d3c_9b4a_5907;
const C: u64 = 0x00f0_0120_0034_1280;

/// `op a0, A, B`.
const REGISTER: &[(&str, u64)] = &[
    ("add", 0x8dfa_e7d5_22af_9c28),
    ("sub", 0x6fbe_8d5b_ec1a_ea1a),
    ("sll", 0x6e5d_4c43_b2a1_9080),
    ("slt", 0x0000_0000_0000_0000),
    ("sltu", 0x0000_0000_0000_0000),
    ("xor", 0x71c2_97a4_1c2f_1a26),
    ("srl", 0x01fd_b975_310e_ca86),
    ("sra", 0xfffd_b975_310e_ca86),
    ("or", 0xffde_bfbc_9f6f_5b27),
    ("and", 0x8e1c_2818_8340_4101),
    ("addw", 0x0000_0000_22af_9c28),
    ("subw", 0xffff_ffff_ec1a_ea1a),
    ("sllw", 0xffff_ffff_b2a1_9080),
    ("srlw", 0x0000_0000_010e_ca86),
    ("sraw", 0xffff_ffff_ff0e_ca86),
    ("mul", 0xd460_1ce4_4aa5_4ee7),
    ("mulh", 0x0080_6f4d_11f4_072b),
    ("mulhsu", 0xff5d_29e5_9959_4a4c),
    ("mulhu", 0x8e7b_5722_34a3_a353),
    ("div", 0x0000_0000_0000_0000),
    ("divu", 0x0000_0000_0000_0001),
    ("rem", 0xfedc_ba98_8765_4321),
    ("remu", 0x6fbe_8d5b_ec1a_ea1a),
    ("mulw", 0x0000_0000_4aa5_4ee7),
    ("divw", 0x0000_0000_0000_0001),
    ("divuw", 0x0000_0000_0000_0000),
    ("remw", 0xffff_ffff_ec1a_ea1a),
    ("remuw", 0xffff_ffff_8765_4321),
    ("sh1add", 0x8cd7_a26d_aa14_df49),
    ("sh2add", 0x8a91_179e_b8df_658b),
    ("sh3add", 0x8604_0200_d674_720f),
    ("add.uw", 0x8f1e_2d3d_22af_9c28),
    ("sh1add.uw", 0x8f1e_2d3d_aa14_df49),
    ("sh2add.uw", 0x8f1e_2d3e_b8df_658b),
    ("sh3add.uw", 0x8f1e_2d40_d674_720f),
    ("andn", 0x70c0_9280_0425_0220),
    ("orn", 0xfefd_fadb_e7f5_e7f9),
    ("xnor", 0x8e3d_685b_e3d0_e5d9),
    ("min", 0x8f1e_2d3c_9b4a_5907),
    ("minu", 0x8f1e_2d3c_9b4a_5907),
    ("max", 0xfedc_ba98_8765_4321),
    ("maxu", 0xfedc_ba98_8765_4321),
    ("rol", 0x6e5d_4c43_b2a1_90ff),
    ("ror", 0x43fd_b975_310e_ca86),
    ("rolw", 0xffff_ffff_b2a1_90c3),
    ("rorw", 0x0000_0000_430e_ca86),
    ("bclr", 0xfedc_ba98_8765_4321),
    ("bext", 0x0000_0000_0000_0000),
    ("binv", 0xfedc_ba98_8765_43a1),
    ("bset", 0xfedc_ba98_8765_43a1),
    ("czero.eqz", 0xfedc_ba98_8765_4321),
    ("czero.nez", 0x0000_0000_0000_0000),
];

/// `op a0, A, -1366`.
const IMMEDIATE: &[(&str, u64)] = &[
    ("addi", 0xfedc_ba98_8765_3dcb),
    ("slti", 0x0000_0000_0000_0001),
    ("sltiu", 0x0000_0000_0000_0001),
    ("xori", 0x0123_4567_789a_b98b),
    ("ori", 0xffff_ffff_ffff_fbab),
    ("andi", 0xfedc_ba98_8765_4220),
    ("addiw", 0xffff_ffff_8765_3dcb),
];

/// `op a0, A, 19`.
const SHIFT: &[(&str, u64)] = &[
    ("slli", 0xd4c4_3b2a_1908_0000),
    ("srli", 0x0000_1fdb_9753_10ec),
    ("srai", 0xffff_ffdb_9753_10ec),
    ("slliw", 0x0000_0000_1908_0000),
    ("srliw", 0x0000_0000_0000_10ec),
    ("sraiw", 0xffff_ffff_ffff_f0ec),
    ("slli.uw", 0x0004_3b2a_1908_0000),
    ("rori", 0xa864_3fdb_9753_10ec),
    ("roriw", 0xffff_ffff_a864_30ec),
    ("bclri", 0xfedc_ba98_8765_4321),
    ("bexti", 0x0000_0000_0000_0000),
    ("binvi", 0xfedc_ba98_876d_4321),
    ("bseti", 0xfedc_ba98_876d_4321),
];

/// `op a0, C`.
const UNARY: &[(&str, u64)] = &[
    ("clz", 0x0000_0000_0000_0008),
    ("ctz", 0x0000_0000_0000_0007),
    ("cpop", 0x0000_0000_0000_000c),
    ("clzw", 0x0000_0000_0000_000a),
    ("ctzw", 0x0000_0000_0000_0007),
    ("cpopw", 0x0000_0000_0000_0006),
    ("sext.b", 0xffff_ffff_ffff_ff80),
    ("sext.h", 0x0000_0000_0000_1280),
    ("zext.h", 0x0000_0000_0000_1280),
    ("orc.b", 0x00ff_ffff_00ff_ffff),
    ("rev8", 0x8012_3400_2001_f000),
];

/// `a0 = op(a1, a2)` with these in the registers.
fn compute(op: Op, a1: u64, a2: u64, imm: i32) -> u64 {
    let insn = Insn { op, rd: 10, rs1: 11, rs2: 0, rs3: 0, rm: 0, len: 4, imm, raw: 0 };
    let insn = if op.form() == Form::R { Insn { rs2: 12, ..insn } } else { insn };
    let mut toy = Toy::new(0);
    (toy.x[11], toy.x[12]) = (a1, a2);
    run(insn, &mut toy).expect("nothing to stop it");
    toy.x[10]
}

/// Runs `insn` on `toy`, by way of its bits.
fn run(insn: Insn, toy: &mut Toy) -> Result<(), Fault> {
    let raw = encode(&insn).expect("encodable");
    evaluate(&record(&crate::decode(raw).expect("valid")).expect("rules kept"), toy)
}

fn named(name: &str) -> Op {
    *Op::ALL.iter().find(|op| op.name() == name).expect("a row of this name")
}

#[test]
fn computations() {
    let mut seen = 0;
    for (table, a, b, imm) in
        [(REGISTER, A, B, 0), (IMMEDIATE, A, B, -1366), (SHIFT, A, B, 19), (UNARY, C, B, 0)]
    {
        for (name, want) in table {
            assert_eq!(compute(named(name), a, b, imm), *want, "{name}");
            seen += 1;
        }
    }
    assert_eq!(compute(Op::CzeroNez, A, 0, 0), A);
    assert_eq!(compute(Op::CzeroEqz, A, 0, 0), 0);
    // LUI and AUIPC are the pure rows that are not in the tables.
    assert_eq!(seen + 2, Op::ALL.iter().filter(|op| op.effect() == Effect::Pure).count());
}

const BASE: Insn = Insn { op: Op::Addi, rd: 10, rs1: 11, rs2: 12, rs3: 0, rm: 0, len: 4, imm: 0, raw: 0 };

fn toy() -> Toy {
    let mut toy = Toy::new(64);
    toy.memory.copy_from_slice(&std::array::from_fn::<u8, 64, _>(|n| 0x80 + n as u8));
    (toy.pc, toy.x[11], toy.x[12]) = (0x1000, 16, 0x1122_3344_5566_7788);
    toy
}

#[test]
fn loads_extend_and_stores_cut() {
    let cases = [
        (Op::Lb, 0xffff_ffff_ffff_ff8e),
        (Op::Lbu, 0x8e),
        (Op::Lh, 0xffff_ffff_ffff_8f8e),
        (Op::Lhu, 0x8f8e),
        (Op::Lw, 0xffff_ffff_9190_8f8e),
        (Op::Lwu, 0x9190_8f8e),
        (Op::Ld, 0x9594_9392_9190_8f8e),
    ];
    for (op, want) in cases {
        let mut toy = toy();
        run(Insn { op, rs2: 0, imm: -2, ..BASE }, &mut toy).expect("inside memory");
        assert_eq!((toy.x[10], toy.pc), (want, 0x1004), "{op:?}");
    }
    for (op, bytes) in [(Op::Sb, 1), (Op::Sh, 2), (Op::Sw, 4), (Op::Sd, 8)] {
        let mut toy = toy();
        let mut want = toy.memory.clone();
        want[19..19 + bytes].copy_from_slice(&toy.x[12].to_le_bytes()[..bytes]);
        run(Insn { op, rd: 0, imm: 3, ..BASE }, &mut toy).expect("inside memory");
        assert_eq!(toy.memory, want, "{op:?}");
    }
}

#[test]
fn a_fault_leaves_everything_as_it_was() {
    for op in Op::ALL.iter().filter(|op| op.effect().reads().is_some()) {
        let start = Toy { fp_on: true, ..toy() };
        let mut toy = start.clone();
        toy.x[11] = 4000;
        let operands = if matches!(op.form(), Form::Load | Form::FLoad | Form::Lr) { 0 } else { 12 };
        assert_eq!(
            run(Insn { op: *op, rs2: operands, ..BASE }, &mut toy),
            Err(Fault::Access(4000)),
            "{op:?}"
        );
        toy.x[11] = start.x[11];
        assert_eq!(toy, start, "{op:?}");
    }
}

#[test]
fn jumps_link_and_go() {
    let mut toy = toy();
    run(Insn { op: Op::Jal, rd: 1, rs1: 0, rs2: 0, imm: -2048, ..BASE }, &mut toy).expect("no stop");
    assert_eq!((toy.x[1], toy.pc), (0x1004, 0x800));
    (toy.pc, toy.x[1]) = (0x1000, 0x2001);
    run(Insn { op: Op::Jalr, rd: 1, rs1: 1, rs2: 0, imm: 6, ..BASE }, &mut toy).expect("no stop");
    assert_eq!((toy.x[1], toy.pc), (0x1004, 0x2006), "rd = rs1, bit 0 dropped");
    // c.jalr a1: the link is two bytes on.
    (toy.pc, toy.x[11]) = (0x1000, 0x3000);
    run(Insn { op: Op::Jalr, rd: 1, rs2: 0, len: 2, ..BASE }, &mut toy).expect("no stop");
    assert_eq!((toy.x[1], toy.pc), (0x1002, 0x3000));
    toy.pc = 0x1000;
    run(Insn { op: Op::Auipc, rs1: 0, rs2: 0, imm: -0x1000, ..BASE }, &mut toy).expect("no stop");
    assert_eq!(toy.x[10], 0);
    run(Insn { op: Op::Lui, rs1: 0, rs2: 0, imm: i32::MIN, ..BASE }, &mut toy).expect("no stop");
    assert_eq!(toy.x[10], 0xffff_ffff_8000_0000);
}

#[test]
fn branches_compare() {
    let minus = -5i64 as u64;
    for (a, b, taken) in [
        (5, 5, ["beq", "bge", "bgeu"]),
        (minus, 5, ["bne", "blt", "bgeu"]),
        (5, minus, ["bne", "bge", "bltu"]),
        (4, 5, ["bne", "blt", "bltu"]),
    ] {
        for op in Op::ALL.iter().filter(|op| op.effect() == Effect::Branch) {
            let mut toy = toy();
            (toy.x[11], toy.x[12]) = (a, b);
            run(Insn { op: *op, rd: 0, imm: 0x100, ..BASE }, &mut toy).expect("no stop");
            let want = if taken.contains(&op.name()) { 0x1100 } else { 0x1004 };
            assert_eq!(toy.pc, want, "{op:?} {a} {b}");
        }
    }
}

#[test]
fn atomics_read_and_change() {
    let old = 0xffff_ffff_8000_0001_u64;
    let operand = 0x0000_0001_7000_0003_u64;
    let cases = [
        (Op::AmoswapW, 0x7000_0003, Op::AmoswapD, operand),
        (Op::AmoaddW, 0xf000_0004, Op::AmoaddD, 0xf000_0004),
        (Op::AmoxorW, 0xf000_0002, Op::AmoxorD, 0xffff_fffe_f000_0002),
        (Op::AmoandW, 0x0000_0001, Op::AmoandD, 0x0000_0001_0000_0001),
        (Op::AmoorW, 0xf000_0003, Op::AmoorD, 0xffff_ffff_f000_0003),
        (Op::AmominW, 0x8000_0001, Op::AmominD, old),
        (Op::AmomaxW, 0x7000_0003, Op::AmomaxD, operand),
        (Op::AmominuW, 0x7000_0003, Op::AmominuD, operand),
        (Op::AmomaxuW, 0x8000_0001, Op::AmomaxuD, old),
    ];
    for (word, word_want, double, double_want) in cases {
        for (op, bytes, want) in [(word, 4, word_want), (double, 8, double_want)] {
            let mut toy = toy();
            toy.memory[16..24].copy_from_slice(&old.to_le_bytes());
            toy.x[12] = operand;
            run(Insn { op, rm: 3, ..BASE }, &mut toy).expect("inside memory");
            assert_eq!(toy.x[10], old, "{op:?}: the old value, sign-extended");
            assert_eq!(toy.memory[16..16 + bytes], want.to_le_bytes()[..bytes], "{op:?}");
            assert_eq!(toy.memory[16 + bytes..24], old.to_le_bytes()[bytes..], "{op:?}");
        }
    }
}

#[test]
fn a_conditional_store_needs_its_reservation() {
    let mut toy = toy();
    run(Insn { op: Op::LrW, rs2: 0, ..BASE }, &mut toy).expect("inside memory");
    assert_eq!(toy.x[10], 0xffff_ffff_9392_9190);
    for (failed, byte) in [(0, 0x88), (1, 0x99)] {
        toy.x[12] = toy.x[12] & !0xff | byte;
        run(Insn { op: Op::ScD, ..BASE }, &mut toy).expect("inside memory");
        assert_eq!((toy.x[10], toy.memory[16]), (failed, 0x88));
    }
}

#[test]
fn floats_move_boxed_and_need_the_unit() {
    let mut toy = toy();
    run(Insn { op: Op::Flw, rs2: 0, ..BASE }, &mut toy).expect("inside memory");
    run(Insn { op: Op::Fld, rd: 9, rs2: 0, ..BASE }, &mut toy).expect("inside memory");
    assert_eq!((toy.f[10], toy.f[9]), (0xffff_ffff_9392_9190, 0x9796_9594_9392_9190));
    toy.f[12] = 0x0102_0304_0506_0708;
    run(Insn { op: Op::Fsw, rd: 0, ..BASE }, &mut toy).expect("inside memory");
    assert_eq!(toy.memory[16..24], [8, 7, 6, 5, 0x94, 0x95, 0x96, 0x97], "as it lies, boxed or not");

    for op in Op::ALL.iter().filter(|op| op.effect().needs_fp()) {
        let mut toy = Toy::new(0);
        toy.fp_on = false;
        let insn = crate::decode(op.row().code.bits).expect("a row's own word");
        assert_eq!(run(insn, &mut toy), Err(Fault::FpOff), "{op:?}: before anything else");
    }
}

#[test]
fn float_operations_hand_on_their_row() {
    let cases: &[(Op, Fp, Fmt)] = &[
        (Op::FnmsubD, Fp::Nmsub, Fmt::D),
        (Op::FnmaddS, Fp::Nmadd, Fmt::S),
        (Op::FcvtSD, Fp::Convert, Fmt::S),
        (Op::FcvtDS, Fp::Convert, Fmt::D),
        (Op::FcvtWuS, Fp::ToWu, Fmt::S),
        (Op::FcvtDL, Fp::FromL, Fmt::D),
        (Op::FcvtDW, Fp::FromW, Fmt::D),
        (Op::FdivS, Fp::Div, Fmt::S),
        (Op::FsqrtD, Fp::Sqrt, Fmt::D),
    ];
    for &(op, fp, fmt) in cases {
        let fields = |rm: u32| op.row().code.bits | 5 << 15 | rm << 12 | 7 << 7;
        let insn = |rm| crate::decode(fields(rm)).expect("valid");
        let mut toy = Toy::new(0);
        run(insn(7), &mut toy).expect("a rounding mode");
        assert!(matches!(toy.events[..], [Event::Fp(o, f, 7, _)] if (o, f) == (fp, fmt)), "{op:?}");
        // Exact or not, a reserved mode is reserved.
        assert_eq!(run(insn(5), &mut toy), Err(Fault::ReservedRounding(5)), "{op:?}");
    }
}

#[test]
fn system_instructions_ask_the_hart() {
    let events = |raw| {
        let mut toy = toy();
        run(crate::decode(raw).expect("valid"), &mut toy).expect("the toy stops nothing");
        toy.events
    };
    assert_eq!(events(0x0000_0073), [Event::System(Sys::Ecall)]);
    assert_eq!(events(0x9002), [Event::System(Sys::Ebreak)]);
    assert_eq!(events(0x1020_0073), [Event::System(Sys::Sret)]);
    assert_eq!(events(0x3020_0073), [Event::System(Sys::Mret)]);
    assert_eq!(events(0x1050_0073), [Event::System(Sys::Wfi)]);
    assert_eq!(events(0x0000_100f), [Event::System(Sys::FenceI)]);
    assert_eq!(events(0x0100_000f), [Event::System(Sys::Pause)]);
    assert_eq!(events(0x0310_000f), [Event::Fence(3, 1)]);
    assert_eq!(events(0x8330_000f), [Event::Fence(3, 3)], "fence.tso");
    let vma = |op, va, asid| [Event::FenceVma(op, va, asid)];
    assert_eq!(events(0x1200_0073), vma(VmaFence::SfenceVma, None, None));
    assert_eq!(events(0x1205_8073), vma(VmaFence::SfenceVma, Some(16), None));
    assert_eq!(
        events(0x12a0_0073),
        vma(VmaFence::SfenceVma, None, Some(0)),
        "the number counts, not the value"
    );
    assert_eq!(events(0x16c5_8073), vma(VmaFence::SinvalVma, Some(16), Some(0x1122_3344_5566_7788)));
    assert_eq!(events(0x1800_0073), vma(VmaFence::SfenceWInval, None, None));
    assert_eq!(events(0x1810_0073), vma(VmaFence::SfenceInvalIr, None, None));
    assert_eq!(events(0x0005_a00f), [Event::CacheBlock(Cbo::Inval, 16)]);
    assert_eq!(events(0x0015_a00f), [Event::CacheBlock(Cbo::Clean, 16)]);
    assert_eq!(events(0x0025_a00f), [Event::CacheBlock(Cbo::Flush, 16)]);
    assert_eq!(events(0x0045_a00f), [Event::CacheBlock(Cbo::Zero, 16)]);
}

#[test]
fn x0_swallows_and_hints_do_nothing() {
    // c.li x0,5; c.lui x0,1; c.mv x0,a1; c.add x0,a1; c.slli x0,3; c.slli a1,0; prefetch.r 0(a1); lui x0,1.
    for raw in [0x4015, 0x6005, 0x802e, 0x902e, 0x000e, 0x0582, 0x0015_e013, 0x0000_1037] {
        let start = toy();
        let mut toy = start.clone();
        run(crate::decode(raw).expect("a hint is legal"), &mut toy).expect("no stop");
        let len = if raw & 3 == 3 { 4 } else { 2 };
        assert_eq!(toy, Toy { pc: start.pc + len, ..start }, "{raw:x}");
    }
    // A load to x0 still happens.
    let mut toy = toy();
    run(Insn { op: Op::Lw, rd: 0, rs2: 0, ..BASE }, &mut toy).expect("inside memory");
    assert_eq!((toy.x[0], toy.events), (0, vec![Event::Load(16, Width::I32)]));
}
