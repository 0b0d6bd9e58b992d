//! The outside programs that tests compare with or build with.
//!
//! A test that lacks one says `skipped: …` and passes, unless the environment has `STRATA_REQUIRE_TOOLS`, as CI and
//! `cargo xtask test` do: there a missing tool is a failure.

use std::path::PathBuf;

/// The compiler of bare-metal guests.
pub const GCC: &str = "riscv64-unknown-elf-gcc";
/// Its companion that makes flat binaries.
pub const OBJCOPY: &str = "riscv64-unknown-elf-objcopy";
/// The other engine.
pub const QEMU: &str = "qemu-system-riscv64";

/// The program's path, from `PATH`.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(program)).find(|p| p.is_file())
}

/// Whether all of `programs` are there. If not, says so.
///
/// # Panics
/// If they are not and the environment has `STRATA_REQUIRE_TOOLS`.
pub fn have(programs: &[&str]) -> bool {
    let missing: Vec<_> = programs.iter().filter(|p| find(p).is_none()).collect();
    if missing.is_empty() {
        return true;
    }
    assert!(
        std::env::var_os("STRATA_REQUIRE_TOOLS").is_none(),
        "{missing:?} are not on the PATH; `cargo xtask tools` installs them"
    );
    eprintln!("skipped: {missing:?} are not on the PATH; `cargo xtask tools` installs them");
    false
}
