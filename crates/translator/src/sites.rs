//! Where the sites of all units lie: they never move, since code refers to them by address, and go all at once.
//!
//! They are kept in chunks that are filled to their capacity and no further. Dropping a unit's sites alone is not
//! possible; it would not free its code either.

use crate::unit::{Site, Span};

/// Sites of a chunk: 128 KiB.
const CHUNK: usize = 4096;
/// Sites beyond which it is time to drop all units: 64 MiB. Code of mostly nothing (a slide of `nop`) has more of these
/// than of host code.
const MOST: usize = 1 << 21;

/// The sites of one unit, or by default none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SiteSpan {
    chunk: u32,
    within: Span,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    chunks: Vec<Vec<Site>>,
    /// The chunk that is being filled.
    at: usize,
}

impl Sites {
    /// Adds a unit's.
    pub fn add(&mut self, sites: impl ExactSizeIterator<Item = Site>) -> SiteSpan {
        let n = sites.len();
        let fits = |chunk: &Vec<Site>| chunk.capacity() - chunk.len() >= n;
        while self.chunks.get(self.at).is_some_and(|chunk| !fits(chunk)) {
            self.at += 1;
        }
        if self.at == self.chunks.len() {
            self.chunks.push(Vec::with_capacity(n.max(CHUNK)));
        }
        let chunk = &mut self.chunks[self.at];
        let (start, place) = (chunk.len(), chunk.as_ptr());
        chunk.extend(sites.take(n));
        debug_assert_eq!(chunk.as_ptr(), place, "sites have moved");
        let within = Span { start: start as u32, len: (chunk.len() - start) as u32 };
        SiteSpan { chunk: self.at as u32, within }
    }

    /// A unit's.
    pub fn get(&self, span: SiteSpan) -> &[Site] {
        self.chunks.get(span.chunk as usize).map_or(&[], |chunk| &chunk[span.within.range()])
    }

    /// There are as many as there may be.
    pub fn full(&self) -> bool {
        self.at >= MOST / CHUNK
    }

    /// Drops all. The memory is kept for the next ones.
    pub fn clear(&mut self) {
        self.chunks.iter_mut().for_each(Vec::clear);
        self.at = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_isa::{Insn, Op};

    fn sites(n: usize, pc: u64) -> impl ExactSizeIterator<Item = Site> {
        let insn = Insn { op: Op::Add, rd: 1, rs1: 2, rs2: 3, rs3: 0, rm: 0, len: 4, imm: 0, raw: 0 };
        (0..n).map(move |i| Site { pc: pc + 4 * i as u64, insn, refund: 1 })
    }

    #[test]
    fn sites_stay_where_they_are_until_all_go() {
        let mut all = Sites::default();
        let mut kept = Vec::new();
        for round in 0..2 {
            kept.clear();
            for (n, pc) in [1, 120, 4000, 97, CHUNK + 3, 5, 4096].into_iter().zip((0..).step_by(0x10000)) {
                let span = all.add(sites(n, pc));
                kept.push((span, all.get(span).as_ptr(), n, pc));
            }
            for (span, place, n, pc) in &kept {
                let got = all.get(*span);
                assert_eq!((got.as_ptr(), got.len()), (*place, *n), "round {round}");
                assert!(got.iter().zip(sites(*n, *pc)).all(|(a, b)| a.pc == b.pc));
            }
            let chunks = all.chunks.len();
            all.clear();
            assert!(all.chunks.iter().all(|c| c.is_empty()) && all.chunks.len() == chunks);
        }
    }

    #[test]
    fn there_is_an_end_to_them() {
        let mut all = Sites::default();
        let mut n = 0;
        while !all.full() {
            all.add(sites(CHUNK, 0));
            n += CHUNK;
        }
        assert!((MOST..=MOST + CHUNK).contains(&n));
        all.clear();
        assert!(!all.full());
    }
}
