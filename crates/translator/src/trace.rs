//! Recording of paths: what the interpreter executes from a hot address on is what gets translated.
//!
//! ```text
//!   an address is interpreted HOT times ──► its next blocks are written down as they run ──► the path is translated
//! ```
//! A path ends where it comes back to its start, meets a translated unit or itself, changes the context, goes where a
//! register says (but for returns), becomes too long, or is broken off by a trap.

use crate::unit::{Page, Step};
use strata_isa::ops::Width;
use strata_isa::{Effect, Insn, decode_with};
use strata_riscv::tier::{Core, FetchPage, Privilege};

/// Longest path, in instructions: what it was charged is given back by every way out, and a loop is unrolled up to it.
pub(crate) const MAX_STEPS: usize = 120;
/// A loop's path goes round in it as often as it fits into so many instructions. More is paid for in translation, again and
/// again where code is written all the time.
const UNROLLED: usize = 32;
/// Most pages of one path.
pub(crate) const MAX_PAGES: usize = crate::unit::UnitPage::MOST;
/// Instructions of one block, as the interpreter cuts them.
const BLOCK: usize = 60;

/// A path being written down.
#[derive(Debug)]
pub(crate) struct Recording {
    /// Data context of all of it.
    pub context: u8,
    /// Mode of all of it.
    pub privilege: Privilege,
    /// The instructions. Those of the block that is about to run are not committed yet.
    pub steps: Vec<Step>,
    /// The pages, in the order in which they are entered.
    pub pages: Vec<Page>,
    /// Where the next block begins.
    pub expect: u64,
    /// The aligned 8 bytes of guest memory in which it begins.
    pub head: u64,
    committed: usize,
}

/// How a page of code is found: [`Core::fetch_page`] where the guest is about to run it.
pub(crate) type Fetch = fn(&mut Core, u64) -> Option<FetchPage>;

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The path goes on.
    More,
    /// It is complete.
    Done,
}

impl Recording {
    /// Begins at `pc`.
    pub fn new(context: u8, privilege: Privilege, pc: u64) -> Recording {
        Recording {
            context,
            privilege,
            steps: Vec::new(),
            pages: Vec::new(),
            expect: pc,
            head: 0,
            committed: 0,
        }
    }

    /// Decodes the block at `pc`, which is about to run in the interpreter. False if it cannot be part of a path.
    pub fn prepare(
        &mut self,
        core: &mut Core,
        pc: u64,
        fetch: Fetch,
        mut intern: impl FnMut(&mut Core, u64, u64) -> u32,
    ) -> bool {
        self.steps.truncate(self.committed);
        let Some(FetchPage { page, pa, whole: true }) = fetch(core, pc) else { return false };
        let mut at = pc;
        if !self.enter(core, pc, pa, &mut intern) {
            return false;
        }
        if self.steps.is_empty() {
            self.head = page.load(pc, Width::I64);
        }
        for _ in 0..BLOCK {
            let low = page.load(at, Width::U16) as u32;
            let wide = low & 3 == 3;
            let crosses = wide && at & 0xfff == 0xffe;
            let raw = if !wide {
                low
            } else if !crosses {
                low | (page.load(at.wrapping_add(2), Width::U16) as u32) << 16
            } else if at == pc {
                // An instruction over the end of a page is a block by itself.
                let second = at.wrapping_add(2);
                let Some(FetchPage { page, pa, whole: true }) = fetch(core, second) else { return false };
                if !self.enter(core, second, pa, &mut intern) {
                    return false;
                }
                low | (page.load(second, Width::U16) as u32) << 16
            } else {
                break;
            };
            let Ok(insn) = decode_with(raw, core.config.extensions) else { break };
            let next = at.wrapping_add(insn.len.into());
            self.steps.push(Step { pc: at, insn, next, pages: self.pages.len() as u8 });
            at = next;
            if insn.op.effect().ends_block() || crosses || at & !0xfff != pc & !0xfff {
                break;
            }
        }
        self.steps.len() > self.committed
    }

    /// Notes that the path enters the page of `va`.
    fn enter(
        &mut self,
        core: &mut Core,
        va: u64,
        pa: u64,
        intern: &mut impl FnMut(&mut Core, u64, u64) -> u32,
    ) -> bool {
        let va = va & !0xfff;
        let pa = pa & !0xfff;
        if self.pages.iter().any(|p| p.va == va && p.pa == pa) {
            return true;
        }
        let id = intern(core, va, pa);
        if id == 0 || self.pages.len() >= MAX_PAGES {
            return false;
        }
        self.pages.push(Page { va, pa, id });
        true
    }

    /// The block at `pc` of `insns` instructions has run, and control went to `next`.
    pub fn commit(&mut self, pc: u64, insns: usize, next: u64) -> Progress {
        let fits = pc == self.expect && self.steps.len() - self.committed == insns;
        if !fits {
            self.steps.truncate(self.committed);
            return Progress::Done;
        }
        if let Some(last) = self.steps.last_mut() {
            last.next = next;
        }
        self.committed = self.steps.len();
        self.expect = next;
        let Some(last) = self.steps.last() else { return Progress::Done };
        let head = self.steps[0].pc;
        let ends = match last.insn.op.effect() {
            Effect::JumpTo => !is_return(&last.insn),
            e => matches!(e, Effect::System | Effect::FenceVma),
        };
        if next == head {
            self.go_round();
            return Progress::Done;
        }
        let again = self.steps.iter().any(|s| s.pc == next);
        if ends || again || self.committed + BLOCK > MAX_STEPS + BLOCK / 2 {
            Progress::Done
        } else {
            Progress::More
        }
    }

    /// The path has come back to its start. A short loop goes round in it a few times, whether it just did or not: less is paid
    /// for charging and jumping back.
    fn go_round(&mut self) {
        let (round, pages) = (self.steps.len(), self.pages.len() as u8);
        while self.steps.len() + round <= UNROLLED {
            self.steps.extend_from_within(..round);
        }
        // By then all pages have been entered.
        self.steps.iter_mut().skip(round).for_each(|s| s.pages = pages);
        self.committed = self.steps.len();
    }

    /// The block that was decoded has run up to its last instruction, a system call: nobody says so, since that does not
    /// complete, but the path ends with it.
    pub fn commit_call(&mut self) {
        self.committed = self.steps.len();
    }

    /// Instructions of the block that was decoded and has not run.
    pub fn pending(&self) -> &[Step] {
        self.steps.get(self.committed..).unwrap_or(&[])
    }

    /// The block that was decoded, as a path, though it has not run: where it goes on is not known, unless by a jump.
    pub fn ahead(mut self) -> Recording {
        self.committed = self.steps.len();
        if let Some(last) = self.steps.last_mut()
            && last.insn.op.effect() == Effect::Jump
        {
            last.next = last.pc.wrapping_add(last.insn.imm as i64 as u64);
        }
        self.finish()
    }

    /// Drops what was decoded and has not run.
    pub fn finish(mut self) -> Recording {
        self.steps.truncate(self.committed);
        let pages = self.steps.last().map_or(0, |s| usize::from(s.pages));
        self.pages.truncate(pages);
        self
    }
}

/// `jalr x0, 0(ra)`.
fn is_return(insn: &Insn) -> bool {
    insn.rd == 0 && insn.rs1 == 1
}
