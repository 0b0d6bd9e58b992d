//! I/O threads: give device workers their turns, and stop at the gate.
//!
//! One thread serves all workers that never block; each worker that may block on the host's storage has one of its
//! own. Between turns nothing of a worker is under way, so a parked thread is a quiet device. The gate is asked between
//! any two rounds of turns, so a worker that wants its next turn at once delays no pause.
//!
//! At the end, a worker that still holds what the guest has sent ([`Worker::drained`]) gets turns until it has handed
//! it over. The others get none: the guest's memory does not change any more.

use crate::gate::{Member, Want};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata_devices::Worker;

/// Wakes an I/O thread.
#[derive(Clone)]
pub(crate) struct Waker(Arc<OwnedFd>);

impl Waker {
    pub(crate) fn new() -> rustix::io::Result<Waker> {
        Ok(Waker(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub(crate) fn wake(&self) {
        // A full counter means it is awake already.
        let _ = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }

    /// Waits until it rings, or for `at_most`.
    pub(crate) fn wait(&self, at_most: Option<Duration>) {
        wait(self, &[], at_most);
    }

    fn drain(&self) {
        let _ = rustix::io::read(&*self.0, &mut [0u8; 8]);
    }
}

/// How long an ended machine's last output is waited for: whoever reads it may be slow, but not for ever.
const DRAIN: Duration = Duration::from_secs(5);
/// How often it is tried then.
const DRAIN_STEP: Duration = Duration::from_millis(10);

struct Served {
    worker: Box<dyn Worker>,
    due: Option<Instant>,
}

/// Serves `workers` as `member` of the gate until it says exit.
pub(crate) fn run(member: &Member, waker: &Waker, workers: Vec<Box<dyn Worker>>) {
    let mut served: Vec<Served> = workers.into_iter().map(|worker| Served { worker, due: None }).collect();
    let mut was_parked = true;
    loop {
        match member.ask() {
            Want::Exit => return drain(waker, served.into_iter().map(|s| s.worker).collect()),
            Want::Park => {
                was_parked = true;
                waker.wait(None);
                continue;
            }
            Want::Run => {}
        }
        let now = Instant::now();
        if std::mem::take(&mut was_parked) {
            // Whatever came while parked (guest notifications after a load, host input) is looked at once.
            served.iter_mut().for_each(|m| m.due = Some(now));
        }
        let due = served.iter().filter_map(|m| m.due).min().map(|d| d.saturating_duration_since(now));
        let ready = wait_for_any(waker, served.iter().map(|m| &*m.worker), due);
        if member.gate().want() != Want::Run {
            continue;
        }
        let now = Instant::now();
        for (m, ready) in served.iter_mut().zip(ready) {
            if ready || m.due.is_some_and(|d| d <= now) {
                // A time beyond all times is never.
                m.due = m.worker.turn().and_then(|d| now.checked_add(d));
            }
        }
    }
}

/// Lets workers hand over what the guest gave them last, within [`DRAIN`].
pub(crate) fn drain(waker: &Waker, mut left: Vec<Box<dyn Worker>>) {
    let end = Instant::now() + DRAIN;
    left.retain(|w| !w.drained());
    while !left.is_empty() && Instant::now() < end {
        left.retain_mut(|w| {
            w.turn();
            !w.drained()
        });
        if !left.is_empty() {
            wait_for_any(waker, left.iter().map(|w| &**w), Some(DRAIN_STEP));
        }
    }
}

/// Waits until a worker has something to do, for `at_most`, or until the waker rings. Gives which are ready.
pub(crate) fn wait_for_any<'a>(
    waker: &Waker,
    workers: impl Iterator<Item = &'a dyn Worker>,
    at_most: Option<Duration>,
) -> Vec<bool> {
    let mut owner = Vec::new();
    let mut fds = Vec::new();
    let mut ready = Vec::new();
    for (i, w) in workers.enumerate() {
        ready.push(false);
        for fd in w.wait_for() {
            owner.push(i);
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
        }
        for fd in w.wait_to_write() {
            owner.push(i);
            fds.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
        }
    }
    let hits = wait(waker, &fds, at_most);
    for (hit, i) in hits.iter().zip(owner) {
        ready[i] |= hit;
    }
    ready
}

fn wait(waker: &Waker, fds: &[PollFd<'_>], at_most: Option<Duration>) -> Vec<bool> {
    let mut all = Vec::with_capacity(fds.len() + 1);
    all.push(PollFd::from_borrowed_fd(waker.0.as_fd(), PollFlags::IN));
    all.extend(fds.iter().cloned());
    let limit =
        at_most.map(|d| Timespec { tv_sec: d.as_secs() as i64, tv_nsec: i64::from(d.subsec_nanos()) });
    // An interrupted wait is an early one.
    let _ = poll(&mut all, limit.as_ref());
    if !all[0].revents().is_empty() {
        waker.drain();
    }
    all[1..].iter().map(|p| !p.revents().is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Message;
    use crate::gate::Gate;
    use std::os::fd::BorrowedFd;
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::sync::mpsc::channel;

    /// Counts its turns, and always wants the next after `again`; holds output until it has had `drained_at` turns.
    struct Counter {
        turns: Arc<AtomicU32>,
        again: Option<Duration>,
        drained_at: u32,
    }

    impl Worker for Counter {
        fn wait_for(&self) -> Vec<BorrowedFd<'_>> {
            Vec::new()
        }
        fn turn(&mut self) -> Option<Duration> {
            self.turns.fetch_add(1, SeqCst);
            self.again
        }
        fn drained(&self) -> bool {
            self.turns.load(SeqCst) >= self.drained_at
        }
        fn name(&self) -> &str {
            "counter"
        }
    }

    #[test]
    fn workers_have_their_turns_and_hold_up_no_pause() {
        let (tx, rx) = channel();
        let gate = Gate::new(tx);
        let turns: Vec<Arc<AtomicU32>> = (0..4).map(|_| Arc::default()).collect();
        let again = [Some(Duration::ZERO), Some(Duration::from_micros(200)), Some(Duration::MAX), None];
        let worker = |(turns, again): (&Arc<AtomicU32>, Option<Duration>)| {
            Box::new(Counter { turns: turns.clone(), again, drained_at: 0 }) as Box<dyn Worker>
        };
        let workers: Vec<_> = turns.iter().zip(again).map(worker).collect();
        let (member, waker) = (gate.join(), Waker::new().unwrap());
        let thread = std::thread::spawn({
            let waker = waker.clone();
            move || run(&member, &waker, workers)
        });
        let want = |want| {
            gate.set(want);
            waker.wake();
        };
        let count = || -> Vec<u32> { turns.iter().map(|t| t.load(SeqCst)).collect() };
        want(Want::Run);
        while count()[1] < 20 || count()[0] < 100 {
            std::thread::sleep(Duration::from_millis(1));
        }
        want(Want::Park);
        assert!(matches!(rx.recv_timeout(Duration::from_secs(10)), Ok(Message::Parked(1))));
        let parked = count();
        assert_eq!(parked[2..], [1, 1], "one turn after a park, and never again");
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(count(), parked);
        want(Want::Exit);
        thread.join().unwrap();
        assert_eq!(count(), parked, "whoever holds nothing has no turn at the end");
    }

    #[test]
    fn an_end_waits_for_output_that_is_held() {
        let (tx, _rx) = channel();
        let gate = Gate::new(tx);
        let turns: Arc<AtomicU32> = Arc::default();
        let (member, waker) = (gate.join(), Waker::new().unwrap());
        let worker = Counter { turns: turns.clone(), again: None, drained_at: 5 };
        gate.set(Want::Exit);
        run(&member, &waker, vec![Box::new(worker)]);
        assert_eq!(turns.load(SeqCst), 5);
    }
}
