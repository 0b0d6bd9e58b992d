//! The source of a migration: a running machine is sent to another host, in six steps that can be watched.
//!
//! ```text
//!  pre-migration ─► reservation ─► iterative copy ─► stop and copy ─► commitment ─► activation ─► moved
//!        └───────────────┴───────────────┴─────────────────┴──► stayed   (not from commitment: only the other
//!                                                                          side's word brings it back)
//! ```
//! The core (`strata_migration::Source`) decides; this carries its actions out, in their order.
//!
//! vCPUs on KVM write without asking, and what they wrote is known when it is collected from the kernel's log: at each new
//! epoch, before the pages of the round that follows are read. So whatever is written while or after a page is read is in
//! a later round, and what a round passes over since it was written again is no more than devices have marked.

mod actions;
mod asked;
mod behind;
mod brake;
mod copying;
mod disks;
mod handing;
mod serving;

pub(super) use asked::{Migration, cancel, status};
pub(super) use serving::{gone, recover};

use self::asked::movable;
use self::behind::Behind;
use self::brake::Brake;
use self::disks::Leaving;
use super::Shared;
use crate::convert::paragraph;
use crate::exit::{Error, Kind, Result};
use crate::instances::saved::{read_record, write_record};
use crate::migrate::files::{Outgoing, outgoing};
use crate::migrate::{
    Departure, Figures, GUEST_FIRST, Moving, Step, Strategy, home_of, prune_journals, refused,
};
use crate::spec::NetSpec;
use crate::{InstanceRecord, name};
use serde_json::json;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};
use strata_memory::{GuestRam, PAGE};
use strata_migration::Source;
use strata_migration::journal::{Detail, Journal, Side};
use strata_migration::late::Serving;
use strata_migration::link::{Link, Security};
use strata_migration::rounds::{Follow, Rounds};
use strata_migration::streams::{Meter, Streams};
use strata_migration::token::Token;
use strata_migration::wire::{
    Accept, FORWARDS, Frame, Hello, Holder, MAX_STREAMS, NEWEST, OLDEST, Offer, PACKED, POST_COPY, Purpose,
    greet, receive, send,
};
use strata_snapshot::MachineRef;

/// How long the destination may take to say that it is ready, while the machine stands.
const READY: Duration = Duration::from_secs(20);
/// How long the destination may take to find out whether the machine can come.
const COMPARED: Duration = Duration::from_secs(180);
/// How long it may be silent else.
const LOST: Duration = Duration::from_secs(15);
/// How long between two attempts to reach a destination that may have the machine.
const AGAIN: Duration = Duration::from_millis(200);
/// The part of a downtime that does not come from memory, before one has been measured.
const FIXED: Duration = Duration::from_millis(4);

/// Sends the machine away; returns when it runs there, or goes on here, which is an error that says why.
pub(super) fn migrate(shared: &Shared, ask: &Departure, cancelled: &AtomicBool) -> Result<Figures> {
    // No snapshot and no suspend meanwhile.
    let _saving = shared.saving.lock().unwrap_or_else(|e| e.into_inner());
    let begun = Instant::now();
    shared.lock().migration = Migration::default();
    let mut log = Log { shared, ends: !shared.machine.logs_writes() };
    shared.figure(|f| {
        (f.address, f.memory) = (ask.address.clone(), shared.spec.memory);
    });
    let done = Attempt::new(shared, ask, cancelled).and_then(Attempt::run);
    shared.figure(|f| f.took = begun.elapsed().as_millis() as u64);
    log.ends &= done.is_err() || ask.dry_run;
    drop(log);
    match done {
        Ok(_) if ask.dry_run => shared.step(Step::Stayed),
        Ok(behind) => {
            shared.step(Step::Moved);
            shared.lock().migration.moved = Some(ask.address.clone());
            // Where both hosts are one, it has the processors first.
            std::thread::sleep(GUEST_FIRST);
            drop(behind);
            shared.stop("`strata migrate`");
        }
        Err(e) => {
            shared.step(Step::Stayed);
            shared.publish_phase();
            if shared.lock().migration.given_up {
                shared.stop("`strata migrate recover --force`");
            }
            return Err(e);
        }
    }
    status(shared)
}

/// The log of what a machine on KVM writes: where it was begun for a migration it ends with that, since it costs a machine
/// that runs on here.
struct Log<'a> {
    shared: &'a Shared,
    ends: bool,
}

impl Drop for Log<'_> {
    fn drop(&mut self) {
        if self.ends {
            self.shared.machine.stop_log();
        }
    }
}

fn cancelled() -> Error {
    Error::new(Kind::Cancelled, "The migration was cancelled; the machine runs on here.")
}

/// One attempt.
struct Attempt<'a> {
    shared: &'a Shared,
    ask: &'a Departure,
    cancelled: &'a AtomicBool,
    security: Security,
    hello: Hello,
    control: Option<Link>,
    ram: GuestRam,
    brake: Brake,
    record: InstanceRecord,
    files: Vec<Outgoing>,
    disks: Vec<Leaving>,
    side: Source,
    journal: Option<Journal>,
    streams: Option<Streams>,
    rounds: Rounds,
    meter: Arc<Meter>,
    /// The version of the protocol that is spoken.
    version: u16,
    /// Its memory cannot follow it to that host.
    whole_only: bool,
    /// The rest is to follow the machine.
    follow: bool,
    urgent: Option<Link>,
    serving: Option<Serving>,
    /// From when on memory differs from what was sent.
    epoch: u32,
    /// Held while it must not be let go by anybody else.
    turn: Option<MutexGuard<'a, ()>>,
    froze: Option<Instant>,
    hot_paths: u64,
    /// Numbers of the files that the destination does not have.
    wants: Vec<u16>,
    /// Who will have disks that are handed over.
    next_holder: Option<Holder>,
    /// Bytes of disks that the link took in a second.
    disk_rate: f64,
    /// Whether its place on the network was left.
    left: bool,
    /// By which frames that come there are to be sent after it.
    network: Option<Link>,
    /// Who sends them.
    behind: Option<Behind>,
}

impl<'a> Attempt<'a> {
    fn new(shared: &'a Shared, ask: &'a Departure, cancelled: &'a AtomicBool) -> Result<Attempt<'a>> {
        let dir = super::saving::instance(shared)?;
        let record = read_record(dir)?;
        super::saving::whole(shared)?;
        let ram = movable(shared, ask, dir, &record)?;
        if ask.throttle && !matches!(ask.strategy, Strategy::Auto | Strategy::Precopy) {
            let m = "A machine is only slowed down while it is copied round by round: --throttle goes with --strategy auto or \
                     precopy.";
            return Err(Error::new(Kind::Usage, m));
        }
        let token: Token =
            ask.token.parse().map_err(|e| Error::new(Kind::Usage, paragraph(&format!("{e}"))))?;
        let internal = |e| Error::new(Kind::Internal, format!("The token makes no key: {e}."));
        let security =
            if ask.plain { Security::Plain } else { Security::source(&token).map_err(internal)? };
        let hello = Hello {
            oldest: OLDEST,
            newest: NEWEST,
            purpose: Purpose::Control,
            id: name::random()?,
            secret: token.secret,
        };
        let pages = ram.regions().first().map_or(0, |r| r.pages().pages());
        let limit = Duration::from_millis(ask.max_downtime);
        Ok(Attempt {
            shared,
            ask,
            cancelled,
            security,
            hello,
            control: None,
            brake: Brake::on(&ram),
            ram,
            files: outgoing(&record)?,
            disks: disks::leaving(shared, dir, &record)?,
            side: Source::new(record.epoch),
            record,
            journal: None,
            streams: None,
            rounds: Rounds::new(pages, limit, FIXED),
            meter: Arc::default(),
            version: OLDEST,
            whole_only: false,
            follow: false,
            urgent: None,
            serving: None,
            epoch: 0,
            turn: None,
            froze: None,
            hot_paths: 0,
            wants: Vec::new(),
            next_holder: None,
            disk_rate: 0.0,
            left: false,
            network: None,
            behind: None,
        })
    }

    fn dir(&self) -> Result<&'a Path> {
        super::saving::instance(self.shared)
    }

    fn connect(&self, purpose: Purpose) -> Result<Link> {
        let mut link = Link::connect(&self.ask.address, &self.security)?;
        greet(&mut link, &Hello { purpose, ..self.hello })?;
        Ok(link)
    }

    fn control(&mut self) -> Result<&mut Link> {
        self.control
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Network, "The connection to the destination is gone."))
    }

    fn stop_asked(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) || self.shared.lock().migration.cancelled
    }

    fn check_cancelled(&self) -> Result<()> {
        if self.stop_asked() { Err(cancelled()) } else { Ok(()) }
    }

    /// Gives who still looks after its place on the network, if anybody does.
    fn run(mut self) -> Result<Option<Behind>> {
        self.compare()?;
        if self.ask.dry_run {
            return self.forecast().map(|()| None);
        }
        let sent = self.reserve().and_then(|()| self.copy()).and_then(|()| self.hand_over());
        match sent {
            Ok(()) => Ok(self.behind.take()),
            Err(e) => Err(self.stay(e)),
        }
    }

    /// Step one: everything that would make it fail later is found here.
    fn compare(&mut self) -> Result<()> {
        self.shared.figure(|f| f.id = strata_snapshot::hex(&self.hello.id));
        self.shared.step(Step::PreMigration);
        let mut control = Link::connect(&self.ask.address, &self.security)?;
        self.version = greet(&mut control, &self.hello)?;
        self.control = Some(control);
        if self.ask.strategy.follows() && self.version < POST_COPY {
            let m = format!(
                "The strata at {} speaks version {} of the migration protocol, which has no post-copy: use --strategy \
                 precopy, or a newer strata there.",
                self.ask.address, self.version
            );
            return Err(Error::new(Kind::Protocol, m));
        }
        let spec = &self.shared.spec;
        let board = spec.arch.board();
        let (board, engine) = (board.name().into(), strata_machine::engine_of(board).into());
        let offer = Offer {
            producer: concat!("strata ", env!("CARGO_PKG_VERSION")).into(),
            machine: MachineRef { board, engine, cpus: spec.cpus, memory: spec.memory },
            instance: json!(self.record),
            epoch: self.record.epoch + 1,
            files: self.files.iter().map(|f| f.offer.clone()).collect(),
            disks: self.disks.iter().map(|d| d.offer(self.ask.with_disks)).collect(),
            dry_run: self.ask.dry_run,
            verify: self.ask.verify,
            processor: self.processor()?,
        };
        let control = self.control()?;
        send(control, &Frame::Offer(offer))?;
        // It may have to look for files that are large.
        control.patience(Some(COMPARED)).map_err(|e| Error::io("wait for the destination", e))?;
        let Accept { name, mut notes, wants, disks, holder, verify, whole_only, .. } =
            match receive(control, &mut Vec::new())? {
                Frame::Accept(a) => a,
                Frame::Refuse(no) => return Err(refused(no)),
                _ => {
                    return Err(Error::new(
                        Kind::Protocol,
                        "The destination answers an offer with something else.",
                    ));
                }
            };
        control.patience(Some(LOST)).map_err(|e| Error::io("wait for the destination", e))?;
        if self.ask.verify && !verify {
            let m = format!("The strata at {} cannot compare memory: leave out --verify.", self.ask.address);
            return Err(Error::new(Kind::Protocol, m));
        }
        if self.ask.strategy.follows()
            && let Some(why) = &whole_only
        {
            let m = format!(
                "It cannot run there before all of its memory is there. {why} Or use --strategy precopy."
            );
            return Err(Error::new(Kind::Refused, m));
        }
        self.whole_only = whole_only.is_some();
        (self.wants, self.next_holder) = (wants, holder);
        self.choose(&disks, &mut notes)?;
        let open = self.shared.machine.open_flows().len();
        if open > 0 && matches!(self.shared.spec.net, NetSpec::User { .. }) {
            notes.push(format!(
                "{open} connections of its user-mode network are open now: they would be reset."
            ));
        }
        let warning = match (self.ask.strategy, self.can_follow()) {
            (Strategy::PostCopy | Strategy::Hybrid, _) => Some("With this strategy it runs there"),
            (Strategy::Auto, true) => Some("If it writes faster than the link carries, it runs there"),
            _ => None,
        };
        notes.extend(warning.map(|w| {
            format!(
                "{w} before all of its memory is there: until that has followed, the loss of either host loses the machine's \
                 memory. A lost connection only makes it wait."
            )
        }));
        self.shared.figure(|f| (f.name, f.notes) = (name, notes));
        Ok(())
    }

    /// What a migration now would be like, from what the machine writes in a second. The machine stays.
    fn forecast(&mut self) -> Result<()> {
        // While it runs: where this is what begins the log, it takes a while.
        self.shared.machine.collect_writes()?;
        self.new_epoch()?;
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            self.check_cancelled()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        let written = self.new_epoch()?.len() as u64 * PAGE;
        let region = self.ram.regions().first();
        let there = region.map_or(0, |r| r.pages().marked(None).0.len() as u64 * PAGE);
        self.shared.figure(|f| {
            f.dirty_rate = (written as f64 / begun.elapsed().as_secs_f64()) as u64;
            f.pending = [there / PAGE, 0];
        });
        Ok(())
    }

    /// Step two: from here on both sides have a journal, and the machine's memory has a place there.
    fn reserve(&mut self) -> Result<()> {
        self.shared.step(Step::Reservation);
        let dir = self.dir()?;
        let id = strata_snapshot::hex(&self.hello.id);
        let Departure { address, token, plain, .. } = self.ask.clone();
        let detail = Detail { name: self.record.name.clone(), address, token, plain };
        prune_journals(&home_of(dir));
        self.journal = Some(Journal::begin(&home_of(dir), &id, Side::Source, self.record.epoch, &detail)?);
        self.record.moving = Some(Moving { id, side: Side::Source });
        write_record(dir, &self.record)?;
        let streams = self.ask.streams.clamp(1, MAX_STREAMS);
        let links: Result<Vec<Link>> = (0..streams).map(|n| self.connect(Purpose::Pages(n))).collect();
        self.streams = Some(Streams::new(links?, self.version >= PACKED));
        if self.version >= FORWARDS && self.shared.machine.port().is_some() {
            self.network = Some(self.connect(Purpose::Network)?);
        }
        if self.ask.throttle {
            self.rounds.let_slow();
        }
        let follow = match self.ask.strategy {
            Strategy::Auto if self.can_follow() => Follow::IfNeeded,
            Strategy::PostCopy | Strategy::Hybrid => Follow::Soon,
            _ => return Ok(()),
        };
        self.rounds.let_follow(follow);
        self.connect_urgent()
    }
}
