//! ACLINT: software interrupts and the machine timer of every hart, laid out as the older SiFive CLINT.
//!
//! Registers (RISC-V ACLINT specification 1.0, MSWI and MTIMER devices at the CLINT's offsets):
//! ```text
//! 0x0000 + 4·hart   MSIP       bit 0 is the hart's MSIP pin
//! 0x4000 + 8·hart   MTIMECMP   MTIP is high while time >= mtimecmp
//! 0xbff8            MTIME      ticks of 100 ns since power-on
//! ```
//! 64-bit registers are reached whole or by halves.
//!
//! State: MSIP and MTIMECMP. The time itself is the machine's [`Clock`], the one that also feeds the harts' `time`
//! CSR; MTIME is therefore read-only (writes are ignored), or the two would part. The MTIP pin is not kept either:
//! the hart compares its own time with the value handed to [`VcpuShared::set_timer`].

use crate::Mmio;
use std::sync::Arc;
use strata_engine::{Clock, VcpuShared};
use strata_state::{StateError, Stateful, state};

/// Nanoseconds of one tick of MTIME and of the `time` CSR: a timebase of 10 MHz, as the board's device tree says.
pub const TICK_NS: u64 = 100;
/// Most harts that the register map has room for.
pub const MAX_HARTS: usize = 4095;
/// Number of the machine software interrupt in `mip`.
const MSIP: u32 = 3;

const MTIMECMP_BASE: u64 = 0x4000;
const MTIME: u64 = 0xbff8;

state! {
    /// Guest-visible state, one element a hart.
    pub struct AclintState("aclint", 1) {
        /// Software interrupt requests.
        1 msip: Vec<bool>,
        /// Timer compare values, in ticks.
        2 mtimecmp: Vec<u64>,
    }
}

/// The device.
pub struct Aclint {
    harts: Vec<Arc<VcpuShared>>,
    clock: Arc<dyn Clock>,
    s: AclintState,
}

impl Aclint {
    /// An ACLINT for `harts` in order of their number (at most [`MAX_HARTS`]; further ones have no registers).
    pub fn new(mut harts: Vec<Arc<VcpuShared>>, clock: Arc<dyn Clock>) -> Aclint {
        harts.truncate(MAX_HARTS);
        let s = Self::after_power_on(harts.len());
        let mut aclint = Aclint { harts, clock, s };
        aclint.settle();
        aclint
    }

    fn after_power_on(harts: usize) -> AclintState {
        // The specification leaves MTIMECMP's reset value open; "never" spares a guest a spurious interrupt.
        AclintState { msip: vec![false; harts], mtimecmp: vec![u64::MAX; harts] }
    }

    /// The 64-bit register that holds `offset`.
    fn register(&self, offset: u64) -> u64 {
        if offset == MTIME {
            return self.clock.now() / TICK_NS;
        }
        let hart = offset.wrapping_sub(MTIMECMP_BASE) / 8;
        self.s.mtimecmp.get(hart as usize).copied().unwrap_or(0)
    }
}

impl Stateful for Aclint {
    type State = AclintState;
    fn state(&self) -> AclintState {
        self.s.clone()
    }
    fn reset_state(&self) -> AclintState {
        Self::after_power_on(self.harts.len())
    }
    fn check(&self, s: &AclintState) -> Result<(), StateError> {
        if s.msip.len() != self.harts.len() || s.mtimecmp.len() != self.harts.len() {
            let why = format!("it is of {} harts, the machine has {}", s.msip.len(), self.harts.len());
            return Err(StateError::Invalid { id: "aclint".into(), why });
        }
        Ok(())
    }
    fn set_state(&mut self, state: AclintState) {
        self.s = state;
    }
    fn settle(&mut self) {
        for ((hart, msip), at) in self.harts.iter().zip(&self.s.msip).zip(&self.s.mtimecmp) {
            // Nobody else drives pin and timer, so a look spares the atomic writes that are mostly in vain.
            if (hart.pins() >> MSIP & 1 != 0) != *msip {
                hart.set_pin(MSIP, *msip);
            }
            if hart.timer() != *at {
                hart.set_timer(*at);
            }
        }
    }
}

impl Mmio for Aclint {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        if offset < MTIMECMP_BASE {
            let hart = self.s.msip.get((offset / 4) as usize);
            return u64::from(size == 4 && hart.copied().unwrap_or(false));
        }
        match size {
            8 => self.register(offset),
            4 => self.register(offset & !7) >> (8 * (offset & 4)) & 0xffff_ffff,
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        if offset < MTIMECMP_BASE {
            if let (4, Some(msip)) = (size, self.s.msip.get_mut((offset / 4) as usize)) {
                *msip = value & 1 != 0;
            }
        } else if offset < MTIME
            && let Some(at) = self.s.mtimecmp.get_mut(((offset - MTIMECMP_BASE) / 8) as usize)
        {
            match (size, offset & 4) {
                (8, _) => *at = value,
                (4, 0) => *at = *at & !0xffff_ffff | value & 0xffff_ffff,
                (4, _) => *at = *at & 0xffff_ffff | value << 32,
                _ => {}
            }
        }
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_engine::ManualClock;
    use strata_state::Part;

    fn two() -> (Aclint, Vec<Arc<VcpuShared>>, Arc<ManualClock>) {
        let harts: Vec<_> = (0..2).map(|_| Arc::new(VcpuShared::default())).collect();
        let clock = Arc::new(ManualClock::default());
        (Aclint::new(harts.clone(), clock.clone()), harts, clock)
    }

    #[test]
    fn msip_drives_the_pin_of_its_hart() {
        let (mut a, harts, _) = two();
        a.write(4, 4, 0xffff_ffff);
        assert_eq!((harts[0].pins(), harts[1].pins()), (0, 1 << 3));
        assert_eq!(a.read(4, 4), 1);
        a.write(4, 4, 2);
        assert_eq!(harts[1].pins(), 0);
        a.write(8, 4, 1); // a hart that is not there
        assert_eq!(a.read(8, 4), 0);
    }

    #[test]
    fn mtimecmp_is_reached_whole_and_by_halves() {
        let (mut a, harts, _) = two();
        a.write(0x4008, 8, 0x1_2345_6789);
        assert_eq!(harts[1].timer(), 0x1_2345_6789);
        a.write(0x400c, 4, 7);
        a.write(0x4008, 4, 5);
        assert_eq!(harts[1].timer(), 0x7_0000_0005);
        assert_eq!((a.read(0x4008, 8), a.read(0x400c, 4)), (0x7_0000_0005, 7));
        assert_eq!(harts[0].timer(), u64::MAX);
    }

    #[test]
    fn mtime_is_the_clock_and_cannot_be_written() {
        let (mut a, _, clock) = two();
        clock.advance(0x2_0000_0003 * 100 + 99);
        assert_eq!(a.read(0xbff8, 8), 0x2_0000_0003);
        assert_eq!((a.read(0xbff8, 4), a.read(0xbffc, 4)), (3, 2));
        a.write(0xbff8, 8, 0);
        assert_eq!(a.read(0xbff8, 8), 0x2_0000_0003);
    }

    #[test]
    fn laws_hold_and_load_derives_the_pins() {
        let (mut a, harts, _) = two();
        a.write(0, 4, 1);
        a.write(0x4000, 8, 9);
        let saved = a.save();
        a.reset();
        assert_eq!((harts[0].pins(), harts[0].timer()), (0, u64::MAX));
        a.load(&saved).unwrap();
        assert_eq!((harts[0].pins(), harts[0].timer()), (1 << 3, 9));
        strata_state::laws::check(&mut a).unwrap();
        let mut other = Aclint::new(vec![Arc::default()], Arc::new(ManualClock::default()));
        assert!(other.load(&saved).is_err());
    }
}
