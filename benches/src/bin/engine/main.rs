//! How fast the engine is: `cargo run --release -p strata-bench --bin engine`.
//!
//! Every class of workload, the same C program, on our engine, on every QEMU there is and natively, interleaved in
//! rounds, so that whatever else the host does meets all. Guests time themselves. Checksums must be equal everywhere;
//! about speed nothing is asserted. The tables go to standard output, progress to standard error.

#![forbid(unsafe_code)]

mod boot;
mod figures;
mod lines;
mod peers;
mod plan;
mod plot;
mod report;
mod toolchain;

use anyhow::{Context, Result};
use boot::Image;
use clap::Parser;
use figures::Figures;
use peers::Peer;
use plan::Kind;
use report::Setting;
use std::path::{Path, PathBuf};
use std::process::Command;
use strata_bench::host::{self, build_strata, load};
use tempfile::TempDir;
use toolchain::Programs;

/// Measures the engine against QEMU and against the host itself.
#[derive(Parser)]
struct Args {
    /// Install the Debian packages that this needs, and do nothing else
    #[arg(long)]
    setup: bool,
    /// Rounds; a figure is the median of them
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Only these workloads
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    only: Vec<String>,
    /// All workloads on machines of 1 or 2 harts, instead of each on as many as it needs
    #[arg(long, value_name = "HARTS", value_parser = clap::value_parser!(u8).range(1..=2))]
    smp: Option<u8>,
    /// Image that boot-debian boots
    #[arg(long, default_value = "debian:13", value_name = "IMAGE")]
    debian: String,
    /// Tier of our engine
    #[arg(long)]
    tier: Option<String>,
    /// Our program, instead of building it
    #[arg(long, value_name = "FILE")]
    strata: Option<PathBuf>,
    /// A qemu-system-riscv64 (may be repeated), instead of all on the PATH and in `cargo xtask tools`'s folder
    #[arg(long, value_name = "FILE")]
    qemu: Vec<PathBuf>,
    /// Write everything there, samples too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the plot there
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Renew the figures and the plot in docs/engine-speed.md
    #[arg(long)]
    docs: bool,
}

/// A machine size and the workloads that run on it.
struct Batch {
    harts: usize,
    names: Vec<&'static str>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.setup {
        return toolchain::setup();
    }
    let chosen = plan::chosen(&args.only)?;
    let scratch = tempfile::tempdir()?;
    let programs = toolchain::build(scratch.path())?;
    let strata = match &args.strata {
        Some(p) => p.clone(),
        None => build_strata()?,
    };
    let busybox = Image::find(&strata, "busybox", ":~# ")?;
    let mut peers = vec![Peer::Ours { program: strata.clone(), tier: args.tier.clone() }];
    peers.extend(peers::qemus(&args.qemu)?);
    peers.push(Peer::Native);
    let mut figures = Figures::new(peers.iter().map(Peer::name).collect());
    let boots = boots(&chosen, &args, &strata, &busybox)?;
    let bench = Bench {
        peers,
        programs,
        kernel: busybox.kernel(),
        batches: batches(&chosen, args.smp),
        boots,
        scratch,
    };
    let before = load()?;
    // What ends a run early does not take the figures with it that are there.
    let outcome = (0..usize::from(args.rounds)).try_for_each(|r| bench.round(r, &mut figures));
    let setting = Setting {
        date: output(Command::new("date").args(["-u", "+%-d %B %Y"]).env("LC_ALL", "C"))?,
        host: host::describe()?,
        rounds: args.rounds.into(),
        compiler: bench.programs.compiler.clone(),
        kernel: busybox.release()?,
        load: [before, load()?],
    };
    write(&args, &figures, &setting, outcome.is_ok())?;
    outcome
}

/// Everything that a round needs.
struct Bench {
    peers: Vec<Peer>,
    programs: Programs,
    kernel: PathBuf,
    batches: Vec<Batch>,
    boots: Vec<(&'static str, Image)>,
    scratch: TempDir,
}

impl Bench {
    fn round(&self, round: usize, figures: &mut Figures) -> Result<()> {
        for batch in &self.batches {
            // Who begins changes, so that nobody always follows the same one.
            for peer in in_turn(&self.peers, round) {
                eprintln!("round {}: {} workloads on {}", round + 1, batch.names.len(), peer.name());
                for lines in peer.measure(&self.programs, &self.kernel, &batch.names, batch.harts)? {
                    figures.add(&peer.name(), &lines)?;
                }
            }
        }
        for (name, image) in &self.boots {
            for peer in in_turn(&self.peers, round).filter(|p| !matches!(p, Peer::Native)) {
                eprintln!("round {}: {name} on {}", round + 1, peer.name());
                let took = image.boot(peer, self.scratch.path())?;
                figures.add_time(&peer.name(), name, took.as_secs_f64());
            }
        }
        Ok(())
    }
}

fn in_turn(peers: &[Peer], round: usize) -> impl Iterator<Item = &Peer> {
    peers.iter().cycle().skip(round % peers.len()).take(peers.len())
}

/// The workloads of the program by machine size; those that need two harts are left out of a machine of one.
fn batches(chosen: &[plan::Workload], smp: Option<u8>) -> Vec<Batch> {
    let of = |kinds: &[Kind], harts| {
        let names = chosen.iter().filter(|(_, k)| kinds.contains(k)).map(|(n, _)| *n).collect();
        Batch { harts, names }
    };
    let mut all = match smp {
        None => vec![of(&[Kind::Single], 1), of(&[Kind::Double], 2)],
        Some(2) => vec![of(&[Kind::Single, Kind::Double], 2)],
        Some(_) => vec![of(&[Kind::Single], 1)],
    };
    all.retain(|b| !b.names.is_empty());
    all
}

fn boots(
    chosen: &[plan::Workload],
    args: &Args,
    strata: &Path,
    busybox: &Image,
) -> Result<Vec<(&'static str, Image)>> {
    let kinds = chosen.iter().filter(|(_, k)| *k == Kind::Boot);
    kinds
        .map(|(name, _)| {
            let image = match *name {
                plan::LONG => Image::find(strata, &args.debian, "login: ")?,
                _ => Image::clone(busybox),
            };
            Ok((*name, image))
        })
        .collect()
}

fn write(args: &Args, figures: &Figures, setting: &Setting, whole: bool) -> Result<()> {
    let table = report::markdown(figures, setting);
    println!("{table}");
    let title = format!("{} against {}, {}", figures.peers[0], figures.peers[1..].join(", "), setting.date);
    let plot = plot::svg(figures, &title);
    if let Some(path) = &args.json {
        std::fs::write(path, format!("{:#}\n", report::json(figures, setting)))?;
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, &plot)?;
    }
    if args.docs && whole {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
        let page = docs.join("engine-speed.md");
        let text = std::fs::read_to_string(&page)?;
        std::fs::write(page, renewed(&text, &table)?)?;
        std::fs::write(docs.join("engine-speed.svg"), plot)?;
    }
    Ok(())
}

/// The page with `table` between its two marks.
fn renewed(page: &str, table: &str) -> Result<String> {
    const MARKS: [&str; 2] = ["<!-- figures -->\n", "<!-- end of figures -->\n"];
    let (head, rest) = page.split_once(MARKS[0]).context("the page has no mark where figures begin")?;
    let (_, tail) = rest.split_once(MARKS[1]).context("the page has no mark where figures end")?;
    Ok(format!("{head}{}\n{table}\n{}{tail}", MARKS[0], MARKS[1]))
}

fn output(c: &mut Command) -> Result<String> {
    let out = c.output().with_context(|| format!("starting {c:?}"))?;
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_workload_gets_a_machine_with_the_harts_it_needs() {
        let chosen = plan::chosen(&["fib".into(), "pipe2".into(), "boot-busybox".into()]).unwrap();
        let sizes = |smp| {
            let all = batches(&chosen, smp);
            all.into_iter().map(|b| (b.harts, b.names)).collect::<Vec<_>>()
        };
        assert_eq!(sizes(None), [(1, vec!["fib"]), (2, vec!["pipe2"])]);
        assert_eq!(sizes(Some(1)), [(1, vec!["fib"])]);
        assert_eq!(sizes(Some(2)), [(2, vec!["fib", "pipe2"])]);
    }

    #[test]
    fn figures_are_renewed_between_their_marks() {
        let page = "a\n<!-- figures -->\nold\n<!-- end of figures -->\nb\n";
        let new = renewed(page, "new\n").unwrap();
        assert_eq!(new, "a\n<!-- figures -->\n\nnew\n\n<!-- end of figures -->\nb\n");
        assert_eq!(renewed(&new, "new\n").unwrap(), new);
        assert!(renewed("a", "new").is_err());
    }
}
