//! Which harts are started: the state of SBI's hart state management, and of stuck harts.

use crate::sbi::HartStatus;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use strata_engine::Entry;
use strata_state::{StateError, Stateful};

strata_state::state! {
    /// Per hart, the HSM status (0 started, 1 stopped). A start that is pending is saved as its entry.
    pub struct HartsState("sbi-harts", 1) {
        /// Status per hart.
        1 status: Vec<u8>,
        /// Entry (pc, a0, a1) per hart, for those with a start pending.
        2 entry: Vec<[u64; 3]>,
    }
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    status: HartStatus,
    entry: Option<Entry>,
    stuck: bool,
}

/// All harts of a machine.
pub(crate) struct Harts {
    slots: Mutex<Vec<Slot>>,
    together: AtomicBool,
}

impl Harts {
    pub(crate) fn new(count: usize) -> Harts {
        let slot = Slot { status: HartStatus::Stopped, entry: None, stuck: false };
        Harts { slots: Mutex::new(vec![slot; count]), together: AtomicBool::new(false) }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().unwrap_or_else(|e| e.into_inner())
    }

    pub(crate) fn count(&self) -> usize {
        self.slots().len()
    }

    /// All run from where their own state has them, for good: nothing here starts or stops them. One that is stuck then ends
    /// the machine, since nobody can tell who waits for it.
    pub(crate) fn start_all(&self) {
        self.together.store(true, Relaxed);
        self.slots()
            .iter_mut()
            .for_each(|s| *s = Slot { status: HartStatus::Started, entry: None, stuck: false });
    }

    /// All stopped, as before power-on.
    pub(crate) fn reset(&self) {
        self.slots()
            .iter_mut()
            .for_each(|s| *s = Slot { status: HartStatus::Stopped, entry: None, stuck: false });
    }

    pub(crate) fn status(&self, hart: usize) -> HartStatus {
        self.slots().get(hart).map_or(HartStatus::Stopped, |s| s.status)
    }

    /// Asks hart `hart` to start at `entry`; false if it is not stopped.
    pub(crate) fn start(&self, hart: usize, entry: Entry) -> bool {
        match self.slots().get_mut(hart) {
            Some(s) if s.status == HartStatus::Stopped => {
                *s = Slot { status: HartStatus::StartPending, entry: Some(entry), stuck: false };
                true
            }
            _ => false,
        }
    }

    /// Notes that `hart` has stopped; true if no hart is left that can go on, or start another.
    pub(crate) fn stop(&self, hart: usize) -> bool {
        let mut slots = self.slots();
        if let Some(s) = slots.get_mut(hart) {
            s.status = HartStatus::Stopped;
        }
        none_alive(&slots)
    }

    /// For the hart's own thread: the entry to begin at, if a start is pending; the hart counts as started then.
    pub(crate) fn take_entry(&self, hart: usize) -> Option<Entry> {
        let mut slots = self.slots();
        let s = slots.get_mut(hart)?;
        let entry = s.entry.take()?;
        s.status = HartStatus::Started;
        Some(entry)
    }

    /// Notes that `hart` can never go on; true if no started hart can, or all stand and fall together.
    pub(crate) fn stuck(&self, hart: usize) -> bool {
        let mut slots = self.slots();
        if let Some(s) = slots.get_mut(hart) {
            s.stuck = true;
        }
        self.together.load(Relaxed) || none_alive(&slots)
    }

    pub(crate) fn is_stuck(&self, hart: usize) -> bool {
        self.slots().get(hart).is_some_and(|s| s.stuck)
    }
}

fn none_alive(slots: &[Slot]) -> bool {
    slots.iter().all(|s| s.stuck || s.status == HartStatus::Stopped)
}

/// [`Harts`] as a part of the machine.
pub(crate) struct HartsPart(pub(crate) std::sync::Arc<Harts>);

impl Stateful for HartsPart {
    type State = HartsState;
    fn state(&self) -> HartsState {
        let slots = self.0.slots();
        let entry = |s: &Slot| s.entry.map_or([0; 3], |e| [e.pc, e.args[0], e.args[1]]);
        HartsState {
            status: slots.iter().map(|s| s.status as u8).collect(),
            entry: slots.iter().map(entry).collect(),
        }
    }
    fn reset_state(&self) -> HartsState {
        let n = self.0.count();
        HartsState { status: vec![HartStatus::Stopped as u8; n], entry: vec![[0; 3]; n] }
    }
    fn check(&self, s: &HartsState) -> Result<(), StateError> {
        let n = self.0.count();
        if s.status.len() != n || s.entry.len() != n || s.status.iter().any(|v| *v > 2) {
            let why = format!("it is for {} harts, this machine has {n}", s.status.len());
            return Err(StateError::Invalid { id: "sbi-harts".into(), why });
        }
        Ok(())
    }
    fn set_state(&mut self, state: HartsState) {
        let mut slots = self.0.slots();
        for (slot, (status, e)) in slots.iter_mut().zip(state.status.iter().zip(&state.entry)) {
            let status = match status {
                0 => HartStatus::Started,
                1 => HartStatus::Stopped,
                _ => HartStatus::StartPending,
            };
            let entry = (status == HartStatus::StartPending).then_some(Entry {
                pc: e[0],
                args: [e[1], e[2], 0],
                privilege: strata_engine::Privilege::Kernel,
            });
            *slot = Slot { status, entry, stuck: false };
        }
    }
    fn settle(&mut self) {}
}
