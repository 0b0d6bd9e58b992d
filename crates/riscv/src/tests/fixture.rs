//! A bare machine for tests: one hart, some RAM, a manual clock, a bus with an exit device, and words of code.

use crate::core::Core;
use crate::{Hart, HartConfig};
use std::sync::{Arc, Mutex, OnceLock};
use strata_engine::{Bus, BusFault, Entry, ManualClock, Privilege, Stop, Vcpu, VcpuShared};
use strata_isa::{Insn, Op, encode};
use strata_memory::GuestRam;

pub const BASE: u64 = 0x8000_0000;
pub const SIZE: u64 = 4 << 20;
/// A store here makes `run` return.
pub const EXIT: u64 = 0x10_0000;
/// A device with one register that answers 4-byte accesses only.
pub const DEVICE: u64 = 0x10_1000;
/// The same device again, where RAM is too.
pub const OVER_RAM: u64 = BASE + 0x18_0000;

#[derive(Default)]
pub struct TestBus {
    shared: OnceLock<Arc<VcpuShared>>,
    pub register: Mutex<u64>,
    /// What was read (false) and written (true) where.
    pub seen: Mutex<Vec<(bool, u64, u8, u64)>>,
}

impl Bus for TestBus {
    fn read(&self, gpa: u64, size: u8) -> Result<u64, BusFault> {
        if !matches!(gpa & !0xfff, DEVICE | OVER_RAM) || size != 4 {
            return Err(BusFault);
        }
        let v = *self.register.lock().unwrap();
        self.seen.lock().unwrap().push((false, gpa, size, v));
        Ok(v)
    }
    fn write(&self, gpa: u64, size: u8, value: u64) -> Result<(), BusFault> {
        match gpa & !0xfff {
            EXIT => self.shared.get().unwrap().kick(),
            DEVICE | OVER_RAM if size == 4 => {
                *self.register.lock().unwrap() = value;
                self.seen.lock().unwrap().push((true, gpa, size, value));
            }
            _ => return Err(BusFault),
        }
        Ok(())
    }
}

pub struct Machine {
    pub hart: Hart,
    pub ram: GuestRam,
    pub clock: Arc<ManualClock>,
    pub bus: Arc<TestBus>,
}

impl Machine {
    /// In M mode at BASE, or with the machine as firmware in S mode.
    pub fn with(config: HartConfig, program: &[u32]) -> Machine {
        let ram = GuestRam::single(BASE, SIZE).unwrap();
        let clock = Arc::new(ManualClock::default());
        let bus = Arc::new(TestBus::default());
        let privilege = if config.machine_is_firmware { Privilege::Kernel } else { Privilege::Firmware };
        let mut hart = Hart::new(config, ram.clone(), bus.clone(), clock.clone());
        bus.shared.set(hart.shared().clone()).ok();
        hart.boot(Entry { pc: BASE, args: [0, 0, 0], privilege });
        let mut m = Machine { hart, ram, clock, bus };
        m.code(BASE, program);
        m.core().x[31] = EXIT;
        m
    }

    pub fn new(program: &[u32]) -> Machine {
        Machine::with(HartConfig::new(0), program)
    }

    pub fn kernel(program: &[u32]) -> Machine {
        Machine::with(HartConfig::with_machine_as_firmware(0), program)
    }

    pub fn core(&mut self) -> &mut Core {
        self.hart.core()
    }

    pub fn code(&mut self, at: u64, words: &[u32]) {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.ram.load(at, &bytes).unwrap();
    }

    pub fn put(&mut self, at: u64, v: u64) {
        self.ram.load(at, &v.to_le_bytes()).unwrap();
    }

    pub fn get(&self, at: u64) -> u64 {
        let mut b = [0; 8];
        self.ram.peek(at, &mut b).unwrap();
        u64::from_le_bytes(b)
    }

    /// Runs to the exit device.
    pub fn run(&mut self) -> &mut Core {
        assert_eq!(self.hart.run(), Stop::Kicked);
        self.core()
    }
}

pub fn insn(op: Op, rd: u8, rs1: u8, rs2: u8, imm: i32) -> u32 {
    encode(&Insn { op, rd, rs1, rs2, rs3: 0, rm: 0, len: 4, imm, raw: 0 }).unwrap()
}

/// `rd = rs1 + imm`.
pub fn addi(rd: u8, rs1: u8, imm: i32) -> u32 {
    insn(Op::Addi, rd, rs1, 0, imm)
}
/// Reads a CSR.
pub fn csrr(rd: u8, n: u16) -> u32 {
    insn(Op::Csrrs, rd, 0, 0, n.into())
}
/// Writes a CSR.
pub fn csrw(n: u16, rs1: u8) -> u32 {
    insn(Op::Csrrw, 0, rs1, 0, n.into())
}
/// An instruction without operands.
pub fn bare(op: Op) -> u32 {
    insn(op, 0, 0, 0, 0)
}
/// Stores to the exit device and stays there.
pub fn exit() -> [u32; 2] {
    [insn(Op::Sw, 0, 31, 0, 0), insn(Op::Jal, 0, 0, 0, 0)]
}
/// `body`, then the exit.
pub fn program(body: &[u32]) -> Vec<u32> {
    [body, &exit()].concat()
}
