//! The console hub: between the machine's serial line and whoever looks at it.
//!
//! ```text
//!   machine ◄──socket──► hub thread ──► primary client (0 or 1)   every byte; the guest waits for it
//!                            │    ├───► file                      every byte
//!                            │    └───► other clients             what they have time for; never hold the guest
//!                            └─ last screenful, for clients that attach
//! ```
//! Input of all clients goes to the machine in the order in which it comes; the hub takes only as much as the
//! machine has room for, so that a script may send a whole file at once. End of a client's input ends only that.
//!
//! Invariants: bytes reach every client in the guest's order; a lossless reader misses none, from power-on; a client
//! that does not read costs at most its queue (`sink.rs`) and holds nobody else; the thread ends when the machine
//! has closed its end and all readers have what they should, or the time limit of [`Hub::finish`] is over.

mod hub;
mod sink;

use crate::{Error, Kind, Result};
use hub::{Command, Running};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most clients at a time: each may cost its queue.
pub const MAX_CLIENTS: usize = 32;

/// What the hub serves from the start.
#[derive(Debug, Default)]
pub struct HubConfig {
    /// A primary client will attach: what comes before is kept for it.
    pub primary: bool,
    /// A file that gets all output.
    pub file: Option<File>,
    /// A listening socket whose connections are clients.
    pub listener: Option<OwnedFd>,
}

/// A running hub.
#[derive(Debug)]
pub struct Hub {
    commands: Mutex<Sender<Command>>,
    bell: Arc<OwnedFd>,
    next: AtomicU64,
    clients: Arc<AtomicUsize>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// A client's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientId(u64);

/// A connected pair of stream sockets, close-on-exec.
///
/// # Errors
/// The host has no descriptor left.
pub fn stream_pair() -> Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::io("make a socket pair", e))
}

impl Hub {
    /// Starts the hub on its end of the machine's console.
    ///
    /// # Errors
    /// The host gives no thread or descriptor.
    pub fn start(machine: OwnedFd, config: HubConfig) -> Result<Hub> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = Arc::new(bell.map_err(|e| Error::io("make an event descriptor", e))?);
        let (commands, inbox) = channel();
        let clients = Arc::new(AtomicUsize::new(0));
        let running = Running::new(machine, config, inbox, bell.clone(), clients.clone())?;
        let thread = std::thread::Builder::new()
            .name("console".into())
            .spawn(move || running.run())
            .map_err(|e| Error::io("start the console's thread", e))?;
        let (commands, thread) = (Mutex::new(commands), Mutex::new(Some(thread)));
        Ok(Hub { commands, bell, next: AtomicU64::new(0), clients, thread })
    }

    fn tell(&self, command: Command) -> bool {
        let sent = self.commands.lock().unwrap_or_else(|e| e.into_inner()).send(command).is_ok();
        // A full counter means that the hub is awake already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        sent
    }

    /// Attaches a client; gives its end of a stream socket.
    ///
    /// # Errors
    /// `InUse` if there are too many or the primary's place is taken; `Refused` if the machine has ended.
    pub fn attach(&self, primary: bool) -> Result<(ClientId, OwnedFd)> {
        let (ours, theirs) = stream_pair()?;
        let id = ClientId(self.next.fetch_add(1, Ordering::Relaxed));
        let (reply, answer) = channel();
        let ended = || Error::new(Kind::Refused, "The machine has ended; its console is closed.");
        if !self.tell(Command::Attach { id, stream: ours, primary, reply }) {
            return Err(ended());
        }
        answer.recv().map_err(|_| ended())??;
        Ok((id, theirs))
    }

    /// Detaches a client, if it is still there.
    pub fn detach(&self, id: ClientId) {
        self.tell(Command::Detach(id));
    }

    /// No primary client will come any more: what is kept for it is dropped. Without effect once it has attached.
    pub fn no_primary(&self) {
        self.tell(Command::NoPrimary);
    }

    /// Clients attached now.
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Waits until all readers have the output of a machine that is gone: lossless ones, and a primary that has yet
    /// to attach, for as long as `patience` says (for ever if `None`), others for a second.
    pub fn finish(&self, patience: Option<Duration>) {
        self.tell(Command::Finish { lossless_until: patience.map(|p| Instant::now() + p) });
        if let Some(thread) = self.thread.lock().unwrap_or_else(|e| e.into_inner()).take() {
            // A panic there has been reported; the machine is gone anyway.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
