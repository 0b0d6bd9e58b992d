//! A machine small enough for tests, and the evaluator of recordings on it.
//!
//! Memory is a few bytes from address 0; an access outside stops the instruction. What this crate does not define
//! (floating point, CSRs, traps) is opaque: it gives a number made from its operands and leaves an [`Event`], so that
//! two ways of running an instruction agree only if they asked for the same things in the same order.

use super::{Node, Recording, Value};
use crate::ops::{Amo, Cbo, CsrOp, Fmt, Fp, Sys, VmaFence, Width};

/// Everything that an instruction can change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toy {
    /// Integer registers. `x[0]` is never looked at.
    pub x: [u64; 32],
    /// Floating-point registers.
    pub f: [u64; 32],
    /// Address of the next instruction.
    pub pc: u64,
    /// Memory from address 0.
    pub memory: Vec<u8>,
    /// Where a reservation lies.
    pub reserved: Option<u64>,
    /// Whether floating point is on.
    pub fp_on: bool,
    /// What was asked for, in order.
    pub events: Vec<Event>,
}

/// Something asked of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Event {
    Load(u64, Width),
    Store(u64, u64, Width),
    CacheBlock(Cbo, u64),
    Fp(Fp, Fmt, u8, [u64; 3]),
    Csr { op: CsrOp, csr: u16, src: u64, read: bool, write: bool },
    System(Sys),
    Fence(u8, u8),
    FenceVma(VmaFence, Option<u64>, Option<u64>),
}

/// Why an instruction stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Fault {
    Access(u64),
    FpOff,
    ReservedRounding(u8),
    Illegal,
}

impl Toy {
    /// Everything zero, floating point on.
    pub fn new(memory: usize) -> Toy {
        Toy {
            x: [0; 32],
            f: [0; 32],
            pc: 0,
            memory: vec![0; memory],
            reserved: None,
            fp_on: true,
            events: Vec::new(),
        }
    }

    /// Register `r`, zero for 0.
    pub fn x(&self, r: u8) -> u64 {
        if r == 0 { 0 } else { self.x[r as usize & 31] }
    }

    /// Writes register `r`, nothing for 0.
    pub fn set_x(&mut self, r: u8, v: u64) {
        if r != 0 {
            self.x[r as usize & 31] = v;
        }
    }

    fn bytes(&mut self, addr: u64, w: Width) -> Result<&mut [u8], Fault> {
        let range = usize::try_from(addr).ok().and_then(|a| Some(a..a.checked_add(w.bytes() as usize)?));
        range.and_then(|range| self.memory.get_mut(range)).ok_or(Fault::Access(addr))
    }

    /// Loads; this and the following do what their namesakes of [`Ops`](crate::ops::Ops) ask.
    pub fn load(&mut self, addr: u64, w: Width) -> Result<u64, Fault> {
        let bytes = self.bytes(addr, w)?;
        let value = bytes.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
        self.events.push(Event::Load(addr, w));
        Ok(w.extend(value))
    }

    /// Stores; nothing changes if the range is not all inside.
    pub fn store(&mut self, addr: u64, v: u64, w: Width) -> Result<(), Fault> {
        for (n, byte) in self.bytes(addr, w)?.iter_mut().enumerate() {
            *byte = (v >> (8 * n)) as u8;
        }
        self.events.push(Event::Store(addr, v, w));
        Ok(())
    }

    /// Reads, changes, writes.
    pub fn amo(&mut self, op: Amo, addr: u64, v: u64, w: Width) -> Result<u64, Fault> {
        let old = self.load(addr, w)?;
        self.store(addr, op.eval(old, v, w), w)?;
        Ok(old)
    }

    /// Loads and reserves the address.
    pub fn load_reserved(&mut self, addr: u64, w: Width) -> Result<u64, Fault> {
        let v = self.load(addr, w)?;
        self.reserved = Some(addr);
        Ok(v)
    }

    /// Stores if the address is the reserved one; the reservation ends either way.
    pub fn store_conditional(&mut self, addr: u64, v: u64, w: Width) -> Result<u64, Fault> {
        self.bytes(addr, w)?;
        let holds = self.reserved.take() == Some(addr);
        if holds {
            self.store(addr, v, w)?;
        }
        Ok(!holds as u64)
    }

    /// Notes the operation; a block is there if its first byte is.
    pub fn cache_block(&mut self, op: Cbo, addr: u64) -> Result<(), Fault> {
        self.bytes(addr, Width::U8)?;
        self.events.push(Event::CacheBlock(op, addr));
        Ok(())
    }

    /// Stops unless floating point is on.
    pub fn require_fp(&self) -> Result<(), Fault> {
        if self.fp_on { Ok(()) } else { Err(Fault::FpOff) }
    }

    /// Notes the operation; the result is made from the operands.
    pub fn fp(&mut self, op: Fp, fmt: Fmt, rm: u8, abc: [u64; 3]) -> Result<u64, Fault> {
        if rm == 5 || rm == 6 {
            return Err(Fault::ReservedRounding(rm));
        }
        self.events.push(Event::Fp(op, fmt, rm, abc));
        Ok(mix(abc.into_iter().fold(op as u64 + 100 * fmt as u64, |h, v| mix(h ^ v))))
    }

    /// Notes the access; the old value is made from the number.
    pub fn csr(&mut self, op: CsrOp, csr: u16, src: u64, read: bool, write: bool) -> Result<u64, Fault> {
        self.events.push(Event::Csr { op, csr, src, read, write });
        Ok(mix(csr.into()))
    }

    /// Any other event.
    pub fn note(&mut self, event: Event) {
        self.events.push(event);
    }
}

/// A bijection that looks random, so that an opaque result tells its operands.
fn mix(v: u64) -> u64 {
    let v = (v ^ v >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
    v ^ v >> 32
}

/// Runs `recording` on `toy`, reading every register as late as the rules allow.
///
/// # Errors
/// Why it stopped; pc is then still that of the instruction.
pub fn evaluate(recording: &Recording, toy: &mut Toy) -> Result<(), Fault> {
    let mut run = Run { nodes: &recording.nodes, given: vec![0; recording.nodes.len()] };
    let pc = toy.pc;
    let mut next = pc.wrapping_add(recording.len.into());
    for (at, node) in recording.nodes.iter().enumerate() {
        let given = match *node {
            lazy if lazy.is_lazy() => continue,
            Node::Jump(off) => {
                next = pc.wrapping_add_signed(off);
                0
            }
            Node::JumpTo(target) => {
                next = run.value(toy, target);
                0
            }
            Node::Branch(cond, a, b, off) => {
                if cond.eval(run.value(toy, a), run.value(toy, b)) {
                    next = pc.wrapping_add_signed(off);
                }
                0
            }
            effect => run.effect(toy, effect)?,
        };
        run.given[at] = given;
    }
    toy.pc = next;
    Ok(())
}

struct Run<'a> {
    nodes: &'a [Node],
    /// What the nodes that are not lazy gave, when it was their turn.
    given: Vec<u64>,
}

impl Run<'_> {
    /// The value now. Recordings are short and each value is used once or twice, so nothing is remembered.
    fn value(&self, toy: &Toy, v: Value) -> u64 {
        let of = |v| self.value(toy, v);
        match self.nodes[v.index()] {
            Node::Imm(c) => c as u64,
            Node::X(r) => toy.x(r),
            Node::F(r) => toy.f[r as usize & 31],
            Node::PcPlus(off) => toy.pc.wrapping_add_signed(off),
            Node::Bin(op, a, b) => op.eval(of(a), of(b)),
            Node::Un(op, a) => op.eval(of(a)),
            Node::Select(c, a, b) => {
                if of(c) != 0 {
                    of(a)
                } else {
                    of(b)
                }
            }
            _ => self.given[v.index()],
        }
    }

    fn effect(&self, toy: &mut Toy, node: Node) -> Result<u64, Fault> {
        let of = |toy: &Toy, v| self.value(toy, v);
        match node {
            Node::Hold(v) => return Ok(of(toy, v)),
            Node::Load(a, w) => return toy.load(of(toy, a), w),
            Node::Amo(op, a, v, w) => return toy.amo(op, of(toy, a), of(toy, v), w),
            Node::LoadReserved(a, w) => return toy.load_reserved(of(toy, a), w),
            Node::StoreConditional(a, v, w) => return toy.store_conditional(of(toy, a), of(toy, v), w),
            Node::Fp(op, fmt, rm, abc) => return toy.fp(op, fmt, rm, abc.map(|v| of(toy, v))),
            Node::Csr { op, csr, src, read, write } => return toy.csr(op, csr, of(toy, src), read, write),
            Node::SetX(r, v) => toy.set_x(r, of(toy, v)),
            Node::SetF(r, v) => toy.f[r as usize & 31] = of(toy, v),
            Node::Store(a, v, w) => toy.store(of(toy, a), of(toy, v), w)?,
            Node::CacheBlock(op, a) => toy.cache_block(op, of(toy, a))?,
            Node::RequireFp => toy.require_fp()?,
            Node::System(op) => toy.note(Event::System(op)),
            Node::Fence(pred, succ) => toy.note(Event::Fence(pred, succ)),
            Node::FenceVma(op, va, asid) => {
                let (va, asid) = (va.map(|v| of(toy, v)), asid.map(|v| of(toy, v)));
                toy.note(Event::FenceVma(op, va, asid));
            }
            Node::Illegal => return Err(Fault::Illegal),
            // The lazy ones and the jumps are not effects of this kind.
            _ => {}
        }
        Ok(0)
    }
}
