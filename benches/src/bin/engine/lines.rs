//! What the program prints, read: `name checksum nanoseconds` a workload, `done` at the end.
//!
//! A kernel and a firmware print on the same console, so lines of any other shape are skipped.

use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;

/// One workload's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it computed.
    pub checksum: u64,
    /// How long it took.
    pub nanoseconds: u64,
}

/// The lines of all `wanted` workloads.
///
/// # Errors
/// One failed or is missing, or the program did not come to its end; with the last that was printed.
pub fn read(output: &str, wanted: &[&str]) -> Result<BTreeMap<String, Line>> {
    let mut found = BTreeMap::new();
    let mut done = false;
    for text in output.lines().map(str::trim) {
        ensure!(!text.starts_with("failed "), "the program says: {text}");
        done |= text == "done";
        let words: Vec<&str> = text.split_whitespace().collect();
        if let [name, sum, time] = words[..]
            && wanted.contains(&name)
        {
            let line = Line {
                checksum: u64::from_str_radix(sum, 16).with_context(|| format!("checksum in {text:?}"))?,
                nanoseconds: time.parse().with_context(|| format!("time in {text:?}"))?,
            };
            ensure!(line.nanoseconds > 0, "{name} took no time at all");
            ensure!(found.insert(name.to_owned(), line).is_none(), "{name} was printed twice");
        }
    }
    let missing: Vec<_> = wanted.iter().filter(|w| !found.contains_key(**w)).collect();
    if !done || !missing.is_empty() {
        let start = output.len().saturating_sub(2000);
        let tail = output.get(start..).unwrap_or(output);
        bail!("no figures for {missing:?}; the output ends with\n{tail}");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_among_a_kernels_lines() {
        let text = "OpenSBI v1.1\n\nfib 0000000000e3d1b0 784144600\r\n[ 1.0] fib: x\ndone\n[ 2.0] reboot: Power down\n";
        let got = read(text, &["fib"]).unwrap();
        assert_eq!(got["fib"], Line { checksum: 0xe3d1b0, nanoseconds: 784_144_600 });
    }

    #[test]
    fn what_is_missing_failed_or_twice_is_told() {
        let told = |text: &str| read(text, &["fib"]).unwrap_err().to_string();
        assert!(told("fib 1 2\n").contains("no figures"));
        assert!(told("done\n").contains("[\"fib\"]"));
        assert!(told("failed calls.c:3 errno 2\ndone\n").contains("calls.c:3"));
        assert!(told("fib 1 2\nfib 1 2\ndone\n").contains("twice"));
        assert!(told("fib 1 0\ndone\n").contains("no time"));
        assert!(told("fib xyz 5\ndone\n").contains("checksum"));
    }
}
