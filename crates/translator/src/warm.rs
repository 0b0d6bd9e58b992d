//! Paths of another run: how a unit is described for it, and how a path is found again in this one.
//!
//! A description (`strata_engine::hot`) says where to go on at every instruction that leaves a choice; everything else is
//! read from guest memory by [`Recording`], by whose rules the path is cut, so that nothing is translated that a recording
//! could not have been: a wrong description is another path through the guest's code, and its hash does not fit.

use crate::cache::Cache;
use crate::trace::{Progress, Recording};
use crate::unit::Step;
use std::sync::Arc;
use strata_engine::hot::{self, HotPath, HotPaths, Turn};
use strata_isa::{Effect, Insn};

/// What a path is worth that was translated, and as much again for each edge to it: one that is not met again is kept for
/// three more runs.
const WORTH: u32 = 8;
/// Arrivals at which a path is looked for that is not there, or not all of it: by then it is hot, or rarely met.
const TRIES: u8 = 8;
/// Paths that are tried at one arrival.
const AT_ONCE: usize = 4;

/// A list of hot paths, and what has become of them.
pub(crate) struct Warm {
    paths: Arc<HotPaths>,
    /// Tries left for each.
    left: Box<[u8]>,
}

impl Warm {
    /// A list of which nothing has been used.
    pub fn new(paths: Arc<HotPaths>) -> Warm {
        let left = vec![TRIES; paths.len()].into();
        Warm { paths, left }
    }

    /// All may be used again.
    pub fn rearm(&mut self) {
        self.left.fill(TRIES);
    }

    /// Paths that may begin at `pc`, where the aligned 8 bytes of memory are `head`, and their numbers; those first that
    /// began at this very address.
    pub fn at(&self, context: u8, pc: u64, head: u64) -> Vec<(usize, HotPath)> {
        let useful = |n: usize| self.left.get(n).is_some_and(|left| *left > 0);
        let mut found: Vec<_> = self.paths.at(context, pc, head).filter(|(n, _)| useful(*n)).collect();
        found.sort_by_key(|(_, p)| p.pc != pc);
        found.into_iter().take(AT_ONCE).map(|(n, p)| (n, p.clone())).collect()
    }

    /// Path number `n` was looked for, and `found` or not. One that was is not looked for again: a unit stays for as long
    /// as its code, and elsewhere the same code may be cold.
    pub fn tried(&mut self, n: usize, found: bool) {
        if let Some(left) = self.left.get_mut(n) {
            *left = if found { 0 } else { left.saturating_sub(1) };
        }
    }
}

/// Unit number `n` as a hot path; none of one whose guest code has changed.
pub(crate) fn describe(cache: &Cache, n: u32) -> Option<HotPath> {
    let (unit, sites) = (cache.units.get(n as usize)?, cache.sites(n));
    if sites.is_empty() {
        return None;
    }
    let nexts = sites.iter().skip(1).map(|s| s.pc).chain([unit.next]);
    let turns = sites.iter().zip(nexts).filter_map(|(s, next)| turn(s.pc, &s.insn, next, unit.pc));
    let hash = hash(sites.iter().map(|s| &s.insn));
    let len = unit.len.try_into().ok()?;
    let mut path = HotPath::new(unit.context, unit.pc, unit.head, len, hash).with_turns(turns);
    let edges = u32::try_from(cache.links_to(n).count()).unwrap_or(u32::MAX);
    path.count = WORTH.saturating_mul(edges.saturating_add(1));
    Some(path)
}

/// Hash of a path's instructions.
fn hash<'a>(insns: impl Iterator<Item = &'a Insn>) -> u64 {
    hot::hash(insns.flat_map(|i| i.raw.to_le_bytes().into_iter().take(i.len.into())))
}

/// What has to be said of an instruction at `pc` after which a path that began at `start` went to `next`.
fn turn(pc: u64, insn: &Insn, next: u64, start: u64) -> Option<Turn> {
    match insn.op.effect() {
        Effect::Branch if next == target(pc, insn) => Some(Turn::Taken),
        Effect::Branch => Some(Turn::On),
        Effect::JumpTo => Some(Turn::To(next.wrapping_sub(start))),
        _ => None,
    }
}

/// Where a jump or a branch that is taken leads.
fn target(pc: u64, insn: &Insn) -> u64 {
    pc.wrapping_add(insn.imm as i64 as u64)
}

/// Where a path goes on behind `step`; none if the turn is not one that the instruction can take.
fn next(step: &Step, start: u64, turns: &mut impl Iterator<Item = Turn>) -> Option<u64> {
    match step.insn.op.effect() {
        Effect::Jump => Some(target(step.pc, &step.insn)),
        Effect::Branch => match turns.next()? {
            Turn::Taken => Some(target(step.pc, &step.insn)),
            Turn::On => Some(step.next),
            Turn::To(_) => None,
        },
        Effect::JumpTo => match turns.next()? {
            Turn::To(distance) => Some(start.wrapping_add(distance)).filter(|to| to & 1 == 0),
            _ => None,
        },
        _ => Some(step.next),
    }
}

/// Writes down the path that is described, as guest memory has it now, by decoding block after block; false if it is
/// another one now.
pub(crate) fn follow(
    path: &HotPath,
    r: &mut Recording,
    mut decode: impl FnMut(&mut Recording, u64) -> bool,
) -> bool {
    let start = r.expect;
    let mut turns = path.turns();
    loop {
        let at = r.expect;
        if !decode(r, at) {
            return false;
        }
        let block = r.pending();
        let Some(next) = block.last().and_then(|last| next(last, start, &mut turns)) else { return false };
        let insns = block.len();
        if r.commit(at, insns, next) == Progress::Done || r.steps.len() >= usize::from(path.len) {
            break;
        }
    }
    // A loop goes round in a path by itself.
    let made = r.steps.iter().filter_map(|s| turn(s.pc, &s.insn, s.next, start));
    r.steps.len() == usize::from(path.len)
        && made.eq(path.turns())
        && hash(r.steps.iter().map(|s| &s.insn)) == path.hash
}
