//! The PCI bus of a machine, where its virtio devices are on one: slot n is device n + 1, device 0 is the host bridge.
//!
//! Two parts a device: the function (header, vectors), and the device itself with the record that it has in a slot,
//! too.

use crate::machine::NamedPart;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use strata_board::{Board, PartId};
use strata_devices::pci::{Ecam, Home, HostBridge, Pins, Window};
use strata_devices::virtio::{Built, Device, Doorbell, PciPlace, VirtioPci, Wiring};
use strata_engine::{IrqLine, MsiSink};
use strata_memory::GuestRam;

/// What grows while devices are added.
pub(crate) struct Pci {
    ecam: Ecam,
    window: Window,
    range: Range<u64>,
    messages: Option<Arc<dyn MsiSink>>,
    pins: Option<Arc<Pins>>,
    /// For who has notifications go by the kernel: where each device is, and its doorbell.
    pub(crate) doorbells: Vec<(Arc<Home>, Doorbell)>,
}

impl Pci {
    /// The bus of `board`, if it has room for one: with interrupts to `messages`, or by the wires that the board has
    /// for the pins.
    pub(crate) fn new(
        board: Board,
        messages: Option<Arc<dyn MsiSink>>,
        line: impl Fn(u32) -> IrqLine,
    ) -> Option<Pci> {
        let range = board.place(PartId::PcieMmio, 0)?;
        let range = range.base..range.base + range.size;
        let wires: Vec<IrqLine> = board.row(PartId::PcieEcam)?.all_lines().map(line).collect();
        let pins = wires.try_into().ok().map(Pins::new);
        let (ecam, window) = (Ecam::default(), Window::default());
        Some(Pci { ecam, window, range, messages, pins, doorbells: vec![] })
    }

    /// Makes a device for `slot`, and its function.
    pub(crate) fn add<D: Device>(
        &mut self,
        slot: u64,
        ram: GuestRam,
        make: impl FnOnce(Wiring) -> io::Result<Built<D>>,
    ) -> io::Result<(Built<D>, [NamedPart; 2])> {
        let number = slot + 1;
        let pin = self.pins.as_ref().map_or_else(IrqLine::unconnected, |p| p.of(number as u32));
        let place = PciPlace::new::<D>(pin, self.messages.clone(), self.range.clone());
        let built = make(place.wiring(ram))?;
        let function = VirtioPci::new(&built.virtio, place);
        self.doorbells.push((function.home(), built.doorbell.clone()));
        let home = function.home();
        let function = Arc::new(Mutex::new(function));
        self.window.add(home, function.clone());
        if !self.ecam.add(number as usize, function.clone()) {
            return Err(io::Error::other(format!("there is no room for device {number} on the PCI bus")));
        }
        let parts = [
            NamedPart { name: format!("pci-function{slot}"), part: function },
            NamedPart { name: format!("virtio-pci{slot}"), part: built.virtio.clone() },
        ];
        Ok((built, parts))
    }

    /// The bridge, and both ranges of the bus as they are to be put on the machine's.
    pub(crate) fn finish(&mut self) -> (NamedPart, Ecam, Window) {
        let bridge = Arc::new(Mutex::new(HostBridge::default()));
        let mut ecam = std::mem::take(&mut self.ecam);
        // Device 0 is nobody's slot.
        ecam.add(0, bridge.clone());
        (NamedPart { name: "pci-bridge".into(), part: bridge }, ecam, std::mem::take(&mut self.window))
    }
}
