//! A virtio device without its transport, virtio 1.3 §2 and §3: status, features, queues, completions.
//!
//! ```text
//!  bus ─► Shared<VirtioMmio<D>> ─┐                       D: one kind of device: features, config space, own state
//!      or Shared<VirtioPci<D>>  ─┼─► Shared<Virtio<D>> = D + Core
//!  worker (backend) ─────────────┘                       Core: VirtioState + wiring (RAM, interrupt, doorbell)
//! ```
//! The worker takes a chain under the lock, does the request's I/O **without** it, and completes under the lock
//! again; a register access waits at most for such a short hold. What was taken before a reset, a load or a queue's
//! end is stale: its [`Token`] names an older `epoch`, and [`Core::complete`] drops it. (Its data may still land in
//! the guest's buffers, never elsewhere.)
//!
//! Status (§2.1): `0 → ACKNOWLEDGE → DRIVER → FEATURES_OK → DRIVER_OK`, bits only ever added, 0 resets. FEATURES_OK
//! sticks only if the driver's features are a subset of ours with VERSION_1; DRIVER_OK only after it. Nonsense sets
//! DEVICE_NEEDS_RESET: every queue stops until the driver resets.
//!
//! Invariants: a queue is served only while [`Core::live`]; every chain that is taken is completed, put back, or
//! stale; completions that cannot be written yet are part of the state; the interrupt wire is high iff `isr ≠ 0`
//! (a cause that went by a message is not in `isr`).

use super::device::{Completion, Device, QueueSpec, VirtioState, feature, isr, status};
use super::doorbell::Doorbell;
use super::virtqueue::{Nonsense, Popped, QueueState, RingFeatures};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};
use strata_engine::IrqLine;
use strata_memory::{GuestRam, VolatileSlice};
use strata_state::{StateError, Stateful};

/// Warnings about one device's driver that reach the log; a guest must not be able to fill the host's disk.
const MAX_WARNINGS: u32 = 16;

/// Why a device interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The used ring of this queue moved.
    Used(u16),
    /// The config space or the status changed.
    Config,
}

impl Cause {
    fn bit(self) -> u8 {
        match self {
            Cause::Used(_) => isr::USED,
            Cause::Config => isr::CONFIG,
        }
    }
}

/// A transport that can interrupt by messages, with one for each cause. Called with the device locked.
pub trait Messages: Send + Sync {
    /// Takes `cause`, if messages are on: it is not put into the interrupt status register then.
    fn take(&self, cause: Cause) -> bool;
}

/// What a device is wired to.
#[derive(Clone)]
pub struct Wiring {
    /// The machine's memory.
    pub ram: GuestRam,
    /// Its interrupt.
    pub irq: IrqLine,
    /// Its interrupts by message, where there are some.
    pub messages: Option<Arc<dyn Messages>>,
}

/// Names a chain that was taken, until it is completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    queue: u16,
    head: u16,
    epoch: u64,
}

/// The part of a device that is the same for all kinds.
pub struct Core {
    pub(super) s: VirtioState,
    name: &'static str,
    specs: &'static [QueueSpec],
    offered: u64,
    ram: GuestRam,
    irq: IrqLine,
    messages: Option<Arc<dyn Messages>>,
    doorbell: Doorbell,
    /// Host side only, one a queue: changes whenever chains taken from it before become stale.
    epochs: Vec<u64>,
    warnings: u32,
}

impl Core {
    fn new<D: Device>(device: &D, wiring: Wiring) -> io::Result<Core> {
        Ok(Core {
            s: VirtioState::fresh(D::QUEUES),
            name: D::NAME,
            specs: D::QUEUES,
            offered: feature::COMMON | device.features(),
            ram: wiring.ram,
            irq: wiring.irq,
            messages: wiring.messages,
            doorbell: Doorbell::new()?,
            epochs: vec![0; D::QUEUES.len()],
            warnings: 0,
        })
    }

    /// Features offered to the driver.
    pub fn offered(&self) -> u64 {
        self.offered
    }

    /// Features in use; none before FEATURES_OK.
    pub fn negotiated(&self) -> u64 {
        if self.s.status & status::FEATURES_OK != 0 { self.s.driver_features } else { 0 }
    }

    /// Whether queue `q` is to be served.
    pub fn live(&self, q: u16) -> bool {
        let mask = status::DRIVER_OK | status::NEEDS_RESET | status::FAILED;
        self.s.status & mask == status::DRIVER_OK
            && self.s.queues.get(usize::from(q)).is_some_and(|q| q.ready)
    }

    fn epoch(&self, q: u16) -> u64 {
        self.epochs.get(usize::from(q)).copied().unwrap_or(0)
    }

    fn ring_features(&self) -> RingFeatures {
        let f = self.negotiated();
        RingFeatures { event_idx: f & feature::EVENT_IDX != 0, indirect: f & feature::INDIRECT_DESC != 0 }
    }

    /// Takes the next chain of queue `q`, whose memory is `ram` (the worker's own handle to it, so that the chain
    /// outlives the lock). A queue that is not live is empty; nonsense stops the device and looks empty.
    pub fn pop<'m>(
        &mut self,
        q: u16,
        ram: &'m GuestRam,
        spare: &mut Vec<VolatileSlice<'m>>,
    ) -> (Popped<'m>, Token) {
        let mut token = Token { queue: q, head: 0, epoch: self.epoch(q) };
        if !self.s.undelivered.is_empty() {
            self.deliver();
            if self.s.undelivered.iter().any(|c| c.queue == q) {
                return (Popped::Wait, token);
            }
        }
        let features = self.ring_features();
        let live = self.live(q);
        let Some(queue) = self.s.queues.get_mut(usize::from(q)).filter(|_| live) else {
            return (Popped::Empty, token);
        };
        match queue.pop(ram, features, spare) {
            Ok(popped) => {
                if let Popped::Chain(c) = &popped {
                    token.head = c.head();
                }
                (popped, token)
            }
            Err(e) => {
                self.fail(&e);
                (Popped::Empty, token)
            }
        }
    }

    /// Whether what was taken with `token` is still the guest's wish.
    pub fn current(&self, token: Token) -> bool {
        token.epoch == self.epoch(token.queue)
    }

    /// Gives back the last `n` chains of the queue of `token`, which was taken with or after them.
    pub fn put_back(&mut self, token: Token, n: u16) {
        if self.current(token)
            && let Some(queue) = self.s.queues.get_mut(usize::from(token.queue))
        {
            queue.put_back(n);
        }
    }

    /// **The one way in which a request ends**: chains with the number of bytes written to each, all published
    /// at once. Stale ones are dropped.
    pub fn complete(&mut self, done: &[(Token, u32)]) {
        for &(token, len) in done {
            if self.current(token) {
                self.s.undelivered.push(Completion { queue: token.queue, head: token.head, len });
            }
        }
        self.deliver();
    }

    /// Writes waiting completions to their used rings, as far as the pages are there.
    fn deliver(&mut self) {
        let features = self.ring_features();
        for q in 0..self.s.queues.len() as u16 {
            if !self.live(q) {
                self.s.undelivered.retain(|c| c.queue != q);
                continue;
            }
            let mine = self.s.undelivered.iter().filter(|c| c.queue == q).map(|c| (c.head, c.len));
            let Some(queue) = self.s.queues.get_mut(usize::from(q)) else { continue };
            if mine.clone().next().is_none() {
                continue;
            }
            match queue.publish(&self.ram, features, mine) {
                Ok(None) => continue,
                Ok(Some(true)) => self.interrupt(Cause::Used(q)),
                Ok(Some(false)) => {}
                Err(e) => self.fail(&e),
            }
            self.s.undelivered.retain(|c| c.queue != q);
        }
        self.settle();
    }

    /// Stops the device until the driver resets it, because of `why`.
    pub fn fail(&mut self, why: &Nonsense) {
        self.warn(format_args!("{why}; the device needs a reset by its driver"));
        self.s.status |= status::NEEDS_RESET;
        self.s.undelivered.clear();
        if self.s.status & status::DRIVER_OK != 0 {
            self.config_changed();
        }
    }

    /// Puts a warning about this device into the log, a limited number of times.
    pub fn warn(&mut self, what: std::fmt::Arguments<'_>) {
        if self.warnings < MAX_WARNINGS {
            self.warnings += 1;
            tracing::warn!(device = self.name, "{what}");
        }
    }

    /// Tells the driver that config space or status changed.
    pub fn config_changed(&mut self) {
        self.s.config_generation = self.s.config_generation.wrapping_add(1);
        if self.s.status & status::DRIVER_OK != 0 {
            self.interrupt(Cause::Config);
        }
        self.settle();
    }

    /// Notes `cause`, or tells it at once where messages are on.
    fn interrupt(&mut self, cause: Cause) {
        if !self.messages.as_ref().is_some_and(|m| m.take(cause)) {
            self.s.isr |= cause.bit();
        }
    }

    /// The selected queue.
    pub(super) fn selected(&mut self) -> Option<&mut QueueState> {
        self.s.queues.get_mut(self.s.queue_sel as usize)
    }

    /// Largest size of the selected queue; 0 where there is none.
    pub(super) fn selected_max(&self) -> u16 {
        self.specs.get(self.s.queue_sel as usize).map_or(0, |q| q.max)
    }

    /// Enables or ends the selected queue.
    pub(super) fn set_ready(&mut self, ready: bool) {
        let (sel, max, ram) = (self.s.queue_sel, self.selected_max(), self.ram.clone());
        let Some(queue) = self.selected() else { return };
        if queue.ready == ready {
            return;
        }
        (queue.next_avail, queue.next_used) = (0, 0);
        if !ready {
            queue.ready = false;
            if let Some(e) = self.epochs.get_mut(sel as usize) {
                *e += 1;
            }
            self.s.undelivered.retain(|c| u32::from(c.queue) != sel);
            return;
        }
        match queue.check(max, &ram) {
            Ok(()) => queue.ready = true,
            Err(e) => self.fail(&e),
        }
    }

    /// The driver says that queue `q` has new chains.
    pub(super) fn notify(&self, q: u32) {
        if u16::try_from(q).is_ok_and(|q| self.live(q)) {
            self.doorbell.ring();
        }
    }

    /// Adds status bits (§2.1.1); 0 is not for here.
    fn add_status(&mut self, bits: u8) {
        let mut bits = bits & status::DRIVER_BITS;
        let features = self.s.driver_features;
        let acceptable = features & !self.offered == 0 && features & feature::VERSION_1 != 0;
        if (self.s.status | bits) & status::FEATURES_OK == 0 || !acceptable {
            bits &= !(status::FEATURES_OK | status::DRIVER_OK);
        }
        self.s.status |= bits;
        if bits & status::DRIVER_OK != 0 {
            self.doorbell.ring();
        }
    }

    fn settle(&mut self) {
        self.irq.set(self.s.isr != 0);
    }
}

/// A virtio device: its kind and what all kinds share. Transports and the worker meet in it.
pub struct Virtio<D: Device> {
    /// The kind's own.
    pub(super) device: D,
    /// What all kinds share.
    pub(super) core: Core,
}

impl<D: Device> Virtio<D> {
    /// A device after power-on.
    ///
    /// # Errors
    /// The host has no descriptor left for the doorbell.
    pub fn new(device: D, wiring: Wiring) -> io::Result<Virtio<D>> {
        let core = Core::new(&device, wiring)?;
        Ok(Virtio { device, core })
    }

    /// What makes the worker look.
    pub fn doorbell(&self) -> Doorbell {
        self.core.doorbell.clone()
    }

    /// The driver writes the status register.
    pub(super) fn write_status(&mut self, value: u8) {
        if value == 0 {
            self.set_state(self.reset_state());
            self.settle();
        } else {
            self.core.add_status(value);
        }
    }

    /// Bytes of the config space.
    pub(super) fn config_len(&self) -> u64 {
        self.device.config().len() as u64
    }

    /// Reads `size` bytes of the config space; what lies behind its end is 0.
    pub(super) fn read_config(&self, offset: u64, size: u8) -> u64 {
        let config = self.device.config();
        (0..u64::from(size.min(8))).fold(0, |v, i| {
            let at = usize::try_from(offset + i).unwrap_or(usize::MAX);
            v | u64::from(config.get(at).copied().unwrap_or(0)) << (8 * i)
        })
    }
}

impl<D: Device> Stateful for Virtio<D> {
    type State = D::State;

    fn state(&self) -> D::State {
        self.device.pack(self.core.s.clone())
    }

    fn reset_state(&self) -> D::State {
        self.device.fresh(VirtioState::fresh(D::QUEUES))
    }

    fn check(&self, state: &D::State) -> Result<(), StateError> {
        D::transport(state).check::<D>(self.core.offered, &self.core.ram)?;
        self.device.check(state)
    }

    fn set_state(&mut self, state: D::State) {
        self.core.s = self.device.unpack(state);
        self.core.s.widen(D::QUEUES);
        self.core.epochs.iter_mut().for_each(|e| *e += 1);
        // Chains that were waiting when the state was saved bring no notification of their own.
        self.core.doorbell.ring();
    }

    fn settle(&mut self) {
        self.core.settle();
    }
}

/// Locks, whatever became of an earlier holder: a device's state is consistent between any two statements that
/// could panic.
pub(super) fn lock<T: ?Sized>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(|e| e.into_inner())
}
