//! The gate: where vCPU and I/O threads stop, so that a pause is a barrier.
//!
//! Every thread of a machine is a member. The driver sets what it wants and wakes everyone; a member that finds
//! "park" acknowledges once a generation and stays until that changes. When the last has acknowledged, the driver
//! is told with the generation's number, so that a park overtaken by an unpause is never taken for a later one.
//!
//! What happens inside the machine and ends it ([`Gate::happened`]) parks at once, in the same step in which the
//! driver is told, so that the guest does not run on until the driver has its turn. The driver hears of it before it
//! hears of that park's end: whoever tells is a member that has not acknowledged.
//!
//! A member that ends has left, and is no longer waited for; if it ends by a panic, the machine ends with it.

use crate::driver::Message;
use crate::lifecycle::Event;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

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
    /// Per member, the generation it acknowledged last; none once it has left.
    acked: Vec<Option<u64>>,
}

impl Inner {
    fn park(&mut self) {
        if self.want == Want::Run {
            self.want = Want::Park;
            self.generation += 1;
        }
    }

    fn all_parked(&self) -> bool {
        self.acked.iter().flatten().all(|a| *a == self.generation)
    }
}

/// See the module.
pub(crate) struct Gate {
    inner: Mutex<Inner>,
    left: Condvar,
    driver: Sender<Message>,
}

/// A thread's membership; dropping it is leaving.
pub(crate) struct Member {
    gate: Arc<Gate>,
    who: usize,
}

impl Gate {
    /// A closed gate without members.
    pub(crate) fn new(driver: Sender<Message>) -> Arc<Gate> {
        let inner = Inner { want: Want::Park, generation: 0, acked: Vec::new() };
        Arc::new(Gate { inner: Mutex::new(inner), left: Condvar::new(), driver })
    }

    /// A new member. All join before the gate opens for the first time.
    pub(crate) fn join(self: &Arc<Gate>) -> Member {
        let mut g = self.inner();
        let parked = g.generation;
        g.acked.push(Some(parked));
        Member { gate: self.clone(), who: g.acked.len() - 1 }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn tell(&self, message: Message) {
        // The driver may be gone at the very end; then nobody waits for this.
        let _ = self.driver.send(message);
    }

    /// Sets what is wanted; the caller then wakes all threads. Asking to park twice is one park; an end is final.
    pub(crate) fn set(&self, want: Want) {
        let mut g = self.inner();
        match want {
            Want::Park => g.park(),
            _ if g.want != Want::Exit => g.want = want,
            _ => {}
        }
        // Nobody would acknowledge a park after all have left.
        if want == Want::Park && g.acked.iter().all(Option::is_none) {
            self.tell(Message::Parked(g.generation));
        }
    }

    /// Something happened inside the machine after which it must not run on: parks, and tells the driver. The caller
    /// then wakes all threads.
    pub(crate) fn happened(&self, event: Event) {
        let mut g = self.inner();
        g.park();
        self.tell(Message::Happened(event));
    }

    /// What is wanted, without acknowledging.
    pub(crate) fn want(&self) -> Want {
        self.inner().want
    }

    /// Whether `generation` is the park that is wanted now.
    pub(crate) fn is_park(&self, generation: u64) -> bool {
        let g = self.inner();
        g.want == Want::Park && g.generation == generation
    }

    /// Waits until every member has left.
    pub(crate) fn wait_empty(&self) {
        let mut g = self.inner();
        while g.acked.iter().any(Option::is_some) {
            g = self.left.wait(g).unwrap_or_else(|e| e.into_inner());
        }
    }
}

impl Member {
    /// What is wanted of this member now. "Park" is acknowledged by asking: the caller must be at a boundary.
    pub(crate) fn ask(&self) -> Want {
        let mut g = self.gate.inner();
        let generation = g.generation;
        if g.want == Want::Park
            && let Some(mine) = g.acked.get_mut(self.who)
            && *mine != Some(generation)
        {
            *mine = Some(generation);
            if g.all_parked() {
                self.gate.tell(Message::Parked(generation));
            }
        }
        g.want
    }

    /// The gate.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let name = std::thread::current().name().unwrap_or("?").to_owned();
            let why = format!("thread `{name}` of the machine failed; this is an error of strata's own");
            self.gate.happened(Event::Stuck(why));
        }
        let mut g = self.gate.inner();
        let generation = g.generation;
        if let Some(mine) = g.acked.get_mut(self.who) {
            let missing = *mine != Some(generation);
            *mine = None;
            if missing && g.want == Want::Park && g.all_parked() {
                self.gate.tell(Message::Parked(generation));
            }
        }
        drop(g);
        self.gate.left.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn the_last_to_acknowledge_tells_once() {
        let (tx, rx) = channel();
        let gate = Gate::new(tx);
        let (a, b) = (gate.join(), gate.join());
        assert_eq!((a.ask(), b.ask()), (Want::Park, Want::Park));
        assert!(rx.try_recv().is_err(), "nobody asked for the first park");
        gate.set(Want::Run);
        gate.set(Want::Park);
        gate.set(Want::Park);
        a.ask();
        a.ask();
        assert!(rx.try_recv().is_err());
        b.ask();
        assert!(matches!(rx.try_recv(), Ok(Message::Parked(1))));
        assert!(gate.is_park(1));
        gate.set(Want::Run);
        assert!(!gate.is_park(1));
    }

    #[test]
    fn what_happens_is_told_before_the_park_it_asks_for() {
        let (tx, rx) = channel();
        let gate = Gate::new(tx);
        let (a, b) = (gate.join(), gate.join());
        gate.set(Want::Run);
        gate.happened(Event::PowerOff(3));
        assert_eq!(b.ask(), Want::Park);
        assert_eq!(a.ask(), Want::Park);
        assert!(matches!(rx.try_recv(), Ok(Message::Happened(Event::PowerOff(3)))));
        assert!(matches!(rx.try_recv(), Ok(Message::Parked(1))));
    }

    #[test]
    fn a_member_that_fails_ends_the_machine_and_is_not_waited_for() {
        let (tx, rx) = channel();
        let gate = Gate::new(tx);
        let (a, b) = (gate.join(), gate.join());
        gate.set(Want::Run);
        let failed = std::thread::spawn(move || {
            let _mine = b;
            panic!("on purpose");
        });
        assert!(failed.join().is_err());
        assert!(matches!(rx.try_recv(), Ok(Message::Happened(Event::Stuck(_)))));
        a.ask();
        assert!(matches!(rx.try_recv(), Ok(Message::Parked(1))));
        gate.set(Want::Exit);
        gate.set(Want::Run);
        assert_eq!(a.ask(), Want::Exit, "an end is final");
        drop(a);
        gate.wait_empty();
    }
}
