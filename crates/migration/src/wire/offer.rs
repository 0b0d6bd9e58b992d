//! What both sides tell each other of a machine, as JSON: the offer and its answer before anything is sent, and the source's
//! last word. A field that an older side does not send has a default; one that it would not understand is left out.

use super::{DiskOffer, DiskWay, Guest, Holder};
use serde::{Deserialize, Serialize};
use strata_snapshot::{FlowRef, MachineRef};

/// A file that comes with the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOffer {
    /// What it is: see `docs/formats/migration.md`.
    pub role: String,
    /// Its name in the instance's folder, where it has one.
    #[serde(default)]
    pub name: String,
    /// Its size in bytes; 0 where it still grows.
    pub size: u64,
    /// Its digest in hexadecimal, where it never changes: a destination that has it needs no bytes.
    #[serde(default)]
    pub sha256: Option<String>,
}

/// The source's first frame: everything that the destination needs to say yes or no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The program that sends.
    pub producer: String,
    /// The machine.
    pub machine: MachineRef,
    /// Its instance's record.
    pub instance: serde_json::Value,
    /// The epoch at which the destination would own it.
    pub epoch: u64,
    /// Files that come with it, in the order of their numbers.
    pub files: Vec<FileOffer>,
    /// Its disks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskOffer>,
    /// Only ask.
    #[serde(default)]
    pub dry_run: bool,
    /// Memory is to be compared at the end.
    #[serde(default, skip_serializing_if = "is_false")]
    pub verify: bool,
    /// Of a machine on KVM: the processor that its guest has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<Processor>,
}

/// What a guest has seen of its processor and relies on: a destination that cannot show it the same refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    /// Flags that it has, as `/proc/cpuinfo` spells them.
    pub flags: Vec<String>,
    /// Rate of its time-stamp counter, in kHz; 0 if its host did not say.
    #[serde(default)]
    pub counter_khz: u32,
}

/// The destination's yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// Its program.
    pub producer: String,
    /// The machine's name there.
    pub name: String,
    /// Numbers of the files whose bytes it needs.
    pub wants: Vec<u16>,
    /// How each of its disks is to come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskWay>,
    /// Who will have those that are handed over; the epoch means nothing here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// What a person should know, a sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Why the machine could not run there before all of its memory is there, if it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole_only: Option<String>,
    /// It can compare memory, as an offer may ask for.
    #[serde(default, skip_serializing_if = "is_false")]
    pub verify: bool,
}

/// The destination's no.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A word of the table of exit codes.
    pub kind: String,
    /// A paragraph.
    pub message: String,
}

/// What the source says when all of the machine has been sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rest {
    /// How many bytes of state were sent.
    pub state: u64,
    /// Pages that were sent in all rounds, of each kind: data, zero, same.
    pub pages: [u64; 3],
    /// Connections that were open in its user-mode network.
    #[serde(default)]
    pub flows: Vec<FlowRef>,
    /// Sizes of the files, as they are now.
    pub files: Vec<u64>,
    /// Bytes of each disk that were sent, as content or as zeroes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<u64>,
    /// What its network knows of it.
    #[serde(default, skip_serializing_if = "Guest::is_unknown")]
    pub guest: Guest,
    /// For how many nanoseconds it had stood still when this was sent.
    pub stood: u64,
    /// Digest of memory without the pages that are left out, where it was asked for: [`crate::digest`].
    #[serde(default)]
    pub memory: Option<String>,
    /// A list of hot paths, as the snapshot format has it.
    #[serde(default)]
    pub hot_paths: u64,
    /// Pages that are left out: the destination fetches them when it runs (version 2).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub absent: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn is_false(b: &bool) -> bool {
    !*b
}
