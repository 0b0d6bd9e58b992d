//! Linux on the board `x86-micro`, on KVM: the board's own table, tables, loader and devices, with as little around them as
//! will do.

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use strata_board::{MmioBus, PartId, X86Micro};
use strata_devices::acpi_sleep::AcpiSleep;
use strata_devices::cmos::Cmos;
use strata_devices::i8042::I8042;
use strata_devices::serial::{SerialLink, SerialWorker};
use strata_devices::uart16550::Uart16550;
use strata_devices::virtio::EmptySlot;
use strata_devices::vmgenid::VmGenId;
use strata_devices::{SystemEvent, SystemSink, Worker};
use strata_engine::{GuestClock, Stop, Vcpu};
use strata_kvm::cpuid::CpuModel;
use strata_kvm::{Buses, Chips, Host, KvmClock, KvmVcpu, Vm};
use strata_machine::loader::{Placement, Source, pc};
use strata_memory::{Backing, GuestRam, RegionSpec};

/// How a boot ended.
#[derive(Debug)]
pub struct Boot {
    /// What the guest asked for at last, if it did.
    pub event: Option<SystemEvent>,
    /// Its console.
    pub output: String,
    /// From the first instruction to the end.
    pub time: Duration,
    /// Exits of all vCPUs.
    pub exits: u64,
}

fn lock<T: ?Sized>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(|e| e.into_inner())
}

fn open(path: &Path) -> Result<Source> {
    let file = File::open(path).with_context(|| format!("opening {}", path.display()))?;
    Ok(Source { file, name: path.display().to_string() })
}

/// Boots `kernel` with `initrd` on `cpus` vCPUs, until it powers off or resets, or for `limit`.
///
/// # Errors
/// The machine cannot be built, or a vCPU is stuck.
pub fn boot(kernel: &Path, initrd: &Path, cmdline: &str, cpus: u32, limit: Duration) -> Result<Boot> {
    let regions = X86Micro::ram_regions(512 << 20).into_iter();
    let regions = regions.map(|(gpa, len)| Ok(RegionSpec { gpa, len, backing: Backing::memfd(len)? }));
    let ram = GuestRam::new(regions.collect::<Result<_>>()?)?;
    let vm = Vm::new(Arc::new(Host::open()?), ram.clone())?;
    let event = Arc::new(Mutex::new(None));
    let sink: SystemSink = Arc::new({
        let event = event.clone();
        move |e| *lock(&event) = Some(e)
    });

    let clock = Arc::new(GuestClock::stopped_at(0));
    let mut printed = tempfile::tempfile()?;
    let link = SerialLink::new()?;
    let chips = Chips::new(vm.clone())?;
    let line = |part| X86Micro::line(part, 0).map(|n| chips.line(n)).context("a line");
    let place = |part, n| X86Micro::place(part, n).context("a place");
    let uart = Arc::new(Mutex::new(Uart16550::new(line(PartId::Uart0)?, link.clone())));
    let ports = MmioBus::builder()
        .add(place(PartId::I8042, 0)?, Arc::new(Mutex::new(I8042::new(sink.clone()))))
        .add(place(PartId::Cmos, 0)?, Arc::new(Mutex::new(Cmos::new(clock.clone()))))
        .add(place(PartId::Uart0, 0)?, uart.clone())
        .add(place(PartId::AcpiSleep, 0)?, Arc::new(Mutex::new(AcpiSleep::new(sink))))
        .build()?;
    let generation = Arc::new(Mutex::new(VmGenId::new([7; 16], line(PartId::VmGenId)?)));
    let mut memory = MmioBus::builder().add(place(PartId::VmGenId, 0)?, generation);
    for slot in 0..strata_board::VIRTIO_SLOTS {
        memory = memory.add(place(PartId::VirtioMmio, slot)?, Arc::new(Mutex::new(EmptySlot)));
    }
    let buses = Buses { memory: Arc::new(memory.build()?), ports: Arc::new(ports) };
    let vcpus = (0..cpus).map(|id| KvmVcpu::new(vm.clone(), id, cpus, &CpuModel::Host, buses.clone()));
    let mut vcpus = vcpus.collect::<Result<Vec<_>, _>>()?;
    let exits: Vec<_> = vcpus.iter().map(KvmVcpu::exits).collect();

    let placement = Placement { firmware: None, kernel: Some(open(kernel)?), initrd: Some(open(initrd)?) };
    let entry = pc::load(&ram, &placement, cmdline, cpus)?;
    if let Some(first) = vcpus.first_mut() {
        first.boot(entry);
    }
    let worker = SerialWorker::new("uart0", uart, link, None, Some(printed.try_clone()?.into()))?;
    KvmClock::new(vm).release()?;
    clock.start();
    let begun = Instant::now();
    run(vcpus, Box::new(worker), &event, limit)?;
    let time = begun.elapsed();
    let mut output = Vec::new();
    printed.rewind()?;
    printed.read_to_end(&mut output)?;
    let (event, exits) = (*lock(&event), exits.iter().map(|e| e.all()).sum());
    Ok(Boot { event, output: String::from_utf8_lossy(&output).into_owned(), time, exits })
}

/// A thread for each vCPU and one for the console.
fn run(
    vcpus: Vec<KvmVcpu>,
    mut worker: Box<dyn Worker>,
    event: &Mutex<Option<SystemEvent>>,
    limit: Duration,
) -> Result<()> {
    let (over, stuck) = (AtomicBool::new(false), Mutex::new(None));
    let shared: Vec<_> = vcpus.iter().map(|v| v.shared().clone()).collect();
    std::thread::scope(|threads| {
        for mut vcpu in vcpus {
            let (over, stuck) = (&over, &stuck);
            threads.spawn(move || {
                while !over.load(SeqCst) {
                    match vcpu.run() {
                        Stop::Kicked => {}
                        other => {
                            *lock(stuck) = Some(other);
                            return;
                        }
                    }
                }
            });
        }
        let over = &over;
        threads.spawn(move || {
            while !over.load(SeqCst) || !worker.drained() {
                worker.turn();
                let fds = worker.wait_for();
                let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
                let short = rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
                let _ = poll(&mut fds, Some(&short));
            }
        });
        let begun = Instant::now();
        while begun.elapsed() < limit && lock(event).is_none() && lock(&stuck).is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        over.store(true, SeqCst);
        shared.iter().for_each(|s| s.kick());
    });
    match lock(&stuck).take() {
        Some(Stop::Stuck(why)) => bail!("a vCPU is stuck: {why}"),
        _ => Ok(()),
    }
}
