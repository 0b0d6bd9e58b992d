//! `strata doctor`: what this host offers, in plain words.

use crate::print;
use std::fmt::Write;
use strata_vmm::doctor::{Level, examine};
use strata_vmm::{Kind, Result};

/// Prints every finding; the exit code says whether Strata can work here.
pub fn doctor() -> Result<u8> {
    let findings = examine();
    let mut out = String::new();
    for f in &findings {
        let mark = match f.level {
            Level::Good => "ok      ",
            Level::Missing => "missing ",
            Level::Bad => "PROBLEM ",
        };
        let _ = writeln!(out, "{mark} {:20} {}", f.name, f.detail);
        for (label, text) in [("costs", f.cost), ("mend", f.fix)] {
            if !text.is_empty() {
                let _ = writeln!(out, "         {:20} {label}: {text}", "");
            }
        }
    }
    print(out.as_bytes());
    Ok(if findings.iter().any(|f| f.level == Level::Bad) { Kind::Host.code() } else { 0 })
}
