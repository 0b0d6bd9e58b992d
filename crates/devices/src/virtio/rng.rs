//! virtio-rng, virtio 1.3 §5.4. The driver gives writable buffers; we fill them.
//!
//! State: none of its own. Limit: [`MAX_FILL`] bytes a request.

use super::core::{Virtio, Wiring};
use super::device::{Device, QueueSpec, VirtioState};
use super::pump::{Port, RequestWorker, Serve, Served};
use super::virtqueue::{Chain, Nonsense};
use super::{Built, built};
use std::io;
use strata_engine::Entropy;
use strata_memory::VolatileSlice;

/// Most bytes given for one request: a driver may ask for 4 GiB at once, and gets the rest by asking again.
pub const MAX_FILL: u64 = 64 * 1024;

strata_state::state! {
    /// State of virtio-rng.
    pub struct RngState("virtio-rng", 1) {
        /// Shared by all virtio devices.
        1 virtio: VirtioState,
    }
}

/// The guest's view of virtio-rng.
pub struct Rng;

impl Device for Rng {
    type State = RngState;
    const ID: u32 = 4;
    const NAME: &'static str = "virtio-rng";
    const QUEUES: &'static [QueueSpec] = &[QueueSpec { name: "requests", max: 64 }];

    fn features(&self) -> u64 {
        0
    }
    fn config(&self) -> &[u8] {
        &[]
    }
    fn pack(&self, virtio: VirtioState) -> RngState {
        RngState { virtio }
    }
    fn fresh(&self, virtio: VirtioState) -> RngState {
        RngState { virtio }
    }
    fn transport(state: &RngState) -> &VirtioState {
        &state.virtio
    }
    fn unpack(&mut self, RngState { virtio }: RngState) -> VirtioState {
        virtio
    }
}

struct Source {
    entropy: Box<dyn Entropy>,
    buf: Box<[u8; 4096]>,
}

impl Serve for Source {
    const BLOCKS: bool = false;

    fn serve<'m>(
        &mut self,
        request: &Chain<'m>,
        _features: u64,
        _scratch: &mut Vec<VolatileSlice<'m>>,
    ) -> Result<Served, Nonsense> {
        let written =
            request.writer().fill(MAX_FILL, self.buf.as_mut_slice(), |b| self.entropy.fill(b)) as u32;
        Ok(Served { written, warning: None })
    }
}

/// Makes a virtio-rng behind MMIO registers, fed from `entropy`.
///
/// # Errors
/// The host has no descriptor left.
pub fn rng(wiring: Wiring, entropy: Box<dyn Entropy>) -> io::Result<Built<Rng>> {
    let ram = wiring.ram.clone();
    Ok(built(Virtio::new(Rng, wiring)?, |virtio| {
        let backend = Source { entropy, buf: Box::new([0; 4096]) };
        Box::new(RequestWorker { port: Port::new(virtio, ram), backend })
    }))
}
