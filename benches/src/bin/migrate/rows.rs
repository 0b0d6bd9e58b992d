//! What came of each program with each load: as a table's row, and as JSON with every round.

use crate::sides::Figures;
use serde_json::{Value, json};

/// A row: who, doing what, and what came of each round.
pub struct Row {
    /// The program, and how it sent the machine.
    pub who: String,
    /// What the guest did.
    pub load: &'static str,
    /// A round each; none is one that did not come to an end.
    pub rounds: Vec<Option<Figures>>,
}

/// The head of the table.
pub const HEAD: &str = "\
| workload | program | downtime, ms | predicted, ms | outage, ms | total, ms | bytes / memory | slowdown, % | lost, ms | below half, ms |
|---|---|---|---|---|---|---|---|---|---|";

impl Row {
    /// The median of a figure over the rounds that came to an end.
    pub fn median(&self, f: impl Fn(&Figures) -> f64) -> Option<f64> {
        let mut all: Vec<f64> = self.rounds.iter().flatten().map(f).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied()
    }

    /// The round whose total is the median.
    pub fn typical(&self) -> Option<&Figures> {
        let mut all: Vec<&Figures> = self.rounds.iter().flatten().collect();
        all.sort_by(|a, b| a.total.total_cmp(&b.total));
        all.get(all.len() / 2).copied()
    }

    /// A row of the table, for a machine with so many MiB of memory.
    pub fn text(&self, memory: u64) -> String {
        let Some(downtime) = self.median(|f| f.downtime) else {
            return format!("| {} | {} | did not finish | | | | | | | |", self.load, self.who);
        };
        let of = |f: fn(&Figures) -> f64| self.median(f).unwrap_or(0.0);
        format!(
            "| {} | {} | {downtime:.1} | {:.1} | {:.1} | {:.0} | {:.2} | {:.1} | {:.0} | {:.0} |",
            self.load,
            self.who,
            of(|f| f.predicted),
            of(|f| f.outage),
            of(|f| f.total),
            of(|f| f.bytes as f64) / (memory << 20) as f64,
            of(|f| f.cost.slowdown),
            of(|f| f.cost.lost),
            of(|f| f.cost.below_half),
        )
    }

    /// All of it; times in milliseconds, but for the line's, which are in seconds.
    pub fn json(&self) -> Value {
        let round = |f: &Figures| {
            json!({
                "downtime": f.downtime, "predicted": f.predicted, "outage": f.outage, "switch": f.switch,
                "total": f.total, "bytes": f.bytes, "slowdown_percent": f.cost.slowdown, "lost": f.cost.lost,
                "below_half": f.cost.below_half, "line": f.cost.line,
            })
        };
        let rounds: Vec<Option<Value>> = self.rounds.iter().map(|r| r.as_ref().map(round)).collect();
        json!({"workload": self.load, "program": self.who, "rounds": rounds})
    }
}
