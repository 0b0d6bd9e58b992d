//! `strata doctor`: what this host offers, in plain words.

use crate::builder::Builder;
use crate::print;
use std::fmt::Write;
use strata_image::{Arch, GuestRunner, Place};
use strata_vmm::doctor::{Finding, Level, examine};
use strata_vmm::{Kind, Result};

/// Prints every finding; the exit code says whether Strata can work here.
pub fn doctor() -> Result<u8> {
    let findings: Vec<_> = examine().into_iter().chain([amd64_images()]).collect();
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

/// Where the packages of amd64 images would be configured.
fn amd64_images() -> Finding {
    let found = |level, detail, cost, fix| Finding { name: "amd64 images", level, detail, cost, fix };
    match Builder::default().ready(Arch::Amd64) {
        Ok(Place::Machine) => found(Level::Good, "their packages are configured in a machine".into(), "", ""),
        Ok(Place::Host(how)) => {
            let detail = format!("their packages are configured by this host's kernel, {how}");
            found(Level::Good, detail, "", "")
        }
        Err(why) => found(
            Level::Missing,
            why.to_string(),
            "no `strata image pull --arch amd64`; images can be copied from a host that has made them",
            "as the line above says: one of the ways is enough",
        ),
    }
}
