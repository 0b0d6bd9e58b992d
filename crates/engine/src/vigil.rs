//! How long a vCPU that has nothing to do stays awake before it sleeps.
//!
//! To wake a thread takes tens of microseconds, on another processor that has gone idle most of all. A vCPU that waits for
//! the answer of another one, or of a device, gets it sooner if it looks for a while; one that waits for a timer far off
//! burns its host's processor for nothing. Which it is, is learnt from how long the last waits were:
//!
//! ```text
//!   over while it looked        looks as long the next time
//!   slept, but not for long     looks longer, from FIRST, doubled each time, up to LONGEST
//!   slept for longer            looks no more
//! ```
//! While it looks it offers its processor to others again and again.

use crate::VcpuShared;
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_micros(10);
/// What a wait may cost in vain. Somewhat more than a sleeper needs to wake.
const LONGEST: Duration = Duration::from_micros(80);
/// Looks, a few nanoseconds each, between two offers of the processor.
const LOOKS: u32 = 64;

/// What a vCPU has learnt of its waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vigil {
    looks: Duration,
}

impl Vigil {
    /// A wait that ended asleep took `long`.
    fn learn(&mut self, long: Duration) {
        self.looks = if long > LONGEST { Duration::ZERO } else { (self.looks * 2).clamp(FIRST, LONGEST) };
    }
}

impl VcpuShared {
    /// Waits until there is attention, or for `at_most`: [`VcpuShared::sleep`], after a vigil. The word is not cleared.
    pub fn wait(&self, at_most: Option<Duration>, vigil: &mut Vigil) {
        let start = Instant::now();
        let looks = vigil.looks.min(at_most.unwrap_or(vigil.looks));
        while !looks.is_zero() && start.elapsed() < looks {
            for _ in 0..LOOKS {
                if self.attention() {
                    return;
                }
                std::hint::spin_loop();
            }
            std::thread::yield_now();
        }
        self.sleep(at_most.map(|d| d.saturating_sub(start.elapsed())));
        vigil.learn(start.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_make_it_look_longer_and_a_long_one_ends_that() {
        let mut v = Vigil::default();
        v.learn(Duration::from_micros(30));
        assert_eq!(v.looks, FIRST);
        (0..10).for_each(|_| v.learn(Duration::from_micros(30)));
        assert_eq!(v.looks, LONGEST);
        let busy = VcpuShared::default();
        busy.set_pin(1, true);
        busy.wait(None, &mut v);
        assert_eq!(v.looks, LONGEST);
        v.learn(Duration::from_millis(3));
        assert_eq!(v.looks, Duration::ZERO);
    }

    #[test]
    fn a_wait_ends_with_attention_or_at_its_time() {
        let shared = VcpuShared::default();
        let mut v = Vigil { looks: Duration::from_secs(60) };
        shared.wait(Some(Duration::from_millis(1)), &mut v);
        assert_eq!(v.looks, Duration::ZERO, "it waited longer than it is worth");
        std::thread::scope(|s| {
            s.spawn(|| shared.set_pin(1, true));
            shared.wait(None, &mut Vigil { looks: Duration::from_secs(60) });
        });
        shared.take_attention();
        std::thread::scope(|s| {
            s.spawn(|| shared.set_pin(1, false));
            shared.wait(None, &mut Vigil::default());
        });
    }
}
