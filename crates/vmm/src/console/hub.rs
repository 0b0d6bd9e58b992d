//! The hub's thread: one poll loop over the machine, the clients and the commands.

use super::sink::{History, LOSSLESS_LIMIT, Sink};
use super::{ClientId, HubConfig, MAX_CLIENTS};
use crate::{Error, Kind, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio, read, write};
use rustix::net::{SocketFlags, accept_with};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

/// Input that waits for the machine, in bytes; no more is taken from clients until it goes on.
const INPUT_LIMIT: usize = 4 << 10;
const CHUNK: usize = 16 << 10;
/// How long others than lossless readers get for the last output.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

/// What the hub is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    Attach { id: ClientId, stream: OwnedFd, primary: bool, reply: Sender<Result<()>> },
    Detach(ClientId),
    NoPrimary,
    Finish { lossless_until: Option<Instant> },
}

/// One reader, who may also type.
#[derive(Debug)]
struct Client {
    /// `None` for the file, and for connections to the console's own socket: nobody detaches those.
    id: Option<ClientId>,
    fd: OwnedFd,
    sink: Sink,
    typing: bool,
    gone: bool,
}

/// The hub's state, owned by its thread.
pub(super) struct Running {
    machine: Option<OwnedFd>,
    input: VecDeque<u8>,
    history: History,
    clients: Vec<Client>,
    /// Output kept for the primary until it attaches.
    awaited: Option<Sink>,
    listener: Option<OwnedFd>,
    inbox: Receiver<Command>,
    bell: Arc<OwnedFd>,
    count: Arc<AtomicUsize>,
    /// Set once the end has been asked for: until when lossless readers, and others, are waited for.
    finish: Option<(Option<Instant>, Instant)>,
}

/// What a poll was about.
#[derive(Clone, Copy)]
enum Who {
    Bell,
    Machine,
    Listener,
    Client(usize),
}

impl Running {
    pub(super) fn new(
        machine: OwnedFd,
        config: HubConfig,
        inbox: Receiver<Command>,
        bell: Arc<OwnedFd>,
        count: Arc<AtomicUsize>,
    ) -> Result<Running> {
        for fd in [Some(&machine), config.listener.as_ref()].into_iter().flatten() {
            ioctl_fionbio(fd, true).map_err(|e| Error::io("set up the console", e))?;
        }
        let file = config.file.map(|f| Client {
            id: None,
            fd: f.into(),
            sink: Sink::new(true),
            typing: false,
            gone: false,
        });
        Ok(Running {
            machine: Some(machine),
            input: VecDeque::new(),
            history: History::default(),
            clients: file.into_iter().collect(),
            awaited: config.primary.then(|| Sink::new(true)),
            listener: config.listener,
            inbox,
            bell,
            count,
            finish: None,
        })
    }

    pub(super) fn run(mut self) {
        while !self.over() {
            for (who, got) in self.wait() {
                match who {
                    Who::Bell => self.commands(),
                    Who::Machine => self.machine_ready(got),
                    Who::Listener => self.accept(),
                    Who::Client(i) => self.client_ready(i, got),
                }
            }
            self.clients.retain(|c| !c.gone);
            self.recount();
        }
    }

    fn recount(&self) {
        let people = self.clients.iter().filter(|c| !c.gone && (c.typing || c.id.is_some())).count();
        self.count.store(people, Ordering::Relaxed);
    }

    /// Whether everybody has what they should, or their time is over.
    fn over(&mut self) -> bool {
        let Some((lossless, others)) = self.finish else { return false };
        let now = Instant::now();
        let late = |c: &Client| match c.sink.room() {
            Some(_) => lossless.is_some_and(|t| now >= t),
            None => now >= others,
        };
        // Somebody holds the machine's end open (it cannot be the machine): do not wait for ever.
        let silent = self.machine.is_none() || lossless.unwrap_or(others) <= now;
        // A guest may be over before its primary client has come.
        let come = self.awaited.is_none() || lossless.is_some_and(|t| now >= t);
        silent && come && self.clients.iter().all(|c| c.sink.is_empty() || late(c))
    }

    /// How much output may be taken from the machine now.
    fn room(&self) -> usize {
        let sinks = self.clients.iter().map(|c| &c.sink).chain(&self.awaited);
        sinks.filter_map(Sink::room).min().unwrap_or(LOSSLESS_LIMIT)
    }

    fn wait(&self) -> Vec<(Who, PollFlags)> {
        let mut who = vec![Who::Bell];
        let mut fds = vec![PollFd::from_borrowed_fd(self.bell.as_fd(), PollFlags::IN)];
        if let Some(m) = &self.machine {
            let mut want = PollFlags::empty();
            want.set(PollFlags::IN, self.room() > 0);
            want.set(PollFlags::OUT, !self.input.is_empty());
            // With nothing wanted it would still report a hang-up, again and again.
            if !want.is_empty() {
                who.push(Who::Machine);
                fds.push(PollFd::from_borrowed_fd(m.as_fd(), want));
            }
        }
        if let Some(l) = self.listener.as_ref().filter(|_| self.clients.len() < MAX_CLIENTS) {
            who.push(Who::Listener);
            fds.push(PollFd::from_borrowed_fd(l.as_fd(), PollFlags::IN));
        }
        for (i, c) in self.clients.iter().enumerate() {
            let mut want = PollFlags::empty();
            want.set(PollFlags::IN, c.typing && self.input.len() < INPUT_LIMIT);
            want.set(PollFlags::OUT, !c.sink.is_empty());
            // One that types, and has to wait, may hang up meanwhile: what it typed is still to be read first.
            if !want.is_empty() || !c.typing {
                who.push(Who::Client(i));
                fds.push(PollFd::from_borrowed_fd(c.fd.as_fd(), want));
            }
        }
        let limit = self.finish.map(|_| Timespec { tv_sec: 0, tv_nsec: 50_000_000 });
        // An interrupted wait is an early one.
        let _ = poll(&mut fds, limit.as_ref());
        who.into_iter().zip(fds.iter().map(PollFd::revents)).filter(|(_, got)| !got.is_empty()).collect()
    }

    fn commands(&mut self) {
        let _ = read(&self.bell, &mut [0u8; 8]);
        while let Ok(command) = self.inbox.try_recv() {
            match command {
                Command::Attach { id, stream, primary, reply } => {
                    let done = self.attach(Some(id), stream, primary);
                    // Whoever asked may be gone; then its end of the stream is closed, and ours follows.
                    let _ = reply.send(done);
                }
                // Removed at the end of the turn: until then the poll's numbers stand.
                Command::Detach(id) => {
                    self.clients.iter_mut().filter(|c| c.id == Some(id)).for_each(|c| {
                        c.gone = true;
                        c.sink = Sink::new(false);
                    });
                }
                Command::NoPrimary => self.awaited = None,
                Command::Finish { lossless_until } => {
                    self.finish = Some((lossless_until, Instant::now() + LAST_OUTPUT));
                }
            }
        }
    }

    fn attach(&mut self, id: Option<ClientId>, fd: OwnedFd, primary: bool) -> Result<()> {
        if self.clients.len() >= MAX_CLIENTS {
            let m = format!("The console has {MAX_CLIENTS} clients already; close one.");
            return Err(Error::new(Kind::InUse, m));
        }
        ioctl_fionbio(&fd, true).map_err(|e| Error::io("set up a console client", e))?;
        let sink = if primary {
            let m = "The console's first client has attached already, or none was asked for at the start.";
            self.awaited.take().ok_or_else(|| Error::new(Kind::InUse, m))?
        } else {
            let mut sink = Sink::new(false);
            sink.offer(&self.history.screen());
            sink
        };
        self.clients.push(Client { id, fd, sink, typing: true, gone: false });
        self.recount();
        Ok(())
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        match accept_with(listener, SocketFlags::CLOEXEC) {
            // One more than there is room for is closed at once.
            Ok(fd) => drop(self.attach(None, fd, false)),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(e) => {
                tracing::warn!("console socket takes no more clients: {e}");
                self.listener = None;
            }
        }
    }

    fn machine_ready(&mut self, got: PollFlags) {
        let Some(machine) = &self.machine else { return };
        if got.contains(PollFlags::OUT) {
            match write(machine, self.input.make_contiguous()) {
                Ok(n) => drop(self.input.drain(..n)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                // The machine is gone, and nobody will read this.
                Err(_) => self.input.clear(),
            }
        }
        let room = self.room().min(CHUNK);
        if room == 0 || !got.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            return;
        }
        let mut buf = [0; CHUNK];
        match read(machine, buf.get_mut(..room).unwrap_or(&mut [])) {
            Ok(0) => self.machine = None,
            Ok(n) => self.output(buf.get(..n).unwrap_or(&[])),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.machine = None,
        }
    }

    fn output(&mut self, bytes: &[u8]) {
        self.history.add(bytes);
        for sink in self.clients.iter_mut().map(|c| &mut c.sink).chain(&mut self.awaited) {
            sink.offer(bytes);
        }
    }

    fn client_ready(&mut self, i: usize, got: PollFlags) {
        let Some(c) = self.clients.get_mut(i) else { return };
        let mut refused = got.contains(PollFlags::ERR);
        if got.contains(PollFlags::OUT) {
            match write(&c.fd, c.sink.chunk()) {
                Ok(n) => c.sink.advance(n),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(e) => {
                    if !matches!(e, Errno::PIPE | Errno::CONNRESET) {
                        tracing::warn!("console output is lost: {e}");
                    }
                    refused = true;
                }
            }
        }
        if c.typing && got.intersects(PollFlags::IN | PollFlags::HUP) && self.input.len() < INPUT_LIMIT {
            let mut buf = [0; INPUT_LIMIT];
            let room = INPUT_LIMIT - self.input.len();
            match read(&c.fd, buf.get_mut(..room).unwrap_or(&mut [])) {
                Ok(0) => c.typing = false,
                Ok(n) => self.input.extend(buf.get(..n).unwrap_or(&[])),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => c.typing = false,
            }
        }
        // What a client typed before it hung up is read to its end first.
        c.gone |= (refused || got.contains(PollFlags::HUP)) && !c.typing;
        if refused && c.typing {
            c.sink = Sink::new(false);
        }
    }
}
