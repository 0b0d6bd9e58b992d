//! How each machine is started: the same kernel, disk and network, with its console on standard input and output.

use clap::ValueEnum;
use std::path::{Path, PathBuf};
use std::process::Command;
use strata_image::Arch;

const MEMORY: &str = "256M";

/// One that is measured.
pub enum Peer {
    /// `strata`.
    Ours(PathBuf),
    /// A `qemu-system-…` of the guest's architecture.
    Qemu(PathBuf),
}

/// Where virtio devices are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Virtio {
    Mmio,
    Pci,
}

/// What a machine boots.
pub struct Boot<'a> {
    pub arch: Arch,
    pub kernel: &'a Path,
    pub initrd: &'a Path,
    pub disk: &'a Path,
    pub virtio: Virtio,
    pub tap: Option<&'a str>,
}

impl Peer {
    pub fn name(&self) -> String {
        match self {
            Peer::Ours(_) => "Strata".into(),
            Peer::Qemu(_) => "QEMU".into(),
        }
    }

    pub fn machine(&self, b: &Boot<'_>) -> Command {
        match self {
            Peer::Ours(program) => ours(program, b),
            Peer::Qemu(program) => theirs(program, b),
        }
    }
}

fn ours(program: &Path, b: &Boot<'_>) -> Command {
    let mut c = Command::new(program);
    c.args(["run", "--arch", b.arch.name(), "--memory", MEMORY, "--append", "quiet"]);
    if b.arch == Arch::Amd64 {
        c.args(["--engine", "kvm"]);
    }
    c.args(["--virtio", if b.virtio == Virtio::Pci { "pci" } else { "mmio" }, "--net"]);
    c.arg(b.tap.map_or("user".to_owned(), |t| format!("tap={t}")));
    c.arg("--kernel").arg(b.kernel).arg("--initrd").arg(b.initrd).arg("--disk").arg(b.disk);
    c
}

fn theirs(program: &Path, b: &Boot<'_>) -> Command {
    let mut c = Command::new(program);
    let device = match (b.arch, b.virtio) {
        (Arch::Riscv64, virtio) => {
            c.args(["-M", "virt", "-cpu", "rv64", "-global", "virtio-mmio.force-legacy=false"]);
            virtio
        }
        // Of its amd64 boards, the small one has slots and the usual one the bus.
        (Arch::Amd64, virtio) => {
            let board = if virtio == Virtio::Pci { "q35" } else { "microvm" };
            c.args([
                "-M",
                board,
                "-accel",
                "kvm",
                "-cpu",
                "host",
                "-global",
                "virtio-mmio.force-legacy=false",
            ]);
            virtio
        }
    };
    let suffix = if device == Virtio::Pci { "pci" } else { "device" };
    c.args(["-m", MEMORY, "-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio"]);
    c.args(["-append", "console=ttyS0 quiet"]).arg("-kernel").arg(b.kernel).arg("-initrd").arg(b.initrd);
    c.arg("-drive").arg(format!("file={},format=raw,if=none,id=d", b.disk.display()));
    c.arg("-device").arg(format!("virtio-blk-{suffix},drive=d"));
    c.arg("-netdev").arg(match b.tap {
        Some(tap) => format!("tap,id=n,ifname={tap},script=no,downscript=no"),
        None => "user,id=n".to_owned(),
    });
    c.arg("-device").arg(format!("virtio-net-{suffix},netdev=n"));
    c
}
