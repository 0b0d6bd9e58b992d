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
use crate::index::{Index, Key};
use crate::list::List;
use crate::patience::Patience;
use crate::shards::Shards;
use crate::sites::{SiteSpan, Sites};
use crate::unit::{Exit, JUMPS, NONE, NewExit, Page, Site, Span, Unit};

/// Contexts that are translated: user, supervisor with and without SUM, machine.
pub(crate) const CONTEXTS: usize = 4;

/// The places of a jump cache: address, and guarded entry of its unit. Zeroes are of an address whose place is the first,
/// which is never left so: a host gives zeroes without touching them, and most machines use few places.
type Jumps = Box<[[u64; 2]]>;
const NOWHERE: [u64; 2] = [0, 0];
/// What is in the first place if nothing is: no address is odd.
const NOTHING: [u64; 2] = [1, 0];

fn no_jumps() -> Jumps {
    let mut jumps: Jumps = vec![NOWHERE; JUMPS.places()].into();
    jumps[0] = NOTHING;
    jumps
}

/// A page of a unit, in the list of all that lie on the same guest physical page.
#[derive(Clone, Copy, Debug)]
struct OnPage {
    page: Page,
    unit: u32,
    next: u32,
}

/// See the module.
pub(crate) struct Cache {
    pub units: List<Unit>,
    pub exits: List<Exit>,
    pub sites: Sites,
    /// Each unit's pages together.
    pages: List<OnPage>,
    /// The first of `pages` that are this guest physical one.
    by_page: Shards<u64, u32>,
    index: Index,
    /// Made when the first code of a context is about to run.
    jumps: [Option<Jumps>; CONTEXTS],
}

impl Cache {
    /// Empty.
    pub fn new() -> Cache {
        Cache {
            units: List::new(),
            exits: List::new(),
            sites: Sites::default(),
            pages: List::new(),
            by_page: Shards::new(),
            index: Index::new(),
            jumps: [const { None }; CONTEXTS],
        }
    }

    /// Drops all units. Their code must not be entered any more. However many there are, this is done at once: nothing of
    /// theirs has to be dropped by itself.
    pub fn clear(&mut self) {
        self.units.clear();
        self.exits.clear();
        self.sites.clear();
        self.pages.clear();
        self.index.clear();
        self.jumps = [const { None }; CONTEXTS];
        self.by_page.clear();
    }

    /// The pages of `unit`, in the order in which it enters them.
    pub fn pages(&self, unit: u32) -> impl Iterator<Item = Page> {
        self.units[unit as usize].pages.range().map(|n| self.pages[n].page)
    }

    /// The exits that lead to `unit`.
    pub fn links_to(&self, unit: u32) -> impl Iterator<Item = u32> {
        let first = self.units[unit as usize].incoming;
        let next = |n: &u32| self.exits.get(*n as usize).map(|e| e.next);
        std::iter::successors(Some(first), next).filter(|n| *n != NONE)
    }

    /// The sites of `unit`; none of one that was killed.
    pub fn sites(&self, unit: u32) -> &[Site] {
        self.sites.get(self.units[unit as usize].sites)
    }

    fn first_page(&self, unit: &Unit) -> u32 {
        self.pages.get(unit.pages.start as usize).map_or(0, |p| p.page.id)
    }

    fn key(&self, unit: &Unit) -> Key {
        Key { pc: unit.pc, context: unit.context, id: self.first_page(unit) }
    }

    /// Address of the jump cache of `context`, for emitted code.
    pub fn jumps(&mut self, context: u8) -> u64 {
        self.jumps_of(context).as_ptr() as u64
    }

    fn jumps_of(&mut self, context: u8) -> &mut Jumps {
        self.jumps[usize::from(context)].get_or_insert_with(no_jumps)
    }

    /// The guarded entry remembered for `pc`.
    pub fn at_hand(&self, context: u8, pc: u64) -> Option<u64> {
        let [at, code] = self.jumps[usize::from(context)].as_ref()?[JUMPS.place(pc)];
        (at == pc).then_some(code)
    }

    /// Remembers the unit for jumps to its address.
    pub fn remember(&mut self, unit: u32) {
        let Unit { pc, context, guarded, .. } = self.units[unit as usize];
        self.jumps_of(context)[JUMPS.place(pc)] = [pc, guarded];
    }

    /// Forgets the unit for jumps to its address.
    pub fn forget(&mut self, unit: u32) {
        let Unit { pc, context, guarded, .. } = self.units[unit as usize];
        let Some(jumps) = &mut self.jumps[usize::from(context)] else { return };
        let n = JUMPS.place(pc);
        if jumps[n] == [pc, guarded] {
            jumps[n] = if n == 0 { NOTHING } else { NOWHERE };
        }
    }

    /// The unit at `pc` on the page known as `id`.
    pub fn find(&self, pc: u64, context: u8, id: u32) -> Option<u32> {
        self.index.find(Key { pc, context, id }, |n| {
            self.units
                .get(n as usize)
                .is_some_and(|u| u.pc == pc && u.context == context && self.first_page(u) == id)
        })
    }

    /// Adds a unit with its pages and exits; its number.
    pub fn add(&mut self, mut unit: Unit, pages: &[Page], exits: impl Iterator<Item = NewExit>) -> u32 {
        let n = self.units.len() as u32;
        unit.pages = Span { start: self.pages.len() as u32, len: pages.len() as u32 };
        for page in pages {
            let first = self.by_page.or_insert_with(page.pa, || NONE);
            let next = std::mem::replace(first, self.pages.len() as u32);
            self.pages.push(OnPage { page: *page, unit: n, next });
        }
        self.index.add(self.key(&unit), n);
        self.units.push(unit);
        exits.for_each(|made| self.exits.push(Exit { made, from: n, to: None, next: NONE }));
        n
    }

    /// Makes exit number `n` lead to `unit`.
    pub fn link(&mut self, memory: &mut CodeMemory, n: u32, unit: u32) {
        let Some(to) = self.units.get(unit as usize).copied() else { return };
        let Some(exit) = self.exits.get(n as usize).copied().filter(|e| e.to.is_none()) else { return };
        let page = self.first_page(&to);
        let checked = self.pages(exit.from).take(exit.made.checked.into()).any(|p| p.id == page);
        memory.patch(exit.made.patch_at, if checked { to.main } else { to.guarded });
        self.exits[n as usize] = Exit { to: Some(unit), next: to.incoming, ..exit };
        self.units[unit as usize].incoming = n;
    }

    /// Makes sure that nothing but the dispatcher leads to `unit`.
    fn isolate(&mut self, memory: &mut CodeMemory, unit: u32, patience: &mut Patience) {
        self.forget(unit);
        let mut n = std::mem::replace(&mut self.units[unit as usize].incoming, NONE);
        while patience.lasts()
            && let Some(exit) = self.exits.get_mut(n as usize)
        {
            exit.to = None;
            memory.patch(exit.made.patch_at, exit.made.stub);
            n = std::mem::replace(&mut exit.next, NONE);
        }
    }

    fn suspect(&mut self, memory: &mut CodeMemory, unit: u32, patience: &mut Patience) {
        if !std::mem::replace(&mut self.units[unit as usize].suspect, true) {
            self.isolate(memory, unit, patience);
        }
    }

    /// The page at `pa` may have been written: its units are compared before they run again. If `patience` is over
    /// before that is done, all units must be dropped.
    pub fn suspect_page(&mut self, memory: &mut CodeMemory, pa: u64, patience: &mut Patience) {
        let mut n = self.by_page.get(&pa).copied().unwrap_or(NONE);
        while patience.lasts()
            && let Some(OnPage { unit, next, .. }) = self.pages.get(n as usize).copied()
        {
            self.suspect(memory, unit, patience);
            n = next;
        }
    }

    /// Everything may have been written; as [`Cache::suspect_page`].
    pub fn suspect_all(&mut self, memory: &mut CodeMemory, patience: &mut Patience) {
        let mut unit = 0;
        while patience.lasts() && unit < self.units.len() as u32 {
            self.suspect(memory, unit, patience);
            unit += 1;
        }
    }

    /// The guest code of a suspect unit is no longer what was translated: it is found no more.
    pub fn kill(&mut self, unit: u32) {
        let killed = self.units[unit as usize];
        self.index.remove(self.key(&killed), unit);
        self.units[unit as usize].sites = SiteSpan::default();
        for n in killed.pages.range() {
            self.take_off_page(n as u32);
        }
    }

    /// Takes number `n` of `pages` out of the list of its guest physical page.
    fn take_off_page(&mut self, n: u32) {
        let OnPage { page, next, .. } = self.pages[n as usize];
        let Some(first) = self.by_page.get_mut(&page.pa) else { return };
        if *first == n {
            *first = next;
            return;
        }
        let mut at = *first;
        while let Some(p) = self.pages.get_mut(at as usize) {
            if p.next == n {
                p.next = next;
                return;
            }
            at = p.next;
        }
    }
}
