//! Guest programs put together word by word, and machines to run them on.

use crate::loader::{Placement, Source};
use crate::{ConsoleFds, Machine, MachineSpec, Nic, Resources, SlotDevice, Tier};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;
use strata_engine::SeededEntropy;
use strata_isa::{Insn, Op, encode};
use strata_net::{UserConfig, UserNet};

pub const RAM: u64 = 0x8000_0000;
/// Where a kernel made by [`Asm::image`] is loaded.
pub const KERNEL: u64 = RAM + 0x20_0000;
/// A page that no program here occupies.
pub const DATA: u64 = RAM + 0x80_0000;
pub const SYSCON: u64 = 0x10_0000;

pub const T0: u8 = 5;
pub const T1: u8 = 6;
pub const T2: u8 = 7;
pub const S0: u8 = 8;
pub const S1: u8 = 9;
pub const A0: u8 = 10;
pub const A1: u8 = 11;
pub const A2: u8 = 12;
pub const A6: u8 = 16;
pub const A7: u8 = 17;

pub const HSM: u64 = 0x48_534d;
pub const IPI: u64 = 0x73_5049;
pub const RFENCE: u64 = 0x5246_4e43;
pub const SRST: u64 = 0x5352_5354;
pub const DBCN: u64 = 0x4442_434e;

/// A program being written; it begins behind the 64 bytes of an Image's header.
#[derive(Default)]
pub struct Asm(Vec<u32>);

impl Asm {
    pub fn op(&mut self, op: Op, rd: u8, rs1: u8, rs2: u8, imm: i32) -> &mut Asm {
        self.0.push(encode(&Insn { op, rd, rs1, rs2, rs3: 0, rm: 0, len: 4, imm, raw: 0 }).unwrap());
        self
    }
    pub fn addi(&mut self, rd: u8, rs1: u8, imm: i32) -> &mut Asm {
        self.op(Op::Addi, rd, rs1, 0, imm)
    }
    /// Any constant, eleven bits at a time.
    pub fn li(&mut self, rd: u8, value: u64) -> &mut Asm {
        self.addi(rd, 0, 0);
        let chunks = (64 - value.leading_zeros()).div_ceil(11);
        for n in (0..chunks).rev() {
            self.op(Op::Slli, rd, rd, 0, 11).op(Op::Ori, rd, rd, 0, (value >> (11 * n) & 0x7ff) as i32);
        }
        self
    }
    pub fn here(&self) -> usize {
        self.0.len()
    }
    /// The address of word `at` once loaded as a kernel.
    pub fn address(at: usize) -> u64 {
        KERNEL + 64 + 4 * at as u64
    }
    pub fn branch(&mut self, op: Op, rs1: u8, rs2: u8, to: usize) -> &mut Asm {
        let offset = (to as i32 - self.here() as i32) * 4;
        self.op(op, 0, rs1, rs2, offset)
    }
    pub fn jump(&mut self, to: usize) -> &mut Asm {
        let offset = (to as i32 - self.here() as i32) * 4;
        self.op(Op::Jal, 0, 0, 0, offset)
    }
    /// Room for a jump to what comes later.
    pub fn hole(&mut self) -> usize {
        self.0.push(0x13);
        self.here() - 1
    }
    /// Fills `hole` with a jump to here.
    pub fn land(&mut self, hole: usize) {
        let end = self.0.split_off(hole + 1);
        self.0.pop();
        self.jump(hole + 1 + end.len());
        self.0.extend(end);
    }
    pub fn sbi(&mut self, extension: u64, function: u64) -> &mut Asm {
        self.li(A7, extension).li(A6, function).op(Op::Ecall, 0, 0, 0, 0)
    }
    pub fn call(&mut self, extension: u64, function: u64, args: &[u64]) -> &mut Asm {
        for (n, a) in args.iter().enumerate() {
            self.li(A0 + n as u8, *a);
        }
        self.sbi(extension, function)
    }
    /// Prints `byte`.
    pub fn put(&mut self, byte: u8) -> &mut Asm {
        self.call(DBCN, 2, &[byte.into()])
    }
    /// Powers off with the failure code in `code`, by syscon.
    pub fn fail_with(&mut self, code: u8) -> &mut Asm {
        self.op(Op::Slli, T2, code, 0, 16).li(T1, 0x3333).op(Op::Or, T2, T2, T1, 0).li(T1, SYSCON);
        self.op(Op::Sw, 0, T1, T2, 0);
        let here = self.here();
        self.jump(here)
    }
    /// The words, little-endian.
    pub fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|w| w.to_le_bytes()).collect()
    }
    /// As a kernel Image without a PE table.
    pub fn image(&self) -> Vec<u8> {
        let mut first = Asm::default();
        first.op(Op::Jal, 0, 0, 0, 64);
        let mut b = first.bytes();
        b.resize(64, 0);
        b[8..16].copy_from_slice(&(KERNEL - RAM).to_le_bytes());
        b[16..24].copy_from_slice(&0x10_0000u64.to_le_bytes());
        b[48..56].copy_from_slice(b"RISCV\0\0\0");
        b[56..60].copy_from_slice(b"RSC\x05");
        b.extend(self.bytes());
        b
    }
}

/// An ELF program of one segment, linked and loaded at `at`, with the symbols `tohost` and `fromhost`.
pub fn elf(at: u64, code: &[u8], tohost: u64, fromhost: u64) -> Vec<u8> {
    let names = b"\0tohost\0fromhost\0";
    let mut b = Vec::new();
    let (phoff, code_at) = (64u64, 128u64);
    let strings_at = code_at + code.len() as u64;
    let symbols_at = (strings_at + names.len() as u64).next_multiple_of(8);
    let shoff = symbols_at + 72;
    b.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    b.extend([2u16, 243].iter().flat_map(|v| v.to_le_bytes()));
    b.extend(1u32.to_le_bytes());
    b.extend([at, phoff, shoff].iter().flat_map(|v| v.to_le_bytes()));
    b.extend(0u32.to_le_bytes());
    b.extend([64u16, 56, 1, 64, 3, 1].iter().flat_map(|v| v.to_le_bytes()));
    b.extend([1u32, 7].iter().flat_map(|v| v.to_le_bytes()));
    let size = code.len() as u64;
    b.extend([code_at, at, at, size, size + 64, 8].iter().flat_map(|v| v.to_le_bytes()));
    b.resize(code_at as usize, 0);
    b.extend(code);
    b.extend(names);
    b.resize(symbols_at as usize, 0);
    b.extend([0; 24]);
    for (name, value) in [(1u32, tohost), (8, fromhost)] {
        b.extend(name.to_le_bytes());
        b.extend([0x10, 0, 0xf1, 0xff]);
        b.extend(value.to_le_bytes());
        b.extend(8u64.to_le_bytes());
    }
    let section = |kind: u32, offset: u64, size: u64, link: u32, entry: u64| {
        let mut s = Vec::new();
        s.extend([0, kind].iter().flat_map(|v| v.to_le_bytes()));
        s.extend([0, 0, offset, size].iter().flat_map(|v| v.to_le_bytes()));
        s.extend([link, 1].iter().flat_map(|v| v.to_le_bytes()));
        s.extend([8, entry].iter().flat_map(|v| v.to_le_bytes()));
        s
    };
    b.extend([0; 64]);
    b.extend(section(3, strings_at, names.len() as u64, 0, 0));
    b.extend(section(2, symbols_at, 72, 1, 24));
    b
}

/// A file in memory.
pub fn source(bytes: &[u8]) -> Source {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let mut file = File::from(fd);
    file.write_all(bytes).unwrap();
    Source { file, name: "test".into() }
}

/// The host's side of a machine's console.
pub struct Console {
    pub to_guest: File,
    pub from_guest: File,
}

impl Console {
    pub fn pair() -> (Console, ConsoleFds) {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let ((input, to_guest), (from_guest, output)): ((OwnedFd, OwnedFd), (OwnedFd, OwnedFd)) =
            (pipe(), pipe());
        (Console { to_guest: to_guest.into(), from_guest: from_guest.into() }, ConsoleFds { input, output })
    }

    /// Reads everything that comes, on a thread; the end is when the machine has been dropped.
    pub fn collect(mut self) -> JoinHandle<Vec<u8>> {
        std::thread::spawn(move || {
            let mut all = Vec::new();
            self.from_guest.read_to_end(&mut all).unwrap();
            all
        })
    }
}

pub fn spec(harts: u32) -> MachineSpec {
    let slots = vec![(0, SlotDevice::Disk(0)), (6, SlotDevice::Net(0)), (7, SlotDevice::Rng)];
    let board = crate::Board::RiscvVirt;
    MachineSpec {
        board,
        harts,
        processor: None,
        memory: 16 << 20,
        cmdline: String::new(),
        deterministic: false,
        transport: Default::default(),
        slots,
    }
}

/// A machine of `harts` with a device of every kind.
pub fn machine_with(harts: u32, placement: Placement) -> (Machine, Console) {
    machine_of(&spec(harts), None, placement)
}

/// The same, of any kind and tier.
pub fn machine_of(spec: &MachineSpec, tier: Option<Tier>, placement: Placement) -> (Machine, Console) {
    let (ours, console) = Console::pair();
    (crate::build(spec, resources_of(tier, placement, console)).unwrap(), ours)
}

/// What such a machine is built from.
pub fn resources_of(tier: Option<Tier>, placement: Placement, console: ConsoleFds) -> Resources {
    let net = UserNet::new(UserConfig { isolated: true, ..UserConfig::default() }).unwrap();
    Resources {
        tier,
        pace: false,
        restore: None,
        placement,
        console,
        disks: vec![Box::new(strata_block::MemDisk::new(1 << 20))],
        nics: vec![Nic { backend: Box::new(net), mac: [2, 0, 0, 0, 0, 1] }],
        entropy: Box::new(SeededEntropy(1)),
        code_size: None,
        boot_entropy: Box::new(SeededEntropy(2)),
    }
}

/// What loads `image` as the kernel.
pub fn kernel_placement(image: &[u8]) -> Placement {
    Placement { kernel: Some(source(image)), ..Placement::default() }
}

/// A machine that boots `image` as its kernel.
pub fn kernel(harts: u32, image: &[u8]) -> (Machine, Console) {
    machine_with(harts, Placement { kernel: Some(source(image)), ..Placement::default() })
}

/// Runs `f`, which must be done within `limit`.
pub fn within<R: Send + 'static>(limit: Duration, f: impl FnOnce() -> R + Send + 'static) -> R {
    let (tx, rx) = channel();
    let t = std::thread::spawn(move || {
        // Nobody listens any more when it was late.
        let _ = tx.send(f());
    });
    match rx.recv_timeout(limit) {
        Ok(r) => r,
        Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("not done within {limit:?}"),
        Err(_) => match t.join() {
            Err(why) => std::panic::resume_unwind(why),
            Ok(()) => unreachable!(),
        },
    }
}

/// The word at `gpa`.
pub fn word(m: &Machine, gpa: u64) -> u64 {
    let mut b = [0; 8];
    m.ram().peek(gpa, &mut b).unwrap();
    u64::from_le_bytes(b)
}
