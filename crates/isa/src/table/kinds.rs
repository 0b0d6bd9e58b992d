//! The table's columns: operands and forms, extensions, effects.

/// An operand as the assembler writes it, and through that the field it comes from and the register file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Integer destination.
    Rd,
    /// Integer source 1.
    Rs1,
    /// Integer source 2.
    Rs2,
    /// Floating-point destination.
    Fd,
    /// Floating-point source 1.
    Fs1,
    /// Floating-point source 2.
    Fs2,
    /// Floating-point source 3.
    Fs3,
    /// Signed immediate, in decimal.
    Imm,
    /// Shift amount, in hexadecimal.
    Shamt,
    /// The immediate's bits 12 and up, in hexadecimal (LUI, AUIPC).
    Upper,
    /// An address: the instruction's own plus the immediate.
    Target,
    /// `imm(rs1)`.
    Mem,
    /// `(rs1)`.
    Addr,
    /// Predecessor and successor sets of FENCE.
    Sets,
    /// A CSR by name.
    Csr,
    /// The 5-bit immediate that stands in the place of rs1.
    Uimm,
    /// Rounding mode, left out where it is dynamic.
    Rm,
}

macro_rules! forms {
    ($($(#[$doc:meta])* $form:ident [$($operand:ident)*] $imm:literal;)*) => {
        /// The shape of an instruction: operands in the assembler's order, and how its immediate lies in the word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Form {
            $($(#[$doc])* $form,)*
        }

        impl Form {
            /// Operands in the assembler's order.
            pub const fn operands(self) -> &'static [Operand] {
                match self {
                    $(Form::$form => &[$(Operand::$operand),*],)*
                }
            }

            /// Which bits of the immediate the pattern's letters carry, as the manual spells it. Compressed rows
            /// have their own.
            pub const fn immediate(self) -> &'static str {
                match self {
                    $(Form::$form => $imm,)*
                }
            }

            /// The form's name, for the documentation.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Form::$form => stringify!($form),)*
                }
            }
        }
    };
}

forms! {
    /// No operands.
    Bare    []               "";
    /// Register, register.
    R       [Rd Rs1 Rs2]     "";
    /// One register.
    R1      [Rd Rs1]         "";
    /// Register, immediate.
    I       [Rd Rs1 Imm]     "imm[11:0]";
    /// Shift by up to 63.
    Shift   [Rd Rs1 Shamt]   "uimm[5:0]";
    /// Shift by up to 31.
    ShiftW  [Rd Rs1 Shamt]   "uimm[4:0]";
    /// Upper immediate.
    U       [Rd Upper]       "imm[31:12]";
    /// Jump and link.
    J       [Rd Target]      "imm[20|10:1|11|19:12]";
    /// Conditional branch.
    B       [Rs1 Rs2 Target] "imm[12|10:5|4:1|11]";
    /// Load, and JALR.
    Load    [Rd Mem]         "imm[11:0]";
    /// Store.
    Store   [Rs2 Mem]        "imm[11:5|4:0]";
    /// FENCE. Its rd and rs1 are reserved and ignored; so is `fm`, bits 8 to 11 of the immediate.
    Fence   [Sets]           "uimm[11:0]";
    /// FENCE.I, whose fields are all reserved and ignored.
    FenceI  []               "imm[11:0]";
    /// Load-reserved.
    Lr      [Rd Addr]        "";
    /// AMO and store-conditional.
    Amo     [Rd Rs2 Addr]    "";
    /// Address only.
    Addr    [Addr]           "";
    /// Address and address space.
    Vma     [Rs1 Rs2]        "";
    /// CSR with a register.
    Csr     [Rd Csr Rs1]     "uimm[11:0]";
    /// CSR with a 5-bit immediate, which decodes to `rs1`.
    CsrI    [Rd Csr Uimm]    "uimm[11:0]";
    /// Floating-point load.
    FLoad   [Fd Mem]         "imm[11:0]";
    /// Floating-point store.
    FStore  [Fs2 Mem]        "imm[11:5|4:0]";
    /// Two floats to a float.
    FR      [Fd Fs1 Fs2]     "";
    /// Two floats to a float, rounded.
    FRRm    [Fd Fs1 Fs2 Rm]  "";
    /// Three floats to a float, rounded.
    FR4     [Fd Fs1 Fs2 Fs3 Rm] "";
    /// Float to float, rounded.
    FFRm    [Fd Fs1 Rm]      "";
    /// Two floats to an integer.
    FCmp    [Rd Fs1 Fs2]     "";
    /// Float to integer.
    XF      [Rd Fs1]         "";
    /// Float to integer, rounded.
    XFRm    [Rd Fs1 Rm]      "";
    /// Integer to float.
    FX      [Fd Rs1]         "";
    /// Integer to float, rounded.
    FXRm    [Fd Rs1 Rm]      "";
    /// Compressed: register and immediate.
    CI      [Rd Imm]         "";
    /// Compressed: shift.
    CShift  [Rd Shamt]       "";
    /// Compressed: register and register.
    CR      [Rd Rs2]         "";
    /// Compressed: jump.
    CJ      [Target]         "";
    /// Compressed: branch on zero.
    CB      [Rs1 Target]     "";
    /// Compressed: jump to register.
    CJr     [Rs1]            "";
}

macro_rules! extensions {
    ($($(#[$doc:meta])* $ext:ident $name:literal;)*) => {
        /// An extension of the table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Ext {
            $($(#[$doc])* $ext,)*
        }

        impl Ext {
            /// All of them.
            pub const ALL: &[Ext] = &[$(Ext::$ext),*];

            /// The name in the manual.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Ext::$ext => $name,)*
                }
            }
        }
    };
}

extensions! {
    /// Base integer instructions, RV64I.
    I "I";
    /// Multiplication and division.
    M "M";
    /// Atomics.
    A "A";
    /// Single-precision floating point.
    F "F";
    /// Double-precision floating point.
    D "D";
    /// Compressed instructions.
    C "C";
    /// CSR instructions.
    Zicsr "Zicsr";
    /// FENCE.I.
    Zifencei "Zifencei";
    /// PAUSE.
    Zihintpause "Zihintpause";
    /// Address generation.
    Zba "Zba";
    /// Basic bit manipulation.
    Zbb "Zbb";
    /// Single-bit instructions.
    Zbs "Zbs";
    /// Integer conditional operations.
    Zicond "Zicond";
    /// Cache-block management.
    Zicbom "Zicbom";
    /// Cache-block zero.
    Zicboz "Zicboz";
    /// Instructions of the privileged architecture.
    Priv "privileged";
    /// Fine-grained address-translation invalidation.
    Svinval "Svinval";
}

/// A set of extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extensions(u32);

impl Extensions {
    /// None.
    pub const NONE: Extensions = Extensions(0);
    /// All that the table has.
    pub const ALL: Extensions = Extensions((1 << Ext::ALL.len()) - 1);

    /// This set and `ext`.
    pub const fn with(self, ext: Ext) -> Extensions {
        Extensions(self.0 | 1 << ext as u32)
    }

    /// This set without `ext`.
    pub const fn without(self, ext: Ext) -> Extensions {
        Extensions(self.0 & !(1 << ext as u32))
    }

    /// Whether `ext` is in it.
    #[inline]
    pub const fn has(self, ext: Ext) -> bool {
        self.0 >> ext as u32 & 1 != 0
    }
}

/// What an instruction does beyond computing integer registers from integer registers. Sizes are in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Pure,
    /// Reads memory.
    Load(u8),
    /// Writes memory.
    Store(u8),
    /// Reads memory and reserves it.
    Reserve(u8),
    /// Writes memory if the reservation holds.
    Conditional(u8),
    /// Reads and writes memory in one step.
    Amo(u8),
    /// Loads a floating-point register.
    FpLoad(u8),
    /// Stores a floating-point register.
    FpStore(u8),
    /// Computes with floats: needs `mstatus.FS`, may accrue flags, stops on a reserved rounding mode.
    Fp,
    /// Jumps to a constant distance.
    Jump,
    /// Jumps to a register's value.
    JumpTo,
    /// Branches, or goes on.
    Branch,
    /// Orders memory accesses.
    Fence,
    /// Accesses a CSR.
    Csr,
    /// Traps, returns, waits, or makes code visible.
    System,
    /// Orders address translation.
    FenceVma,
    /// Cleans, flushes or invalidates a cache block.
    Cache,
    /// Zeroes a cache block.
    CacheZero,
}

impl Effect {
    /// Whether straight-line execution may end here: by a jump, or because what follows may mean something else
    /// afterwards (another privilege, translation, code, or set of CSRs).
    pub const fn ends_block(self) -> bool {
        use Effect::*;
        matches!(self, Jump | JumpTo | Branch | Csr | System | FenceVma)
    }

    /// Bytes of memory it reads.
    pub const fn reads(self) -> Option<u8> {
        use Effect::*;
        match self {
            Load(n) | Reserve(n) | Amo(n) | FpLoad(n) => Some(n),
            _ => None,
        }
    }

    /// Bytes of memory it writes, or may write. The size of a cache block is the hart's affair; 0 stands for it.
    pub const fn writes(self) -> Option<u8> {
        use Effect::*;
        match self {
            Store(n) | Conditional(n) | Amo(n) | FpStore(n) => Some(n),
            CacheZero => Some(0),
            _ => None,
        }
    }

    /// Whether it may stop without completing.
    pub const fn may_trap(self) -> bool {
        use Effect::*;
        !matches!(self, Pure | Jump | JumpTo | Branch | Fence)
    }

    /// Whether it needs the floating-point unit on.
    pub const fn needs_fp(self) -> bool {
        use Effect::*;
        matches!(self, Fp | FpLoad(_) | FpStore(_))
    }

    /// Words for the documentation.
    pub fn describe(self) -> String {
        use Effect::*;
        match self {
            Load(n) => format!("load {n}"),
            Store(n) => format!("store {n}"),
            Reserve(n) => format!("reserve {n}"),
            Conditional(n) => format!("conditional store {n}"),
            Amo(n) => format!("atomic {n}"),
            FpLoad(n) => format!("load {n}, needs FS"),
            FpStore(n) => format!("store {n}, needs FS"),
            Pure => "–".into(),
            Fp => "needs FS, flags".into(),
            Jump => "jump".into(),
            JumpTo => "jump to register".into(),
            Branch => "branch".into(),
            Fence => "fence".into(),
            Csr => "CSR".into(),
            System => "system".into(),
            FenceVma => "translation fence".into(),
            Cache => "cache block".into(),
            CacheZero => "zero cache block".into(),
        }
    }
}
