//! Interrupt pins: four wires that all functions share, each function on the one that its number says.
//!
//! Device n has its pin A on wire n mod 4, as the firmware's description says of a bus without bridges. A wire is
//! high as long as any function on it wants it to be.

use std::sync::{Arc, Mutex};
use strata_engine::{IrqLine, IrqSink};

/// Wires.
const WIRES: usize = 4;

/// The wires' device side.
pub struct Pins {
    wires: [IrqLine; WIRES],
    /// Who wants each wire high, by the bit of its number. Locked while the wire is set, lest two who disagree overtake
    /// each other on the way to it.
    wanted: [Mutex<u32>; WIRES],
}

impl Pins {
    /// Pins that end in `wires`.
    pub fn new(wires: [IrqLine; WIRES]) -> Arc<Pins> {
        Arc::new(Pins { wires, wanted: Default::default() })
    }

    /// The pin of device `number`, which is below 32.
    pub fn of(self: &Arc<Pins>, number: u32) -> IrqLine {
        IrqLine::new(self.clone(), number)
    }
}

impl IrqSink for Pins {
    fn set_line(&self, number: u32, level: bool) {
        let wire = number as usize % WIRES;
        let (Some(wanted), Some(line)) = (self.wanted.get(wire), self.wires.get(wire)) else { return };
        let mut wanted = wanted.lock().unwrap_or_else(|e| e.into_inner());
        let bit = 1_u32.wrapping_shl(number);
        *wanted = if level { *wanted | bit } else { *wanted & !bit };
        line.set(*wanted != 0);
    }
}
