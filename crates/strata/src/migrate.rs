//! `strata migrate`: a running machine goes to another host, or comes from one.

use crate::args::{MigrateArgs, MigrateCommand, ReceiveArgs, RecoverArgs, StrategyArg};
use crate::manage::size;
use crate::snapshot::net;
use crate::start::absolute;
use crate::{print, say};
use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use strata_vmm::migrate::{Arrival, Departure, Figures, Outcome, Step, Strategy, recover};
use strata_vmm::{Client, Error, Kind, Result, Store};

/// How often a person sees where it is.
const SHOWN: Duration = Duration::from_millis(500);

/// `strata migrate …`.
pub fn migrate(args: MigrateArgs) -> Result<u8> {
    match args.command {
        Some(MigrateCommand::Receive(a)) => return receive(a),
        Some(MigrateCommand::Status(a)) => {
            print(figures(&Client::connect(&a.name)?.migration()?).as_bytes());
            return Ok(0);
        }
        Some(MigrateCommand::Cancel(a)) => return Client::connect(&a.name)?.cancel_migration().map(|()| 0),
        Some(MigrateCommand::Recover(a)) => return recovered(&a),
        None => {}
    }
    let missing =
        || Error::new(Kind::Usage, "Say which machine is to go where: `strata migrate NAME ADDR --token T`.");
    let (name, address) = (args.name.ok_or_else(missing)?, args.address.ok_or_else(missing)?);
    let ask = Departure {
        address,
        token: args.token.ok_or_else(missing)?,
        strategy: match args.strategy {
            StrategyArg::Auto => Strategy::Auto,
            StrategyArg::Precopy => Strategy::Precopy,
            StrategyArg::StopAndCopy => Strategy::StopAndCopy,
            StrategyArg::PostCopy => Strategy::PostCopy,
            StrategyArg::Hybrid => Strategy::Hybrid,
        },
        max_downtime: args.max_downtime,
        streams: args.streams,
        bandwidth: args.bandwidth.unwrap_or(0),
        throttle: args.throttle,
        plain: args.plain,
        with_disks: args.with_disks,
        without_snapshots: args.without_snapshots,
        verify: args.verify,
        dry_run: args.dry_run,
    };
    let mut client = Client::connect(&name)?;
    let over = AtomicBool::new(false);
    let done = std::thread::scope(|s| {
        if std::io::stderr().is_terminal() {
            s.spawn(|| watch(&name, &over));
        }
        let done = client.migrate(&ask);
        over.store(true, Ordering::Release);
        done
    })?;
    print(if ask.dry_run { forecast(&done, &ask) } else { figures(&done) }.as_bytes());
    Ok(0)
}

/// Shows a person where it is, until it is over.
fn watch(name: &str, over: &AtomicBool) {
    let Ok(mut client) = Client::connect(name) else { return };
    while !over.load(Ordering::Acquire) {
        std::thread::sleep(SHOWN);
        let Ok(f) = client.migration() else { return };
        say(&format!(
            "{}, round {}, {} sent, {} ms expected",
            step(f.step),
            f.rounds,
            size(f.sent),
            f.expected / 1000
        ));
    }
}

fn step(step: Step) -> &'static str {
    match step {
        Step::PreMigration => "pre-migration",
        Step::Reservation => "reservation",
        Step::IterativeCopy => "iterative copy",
        Step::StopAndCopy => "stop and copy",
        Step::Commitment => "commitment",
        Step::Activation => "activation",
        Step::Pulling => "activation, memory follows",
        Step::Moved => "moved",
        Step::Stayed => "stayed",
    }
}

fn figures(f: &Figures) -> String {
    let mut out = String::new();
    let mb = |n: u64| n as f64 / 1e6;
    let mut row = |name: &str, value: String| out.push_str(&format!("{name:12} {value}\n"));
    row("step", step(f.step).into());
    // Where it comes from only the other side's figures say.
    let here = f.address.is_empty();
    if !here {
        row("to", format!("{} as {}", f.address, f.name));
        row("rounds", f.rounds.to_string());
        let part = f.sent as f64 / f.memory.max(1) as f64;
        row("sent", format!("{} of {} ({part:.2} of it)", size(f.sent), size(f.memory)));
        let [data, zero, same] = f.pages;
        row("pages", format!("{data} data, {zero} zero, {same} the same as another"));
    }
    row("left", format!("{} pages, {} of them held back", f.pending[0], f.pending[1]));
    if f.disks != [0, 0] {
        row("disks", format!("{} sent, {} left", size(f.disks[0]), size(f.disks[1])));
    }
    if !here {
        row("writes", format!("{:.1} MB/s", mb(f.dirty_rate)));
        if f.throttle > 0 {
            row("held to", format!("{:.1} MB/s of pages written anew (--throttle)", mb(f.throttle)));
        } else if f.slowest > 0 {
            row("held to", format!("nothing any more; {:.1} MB/s at the least", mb(f.slowest)));
        }
        row("bandwidth", format!("{:.1} MB/s", mb(f.bandwidth)));
        let real = if f.stood > 0 { format!("{:.1} ms", f.stood as f64 / 1e3) } else { "not yet".into() };
        row("downtime", format!("{:.1} ms predicted, {real} real", f.expected as f64 / 1e3));
    }
    if f.step == Step::Pulling && !f.connected {
        row(
            "connection",
            "lost: it waits where it needs a page; `strata migrate recover` tries again at once".into(),
        );
    }
    if f.asked[0] > 0 {
        row("asked for", format!("{} pages, {} of them on their way already", f.asked[0], f.asked[1]));
    }
    if f.stalls > 0 {
        row("waited", format!("{:.1} ms in all, {} times, for a page", f.stalled as f64 / 1e3, f.stalls));
    }
    row("took", format!("{:.2} s", f.took as f64 / 1e3));
    f.notes.iter().for_each(|n| row("note", n.clone()));
    out
}

fn forecast(f: &Figures, ask: &Departure) -> String {
    let mut out = format!("It can go to {} as {}.\n", f.address, f.name);
    let _ =
        writeln!(out, "memory       {} with content, {} in all", size(f.pending[0] * 4096), size(f.memory));
    let _ = writeln!(out, "writes       {:.1} MB/s at this moment", f.dirty_rate as f64 / 1e6);
    if ask.bandwidth > 0 {
        let (rate, bandwidth) = (f.dirty_rate as f64, ask.bandwidth as f64);
        if rate < bandwidth {
            let first = (f.pending[0] * 4096) as f64 / bandwidth;
            let _ = writeln!(out, "expected     about {:.1} s in all", first / (1.0 - rate / bandwidth));
        } else {
            let _ = writeln!(
                out,
                "expected     no end while it runs: it writes faster than the limit lets memory go"
            );
        }
    }
    f.notes.iter().for_each(|n| out.push_str(&format!("note         {n}\n")));
    out
}

/// `strata migrate receive`.
fn receive(args: ReceiveArgs) -> Result<u8> {
    let disks = args.disk.iter().map(|d| absolute(d)).collect::<Result<_>>()?;
    let (listen, name, plain) = (args.listen, args.name, args.plain);
    let ask = Arrival { listen, name, net: net(args.net)?, disks, plain };
    let launched = strata_vmm::launch::receive(&ask, |at| {
        print(format!("{}\n", at.token).as_bytes());
        say(&format!("waiting for a machine at {}", at.address));
    })?;
    launched.notes.iter().for_each(|n| say(n));
    print(format!("{}\n", launched.name).as_bytes());
    Ok(0)
}

/// `strata migrate recover NAME`.
fn recovered(args: &RecoverArgs) -> Result<u8> {
    let name = &args.name;
    let mut lives = false;
    if let Ok(mut client) = Client::connect(name) {
        match client.recover_migration(args.force, args.timeout) {
            // A process acts for it: what it waits for may go on.
            Ok(f) => {
                print(figures(&f).as_bytes());
                return Ok(0);
            }
            // It waits for nothing; but the other host may still wait for what the journal says.
            Err(e) if e.kind == Kind::NotFound => lives = true,
            Err(e) => return Err(e),
        }
    }
    let store = Store::open()?;
    if args.force {
        say(
            &"the other host is not asked: this is right only if nothing of the machine runs there, nor ever will",
        );
    }
    let patience = Duration::from_secs(args.timeout);
    let of = recover(&store, name, patience, args.force).map_err(|e| match e.kind {
        Kind::InUse if lives => Error::new(
            Kind::InUse,
            format!("The process of {name} acts for its migration, and speaks to the other host by itself."),
        ),
        _ => e,
    })?;
    let outcome = match of.outcome {
        Outcome::There => format!("{name} was started at the destination."),
        Outcome::Here => format!("{name} is this host's. Its memory is lost: `strata start {name}`."),
        Outcome::NotHere => format!("{name} never ran here, and never will: its source can go on."),
    };
    let written = strata_image::rfc3339(i64::try_from(of.time).unwrap_or(i64::MAX));
    print(format!("{outcome}\nThat is about the migration {} of {written}.\n", of.id).as_bytes());
    Ok(0)
}
