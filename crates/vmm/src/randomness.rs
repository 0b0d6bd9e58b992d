//! Where a machine's randomness comes from.

use crate::name::random;
use strata_engine::{Entropy, SeededEntropy};

/// Stream number `n` of randomness: the host's, or what `seed` gives.
pub(crate) fn entropy(seed: Option<u64>, n: u64) -> Box<dyn Entropy> {
    match seed {
        Some(seed) => {
            // The streams begin where the seeded generator itself leads, far from each other.
            let mut start = [0; 8];
            let mut streams = SeededEntropy(seed);
            (0..=n).for_each(|_| streams.fill(&mut start));
            Box::new(SeededEntropy(u64::from_le_bytes(start)))
        }
        None => Box::new(HostEntropy),
    }
}

/// Randomness from the host's kernel.
struct HostEntropy;

impl Entropy for HostEntropy {
    fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(32) {
            // The kernel's generator, once seeded, does not fail; a host without one refused us at the start.
            let bytes = random::<32>().unwrap_or_default();
            chunk.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        }
    }
}
