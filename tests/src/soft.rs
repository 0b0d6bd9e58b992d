//! Runs on our own engine: one hart on almost nothing, or a whole machine.

use anyhow::{Context, Result, bail};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use strata_engine::{Bus, BusFault, Entry, GuestClock, Privilege, SeededEntropy, Stop, Vcpu, VcpuShared};
use strata_machine::loader::{Placement, Source};
use strata_machine::{ConsoleFds, Exit, Machine, MachineSpec, Resources, Tier, TranslatorOptions};
use strata_memory::{Backing, GuestRam, RegionSpec};
use strata_riscv::{Hart, HartConfig};

const FINISHER: u64 = 0x10_0000;
const CLINT: std::ops::Range<u64> = 0x200_0000..0x201_0000;

/// A bus with a finisher, and a CLINT that takes writes and does nothing.
#[derive(Default)]
struct BareBus {
    finished: AtomicU64,
    hart: OnceLock<Arc<VcpuShared>>,
}

impl Bus for BareBus {
    fn read(&self, gpa: u64, _size: u8) -> Result<u64, BusFault> {
        if CLINT.contains(&gpa) { Ok(0) } else { Err(BusFault) }
    }

    fn write(&self, gpa: u64, _size: u8, value: u64) -> Result<(), BusFault> {
        match gpa {
            FINISHER => {
                self.finished.store(value, SeqCst);
                if let Some(hart) = self.hart.get() {
                    hart.kick();
                }
                Ok(())
            }
            _ if CLINT.contains(&gpa) => Ok(()),
            _ => Err(BusFault),
        }
    }
}

/// The tiers that tests run on, named.
///
/// The translator as it is, but at once; with everything translated before it first runs; and with code that is made after one run
/// and soon evicted.
pub const TIERS: [(&str, Tier); 4] = [
    ("interpreter", Tier::Interpreter),
    ("translator", Tier::Tuned(TranslatorOptions { hot: 16, awaited: 0, code_size: 32 << 20 })),
    ("translator, ahead", Tier::Tuned(TranslatorOptions { hot: 0, awaited: 0, code_size: 32 << 20 })),
    ("translator, crowded", Tier::Tuned(TranslatorOptions { hot: 1, awaited: 0, code_size: 0 })),
];

/// Runs one hart of `tier` from the start of `ram`, which lies at `base`, until it writes to the finisher.
///
/// # Errors
/// It does so within `limit` with anything but success, or not at all; or the host does not allow the tier.
pub fn run_bare(tier: Tier, ram: OwnedFd, base: u64, len: u64, limit: Duration) -> Result<()> {
    let ram = GuestRam::new(vec![RegionSpec { gpa: base, len, backing: Backing::SharedFd(ram) }])?;
    let clock = Arc::new(GuestClock::stopped_at(0));
    clock.start();
    let bus = Arc::new(BareBus::default());
    let second = match tier {
        Tier::Interpreter => None,
        Tier::Translator => Some(strata_translator::tier()?),
        Tier::Tuned(options) => Some(strata_translator::tier_with(options)?),
    };
    let mut hart = Hart::with_tier(HartConfig::new(0), ram, bus.clone(), clock, second);
    let shared = hart.shared().clone();
    let _ = bus.hart.set(shared.clone());
    hart.boot(Entry { pc: base, args: [0; 3], privilege: Privilege::Firmware });

    let (done, wait) = channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if wait.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            shared.kick();
        }
    });
    let stop = hart.run();
    drop(done);
    let _ = watchdog.join();
    match (&stop, bus.finished.load(SeqCst)) {
        (Stop::Kicked, 0x5555) => Ok(()),
        (Stop::Kicked, 0) => {
            bail!("our hart was still running after {limit:?}\n{}", hart.describe_registers())
        }
        (_, word) => bail!("our hart ended with {stop:?}, finisher {word:#x}\n{}", hart.describe_registers()),
    }
}

/// How a whole machine's run ended.
#[derive(Debug)]
pub struct Run {
    /// The machine's end.
    pub exit: Exit,
    /// What the program printed.
    pub output: Vec<u8>,
    /// Instructions retired, by all harts.
    pub retired: u64,
    /// From start to end.
    pub time: Duration,
}

/// Runs the bare-metal ELF `program` as the firmware of a machine whose harts are of `tier`.
///
/// # Errors
/// The machine cannot be built, or still runs after `limit`.
pub fn run_machine(tier: Tier, program: &Path, harts: usize, limit: Duration) -> Result<Run> {
    let (machine, mut printed) = machine(tier, program, harts, false)?;
    let (done, wait) = channel::<()>();
    let (watched, start) = (machine.clone(), Instant::now());
    let watchdog = std::thread::spawn(move || {
        let late = wait.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if late {
            let registers = watched.registers().unwrap_or_default().join("\n");
            watched.stop();
            eprintln!("stopped after {limit:?}:\n{registers}");
        }
        late
    });
    machine.start()?;
    let exit = machine.wait();
    let time = start.elapsed();
    drop(done);
    if watchdog.join().unwrap_or(false) {
        bail!("our machine was still running after {limit:?}");
    }
    let mut output = Vec::new();
    printed.rewind()?;
    printed.read_to_end(&mut output)?;
    Ok(Run { exit, output, retired: machine.retired(), time })
}

/// A machine with the bare-metal ELF `program` as its firmware, and the file that it prints to.
///
/// # Errors
/// It cannot be built.
pub fn machine(
    tier: Tier,
    program: &Path,
    harts: usize,
    deterministic: bool,
) -> Result<(Arc<Machine>, File)> {
    let spec = MachineSpec {
        board: strata_machine::Board::RiscvVirt,
        harts: u32::try_from(harts)?,
        processor: None,
        transport: Default::default(),
        memory: 128 << 20,
        cmdline: String::new(),
        deterministic,
        slots: MachineSpec::usual_slots(0, 0),
    };
    let printed = tempfile::tempfile()?;
    let firmware = Source { file: File::open(program)?, name: program.display().to_string() };
    let resources = Resources {
        tier: Some(tier),
        pace: false,
        restore: None,
        placement: Placement { firmware: Some(firmware), ..Placement::default() },
        console: ConsoleFds { input: File::open("/dev/null")?.into(), output: printed.try_clone()?.into() },
        disks: Vec::new(),
        nics: Vec::new(),
        entropy: Box::new(SeededEntropy(1)),
        code_size: None,
        boot_entropy: Box::new(SeededEntropy(2)),
    };
    let machine = Arc::new(strata_machine::build(&spec, resources).context("building a machine")?);
    Ok((machine, printed))
}
