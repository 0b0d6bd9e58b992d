//! A second implementation of [`Ops`]: writes down what an instruction does instead of doing it.
//!
//! A [`Recording`] is a list of numbered [`Node`]s, each naming earlier ones. [`toy`] holds a machine small enough for
//! tests and an evaluator, which runs a recording on it *as lazily as the rules allow*: a register is read where its
//! value is used, not where the text asked for it. A text that relies on more than the rules promise therefore gives
//! another result there than on an eager machine. The tests run every row of the table both ways.
//!
//! The recorder also checks the rules themselves ([`Breach`]), for it sees every call that the text makes.

use std::fmt;

use crate::insn::Insn;
use crate::ops::{Amo, Bin, Cbo, Cond, CsrOp, Fmt, Fp, Ops, Reg, Sys, Un, VmaFence, Width};
use crate::sem::execute;

pub mod toy;

/// The number of a node that gives a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Value(u32);

impl Value {
    /// The node's place in the recording.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One call of the text. Names and operands are those of [`Ops`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Node {
    Imm(i64),
    X(Reg),
    F(Reg),
    PcPlus(i64),
    Bin(Bin, Value, Value),
    Un(Un, Value),
    Select(Value, Value, Value),
    Hold(Value),
    Load(Value, Width),
    Amo(Amo, Value, Value, Width),
    LoadReserved(Value, Width),
    StoreConditional(Value, Value, Width),
    Fp(Fp, Fmt, u8, [Value; 3]),
    Csr { op: CsrOp, csr: u16, src: Value, read: bool, write: bool },
    SetX(Reg, Value),
    SetF(Reg, Value),
    Store(Value, Value, Width),
    CacheBlock(Cbo, Value),
    RequireFp,
    System(Sys),
    Fence(u8, u8),
    FenceVma(VmaFence, Option<Value>, Option<Value>),
    Jump(i64),
    JumpTo(Value),
    Branch(Cond, Value, Value, i64),
    Illegal,
}

impl Node {
    /// Whether it is a plain function of registers and constants, free to be computed where it is used.
    pub fn is_lazy(self) -> bool {
        use Node::*;
        matches!(self, Imm(_) | X(_) | F(_) | PcPlus(_) | Bin(..) | Un(..) | Select(..))
    }

    /// Whether the instruction may stop here.
    pub fn can_stop(self) -> bool {
        use Node::*;
        match self {
            Load(..) | Amo(..) | LoadReserved(..) | StoreConditional(..) | Fp(..) | Csr { .. } => true,
            Store(..) | CacheBlock(..) | RequireFp | System(_) | FenceVma(..) | Illegal => true,
            Imm(_) | X(_) | F(_) | PcPlus(_) | Bin(..) | Un(..) | Select(..) | Hold(_) => false,
            SetX(..) | SetF(..) | Fence(..) | Jump(_) | JumpTo(_) | Branch(..) => false,
        }
    }

    /// The values it uses.
    pub fn operands(self) -> impl Iterator<Item = Value> {
        use Node::*;
        let used = match self {
            Imm(_) | X(_) | F(_) | PcPlus(_) | RequireFp | System(_) | Fence(..) | Jump(_) | Illegal => {
                [None; 3]
            }
            Un(_, a) | Hold(a) | Load(a, _) | LoadReserved(a, _) => [Some(a), None, None],
            SetX(_, a) | SetF(_, a) | CacheBlock(_, a) | JumpTo(a) => [Some(a), None, None],
            Csr { src, .. } => [Some(src), None, None],
            Bin(_, a, b) | Amo(_, a, b, _) | StoreConditional(a, b, _) => [Some(a), Some(b), None],
            Store(a, b, _) | Branch(_, a, b, _) => [Some(a), Some(b), None],
            FenceVma(_, a, b) => [a, b, None],
            Select(a, b, c) | Fp(_, _, _, [a, b, c]) => [Some(a), Some(b), Some(c)],
        };
        used.into_iter().flatten()
    }
}

/// A rule of [`crate::ops`] that a text broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breach {
    /// A node uses a register's value from before it was overwritten, and did not hold it.
    NotHeld {
        /// The node that uses it.
        node: usize,
    },
    /// A node that can stop comes after a register write.
    StopAfterWrite {
        /// The node that can stop.
        node: usize,
    },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Breach::NotHeld { node } => write!(f, "node {node} uses an overwritten register without hold"),
            Breach::StopAfterWrite { node } => write!(f, "node {node} can stop after a register was written"),
        }
    }
}

impl std::error::Error for Breach {}

/// What an instruction does, written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// The calls in the text's order.
    pub nodes: Vec<Node>,
    /// The instruction's length in bytes.
    pub len: u8,
}

/// Records `insn` from the semantics.
///
/// # Errors
/// The first [`Breach`] of the rules; none for any row of the table, which a test holds.
pub fn record(insn: &Insn) -> Result<Recording, Breach> {
    let mut recorder = Recorder::default();
    // Stopping is recorded as a node like everything else.
    let _ = execute(&mut recorder, insn);
    recorder.finish(insn.len)
}

/// The registers that a lazy value still depends on, or that have been written.
#[derive(Clone, Copy, Debug, Default)]
struct Registers {
    x: u32,
    f: u32,
}

impl Registers {
    fn and(self, other: Registers) -> Registers {
        Registers { x: self.x | other.x, f: self.f | other.f }
    }

    fn meets(self, other: Registers) -> bool {
        self.x & other.x != 0 || self.f & other.f != 0
    }
}

/// The implementation of [`Ops`]. [`record`] is the way to it for rows; texts of one's own can be run on it directly.
#[derive(Debug, Default)]
pub struct Recorder {
    nodes: Vec<Node>,
    /// For each node, the registers its value would be read from if used now.
    pending: Vec<Registers>,
    written: Registers,
    breach: Option<Breach>,
}

/// The text stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl Recorder {
    /// Ends the recording of an instruction of `len` bytes.
    ///
    /// # Errors
    /// The first breach.
    pub fn finish(self, len: u8) -> Result<Recording, Breach> {
        match self.breach {
            Some(breach) => Err(breach),
            None => Ok(Recording { nodes: self.nodes, len }),
        }
    }

    fn push(&mut self, node: Node) -> Value {
        let at = self.nodes.len();
        let pending = |v: Value| self.pending.get(v.index()).copied().unwrap_or_default();
        let reads = node.operands().map(pending).fold(Registers::default(), Registers::and);
        let wrote = self.written.x != 0 || self.written.f != 0;
        let breach = if reads.meets(self.written) {
            Some(Breach::NotHeld { node: at })
        } else if wrote && node.can_stop() {
            Some(Breach::StopAfterWrite { node: at })
        } else {
            None
        };
        self.breach = self.breach.or(breach);
        match node {
            // x0 never changes, so it never needs holding.
            Node::SetX(r, _) => self.written.x |= 1 << (r & 31) & !1,
            Node::SetF(r, _) => self.written.f |= 1 << (r & 31),
            _ => {}
        }
        self.pending.push(match node {
            Node::X(r) => Registers { x: 1 << (r & 31) & !1, f: 0 },
            Node::F(r) => Registers { x: 0, f: 1 << (r & 31) },
            _ if node.is_lazy() => reads,
            _ => Registers::default(),
        });
        self.nodes.push(node);
        Value(at as u32)
    }
}

impl Ops for Recorder {
    type V = Value;
    type Stop = Stopped;

    fn imm(&mut self, c: i64) -> Value {
        self.push(Node::Imm(c))
    }
    fn x(&mut self, r: Reg) -> Value {
        self.push(Node::X(r))
    }
    fn set_x(&mut self, r: Reg, v: Value) {
        self.push(Node::SetX(r, v));
    }
    fn f(&mut self, r: Reg) -> Value {
        self.push(Node::F(r))
    }
    fn set_f(&mut self, r: Reg, v: Value) {
        self.push(Node::SetF(r, v));
    }
    fn hold(&mut self, v: Value) -> Value {
        self.push(Node::Hold(v))
    }
    fn pc_plus(&mut self, off: i64) -> Value {
        self.push(Node::PcPlus(off))
    }
    fn bin(&mut self, op: Bin, a: Value, b: Value) -> Value {
        self.push(Node::Bin(op, a, b))
    }
    fn un(&mut self, op: Un, a: Value) -> Value {
        self.push(Node::Un(op, a))
    }
    fn select(&mut self, c: Value, a: Value, b: Value) -> Value {
        self.push(Node::Select(c, a, b))
    }
    fn load(&mut self, addr: Value, w: Width) -> Result<Value, Stopped> {
        Ok(self.push(Node::Load(addr, w)))
    }
    fn store(&mut self, addr: Value, v: Value, w: Width) -> Result<(), Stopped> {
        self.push(Node::Store(addr, v, w));
        Ok(())
    }
    fn amo(&mut self, op: Amo, addr: Value, v: Value, w: Width) -> Result<Value, Stopped> {
        Ok(self.push(Node::Amo(op, addr, v, w)))
    }
    fn load_reserved(&mut self, addr: Value, w: Width) -> Result<Value, Stopped> {
        Ok(self.push(Node::LoadReserved(addr, w)))
    }
    fn store_conditional(&mut self, addr: Value, v: Value, w: Width) -> Result<Value, Stopped> {
        Ok(self.push(Node::StoreConditional(addr, v, w)))
    }
    fn cache_block(&mut self, op: Cbo, addr: Value) -> Result<(), Stopped> {
        self.push(Node::CacheBlock(op, addr));
        Ok(())
    }
    fn require_fp(&mut self) -> Result<(), Stopped> {
        self.push(Node::RequireFp);
        Ok(())
    }
    fn fp(&mut self, op: Fp, fmt: Fmt, rm: u8, abc: [Value; 3]) -> Result<Value, Stopped> {
        Ok(self.push(Node::Fp(op, fmt, rm, abc)))
    }
    fn csr(&mut self, op: CsrOp, csr: u16, src: Value, read: bool, write: bool) -> Result<Value, Stopped> {
        Ok(self.push(Node::Csr { op, csr, src, read, write }))
    }
    fn system(&mut self, op: Sys) -> Result<(), Stopped> {
        self.push(Node::System(op));
        Ok(())
    }
    fn fence(&mut self, pred: u8, succ: u8) {
        self.push(Node::Fence(pred, succ));
    }
    fn fence_vma(&mut self, op: VmaFence, va: Option<Value>, asid: Option<Value>) -> Result<(), Stopped> {
        self.push(Node::FenceVma(op, va, asid));
        Ok(())
    }
    fn jump(&mut self, off: i64) {
        self.push(Node::Jump(off));
    }
    fn jump_to(&mut self, target: Value) {
        self.push(Node::JumpTo(target));
    }
    fn branch(&mut self, cond: Cond, a: Value, b: Value, off: i64) {
        self.push(Node::Branch(cond, a, b, off));
    }
    fn illegal(&mut self, _insn: &Insn) -> Stopped {
        self.push(Node::Illegal);
        Stopped
    }
}

#[cfg(test)]
#[path = "record/tests.rs"]
mod tests;
