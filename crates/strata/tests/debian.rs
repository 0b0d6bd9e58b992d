//! A real Debian, end to end: minutes of work, so `cargo xtask soak debian` runs it, in release, with its timings.
//!
//! The first suite that verifies, of 13, forky and sid, is pulled (or was by an earlier run) and then used: an
//! address, the package archive, a lot of disk, a reboot, four harts; a package built from source, with its tests; and
//! once more through Debian's own OpenSBI and U-Boot.

mod common;

use common::debian::{LONG, has_an_address, log_in, power_off, pull, strata, timed};
use common::{Console, Place};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

#[test]
#[ignore = "takes many minutes: cargo xtask soak debian"]
fn debian_lives() {
    let place = Place::new();
    let image = pull(&place);
    let start = Instant::now();
    let mut c = Console::spawn(strata(&place, &["run", &image, "--cpus", "4"]));
    log_in(&mut c, "direct boot, 4 harts", start);
    assert_eq!(c.sh("nproc"), "4");
    timed("address", || has_an_address(&mut c));
    timed("apt-get update", || c.sh_long("apt-get -q update", LONG));
    timed("apt-get install hello", || c.sh_long("apt-get -qy install hello", LONG));
    assert_eq!(c.sh("hello"), "Hello, world!");

    let write = "dd if=/dev/urandom of=/root/data bs=1M count=200 2>/dev/null && sync";
    timed("200 MB written and synced", || c.sh_long(write, LONG));
    let sum = timed("its sum", || c.sh_long("sha256sum /root/data", LONG));
    c.send("systemctl reboot");
    let start = Instant::now();
    log_in(&mut c, "reboot", start);
    assert_eq!(timed("the sum again", || c.sh_long("sha256sum /root/data", LONG)), sum);
    assert_eq!(c.sh("hello"), "Hello, world!");
    timed("power-off", || power_off(c));
}

/// A compiler is the hardest guest there is for a translator: much code, each piece of it run little, in many processes.
#[test]
#[ignore = "takes many minutes: cargo xtask soak debian"]
fn debian_builds_a_package_from_source() {
    let place = Place::new();
    let image = pull(&place);
    let words = ["run", &image, "--cpus", "4", "--memory", "2G", "--tier", "translator"];
    let start = Instant::now();
    let mut c = Console::spawn(strata(&place, &words));
    log_in(&mut c, "to build, 4 harts", start);
    has_an_address(&mut c);
    c.sh("sed -i 's/^Types: deb$/Types: deb deb-src/' /etc/apt/sources.list.d/*.sources");
    timed("apt-get update with sources", || c.sh_long("apt-get -q update", LONG));
    let tools = "DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends \
                 gcc make libc6-dev dpkg-dev autotools-dev";
    timed("a compiler installed", || c.sh_long(tools, LONG));
    // As its authors made it: mirrors that leave out Debian's changes to it have that.
    let source = "cd /root && apt-get -q source --tar-only hello && tar xf hello_*.orig.tar.* && cd hello-*/";
    timed("source of hello", || c.sh_long(source, LONG));
    // It is older than the architecture.
    c.sh("cp /usr/share/misc/config.* build-aux/");
    timed("configure", || c.sh_long("./configure >log 2>&1 || { tail log; false; }", LONG));
    timed("make -j4", || c.sh_long("make -j4 >log 2>&1 || { tail log; false; }", LONG));
    let tests = timed("make check", || c.sh_long("make check 2>&1 | grep ^PASS", LONG));
    assert!(tests.lines().filter(|l| l.contains("tests/hello")).count() == 1, "{tests}");
    assert_eq!(c.sh("./hello"), "Hello, world!");
    timed("power-off", || power_off(c));
}

/// Debian's OpenSBI and U-Boot, unpacked; through the host's own apt, without installing them.
fn firmware(place: &Place) -> (PathBuf, PathBuf) {
    let dir = place.work().join("firmware");
    fs::create_dir(&dir).unwrap();
    let run = |c: &mut Command| {
        let out = c.current_dir(&dir).output().unwrap();
        assert!(out.status.success(), "MIRROR: {c:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    run(Command::new("apt-get").args(["-q", "download", "opensbi", "u-boot-qemu"]));
    for deb in fs::read_dir(&dir).unwrap() {
        let deb = deb.unwrap().path();
        if deb.extension().is_some_and(|e| e == "deb") {
            run(Command::new("dpkg-deb").arg("-x").arg(deb).arg("."));
        }
    }
    (
        dir.join("usr/lib/riscv64-linux-gnu/opensbi/generic"),
        dir.join("usr/lib/u-boot/qemu-riscv64_smode/u-boot.bin"),
    )
}

#[test]
#[ignore = "takes many minutes: cargo xtask soak debian"]
fn debian_boots_by_its_own_firmware() {
    let place = Place::new();
    let image = pull(&place);
    let (opensbi, u_boot) = firmware(&place);
    for (kind, cpus) in [("fw_jump.bin", "2"), ("fw_dynamic.bin", "1"), ("fw_dynamic.elf", "4")] {
        let firmware = opensbi.join(kind);
        let words = ["--firmware", firmware.to_str().unwrap(), "--kernel", u_boot.to_str().unwrap()];
        let start = Instant::now();
        let mut c = Console::spawn(strata(&place, &[&["run", &image, "--cpus", cpus], &words[..]].concat()));
        c.wait_for("OpenSBI v");
        c.wait_for("U-Boot 20");
        c.wait_for("Found /boot/extlinux/extlinux.conf");
        c.wait_long("Starting kernel ...", LONG);
        println!("{kind}, {cpus} harts: kernel started after {:.1?}", start.elapsed());
        // The whole of userland is looked at once; the other ways in need only get to it.
        if kind == "fw_jump.bin" {
            log_in(&mut c, kind, start);
            assert_eq!(c.sh("nproc"), cpus);
            has_an_address(&mut c);
            timed("power-off", || power_off(c));
        } else {
            c.wait_long("login:", LONG);
            println!("{kind}: login after {:.1?}", start.elapsed());
        }
    }
}
