//! `golden/forms.txt`: every form once, method, bytes and disassembly. `STRATA_BLESS=1 cargo test -p strata-x64` writes
//! it anew; the diff is what a reviewer reads.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::random::Rng;
use super::{BASE, all_cases, checked, opinion};
use crate::Asm;

fn text() -> String {
    let mut text = String::from(
        "# Every form with one choice of operands: method, bytes, disassembly by another reader.\n",
    );
    let mut asm = Asm::new(BASE);
    for case in all_cases() {
        let mut rng = Rng::named(case.method);
        let mut lines = BTreeMap::new();
        for _ in 0..3000 {
            if let Some(asked) = checked(case, &mut rng, &mut asm) {
                let bytes = asm.bytes();
                lines
                    .entry(asked.key)
                    .or_insert_with(|| (bytes.to_vec(), opinion::decoded(bytes, BASE).text));
            }
        }
        text.push('\n');
        for (bytes, disassembly) in lines.into_values() {
            let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
            writeln!(text, "{:<16} {:<36} {disassembly}", case.method, hex.join(" ")).unwrap();
        }
    }
    text
}

#[test]
fn every_form_reads_as_in_the_golden_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/golden/forms.txt");
    let text = text();
    if std::env::var_os("STRATA_BLESS").is_some() {
        std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/golden")).unwrap();
        return std::fs::write(path, text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    for (new, old) in text.lines().zip(golden.lines()) {
        assert_eq!(new, old, "golden/forms.txt differs; STRATA_BLESS=1 accepts what is encoded now");
    }
    assert_eq!(text.lines().count(), golden.lines().count(), "golden/forms.txt has another number of lines");
}
