//! Syscon: the register through which a guest powers its machine off or resets it.
//!
//! Register-compatible with the SiFive test finisher that QEMU's `virt` machine has (device tree: `sifive,test0`,
//! `syscon`). One write-only register at offset 0: the low half-word is the request, the high one a code of failure.
//!
//! State: none. What the guest asks for goes to the machine's [`SystemSink`].

use crate::{Mmio, SystemEvent, SystemSink};
use strata_state::{Stateful, state};

const FAIL: u64 = 0x3333;
const PASS: u64 = 0x5555;
const RESET: u64 = 0x7777;

state! {
    /// Nothing is kept.
    pub struct SysconState("syscon", 1) {}
}

/// The device.
pub struct Syscon {
    sink: SystemSink,
}

impl Syscon {
    /// A syscon that tells `sink`.
    pub fn new(sink: SystemSink) -> Syscon {
        Syscon { sink }
    }
}

impl Stateful for Syscon {
    type State = SysconState;
    fn state(&self) -> SysconState {
        SysconState {}
    }
    fn reset_state(&self) -> SysconState {
        SysconState {}
    }
    fn set_state(&mut self, _state: SysconState) {}
    fn settle(&mut self) {}
}

impl Mmio for Syscon {
    fn read(&mut self, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        if offset != 0 || size < 2 {
            return;
        }
        match value & 0xffff {
            PASS => (self.sink)(SystemEvent::PowerOff(0)),
            // A guest that says "fail" has failed, even with the code 0.
            FAIL => (self.sink)(SystemEvent::PowerOff(((value >> 16) as u32 & 0xffff).max(1))),
            RESET => (self.sink)(SystemEvent::Reset),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn requests_become_events() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink: SystemSink = Arc::new({
            let seen = seen.clone();
            move |e| seen.lock().unwrap().push(e)
        });
        let mut s = Syscon::new(sink);
        s.write(0, 4, 0x5555);
        s.write(0, 2, 0x7777);
        s.write(0, 4, 0x0007_3333);
        s.write(0, 4, 0x3333);
        s.write(0, 4, 0x1234);
        s.write(4, 4, 0x5555);
        s.write(0, 1, 0x5555);
        let want = [
            SystemEvent::PowerOff(0),
            SystemEvent::Reset,
            SystemEvent::PowerOff(7),
            SystemEvent::PowerOff(1),
        ];
        assert_eq!(*seen.lock().unwrap(), want);
        assert_eq!(s.read(0, 4), 0);
        strata_state::laws::check(&mut s).unwrap();
    }
}
