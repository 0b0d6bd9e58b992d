//! What `/dev/kvm` is worth here, in plain words.
//!
//! That it opens is not enough: some hosts offer one that interprets a guest's kernel code. So it is measured.

use super::{Finding, Level};
use crate::arch::processor;
use strata_kvm::{KernelSpeed, Kind, Report, Unusable};

const COST: &str = "amd64 machines (`--arch amd64`) at a processor's speed; riscv64 ones run on the software engine and need nothing";

/// Measures it.
pub(super) fn kvm() -> Finding {
    let mut finding = verdict(strata_kvm::probe());
    if let Ok((names, missing)) = processor::here() {
        finding.detail += &processors(&names, missing.as_deref());
    }
    finding
}

/// Which processors a guest can be shown, and why not the next.
fn processors(names: &[String], missing: Option<&str>) -> String {
    let why = missing.map_or_else(String::new, |why| format!("; {why}"));
    format!("; processors for guests (`--cpu`): {}{why}", names.join(", "))
}

fn verdict(found: Result<Report, Unusable>) -> Finding {
    match found {
        Ok(report) => speed(&report.speed),
        Err(e) => unusable(&e),
    }
}

fn speed(speed: &KernelSpeed) -> Finding {
    let mips = match speed.mips {
        m if m < 10.0 => format!("{m:.1}"),
        m => format!("{m:.0}"),
    };
    let measured = format!("{mips} million instructions a second, {:.1} µs an exit", speed.exit_us);
    let (detail, fix) = match speed.kind() {
        Kind::Native => {
            let detail =
                format!("runs guest kernel code on the processor: {measured}; amd64 machines run on it");
            return Finding::good("kvm", detail);
        }
        Kind::Slow => (
            format!(
                "runs guest kernel code, but slower than a processor should: {measured}; amd64 machines run on it, slowly"
            ),
            "look again when this host is idle; if it is itself a virtual machine, ask for hardware that is not shared",
        ),
        Kind::Emulated => (
            format!(
                "/dev/kvm opens, but this host interprets guest kernel code instead of running it: {measured}; amd64 \
                 systems are refused on it, small programs run with `--engine kvm`"
            ),
            "a host with hardware virtualization: bare metal, or a virtual machine with nested virtualization switched on",
        ),
    };
    Finding { name: "kvm", level: Level::Missing, detail, cost: COST, fix }
}

fn unusable(e: &Unusable) -> Finding {
    let fix = match e {
        Unusable::Architecture(_) => "an x86-64 host; there is nothing to mend on this one",
        Unusable::Absent => {
            "enable virtualization in the firmware, or nested virtualization on the outer host; `modprobe kvm`"
        }
        Unusable::Permission(_) => {
            "add yourself to its group: `sudo usermod -aG kvm $USER`, then log in again"
        }
        Unusable::Version(_) => "a newer kernel",
        Unusable::Failed { .. } => {
            "`dmesg` may say more; a container may need the device's rights, not only its name"
        }
        Unusable::Stopped(_) | Unusable::Wrong { .. } => "`dmesg` may say more; a newer kernel may do better",
        Unusable::Late { .. } => "look again when this host is less busy",
    };
    Finding::missing("kvm", e.to_string(), COST, fix)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind};
    use std::time::Duration;

    fn at(mips: f64) -> Finding {
        let speed = KernelSpeed { mips, exit_us: 6.94 };
        verdict(Ok(Report { speed, start: Duration::ZERO, took: Duration::ZERO }))
    }

    #[test]
    fn the_words_follow_the_speed() {
        for (mips, level, words, number) in [
            (3987.4, Level::Good, "on the processor", "3987 million"),
            (150.0, Level::Missing, "slower than a processor", "150 million"),
            (1.38, Level::Missing, "interprets guest kernel code", "1.4 million"),
        ] {
            let f = at(mips);
            assert_eq!(f.level, level, "{f:?}");
            for part in [words, number, "6.9 µs an exit", "amd64"] {
                assert!(f.detail.contains(part), "{part}: {f:?}");
            }
        }
    }

    #[test]
    fn processors_are_told_with_what_the_next_lacks() {
        let names = ["host".to_owned(), "x86-64-v2".to_owned()];
        assert_eq!(processors(&names, None), "; processors for guests (`--cpu`): host, x86-64-v2");
        assert!(processors(&names, Some("v3 lacks avx")).ends_with("x86-64-v2; v3 lacks avx"));
    }

    #[test]
    fn each_reason_has_its_own_words_and_a_fix() {
        let reasons = [
            (Unusable::Architecture("riscv64"), "riscv64", "x86-64 host"),
            (Unusable::Absent, "no /dev/kvm", "firmware"),
            (
                Unusable::Permission(Error::from(ErrorKind::PermissionDenied)),
                "permission denied",
                "kvm $USER",
            ),
            (Unusable::Version(11), "version 11", "newer kernel"),
            (
                Unusable::Failed { step: "KVM_CREATE_VM", source: Error::from_raw_os_error(libc::EBUSY) },
                "KVM_CREATE_VM",
                "dmesg",
            ),
            (Unusable::Stopped("Shutdown".into()), "Shutdown", "dmesg"),
            (Unusable::Wrong { expected: 0x2040, found: 7 }, "0x7 instead of 0x2040", "dmesg"),
            (Unusable::Late { step: "KVM_RUN" }, "250 ms, last in KVM_RUN", "less busy"),
        ];
        for (reason, words, fix) in reasons {
            let f = verdict(Err(reason));
            assert_eq!(f.level, Level::Missing);
            assert!(f.detail.contains(words) && f.fix.contains(fix), "{f:?}");
        }
    }
}
