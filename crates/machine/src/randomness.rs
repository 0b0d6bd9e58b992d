//! The randomness of a deterministic machine, as a part: how far each of its streams has been read.
//!
//! Without it a restored machine would hear the numbers again that it has heard before. The randomness of any other
//! machine has no position: it is the host's, and a restored machine goes on with that.

use std::sync::{Arc, Mutex, PoisonError};
use strata_engine::Entropy;
use strata_state::{Stateful, state};

/// A stream that its reader and the machine's state share.
#[derive(Clone)]
pub(crate) struct Stream(Arc<Mutex<Box<dyn Entropy>>>);

impl Stream {
    pub(crate) fn new(source: Box<dyn Entropy>) -> Stream {
        Stream(Arc::new(Mutex::new(source)))
    }

    fn with<R>(&self, f: impl FnOnce(&mut dyn Entropy) -> R) -> R {
        f(&mut **self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Entropy for Stream {
    fn fill(&mut self, buf: &mut [u8]) {
        self.with(|e| e.fill(buf));
    }
    fn position(&self) -> Option<u64> {
        self.with(|e| e.position())
    }
    fn seek(&mut self, position: u64) {
        self.with(|e| e.seek(position));
    }
}

state! {
    /// How far the streams have been read; 0 for one without a sequence.
    pub struct RandomnessState("randomness", 1) {
        /// That of the entropy device.
        1 device: u64,
        /// That of the seeds in device trees.
        2 boot: u64,
    }
}

/// See the module.
pub(crate) struct RandomnessPart {
    device: Stream,
    boot: Stream,
    first: RandomnessState,
}

impl RandomnessPart {
    pub(crate) fn new(device: Stream, boot: Stream) -> RandomnessPart {
        let first = positions(&device, &boot);
        RandomnessPart { device, boot, first }
    }
}

fn positions(device: &Stream, boot: &Stream) -> RandomnessState {
    let at = |s: &Stream| s.position().unwrap_or(0);
    RandomnessState { device: at(device), boot: at(boot) }
}

impl Stateful for RandomnessPart {
    type State = RandomnessState;
    fn state(&self) -> RandomnessState {
        positions(&self.device, &self.boot)
    }
    fn reset_state(&self) -> RandomnessState {
        self.first.clone()
    }
    fn set_state(&mut self, RandomnessState { device, boot }: RandomnessState) {
        self.device.seek(device);
        self.boot.seek(boot);
    }
    fn settle(&mut self) {}
}
