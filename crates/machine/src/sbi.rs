//! SBI: the firmware calls that the machine answers itself when it boots a kernel directly.
//!
//! RISC-V Supervisor Binary Interface 2.0: base (ch. 4), TIME (6), IPI (7), RFENCE (8), HSM (9), SRST (10), DBCN (12).
//! [`call`] is a pure dispatcher over [`SbiHost`]; whatever touches other harts, memory or the console is the host's.
//! The debug console is the UART's stream: its output goes the way of the UART's, its input is what the UART has
//! received, read as firmware on the board would read it.
//! Unknown extensions and functions answer `NOT_SUPPORTED`, as the specification demands; nothing a guest passes
//! can do worse than get an error back.

use strata_devices::SystemEvent;
use strata_engine::{Entry, Mail, Privilege};

/// Error codes (ch. 3, table 1).
mod code {
    pub const SUCCESS: i64 = 0;
    pub const FAILED: i64 = -1;
    pub const NOT_SUPPORTED: i64 = -2;
    pub const INVALID_PARAM: i64 = -3;
    pub const INVALID_ADDRESS: i64 = -5;
    pub const ALREADY_AVAILABLE: i64 = -6;
}

/// Extension identifiers.
mod eid {
    pub const BASE: u64 = 0x10;
    pub const TIME: u64 = 0x5449_4d45;
    pub const IPI: u64 = 0x73_5049;
    pub const RFENCE: u64 = 0x5246_4e43;
    pub const HSM: u64 = 0x48_534d;
    pub const SRST: u64 = 0x5352_5354;
    pub const DBCN: u64 = 0x4442_434e;
    pub const ALL: [u64; 7] = [BASE, TIME, IPI, RFENCE, HSM, SRST, DBCN];
}

/// Version 2.0, as `sbi_get_spec_version` packs it.
const SPEC_VERSION: u64 = 2 << 24;
/// "STRA": not one of the registered implementation numbers, which end far below.
const IMPLEMENTATION: u64 = 0x5354_5241;

/// Longest text taken from the guest in one console call; it may call again for the rest (ch. 12.1 allows partial
/// writes).
pub const CONSOLE_CHUNK: u64 = 4096;

/// State of a hart as HSM numbers it (ch. 9, table 1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HartStatus {
    /// Executing.
    Started = 0,
    /// Not executing; may be started.
    Stopped = 1,
    /// Asked to start, not there yet.
    StartPending = 2,
}

/// What SBI needs of the machine.
pub trait SbiHost {
    /// Number of harts; they are numbered from 0.
    fn harts(&self) -> u64;
    /// The calling hart.
    fn this_hart(&self) -> u64;
    /// Status of hart `hart`, which exists.
    fn status(&self, hart: u64) -> HartStatus;
    /// Starts hart `hart`, which is stopped; false if another was quicker.
    fn start(&mut self, hart: u64, entry: Entry) -> bool;
    /// Stops the calling hart.
    fn stop_this(&mut self);
    /// Sets the calling hart's supervisor timer, in ticks.
    fn set_timer(&mut self, at: u64);
    /// Makes a supervisor software interrupt pending at `hart`.
    fn send_ipi(&mut self, hart: u64);
    /// Has `harts` carry `mail` out, and waits until they have.
    fn fence(&mut self, harts: &[u64], mail: Mail);
    /// Power-off or reset of the whole machine.
    fn system(&mut self, event: SystemEvent);
    /// Writes `len` bytes of guest memory to the console; `None` where that is not RAM.
    fn console_write(&mut self, gpa: u64, len: u64) -> Option<u64>;
    /// Reads up to `len` bytes of console input into guest memory; `None` where that is not RAM.
    fn console_read(&mut self, gpa: u64, len: u64) -> Option<u64>;
    /// Writes one byte to the console, waiting for room; false if it could not.
    fn console_put(&mut self, byte: u8) -> bool;
    /// Whether `gpa` is RAM: where a hart may be started.
    fn is_ram(&self, gpa: u64) -> bool;
}

/// How a call goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Return to the caller with (error, value).
    Return(i64, u64),
    /// The calling hart does not go on.
    NoReturn,
}

fn ok(value: u64) -> Answer {
    Answer::Return(code::SUCCESS, value)
}

fn error(code: i64) -> Answer {
    Answer::Return(code, 0)
}

/// Carries out the call with registers a0 to a7.
pub fn call(host: &mut dyn SbiHost, a: [u64; 8]) -> Answer {
    let (extension, function) = (a[7], a[6]);
    match (extension, function) {
        (eid::BASE, f) => base(f, a[0]),
        (eid::TIME, 0) => {
            host.set_timer(a[0]);
            ok(0)
        }
        (eid::IPI, 0) => match targets(host, a[0], a[1]) {
            Some(harts) => {
                harts.iter().for_each(|h| host.send_ipi(*h));
                ok(0)
            }
            None => error(code::INVALID_PARAM),
        },
        (eid::RFENCE, f) => remote_fence(host, f, a),
        (eid::HSM, f) => hart_state(host, f, a),
        (eid::SRST, 0) => system_reset(host, a[0], a[1]),
        (eid::DBCN, f) => console(host, f, a),
        _ => error(code::NOT_SUPPORTED),
    }
}

fn base(function: u64, extension: u64) -> Answer {
    match function {
        0 => ok(SPEC_VERSION),
        1 => ok(IMPLEMENTATION),
        2 => ok(1),
        3 => ok(u64::from(eid::ALL.contains(&extension))),
        // mvendorid, marchid, mimpid: as the hart reads them in M mode.
        4..=6 => ok(0),
        _ => error(code::NOT_SUPPORTED),
    }
}

/// The harts of a mask (ch. 3.1): bit i of `mask` is hart `base + i`; base −1 is all harts.
fn targets(host: &dyn SbiHost, mask: u64, base: u64) -> Option<Vec<u64>> {
    if base == u64::MAX {
        return Some((0..host.harts()).collect());
    }
    (0..64)
        .filter(|i| mask >> i & 1 != 0)
        .map(|i| base.checked_add(i).filter(|h| *h < host.harts()))
        .collect()
}

fn remote_fence(host: &mut dyn SbiHost, function: u64, a: [u64; 8]) -> Answer {
    // A size of 0 or −1 means the whole address space (ch. 8).
    let size = if a[3] == 0 { u64::MAX } else { a[3] };
    let mail = match function {
        0 => Mail::FenceI,
        1 => Mail::FenceVma { start: a[2], size, asid: None },
        2 => Mail::FenceVma { start: a[2], size, asid: Some(a[4] as u16) },
        _ => return error(code::NOT_SUPPORTED),
    };
    match targets(host, a[0], a[1]) {
        Some(harts) => {
            host.fence(&harts, mail);
            ok(0)
        }
        None => error(code::INVALID_PARAM),
    }
}

fn hart_state(host: &mut dyn SbiHost, function: u64, a: [u64; 8]) -> Answer {
    let exists = a[0] < host.harts();
    match function {
        0 if !exists => error(code::INVALID_PARAM),
        0 if host.status(a[0]) != HartStatus::Stopped => error(code::ALREADY_AVAILABLE),
        0 if !host.is_ram(a[1]) => error(code::INVALID_ADDRESS),
        0 => {
            let entry = Entry { pc: a[1], args: [a[0], a[2], 0], privilege: Privilege::Kernel };
            if host.start(a[0], entry) { ok(0) } else { error(code::ALREADY_AVAILABLE) }
        }
        1 => {
            host.stop_this();
            Answer::NoReturn
        }
        2 if !exists => error(code::INVALID_PARAM),
        2 => ok(host.status(a[0]) as u64),
        _ => error(code::NOT_SUPPORTED),
    }
}

fn system_reset(host: &mut dyn SbiHost, kind: u64, reason: u64) -> Answer {
    let event = match kind as u32 {
        // Reason 1 is "system failure"; the guest's good end is reason 0.
        0 => SystemEvent::PowerOff(u32::from(reason as u32 != 0)),
        1 | 2 => SystemEvent::Reset,
        3..=0xefff_ffff => return error(code::INVALID_PARAM),
        _ => return error(code::NOT_SUPPORTED),
    };
    host.system(event);
    Answer::NoReturn
}

fn console(host: &mut dyn SbiHost, function: u64, a: [u64; 8]) -> Answer {
    // The address is in two halves; the upper one is for 32-bit callers and must be zero here.
    let shared = |done: Option<u64>| done.map_or(error(code::INVALID_PARAM), ok);
    match function {
        0 | 1 if a[2] != 0 => error(code::INVALID_PARAM),
        0 => shared(host.console_write(a[1], a[0].min(CONSOLE_CHUNK))),
        1 => shared(host.console_read(a[1], a[0].min(CONSOLE_CHUNK))),
        2 => {
            if host.console_put(a[0] as u8) {
                ok(0)
            } else {
                error(code::FAILED)
            }
        }
        _ => error(code::NOT_SUPPORTED),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Fake {
        status: Vec<Option<Entry>>,
        log: Vec<String>,
    }

    impl SbiHost for Fake {
        fn harts(&self) -> u64 {
            self.status.len() as u64
        }
        fn this_hart(&self) -> u64 {
            0
        }
        fn status(&self, hart: u64) -> HartStatus {
            if self.status[hart as usize].is_some() { HartStatus::Started } else { HartStatus::Stopped }
        }
        fn start(&mut self, hart: u64, entry: Entry) -> bool {
            self.status[hart as usize] = Some(entry);
            true
        }
        fn stop_this(&mut self) {
            self.log.push("stop".into());
        }
        fn set_timer(&mut self, at: u64) {
            self.log.push(format!("timer {at}"));
        }
        fn send_ipi(&mut self, hart: u64) {
            self.log.push(format!("ipi {hart}"));
        }
        fn fence(&mut self, harts: &[u64], mail: Mail) {
            self.log.push(format!("fence {harts:?} {mail:?}"));
        }
        fn system(&mut self, event: SystemEvent) {
            self.log.push(format!("{event:?}"));
        }
        fn console_write(&mut self, gpa: u64, len: u64) -> Option<u64> {
            self.is_ram(gpa).then_some(len)
        }
        fn console_read(&mut self, gpa: u64, _len: u64) -> Option<u64> {
            self.is_ram(gpa).then_some(0)
        }
        fn console_put(&mut self, byte: u8) -> bool {
            self.log.push(format!("put {byte}"));
            byte != 0
        }
        fn is_ram(&self, gpa: u64) -> bool {
            gpa >= 0x8000_0000
        }
    }

    fn fake() -> Fake {
        let boot = Entry { pc: 0, args: [0; 3], privilege: Privilege::Kernel };
        Fake { status: vec![Some(boot), None, None, None], log: vec![] }
    }

    fn args(eid: u64, fid: u64, a: &[u64]) -> [u64; 8] {
        let mut r = [0; 8];
        r[..a.len()].copy_from_slice(a);
        r[6] = fid;
        r[7] = eid;
        r
    }

    #[test]
    fn probing_tells_what_is_there() {
        let mut h = fake();
        for e in eid::ALL {
            assert_eq!(call(&mut h, args(eid::BASE, 3, &[e])), ok(1));
        }
        assert_eq!(call(&mut h, args(eid::BASE, 3, &[0x504d55])), ok(0));
        assert_eq!(call(&mut h, args(0x504d55, 0, &[])), error(code::NOT_SUPPORTED));
    }

    #[test]
    fn masks_reach_the_harts_they_name() {
        let mut h = fake();
        assert_eq!(call(&mut h, args(eid::IPI, 0, &[0b101, 1])), ok(0));
        assert_eq!(h.log, ["ipi 1", "ipi 3"]);
        h.log.clear();
        assert_eq!(call(&mut h, args(eid::IPI, 0, &[0b1000, 1])), error(code::INVALID_PARAM));
        assert_eq!(call(&mut h, args(eid::IPI, 0, &[1, u64::MAX - 1])), error(code::INVALID_PARAM));
        assert!(h.log.is_empty());
        call(&mut h, args(eid::RFENCE, 1, &[0, u64::MAX, 0x1000, 0]));
        assert!(
            h.log[0].starts_with("fence [0, 1, 2, 3] FenceVma { start: 4096, size: 18446744073709551615")
        );
    }

    #[test]
    fn harts_start_once_and_only_in_ram() {
        let mut h = fake();
        let start = |h: &mut Fake, hart, pc| call(h, args(eid::HSM, 0, &[hart, pc, 77]));
        assert_eq!(start(&mut h, 1, 0x1000), error(code::INVALID_ADDRESS));
        assert_eq!(start(&mut h, 1, 0x8000_0000), ok(0));
        assert_eq!(h.status[1].unwrap().args, [1, 77, 0]);
        assert_eq!(start(&mut h, 1, 0x8000_0000), error(code::ALREADY_AVAILABLE));
        assert_eq!(start(&mut h, 9, 0x8000_0000), error(code::INVALID_PARAM));
        assert_eq!(call(&mut h, args(eid::HSM, 2, &[2])), ok(1));
        assert_eq!(call(&mut h, args(eid::HSM, 1, &[])), Answer::NoReturn);
    }

    #[test]
    fn reset_and_power_off_do_not_return() {
        let mut h = fake();
        assert_eq!(call(&mut h, args(eid::SRST, 0, &[0, 0])), Answer::NoReturn);
        assert_eq!(call(&mut h, args(eid::SRST, 0, &[1, 0])), Answer::NoReturn);
        assert_eq!(call(&mut h, args(eid::SRST, 0, &[7, 0])), error(code::INVALID_PARAM));
        assert_eq!(h.log, ["PowerOff(0)", "Reset"]);
    }

    #[test]
    fn the_console_tells_what_it_could_not_do() {
        let mut h = fake();
        let dbcn = |h: &mut Fake, f, a: &[u64]| call(h, args(eid::DBCN, f, a));
        assert_eq!(dbcn(&mut h, 0, &[70, 0x8000_0000, 0]), ok(70));
        assert_eq!(dbcn(&mut h, 0, &[u64::MAX, 0x8000_0000, 0]), ok(CONSOLE_CHUNK));
        assert_eq!(dbcn(&mut h, 0, &[70, 0x1000, 0]), error(code::INVALID_PARAM));
        assert_eq!(dbcn(&mut h, 1, &[70, 0x8000_0000, 1]), error(code::INVALID_PARAM));
        assert_eq!(dbcn(&mut h, 2, &[65]), ok(0));
        assert_eq!(dbcn(&mut h, 2, &[0]), error(code::FAILED));
    }

    #[test]
    fn no_arguments_whatever_make_it_panic() {
        let mut h = fake();
        let mut seed = 1u64;
        let mut next = || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            [0, 1, u64::MAX, seed >> 33, seed][(seed >> 60) as usize % 5]
        };
        for e in eid::ALL {
            for f in 0..10 {
                for _ in 0..50 {
                    let mut a = [0; 8].map(|_: u64| next());
                    (a[6], a[7]) = (f, e);
                    call(&mut h, a);
                }
            }
        }
    }
}
