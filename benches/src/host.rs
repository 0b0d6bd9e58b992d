//! This host, and our program on it.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Builds `strata` in release, where this program itself lies.
///
/// # Errors
/// It does not build.
pub fn build_strata() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let dir = here.parent().context("this program lies nowhere")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "-p", "strata"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("starting cargo")?;
    ensure!(status.success(), "building strata failed");
    let program = dir.join("strata");
    ensure!(program.is_file(), "{} is not there; give it with --strata", program.display());
    Ok(program)
}

/// The load of the last minute.
///
/// # Errors
/// The host does not tell.
pub fn load() -> Result<String> {
    let text = std::fs::read_to_string("/proc/loadavg")?;
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}

/// `2 cores of an AMD EPYC …`.
///
/// # Errors
/// The host does not tell.
pub fn describe() -> Result<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    let value = |key: &str| {
        let line = text.lines().find(|l| l.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let cores = std::thread::available_parallelism()?;
    let [name, family, model] =
        ["model name", "cpu family", "model\t"].map(|k| value(k).unwrap_or_else(|| "?".into()));
    Ok(format!("{cores} processors of {name} (family {family}, model {model})"))
}

/// Where `strata` keeps its instances and images.
///
/// # Errors
/// No variable says so.
pub fn store() -> Result<PathBuf> {
    if let Some(home) = std::env::var_os("STRATA_HOME") {
        return Ok(home.into());
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|h| Path::new(&h).join(".local/state"));
    Ok(state.or_else(home).context("neither STRATA_HOME nor HOME is set")?.join("strata"))
}
