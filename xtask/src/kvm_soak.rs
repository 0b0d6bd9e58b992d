//! `cargo xtask soak amd64 [WHAT…]`: amd64 machines in the host of [`crate::kvm_host`], at length.
//!
//! The host gets a disk with an image of Debian for amd64, which is pulled outside, and the tools' QEMU. In it run, in this
//! order and each only if it is among the words, if there are any:
//!
//! | word | what |
//! |---|---|
//! | debian | `strata run debian:13 --arch amd64`: a shell on two vCPUs, disk, network, reboot, power-off |
//! | startup | `benches/src/bin/startup.rs`: a bare guest, and Linux with an initrd, beside QEMU |
//! | io | `benches/src/bin/io`: disk and network beside QEMU, in slots and on a PCI bus |
//! | pair | [`crate::kvm_pair`]: in two hosts of their own, a Linux that goes from one to the other and back |

use crate::kvm_host::{Host, MODULES, PACKAGES, guest, host, init, pack, program, run, write};
use crate::run::{cargo, command};
use crate::tools::{self, Tools, target};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// All of it takes an hour where two cores are busy with other things too.
const LIMIT: Duration = Duration::from_secs(2 * 3600);
const MORE_PACKAGES: &[(&str, &str)] = &[("e2fsprogs", "mke2fs"), ("gcc", "gcc")];
/// For the host's disk.
const DISK_MODULES: [&str; 11] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "crc16",
    "mbcache",
    "jbd2",
    "crc32c_generic",
    "ext4",
];
/// The part that has hosts of its own.
const PAIR: &str = "pair";
const PROGRAMS: [&str; 4] = ["strata", "instance", "startup", "io"];

/// Before the parts: the host's disk, and how they are counted.
const PREPARE: &str = "export STRATA_HOME=/data/strata XDG_RUNTIME_DIR=/tmp/run
mkdir -p -m 700 /tmp/run
mount -t ext4 /dev/vda /data || echo 'cannot mount the data'
counts() { \"$@\" && echo kvm: 1 scenarios passed, 0 skipped || worst=1; }
";

/// What runs for a word.
fn part(word: &str, image: &str) -> Option<String> {
    let linux = "--linux /guest/vmlinuz --initrd /guest/initrd.gz";
    Some(match word {
        "debian" => format!("instance /bin/strata debian {image} || worst=$?\n"),
        "startup" => format!(
            "counts startup --strata /bin/strata --qemu /data/qemu.sh --guest /guest/first\n\
             counts startup --strata /bin/strata --qemu /data/qemu.sh {linux}\n"
        ),
        "io" => "counts io --arch amd64 --strata /bin/strata --qemu /data/qemu.sh --kernel /guest/vmlinuz \
                 --initrd /guest/initrd.gz --program /guest/io --scratch /tmp --part 4\n"
            .to_owned(),
        _ => return None,
    })
}

/// Runs the parts named, or all.
pub fn soak(tools: &Tools, words: &[&str]) -> Result<(), String> {
    let words = if words.is_empty() { &["debian", "startup", "io", PAIR][..] } else { words };
    if let Some(word) = words.iter().find(|w| **w != PAIR && part(w, "").is_none()) {
        return Err(format!("there is no part {word} of `soak amd64`: debian, startup, io, {PAIR}"));
    }
    let (two, one): (Vec<&str>, Vec<&str>) = words.iter().partition(|w| **w == PAIR);
    if !one.is_empty() {
        in_one_host(tools, &one)?;
    }
    if two.is_empty() { Ok(()) } else { crate::kvm_pair::soak(tools) }
}

/// Builds it all and runs the parts named.
fn in_one_host(tools: &Tools, words: &[&str]) -> Result<(), String> {
    tools::packages(PACKAGES)?;
    tools::packages(MORE_PACKAGES)?;
    let packages = ["-p", "strata", "-p", "strata-e2e", "-p", "strata-bench"];
    command(cargo(tools).args(["build", "--release", "--bins"]).args(packages))?;
    let dir = target().join("tools/kvm-soak");
    let data = dir.join("data");
    let image = pull(&data.join("strata"))?;
    let Host { root, kernel, modules } = host(&dir, &[&DISK_MODULES[..], &MODULES[..]].concat())?;
    for name in PROGRAMS {
        program(&target().join("release").join(name), name, &root)?;
    }
    guest(&dir.join("guest"), &modules, &root.join("guest/initrd.gz"))?;
    guests(&root.join("guest"))?;
    let parts: String = words.iter().filter_map(|w| part(w, &image)).collect();
    let archive = dir.join("initramfs.gz");
    pack(&root, &init(&format!("{PREPARE}{parts}")), &archive)?;
    let disk = disk(tools, &dir, &data)?;
    // What is written to it is thrown away.
    let drive = format!("file={},format=raw,if=virtio,snapshot=on", disk.display());
    run(tools, &kernel, &archive, &["-m", "3G", "-drive", &drive], LIMIT)
}

/// Pulls the first suite that verifies into a store; gives the image's name without its architecture.
fn pull(home: &Path) -> Result<String, String> {
    let strata = target().join("release/strata");
    let image = |what: &str, name: &str| {
        let mut c = Command::new(&strata);
        c.args(["image", what, name]).env("STRATA_HOME", home);
        c
    };
    let suites = ["debian:13", "debian:forky", "debian:sid"];
    let here =
        |name: &&&str| image("show", &format!("{name}-amd64")).output().is_ok_and(|o| o.status.success());
    if let Some(name) = suites.iter().find(here) {
        return Ok((*name).to_owned());
    }
    let mut why = String::new();
    for name in suites {
        match command(image("pull", name).args(["--arch", "amd64"])) {
            Ok(()) => return Ok(name.to_owned()),
            Err(e) => why = e,
        }
    }
    Err(why)
}

/// The bare guests' programs.
fn guests(dir: &Path) -> Result<(), String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/bench");
    let mut first = Command::new("gcc");
    first.args(["-nostdlib", "-static", "-Wl,--build-id=none", "-T"]).arg(source.join("first.ld"));
    command(first.arg("-o").arg(dir.join("first")).arg(source.join("first.S")))?;
    let mut io = Command::new("gcc");
    command(io.args(["-O2", "-static", "-pthread", "-o"]).arg(dir.join("io")).arg(source.join("io.c")))
}

/// The host's disk: the store, and the tools' QEMU where it can be started.
fn disk(tools: &Tools, dir: &Path, data: &Path) -> Result<PathBuf, String> {
    let qemu = target().join("tools/qemu");
    if qemu.is_dir() {
        let _ = fs::remove_dir_all(data.join("qemu"));
        command(Command::new("cp").arg("-a").arg(&qemu).arg(data.join("qemu")))?;
        let script = tools.bin.join("qemu-system-x86_64");
        let text =
            fs::read_to_string(&script).map_err(|e| format!("cannot read {}: {e}", script.display()))?;
        let text = text.replace(&qemu.display().to_string(), "/data/qemu");
        write(&data.join("qemu.sh"), &text)?;
        command(Command::new("chmod").arg("755").arg(data.join("qemu.sh")))?;
    }
    let disk = dir.join("data.img");
    let _ = fs::remove_file(&disk);
    // Sparse, as the image's own disk in it is.
    command(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).arg(data).arg(&disk).arg("16G"))?;
    Ok(disk)
}
