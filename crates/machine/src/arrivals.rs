//! Harts and devices that wait for pages of memory which come late, and whoever tells them.
//!
//! A hart says that it waits, then looks whether anything has come since before it ran; who brings a page counts it, then
//! looks who waits. So no page comes unheard between a hart's look and its sleep, and only those are woken who wait.
//! A waiting hart is at the gate as one that is parked: a pause does not wait for pages. A device's queue that has to
//! wait is as one that is empty, until its doorbell rings.
//!
//! A hart that is slowed down because it writes too much ([`strata_memory::Throttle`]) waits here, too, for a moment.

use crate::cpus::PAGE_RETRY;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::time::{Duration, Instant};
use strata_devices::virtio::Doorbell;
use strata_engine::VcpuShared;
use strata_memory::GuestRam;

/// How long a hart waits that is slowed down, until it tries again.
const HELD: Duration = Duration::from_millis(1);

/// See the module.
pub struct Arrivals {
    ram: GuestRam,
    harts: Vec<(Arc<VcpuShared>, AtomicBool)>,
    doorbells: Vec<Doorbell>,
    /// How often something has come.
    count: AtomicU64,
    stalls: AtomicU64,
    stalled: AtomicU64,
}

impl Arrivals {
    /// For memory of a machine that has these harts, and these doorbells of devices that may wait.
    pub fn new(ram: GuestRam, harts: &[Arc<VcpuShared>], doorbells: Vec<Doorbell>) -> Arrivals {
        let harts = harts.iter().map(|h| (h.clone(), AtomicBool::new(false))).collect();
        let (count, stalls, stalled) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Arrivals { ram, harts, doorbells, count, stalls, stalled }
    }

    /// What has come until now, for [`Arrivals::await_page`].
    pub(crate) fn seen(&self) -> u64 {
        self.count.load(SeqCst)
    }

    /// Hart number `hart` has touched a page that is not there, or may not write to it yet. Has it wait, by `sleep`, unless
    /// something has come since `seen`.
    pub(crate) fn await_page(&self, hart: usize, seen: u64, sleep: impl FnOnce(Duration)) {
        if self.ram.missing() == 0 {
            // It is not for a page that it waits, or the last one has come this moment.
            if self.count.load(SeqCst) == seen {
                sleep(HELD);
            }
            return;
        }
        let begun = Instant::now();
        let Some((_, waits)) = self.harts.get(hart) else { return sleep(PAGE_RETRY) };
        waits.store(true, SeqCst);
        if self.count.load(SeqCst) == seen {
            sleep(PAGE_RETRY);
        }
        waits.store(false, SeqCst);
        self.stalls.fetch_add(1, Relaxed);
        self.stalled.fetch_add(begun.elapsed().as_nanos() as u64, Relaxed);
    }

    /// To be called after pages that were absent have come: whatever waits for one tries again.
    pub fn tell(&self) {
        self.count.fetch_add(1, SeqCst);
        self.harts.iter().filter(|(_, waits)| waits.load(SeqCst)).for_each(|(hart, _)| hart.kick());
        if self.ram.take_device_waits() {
            self.doorbells.iter().for_each(Doorbell::ring);
        }
    }

    /// How often a hart has waited for a page, and for how many nanoseconds all of them together.
    pub fn stalls(&self) -> (u64, u64) {
        (self.stalls.load(Relaxed), self.stalled.load(Relaxed))
    }
}
