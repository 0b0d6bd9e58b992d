//! The three initial RAM file systems of ours: `busybox` (a shell), `disk` (to a root file system) and
//! `build` (which makes a Debian disk). Each is Debian's static busybox, the modules of [`crate::kernel`],
//! the scripts of `guest/`, and nothing else; modules lie unpacked and are loaded in a fixed order, since
//! in an emulated machine decompression and modprobe's searches are what would cost.

use crate::cpio::Cpio;
use crate::deb::Deb;
use crate::error::{Error, Result};
use crate::kernel::Plain;
use crate::runner::HOST_INIT;
use std::io::Read;
use std::path::Path;

const COMMON: &str = include_str!("guest/common.sh");
const BUSYBOX: &str = include_str!("guest/busybox.sh");
const DISK: &str = include_str!("guest/disk.sh");
const BUILD: &str = include_str!("guest/build.sh");
const BUILD_MACHINE: &str = include_str!("guest/build-machine.sh");
const BUILD_HOST: &str = include_str!("guest/build-host.sh");
const STOP: &str = include_str!("guest/stop.sh");
const UDHCPC: &str = include_str!("guest/udhcpc.sh");
const SHRC: &str = include_str!("guest/shrc");

const MAX_BUSYBOX: u64 = 32 << 20;

/// The program `busybox` of the package busybox-static.
///
/// # Errors
/// [`Error::Malformed`] if the package has none.
pub(crate) fn busybox_program(deb: &Path) -> Result<Vec<u8>> {
    let mut program = Vec::new();
    Deb::open(deb, "busybox-static")?.each_entry(|path, entry| {
        if path.ends_with("bin/busybox") && entry.header().entry_type().is_file() {
            program.clear();
            let read = entry.take(MAX_BUSYBOX).read_to_end(&mut program);
            read.map_err(|e| Error::malformed("package busybox-static", e))?;
        }
        Ok(())
    })?;
    if program.is_empty() {
        return Err(Error::malformed("package busybox-static", "it holds no program busybox"));
    }
    Ok(program)
}

fn base(busybox: &[u8], modules: &[Plain], init: &str) -> Cpio {
    let mut c = Cpio::new();
    c.device("dev/console", 5, 1).file("bin/busybox", 0o755, busybox);
    for dir in ["proc", "sys", "run", "tmp", "root", "etc", "sbin", "usr/bin", "usr/sbin"] {
        c.dir(dir);
    }
    let mut order = String::new();
    for m in modules {
        let file = format!("{}.ko", m.name);
        c.file(&format!("lib/modules/{file}"), 0o644, &m.bytes);
        order.push_str(&file);
        order.push('\n');
    }
    c.file("lib/modules/order", 0o644, order.as_bytes());
    c.file("init", 0o755, format!("#!/bin/busybox sh\n{COMMON}{init}").as_bytes());
    c.file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n").file("etc/group", 0o644, b"root:x:0:\n");
    c
}

/// Boots to a root shell on the console.
pub(crate) fn busybox(busybox: &[u8], modules: &[Plain]) -> Vec<u8> {
    let mut c = base(busybox, modules, BUSYBOX);
    c.file("etc/udhcpc.script", 0o755, UDHCPC.as_bytes()).file("etc/shrc", 0o644, SHRC.as_bytes()).file(
        "etc/hosts",
        0o644,
        b"127.0.0.1 localhost\n127.0.1.1 strata\n",
    );
    // Before busybox installs its links, which leave existing files alone.
    for name in ["poweroff", "reboot", "halt"] {
        c.file(&format!("sbin/{name}"), 0o755, STOP.as_bytes());
    }
    c.finish()
}

/// Boots the root file system named on the command line.
pub(crate) fn disk(busybox: &[u8], modules: &[Plain]) -> Vec<u8> {
    base(busybox, modules, DISK).finish()
}

/// What the building machine gets besides the two disks.
pub(crate) struct Build<'a> {
    /// Programs and libraries: path, permission bits, contents.
    pub programs: &'a [(String, u32, Vec<u8>)],
    /// Links: path and target.
    pub links: &'a [(String, String)],
    /// Files below `/build`: path, permission bits, contents.
    pub files: &'a [(String, u32, Vec<u8>)],
    /// Links below `/build`.
    pub file_links: &'a [(String, String)],
}

/// Makes a Debian disk and powers off; what does the same without a machine lies in it too.
pub(crate) fn build(busybox: &[u8], modules: &[Plain], what: &Build<'_>) -> Vec<u8> {
    let mut c = base(busybox, modules, &format!("{BUILD_MACHINE}{BUILD}"));
    c.file(HOST_INIT.trim_start_matches('/'), 0o755, format!("{BUILD_HOST}{BUILD}").as_bytes());
    for (path, mode, bytes) in what.programs {
        c.file(path, *mode, bytes);
    }
    for (path, target) in what.links {
        c.link(path, target);
    }
    c.dir("build/overlay");
    for (path, mode, bytes) in what.files {
        c.file(&format!("build/{path}"), *mode, bytes);
    }
    for (path, target) in what.file_links {
        c.link(&format!("build/{path}"), target);
    }
    c.finish()
}
