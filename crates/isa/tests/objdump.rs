//! The table against an outsider: GNU objdump disassembles random instructions of ours, and must print what we print.
//!
//! This is the test that a wrong pattern or a scrambled immediate cannot pass, since everything in the crate itself is
//! derived from the same row. What binutils does not know, or prints otherwise, is listed in [`explained`].

use std::process::Command;

use strata_isa::random::{Filter, SplitMix64, random_insn};
use strata_isa::{Ext, Extensions, Insn, Op, csr_name, disasm};

const AS: &str = "riscv64-linux-gnu-as";
const OBJDUMP: &str = "riscv64-linux-gnu-objdump";
/// What binutils 2.40 knows of our extensions: all but Zicond.
const MARCH: &str = "-march=rv64gc_zba_zbb_zbs_zicbom_zicboz_zihintpause_svinval_zicsr_zifencei";
const COUNT: usize = 20_000;

#[test]
fn objdump_prints_what_we_print() {
    if Command::new(OBJDUMP).arg("--version").output().is_err() {
        assert!(
            std::env::var_os("STRATA_REQUIRE_TOOLS").is_none(),
            "{OBJDUMP} is not installed: apt install binutils-riscv64-linux-gnu"
        );
        eprintln!("skipped: {OBJDUMP} is not installed (apt install binutils-riscv64-linux-gnu)");
        return;
    }
    let insns = random_program();
    let theirs = objdump(&insns);
    assert_eq!(theirs.len(), insns.len(), "a line an instruction");
    let (mut pc, mut compared, mut wrong) = (0, 0, Vec::new());
    for (insn, theirs) in insns.iter().zip(&theirs) {
        let ours = normal(&disasm(insn, pc));
        if *theirs == ours {
            compared += 1;
        } else if !explained(insn, &ours, theirs) {
            wrong.push(format!("{:08x} at {pc:#x}: ours {ours:?}, theirs {theirs:?}", insn.raw));
        }
        pc += u64::from(insn.len);
    }
    wrong.truncate(30);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(compared > COUNT * 9 / 10, "only {compared} of {COUNT} were compared");
}

fn random_program() -> Vec<Insn> {
    let mut filter = Filter::new(Extensions::ALL.without(Ext::Zicond));
    filter.reserved_rm = 5;
    // Named ones and custom ones; binutils also knows registers of extensions that are none of ours.
    filter.csrs = (0..4096).filter(|n| csr_name(*n).is_some() || n & 0x3f0 == 0x3c0).collect();
    let mut rng = SplitMix64::new(2026);
    (0..COUNT).map(|_| random_insn(&mut rng, &filter).expect("an open filter")).collect()
}

/// Assembles the bits as they are and disassembles them again.
fn objdump(insns: &[Insn]) -> Vec<String> {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, object) = (dir.join("random.s"), dir.join("random.o"));
    let line = |i: &Insn| format!(".insn {}, {:#x}\n", i.len, i.raw);
    std::fs::write(&source, insns.iter().map(line).collect::<String>()).expect("temporary file");
    let done = Command::new(AS).arg(MARCH).arg(&source).arg("-o").arg(&object).output().expect("as runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let done = Command::new(OBJDUMP)
        .args(["-d", "-z", "-M", "no-aliases"])
        .arg(&object)
        .output()
        .expect("objdump runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let text = String::from_utf8(done.stdout).expect("objdump prints text");
    // "  address:<tab>bits<tab>name<tab>operands # remark"
    let rows = text.lines().filter(|line| line.starts_with(' ') && line.contains(":\t"));
    rows.map(|row| normal(row.splitn(3, '\t').nth(2).unwrap_or_default())).collect()
}

/// One spelling: a single space between name and operands, no remarks, addresses without `0x` and symbol.
fn normal(text: &str) -> String {
    let text = text.split(" #").next().unwrap_or_default();
    let text = text.split(" <").next().unwrap_or_default();
    let mut words = text.split_whitespace();
    let name = words.next().unwrap_or_default();
    let operands: Vec<_> = words.flat_map(|w| w.split(',')).map(|w| w.trim_start_matches("0x")).collect();
    format!("{name} {}", operands.join(","))
}

/// Differences in taste and knowledge, none of them about what the bits mean.
fn explained(insn: &Insn, ours: &str, theirs: &str) -> bool {
    let unknown = theirs.starts_with(".4byte") || theirs.starts_with(".insn");
    match insn.op {
        // Reserved fields, which the manual has us ignore; FENCE.TSO by its name; an empty set.
        Op::Fence => unknown || theirs.starts_with("fence.tso") || theirs.contains("unknown"),
        Op::FenceI => unknown,
        // Exact conversions: binutils 2.40 knows them with mode 0 only, and does not spell it.
        Op::FcvtDS | Op::FcvtDW | Op::FcvtDWu => unknown || ours.strip_suffix(",rne") == Some(theirs),
        // Shifts by zero are hints; binutils has the names that they had in RV128.
        Op::Slli | Op::Srli | Op::Srai => insn.len == 2 && insn.imm == 0 && theirs.contains("64 "),
        // The encoding that assemblers use for "unimp".
        Op::Csrrw => insn.raw == 0xc000_1073 && theirs.starts_with("unimp"),
        _ => false,
    }
}
