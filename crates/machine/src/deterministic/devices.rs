//! The host sides of a deterministic machine's devices: their turns come between two quanta.

use crate::io_thread::{Waker, drain, wait_for_any};
use std::time::{Duration, Instant};
use strata_devices::Worker;

/// How often output that nobody takes is tried again, so that a pause is heard of.
const RETRY: Duration = Duration::from_millis(10);

/// When a worker wants its next turn, if not before.
#[derive(Clone, Copy)]
enum Due {
    Never,
    Host(Instant),
    /// Nanoseconds of the guest's clock.
    Guest(u64),
}

struct Served {
    worker: Box<dyn Worker>,
    due: Due,
}

/// See the module.
pub(crate) struct Devices(Vec<Served>);

impl Devices {
    /// Each gets a turn at the first opportunity.
    pub(crate) fn new(workers: Vec<Box<dyn Worker>>) -> Devices {
        Devices(workers.into_iter().map(|worker| Served { worker, due: Due::Guest(0) }).collect())
    }

    /// Gives a turn to all that have something to do at guest time `now`, in their order.
    pub(crate) fn turns(&mut self, waker: &Waker, now: u64) {
        let ready = wait_for_any(waker, self.0.iter().map(|s| &*s.worker), Some(Duration::ZERO));
        let host = Instant::now();
        for (s, ready) in self.0.iter_mut().zip(ready) {
            let due = match s.due {
                Due::Never => false,
                Due::Host(at) => at <= host,
                Due::Guest(at) => at <= now,
            };
            if ready || due {
                s.turn(host, now);
            }
        }
    }

    /// The guest time of the first turn that goes by it.
    pub(crate) fn due(&self) -> Option<u64> {
        self.0.iter().filter_map(|s| if let Due::Guest(at) = s.due { Some(at) } else { None }).min()
    }

    /// Waits until one has something from the host, or is due by the host's time, or for `at_most`, or until the waker
    /// rings. Gives whether one has.
    pub(crate) fn wait(&self, waker: &Waker, at_most: Duration) -> bool {
        let now = Instant::now();
        let dues = self.0.iter().filter_map(|s| if let Due::Host(at) = s.due { Some(at) } else { None });
        let first = dues.min().map(|at| at.saturating_duration_since(now));
        let ready = wait_for_any(
            waker,
            self.0.iter().map(|s| &*s.worker),
            Some(first.unwrap_or(at_most).min(at_most)),
        );
        ready.contains(&true) || first.is_some_and(|f| now.elapsed() >= f)
    }

    /// Lets workers pass on all that the guest has sent; gives false if that was not done when `go_on` said no.
    pub(crate) fn hand_over(&mut self, waker: &Waker, go_on: impl Fn() -> bool) -> bool {
        loop {
            let left = || self.0.iter().filter(|s| !s.worker.drained());
            if left().next().is_none() {
                return true;
            }
            if !go_on() {
                return false;
            }
            // Most often it is taken at once; what is not, is waited for.
            wait_for_any(waker, left().map(|s| &*s.worker), Some(RETRY));
            for s in self.0.iter_mut().filter(|s| !s.worker.drained()) {
                s.worker.turn();
            }
        }
    }

    /// At the end: see [`drain`].
    pub(crate) fn drain(self, waker: &Waker) {
        drain(waker, self.0.into_iter().map(|s| s.worker).collect());
    }
}

impl Served {
    fn turn(&mut self, host: Instant, now: u64) {
        self.due = match self.worker.turn() {
            None => Due::Never,
            // At once is between the next two quanta.
            Some(Duration::ZERO) => Due::Guest(now),
            Some(d) if self.worker.in_guest_time() => {
                Due::Guest(now.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
            }
            // A time beyond all times is never.
            Some(d) => host.checked_add(d).map_or(Due::Never, Due::Host),
        };
    }
}
