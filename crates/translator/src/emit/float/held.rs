//! What lies in the homes at a place in the code.

use super::plan::Plan;
use strata_isa::ops::Reg;
use strata_x64::Xmm;

/// Sets of guest registers: bit `r` for register `r`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::emit) struct Held {
    /// In their homes.
    pub valid: u32,
    /// Only there: memory has an older value.
    pub dirty: u32,
    /// Known to hold a boxed single, wherever they are.
    pub boxed: u32,
    /// In their homes as singles: the upper half there counts as ones, and may be anything.
    pub narrow: u32,
}

/// The emitter's part of floating point.
pub(crate) struct Floats {
    pub(super) plan: Plan,
    /// The guest's mode has been checked.
    pub(super) on: bool,
}

impl Floats {
    /// The home of `r`, if it has one.
    pub(in crate::emit) fn home(&self, r: Reg) -> Option<Xmm> {
        self.plan.home(r)
    }

    /// For a unit of this plan.
    pub fn new(plan: Plan) -> Floats {
        Floats { plan, on: false }
    }
}

/// The registers of a set.
pub(in crate::emit) fn bits(set: u32) -> impl Iterator<Item = Reg> {
    let mut left = set;
    std::iter::from_fn(move || {
        let r = left.trailing_zeros();
        left &= left.wrapping_sub(1);
        (r < 32).then_some(r as Reg)
    })
}
