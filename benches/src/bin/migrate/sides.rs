//! Where a machine moves, and what is measured of that from outside, whichever program it runs on.

use crate::guest::{Guest, Load};
use crate::pace::{Cost, Ear};
use crate::probe::Probe;
use crate::wires::Way;
use anyhow::Result;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a migration may take.
pub const LIMIT: Duration = Duration::from_secs(120);
/// How long probes go on after it.
const AFTER: Duration = Duration::from_millis(1500);
/// How long the machine runs before it goes.
const BEFORE: Duration = Duration::from_secs(4);
/// How long it is probed before it goes.
const PROBED: Duration = Duration::from_millis(500);
/// The guest's address.
const GUEST: std::net::Ipv4Addr = std::net::Ipv4Addr::new(10, 9, 0, 2);

/// What a program says of a migration that came to an end, in milliseconds.
#[derive(Clone, Copy)]
pub struct Said {
    /// For how long the machine stood still.
    pub downtime: f64,
    /// The same, as it was expected just before.
    pub predicted: f64,
}

/// What came of one migration, in milliseconds and bytes.
#[derive(Clone, Debug)]
pub struct Figures {
    /// The longest time without an answer, as a peer saw it.
    pub outage: f64,
    /// When that began, since the command: the switch, as seen from outside.
    pub switch: f64,
    /// For how long the machine stood still, as the program says.
    pub downtime: f64,
    /// The same, as it was expected just before.
    pub predicted: f64,
    /// From the command until all of it was there.
    pub total: f64,
    /// Bytes that the source's host has put on the wire.
    pub bytes: u64,
    /// What the guest did not get done.
    pub cost: Cost,
}

/// Where it happens.
pub struct Stage<'a> {
    /// From where to where.
    pub way: Way<'a>,
    /// What the machine is started from.
    pub guest: &'a Guest,
    /// A folder for what both programs keep.
    pub dir: &'a Path,
    /// How much memory it has, in MiB.
    pub memory: u64,
    /// What the guest does.
    pub load: &'a Load,
}

impl Stage<'_> {
    /// Has `go` move the machine; measures from outside.
    pub fn measured(&self, go: impl FnOnce() -> Result<Option<Said>>) -> Result<Option<Figures>> {
        let ear = Ear::begin()?;
        std::thread::sleep(BEFORE);
        let before = self.way.sent()?;
        let probe = Probe::begin(GUEST)?;
        std::thread::sleep(PROBED);
        let begun = Instant::now();
        let gone = go();
        let took = begun.elapsed();
        std::thread::sleep(AFTER);
        let (probed, pace, bytes) = (probe.end(begun), ear.end(), self.way.sent()? - before);
        let Some(said) = gone? else { return Ok(None) };
        let ((switch, outage), cost) = (probed?, pace?.cost(begun, took, AFTER)?);
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        Ok(Some(Figures {
            outage: ms(outage),
            switch: ms(switch.saturating_duration_since(begun)),
            downtime: said.downtime,
            predicted: said.predicted,
            total: ms(took),
            bytes,
            cost,
        }))
    }
}
