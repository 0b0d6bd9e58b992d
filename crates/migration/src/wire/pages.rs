//! A batch of pages: runs in the form of the index of a snapshot's layer, then the data of those that have some.
//!
//! ```text
//! payload := runs:u32  run*  data
//! run     := first:u64  pages:56 bits  kind:8 bits  at:u64
//! ```
//! Kinds 1 (zero) and 2 (data) are those of the index (`docs/formats/snapshot.md`); `at` of data is the place in this
//! batch's data, and the data of one run follows that of the one before. Kind 3, which an index does not have, is one page
//! that is the same as page `at`, which this connection has sent as data since the last end of a round.

use super::{WireError, packed};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use strata_memory::{Access, Acquired, GuestRam, PAGE, Presence};

/// Most pages of data in a batch.
pub const BATCH: usize = 64;
/// Most runs in a batch.
pub(super) const MAX_RUNS: usize = 256;
/// Bytes of a run.
pub(super) const RUN: usize = 24;
/// Pages that a writer remembers, to find the same content again: 4 MiB.
const WINDOW: usize = 1024;
pub(super) const SIZE: usize = PAGE as usize;

/// What the pages of a run are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    /// All zeroes.
    Zero,
    /// In the batch's data.
    Data,
    /// One page, the same as this one.
    Same(u64),
}

impl PageKind {
    fn number(self) -> usize {
        match self {
            PageKind::Data => 0,
            PageKind::Zero => 1,
            PageKind::Same(_) => 2,
        }
    }
}

/// Pages of one kind that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRun {
    /// The first page, counted from the beginning of memory.
    pub first: u64,
    /// How many.
    pub pages: u64,
    /// What they are.
    pub kind: PageKind,
}

/// What came of a batch of late pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// Pages that had not been there, of each kind: data, zero; none are the same as another.
    pub pages: [u64; 3],
    /// Pages that had.
    pub twice: u64,
    /// Somebody has waited for one of them.
    pub waited: bool,
}

/// A batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pages<'a> {
    runs: Vec<PageRun>,
    pub(super) data: &'a [u8],
    /// What stands for the data on the way, where that is something else: [`super::Packer`].
    pub(super) packed: Option<&'a [u8]>,
}

/// Reads the runs of a batch; gives also how many bytes of data they are of, and what comes behind them.
fn index(payload: &[u8]) -> Result<(Vec<PageRun>, usize, &[u8]), WireError> {
    let bad = WireError::Protocol;
    let (count, rest) = payload.split_first_chunk::<4>().ok_or(bad("a batch of pages is cut short"))?;
    let count = u32::from_le_bytes(*count) as usize;
    if count > MAX_RUNS || count * RUN > rest.len() {
        return Err(bad("a batch of pages has more runs than there is room for"));
    }
    let (index, rest) = rest.split_at(count * RUN);
    let mut at = 0;
    let mut runs = Vec::with_capacity(count);
    for b in index.chunks_exact(RUN) {
        let word =
            |i: usize| b.get(i * 8..i * 8 + 8).and_then(|w| w.try_into().ok()).map_or(0, u64::from_le_bytes);
        let (first, pages) = (word(0), word(1) & ((1 << 56) - 1));
        let kind = match (word(1) >> 56, word(2)) {
            (1, 0) => PageKind::Zero,
            (2, place) if place == at => PageKind::Data,
            (3, page) if pages == 1 && page != first => PageKind::Same(page),
            _ => return Err(bad("a run of pages is of no known kind, or has no place in the data")),
        };
        if pages == 0 || first.checked_add(pages).is_none() {
            return Err(bad("a run of pages has none, or no end"));
        }
        if kind == PageKind::Data {
            at = pages
                .checked_mul(PAGE)
                .and_then(|n| n.checked_add(at))
                .ok_or(bad("a run of pages has no end"))?;
        }
        runs.push(PageRun { first, pages, kind });
    }
    if at > (BATCH * SIZE) as u64 {
        return Err(bad("a batch of pages is too long"));
    }
    Ok((runs, at as usize, rest))
}

impl<'a> Pages<'a> {
    pub(super) fn parse(payload: &'a [u8]) -> Result<Pages<'a>, WireError> {
        let (runs, len, data) = index(payload)?;
        if len != data.len() {
            return Err(WireError::Protocol("a batch of pages does not have the data that its runs are of"));
        }
        Ok(Pages { runs, data, packed: None })
    }

    /// Of a payload whose data are compressed: they are put behind it into `buf`.
    pub(super) fn unpack(buf: &'a mut Vec<u8>) -> Result<Pages<'a>, WireError> {
        let (runs, len, rest) = index(buf)?;
        let (behind, end) = (buf.len() - rest.len(), buf.len());
        buf.resize(end + len, 0);
        let (payload, data) = buf.split_at_mut(end);
        packed::unpack(payload.get(behind..).unwrap_or_default(), data)?;
        Ok(Pages { runs, data, packed: None })
    }

    /// The same with these bytes for its data.
    pub(super) fn with_packed(self, packed: &'a [u8]) -> Pages<'a> {
        Pages { packed: Some(packed), ..self }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend((self.runs.len() as u32).to_le_bytes());
        let mut at = 0u64;
        for run in &self.runs {
            let (kind, place) = match run.kind {
                PageKind::Zero => (1u64, 0),
                PageKind::Data => (2, at),
                PageKind::Same(page) => (3, page),
            };
            out.extend(run.first.to_le_bytes());
            out.extend((run.pages | kind << 56).to_le_bytes());
            out.extend(place.to_le_bytes());
            at += if run.kind == PageKind::Data { run.pages * PAGE } else { 0 };
        }
        out.extend_from_slice(self.packed.unwrap_or(self.data));
    }

    /// Its runs.
    pub fn runs(&self) -> &[PageRun] {
        &self.runs
    }

    /// How many pages there are in it.
    pub fn pages(&self) -> u64 {
        self.runs.iter().fold(0, |n, r| n.saturating_add(r.pages))
    }

    /// How many bytes it is as a payload.
    pub fn bytes(&self) -> u64 {
        (4 + self.runs.len() * RUN + self.packed.unwrap_or(self.data).len()) as u64
    }

    /// Whether its data travel compressed.
    pub fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// How many bytes its pages of data are.
    pub fn data_bytes(&self) -> u64 {
        self.data.len() as u64
    }

    /// How many pages there are of each kind: data, zero, same.
    pub fn counts(&self) -> [u64; 3] {
        self.runs.iter().fold([0; 3], |mut n, run| {
            n[run.kind.number()] += run.pages;
            n
        })
    }

    /// Whether all of them lie in memory of `total` pages, and those that they are the same as.
    fn inside(&self, total: u64) -> bool {
        let inside = |first: u64, pages: u64| first.checked_add(pages).is_some_and(|end| end <= total);
        self.runs
            .iter()
            .all(|r| inside(r.first, r.pages) && !matches!(r.kind, PageKind::Same(page) if !inside(page, 1)))
    }

    /// Brings pages that come late into memory, which is one region, as far as they are not there yet.
    ///
    /// # Errors
    /// A page is beyond the end of memory, or the same as another: that one may have been written since.
    pub fn bring(&self, ram: &GuestRam) -> Result<Brought, WireError> {
        let [region] = ram.regions() else { return Err(WireError::Protocol("memory is not one region")) };
        if !self.inside(region.size() / PAGE) {
            return Err(WireError::Protocol("a page lies outside of the machine's memory"));
        }
        let mut brought = Brought::default();
        let mut data = self.data.chunks_exact(SIZE);
        for run in &self.runs {
            for page in run.first..run.first + run.pages {
                let content = match run.kind {
                    PageKind::Zero => None,
                    PageKind::Data => data.next(),
                    PageKind::Same(_) => {
                        return Err(WireError::Protocol("a late page is said to be the same as another"));
                    }
                };
                match ram.bring(page, content) {
                    Some(waited) => {
                        brought.pages[run.kind.number()] += 1;
                        brought.waited |= waited;
                    }
                    None => brought.twice += 1,
                }
            }
        }
        Ok(brought)
    }

    /// Puts them into memory, which is one region; gives how many there were of each kind: data, zero, same.
    ///
    /// # Errors
    /// A page is beyond the end of memory.
    pub fn apply(&self, ram: &GuestRam) -> Result<[u64; 3], WireError> {
        let outside = WireError::Protocol("a page lies outside of the machine's memory");
        let [region] = ram.regions() else { return Err(WireError::Protocol("memory is not one region")) };
        if !self.inside(region.size() / PAGE) {
            return Err(outside);
        }
        let mut counts = [0; 3];
        let mut data = self.data;
        for run in &self.runs {
            let gpa = region.gpa() + run.first * PAGE;
            match run.kind {
                PageKind::Data => {
                    let (mine, rest) = data.split_at_checked((run.pages * PAGE) as usize).unwrap_or_default();
                    data = rest;
                    put(ram, gpa, mine)?;
                    counts[0] += run.pages;
                }
                PageKind::Zero => {
                    // What was never written is zero already, and takes no memory.
                    for page in run.first..run.first + run.pages {
                        if region.pages().presence(page as usize) != Presence::Zero {
                            put(ram, region.gpa() + page * PAGE, &[0; SIZE])?;
                        }
                    }
                    counts[1] += run.pages;
                }
                PageKind::Same(page) => {
                    let mut content = [0; SIZE];
                    get(ram, region.gpa() + page * PAGE, &mut content)?;
                    put(ram, gpa, &content)?;
                    counts[2] += 1;
                }
            }
        }
        Ok(counts)
    }
}

fn put(ram: &GuestRam, gpa: u64, bytes: &[u8]) -> Result<(), WireError> {
    match ram.acquire(gpa, bytes.len() as u64, Access::Write) {
        Ok(Acquired::Ready(to)) => to.copy_from(bytes),
        _ => return Err(WireError::Protocol("a page lies outside of the machine's memory")),
    }
    Ok(())
}

fn get(ram: &GuestRam, gpa: u64, bytes: &mut [u8]) -> Result<(), WireError> {
    match ram.acquire(gpa, bytes.len() as u64, Access::Read) {
        Ok(Acquired::Ready(from)) => drop(from.copy_to(bytes)),
        _ => return Err(WireError::Protocol("a page of memory is not there")),
    }
    Ok(())
}

/// Makes batches of pages of a running machine, for one connection.
pub struct PagesWriter {
    runs: Vec<PageRun>,
    data: Vec<u8>,
    /// Pages that were sent as data lately: number and content.
    window: Vec<(u64, Box<[u8]>)>,
    next: usize,
    /// By a hash of its content, a place in the window.
    known: HashMap<u64, usize>,
    hasher: RandomState,
    /// Every page has its own content.
    distinct: bool,
}

impl Default for PagesWriter {
    fn default() -> Self {
        PagesWriter {
            runs: Vec::with_capacity(MAX_RUNS),
            data: Vec::with_capacity(BATCH * SIZE),
            window: Vec::new(),
            next: 0,
            known: HashMap::new(),
            hasher: RandomState::new(),
            distinct: false,
        }
    }
}

impl PagesWriter {
    /// One that calls no page the same as another.
    pub fn distinct() -> PagesWriter {
        PagesWriter { distinct: true, ..PagesWriter::default() }
    }

    /// Adds page `page` of `ram`, which is one region, as it is now. Gives whether the batch is full.
    ///
    /// # Errors
    /// It is not there.
    pub fn add(&mut self, ram: &GuestRam, page: u64) -> Result<bool, WireError> {
        let [region] = ram.regions() else { return Err(WireError::Protocol("memory is not one region")) };
        if region.pages().presence(page as usize) == Presence::Zero {
            self.run(page, PageKind::Zero);
            return Ok(self.full());
        }
        let at = self.data.len();
        self.data.resize(at + SIZE, 0);
        get(ram, region.gpa() + page * PAGE, self.data.get_mut(at..).unwrap_or_default())?;
        let kind = self.kind_of(page, at);
        if kind != PageKind::Data {
            self.data.truncate(at);
        }
        self.run(page, kind);
        Ok(self.full())
    }

    fn full(&self) -> bool {
        self.runs.len() >= MAX_RUNS || self.data.len() >= BATCH * SIZE
    }

    fn kind_of(&mut self, page: u64, at: usize) -> PageKind {
        let content = self.data.get(at..).unwrap_or_default();
        let (head, tail) = content.split_at(8.min(content.len()));
        if head.iter().all(|b| *b == 0) && tail.chunks(64).all(|c| c.iter().fold(0, |a, b| a | b) == 0) {
            return PageKind::Zero;
        }
        if self.distinct {
            return PageKind::Data;
        }
        // A few words tell most pages apart; the content is compared then.
        let mut sample = [0u8; 64];
        for (to, from) in sample.chunks_exact_mut(8).zip(content.chunks_exact(SIZE / 8)) {
            to.copy_from_slice(from.get(..8).unwrap_or_default());
        }
        let hash = self.hasher.hash_one(sample);
        if let Some((known, same)) = self.known.get(&hash).and_then(|n| self.window.get(*n))
            && **same == *content
            && *known != page
        {
            return PageKind::Same(*known);
        }
        let entry = (page, content.into());
        if self.window.len() < WINDOW {
            self.window.push(entry);
        } else if let Some(old) = self.window.get_mut(self.next) {
            *old = entry;
        }
        self.known.insert(hash, self.next);
        self.next = (self.next + 1) % WINDOW;
        PageKind::Data
    }

    fn run(&mut self, page: u64, kind: PageKind) {
        match self.runs.last_mut() {
            Some(last)
                if last.kind == kind
                    && last.first + last.pages == page
                    && !matches!(kind, PageKind::Same(_)) =>
            {
                last.pages += 1;
            }
            _ => self.runs.push(PageRun { first: page, pages: 1, kind }),
        }
    }

    /// How many pages of data there are in it.
    pub fn data_pages(&self) -> usize {
        self.data.len() / SIZE
    }

    /// The batch so far; none if there is nothing in it.
    pub fn batch(&self) -> Option<Pages<'_>> {
        (!self.runs.is_empty()).then(|| Pages { runs: self.runs.clone(), data: &self.data, packed: None })
    }

    /// After a batch was sent: the next one begins.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.data.clear();
    }

    /// At the end of a round: what was sent before may be overwritten by other connections from now on.
    pub fn end_round(&mut self) {
        self.window.clear();
        self.known.clear();
        self.next = 0;
    }
}
