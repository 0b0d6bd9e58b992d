//! The control server: accepts clients and serves each on a thread of its own.
//!
//! ```text
//!   socket ──► accept thread ──► connection thread (reads, answers what is quick)
//!                                   └──► job threads (pause, stop, wait, ...: answer when done, can be cancelled)
//! ```
//! Nothing here owns the machine: the VMM's main thread waits for its end, cleans up, and then calls
//! [`Server::ended`]; only then are those answered who wait, so that what the machine held is free when they hear of
//! its end. Bounds: [`MAX_CONNECTIONS`], [`MAX_JOBS`] a connection, frames as in `wire.rs`; a client that does not
//! read for [`SEND_LIMIT`] is disconnected.

mod connection;
mod migrating;
mod saving;

use crate::console::Hub;
use crate::control::MachineControl;
use crate::exit::{Error, ExitReport, Kind, Result};
use crate::instances::saved::tidy;
use crate::migrate::pulling::Pull;
use crate::protocol::{Message, Status, event};
use crate::spec::VmmSpec;
use crate::wire::{Receiver, Sender, halves};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{SocketFlags, accept_with};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use strata_snapshot::FlowRef;

pub(crate) use connection::Connection;
use saving::Bases;

/// Most clients at a time.
pub const MAX_CONNECTIONS: usize = 64;
/// Most requests under way on one connection.
pub const MAX_JOBS: usize = 16;
/// How long a client may leave its socket full.
pub const SEND_LIMIT: Duration = Duration::from_secs(10);
/// How long the last answers may take once the machine has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How long an owner that has not asked yet is waited for: a guest may end before its owner's first request.
const OWNER_PATIENCE: Duration = Duration::from_secs(10);
/// The same for others, who may have connected just before the end.
const LATE_PATIENCE: Duration = Duration::from_millis(250);

/// What all connections share.
pub(crate) struct Shared {
    spec: VmmSpec,
    pub(crate) machine: Arc<dyn MachineControl>,
    pub(crate) hub: Arc<Hub>,
    begun: Instant,
    since: u64,
    progress: Mutex<Progress>,
    /// Held by whoever makes the machine stand or go: a machine that is being saved must not be let go by another.
    turn: Mutex<()>,
    /// Held by whoever saves it, from before its turn until all is written: one at a time.
    saving: Mutex<Bases>,
    changed: Condvar,
    /// Memory that followed it here, or does.
    pull: OnceLock<Arc<Pull>>,
}

#[derive(Default)]
struct Progress {
    ended: Option<ExitReport>,
    stopped_by: Option<String>,
    /// It was saved, and ends for that.
    suspended: bool,
    /// When it was stopped last to be saved, in nanoseconds since 1970, and the connections that were open then.
    stood: Option<(u64, Vec<FlowRef>)>,
    /// Its memory is lost: it ends without its threads.
    lost: bool,
    migration: migrating::Migration,
    connections: Vec<Entry>,
    subscribers: Vec<(u64, Sender)>,
    next: u64,
    /// Requests under way on all connections.
    jobs: usize,
}

/// A connection, and whether its client has been told of the end.
struct Entry {
    id: u64,
    sender: Sender,
    owner: bool,
    told: bool,
}

impl Progress {
    /// How long after the end there is still somebody to wait for; `None` when all have heard.
    fn patience(&self) -> Option<Duration> {
        let busy = (self.jobs > 0).then_some(LAST_ANSWERS);
        let untold = self.connections.iter().filter(|c| !c.told);
        untold.map(|c| if c.owner { OWNER_PATIENCE } else { LATE_PATIENCE }).chain(busy).max()
    }

    fn tell(&mut self, id: u64) {
        self.connections.iter_mut().filter(|c| c.id == id).for_each(|c| c.told = true);
    }
}

/// A running server.
pub struct Server {
    pub(crate) shared: Arc<Shared>,
    bell: Arc<OwnedFd>,
    accepting: Option<JoinHandle<()>>,
}

/// Stops a server's machine.
pub struct Stopper(Arc<Shared>);

impl Stopper {
    /// Stops the machine; returns when it has ended.
    pub fn stop(&self, by: &str) {
        self.0.stop(by);
    }

    /// Ends the machine, whose memory is lost, without its threads.
    pub(crate) fn lost(&self, why: &str) {
        self.0.lock().lost = true;
        self.0.machine.abandon(why.to_owned());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn in_turn<R>(&self, f: impl FnOnce(&dyn MachineControl) -> R) -> R {
        let _turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        f(&*self.machine)
    }

    /// Asks for the machine's end; the first reason is the one reported.
    pub(crate) fn stop(&self, by: &str) {
        if let Err(e) = migrating::gone(self) {
            // It ends when that is over.
            return tracing::warn!("{by} is passed over: {}", e.message);
        }
        self.lock().stopped_by.get_or_insert_with(|| by.to_owned());
        self.machine.stop();
    }

    /// Waits until the machine has ended, or `cancelled`.
    fn wait(&self, cancelled: &AtomicBool) -> Result<ExitReport> {
        let mut p = self.lock();
        loop {
            if let Some(report) = &p.ended {
                return Ok(report.clone());
            }
            if cancelled.load(Ordering::Acquire) {
                return Err(Error::new(Kind::Cancelled, "The request was cancelled; the machine goes on."));
            }
            p = self.changed.wait(p).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Wakes those who wait, to look whether they have been cancelled.
    fn wake(&self) {
        // Taken and released, so that nobody is between looking and waiting.
        drop(self.lock());
        self.changed.notify_all();
    }

    fn status(&self) -> Status {
        Status {
            name: self.spec.name.clone(),
            phase: if migrating::gone(self).is_err() { "moving" } else { self.machine.phase() }.to_owned(),
            cpus: self.spec.cpus,
            memory: self.spec.memory,
            tier: self.machine.tier().to_owned(),
            deterministic: self.spec.deterministic,
            image: self.spec.image.clone(),
            pid: std::process::id(),
            since: self.since,
            uptime: self.begun.elapsed().as_secs(),
            began: self.machine.began().map(monotonic),
            told: self.machine.told().map(monotonic),
            net: self.spec.net.clone(),
            mac: self.spec.mac,
            resets: self.machine.resets() as u64,
            console: self.spec.console.clone(),
            console_clients: self.hub.clients(),
            foreground: self.spec.foreground,
            ephemeral: self.spec.ephemeral,
            exit: self.lock().ended.clone(),
        }
    }

    fn publish(&self, name: &str, data: Value) {
        let to: Vec<(u64, Sender)> = self.lock().subscribers.clone();
        for (id, sender) in to {
            let message = Message::Event { event: name.to_owned(), data: data.clone() };
            if sender.send(&message, &[]).is_err() {
                // Too slow, or gone: its connection ends, and with it what it had asked for.
                sender.shutdown();
                self.lock().subscribers.retain(|(i, _)| *i != id);
            } else if name == event::ENDED {
                self.lock().tell(id);
            }
        }
    }

    fn publish_phase(&self) {
        self.publish(event::PHASE, json!({ "phase": self.machine.phase() }));
    }

    fn enter(&self, sender: &Sender, owner: bool) -> Option<u64> {
        let mut p = self.lock();
        if p.connections.len() >= MAX_CONNECTIONS {
            return None;
        }
        p.next = p.next.wrapping_add(1);
        let id = p.next;
        p.connections.push(Entry { id, sender: sender.clone(), owner, told: false });
        Some(id)
    }

    /// A request has been answered; with `told`, it told this connection's client of the end.
    fn job_done(&self, id: u64, told: bool) {
        let mut p = self.lock();
        p.jobs = p.jobs.saturating_sub(1);
        if told {
            p.tell(id);
        }
        drop(p);
        self.changed.notify_all();
    }

    fn leave(&self, id: u64) {
        let mut p = self.lock();
        p.connections.retain(|c| c.id != id);
        p.subscribers.retain(|(i, _)| *i != id);
        drop(p);
        self.changed.notify_all();
    }
}

impl Server {
    /// Starts serving on a bound socket.
    ///
    /// # Errors
    /// The host gives no thread or descriptor.
    pub fn start(
        listener: OwnedFd,
        spec: VmmSpec,
        machine: Arc<dyn MachineControl>,
        hub: Arc<Hub>,
    ) -> Result<Server> {
        let bases = Bases::new(machine.restored_from());
        let shared = Arc::new(Shared {
            spec,
            machine,
            hub,
            begun: Instant::now(),
            since: crate::now(),
            progress: Mutex::default(),
            turn: Mutex::default(),
            saving: Mutex::new(bases),
            changed: Condvar::new(),
            pull: OnceLock::new(),
        });
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = Arc::new(bell.map_err(|e| Error::io("make an event descriptor", e))?);
        let (for_thread, ring) = (shared.clone(), bell.clone());
        let accepting = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&listener, &ring, &for_thread))
            .map_err(|e| Error::io("start the control thread", e))?;
        Ok(Server { shared, bell, accepting: Some(accepting) })
    }

    /// Serves the client that launched the machine, which has been greeted. The end of its connection stops the
    /// machine.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn serve_owner(&self, sender: Sender, receiver: Receiver) -> Result<()> {
        serve(sender, receiver, &self.shared, true)
    }

    /// Follows memory that comes late, until it has come; if it never will, the machine ends.
    pub(crate) fn follow(&self, pull: Arc<Pull>) {
        let (shared, stopper) = (self.shared.clone(), self.stopper());
        let _ = shared.pull.set(pull.clone());
        let watch = move || pull.watch(|change| shared.figure(|f| change(f)), |why| stopper.lost(why));
        if let Err(e) = std::thread::Builder::new().name("pulling".into()).spawn(watch) {
            tracing::warn!("how far memory has come is not shown: {e}");
        }
    }

    /// The machine has ended: whoever keeps memory for it is told that it is of no use any more.
    pub(crate) fn needs_no_more(&self) {
        if let Some(pull) = self.shared.pull.get() {
            pull.end(LAST_ANSWERS);
        }
    }

    /// Removes what a moment that is over has left in the instance's folder, while nobody saves the machine there.
    pub(crate) fn tidy(&self, dir: &Path) {
        let _alone = self.shared.saving.lock().unwrap_or_else(|e| e.into_inner());
        tidy(dir);
    }

    /// Stops the machine; returns when it has ended.
    pub fn stop(&self, by: &str) {
        self.shared.stop(by);
    }

    /// A handle that stops the machine from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper(self.shared.clone())
    }

    /// Whether it was saved before it ended.
    pub fn suspended(&self) -> bool {
        self.shared.lock().suspended
    }

    /// Where it has moved to, if it has.
    pub(crate) fn moved(&self) -> Option<String> {
        self.shared.lock().migration.moved.clone()
    }

    /// Whether its memory was lost.
    pub(crate) fn lost(&self) -> bool {
        self.shared.lock().lost
    }

    /// By whom it was stopped, if it was.
    pub fn stopped_by(&self) -> Option<String> {
        self.shared.lock().stopped_by.clone()
    }

    /// Accepts no more clients, and gives the socket up.
    pub fn close(&mut self) {
        // A full counter means that it is awake already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        if let Some(t) = self.accepting.take() {
            // A panic there has been reported, and has closed the socket.
            let _ = t.join();
        }
    }

    /// Tells everybody how the machine ended, and ends all connections once they have been answered.
    pub fn ended(mut self, report: ExitReport) {
        self.close();
        self.shared.lock().ended = Some(report.clone());
        self.shared.publish(event::ENDED, json!(report));
        self.shared.changed.notify_all();
        let now = Instant::now();
        let mut p = self.shared.lock();
        while let Some(patience) = p.patience() {
            let Some(left) = patience.checked_sub(now.elapsed()) else { break };
            p = self.shared.changed.wait_timeout(p, left).map_or_else(|e| e.into_inner().0, |(p, _)| p);
        }
        for c in p.connections.drain(..) {
            c.sender.shutdown();
        }
    }
}

/// A moment as nanoseconds of the host's monotonic clock, which all its processes share.
fn monotonic(moment: Instant) -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let now = u64::try_from(now.tv_sec * 1_000_000_000 + now.tv_nsec).unwrap_or(0);
    now.saturating_sub(u64::try_from(moment.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

fn accept(listener: &OwnedFd, bell: &OwnedFd, shared: &Arc<Shared>) {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(bell.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
        ];
        // An interrupted wait is an early one.
        let _ = poll(&mut fds, None);
        if !fds[0].revents().is_empty() {
            return;
        }
        if fds[1].revents().is_empty() {
            continue;
        }
        let served = accept_with(listener, SocketFlags::CLOEXEC)
            .map_err(|e| Error::io("accept a control client", e))
            .and_then(|fd| {
                let (sender, receiver) = halves(fd);
                serve(sender, receiver, shared, false)
            });
        if let Err(e) = served {
            tracing::warn!("{e}");
            // Out of descriptors or threads: the client is still waiting, so do not spin.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn serve(sender: Sender, receiver: Receiver, shared: &Arc<Shared>, owner: bool) -> Result<()> {
    let limited = set_socket_timeout(&receiver, Timeout::Send, Some(SEND_LIMIT));
    limited.map_err(|e| Error::io("set a time limit for a client", e))?;
    let Some(id) = shared.enter(&sender, owner) else {
        // Over the limit: closed without a word, as a full backlog would be.
        return Ok(());
    };
    let connection = Connection::new(id, sender, shared.clone(), owner);
    let spawned = std::thread::Builder::new().name("client".into()).spawn(move || connection.run(receiver));
    if let Err(e) = spawned {
        shared.leave(id);
        return Err(Error::io("start a client's thread", e));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
