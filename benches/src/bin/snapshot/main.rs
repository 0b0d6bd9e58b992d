//! How fast a machine becomes files and a machine again: `cargo run --release -p strata-bench --bin snapshot`.
//!
//! A machine of 1 GiB is booted from an image, saved, restored and cloned, by our program as a person uses it and by every
//! QEMU there is, in one run. Nothing is asserted about speed. Tables go to standard output, progress to standard error.

#![forbid(unsafe_code)]

mod guest;
mod memory;
mod ours;
mod qemu;
mod report;

use anyhow::Result;
use clap::Parser;
use report::Figures;
use std::path::PathBuf;
use strata_bench::{host, qemus};

/// Measures snapshots, restores and clones, also against QEMU.
#[derive(Parser)]
struct Args {
    /// Rounds; a figure is the median of them
    #[arg(long, default_value_t = 10, value_name = "N")]
    rounds: usize,
    /// Clones made at once; 0 for none
    #[arg(long, default_value_t = 100, value_name = "N")]
    clones: usize,
    /// Processors of the machine
    #[arg(long, default_value_t = 1, value_name = "N")]
    cpus: u32,
    /// Images; the first that has been pulled is taken
    #[arg(long, value_delimiter = ',', default_values_t = ["debian:13".to_owned(), "busybox".to_owned()])]
    image: Vec<String>,
    /// Our program, instead of building it
    #[arg(long, value_name = "FILE")]
    strata: Option<PathBuf>,
    /// A qemu-system-riscv64 (may be repeated), instead of all on the PATH and in `cargo xtask tools`'s folder
    #[arg(long, value_name = "FILE")]
    qemu: Vec<PathBuf>,
    /// Measure only our program
    #[arg(long)]
    alone: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let strata = match &args.strata {
        Some(p) => std::path::absolute(p)?,
        None => host::build_strata()?,
    };
    let image = guest::Image::find(&args.image)?;
    let found = if args.alone { Vec::new() } else { qemus::find(&args.qemu)? };
    let before = host::load()?;

    let (ours, mut figures) = (ours::Ours::new(&strata, &image, args.cpus)?, Figures::default());
    eprintln!("strata: booting {}", image.name);
    ours.begin(&image, &mut figures)?;
    for round in 1..=args.rounds {
        eprintln!("strata: round {round}");
        ours.restore(&mut figures)?;
        ours.suspend(&mut figures)?;
    }
    for round in 1..=args.rounds.min(5) {
        eprintln!("strata: round {round} from disk");
        ours.cold(&mut figures)?;
    }
    if args.clones > 0 {
        eprintln!("strata: {} clones", args.clones);
        ours.clones(args.clones, &mut figures)?;
    }
    drop(ours);

    let mut peers = Vec::new();
    for found in &found {
        let (peer, ways) = (qemu::Peer::new(found, &image, args.cpus)?, qemu::Way::of(found));
        let mut all = vec![Figures::default(); ways.len()];
        eprintln!("QEMU {}: booting and saving", found.version);
        peer.keep(&ways, args.rounds.min(3), &mut all)?;
        for (way, mut figures) in ways.into_iter().zip(all) {
            eprintln!("QEMU {}: {}", found.version, way.name());
            for _ in 0..args.rounds {
                // Some versions bring a machine back that does not answer; that is theirs, and no reason to end here.
                if let Err(e) = peer.restore(way, &mut figures) {
                    eprintln!("QEMU {}, {}: {e:#}", found.version, way.name());
                    break;
                }
            }
            peers.push((format!("QEMU {} {}", found.version, way.name()), figures));
        }
    }
    let (machine, load) = (host::describe()?, host::load()?);
    println!(
        "{} with 1 GiB and {} CPU on {machine}, load {before} before and {load} after:",
        image.name, args.cpus
    );
    println!("\n{}", figures.table());
    if !peers.is_empty() {
        println!("{}", report::ratios(&figures, &peers));
    }
    Ok(())
}
