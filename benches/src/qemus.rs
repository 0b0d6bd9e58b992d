//! Which QEMUs there are to compare with.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A `qemu-system-riscv64` and its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Qemu {
    /// Such as `10.0.13`.
    pub version: String,
    /// Where it is.
    pub program: PathBuf,
}

impl Qemu {
    /// The first two numbers of its version.
    pub fn release(&self) -> (u32, u32) {
        let mut numbers = self.version.split('.').map(|n| n.parse().unwrap_or(0));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

/// Those named, or all on the PATH and in `cargo xtask tools`'s folder; one a version.
///
/// # Errors
/// There is none, or one does not say its version.
pub fn find(named: &[PathBuf]) -> Result<Vec<Qemu>> {
    let mut places = named.to_vec();
    if named.is_empty() {
        let path = std::env::var_os("PATH").unwrap_or_default();
        places.extend(std::env::split_paths(&path).map(|d| d.join("qemu-system-riscv64")));
        // This program is in target/release.
        if let Some(target) = std::env::current_exe()?.ancestors().nth(2) {
            places.push(target.join("tools/bin/qemu-system-riscv64"));
        }
        places.retain(|p| p.is_file());
    }
    let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
    for program in places {
        let version = version_of(&program)?;
        if seen.insert(version.clone()) {
            found.push(Qemu { version, program });
        }
    }
    ensure!(
        !found.is_empty(),
        "no qemu-system-riscv64: install qemu-system-misc, or `cargo xtask tools` for a current one"
    );
    found.sort();
    Ok(found)
}

fn version_of(program: &Path) -> Result<String> {
    let out = Command::new(program).arg("--version").stderr(Stdio::null()).output();
    let out = out.with_context(|| format!("starting {}", program.display()))?;
    version(&String::from_utf8_lossy(&out.stdout))
        .with_context(|| format!("{} tells no version", program.display()))
}

/// `7.2.22` from "QEMU emulator version 7.2.22 (Debian 1:…)".
fn version(banner: &str) -> Option<String> {
    Some(banner.split("version ").nth(1)?.split_whitespace().next()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_its_banner() {
        let banner = "QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\nCopyright (c) …";
        assert_eq!(version(banner).as_deref(), Some("10.0.13"));
        assert_eq!(version("QEMU"), None);
        let qemu = Qemu { version: "10.0.13".into(), program: "q".into() };
        assert_eq!(qemu.release(), (10, 0));
    }
}
