//! Samples under their names, and the tables made of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use strata_bench::stats::{median, spread};

/// Samples by name, in the order in which the names came.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    names: Vec<String>,
    samples: BTreeMap<String, Vec<f64>>,
}

impl Figures {
    /// One more of `name`.
    pub fn add(&mut self, name: &str, sample: f64) {
        if !self.samples.contains_key(name) {
            self.names.push(name.to_owned());
        }
        self.samples.entry(name.to_owned()).or_default().push(sample);
    }

    /// The median of `name`.
    pub fn median(&self, name: &str) -> Option<f64> {
        self.samples.get(name).map(|s| median(s))
    }

    /// All of them; milliseconds where a name says nothing else.
    pub fn table(&self) -> String {
        let mut out =
            "| what, in ms | median | spread | least | most | samples |\n|---|---|---|---|---|---|\n"
                .to_owned();
        for name in &self.names {
            let s = &self.samples[name];
            let (least, most) = s.iter().fold((f64::INFINITY, 0f64), |(l, m), x| (l.min(*x), m.max(*x)));
            let (middle, percent) = (median(s), spread(s) * 100.0);
            let _ = writeln!(
                out,
                "| {name} | {middle:.1} | {percent:.0} % | {least:.1} | {most:.1} | {} |",
                s.len()
            );
        }
        out
    }
}

/// What is compared, by our names for it.
const COMPARED: [&str; 7] = [
    "suspend",
    "snapshot: machine stands still",
    "resume: until its first instruction",
    "resume: until its console answers",
    "resume: until its service answers",
    "restore: until its first instruction",
    "restore: until its console answers",
];

/// Our medians beside those of each peer's ways, and how many times ours theirs are.
pub fn ratios(ours: &Figures, peers: &[(String, Figures)]) -> String {
    let mut out = "| what, in ms | strata |".to_owned();
    peers.iter().for_each(|(name, _)| {
        let _ = write!(out, " {name} |");
    });
    let _ = writeln!(out, "\n|---|---|{}", "---|".repeat(peers.len()));
    for name in COMPARED {
        let Some(own) = ours.median(name) else { continue };
        let _ = write!(out, "| {name} | {own:.1} |");
        for (_, theirs) in peers {
            let _ = match theirs.median(name) {
                Some(m) => write!(out, " {m:.1} (×{:.1}) |", m / own),
                None => write!(out, " – |"),
            };
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_have_what_was_measured() {
        let mut ours = Figures::default();
        [4.0, 2.0, 3.0].into_iter().for_each(|s| ours.add("suspend", s));
        let mut theirs = Figures::default();
        theirs.add("suspend", 30.0);
        assert!(ours.table().contains("| suspend | 3.0 | 67 % | 2.0 | 4.0 | 3 |"), "{}", ours.table());
        let text = ratios(&ours, &[("QEMU".into(), theirs), ("other".into(), Figures::default())]);
        assert!(text.ends_with("| suspend | 3.0 | 30.0 (×10.0) | – |\n"), "{text}");
    }
}
