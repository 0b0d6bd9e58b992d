//! The VMM process, from its first line to its exit code.
//!
//! ```text
//!  greeted ─► launch request ─► name locked ─► assembled ─► socket bound ─► started ─► Ready
//!                   │                │             │             │             │
//!                   └────────────────┴─────────────┴─────────────┴─────────────┴──────► error, nothing left
//!  Ready ─► machine ends ─► threads joined ─► console drained ─► disks flushed ─► socket, name, instance freed
//!        ─► waiting clients told ─► exit code
//! ```
//! Invariants: whoever hears of the end finds name, disks, ports and instance free; of a VMM that was killed only
//! remains what `runtime.rs` and `instances.rs` sweep. SIGTERM, SIGINT and SIGHUP stop the machine as `strata stop`
//! does.

use crate::console::{Hub, HubConfig};
use crate::control::Assembled;
use crate::exit::{Error, ExitReport, Kind, Outcome, Result};
use crate::instances::{self, saved::NextRecord};
use crate::lost;
use crate::migrate::destination::{self, Arrived};
use crate::migrate::{Arrival, Listening};
use crate::protocol::{Message, PROTOCOL, Ready, Reply, method};
use crate::runtime::{NameLock, Runtime};
use crate::server::{Server, Stopper};
use crate::spec::{ConsoleSpec, VmmSpec};
use crate::wire::{Receiver, Sender, WireError, halves};
use rustix::io::{fcntl_dupfd_cloexec, read};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with, sockopt,
};
use serde_json::json;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long the launcher, or a console that must miss nothing, is waited for when the host stopped the machine. When
/// the guest ends it, they have all the time they want.
const LAST_OUTPUT: Duration = Duration::from_secs(5);

/// The whole life of a VMM process; for the hidden subcommand, which must call it before it opens anything.
#[must_use]
pub fn child_main() -> ExitCode {
    ExitCode::from(run_child(crate::assemble::assemble))
}

/// As [`child_main`], with another way to make a machine; gives the exit code. For tests.
pub fn run_child(assemble: impl FnOnce(&VmmSpec) -> Result<Assembled> + Send) -> u8 {
    let (sender, mut receiver) = match take_stdin() {
        Ok(socket) => halves(socket),
        Err(e) => {
            // Nobody is there to read it if this fails.
            let _ = writeln!(std::io::stderr(), "{e}");
            return e.kind.code();
        }
    };
    let (id, launch) = match greet(&sender, &mut receiver) {
        Ok(launch) => launch,
        // A launcher that is gone, or talks nonsense, hears nothing from us.
        Err(_) => return Kind::Protocol.code(),
    };
    let respond = |reply: Reply| sender.send(&Message::Response { id, reply, fds: 0 }, &[]);
    let (spec, lock) = match launch {
        Launch::Run(spec, lock) => (*spec, lock),
        Launch::Receive(ask) => {
            let say = |at: &Listening| {
                let note = json!(at).to_string();
                // A launcher that does not hear it is gone, which is seen while nothing has been offered yet.
                let _ = sender.send(&Message::Progress { id, note }, &[]);
            };
            return match arrive(&ask, &receiver, say) {
                Err(e) => {
                    let code = e.kind.code();
                    let _ = respond(Reply::Error(e));
                    code
                }
                Ok((vmm, spec, lock)) => {
                    let ready =
                        Ready { name: spec.name.clone(), pid: std::process::id(), notes: vmm.notes.clone() };
                    // It runs here, whether somebody hears that or not.
                    let _ = respond(Reply::Ok(json!(ready)));
                    vmm.live(&spec, sender, receiver, true, Some(lock))
                }
            };
        }
    };
    match prepare(&spec, assemble) {
        Err(e) => {
            let code = e.kind.code();
            // Whether it is heard or not, the code is the same.
            let _ = respond(Reply::Error(e));
            code
        }
        Ok(vmm) => {
            let ready = Ready { name: spec.name.clone(), pid: std::process::id(), notes: vmm.notes.clone() };
            // A launcher that is gone cannot know that the machine runs: then it does not.
            let heard = respond(Reply::Ok(json!(ready))).is_ok();
            vmm.live(&spec, sender, receiver, heard, lock)
        }
    }
}

/// Takes the launcher's connection from standard input.
fn take_stdin() -> Result<OwnedFd> {
    let not_for_people = || {
        let m =
            "This subcommand is how strata starts a machine's process; use `strata run` or `strata start`.";
        Error::new(Kind::Usage, m)
    };
    let stdin = rustix::stdio::stdin();
    if sockopt::socket_type(stdin) != Ok(SocketType::STREAM) {
        return Err(not_for_people());
    }
    crate::manners::tidy_at_once();
    crate::seal::apart().map_err(|e| Error::io("leave the session of its caller", e))?;
    let socket = fcntl_dupfd_cloexec(stdin, 3).map_err(|_| not_for_people())?;
    let null = File::open("/dev/null").map_err(|e| Error::io("open /dev/null", e))?;
    rustix::stdio::dup2_stdin(&null).map_err(|e| Error::io("give standard input up", e))?;
    Ok(socket)
}

/// What a launcher wants.
enum Launch {
    /// This machine, with its instance's lock.
    Run(Box<VmmSpec>, Option<OwnedFd>),
    /// A machine that comes from another host.
    Receive(Arrival),
}

fn greet(sender: &Sender, receiver: &mut Receiver) -> Result<(u64, Launch), WireError> {
    sender.send(&Message::hello(), &[])?;
    let (hello, _) = receiver.recv()?;
    let (request, fds) = receiver.recv()?;
    match (hello, request) {
        (Message::Hello { protocol: PROTOCOL, .. }, Message::Request { id, method, params, .. })
            if method == method::LAUNCH =>
        {
            Ok((id, Launch::Run(Box::new(serde_json::from_value(params)?), fds.into_iter().next())))
        }
        (Message::Hello { protocol: PROTOCOL, .. }, Message::Request { id, method, params, .. })
            if method == method::RECEIVE =>
        {
            Ok((id, Launch::Receive(serde_json::from_value(params)?)))
        }
        _ => Err(WireError::Closed),
    }
}

/// A file of ours that goes when we do.
struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        // Somebody may have removed it already.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// A machine that runs, with all that stands around it.
struct Vmm {
    server: Server,
    hub: Arc<Hub>,
    flush: Box<dyn FnOnce() -> Vec<String> + Send>,
    name: NameLock,
    console: Option<Removed>,
    notes: Vec<String>,
}

/// From the spec to a started machine. On error everything made here is undone.
fn prepare(spec: &VmmSpec, assemble: impl FnOnce(&VmmSpec) -> Result<Assembled> + Send) -> Result<Vmm> {
    spec.check()?;
    // From here on nothing that we execute could gain privileges; we execute nothing.
    let _ = rustix::thread::set_no_new_privs(true);
    let signals = catch_signals()?;
    let name = Runtime::open()?.lock(&spec.name)?;
    if !spec.foreground {
        let log = log_file(spec, &name)?;
        rustix::stdio::dup2_stderr(&log).map_err(|e| Error::io("write the log", e))?;
    }
    let (config, console) = console(spec)?;
    // What waits for the host's disk goes on beside the rest, as far as nothing is decided by it.
    let next = spec.instance_dir.as_deref().zip(spec.becomes.as_deref());
    let next = next.map(|(dir, record)| NextRecord::begin(dir, record)).transpose()?;
    let Assembled { machine, console: stream, settle_in, flush, over_file, mut notes } =
        on_a_stack_of_its_own(|| assemble(spec))?;
    let hub = Arc::new(Hub::start(stream, config)?);
    let server = Server::start(name.bind()?, spec.clone(), Arc::from(machine), hub.clone())?;
    stop_by(signals, &server)?;
    if !over_file.is_empty() {
        watch_over(&over_file, spec, server.stopper())?;
    }
    // Before what was saved loses its name. The list itself may come after the first instruction as well as before.
    let kept = instances::hot::open(spec.restore.iter().chain(&spec.instance_dir));
    notes.extend(settle_in()?);
    let used_up = next.is_some();
    if let Some(next) = next {
        // Before its first instruction: what it writes from now on does not fit what was saved.
        next.take_effect()?;
    }
    server
        .shared
        .machine
        .start()
        .map_err(|e| Error::new(Kind::Internal, format!("The machine does not start: {e}.")))?;
    if let Some(dir) = spec.instance_dir.as_deref().filter(|_| used_up) {
        // Memory that is mapped from the set lives on without its name.
        server.tidy(dir);
    }
    if !kept.is_empty() {
        let machine = server.shared.machine.clone();
        let warm = move || machine.warm(instances::hot::read(kept));
        // Without that thread the machine is a little slower at first.
        let _ = std::thread::Builder::new().name("warm".into()).spawn(warm);
    }
    Ok(Vmm { server, hub, flush, name, console, notes })
}

/// Lets termination signals stop the machine.
fn stop_by(signals: UnixStream, server: &Server) -> Result<()> {
    let stop = server.stopper();
    let thread = std::thread::Builder::new().name("signals".into()).spawn(move || {
        while let Ok(1) | Err(rustix::io::Errno::INTR) = read(&signals, &mut [0; 1]) {
            stop.stop("a termination signal");
        }
    });
    thread.map(|_| ()).map_err(|e| Error::io("start the thread for signals", e))
}

/// From nothing to a machine that has come from another host, and runs.
fn arrive(
    ask: &Arrival,
    launcher: &Receiver,
    say: impl FnOnce(&Listening),
) -> Result<(Vmm, VmmSpec, OwnedFd)> {
    let _ = rustix::thread::set_no_new_privs(true);
    let Arrived { spec, machine, name, lock, notes, pull } =
        destination::receive(ask, launcher.as_fd(), say)?;
    let Assembled { machine, console, settle_in: _, flush, over_file: _, notes: more } = machine;
    let log = log_file(&spec, &name)?;
    rustix::stdio::dup2_stderr(&log).map_err(|e| Error::io("write the log", e))?;
    let hub = Arc::new(Hub::start(console, HubConfig::default())?);
    let server = Server::start(name.bind()?, spec.clone(), Arc::from(machine), hub.clone())?;
    stop_by(catch_signals()?, &server)?;
    if let Some(pull) = pull {
        server.follow(pull);
    }
    let notes = notes.into_iter().chain(more).collect();
    Ok((Vmm { server, hub, flush, name, console: None, notes }, spec, lock))
}

/// Runs `make` on a thread that ends with it: what is laid out on the stack there, half a megabyte, is given back.
fn on_a_stack_of_its_own<R: Send>(make: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    std::thread::scope(|s| {
        let made = std::thread::Builder::new().name("assemble".into()).spawn_scoped(s, make);
        let made = made.map_err(|e| Error::io("start a thread to put the machine together", e))?;
        made.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Ends the machine should the file that its memory is mapped from be cut under it.
fn watch_over(memory: &[Range<usize>], spec: &VmmSpec, stop: Stopper) -> Result<()> {
    let bell = lost::watch(memory)?;
    let from = spec.first_touch.as_ref().or(spec.restore.as_ref());
    let file = from.map_or_else(String::new, |p| p.display().to_string());
    std::thread::Builder::new()
        .name("memory".into())
        .spawn(move || {
            while let Err(rustix::io::Errno::INTR) = read(&bell, &mut [0; 8]) {}
            stop.lost(&format!(
                "a part of its memory is gone: the memory file of the snapshot that it came from \
                 ({file}) was cut or cannot be read. It stood still at once; restore another snapshot, or start it anew."
            ));
        })
        .map_err(|e| Error::io("start the thread that watches over memory", e))?;
    Ok(())
}

fn catch_signals() -> Result<UnixStream> {
    let fail = |e| Error::io("watch for signals", e);
    let (ours, theirs) = UnixStream::pair().map_err(fail)?;
    for signal in [SIGTERM, SIGINT, SIGHUP] {
        let end = theirs.try_clone().map_err(fail)?;
        signal_hook::low_level::pipe::register(signal, end).map_err(fail)?;
    }
    Ok(ours)
}

/// A kept instance's log stays in its folder, to be read after a bad end; another's goes with its name.
fn log_file(spec: &VmmSpec, name: &NameLock) -> Result<OwnedFd> {
    match spec.instance_dir.as_ref().filter(|_| !spec.ephemeral) {
        Some(dir) => {
            let path = dir.join("vmm.log");
            let file =
                File::create(&path).map_err(|e| Error::io(format_args!("make {}", path.display()), e))?;
            Ok(file.into())
        }
        None => name.log(),
    }
}

fn console(spec: &VmmSpec) -> Result<(HubConfig, Option<Removed>)> {
    let mut config = HubConfig::default();
    let mut made = None;
    match &spec.console {
        ConsoleSpec::Hub => {}
        ConsoleSpec::Primary => config.primary = true,
        ConsoleSpec::File { path } => {
            let file = File::options().create(true).append(true).open(path);
            config.file = Some(file.map_err(|e| Error::io(format_args!("open {}", path.display()), e))?);
        }
        ConsoleSpec::Socket { path } => {
            let fail = |e| Error::io(format_args!("make the console socket {}", path.display()), e);
            let address = SocketAddrUnix::new(path).map_err(|_| {
                let m = format!(
                    "The console socket's path {} is too long: the host's kernel takes 107 bytes.",
                    path.display()
                );
                Error::new(Kind::Config, m)
            })?;
            let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(fail)?;
            // Bind refuses what stands there already, whatever it is.
            bind(&fd, &address).map_err(fail)?;
            made = Some(Removed(path.clone()));
            listen(&fd, 4).map_err(fail)?;
            config.listener = Some(fd);
        }
    }
    Ok((config, made))
}

impl Vmm {
    /// From the started machine to the exit code.
    fn live(
        self,
        spec: &VmmSpec,
        sender: Sender,
        receiver: Receiver,
        heard: bool,
        lock: Option<OwnedFd>,
    ) -> u8 {
        let Vmm { mut server, hub, flush, name, console, notes: _ } = self;
        if !heard {
            server.stop("the end of the process that started it");
        } else if spec.foreground {
            if let Err(e) = server.serve_owner(sender, receiver) {
                tracing::error!("{e}");
                server.stop("a shortage of threads on the host");
            }
        } else {
            drop((sender, receiver));
        }
        let machine = server.shared.machine.clone();
        let outcome = match machine.wait() {
            Outcome::Stopped { .. } if server.moved().is_some() => {
                Outcome::Migrated { to: server.moved().unwrap_or_default() }
            }
            Outcome::Stopped { .. } if server.suspended() => Outcome::Suspended { name: spec.name.clone() },
            Outcome::Stopped { .. } => {
                Outcome::Stopped { by: server.stopped_by().unwrap_or_else(|| "the host".into()) }
            }
            other => other,
        };
        server.needs_no_more();
        let moved = matches!(outcome, Outcome::Migrated { .. });
        if moved {
            // It runs elsewhere, maybe on this very host: what is to be cleared away here has no hurry.
            crate::manners::give_way();
        }
        // What a thread that stands still for good holds is never given back: nobody may wait for it.
        let lost = server.lost();
        if !lost {
            let stays = !moved && (!spec.ephemeral || server.suspended());
            if let Some(dir) = spec.instance_dir.as_ref().filter(|_| stays) {
                instances::hot::keep(dir, &machine.hot_paths());
            }
            machine.release();
        }
        let by_host = lost || moved || matches!(outcome, Outcome::Stopped { .. } | Outcome::Suspended { .. });
        hub.finish(by_host.then_some(LAST_OUTPUT));
        let mut problems = match lost {
            true => vec!["What was last written to its disks may be lost, as when a plug is pulled.".into()],
            false => flush(),
        };
        // From here on no one new finds us, and what we held is free.
        server.close();
        drop((console, name));
        let over = moved || spec.ephemeral && !server.suspended();
        if let Some(dir) = spec.instance_dir.as_ref().filter(|_| over)
            && let Err(e) = instances::remove_ended(dir)
        {
            problems.push(e.message);
        }
        drop(lock);
        let report = ExitReport { outcome, problems };
        if let Some(text) = report.message().filter(|_| !spec.foreground) {
            // The log may be on a full disk; the machine has ended all the same.
            let _ = writeln!(std::io::stderr(), "{text}");
        }
        let code = report.code();
        server.ended(report);
        code
    }
}
