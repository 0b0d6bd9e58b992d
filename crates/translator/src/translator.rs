//! The translator of one hart: decides what to run, what to translate and what to trust.
//!
//! ```text
//!   run:  jump cache ─► unit ─► host code ─► why it left ─► link, look up, or back to the hart's loop
//!            │ miss            ▲
//!            ▼                 │ path recorded while interpreted
//!          units by address ─► Cold: counted; a hot address starts a recording
//! ```
//! What becomes of a cold address is in `translator/paths.rs`.
//!
//! Retired instructions: a unit is charged whole when it is entered, from the fuel register; what did not run is given
//! back by whoever leaves early. `Word::End` is the count at which all fuel is used, so the count at any moment is that
//! less what is left. A unit runs only if there is fuel for all of it, so no limit is ever overrun.

mod paths;

use crate::cache::{CONTEXTS, Cache};
use crate::code_memory::CodeMemory;
use crate::features::Features;
use crate::figures::FIGURES;
use crate::layout::Word;
use crate::patience::Patience;
use crate::shards::Shards;
use crate::trace::{Progress, Recording};
use crate::trampolines::Trampolines;
use crate::unit::{Leave, Page, UnitPage};
use crate::warm::{self, Warm};
use crate::{Options, TranslatorError, floats, helpers};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use strata_engine::hot::{HotPaths, Portion};
use strata_isa::ops::Width;
use strata_memory::Drained;
use strata_riscv::tier::{Core, DataContext, FetchPage, Privilege, Ran, Tier};
use strata_x64::Asm;

/// Room that one unit may need at most.
const UNIT_ROOM: usize = 64 << 10;
const HEAT: usize = 1 << 16;
/// Translations of pages that are known by number before all is dropped: a guest that moves one page of code around would
/// otherwise use as much memory as it likes. A thousand programs of a hundred pages fit.
const MAX_IDS: usize = 1 << 17;
/// Units that are described at once: half a millisecond's worth. Tests make few, and have several portions all the same.
const PORTION: usize = if cfg!(test) { 1 } else { 256 };
/// Fuel given out at once; see the fuel trampoline.
const SLICE: u64 = 4096;

/// Where translated code finds the jump caches of the contexts between which it changes.
const JUMPS: [(Word, DataContext); 3] = [
    (Word::JumpsUser, DataContext::User),
    (Word::JumpsSupervisor, DataContext::Supervisor),
    (Word::JumpsSum, DataContext::SupervisorSum),
];

/// See the module.
pub(crate) struct Translator {
    /// Executions before an address is hot; with 0, blocks are translated before they run.
    hot: u8,
    /// See [`Options::awaited`].
    awaited: u64,
    memory: CodeMemory,
    to: Trampolines,
    /// Bytes of the shared pieces.
    shared_code: usize,
    features: Features,
    asm: Asm,
    cache: Cache,
    /// Number of a translation of a page: (va, pa, mode).
    ids: Shards<(u64, u64, u8), u32>,
    next_id: u32,
    heat: Box<[u8]>,
    /// Instructions retired until which it is reluctant; none before its first one.
    awaited_until: Option<u64>,
    recording: Option<Recording>,
    /// What was hot in another run.
    warm: Option<Warm>,
    /// Context in which the loop was told that there is no code.
    cold: Option<u8>,
    /// Code generation up to which the units are trusted.
    generation: u64,
    /// Writes to watched pages up to this one are known.
    writes: u64,
    /// Pages that another hart may still write to without telling, with the ticket that says until when.
    unconfirmed: HashMap<u64, u64>,
    /// The machine has one hart.
    alone: bool,
}

/// The context that the core is in, if code is translated for it.
fn context(core: &Core) -> Option<u8> {
    let selected = core.mmu.data.selected;
    let fits = match core.privilege {
        Privilege::User => selected == DataContext::User,
        Privilege::Supervisor => {
            matches!(selected, DataContext::Supervisor | DataContext::SupervisorSum)
        }
        Privilege::Machine => selected == DataContext::Bare,
    };
    (fits && (selected as usize) < CONTEXTS).then_some(selected as u8)
}

impl Translator {
    /// A translator without code.
    ///
    /// # Errors
    /// [`TranslatorError`] where the host's processor or its rules about memory do not allow one.
    pub fn new(options: Options) -> Result<Translator, TranslatorError> {
        let features = Features::detect();
        if !features.bmi2 {
            return Err(TranslatorError::Processor);
        }
        let mut memory = CodeMemory::new(options.code_size.next_multiple_of(4096).max(2 * UNIT_ROOM))?;
        let mut asm = Asm::new(memory.next());
        let to = Trampolines::emit(&mut asm);
        let code = asm.finish().map_err(|_| TranslatorError::Processor)?;
        if !memory.push(code) {
            return Err(TranslatorError::Processor);
        }
        let shared_code = memory.used();
        Ok(Translator {
            hot: options.hot,
            awaited: options.awaited,
            memory,
            to,
            shared_code,
            features,
            asm,
            cache: Cache::new(),
            ids: Shards::new(),
            next_id: 1,
            heat: vec![0; HEAT].into(),
            awaited_until: None,
            recording: None,
            warm: None,
            cold: None,
            generation: 0,
            writes: 0,
            unconfirmed: HashMap::new(),
            alone: false,
        })
    }

    /// Drops all code.
    fn flush(&mut self) {
        let start = Instant::now();
        self.cache.clear();
        self.memory.truncate(self.shared_code);
        self.recording = None;
        self.ids.clear();
        self.unconfirmed.clear();
        FIGURES.flushing.since(start);
    }

    fn intern(&mut self, core: &mut Core, va: u64, pa: u64) -> u32 {
        let mode = core.privilege;
        let next = &mut self.next_id;
        let id = *self.ids.or_insert_with((va, pa, mode as u8), || {
            let id = *next;
            *next = next.wrapping_add(1).max(1);
            id
        });
        core.mmu.fetch.set_id(mode, va, id);
        id
    }

    /// The unit at `core.pc`, safe to enter.
    fn find(&mut self, core: &mut Core, context: u8) -> Option<u32> {
        let pc = core.pc;
        let FetchPage { pa, whole: true, .. } = core.fetch_page(pc).ok()? else { return None };
        // Most of what is asked for is not there, so this is the way of all code that is not hot. An id from before all code
        // was dropped finds nothing; whoever writes a path down asks for the one of today.
        let id = match core.mmu.fetch.id(core.privilege, pc) {
            0 => self.intern(core, pc & !0xfff, pa & !0xfff),
            id => id,
        };
        let unit = self.cache.find(pc, context, id)?;
        if self.cache.units[unit as usize].suspect && !self.confirm(core, unit) {
            return None;
        }
        self.cache.remember(unit);
        Some(unit)
    }

    /// From now on, writes to the page at `pa` are told.
    fn watch(&mut self, core: &mut Core, pa: u64) {
        // With other harts, one of them may have watched the page and not all have heard of it, this one included.
        if core.ram.harts() == 1 && core.ram.code_watched(pa) {
            return;
        }
        let ticket = core.watch_code(pa);
        if !core.ram.watch_confirmed(ticket) {
            self.unconfirmed.insert(pa, ticket);
        }
    }

    /// Compares a unit with guest memory.
    fn confirm(&mut self, core: &mut Core, unit: u32) -> bool {
        let start = Instant::now();
        let pages: Vec<Page> = self.cache.pages(unit).collect();
        pages.iter().for_each(|p| self.watch(core, p.pa));
        let half = |pc: u64| {
            let page = pages.iter().find(|p| p.va == pc & !0xfff)?;
            Some(core.ram_page(page.pa)?.load(pc, Width::U16) as u32)
        };
        let same = self.cache.sites(unit).iter().all(|s| {
            let wide = s.insn.len == 4;
            let low = half(s.pc);
            let high = if wide { half(s.pc.wrapping_add(2)) } else { Some(0) };
            low.zip(high).is_some_and(|(l, h)| l | h << 16 == s.insn.raw)
        });
        if same {
            self.cache.units[unit as usize].suspect = false;
        } else {
            self.cache.kill(unit);
        }
        FIGURES.comparing.since(start);
        same
    }

    /// Doubts units whose pages were written. What others wrote has to be seen after fence.i at the latest; pages that
    /// they may write without telling are doubted at each of these. Where there is too much to doubt, all code is dropped.
    fn notice_writes(&mut self, core: &Core) {
        let written = core.ram.code_writes() != self.writes;
        let fenced = core.code_generation != self.generation;
        if !written && !fenced {
            return;
        }
        if !written && self.unconfirmed.is_empty() {
            // A guest that makes code all the time fences for each piece of it, mostly in pages that nothing ran from yet.
            self.generation = core.code_generation;
            return;
        }
        let mut patience = Patience::new();
        let (cache, memory, recording) = (&mut self.cache, &mut self.memory, &mut self.recording);
        let mut doubt = |pa| {
            cache.suspect_page(memory, pa, &mut patience);
            // What is being written down is not code yet that could be doubted.
            recording.take_if(|r| r.pages.iter().any(|p| p.pa == pa));
        };
        let drained = core.ram.drain_code_writes(&mut self.writes, &mut doubt);
        if fenced {
            self.generation = core.code_generation;
            self.unconfirmed.retain(|pa, ticket| {
                let confirmed = core.ram.watch_confirmed(*ticket);
                doubt(*pa);
                !confirmed
            });
        }
        if drained == Drained::Lost {
            self.recording = None;
            self.cache.suspect_all(&mut self.memory, &mut patience);
        }
        if patience.over() {
            self.flush();
        }
        FIGURES.doubting.since(patience.start());
    }

    /// Looks up a unit's page again; false if it is not there any more, and the interpreter has to show what is.
    fn refresh_page(&mut self, core: &mut Core, which: UnitPage) -> bool {
        let Some(page) = self.cache.pages(which.unit).nth(which.page as usize) else { return false };
        match core.fetch_page(page.va) {
            Ok(FetchPage { pa, whole: true, .. }) if pa & !0xfff == page.pa => {
                self.intern(core, page.va, page.pa);
                true
            }
            _ => false,
        }
    }

    /// Runs the code at `entry`; why it left.
    fn enter(&mut self, core: &mut Core, context: u8, entry: u64) -> (Leave, u32) {
        let all = core.poll_at.min(core.limit).saturating_sub(core.retired).min(1 << 40);
        let now = all.min(SLICE);
        core.tier[Word::End as usize] = core.retired.wrapping_add(all);
        core.tier[Word::Fuel as usize] = now;
        core.tier[Word::Reserve as usize] = all - now;
        core.tier[Word::Refund as usize] = 0;
        core.tier[Word::Jumps as usize] = self.cache.jumps(context);
        if core.privilege != Privilege::Machine {
            // It may change to any of these by itself.
            for (word, context) in JUMPS {
                core.tier[word as usize] = self.cache.jumps(context as u8);
            }
        }
        floats::settle(core);
        let core_at: *mut Core = core;
        // SAFETY: `enter` was emitted by `Trampolines` for this signature; `entry` is a unit of the cache, made for the
        // context that the core is in, and the borrow behind `core_at` is not used until the call returns.
        let word = unsafe { self.memory.call(self.to.enter, core_at, entry) };
        floats::fold_flags(core);
        let left = core.tier[Word::Fuel as usize]
            .wrapping_add(core.tier[Word::Reserve as usize])
            .wrapping_add(core.tier[Word::Refund as usize]);
        core.retired = core.tier[Word::End as usize].wrapping_sub(left);
        Leave::from_word(word)
    }
}

impl Tier for Translator {
    fn run(&mut self, core: &mut Core) -> Ran {
        core.tier[Word::Attention as usize] = std::ptr::from_ref(core.shared.attention_word()) as u64;
        core.tier[Word::Pins as usize] = std::ptr::from_ref(core.shared.pins_word()) as u64;
        core.tier[Word::HostMxcsr as usize] = floats::HOST.into();
        // An exit that leads to what is found next.
        let mut link = None;
        loop {
            if core.poll_is_due() {
                return Ran::Yield;
            }
            self.notice_writes(core);
            let Some(n) = context(core) else {
                self.finish_recording(core);
                self.cold = None;
                return Ran::Cold;
            };
            let entry = match self.cache.at_hand(n, core.pc) {
                Some(entry) if link.is_none() => entry,
                _ => match self.find(core, n) {
                    Some(unit) => {
                        if let Some(exit) = link.take() {
                            self.cache.link(&mut self.memory, exit, unit);
                        }
                        self.cache.units[unit as usize].guarded
                    }
                    None if self.translate_known(core, n)
                        || self.hot == 0 && self.translate_ahead(core, n) =>
                    {
                        // Room may have been made for it, and the exit be gone.
                        link = None;
                        continue;
                    }
                    None => {
                        self.prepare(core, n);
                        return Ran::Cold;
                    }
                },
            };
            if self.recording.is_some() {
                // The path has come to code that is there.
                self.finish_recording(core);
                if self.cache.units.is_empty() {
                    continue;
                }
            }
            let (leave, number) = self.enter(core, n, entry);
            match leave {
                Leave::Link => {
                    let Some(exit) = self.cache.exits.get(number as usize) else { return Ran::Cold };
                    core.pc = exit.made.target;
                    link = Some(number);
                }
                Leave::Guard => {
                    core.pc = self.cache.units[number as usize].pc;
                    self.cache.forget(number);
                }
                Leave::Fuel => {
                    let unit = &self.cache.units[number as usize];
                    core.pc = unit.pc;
                    if core.limit.saturating_sub(core.retired) < unit.len.into() {
                        self.cold = None;
                        return Ran::Cold;
                    }
                    // The next look at the clock is nearer than the unit is long: look now.
                    core.poll_soon();
                    return Ran::Yield;
                }
                Leave::Find => {}
                Leave::Page => {
                    if !self.refresh_page(core, UnitPage::from_number(number)) {
                        self.cold = None;
                        return Ran::Cold;
                    }
                }
                Leave::Floats if floats::turn_on(core) => {}
                Leave::Floats | Leave::Interpret => {
                    self.cold = None;
                    return Ran::Cold;
                }
                Leave::Stopped => {
                    return Ran::Stopped {
                        exit: helpers::exit_of(core.tier[Word::Exit as usize]),
                        raw: core.tier[Word::Raw as usize] as u32,
                    };
                }
            }
        }
    }

    fn interpreted(&mut self, core: &mut Core, pc: u64, insns: usize, _bytes: u64) {
        if self.cold.take().is_none() {
            return;
        }
        let Some(r) = &mut self.recording else { return };
        let same_mode = context(core) == Some(r.context) && core.privilege == r.privilege;
        if r.commit(pc, insns, core.pc) == Progress::Done || !same_mode {
            self.finish_recording(core);
        }
    }

    fn forget(&mut self) {
        self.flush();
        if self.awaited_until.take().is_some() {
            self.heat.fill(0);
        }
        if let Some(warm) = &mut self.warm {
            warm.rearm();
        }
    }

    fn hot_paths_from(&self, from: usize) -> Portion {
        let all = self.cache.units.len();
        let to = from.saturating_add(PORTION).min(all);
        let paths = (from..to).filter_map(|n| warm::describe(&self.cache, n as u32)).collect();
        Portion { paths, next: (to < all).then_some(to) }
    }

    fn warm(&mut self, paths: &Arc<HotPaths>) {
        self.warm = (!paths.is_empty()).then(|| Warm::new(paths.clone()));
    }
}
