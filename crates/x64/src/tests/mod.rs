//! Every form against another reader of the manual, and the bytes of each in a file for human readers.

mod branches;
mod by_value;
mod bytes;
mod golden;
mod opinion;
mod random;
mod table;

use crate::{Asm, AsmError};
use opinion::{Operand, decoded};
use random::Rng;

/// Where the code under test pretends to lie: high, so that targets on both sides of it exist.
const BASE: u64 = 0x7f12_3456_7000;

/// What a case asked of the assembler.
struct Asked {
    mnemonic: String,
    operands: Vec<Operand>,
    /// The numbers of the selectors: what tells the forms of one method apart.
    key: Vec<u8>,
}

/// One method with a way to call it with random operands.
struct Case {
    method: &'static str,
    call: fn(&mut Rng, &mut Asm) -> Asked,
}

fn all_cases() -> impl Iterator<Item = &'static Case> {
    table::CASES.iter().chain(by_value::CASES)
}

/// Calls the method once, and checks what was encoded. `None`: there is no such form.
fn checked(case: &Case, rng: &mut Rng, asm: &mut Asm) -> Option<Asked> {
    asm.clear(BASE);
    let asked = (case.call)(rng, asm);
    match asm.finish() {
        Ok(bytes) => {
            let got = decoded(bytes, BASE);
            let what = format!("{} {:?}: {bytes:02x?} is {}", case.method, asked.operands, got.text);
            assert_eq!(got.mnemonic, asked.mnemonic, "{what}");
            assert_eq!(got.lock, case.method.starts_with("lock_"), "{what}");
            assert_eq!(got.operands.len(), asked.operands.len(), "{what}");
            for (got, want) in got.operands.iter().zip(&asked.operands) {
                assert!(want.is(got), "{what}: {got:?}");
            }
            Some(asked)
        }
        Err(error) => {
            assert_eq!(error, AsmError::NoForm { method: case.method, at: 0 });
            assert_eq!(asm.len(), 0, "{} wrote something although it has no form", case.method);
            None
        }
    }
}

#[test]
fn another_decoder_reads_what_was_asked() {
    let mut asm = Asm::new(BASE);
    for case in all_cases() {
        let mut rng = Rng::named(case.method);
        let encoded = (0..3000).filter(|_| checked(case, &mut rng, &mut asm).is_some()).count();
        assert!(encoded > 1000, "{} encoded only {encoded} of 3000", case.method);
    }
}

/// A row that is written down but drawn by nobody would be tested by nobody.
#[test]
fn every_method_that_encodes_is_a_case() {
    let sources = [include_str!("../immediate.rs"), include_str!("../branch.rs")].concat();
    let elsewhere =
        ["jcc", "jmp", "call", "jcc_short", "jmp_short", "nop", "patchable_jmp_abs", "patch_rel32"];
    let mut found = 0;
    for line in sources.lines() {
        if let Some(rest) = line.trim_start().strip_prefix("pub fn ") {
            let name = rest.split('(').next().unwrap();
            let here = all_cases().any(|c| c.method == name);
            assert!(here != elsewhere.contains(&name), "{name} must be tested in one place");
            found += 1;
        }
    }
    assert_eq!(found, by_value::CASES.len() + elsewhere.len());
}
