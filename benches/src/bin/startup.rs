//! How soon a machine of the smallest kind runs, and what it costs beside its memory: `cargo run --release -p strata-bench
//! --bin startup`.
//!
//! A guest of seven instructions (`guests/bench/first.S`) prints a byte. Reported for Strata and for `qemu -M microvm` with
//! the same guest on the same /dev/kvm, in turn: milliseconds from the start of the process to that byte, to the first
//! instruction (Strata says when that was), and MiB of memory that is not the guest's while it stands there. With `--linux
//! KERNEL INITRD` the same for a kernel whose initrd says "guest is up", beside `-M microvm` and `-M q35`.

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use strata_bench::{host, stats};
use strata_vmm::Client;

/// What is measured, and how often.
#[derive(Parser)]
struct Args {
    /// The strata binary; built in release if left out
    #[arg(long)]
    strata: Option<PathBuf>,
    /// How often each is started
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// The QEMU to compare with
    #[arg(long, default_value = "qemu-system-x86_64")]
    qemu: PathBuf,
    /// QEMU's processor
    #[arg(long, default_value = "host,-arch-capabilities")]
    cpu: String,
    /// The guest's program, if it has been built; by the host's compiler if left out
    #[arg(long)]
    guest: Option<PathBuf>,
    /// Start this kernel instead, with `--initrd`
    #[arg(long, requires = "initrd")]
    linux: Option<PathBuf>,
    /// Its initrd
    #[arg(long)]
    initrd: Option<PathBuf>,
}

const MEMORY: &str = "256M";
const NAME: &str = "bench-startup";
/// How long a start may take.
const LIMIT: Duration = Duration::from_secs(120);

/// Nanoseconds of the host's monotonic clock.
fn now() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (t.tv_sec * 1_000_000_000 + t.tv_nsec) as u64
}

/// What is started, and the text by which it says that it is up.
struct Guest {
    kernel: PathBuf,
    initrd: Option<PathBuf>,
    says: &'static str,
}

/// The figures of one contestant.
#[derive(Default)]
struct Figures {
    first: Vec<f64>,
    up: Vec<f64>,
    memory: Vec<f64>,
}

fn build(out: &Path) -> Result<()> {
    let dir = strata_e2e::guest::dir().join("bench");
    let mut c = Command::new("cc");
    c.args(["-nostdlib", "-static", "-Wl,--build-id=none", "-T"]).arg(dir.join("first.ld"));
    let status = c.arg("-o").arg(out).arg(dir.join("first.S")).status().context("starting cc")?;
    ensure!(status.success(), "the guest's program does not build");
    Ok(())
}

/// Reads until `text` has come; gives when.
fn until(out: &mut impl Read, text: &str) -> Result<u64> {
    let (mut heard, mut buf) = (Vec::new(), [0; 4096]);
    loop {
        let n = out.read(&mut buf)?;
        heard.extend(buf.get(..n).unwrap_or_default());
        if heard.windows(text.len()).any(|w| w == text.as_bytes()) {
            return Ok(now());
        }
        if n == 0 {
            bail!("it ended before it was up:\n{}", String::from_utf8_lossy(&heard));
        }
    }
}

/// MiB that a process has for itself, without the guest's memory.
fn beside_guest(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps"))?;
    let (mut kib, mut guests) = (0.0, false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else { continue };
        if !key.ends_with(':') {
            guests = line.contains("/memfd:strata-ram") || line.contains("/memfd:memory-backend");
        } else if matches!(key, "Private_Dirty:" | "Private_Clean:") && !guests {
            kib += value.parse::<f64>().unwrap_or(0.0);
        }
    }
    Ok(kib / 1024.0)
}

/// Ends a process when the measurement is over, however that ends.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn measure(
    c: &mut Command,
    guest: &Guest,
    figures: &mut Figures,
    asked: impl FnOnce(u32, u64) -> Result<(u32, Option<f64>)>,
) -> Result<()> {
    let start = now();
    let mut child = c.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut out = child.stdout.take().context("no output")?;
    let child = Ended(child);
    let up = until(&mut out, guest.says)?;
    figures.up.push(up.saturating_sub(start) as f64 / 1e6);
    let (pid, first) = asked(child.0.id(), start)?;
    figures.first.extend(first);
    figures.memory.push(beside_guest(pid)?);
    Ok(())
}

fn ours(strata: &Path, guest: &Guest, figures: &mut Figures) -> Result<()> {
    let mut c = Command::new(strata);
    c.args(["run", "--arch", "amd64", "--engine", "kvm", "--memory", MEMORY, "--net", "none"]);
    c.args(["--name", NAME, "--append", "quiet"]).arg("--kernel").arg(&guest.kernel);
    if let Some(initrd) = &guest.initrd {
        c.arg("--initrd").arg(initrd);
    }
    measure(&mut c, guest, figures, |_, start| {
        let status = Client::connect(NAME)?.status()?;
        let began = status.began.context("it has not begun to run")?;
        Ok((status.pid, Some(began.saturating_sub(start) as f64 / 1e6)))
    })?;
    // Its process ends with the command that was killed.
    let begun = std::time::Instant::now();
    while Command::new(strata)
        .args(["delete", NAME])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| !s.success())
    {
        ensure!(begun.elapsed() < LIMIT, "the instance {NAME} cannot be removed");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn theirs(args: &Args, machine: &str, guest: &Guest, figures: &mut Figures) -> Result<()> {
    let mut c = Command::new(&args.qemu);
    c.args([
        "-M",
        &format!("{machine},memory-backend=ram"),
        "-accel",
        "kvm",
        "-cpu",
        &args.cpu,
        "-m",
        MEMORY,
    ]);
    c.args(["-object", &format!("memory-backend-memfd,id=ram,size={MEMORY}")]);
    c.args(["-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio"]);
    c.args(["-append", "console=ttyS0 quiet"]).arg("-kernel").arg(&guest.kernel);
    if let Some(initrd) = &guest.initrd {
        c.arg("-initrd").arg(initrd);
    }
    measure(&mut c, guest, figures, |pid, _| Ok((pid, None)))
}

fn main() -> Result<()> {
    let args = Args::parse();
    let strata = args.strata.clone().map_or_else(host::build_strata, Ok)?;
    let tmp = tempfile::tempdir()?;
    let guest = match (&args.linux, &args.guest) {
        (Some(kernel), _) => {
            Guest { kernel: kernel.clone(), initrd: args.initrd.clone(), says: "guest is up" }
        }
        (None, Some(kernel)) => Guest { kernel: kernel.clone(), initrd: None, says: "!" },
        (None, None) => {
            let kernel = tmp.path().join("first");
            build(&kernel)?;
            Guest { kernel, initrd: None, says: "!" }
        }
    };
    let machines: &[&str] = if args.linux.is_some() { &["microvm", "q35"] } else { &["microvm"] };
    let mut all: Vec<(String, Figures)> = vec![("Strata".into(), Figures::default())];
    all.extend(machines.iter().map(|m| (format!("QEMU -M {m}"), Figures::default())));
    println!("{}, load {}", host::describe()?, host::load()?);
    for _ in 0..args.rounds {
        for (n, (_, figures)) in all.iter_mut().enumerate() {
            match n.checked_sub(1).and_then(|n| machines.get(n)) {
                None => ours(&strata, &guest, figures)?,
                Some(machine) => theirs(&args, machine, &guest, figures)?,
            }
        }
    }
    println!(
        "\n| medians of {} | up, ms | first instruction, ms | memory beside the guest's, MiB |",
        args.rounds
    );
    println!("|---|---|---|---|");
    for (name, f) in &all {
        let first = if f.first.is_empty() { "–".into() } else { format!("{:.1}", stats::median(&f.first)) };
        let (up, memory) = (stats::median(&f.up), stats::median(&f.memory));
        println!("| {name} | {up:.1} ({:.0} %) | {first} | {memory:.1} |", 100.0 * stats::spread(&f.up));
    }
    Ok(())
}
