//! VM generation ID: tells a guest that it is a copy, or has gone back in time, so that it makes new randomness.
//!
//! Register map (device tree: `microsoft,vmgenid`; the interface is that of the Virtual Machine Generation ID
//! specification, of which a device tree needs only the identifier's place and an interrupt):
//! ```text
//! 0x00   the identifier, 16 bytes, read-only
//! ```
//! The line rises when the identifier changes and falls when its last byte has been read. Both happen before the first
//! instruction that could use old randomness; between that instruction and the guest's handler nothing protects it.
//!
//! State: the identifier, and whether its change has been seen.

use crate::Mmio;
use strata_engine::IrqLine;
use strata_state::{Stateful, state};

state! {
    /// State of the generation ID.
    pub struct VmGenIdState("vmgenid", 1) {
        /// The identifier.
        1 id: [u8; 16],
        /// It has changed and was not read since.
        2 changed: bool,
    }
}

/// The device.
pub struct VmGenId {
    first: [u8; 16],
    irq: IrqLine,
    s: VmGenIdState,
    /// Who wants to know when the guest has read the present one.
    when_read: Option<WhenRead>,
}

/// Called once.
type WhenRead = Box<dyn FnOnce() + Send>;

impl VmGenId {
    /// One that begins with `id`, and has it again after a reset.
    pub fn new(id: [u8; 16], irq: IrqLine) -> VmGenId {
        VmGenId { first: id, irq, s: VmGenIdState { id, changed: false }, when_read: None }
    }

    /// Changes the identifier and tells the guest; `when_read` is called when it has read it. Only while nothing runs.
    pub fn renew(&mut self, id: [u8; 16], when_read: impl FnOnce() + Send + 'static) {
        self.s = VmGenIdState { id, changed: true };
        self.when_read = Some(Box::new(when_read));
        self.settle();
    }
}

impl Stateful for VmGenId {
    type State = VmGenIdState;
    fn state(&self) -> VmGenIdState {
        self.s.clone()
    }
    fn reset_state(&self) -> VmGenIdState {
        VmGenIdState { id: self.first, changed: false }
    }
    fn set_state(&mut self, state: VmGenIdState) {
        self.s = state;
    }
    fn settle(&mut self) {
        self.irq.set(self.s.changed);
    }
}

impl Mmio for VmGenId {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        let bytes = self.s.id.iter().skip(usize::try_from(offset).unwrap_or(usize::MAX)).take(size.into());
        let value = bytes.rev().fold(0, |value, b| value << 8 | u64::from(*b));
        if (16 - u64::from(size)..16).contains(&offset) {
            self.s.changed = false;
            self.settle();
            if let Some(tell) = self.when_read.take() {
                tell();
            }
        }
        value
    }

    fn write(&mut self, _offset: u64, _size: u8, _value: u64) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_until_it_has_been_read() {
        let mut d = VmGenId::new([7; 16], IrqLine::unconnected());
        let id: [u8; 16] = std::array::from_fn(|i| i as u8 + 1);
        let (tell, told) = std::sync::mpsc::channel();
        d.renew(id, move || tell.send(()).unwrap());
        assert_eq!((d.read(0, 8), d.s.changed), (0x0807_0605_0403_0201, true));
        assert_eq!(d.read(14, 1), 15);
        assert!(told.try_recv().is_err());
        strata_state::laws::check(&mut d).unwrap();
        d.read(15, 1);
        d.read(15, 1);
        assert_eq!(told.try_iter().count(), 1);
        d.renew(id, || ());
        d.write(0, 8, 0);
        assert_eq!((d.read(8, 8), d.s.changed), (0x100f_0e0d_0c0b_0a09, false));
        assert_eq!((d.read(16, 8), d.read(4088, 8)), (0, 0));
        strata_state::laws::check(&mut d).unwrap();
        assert_eq!(d.read(0, 4), 0x0707_0707);
    }
}
