//! A machine's threads, from the first that is started until all are.

use crate::BuildError;
use crate::cpus::{Cpus, SharedVcpu};
use crate::deterministic::{Counted, Deterministic};
use crate::gate::{Gate, Want};
use crate::io_thread::{self, Waker};
use crate::vcpu_thread;
use std::sync::Arc;
use std::thread::JoinHandle;
use strata_devices::Worker;
use strata_engine::VcpuShared;

/// A machine's threads while they are being started. Whatever goes wrong in between, those started end.
pub(crate) struct Threads {
    gate: Arc<Gate>,
    vcpus: Vec<Arc<VcpuShared>>,
    wakers: Vec<Waker>,
    running: Vec<JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn new(gate: Arc<Gate>, vcpus: Vec<Arc<VcpuShared>>) -> Threads {
        Threads { gate, vcpus, wakers: vec![], running: vec![] }
    }

    pub(crate) fn wakers(&self) -> &[Waker] {
        &self.wakers
    }

    /// All of them are there: from here on they are the machine's.
    pub(crate) fn take(mut self) -> Vec<JoinHandle<()>> {
        std::mem::take(&mut self.running)
    }

    pub(crate) fn spawn(
        &mut self,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), BuildError> {
        let t = std::thread::Builder::new().name(name).spawn(body).map_err(BuildError::Thread)?;
        self.running.push(t);
        Ok(())
    }

    fn waker(&mut self) -> Result<Waker, BuildError> {
        let waker = Waker::new().map_err(|e| BuildError::Device(e.into()))?;
        self.wakers.push(waker.clone());
        Ok(waker)
    }

    /// A thread for each vCPU, one for each worker that may block, and one for all the others.
    pub(crate) fn many(
        &mut self,
        cpus: &Arc<Cpus>,
        vcpus: &[SharedVcpu],
        workers: Vec<Box<dyn Worker>>,
    ) -> Result<(), BuildError> {
        for (hart, vcpu) in vcpus.iter().cloned().enumerate() {
            let (cpus, member) = (cpus.clone(), self.gate.join());
            self.spawn(format!("vcpu{hart}"), move || vcpu_thread::run(&cpus, &member, hart, &vcpu))?;
        }
        let (blocking, quick): (Vec<_>, Vec<_>) = workers.into_iter().partition(|w| w.blocks());
        for workers in blocking.into_iter().map(|w| vec![w]).chain([quick]) {
            let waker = self.waker()?;
            let name = workers.first().filter(|w| w.blocks()).map_or("io", |w| w.name()).to_owned();
            let member = self.gate.join();
            self.spawn(name, move || io_thread::run(&member, &waker, workers))?;
        }
        Ok(())
    }

    /// One thread for everything.
    pub(crate) fn one(
        &mut self,
        counted: Counted,
        cpus: Arc<Cpus>,
        vcpus: &[SharedVcpu],
        workers: Vec<Box<dyn Worker>>,
    ) -> Result<(), BuildError> {
        let (waker, member) = (self.waker()?, self.gate.join());
        let all = Deterministic::new(counted, cpus, vcpus.to_vec(), workers);
        self.spawn("machine".into(), move || all.run(&member, &waker))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if self.running.is_empty() {
            return;
        }
        self.gate.set(Want::Exit);
        self.vcpus.iter().for_each(|v| v.kick());
        self.wakers.iter().for_each(Waker::wake);
        for t in self.running.drain(..) {
            // As in the machine's own drop.
            let _ = t.join();
        }
    }
}
