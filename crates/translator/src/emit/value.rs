//! What the text of meaning handles while code is emitted: a place where a value is, or one operation still to be done.
//!
//! At most one operation is pending in a value, so that whoever uses it can choose the host instruction that does the
//! operation and the use at once (`lea`, an address, a comparison with a branch) without looking back at the guest's
//! instruction. Nothing is emitted for a value that nobody uses.

use strata_isa::ops::{Bin, Reg, Un, Width};
use strata_x64::{Gpr, Mem, Xmm};

/// A value that is somewhere.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Leaf {
    /// A number known now.
    Const(i64),
    /// What a guest integer register holds at this moment.
    X(Reg),
    /// In a scratch register.
    Tmp(Gpr),
}

/// A value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum V {
    /// It is there.
    Leaf(Leaf),
    /// What a guest floating-point register holds at this moment.
    F(Reg),
    /// A result of floating point, in a host register.
    Xmm(Xmm, XmmForm),
    /// To be computed.
    Bin(Bin, Leaf, Leaf),
    /// To be computed.
    Un(Un, Leaf),
    /// To be loaded; the page has been checked.
    Loaded(Mem, Width),
    /// A single to be loaded and boxed.
    LoadedBoxed(Mem),
}

/// How a floating-point result lies in its host register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum XmmForm {
    /// 64 bits as they are.
    Whole,
    /// A single in the low 32, to be boxed.
    Single,
}

impl V {
    /// The number, if it is known.
    pub fn known(self) -> Option<i64> {
        match self {
            V::Leaf(Leaf::Const(c)) => Some(c),
            _ => None,
        }
    }
}

/// Whether `c` fits the immediate of most instructions.
pub(crate) fn short(c: i64) -> Option<i32> {
    i32::try_from(c).ok()
}
