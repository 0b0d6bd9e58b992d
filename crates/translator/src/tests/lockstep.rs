//! Machines that run the same program side by side, the interpreter first, and have to agree wherever one looks.

use super::fixture::*;
use crate::Options;
use std::sync::Arc;
use strata_engine::hot::HotPaths;
use strata_engine::{Clock, Counted, CountedClock, Entry, NoBus, Privilege, Stop, Vcpu};
use strata_memory::GuestRam;
use strata_riscv::{Hart, HartConfig, HartState};
use strata_state::Stateful;

/// Nanoseconds an instruction: one tick of the timers.
pub const NS: u64 = 100;

/// The translator's habits: its own, all code made before it first runs, and code that is made at once and soon evicted; the
/// last makes hardly any by itself, and is given what the others have found.
const HABITS: [Options; 5] = [
    Options { hot: 16, awaited: 0, code_size: 32 << 20 },
    Options { hot: 0, awaited: 0, code_size: 32 << 20 },
    Options { hot: 1, awaited: 0, code_size: 0 },
    Options { hot: 0, awaited: 0, code_size: 0 },
    Options { hot: 200, awaited: 0, code_size: 32 << 20 },
];
/// Runs that are shorter find nothing worth passing on.
const WORTHWHILE: u64 = 200;

/// See the module.
pub struct Lockstep(Vec<(Option<Options>, Hart, GuestRam)>);

impl Lockstep {
    /// Harts at `pc` in M mode, in RAM that holds `parts`.
    pub fn new(pc: u64, parts: &[(u64, Vec<u8>)]) -> Lockstep {
        Lockstep::of(HABITS.map(Some).into_iter(), pc, parts)
    }

    fn of(habits: impl Iterator<Item = Option<Options>>, pc: u64, parts: &[(u64, Vec<u8>)]) -> Lockstep {
        let all = std::iter::once(None).chain(habits).map(|habit| {
            let ram = GuestRam::single(BASE, SIZE).unwrap();
            parts.iter().for_each(|(at, bytes)| ram.load(*at, bytes).unwrap());
            let clock: Arc<dyn Clock> = Arc::new(CountedClock::new(NS, 0));
            let tier = habit.map(|o| crate::tier_with(o).unwrap());
            let mut hart = Hart::with_tier(HartConfig::new(0), ram.clone(), Arc::new(NoBus), clock, tier);
            hart.boot(Entry { pc, args: [0; 3], privilege: Privilege::Firmware });
            (habit, hart, ram)
        });
        Lockstep(all.collect())
    }

    /// Sets registers of all.
    pub fn set(&mut self, change: impl Fn(&mut HartState)) {
        for (_, hart, _) in &mut self.0 {
            let mut s = hart.state();
            change(&mut s);
            hart.set_state(s);
            hart.settle();
        }
    }

    /// Does something to all.
    pub fn each(&mut self, mut f: impl FnMut(&mut Hart, &GuestRam)) {
        self.0.iter_mut().for_each(|(_, hart, ram)| f(hart, ram));
    }

    /// Runs all for `n` instructions; gives the state that they agree on.
    pub fn run(&mut self, n: u64, what: &str) -> HartState {
        let mut first: Option<(HartState, Stop)> = None;
        for (habit, hart, _) in &mut self.0 {
            let stop = hart.run_for(n);
            let now = hart.state();
            match &first {
                None => first = Some((now, stop)),
                Some((state, as_first)) => {
                    assert_eq!(&stop, as_first, "{what}, {habit:?}, for {n}");
                    assert!(state == &now, "{what}, {habit:?}, for {n}: {}", differences(state, &now));
                }
            }
        }
        if n >= WORTHWHILE {
            let (last, others) = self.0.split_last_mut().unwrap();
            last.1.warm(&Arc::new(HotPaths::of(others.iter().flat_map(|(_, hart, _)| hart.hot_paths()))));
        }
        first.unwrap().0
    }

    /// Compares what of memory the programs write: page tables and data.
    pub fn compare_memory(&self, what: &str) {
        for (at, len) in [(BASE + 0x2_0000, 0x2_0000), (DATA, 0x1_0000)] {
            let read = |ram: &GuestRam| {
                let mut bytes = vec![0; len];
                ram.peek(at, &mut bytes).unwrap();
                bytes
            };
            let first = read(&self.0[0].2);
            for (habit, _, ram) in &self.0[1..] {
                let differs = first.iter().zip(&read(ram)).position(|(a, b)| a != b);
                assert_eq!(differs.map(|n| at + n as u64), None, "{what}, {habit:?}: memory differs");
            }
        }
    }
}

fn differences(a: &HartState, b: &HartState) -> String {
    let fields = |s: &HartState| format!("{s:x?}").replace(", ", "\n");
    let (a, b) = (fields(a), fields(b));
    let lines = a.lines().zip(b.lines()).filter(|(a, b)| a != b);
    lines.map(|(a, b)| format!("\n  {a}   here {b}")).collect()
}

/// Words as bytes.
pub fn code(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}
