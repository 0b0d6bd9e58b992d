//! Chance, and when something goes wrong.

use super::common::Place;
use super::journals::records;
use std::time::{Duration, Instant};

/// Numbers by chance, from a seed (SplitMix64).
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % n
    }

    pub fn below_ms(&mut self, n: u64) -> Duration {
        Duration::from_millis(self.below(n))
    }

    /// When something goes wrong, anywhere in a migration.
    pub fn moment(&mut self) -> Moment {
        let later = Duration::from_micros(self.below(1500));
        match self.below(10) {
            0 | 1 => Moment::After(self.below_ms(1200)),
            2 => Moment::Records(true, 0, self.below_ms(600)),
            // Ready, handed, owner, started, done.
            3 => Moment::Records(false, 1, later),
            4 => Moment::Records(true, 1, later),
            5 => Moment::Records(false, 2, later),
            6 => Moment::Records(false, 3, later),
            7 => Moment::Records(true, 2, later),
            // While memory follows, if it does.
            8 => Moment::Records(false, 3, self.below_ms(500)),
            _ => Moment::Records(true, 2, self.below_ms(500)),
        }
    }

    /// How memory travels: half of them run there before their memory does.
    pub fn strategy(&mut self) -> &'static str {
        let all = ["auto", "auto", "postcopy", "postcopy", "hybrid", "hybrid", "precopy", "stop-and-copy"];
        all[self.below(all.len() as u64) as usize]
    }
}

/// When something goes wrong.
#[derive(Clone, Copy, Debug)]
pub enum Moment {
    /// So long after the beginning.
    After(Duration),
    /// When the journal of a side (the source's, if so) has so many records after the first, and a little later.
    Records(bool, u64, Duration),
}

/// Waits for the moment; false if it does not come before all is over.
pub fn wait_for(moment: Moment, hosts: &[Place; 2], over: &mut dyn FnMut() -> bool) -> bool {
    let begun = Instant::now();
    match moment {
        Moment::After(time) => {
            while begun.elapsed() < time && !over() {
                std::thread::sleep(Duration::from_micros(200));
            }
            !over()
        }
        Moment::Records(source, n, later) => {
            let (host, side) = if source { (&hosts[0], "source") } else { (&hosts[1], "destination") };
            while begun.elapsed() < Duration::from_secs(60) {
                if records(host, side).len() as u64 > n {
                    std::thread::sleep(later);
                    return true;
                }
                if over() {
                    return false;
                }
            }
            false
        }
    }
}
