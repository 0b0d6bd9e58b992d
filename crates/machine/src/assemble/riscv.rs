//! The board `riscv-virt` on the software engine: harts, their interrupt controllers, HTIF, the device tree.

use super::wiring::{Builder, LateBus, Lines};
use super::{BuildError, Engine, Platform, Side};
use crate::Tier;
use crate::console::DebugConsole;
use crate::cpus::SharedVcpu;
use crate::harts::Harts;
use crate::loader::{HtifSymbols, Placement, load};
use crate::machine::{NamedPart, PowerOn};
use crate::spec::MachineSpec;
use crate::tier;
use crate::timekeeper::Timekeeper;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};
use strata_board::fdt::{self, FdtSpec};
use strata_board::{PartId, RiscvVirt};
use strata_devices::aclint::Aclint;
use strata_devices::goldfish_rtc::{GoldfishRtc, RtcWorker};
use strata_devices::htif::Htif;
use strata_devices::plic::Plic;
use strata_devices::serial::{SerialLink, SerialWorker};
use strata_devices::syscon::Syscon;
use strata_devices::{Shared, SystemSink};
use strata_engine::{Clock, Entropy, Vcpu, VcpuShared};
use strata_memory::GuestRam;
use strata_riscv::{CACHE_BLOCK, HartConfig, MMU_TYPE, isa_extensions_list, isa_string};

/// See the module.
pub(super) struct Riscv {
    spec: MachineSpec,
    placement: Placement,
    htif: Option<HtifSymbols>,
    /// The program's own console, where it has HTIF.
    own_console: Option<(OwnedFd, OwnedFd)>,
    shared: Vec<Arc<VcpuShared>>,
    plic: Shared<Plic>,
    ram: GuestRam,
}

impl Riscv {
    /// Makes the harts.
    pub(super) fn new(
        spec: &MachineSpec,
        placement: Placement,
        (tier, code_size): (Option<Tier>, Option<usize>),
        ram: &GuestRam,
        clock: Arc<dyn Timekeeper>,
    ) -> Result<(Riscv, Engine), BuildError> {
        let memory = Arc::new(LateBus::default());
        let kernel_only = placement.firmware.is_none();
        let chosen = tier::choose(tier, Tier::best(), |tier| -> Result<Vec<Box<dyn Vcpu>>, _> {
            let make = |id| {
                let config =
                    if kernel_only { HartConfig::with_machine_as_firmware(id) } else { HartConfig::new(id) };
                tier::hart((tier, code_size), config, ram.clone(), memory.clone(), clock.clone())
            };
            (0..u64::from(spec.harts)).map(make).collect()
        })?;
        let shared: Vec<Arc<VcpuShared>> = chosen.made.iter().map(|v| v.shared().clone()).collect();
        let plic = Arc::new(Mutex::new(Plic::new(shared.clone())));
        let htif = placement.firmware.as_ref().map(|f| f.htif()).transpose()?.flatten();
        let side =
            Riscv { spec: spec.clone(), placement, htif, own_console: None, shared, plic, ram: ram.clone() };
        let engine = Engine {
            vcpus: chosen.made,
            clock,
            memory,
            ports: Arc::default(),
            tier: chosen.tier.name(),
            note: chosen.note,
            unseen: None,
            messages: None,
        };
        Ok((side, engine))
    }
}

impl Side for Riscv {
    fn vcpu_name(&self) -> &'static str {
        "hart"
    }

    fn lines(&self) -> Lines {
        let plic = self.plic.clone();
        Box::new(move |n| Plic::irq_line(&plic, n))
    }

    /// Everything but virtio and HTIF.
    fn platform(&mut self, b: &mut Builder, p: Platform) -> Result<Arc<dyn DebugConsole>, BuildError> {
        let (input, output) = (p.console.input, p.console.output);
        // A program with HTIF has its console there; the UART then only prints.
        let input = match self.htif {
            Some(_) => {
                self.own_console = Some((input, output.try_clone().map_err(BuildError::Device)?));
                None
            }
            None => Some(input),
        };
        let clock: Arc<dyn Clock> = b.clock.clone();
        b.add(PartId::Syscon, 0, Arc::new(Mutex::new(Syscon::new(p.sink))));
        let rtc = GoldfishRtc::new(clock.clone(), b.line(PartId::Rtc, 0)).map_err(BuildError::Device)?;
        let rtc = Arc::new(Mutex::new(rtc));
        b.workers.push(Box::new(RtcWorker::new(rtc.clone())));
        b.add(PartId::Rtc, 0, rtc);
        b.add(PartId::VmGenId, 0, p.vmgenid);
        b.add(PartId::Clint, 0, Arc::new(Mutex::new(Aclint::new(self.shared.clone(), clock))));
        b.add(PartId::Plic, 0, self.plic.clone());
        b.add_uart((input, output))
    }

    /// The HTIF words lie over RAM, wherever the program has them.
    fn last(&mut self, b: &mut Builder, sink: &SystemSink) -> Result<(), BuildError> {
        let (Some(symbols), Some((input, output))) = (self.htif, self.own_console.take()) else {
            return Ok(());
        };
        let link = SerialLink::new().map_err(BuildError::Device)?;
        let device = Arc::new(Mutex::new(Htif::new(b.ram.clone(), link.clone(), sink.clone())));
        let worker = SerialWorker::new("htif", device.clone(), link, Some(input), Some(output));
        b.add_serial(worker.map_err(BuildError::Device)?);
        b.parts.push(NamedPart { name: "htif".into(), part: device.clone() });
        for place in RiscvVirt::htif(symbols.tohost, Some(symbols.fromhost)) {
            b.ram.trap(place.base)?;
            b.memory = std::mem::take(&mut b.memory).add(place, device.clone());
        }
        Ok(())
    }

    fn power_on(
        self: Box<Self>,
        _vcpus: &[SharedVcpu],
        harts: &Arc<Harts>,
        mut entropy: Box<dyn Entropy>,
    ) -> PowerOn {
        let Riscv { spec, placement, ram, .. } = *self;
        let harts = harts.clone();
        Box::new(move || {
            let mut seed = [0; 32];
            entropy.fill(&mut seed);
            let loaded = load(&ram, &placement, |initrd| tree(&spec, initrd, seed))?;
            harts.reset();
            // A firmware begins on every hart at once; without one, the kernel starts the others itself.
            let firmware = placement.firmware.is_some();
            for hart in 0..if firmware { harts.count() } else { 1 } {
                let mut entry = loaded.entry;
                entry.args[0] = hart as u64;
                harts.start(hart, entry);
            }
            Ok(())
        })
    }
}

/// The device tree of one boot, from the initrd's range and a seed.
fn tree(spec: &MachineSpec, initrd: Option<(u64, u64)>, seed: [u8; 32]) -> Result<Vec<u8>, BuildError> {
    let (kaslr, rng) = seed.split_at(8);
    Ok(fdt::build(&FdtSpec {
        harts: spec.harts,
        isa: isa_string(&HartConfig::new(0)),
        isa_base: "rv64i".into(),
        isa_extensions: isa_extensions_list(),
        mmu_type: MMU_TYPE.into(),
        cbom_block: Some(CACHE_BLOCK as u32),
        cboz_block: Some(CACHE_BLOCK as u32),
        transport: spec.transport,
        ram_len: spec.memory,
        bootargs: spec.cmdline.clone(),
        initrd,
        rng_seed: rng.to_vec(),
        kaslr_seed: kaslr.try_into().ok().map(u64::from_le_bytes),
    })?)
}
