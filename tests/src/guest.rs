//! Builds the bare-metal programs of `guests/`.

use crate::tools::{GCC, OBJCOPY, find};
use anyhow::{Context, Result, bail};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory of guests.
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests")
}

/// Instructions that a guest may use. GCC knows no Zicond yet; programs that need it spell it out.
const MARCH: &str = "-march=rv64gc_zicsr_zifencei_zba_zbb_zbs";

fn gcc() -> Result<Command> {
    let mut c = Command::new(find(GCC).context("no riscv64-unknown-elf-gcc on the PATH")?);
    c.args([MARCH, "-mabi=lp64d", "-mcmodel=medany", "-nostdlib", "-nostartfiles", "-static"]);
    c.args(["-Wl,--build-id=none", "-Wl,--no-warn-rwx-segments"]);
    Ok(c)
}

fn must(c: &mut Command) -> Result<()> {
    let done = c.output().with_context(|| format!("starting {c:?}"))?;
    if !done.status.success() {
        bail!("{c:?} failed:\n{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

/// Assembles one source to a flat binary for `address`.
pub fn assemble_flat(source: &str, address: u64, options: &[String]) -> Result<Vec<u8>> {
    let tmp = tempfile::tempdir()?;
    let (elf, flat) = (tmp.path().join("elf"), tmp.path().join("bin"));
    must(
        gcc()?
            .args(options)
            .arg(format!("-Wl,-Ttext={address:#x}"))
            .arg("-o")
            .arg(&elf)
            .arg(dir().join(source)),
    )?;
    let objcopy = find(OBJCOPY).context("no riscv64-unknown-elf-objcopy on the PATH")?;
    must(Command::new(objcopy).args(["-O", "binary"]).arg(&elf).arg(&flat))?;
    Ok(std::fs::read(flat)?)
}

/// Builds an ELF from `sources` (relative to `guests/`) with the guests' linker script, into `out`.
pub fn build(sources: &[&str], options: &[&str], out: &Path) -> Result<()> {
    let mut c = gcc()?;
    c.args(["-O2", "-ffreestanding", "-fno-builtin", "-Wall", "-Wextra", "-Werror", "-std=gnu11"])
        .args(options);
    c.arg("-I").arg(dir()).arg("-T").arg(dir().join("link.ld")).arg("-o").arg(out);
    c.args(sources.iter().map(|s| dir().join(s)));
    must(&mut c)
}
