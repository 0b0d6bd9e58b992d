//! The gate: where vCPU and I/O threads stop, so that a pause is a barrier.
//!
//! Every thread of a machine is a member. The driver sets what it wants and wakes everyone; a member that finds
//! "park" acknowledges once a generation and stays until that changes. When the last has acknowledged, the driver
//! is told with the generation's number, so that a park overtaken by an unpause is never taken for a later one.

use std::sync::mpsc::Sender;
use std::sync::{Mutex, MutexGuard};

use crate::driver::Message;

/// What the driver wants of every thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// Stop at the next boundary, and wait.
    Park,
    /// Go on.
    Run,
    /// End.
    Exit,
}

struct Inner {
    want: Want,
    generation: u64,
    /// Per member, the generation it acknowledged last.
    acked: Vec<u64>,
}

/// See the module.
pub(crate) struct Gate {
    inner: Mutex<Inner>,
    driver: Sender<Message>,
}

impl Gate {
    /// A closed gate for `members` threads.
    pub(crate) fn new(members: usize, driver: Sender<Message>) -> Gate {
        Gate { inner: Mutex::new(Inner { want: Want::Park, generation: 0, acked: vec![0; members] }), driver }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Sets what is wanted; the caller then wakes all threads. Asking to park twice is one park.
    pub(crate) fn set(&self, want: Want) {
        let mut g = self.inner();
        if want == Want::Park && g.want != Want::Park {
            g.generation += 1;
        }
        if g.want != Want::Exit {
            g.want = want;
        }
    }

    /// What is wanted of member `who` now. "Park" is acknowledged by asking: the caller must be at a boundary.
    pub(crate) fn ask(&self, who: usize) -> Want {
        let mut g = self.inner();
        let generation = g.generation;
        if g.want == Want::Park
            && let Some(mine) = g.acked.get_mut(who)
            && *mine != generation
        {
            *mine = generation;
            if g.acked.iter().all(|a| *a == generation) {
                // The driver may be gone at the very end; then nobody waits for this.
                let _ = self.driver.send(Message::Parked(generation));
            }
        }
        g.want
    }

    /// What is wanted, without acknowledging.
    pub(crate) fn want(&self) -> Want {
        self.inner().want
    }

    /// Number of the current park.
    pub(crate) fn generation(&self) -> u64 {
        self.inner().generation
    }
}
