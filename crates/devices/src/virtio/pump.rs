//! The queue pump of devices whose one queue carries requests: take, serve without the lock, complete.

use super::core::{Core, Token, Virtio, lock};
use super::device::Device;
use super::doorbell::Doorbell;
use super::virtqueue::{Chain, Nonsense, Popped};
use crate::{Shared, Worker};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use strata_memory::{GuestRam, VolatileSlice};

/// Requests served in one turn, so that a worker can be paused between two turns without waiting for a guest to
/// run out of requests.
const MAX_REQUESTS: usize = 64;

/// Requests that the driver is told of at once at most: enough that an interrupt costs little of each, few enough that the
/// guest has something to do while the rest is served.
const TOGETHER: usize = 8;
/// How long a request that is done may wait for others. A disk that is slower than that is not worth the waiting.
const PATIENCE: Duration = Duration::from_micros(500);

/// What serving a request came to.
pub(super) struct Served {
    /// Bytes written to the chain, counted from its first writable one.
    pub written: u32,
    /// What the log should know.
    pub warning: Option<String>,
}

/// A backend that answers requests one at a time.
pub(super) trait Serve: Send {
    /// Whether a request may block on the host's storage.
    const BLOCKS: bool;
    /// Answers `request`. `scratch` is empty and only lends its allocation; `features` are those negotiated.
    fn serve<'m>(
        &mut self,
        request: &Chain<'m>,
        features: u64,
        scratch: &mut Vec<VolatileSlice<'m>>,
    ) -> Result<Served, Nonsense>;
}

/// A worker's access to its device.
pub(super) struct Port<D: Device> {
    pub virtio: Shared<Virtio<D>>,
    pub ram: GuestRam,
    pub doorbell: Doorbell,
}

impl<D: Device> Port<D> {
    pub fn new(virtio: &Shared<Virtio<D>>, ram: GuestRam) -> Port<D> {
        Port { virtio: virtio.clone(), ram, doorbell: lock(virtio).doorbell() }
    }

    /// Runs `f` on the core, under the lock.
    pub fn core<R>(&self, f: impl FnOnce(&mut Core) -> R) -> R {
        f(&mut lock(&self.virtio).core)
    }
}

/// Requests that are done, and of which the driver has not been told: it is interrupted once for several, where they are
/// done one right after the other.
#[derive(Default)]
struct Batch {
    done: Vec<(Token, u32)>,
    /// When the first of them was done.
    since: Option<Instant>,
    /// How long the last one took.
    last: Duration,
}

impl Batch {
    /// One more, which was `begun` then.
    fn add(&mut self, token: Token, written: u32, begun: Instant) {
        let now = Instant::now();
        self.since.get_or_insert(now);
        self.last = now - begun;
        self.done.push((token, written));
    }

    /// Whether there are enough of them, or the first would have to wait too long for one that takes as long as the last.
    fn is_due(&self) -> bool {
        self.done.len() >= TOGETHER || self.since.is_some_and(|s| s.elapsed() + self.last >= PATIENCE)
    }

    fn complete(&mut self, core: &mut Core) {
        if self.since.take().is_some() {
            core.complete(&self.done);
            self.done.clear();
        }
    }
}

/// Serves queue 0 of `D` from the backend `S`.
pub(super) struct RequestWorker<D: Device, S: Serve> {
    pub port: Port<D>,
    pub backend: S,
}

impl<D: Device, S: Serve> Worker for RequestWorker<D, S> {
    fn wait_for(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.port.doorbell.as_fd()]
    }

    fn turn(&mut self) -> Option<Duration> {
        let RequestWorker { port, backend } = self;
        port.doorbell.hush();
        let (mut spare, mut scratch) = (Vec::new(), Vec::new());
        let mut done = Batch::default();
        for _ in 0..MAX_REQUESTS {
            let (popped, token, features) = port.core(|c| {
                if done.is_due() {
                    done.complete(c);
                }
                let (popped, token) = c.pop(0, &port.ram, &mut spare);
                if !matches!(popped, Popped::Chain(_)) {
                    done.complete(c);
                }
                (popped, token, c.negotiated())
            });
            // A parked queue has nothing to wait for by itself: whoever brings the pages rings.
            let Popped::Chain(chain) = popped else { return None };
            let begun = Instant::now();
            let served = backend.serve(&chain, features, &mut scratch);
            scratch.clear();
            chain.recycle(&mut spare);
            match served {
                Ok(Served { written, warning }) => {
                    if let Some(w) = warning {
                        port.core(|c| c.warn(format_args!("{w}")));
                    }
                    done.add(token, written, begun);
                }
                Err(e) => port.core(|c| {
                    done.complete(c);
                    c.fail(&e);
                }),
            }
        }
        port.core(|c| done.complete(c));
        Some(Duration::ZERO)
    }

    fn blocks(&self) -> bool {
        S::BLOCKS
    }

    fn name(&self) -> &str {
        D::NAME
    }
}
