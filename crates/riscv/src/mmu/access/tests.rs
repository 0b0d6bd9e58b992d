//! Memory against memory: a hart that remembers translations, against a walk for every access.
//!
//! Page tables of three address spaces change at random, each time with a fence that is just wide enough, sent by itself
//! or as mail; in between come loads, stores and fetches in every context. Every page of RAM holds its own address, so
//! that a value tells where a load went.

use super::*;
use crate::tests::fixture::{BASE, Machine};
use strata_engine::{Mail, Vcpu};
use strata_isa::ops::{Ops, VmaFence};
use strata_isa::random::SplitMix64;

const SPACES: u64 = 3;
/// For each space a root, a middle and two last tables, then a last one that all share.
const TABLES: u64 = BASE + 0x8000;
const SHARED: u64 = TABLES + SPACES * 0x4000;
const DATA: u64 = BASE + 0x20_0000;
const SUPER: u64 = 2 << 20;
/// The first of three 2 MiB regions in use; in the third, all pages are global.
const VA: u64 = 0x4000_0000;
/// Pages in use of each region: few enough that they are met again and again.
const PAGES: u64 = 20;

const G: u64 = Pte::G;
const POINTER: u64 = Pte::V;

fn table(space: u64, n: u64) -> u64 {
    TABLES + (space * 4 + n) * 0x1000
}

fn asid(space: u64) -> u64 {
    // The last two share a place in the second level.
    [0, 7, 7 + 256][space as usize]
}

fn satp(space: u64) -> u64 {
    8 << 60 | asid(space) << 44 | table(space, 0) >> 12
}

fn pte(pa: u64, bits: u64) -> u64 {
    pa >> 12 << 10 | bits
}

/// Reads entries of RAM and notes, but does not do, what it is asked to change.
struct Looker<'a>(Tables<'a>, bool);

impl PteMemory for Looker<'_> {
    fn read(&mut self, pa: u64) -> Result<u64, Fault> {
        self.0.read(pa)
    }
    fn update(&mut self, _: u64, _: u64, _: u64) -> Result<bool, Fault> {
        self.1 = true;
        Ok(true)
    }
}

/// Where a walk leads, and whether it would have to mark an entry.
fn look(core: &Core, va: u64, access: Access) -> Result<(u64, bool), Fault> {
    let mode = if access == Access::Fetch { core.privilege } else { core.data_privilege() };
    let space = core.space(mode).expect("translation is on");
    let mut mem = Looker(Tables { ram: &core.ram, pmp: &core.csr.pmp }, false);
    walk(&space, va, access, &mut mem).map(|leaf| (leaf.pa, mem.1))
}

struct Trial {
    m: Machine,
    rng: SplitMix64,
    /// What happened lately, to tell when something is wrong.
    story: Vec<String>,
}

impl Trial {
    fn new(seed: u64) -> Trial {
        let mut m = Machine::kernel(&[]);
        for space in 0..SPACES {
            m.put(table(space, 0) + 8, pte(table(space, 1), POINTER));
            m.put(table(space, 1), pte(table(space, 2), POINTER));
            m.put(table(space, 1) + 8, pte(table(space, 3), POINTER));
            m.put(table(space, 1) + 16, pte(SHARED, POINTER));
        }
        (0..0x200).map(|page| DATA + page * 0x1000).for_each(|at| m.put(at, at));
        m.core().set_satp(satp(0));
        Trial { m, rng: SplitMix64::new(seed), story: Vec::new() }
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.rng.below(n) == 0
    }

    /// Bits of a leaf: often good ones, sometimes any.
    fn bits(&mut self) -> u64 {
        let any = self.rng.next_u64() & 0xdf | Pte::V;
        if self.one_in(4) { any } else { any | Pte::R | Pte::X | Pte::A }
    }

    /// Changes an entry or some, and fences.
    fn change(&mut self) {
        let (space, region, index) = (self.rng.below(SPACES), self.rng.below(3), self.rng.below(PAGES));
        let va = VA + region * SUPER + index * 0x1000;
        let leaf = pte(DATA + self.rng.below(64) * 0x1000, self.bits());
        if region == 2 {
            self.put(SHARED + 8 * index, leaf | G);
            return self.fence(Some(va), None);
        }
        let last = table(space, 2 + region);
        let middle = table(space, 1) + 8 * region;
        let space = Some(asid(space));
        match self.rng.below(6) {
            // A superpage or a table in its place. Any address of the superpage that was there does for a fence.
            0 | 1 => {
                let was_super = !Pte(self.m.get(middle)).is_pointer();
                let bits = self.bits() | Pte::R;
                let new = if self.one_in(2) { pte(last, POINTER) } else { pte(DATA, bits) };
                self.put(middle, new);
                self.fence(was_super.then_some(va), space);
            }
            // Sixteen pages as one.
            2 => {
                let run = pte(DATA + 0x8000, self.bits()) | 8 << 10 | Pte::N;
                let first = index & !15;
                (first..first + 16).for_each(|i| self.put(last + 8 * i, run));
                self.fence(None, space);
            }
            _ => {
                self.put(last + 8 * index, leaf);
                self.fence(Some(va), space);
            }
        }
    }

    fn put(&mut self, at: u64, entry: u64) {
        self.story.push(format!("{at:#x} := {entry:#x}"));
        self.m.put(at, entry);
    }

    /// A fence no narrower than asked for, by one way or another.
    fn fence(&mut self, va: Option<u64>, asid: Option<u64>) {
        let va = va.filter(|_| self.rng.below(4) > 0);
        let asid = asid.filter(|_| self.rng.below(4) > 0);
        self.story.push(format!("fence {va:x?} {asid:x?}"));
        if self.one_in(3) {
            let (start, size) = va.map_or((0, u64::MAX), |va| (va + 8, 16));
            self.m.hart.shared().send(Mail::FenceVma { start, size, asid: asid.map(|asid| asid as u16) });
            self.m.hart.serve_mail();
        } else {
            let op = if self.one_in(2) { VmaFence::SinvalVma } else { VmaFence::SfenceVma };
            let c = self.m.core();
            let mode = std::mem::replace(&mut c.privilege, Privilege::Supervisor);
            c.fence_vma(op, va, asid).unwrap();
            c.privilege = mode;
        }
    }

    /// Another space, or another way to look at it.
    fn turn(&mut self) {
        let (pick, space) = (self.rng.below(9), self.rng.below(SPACES));
        let bits = self.rng.next_u64() & (status::SUM | status::MXR);
        let user = self.one_in(2);
        self.story.push(format!("turn {pick} {space} {bits:#x} {user}"));
        let c = self.m.core();
        match pick {
            0..4 => c.set_satp(satp(space)),
            4 => {
                c.csr.menvcfg ^= envcfg::ADUE;
                c.protection_changed();
            }
            5 => c.mmu.forget_pages(),
            _ => {
                c.set_status(c.csr.mstatus & !(status::SUM | status::MXR) | bits);
                c.privilege = if user { Privilege::User } else { Privilege::Supervisor };
                c.mode_changed();
            }
        }
    }

    fn access(&mut self) {
        let va = VA + self.rng.below(3) * SUPER + self.rng.below(PAGES) * 0x1000;
        let access = [Access::Read, Access::Write, Access::Fetch][self.rng.below(3) as usize];
        self.story.push(format!("{access:?} {va:#x}"));
        let c = self.m.core();
        let expect = look(c, va, access);
        let got = match access {
            Access::Read => c.load(va, Width::I64),
            Access::Write => c.store(va + 8, 1, Width::I64).map(|()| c.load(va, Width::I64).unwrap_or(0)),
            Access::Fetch => c.fetch_page(va).map(|page| page.page.load(va, Width::I64)),
        };
        match (expect, got) {
            (Ok((pa, _)), Ok(v)) if v == pa => {
                assert_eq!(look(c, va, access), Ok((pa, false)), "marks are due: {:#?}", self.story);
            }
            (Err(Fault::Page), Err(Exit::Trap)) => {}
            _ => panic!("the walk finds {expect:x?}, the hart {got:x?} after {:#?}", self.story),
        }
    }
}

#[test]
fn what_is_remembered_is_what_a_walk_would_find() {
    for seed in 0..30 {
        let mut t = Trial::new(seed);
        for _ in 0..6000 {
            match t.rng.below(14) {
                0 => t.change(),
                1 => t.turn(),
                _ => t.access(),
            }
            if t.story.len() > 200 {
                t.story.drain(..100);
            }
        }
    }
}
