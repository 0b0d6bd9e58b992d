//! The host bridge: configuration space of bus 0 by memory accesses (ECAM), and the bridge as a function itself.
//!
//! A function's 4 KiB begin at its number times that (PCI Express 5.0, 7.2.2). Where there is none, reads give all
//! ones and writes are lost; behind the 256 bytes that are in use, a function reads as 0, which says that there are
//! no extended capabilities.

use super::config::{Header, Identity};
use super::{Function, HeaderState};
use crate::{Mmio, Shared};
use strata_state::Stateful;

/// Devices on a bus, each with one function here.
pub const DEVICES: usize = 32;

/// Bytes of configuration space of a function, and of those that are used.
const FUNCTION: u64 = 0x1000;
const USED: u64 = 0x100;
/// Functions of a device: ours have the first only.
const FUNCTIONS: u64 = 8;

strata_state::state! {
    /// A host bridge has no state but its functions'.
    pub struct EcamState("pci-ecam", 1) {}
}

/// Configuration space by memory accesses.
#[derive(Default)]
pub struct Ecam {
    devices: [Option<Shared<dyn Function>>; DEVICES],
}

impl Ecam {
    /// Puts `function` into device `number`; gives whether there is room for it.
    pub fn add(&mut self, number: usize, function: Shared<dyn Function>) -> bool {
        match self.devices.get_mut(number) {
            Some(place @ None) => {
                *place = Some(function);
                true
            }
            _ => false,
        }
    }

    /// The function that the access is for, and the place in its configuration space.
    fn at(&self, offset: u64) -> Option<(&Shared<dyn Function>, u64)> {
        let number = offset / FUNCTION;
        let device = usize::try_from(number / FUNCTIONS).ok().filter(|_| number.is_multiple_of(FUNCTIONS))?;
        Some((self.devices.get(device)?.as_ref()?, offset % FUNCTION))
    }
}

/// The bits of a register of 4 bytes that an access of `size` bytes at `offset` is about, and where they begin.
fn bits(offset: u64, size: u8) -> (u32, u32) {
    let shift = 8 * (offset as u32 & 3);
    let mask = if size >= 4 { u32::MAX } else { (1 << (8 * u32::from(size))) - 1 };
    (mask << shift, shift)
}

impl Mmio for Ecam {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        let (mask, shift) = bits(offset, size);
        let word = match self.at(offset) {
            None => u32::MAX,
            Some((_, at)) if at >= USED => 0,
            Some((function, at)) => {
                function.lock().unwrap_or_else(|e| e.into_inner()).read_config(at as u8 & !3)
            }
        };
        u64::from((word & mask) >> shift)
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        let (mask, shift) = bits(offset, size);
        if let Some((function, at)) = self.at(offset).filter(|(_, at)| *at < USED) {
            let mut function = function.lock().unwrap_or_else(|e| e.into_inner());
            function.write_config(at as u8 & !3, mask, (value as u32) << shift);
        }
    }
}

impl Stateful for Ecam {
    type State = EcamState;
    fn state(&self) -> EcamState {
        EcamState {}
    }
    fn reset_state(&self) -> EcamState {
        EcamState {}
    }
    fn set_state(&mut self, _state: EcamState) {}
    fn settle(&mut self) {}
}

/// The bridge itself, device 0: there to be seen.
pub struct HostBridge(Header);

impl Default for HostBridge {
    fn default() -> HostBridge {
        // Who it is is QEMU's, whose memory map a board of ours has: "PCIe host bridge" (docs/specs/pci-ids.rst there).
        let id = Identity {
            vendor: 0x1b36,
            device: 0x0008,
            revision: 0,
            class: 0x06_0000,
            subsystem: [0x1af4, 0x1100],
            pin: false,
            memory: 0,
        };
        HostBridge(Header::new(&id, &[]).0)
    }
}

impl Function for HostBridge {
    fn read_config(&mut self, at: u8) -> u32 {
        self.0.read(at, false)
    }
    fn write_config(&mut self, at: u8, mask: u32, value: u32) {
        self.0.write(at, mask, value);
    }
    fn read_memory(&mut self, _offset: u64, _size: u8) -> u64 {
        0
    }
    fn write_memory(&mut self, _offset: u64, _size: u8, _value: u64) {}
}

impl Stateful for HostBridge {
    type State = HeaderState;
    fn state(&self) -> HeaderState {
        self.0.s.clone()
    }
    fn reset_state(&self) -> HeaderState {
        Header::fresh()
    }
    fn check(&self, state: &HeaderState) -> Result<(), strata_state::StateError> {
        if self.0.accepts(state) {
            return Ok(());
        }
        let why = format!("command {:#x}, BAR {:#x}", state.command, state.bar);
        Err(strata_state::StateError::Invalid { id: "pci-header".into(), why })
    }
    fn set_state(&mut self, state: HeaderState) {
        self.0.s = state;
    }
    fn settle(&mut self) {}
}
