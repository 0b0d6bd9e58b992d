//! What others ask of a migration that is under way, what it tells them, and whether there can be one.

use crate::InstanceRecord;
use crate::exit::{Error, Kind, Result};
use crate::instances::snapshots::manifests;
use crate::migrate::{Departure, Figures, Step};
use crate::server::Shared;
use serde_json::json;
use std::path::Path;
use strata_memory::{GuestRam, PAGE};

/// What is asked of a migration that is under way, and what it tells.
#[derive(Default)]
pub(in crate::server) struct Migration {
    pub(in crate::server) figures: Option<Figures>,
    pub(in crate::server) cancelled: bool,
    /// Where it went, when it has.
    pub(in crate::server) moved: Option<String>,
    /// It runs elsewhere, and fetches memory from here.
    pub(in crate::server) serving: bool,
    /// A lost connection is to be made again at once.
    pub(in crate::server) again: bool,
    /// The destination is given up by a person.
    pub(in crate::server) give_up: bool,
    /// It was, and the machine's memory with it.
    pub(in crate::server) given_up: bool,
}

impl Shared {
    pub(in crate::server) fn figure(&self, change: impl FnOnce(&mut Figures)) {
        let mut p = self.lock();
        change(p.migration.figures.get_or_insert_with(Figures::default));
    }

    pub(super) fn step(&self, step: Step) {
        self.figure(|f| f.step = step);
        self.publish(crate::protocol::event::MIGRATION, json!(self.figures()));
    }

    /// Where it is, if it is anywhere, and how much it is slowed at this moment.
    fn figures(&self) -> Option<Figures> {
        let figures = self.lock().migration.figures.clone()?;
        let throttle = self.machine.ram().map_or(0, |ram| ram.throttle().rate() * PAGE);
        Some(Figures { throttle, ..figures })
    }
}

/// Where it is, if it is anywhere.
pub(in crate::server) fn status(shared: &Shared) -> Result<Figures> {
    shared.figures().ok_or_else(|| {
        Error::new(Kind::NotFound, format!("The machine {} is in no migration.", shared.spec.name))
    })
}

/// Asks a migration to stay where it is.
pub(in crate::server) fn cancel(shared: &Shared) -> Result<()> {
    let mut p = shared.lock();
    match p.migration.figures.as_ref().map(|f| f.step) {
        None | Some(Step::Moved | Step::Stayed) => {
            Err(Error::new(Kind::NotFound, format!("The machine {} is in no migration.", shared.spec.name)))
        }
        Some(Step::Commitment | Step::Activation | Step::Pulling) => {
            let m = format!(
                "The machine {} has been handed over: whether it runs there only the destination can say.",
                shared.spec.name
            );
            Err(Error::new(Kind::Refused, m))
        }
        _ => {
            p.migration.cancelled = true;
            Ok(())
        }
    }
}

/// Whether the machine can go at all.
pub(super) fn movable(
    shared: &Shared,
    ask: &Departure,
    dir: &Path,
    record: &InstanceRecord,
) -> Result<GuestRam> {
    let name = &shared.spec.name;
    let no = |why: &str| Err(Error::new(Kind::Refused, format!("{name} {why}")));
    if record.own_disk(dir).is_some() && !ask.with_disks {
        return no(
            "has a disk of its own, which is in its folder here: say --with-disks to have it sent along.",
        );
    }
    if !manifests(dir)?.is_empty() && !ask.without_snapshots {
        return no(
            "has snapshots, which would not go with it: export them first, and say --without-snapshots to have them removed \
             here when it has gone.",
        );
    }
    if record.deterministic.is_some() {
        return no("is deterministic: what its clock counts would not go on as it did.");
    }
    if shared.machine.phase() != "running" {
        return no(&format!("is {}: only a running machine can be migrated.", shared.machine.phase()));
    }
    if ask.throttle && shared.machine.stands_while_copied() {
        return no("runs on KVM, whose vCPUs write without asking: leave out --throttle.");
    }
    match shared.machine.ram() {
        Some(ram) if ram.regions().len() == 1 => Ok(ram),
        Some(_) => no("has more than 3 GiB of memory, in two regions: such machines cannot be migrated yet."),
        None => no("is of a kind that cannot be migrated."),
    }
}
