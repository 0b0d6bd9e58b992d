//! Snapshots of a machine that goes on writing: `cargo run --release -p strata-bench --bin live`.
//!
//! A guest of 1 GiB fills 900 MiB of it and then writes 200 MB/s while snapshots are taken, each on the one before; and
//! touches one page in a hundred between two others. Reported: how long the machine stood still, from outside; the longest
//! time that the guest, by its own clock, was kept from looking at it, with and without a snapshot under way; and sizes and
//! times of whole and incremental sets. Memory only: the disk's switch is measured with whole instances.

use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use strata_e2e::guest;
use strata_engine::SeededEntropy;
use strata_machine::loader::{Placement, Source};
use strata_machine::{ConsoleFds, Machine, MachineSpec, Resources, Tier};
use strata_snapshot::{MachineRef, Manifest, SetWriter};

const MEMORY: u64 = 1 << 30;
const RUNS: usize = 5;

struct Guest {
    machine: Machine,
    to: File,
    from: BufReader<File>,
}

impl Guest {
    fn new(program: &Path) -> Result<Guest> {
        let spec = MachineSpec {
            board: strata_machine::Board::RiscvVirt,
            harts: 1,
            processor: None,
            transport: Default::default(),
            memory: MEMORY,
            cmdline: String::new(),
            deterministic: false,
            slots: MachineSpec::usual_slots(0, 0),
        };
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
        let ((input, to), (from, output)) = (pipe()?, pipe()?);
        let firmware = Source { file: File::open(program)?, name: program.display().to_string() };
        let resources = Resources {
            tier: Some(Tier::best()),
            pace: true,
            restore: None,
            placement: Placement { firmware: Some(firmware), ..Placement::default() },
            console: ConsoleFds { input, output },
            disks: Vec::new(),
            nics: Vec::new(),
            entropy: Box::new(SeededEntropy(1)),
            code_size: None,
            boot_entropy: Box::new(SeededEntropy(2)),
        };
        let machine = strata_machine::build(&spec, resources).context("building a machine")?;
        machine.start()?;
        let mut guest = Guest { machine, to: to.into(), from: BufReader::new(from.into()) };
        guest.line()?;
        Ok(guest)
    }

    /// The next line: a time in ticks of 100 ns.
    fn line(&mut self) -> Result<Duration> {
        let mut text = String::new();
        self.from.read_line(&mut text)?;
        Ok(Duration::from_nanos(text.trim().parse::<u64>().context(text)? * 100))
    }

    fn ask(&mut self, what: u8) -> Result<()> {
        Ok(self.to.write_all(&[what])?)
    }

    /// Takes a set; gives how long the machine stood, how long all took, and the new dirty epoch.
    fn save(&self, set: &Path, base: Option<&(PathBuf, u32)>) -> Result<(Duration, Duration, u32)> {
        let begun = Instant::now();
        let mut writer = SetWriter::create(&set.with_extension("new"))?;
        if let Some((below, since)) = base {
            writer.stand_on(below, *since)?;
        }
        let stands = Instant::now();
        self.machine.pause()?;
        let epoch = writer.begin(self.machine.ram(), self.machine.save_state()?)?;
        self.machine.unpause()?;
        let stood = stands.elapsed();
        let machine =
            MachineRef { board: "riscv-virt".into(), engine: "soft".into(), cpus: 1, memory: MEMORY };
        writer.finish(
            Manifest::new("0".into(), machine, serde_json::Value::Null),
            set,
            &AtomicBool::new(false),
        )?;
        Ok((stood, begun.elapsed(), epoch))
    }
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

/// What a set's own layer takes on the host, in bytes.
fn size(set: &Path) -> Result<u64> {
    Ok(std::os::unix::fs::MetadataExt::blocks(&set.join("memory").metadata()?) * 512)
}

fn main() -> Result<()> {
    let tmp = tempfile::tempdir_in(std::env::var_os("STRATA_BENCH_DIR").unwrap_or(".".into()))?;
    let program = tmp.path().join("writer");
    guest::build(&["start.S", "trap.c", "bench/writer.c"], &["-Wno-unused-function"], &program)?;
    let mut guest = Guest::new(&program)?;
    guest.ask(b'w')?;
    std::thread::sleep(Duration::from_secs(2));
    guest.ask(b'.')?;
    println!("writing 200 MB/s: longest the guest waited without a snapshot {:.2} ms", ms(guest.line()?));
    println!("what             stood ms    waited ms     all ms       MiB");
    let mut base = None;
    for run in 0..RUNS {
        let set = tmp.path().join(format!("w{run}"));
        guest.ask(b'w')?;
        std::thread::sleep(Duration::from_millis(200));
        let (stood, all, _) = guest.save(&set, None)?;
        guest.ask(b'.')?;
        let waited = guest.line()?;
        println!(
            "whole, writing  {:9.2}  {:11.2}  {:9.0}  {:8}",
            ms(stood),
            ms(waited),
            ms(all),
            size(&set)? >> 20
        );
        std::fs::remove_dir_all(&set)?;
    }
    for run in 0..RUNS {
        let set = tmp.path().join(format!("i{run}"));
        let (stood, all, epoch) = guest.save(&set, base.as_ref())?;
        let name = if run == 0 { "whole, idle" } else { "1 % touched" };
        let mib = size(&set)? as f64 / f64::from(1 << 20);
        println!("{name:14}  {:9.2}  {:>11}  {:9.0}  {mib:8.1}", ms(stood), "", ms(all));
        base = Some((set, epoch));
        guest.ask(b't')?;
        guest.line()?;
    }
    ensure!(guest.machine.stop() == strata_machine::Exit::Stopped, "it had ended before");
    Ok(())
}
