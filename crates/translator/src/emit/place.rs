//! What is where at a place in the code. The path goes on from it, and so does the cold code that is entered there.

use super::Emitter;
use super::float::Held;
use super::owed::Owed;
use strata_isa::ops::Reg;
use strata_x64::Xmm;

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Floating-point registers in their homes.
    pub floats: Held,
    /// What integer registers still have to be given.
    pub owed: Owed,
    /// Integer registers are lent (`loans.rs`).
    pub lent: bool,
}

impl Emitter<'_> {
    /// All changes go through here: cold pieces from before were made with the old state.
    pub(super) fn change(&mut self, how: impl FnOnce(&mut Place)) {
        self.note_place();
        how(&mut self.place);
    }

    /// Notes the present state for the cold pieces that have none yet.
    pub(super) fn note_place(&mut self) {
        self.at_cold.resize(self.cold.len(), self.place);
    }

    /// Makes the state that of cold piece `n`.
    pub(super) fn return_to(&mut self, n: usize) {
        self.note_place();
        if let Some(place) = self.at_cold.get(n) {
            self.place = *place;
        }
    }

    /// Changes what is held of floating point.
    pub(super) fn change_held(&mut self, how: impl FnOnce(&mut Held)) {
        self.change(|p| how(&mut p.floats));
    }

    /// The home of floating-point register `r`, if that is where it is.
    pub(super) fn home_f(&self, r: Reg) -> Option<Xmm> {
        if self.place.floats.valid >> r & 1 != 0 { self.floats.home(r) } else { None }
    }

    /// Whether integer registers are lent here.
    pub(super) fn lent(&self) -> bool {
        self.place.lent
    }

    /// Notes that they are, or are not.
    pub(super) fn set_lent(&mut self, lent: bool) {
        self.change(|p| p.lent = lent);
    }
}
