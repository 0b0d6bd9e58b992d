//! What the guest gets done while it moves, as it says itself: its writer sends a count of the bytes that it has written
//! every 10 ms, and this side notes when each count came. Counts only grow, so one that the network lost costs nothing but
//! sharpness.
//!
//! Two figures say what a migration costs the guest, from the command until all of memory is at the destination:
//! - **lost**: work that it did not get done, against its own pace in the two seconds before the command, as the time in
//!   which it would have done that work. It is what a job that runs meanwhile ends later; over the whole time it gives the
//!   mean slowdown;
//! - **below half**: the longest time for which it went at less than half its pace, in windows of [`WINDOW`]. It is what
//!   somebody who works with the machine notices. A stop that is shorter than half a window does not show in it: that is
//!   what downtime and outage are for.

use anyhow::{Context, Result, ensure};
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where the guest's writer sends its counts.
const HERE: &str = "10.9.0.1:7790";
/// How long before the command its own pace is taken.
const OWN: Duration = Duration::from_secs(2);
/// What is one moment: several of its counts.
pub const WINDOW: Duration = Duration::from_millis(50);

/// Who hears it.
pub struct Ear {
    over: Arc<AtomicBool>,
    heard: JoinHandle<Vec<(Instant, u64)>>,
}

impl Ear {
    /// Begins to listen, in the network of this thread.
    pub fn begin() -> Result<Ear> {
        let socket = UdpSocket::bind(HERE).with_context(|| format!("listening at {HERE}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let heard = std::thread::spawn(move || {
            let (mut all, mut count) = (Vec::<(Instant, u64)>::new(), [0; 8]);
            while !until.load(Relaxed) {
                let Ok(8) = socket.recv(&mut count) else { continue };
                let (at, n) = (Instant::now(), u64::from_le_bytes(count));
                // One that was overtaken says nothing.
                if all.last().is_none_or(|last| last.1 < n) {
                    all.push((at, n));
                }
            }
            all
        });
        Ok(Ear { over, heard })
    }

    /// Ends.
    pub fn end(self) -> Result<Pace> {
        self.over.store(true, Relaxed);
        let all = self.heard.join().map_err(|_| anyhow::anyhow!("nobody hears the guest any more"))?;
        ensure!(all.len() > 1, "the guest does not say what it gets done");
        Ok(Pace(all))
    }
}

/// When it had done how much.
pub struct Pace(Vec<(Instant, u64)>);

/// What a migration has cost the guest.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// Work that it did not do, as the time in which it would have, in milliseconds.
    pub lost: f64,
    /// The same as a part of all the time, in percent.
    pub slowdown: f64,
    /// The longest time at less than half its pace, in milliseconds.
    pub below_half: f64,
    /// Seconds since the command, and its pace then as a part of its own: a point a window.
    pub line: Vec<(f64, f64)>,
}

impl Pace {
    /// What it had done at a moment: between two counts as if it went evenly.
    fn done(&self, at: Instant) -> f64 {
        let n = self.0.partition_point(|(t, _)| *t < at);
        let (Some(before), Some(after)) = (n.checked_sub(1).and_then(|n| self.0.get(n)), self.0.get(n))
        else {
            let end = if n == 0 { self.0.first() } else { self.0.last() };
            return end.map_or(0.0, |(_, n)| *n as f64);
        };
        let part = (at - before.0).as_secs_f64() / (after.0 - before.0).as_secs_f64().max(1e-9);
        before.1 as f64 + part * (after.1 - before.1) as f64
    }

    /// What a migration has cost that began at `from` and took `took`; it was listened to for `after` more.
    pub fn cost(&self, from: Instant, took: Duration, after: Duration) -> Result<Cost> {
        let own = (self.done(from) - self.done(from - OWN)) / OWN.as_secs_f64();
        ensure!(own > 0.0, "the guest did nothing before it went");
        let lost = took.as_secs_f64() - (self.done(from + took) - self.done(from)) / own;
        let window = WINDOW.as_secs_f64();
        let pace = |n: i32| {
            let at = |n: i32| {
                if n < 0 { from - WINDOW * n.unsigned_abs() } else { from + WINDOW * n.unsigned_abs() }
            };
            (self.done(at(n + 1)) - self.done(at(n))) / (own * window)
        };
        let windows = |d: Duration| (d.as_secs_f64() / window).ceil() as i32;
        let (mut run, mut longest) = (0, 0);
        for n in 0..windows(took) {
            run = if pace(n) < 0.5 { run + 1 } else { 0 };
            longest = longest.max(run);
        }
        // The last window may not be over when listening ends.
        let last = windows(took + after) - 1;
        let line = (-windows(OWN) / 4..last).map(|n| ((f64::from(n) + 0.5) * window, pace(n))).collect();
        Ok(Cost {
            lost: lost * 1e3,
            slowdown: lost / took.as_secs_f64().max(1e-9) * 100.0,
            below_half: f64::from(longest) * window * 1e3,
            line,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts every 10 ms of a guest that does 1000 a second, but as `part` says in the milliseconds since the command.
    fn pace(from: Instant, part: impl Fn(i64) -> f64) -> Pace {
        let (mut done, mut all) = (0.0, Vec::new());
        let first = from - Duration::from_secs(3);
        for ms in 0..7000 {
            done += part(ms - 3000);
            if ms % 10 == 0 {
                all.push((first + Duration::from_millis(ms.unsigned_abs()), done as u64));
            }
        }
        Pace(all)
    }

    #[test]
    fn work_that_is_not_done_is_lost_and_a_hold_up_is_seen() {
        let from = Instant::now() + Duration::from_secs(10);
        let (two, one) = (Duration::from_secs(2), Duration::from_secs(1));
        let none = pace(from, |_| 1.0).cost(from, two, one).unwrap();
        assert!(none.lost.abs() < 5.0 && none.slowdown.abs() < 0.3 && none.below_half == 0.0, "{none:?}");
        // It stands for 400 ms, and goes at three quarters for a second.
        let held = |ms: i64| match ms {
            500..900 => 0.0,
            900..1900 => 0.75,
            _ => 1.0,
        };
        let cost = pace(from, held).cost(from, two, one).unwrap();
        assert!((645.0..655.0).contains(&cost.lost), "{cost:?}");
        assert!((32.0..33.0).contains(&cost.slowdown) && cost.below_half == 400.0, "{cost:?}");
        let at = |s: f64| cost.line.iter().find(|p| p.0 > s).unwrap().1;
        assert!((at(-0.3) - 1.0).abs() < 0.1 && at(0.7) == 0.0 && (at(1.5) - 0.75).abs() < 0.1, "{cost:?}");
        // What is lost after all of memory is there is not the migration's.
        assert!(pace(from, |ms| f64::from(ms < 2000)).cost(from, two, one).unwrap().lost < 25.0);
    }

    #[test]
    fn counts_that_the_network_loses_cost_nothing() {
        let from = Instant::now() + Duration::from_secs(10);
        let mut pace = pace(from, |_| 1.0);
        pace.0.retain(|(t, _)| {
            *t < from + Duration::from_millis(300) || *t > from + Duration::from_millis(800)
        });
        let cost = pace.cost(from, Duration::from_secs(2), Duration::from_secs(1)).unwrap();
        assert!(cost.lost.abs() < 5.0 && cost.below_half == 0.0, "{cost:?}");
    }

    #[test]
    fn a_guest_that_did_nothing_has_no_pace() {
        let from = Instant::now() + Duration::from_secs(10);
        let pace = pace(from, |ms| f64::from(ms > 10));
        assert!(pace.cost(from, Duration::from_secs(2), Duration::from_secs(1)).is_err());
    }
}
