//! What is the same on every board: putting devices where its table has them, virtio slots, the serial console.

use super::BuildError;
use super::pci::Pci;
use crate::console::DebugConsole;
use crate::machine::NamedPart;
use crate::spec::{MachineSpec, Nic, SlotDevice};
use crate::timekeeper::Timekeeper;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};
use strata_board::{Board, BusBuilder, MmioBus, PartId, Space, VIRTIO_SLOTS};
use strata_devices::serial::{Serial, SerialLink, SerialWorker};
use strata_devices::uart16550::Uart16550;
use strata_devices::virtio::{self, Built, Doorbell, EmptySlot, Wiring};
use strata_devices::{Mmio, Shared, Worker};
use strata_engine::{Bus, BusFault, IrqLine};
use strata_memory::GuestRam;

/// A bus, filled after the vCPUs that hold it were made.
#[derive(Default)]
pub(crate) struct LateBus(OnceLock<MmioBus>);

impl LateBus {
    /// Fills it; it can be done once.
    pub(crate) fn fill(&self, bus: MmioBus) -> Result<(), BuildError> {
        self.0.set(bus).map_err(|_| BuildError::Spec("the bus was filled twice".into()))
    }
}

impl Bus for LateBus {
    fn read(&self, gpa: u64, size: u8) -> Result<u64, BusFault> {
        self.0.get().ok_or(BusFault)?.read(gpa, size)
    }
    fn write(&self, gpa: u64, size: u8, value: u64) -> Result<(), BusFault> {
        self.0.get().ok_or(BusFault)?.write(gpa, size, value)
    }
}

/// Registers of the UART, and the bit of LSR that says that a byte has been received.
const RBR: u64 = 0;
const LSR: u64 = 5;
const LSR_READY: u64 = 1;

/// The debug console: output goes into the UART's own stream; input is read from the UART's registers, as firmware on
/// these boards does it. So a driver that reads the UART itself takes the bytes that a debug console would have given.
struct UartConsole {
    link: Arc<SerialLink>,
    uart: Shared<Uart16550>,
}

impl DebugConsole for UartConsole {
    fn write(&self, bytes: &[u8]) -> usize {
        self.link.send(bytes)
    }
    fn push(&self, byte: u8) {
        self.link.push(byte);
    }
    fn read(&self, limit: usize) -> Vec<u8> {
        let mut uart = self.uart.lock().unwrap_or_else(|e| e.into_inner());
        let mut byte = || (uart.read(LSR, 1) & LSR_READY != 0).then(|| uart.read(RBR, 1) as u8);
        std::iter::from_fn(&mut byte).take(limit).collect()
    }
}

/// Makes the wire to an input of the board's interrupt controller.
pub(crate) type Lines = Box<dyn Fn(u32) -> IrqLine>;

/// What grows while devices are added.
pub(crate) struct Builder {
    pub(crate) board: Board,
    pub(crate) ram: GuestRam,
    pub(crate) clock: Arc<dyn Timekeeper>,
    /// Output leaves between two quanta, or not before the next.
    pub(crate) deterministic: bool,
    pub(crate) lines: Lines,
    pub(crate) memory: BusBuilder,
    pub(crate) ports: BusBuilder,
    pub(crate) parts: Vec<NamedPart>,
    pub(crate) workers: Vec<Box<dyn Worker>>,
    /// Of virtio slots, by the slot's number.
    pub(crate) doorbells: Vec<(u64, Doorbell)>,
    /// The PCI bus, where virtio devices are on one.
    pub(crate) pci: Option<Pci>,
}

impl Builder {
    pub(crate) fn line(&self, part: PartId, index: u64) -> IrqLine {
        self.board.line(part, index).map_or_else(IrqLine::unconnected, |n| (self.lines)(n))
    }

    /// Registers a part that is on no bus.
    pub(crate) fn part<P: strata_state::Part + Send + 'static>(&mut self, name: impl Into<String>, part: P) {
        self.parts.push(NamedPart { name: name.into(), part: Arc::new(Mutex::new(part)) });
    }

    /// Puts `device` where the board has it, and registers it.
    pub(crate) fn add<D: Mmio + 'static>(&mut self, part: PartId, index: u64, device: Shared<D>) {
        let (Some(place), Some(row)) = (self.board.place(part, index), self.board.row(part)) else { return };
        self.parts.push(NamedPart { name: place.name.clone(), part: device.clone() });
        let bus = match row.space {
            Space::Memory => &mut self.memory,
            Space::Ports => &mut self.ports,
        };
        *bus = std::mem::take(bus).add(place, device);
    }

    pub(crate) fn add_serial<D: Serial + Send + 'static>(&mut self, worker: SerialWorker<D>) {
        let worker = if self.deterministic { worker.without_gathering() } else { worker };
        self.workers.push(Box::new(worker));
    }

    /// The UART as the console.
    pub(crate) fn add_uart(
        &mut self,
        (input, output): (Option<OwnedFd>, OwnedFd),
    ) -> Result<Arc<dyn DebugConsole>, BuildError> {
        let link = SerialLink::new().map_err(BuildError::Device)?;
        let uart = Arc::new(Mutex::new(Uart16550::new(self.line(PartId::Uart0, 0), link.clone())));
        let worker = SerialWorker::new("uart0", uart.clone(), link.clone(), input, Some(output));
        self.add_serial(worker.map_err(BuildError::Device)?);
        self.add(PartId::Uart0, 0, uart.clone());
        Ok(Arc::new(UartConsole { link, uart }))
    }

    /// Puts what `make` makes into a slot, or into the place on the PCI bus that goes with it.
    fn add_virtio<D: virtio::Device>(
        &mut self,
        slot: u64,
        make: impl FnOnce(Wiring) -> std::io::Result<Built<D>>,
    ) -> Result<(), BuildError> {
        let ram = self.ram.clone();
        let built = match &mut self.pci {
            Some(pci) => {
                let (built, parts) = pci.add(slot, ram, make).map_err(BuildError::Device)?;
                self.parts.extend(parts);
                built
            }
            None => {
                let wiring = Wiring { ram, irq: self.line(PartId::VirtioMmio, slot), messages: None };
                let built = make(wiring).map_err(BuildError::Device)?;
                self.add(PartId::VirtioMmio, slot, built.device.clone());
                built
            }
        };
        self.workers.push(built.worker);
        self.doorbells.push((slot, built.doorbell));
        Ok(())
    }

    /// The virtio slots as `spec` fills them.
    pub(crate) fn add_slots(
        &mut self,
        spec: &MachineSpec,
        disks: Vec<Box<dyn strata_block::Disk>>,
        nics: Vec<Nic>,
        entropy: Box<dyn strata_engine::Entropy>,
    ) -> Result<(), BuildError> {
        let mut disks: Vec<_> = disks.into_iter().map(Some).collect();
        let mut nics: Vec<_> = nics.into_iter().map(Some).collect();
        let mut entropy = Some(entropy);
        for slot in 0..VIRTIO_SLOTS {
            let device = spec.slots.iter().find(|(s, _)| u64::from(*s) == slot).map(|(_, d)| *d);
            let taken = |n: usize| BuildError::Spec(format!("device {n} is in two virtio slots"));
            match device {
                Some(SlotDevice::Disk(n)) => {
                    let disk = disks.get_mut(n).and_then(Option::take).ok_or_else(|| taken(n))?;
                    self.add_virtio(slot, |w| virtio::blk(w, disk, &format!("strata-disk{n}")))?;
                }
                Some(SlotDevice::Net(n)) => {
                    let nic = nics.get_mut(n).and_then(Option::take).ok_or_else(|| taken(n))?;
                    self.add_virtio(slot, |w| virtio::net(w, nic.backend, nic.mac))?;
                }
                Some(SlotDevice::Rng) => {
                    let source = entropy.take().ok_or_else(|| taken(0))?;
                    self.add_virtio(slot, |w| virtio::rng(w, source))?;
                }
                None if self.pci.is_some() => {}
                None => self.add(PartId::VirtioMmio, slot, Arc::new(Mutex::new(EmptySlot))),
            }
        }
        if let Some(pci) = &mut self.pci {
            let (bridge, ecam, window) = pci.finish();
            self.parts.push(bridge);
            self.add(PartId::PcieEcam, 0, Arc::new(Mutex::new(ecam)));
            if let Some(place) = self.board.place(PartId::PcieMmio, 0) {
                self.memory = std::mem::take(&mut self.memory).add_window(place, Arc::new(window));
            }
        }
        Ok(())
    }
}
