//! Builds the guest's program: a flat binary for an instruction set.

use crate::guest::dir;
use crate::tools::{GCC, OBJCOPY, find};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::Command;

/// Where the program begins on RISC-V.
pub const RISCV_BASE: u64 = 0x8000_0000;
/// Where it begins on x86-64.
pub const X86_BASE: u64 = 0x10_0000;

/// What both compilers are told.
const COMMON: [&str; 13] = [
    "-O2",
    "-std=gnu11",
    "-ffreestanding",
    "-fno-builtin",
    "-fno-stack-protector",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-nostdlib",
    "-static",
    "-Wl,--build-id=none",
    "-Wl,--no-warn-rwx-segments",
    "-Wl,-z,noexecstack",
];
/// An x86-64 kernel's code: no vector registers, nothing below the stack pointer, no sections that only unwinding needs.
const X86: [&str; 6] = [
    "-fno-pic",
    "-no-pie",
    "-mno-red-zone",
    "-mgeneral-regs-only",
    "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables",
];
const RISCV: [&str; 3] = ["-march=rv64imac_zicsr", "-mabi=lp64", "-mcmodel=medany"];

fn must(c: &mut Command) -> Result<()> {
    let done = c.output().with_context(|| format!("starting {c:?}"))?;
    if !done.status.success() {
        bail!("{c:?} failed:\n{}", String::from_utf8_lossy(&done.stderr));
    }
    Ok(())
}

fn build(gcc: &Path, objcopy: &Path, options: &[&str], base: u64, sources: [&str; 2]) -> Result<Vec<u8>> {
    let tmp = tempfile::tempdir()?;
    let (elf, flat) = (tmp.path().join("elf"), tmp.path().join("flat"));
    let from = dir().join("conformance");
    let sources = sources.iter().chain(&["scenarios.c"]).map(|s| from.join(s));
    must(
        Command::new(gcc)
            .args(COMMON)
            .args(options)
            .arg(format!("-Wl,--defsym=BASE={base:#x}"))
            .arg("-T")
            .arg(from.join("program.ld"))
            .arg("-o")
            .arg(&elf)
            .args(sources),
    )?;
    must(Command::new(objcopy).args(["-O", "binary"]).arg(&elf).arg(&flat))?;
    Ok(std::fs::read(flat)?)
}

/// The program for x86-64, by the host's own compiler, which must be for x86-64.
///
/// # Errors
/// There is none, or it refuses.
pub fn x86() -> Result<Vec<u8>> {
    build(Path::new("cc"), Path::new("objcopy"), &X86, X86_BASE, ["x86-start.S", "x86.c"])
}

/// The program for RISC-V.
///
/// # Errors
/// There is no cross compiler, or it refuses.
pub fn riscv() -> Result<Vec<u8>> {
    let gcc = find(GCC).context("no riscv64-unknown-elf-gcc on the PATH")?;
    let objcopy = find(OBJCOPY).context("no riscv64-unknown-elf-objcopy on the PATH")?;
    build(&gcc, &objcopy, &RISCV, RISCV_BASE, ["riscv-start.S", "riscv.c"])
}
