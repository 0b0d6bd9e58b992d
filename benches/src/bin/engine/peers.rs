//! Who is measured, and how each is started: our engine, every QEMU there is, and this host itself.
//!
//! Machines get the same kernel, initial RAM disk, command line, memory and console.

use crate::lines::{self, Line};
use crate::toolchain::Programs;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use strata_e2e::qemu;

/// Memory of each machine.
const MEMORY: &str = "512M";
/// The longest that one boot with all its workloads may take.
const LIMIT: Duration = Duration::from_secs(900);
/// Native runs in each round; they are short, and so more easily disturbed.
const NATIVE_RUNS: usize = 3;

/// One that is measured.
#[derive(Clone, Debug)]
pub enum Peer {
    /// `strata run`, with a tier if one was asked for.
    Ours { program: PathBuf, tier: Option<String> },
    /// A `qemu-system-riscv64` and its version.
    Qemu { program: PathBuf, version: String },
    /// No machine at all.
    Native,
}

/// What a machine boots.
pub struct Boot<'a> {
    /// Linux.
    pub kernel: &'a Path,
    /// Initial RAM disk.
    pub initrd: &'a Path,
    /// A disk (raw), which the machine does not change.
    pub disk: Option<&'a Path>,
    /// What stands on the command line behind `console=ttyS0`.
    pub append: &'a str,
    /// Harts.
    pub harts: usize,
}

impl Peer {
    /// What the report calls it.
    pub fn name(&self) -> String {
        match self {
            Peer::Ours { tier: None, .. } => "strata".into(),
            Peer::Ours { tier: Some(t), .. } => format!("strata, {t}"),
            Peer::Qemu { version, .. } => format!("QEMU {version}"),
            Peer::Native => "native".into(),
        }
    }

    /// The command that boots a machine with its console on standard input and output; none for the host.
    pub fn machine(&self, b: &Boot<'_>) -> Option<Command> {
        let harts = b.harts.to_string();
        match self {
            Peer::Ours { program, tier } => {
                let mut c = Command::new(program);
                c.args(["run", "--memory", MEMORY, "--cpus", &harts, "--net", "none", "--append", b.append]);
                c.arg("--kernel").arg(b.kernel).arg("--initrd").arg(b.initrd);
                if let Some(disk) = b.disk {
                    c.arg("--disk").arg(disk);
                }
                if let Some(tier) = tier {
                    c.args(["--tier", tier]);
                }
                Some(c)
            }
            Peer::Qemu { program, .. } => {
                let mut c = Command::new(program);
                c.args([
                    "-M",
                    "virt",
                    "-cpu",
                    "rv64",
                    "-m",
                    MEMORY,
                    "-smp",
                    &harts,
                    "-nographic",
                    "-no-reboot",
                ]);
                c.args(["-nic", "none", "-append", &format!("console=ttyS0 {}", b.append)]);
                c.arg("-kernel").arg(b.kernel).arg("-initrd").arg(b.initrd);
                if let Some(disk) = b.disk {
                    let drive = format!("file={},format=raw,if=none,id=d", disk.display());
                    c.args(["-drive", &drive, "-device", "virtio-blk-device,drive=d"]);
                }
                Some(c)
            }
            Peer::Native => None,
        }
    }

    /// Runs the workloads `names` on `harts` harts; what each took, in one or several runs.
    pub fn measure(
        &self,
        programs: &Programs,
        kernel: &Path,
        names: &[&str],
        harts: usize,
    ) -> Result<Vec<BTreeMap<String, Line>>> {
        let run = |c: Command| -> Result<_> {
            let (status, output) = qemu::run(c, LIMIT)?;
            let output = String::from_utf8_lossy(&output).into_owned();
            let found = lines::read(&output, names)?;
            ensure!(status.success(), "it ended with {status}");
            Ok(found)
        };
        let list = names.join(",");
        let append = format!("quiet bench={list}");
        let boot = Boot { kernel, initrd: &programs.initrd, disk: None, append: &append, harts };
        let runs = if matches!(self, Peer::Native) { NATIVE_RUNS } else { 1 };
        let one = || match self.machine(&boot) {
            Some(c) => run(c),
            None => {
                let mut c = Command::new(&programs.native);
                c.env("bench", &list);
                run(c)
            }
        };
        (0..runs).map(|_| one().with_context(|| format!("on {} with {harts} harts", self.name()))).collect()
    }
}

/// The QEMUs to compare with: those named, or all that are found.
pub fn qemus(named: &[PathBuf]) -> Result<Vec<Peer>> {
    let found = strata_bench::qemus::find(named)?;
    Ok(found.into_iter().map(|q| Peer::Qemu { program: q.program, version: q.version }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_get_the_same_command_line() {
        let words = |p: &Peer| {
            let boot = Boot {
                kernel: Path::new("k"),
                initrd: Path::new("i"),
                disk: None,
                append: "quiet bench=fib",
                harts: 2,
            };
            let c = p.machine(&boot).unwrap();
            c.get_args().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let ours = words(&Peer::Ours { program: "s".into(), tier: Some("interpreter".into()) });
        let other = words(&Peer::Qemu { program: "q".into(), version: "1".into() });
        let after = |w: &[String], key: &str| w[w.iter().position(|x| x == key).unwrap() + 1].clone();
        // A kernel without an image gets `console=ttyS0` from us by itself.
        assert_eq!(format!("console=ttyS0 {}", after(&ours, "--append")), after(&other, "-append"));
        assert_eq!(after(&ours, "--cpus"), after(&other, "-smp"));
        assert_eq!(after(&ours, "--memory"), after(&other, "-m"));
        assert_eq!(after(&ours, "--tier"), "interpreter");
    }
}
