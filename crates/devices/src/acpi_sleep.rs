//! The sleep registers of a machine with reduced ACPI hardware (ACPI 6.5, 4.8.3.7): how a guest powers off.
//!
//! ```text
//! byte 0   control: bits 2-4 the kind of sleep, bit 5 go to sleep now
//! byte 1   status: bit 7 has been woken; never set, since nothing here sleeps and wakes
//! ```
//! State: none. What the guest asks for goes to the machine's [`SystemSink`].

use crate::{Mmio, SystemEvent, SystemSink};
use strata_state::{Stateful, state};

state! {
    /// Nothing is kept.
    pub struct AcpiSleepState("acpi-sleep", 1) {}
}

/// The kind of sleep that is soft-off, as the board's `\_S5` says.
pub const SOFT_OFF: u8 = 5;
const KIND_SHIFT: u64 = 2;
const KIND: u64 = 7;
const GO: u64 = 1 << 5;

/// The device.
pub struct AcpiSleep {
    sink: SystemSink,
}

impl AcpiSleep {
    /// One that tells `sink`.
    pub fn new(sink: SystemSink) -> AcpiSleep {
        AcpiSleep { sink }
    }
}

impl Stateful for AcpiSleep {
    type State = AcpiSleepState;
    fn state(&self) -> AcpiSleepState {
        AcpiSleepState {}
    }
    fn reset_state(&self) -> AcpiSleepState {
        AcpiSleepState {}
    }
    fn set_state(&mut self, _state: AcpiSleepState) {}
    fn settle(&mut self) {}
}

impl Mmio for AcpiSleep {
    fn read(&mut self, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        if offset == 0 && size == 1 && value & GO != 0 && value >> KIND_SHIFT & KIND == u64::from(SOFT_OFF) {
            (self.sink)(SystemEvent::PowerOff(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn soft_off_is_the_end_and_other_kinds_are_nothing() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink: SystemSink = Arc::new({
            let seen = seen.clone();
            move |e| seen.lock().unwrap().push(e)
        });
        let mut d = AcpiSleep::new(sink);
        for (offset, size, value) in
            [(0, 1, 5 << 2), (0, 1, 3 << 2 | GO), (1, 1, 5 << 2 | GO), (0, 2, 5 << 2 | GO)]
        {
            d.write(offset, size, value);
        }
        assert!(seen.lock().unwrap().is_empty());
        d.write(0, 1, 5 << 2 | GO);
        assert_eq!(*seen.lock().unwrap(), [SystemEvent::PowerOff(0)]);
        strata_state::laws::check(&mut d).unwrap();
    }
}
