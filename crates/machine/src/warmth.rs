//! Lists of hot paths: taken from the harts of a machine, and given to them.
//!
//! A vCPU belongs to its thread for as long as it runs. Whoever visits one closes a turnstile, kicks the vCPU and takes it
//! when its thread comes to the turnstile: so one hart stands still for as long as it is looked at, the others run, and
//! nobody is passed over by a thread that takes its vCPU again at once. A visit takes half a millisecond, and whoever wants
//! to know more comes again a little later: some thousand paths take so long that a guest's peers would notice. No guest
//! can tell: a run that is cut is the same run.

use crate::cpus::{SharedVcpu, lock};
use crate::lifecycle::Phase;
use crate::machine::Machine;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use strata_engine::hot::HotPaths;
use strata_engine::{Vcpu, VcpuShared};

/// From one visit to a hart that runs to the next: whoever waits for the guest, and whoever waits for the list, gets on.
const BETWEEN: Duration = Duration::from_micros(250);

/// What is known about which code of a machine is hot.
pub(crate) struct Warmth {
    harts: Vec<Visited>,
    /// What the harts were given.
    given: Mutex<Arc<HotPaths>>,
}

struct Visited {
    vcpu: SharedVcpu,
    shared: Arc<VcpuShared>,
    turnstile: Mutex<()>,
}

fn taken<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Warmth {
    /// Nothing is known yet.
    pub(crate) fn new(vcpus: &[SharedVcpu]) -> Warmth {
        let visited = |vcpu: &SharedVcpu| {
            let shared = lock(vcpu).shared().clone();
            Visited { vcpu: vcpu.clone(), shared, turnstile: Mutex::new(()) }
        };
        Warmth { harts: vcpus.iter().map(visited).collect(), given: Mutex::default() }
    }

    /// For the thread that runs vCPUs, before it takes number `hart` to run it: lets a visitor go first.
    pub(crate) fn let_visitor(&self, hart: usize) {
        if let Some(h) = self.harts.get(hart) {
            drop(taken(&h.turnstile));
        }
    }

    fn visit<R>(hart: &Visited, f: impl FnOnce(&mut dyn Vcpu) -> R) -> R {
        let _closed = taken(&hart.turnstile);
        hart.shared.kick();
        f(&mut **lock(&hart.vcpu))
    }

    /// What all harts have found hot, and what is left of what they were given. They are `running` or stand still.
    pub(crate) fn collect(&self, running: bool) -> HotPaths {
        let mut found = Vec::new();
        for hart in &self.harts {
            let mut next = Some(0);
            while let Some(from) = next {
                if running && from > 0 {
                    std::thread::sleep(BETWEEN);
                }
                let portion = Self::visit(hart, |v| v.hot_paths_from(from));
                found.extend(portion.paths);
                next = portion.next;
            }
        }
        let given = taken(&self.given).clone();
        if found.is_empty() {
            // Nothing has run, or nothing of it was translated: that says nothing against what was hot before.
            return (*given).clone();
        }
        HotPaths::of(found.into_iter().chain(given.aged()))
    }

    /// Gives all harts a list to begin with.
    pub(crate) fn give(&self, paths: HotPaths) {
        let paths = Arc::new(paths);
        *taken(&self.given) = paths.clone();
        self.harts.iter().for_each(|h| Self::visit(h, |v| v.warm(&paths)));
    }
}

impl Machine {
    /// What another run of this guest, or of one like it, could begin with. In any phase: where harts run, one after the
    /// other stands still for a moment.
    pub fn hot_paths(&self) -> HotPaths {
        self.warmth.collect(self.phase() == Phase::Running)
    }

    /// Gives it what an earlier run has found hot, in place of what it was given before. In any phase, and best before its
    /// first instruction: a list decides what is translated early, and nothing that a guest could see.
    pub fn warm(&self, paths: HotPaths) {
        self.warmth.give(paths);
    }
}
