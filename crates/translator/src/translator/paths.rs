//! From addresses to units: when a path is written down, and what is made of it.
//!
//! An address is counted each time the interpreter is about to run it; a hot one begins a [`Recording`] of what runs next,
//! and the recording ends as a unit. A path that was hot in another run waits for little of that. What a path may be is
//! `trace.rs`'s to say, its host code `emit`'s.

use super::{HEAT, MAX_IDS, Translator, UNIT_ROOM};
use crate::emit::{Emitter, Job};
use crate::figures::FIGURES;
use crate::trace::{Fetch, Recording};
use crate::unit::{NONE, Site, Span, Step, Unit};
use crate::warm;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;
use strata_isa::Op;
use strata_isa::ops::Width;
use strata_riscv::tier::{Cause, Core, DataContext, FetchPage};

/// Executions before a path of another run is looked for. The same library is hot in one of many processes and hardly runs
/// in the next: translated when they were first met, paths cost a boot of Debian more than they gained.
const LUKEWARM: u8 = 4;
/// How many times as often an address is met before it counts as hot while the guest is waited for.
const RELUCTANCE: u8 = 8;

fn data_context(n: u8) -> DataContext {
    match n {
        0 => DataContext::User,
        1 => DataContext::Supervisor,
        2 => DataContext::SupervisorSum,
        _ => DataContext::Bare,
    }
}

fn heat_index(pc: u64) -> usize {
    ((pc >> 1) ^ (pc >> 17)) as usize & (HEAT - 1)
}

/// The page of code at `va`, where the guest is about to run it.
fn fetch(core: &mut Core, va: u64) -> Option<FetchPage> {
    core.fetch_page(va).ok()
}

impl Translator {
    /// How often an address is met before it counts as hot, if `usual` is what it is for a guest that has run for a while.
    fn threshold(&mut self, core: &Core, usual: u8) -> u8 {
        let until = *self.awaited_until.get_or_insert(core.retired.wrapping_add(self.awaited));
        if core.retired < until { usual.saturating_mul(RELUCTANCE) } else { usual }
    }

    /// There is no code at `core.pc`: count, and get ready to write down what the interpreter is about to run.
    pub(super) fn prepare(&mut self, core: &mut Core, context: u8) {
        if self.ids.len() > MAX_IDS {
            self.flush();
        }
        self.cold = Some(context);
        let pc = core.pc;
        if let Some(r) = &self.recording
            && (r.expect != pc || r.context != context || r.privilege != core.privilege)
        {
            self.finish_recording(core);
        }
        if self.recording.is_none() {
            let heat = &mut self.heat[heat_index(pc)];
            *heat = heat.saturating_add(1);
            let heat = *heat;
            if heat < self.threshold(core, self.hot) {
                return;
            }
            self.heat[heat_index(pc)] = 0;
            self.alone = core.ram.harts() == 1;
            self.recording = Some(Recording::new(context, core.privilege, pc));
        }
        if let Some(mut r) = self.recording.take()
            && self.decode(core, &mut r, pc, fetch)
        {
            self.recording = Some(r);
        } else {
            self.finish_recording(core);
        }
    }

    /// Translates the block at `core.pc` before it runs for the first time; whether there is code now.
    pub(super) fn translate_ahead(&mut self, core: &mut Core, context: u8) -> bool {
        self.finish_recording(core);
        self.alone = core.ram.harts() == 1;
        let pc = core.pc;
        let mut r = Recording::new(context, core.privilege, pc);
        self.decode(core, &mut r, pc, fetch) && self.translate(r.ahead())
    }

    /// Decodes the next block of a path.
    fn decode(&mut self, core: &mut Core, r: &mut Recording, pc: u64, fetch: Fetch) -> bool {
        let start = Instant::now();
        let fits = r.prepare(core, pc, fetch, |core, va, pa| {
            self.watch(core, pa);
            self.intern(core, va, pa)
        });
        FIGURES.recording.since(start);
        fits
    }

    /// Translates a path that was hot in another run and begins at `core.pc`, if guest memory still holds it; whether there
    /// is code now.
    pub(super) fn translate_known(&mut self, core: &mut Core, context: u8) -> bool {
        let pc = core.pc;
        if self.heat[heat_index(pc)] < self.threshold(core, self.hot.min(LUKEWARM)) {
            return false;
        }
        let (Some(warm), Some(FetchPage { page, .. })) = (&self.warm, core.fetch_page_at_hand(pc)) else {
            return false;
        };
        let found = warm.at(context, pc, page.load(pc, Width::I64));
        if found.is_empty() {
            return false;
        }
        if self.ids.len() > MAX_IDS {
            self.flush();
        }
        // It ends where it comes to code that is there.
        self.finish_recording(core);
        self.alone = core.ram.harts() == 1;
        found.into_iter().any(|(n, path)| {
            let mut r = Recording::new(context, core.privilege, pc);
            // Pages that the guest has not come to are not there yet: it may be asked again.
            let there =
                warm::follow(&path, &mut r, |r, at| self.decode(core, r, at, Core::fetch_page_at_hand));
            if let Some(warm) = &mut self.warm {
                warm.tried(n, there);
            }
            there && self.translate(r.finish())
        })
    }

    pub(super) fn finish_recording(&mut self, core: &Core) {
        if let Some(mut r) = self.recording.take() {
            let (cause, at) = (core.csr.scause, core.csr.sepc);
            let called = |s: &Step| s.insn.op == Op::Ecall && s.pc == at && cause == Cause::EcallUser as u64;
            if r.pending().last().is_some_and(called) {
                r.commit_call();
            }
            self.translate(r.finish());
        }
    }

    /// Makes a unit of a path; whether there is one now.
    fn translate(&mut self, r: Recording) -> bool {
        let Some(last) = r.steps.last().filter(|_| !r.pages.is_empty()) else { return false };
        let next = last.next;
        if self.memory.free() < UNIT_ROOM || self.cache.sites.full() {
            self.flush();
            return false;
        }
        let start = Instant::now();
        let n = r.steps.len();
        let site = |(i, s): (usize, &Step)| Site { pc: s.pc, insn: s.insn, refund: (n - i) as u32 };
        let sites = self.cache.sites.add(r.steps.iter().enumerate().map(site));
        let unit = self.cache.units.len() as u32;
        let first_exit = self.cache.exits.len() as u32;
        let job = Job {
            steps: &r.steps,
            sites: self.cache.sites.get(sites),
            pages: &r.pages,
            context: data_context(r.context),
            privilege: r.privilege,
            unit,
            first_exit,
            alone: self.alone,
            // A kernel follows pointers from page to page, and its windows are closed by every switch of address spaces.
            windows: matches!(data_context(r.context), DataContext::User | DataContext::Bare),
        };
        let before = self.memory.used();
        self.asm.clear(self.memory.next());
        let made = Emitter::emit(&mut self.asm, &self.to, self.features, &job);
        match self.asm.finish() {
            Ok(code) if self.memory.push(code) => {}
            Ok(_) => return false,
            Err(e) => {
                debug_assert!(false, "{e}");
                tracing::error!("a path at {:#x} could not be emitted: {e}", r.steps[0].pc);
                return false;
            }
        }
        made.exits.iter().for_each(|e| self.memory.patch(e.patch_at, e.stub));
        let added = Unit {
            pc: r.steps[0].pc,
            context: r.context,
            len: n as u32,
            pages: Span::default(),
            sites,
            next,
            head: r.head,
            guarded: made.guarded,
            main: made.main,
            incoming: NONE,
            suspect: false,
        };
        self.cache.add(added, &r.pages, made.exits.into_iter());
        FIGURES.instructions.fetch_add(n as u64, Relaxed);
        FIGURES.code.fetch_add((self.memory.used() - before) as u64, Relaxed);
        FIGURES.translating.since(start);
        true
    }
}
