//! All samples of a run, and what follows from them.

use crate::lines::Line;
use crate::plan::{CLASSES, Class, SCALING};
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use strata_bench::stats::{geomean, median, spread};

/// Seconds by workload and peer.
#[derive(Default)]
pub struct Figures {
    samples: BTreeMap<(String, String), Vec<f64>>,
    checksums: BTreeMap<String, (u64, String)>,
    /// The peers' names: ours first, native last.
    pub peers: Vec<String>,
}

/// A median with its spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Seconds.
    pub median: f64,
    /// A part of the median.
    pub spread: f64,
}

impl Figures {
    /// Nothing yet, of these peers.
    pub fn new(peers: Vec<String>) -> Figures {
        Figures { peers, ..Figures::default() }
    }

    /// Adds one run's lines.
    ///
    /// # Errors
    /// A checksum differs from an earlier one.
    pub fn add(&mut self, peer: &str, lines: &BTreeMap<String, Line>) -> Result<()> {
        for (name, line) in lines {
            let first = (line.checksum, peer.to_owned());
            let (sum, of) = self.checksums.entry(name.clone()).or_insert(first);
            ensure!(
                *sum == line.checksum,
                "{name}: checksum {:016x} on {peer}, {sum:016x} on {of}",
                line.checksum
            );
            self.add_time(peer, name, line.nanoseconds as f64 / 1e9);
        }
        Ok(())
    }

    /// Adds one time in seconds.
    pub fn add_time(&mut self, peer: &str, name: &str, seconds: f64) {
        self.samples.entry((name.to_owned(), peer.to_owned())).or_default().push(seconds);
    }

    /// All samples of one workload on one peer.
    pub fn samples(&self, name: &str, peer: &str) -> &[f64] {
        self.samples.get(&(name.to_owned(), peer.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// One workload on one peer.
    pub fn figure(&self, name: &str, peer: &str) -> Option<Figure> {
        let s = self.samples(name, peer);
        (!s.is_empty()).then(|| Figure { median: median(s), spread: spread(s) })
    }

    /// The workload's checksum, as hexadecimal digits.
    pub fn checksum(&self, name: &str) -> Option<String> {
        self.checksums.get(name).map(|c| format!("{:016x}", c.0))
    }

    fn ours(&self, name: &str) -> Option<f64> {
        Some(self.figure(name, self.peers.first()?)?.median)
    }

    fn native(&self, name: &str) -> Option<f64> {
        Some(self.figure(name, self.peers.last()?)?.median)
    }

    /// Our speed as a multiple of the faster QEMU's.
    pub fn ratio(&self, name: &str) -> Option<f64> {
        let others = self.peers.iter().filter(|p| p.starts_with("QEMU"));
        let best = others.filter_map(|p| self.figure(name, p)).map(|f| f.median).reduce(f64::min)?;
        Some(best / self.ours(name)?)
    }

    /// Our time as a multiple of native's.
    pub fn slowdown(&self, name: &str) -> Option<f64> {
        Some(self.ours(name)? / self.native(name)?)
    }

    /// The class's ratio: the geometric mean of its workloads'.
    pub fn class_ratio(&self, class: &Class) -> Option<f64> {
        geomean(class.workloads.iter().filter_map(|w| self.ratio(w.0)))
    }

    /// The geometric mean of the slowdowns of all integer workloads.
    pub fn integer_slowdown(&self) -> Option<f64> {
        let names = CLASSES.iter().filter(|c| c.integer).flat_map(|c| c.workloads);
        geomean(names.filter_map(|w| self.slowdown(w.0)))
    }

    /// How many times the work two threads do in the time of one: 2 at best.
    pub fn scaling(&self, peer: &str) -> Option<f64> {
        let [one, two] = SCALING.map(|n| self.figure(n, peer).map(|f| f.median));
        Some(2.0 * one? / two?)
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Figures as a run gives them: ours, two QEMUs, native.
    pub fn example() -> Figures {
        let mut f = Figures::new(["strata", "QEMU 10.0", "QEMU 7.2", "native"].map(String::from).to_vec());
        let rows: [(&str, [u64; 4]); 4] = [
            ("fib", [200, 900, 800, 100]),
            ("chase", [1000, 500, 600, 250]),
            ("thread1", [100, 100, 100, 50]),
            ("thread2", [110, 160, 200, 51]),
        ];
        for (name, times) in rows {
            for (peer, t) in f.peers.clone().iter().zip(times) {
                let line = Line { checksum: 7, nanoseconds: t * 1_000_000 };
                f.add(peer, &BTreeMap::from([(name.to_owned(), line)])).unwrap();
            }
        }
        f
    }

    #[test]
    fn ratios_are_against_the_better_one() {
        let f = example();
        assert!((f.ratio("fib").unwrap() - 4.0).abs() < 1e-9);
        assert!((f.ratio("chase").unwrap() - 0.5).abs() < 1e-9);
        assert_eq!(f.ratio("sieve"), None);
        assert!((f.slowdown("fib").unwrap() - 2.0).abs() < 1e-9);
        // Chase is no integer workload.
        assert!((f.integer_slowdown().unwrap() - 2.0).abs() < 1e-9);
        assert!((f.scaling("strata").unwrap() - 200.0 / 110.0).abs() < 1e-9);
    }

    #[test]
    fn another_checksum_is_an_error_that_names_both() {
        let mut f = example();
        let line = Line { checksum: 8, nanoseconds: 1 };
        let e = f.add("native", &BTreeMap::from([("fib".to_owned(), line)])).unwrap_err().to_string();
        assert!(e.contains("fib") && e.contains("native") && e.contains("strata"), "{e}");
    }
}
