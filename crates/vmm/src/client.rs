//! The client's side of a control connection.
//!
//! One request at a time on a connection: a call returns with its answer. Who waits for the end while doing other
//! things opens a second connection, or has [`Client::wait`] on a thread of its own and cancels it through a
//! [`Canceller`].

use crate::exit::{Error, ExitReport, Kind, Result};
use crate::migrate::{Arrival, Departure, Figures};
use crate::protocol::{Attach, Message, PROTOCOL, Reply, Status, Taken, method};
use crate::runtime::Runtime;
use crate::wire::{Receiver, Sender, WireError, halves};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// A control connection.
#[derive(Debug)]
pub struct Client {
    sender: Sender,
    receiver: Receiver,
    name: String,
    last: u64,
}

/// Gives up what a [`Client`] waits for, from another thread.
#[derive(Clone, Debug)]
pub struct Canceller {
    sender: Sender,
    id: u64,
}

impl Canceller {
    /// Cancels; the call that waits returns with an error of kind `Cancelled`. Harmless if it has returned.
    pub fn cancel(&self) {
        // Without a connection there is nothing left that waits.
        let _ = self.sender.send(&Message::Cancel { id: self.id }, &[]);
    }
}

impl Client {
    /// Connects to a running machine of this user.
    ///
    /// # Errors
    /// `NotFound` if none of that name runs; `Protocol` if it was started by an incompatible version.
    pub fn connect(name: &str) -> Result<Client> {
        Client::connect_in(&Runtime::open()?, name)
    }

    /// Connects to a machine of a given runtime folder.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_in(runtime: &Runtime, name: &str) -> Result<Client> {
        Client::over(runtime.connect(name)?, name)
    }

    /// Takes a connected socket and greets.
    pub(crate) fn over(socket: OwnedFd, name: &str) -> Result<Client> {
        let (sender, receiver) = halves(socket);
        let mut client = Client { sender, receiver, name: name.to_owned(), last: 0 };
        client.sender.send(&Message::hello(), &[]).map_err(|e| client.broken(e))?;
        match client.recv()?.0 {
            Message::Hello { protocol: PROTOCOL, .. } => Ok(client),
            Message::Hello { protocol, version } => Err(Error::new(
                Kind::Protocol,
                format!(
                    "The machine {name} runs under strata {version}, which speaks version {protocol} of the control \
                     protocol; this one speaks {PROTOCOL}. Use that version, or stop and start the machine."
                ),
            )),
            other => Err(client.confused(&other)),
        }
    }

    fn broken(&self, e: WireError) -> Error {
        match e {
            WireError::Closed => Error::new(
                Kind::Died,
                format!("The process of machine {} ended without a last word.", self.name),
            ),
            e => Error::new(Kind::Protocol, format!("The connection to machine {} failed: {e}.", self.name)),
        }
    }

    fn confused(&self, message: &Message) -> Error {
        if let Message::Response { reply: Reply::Error(e), .. } = message {
            return e.clone();
        }
        Error::new(Kind::Protocol, format!("The machine {} answers what was not asked.", self.name))
    }

    fn recv(&mut self) -> Result<(Message, Vec<OwnedFd>)> {
        self.receiver.recv().map_err(|e| self.broken(e))
    }

    fn send(&mut self, method: &str, params: Value, fds: &[BorrowedFd<'_>]) -> Result<u64> {
        self.last += 1;
        let (id, count) = (self.last, u8::try_from(fds.len()).unwrap_or(u8::MAX));
        let m = Message::Request { id, method: method.to_owned(), params, fds: count };
        self.sender.send(&m, fds).map_err(|e| self.broken(e))?;
        Ok(id)
    }

    /// Waits for the answer to `id`; events and answers to cancelled requests in between are passed over.
    fn answer(&mut self, id: u64, progress: &mut dyn FnMut(&str)) -> Result<(Value, Vec<OwnedFd>)> {
        loop {
            match self.recv()? {
                (Message::Response { id: got, reply, .. }, fds) if got == id || got == 0 => match reply {
                    Reply::Ok(value) => return Ok((value, fds)),
                    Reply::Error(e) => return Err(e),
                },
                (Message::Progress { id: got, note }, _) if got == id => progress(&note),
                _ => {}
            }
        }
    }

    fn typed<T: DeserializeOwned>(&self, value: Value) -> Result<T> {
        serde_json::from_value(value).map_err(|e| self.broken(WireError::Content(e)))
    }

    /// Any request: for methods that this version has no function for.
    ///
    /// # Errors
    /// The machine's, or `Died` if its process ends first.
    pub fn call(
        &mut self,
        method: &str,
        params: Value,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Value, Vec<OwnedFd>)> {
        let id = self.send(method, params, fds)?;
        self.answer(id, &mut |_| ())
    }

    /// What it is and does.
    ///
    /// # Errors
    /// `Died`, `Protocol`.
    pub fn status(&mut self) -> Result<Status> {
        let (value, _) = self.call(method::STATUS, Value::Null, &[])?;
        self.typed(value)
    }

    /// Pauses; returns when nothing guest-visible changes any more.
    ///
    /// # Errors
    /// `Refused` in a phase in which it cannot be.
    pub fn pause(&mut self) -> Result<()> {
        self.call(method::PAUSE, Value::Null, &[]).map(|_| ())
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// `Refused`.
    pub fn unpause(&mut self) -> Result<()> {
        self.call(method::UNPAUSE, Value::Null, &[]).map(|_| ())
    }

    /// Resets it, as the reset button would.
    ///
    /// # Errors
    /// `Refused`.
    pub fn reset(&mut self) -> Result<()> {
        self.call(method::RESET, Value::Null, &[]).map(|_| ())
    }

    /// Ends it after its disks are flushed, without telling the guest; returns when its name, disks and ports are
    /// free. `progress` hears what is being done.
    ///
    /// # Errors
    /// `Died`.
    pub fn stop(&mut self, progress: &mut dyn FnMut(&str)) -> Result<ExitReport> {
        self.end_by(method::STOP, progress)
    }

    /// Asks for its end in one way or another, and waits for it.
    fn end_by(&mut self, method: &str, progress: &mut dyn FnMut(&str)) -> Result<ExitReport> {
        let id = self.send(method, Value::Null, &[])?;
        let (value, _) = self.answer(id, progress)?;
        self.typed(value)
    }

    /// Takes a snapshot under `tag`; returns when it is durable. The machine goes on before that. One that is `passing`,
    /// made for a clone and then removed, is no one's parent.
    ///
    /// # Errors
    /// Why it cannot be taken; `Died`.
    pub fn snapshot(&mut self, tag: &str, passing: bool) -> Result<Taken> {
        let (value, _) = self.call(method::SNAPSHOT, json!({ "tag": tag, "passing": passing }), &[])?;
        self.typed(value)
    }

    /// Saves it into its instance and ends it; returns as [`Client::stop`] does. If it cannot be saved it goes on.
    ///
    /// # Errors
    /// Why it cannot be saved; `Died`.
    pub fn suspend(&mut self, progress: &mut dyn FnMut(&str)) -> Result<ExitReport> {
        self.end_by(method::SUSPEND, progress)
    }

    /// Sends it to another host; returns when it runs there.
    ///
    /// # Errors
    /// Why it stayed; `Died`.
    pub fn migrate(&mut self, ask: &Departure) -> Result<Figures> {
        let (value, _) = self.call(method::MIGRATE, json!(ask), &[])?;
        self.typed(value)
    }

    /// Where its last migration is.
    ///
    /// # Errors
    /// `NotFound` if there was none.
    pub fn migration(&mut self) -> Result<Figures> {
        let (value, _) = self.call(method::MIGRATE_STATUS, Value::Null, &[])?;
        self.typed(value)
    }

    /// Has a migration by post-copy whose connection was lost go on, or with `force` gives the destination up; waits for up
    /// to `timeout` seconds.
    ///
    /// # Errors
    /// It is in none; the other host does not answer.
    pub fn recover_migration(&mut self, force: bool, timeout: u64) -> Result<Figures> {
        let (value, _) =
            self.call(method::MIGRATE_RECOVER, json!({ "force": force, "timeout": timeout }), &[])?;
        serde_json::from_value(value)
            .map_err(|e| Error::new(Kind::Protocol, format!("It answers nonsense: {e}.")))
    }

    /// Asks its migration to stay.
    ///
    /// # Errors
    /// `NotFound`, or `Refused` when it has been handed over.
    pub fn cancel_migration(&mut self) -> Result<()> {
        self.call(method::MIGRATE_CANCEL, Value::Null, &[]).map(|_| ())
    }

    /// To a new VMM: receive a machine; `progress` hears where it listens.
    pub(crate) fn receive(&mut self, ask: &Arrival, progress: &mut dyn FnMut(&str)) -> Result<Value> {
        let id = self.send(method::RECEIVE, json!(ask), &[])?;
        self.answer(id, progress).map(|(value, _)| value)
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// `Died` if its process was killed; `Cancelled`.
    pub fn wait(&mut self) -> Result<ExitReport> {
        let (value, _) = self.call(method::WAIT, Value::Null, &[])?;
        self.typed(value)
    }

    /// Cancels the call that is made next, once it has been sent; before that it has no effect. It holds the
    /// connection open as the client itself does.
    pub fn canceller(&self) -> Canceller {
        Canceller { sender: self.sender.clone(), id: self.last + 1 }
    }

    /// Attaches to the console: a stream socket, output to read and input to write. It begins with the last
    /// screenful; closing it detaches.
    ///
    /// # Errors
    /// `InUse` if there are too many; `Refused` if the machine has ended.
    pub fn attach_console(&mut self) -> Result<OwnedFd> {
        self.attach(Attach { primary: false })
    }

    /// Attaches as the primary: every byte since power-on, and the guest waits for the reader.
    ///
    /// # Errors
    /// `Permission` unless this connection launched the machine in the foreground; `InUse` the second time.
    pub fn attach_primary(&mut self) -> Result<OwnedFd> {
        self.attach(Attach { primary: true })
    }

    fn attach(&mut self, attach: Attach) -> Result<OwnedFd> {
        let (_, fds) = self.call(method::CONSOLE_ATTACH, json!(attach), &[])?;
        let missing = || self.broken(WireError::Descriptors);
        fds.into_iter().next().ok_or_else(missing)
    }

    /// Subscribes to events; read them with [`Client::next_event`].
    ///
    /// # Errors
    /// `Died`, `Protocol`.
    pub fn subscribe(&mut self) -> Result<()> {
        self.call(method::EVENTS_SUBSCRIBE, Value::Null, &[]).map(|_| ())
    }

    /// Waits for the next event: its name and data. `None` when the machine's process has ended.
    ///
    /// # Errors
    /// `Protocol`.
    pub fn next_event(&mut self) -> Result<Option<(String, Value)>> {
        loop {
            match self.receiver.recv() {
                Ok((Message::Event { event, data }, _)) => return Ok(Some((event, data))),
                Ok(_) => {}
                Err(WireError::Closed) => return Ok(None),
                Err(e) => return Err(self.broken(e)),
            }
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}
