//! HTIF: the two words through which a bare-metal RISC-V program talks to whoever runs it.
//!
//! As QEMU's `spike` machine gives it. The device lies over RAM, at the addresses of the program's symbols `tohost`
//! and `fromhost`; here its registers are 0x0 TOHOST and 0x8 FROMHOST, and the bus places each where it belongs.
//! ```text
//! tohost = device:8 command:8 payload:48
//!   0 0 payload odd    exit with payload >> 1
//!   0 0 payload even   system call: payload is the address of eight words, number first; write (64) to 1 or 2
//!   1 0                read a character: fromhost = 01 00 .. 1cc once there is one
//!   1 1                write the character in the payload
//! ```
//! A command counts when the whole word is written: by one 8-byte store, or by the store to its upper half. It is
//! done when `tohost` reads as zero; until the console's peer (or a page of guest memory) allows that, the device
//! tries again at each access, since a program polls.
//!
//! State: both words, whether a whole command waits, and whether a read waits for a character.
//!
//! Not here: other devices, other system calls (they are answered with ENOSYS), the signature dump.

use crate::serial::{Serial, SerialLink, SerialWorker};
use crate::{Mmio, SystemEvent, SystemSink};
use std::sync::Arc;
use strata_memory::{Access, Acquired, GuestRam};
use strata_state::{Stateful, state};

/// The worker of an HTIF console.
pub type HtifWorker = SerialWorker<Htif>;

/// Bytes of the register space: TOHOST and FROMHOST.
pub const SIZE: u64 = 16;
/// Offset of FROMHOST.
pub const FROMHOST: u64 = 8;

const SYSTEM: u64 = 0;
const CONSOLE: u64 = 1;
const GETC: u64 = 0;
const PUTC: u64 = 1;
const PAYLOAD: u64 = (1 << 48) - 1;
const LOW: u64 = 0xffff_ffff;

/// Warnings in the log about one program: after these it is known.
const MAX_WARNINGS: u32 = 16;

const SYS_WRITE: u64 = 64;
const ENOSYS: u64 = 38;
/// Most bytes that one system call writes; the program sees how many and calls again.
const WRITE_LIMIT: u64 = 4096;

state! {
    /// Guest-visible state.
    pub struct HtifState("htif", 1) {
        /// The program's word.
        1 tohost: u64,
        /// Ours.
        2 fromhost: u64,
        /// `tohost` is a whole command, not yet done.
        3 command: bool,
        /// The program waits for a character.
        4 reading: bool,
    }
}

/// Whether a command is done.
enum Outcome {
    /// Done; the low 48 bits of `fromhost`.
    Done(u64),
    /// Done, without an answer now.
    Silent,
    /// Not possible yet.
    Later,
}

/// The device.
pub struct Htif {
    ram: GuestRam,
    link: Arc<SerialLink>,
    sink: SystemSink,
    warnings: u32,
    s: HtifState,
}

impl Htif {
    /// An interface for a program in `ram`, with a console and a way to end.
    pub fn new(ram: GuestRam, link: Arc<SerialLink>, sink: SystemSink) -> Htif {
        Htif { ram, link, sink, warnings: 0, s: Self::after_power_on() }
    }

    fn after_power_on() -> HtifState {
        HtifState { tohost: 0, fromhost: 0, command: false, reading: false }
    }

    fn run(&mut self) -> Outcome {
        let word = self.s.tohost;
        let payload = word & PAYLOAD;
        match (word >> 56, word >> 48 & 0xff) {
            (SYSTEM, 0) if payload & 1 == 1 => {
                (self.sink)(SystemEvent::PowerOff(u32::try_from(payload >> 1).unwrap_or(u32::MAX)));
                Outcome::Silent
            }
            (SYSTEM, 0) => self.system_call(payload),
            (CONSOLE, GETC) => {
                self.s.reading = true;
                Outcome::Silent
            }
            (CONSOLE, PUTC) => match self.link.send(&[payload as u8]) {
                1 => Outcome::Done(0x100 | payload & 0xff),
                _ => Outcome::Later,
            },
            _ => {
                // A guest may send them for ever; the log must not fill the host's disk.
                if self.warnings < MAX_WARNINGS {
                    self.warnings += 1;
                    tracing::warn!("the guest sent an unknown HTIF command {word:#x}");
                }
                Outcome::Done(0)
            }
        }
    }

    /// Does the call that the eight words at `at` ask for, and puts its result in the first of them. A block that
    /// is not RAM has no place for a result: the call is answered, so that the program goes on.
    fn system_call(&mut self, at: u64) -> Outcome {
        let (number, fd, buf, len) = match self.ram.acquire(at, 64, Access::Write) {
            Err(_) => return Outcome::Done(1),
            Ok(Acquired::Wait) => return Outcome::Later,
            Ok(Acquired::Ready(block)) => {
                let mut bytes = [0u8; 32];
                block.copy_to(&mut bytes);
                let mut words = bytes.as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w));
                let mut next = || words.next().unwrap_or(0);
                (next(), next(), next(), next())
            }
        };
        let result = match (number, fd) {
            (SYS_WRITE, 1 | 2) => match self.write_console(buf, len.min(WRITE_LIMIT)) {
                Some(n) => n,
                None => return Outcome::Later,
            },
            _ => ENOSYS.wrapping_neg(),
        };
        if let Ok(Acquired::Ready(block)) = self.ram.acquire(at, 8, Access::Write) {
            block.copy_from(&result.to_le_bytes());
            self.ram.written_slice(&block);
        }
        Outcome::Done(1)
    }

    /// Gives how much was written, or none if nothing can be now.
    fn write_console(&mut self, buf: u64, len: u64) -> Option<u64> {
        match self.ram.acquire(buf, len, Access::Read) {
            // EFAULT.
            Err(_) => Some(14u64.wrapping_neg()),
            Ok(Acquired::Wait) => None,
            Ok(Acquired::Ready(slice)) => {
                let mut bytes = vec![0u8; len as usize];
                slice.copy_to(&mut bytes);
                let n = self.link.send(&bytes);
                (n > 0 || len == 0).then_some(n as u64)
            }
        }
    }
}

impl Stateful for Htif {
    type State = HtifState;
    fn state(&self) -> HtifState {
        self.s.clone()
    }
    fn reset_state(&self) -> HtifState {
        Self::after_power_on()
    }
    fn set_state(&mut self, state: HtifState) {
        self.s = state;
    }
    /// Carries out the command that waits, if it can be.
    fn settle(&mut self) {
        if self.s.command {
            let answer = match self.run() {
                Outcome::Later => return,
                Outcome::Silent => None,
                Outcome::Done(answer) => Some(self.s.tohost & !PAYLOAD | answer & PAYLOAD),
            };
            self.s.command = false;
            self.s.tohost = 0;
            self.s.fromhost = answer.unwrap_or(self.s.fromhost);
        }
        if self.room() > 0 {
            self.link.has_room();
        }
    }
}

impl Mmio for Htif {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        self.settle();
        let word = if offset < FROMHOST { self.s.tohost } else { self.s.fromhost };
        let bits = u64::from(size.clamp(1, 8)) * 8;
        word >> (offset % 8 * 8) & (u64::MAX >> (64 - bits))
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        let merged = |old: u64| match (size, offset % 8) {
            (8, 0) => value,
            (4, 0) => old & !LOW | value & LOW,
            (4, 4) => old & LOW | value << 32,
            _ => old,
        };
        if offset >= FROMHOST {
            self.s.fromhost = merged(self.s.fromhost);
        } else if !self.s.command {
            self.s.tohost = merged(self.s.tohost);
            let whole = size == 8 || size == 4 && offset % 8 == 4;
            self.s.command = whole && self.s.tohost != 0;
        }
        self.settle();
    }
}

impl Serial for Htif {
    fn room(&self) -> usize {
        usize::from(self.s.reading && self.s.fromhost == 0)
    }

    fn receive(&mut self, bytes: &[u8]) -> usize {
        let (Some(&byte), 1) = (bytes.first(), self.room()) else { return 0 };
        self.s.reading = false;
        self.s.fromhost = CONSOLE << 56 | GETC << 48 | 0x100 | u64::from(byte);
        1
    }

    fn output_resumed(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    const RAM: u64 = 0x8000_0000;
    type Events = Arc<Mutex<Vec<SystemEvent>>>;

    fn htif() -> (Htif, Arc<SerialLink>, Events) {
        let events = Events::default();
        let sink: SystemSink = Arc::new({
            let events = events.clone();
            move |e| events.lock().unwrap().push(e)
        });
        let link = SerialLink::new().unwrap();
        (Htif::new(GuestRam::single(RAM, 0x1_0000).unwrap(), link.clone(), sink), link, events)
    }

    fn output(link: &SerialLink) -> Vec<u8> {
        let mut buf = [0; 100_000];
        let n = link.peek(&mut buf);
        link.consume(n);
        buf[..n].to_vec()
    }

    #[test]
    fn exit_by_one_store_or_by_halves() {
        let (mut h, _, events) = htif();
        h.write(0, 8, 1);
        h.write(0, 4, 7 << 1 | 1);
        assert_eq!((events.lock().unwrap().len(), h.read(0, 8)), (1, 15));
        h.write(4, 4, 0);
        h.write(0, 8, PAYLOAD);
        let want = [0, 7, u32::MAX].map(SystemEvent::PowerOff);
        assert_eq!(*events.lock().unwrap(), want);
        assert_eq!(h.read(0, 8), 0);
    }

    #[test]
    fn console_out_waits_for_a_full_link() {
        let (mut h, link, _) = htif();
        h.write(0, 8, 0x0101_0000_0000_0041);
        assert_eq!((h.read(0, 8), h.read(8, 8)), (0, 0x0101_0000_0000_0141));
        assert_eq!(output(&link), b"A");
        link.send(&vec![b'x'; crate::serial::OUTPUT_LIMIT]);
        h.write(0, 8, 0x0101_0000_0000_0042);
        assert_ne!(h.read(0, 8), 0);
        h.write(0, 8, 1); // ignored: a command waits
        assert_ne!(h.read(4, 4), 0);
        output(&link);
        assert_eq!(h.read(0, 8), 0);
        assert_eq!(output(&link), b"B");
    }

    #[test]
    fn console_in_waits_for_a_character() {
        let (mut h, _, _) = htif();
        assert_eq!(h.receive(b"early"), 0);
        h.write(0, 8, 0x0100_0000_0000_0000);
        assert_eq!((h.read(0, 8), h.read(8, 8), h.room()), (0, 0, 1));
        assert_eq!(h.receive(b"xy"), 1);
        assert_eq!((h.read(8, 8), h.room()), (0x0100_0000_0000_0178, 0));
        h.write(8, 4, 0);
        h.write(12, 4, 0);
        assert_eq!(h.read(8, 8), 0);
    }

    #[test]
    fn write_calls_are_done_and_others_refused() {
        let (mut h, link, _) = htif();
        let mut call = |words: [u64; 4]| {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            h.ram.load(RAM + 0x100, &bytes).unwrap();
            h.write(8, 8, 0);
            h.write(0, 8, RAM + 0x100);
            let mut result = [0; 8];
            h.ram.peek(RAM + 0x100, &mut result).unwrap();
            assert_eq!((h.read(0, 8), h.read(8, 8)), (0, 1));
            i64::from_le_bytes(result)
        };
        assert_eq!(call([64, 1, RAM + 0x100, 2]), 2);
        assert_eq!(call([64, 2, RAM, u64::MAX]), 4096);
        assert_eq!(call([64, 1, 0x1000, 2]), -14);
        assert_eq!(call([64, 1, 0x1000, 0]), -14);
        assert_eq!(call([63, 0, RAM, 2]), -38);
        assert_eq!(output(&link).len(), 4098);
        h.write(0, 8, 0x10); // a block that is not RAM
        assert_eq!(h.read(0, 8), 0);
    }

    #[test]
    fn laws_hold() {
        let (mut h, _, _) = htif();
        h.write(0, 8, 0x0100_0000_0000_0000);
        h.write(8, 8, 99);
        h.write(0, 4, 5);
        strata_state::laws::check(&mut h).unwrap();
    }
}
