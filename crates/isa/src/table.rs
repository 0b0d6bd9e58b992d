//! The instruction table: one row an instruction, everything else derived.
//!
//! The rows are text (`table/rows.rs` for 32-bit instructions, `table/rvc.rs` for compressed ones), so that a reader
//! can lay them beside the manual. From them come, in this crate: [`Op`], decode, encode, disassembly, the random
//! instruction generator and `docs/isa.md`; and elsewhere whatever asks a row about its [`Effect`] or operands.
//!
//! Invariants, checked when the crate compiles: a pattern has no bit without meaning; a form's immediate has exactly
//! the pattern's bits; no two rows match one word, but for the pairs in [`REFINES`], where the earlier row wins.
//!
//! Source of all encodings: *The RISC-V Instruction Set Manual*, volume I (chapter "RV32/64G Instruction Set Listings"
//! and the chapters of the extensions) and volume II ("RISC-V Privileged Instruction Set Listings").
//!
//! What the table deliberately does not hold: what instructions mean (`sem.rs`), and which of them a given hart has at
//! a given moment (privilege, `mstatus.FS`, `menvcfg`): that is the hart's affair.

pub(crate) mod pattern;
mod rows;
mod rvc;

pub use self::kinds::{Effect, Ext, Extensions, Form, Operand};
use self::pattern::{Code, compile, overlap};

mod kinds;

/// A row: one instruction.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The encoding as the manual prints it, highest bit first.
    pub pattern: &'static str,
    /// The assembler's name.
    pub name: &'static str,
    /// The instruction; of a compressed row, the one it expands to.
    pub op: Op,
    /// Operands in the assembler's order.
    pub form: Form,
    /// The extension it belongs to.
    pub ext: Ext,
    /// What it does beyond computing.
    pub effect: Effect,
    pub(crate) code: Code,
}

macro_rules! define {
    ($($pattern:literal => $op:ident $name:literal $form:ident $ext:ident $effect:expr;)*) => {
        /// An instruction of the table. Compressed instructions have no `Op` of their own: they are what they
        /// expand to.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        pub enum Op {
            $(#[doc = concat!("`", $name, "`, `", $pattern, "`.")] $op,)*
        }

        impl Op {
            /// All of them, in the table's order.
            pub const ALL: &[Op] = &[$(Op::$op),*];
        }

        /// The 32-bit rows, in the order of [`Op`].
        pub static ROWS: [Row; Op::ALL.len()] = {
            #[allow(unused_imports)]
            use Effect::*;
            [$(Row {
                pattern: $pattern,
                name: $name,
                op: Op::$op,
                form: Form::$form,
                ext: Ext::$ext,
                effect: $effect,
                code: compile($pattern, Form::$form.immediate(), [0; 3]),
            }),*]
        };
    };
}
rows::rows!(define);

macro_rules! define_rvc {
    ($($pattern:literal => $name:literal $form:ident $imm:literal => $op:ident $($reg:ident = $n:literal),*;)*) => {
        /// The compressed rows.
        pub static RVC: [Row; [$($name),*].len()] = [$(Row {
            pattern: $pattern,
            name: $name,
            op: Op::$op,
            form: Form::$form,
            ext: Ext::C,
            effect: ROWS[Op::$op as usize].effect,
            code: compile($pattern, $imm, Fixed { $($reg: $n,)* ..Fixed::NONE }.list()),
        }),*];
    };
}
rvc::rvc!(define_rvc);

/// The registers that a compressed row fixes.
struct Fixed {
    rd: u8,
    rs1: u8,
    rs2: u8,
}

impl Fixed {
    const NONE: Fixed = Fixed { rd: 0, rs1: 0, rs2: 0 };

    const fn list(self) -> [u8; 3] {
        [self.rd, self.rs1, self.rs2]
    }
}

/// Rows that are special cases of another: (special, general). The special one stands earlier and wins.
pub const REFINES: [(&str, &str); 2] = [("pause", "fence"), ("c.addi16sp", "c.lui")];

const _: () = prove_disjoint(&ROWS);
const _: () = prove_disjoint(&RVC);

const fn prove_disjoint(rows: &[Row]) {
    let mut a = 0;
    while a < rows.len() {
        let mut b = a + 1;
        while b < rows.len() {
            if overlap(&rows[a].code, &rows[b].code) {
                assert!(refines(rows[a].name, rows[b].name), "two rows match one word");
            }
            b += 1;
        }
        a += 1;
    }
}

const fn refines(special: &str, general: &str) -> bool {
    let mut i = 0;
    while i < REFINES.len() {
        if same(REFINES[i].0, special) && same(REFINES[i].1, general) {
            return true;
        }
        i += 1;
    }
    false
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

impl Op {
    /// The row.
    #[inline]
    pub fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// The assembler's name.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The extension it belongs to.
    pub fn extension(self) -> Ext {
        self.row().ext
    }

    /// What it does beyond computing.
    #[inline]
    pub fn effect(self) -> Effect {
        self.row().effect
    }

    /// Operands in the assembler's order.
    pub fn form(self) -> Form {
        self.row().form
    }

    /// The encoding as the manual prints it.
    pub fn pattern(self) -> &'static str {
        self.row().pattern
    }
}

#[cfg(test)]
mod tests;
