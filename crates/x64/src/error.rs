//! What can go wrong between a wish and its bytes.

use std::fmt;

/// Why the code in a buffer must not be run. Offsets are from the first byte of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsmError {
    /// An instruction was asked for with an operand size (or operation) it has no encoding for.
    NoForm {
        /// The method that was called.
        method: &'static str,
        /// Offset at which the instruction would have stood.
        at: usize,
    },
    /// A relative branch cannot reach its target.
    OutOfReach {
        /// Offset of the relative field.
        at: usize,
        /// The address it should lead to.
        target: u64,
        /// Bytes of the relative field: 1 or 4.
        width: u8,
    },
    /// A branch leads to a label that was never bound.
    Unbound {
        /// Number of the label.
        label: u32,
        /// Offset of the relative field.
        at: usize,
    },
    /// A label was bound twice, or was made before the buffer was last cleared.
    BadLabel {
        /// Number of the label.
        label: u32,
        /// Offset at which it was bound.
        at: usize,
    },
    /// A patch would write outside the code it was given.
    OutsideCode {
        /// Offset of the field to be patched.
        at: usize,
        /// Length of the code in bytes.
        len: usize,
    },
}

impl fmt::Display for AsmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoForm { method, at } => {
                write!(
                    f,
                    "x86-64 has no form of `{method}` for the size asked for at {at:#x}: widen the operand"
                )
            }
            Self::OutOfReach { at, target, width } => write!(
                f,
                "the {width}-byte branch field at {at:#x} cannot reach {target:#x}: place the code nearer or jump \
                 through a register"
            ),
            Self::Unbound { label, at } => {
                write!(f, "the branch field at {at:#x} leads to label {label}, which was never bound")
            }
            Self::BadLabel { label, at } => write!(
                f,
                "label {label} was bound at {at:#x} but had a place already or belongs to code that was cleared"
            ),
            Self::OutsideCode { at, len } => {
                write!(f, "cannot patch 4 bytes at {at:#x}: the code has {len:#x} bytes")
            }
        }
    }
}

impl std::error::Error for AsmError {}
