//! One client of the control server.
//!
//! Requests that may take time are jobs with a thread each, so that the reader always sees the next request, a
//! cancel, or the end of the connection. When the connection ends, its jobs are cancelled, and if it is the owner's
//! the machine is stopped.

use super::{MAX_JOBS, Shared};
use crate::console::ClientId;
use crate::exit::{Error, Kind, Result};
use crate::migrate::Step;
use crate::protocol::{Attach, Message, PROTOCOL, Reply, method};
use crate::wire::{Receiver, Sender, WireError};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Jobs = Arc<Mutex<HashMap<u64, Arc<AtomicBool>>>>;

/// A connection; lives on its thread.
pub(crate) struct Connection {
    id: u64,
    sender: Sender,
    shared: Arc<Shared>,
    owner: bool,
    jobs: Jobs,
    consoles: Vec<ClientId>,
}

/// What a quick request gives: a result, and perhaps a descriptor.
type Answer = Result<(Value, Option<OwnedFd>)>;

impl Connection {
    pub(super) fn new(id: u64, sender: Sender, shared: Arc<Shared>, owner: bool) -> Connection {
        Connection { id, sender, shared, owner, jobs: Jobs::default(), consoles: Vec::new() }
    }

    pub(super) fn run(mut self, mut receiver: Receiver) {
        // An owner was greeted when it launched us.
        if self.owner || self.greet(&mut receiver).is_ok() {
            while let Ok((message, _unwanted_fds)) = receiver.recv() {
                if self.handle(message).is_err() {
                    break;
                }
            }
        }
        self.sender.shutdown();
        for cancelled in self.jobs.lock().unwrap_or_else(|e| e.into_inner()).values() {
            cancelled.store(true, Ordering::Release);
        }
        self.shared.wake();
        self.shared.leave(self.id);
        if self.owner {
            self.shared.hub.no_primary();
            self.shared.stop("the end of the process that ran it");
        }
    }

    fn greet(&self, receiver: &mut Receiver) -> Result<(), WireError> {
        self.sender.send(&Message::hello(), &[])?;
        let (message, _) = receiver.recv()?;
        match message {
            Message::Hello { protocol: PROTOCOL, .. } => Ok(()),
            Message::Hello { protocol, version } => {
                let m = format!(
                    "This machine speaks version {PROTOCOL} of the control protocol, strata {version} speaks \
                     {protocol}; use the strata that started it, {}.",
                    env!("CARGO_PKG_VERSION")
                );
                self.refuse(Error::new(Kind::Protocol, m))
            }
            _ => self.refuse(Error::new(Kind::Protocol, "The first message must be a hello.")),
        }
    }

    /// Answers what cannot be gone on from: a response to no request in particular, then the end.
    fn refuse(&self, e: Error) -> Result<(), WireError> {
        self.sender.send(&Message::Response { id: 0, reply: Reply::Error(e), fds: 0 }, &[])?;
        Err(WireError::Closed)
    }

    fn handle(&mut self, message: Message) -> Result<(), WireError> {
        match message {
            Message::Request { id, method, params, .. } => self.request(id, &method, params),
            Message::Cancel { id } => {
                if let Some(cancelled) = self.jobs.lock().unwrap_or_else(|e| e.into_inner()).get(&id) {
                    cancelled.store(true, Ordering::Release);
                }
                self.shared.wake();
                Ok(())
            }
            _ => self.refuse(Error::new(Kind::Protocol, "A client sends requests and cancels only.")),
        }
    }

    fn request(&mut self, id: u64, method: &str, params: Value) -> Result<(), WireError> {
        let quick: Answer = match method {
            method::STATUS => Ok((json!(self.shared.status()), None)),
            method::MIGRATE_STATUS => super::migrating::status(&self.shared).map(|f| (json!(f), None)),
            method::MIGRATE_CANCEL => super::migrating::cancel(&self.shared).map(|()| (Value::Null, None)),
            method::CONSOLE_ATTACH => self.attach(params),
            method::CONSOLE_DETACH => {
                self.consoles.drain(..).for_each(|c| self.shared.hub.detach(c));
                Ok((Value::Null, None))
            }
            method::EVENTS_SUBSCRIBE => {
                let mut p = self.shared.lock();
                p.subscribers.retain(|(i, _)| *i != self.id);
                p.subscribers.push((self.id, self.sender.clone()));
                Ok((Value::Null, None))
            }
            method::PAUSE
            | method::UNPAUSE
            | method::RESET
            | method::STOP
            | method::SUSPEND
            | method::SNAPSHOT
            | method::MIGRATE
            | method::MIGRATE_RECOVER
            | method::WAIT => {
                if self.owner && matches!(method, method::STOP | method::WAIT) {
                    // Whoever waits has its console, or wants none.
                    self.shared.hub.no_primary();
                }
                return self.job(id, method.to_owned(), params);
            }
            _ => {
                let shown: String = method.chars().take(60).flat_map(char::escape_default).collect();
                Err(Error::new(Kind::Protocol, format!("This machine knows no request `{shown}`.")))
            }
        };
        respond(&self.sender, id, quick)
    }

    fn attach(&mut self, params: Value) -> Answer {
        let bad = |e| Error::new(Kind::Protocol, format!("console.attach has wrong parameters: {e}."));
        let attach: Attach =
            if params.is_null() { Attach::default() } else { serde_json::from_value(params).map_err(bad)? };
        if attach.primary && !self.owner {
            return Err(Error::new(
                Kind::Permission,
                "Only the process that runs a machine has its primary console.",
            ));
        }
        let (client, fd) = self.shared.hub.attach(attach.primary)?;
        self.consoles.push(client);
        Ok((Value::Null, Some(fd)))
    }

    fn job(&mut self, id: u64, method: String, params: Value) -> Result<(), WireError> {
        let cancelled = Arc::new(AtomicBool::new(false));
        {
            let mut jobs = self.jobs.lock().unwrap_or_else(|e| e.into_inner());
            if jobs.contains_key(&id) {
                drop(jobs);
                let m = format!("The request number {id} is still in use.");
                return self.refuse(Error::new(Kind::Protocol, m));
            }
            if jobs.len() >= MAX_JOBS {
                drop(jobs);
                let m = format!("This connection has {MAX_JOBS} requests under way already.");
                return respond(&self.sender, id, Err(Error::new(Kind::Refused, m)));
            }
            jobs.insert(id, cancelled.clone());
        }
        self.shared.lock().jobs += 1;
        let tells =
            matches!(method.as_str(), method::STOP | method::SUSPEND | method::MIGRATE | method::WAIT);
        let (sender, shared, jobs) = (self.sender.clone(), self.shared.clone(), self.jobs.clone());
        let connection = self.id;
        let spawned = std::thread::Builder::new().name("job".into()).spawn(move || {
            let answer = work(&shared, (&method, &params), &cancelled, |note| {
                // A client that does not read loses its connection at the answer.
                let _ = sender.send(&Message::Progress { id, note: note.to_owned() }, &[]);
            });
            jobs.lock().unwrap_or_else(|e| e.into_inner()).remove(&id);
            let told = tells && answer.is_ok();
            if respond(&sender, id, answer.map(|v| (v, None))).is_err() {
                sender.shutdown();
            }
            shared.job_done(connection, told);
        });
        match spawned {
            Ok(_) => Ok(()),
            Err(e) => {
                self.jobs.lock().unwrap_or_else(|e| e.into_inner()).remove(&id);
                self.shared.job_done(self.id, false);
                respond(&self.sender, id, Err(Error::io("start a thread for the request", e)))
            }
        }
    }
}

fn respond(sender: &Sender, id: u64, answer: Answer) -> Result<(), WireError> {
    let (reply, fd) = match answer {
        Ok((value, fd)) => (Reply::Ok(value), fd),
        Err(e) => (Reply::Error(e), None),
    };
    let fds: Vec<_> = fd.iter().map(|fd| fd.as_fd()).collect();
    sender.send(&Message::Response { id, reply, fds: u8::from(!fds.is_empty()) }, &fds)
}

fn work(
    shared: &Arc<Shared>,
    (method, params): (&str, &Value),
    cancelled: &AtomicBool,
    progress: impl Fn(&str),
) -> Result<Value> {
    let refused = |why: String| Error::new(Kind::Refused, format!("{}.", why.trim_end_matches('.')));
    if !matches!(method, method::MIGRATE_RECOVER | method::WAIT) {
        super::migrating::gone(shared)?;
    }
    match method {
        method::PAUSE => shared.in_turn(|m| m.pause()),
        method::UNPAUSE => shared.in_turn(|m| m.unpause()),
        method::RESET => shared.in_turn(|m| m.reset()),
        method::STOP => {
            progress("stopping the machine");
            shared.stop("`strata stop`");
            progress("flushing its disks");
            return shared.wait(cancelled).map(|r| json!(r));
        }
        method::SNAPSHOT => {
            let tag = params.get("tag").and_then(Value::as_str).unwrap_or_default();
            let passing = params.get("passing").and_then(Value::as_bool).unwrap_or(false);
            return super::saving::snapshot(shared, tag, passing, cancelled).map(|taken| json!(taken));
        }
        method::MIGRATE => {
            let bad = |e| Error::new(Kind::Protocol, format!("migrate has wrong parameters: {e}."));
            let ask = serde_json::from_value(params.clone()).map_err(bad)?;
            let figures = super::migrating::migrate(shared, &ask, cancelled)?;
            if figures.step == Step::Moved {
                // Answered when its name and its ports are free.
                shared.wait(cancelled)?;
            }
            return Ok(json!(figures));
        }
        method::MIGRATE_RECOVER => {
            let force = params.get("force").and_then(Value::as_bool).unwrap_or(false);
            let seconds = params.get("timeout").and_then(Value::as_u64).unwrap_or(30);
            super::migrating::recover(shared, force, Duration::from_secs(seconds))?;
            return super::migrating::status(shared).map(|f| json!(f));
        }
        method::SUSPEND => {
            progress("saving the machine");
            super::saving::suspend(shared, cancelled)?;
            return shared.wait(cancelled).map(|r| json!(r));
        }
        _ => return shared.wait(cancelled).map(|r| json!(r)),
    }
    .map_err(refused)?;
    shared.publish_phase();
    Ok(Value::Null)
}
