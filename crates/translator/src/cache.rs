//! All units of a hart: how they are found, linked, doubted and dropped.
//!
//! ```text
//!   pc ──► jump cache, one for each context: exact addresses, guarded entries
//!           │ miss: translate
//!           ▼
//!          units by (pc, context, page id) ──► entered through the guard, and remembered in the jump cache
//! ```
//! Invariant: whatever leads to a unit without the dispatcher (a linked exit, a place of the jump cache) leads to one
//! that is not suspect; linked exits are listed in the unit they lead to.

use crate::code_memory::CodeMemory;
use crate::unit::{Exit, JUMPS, Jump, Unit};
use std::collections::HashMap;

/// Contexts that are translated: user, supervisor with and without SUM, machine.
pub(crate) const CONTEXTS: usize = 4;
const BUCKETS: usize = 1 << 15;
const NONE: u32 = u32::MAX;
const NOWHERE: Jump = Jump { pc: 1, code: 0 };

/// See the module.
pub(crate) struct Cache {
    pub units: Vec<Unit>,
    pub exits: Vec<Exit>,
    buckets: Box<[u32]>,
    jumps: [Box<[Jump]>; CONTEXTS],
    /// Units by the guest physical page they have instructions on.
    by_page: HashMap<u64, Vec<u32>>,
}

fn bucket(pc: u64, context: u8) -> usize {
    let h = (pc >> 1).wrapping_add(u64::from(context)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (h >> 49) as usize & (BUCKETS - 1)
}

impl Cache {
    /// Empty.
    pub fn new() -> Cache {
        Cache {
            units: Vec::new(),
            exits: Vec::new(),
            buckets: vec![NONE; BUCKETS].into(),
            jumps: std::array::from_fn(|_| vec![NOWHERE; JUMPS.places()].into()),
            by_page: HashMap::new(),
        }
    }

    /// Drops all units. Their code must not be entered any more.
    pub fn clear(&mut self) {
        self.units.clear();
        self.exits.clear();
        self.buckets.fill(NONE);
        self.jumps.iter_mut().for_each(|j| j.fill(NOWHERE));
        self.by_page.clear();
    }

    /// Address of the jump cache of `context`, for emitted code.
    pub fn jumps(&self, context: u8) -> u64 {
        self.jumps[usize::from(context)].as_ptr() as u64
    }

    /// The guarded entry remembered for `pc`.
    pub fn at_hand(&self, context: u8, pc: u64) -> Option<u64> {
        let jump = self.jumps[usize::from(context)][JUMPS.place(pc)];
        (jump.pc == pc).then_some(jump.code)
    }

    /// Remembers the unit for jumps to its address.
    pub fn remember(&mut self, unit: u32) {
        let u = &self.units[unit as usize];
        self.jumps[usize::from(u.context)][JUMPS.place(u.pc)] = Jump { pc: u.pc, code: u.guarded };
    }

    /// Forgets the unit for jumps to its address.
    pub fn forget(&mut self, unit: u32) {
        let u = &self.units[unit as usize];
        let place = &mut self.jumps[usize::from(u.context)][JUMPS.place(u.pc)];
        if place.pc == u.pc && place.code == u.guarded {
            *place = NOWHERE;
        }
    }

    /// The unit at `pc` on the page known as `id`.
    pub fn find(&self, pc: u64, context: u8, id: u32) -> Option<u32> {
        let mut n = self.buckets[bucket(pc, context)];
        while let Some(u) = self.units.get(n as usize) {
            if u.pc == pc && u.context == context && u.pages[0].id == id {
                return Some(n);
            }
            n = u.chain;
        }
        None
    }

    /// Adds a unit with its exits; its number.
    pub fn add(&mut self, mut unit: Unit, exits: impl Iterator<Item = Exit>) -> u32 {
        let n = self.units.len() as u32;
        let head = &mut self.buckets[bucket(unit.pc, unit.context)];
        unit.chain = std::mem::replace(head, n);
        for page in &unit.pages {
            self.by_page.entry(page.pa).or_default().push(n);
        }
        self.units.push(unit);
        self.exits.extend(exits);
        n
    }

    /// Makes exit number `n` lead to `unit`.
    pub fn link(&mut self, memory: &mut CodeMemory, n: u32, unit: u32) {
        let (Some(exit), Some(to)) = (self.exits.get(n as usize).copied(), self.units.get_mut(unit as usize))
        else {
            return;
        };
        if exit.to.is_some() {
            return;
        }
        to.incoming.push(n);
        let (main, guarded, page) = (to.main, to.guarded, to.pages[0].id);
        let from = &self.units[exit.from as usize];
        let checked = from.pages.iter().take(exit.made.checked.into()).any(|p| p.id == page);
        memory.patch(exit.made.patch_at, if checked { main } else { guarded });
        self.exits[n as usize].to = Some(unit);
    }

    /// Makes sure that nothing but the dispatcher leads to `unit`.
    pub fn isolate(&mut self, memory: &mut CodeMemory, unit: u32) {
        self.forget(unit);
        for n in std::mem::take(&mut self.units[unit as usize].incoming) {
            if let Some(exit) = self.exits.get_mut(n as usize) {
                exit.to = None;
                memory.patch(exit.made.patch_at, exit.made.stub);
            }
        }
    }

    /// The page at `pa` may have been written: its units are compared before they run again.
    pub fn suspect_page(&mut self, memory: &mut CodeMemory, pa: u64) {
        let Some(units) = self.by_page.get(&pa).cloned() else { return };
        for n in units {
            if !self.units[n as usize].suspect {
                self.units[n as usize].suspect = true;
                self.isolate(memory, n);
            }
        }
    }

    /// Everything may have been written.
    pub fn suspect_all(&mut self, memory: &mut CodeMemory) {
        let pages: Vec<u64> = self.by_page.keys().copied().collect();
        pages.into_iter().for_each(|pa| self.suspect_page(memory, pa));
    }

    /// The guest code of a suspect unit is no longer what was translated: it is found no more.
    pub fn kill(&mut self, unit: u32) {
        let u = &mut self.units[unit as usize];
        // Nothing leads to its code any more, and none of it runs while the dispatcher does.
        u.sites = Box::new([]);
        let (place, next) = (bucket(u.pc, u.context), u.chain);
        let pages: Vec<u64> = u.pages.iter().map(|p| p.pa).collect();
        for pa in pages {
            if let Some(list) = self.by_page.get_mut(&pa) {
                list.retain(|n| *n != unit);
            }
        }
        if self.buckets[place] == unit {
            self.buckets[place] = next;
            return;
        }
        let mut n = self.buckets[place];
        while let Some(u) = self.units.get_mut(n as usize) {
            if u.chain == unit {
                u.chain = next;
                return;
            }
            n = u.chain;
        }
    }
}
