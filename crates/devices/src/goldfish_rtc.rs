//! The goldfish real-time clock: the date, and an alarm.
//!
//! "Goldfish virtual hardware" (Android emulator documentation), section "Goldfish real-time clock"; Linux's
//! `rtc-goldfish`. Nanoseconds since 1970 in two 32-bit halves; reading the low half latches the high one, and
//! writing the low half takes the high one written before.
//! ```text
//! 0x00 TIME_LOW    0x08 ALARM_LOW     0x10 IRQ_ENABLED   0x18 ALARM_STATUS
//! 0x04 TIME_HIGH   0x0c ALARM_HIGH    0x14 CLEAR_ALARM   0x1c CLEAR_INTERRUPT
//! ```
//! State: what the guest has added to the host's time, the alarm, the interrupt. The time itself is
//! [`Clock::wall`], so a machine that was paused or restored finds the true date.
//!
//! The alarm needs a turn at its time: [`RtcWorker`] waits for it.

use crate::wake::Wake;
use crate::{Mmio, Shared, Worker};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;
use strata_engine::{Clock, IrqLine};
use strata_state::{Stateful, state};

/// Longest wait for an alarm: the host's date may be set meanwhile, and nothing tells.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

state! {
    /// Guest-visible state.
    pub struct RtcState("goldfish-rtc", 1) {
        /// Added to the host's time, in nanoseconds, wrapping.
        1 offset: u64,
        /// The high half, as latched by the last read of TIME_LOW or written for the next write of it.
        2 time_high: u32,
        /// The alarm's time.
        3 alarm: u64,
        /// Whether the alarm is set.
        4 armed: bool,
        /// The alarm has fired and was not cleared.
        5 pending: bool,
        /// Whether that interrupts.
        6 enabled: bool,
    }
}

/// The device.
pub struct GoldfishRtc {
    clock: Arc<dyn Clock>,
    irq: IrqLine,
    wake: Arc<Wake>,
    s: RtcState,
}

impl GoldfishRtc {
    /// A clock after power-on, which shows the host's time.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new(clock: Arc<dyn Clock>, irq: IrqLine) -> std::io::Result<GoldfishRtc> {
        Ok(GoldfishRtc { clock, irq, wake: Arc::new(Wake::new()?), s: Self::after_power_on() })
    }

    fn after_power_on() -> RtcState {
        RtcState { offset: 0, time_high: 0, alarm: 0, armed: false, pending: false, enabled: false }
    }

    fn time(&self) -> u64 {
        self.clock.wall().wrapping_add(self.s.offset)
    }

    /// Lets a due alarm fire. Gives how long it is to the next.
    fn look(&mut self) -> Option<Duration> {
        if !self.s.armed {
            return None;
        }
        let left = self.s.alarm.saturating_sub(self.time());
        if left > 0 {
            return Some(Duration::from_nanos(left).min(LOOK_AGAIN));
        }
        self.s.armed = false;
        self.s.pending = true;
        self.irq.set(self.s.enabled);
        None
    }
}

impl Stateful for GoldfishRtc {
    type State = RtcState;
    fn state(&self) -> RtcState {
        self.s.clone()
    }
    fn reset_state(&self) -> RtcState {
        Self::after_power_on()
    }
    fn set_state(&mut self, state: RtcState) {
        self.s = state;
    }
    fn settle(&mut self) {
        self.irq.set(self.s.pending && self.s.enabled);
        if self.s.armed {
            self.wake.ring();
        }
    }
}

impl Mmio for GoldfishRtc {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        if size < 4 {
            return 0;
        }
        match offset {
            0x00 => {
                let now = self.time();
                self.s.time_high = (now >> 32) as u32;
                now & 0xffff_ffff
            }
            0x04 => u64::from(self.s.time_high),
            0x08 => self.s.alarm & 0xffff_ffff,
            0x0c => self.s.alarm >> 32,
            0x10 => u64::from(self.s.enabled),
            0x18 => u64::from(self.s.armed),
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        if size < 4 {
            return;
        }
        let low = value & 0xffff_ffff;
        match offset {
            0x00 => {
                let time = u64::from(self.s.time_high) << 32 | low;
                self.s.offset = time.wrapping_sub(self.clock.wall());
            }
            0x04 => self.s.time_high = low as u32,
            0x08 => {
                self.s.alarm = self.s.alarm & !0xffff_ffff | low;
                self.s.armed = true;
                self.look();
            }
            0x0c => self.s.alarm = self.s.alarm & 0xffff_ffff | low << 32,
            0x10 => self.s.enabled = value & 1 != 0,
            0x14 => self.s.armed = false,
            0x1c => self.s.pending = false,
            _ => {}
        }
        self.settle();
    }
}

/// Waits for the alarm.
pub struct RtcWorker {
    rtc: Shared<GoldfishRtc>,
    wake: Arc<Wake>,
}

impl RtcWorker {
    /// The worker of `rtc`.
    pub fn new(rtc: Shared<GoldfishRtc>) -> RtcWorker {
        let wake = rtc.lock().unwrap_or_else(|e| e.into_inner()).wake.clone();
        RtcWorker { rtc, wake }
    }
}

impl Worker for RtcWorker {
    fn wait_for(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.wake.as_fd()]
    }
    fn turn(&mut self) -> Option<Duration> {
        self.wake.silence();
        self.rtc.lock().unwrap_or_else(|e| e.into_inner()).look()
    }
    fn in_guest_time(&self) -> bool {
        true
    }
    fn name(&self) -> &str {
        "rtc"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use strata_engine::{IrqSink, ManualClock};

    #[derive(Default)]
    struct Pin(AtomicBool);
    impl IrqSink for Pin {
        fn set_line(&self, _line: u32, level: bool) {
            self.0.store(level, SeqCst);
        }
    }

    fn rtc() -> (GoldfishRtc, Arc<ManualClock>, Arc<Pin>) {
        let (clock, pin) = (Arc::new(ManualClock::default()), Arc::new(Pin::default()));
        (GoldfishRtc::new(clock.clone(), IrqLine::new(pin.clone(), 0)).unwrap(), clock, pin)
    }

    #[test]
    fn time_is_read_in_halves_and_can_be_set() {
        let (mut r, clock, _) = rtc();
        clock.advance(0x7_ffff_ffff);
        assert_eq!(r.read(0, 4), 0xffff_ffff);
        clock.advance(1);
        assert_eq!(r.read(4, 4), 7, "the high half is the one of the read low half");
        r.write(4, 4, 0x17);
        r.write(0, 4, 5);
        clock.advance(10);
        assert_eq!((r.read(0, 4), r.read(4, 4)), (15, 0x17));
        strata_state::laws::check(&mut r).unwrap();
    }

    #[test]
    fn the_alarm_fires_at_its_time_and_not_before() {
        let (r, clock, pin) = rtc();
        let r = Arc::new(Mutex::new(r));
        let mut w = RtcWorker::new(r.clone());
        assert_eq!(w.turn(), None);
        let write = |offset, value| r.lock().unwrap().write(offset, 4, value);
        write(0x10, 1);
        write(0x0c, 0);
        write(0x08, 1000);
        assert_eq!(w.turn(), Some(Duration::from_nanos(1000)));
        assert_eq!(r.lock().unwrap().read(0x18, 4), 1);
        clock.advance(999);
        assert_eq!(w.turn(), Some(Duration::from_nanos(1)));
        clock.advance(1);
        assert_eq!((w.turn(), pin.0.load(SeqCst)), (None, true));
        assert_eq!(r.lock().unwrap().read(0x18, 4), 0);
        strata_state::laws::check(&mut *r.lock().unwrap()).unwrap();
        assert!(!pin.0.load(SeqCst));
    }

    #[test]
    fn an_alarm_in_the_past_fires_at_once_and_one_cleared_never() {
        let (mut r, clock, pin) = rtc();
        clock.advance(50);
        r.write(0x10, 4, 1);
        r.write(0x08, 4, 50);
        assert!(pin.0.load(SeqCst));
        r.write(0x1c, 4, 0);
        assert!(!pin.0.load(SeqCst));
        r.write(0x08, 4, 60);
        r.write(0x14, 4, 1);
        clock.advance(50);
        assert_eq!((r.look(), pin.0.load(SeqCst)), (None, false));
    }
}
