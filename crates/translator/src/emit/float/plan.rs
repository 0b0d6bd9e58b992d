//! What is decided before a unit's first instruction is emitted.

use super::held::{Floats, Held, bits};
use crate::features::Features;
use crate::unit::Step;
use strata_isa::ops::Reg;
use strata_isa::{Effect, Insn, Op, Operand};
use strata_x64::Xmm;

/// Host registers that can be homes: all but the scratch registers.
const HOMES: [Xmm; 13] = [
    Xmm::Xmm3,
    Xmm::Xmm4,
    Xmm::Xmm5,
    Xmm::Xmm6,
    Xmm::Xmm7,
    Xmm::Xmm8,
    Xmm::Xmm9,
    Xmm::Xmm10,
    Xmm::Xmm11,
    Xmm::Xmm12,
    Xmm::Xmm13,
    Xmm::Xmm14,
    Xmm::Xmm15,
];

/// The rounding-mode field that means "the dynamic one".
pub(super) const DYNAMIC: u8 = 7;
/// Towards zero.
pub(super) const TO_ZERO: u8 = 1;
/// To nearest, ties to the larger magnitude: the host has none.
const MAX_MAGNITUDE: u8 = 4;

/// Whether the text can be run on the host's floating point for `insn`. A rounding mode other than the dynamic one, which
/// is on, is only done where it needs no rounding or where the host's instruction names it.
pub(crate) fn has_rule(insn: &Insn, features: &Features) -> bool {
    use Op::*;
    let dynamic = insn.rm == DYNAMIC;
    if insn.op.form().operands().contains(&Operand::Rm) && matches!(insn.rm, 5 | 6) {
        return false;
    }
    match insn.op {
        FmaddS | FmsubS | FnmsubS | FnmaddS | FmaddD | FmsubD | FnmsubD | FnmaddD => features.fma && dynamic,
        FaddS | FsubS | FmulS | FdivS | FsqrtS | FaddD | FsubD | FmulD | FdivD | FsqrtD | FcvtSD => dynamic,
        FcvtWS | FcvtWuS | FcvtLS | FcvtLuS | FcvtWD | FcvtWuD | FcvtLD | FcvtLuD => insn.rm != MAX_MAGNITUDE,
        _ => true,
    }
}

/// Whether it reads its floating-point operands as singles.
fn reads_singles(op: Op) -> bool {
    use Op::*;
    matches!(
        op,
        FmaddS
            | FmsubS
            | FnmsubS
            | FnmaddS
            | FaddS
            | FsubS
            | FmulS
            | FdivS
            | FsqrtS
            | FsgnjS
            | FsgnjnS
            | FsgnjxS
    ) || matches!(
        op,
        FminS | FmaxS | FeqS | FltS | FleS | FclassS | FcvtWS | FcvtWuS | FcvtLS | FcvtLuS | FcvtDS
    )
}

/// Whether the floating-point register that it writes gets a single.
fn writes_single(op: Op) -> bool {
    use Op::*;
    reads_singles(op) && op != FcvtDS
        || matches!(op, Flw | FmvWX | FcvtSD | FcvtSW | FcvtSWu | FcvtSL | FcvtSLu)
}

/// Homes, and what they hold at the head of a loop.
pub(crate) struct Plan {
    homes: [Option<Xmm>; 32],
    /// Nothing, if the unit does not come back to its start.
    pub(super) head: Held,
}

impl Plan {
    const NONE: Plan = Plan { homes: [None; 32], head: Held { valid: 0, dirty: 0, boxed: 0, narrow: 0 } };

    /// The home of `r`.
    pub(super) fn home(&self, r: Reg) -> Option<Xmm> {
        self.homes[usize::from(r & 31)]
    }
}

/// A register's story on the path.
#[derive(Clone, Copy, Default)]
struct Story {
    uses: u32,
    /// It is read as a single before it is written.
    begins_single: bool,
    written: bool,
    /// What was written last is a single.
    ends_single: bool,
}

impl Floats {
    /// Looks at a path. `rule` tells which instructions are not the interpreter's.
    pub fn plan(steps: &[Step], rule: impl Fn(&Insn) -> bool) -> Floats {
        let float =
            |s: &&Step| matches!(s.insn.op.effect(), Effect::Fp | Effect::FpLoad(_) | Effect::FpStore(_));
        let mut stories = [Story::default(); 32];
        let mut any = false;
        for step in steps.iter().filter(float) {
            let ruled = rule(&step.insn);
            any |= ruled;
            for r in bits(step.insn.f_reads()) {
                let s = &mut stories[usize::from(r)];
                s.begins_single |= s.uses == 0 && !s.written && ruled && reads_singles(step.insn.op);
                s.uses += u32::from(ruled);
            }
            for r in bits(step.insn.f_writes()) {
                let s = &mut stories[usize::from(r)];
                s.uses += u32::from(ruled);
                s.written = true;
                s.ends_single = ruled && writes_single(step.insn.op);
            }
        }
        let mut plan = Plan::NONE;
        if any {
            plan.give_homes(&stories);
            let loops = steps.last().is_some_and(|s| s.next == steps[0].pc);
            if loops {
                plan.head = plan.head_of(&stories);
            }
        }
        Floats::new(plan)
    }
}

impl Plan {
    fn give_homes(&mut self, stories: &[Story; 32]) {
        let mut used: Vec<usize> = (0..32).filter(|r| stories[*r].uses > 0).collect();
        used.sort_by_key(|r| std::cmp::Reverse(stories[*r].uses));
        for (r, home) in used.into_iter().zip(HOMES) {
            self.homes[r] = Some(home);
        }
    }

    /// All homes, loaded. Singles lie there as singles if they are first used as such and come back as such.
    fn head_of(&self, stories: &[Story; 32]) -> Held {
        let mut head = Held::default();
        for r in (0..32).filter(|r| self.home(*r).is_some()) {
            let s = stories[usize::from(r)];
            let single = s.begins_single && (!s.written || s.ends_single);
            head.valid |= 1 << r;
            head.dirty |= u32::from(s.written) << r;
            head.boxed |= u32::from(single) << r;
            head.narrow |= u32::from(single) << r;
        }
        head
    }
}
