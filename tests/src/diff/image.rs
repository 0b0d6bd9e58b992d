//! From a seed to the whole RAM of a program.

use crate::diff::csrs;
use crate::diff::layout::{
    CODE, DESCRIPTOR, DESCRIPTORS, LISTS, LOG, MAX_SLOTS, RAM, RECORD, S_TRAP, SCRATCH, SCRATCH_SIZE, SLOT,
    SLOTS, STUBS, TABLES, defines,
};
use crate::diff::operands;
use crate::diff::paging::{self, Tables};
use crate::diff::slots::{Filters, Maker, Phase, Slot};
use crate::guest;
use anyhow::{Result, ensure};
use strata_isa::random::SplitMix64;

/// Slots that share a phase.
const PHASE: u64 = 256;

/// The harness as a flat binary.
pub fn harness() -> Result<Vec<u8>> {
    let options: Vec<String> = defines();
    let program = guest::assemble_flat("diff/harness.S", RAM, &options)?;
    ensure!(RAM + (program.len() as u64) < S_TRAP, "the harness has outgrown its place");
    Ok(program)
}

/// A program.
pub struct Image {
    /// What it was made from.
    pub seed: u64,
    /// Its slots, in order.
    pub slots: Vec<Slot>,
    /// Pieces of RAM; the rest is zero.
    pub parts: Vec<(u64, Vec<u8>)>,
}

impl Image {
    /// The program of `seed`, with `count` slots, at most [`MAX_SLOTS`].
    /// It ends after slot `stop`, if there is one: to find the slot that did something not logged.
    pub fn new(harness: &[u8], filters: &Filters, seed: u64, count: usize, stop: Option<usize>) -> Image {
        let count = count.min(MAX_SLOTS);
        let mut rng = SplitMix64::new(seed);
        let tables = Tables::new(&mut rng);
        let mut maker = Maker::new(&mut rng, &tables, filters, count as u64);
        let mut slots = Vec::with_capacity(count);
        for n in 0..count as u64 {
            let begins = n.is_multiple_of(PHASE);
            if begins {
                maker.phase = random_phase(maker.rng);
            }
            let mut slot = maker.slot(n);
            if begins {
                let phase = maker.phase;
                let mut all: Vec<_> =
                    Phase::REGISTERS.iter().map(|r| (csrs::stub(*r), phase.value(*r))).collect();
                all.push((csrs::fence(), 0));
                slot.before.splice(0..0, all);
            }
            slots.push(slot);
        }
        let mut scratch: Vec<u8> = Vec::new();
        for _ in 0..SCRATCH_SIZE / 8 {
            scratch.extend(operands::integer(&mut rng).to_le_bytes());
        }
        let first: Vec<u64> =
            (0..64).map(|r| if r < 32 { rng.next_u64() } else { operands::float(&mut rng) }).collect();
        slots.truncate(stop.map_or(count, |n| n + 1));
        let (lists, descriptors) = describe(&slots);
        let parts = vec![
            (RAM, harness.to_vec()),
            (S_TRAP, 0x73u32.to_le_bytes().repeat(0x400)),
            (STUBS, csrs::stubs().iter().flat_map(|w| w.to_le_bytes()).collect()),
            (SLOTS, (slots.len() as u64).to_le_bytes().to_vec()),
            (TABLES, tables.bytes()),
            (SCRATCH, scratch),
            (CODE, code(&slots)),
            (LISTS, bytes(&lists)),
            (DESCRIPTORS, bytes(&descriptors)),
            (LOG, bytes(&first)),
        ];
        Image { seed, slots, parts }
    }

    /// Bytes of the log that a full run leaves.
    pub fn log_len(&self) -> usize {
        (self.slots.len() + 1) * RECORD as usize
    }
}

fn random_phase(rng: &mut SplitMix64) -> Phase {
    let r = rng.next_u64();
    let mode = [0, 0, 8, 8, 8, 9, 10, 10][(r & 7) as usize];
    let satp = if mode == 0 { 0 } else { mode << 60 | (r >> 8 & 0xff) << 44 | paging::root(mode) };
    // FIOM, CBIE, CBCFE, CBZE; PBMTE, ADUE, STCE.
    let envcfg = |r: u64| r & 0xc1 | [0, 0x10, 0x30, 0x30][(r >> 16 & 3) as usize];
    Phase {
        satp,
        menvcfg: envcfg(r >> 16) | (r >> 3 & 7) << 61 | if r >> 6 & 1 != 0 { 7 << 61 | 0xf0 } else { 0 },
        senvcfg: envcfg(r >> 40),
        mcounteren: rng.next_u64() & 0xffff_ffff,
        scounteren: rng.next_u64() & 0xffff_ffff,
        stvec: if satp == 0 { S_TRAP } else { paging::S_TRAP_PAGED },
    }
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

/// The code window: what the slots say, and `c.ebreak` everywhere else.
fn code(slots: &[Slot]) -> Vec<u8> {
    const C_EBREAK: [u8; 2] = [0x02, 0x90];
    let mut code = C_EBREAK.repeat((slots.len() + 1) * SLOT as usize / 2);
    for s in slots {
        let mut at = s.offset as usize;
        for (word, len) in &s.code {
            let len = usize::from(*len);
            code[at..at + len].copy_from_slice(&word.to_le_bytes()[..len]);
            at += len;
        }
    }
    code
}

/// Lists and descriptors, as the harness reads them.
fn describe(slots: &[Slot]) -> (Vec<u64>, Vec<u64>) {
    let mut lists = Vec::new();
    let mut list = |items: &[(u64, u64)]| {
        if items.is_empty() {
            return 0;
        }
        let at = LISTS + 8 * lists.len() as u64;
        lists.extend(items.iter().flat_map(|(stub, value)| [*stub, *value]));
        lists.push(0);
        at
    };
    let mut descriptors = Vec::with_capacity(slots.len() * DESCRIPTOR as usize / 8);
    for s in slots {
        let operand = |i: usize| s.operands.get(i).copied().unwrap_or((0, 0));
        let places = (0..4).fold(0, |p, i| p | (u64::from(operand(i).0) * 8) << (16 * i));
        let (before, after) = (list(&s.before), list(&s.after));
        descriptors.extend([s.pc, s.mstatus, s.fcsr, s.watch, places]);
        descriptors.extend((0..4).map(|i| operand(i).1));
        descriptors.extend([before, after]);
    }
    assert!(LISTS + 8 * (lists.len() as u64) < DESCRIPTORS, "the lists have outgrown their place");
    (lists, descriptors)
}
