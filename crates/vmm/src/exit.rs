//! How a run ends, and the exit code that says so.
//!
//! | code | means |
//! |---|---|
//! | 0 | the guest powered off |
//! | 1-63 | the guest powered off with this code of its own; anything above is given as 63 |
//! | 64-99 | Strata's own: see [`Kind`], one code a kind |
//! | 128 and up | never given by Strata itself: death by a signal, as the shell reports it |
//!
//! A guest's code is what its firmware interface passes: `tohost >> 1` of HTIF, the reason of the SBI's system
//! reset, the value written to the test device. The same table for users is `docs/exit-codes.md`; a test compares
//! the two.

use serde::{Deserialize, Serialize};

/// Largest code that a guest can give; larger ones are saturated to it.
pub const GUEST_MAX: u8 = 63;

macro_rules! kinds {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $word:literal;)*) => {
        /// What kind of error it is: one exit code each.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum Kind { $($(#[doc = $doc])+ $name,)* }

        impl Kind {
            /// All kinds, by code.
            pub const ALL: &'static [Kind] = &[$(Kind::$name),*];

            /// The exit code, 64 to 99.
            pub fn code(self) -> u8 {
                match self { $(Kind::$name => $code),* }
            }

            /// One word, as on the control socket.
            pub fn word(self) -> &'static str {
                match self { $(Kind::$name => $word),* }
            }

            /// The kind's description, as in the table for users.
            pub fn describe(self) -> &'static str {
                match self { $(Kind::$name => concat!($($doc),+).trim_ascii()),* }
            }
        }
    };
}

kinds! {
    /// The command line is wrong: unknown option, missing or impossible value.
    Usage = 64, "usage";
    /// A file's content is not what it should be: not a RISC-V kernel, cut short, a corrupt disk image.
    BadInput = 65, "bad-input";
    /// A file, image or instance that was named is not there.
    NotFound = 66, "not-found";
    /// Something is taken: a disk, a port, a name or an interface that another machine or program holds.
    InUse = 69, "in-use";
    /// Strata's own fault.
    Internal = 70, "internal";
    /// The host refuses or lacks something: memory, a kernel feature, a limit.
    Host = 71, "host";
    /// Something cannot be made, because it exists already or the file system is full.
    CannotCreate = 73, "cannot-create";
    /// Reading or writing failed.
    Io = 74, "io";
    /// The network or a mirror failed; trying again may help.
    Network = 75, "network";
    /// The two ends of the control socket do not understand each other.
    Protocol = 76, "protocol";
    /// The host's permissions forbid it.
    Permission = 77, "permission";
    /// A setting is impossible: processors, memory, a name, a combination.
    Config = 78, "config";
    /// The machine was stopped from the host before the guest powered off.
    Stopped = 79, "stopped";
    /// No hart can go on; the message has the registers.
    Stuck = 80, "stuck";
    /// The machine's process died.
    Died = 81, "died";
    /// The machine is in a phase in which this cannot be done.
    Refused = 82, "refused";
    /// The request was cancelled by the one who made it.
    Cancelled = 83, "cancelled";
}

/// An error with its exit code and one paragraph for a person: what was tried, on what, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Error {
    /// Its kind; gives the exit code.
    pub kind: Kind,
    /// The paragraph.
    pub message: String,
}

/// A result with that error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Error {
        Error { kind, message: message.into() }
    }

    /// A failed system call: `doing` is as in "cannot {doing}: ...".
    pub fn io(doing: impl std::fmt::Display, source: impl Into<std::io::Error>) -> Error {
        use std::io::ErrorKind as E;
        let source = source.into();
        let kind = match source.kind() {
            E::NotFound => Kind::NotFound,
            E::PermissionDenied => Kind::Permission,
            E::AlreadyExists | E::StorageFull | E::QuotaExceeded | E::ReadOnlyFilesystem => {
                Kind::CannotCreate
            }
            E::AddrInUse | E::ResourceBusy => Kind::InUse,
            E::OutOfMemory => Kind::Host,
            _ => Kind::Io,
        };
        Error::new(kind, format!("Cannot {doing}: {source}."))
    }
}

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum Outcome {
    /// The guest powered off, with a code of its own; 0 is a good end.
    PowerOff {
        /// As the guest gave it.
        code: u32,
    },
    /// It was stopped from the host.
    Stopped {
        /// By what: "`strata stop`", "SIGTERM".
        by: String,
    },
    /// It was suspended: it goes on with `strata resume`.
    Suspended {
        /// Its name.
        name: String,
    },
    /// It runs on another host.
    Migrated {
        /// Where that listened.
        to: String,
    },
    /// No hart can go on.
    Stuck {
        /// Why, with registers.
        why: String,
    },
}

/// The last word about a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// How it ended.
    pub outcome: Outcome,
    /// What went wrong on the way out (a disk that could not be flushed), a sentence each.
    #[serde(default)]
    pub problems: Vec<String>,
}

impl ExitReport {
    /// The code that the process ends with.
    pub fn code(&self) -> u8 {
        match &self.outcome {
            // What could not be flushed is lost, however well the guest thinks it ended.
            Outcome::PowerOff { code: 0 } if !self.problems.is_empty() => Kind::Io.code(),
            Outcome::PowerOff { code } => u8::try_from(*code).unwrap_or(GUEST_MAX).min(GUEST_MAX),
            Outcome::Stopped { .. } => Kind::Stopped.code(),
            Outcome::Suspended { .. } if self.problems.is_empty() => 0,
            Outcome::Suspended { .. } => Kind::Io.code(),
            // What was not flushed here was sent.
            Outcome::Migrated { .. } => 0,
            Outcome::Stuck { .. } => Kind::Stuck.code(),
        }
    }

    /// A paragraph for a person, or nothing to say.
    pub fn message(&self) -> Option<String> {
        let mut parts = match &self.outcome {
            Outcome::PowerOff { code: 0 } => Vec::new(),
            Outcome::PowerOff { code } => vec![format!("The guest powered off with code {code}.")],
            Outcome::Stopped { by } => vec![format!("The machine was stopped by {by}.")],
            Outcome::Suspended { name } => {
                vec![format!("The machine was suspended; `strata resume {name}` lets it go on.")]
            }
            Outcome::Migrated { to } => vec![format!("The machine has moved to {to}, and runs there.")],
            Outcome::Stuck { why } => vec![format!("The machine is stuck: {why}")],
        };
        parts.extend(self.problems.iter().cloned());
        (!parts.is_empty()).then(|| parts.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcome: Outcome) -> ExitReport {
        ExitReport { outcome, problems: Vec::new() }
    }

    #[test]
    fn guest_codes_saturate_and_never_meet_ours() {
        for (code, want) in [(0, 0), (1, 1), (63, 63), (64, 63), (255, 63), (256, 63), (u32::MAX, 63)] {
            assert_eq!(report(Outcome::PowerOff { code }).code(), want);
        }
        let mut lost = report(Outcome::PowerOff { code: 0 });
        lost.problems.push("Disk x could not be flushed.".into());
        assert_eq!(lost.code(), Kind::Io.code());
    }

    #[test]
    fn codes_are_distinct_and_in_our_range() {
        let mut codes: Vec<u8> = Kind::ALL.iter().map(|k| k.code()).collect();
        assert!(codes.iter().all(|c| (64..100).contains(c)));
        codes.dedup();
        assert_eq!(codes.len(), Kind::ALL.len());
    }

    #[test]
    fn the_table_for_users_is_this_one() {
        let doc = include_str!("../../../docs/exit-codes.md");
        for kind in Kind::ALL {
            let row = format!("| {} | `{}` | {} |", kind.code(), kind.word(), kind.describe());
            assert!(doc.contains(&row), "docs/exit-codes.md should have the row\n{row}");
            let json = serde_json::to_string(kind).unwrap();
            assert_eq!(json, format!("\"{}\"", kind.word()), "the word is what the socket carries");
        }
    }
}
