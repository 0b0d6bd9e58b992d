//! Commands on instances that exist: list, stop, pause, console, delete.

use crate::args::{DeleteArgs, PsArgs};
use crate::terminal::{self, End};
use crate::{print, start};
use std::fmt::Write;
use strata_vmm::{Client, Error, Kind, Result, Runtime, Status, Store};

/// One line of `strata ps`.
struct Row {
    name: String,
    phase: String,
    image: String,
    cpus: u32,
    memory: u64,
    up: String,
    /// How it is run.
    engine: String,
    /// Connections that were reset when it went on from where it was saved.
    resets: u64,
}

/// `strata ps [--all] [--verbose]`.
pub fn ps(args: &PsArgs) -> Result<u8> {
    let store = Store::open()?;
    let _ = store.sweep();
    let runtime = Runtime::open()?;
    let mut rows = Vec::new();
    for entry in runtime.list()? {
        // One that is just starting or ending does not answer; it is shown as that.
        let status = Client::connect_in(&runtime, &entry.name).and_then(|mut c| c.status());
        rows.push(match status {
            Ok(s) => running(s),
            Err(_) => stopped(entry.name, "busy".into(), None, 0, 0),
        });
    }
    if args.all {
        for kept in store.list()? {
            if !rows.iter().any(|r| r.name == kept.record.name) {
                let r = kept.record;
                let phase = match (kept.in_use, &r.suspended) {
                    (true, _) => "busy",
                    (false, Some(_)) => "suspended",
                    (false, None) => "stopped",
                };
                rows.push(stopped(r.name, phase.into(), r.image, r.cpus, r.memory));
            }
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    print(table(&rows, args.verbose).as_bytes());
    Ok(0)
}

fn running(s: Status) -> Row {
    Row {
        resets: s.resets,
        up: duration(s.uptime),
        name: s.name,
        phase: s.phase,
        image: s.image.unwrap_or_else(|| "-".into()),
        cpus: s.cpus,
        memory: s.memory,
        engine: match (s.tier, s.deterministic) {
            (tier, _) if tier.is_empty() => "-".into(),
            (tier, Some(_)) => format!("{tier}, deterministic"),
            (tier, None) => tier,
        },
    }
}

fn stopped(name: String, phase: String, image: Option<String>, cpus: u32, memory: u64) -> Row {
    Row {
        name,
        phase,
        image: image.unwrap_or_else(|| "-".into()),
        cpus,
        memory,
        up: "-".into(),
        engine: "-".into(),
        resets: 0,
    }
}

/// A length of time as people read it.
pub fn duration(seconds: u64) -> String {
    match seconds {
        s if s < 60 => format!("{s}s"),
        s if s < 3600 => format!("{}m{:02}s", s / 60, s % 60),
        s => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
    }
}

fn table(rows: &[Row], verbose: bool) -> String {
    let width = |f: fn(&Row) -> usize, least: usize| rows.iter().map(f).max().unwrap_or(0).max(least);
    let (n, i) = (width(|r| r.name.len(), 4), width(|r| r.image.len(), 5));
    let e = width(|r| r.engine.len(), 11);
    let more = |engine: &str, resets: &dyn std::fmt::Display| {
        if verbose { format!("  {engine:e$}  {resets:>6}") } else { String::new() }
    };
    let mut out = format!(
        "{:n$}  {:8}  {:i$}  {:>4}  {:>8}{}  UP\n",
        "NAME",
        "PHASE",
        "IMAGE",
        "CPUS",
        "MEMORY",
        more("TIER", &"RESETS")
    );
    for r in rows {
        let memory = size(r.memory);
        let _ = writeln!(
            out,
            "{:n$}  {:8}  {:i$}  {:>4}  {memory:>8}{}  {}",
            r.name,
            r.phase,
            r.image,
            r.cpus,
            more(&r.engine, &r.resets),
            r.up
        );
    }
    out
}

/// A size as people read it.
pub fn size(bytes: u64) -> String {
    match bytes {
        b if b >= 1 << 30 && b.is_multiple_of(1 << 30) => format!("{} GiB", b >> 30),
        b if b >= 10 << 30 => format!("{} GiB", b >> 30),
        b if b >= 1 << 20 => format!("{} MiB", b >> 20),
        b => format!("{} KiB", b >> 10),
    }
}

/// `strata stop NAME [--force]`.
pub fn stop(name: &str, force: bool) -> Result<u8> {
    if force {
        Runtime::open()?.kill(name)?;
        return Ok(0);
    }
    let report = match Client::connect(name) {
        Err(e) if e.kind == Kind::NotFound && forget(name)? => return Ok(0),
        other => other?.stop(&mut |step| crate::say(&step))?,
    };
    if report.problems.is_empty() {
        return Ok(0);
    }
    let m = format!("{name} has ended, but not cleanly: {}", report.problems.join(" "));
    Err(Error::new(Kind::Io, m))
}

/// Throws away the memory of a suspended machine; whether there is one of that name.
fn forget(name: &str) -> Result<bool> {
    let store = Store::open()?;
    if !store.read(name).is_ok_and(|r| r.suspended.is_some()) {
        return Ok(false);
    }
    store.take(name)?.forget().map(|()| true)
}

/// `strata suspend NAME`.
pub fn suspend(name: &str) -> Result<u8> {
    let report = Client::connect(name)?.suspend(&mut |_| {})?;
    if report.problems.is_empty() {
        return Ok(0);
    }
    Err(Error::new(Kind::Io, format!("{name} was suspended, but not cleanly: {}", report.problems.join(" "))))
}

/// `strata pause NAME`.
pub fn pause(name: &str) -> Result<u8> {
    Client::connect(name)?.pause().map(|()| 0)
}

/// `strata unpause NAME`.
pub fn unpause(name: &str) -> Result<u8> {
    Client::connect(name)?.unpause().map(|()| 0)
}

/// `strata reset NAME`.
pub fn reset(name: &str) -> Result<u8> {
    Client::connect(name)?.reset().map(|()| 0)
}

/// `strata console NAME`.
pub fn console(name: &str) -> Result<u8> {
    let stream = Client::connect(name)?.attach_console()?;
    match terminal::relay(stream, |ask| start::carry_out_attached(name, ask)) {
        Ok(End::Closed | End::Quit) => Ok(0),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        Err(e) => Err(Error::io(format!("pass the console of {name} on"), e)),
    }
}

/// `strata delete NAME...`.
pub fn delete(args: &DeleteArgs) -> Result<u8> {
    let store = Store::open()?;
    for name in &args.names {
        let instance = store.take_to_delete(name)?;
        if !args.snapshots && !store.snapshots(name)?.is_empty() {
            let m =
                format!("{name} has snapshots: remove them with it by `strata delete --snapshots {name}`.");
            return Err(Error::new(Kind::Refused, m));
        }
        instance.delete()?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tier_is_shown_to_who_asks() {
        let rows = [stopped("web".into(), "stopped".into(), None, 1, 1 << 30)];
        assert!(!table(&rows, false).contains("TIER"));
        let text = table(&rows, true);
        let (head, row) = text.split_once('\n').unwrap();
        assert_eq!(head.find("TIER"), row.find("-                 0"), "{text}");
    }

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!([size(512 << 20), size(2 << 30), size(1536 << 20)], ["512 MiB", "2 GiB", "1536 MiB"]);
        assert_eq!([duration(5), duration(65), duration(3700)], ["5s", "1m05s", "1h01m"]);
    }
}
