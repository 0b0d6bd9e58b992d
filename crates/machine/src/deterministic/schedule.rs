//! Where a deterministic machine is in its round: its part of the saved state, and the count at which to pause.

use std::sync::{Arc, Mutex, MutexGuard};
use strata_state::{StateError, Stateful, state};

state! {
    /// Whose turn it is in a deterministic machine.
    pub struct ScheduleState("schedule", 1) {
        /// Instructions retired by all harts since power-on.
        1 count: u64,
        /// The hart whose turn it is.
        2 turn: u32,
        /// Whether devices have had their turn in this quantum.
        3 served: bool,
    }
}

/// Why a pause at a count cannot be asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PauseAtError {
    /// Only a deterministic machine counts its instructions in one order.
    #[error(
        "the machine is not deterministic, so no count of its instructions names a moment; run it with --deterministic"
    )]
    NotDeterministic,
    /// It runs, and might be beyond that count before it hears of it.
    #[error("the machine is {0}; pause it before a count is set at which to pause")]
    Runs(&'static str),
    /// That was before.
    #[error("the machine has retired {count} instructions; it cannot pause at {at}")]
    Passed {
        /// Where it is.
        count: u64,
        /// Where it was to pause.
        at: u64,
    },
}

struct Inner {
    s: ScheduleState,
    /// Host state: a pause that was asked for.
    pause_at: Option<u64>,
}

/// See the module. Moved by the machine's thread, looked at by all.
pub(crate) struct Schedule {
    harts: u32,
    inner: Mutex<Inner>,
}

impl Schedule {
    /// At power-on.
    pub(crate) fn new(harts: u32) -> Schedule {
        Schedule { harts, inner: Mutex::new(Inner { s: Self::after_power_on(), pause_at: None }) }
    }

    fn after_power_on() -> ScheduleState {
        ScheduleState { count: 0, turn: 0, served: false }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Instructions retired since power-on.
    pub(crate) fn count(&self) -> u64 {
        self.inner().s.count
    }

    pub(crate) fn add(&self, insns: u64) {
        let mut i = self.inner();
        i.s.count = i.s.count.saturating_add(insns);
    }

    pub(crate) fn turn(&self) -> usize {
        self.inner().s.turn as usize
    }

    pub(crate) fn set_turn(&self, hart: usize) {
        self.inner().s.turn = hart as u32;
    }

    pub(crate) fn served(&self) -> bool {
        self.inner().s.served
    }

    pub(crate) fn set_served(&self, served: bool) {
        self.inner().s.served = served;
    }

    /// Asks for a pause when `at` instructions have retired. Only while nothing runs; it is forgotten when it has
    /// happened, and at a reset or a load.
    pub(crate) fn pause_at(&self, at: u64) -> Result<(), PauseAtError> {
        let mut i = self.inner();
        if at < i.s.count {
            return Err(PauseAtError::Passed { count: i.s.count, at });
        }
        i.pause_at = Some(at);
        Ok(())
    }

    /// Instructions until a pause that was asked for.
    pub(crate) fn until_pause(&self) -> u64 {
        let i = self.inner();
        i.pause_at.map_or(u64::MAX, |at| at.saturating_sub(i.s.count))
    }

    /// Whether a pause is due now; it is forgotten then.
    pub(crate) fn take_pause(&self) -> bool {
        let mut i = self.inner();
        let count = i.s.count;
        i.pause_at.take_if(|at| *at <= count).is_some()
    }
}

/// [`Schedule`] as a part of the machine.
pub(crate) struct SchedulePart(pub(crate) Arc<Schedule>);

impl Stateful for SchedulePart {
    type State = ScheduleState;
    fn state(&self) -> ScheduleState {
        self.0.inner().s.clone()
    }
    fn reset_state(&self) -> ScheduleState {
        Schedule::after_power_on()
    }
    fn check(&self, s: &ScheduleState) -> Result<(), StateError> {
        if s.turn >= self.0.harts {
            let why = format!("it is the turn of hart {}, this machine has {}", s.turn, self.0.harts);
            return Err(StateError::Invalid { id: "schedule".into(), why });
        }
        Ok(())
    }
    fn set_state(&mut self, s: ScheduleState) {
        *self.0.inner() = Inner { s, pause_at: None };
    }
    fn settle(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_taken_once_and_only_ahead() {
        let s = Schedule::new(2);
        s.add(100);
        assert_eq!((s.until_pause(), s.take_pause()), (u64::MAX, false));
        assert_eq!(s.pause_at(99), Err(PauseAtError::Passed { count: 100, at: 99 }));
        s.pause_at(150).unwrap();
        s.add(49);
        assert_eq!((s.until_pause(), s.take_pause()), (1, false));
        s.add(1);
        assert_eq!((s.until_pause(), s.take_pause(), s.take_pause()), (0, true, false));
    }

    #[test]
    fn laws_hold_and_strangers_are_refused() {
        let s = Arc::new(Schedule::new(2));
        s.set_turn(1);
        s.add(7);
        strata_state::laws::check(&mut SchedulePart(s.clone())).unwrap();
        let other = SchedulePart(Arc::new(Schedule::new(1)));
        assert!(other.check(&ScheduleState { count: 0, turn: 1, served: true }).is_err());
    }
}
