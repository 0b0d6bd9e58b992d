//! The table against an outsider: GNU objdump disassembles random instructions of ours, and must print what we print.
//!
//! This is the test that a wrong pattern or a scrambled immediate cannot pass, since everything in the crate itself is
//! derived from the same row. What binutils does not know, or prints otherwise, is listed in [`explained`].

use std::process::Command;

use strata_isa::random::{Filter, SplitMix64, random_insn};
use strata_isa::{Effect, Ext, Extensions, Insn, Op, csr_name, decode, disasm};

const AS: &str = "riscv64-linux-gnu-as";
const OBJDUMP: &str = "riscv64-linux-gnu-objdump";
/// What binutils 2.40 knows of our extensions: all but Zicond.
const MARCH: &str = "-march=rv64gc_zba_zbb_zbs_zicbom_zicboz_zihintpause_svinval_zicsr_zifencei";

#[test]
fn random_instructions_read_the_same() {
    let mut filter = Filter::new(Extensions::ALL.without(Ext::Zicond));
    filter.reserved_rm = 5;
    filter.csrs = known_csrs();
    let mut rng = SplitMix64::new(2026);
    let words: Vec<_> = (0..20_000).filter_map(|_| random_insn(&mut rng, &filter)).map(|i| i.raw).collect();
    assert_eq!(words.len(), 20_000);
    compare("random", &words);
}

#[test]
fn every_halfword_is_known_to_both_or_neither() {
    let words: Vec<_> = (0..=0xffff).filter(|raw| raw & 3 != 3).collect();
    compare("halfwords", &words);
}

/// One bit off a valid instruction is where a pattern that is too wide or too narrow shows.
#[test]
fn neighbours_of_instructions_are_known_to_both_or_neither() {
    let mut filter = Filter::new(Extensions::ALL.without(Ext::Zicond).without(Ext::C));
    filter.csrs = known_csrs();
    let mut rng = SplitMix64::new(7);
    let neighbour = |_| random_insn(&mut rng, &filter).map(|i| i.raw ^ 4 << rng.below(30));
    // `.insn 4` takes no word whose length field says more than 32 bits.
    let words: Vec<_> = (0..20_000).filter_map(neighbour).filter(|raw| raw & 0x1f != 0x1f).collect();
    compare("neighbours", &words);
}

/// Named ones and custom ones; binutils also knows registers of extensions that are none of ours.
fn known_csrs() -> Vec<u16> {
    (0..4096).filter(|n| csr_name(*n).is_some() || n & 0x3f0 == 0x3c0).collect()
}

fn compare(name: &str, words: &[u32]) {
    if Command::new(OBJDUMP).arg("--version").output().is_err() {
        assert!(
            std::env::var_os("STRATA_REQUIRE_TOOLS").is_none(),
            "{OBJDUMP} is not installed: apt install binutils-riscv64-linux-gnu"
        );
        eprintln!("skipped: {OBJDUMP} is not installed (apt install binutils-riscv64-linux-gnu)");
        return;
    }
    let theirs = objdump(name, words);
    assert_eq!(theirs.len(), words.len(), "a line an instruction");
    let (mut pc, mut compared, mut wrong) = (0, 0, Vec::new());
    for (&raw, theirs) in words.iter().zip(&theirs) {
        let insn = decode(raw);
        let ours = insn.map_or_else(|_| "illegal".into(), |insn| normal(&disasm(&insn, pc)));
        let agreed = match insn {
            Ok(_) => *theirs == ours,
            Err(_) => unknown(theirs),
        };
        compared += agreed as usize;
        if !agreed && !insn.map_or_else(|_| foreign(theirs), |insn| explained(&insn, &ours, theirs)) {
            wrong.push(format!("{raw:08x} at {pc:#x}: ours {ours:?}, theirs {theirs:?}"));
        }
        pc += length(raw);
    }
    wrong.truncate(30);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(compared > words.len() * 9 / 10, "only {compared} of {} were compared", words.len());
}

fn length(raw: u32) -> u64 {
    if raw & 3 == 3 { 4 } else { 2 }
}

/// Assembles the bits as they are and disassembles them again.
fn objdump(name: &str, words: &[u32]) -> Vec<String> {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, object) = (dir.join(format!("{name}.s")), dir.join(format!("{name}.o")));
    let line = |raw: &u32| format!(".insn {}, {raw:#x}\n", length(*raw));
    std::fs::write(&source, words.iter().map(line).collect::<String>()).expect("temporary file");
    run(Command::new(AS).arg(MARCH).arg(&source).arg("-o").arg(&object));
    let text = run(Command::new(OBJDUMP).args(["-d", "-z", "-M", "no-aliases"]).arg(&object));
    // "  address:<tab>bits<tab>name<tab>operands # remark"
    let rows = text.lines().filter(|line| line.starts_with(' ') && line.contains(":\t"));
    rows.map(|row| normal(row.splitn(3, '\t').nth(2).unwrap_or_default())).collect()
}

fn run(command: &mut Command) -> String {
    let done = command.output().expect("binutils run");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("binutils print text")
}

/// What objdump prints for bits that it does not know.
fn unknown(theirs: &str) -> bool {
    theirs.starts_with(".4byte") || theirs.starts_with(".2byte") || theirs.starts_with(".insn")
}

/// Names that binutils has for what is reserved, or belongs to extensions and drafts that are not in our table.
fn foreign(theirs: &str) -> bool {
    let name = theirs.split(' ').next().unwrap_or_default();
    theirs == "c.addi16sp sp,0" || ["c.unimp", "uret", "hret", "dret", "sfence.vm"].contains(&name)
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
    match insn.op {
        // Reserved fields, which the manual has us ignore; FENCE.TSO by its name; an empty set.
        Op::Fence => unknown(theirs) || theirs.starts_with("fence.tso") || theirs.contains("unknown"),
        Op::FenceI => unknown(theirs),
        // Exact conversions: binutils 2.40 knows them with mode 0 only, and does not spell it.
        Op::FcvtDS | Op::FcvtDW | Op::FcvtDWu => unknown(theirs) || ours.strip_suffix(",rne") == Some(theirs),
        // Shifts by zero are hints; binutils has the names that they had in RV128.
        Op::Slli | Op::Srli | Op::Srai => insn.len == 2 && insn.imm == 0 && theirs.contains("64 "),
        // The encoding that assemblers use for "unimp".
        Op::Csrrw if insn.raw == 0xc000_1073 => theirs.starts_with("unimp"),
        // A neighbour can be of the extension that binutils 2.40 lacks.
        Op::CzeroEqz | Op::CzeroNez => unknown(theirs),
        // ... or name a CSR that only binutils names.
        _ if insn.op.effect() == Effect::Csr && csr_name(insn.imm as u16).is_none() => {
            theirs.split(' ').next() == ours.split(' ').next()
        }
        _ => false,
    }
}
