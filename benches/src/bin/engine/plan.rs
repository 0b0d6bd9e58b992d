//! What is measured: the classes with their floors and aims, and the workloads in each.
//!
//! A floor is the least speed as a multiple of QEMU's that the translator is held to, an aim what it was built for.
//! How much of a workload is done stands in `guests/bench/engine/engine.h`; a test checks that both know the same ones.

/// Where a workload runs and what it measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One line of the program, on a machine of one hart.
    Single,
    /// One line of the program that needs two harts.
    Double,
    /// From a process's start to a text on its console.
    Boot,
}

/// One workload: its name and how it runs.
pub type Workload = (&'static str, Kind);

/// Workloads judged together.
pub struct Class {
    /// What it is called in the report.
    pub title: &'static str,
    /// Least multiple of QEMU's speed.
    pub floor: f64,
    /// Wanted multiple of QEMU's speed.
    pub aim: f64,
    /// Whether its slowdown against native counts in the integer mean.
    pub integer: bool,
    /// Its workloads.
    pub workloads: &'static [Workload],
}

/// The two that give the scaling; they have no floor against QEMU.
pub const SCALING: [&str; 2] = ["thread1", "thread2"];

/// A boot that takes long and needs an image of its own: measured only when named.
pub const LONG: &str = "boot-debian";

use Kind::{Boot, Double, Single};

const fn class(
    title: &'static str,
    (floor, aim): (f64, f64),
    integer: bool,
    workloads: &'static [Workload],
) -> Class {
    Class { title, floor, aim, integer, workloads }
}

/// All classes, in the order of the report.
pub const CLASSES: &[Class] = &[
    class(
        "branchy integer, sort with callbacks, sieve",
        (2.0, 4.0),
        true,
        &[("mix", Single), ("qsort", Single), ("sieve", Single)],
    ),
    class(
        "calls, recursion, interpreter loop",
        (3.0, 6.0),
        true,
        &[("fib", Single), ("ackermann", Single), ("dhrystone", Single), ("interp", Single)],
    ),
    class(
        "straight ALU, compression, multiply and divide",
        (1.2, 2.0),
        true,
        &[("sha256", Single), ("compress", Single), ("muldiv", Single)],
    ),
    class("string scanning", (2.0, 3.0), true, &[("bytes", Single), ("strings", Single)]),
    class(
        "floating point",
        (4.0, 8.0),
        false,
        &[("nbody", Single), ("matmul", Single), ("fft", Single), ("convert", Single), ("horner", Single)],
    ),
    class("memory", (1.3, 3.0), false, &[("copy", Single), ("memcpy", Single), ("chase", Single)]),
    class("memory, a page a step", (2.0, 3.0), false, &[("stride", Single)]),
    class("system calls, signals", (1.8, 3.0), false, &[("getppid", Single), ("signal", Single)]),
    class(
        "page faults, processes, pipe on one hart",
        (1.2, 2.0),
        false,
        &[("faults", Single), ("forkexec", Single), ("pipe1", Single)],
    ),
    class("pipe across two harts", (2.0, 3.0), false, &[("pipe2", Double)]),
    class("uncontended atomics", (1.0, 1.2), false, &[("atomics", Single)]),
    class("writing code and calling it", (1.0, 3.0), false, &[("codegen", Single)]),
    class("boot", (1.6, 3.0), false, &[("boot-busybox", Boot), (LONG, Boot)]),
];

/// Every workload with its kind, the scaling pair at the end.
pub fn all() -> impl Iterator<Item = Workload> {
    CLASSES
        .iter()
        .flat_map(|c| c.workloads.iter().copied())
        .chain(SCALING.into_iter().map(|name| (name, Double)))
}

/// The workloads to run: those named, or all but the long ones.
///
/// # Errors
/// A name that no workload has.
pub fn chosen(only: &[String]) -> anyhow::Result<Vec<Workload>> {
    for name in only {
        anyhow::ensure!(
            all().any(|(n, _)| n == name),
            "no workload is called {name}; there are {}",
            all().map(|w| w.0).collect::<Vec<_>>().join(", ")
        );
    }
    let wanted = |n: &str| if only.is_empty() { n != LONG } else { only.iter().any(|o| o == n) };
    Ok(all().filter(|(n, _)| wanted(n)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_program_and_the_plan_know_the_same_workloads() {
        let header = include_str!("../../../../guests/bench/engine/engine.h");
        let listed: BTreeSet<(String, usize)> = header
            .split(" X(")
            .skip(1)
            .map(|row| {
                let row: Vec<&str> = row.split(')').next().unwrap().split(", ").collect();
                (row[0].to_owned(), row[2].parse().unwrap())
            })
            .collect();
        let planned = all().filter(|(_, k)| *k != Boot);
        let planned: BTreeSet<_> =
            planned.map(|(n, k)| (n.to_owned(), 1 + usize::from(k == Double))).collect();
        assert_eq!(listed, planned);
    }

    #[test]
    fn names_are_unique_and_floors_below_aims() {
        let names: BTreeSet<_> = all().map(|w| w.0).collect();
        assert_eq!(names.len(), all().count());
        assert!(CLASSES.iter().all(|c| c.floor < c.aim && !c.workloads.is_empty()));
    }

    #[test]
    fn a_choice_is_checked_and_leaves_the_long_one_out() {
        assert!(chosen(&["fibb".into()]).is_err());
        assert_eq!(chosen(&["fib".into()]).unwrap(), [("fib", Single)]);
        let usual = chosen(&[]).unwrap();
        assert_eq!(usual.len(), all().count() - 1);
        assert!(usual.iter().all(|w| w.0 != LONG));
    }
}
