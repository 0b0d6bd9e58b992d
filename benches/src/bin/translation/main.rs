//! What translation costs, and for how long it ever holds a guest up:
//! `cargo run --release -p strata-bench --bin translation`.
//!
//! ```text
//!   cost.rs     nanoseconds for a guest instruction: of a kernel's boot, and of code that runs once
//!   pauses.rs   all code dropped, doubted, compared; all translations of addresses forgotten
//!   guests.rs   programs made for that, and harts on almost nothing that run them
//! ```
//! The translator counts by itself (`strata_translator::figures`). Each thing is done several times, and the median of the
//! longest pauses is told beside the longest of all: on a host that does other things too, that one is the scheduler's.

#![forbid(unsafe_code)]

mod cost;
mod guests;
mod pauses;

use anyhow::Result;
use clap::Parser;
use std::path::PathBuf;

/// Measures what translation costs, and how long it holds a guest up.
#[derive(Parser)]
struct Args {
    /// Times that each pause is measured
    #[arg(long, default_value_t = 9, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Folder of a Linux image as `strata image` keeps it, whose boot is measured
    #[arg(long, value_name = "FOLDER")]
    image: Option<PathBuf>,
    /// Text on its console that ends the boot
    #[arg(long, default_value = ":~# ", value_name = "TEXT")]
    prompt: String,
}

fn main() -> Result<()> {
    let args = Args::parse();
    println!(
        "| code | paths | guest instructions | a path | host bytes an instruction | ns an instruction | of these, writing the path down |"
    );
    println!("|---|---|---|---|---|---|---|");
    match &args.image {
        Some(image) => cost::boot(image, &args.prompt)?,
        None => eprintln!("no --image FOLDER: a boot is not measured"),
    }
    cost::once()?;
    println!("\n| what | of | median, µs | longest, µs |");
    println!("|---|---|---|---|");
    pauses::all(args.rounds.into())
}
