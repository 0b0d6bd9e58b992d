//! Starting a VMM: a process of its own, from the same binary.
//!
//! ```text
//!  launcher                                   VMM (same binary, hidden subcommand)
//!  ────────                                   ───
//!  spawn ───────────────────────────────────► setsid, closes all but its standard input, the control connection
//!  hello, launch(spec, [instance lock]) ────► opens, builds, binds its socket, starts the machine
//!  Ready{pid} or an error with its kind ◄──── then serves this connection as its owner's (foreground),
//!                                             or closes it (detached)
//! ```
//! The one connection is spec, report, lifeline and control at once: in the foreground its end stops the machine, so
//! that no machine outlives the process that shows its console. A VMM leads a session of its own either way: what the
//! terminal sends to its foreground group (an interrupt, a hang-up) reaches the launcher only.
//!
//! A detached VMM has `/dev/null` as standard input and output and its log file as standard error; no VMM keeps
//! anything else that it inherits.

use crate::client::Client;
use crate::exit::{Error, ExitReport, Kind, Result};
use crate::migrate::{Arrival, Listening};
use crate::protocol::{Ready, method};
use crate::spec::VmmSpec;
use serde_json::json;
use std::ffi::OsString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

/// The hidden subcommand; the binary then calls [`child_main`](crate::child_main) at once.
pub const SUBCOMMAND: &str = "vmm";

/// For the GNU allocator, unless somebody else has said something. One pool for all threads: by itself it gives each of
/// them one, and each keeps pages; what they do all the time allocates nothing. And large pieces are always the kernel's own:
/// those are zero without being touched, and go back at once.
const ALLOCATOR: [(&str, &str); 2] = [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "65536")];

/// How VMM processes are started.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The program; by default our own.
    pub program: PathBuf,
    /// Its arguments; by default [`SUBCOMMAND`].
    pub args: Vec<OsString>,
    /// Added to its environment.
    pub env: Vec<(OsString, OsString)>,
}

impl Default for Launcher {
    fn default() -> Self {
        // The link leads to the running program even if its file has been replaced.
        Launcher { program: "/proc/self/exe".into(), args: vec![SUBCOMMAND.into()], env: Vec::new() }
    }
}

/// A VMM that runs its machine.
#[derive(Debug)]
pub struct Launched {
    /// The owner's connection. In the foreground: dropping it stops the machine.
    pub client: Client,
    /// The machine's name.
    pub name: String,
    /// The VMM's process.
    pub pid: u32,
    /// What a person should know, a sentence each.
    pub notes: Vec<String>,
    child: Child,
}

/// A VMM's process that begins, and does not know yet what it is to run. When this is dropped it ends: nobody is there to
/// talk to.
#[derive(Debug)]
pub struct Spawned {
    socket: OwnedFd,
    child: Child,
    foreground: bool,
}

/// Starts a VMM from our own binary and waits until its machine runs. `lock` is the instance's.
///
/// # Errors
/// The VMM's own error, with its kind and paragraph; `Died` if it ended without one. Nothing is left behind but the
/// instance, which is the caller's.
pub fn launch(spec: &VmmSpec, lock: Option<BorrowedFd<'_>>) -> Result<Launched> {
    Launcher::default().launch(spec, lock)
}

/// Starts a VMM that receives a machine from another host, and waits until that runs here; `say` hears where it listens.
/// Once something was offered, it goes on without us.
///
/// # Errors
/// The VMM's own error; `Died` if it ended without one.
pub fn receive(ask: &Arrival, say: impl FnOnce(&Listening)) -> Result<Launched> {
    let launcher = Launcher::default();
    let mut say = Some(say);
    launcher.spawn(false)?.told(&ask.listen, |socket| {
        let mut client = Client::over(socket, "that is to come")?;
        let value = client.receive(ask, &mut |note| {
            if let (Ok(at), Some(say)) = (serde_json::from_str(note), say.take()) {
                say(&at);
            }
        })?;
        Ok((client, ready(value)?))
    })
}

impl Launcher {
    /// As [`launch`], with this program.
    ///
    /// # Errors
    /// As [`launch`].
    pub fn launch(&self, spec: &VmmSpec, lock: Option<BorrowedFd<'_>>) -> Result<Launched> {
        // Before there is a process that would have to end again.
        let spec = &spec.absolute()?;
        spec.check()?;
        self.spawn(spec.foreground)?.launch(spec, lock)
    }

    /// Starts the process alone, for who has to find out yet what it is to run, and has no time to lose.
    ///
    /// # Errors
    /// What the host answers.
    pub fn spawn(&self, foreground: bool) -> Result<Spawned> {
        let (ours, theirs) = crate::console::stream_pair()?;
        let mut command = Command::new(&self.program);
        command.arg0("strata").args(&self.args).envs(self.env.iter().map(|(k, v)| (k, v)));
        // The machine must not hold the folder where its caller happened to stand.
        command.current_dir("/");
        command.stdin(Stdio::from(theirs)).stdout(Stdio::null());
        command.stderr(if foreground { Stdio::inherit() } else { Stdio::null() });
        for (name, value) in ALLOCATOR.iter().filter(|(name, _)| std::env::var_os(name).is_none()) {
            command.env(name, value);
        }
        let spawned = command.spawn().map_err(|e| Error::io("start a process for the machine", e));
        // With the command goes our copy of the child's end: it must be the only one, or its death is not seen.
        drop(command);
        Ok(Spawned { socket: ours, child: spawned?, foreground })
    }
}

impl Spawned {
    /// Tells it what to run, and waits until its machine does; see [`launch`].
    ///
    /// # Errors
    /// As [`launch`].
    pub fn launch(self, spec: &VmmSpec, lock: Option<BorrowedFd<'_>>) -> Result<Launched> {
        let spec = &VmmSpec { foreground: self.foreground, ..spec.absolute()? };
        spec.check()?;
        self.told(&spec.name, |socket| talk(socket, spec, lock))
    }

    /// Has `talk` tell it what to do.
    fn told(self, name: &str, talk: impl FnOnce(OwnedFd) -> Result<(Client, Ready)>) -> Result<Launched> {
        let Spawned { socket, mut child, foreground: _ } = self;
        match talk(socket) {
            Ok((client, ready)) => {
                Ok(Launched { client, name: ready.name, pid: ready.pid, notes: ready.notes, child })
            }
            Err(e) => {
                let status = child.wait().ok();
                Err(if e.kind == Kind::Died { died(name, status) } else { e })
            }
        }
    }
}

fn talk(socket: OwnedFd, spec: &VmmSpec, lock: Option<BorrowedFd<'_>>) -> Result<(Client, Ready)> {
    let mut client = Client::over(socket, &spec.name)?;
    let fds: Vec<BorrowedFd<'_>> = lock.into_iter().collect();
    let (value, _) = client.call(method::LAUNCH, json!(spec), &fds)?;
    Ok((client, ready(value)?))
}

fn ready(value: serde_json::Value) -> Result<Ready> {
    serde_json::from_value(value).map_err(|e| {
        Error::new(Kind::Protocol, format!("The new machine's process gave a wrong answer: {e}."))
    })
}

fn died(name: &str, status: Option<ExitStatus>) -> Error {
    let how = match status {
        Some(s) if s.signal().is_some() => format!("was killed by signal {}", s.signal().unwrap_or_default()),
        Some(s) => format!("ended with code {} without a last word", s.code().unwrap_or_default()),
        None => "is gone".to_owned(),
    };
    let m = format!("The process of machine {name} {how}; if the host was short of memory, `dmesg` says so.");
    Error::new(Kind::Died, m)
}

impl Launched {
    /// Stops the machine, and waits until its process is gone. There is nobody left to [`wait`](Self::wait) for then.
    ///
    /// # Errors
    /// `Died` if the process was killed.
    pub fn stop(&mut self) -> Result<ExitReport> {
        let report = self.client.stop(&mut |_| {});
        self.reap(report)
    }

    /// Waits until the machine has ended and its process is gone.
    ///
    /// # Errors
    /// `Died` if the process was killed.
    pub fn wait(&mut self) -> Result<ExitReport> {
        let report = self.client.wait();
        if report.as_ref().is_err_and(|e| e.kind == Kind::Cancelled) {
            return report;
        }
        self.reap(report)
    }

    fn reap(&mut self, report: Result<ExitReport>) -> Result<ExitReport> {
        // It ends once we have let go of the connection, or by itself shortly after its report.
        let status = self.child.wait().ok();
        match report {
            Err(e) if e.kind == Kind::Died => Err(died(&self.name, status)),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
