//! Deterministic machines repeat, whatever runs their harts: the same state every 2^20 instructions, the same RAM and
//! output at the end, from run to run, from tier to tier, and however early the translator translates or little it keeps.
//!
//! `STRATA_DIGEST_ROUNDS` lengthens the guest's work, for soaks.

use anyhow::{Result, ensure};
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::{Read, Seek};
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;
use strata_e2e::{guest, soft, tools};
use strata_engine::hot::HotPaths;
use strata_machine::{Exit, Machine, Phase, Tier, TranslatorOptions};

/// Instructions between two digests.
const STEP: u64 = 1 << 20;
const RAM: u64 = 0x8000_0000;
/// What of RAM the guest uses.
const RAM_USED: usize = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);

fn digest(bytes: impl Hash) -> u64 {
    let mut h = DefaultHasher::new();
    bytes.hash(&mut h);
    h.finish()
}

/// The state of each part of a machine, as a number.
type Moment = Vec<(String, u64)>;

#[derive(PartialEq, Eq)]
struct History {
    moments: Vec<Moment>,
    count: Option<u64>,
    ram: u64,
    output: Vec<u8>,
}

fn moment(m: &Machine) -> Result<Moment> {
    Ok(m.save()?.into_iter().map(|(name, bytes)| (name, digest(bytes))).collect())
}

/// As [`warm_history`], without a list.
fn history(tier: Tier, program: &Path, step: u64) -> Result<History> {
    warm_history(&HotPaths::default(), tier, program, step)
}

/// One whole run that begins with `paths`; `steps` are instructions between two stops, of which those at multiples of [`STEP`] are noted.
fn warm_history(paths: &HotPaths, tier: Tier, program: &Path, step: u64) -> Result<History> {
    let (m, mut printed) = soft::machine(tier, program, 2, true)?;
    m.warm(paths.clone());
    // One that hangs is stopped, which its exit then tells.
    let (done, wait) = channel::<()>();
    let watched = m.clone();
    let watchdog = std::thread::spawn(move || {
        if wait.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
            watched.stop();
        }
    });
    let mut moments = Vec::new();
    let mut started = false;
    for at in (1..).map(|n| n * step) {
        m.pause_at(at)?;
        if started {
            m.unpause().map(drop)?
        } else {
            m.start()?
        }
        started = true;
        if m.wait_pause() != Phase::Paused {
            break;
        }
        ensure!(m.count() == Some(at), "stopped at {:?}, not at {at}", m.count());
        if at % STEP == 0 {
            moments.push(moment(&m)?);
        }
    }
    let exit = m.wait();
    drop(done);
    let _ = watchdog.join();
    ensure!(exit == Exit::PowerOff(0), "ended with {exit:?}");
    moments.push(moment(&m)?);
    let mut ram = vec![0; RAM_USED];
    m.ram().peek(RAM, &mut ram)?;
    let count = m.count();
    drop(m);
    let mut output = Vec::new();
    printed.rewind()?;
    printed.read_to_end(&mut output)?;
    Ok(History { moments, count, ram: digest(ram), output })
}

/// Says where two histories part.
fn same(a: &History, b: &History, what: &str) -> Result<()> {
    for (n, (a, b)) in a.moments.iter().zip(&b.moments).enumerate() {
        let parts: Vec<_> = a.iter().zip(b).filter(|(a, b)| a != b).map(|(a, _)| &a.0).collect();
        ensure!(parts.is_empty(), "{what}: {parts:?} differ at digest {n}, each {STEP} instructions");
    }
    ensure!(a == b, "{what}: counts {:?} and {:?}, RAM {:x} and {:x}", a.count, b.count, a.ram, b.ram);
    Ok(())
}

#[test]
fn a_run_repeats_on_every_tier() -> Result<()> {
    if !tools::have(&[tools::GCC]) {
        return Ok(());
    }
    let rounds = std::env::var("STRATA_DIGEST_ROUNDS").unwrap_or_else(|_| "2000".into());
    let tmp = tempfile::tempdir()?;
    let elf = tmp.path().join("steady");
    guest::build(&["start.S", "trap.c", "steady.c"], &[&format!("-DROUNDS={rounds}")], &elf)?;
    let first = history(Tier::Interpreter, &elf, STEP)?;
    ensure!(first.moments.len() > 4 && first.output.len() > 60, "{} digests", first.moments.len());
    let at_once = Tier::Tuned(TranslatorOptions { hot: 1, awaited: 0, ..TranslatorOptions::default() });
    let again = [("interpreter again", Tier::Interpreter), ("translator, at once", at_once)];
    for (name, tier) in again.into_iter().chain(soft::TIERS.into_iter().skip(1)) {
        same(&first, &history(tier, &elf, STEP)?, name)?;
    }
    // What was hot in another run is translated before it has run.
    let (m, _) = soft::machine(Tier::Translator, &elf, 2, true)?;
    m.start()?;
    m.wait();
    let paths = m.hot_paths();
    ensure!(!paths.is_empty(), "nothing was hot");
    same(&first, &warm_history(&paths, Tier::Translator, &elf, STEP)?, "translator, warm")?;
    // Stops in between are not seen.
    same(&first, &history(Tier::Translator, &elf, STEP / 64)?, "translator, with 64 times the stops")
}
