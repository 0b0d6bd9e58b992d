//! What cannot work: one paragraph that says what and what to do, an exit code by kind, nothing left behind, no
//! data changed.

mod common;

use common::{Place, SPIN, apart, write_code};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// Runs `strata WORDS`, which must be refused so, and must change nothing.
#[track_caller]
fn refused(place: &Place, words: &str, code: i32, say: &[&str]) {
    let before = place.contents();
    let done = place.strata(words);
    done.refused(code, say);
    assert_eq!(done.out, "", "`{words}`");
    place.is_clean();
    assert!(place.contents() == before, "`{words}` changed files");
}

#[test]
fn words_that_make_no_sense() {
    let place = Place::new();
    for words in [
        "",
        "--bogus",
        "run --bogus",
        "run --cpus many",
        "run --memory 1.5G",
        "run --net x",
        "run --tier kvm",
        "stop",
        "vmm x",
    ] {
        let done = place.strata(words);
        assert_eq!(done.code, Some(64), "{words}: {done:?}");
        assert!(!done.err.is_empty(), "{words}");
    }
    refused(&place, "run", 64, &["nothing to run", "strata run busybox"]);
    refused(&place, "run --net none --forward 1:2 busybox", 64, &["--forward", "--net user"]);
    refused(&place, "run busybox --detach --console stdio", 64, &["--console"]);
    // Told before an image is looked for: there is none here, and none is pulled.
    refused(&place, "run busybox --cpus 0", 78, &["1 to 64 CPUs", "--cpus"]);
    refused(&place, "run busybox --cpus 65", 78, &["1 to 64 CPUs", "65"]);
    refused(&place, "run busybox --memory 1M", 78, &["16 MiB", "--memory"]);
    refused(&place, "run busybox --memory 100000T", 78, &["1024 GiB"]);
    refused(&place, "run busybox --memory 1023G", 71, &["this host has", "--memory"]);
    refused(&place, "run busybox --forward 99999:1", 78, &["99999:1", "HOST_PORT:GUEST_PORT"]);
    refused(&place, "run busybox --name Not_A_Name", 78, &["Not_A_Name", "hyphens"]);
    refused(&place, "run nosuch", 66, &["nosuch", "debian:13"]);
    for command in ["start", "stop", "stop --force", "pause", "unpause", "reset", "console", "delete"] {
        refused(&place, &format!("{command} nosuch"), 66, &["nosuch", "strata ps --all"]);
    }
    for command in ["show", "remove"] {
        refused(&place, &format!("image {command} nosuch"), 66, &["nosuch", "strata image list"]);
    }
    assert_eq!(place.images(), Vec::<String>::new());
}

/// The header of an arm64 kernel Image of two pages.
fn arm_image() -> Vec<u8> {
    let mut image = vec![0; 8192];
    image[16..24].copy_from_slice(&8192u64.to_le_bytes());
    image[56..60].copy_from_slice(b"ARM\x64");
    image
}

#[test]
fn files_that_are_not_what_they_should_be() {
    let place = Place::with_busybox();
    let kernel = fs::read(place.home().join("images/busybox/kernel")).unwrap();
    let own = fs::read(env!("CARGO_BIN_EXE_strata")).unwrap();
    place.file("cut", &kernel[..kernel.len() / 2]);
    place.file("cut-by-a-byte", &kernel[..kernel.len() - 1]);
    // A foreign program of whatever this host is: its ELF header is all that is looked at.
    let mut x86 = own[..4096].to_vec();
    x86[18..20].copy_from_slice(&62u16.to_le_bytes());
    place.file("x86", x86);
    place.file("arm", arm_image());
    place.file("text", "#!/bin/sh\necho no kernel\n");
    place.file("empty", "");
    fs::create_dir(place.work().join("folder")).unwrap();

    for name in ["cut", "cut-by-a-byte"] {
        refused(&place, &format!("run --kernel {name}"), 65, &[name, "cut short", "fetch it again"]);
    }
    for name in ["x86", "arm", "text", "empty", "folder"] {
        refused(&place, &format!("run --kernel {name}"), 65, &[name]);
    }
    // Any bytes may be meant as raw firmware, as long as they could be an instruction.
    for name in ["x86", "empty", "folder"] {
        refused(&place, &format!("run --firmware {name} busybox"), 65, &[name]);
    }
    refused(&place, "run --kernel nosuch", 66, &["nosuch"]);
    refused(&place, "run --firmware nosuch", 66, &["nosuch"]);
    refused(&place, "run --kernel cut --initrd nosuch", 66, &["nosuch"]);
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: root can read every file");
    } else {
        use std::os::unix::fs::PermissionsExt;
        let path = place.file("secret", "x");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        refused(&place, "run --firmware secret", 77, &["secret"]);
    }
}

#[test]
fn disks_that_cannot_be_used() {
    let place = Place::new();
    write_code(&place.work().join("spin"), &SPIN);
    place.file("base", vec![7; 1 << 20]);
    let work = place.work();
    let image = work.join("image");
    strata_block::create_overlay(&image, &work.join("base"), strata_block::Format::Raw, None).unwrap();
    let whole = fs::read(&image).unwrap();
    place.file("cut.qcow2", &whole[..whole.len().min(70_000)]);
    place.file("header.qcow2", &whole[..60]);
    let mut corrupt = whole.clone();
    // The table of cluster addresses far beyond the end.
    corrupt[40..48].copy_from_slice(&(1u64 << 40).to_be_bytes());
    place.file("corrupt.qcow2", corrupt);
    place.file("odd", vec![1; 700]);
    place.file("none", "");
    for name in ["cut.qcow2", "header.qcow2", "corrupt.qcow2", "odd", "none"] {
        refused(&place, &format!("run --firmware spin --disk {name}"), 65, &[name]);
    }
    refused(&place, "run --firmware spin --disk nosuch", 66, &["nosuch"]);
    refused(&place, "run --firmware spin --disk base --disk base", 69, &["base"]);
    let many = "--disk base ".repeat(7);
    refused(&place, &format!("run --firmware spin {many}"), 78, &["at most 6 disks"]);

    // A user's image that stands on another one says so; Strata's own layers do not (see `busybox.rs`).
    let done = place.strata("run --firmware spin --disk image --name holder --detach");
    assert!(done.err.contains("stands on") && done.err.contains("base"), "{done:?}");
    done.good();
    place.strata("run --firmware spin --disk image").refused(69, &["image", "holder"]);
    place.strata("run --firmware spin --disk base").refused(69, &["base", "in use"]);
    place.strata("stop holder").good();
    place.strata("delete holder").good();
    place.is_clean();
    assert!(place.contents()["base"] == vec![7; 1 << 20]);
}

#[test]
fn a_port_that_is_taken() {
    let place = Place::new();
    write_code(&place.work().join("spin"), &SPIN);
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    refused(&place, &format!("run --firmware spin --forward {port}:22"), 69, &[&port]);
}

#[test]
fn a_hart_that_can_only_trap() {
    let place = Place::new();
    // li t0, 4; csrw mtvec, t0; then a word that is no instruction: the trap vector is where nothing is.
    write_code(&place.work().join("stuck"), &[0x0040_0293, 0x3052_9073, 0, 0]);
    let done = place.strata("run --firmware stuck");
    assert_eq!((done.code, done.out.as_str()), (Some(80), ""), "{done:?}");
    // A sentence, then the registers as a table.
    assert!(done.err.starts_with("strata: The machine is stuck: hart 0 traps"), "{done:?}");
    for register in ["pc 0000000000000004", "t0 0000000000000004", "mtvec 0000000000000004", "mcause 0000"] {
        assert!(done.err.contains(register), "no {register}: {done:?}");
    }
    place.is_clean();
    // With a name it is kept, as after any end of a run.
    assert_eq!(place.strata("run --firmware stuck --name one").code, Some(80));
    assert_eq!(place.kept(), ["one"]);
}

#[test]
fn no_network_to_pull_from() {
    let Some(mut c) = apart(&["--net"]) else { return };
    let place = Place::new();
    c.arg(env!("CARGO_BIN_EXE_strata")).args(["run", "busybox"]);
    let done = place.finish(place.at_home(&mut c));
    assert_eq!(done.code, Some(75), "{done:?}");
    let last = done.err.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("strata: "), "{done:?}");
    place.is_clean();
    assert_eq!(place.images(), Vec::<String>::new());
}

#[test]
fn a_disk_that_fills_up_during_a_pull() {
    let Some(mut c) = apart(&["--mount"]) else { return };
    let place = Place::new();
    // Enough for the release file, not for the package index.
    let script = "mount -t tmpfs -o size=2m none \"$STRATA_HOME\" || exit 99
        \"$1\" image pull busybox; code=$?
        ls -A \"$STRATA_HOME/images\"
        exit $code";
    c.args(["sh", "-c", script, "sh", env!("CARGO_BIN_EXE_strata")]);
    let out = place.at_home(&mut c).output().unwrap();
    let whose = common::mirror_or_strata(&out);
    let (code, left) = (out.status.code(), String::from_utf8_lossy(&out.stdout).into_owned());
    assert_eq!(code, Some(73), "{whose}");
    assert_eq!(left, "", "an image half-made");
    let err = String::from_utf8_lossy(&out.stderr);
    let last = err.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("strata: ") && last.contains("no space left"), "{err}");
}

#[test]
fn the_table_of_exit_codes_has_these() {
    let table =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/exit-codes.md")).unwrap();
    for code in [64, 65, 66, 69, 71, 73, 75, 77, 78, 80] {
        assert!(table.contains(&format!("| {code} |")), "{code}");
    }
}
