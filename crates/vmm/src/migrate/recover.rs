//! What a crash left of a migration, decided from the journal of this host and the word of the other.
//!
//! The process that held the machine is gone, and its memory with it. A source asks the destination until that has
//! answered; a destination that never started it promises never to, and listens where it listened before, so that the
//! source hears that.

use super::{Moving, home_of};
use crate::exit::{Error, Kind, Result};
use crate::instances::Store;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};
use strata_migration::journal::{Journal, JournalError, Said, Side, list};
use strata_migration::link::{Link, Security};
use strata_migration::token::Token;
use strata_migration::wire::{
    Frame, Hello, NEWEST, OLDEST, Purpose, WireError, answer, greet, hear, receive, send,
};
use strata_migration::{Action, Destination, DestinationPhase, Event, Message, Source, SourcePhase};

/// How long a killed process may take to go.
const DYING: Duration = Duration::from_secs(5);

/// Which migration was decided about, and what has come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The migration.
    pub id: String,
    /// When its journal here was written last before this, in seconds since 1970.
    pub time: u64,
    /// What has come of it.
    pub outcome: Outcome,
}

/// What has come of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It runs, or ran last, at the destination.
    There,
    /// It is this host's; its memory is lost, and it can be started from its disks.
    Here,
    /// It never came here, and never will: the source can go on.
    NotHere,
}

/// Decides about the migration that the instance `name` was in when its process died; if it is in none, answers for the last
/// one by which it was to come here, whose source may not know what came of that. It waits for the other host for up to
/// `patience`. With `force` it does not ask: then a person has said that the other host runs nothing of it, never will, and
/// reaches no disk.
///
/// # Errors
/// `NotFound` if it is in none; `InUse` if a process of this host acts for it; `Network` if the other host does not answer.
pub fn recover(store: &Store, name: &str, patience: Duration, force: bool) -> Result<Recovered> {
    let dir = store.folder(name)?;
    let home = home_of(&dir);
    let moving = store.read(name).ok().and_then(|r| r.moving);
    let kept = moving.is_some();
    let none = || Error::new(Kind::NotFound, format!("The instance {name} is in no migration."));
    let Moving { id, side } = moving.or_else(|| once_here(&home, name)).ok_or_else(none)?;
    let found = take(&home, &id, side)?;
    let Some((journal, said)) = found else {
        if !kept {
            return Err(none());
        }
        let m = format!(
            "The journal of the migration {id} that {name} was in is not in {}: nothing is decided without it.",
            strata_migration::journal::folder(&home).display()
        );
        return Err(Error::new(Kind::BadInput, m));
    };
    let (bytes, time) = (id_bytes(&id)?, said.time);
    let until = Instant::now() + patience;
    let outcome = match side {
        Side::Source => source(journal, &said, bytes, until, force)?,
        Side::Destination => destination(journal, &said, bytes, until, force)?,
    };
    match (side, outcome) {
        _ if !kept => {}
        // Nothing of it is needed here any more.
        (Side::Source, Outcome::There) | (_, Outcome::NotHere) => {
            let instance = store.take_to_delete(name)?;
            if side == Side::Destination {
                super::disks::clear_up(instance.dir());
            }
            instance.delete()?;
        }
        // Its record follows the journal.
        _ => store.take(name)?.keep(),
    }
    Ok(Recovered { id, time, outcome })
}

/// Takes the journal. A process that was killed may hold it a moment longer, while its memory goes.
fn take(home: &Path, id: &str, side: Side) -> Result<Option<(Journal, Said)>> {
    let until = Instant::now() + DYING;
    loop {
        match Journal::take(home, id, side) {
            Err(JournalError::InUse { .. }) if Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => return Ok(other?),
        }
    }
}

/// The last migration by which an instance of that name was to come here, whatever came of it: its source may not know that.
fn once_here(home: &Path, name: &str) -> Option<Moving> {
    let all = list(home).ok()?.into_iter().filter(|(_, side)| *side == Side::Destination);
    let said =
        all.filter_map(|(id, side)| Some((Journal::look(home, &id, side).ok()??, Moving { id, side })));
    let mine = said.filter(|(said, _)| said.detail.name == name);
    mine.max_by_key(|(said, _)| said.time).map(|(_, moving)| moving)
}

fn id_bytes(id: &str) -> Result<[u8; 16]> {
    let bad = || Error::new(Kind::BadInput, "The instance's record names no migration that there can be.");
    let mut bytes = [0; 16];
    if id.len() != 32 || !id.is_ascii() {
        return Err(bad());
    }
    for (n, b) in bytes.iter_mut().enumerate() {
        let digits = id.get(n * 2..n * 2 + 2).ok_or_else(bad)?;
        *b = u8::from_str_radix(digits, 16).map_err(|_| bad())?;
    }
    Ok(bytes)
}

fn keys(said: &Said) -> Result<Token> {
    said.detail.token.parse().map_err(|_| Error::new(Kind::BadInput, "The migration's journal has no token."))
}

fn no_key(e: impl std::fmt::Display) -> Error {
    Error::new(Kind::BadInput, format!("The token in the migration's journal makes no key: {e}."))
}

fn silent(said: &Said) -> Error {
    let m = format!(
        "The destination {} does not answer. Run `strata migrate recover {}` there (or whatever its name is there) at the \
         same time as here, whether it runs there or its process died: that answers. Only if that host never comes back, and \
         nothing of the machine runs there, nor ever will, nor reaches its disks, say so here by `strata migrate recover \
         --force`.",
        said.detail.address, said.detail.name
    );
    Error::new(Kind::Network, m)
}

fn source(mut journal: Journal, said: &Said, id: [u8; 16], until: Instant, force: bool) -> Result<Outcome> {
    let token = keys(said)?;
    let hello = Hello { oldest: OLDEST, newest: NEWEST, purpose: Purpose::Control, id, secret: token.secret };
    let security =
        if said.detail.plain { Security::Plain } else { Security::source(&token).map_err(no_key)? };
    let (mut side, mut actions) = Source::recover(said.last, said.epoch, false);
    if force && !side.over() {
        (side, actions) = side.step(Event::Force);
    }
    let mut link = None;
    loop {
        for action in actions {
            match action {
                Action::Write(record, epoch) => journal.write(record, epoch)?,
                // Whoever does not hear it is asked again.
                Action::Send(m) => {
                    link = link.and_then(|mut l: Link| send(&mut l, &Frame::Core(m)).is_ok().then_some(l))
                }
                // Memory is not here, and disks are taken by whoever starts it.
                _ => {}
            }
        }
        match side.phase {
            SourcePhase::Done => return Ok(Outcome::There),
            SourcePhase::Aborted | SourcePhase::Reclaimed => return Ok(Outcome::Here),
            _ => {}
        }
        if Instant::now() > until {
            return Err(silent(said));
        }
        let heard = link.as_mut().and_then(hear_core);
        let event = match heard {
            Some(m) => Event::Got(m),
            None => {
                std::thread::sleep(Duration::from_millis(200));
                link = connect(&said.detail.address, &security, &hello);
                Event::Tick
            }
        };
        (side, actions) = side.step(event);
    }
}

fn connect(address: &str, security: &Security, hello: &Hello) -> Option<Link> {
    let mut link = Link::connect(address, security).ok()?;
    link.patience(Some(Duration::from_secs(5))).ok()?;
    greet(&mut link, hello).ok()?;
    Some(link)
}

fn hear_core(link: &mut Link) -> Option<Message> {
    match receive(link, &mut Vec::new()) {
        Ok(Frame::Core(m)) => Some(m),
        _ => None,
    }
}

fn destination(
    mut journal: Journal,
    said: &Said,
    id: [u8; 16],
    until: Instant,
    force: bool,
) -> Result<Outcome> {
    let token = keys(said)?;
    let (side, actions) = Destination::recover(Some(said.last), said.part, said.epoch, false);
    for action in actions {
        if let Action::Write(record, epoch) = action {
            journal.write(record, epoch)?;
        }
    }
    let outcome = if side.phase == DestinationPhase::Crashed { Outcome::There } else { Outcome::NotHere };
    if !force {
        answer_source(said, &token, id, side, until)?;
    }
    Ok(outcome)
}

/// Listens where it listened before, until the source has heard how it stands, or nobody asks.
fn answer_source(
    said: &Said,
    token: &Token,
    id: [u8; 16],
    side: Destination,
    until: Instant,
) -> Result<(), Error> {
    let address = &said.detail.address;
    let listener = loop {
        match TcpListener::bind(address) {
            // A process that is about to end may have it a moment longer.
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            other => break other.map_err(|e| Error::io(format_args!("listen at {address}"), e))?,
        }
    };
    listener.set_nonblocking(true).map_err(|e| Error::io("listen", e))?;
    let security = match said.detail.plain {
        true => Security::Plain,
        false => Security::destination(&token.secret, &token.fingerprint).map_err(no_key)?,
    };
    while Instant::now() < until {
        let Ok((tcp, _)) = listener.accept() else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        let told = tcp.set_nonblocking(false).map_err(WireError::from).and_then(|()| {
            let mut link = Link::over(tcp, &security)?;
            let hello = hear(&mut link)?;
            answer(&mut link, &hello, &token.secret)?;
            let mut told = false;
            // The same token may have let another migration in.
            if hello.id != id {
                return Ok(told);
            }
            while let Ok(Frame::Core(m)) = receive(&mut link, &mut Vec::new()) {
                for action in side.step(Event::Got(m)).1 {
                    if let Action::Send(m) = action {
                        send(&mut link, &Frame::Core(m))?;
                        told = true;
                    }
                }
            }
            Ok(told)
        });
        if matches!(told, Ok(true)) {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use strata_migration::Record;
    use strata_migration::journal::Detail;

    const SECRET: [u8; 32] = [5; 32];

    fn journal(home: &Path, id: u8, address: &str, records: &[Record]) {
        let token = Token { secret: SECRET, fingerprint: [6; 32] }.to_string();
        let detail = Detail { name: "web".into(), address: address.into(), token, plain: true };
        let id = strata_snapshot::hex(&[id; 16]);
        let mut journal = Journal::begin(home, &id, Side::Destination, 5, &detail).unwrap();
        records.iter().for_each(|r| journal.write(*r, 5).unwrap());
    }

    /// What a source hears that has handed its machine over by the migration `id`.
    fn ask(address: &str, id: u8) -> Option<Message> {
        let (id, secret) = ([id; 16], SECRET);
        let hello = Hello { oldest: OLDEST, newest: NEWEST, purpose: Purpose::Control, id, secret };
        let mut link = connect(address, &Security::Plain, &hello)?;
        send(&mut link, &Frame::Core(Message::Commit)).ok()?;
        hear_core(&mut link)
    }

    #[test]
    fn the_last_migration_is_answered_for_and_no_other_whatever_came_of_it() {
        let home = tempfile::tempdir().unwrap();
        let ports = [0; 2].map(|_| TcpListener::bind("127.0.0.1:0").unwrap());
        let [old, new] = ports.map(|l| l.local_addr().unwrap().to_string());
        journal(home.path(), 9, &old, &[Record::Ready, Record::Refused]);
        // A journal's time is in whole seconds.
        std::thread::sleep(Duration::from_millis(1100));
        journal(home.path(), 2, &new, &[Record::Ready, Record::Owner, Record::Started]);
        let store = Store::at(home.path()).unwrap();
        let recovered = std::thread::scope(|s| {
            let recovered = s.spawn(|| recover(&store, "web", Duration::from_secs(20), false));
            let begun = Instant::now();
            while TcpStream::connect(&new).is_err() {
                assert!(begun.elapsed() < Duration::from_secs(10), "nobody listens for the last one");
                std::thread::sleep(Duration::from_millis(10));
            }
            assert_eq!(ask(&new, 9), None, "it is answered for another");
            assert_eq!(ask(&new, 2), Some(Message::Running));
            recovered.join().unwrap().unwrap()
        });
        assert_eq!((recovered.outcome, recovered.id), (Outcome::There, "02".repeat(16)));
    }

    #[test]
    fn without_a_journal_nothing_is_decided_and_no_way_out_is_named_that_is_none() {
        let (home, ..) = crate::migrate::tests::instance(Side::Source, &[Record::Handed]);
        std::fs::remove_dir_all(home.path().join("migrations")).unwrap();
        let store = Store::at(home.path()).unwrap();
        let e = recover(&store, "web", Duration::ZERO, true).unwrap_err();
        assert!(e.kind == Kind::BadInput && !e.message.contains("--force"), "{e}");
        let e = recover(&store, "db", Duration::ZERO, true).unwrap_err();
        assert_eq!(e.kind, Kind::NotFound, "{e}");
    }

    #[test]
    fn who_hears_nothing_is_told_to_ask_there_before_deciding_alone() {
        let home = tempfile::tempdir().unwrap();
        journal(home.path(), 1, "127.0.0.1:9", &[]);
        let said = Journal::look(home.path(), &"01".repeat(16), Side::Destination).unwrap().unwrap();
        let text = silent(&said).message;
        let at = |what| text.find(what).unwrap();
        assert!(at("migrate recover web` there") < at("Only if") && at("Only if") < at("--force"), "{text}");
    }
}
