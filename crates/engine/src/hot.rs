//! Hot paths: which guest code was worth translating, so that another run can begin with it.
//!
//! ```text
//!   a machine's run ──► Vcpu::hot_paths ──► HotPaths ──► bytes, kept or sent ──► Vcpu::warm of a later run
//! ```
//! A path is written down as where it began and the way that it took through branches and returns; never as host code, and
//! not even as guest code, of which there is only a hash. Whoever is given a path decodes it from guest memory as it is
//! now and compares. So a list is a hint: a stale, foreign or forged one decides what is translated early, and nothing
//! that a guest could see.
//!
//! Paths are found by what is in the code's page, not by address: the offset in the page and the 8 bytes around it. Kernels
//! and programs that lie elsewhere in the next boot (KASLR, ASLR, other physical pages) are found all the same.
//!
//! The format is `docs/formats/hot-paths.md`. Deliberately not here: what a path may be, which is the engine's to say.

use thiserror::Error;

/// Most paths of a list. A Debian boot has some 20 000.
pub const MAX_PATHS: usize = 1 << 16;
/// Largest list, in bytes.
pub const MAX_BYTES: usize = 8 << 20;
const MAGIC: [u8; 8] = *b"hotpaths";
const VERSION: u32 = 1;
const ISA: [u8; 8] = *b"riscv64\0";
const HEADER: usize = 24;
const CHECKSUM: usize = 8;
/// A path without its turns.
const FIXED: usize = 31;
/// Paths of one place that are looked at: what does not differ in 8 bytes of code is rare, unless somebody wants it so.
const CROWD: usize = 32;

/// Why bytes are no list of hot paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HotPathsError {
    /// They do not begin as one.
    #[error("they are no list of hot paths of a riscv64 machine")]
    Foreign,
    /// Another version of the format.
    #[error("the list of hot paths has version {0}, and this program reads version {VERSION}")]
    Version(u32),
    /// Not as it was written.
    #[error("the list of hot paths is damaged: {0}")]
    Damaged(&'static str),
}

/// Some of the hot paths of a vCPU.
#[derive(Debug, Default)]
pub struct Portion {
    /// These.
    pub paths: Vec<HotPath>,
    /// Where the next portion begins; none after the last one. If the vCPU has run since, what it has found or dropped
    /// meanwhile may be missing.
    pub next: Option<usize>,
}

/// Which way a path took at an instruction that leaves a choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// A branch was not taken.
    On,
    /// A branch was taken.
    Taken,
    /// A jump to a register's value led there: the distance from the path's beginning, wrapping.
    To(u64),
}

/// A path that was hot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HotPath {
    /// Virtual address of its first instruction.
    pub pc: u64,
    /// The aligned 8 bytes of guest memory that hold the first instruction's first byte.
    pub head: u64,
    /// [`hash`] of its instructions, in the order of the path.
    pub hash: u64,
    /// How hot, by the edges that led to it on all vCPUs, and half of what it was in the run before.
    pub count: u32,
    /// The engine's number for privilege and address space.
    pub mode: u8,
    /// Instructions.
    pub len: u8,
    /// In the format's encoding; valid.
    turns: Box<[u8]>,
}

impl HotPath {
    /// The path, with these turns.
    #[must_use]
    pub fn with_turns(self, turns: impl IntoIterator<Item = Turn>) -> HotPath {
        let mut bytes = Vec::new();
        for turn in turns {
            match turn {
                Turn::On => bytes.push(0),
                Turn::Taken => bytes.push(1),
                Turn::To(distance) => {
                    bytes.push(2);
                    bytes.extend(distance.to_le_bytes());
                }
            }
        }
        HotPath { turns: bytes.into(), ..self }
    }

    /// A path without turns, seen once.
    pub fn new(mode: u8, pc: u64, head: u64, len: u8, hash: u64) -> HotPath {
        HotPath { pc, head, hash, count: 1, mode, len, turns: Box::new([]) }
    }

    /// Its turns.
    pub fn turns(&self) -> impl Iterator<Item = Turn> {
        let mut rest = &*self.turns;
        std::iter::from_fn(move || {
            let turn;
            (turn, rest) = split_turn(rest)?;
            Some(turn)
        })
    }

    fn is_possible(&self) -> bool {
        self.len > 0 && self.turns().count() <= self.len.into()
    }

    fn key(&self) -> u64 {
        key(self.mode, self.pc, self.head)
    }

    fn size(&self) -> usize {
        FIXED + self.turns.len()
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.pc.to_le_bytes());
        out.extend(self.head.to_le_bytes());
        out.extend(self.hash.to_le_bytes());
        out.extend(self.count.to_le_bytes());
        out.extend([self.mode, self.len, self.turns().count() as u8]);
        out.extend(&self.turns);
    }

    fn read(from: &mut &[u8]) -> Option<HotPath> {
        let (pc, head, hash) = (take(from)?, take(from)?, take(from)?);
        let count = u32::from_le_bytes(take(from)?);
        let [mode, len, turns] = take(from)?;
        if len == 0 || turns > len {
            return None;
        }
        let all = *from;
        for _ in 0..turns {
            *from = split_turn(from)?.1;
        }
        let turns = all.get(..all.len() - from.len())?.into();
        let [pc, head, hash] = [pc, head, hash].map(u64::from_le_bytes);
        Some(HotPath { pc, head, hash, count, mode, len, turns })
    }
}

fn take<const N: usize>(from: &mut &[u8]) -> Option<[u8; N]> {
    let (bytes, rest) = from.split_first_chunk()?;
    *from = rest;
    Some(*bytes)
}

/// The first turn of an encoding, and the rest of it.
fn split_turn(bytes: &[u8]) -> Option<(Turn, &[u8])> {
    let (kind, mut rest) = bytes.split_first()?;
    let turn = match kind {
        0 => Turn::On,
        1 => Turn::Taken,
        2 => Turn::To(u64::from_le_bytes(take(&mut rest)?)),
        _ => return None,
    };
    Some((turn, rest))
}

/// By what paths are found.
fn key(mode: u8, pc: u64, head: u64) -> u64 {
    let place = pc & 0xfff | u64::from(mode) << 12;
    (head ^ place.rotate_left(40)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// FNV-1a, 64 bits: of a path's instructions, and of a list.
pub fn hash(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |h: u64, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// A list of hot paths, bounded, and quick to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HotPaths {
    /// In the order of their keys.
    paths: Vec<HotPath>,
    /// Where the paths begin whose keys' highest bits are the index; one more than there are values of these.
    starts: Vec<u32>,
}

impl HotPaths {
    /// The hottest of these, each once: counts of the same path, as from several vCPUs, are added.
    pub fn of(paths: impl IntoIterator<Item = HotPath>) -> HotPaths {
        let mut all: Vec<HotPath> = paths.into_iter().filter(HotPath::is_possible).collect();
        all.sort_by(|a, b| identity(a).cmp(&identity(b)));
        all.dedup_by(|next, kept| {
            let same = identity(next) == identity(kept);
            if same {
                kept.count = kept.count.saturating_add(next.count);
            }
            same
        });
        all.sort_by_key(|p| std::cmp::Reverse(p.count));
        let mut room = MAX_BYTES - HEADER - CHECKSUM;
        let fitting = all.iter().take(MAX_PATHS).take_while(|p| {
            let fits = p.size() <= room;
            room = room.saturating_sub(p.size());
            fits
        });
        let fitting = fitting.count();
        all.truncate(fitting);
        HotPaths::indexed(all)
    }

    fn indexed(mut paths: Vec<HotPath>) -> HotPaths {
        if paths.is_empty() {
            return HotPaths::default();
        }
        paths.sort_by_key(HotPath::key);
        let bits = paths.len().next_power_of_two().ilog2() + 1;
        let mut starts = vec![0; (1 << bits) + 1];
        for p in &paths {
            starts[(p.key() >> (64 - bits)) as usize + 1] += 1;
        }
        let mut all = 0;
        for start in &mut starts {
            all += *start;
            *start = all;
        }
        HotPaths { paths, starts }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.paths.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &HotPath> {
        self.paths.iter()
    }

    /// Those that may begin at `pc` in `mode`, where `head` are the aligned 8 bytes that hold its first; with their numbers,
    /// which are below [`HotPaths::len`]. This is asked for each address that is met for the first times.
    pub fn at(&self, mode: u8, pc: u64, head: u64) -> impl Iterator<Item = (usize, &HotPath)> {
        let key = key(mode, pc, head);
        // One more than a power of two, if there are any paths.
        let place = self.starts.len().checked_ilog2().map_or(0, |bits| (key >> (64 - bits)) as usize);
        let (from, to) = match self.starts.get(place..place + 2) {
            Some(&[from, to]) => (from as usize, to as usize),
            _ => (0, 0),
        };
        let those = self.paths.get(from..to).unwrap_or(&[]).iter().enumerate().take(CROWD);
        those
            .map(move |(n, p)| (from + n, p))
            .filter(move |(_, p)| p.head == head && p.mode == mode && p.pc & 0xfff == pc & 0xfff)
    }

    /// As they count for a later run: half as hot, so that what is never met again goes.
    pub fn aged(&self) -> impl Iterator<Item = HotPath> {
        self.paths.iter().map(|p| HotPath { count: p.count / 2, ..p.clone() }).filter(|p| p.count > 0)
    }

    /// The list as bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out =
            Vec::with_capacity(HEADER + CHECKSUM + self.paths.iter().map(HotPath::size).sum::<usize>());
        out.extend(MAGIC);
        out.extend(ISA);
        out.extend(VERSION.to_le_bytes());
        out.extend((self.paths.len() as u32).to_le_bytes());
        self.paths.iter().for_each(|p| p.write(&mut out));
        let sum = hash(out.iter().copied());
        out.extend(sum.to_le_bytes());
        out
    }

    /// The list that these bytes are.
    ///
    /// # Errors
    /// They are none, or not as they were written; they are to be ignored then.
    pub fn from_bytes(bytes: &[u8]) -> Result<HotPaths, HotPathsError> {
        use HotPathsError::{Damaged, Foreign, Version};
        let mut rest = bytes;
        if take(&mut rest) != Some(MAGIC) || take(&mut rest) != Some(ISA) {
            return Err(Foreign);
        }
        match take(&mut rest).map(u32::from_le_bytes) {
            Some(VERSION) => {}
            Some(other) => return Err(Version(other)),
            None => return Err(Damaged("it is cut short")),
        }
        let count = take(&mut rest).map(u32::from_le_bytes).ok_or(Damaged("it is cut short"))? as usize;
        let (mut rest, sum) = rest.split_last_chunk().ok_or(Damaged("it is cut short"))?;
        if bytes.len() > MAX_BYTES || count > MAX_PATHS {
            return Err(Damaged("it is larger than any"));
        }
        let summed = bytes.get(..bytes.len() - CHECKSUM).unwrap_or(&[]);
        if hash(summed.iter().copied()) != u64::from_le_bytes(*sum) {
            return Err(Damaged("its checksum does not fit"));
        }
        let mut paths = Vec::with_capacity(count.min(rest.len() / FIXED));
        for _ in 0..count {
            paths.push(HotPath::read(&mut rest).ok_or(Damaged("a path is impossible"))?);
        }
        if !rest.is_empty() {
            return Err(Damaged("something follows the last path"));
        }
        Ok(HotPaths::indexed(paths))
    }
}

/// What makes two paths the same one.
fn identity(p: &HotPath) -> (u64, u8, u64, u64, u8, &[u8]) {
    (p.pc, p.mode, p.head, p.hash, p.len, &p.turns)
}

#[cfg(test)]
mod tests;
