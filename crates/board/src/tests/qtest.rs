//! The board's devices against QEMU's, register by register: the same accesses go to our bus and, by QEMU's qtest
//! protocol, to its `virt` machine, and every value read must be the same.
//!
//! QEMU's harts do not run, so its clock stands still; nothing here waits for a timer.
//!
//! What the accesses here avoid, because the devices differ on purpose:
//! - FIFO triggers above 1, below which QEMU's UART interrupts after a time and ours at once;
//! - switching the UART's FIFOs without clearing them (ours keeps a byte), and the modem-change bits (QEMU's UART has
//!   none in loopback);
//! - PLIC thresholds at a claim (QEMU's claim looks at them, the specification's does not), and completions of
//!   sources that are not enabled.

use crate::{MmioBus, PartId, RiscvVirt};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};
use strata_devices::aclint::Aclint;
use strata_devices::goldfish_rtc::GoldfishRtc;
use strata_devices::plic::Plic;
use strata_devices::serial::{SerialLink, SerialWorker};
use strata_devices::uart16550::Uart16550;
use strata_engine::{Bus, Entropy, ManualClock, SeededEntropy, VcpuShared};

const UART: u64 = 0x1000_0000;
const PLIC: u64 = 0xc00_0000;
const CLINT: u64 = 0x200_0000;
const RTC: u64 = 0x10_1000;

/// QEMU's machine.
struct Qemu {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Qemu {
    fn start() -> Option<Qemu> {
        let args = "-M virt -smp 2 -S -bios none -display none -monitor none -serial null -qtest stdio \
                    -qtest-log /dev/null";
        let pipe = Stdio::piped;
        let run = Command::new("qemu-system-riscv64")
            .args(args.split_whitespace())
            .stdin(pipe())
            .stdout(pipe())
            .stderr(Stdio::null())
            .spawn();
        match run {
            Ok(mut child) => {
                let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
                Some(Qemu { child, to, from })
            }
            Err(why) => {
                assert!(std::env::var_os("STRATA_REQUIRE_TOOLS").is_none(), "qemu-system-riscv64: {why}");
                eprintln!("skipped: qemu-system-riscv64 does not start ({why})");
                None
            }
        }
    }

    fn ask(&mut self, command: String) -> u64 {
        writeln!(self.to, "{command}").unwrap();
        loop {
            let mut line = String::new();
            assert!(self.from.read_line(&mut line).unwrap() > 0, "QEMU is gone after `{command}`");
            if let Some(value) = line.trim().strip_prefix("OK") {
                let hex = value.trim().trim_start_matches("0x");
                return u64::from_str_radix(hex, 16).unwrap_or(0);
            }
            assert!(!line.starts_with("FAIL"), "{command}: {line}");
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both machines.
struct Both {
    qemu: Qemu,
    bus: MmioBus,
    /// Drops what the UART sends, as QEMU's does.
    _worker: SerialWorker<Uart16550>,
    log: Vec<String>,
}

fn both() -> Option<Both> {
    let qemu = Qemu::start()?;
    let harts: Vec<Arc<VcpuShared>> = (0..2).map(|_| Arc::default()).collect();
    let clock = Arc::new(ManualClock::default());
    let plic = Arc::new(Mutex::new(Plic::new(harts.clone())));
    let line = |part| Plic::irq_line(&plic, RiscvVirt::line(part, 0).unwrap());
    let link = SerialLink::new().unwrap();
    let uart = Arc::new(Mutex::new(Uart16550::new(line(PartId::Uart0), link.clone())));
    let worker = SerialWorker::new("uart0", uart.clone(), link, None, None).unwrap();
    let rtc = GoldfishRtc::new(clock.clone(), line(PartId::Rtc)).unwrap();
    let place = |part| RiscvVirt::place(part, 0).unwrap();
    let bus = MmioBus::builder()
        .add(place(PartId::Uart0), uart)
        .add(place(PartId::Plic), plic)
        .add(place(PartId::Rtc), Arc::new(Mutex::new(rtc)))
        .add(place(PartId::Clint), Arc::new(Mutex::new(Aclint::new(harts, clock))));
    Some(Both { qemu, bus: bus.build().unwrap(), _worker: worker, log: Vec::new() })
}

fn suffix(size: u8) -> char {
    match size {
        1 => 'b',
        2 => 'w',
        4 => 'l',
        _ => 'q',
    }
}

impl Both {
    fn write(&mut self, gpa: u64, size: u8, value: u64) {
        self.log.push(format!("write{} {gpa:#x} {value:#x}", suffix(size)));
        self.qemu.ask(format!("write{} {gpa:#x} {value:#x}", suffix(size)));
        self.bus.write(gpa, size, value).unwrap();
    }

    /// Reads from both, and holds the values against each other.
    #[track_caller]
    fn read(&mut self, gpa: u64, size: u8) -> u64 {
        let theirs = self.qemu.ask(format!("read{} {gpa:#x}", suffix(size)));
        let ours = self.bus.read(gpa, size).unwrap();
        self.log.push(format!("read{} {gpa:#x} = {ours:#x}", suffix(size)));
        let recent = &self.log[self.log.len().saturating_sub(30)..];
        assert_eq!(ours, theirs, "ours {ours:#x}, QEMU's {theirs:#x} after\n{}", recent.join("\n"));
        ours
    }
}

#[test]
fn the_uart_answers_as_qemus() {
    let Some(mut b) = both() else { return };
    let mut random = SeededEntropy(3);
    b.write(UART + 4, 1, 0x10);
    b.write(UART + 6, 1, 0);
    for _ in 0..4000 {
        let mut r = [0; 4];
        random.fill(&mut r);
        let [what, value, ..] = r;
        let on = value & 8 | 7;
        match what % 16 {
            0..4 => b.write(UART, 1, value.into()),
            4 => b.write(UART + 1, 1, u64::from(value & 0xf7)),
            5 => b.write(UART + 2, 1, if value % 4 == 0 { 6 } else { on.into() }),
            6 => b.write(UART + 3, 1, u64::from(value & if value % 3 == 0 { 0xff } else { 0x3f })),
            7 => b.write(UART + 4, 1, u64::from(value & 0xf | if value % 8 == 0 { 0 } else { 0x10 })),
            8 => b.write(UART + 7, 1, value.into()),
            // What an empty receiver reads as is nobody's promise.
            9..12 if b.read(UART + 5, 1) & 1 == 0 => {}
            9..12 => {
                b.read(UART, 1);
            }
            12 | 13 => {
                b.read(UART + 2, 1);
            }
            14 => {
                b.read(UART + 5, 1);
            }
            _ => {
                b.read(UART + [1, 3, 4, 7][usize::from(value % 4)], 1);
            }
        }
    }
}

#[test]
fn the_plic_answers_as_qemus() {
    let Some(mut b) = both() else { return };
    let mut random = SeededEntropy(4);
    for _ in 0..500 {
        let mut r = [0; 8];
        random.fill(&mut r);
        let n = u64::from(r[0]);
        let (gpa, value) = match r[1] % 3 {
            0 => (PLIC + 4 * (n % 95 + 1), u64::from(r[2] % 8)),
            1 => (PLIC + 0x2000 + 0x80 * (n % 4) + 4 * (n / 4 % 3), u64::from_le_bytes(r) & 0xffff_fffe),
            _ => (PLIC + 0x20_0000 + 0x1000 * (n % 4), u64::from(r[2] % 8)),
        };
        b.write(gpa, 4, value);
        b.read(gpa, 4);
    }
    // Two sources, UART (10) and clock (11), to S mode of hart 0 and M mode of hart 1.
    for context in 0..4 {
        b.write(PLIC + 0x20_0000 + 0x1000 * context, 4, 0);
        (0..3).for_each(|word| b.write(PLIC + 0x2000 + 0x80 * context + 4 * word, 4, 0));
    }
    for (context, priorities) in [(1, [1, 2]), (2, [3, 3])] {
        b.write(PLIC + 0x2000 + 0x80 * context, 4, 3 << 10);
        (0..2).for_each(|i| b.write(PLIC + 4 * (10 + i), 4, priorities[i as usize]));
        b.write(UART + 1, 1, 2);
        b.write(RTC + 0x10, 4, 1);
        b.write(RTC + 0x0c, 4, 0);
        b.write(RTC + 0x08, 4, 0);
        assert_eq!(b.read(PLIC + 0x1000, 4), 3 << 10);
        let claim = PLIC + 0x20_0004 + 0x1000 * context;
        let first = b.read(claim, 4);
        assert_eq!(first, if context == 1 { 11 } else { 10 });
        let second = b.read(claim, 4);
        assert_eq!((b.read(claim, 4), b.read(PLIC + 0x1000, 4)), (0, 0));
        b.write(UART + 1, 1, 0);
        b.write(RTC + 0x1c, 4, 1);
        b.write(claim, 4, first);
        b.write(claim, 4, second);
        assert_eq!((b.read(claim, 4), b.read(PLIC + 0x1000, 4)), (0, 0));
        b.write(PLIC + 0x2000 + 0x80 * context, 4, 0);
    }
}

#[test]
fn the_aclint_answers_as_qemus() {
    let Some(mut b) = both() else { return };
    for hart in 0..2 {
        for value in [1, 0, 0xffff_ffff, 2] {
            b.write(CLINT + 4 * hart, 4, value);
            b.read(CLINT + 4 * hart, 4);
        }
        let at = CLINT + 0x4000 + 8 * hart;
        b.write(at, 8, 0x1122_3344_5566_7788);
        b.read(at, 4);
        b.read(at + 4, 4);
        b.write(at + 4, 4, 7);
        b.write(at, 4, 9);
        assert_eq!(b.read(at, 8), 7 << 32 | 9);
    }
    b.read(CLINT + 8, 4);
    b.read(CLINT + 0x4010, 8);
}

#[test]
fn the_clocks_alarm_answers_as_qemus() {
    let Some(mut b) = both() else { return };
    b.write(RTC + 0x0c, 4, 0x7fff_ffff);
    b.write(RTC + 0x08, 4, 5);
    for register in [0x08, 0x0c, 0x10, 0x18, 0x1c, 0x14] {
        b.read(RTC + register, 4);
    }
    b.write(RTC + 0x14, 4, 1);
    assert_eq!(b.read(RTC + 0x18, 4), 0);
}
