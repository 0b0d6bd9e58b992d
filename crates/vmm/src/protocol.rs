//! What is said on the control socket: messages, methods, and their parameters and results.
//!
//! Version [`PROTOCOL`] is fixed by `docs/formats/control-protocol.md`. Compatible growth is a new method, a new
//! event or a new field with a default; readers pass over fields they do not know. Anything else is a new version.

use crate::exit::{Error, ExitReport};
use crate::spec::{ConsoleSpec, NetSpec};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the protocol.
pub const PROTOCOL: u32 = 1;

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Message {
    /// First in each direction.
    Hello {
        /// [`PROTOCOL`].
        protocol: u32,
        /// Version of the program, for people.
        version: String,
    },
    /// Client to server: do something.
    Request {
        /// Chosen by the client, not in use by another request of this connection.
        id: u64,
        /// See [`method`].
        method: String,
        /// Parameters of the method.
        #[serde(default)]
        params: Value,
        /// How many descriptors come with it.
        #[serde(default, skip_serializing_if = "is_zero")]
        fds: u8,
    },
    /// Server to client: the one answer to a request.
    Response {
        /// The request's.
        id: u64,
        /// Result or error.
        #[serde(flatten)]
        reply: Reply,
        /// How many descriptors come with it.
        #[serde(default, skip_serializing_if = "is_zero")]
        fds: u8,
    },
    /// Server to client: a request is getting on.
    Progress {
        /// The request's.
        id: u64,
        /// What is being done.
        note: String,
    },
    /// Client to server: give a request up. It is still answered.
    Cancel {
        /// The request's.
        id: u64,
    },
    /// Server to client, after `events.subscribe`.
    Event {
        /// Which: see [`event`].
        event: String,
        /// More about it.
        data: Value,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// It was done.
    Ok(Value),
    /// It was not.
    Error(Error),
}

fn is_zero(n: &u8) -> bool {
    *n == 0
}

impl Message {
    /// How many descriptors belong to it.
    pub fn fds(&self) -> usize {
        match self {
            Message::Request { fds, .. } | Message::Response { fds, .. } => usize::from(*fds),
            _ => 0,
        }
    }

    /// Our greeting.
    pub fn hello() -> Message {
        Message::Hello { protocol: PROTOCOL, version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// Names of the methods.
pub mod method {
    /// Only on the connection over which a VMM is started: run this [`VmmSpec`](crate::VmmSpec).
    pub const LAUNCH: &str = "launch";
    /// Gives a [`Status`](super::Status).
    pub const STATUS: &str = "status";
    /// Pauses; answered when nothing guest-visible changes any more.
    pub const PAUSE: &str = "pause";
    /// Lets it go on.
    pub const UNPAUSE: &str = "unpause";
    /// Resets it, as the reset button would.
    pub const RESET: &str = "reset";
    /// Ends it after its disks are flushed; the guest is not told. Answered with the [`ExitReport`](super::ExitReport)
    /// when its name, disks and ports are free again.
    pub const STOP: &str = "stop";
    /// Takes a snapshot; takes `tag` and `passing`.
    pub const SNAPSHOT: &str = "snapshot.create";
    /// Saves it into its instance, then ends it as [`STOP`] does.
    pub const SUSPEND: &str = "suspend";
    /// Sends it to another host; takes a [`Departure`](crate::migrate::Departure), and gives
    /// [`Figures`](crate::migrate::Figures) when it runs there. Then it ends here.
    pub const MIGRATE: &str = "migrate";
    /// Gives the [`Figures`](crate::migrate::Figures) of its last migration.
    pub const MIGRATE_STATUS: &str = "migrate.status";
    /// Has a migration by post-copy whose connection was lost go on: takes `force` (the destination is given up) and
    /// `timeout` in seconds, and gives the [`Figures`](crate::migrate::Figures).
    pub const MIGRATE_RECOVER: &str = "migrate.recover";
    /// Asks a migration to stay where it is.
    pub const MIGRATE_CANCEL: &str = "migrate.cancel";
    /// Only on the connection over which a VMM is started: receive a machine, as an
    /// [`Arrival`](crate::migrate::Arrival) says. Its progress is a [`Listening`](crate::migrate::Listening), as JSON.
    pub const RECEIVE: &str = "receive";
    /// Answered with the [`ExitReport`](super::ExitReport) when the machine has ended.
    pub const WAIT: &str = "wait";
    /// Gives a stream socket with the console; takes [`Attach`](super::Attach).
    pub const CONSOLE_ATTACH: &str = "console.attach";
    /// Ends all consoles that this connection attached.
    pub const CONSOLE_DETACH: &str = "console.detach";
    /// Events are sent on this connection from now on.
    pub const EVENTS_SUBSCRIBE: &str = "events.subscribe";
}

/// Names of the events.
pub mod event {
    /// The phase may have changed; `data.phase` is the new one.
    pub const PHASE: &str = "phase";
    /// A migration has come to another step or round; `data` is its [`Figures`](crate::migrate::Figures).
    pub const MIGRATION: &str = "migration";
    /// The machine has ended; `data` is the [`ExitReport`](super::ExitReport).
    pub const ENDED: &str = "ended";
}

/// The answer to `snapshot.create`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// How long the machine stood still, in microseconds.
    #[serde(default)]
    pub stood: u64,
    /// Layers of memory that the snapshot stands on: 0 if it has all of memory itself.
    #[serde(default)]
    pub below: usize,
}

/// Parameters of `console.attach`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// As the primary: every byte since power-on, and the guest waits for this client. Once, and only for the client
    /// that launched the machine in the foreground.
    #[serde(default)]
    pub primary: bool,
}

/// Result of `launch`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The machine's name.
    pub name: String,
    /// The VMM's process.
    pub pid: u32,
    /// What a person should know, a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Result of `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The instance's name.
    pub name: String,
    /// "running", "paused", ...
    pub phase: String,
    /// vCPUs.
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// The seed, if its run repeats.
    #[serde(default)]
    pub deterministic: Option<u64>,
    /// How its guest code is run: "interpreter" or "translator"; empty from a machine that does not say.
    #[serde(default)]
    pub tier: String,
    /// Image that it was made from.
    pub image: Option<String>,
    /// The VMM's process.
    pub pid: u32,
    /// When it started, in seconds since 1970.
    pub since: u64,
    /// For how long it has run, in seconds.
    pub uptime: u64,
    /// When a vCPU ran for the first time, in nanoseconds of the host's monotonic clock.
    #[serde(default)]
    pub began: Option<u64>,
    /// When its guest first read the generation ID that tells it that it is a copy, or went back; likewise.
    #[serde(default)]
    pub told: Option<u64>,
    /// Network with its port forwards.
    pub net: NetSpec,
    /// The card's Ethernet address.
    #[serde(default)]
    pub mac: [u8; 6],
    /// Connections of its user-mode network that were reset when it went on from where it was saved.
    #[serde(default)]
    pub resets: u64,
    /// Console.
    pub console: ConsoleSpec,
    /// Clients attached to the console.
    pub console_clients: usize,
    /// Whether it ends with the process that launched it.
    pub foreground: bool,
    /// Whether it is removed at power-off.
    pub ephemeral: bool,
    /// How it ended, if it is about to go.
    #[serde(default)]
    pub exit: Option<ExitReport>,
}
