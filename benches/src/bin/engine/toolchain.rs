//! From C to two programs and an initramfs.
//!
//! Both compilers are GCC of one version with the same options. Contraction is off: fused operations on one machine
//! and separate ones on the other would round differently, and the checksums are compared bit by bit.

use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;
use strata_e2e::tools::find;
use strata_image::Cpio;

const CROSS: &str = "riscv64-linux-gnu-gcc";
const PACKAGES: [&str; 4] = ["gcc", "gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross", "qemu-system-misc"];
const OPTIONS: [&str; 8] =
    ["-O2", "-static", "-pthread", "-std=gnu17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"];

/// The programs that were built.
pub struct Programs {
    /// For this host.
    pub native: PathBuf,
    /// A `newc` archive whose `/init` is the program for RISC-V.
    pub initrd: PathBuf,
    /// What compiled them.
    pub compiler: String,
}

/// Installs the Debian packages that the runner needs, as root or by sudo.
pub fn setup() -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    for args in [&["update"][..], &[&["install", "-y", "--no-install-recommends"], &PACKAGES[..]].concat()] {
        let mut c = Command::new(if root { "apt-get" } else { "sudo" });
        if !root {
            c.arg("apt-get");
        }
        let status = c.args(args).status().context("starting apt-get")?;
        ensure!(status.success(), "apt-get {args:?} failed; install {PACKAGES:?} by other means");
    }
    Ok(())
}

/// Compiles the workloads for both machines into `dir`.
pub fn build(dir: &Path) -> Result<Programs> {
    let (cross, native) = compilers()?;
    let (init, here) = (dir.join("init"), dir.join("native"));
    compile(&cross, &init)?;
    compile(&native, &here)?;
    let initrd = dir.join("initrd");
    std::fs::write(&initrd, archive(&std::fs::read(&init)?))?;
    Ok(Programs { native: here, initrd, compiler: format!("GCC {}", version(&cross)?) })
}

/// The cross compiler, and a native one of the same version.
fn compilers() -> Result<(PathBuf, PathBuf)> {
    let Some(cross) = find(CROSS) else {
        bail!("no {CROSS} on the PATH; run this with --setup, or install the Debian packages {PACKAGES:?}");
    };
    let wanted = version(&cross)?;
    let major = wanted.split('.').next().unwrap_or(&wanted);
    for name in ["gcc".to_owned(), format!("gcc-{major}")] {
        if let Some(native) = find(&name)
            && version(&native)? == wanted
        {
            return Ok((cross, native));
        }
    }
    bail!("{CROSS} is GCC {wanted}, and the host has no GCC of that version; install gcc-{major}")
}

fn version(gcc: &Path) -> Result<String> {
    let out = Command::new(gcc).arg("-dumpfullversion").output().with_context(|| format!("{gcc:?}"))?;
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

fn compile(gcc: &Path, out: &Path) -> Result<()> {
    let dir = strata_e2e::guest::dir().join("bench/engine");
    let mut sources: Vec<PathBuf> = std::fs::read_dir(&dir)
        .with_context(|| format!("reading {}", dir.display()))?
        .map(|e| e.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    sources.retain(|p| p.extension().is_some_and(|e| e == "c"));
    sources.sort();
    let mut c = Command::new(gcc);
    c.args(OPTIONS).args(sources).arg("-lm").arg("-o").arg(out);
    let done = c.output().with_context(|| format!("starting {c:?}"))?;
    ensure!(done.status.success(), "{c:?} failed:\n{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// An archive with a console and an `/init`.
fn archive(init: &[u8]) -> Vec<u8> {
    let mut all = Cpio::new();
    all.device("dev/console", 5, 1).file("init", 0o755, init);
    all.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_its_entries_where_their_lengths_say() {
        let a = archive(b"hello");
        let (mut at, mut names) = (0, Vec::new());
        while at < a.len() {
            let field = |n: usize| {
                let from = at + 6 + 8 * n;
                usize::from_str_radix(std::str::from_utf8(&a[from..from + 8]).unwrap(), 16).unwrap()
            };
            assert_eq!(&a[at..at + 6], b"070701");
            let name = &a[at + 110..at + 110 + field(11) - 1];
            let data = (at + 110 + field(11)).next_multiple_of(4);
            if name == b"init" {
                assert_eq!(&a[data..data + field(6)], b"hello");
            }
            names.push(String::from_utf8(name.to_vec()).unwrap());
            at = (data + field(6)).next_multiple_of(4);
        }
        assert_eq!(names, ["dev", "dev/console", "init", "TRAILER!!!"]);
    }
}
