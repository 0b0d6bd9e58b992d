//! What those share that run a machine's vCPUs: a thread each (`vcpu_thread.rs`), or one for all (`deterministic/`).

use crate::arrivals::Arrivals;
use crate::console::DebugConsole;
use crate::gate::Gate;
use crate::harts::Harts;
use crate::lifecycle::Event;
use crate::warmth::Warmth;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};
use strata_devices::{SystemEvent, SystemSink};
use strata_engine::{Vcpu, VcpuShared};
use strata_memory::GuestRam;

/// A vCPU as its thread and (while parked) the driver share it.
pub(crate) type SharedVcpu = Arc<Mutex<Box<dyn Vcpu>>>;

/// How long to wait at most before trying again when a page of guest memory is not there yet: whoever brings it tells.
pub(crate) const PAGE_RETRY: Duration = Duration::from_millis(20);

/// See the module.
pub(crate) struct Cpus {
    pub(crate) shared: Vec<Arc<VcpuShared>>,
    /// The vCPUs themselves, where one thread runs them all and may serve one's mail in another's place.
    pub(crate) one_thread: Option<Vec<SharedVcpu>>,
    pub(crate) harts: Arc<Harts>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) warmth: Arc<Warmth>,
    pub(crate) arrivals: Arc<Arrivals>,
    pub(crate) system: SystemSink,
    pub(crate) ram: GuestRam,
    pub(crate) console: Arc<dyn DebugConsole>,
    /// When the first of them began to run.
    pub(crate) began: Arc<OnceLock<Instant>>,
}

impl Cpus {
    /// A vCPU is about to run.
    pub(crate) fn begin(&self) {
        let _ = self.began.get_or_init(Instant::now);
    }

    pub(crate) fn nobody_goes_on(&self, why: String) {
        self.gate.happened(Event::Stuck(why));
    }
}

/// Where devices and firmware calls end or reset the machine: all vCPUs stop at once, so that the guest does not
/// execute past its own power-off, and the driver is told.
pub(crate) fn system_sink(gate: Arc<Gate>, vcpus: Vec<Arc<VcpuShared>>) -> SystemSink {
    Arc::new(move |event| {
        gate.happened(match event {
            SystemEvent::PowerOff(code) => Event::PowerOff(code),
            SystemEvent::Reset => Event::Reset,
        });
        vcpus.iter().for_each(|v| v.kick());
    })
}

pub(crate) fn lock(vcpu: &SharedVcpu) -> MutexGuard<'_, Box<dyn Vcpu>> {
    vcpu.lock().unwrap_or_else(|e| e.into_inner())
}

/// Waits for attention, then serves mail. The kick is taken too: whoever kicked wants the gate looked at, which the
/// caller does next.
pub(crate) fn wait(shared: &VcpuShared, vcpu: &SharedVcpu, at_most: Option<Duration>) {
    shared.sleep(at_most);
    shared.take_attention();
    shared.take_kick();
    lock(vcpu).serve_mail();
}
