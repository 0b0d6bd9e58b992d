//! The reset line of a PC's keyboard controller (Intel 8042), at ports 0x60 and 0x64.
//!
//! There is no keyboard and no mouse. What is left is the command 0xfe, which pulses the processor's reset line: the way in
//! which PC kernels reset a machine. Reading says that the controller is idle and has nothing.
//!
//! State: none. What the guest asks for goes to the machine's [`SystemSink`].

use crate::{Mmio, SystemEvent, SystemSink};
use strata_state::{Stateful, state};

state! {
    /// Nothing is kept.
    pub struct I8042State("i8042", 1) {}
}

/// Offset of the command register, from port 0x60.
const COMMAND: u64 = 4;
/// Pulses the reset line.
const RESET: u64 = 0xfe;

/// The device.
pub struct I8042 {
    sink: SystemSink,
}

impl I8042 {
    /// One that tells `sink`.
    pub fn new(sink: SystemSink) -> I8042 {
        I8042 { sink }
    }
}

impl Stateful for I8042 {
    type State = I8042State;
    fn state(&self) -> I8042State {
        I8042State {}
    }
    fn reset_state(&self) -> I8042State {
        I8042State {}
    }
    fn set_state(&mut self, _state: I8042State) {}
    fn settle(&mut self) {}
}

impl Mmio for I8042 {
    fn read(&mut self, _offset: u64, _size: u8) -> u64 {
        0
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        if (offset, size, value) == (COMMAND, 1, RESET) {
            (self.sink)(SystemEvent::Reset);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[test]
    fn only_the_reset_command_does_something() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink: SystemSink = Arc::new({
            let seen = seen.clone();
            move |e| seen.lock().unwrap().push(e)
        });
        let mut d = I8042::new(sink);
        for (offset, size, value) in [(0, 1, 0xfe), (4, 2, 0xfe), (4, 1, 0xff), (4, 1, 0xaa)] {
            d.write(offset, size, value);
        }
        assert!(seen.lock().unwrap().is_empty());
        d.write(4, 1, 0xfe);
        assert_eq!(*seen.lock().unwrap(), [SystemEvent::Reset]);
        assert_eq!((d.read(0, 1), d.read(4, 1)), (0, 0));
        strata_state::laws::check(&mut d).unwrap();
    }
}
