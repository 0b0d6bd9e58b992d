//! The figures as Markdown and as JSON.

use crate::figures::Figures;
use crate::plan::{self, CLASSES, SCALING};
use serde_json::{Value, json};
use std::fmt::Write;

/// What was measured, by what, where: words for the report's head.
pub struct Setting {
    /// Day.
    pub date: String,
    /// Processor and number of them.
    pub host: String,
    /// Rounds.
    pub rounds: usize,
    /// Compiler of the workloads.
    pub compiler: String,
    /// Kernel of the machines.
    pub kernel: String,
    /// Others' load on the host before and after (one-minute averages).
    pub load: [String; 2],
}

/// Milliseconds, with three digits that mean something.
fn time(seconds: f64) -> String {
    let ms = seconds * 1e3;
    match ms {
        100.0.. => format!("{ms:.0}"),
        10.0.. => format!("{ms:.1}"),
        _ => format!("{ms:.2}"),
    }
}

fn times(value: Option<f64>) -> String {
    match value {
        Some(v @ 10.0..) => format!("{v:.0}x"),
        Some(v) => format!("{v:.2}x"),
        None => "–".into(),
    }
}

/// `ours ≥ aim`, `≥ floor` or below.
fn verdict(ratio: f64, floor: f64, aim: f64) -> &'static str {
    if ratio >= aim {
        "aim"
    } else if ratio >= floor {
        "floor"
    } else {
        "below"
    }
}

/// The report's figures as Markdown: setting, table of classes, table of workloads.
pub fn markdown(f: &Figures, s: &Setting) -> String {
    let mut out = String::new();
    let peers = f.peers.join(", ");
    let _ = writeln!(
        out,
        "Measured on {} on {}: {peers}; {} rounds, one after the other in turn; Linux {} in the machines; {} for \
         both targets; load of the host {} before and {} after.\n",
        s.date, s.host, s.rounds, s.kernel, s.compiler, s.load[0], s.load[1]
    );
    classes(f, &mut out);
    workloads(f, &mut out);
    if let Some(m) = f.integer_slowdown() {
        let _ = writeln!(
            out,
            "\nInteger workloads against native, geometric mean: {m:.2}x the time (at most 4, aim 2)."
        );
    }
    let scaling: Vec<String> =
        f.peers.iter().filter_map(|p| Some(format!("{p} {:.2}", f.scaling(p)?))).collect();
    if !scaling.is_empty() {
        let _ = writeln!(
            out,
            "\nWork of two threads on two harts in the time of one thread's: {} (wanted: 0.9 of native's).",
            scaling.join(", ")
        );
    }
    out
}

fn classes(f: &Figures, out: &mut String) {
    out.push_str("| class | speed against the better QEMU | floor | aim | |\n|---|---|---|---|---|\n");
    for c in CLASSES {
        let Some(ratio) = f.class_ratio(c) else { continue };
        let _ = writeln!(
            out,
            "| {} | {} | {}x | {}x | {} |",
            c.title,
            times(Some(ratio)),
            c.floor,
            c.aim,
            verdict(ratio, c.floor, c.aim)
        );
    }
    out.push('\n');
}

fn workloads(f: &Figures, out: &mut String) {
    let heads: Vec<String> = f.peers.iter().map(|p| format!("{p}, ms")).collect();
    let _ = writeln!(out, "| workload | {} | against QEMU | time against native |", heads.join(" | "));
    let _ = writeln!(out, "|---|{}---|---|", "---|".repeat(heads.len()));
    for (name, _) in plan::all() {
        let cell = |p: &String| match f.figure(name, p) {
            Some(x) => format!("{} ±{:.0} %", time(x.median), x.spread * 50.0),
            None => "–".into(),
        };
        let cells: Vec<String> = f.peers.iter().map(cell).collect();
        if cells.iter().any(|c| c != "–") {
            let (ratio, slow) = (times(f.ratio(name)), times(f.slowdown(name)));
            let _ = writeln!(out, "| {name} | {} | {ratio} | {slow} |", cells.join(" | "));
        }
    }
}

/// Everything, samples too.
pub fn json(f: &Figures, s: &Setting) -> Value {
    let workload = |name: &str, floor: Option<f64>, aim: Option<f64>, class: &str| {
        let times: serde_json::Map<String, Value> = f
            .peers
            .iter()
            .filter_map(|p| {
                let x = f.figure(name, p)?;
                let entry = json!({ "median": x.median, "spread": x.spread, "samples": f.samples(name, p) });
                Some((p.clone(), entry))
            })
            .collect();
        json!({
            "name": name, "class": class, "checksum": f.checksum(name), "floor": floor, "aim": aim,
            "ratio": f.ratio(name), "slowdown": f.slowdown(name), "seconds": times,
        })
    };
    let measured = |n: &str| f.peers.iter().any(|p| f.figure(n, p).is_some());
    let mut all: Vec<Value> = Vec::new();
    for c in CLASSES {
        let names = c.workloads.iter().map(|w| w.0).filter(|n| measured(n));
        all.extend(names.map(|n| workload(n, Some(c.floor), Some(c.aim), c.title)));
    }
    all.extend(SCALING.into_iter().filter(|n| measured(n)).map(|n| workload(n, None, None, "scaling")));
    let scaling: serde_json::Map<String, Value> =
        f.peers.iter().filter_map(|p| Some((p.clone(), json!(f.scaling(p)?)))).collect();
    json!({
        "date": s.date, "host": s.host, "rounds": s.rounds, "compiler": s.compiler, "kernel": s.kernel,
        "load": s.load, "peers": f.peers, "workloads": all,
        "integer_slowdown": f.integer_slowdown(), "scaling": scaling,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figures::tests::example;

    pub fn setting() -> Setting {
        Setting {
            date: "1 January 2027".into(),
            host: "2 of X".into(),
            rounds: 1,
            compiler: "GCC 12".into(),
            kernel: "7.2".into(),
            load: ["0.1".into(), "0.2".into()],
        }
    }

    #[test]
    fn the_tables_have_what_was_measured_and_nothing_else() {
        let text = markdown(&example(), &setting());
        assert!(text.contains("| calls, recursion, interpreter loop | 4.00x | 3x | 6x | floor |"), "{text}");
        assert!(
            text.contains("| fib | 200 ±0 % | 900 ±0 % | 800 ±0 % | 100 ±0 % | 4.00x | 2.00x |"),
            "{text}"
        );
        assert!(!text.contains("sieve |"));
        assert!(text.contains("strata 1.82"), "{text}");
    }

    #[test]
    fn json_has_samples_and_ratios() {
        let v = json(&example(), &setting());
        let fib = &v["workloads"][0];
        assert_eq!(fib["name"], "fib");
        assert_eq!(fib["seconds"]["native"]["samples"][0], 0.1);
        assert_eq!(fib["floor"], 3.0);
        assert_eq!(v["workloads"].as_array().unwrap().len(), 4);
    }

    #[test]
    fn a_class_is_at_its_aim_or_floor_or_below() {
        assert_eq!([1.9, 2.0, 3.9, 4.0].map(|r| verdict(r, 2.0, 4.0)), ["below", "floor", "floor", "aim"]);
    }
}
