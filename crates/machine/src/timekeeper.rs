//! A machine's clock, as its driver moves it, and as a part.

use std::sync::Arc;
use strata_engine::{Clock, CountedClock, GuestClock};
use strata_state::{Stateful, state};

/// A clock that stands still while the machine does.
pub(crate) trait Timekeeper: Clock {
    /// Lets it go on. Only while no vCPU runs.
    ///
    /// # Errors
    /// The host refused.
    fn start(&self) -> Result<(), String>;
    /// Stops it. Only while no vCPU runs.
    ///
    /// # Errors
    /// The host refused.
    fn stop(&self) -> Result<(), String>;
    /// Sets the time shown. Only while stopped.
    fn set(&self, ns: u64);
    /// Lets `ns` nanoseconds pass at once, which the time shown has counted already: for clocks beside that one. Only while
    /// stopped.
    ///
    /// # Errors
    /// The host refused.
    fn passed(&self, _ns: u64) -> Result<(), String> {
        Ok(())
    }
}

impl Timekeeper for GuestClock {
    fn start(&self) -> Result<(), String> {
        GuestClock::start(self);
        Ok(())
    }
    fn stop(&self) -> Result<(), String> {
        GuestClock::stop(self);
        Ok(())
    }
    fn set(&self, ns: u64) {
        GuestClock::set(self, ns);
    }
}

/// It moves with the instructions, and so stands still by itself.
impl Timekeeper for CountedClock {
    fn start(&self) -> Result<(), String> {
        Ok(())
    }
    fn stop(&self) -> Result<(), String> {
        Ok(())
    }
    fn set(&self, ns: u64) {
        CountedClock::set(self, ns);
    }
}

state! {
    /// The machine's time.
    pub struct ClockState("clock", 1) {
        /// Nanoseconds since power-on.
        1 now: u64,
    }
}

/// The clock as a part of the machine. It is saved, loaded and reset only while it stands still.
pub(crate) struct ClockPart(pub(crate) Arc<dyn Timekeeper>);

impl Stateful for ClockPart {
    type State = ClockState;
    fn state(&self) -> ClockState {
        ClockState { now: self.0.now() }
    }
    fn reset_state(&self) -> ClockState {
        ClockState { now: 0 }
    }
    fn set_state(&mut self, state: ClockState) {
        self.0.set(state.now);
    }
    fn settle(&mut self) {}
}
