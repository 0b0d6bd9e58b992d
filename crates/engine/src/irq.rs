//! Interrupt wires, and messages, from devices to interrupt controllers.

use std::sync::Arc;

/// An interrupt controller's input side.
pub trait IrqSink: Send + Sync {
    /// Sets input `line` to `level`. Called with the device's own lock held: it must not call back into a device.
    fn set_line(&self, line: u32, level: bool);
}

/// Where interrupts by message go: what a device that sends one would write, and where.
pub trait MsiSink: Send + Sync {
    /// Writes `data` at `address`. Called with the device's own lock held: it must not call back into a device.
    fn send(&self, address: u64, data: u32);
}

/// A wire from a device to one input of a controller. A device derives the level in its `settle()` and sets it
/// each time; the controller sees the changes.
#[derive(Clone)]
pub struct IrqLine {
    sink: Option<Arc<dyn IrqSink>>,
    line: u32,
}

impl IrqLine {
    /// A wire to input `line` of `sink`.
    pub fn new(sink: Arc<dyn IrqSink>, line: u32) -> IrqLine {
        IrqLine { sink: Some(sink), line }
    }

    /// A wire that ends nowhere: for tests, and for devices without an interrupt.
    pub fn unconnected() -> IrqLine {
        IrqLine { sink: None, line: 0 }
    }

    /// Sets the level of the wire.
    pub fn set(&self, level: bool) {
        if let Some(sink) = &self.sink {
            sink.set_line(self.line, level);
        }
    }
}

impl std::fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IrqLine({})", self.line)
    }
}
