//! What a side of a migration has decided, durable before it acts on it.
//!
//! ```text
//! file    := magic:8 "strataMJ"  version:u32 = 1  record*
//! record  := len:u32  kind:u8  epoch:u64  time:u64  detail:bytes  crc:u32  end:u8 = 0xff
//! ```
//! Little-endian; `len` is that of kind to detail, `crc` the CRC-32 of the same bytes, `time` is in seconds since 1970. The
//! first record is `begun`, with what it takes to go on after a crash as its detail; no other has one. A record whose end
//! is missing, or zeroes, at the file's end was never acted upon, and does not count; anything else that does not fit is
//! damage, and decides nothing. The file is longer than its records, with zeroes to its end: a machine stands still while a
//! record is made durable, and a file system does that many times faster in a block that the file has already.
//!
//! One file a migration and side, `<id>.source` or `<id>.destination`, in a folder of the home. Whoever acts for that side
//! holds a lock on the file, so there is one at a time. A migration's id is random and never used again.

mod prune;

pub use prune::prune;

use crate::core::{Epoch, Record};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, fsync, openat};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

const MAGIC: &[u8; 8] = b"strataMJ";
const VERSION: u32 = 1;
const HEAD: usize = 12;
/// Around a record's body: its length, its checksum and [`END`].
const FRAME: usize = 9;
/// Last byte of a record. One that is cut short has a zero there, which no flipped bit makes of this.
const END: u8 = 0xff;
/// A record without detail.
const LEAST: usize = 17;
/// Longest record: a detail is a page of JSON.
const MOST: usize = 64 << 10;
/// How much longer than its first record a file is made, at least, in bytes: room for all others.
const ROOM: usize = 1 << 10;
/// Length of a block of any file system, or a part of one.
const BLOCK: usize = 4 << 10;
/// Longest file: a few records.
const MOST_FILE: u64 = 1 << 20;

/// Which side a journal is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// Where the machine comes from.
    Source,
    /// Where it goes.
    Destination,
}

impl Side {
    /// A word.
    pub fn name(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Destination => "destination",
        }
    }
}

/// What a side must know to go on after a crash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detail {
    /// The instance's name here.
    pub name: String,
    /// Where the destination listens: `ADDRESS:PORT`.
    pub address: String,
    /// The source's: the token. The destination's: in the same form, its secret and the seed of its key.
    pub token: String,
    /// Whether its connections are not encrypted.
    #[serde(default)]
    pub plain: bool,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The host refuses.
    #[error("cannot {doing} the migration's journal {path}: {source}")]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// The host's answer.
        source: std::io::Error,
    },
    /// A record could not be written, and is certainly not there.
    #[error("the migration's journal {path} takes no more ({source}); make room on the file system")]
    NotWritten {
        /// Which.
        path: PathBuf,
        /// The host's answer.
        source: std::io::Error,
    },
    /// It is not as it was written.
    #[error("the migration's journal {path} cannot be used: {why}; nothing is decided from it")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// Somebody acts for this side.
    #[error("the migration's journal {path} is in use: a process of this host acts for it")]
    InUse {
        /// Which.
        path: PathBuf,
    },
}

/// What a journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its last record.
    pub last: Record,
    /// The epoch of the first.
    pub epoch: Epoch,
    /// When the last was written, in seconds since 1970.
    pub time: u64,
    /// Whether the machine was handed over, or ready, in part: see [`crate::core`].
    pub part: bool,
    /// What it is about.
    pub detail: Detail,
}

/// A journal that is open, and ours.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    /// How long it is, in bytes that count.
    len: u64,
}

fn kind(r: Record) -> u8 {
    match r {
        Record::Begun => 1,
        Record::Handed => 2,
        Record::Done => 3,
        Record::Aborted => 4,
        Record::Reclaimed => 5,
        Record::Ready => 6,
        Record::Owner => 7,
        Record::Started => 8,
        Record::Refused => 9,
        Record::HandedPart => 10,
        Record::Serving => 11,
        Record::ReadyPart => 12,
        Record::Whole => 13,
    }
}

fn of_kind(n: u8) -> Option<Record> {
    use Record::*;
    let plain = [Begun, Handed, Done, Aborted, Reclaimed, Ready, Owner, Started, Refused];
    let in_part = [HandedPart, Serving, ReadyPart, Whole];
    plain.into_iter().chain(in_part).find(|r| kind(*r) == n)
}

/// Whether `next` may follow `last` in a journal.
fn follows(last: Record, next: Record) -> bool {
    use Record::*;
    match next {
        Begun => false,
        Handed | HandedPart | Aborted | Ready | ReadyPart => last == Begun,
        Serving => last == HandedPart,
        Done | Reclaimed => matches!(last, Handed | HandedPart | Serving),
        Owner => matches!(last, Ready | ReadyPart),
        Started => last == Owner,
        Whole => last == Started,
        Refused => matches!(last, Begun | Ready | ReadyPart | Owner),
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

fn record(r: Record, epoch: Epoch, time: u64, detail: &[u8]) -> Vec<u8> {
    let mut body = vec![kind(r)];
    body.extend_from_slice(&epoch.to_le_bytes());
    body.extend_from_slice(&time.to_le_bytes());
    body.extend_from_slice(detail);
    let mut out = (body.len() as u32).to_le_bytes().to_vec();
    out.extend_from_slice(&body);
    out.extend_from_slice(&crc32fast::hash(&body).to_le_bytes());
    out.push(END);
    out
}

/// Reads a journal's bytes: what it says, and how many of the bytes count. `None` if not even its first record was written.
///
/// # Errors
/// What is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Option<(Said, usize)>, &'static str> {
    let Some(head) = bytes.get(..HEAD) else { return Ok(None) };
    if head.get(..8) != Some(MAGIC.as_slice()) {
        return Err("it does not begin as a journal does");
    }
    if number(head.get(8..).unwrap_or_default()) != u64::from(VERSION) {
        return Err("it is of a newer strata");
    }
    let mut at = HEAD;
    let mut said: Option<Said> = None;
    while let Some(rest) = bytes.get(at..).filter(|r| !r.is_empty()) {
        // The file may have become longer without its data having reached the disk.
        if rest.len() < 4 || rest.iter().all(|b| *b == 0) {
            break;
        }
        let (len, rest) = rest.split_at(4);
        let len = number(len) as usize;
        let may = if said.is_none() { LEAST..=MOST } else { LEAST..=LEAST };
        if !may.contains(&len) {
            return Err("a record has an impossible length");
        }
        let Some((body, crc, end)) = rest
            .get(len..len + 4)
            .zip(rest.get(len + 4))
            .and_then(|(crc, end)| Some((rest.get(..len)?, crc, *end)))
        else {
            break;
        };
        if end == 0 && rest.get(len + 4..).is_none_or(|after| after.iter().all(|b| *b == 0)) {
            break;
        }
        if end != END || crc != crc32fast::hash(body).to_le_bytes() {
            return Err("a record's checksum is wrong");
        }
        let (epoch, time) =
            (number(body.get(1..9).unwrap_or_default()), number(body.get(9..LEAST).unwrap_or_default()));
        let kind = body.first().copied().and_then(of_kind).ok_or("a record is of an unknown kind")?;
        match &mut said {
            None if kind == Record::Begun => {
                let detail = serde_json::from_slice(body.get(LEAST..).unwrap_or_default());
                let detail = detail.map_err(|_| "its first record does not say what it is about")?;
                said = Some(Said { last: kind, epoch, time, part: false, detail });
            }
            Some(s) if follows(s.last, kind) => {
                (s.last, s.time) = (kind, time);
                s.part |= matches!(kind, Record::HandedPart | Record::ReadyPart);
            }
            _ => return Err("its records are not in an order that there can be"),
        }
        at += FRAME + len;
    }
    Ok(said.map(|s| (s, at)))
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> JournalError {
    move |source| JournalError::Io { doing, path: path.to_owned(), source }
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    let fd = openat(CWD, dir, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(fsync(&fd)?)
}

/// The folder of journals in a home.
pub fn folder(home: &Path) -> PathBuf {
    home.join("migrations")
}

fn path_of(home: &Path, id: &str, side: Side) -> PathBuf {
    folder(home).join(format!("{id}.{}", side.name()))
}

impl Journal {
    /// Begins the journal of a migration that has none yet: when this returns, its first record is durable.
    ///
    /// # Errors
    /// There is one; what the host answers.
    pub fn begin(
        home: &Path,
        id: &str,
        side: Side,
        epoch: Epoch,
        detail: &Detail,
    ) -> Result<Journal, JournalError> {
        let (dir, path) = (folder(home), path_of(home, id, side));
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(&dir).map_err(io("make the folder of", &path))?;
        let new = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path);
        let mut journal = Journal { file: new.map_err(io("make", &path))?, path, len: 0 };
        journal.lock()?;
        let detail = serde_json::to_vec(detail).unwrap_or_default();
        let mut bytes = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
        bytes.extend(record(Record::Begun, epoch, now(), &detail));
        let len = bytes.len();
        bytes.resize((len + ROOM).next_multiple_of(BLOCK), 0);
        journal.append(&bytes)?;
        journal.len = len as u64;
        sync_dir(&dir).and_then(|()| sync_dir(home)).map_err(io("make durable", &journal.path))?;
        Ok(journal)
    }

    /// Takes the journal that a dead process has left, with what it says; none where there is none.
    ///
    /// # Errors
    /// Somebody acts for it; it is damaged; what the host answers.
    pub fn take(home: &Path, id: &str, side: Side) -> Result<Option<(Journal, Said)>, JournalError> {
        let path = path_of(home, id, side);
        let file = match File::options().read(true).write(true).open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io("open", &path))?,
        };
        let mut journal = Journal { file, path, len: 0 };
        journal.lock()?;
        let read = journal.read()?;
        let Some((said, whole)) = read else { return Ok(None) };
        // What was cut short must not stand before what is written next.
        journal.len = whole as u64;
        journal.file.set_len(journal.len).map_err(io("write", &journal.path))?;
        Ok(Some((journal, said)))
    }

    /// What the journal of a migration says, whoever acts for it; none where there is none.
    ///
    /// # Errors
    /// It is damaged; what the host answers.
    pub fn look(home: &Path, id: &str, side: Side) -> Result<Option<Said>, JournalError> {
        let path = path_of(home, id, side);
        let file = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io("open", &path))?,
        };
        Ok(Journal { file, path, len: 0 }.read()?.map(|(said, _)| said))
    }

    fn lock(&self) -> Result<(), JournalError> {
        match flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(JournalError::InUse { path: self.path.clone() }),
            Err(e) => Err(io("lock", &self.path)(e.into())),
        }
    }

    fn read(&mut self) -> Result<Option<(Said, usize)>, JournalError> {
        let mut bytes = Vec::new();
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| (&self.file).take(MOST_FILE).read_to_end(&mut bytes))
            .map_err(io("read", &self.path))?;
        parse(&bytes).map_err(|why| JournalError::Damaged { path: self.path.clone(), why })
    }

    /// Adds a record: when this returns, it is durable.
    ///
    /// # Errors
    /// `NotWritten` if it is certainly not there; else, nobody knows whether it is durable, and nothing may be done that
    /// needs it or its absence.
    pub fn write(&mut self, r: Record, epoch: Epoch) -> Result<(), JournalError> {
        self.append(&record(r, epoch, now(), &[]))
    }

    /// Adds a record that nothing waits for: a crash of the host may take it, until another is written after it.
    ///
    /// # Errors
    /// As for [`Journal::write`].
    pub fn note(&mut self, r: Record, epoch: Epoch) -> Result<(), JournalError> {
        let bytes = record(r, epoch, now(), &[]);
        let written = self.file.write_all_at(&bytes, self.len);
        self.wrote(bytes.len(), written)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), JournalError> {
        let written = self.file.write_all_at(bytes, self.len).and_then(|()| self.file.sync_data());
        self.wrote(bytes.len(), written)
    }

    fn wrote(&mut self, len: usize, written: std::io::Result<()>) -> Result<(), JournalError> {
        let Err(source) = written else {
            self.len += len as u64;
            return Ok(());
        };
        // What may have been written of it is taken back; where that is durable, it was never there.
        match self.file.set_len(self.len).and_then(|()| self.file.sync_all()) {
            Ok(()) => Err(JournalError::NotWritten { path: self.path.clone(), source }),
            Err(_) => Err(io("write", &self.path)(source)),
        }
    }
}

/// The migrations of which a home has journals, by id and side.
///
/// # Errors
/// The folder cannot be read.
pub fn list(home: &Path) -> std::io::Result<Vec<(String, Side)>> {
    let mut all = Vec::new();
    let entries = match fs::read_dir(folder(home)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(all),
        other => other?,
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let split = name.rsplit_once('.');
        all.extend(split.and_then(|(id, side)| match side {
            "source" => Some((id.to_owned(), Side::Source)),
            "destination" => Some((id.to_owned(), Side::Destination)),
            _ => None,
        }));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detail() -> Detail {
        Detail { name: "web".into(), address: "127.0.0.1:4000".into(), token: "t".into(), plain: false }
    }

    #[test]
    fn what_was_written_is_said_after_a_crash() {
        let home = tempfile::tempdir().unwrap();
        let mut j = Journal::begin(home.path(), "a", Side::Source, 3, &detail()).unwrap();
        assert!(matches!(Journal::take(home.path(), "a", Side::Source), Err(JournalError::InUse { .. })));
        j.write(Record::Handed, 4).unwrap();
        assert_eq!(Journal::look(home.path(), "a", Side::Source).unwrap().unwrap().last, Record::Handed);
        drop(j);
        let (mut j, said) = Journal::take(home.path(), "a", Side::Source).unwrap().unwrap();
        assert_eq!((said.last, said.epoch, said.part, said.detail), (Record::Handed, 3, false, detail()));
        j.write(Record::Reclaimed, 5).unwrap();
        assert_eq!(j.read().unwrap().unwrap().0.last, Record::Reclaimed);
        assert!(Journal::begin(home.path(), "a", Side::Source, 3, &detail()).is_err(), "an id is used once");
        assert!(Journal::take(home.path(), "a", Side::Destination).unwrap().is_none());
        assert_eq!(list(home.path()).unwrap(), [("a".to_owned(), Side::Source)]);
    }

    #[test]
    fn a_record_that_is_cut_short_does_not_count_and_does_not_spoil_the_next() {
        let home = tempfile::tempdir().unwrap();
        let mut j = Journal::begin(home.path(), "a", Side::Destination, 3, &detail()).unwrap();
        j.write(Record::Ready, 3).unwrap();
        let path = path_of(home.path(), "a", Side::Destination);
        let file = fs::read(&path).unwrap();
        let whole = &file[..j.len as usize];
        assert!(file.len() >= whole.len() + ROOM / 2 && file[whole.len()..].iter().all(|b| *b == 0));
        drop(j);
        let first = parse(&whole[..whole.len() - 1]).unwrap().unwrap().1;
        for cut in first..whole.len() {
            // At the file's end, or in room that it had already.
            for room in [0, file.len() - cut] {
                fs::write(&path, [&whole[..cut], &vec![0; room]].concat()).unwrap();
                let (mut j, said) = Journal::take(home.path(), "a", Side::Destination).unwrap().unwrap();
                assert_eq!(said.last, Record::Begun, "cut at {cut} with room {room}");
                j.write(Record::Refused, 3).unwrap();
                assert_eq!(j.read().unwrap().unwrap().0.last, Record::Refused);
            }
        }
    }

    #[test]
    fn damage_before_the_end_decides_nothing() {
        let first = serde_json::to_vec(&detail()).unwrap();
        // Checksums of all kinds: some end in a byte of one bit.
        for time in 0..300 {
            let mut file = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
            file.extend(record(Record::Begun, 3, 0, &first));
            let begun = file.len();
            file.extend(record(Record::Handed, 4, time, b""));
            let end = file.len();
            file.resize(end + 64, 0);
            assert_eq!(
                parse(&file).unwrap().map(|(said, end)| (said.last, end)),
                Some((Record::Handed, end))
            );
            // With the room that it had, and as one that was taken over after a crash.
            for whole in [&file[..], &file[..end]] {
                for at in if time == 0 { 0 } else { begun }..whole.len() {
                    for bit in 0..8 {
                        let mut b = whole.to_vec();
                        b[at] ^= 1 << bit;
                        // A first record that ends beyond the file is one that was never written: then nothing was.
                        assert!(!matches!(parse(&b), Ok(Some(_))), "byte {at} bit {bit} at time {time}");
                    }
                }
            }
        }
    }

    #[test]
    fn records_come_in_an_order_that_there_can_be() {
        let body = |r| {
            record(
                r,
                1,
                0,
                if r == Record::Begun { b"{\"name\":\"\",\"address\":\"\",\"token\":\"\"}" } else { b"" },
            )
        };
        let file = |all: &[Record]| {
            let mut b = [&MAGIC[..], &VERSION.to_le_bytes()].concat();
            all.iter().for_each(|r| b.extend(body(*r)));
            parse(&b).map(|s| s.map(|(s, _)| s.last))
        };
        use Record::*;
        assert_eq!(file(&[Begun, Ready, Owner, Started]), Ok(Some(Started)));
        assert_eq!(file(&[Begun, ReadyPart, Owner, Started, Whole]), Ok(Some(Whole)));
        assert_eq!(file(&[Begun, HandedPart, Serving, Done]), Ok(Some(Done)));
        for bad in [
            &[Handed][..],
            &[Begun, Done],
            &[Begun, Aborted, Handed],
            &[Begun, Ready, Refused, Started],
            &[Begun, Handed, Serving],
            &[Begun, ReadyPart, Whole],
        ] {
            assert!(file(bad).is_err(), "{bad:?}");
        }
        assert_eq!(file(&[]), Ok(None));
    }
}
