//! A running machine goes to another host, or comes from one: what stands between `strata_migration` and a machine.
//!
//! ```text
//!  source        the machine's own process sends it: six steps, and back if one fails     server/migrating.rs
//!  destination   a new machine's process receives it, and starts it when it may           destination.rs
//!  check         whether an offered machine can come                                       check.rs
//!  door          where sources come in                                                    door.rs
//!  pulling       memory that follows a machine which runs here already                 pulling.rs
//!  recover       what a crash left, decided from the journal                              recover.rs
//!  files         what the machine is started from, and what its disk's layers are over     files.rs, base.rs
//!  disks         which disks are here, and where those go that are sent                   disks.rs
//! ```
//! Invariants: an instance whose record says that it is moving is not started before the journal has said whose it is
//! (`settle`); both sides do exactly what the core's actions say, in their order.

mod base;
mod check;
pub(crate) mod destination;
pub(crate) mod disks;
mod door;
pub(crate) mod files;
pub(crate) mod pulling;
pub(crate) mod recover;

use crate::convert::paragraph;
use crate::instances::saved::write_record;
use crate::{Error, InstanceRecord, Kind, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;
use strata_migration::Record;
use strata_migration::journal::{self, Journal, JournalError, Side};
use strata_migration::wire::{Refusal, WireError};

pub use recover::{Outcome, Recovered, recover};

/// For how long a machine that has arrived has the processors, before anybody does what has time: the code that it meets
/// first is cold, and its peers wait for an answer.
pub(crate) const GUEST_FIRST: Duration = Duration::from_millis(10);

/// A migration that an instance is in, as its record says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// The migration.
    pub id: String,
    /// Which side of it this is.
    pub side: Side,
}

/// How memory travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Strategy {
    /// The best there is for how much the machine writes.
    #[default]
    Auto,
    /// While it runs, round by round.
    Precopy,
    /// While it stands still.
    StopAndCopy,
    /// After it, while it runs at the destination.
    PostCopy,
    /// While it runs, round by round, and what is left after it.
    Hybrid,
}

impl Strategy {
    /// Whether it is to run there before all of its memory is.
    pub(crate) fn follows(self) -> bool {
        matches!(self, Strategy::PostCopy | Strategy::Hybrid)
    }
}

/// What a machine is asked when it is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Where the destination listens.
    pub address: String,
    /// What it has printed.
    pub token: String,
    /// How memory travels.
    #[serde(default)]
    pub strategy: Strategy,
    /// Longest downtime, in milliseconds.
    pub max_downtime: u64,
    /// Connections for pages.
    pub streams: u8,
    /// Most bytes a second; 0 is no limit.
    #[serde(default)]
    pub bandwidth: u64,
    /// It may be slowed down while it is copied, if it writes faster than the link carries.
    #[serde(default)]
    pub throttle: bool,
    /// Without encryption: on this host only.
    #[serde(default)]
    pub plain: bool,
    /// Its disks are sent along, those that the destination does not share.
    #[serde(default)]
    pub with_disks: bool,
    /// It goes without its snapshots, which are removed here with it.
    #[serde(default)]
    pub without_snapshots: bool,
    /// Memory is compared at the end, by a digest that is taken while the machine stands.
    #[serde(default)]
    pub verify: bool,
    /// Only ask.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a new machine's process is asked when a machine is to come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// Where to listen: `ADDRESS:PORT`.
    pub listen: String,
    /// Its name here; its source's, if left out.
    #[serde(default)]
    pub name: Option<String>,
    /// Its network here; as at its source, if left out.
    #[serde(default)]
    pub net: Option<crate::NetSpec>,
    /// Where its disks are here, in their order; as at its source, if left out.
    #[serde(default)]
    pub disks: Vec<PathBuf>,
    /// Without encryption: on this host only.
    #[serde(default)]
    pub plain: bool,
}

/// Where a destination listens, and its token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listening {
    /// `ADDRESS:PORT`.
    pub address: String,
    /// See [`strata_migration::token::Token`].
    pub token: String,
}

/// The six steps, and how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Both sides compare what they have.
    #[default]
    PreMigration,
    /// Memory, name and files are held at the destination.
    Reservation,
    /// Memory is copied while the machine runs.
    IterativeCopy,
    /// It stands still, and the rest is copied.
    StopAndCopy,
    /// It is handed over.
    Commitment,
    /// It starts there.
    Activation,
    /// It runs there, and memory follows: a part of the activation.
    Pulling,
    /// It runs there.
    Moved,
    /// It stayed.
    Stayed,
}

/// Where a migration is, for people and programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// The migration.
    pub id: String,
    /// Where to.
    pub address: String,
    /// Its name there.
    pub name: String,
    /// The step.
    pub step: Step,
    /// Rounds that are over.
    pub rounds: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// Bytes that were sent of memory, as the link has seen them.
    pub sent: u64,
    /// Pages that were sent as data, as zero, as the same as another.
    pub pages: [u64; 3],
    /// Pages that are left, and those among them that are held back.
    pub pending: [u64; 2],
    /// Bytes per second that the machine writes anew.
    pub dirty_rate: u64,
    /// Bytes of pages per second that can be sent, compressed where that is faster.
    pub bandwidth: u64,
    /// Bytes per second of pages that it may write anew at this moment, where it is slowed down; 0 is any number.
    #[serde(default)]
    pub throttle: u64,
    /// The least that it was held to; 0 if it was not slowed down.
    #[serde(default)]
    pub slowest: u64,
    /// Bytes of disks that were sent, and that are left.
    #[serde(default)]
    pub disks: [u64; 2],
    /// The downtime that is expected if it stops now, in microseconds.
    pub expected: u64,
    /// For how long it stood still as seen here, in microseconds: a little more than the downtime.
    pub stood: u64,
    /// Whether memory follows the machine.
    #[serde(default)]
    pub follows: bool,
    /// While memory follows: whether the hosts are connected.
    #[serde(default)]
    pub connected: bool,
    /// Pages that were waited for, and those among them that were on their way already.
    #[serde(default)]
    pub asked: [u64; 2],
    /// At the destination: how often a vCPU waited for a page, and for how many microseconds all of them together.
    #[serde(default)]
    pub stalls: u64,
    /// See there.
    #[serde(default)]
    pub stalled: u64,
    /// When its last instruction was, in nanoseconds of the host's monotonic clock.
    pub froze: u64,
    /// How long all of it took, in milliseconds.
    pub took: u64,
    /// What a person should know, a sentence each.
    pub notes: Vec<String>,
}

impl From<WireError> for Error {
    fn from(e: WireError) -> Error {
        let kind = match &e {
            WireError::Token => Kind::Permission,
            WireError::Io(_) => Kind::Network,
            _ => Kind::Protocol,
        };
        Error::new(kind, paragraph(&e.to_string()))
    }
}

impl From<JournalError> for Error {
    fn from(e: JournalError) -> Error {
        let kind = match &e {
            JournalError::InUse { .. } => Kind::InUse,
            JournalError::Damaged { .. } => Kind::BadInput,
            JournalError::NotWritten { .. } => Kind::CannotCreate,
            JournalError::Io { .. } => Kind::Io,
        };
        Error::new(kind, paragraph(&e.to_string()))
    }
}

/// The other side's no, as an error of ours.
pub(crate) fn refused(no: Refusal) -> Error {
    let kind = Kind::ALL.iter().copied().find(|k| k.word() == no.kind).unwrap_or(Kind::Refused);
    Error::new(kind, format!("The destination refuses: {}", no.message))
}

/// The home that an instance's folder is in.
pub(crate) fn home_of(instance: &Path) -> PathBuf {
    let home = instance.parent().and_then(Path::parent);
    home.unwrap_or(instance).to_owned()
}

/// Removes the journals of a home that nobody will ask again.
pub(crate) fn prune_journals(home: &Path) {
    let pruned = crate::instances::Store::at(home).and_then(|store| {
        let moving = store.moving()?;
        journal::prune(home, crate::now(), |id| moving.iter().any(|m| m == id))
            .map_err(|e| Error::io("remove old journals of migrations", e))
    });
    if let Err(e) = pruned {
        tracing::warn!("journals of old migrations are kept: {e}");
    }
}

/// Before an instance is used whose record says that it is moving: whose it is, from the journal. For the holder of its
/// lock. Gives its record, which says so no more.
///
/// # Errors
/// It is another host's, or that is not known.
pub(crate) fn settle(dir: &Path, mut record: InstanceRecord) -> Result<InstanceRecord> {
    let Some(moving) = record.moving.clone() else { return Ok(record) };
    let name = record.name.clone();
    let said = Journal::look(&home_of(dir), &moving.id, moving.side)?;
    let last = said.as_ref().map(|s| s.last);
    let epoch = said.as_ref().map_or(record.epoch, |s| s.epoch);
    // Whose source still keeps memory for it is told first that it is of no use any more.
    let needs = said.as_ref().is_some_and(|s| s.part && s.last == Record::Started);
    match (moving.side, last) {
        (Side::Source, Some(Record::Aborted)) => {}
        (Side::Source, Some(Record::Reclaimed)) => {
            record.epoch = epoch + 2;
            reclaim(&record)?;
        }
        (Side::Destination, Some(Record::Started | Record::Whole)) if !needs => record.epoch = epoch,
        (Side::Source, Some(Record::Done)) => {
            let to = said.map_or_else(String::new, |s| s.detail.address);
            let m = format!(
                "{name} has moved to {to} and does not run here any more: remove what is left with `strata delete {name}`."
            );
            return Err(Error::new(Kind::Refused, m));
        }
        (Side::Destination, Some(Record::Refused)) => {
            let m = format!(
                "{name} was to come from another host and did not: remove what is left with `strata delete {name}`."
            );
            return Err(Error::new(Kind::Refused, m));
        }
        _ => {
            let m = format!(
                "{name} was in the middle of a migration when its process died: `strata migrate recover {name}` asks the \
                 other host whose it is. Until then it is started nowhere."
            );
            return Err(Error::new(Kind::Refused, m));
        }
    }
    record.moving = None;
    write_record(dir, &record)?;
    Ok(record)
}

/// Takes back the disks that were handed to a destination which has promised never to use them.
fn reclaim(record: &InstanceRecord) -> Result<()> {
    let owner = strata_block::Owner::this_process(&record.name);
    let mut written = record.disks.iter().filter(|d| !d.read_only && d.path.exists());
    Ok(written.try_for_each(|d| strata_block::reclaim(&d.path, &owner))?)
}

/// Whether an instance may be removed as far as its migration goes.
///
/// # Errors
/// Nobody knows yet whose it is.
pub(crate) fn may_remove(dir: &Path, record: &InstanceRecord) -> Result<()> {
    let over = |r: Record| matches!(r, Record::Done | Record::Refused);
    let Some(moving) = &record.moving else { return Ok(()) };
    let said = Journal::look(&home_of(dir), &moving.id, moving.side)?;
    if said.is_some_and(|s| over(s.last)) { Ok(()) } else { settle(dir, record.clone()).map(|_| ()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use strata_migration::journal::Detail;

    /// An instance in a home of its own, in a migration whose journal has these records after the first.
    pub(super) fn instance(side: Side, records: &[Record]) -> (tempfile::TempDir, PathBuf, InstanceRecord) {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("instances/web");
        std::fs::create_dir_all(&dir).unwrap();
        let text = json!({"schema": 3, "name": "web", "created": 1, "cpus": 1, "memory": 1 << 28, "net": {"kind": "none"},
            "mac": [2, 0, 0, 0, 0, 1], "epoch": 4, "moving": {"id": "ab", "side": side}});
        let record = InstanceRecord::parse(text.to_string().as_bytes()).unwrap();
        write_record(&dir, &record).unwrap();
        let detail = Detail { name: "web".into(), address: "h:1".into(), token: String::new(), plain: false };
        let mut journal = Journal::begin(home.path(), "ab", side, 4, &detail).unwrap();
        records.iter().for_each(|r| journal.write(*r, 5).unwrap());
        (home, dir, record)
    }

    #[test]
    fn an_instance_is_used_only_where_its_journal_says_that_it_is_ours() {
        use Record::*;
        let rows: [(Side, &[Record], Option<u64>, bool); 13] = [
            (Side::Source, &[], None, false),
            (Side::Source, &[Handed], None, false),
            (Side::Source, &[Handed, Done], None, true),
            (Side::Source, &[Aborted], Some(4), true),
            (Side::Source, &[Handed, Reclaimed], Some(6), true),
            (Side::Destination, &[Ready], None, false),
            (Side::Destination, &[Ready, Owner], None, false),
            (Side::Destination, &[Ready, Refused], None, true),
            (Side::Destination, &[Ready, Owner, Started], Some(4), true),
            (Side::Source, &[HandedPart, Serving], None, false),
            (Side::Source, &[HandedPart, Serving, Reclaimed], Some(6), true),
            (Side::Destination, &[ReadyPart, Owner, Started], None, false),
            (Side::Destination, &[ReadyPart, Owner, Started, Whole], Some(4), true),
        ];
        for (side, records, ours, removable) in rows {
            let (_home, dir, record) = instance(side, records);
            assert_eq!(may_remove(&dir, &record).is_ok(), removable, "{side:?} {records:?}");
            let settled = settle(&dir, record.clone());
            assert_eq!(settled.as_ref().ok().map(|r| r.epoch), ours, "{side:?} {records:?}: {settled:?}");
            let kept = crate::instances::saved::read_record(&dir).unwrap();
            assert_eq!(kept.moving.is_none(), ours.is_some(), "{side:?} {records:?}");
        }
        // Without its journal nothing is known.
        let (home, dir, record) = instance(Side::Source, &[Aborted]);
        std::fs::remove_dir_all(home.path().join("migrations")).unwrap();
        let e = settle(&dir, record.clone()).unwrap_err();
        assert!(e.message.contains("migrate recover web"), "{e}");
        assert!(may_remove(&dir, &record).is_err());
    }

    #[test]
    fn an_older_program_does_not_start_what_is_moving() {
        let (_home, dir, record) = instance(Side::Source, &[]);
        assert_eq!(record.schema, 3);
        let text = std::fs::read_to_string(dir.join("instance.json")).unwrap();
        assert!(text.contains("\"schema\": 3") && text.contains("\"side\": \"source\""), "{text}");
    }
}
