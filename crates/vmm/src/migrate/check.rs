//! Whether an offered machine can come: everything that would make it fail later, found before anything is sent.

use super::Arrival;
use super::disks::{Plan, holder, plan};
use super::files::here;
use super::pulling::cannot_wait;
use crate::arch::{Arch, processor::meets, ready};
use crate::exit::{Error, Kind, Result};
use crate::instances::Store;
use crate::runtime::Runtime;
use crate::spec::{NetSpec, host_memory};
use crate::{InstanceRecord, home};
use std::path::PathBuf;
use strata_block::Owner;
use strata_migration::wire::{Accept, Offer};

/// An offered machine that can come.
pub(super) struct Coming {
    /// As what.
    pub(super) record: InstanceRecord,
    /// How its disks come.
    pub(super) disks: Plan,
    /// For each of its files: where the same is here, if it is.
    pub(super) found: Vec<Option<PathBuf>>,
    /// What a person should know.
    pub(super) notes: Vec<String>,
    /// Why it could not run here before all of its memory is there, if it could not.
    pub(super) whole_only: Option<String>,
}

impl Coming {
    /// The answer to the source.
    pub(super) fn accept(&self) -> Accept {
        let wants = (0..).zip(&self.found).filter_map(|(n, f)| f.is_none().then_some(n)).collect();
        Accept {
            producer: concat!("strata ", env!("CARGO_PKG_VERSION")).into(),
            name: self.record.name.clone(),
            wants,
            disks: self.disks.ways(),
            holder: Some(holder(&Owner::this_process(&self.record.name), 0)),
            notes: self.notes.clone(),
            verify: true,
            whole_only: self.whole_only.clone(),
        }
    }
}

/// Whether the machine can come.
pub(super) fn check(ask: &Arrival, offer: &Offer) -> Result<Coming> {
    let bad = |why: String| Error::new(Kind::BadInput, format!("The offered machine {why}."));
    let m = &offer.machine;
    let board = strata_machine::Board::by_name(&m.board);
    let Some(board) = board.filter(|b| strata_machine::engine_of(*b) == m.engine) else {
        let m = format!(
            "The machine has board {} and engine {}, which this strata does not have together.",
            m.board, m.engine
        );
        return Err(Error::new(Kind::Host, m));
    };
    let mut record = InstanceRecord::parse(offer.instance.to_string().as_bytes())
        .map_err(|e| bad(format!("has no usable record: {e}")))?;
    let (cpus, memory, arch) = (record.cpus, record.memory, record.arch);
    if (m.cpus, m.memory, board) != (cpus, memory, arch.board()) || record.deterministic.is_some() {
        return Err(bad("says two things about itself".into()));
    }
    if board.ram_regions(memory).len() != 1 {
        return Err(bad("has memory in more than one region".into()));
    }
    let notes = ready(arch, record.engine, record.cpu.as_deref())?.into_iter().collect();
    if arch == Arch::Amd64 {
        let none = || bad("does not say what processor its guest has seen".into());
        meets(offer.processor.as_ref().ok_or_else(none)?, cpus)?;
    }
    record.name = ask.name.clone().unwrap_or(record.name);
    match (&ask.net, &record.net) {
        (Some(NetSpec::None), old) if *old != NetSpec::None => {
            return Err(Error::new(Kind::Config, "The machine has a network card: give a --net that fits."));
        }
        (Some(new), NetSpec::None) if *new != NetSpec::None => {
            return Err(Error::new(Kind::Config, "The machine has no network card: leave --net out."));
        }
        (Some(new), _) => record.net = new.clone(),
        (None, _) => {}
    }
    record.created = crate::now();
    (record.ephemeral, record.suspended, record.renewed, record.at) = (false, None, false, None);
    (record.under, record.line) = (None, Vec::new());
    (record.epoch, record.moving) = (offer.epoch, None);
    let store = Store::open()?;
    let dir = store.free(&record.name)?;
    let disks = plan(ask, offer, &mut record)?;
    disks.name(&mut record)?;
    disks.room(offer, dir.parent().unwrap_or(&dir))?;
    if Runtime::open()?.is_running(&record.name) {
        return Err(Error::new(
            Kind::InUse,
            format!("A machine named {} runs here: choose another --name.", record.name),
        ));
    }
    let mut spec = record.spec_in(&dir);
    // They are to come; what is checked is that there are some.
    spec.kernel = record.kernel.clone();
    spec.check()?;
    if host_memory().is_some_and(|has| has < record.memory) {
        return Err(Error::new(Kind::Host, "The host has less memory than the machine."));
    }
    let images = home()?.join("images");
    let found = offer.files.iter().map(|f| here(&images, f)).collect();
    let whole_only = if arch == Arch::Amd64 { cannot_wait() } else { None };
    Ok(Coming { record, disks, found, notes, whole_only })
}
