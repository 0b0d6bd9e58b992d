//! `golden/*.txt`: what small paths become, a file a topic; RISC-V above, x86 below.
//! `STRATA_BLESS=1 cargo test -p strata-translator golden` writes them anew; the diff is what a reviewer reads.

use super::fixture::insn;
use super::listing::Path;
use strata_isa::Op::{self, *};
use strata_isa::{Insn, encode};
use strata_riscv::tier::{DataContext, Privilege};

const PC: u64 = 0x1_0000;
const RA: u8 = 1;
const SP: u8 = 2;
const T0: u8 = 5;
const T1: u8 = 6;
const S0: u8 = 8;
const A0: u8 = 10;
const A1: u8 = 11;
const A2: u8 = 12;
const T3: u8 = 28;
const T4: u8 = 29;

/// An instruction with a rounding mode, or with the ordering bits of an atomic.
fn with_rm(op: Op, rd: u8, rs1: u8, rs2: u8, rm: u8) -> u32 {
    encode(&Insn { op, rd, rs1, rs2, rs3: 0, rm, len: 4, imm: 0, raw: 0 }).unwrap()
}

/// An arithmetic instruction in the rounding mode of `frm`.
fn fp(op: Op, rd: u8, rs1: u8, rs2: u8) -> u32 {
    with_rm(op, rd, rs1, rs2, 7)
}

fn in_kernel(mut path: Path) -> Path {
    (path.privilege, path.context) = (Privilege::Supervisor, DataContext::Supervisor);
    path
}

/// Compares one file: a title and a path each.
fn check(topic: &str, paths: &[(&str, Path)]) {
    let mut text =
        String::from("# Written by `STRATA_BLESS=1 cargo test -p strata-translator golden`; do not edit.\n");
    for (title, path) in paths {
        text.push_str(&format!("\n## {title}\n\n{}", path.listing()));
    }
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/golden");
    let file = format!("{dir}/{topic}.txt");
    if std::env::var_os("STRATA_BLESS").is_some() {
        std::fs::create_dir_all(dir).unwrap();
        return std::fs::write(file, text).unwrap();
    }
    let golden = std::fs::read_to_string(&file).unwrap_or_default();
    let (mut heading, mut lines) = ("", golden.lines());
    for new in text.lines() {
        heading = if new.starts_with("## ") { new } else { heading };
        let old = lines.next().unwrap_or("the file's end");
        assert_eq!(new, old, "golden/{topic}.txt, {heading}: STRATA_BLESS=1 accepts what is emitted now");
    }
    assert_eq!(lines.next(), None, "golden/{topic}.txt goes on; STRATA_BLESS=1 accepts what is emitted now");
}

#[test]
fn golden_alu() {
    let constants = [
        insn(Lui, A0, 0, 0, 0x12345 << 12),
        insn(Addi, A0, A0, 0, 0x678),
        insn(Auipc, A1, 0, 0, 0x1000),
        insn(Addi, A1, A1, 0, -4),
        insn(Add, A2, A0, A1, 0),
    ];
    let mapped = [
        insn(Add, A0, A1, A2, 0),
        insn(Addi, A0, A0, 0, -1),
        insn(Sub, A1, A2, A1, 0),
        insn(Slli, A2, A2, 0, 3),
        insn(Sltu, A0, A1, A2, 0),
        insn(Addw, A1, A1, A2, 0),
    ];
    let unmapped = [
        insn(Add, T0, T1, T3, 0),
        insn(Addi, T0, T0, 0, 1),
        insn(Sll, T1, T0, T3, 0),
        insn(Xor, T3, T3, A0, 0),
    ];
    let rotation = [
        insn(Srliw, A0, A2, 0, 7),
        insn(Slliw, A1, A2, 0, 25),
        insn(Lw, T0, SP, 0, 8),
        insn(Or, A0, A0, A1, 0),
        insn(Addw, A0, A0, T0, 0),
        insn(Xor, A1, A0, T0, 0),
        insn(Addiw, A1, A1, 0, 1),
        insn(Bltu, 0, A1, A0, 64),
        insn(Sw, 0, SP, A1, 8),
    ];
    let index = [
        insn(Slli, A1, A1, 0, 32),
        insn(Srli, A1, A1, 0, 29),
        insn(Add, A1, A1, A0, 0),
        insn(Ld, A0, A1, 0, 0),
        insn(Slli, A0, A0, 0, 48),
        insn(Srli, A0, A0, 0, 48),
    ];
    let long = [insn(Mul, A0, A0, A1, 0), insn(Mulhu, A1, A1, A2, 0), insn(Div, A2, A0, A1, 0)];
    check(
        "alu",
        &[
            ("Constants are put together while translating", Path::at(PC).then_all(&constants)),
            ("Registers that have a host register", Path::at(PC).then_all(&mapped)),
            ("Registers that lie in memory", Path::at(PC).then_all(&unmapped)),
            ("A rotation, and signs that nobody looks at", Path::at(PC).then_all(&rotation)),
            ("Zero extensions by two shifts", Path::at(PC).then_all(&index)),
            ("Multiply and divide", Path::at(PC).then_all(&long)),
        ],
    );
}

#[test]
fn golden_memory() {
    let loads =
        [insn(Lb, A0, A1, 0, 0), insn(Lhu, A0, A1, 0, 2), insn(Lw, T0, A1, 0, 4), insn(Ld, A0, T1, 0, -8)];
    let stores =
        [insn(Sb, 0, A1, A0, 0), insn(Sh, 0, A1, 0, 2), insn(Sw, 0, A1, T0, 4), insn(Sd, 0, T1, A0, -8)];
    // GCC's, of a function that saves ra and s0.
    let frame = [0x1141, 0xe406, 0xe022, 0x0800];
    let mut leave = Path::at(PC).then_all(&frame).then(insn(Addi, A0, A0, 0, 1));
    leave = leave.then_all(&[0x60a2, 0x6402, 0x0141]).to(0x8082, 0x2_0000);
    check(
        "memory",
        &[
            ("Loads", Path::at(PC).then_all(&loads)),
            ("Stores", Path::at(PC).then_all(&stores)),
            ("A frame is made, used and left", leave),
        ],
    );
}

#[test]
fn golden_control() {
    let round = |path: Path| {
        path.then(insn(Ld, T3, T0, 0, 0))
            .then(insn(Add, T4, T4, T3, 0))
            .then(insn(Addi, T0, T0, 0, 8))
            .taken(insn(Bne, 0, T0, T1, -12))
    };
    let call = Path::at(PC).then(insn(Addi, A0, 0, 0, 5)).taken(insn(Jal, RA, 0, 0, 0x100));
    let call = call.then(insn(Slli, A0, A0, 0, 1)).to(insn(Jalr, 0, RA, 0, 0), PC + 8);
    let call = call.then(insn(Addi, A0, A0, 0, 1));
    let unknown = Path::at(PC).then(insn(Mul, A0, A0, A0, 0)).to(insn(Jalr, 0, RA, 0, 0), 0x2_0000);
    let branches = Path::at(PC)
        .then(insn(Beq, 0, A0, A1, 64))
        .taken(insn(Bltu, 0, A0, T0, 32))
        .then(insn(Bge, 0, A2, 0, -16));
    let crossing = Path::at(PC + 0xffa).then_all(&[insn(Addi, A0, A0, 0, 1), insn(Addi, A1, A1, 0, 1)]);
    check(
        "control",
        &[
            ("A loop borrows host registers", round(Path::at(PC))),
            ("Branches: two fall through, one is taken", branches),
            ("A call, and a return that leads behind it", call),
            ("A return to who knows where", unknown.then(insn(Addi, A0, A0, 0, 1))),
            ("An instruction over the end of a page", crossing),
        ],
    );
}

#[test]
fn golden_atomics() {
    let amo = with_rm(AmoaddW, A0, A1, A2, 3);
    let mut alone = Path::at(PC).then(amo);
    alone.alone = true;
    let pair = [with_rm(LrW, A0, A1, 0, 2), with_rm(ScW, A2, A1, A0, 1)];
    check(
        "atomics",
        &[
            ("Add, with other harts", Path::at(PC).then(amo)),
            ("Add, on the only hart", alone),
            ("A reservation and its store", Path::at(PC).then_all(&pair)),
        ],
    );
}

#[test]
fn golden_floats() {
    let work = [
        insn(Fld, 10, A0, 0, 0),
        fp(FcvtDL, 11, A1, 0),
        fp(FaddD, 10, 10, 11),
        fp(FmulD, 10, 10, 10),
        insn(Fsd, 0, A0, 10, 8),
    ];
    let other = [insn(FltD, A0, 10, 11, 0), with_rm(FcvtLD, A1, 10, 0, 1), fp(FaddS, 10, 10, 11)];
    check(
        "floats",
        &[
            ("Load, convert, calculate, store", Path::at(PC).then_all(&work)),
            ("Compare, convert to an integer, single precision", Path::at(PC).then_all(&other)),
        ],
    );
}

#[test]
fn golden_system() {
    let csrs = [insn(Csrrw, SP, SP, 0, 0x140), insn(Csrrs, A0, 0, 0, 0xc00), insn(Addi, A0, A0, 0, 1)];
    let leave = [insn(Csrrci, 0, 2, 0, 0x100), insn(Csrrw, 0, A0, 0, 0x100), insn(Sret, 0, 0, 0, 0)];
    let reach = [insn(Lui, T0, 0, 0, 0x40 << 12), insn(Csrrs, A0, T0, 0, 0x100)];
    let no_rule = [insn(OrcB, T0, S0, 0, 0), insn(Add, A0, A0, T0, 0)];
    check(
        "system",
        &[
            ("A CSR that is only memory, and one that is not", in_kernel(Path::at(PC)).then_all(&csrs)),
            ("An instruction without a rule", Path::at(PC).then_all(&no_rule)),
            ("ecall", Path::at(PC).then(insn(Addi, 17, 0, 0, 64)).then(insn(Ecall, 0, 0, 0, 0))),
            ("Interrupts off in a kernel, and back to the program", in_kernel(Path::at(PC)).then_all(&leave)),
            ("A kernel is about to look at a program's memory", in_kernel(Path::at(PC)).then_all(&reach)),
        ],
    );
}
