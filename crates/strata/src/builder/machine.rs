//! The machine that configures an image: one of our own, in this process, with its console streamed to whoever watches.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata_block::{Disk, Format, OpenOptions, open_disk};
use strata_engine::Entropy;
use strata_image::{GuestError, GuestJob};
use strata_machine::loader::{Placement, Source};
use strata_machine::{Board, ConsoleFds, Exit, Machine, MachineSpec, Resources, build};

/// How often cancellation and the time limit are looked at.
const GLANCE: Duration = Duration::from_millis(100);

/// The host kernel's randomness.
struct HostEntropy;

impl Entropy for HostEntropy {
    fn fill(&mut self, buf: &mut [u8]) {
        let mut at = 0;
        while let Some(rest) = buf.get_mut(at..).filter(|r| !r.is_empty()) {
            match rustix::rand::getrandom(&mut *rest, rustix::rand::GetRandomFlags::empty()) {
                Ok(n) => at += n,
                Err(rustix::io::Errno::INTR) => {}
                // No kernel this runs on lacks it; zeroes would be noticed by nobody here.
                Err(e) => panic!("the host kernel gives no randomness: {e}"),
            }
        }
    }
}

/// The board of a building machine.
fn board(arch: strata_image::Arch) -> Board {
    match arch {
        strata_image::Arch::Riscv64 => Board::RiscvVirt,
        strata_image::Arch::Amd64 => Board::X86Micro,
    }
}

/// Runs a building job.
pub fn run(job: &GuestJob, console: &mut dyn FnMut(&[u8])) -> Result<(), GuestError> {
    let started = Instant::now();
    let (machine, output) = start(job).map_err(|e| GuestError::Failed(e.to_string()))?;
    let machine = Arc::new(machine);
    // The console is read here, so that its watcher needs to be neither `Send` nor quick.
    let ended = std::thread::spawn({
        let machine = machine.clone();
        move || machine.wait()
    });
    let verdict = watch(job, started, &output, &ended, console);
    if verdict.is_err() {
        machine.stop();
    }
    let exit = ended.join().map_err(|_| GuestError::Failed("its thread panicked".into()))?;
    drop(machine);
    drain(&output, console);
    verdict?;
    match exit {
        Exit::PowerOff(0) => Ok(()),
        Exit::PowerOff(code) => Err(GuestError::Failed(format!("it powered off with code {code}"))),
        Exit::Stopped => Err(GuestError::Failed("it was stopped".into())),
        Exit::Stuck(why) => Err(GuestError::Failed(why)),
    }
}

type Fault = Box<dyn std::error::Error>;

fn start(job: &GuestJob) -> Result<(Machine, OwnedFd), Fault> {
    let open = |path: &Path| -> Result<Source, Fault> {
        let file = File::open(path).map_err(|e| format!("cannot open {}: {e}", path.display()))?;
        Ok(Source { file, name: path.display().to_string() })
    };
    let disks = job
        .disks
        .iter()
        .map(|d| {
            // Raw by definition: one of them is a bare tar archive, which a probe would refuse as a disk.
            let options = OpenOptions { format: Some(Format::Raw), ..OpenOptions::new(d, "image-build") };
            open_disk(options).map_err(Fault::from)
        })
        .collect::<Result<Vec<Box<dyn Disk>>, _>>()?;
    let spec = MachineSpec {
        board: board(job.arch),
        harts: 1,
        processor: None,
        transport: Default::default(),
        memory: job.memory,
        cmdline: job.cmdline.clone(),
        deterministic: false,
        slots: MachineSpec::usual_slots(disks.len(), 0),
    };
    let (output, writes) = rustix::pipe::pipe()?;
    let resources = Resources {
        tier: None,
        pace: false,
        restore: None,
        placement: Placement {
            firmware: None,
            kernel: Some(open(&job.kernel)?),
            initrd: Some(open(&job.initrd)?),
        },
        console: ConsoleFds { input: File::open("/dev/null")?.into(), output: writes },
        disks,
        nics: vec![],
        entropy: Box::new(HostEntropy),
        code_size: None,
        boot_entropy: Box::new(HostEntropy),
    };
    let machine = build(&spec, resources)?;
    machine.start()?;
    rustix::fs::fcntl_setfl(&output, rustix::fs::OFlags::NONBLOCK)?;
    Ok((machine, output))
}

fn watch(
    job: &GuestJob,
    started: Instant,
    output: &OwnedFd,
    ended: &std::thread::JoinHandle<Exit>,
    console: &mut dyn FnMut(&[u8]),
) -> Result<(), GuestError> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let glance = Timespec { tv_sec: 0, tv_nsec: i64::from(GLANCE.subsec_nanos()) };
    while !ended.is_finished() {
        // An interrupted wait is an early one.
        let _ = poll(&mut [PollFd::new(output, PollFlags::IN)], Some(&glance));
        drain(output, console);
        if job.cancel.is_cancelled() {
            return Err(GuestError::Cancelled);
        }
        if started.elapsed() > job.time_limit {
            return Err(GuestError::TimedOut(job.time_limit));
        }
    }
    Ok(())
}

fn drain(output: &OwnedFd, console: &mut dyn FnMut(&[u8])) {
    let mut buf = [0; 4096];
    while let Ok(n @ 1..) = rustix::io::read(output, &mut buf) {
        console(buf.get(..n).unwrap_or(&[]));
    }
}
