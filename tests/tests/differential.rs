//! QEMU and each tier of our engine run the same random programs and must leave the same logs.
//!
//! A program's slots run once each, so the translator translates them before they run. What it makes of code that gets
//! hot, and of paths over many blocks, `crates/translator/src/tests` compares with the interpreter.
//!
//! `STRATA_DIFF_INSTRUCTIONS` is how many instructions to test (10^6 without it), `STRATA_DIFF_SEED` the first
//! program's seed: a mismatch names the seed of its program, and `STRATA_DIFF_INSTRUCTIONS=1` then runs only that.
//! `STRATA_DIFF_STOP` ends a program after that slot: halving it finds what only showed in memory at the end.

use anyhow::Result;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};
use strata_e2e::diff::compare;
use strata_e2e::diff::coverage::Coverage;
use strata_e2e::diff::exceptions::EXCEPTIONS;
use strata_e2e::diff::image::{Image, harness};
use strata_e2e::diff::layout::MAX_SLOTS;
use strata_e2e::diff::run::{on_qemu, on_soft};
use strata_e2e::diff::slots::Filters;
use strata_e2e::soft::TIERS;
use strata_e2e::tools;
use strata_machine::{Tier, TranslatorOptions};

/// Every row completes at least this often in 10^6 instructions.
const LEAST: u64 = 100;

/// Mismatches shown of one program, and of all.
const SHOWN: usize = 8;

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.unwrap_or(default)
}

/// The tiers compared: the reference, and everything translated with room and, in every fourth program, without.
fn tiers(seed: u64) -> impl Iterator<Item = (&'static str, Tier)> {
    let crowded = Tier::Tuned(TranslatorOptions { hot: 0, awaited: 0, code_size: 0 });
    let ahead = if seed.is_multiple_of(4) { ("translator, crowded", crowded) } else { TIERS[2] };
    [TIERS[0], ahead].into_iter()
}

#[derive(Default)]
struct Total {
    coverage: Coverage,
    excepted: Vec<u64>,
    reports: Vec<String>,
    qemu: Duration,
    ours: [Duration; 2],
}

fn one(harness: &[u8], filters: &Filters, seed: u64, slots: usize, total: &Mutex<Total>) -> Result<()> {
    let stop = std::env::var("STRATA_DIFF_STOP").ok().and_then(|n| n.parse::<usize>().ok());
    let image = Image::new(harness, filters, seed, slots, stop);
    let qemu = on_qemu(&image)?;
    for (n, (name, tier)) in tiers(seed).enumerate() {
        let ours = on_soft(&image, tier)?;
        let found = compare::logs(&image, &qemu, &ours, EXCEPTIONS, SHOWN);
        let mut t = total.lock().unwrap();
        t.ours[n] += ours.time;
        let mut report = |what: String| t.reports.push(format!("{name}: {what}"));
        found.mismatches.iter().for_each(|m| report(compare::explain(&image, &qemu, &ours, m)));
        if found.mismatches.is_empty()
            && let Some((at, q, o)) = compare::memory(&qemu, &ours)
        {
            let place = compare::place(at);
            let end = compare::Mismatch { slot: image.slots.len() - 1, words: Vec::new() };
            let last = stop.map(|_| compare::explain(&image, &qemu, &ours, &end)).unwrap_or_default();
            report(format!("seed {seed:#x}: at the end {place} is {q:#x} on QEMU, {o:#x} here\n{last}"));
        }
        // What the first has executed, and what it was excused for, counts.
        if n == 0 {
            t.coverage.add(&image, &ours.log);
            t.excepted.resize(EXCEPTIONS.len(), 0);
            t.excepted.iter_mut().zip(&found.excepted).for_each(|(a, b)| *a += b);
            t.qemu += qemu.time;
        }
    }
    Ok(())
}

#[test]
fn all_engines_leave_the_same_log() -> Result<()> {
    if !tools::have(&[tools::QEMU, tools::GCC, tools::OBJCOPY]) {
        return Ok(());
    }
    let instructions = number("STRATA_DIFF_INSTRUCTIONS", 1_000_000);
    let first = number("STRATA_DIFF_SEED", 0x57a7a);
    let slots = number("STRATA_DIFF_SLOTS", MAX_SLOTS as u64) as usize;
    let (harness, filters, start) = (harness()?, Filters::default(), Instant::now());
    let (next, total) = (AtomicU64::new(0), Mutex::new(Total::default()));
    let failed: Mutex<Option<anyhow::Error>> = Mutex::new(None);
    let busy = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(|| {
                loop {
                    let enough = {
                        let t = total.lock().unwrap();
                        let under_way = (busy.load(Relaxed) * slots) as u64;
                        t.coverage.instructions + under_way >= instructions || t.reports.len() >= SHOWN
                    };
                    if enough || failed.lock().unwrap().is_some() {
                        return;
                    }
                    busy.fetch_add(1, Relaxed);
                    let seed = first + next.fetch_add(1, Relaxed);
                    let done = one(&harness, &filters, seed, slots, &total);
                    busy.fetch_sub(1, Relaxed);
                    if let Err(why) = done {
                        *failed.lock().unwrap() = Some(why);
                    }
                }
            });
        }
    });
    let t = total.into_inner()?;
    if failed.lock().unwrap().is_none() {
        eprintln!("{}", t.coverage.table());
    }
    eprintln!(
        "{:?} in all; QEMU {:?}, interpreter {:?}, translator {:?} (of processors' time, two at once)",
        start.elapsed(),
        t.qemu,
        t.ours[0],
        t.ours[1]
    );
    for (e, n) in EXCEPTIONS.iter().zip(&t.excepted) {
        eprintln!("meant: {n} times {}", e.why);
    }
    for report in t.reports.iter().take(SHOWN) {
        eprintln!("{report}");
    }
    if let Some(why) = failed.into_inner()? {
        return Err(why);
    }
    assert!(t.reports.is_empty(), "{} differences that nothing explains", t.reports.len());
    if instructions >= 1_000_000 {
        let lacking = t.coverage.lacking(LEAST);
        assert!(lacking.is_empty(), "hardly executed: {lacking:?}");
    }
    Ok(())
}
