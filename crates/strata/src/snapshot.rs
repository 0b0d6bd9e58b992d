//! Commands on snapshots, and clones.

use crate::args::{CloneArgs, CopyNetArgs, Net, RestoreArgs, SnapshotCommand};
use crate::manage::{duration, size};
use crate::start::{begin_process, go_on};
use crate::{print, progress};
use std::fmt::Write;
use std::time::{Duration, Instant};
use strata_vmm::{Client, Error, Instance, Kind, NetSpec, Result, Store};

/// `strata snapshot …`.
pub fn snapshot(command: SnapshotCommand) -> Result<u8> {
    let store = Store::open()?;
    match command {
        SnapshotCommand::Create(a) => {
            running(&store, &a.name)?.snapshot(&a.tag, false)?;
        }
        SnapshotCommand::List(a) => list(&store, &a.name)?,
        SnapshotCommand::Tree(a) => tree(&store, &a.name)?,
        SnapshotCommand::Restore(a) => return restore(&store, &a),
        SnapshotCommand::Delete(a) => store.delete_snapshot(&a.name, &a.tag)?,
        SnapshotCommand::Verify(a) => drop(store.verify(&a.name, &a.tag, true)?),
        SnapshotCommand::Export(a) => progress::bytes("writing the snapshot", |on| {
            store.export(&a.which.name, &a.which.tag, &a.file, on)
        })?,
        SnapshotCommand::Import(a) => {
            let net = net(a.net)?;
            let (name, tag) = progress::bytes("reading the snapshot", |on| {
                store.import(&a.file, a.name.as_deref(), net, on)
            })?;
            print(format!("{name}@{tag}\n").as_bytes());
        }
    }
    Ok(0)
}

/// A running machine's client.
fn running(store: &Store, name: &str) -> Result<Client> {
    let record = store.read(name)?;
    Client::connect(name).map_err(|e| match e.kind {
        Kind::NotFound => {
            let verb = if record.suspended.is_some() { "resume" } else { "start" };
            let m = format!("{name} does not run, and only a running machine has a moment to keep: `strata {verb} {name}`.");
            Error::new(Kind::Refused, m)
        }
        _ => e,
    })
}

fn list(store: &Store, name: &str) -> Result<()> {
    let mut out = format!("{:20}  {:>10}  {:>8}  CREATED\n", "TAG", "MEMORY", "CPUS");
    for (tag, manifest) in store.snapshots(name)? {
        let _ = match manifest {
            Ok(m) => writeln!(
                out,
                "{tag:20}  {:>10}  {:>8}  {}",
                size(m.machine.memory),
                m.machine.cpus,
                age(m.created)
            ),
            Err(e) => writeln!(out, "{tag:20}  damaged: {e}"),
        };
    }
    print(out.as_bytes());
    Ok(())
}

fn age(created: u64) -> String {
    format!("{} ago", duration(strata_vmm::now().saturating_sub(created)))
}

fn tree(store: &Store, name: &str) -> Result<()> {
    let at = store.read(name)?.at;
    let all: Vec<_> =
        store.snapshots(name)?.into_iter().filter_map(|(tag, m)| Some((tag, m.ok()?))).collect();
    let nodes: Vec<Node> =
        all.iter().map(|(tag, m)| (tag.as_str(), m.id.as_str(), m.parent.as_deref())).collect();
    let mut out = String::new();
    // One whose parent was deleted is a root now.
    let is_root = |p: Option<&str>| p.is_none_or(|p| !nodes.iter().any(|(_, id, _)| *id == p));
    for node in nodes.iter().filter(|n| is_root(n.2)) {
        branch(&nodes, node, at.as_deref(), 0, &mut out);
    }
    print(out.as_bytes());
    Ok(())
}

/// Tag, id, and parent's id.
type Node<'a> = (&'a str, &'a str, Option<&'a str>);

fn branch(nodes: &[Node<'_>], node: &Node<'_>, at: Option<&str>, depth: usize, out: &mut String) {
    let mark = if at == Some(node.1) { "  (the machine comes from here)" } else { "" };
    let _ = writeln!(out, "{}{}{mark}", "  ".repeat(depth), node.0);
    // Ids are fresh and parents older, so there is no ring; a forged one ends here.
    if depth < nodes.len() {
        nodes.iter().filter(|n| n.2 == Some(node.1)).for_each(|n| branch(nodes, n, at, depth + 1, out));
    }
}

fn restore(store: &Store, args: &RestoreArgs) -> Result<u8> {
    let (name, tag) = (&args.which.name, &args.which.tag);
    let process = begin_process(false)?;
    // Checked before anything is given up for it.
    store.verify(name, tag, args.verify)?;
    let mut instance = match Client::connect(name) {
        Ok(client) => ended(store, client, name)?,
        Err(e) if e.kind == Kind::NotFound => store.take(name)?,
        Err(e) => return Err(e),
    };
    instance.go_back(tag)?;
    go_on(instance, process, args.goes_on)
}

/// How long another command needs to notice that the machine which it was about to start is gone.
const NOTICED: Duration = Duration::from_secs(5);

/// The instance, after its machine was stopped. That may have been starting: whoever started it then ends its process and
/// gives the instance up, in some order.
fn ended(store: &Store, mut client: Client, name: &str) -> Result<Instance> {
    let stopped = client.stop(&mut |_| {});
    let until = Instant::now() + NOTICED;
    loop {
        match (store.take(name), &stopped) {
            (Err(e), _) if e.kind == Kind::InUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(20));
            }
            (Err(e), Ok(_)) => return Err(e),
            (Err(e), Err(_)) => return Err(stopped.err().unwrap_or(e)),
            (Ok(instance), _) => return Ok(instance),
        }
    }
}

/// What network was asked for a copy.
pub fn net(args: CopyNetArgs) -> Result<Option<NetSpec>> {
    Ok(match args.net {
        Some(Net::Tap(_) | Net::None) if !args.forward.is_empty() => {
            let m = "--forward passes ports through user-mode networking; use it with --net user.";
            return Err(Error::new(Kind::Usage, m));
        }
        Some(Net::Tap(name)) => Some(NetSpec::Tap { name }),
        Some(Net::None) => Some(NetSpec::None),
        Some(Net::User) => Some(NetSpec::User { forwards: args.forward }),
        None if !args.forward.is_empty() => Some(NetSpec::User { forwards: args.forward }),
        None => None,
    })
}

/// `strata clone NAME[@TAG] NEW`.
pub fn clone(args: CloneArgs) -> Result<u8> {
    let net = net(args.net)?;
    let (process, store) = (begin_process(false)?, Store::open()?);
    if let Some((name, tag)) = args.source.split_once('@') {
        return go_on(store.clone_from(name, tag, &args.new, net)?, process, args.goes_on);
    }
    // This moment: a snapshot that is gone when the clone has its own names for what is in it.
    let (name, tag) = (&args.source, format!("for-{}", args.new));
    running(&store, name)?.snapshot(&tag, true)?;
    let made = store.clone_from(name, &tag, &args.new, net);
    let removed = store.delete_snapshot(name, &tag);
    let code = go_on(made?, process, args.goes_on)?;
    removed.map(|()| code)
}
