//! The seam between what an instruction means and who carries it out.
//!
//! Semantics (`sem/`, one file an extension) are functions generic over [`Ops`]. The interpreter implements
//! it on 64-bit values; a translator implements it on host registers; a recorder writes the operations down.
//! All of them run the same text, so they cannot disagree about what an instruction does.
//!
//! Rules that the text keeps, because not every implementation forgives a breach:
//! - **A value is opaque.** `Ops::V` has no `PartialEq`, no arithmetic, no conversion to a host integer: a host
//!   `if` on a guest value does not compile. Value-dependent control is [`Ops::select`], [`Ops::branch`] or an
//!   operation that carries its own control (store-conditional, the floating-point and system helpers).
//! - **Faults first.** Everything that can stop the instruction comes before its first register write.
//! - **Read before write.** A value read with [`Ops::x`] before a [`Ops::set_x`] keeps its old content only if
//!   it passed through [`Ops::hold`]; without that, an implementation may fold the read into its use.
//! - **pc is relative.** The text sees `pc` only through [`Ops::pc_plus`]: nothing in a decoded instruction
//!   depends on the virtual address at which it was found, so decoded code can be shared between mappings.
//! - **x0** reads as the constant zero and swallows writes; each implementation sees to that.

use crate::insn::Insn;

/// A register number, 0 to 31. Integer and floating-point registers share the type; the method says which file.
pub type Reg = u8;

/// Integer operations on two values. The `W` forms take the low 32 bits and sign-extend a 32-bit result.
/// [`Bin::eval`] is the only definition of their arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Bin {
    Add,
    Sub,
    Sll,
    Slt,
    Sltu,
    Xor,
    Srl,
    Sra,
    Or,
    And,
    AddW,
    SubW,
    SllW,
    SrlW,
    SraW,
    Mul,
    Mulh,
    Mulhsu,
    Mulhu,
    Div,
    Divu,
    Rem,
    Remu,
    MulW,
    DivW,
    DivuW,
    RemW,
    RemuW,
    /// `a & !b`, `a | !b`, `!(a ^ b)` (Zbb).
    Andn,
    Orn,
    Xnor,
    Min,
    Minu,
    Max,
    Maxu,
    Rol,
    Ror,
    RolW,
    RorW,
    /// `(a << n) + b` (Zba); the `Uw` forms zero-extend the low 32 bits of `a` first.
    Sh1add,
    Sh2add,
    Sh3add,
    AddUw,
    Sh1addUw,
    Sh2addUw,
    Sh3addUw,
    SllUw,
    /// Single-bit operations at index `b & 63` (Zbs).
    Bclr,
    Bext,
    Binv,
    Bset,
    /// `b == 0 ? 0 : a` and `b != 0 ? 0 : a` (Zicond).
    CzeroEqz,
    CzeroNez,
    /// 1 if equal, else 0. No instruction is this, but idioms and helpers need it.
    Eq,
}

/// Integer operations on one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Un {
    Clz,
    Ctz,
    Cpop,
    ClzW,
    CtzW,
    CpopW,
    SextB,
    SextH,
    SextW,
    ZextB,
    ZextH,
    ZextW,
    OrcB,
    Rev8,
}

/// Width of a memory access and how a loaded value fills 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Width {
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
}

/// Conditions of the conditional branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Cond {
    Eq,
    Ne,
    Lt,
    Ge,
    Ltu,
    Geu,
}

/// The function of an AMO. Width is given apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Amo {
    Swap,
    Add,
    Xor,
    And,
    Or,
    Min,
    Max,
    Minu,
    Maxu,
}

/// Floating-point format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Fmt {
    S,
    D,
}

/// Floating-point operations. Operands and results are raw register contents (64 bits): unboxing and
/// NaN-boxing of singles, canonical NaNs and accrued flags are part of the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Fp {
    Add,
    Sub,
    Mul,
    Div,
    Sqrt,
    Min,
    Max,
    Sgnj,
    Sgnjn,
    Sgnjx,
    /// `a*b+c`, `a*b-c`, `-(a*b)+c`, `-(a*b)-c`, each with a single rounding.
    Madd,
    Msub,
    Nmsub,
    Nmadd,
    /// Comparisons and classification give an integer.
    Eq,
    Lt,
    Le,
    Class,
    /// Float to integer (result to an x register, sign-extended for W and WU).
    ToW,
    ToWu,
    ToL,
    ToLu,
    /// Integer (operand `a` is an x value) to float.
    FromW,
    FromWu,
    FromL,
    FromLu,
    /// From the other format to this one: `fcvt.s.d` is `(Fmt::S, Convert)`.
    Convert,
    /// Bit moves between the files; `MoveToX` of a single sign-extends, `MoveFromX` NaN-boxes.
    MoveToX,
    MoveFromX,
}

/// How a CSR instruction changes its register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum CsrOp {
    Write,
    Set,
    Clear,
}

/// Instructions whose effect is the hart's own affair: the whole meaning is in the implementation's privileged
/// part, shared by every tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Sys {
    Ecall,
    Ebreak,
    Mret,
    Sret,
    Wfi,
    FenceI,
    Pause,
}

/// Address-translation fences. `SfenceWInval` and `SfenceInvalIr` order, `SinvalVma` acts as `SfenceVma`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum VmaFence {
    SfenceVma,
    SinvalVma,
    SfenceWInval,
    SfenceInvalIr,
}

/// Cache-block operations (Zicbom, Zicboz).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Cbo {
    Clean,
    Flush,
    Inval,
    Zero,
}

/// Who carries out an instruction. See the module's rules.
pub trait Ops {
    /// An opaque guest value, 64 bits.
    type V: Copy;
    /// Why an instruction did not complete (a trap). Uninhabited where that cannot be seen.
    type Stop;

    /// The constant `c`.
    fn imm(&mut self, c: i64) -> Self::V;
    /// Integer register `r`; zero for 0.
    fn x(&mut self, r: Reg) -> Self::V;
    /// Writes integer register `r`; nothing for 0.
    fn set_x(&mut self, r: Reg, v: Self::V);
    /// Floating-point register `r`, raw.
    fn f(&mut self, r: Reg) -> Self::V;
    /// Writes floating-point register `r`, raw; `mstatus.FS` becomes dirty.
    fn set_f(&mut self, r: Reg, v: Self::V);
    /// Makes `v` survive later register writes of the same instruction.
    fn hold(&mut self, v: Self::V) -> Self::V;

    /// The address of this instruction plus `off`.
    fn pc_plus(&mut self, off: i64) -> Self::V;
    /// `a op b`.
    fn bin(&mut self, op: Bin, a: Self::V, b: Self::V) -> Self::V;
    /// `op a`.
    fn un(&mut self, op: Un, a: Self::V) -> Self::V;
    /// `c != 0 ? a : b`, without a branch.
    fn select(&mut self, c: Self::V, a: Self::V, b: Self::V) -> Self::V;

    /// Loads from guest virtual address `addr`.
    fn load(&mut self, addr: Self::V, w: Width) -> Result<Self::V, Self::Stop>;
    /// Stores the low bits of `v`.
    fn store(&mut self, addr: Self::V, v: Self::V, w: Width) -> Result<(), Self::Stop>;
    /// Atomic read-modify-write; gives the old value as a load of `w` would. `w` is `I32` or `I64`.
    fn amo(&mut self, op: Amo, addr: Self::V, v: Self::V, w: Width) -> Result<Self::V, Self::Stop>;
    /// Load-reserved, ordered as an acquire. Where it is a release too, a fence came before.
    fn load_reserved(&mut self, addr: Self::V, w: Width) -> Result<Self::V, Self::Stop>;
    /// Store-conditional: 0 if it stored, 1 if not.
    fn store_conditional(&mut self, addr: Self::V, v: Self::V, w: Width) -> Result<Self::V, Self::Stop>;
    /// Cache-block operation on the block that holds `addr`, with its own permission checks.
    fn cache_block(&mut self, op: Cbo, addr: Self::V) -> Result<(), Self::Stop>;

    /// Stops with an illegal instruction unless floating point is on (`mstatus.FS != 0`).
    fn require_fp(&mut self) -> Result<(), Self::Stop>;
    /// A floating-point operation; unused operands are any value. `rm` is the instruction's rounding-mode field;
    /// stops with an illegal instruction where it (or `frm`, for 7) is not a rounding mode. Operations that do
    /// not round are given `rm = 0`. Accrues flags.
    fn fp(&mut self, op: Fp, fmt: Fmt, rm: u8, abc: [Self::V; 3]) -> Result<Self::V, Self::Stop>;

    /// Accesses CSR `csr` and gives its old value. `src` is the operand; with `write` false nothing is written
    /// (CSRRS/CSRRC of x0), with `read` false no read side effect happens (CSRRW to x0).
    fn csr(
        &mut self,
        op: CsrOp,
        csr: u16,
        src: Self::V,
        read: bool,
        write: bool,
    ) -> Result<Self::V, Self::Stop>;
    /// A privileged or system instruction.
    fn system(&mut self, op: Sys) -> Result<(), Self::Stop>;
    /// A memory fence with predecessor and successor sets (bits I O R W = 8 4 2 1).
    fn fence(&mut self, pred: u8, succ: u8);
    /// An address-translation fence; `None` is x0, that is, all.
    fn fence_vma(
        &mut self,
        op: VmaFence,
        va: Option<Self::V>,
        asid: Option<Self::V>,
    ) -> Result<(), Self::Stop>;

    /// Continues at this instruction's address plus `off`.
    fn jump(&mut self, off: i64);
    /// Continues at `target` (bit 0 already cleared).
    fn jump_to(&mut self, target: Self::V);
    /// Continues at pc + `off` if `a cond b`, else at the next instruction.
    fn branch(&mut self, cond: Cond, a: Self::V, b: Self::V, off: i64);
    /// An instruction that is reserved, or not there in this configuration.
    fn illegal(&mut self, insn: &Insn) -> Self::Stop;
}
