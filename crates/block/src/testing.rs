//! What this crate's tests share: slices over vectors, disks without ceremony, the tools of QEMU.

use std::path::{Path, PathBuf};
use std::process::Command;

use vm_memory::VolatileSlice;

use crate::Disk;

/// `bytes` as guest memory.
pub(crate) fn slice(bytes: &mut [u8]) -> VolatileSlice<'_> {
    VolatileSlice::from(bytes)
}

pub(crate) fn put(disk: &mut dyn Disk, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    let mut copy = bytes.to_vec();
    disk.write(offset, &[slice(&mut copy)])
}

pub(crate) fn get(disk: &mut dyn Disk, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0xee; len];
    disk.read(offset, &[slice(&mut bytes)])?;
    Ok(bytes)
}

pub(crate) fn whole(disk: &mut dyn Disk) -> Vec<u8> {
    let size = disk.size() as usize;
    get(disk, 0, size).unwrap()
}

/// A directory in memory where there is one: for tests that sync often, and do not test the host's syncs.
pub(crate) fn memory_dir() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A pattern that no other seed gives.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

/// `qemu-img` or `qemu-io`; none (with a word on stderr) if it is not installed, unless tools are required.
pub(crate) fn tool(name: &str) -> Option<PathBuf> {
    let found = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|dir| dir.join(name)).find(|p| p.is_file()));
    if found.is_none() {
        assert!(std::env::var_os("STRATA_REQUIRE_TOOLS").is_none(), "{name} is required, but not installed");
        eprintln!("skipped: {name} is not installed (package qemu-utils)");
    }
    found
}

/// Runs a tool in `dir`; returns whether it succeeded, and what it printed.
pub(crate) fn run(program: &Path, dir: &Path, args: &[&str]) -> (bool, String) {
    let out = Command::new(program).current_dir(dir).args(args).output().unwrap();
    let text = [out.stdout, out.stderr].concat();
    (out.status.success(), String::from_utf8_lossy(&text).into_owned())
}

/// Runs a tool that must succeed.
pub(crate) fn ok(program: &Path, dir: &Path, args: &[&str]) -> String {
    let (success, text) = run(program, dir, args);
    assert!(success, "{program:?} {args:?}: {text}");
    text
}
