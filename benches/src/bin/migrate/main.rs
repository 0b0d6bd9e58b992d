//! Machines that change hosts: Strata's strategies and QEMU's, in turn, over the same shaped link, with the same guest.
//!
//! ```text
//!  wires    hosts as network namespaces, and the links between    guest    kernel, writer, console
//!  sides    what is measured    ours, qemu    on either program    probe    what a peer sees of it
//!  pace     what the guest gets done meanwhile                     rows, plot, lines    the figures as a table and drawn
//! ```
//! Downtime is what the program says of itself; the outage is seen from outside, by an echo each half millisecond; bytes are
//! those that the source's interface has sent, with all headers (on loopback: those of both directions). What the migration
//! costs the guest is in the last three columns: [`pace`] says what they mean. The destination has kernel and initial RAM
//! disk before, whichever program it is: as files of its command line, or in an image. Needs root: `--setup` installs the
//! rest.

mod guest;
mod lines;
mod ours;
mod pace;
mod plot;
mod probe;
mod qemu;
mod rows;
mod sides;
mod wires;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use guest::{Guest, Load};
use rows::Row;
use sides::{Figures, Stage};
use std::path::PathBuf;
use std::process::Command;
use strata_bench::{host, qemus};
use wires::Wires;

/// What both programs need here, as Debian calls it.
const PACKAGES: [&str; 4] = ["iproute2", "ethtool", "gcc-riscv64-linux-gnu", "libc6-dev-riscv64-cross"];
/// Workloads. An idle guest writes a page a hundred times a second, so that it can be heard.
const LOADS: [Load; 5] = [
    Load { name: "idle Debian with its disk, on loopback", rate: "0.4", set: 0, near: true, whole: true },
    Load { name: "idle, on loopback", rate: "0.4", set: 0, near: true, whole: false },
    Load { name: "idle", rate: "0.4", set: 0, near: false, whole: false },
    Load { name: "40 MB/s over 64 MiB", rate: "40", set: 64, near: false, whole: false },
    Load { name: "flat out over 256 MiB", rate: "0", set: 256, near: false, whole: false },
];
/// The workload whose pace is drawn.
const DRAWN: &str = "flat out over 256 MiB";
/// How Strata sends it.
const STRATEGIES: [&str; 6] =
    ["auto", "precopy", "precopy --throttle", "hybrid", "postcopy", "stop-and-copy"];

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
    /// Where an image of Debian is; `debian:13` of the user's home if left out, and no whole Debian without one
    #[arg(long)]
    debian: Option<PathBuf>,
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
    /// Where to put all figures of all rounds
    #[arg(long)]
    json: Option<PathBuf>,
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
    let of_home = |given: &Option<PathBuf>, name: &str| {
        given.clone().map_or_else(|| Ok(host::store()?.join("images").join(name)), Ok::<_, anyhow::Error>)
    };
    let image = of_home(&args.image, "busybox")?;
    let debian = of_home(&args.debian, "debian:13")?;
    let dir = tempfile::tempdir()?;
    let guest = Guest::make(&image, Some(&*debian).filter(|d| d.is_dir()), dir.path())?;
    let wires = Wires::make()?;
    println!("{}; load {}; {} MiB, link {}\n", host::describe()?, host::load()?, args.memory, wires::RATE);
    println!("{}", rows::HEAD);
    let mut rows = Vec::new();
    for load in &LOADS {
        let way = if load.near { wires.near() } else { wires.far() };
        let stage = Stage { way, guest: &guest, dir: dir.path(), memory: args.memory, load };
        let name = load.name;
        let wanted =
            |who: &str| args.only.iter().all(|o| name.contains(o.as_str()) || who.contains(o.as_str()));
        let mut measure = |who: String, go: &dyn Fn() -> Result<Option<Figures>>| -> Result<()> {
            if !wanted(&who) || load.whole && guest.debian.is_none() {
                return Ok(());
            }
            let mut rounds = Vec::new();
            for _ in 0..args.rounds {
                let done = go();
                if let Err(e) = &done {
                    eprintln!("  {who}, {name}: {e:#}");
                }
                let finished = done.unwrap_or(None);
                let over = finished.is_none();
                rounds.push(finished);
                if over {
                    break;
                }
            }
            let row = Row { who, load: name, rounds };
            println!("{}", row.text(args.memory));
            rows.push(row);
            Ok(())
        };
        for strategy in STRATEGIES {
            let how = format!("--strategy {strategy}");
            measure(format!("strata, {strategy}"), &|| stage.ours(&strata, &how))?;
        }
        // What is asked of a whole Debian are times, and no ratio.
        for peer in peers.iter().filter(|_| !load.whole) {
            for (name, postcopy) in [("pre-copy", false), ("post-copy", true)] {
                measure(format!("QEMU {}, {name}", peer.version), &|| stage.qemu(&peer.program, postcopy))?;
            }
        }
    }
    if let Some(path) = args.svg {
        std::fs::write(&path, plot::svg(&rows, DRAWN))
            .with_context(|| format!("writing {}", path.display()))?;
    }
    if let Some(path) = args.json {
        let all: Vec<_> = rows.iter().map(Row::json).collect();
        std::fs::write(&path, serde_json::to_vec_pretty(&all)?)
            .with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}
