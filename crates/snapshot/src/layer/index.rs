//! The index of a layer: runs of pages of one kind, covering all pages in order.

use super::{DATA, PAGE};

/// Bytes of one run: first page, pages and kind, place in the file.
pub(super) const RUN: usize = 24;

/// Where a run's pages are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunKind {
    /// As in the layer below.
    Parent,
    /// All zeroes.
    Zero,
    /// In the file, from this byte on.
    Data(u64),
}

/// Pages of one kind that follow each other; data follows each other in the file too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first page.
    pub first: u64,
    /// How many.
    pub pages: u64,
    /// What they are.
    pub kind: RunKind,
}

impl Run {
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let (kind, at) = match self.kind {
            RunKind::Parent => (0u64, 0),
            RunKind::Zero => (1, 0),
            RunKind::Data(at) => (2, at),
        };
        out.extend(self.first.to_le_bytes());
        // The kind has the top byte.
        out.extend((self.pages | kind << 56).to_le_bytes());
        out.extend(at.to_le_bytes());
    }

    fn get(b: &[u8]) -> Option<Run> {
        let word = |i: usize| Some(u64::from_le_bytes(b.get(i * 8..i * 8 + 8)?.try_into().ok()?));
        let (first, second, at) = (word(0)?, word(1)?, word(2)?);
        let kind = match (second >> 56, at) {
            (0, 0) => RunKind::Parent,
            (1, 0) => RunKind::Zero,
            (2, at) => RunKind::Data(at),
            _ => return None,
        };
        Some(Run { first, pages: second & ((1 << 56) - 1), kind })
    }
}

/// Adds a page to runs that end before it.
pub(super) fn push(runs: &mut Vec<Run>, page: u64, kind: RunKind) {
    if let Some(last) = runs.last_mut() {
        let goes_on = match (last.kind, kind) {
            (RunKind::Data(a), RunKind::Data(b)) => a + last.pages * PAGE == b,
            (a, b) => a == b,
        };
        if goes_on && last.first + last.pages == page {
            last.pages += 1;
            return;
        }
    }
    runs.push(Run { first: page, pages: 1, kind });
}

/// Reads all runs: they cover exactly `pages`, and data lies within `data` bytes.
pub(super) fn parse(bytes: &[u8], pages: u64, data: u64, parent: bool) -> Result<Vec<Run>, &'static str> {
    let mut next = 0u64;
    let mut runs = Vec::with_capacity(bytes.len() / RUN);
    for b in bytes.chunks_exact(RUN) {
        let run = Run::get(b).ok_or("a run of its index is of no known kind")?;
        if run.first != next || run.pages == 0 || run.pages > pages - next {
            return Err("its index has a gap or an overlap");
        }
        match run.kind {
            RunKind::Parent if !parent => return Err("its index names a parent that it does not have"),
            RunKind::Data(at) => {
                let inside = at >= DATA && at.is_multiple_of(PAGE) && at - DATA <= data;
                if !inside || run.pages * PAGE > data - (at - DATA) {
                    return Err("its index points outside its data");
                }
            }
            _ => {}
        }
        next += run.pages;
        runs.push(run);
    }
    if next == pages { Ok(runs) } else { Err("its index does not reach its last page") }
}
