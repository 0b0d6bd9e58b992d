//! How fast the same programs run on our engine and on QEMU: `cargo run --release -p strata-bench --bin interpreter`.
//!
//! Runs are interleaved, so that whatever else the host does meets both; the figure is the median of five with its
//! spread. The guest times its own kernel by MTIME, so that neither start-up counts. Instructions are ours, retired.

use anyhow::{Context, Result, bail, ensure};
use std::time::Duration;
use strata_e2e::{guest, qemu, soft};
use strata_machine::{Exit, Tier};

const KERNELS: [&str; 6] = ["mix", "qsort", "sieve", "fib", "sha256", "memcpy"];
const RUNS: usize = 5;
const LIMIT: Duration = Duration::from_secs(120);

/// Checksum, and seconds that the kernel took, from what it printed.
fn figures(output: &[u8]) -> Result<(u64, f64)> {
    let text = String::from_utf8_lossy(output);
    let words: Vec<&str> = text.split_whitespace().collect();
    let [_, sum, ticks] = words[..] else { bail!("the program printed {text:?}") };
    Ok((sum.parse()?, ticks.parse::<f64>()? / 1e7))
}

/// Median and spread (largest less smallest, as a part of the median).
fn median(mut times: Vec<f64>) -> (f64, f64) {
    times.sort_by(f64::total_cmp);
    let m = times[times.len() / 2];
    (m, (times[times.len() - 1] - times[0]) / m)
}

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let tmp = tempfile::tempdir()?;
    println!("kernel     instructions     ours s (spread)      MIPS    QEMU s (spread)   ours/QEMU");
    for kernel in KERNELS.iter().filter(|k| wanted.is_empty() || wanted.iter().any(|w| w == *k)) {
        let elf = tmp.path().join(kernel);
        let sources = ["start.S", "trap.c", "bench/bench.c"];
        guest::build(&sources, &[&format!("-DKERNEL={kernel}"), "-Wno-unused-function"], &elf)?;
        let (mut ours, mut other, mut retired) = (Vec::new(), Vec::new(), 0);
        for _ in 0..RUNS {
            let run = soft::run_machine(Tier::Interpreter, &elf, 1, LIMIT).context("on our machine")?;
            ensure!(run.exit == Exit::PowerOff(0), "{kernel} ended with {:?}", run.exit);
            let (status, output) = qemu::run_virt(&elf, 1, LIMIT).context("on QEMU")?;
            ensure!(status.success(), "{kernel} ended on QEMU with {status}");
            let ((a, ours_s), (b, qemu_s)) = (figures(&run.output)?, figures(&output)?);
            ensure!(a == b, "{kernel}: checksum {a} here, {b} on QEMU");
            retired = run.retired;
            ours.push(ours_s);
            other.push(qemu_s);
        }
        let ((o, os), (q, qs)) = (median(ours), median(other));
        let mips = retired as f64 / o / 1e6;
        println!(
            "{kernel:<10} {retired:>12}    {o:>7.3} ({:>3.0} %)     {mips:>6.0}    {q:>7.3} ({:>3.0} %)      {:>6.2}",
            os * 100.0,
            qs * 100.0,
            o / q
        );
    }
    Ok(())
}
