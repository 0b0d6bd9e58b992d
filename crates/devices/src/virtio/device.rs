//! What tells one kind of virtio device from another, and what all of them write down.
//!
//! A kind is data: an ID, queues, features, a config space and its own share of the record. It has no registers
//! (the transport's), no rings ([`super::core`]'s) and no host side (its worker's).

use super::virtqueue::QueueState;
use strata_memory::GuestRam;
use strata_state::{Record, StateError};

/// Device status bits (§2.1).
pub mod status {
    /// The driver gave up.
    pub const FAILED: u8 = 0x80;
    /// The device met nonsense and serves nothing until it is reset.
    pub const NEEDS_RESET: u8 = 0x40;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u8 = 8;
    /// The driver is ready.
    pub const DRIVER_OK: u8 = 4;
    /// All bits that a driver may set: these, ACKNOWLEDGE (1) and DRIVER (2).
    pub const DRIVER_BITS: u8 = FAILED | FEATURES_OK | DRIVER_OK | 3;
}

/// Feature bits that belong to no kind of device (§6).
pub mod feature {
    /// Indirect descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Event suppression by index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// Not a legacy device; we serve no driver without it.
    pub const VERSION_1: u64 = 1 << 32;
    /// What every device here offers. F_RING_RESET, F_RING_PACKED and F_ACCESS_PLATFORM are not among it.
    pub const COMMON: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}

/// Interrupt causes (§4.2.2, InterruptStatus; §4.1.4.5).
pub mod isr {
    /// A used ring moved.
    pub const USED: u8 = 1;
    /// The config space or the status changed.
    pub const CONFIG: u8 = 2;
}

strata_state::state! {
    /// A completion that could not be written to its used ring yet.
    pub struct Completion("virtio-completion", 1) {
        /// Queue.
        1 queue: u16,
        /// Head of the chain.
        2 head: u16,
        /// Bytes written to it.
        3 len: u32,
    }
}

strata_state::state! {
    /// What every virtio device keeps, on any transport.
    pub struct VirtioState("virtio", 1) {
        /// Device status.
        1 status: u8,
        /// Features that the driver has accepted.
        2 driver_features: u64,
        /// Which 32 of the device's features are shown.
        3 device_features_sel: u32,
        /// Which 32 of the driver's features are written.
        4 driver_features_sel: u32,
        /// Queue that the queue registers speak of.
        5 queue_sel: u32,
        /// Interrupt causes not yet acknowledged.
        6 isr: u8,
        /// Counts changes of the config space.
        7 config_generation: u32,
        /// The queues, by number.
        8 queues: Vec<QueueState>,
        /// Completions that wait for a page.
        9 undelivered: Vec<Completion>,
    }
}

/// Name and largest size of one queue.
#[derive(Clone, Copy, Debug)]
pub struct QueueSpec {
    /// The specification's name for it.
    pub name: &'static str,
    /// Most entries; a power of two.
    pub max: u16,
}

/// What tells one kind of device from another: pure data and its own part of the state.
pub trait Device: Send + 'static {
    /// Its record: a [`VirtioState`] and what the device adds.
    type State: Record + Clone;
    /// Device ID (§5).
    const ID: u32;
    /// Name for messages.
    const NAME: &'static str;
    /// Its queues.
    const QUEUES: &'static [QueueSpec];
    /// How many of them devices of older builds had: their states still load, and the others are as after a reset.
    const QUEUES_ONCE: usize = Self::QUEUES.len();
    /// Features offered beside [`feature::COMMON`].
    fn features(&self) -> u64;
    /// The config space as the driver reads it; writes to it are ignored.
    fn config(&self) -> &[u8];
    /// The whole record.
    fn pack(&self, transport: VirtioState) -> Self::State;
    /// The record after a reset.
    fn fresh(&self, transport: VirtioState) -> Self::State;
    /// The transport's share of a record.
    fn transport(state: &Self::State) -> &VirtioState;
    /// Refuses records that do not fit the device's backend.
    fn check(&self, _state: &Self::State) -> Result<(), StateError> {
        Ok(())
    }
    /// Takes the device's own share over and gives the transport's.
    fn unpack(&mut self, state: Self::State) -> VirtioState;
}

impl VirtioState {
    /// The state after a reset of a device with these queues.
    pub(super) fn fresh(specs: &[QueueSpec]) -> VirtioState {
        VirtioState {
            status: 0,
            driver_features: 0,
            device_features_sel: 0,
            driver_features_sel: 0,
            queue_sel: 0,
            isr: 0,
            config_generation: 0,
            queues: specs.iter().map(|q| QueueState::new(q.max)).collect(),
            undelivered: Vec::new(),
        }
    }

    /// A state of an older build: its device had fewer queues.
    pub(super) fn widen(&mut self, specs: &[QueueSpec]) {
        self.queues.extend(specs.iter().skip(self.queues.len()).map(|q| QueueState::new(q.max)));
    }

    /// Refuses a state that no driver could have brought about on a `D` with the features `offered` and this RAM.
    pub(super) fn check<D: Device>(&self, offered: u64, ram: &GuestRam) -> Result<(), StateError> {
        let bad = |why: String| Err(StateError::Invalid { id: VirtioState::ID.into(), why });
        if self.status & !(status::DRIVER_BITS | status::NEEDS_RESET) != 0
            || self.isr & !(isr::USED | isr::CONFIG) != 0
        {
            return bad(format!("status {:#x}, interrupt causes {:#x}", self.status, self.isr));
        }
        let unknown = self.driver_features & !offered;
        if self.status & status::FEATURES_OK != 0 && unknown != 0 {
            return bad(format!("the driver uses features {unknown:#x}, which this {} lacks", D::NAME));
        }
        if !(D::QUEUES_ONCE..=D::QUEUES.len()).contains(&self.queues.len()) {
            return bad(format!("{} queues where a {} has {}", self.queues.len(), D::NAME, D::QUEUES.len()));
        }
        for (q, spec) in self.queues.iter().zip(D::QUEUES) {
            if q.num > spec.max {
                return bad(format!("queue {} of {} entries, at most {}", spec.name, q.num, spec.max));
            }
            if q.ready
                && let Err(e) = q.check(spec.max, ram)
            {
                return bad(format!("queue {}: {e}", spec.name));
            }
        }
        let most: usize = D::QUEUES.iter().map(|q| usize::from(q.max)).sum();
        let strange = |c: &Completion| usize::from(c.queue) >= self.queues.len();
        if self.undelivered.len() > most || self.undelivered.iter().any(strange) {
            return bad(format!("{} completions wait", self.undelivered.len()));
        }
        Ok(())
    }
}
