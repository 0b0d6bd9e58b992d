//! Machines that change hosts: Strata's strategies and QEMU's, in turn, over the same shaped link, with the same guest.
//!
//! ```text
//!  wires    two network namespaces and the link between them     guest    kernel, writer, console
//!  sides    the machine on either program                        probe    what a peer sees of it
//!  plot     the same figures as a drawing
//! ```
//! Downtime is what the program says of itself; the outage is seen from outside, by an echo each half millisecond; bytes are
//! those that the source's interface has sent, with all headers. Needs root: `--setup` installs the rest.

mod guest;
mod plot;
mod probe;
mod sides;
mod wires;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use guest::Guest;
use sides::{Figures, Stage};
use std::path::PathBuf;
use std::process::Command;
use strata_bench::{host, qemus};
use wires::Wires;

/// What both programs need here, as Debian calls it.
const PACKAGES: [&str; 4] = ["iproute2", "ethtool", "gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross"];
/// Workloads: a name, MB a second (0 is as fast as it goes), MiB that are written (0: nothing).
const LOADS: [(&str, u64, u64); 3] =
    [("idle", 0, 0), ("40 MB/s over 64 MiB", 40, 64), ("flat out over 256 MiB", 0, 256)];
const STRATEGIES: [&str; 5] = ["auto", "precopy", "hybrid", "postcopy", "stop-and-copy"];

/// Measures machines that change hosts.
#[derive(Parser)]
struct Args {
    /// Install what is needed, by apt
    #[arg(long)]
    setup: bool,
    /// The program; built if left out
    #[arg(long)]
    strata: Option<PathBuf>,
    /// Peers; all that are found if left out
    #[arg(long)]
    qemu: Vec<PathBuf>,
    /// Where the image `busybox` is; the user's home if left out
    #[arg(long)]
    image: Option<PathBuf>,
    /// Memory of the machine, in MiB
    #[arg(long, default_value_t = 1024)]
    memory: u64,
    /// How often each is measured; medians are shown
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only these, by words of their names: `auto,idle`
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where to put the drawing
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// A row: who, doing what, and what came of each round.
pub struct Row {
    who: String,
    load: &'static str,
    rounds: Vec<Option<Figures>>,
}

impl Row {
    /// The median of a figure over the rounds that came to an end.
    fn median(&self, f: impl Fn(&Figures) -> f64) -> Option<f64> {
        let mut all: Vec<f64> = self.rounds.iter().flatten().map(f).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    }

    fn text(&self, memory: u64) -> String {
        let Some(downtime) = self.median(|f| f.downtime) else {
            return format!("| {} | {} | did not finish | | | | |", self.load, self.who);
        };
        let of = |f: fn(&Figures) -> f64| self.median(f).unwrap_or(0.0);
        format!(
            "| {} | {} | {downtime:.1} | {:.1} | {:.1} | {:.0} | {:.2} |",
            self.load,
            self.who,
            of(|f| f.predicted),
            of(|f| f.outage),
            of(|f| f.total),
            of(|f| f.bytes as f64) / (memory << 20) as f64,
        )
    }
}

fn setup() -> Result<()> {
    for args in [&["update"][..], &[&["install", "-y", "--no-install-recommends"], &PACKAGES[..]].concat()] {
        let status = Command::new("apt-get").args(args).status().context("starting apt-get")?;
        ensure!(status.success(), "apt-get {args:?} failed; install {PACKAGES:?} by other means");
    }
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.setup {
        setup()?;
    }
    let strata = args.strata.clone().map_or_else(host::build_strata, Ok)?;
    let peers = qemus::find(&args.qemu)?;
    let image = args
        .image
        .clone()
        .map_or_else(|| Ok(host::store()?.join("images/busybox")), Ok::<_, anyhow::Error>)?;
    let dir = tempfile::tempdir()?;
    let guest = Guest::make(&image, dir.path())?;
    let wires = Wires::make()?;
    println!("{}; load {}; {} MiB, link {}\n", host::describe()?, host::load()?, args.memory, wires::RATE);
    println!(
        "| workload | program | downtime, ms | predicted, ms | outage, ms | total, ms | bytes / memory |"
    );
    println!("|---|---|---|---|---|---|---|");
    let mut rows = Vec::new();
    for (load, rate, set) in LOADS {
        let stage =
            Stage { wires: &wires, guest: &guest, dir: dir.path(), memory: args.memory, load: (rate, set) };
        let wanted =
            |who: &str| args.only.iter().all(|o| load.contains(o.as_str()) || who.contains(o.as_str()));
        let mut measure = |who: String, go: &dyn Fn() -> Result<Option<Figures>>| -> Result<()> {
            if !wanted(&who) {
                return Ok(());
            }
            let mut rounds = Vec::new();
            for _ in 0..args.rounds {
                let done = go();
                if let Err(e) = &done {
                    eprintln!("  {who}, {load}: {e:#}");
                }
                let finished = done.unwrap_or(None);
                let over = finished.is_none();
                rounds.push(finished);
                if over {
                    break;
                }
            }
            let row = Row { who, load, rounds };
            println!("{}", row.text(args.memory));
            rows.push(row);
            Ok(())
        };
        for strategy in STRATEGIES {
            measure(format!("strata, {strategy}"), &|| stage.ours(&strata, strategy))?;
        }
        for peer in &peers {
            for (name, postcopy) in [("pre-copy", false), ("post-copy", true)] {
                measure(format!("QEMU {}, {name}", peer.version), &|| stage.qemu(&peer.program, postcopy))?;
            }
        }
    }
    if let Some(path) = args.svg {
        std::fs::write(&path, plot::svg(&rows)).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
