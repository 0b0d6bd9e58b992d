//! What instructions are about: registers, memory operands, sizes, conditions, and the families of operations that
//! differ by one number in the opcode. Every enum's discriminant is that number.

/// A general register. Its width in an instruction is the [`Size`] beside it; the legacy high bytes (`ah`...) do not
/// exist here.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub enum Gpr {
    Rax,
    Rcx,
    Rdx,
    Rbx,
    Rsp,
    Rbp,
    Rsi,
    Rdi,
    R8,
    R9,
    R10,
    R11,
    R12,
    R13,
    R14,
    R15,
}

/// An SSE register.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub enum Xmm {
    Xmm0,
    Xmm1,
    Xmm2,
    Xmm3,
    Xmm4,
    Xmm5,
    Xmm6,
    Xmm7,
    Xmm8,
    Xmm9,
    Xmm10,
    Xmm11,
    Xmm12,
    Xmm13,
    Xmm14,
    Xmm15,
}

/// Width of an integer operand.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Size {
    /// 8 bits.
    B,
    /// 16 bits.
    W,
    /// 32 bits; as a register destination it clears the upper half.
    D,
    /// 64 bits.
    Q,
}

/// Width of a scalar floating-point operand.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fs {
    /// 32 bits (`ss`).
    S,
    /// 64 bits (`sd`).
    D,
}

/// A condition on the flags (manual volume 1, appendix B).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub enum Cc {
    O,
    No,
    B,
    Ae,
    E,
    Ne,
    Be,
    A,
    S,
    Ns,
    P,
    Np,
    L,
    Ge,
    Le,
    G,
}

/// The two-operand integer operations that share an encoding.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub enum Alu {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
}

/// Shifts and rotations. The flags they leave depend on the count; see the manual.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub enum Shift {
    Rol,
    Ror,
    Shl,
    Shr,
    Sar,
}

/// Scalar floating-point operations of two operands (`Sqrt` reads only its source).
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub enum Fop {
    Add,
    Sub,
    Mul,
    Div,
    Sqrt,
    Min,
    Max,
}

/// Fused multiply-add, by x86's names: `Madd` is a·b+c, `Msub` a·b−c, `Nmadd` −(a·b)+c, `Nmsub` −(a·b)−c.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the names are the manual's")]
pub enum Fma {
    Madd,
    Msub,
    Nmadd,
    Nmsub,
}

/// How many forms a row has along one selector.
macro_rules! counts {
    ($($selector:ty = $count:literal),*) => {
        $(impl $selector { pub(crate) const COUNT: usize = $count; })*
    };
}
counts!(Size = 4, Fs = 2, Cc = 16, Alu = 8, Shift = 5, Fop = 7, Fma = 4);

impl Cc {
    /// The condition that holds exactly when this one does not.
    #[inline]
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "`a.not()` on a condition reads as what it is")]
    pub fn not(self) -> Cc {
        use Cc::*;
        const ALL: [Cc; 16] = [O, No, B, Ae, E, Ne, Be, A, S, Ns, P, Np, L, Ge, Le, G];
        ALL[self as usize ^ 1] // the manual gives opposites neighbouring numbers
    }
}

/// A memory operand: `[base + index * scale + disp]`, each part but the displacement optional.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mem {
    pub(crate) base: Option<Gpr>,
    pub(crate) index: Option<Gpr>,
    /// Binary logarithm of the scale.
    pub(crate) shift: u8,
    pub(crate) disp: i32,
}

impl Mem {
    /// `[base + disp]`.
    #[inline]
    #[must_use]
    pub const fn base(base: Gpr, disp: i32) -> Mem {
        Mem { base: Some(base), index: None, shift: 0, disp }
    }

    /// `[base + index * scale + disp]`; `scale` is 1, 2, 4 or 8, and `index` is not `Rsp`, whose number means "no
    /// index" in that place.
    #[inline]
    #[must_use]
    pub const fn index(base: Gpr, index: Gpr, scale: u8, disp: i32) -> Mem {
        Mem { base: Some(base), index: Some(checked_index(index)), shift: shift_of(scale), disp }
    }

    /// `[index * scale + disp]`, for `lea` as arithmetic; `scale` and `index` as in [`Mem::index`].
    #[inline]
    #[must_use]
    pub const fn scaled(index: Gpr, scale: u8, disp: i32) -> Mem {
        if scale == 1 {
            return Mem::base(index, disp); // the same address without SIB byte and 4-byte displacement
        }
        Mem { base: None, index: Some(checked_index(index)), shift: shift_of(scale), disp }
    }
}

const fn checked_index(index: Gpr) -> Gpr {
    debug_assert!(!matches!(index, Gpr::Rsp), "rsp cannot be an index");
    index
}

const fn shift_of(scale: u8) -> u8 {
    debug_assert!(matches!(scale, 1 | 2 | 4 | 8), "a scale is 1, 2, 4 or 8");
    scale.trailing_zeros() as u8 & 3
}
