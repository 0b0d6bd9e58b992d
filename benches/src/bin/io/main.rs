//! Throughput and latency of disks and networks: `cargo run --release -p strata-bench --bin io`.
//!
//! A guest's Linux (the image `busybox`, with `guests/bench/io.c` in it) reads and writes its disk, past its own cache, and
//! talks to a server on the host by user-mode networking, or by a TAP interface if one is named. Strata and QEMU have the
//! same kernel, disk file and server, in turn; for both virtio is in slots (`--virtio mmio`) or on a PCI bus. The guest's own
//! clock measures.

mod peers;
mod server;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use peers::{Boot, Peer, Virtio};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use strata_bench::{host, stats};
use strata_e2e::instance::Console;
use strata_image::{Arch, Cpio};

/// What is measured, and how often.
#[derive(Parser)]
struct Args {
    /// The strata binary; built in release if left out
    #[arg(long)]
    strata: Option<PathBuf>,
    /// The QEMU to compare with
    #[arg(long)]
    qemu: PathBuf,
    /// How often each is measured
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Architecture of the guest: riscv64, on the soft engine, or amd64, on KVM
    #[arg(long, default_value = "riscv64")]
    arch: String,
    /// The guest's kernel, with --initrd, instead of the image busybox; its shell's prompt ends with `# `
    #[arg(long, requires = "initrd")]
    kernel: Option<PathBuf>,
    /// Its initial RAM disk
    #[arg(long)]
    initrd: Option<PathBuf>,
    /// The guest's program, if it has been built
    #[arg(long)]
    program: Option<PathBuf>,
    /// Where virtio is: mmio, pci, or both in turn
    #[arg(long, value_delimiter = ',', default_value = "mmio,pci")]
    virtio: Vec<Virtio>,
    /// Only `disk` or `net`
    #[arg(long)]
    only: Option<String>,
    /// A TAP interface that is up with 10.9.0.1/24, instead of user-mode networking
    #[arg(long)]
    tap: Option<String>,
    /// The folder for the disk file
    #[arg(long, default_value = "/dev/shm")]
    scratch: PathBuf,
    /// Measure with the PART-th part of the usual amounts, on a host that is slow
    #[arg(long, value_name = "PART", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    part: u32,
    /// Run only Strata, for a profiler
    #[arg(long)]
    ours: bool,
}

/// The longest that anything may take.
const LIMIT: Duration = Duration::from_secs(120);
const DISK: u64 = 256 << 20;
/// Guests of a round that may end before they are measured: in a host whose processors are made in software that happens.
const TRIES: usize = 4;

/// Samples by what was measured.
type Figures = BTreeMap<String, Vec<f64>>;

fn compile(arch: Arch, out: &Path) -> Result<()> {
    let gcc = if arch == Arch::Riscv64 { "riscv64-linux-gnu-gcc" } else { "gcc" };
    let mut c = Command::new(gcc);
    c.args(["-O2", "-static", "-pthread", "-Wall", "-Wextra", "-Werror", "-o"]).arg(out);
    let status = c.arg(strata_e2e::guest::dir().join("bench/io.c")).status();
    ensure!(
        status.with_context(|| format!("starting {gcc}"))?.success(),
        "the guest's program does not build"
    );
    Ok(())
}

/// Kernel and initrd of the guest, with its program as `/io`.
fn guest(args: &Args, arch: Arch, tmp: &Path) -> Result<(PathBuf, PathBuf)> {
    let image = host::store()?.join("images").join(arch.image("busybox"));
    let kernel = args.kernel.clone().unwrap_or_else(|| image.join("kernel"));
    let initrd = args.initrd.clone().unwrap_or_else(|| image.join("initrd"));
    let program = match &args.program {
        Some(p) => p.clone(),
        None => {
            let out = tmp.join("io");
            compile(arch, &out)?;
            out
        }
    };
    let mut more = Cpio::new();
    more.file("io", 0o755, &std::fs::read(&program)?);
    let mut all = std::fs::read(&initrd)
        .with_context(|| format!("{}: `strata image pull busybox`?", initrd.display()))?;
    // Linux takes several archives, one after the other, each at a multiple of four bytes.
    all.resize(all.len().next_multiple_of(4), 0);
    all.extend(more.finish());
    let out = tmp.join("initrd");
    std::fs::write(&out, all)?;
    Ok((kernel, out))
}

/// Adds what a guest measures to `figures`, if it measures all.
fn measure(peer: &Peer, boot: &Boot<'_>, args: &Args, port: u16, figures: &mut Figures) -> Result<()> {
    let mut c = Console::spawn(&mut peer.machine(boot))?;
    c.wait_for("# ", LIMIT)?;
    let mut said = String::new();
    let only = |what: &str| args.only.as_deref().is_none_or(|o| o == what);
    if only("disk") {
        said += &c.sh(&format!("/io disk /dev/vda {}", args.part), LIMIT)?;
        said.push('\n');
    }
    if only("net") {
        let address = match args.tap {
            Some(_) => {
                c.sh("ifconfig eth0 10.9.0.2 netmask 255.255.255.0 up", LIMIT)?;
                "10.9.0.1"
            }
            None => {
                // Images ask for an address by themselves; tiny guests have a script for it.
                c.sh("[ ! -x /dhcp ] || { ifconfig eth0 up && udhcpc -i eth0 -n -q -f -s /dhcp; }", LIMIT)?;
                "10.0.2.2"
            }
        };
        said += &c.sh(&format!("/io net {address} {port} {}", args.part), LIMIT)?;
    }
    let mut measured = Vec::new();
    for line in said.lines() {
        if let ["io", name, value] = line.split_whitespace().collect::<Vec<_>>()[..] {
            measured.push((name.to_owned(), value.parse()?));
        }
    }
    measured.into_iter().for_each(|(name, value)| figures.entry(name).or_default().push(value));
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let strata = args.strata.clone().map_or_else(host::build_strata, Ok)?;
    let arch = Arch::by_name(&args.arch).context("--arch: riscv64 or amd64")?;
    let tmp = tempfile::tempdir_in(&args.scratch)?;
    let (kernel, initrd) = guest(&args, arch, tmp.path())?;
    let disk = tmp.path().join("disk.raw");
    let peers = [Peer::Ours(strata), Peer::Qemu(args.qemu.clone())];
    let peers = if args.ours { &peers[..1] } else { &peers[..] };
    let server = server::Server::start(args.part)?;
    println!("{}, {}, load {}", args.arch, host::describe()?, host::load()?);
    for virtio in &args.virtio {
        let boot = Boot {
            arch,
            kernel: &kernel,
            initrd: &initrd,
            disk: &disk,
            virtio: *virtio,
            tap: args.tap.as_deref(),
        };
        let mut all = vec![Figures::new(); peers.len()];
        for _ in 0..args.rounds {
            for (peer, figures) in peers.iter().zip(&mut all) {
                tries(peer, || {
                    std::fs::File::create(&disk)?.set_len(DISK)?;
                    measure(peer, &boot, &args, server.port, figures)
                })?;
            }
        }
        report(*virtio, args.rounds, peers, &all);
    }
    Ok(())
}

/// Measures a guest of `peer`, and another one where that ended too early: that is told, since it says something of the peer.
fn tries(peer: &Peer, mut measured: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 1..TRIES {
        let Err(e) = measured() else { return Ok(()) };
        println!("{}: a guest ended, or stood still, before it was measured: {e}", peer.name());
    }
    measured().with_context(|| peer.name())
}

fn report(virtio: Virtio, rounds: usize, peers: &[Peer], all: &[Figures]) {
    let names: Vec<String> = peers.iter().map(Peer::name).collect();
    println!("\n| virtio {virtio:?}, medians of {rounds} | {} | better by |", names.join(" | "));
    println!("|---|{}---|", "---|".repeat(names.len()));
    for (what, ours) in &all[0] {
        let medians: Vec<f64> = all.iter().filter_map(|f| f.get(what)).map(|s| stats::median(s)).collect();
        let ratio = match (medians.get(1), what.ends_with("-us")) {
            (None, _) => "–".into(),
            (Some(theirs), true) => format!("{:.2}", theirs / medians[0]),
            (Some(theirs), false) => format!("{:.2}", medians[0] / theirs),
        };
        let cells: Vec<String> = medians.iter().map(|m| format!("{m:.1}")).collect();
        println!("| {what} ({:.0} %) | {} | {ratio} |", 100.0 * stats::spread(ours), cells.join(" | "));
    }
}
