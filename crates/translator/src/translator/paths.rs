//! From addresses to units: when a path is written down, and what is made of it.
//!
//! An address is counted each time the interpreter is about to run it; a hot one begins a [`Recording`] of what runs next,
//! and the recording ends as a unit. What a path may be is `trace.rs`'s to say, its host code `emit`'s.

use super::{HEAT, MAX_IDS, Translator, UNIT_ROOM};
use crate::emit::{Emitter, Job};
use crate::trace::Recording;
use crate::unit::{Exit, Site, Unit};
use strata_riscv::tier::{Core, DataContext};

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

impl Translator {
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
            self.finish_recording();
        }
        if self.recording.is_none() {
            let heat = &mut self.heat[heat_index(pc)];
            *heat = heat.saturating_add(1);
            if *heat < self.hot {
                return;
            }
            *heat = 0;
            self.alone = core.ram.harts() == 1;
            self.recording = Some(Recording::new(context, core.privilege, pc));
        }
        if let Some(mut r) = self.recording.take()
            && r.prepare(core, pc, |core, va, pa| {
                self.watch(core, pa);
                self.intern(core, va, pa)
            })
        {
            self.recording = Some(r);
        } else {
            self.finish_recording();
        }
    }

    /// Translates the block at `core.pc` before it runs for the first time; whether there is code now.
    pub(super) fn translate_ahead(&mut self, core: &mut Core, context: u8) -> bool {
        self.finish_recording();
        self.alone = core.ram.harts() == 1;
        let pc = core.pc;
        let mut r = Recording::new(context, core.privilege, pc);
        let decoded = r.prepare(core, pc, |core, va, pa| {
            self.watch(core, pa);
            self.intern(core, va, pa)
        });
        let before = self.cache.units.len();
        if decoded {
            self.translate(r.ahead());
        }
        self.cache.units.len() > before
    }

    pub(super) fn finish_recording(&mut self) {
        if let Some(r) = self.recording.take() {
            self.translate(r.finish());
        }
    }

    /// Makes a unit of a path.
    fn translate(&mut self, r: Recording) {
        if r.steps.is_empty() || r.pages.is_empty() {
            return;
        }
        if self.memory.free() < UNIT_ROOM {
            self.flush();
            return;
        }
        let n = r.steps.len();
        let sites: Box<[Site]> = r
            .steps
            .iter()
            .enumerate()
            .map(|(i, s)| Site { pc: s.pc, insn: s.insn, refund: (n - i) as u32 })
            .collect();
        let unit = self.cache.units.len() as u32;
        let first_exit = self.cache.exits.len() as u32;
        let job = Job {
            steps: &r.steps,
            sites: &sites,
            pages: &r.pages,
            context: data_context(r.context),
            privilege: r.privilege,
            unit,
            first_exit,
            alone: self.alone,
        };
        self.asm.clear(self.memory.next());
        let made = Emitter::emit(&mut self.asm, &self.to, self.features, &job);
        match self.asm.finish() {
            Ok(code) if self.memory.push(code) => {}
            Ok(_) => return,
            Err(e) => {
                debug_assert!(false, "{e}");
                tracing::error!("a path at {:#x} could not be emitted: {e}", r.steps[0].pc);
                return;
            }
        }
        made.exits.iter().for_each(|e| self.memory.patch(e.patch_at, e.stub));
        let exits = made.exits.into_iter().map(|made| Exit { made, from: unit, to: None });
        let added = Unit {
            pc: r.steps[0].pc,
            context: r.context,
            len: n as u32,
            pages: r.pages.into(),
            sites,
            guarded: made.guarded,
            main: made.main,
            incoming: Vec::new(),
            suspect: false,
            chain: 0,
        };
        self.cache.add(added, exits);
    }
}
