//! What a list of hot paths gains: `cargo run --release -p strata-bench --bin warm`, after `cargo build --release`.
//!
//! An instance is started with its list and without, in turn, until its prompt stands on the console. Where the prompt is a
//! shell's, clones of a snapshot are made with its list and without, and given the same work at once; what the work takes
//! in a clone that has done it before is what they come to.
//!
//! Deliberately not here: machines of a kind that is not a user's. It drives the program as people do.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const NAME: &str = "bench-warm";
const CLONE: &str = "bench-warm-clone";
const LIMIT: Duration = Duration::from_secs(600);
/// Programs started, text searched, numbers counted: much code, each piece of it for a short time.
const WORK: &str = "for i in $(seq 60); do uname -a | sed s/a/b/g | sha256sum | cut -c1-8 >/dev/null; done; \
    dmesg | grep -c e >/dev/null; ls -lR /proc/self /etc 2>/dev/null | sort | md5sum >/dev/null; echo wor''ked";
const WORKED: &str = "worked";

/// Measures what a list of hot paths gains.
#[derive(Parser)]
struct Args {
    /// An image as `strata image` knows it
    #[arg(long, default_value = "busybox", value_name = "NAME")]
    image: String,
    /// What its console says when it is up
    #[arg(long, default_value = ":~# ", value_name = "TEXT")]
    prompt: String,
    /// Times that each is measured
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
}

/// A `strata` whose console is in our hands.
struct Console {
    child: Child,
    input: ChildStdin,
    output: Receiver<(Instant, Vec<u8>)>,
    seen: Vec<u8>,
}

fn strata() -> Result<Command> {
    let ours = std::env::current_exe()?;
    let program: PathBuf = ours.with_file_name("strata");
    ensure!(program.exists(), "{} is not there: cargo build --release", program.display());
    Ok(Command::new(program))
}

/// Runs a command to its end.
fn done(words: &[&str]) -> Result<()> {
    let out = strata()?.args(words).stdin(Stdio::null()).output()?;
    ensure!(out.status.success(), "strata {words:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

impl Console {
    fn open(words: &[&str]) -> Result<Console> {
        let mut command = strata()?;
        command.args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let (input, mut out) = child.stdin.take().zip(child.stdout.take()).context("its streams")?;
        let (send, output) = channel();
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            while let Ok(n @ 1..) = out.read(&mut buf) {
                if send.send((Instant::now(), buf[..n].to_vec())).is_err() {
                    break;
                }
            }
        });
        Ok(Console { child, input, output, seen: Vec::new() })
    }

    /// When `text` stood on it.
    fn wait_for(&mut self, text: &str) -> Result<Instant> {
        let until = Instant::now() + LIMIT;
        loop {
            let Ok((when, bytes)) = self.output.recv_timeout(until.saturating_duration_since(Instant::now()))
            else {
                bail!("no {text:?} on the console:\n{}", String::from_utf8_lossy(&self.seen));
            };
            self.seen.extend(bytes);
            if let Some(at) = self.seen.windows(text.len()).position(|w| w == text.as_bytes()) {
                self.seen.drain(..at + text.len());
                return Ok(when);
            }
        }
    }

    fn send(&mut self, line: &str) -> Result<()> {
        Ok(writeln!(self.input, "{line}")?)
    }

    /// Waits until what it is of has ended.
    fn ended(mut self) -> Result<()> {
        self.child.wait()?;
        Ok(())
    }
}

/// Seconds of the host's processors that our children have used which have ended, in hundredths.
fn spent() -> Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after = stat.rsplit(')').next().context("its fields")?;
    let fields: Vec<f64> = after.split_whitespace().skip(13).take(2).filter_map(|f| f.parse().ok()).collect();
    Ok(fields.iter().sum::<f64>() / 100.0)
}

/// Seconds of the host's processors that the process of a machine has used.
fn ran(name: &str) -> Result<f64> {
    let dir = std::env::var_os("XDG_RUNTIME_DIR").map(|d| PathBuf::from(d).join("strata"));
    let other = format!("/tmp/strata-{}", rustix::process::getuid().as_raw()).into();
    let lock = dir.filter(|d| d.exists()).unwrap_or(other).join(format!("{name}.lock"));
    let lock: serde_json::Value = serde_json::from_slice(&std::fs::read(lock)?)?;
    let mut all = 0;
    for thread in std::fs::read_dir(format!("/proc/{}/task", lock["pid"]))? {
        let text = std::fs::read_to_string(thread?.path().join("schedstat"))?;
        all += text.split(' ').next().context("its time")?.parse::<u64>()?;
    }
    Ok(all as f64 / 1e9)
}

/// Where an instance of the user's is kept.
fn folder(name: &str) -> Result<PathBuf> {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    let home = var("STRATA_HOME")
        .or_else(|| var("XDG_STATE_HOME").map(|p| p.join("strata")))
        .or_else(|| var("HOME").map(|p| p.join(".local/state/strata")))
        .context("neither STRATA_HOME nor HOME is set")?;
    Ok(home.join("instances").join(name))
}

/// Seconds, in order.
#[derive(Default)]
struct Samples(Vec<f64>);

impl Samples {
    fn row(&mut self, name: &str) {
        self.0.sort_by(f64::total_cmp);
        let Some((first, last)) = self.0.first().zip(self.0.last()) else { return };
        println!("| {name} | {:.3} | {first:.3} to {last:.3} |", self.0[self.0.len() / 2]);
    }
}

/// A start, until the prompt: seconds, and seconds of processors until its end.
fn start(prompt: &str) -> Result<(f64, f64)> {
    let (before, begun) = (spent()?, Instant::now());
    let mut c = Console::open(&["start", NAME])?;
    let up = c.wait_for(prompt)?;
    done(&["stop", NAME])?;
    c.ended()?;
    Ok(((up - begun).as_secs_f64(), spent()? - before))
}

/// A clone with work: seconds until it is done; those of processors; and those for the same again.
fn clone() -> Result<[f64; 3]> {
    let begun = Instant::now();
    done(&["clone", &format!("{NAME}@one"), CLONE])?;
    let mut c = Console::open(&["console", CLONE])?;
    c.send(WORK)?;
    let took = (c.wait_for(WORKED)? - begun).as_secs_f64();
    let first = ran(CLONE)?;
    c.send(WORK)?;
    c.wait_for(WORKED)?;
    let again = ran(CLONE)? - first;
    done(&["stop", CLONE])?;
    c.ended()?;
    done(&["delete", CLONE])?;
    Ok([took, first, again])
}

fn measure(args: &Args) -> Result<()> {
    let list = folder(NAME)?.join("hot-paths");
    // A disk is not as new any more after this, in no later start.
    let mut c = Console::open(&["run", &args.image, "--name", NAME, "--net", "none"])?;
    c.wait_for(&args.prompt)?;
    done(&["stop", NAME])?;
    c.ended()?;
    // As a second list is: with what the first run has left.
    start(&args.prompt)?;
    let kept = std::fs::read(&list).context("the list of the first runs")?;
    println!("{}, list of {} KiB\n\n| | median, s | from, to |\n|---|---|---|", args.image, kept.len() >> 10);
    let mut all: [Samples; 4] = Default::default();
    let [cold, cold_cpu, warm, warm_cpu] = &mut all;
    for _ in 0..args.rounds {
        std::fs::remove_file(&list)?;
        let (s, cpu) = start(&args.prompt)?;
        cold.0.push(s);
        cold_cpu.0.push(cpu);
        std::fs::write(&list, &kept)?;
        let (s, cpu) = start(&args.prompt)?;
        warm.0.push(s);
        warm_cpu.0.push(cpu);
    }
    cold.row("start without a list, to the prompt");
    warm.row("start with a list");
    cold_cpu.row("processor time without, to the end");
    warm_cpu.row("processor time with");
    if !args.prompt.ends_with("# ") {
        return Ok(());
    }
    let mut c = Console::open(&["start", NAME])?;
    c.wait_for(&args.prompt)?;
    c.send(WORK)?;
    c.wait_for(WORKED)?;
    done(&["snapshot", "create", NAME, "one"])?;
    done(&["stop", NAME])?;
    c.ended()?;
    let of_set = folder(NAME)?.join("snapshots/one/hot-paths");
    let kept = std::fs::read(&of_set).context("the snapshot's list")?;
    let [mut cold, mut warm]: [[Samples; 3]; 2] = Default::default();
    let add = |to: &mut [Samples; 3]| -> Result<()> {
        to.iter_mut().zip(clone()?).for_each(|(samples, s)| samples.0.push(s));
        Ok(())
    };
    for _ in 0..args.rounds {
        std::fs::remove_file(&of_set)?;
        add(&mut cold)?;
        std::fs::write(&of_set, &kept)?;
        add(&mut warm)?;
    }
    for (what, samples) in [("without", &mut cold), ("with", &mut warm)] {
        let [took, first, again] = samples;
        took.row(&format!("clone {what} a list, until its work is done"));
        first.row("processor time of that");
        again.row("processor time of the same work again");
    }
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    let remove = || {
        for name in [CLONE, NAME] {
            // What is not there, or does not run, needs neither.
            let _ = done(&["stop", name]);
            let _ = done(&["delete", "--snapshots", name]);
        }
    };
    // Of a run that was broken off.
    remove();
    let measured = measure(&args);
    remove();
    measured
}
