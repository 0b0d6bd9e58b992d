//! Nanoseconds for translating one guest instruction.

use crate::guests::{Guest, chain};
use anyhow::{Context, Result, ensure};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use strata_engine::SeededEntropy;
use strata_machine::loader::{Placement, Source};
use strata_machine::{ConsoleFds, MachineSpec, Resources, Tier};
use strata_translator::Options;
use strata_translator::figures::FIGURES;

const LIMIT: Duration = Duration::from_secs(60);

/// What has been counted.
#[derive(Clone, Copy)]
struct Counts {
    paths: u64,
    instructions: u64,
    bytes: u64,
    writing_ns: u64,
    making_ns: u64,
}

impl Counts {
    fn now() -> Counts {
        let f = &FIGURES;
        Counts {
            paths: f.translating.times(),
            instructions: f.instructions.load(Relaxed),
            bytes: f.code.load(Relaxed),
            writing_ns: f.recording.total_ns(),
            making_ns: f.translating.total_ns(),
        }
    }

    /// A row for what was done since.
    fn print_since(self, name: &str) -> Result<()> {
        let now = Counts::now();
        let (paths, instructions) = (now.paths - self.paths, now.instructions - self.instructions);
        ensure!(paths > 0 && instructions > 0, "{name}: nothing was translated");
        let each = |all: u64| all as f64 / instructions as f64;
        let (writing, making) = (now.writing_ns - self.writing_ns, now.making_ns - self.making_ns);
        println!(
            "| {name} | {paths} | {instructions} | {:.1} | {:.1} | {:.0} | {:.0} |",
            instructions as f64 / paths as f64,
            each(now.bytes - self.bytes),
            each(writing + making),
            each(writing)
        );
        Ok(())
    }
}

/// Of the boot of the Linux image in `dir`, up to `prompt` on its console.
pub fn boot(dir: &Path, prompt: &str) -> Result<()> {
    let open = |name: &str| {
        let file = File::open(dir.join(name)).with_context(|| format!("{} of {}", name, dir.display()))?;
        anyhow::Ok(Source { file, name: name.to_owned() })
    };
    let record: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("image.json"))?)?;
    let spec = MachineSpec {
        board: strata_machine::Board::RiscvVirt,
        harts: 1,
        processor: None,
        transport: Default::default(),
        memory: 512 << 20,
        cmdline: record["cmdline"].as_str().unwrap_or_default().to_owned(),
        deterministic: false,
        slots: MachineSpec::usual_slots(0, 0),
    };
    let mut printed = tempfile::tempfile()?;
    // Held open, so that the shell sees no end of its input.
    let (input, _keyboard) = std::io::pipe()?;
    let resources = Resources {
        tier: Some(Tier::Translator),
        pace: false,
        restore: None,
        placement: Placement { firmware: None, kernel: Some(open("kernel")?), initrd: Some(open("initrd")?) },
        console: ConsoleFds { input: input.into(), output: printed.try_clone()?.into() },
        disks: Vec::new(),
        nics: Vec::new(),
        entropy: Box::new(SeededEntropy(1)),
        code_size: None,
        boot_entropy: Box::new(SeededEntropy(2)),
    };
    let machine = strata_machine::build(&spec, resources).context("building a machine")?;
    let (before, start) = (Counts::now(), Instant::now());
    machine.start()?;
    let up = loop {
        std::thread::sleep(Duration::from_millis(20));
        let mut text = Vec::new();
        printed.rewind()?;
        printed.read_to_end(&mut text)?;
        let up = String::from_utf8_lossy(&text).contains(prompt);
        if up || start.elapsed() > LIMIT {
            break up;
        }
    };
    let took = start.elapsed();
    machine.stop();
    machine.wait();
    ensure!(up, "no {prompt:?} on the console within {LIMIT:?}");
    before.print_since(&format!("boot to the prompt, {:.2} s", took.as_secs_f64()))
}

/// Of code that is translated before it runs for the first time, block by block: the dearest, as each brings its own
/// entry.
pub fn once() -> Result<()> {
    let mut guest = Guest::new(&chain(40_000, 8)?, Options { hot: 0, ..Options::default() })?;
    let before = Counts::now();
    guest.run_while(|| Counts::now().paths - before.paths < 39_000);
    before.print_since("blocks of 8, each once")
}
