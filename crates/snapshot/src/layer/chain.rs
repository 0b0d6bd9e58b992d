//! Layers that stand on each other: which of them has a page, and memory made of them all.

use super::{DATA, Layer, PAGE, Run, RunKind};
use crate::SnapshotError;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use strata_memory::{Backing, GuestRam, Part, Presence, RegionSpec};

/// Most layers of a chain.
pub const MAX_LAYERS: usize = 16;
/// From that many layers on a chain is folded.
const FOLD_LAYERS: usize = 8;
/// From that many runs on as well.
const FOLD_RUNS: usize = MAX_MAPPED / 2;
/// Most runs that are mapped each by itself over the lowest layer. The kernel allows a process 65,530 mappings, and each
/// of these makes two. Beyond it, the shortest are copied.
const MAX_MAPPED: usize = 8192;

/// Layers, each standing on the next; the last stands alone.
#[derive(Debug)]
pub struct LayerChain {
    layers: Vec<Layer>,
}

/// A run of pages, and the number of the layer that has them. None is of the kind [`RunKind::Parent`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The pages, and where they are in that layer's file.
    pub run: Run,
    /// The layer, counted from the top.
    pub layer: usize,
}

impl LayerChain {
    /// Puts open layers together, the top first.
    ///
    /// # Errors
    /// One does not stand on the next, or the last on none; they are too many.
    pub fn new(layers: Vec<Layer>) -> Result<LayerChain, SnapshotError> {
        let bad = |layer: &Layer, why: &str| Err(SnapshotError::bad("memory", layer.path(), why));
        for (i, layer) in layers.iter().enumerate() {
            let info = layer.info();
            match (info.parent, layers.get(i + 1).map(Layer::info)) {
                (None, None) => {}
                (None, Some(_)) => return bad(layer, "it stands on no layer, and one is given"),
                (Some(_), None) => return bad(layer, "the layer that it stands on is missing"),
                (Some(_), Some(_)) if i + 1 == MAX_LAYERS => {
                    return bad(layer, "too many layers are below it");
                }
                (Some(parent), Some(below)) if parent != below.name() => {
                    return bad(layer, "the layer below it is another than it says");
                }
                (_, Some(below)) if below.pages != info.pages => {
                    return bad(layer, "the layer below it is of another size");
                }
                _ => {}
            }
        }
        Ok(LayerChain { layers })
    }

    /// The layers, the top first.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// How many pages it describes.
    pub fn pages(&self) -> u64 {
        self.layers.first().map_or(0, |l| l.info().pages)
    }

    /// Where each page is: in order and without gaps.
    pub fn runs(&self) -> Vec<Placed> {
        self.runs_in(0..self.layers.len())
    }

    /// The same of some of the layers: pages that none of them has are left out.
    pub(super) fn runs_in(&self, layers: Range<usize>) -> Vec<Placed> {
        let mut all = Vec::new();
        self.place(layers.start, layers.end, 0, self.pages(), &mut all);
        all
    }

    /// Whether it should be folded: each layer, and each run that is mapped by itself, makes a restore slower.
    pub fn is_deep(&self) -> bool {
        self.layers.len() >= FOLD_LAYERS || self.layers.len() > 2 && self.runs().len() > FOLD_RUNS
    }

    fn place(&self, layer: usize, end: usize, from: u64, to: u64, all: &mut Vec<Placed>) {
        let Some(runs) = self.layers.get(layer).filter(|_| layer < end).map(Layer::runs) else { return };
        let first = runs.partition_point(|r| r.first + r.pages <= from);
        for run in runs.iter().skip(first).take_while(|r| r.first < to) {
            let (a, b) = (run.first.max(from), (run.first + run.pages).min(to));
            let kind = match run.kind {
                RunKind::Parent => {
                    self.place(layer + 1, end, a, b, all);
                    continue;
                }
                RunKind::Zero => RunKind::Zero,
                RunKind::Data(at) => RunKind::Data(at + (a - run.first) * PAGE),
            };
            match all.last_mut() {
                Some(last) if last.goes_on_with(layer, a, kind) => last.run.pages += b - a,
                _ => all.push(Placed { run: Run { first: a, pages: b - a, kind }, layer }),
            }
        }
    }

    /// Marks in `ram`, which was mapped from this chain, what the uppermost layer has as written: then what is not marked is as
    /// the layers below have it.
    pub fn mark_uppermost(&self, ram: &GuestRam) {
        for region in ram.regions() {
            for placed in self.runs_in(0..1) {
                let pages = placed.run.first..placed.run.first + placed.run.pages;
                pages.for_each(|p| region.pages().mark_dirty(p as usize));
            }
        }
    }

    /// Reads all data of all layers and compares it with their digests.
    ///
    /// # Errors
    /// It differs, or cannot be read.
    pub fn verify(&self) -> Result<(), SnapshotError> {
        self.layers.iter().try_for_each(Layer::verify)
    }

    /// Guest memory at `gpa` that begins as the chain says: mapped privately, so that what the guest writes is its own and
    /// the files never change. They must not be cut while the memory lives.
    ///
    /// # Errors
    /// The host refuses.
    pub fn map(&self, gpa: u64) -> Result<GuestRam, SnapshotError> {
        let Some(lowest) = self.layers.last() else {
            return Err(strata_memory::MemoryError::NotRam { gpa, len: 0 }.into());
        };
        if let [only] = &self.layers[..]
            && only.is_flat()
        {
            return only.map(gpa);
        }
        let flat = lowest.is_flat();
        let file = lowest.file().try_clone().map_err(SnapshotError::io("map", lowest.path()))?.into();
        let backing = if flat { Backing::PrivateOverFile { file, offset: DATA } } else { Backing::Anonymous };
        let ram = GuestRam::new(vec![RegionSpec { gpa, len: self.pages() * PAGE, backing }])?;
        let runs = self.runs();
        let below = |p: &Placed| flat && p.layer + 1 == self.layers.len();
        let mut lengths: Vec<u64> = runs.iter().filter(|p| !below(p)).map(|p| p.run.pages).collect();
        lengths.sort_unstable_by(|a, b| b.cmp(a));
        // The shortest that are mapped, and how many of that length may be.
        let least = lengths.get(MAX_MAPPED - 1).copied().unwrap_or(0);
        let mut left = MAX_MAPPED - lengths.iter().take(MAX_MAPPED).filter(|n| **n > least).count();
        let mut bytes = Vec::new();
        for placed in &runs {
            let Run { first, pages, kind } = placed.run;
            if below(placed) {
                if kind == RunKind::Zero {
                    let map = ram.regions().iter().map(|r| r.pages());
                    map.for_each(|m| {
                        (first..first + pages).for_each(|p| m.set_presence(p as usize, Presence::Zero))
                    });
                }
                continue;
            }
            let (at, len) = (gpa + first * PAGE, pages * PAGE);
            let Some(layer) = self.layers.get(placed.layer) else { continue };
            let mapped = pages > least || pages == least && left > 0;
            left -= usize::from(pages == least && mapped);
            let part = match kind {
                // Memory that nothing has been laid over is zeroes.
                RunKind::Zero | RunKind::Parent if !flat => continue,
                RunKind::Data(from) if mapped => Part::File { file: layer.file().as_fd(), at: from },
                RunKind::Zero | RunKind::Parent if mapped => Part::Zero,
                _ => {
                    bytes.clear();
                    bytes.resize(len as usize, 0);
                    if let RunKind::Data(from) = kind {
                        let read = layer.file().read_exact_at(&mut bytes, from);
                        read.map_err(SnapshotError::io("read", layer.path()))?;
                    }
                    Part::Bytes(&bytes)
                }
            };
            ram.lay(at, len, part)?;
        }
        Ok(ram)
    }
}

impl Placed {
    fn goes_on_with(&self, layer: usize, page: u64, kind: RunKind) -> bool {
        let goes_on = match (self.run.kind, kind) {
            (RunKind::Data(a), RunKind::Data(b)) => self.layer == layer && a + self.run.pages * PAGE == b,
            (RunKind::Zero, RunKind::Zero) => self.layer == layer,
            _ => false,
        };
        goes_on && self.run.first + self.run.pages == page
    }
}
