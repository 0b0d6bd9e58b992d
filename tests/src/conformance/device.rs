//! The harness's device, through which guest and host meet. Its registers are named in guests/conformance/isa.h.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};
use strata_engine::{Bus, BusFault, IrqLine};
use strata_memory::{Access, Acquired, GuestRam, PAGE};

/// Where it is in the guest's memory.
pub const BASE: u64 = 0xd000_0000;
/// Its length.
pub const SIZE: u64 = 0x1000;
/// Its interrupt line.
pub const LINE: u32 = 5;
/// The register that rings the doorbell.
pub const DOORBELL: u64 = 0x50;

/// End not yet written.
const RUNS: u64 = u64::MAX;

/// See the module.
pub struct Device {
    ram: GuestRam,
    line: OnceLock<IrqLine>,
    bell: OnceLock<OwnedFd>,
    end: AtomicU64,
    progress: AtomicU64,
    echo: Mutex<[u8; 8]>,
    /// Writes to the doorbell that came here.
    pub rung: AtomicU64,
}

impl Device {
    /// A device that fills pages of `ram`.
    pub fn new(ram: GuestRam) -> Device {
        Device {
            ram,
            line: OnceLock::new(),
            bell: OnceLock::new(),
            end: AtomicU64::new(RUNS),
            progress: AtomicU64::new(0),
            echo: Mutex::default(),
            rung: AtomicU64::new(0),
        }
    }

    /// Gives it its interrupt.
    pub fn connect(&self, line: IrqLine) {
        let _ = self.line.set(line);
    }

    /// Gives it the descriptor that its doorbell counts up, where the engine has not taken that over.
    pub fn set_bell(&self, bell: OwnedFd) {
        let _ = self.bell.set(bell);
    }

    /// What the guest ended the scenario with.
    pub fn end(&self) -> Option<u64> {
        Some(self.end.load(SeqCst)).filter(|end| *end != RUNS)
    }

    /// How far the guest has come.
    pub fn progress(&self) -> u64 {
        self.progress.load(SeqCst)
    }

    /// Its state: progress and echo.
    pub fn state(&self) -> (u64, [u8; 8]) {
        (self.progress(), *self.echo.lock().unwrap_or_else(|e| e.into_inner()))
    }

    /// Takes such a state.
    pub fn set_state(&self, (progress, echo): (u64, [u8; 8])) {
        self.progress.store(progress, SeqCst);
        *self.echo.lock().unwrap_or_else(|e| e.into_inner()) = echo;
    }

    /// Fills the page at `gpa`, as a device does.
    fn fill(&self, gpa: u64) {
        if let Ok(Acquired::Ready(page)) = self.ram.acquire(gpa, PAGE, Access::Write) {
            let bytes: Vec<u8> = (0..PAGE).map(|i| (i * 7) as u8).collect();
            page.copy_from(&bytes);
            self.ram.written(gpa, PAGE);
        }
    }

    /// Reads at `offset`.
    pub fn read(&self, offset: u64, size: u8) -> u64 {
        let echo = self.echo.lock().unwrap_or_else(|e| e.into_inner());
        let at = (offset as usize).wrapping_sub(0x10);
        let bytes = echo.iter().skip(at).take(size.into());
        bytes.rev().fold(0, |value, b| value << 8 | u64::from(*b))
    }

    /// Writes at `offset`.
    pub fn write(&self, offset: u64, size: u8, value: u64) {
        match offset {
            0x00 => self.end.store(value, SeqCst),
            0x08 => self.progress.store(value, SeqCst),
            0x10..0x18 => {
                let mut echo = self.echo.lock().unwrap_or_else(|e| e.into_inner());
                let at = offset as usize - 0x10;
                let bytes = echo.iter_mut().skip(at).take(size.into());
                bytes.zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
            }
            0x20 => {
                if let Some(line) = self.line.get() {
                    line.set(value & 1 != 0);
                }
            }
            0x28 => self.fill(value),
            DOORBELL => {
                self.rung.fetch_add(1, SeqCst);
                if let Some(bell) = self.bell.get() {
                    let _ = rustix::io::write(bell.as_fd(), &1u64.to_ne_bytes());
                }
            }
            _ => {}
        }
    }
}

/// The device alone on a bus: on KVM, where the kernel has the interrupt controllers.
pub struct Alone(pub std::sync::Arc<Device>);

impl Bus for Alone {
    fn read(&self, gpa: u64, size: u8) -> Result<u64, BusFault> {
        within(gpa, BASE, SIZE).map(|offset| self.0.read(offset, size)).ok_or(BusFault)
    }
    fn write(&self, gpa: u64, size: u8, value: u64) -> Result<(), BusFault> {
        within(gpa, BASE, SIZE).map(|offset| self.0.write(offset, size, value)).ok_or(BusFault)
    }
}

/// The offset of `gpa` in a range.
pub fn within(gpa: u64, base: u64, size: u64) -> Option<u64> {
    gpa.checked_sub(base).filter(|offset| *offset < size)
}

/// Sixteen ports from 0x10 on, four bytes of which read as they were written; a narrower write goes to the first.
#[derive(Default)]
pub struct Ports(pub Mutex<[u8; 4]>);

impl Bus for Ports {
    fn read(&self, port: u64, size: u8) -> Result<u64, BusFault> {
        let bytes = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let value = bytes.iter().take(size.into()).rev().fold(0, |value, b| value << 8 | u64::from(*b));
        if port == 0x10 { Ok(value) } else { Err(BusFault) }
    }
    fn write(&self, port: u64, size: u8, value: u64) -> Result<(), BusFault> {
        let mut bytes = self.0.lock().unwrap_or_else(|e| e.into_inner());
        if port != 0x10 {
            return Err(BusFault);
        }
        bytes.iter_mut().take(size.into()).zip(value.to_le_bytes()).for_each(|(to, from)| *to = from);
        Ok(())
    }
}
