//! Random programs with the shapes that translated code is made of: loops in loops, calls, returns, jumps through
//! registers, branches over a few instructions, compressed and not, over ends of pages.

use super::fixture::insn;
use strata_isa::Op;
use strata_isa::random::{Filter, SplitMix64, random_insn};

/// Registers that random instructions leave alone: link, pointers to data, loop counters, a code pointer.
pub const RESERVED: u32 = 1 << 1 | POINTERS | 1 << 5 | 1 << 6 | 1 << 7;
/// Registers that stay pointers to data.
pub const POINTERS: u32 = 1 << 2 | 1 << 8 | 1 << 15 | 1 << 20;

enum Item {
    Raw(u32, u64),
    /// An instruction whose immediate is the distance to item number `usize`.
    To(Op, u8, u8, u8, usize),
    /// Loads the address of an item into a register: two instructions.
    Address(u8, usize),
}

impl Item {
    fn len(&self) -> u64 {
        match self {
            Item::Raw(_, len) => *len,
            Item::To(..) => 4,
            Item::Address(..) => 8,
        }
    }
}

pub struct Maker<'a> {
    rng: &'a mut SplitMix64,
    filter: &'a Filter,
    items: Vec<Item>,
}

impl<'a> Maker<'a> {
    pub fn new(rng: &'a mut SplitMix64, filter: &'a Filter) -> Maker<'a> {
        Maker { rng, filter, items: Vec::new() }
    }

    fn raw(&mut self, word: u32) {
        self.items.push(Item::Raw(word, 4));
    }

    /// Some random instructions with forward branches among them.
    fn straight(&mut self, n: u64) {
        let begin = self.items.len();
        let end = begin + n as usize;
        while self.items.len() < end {
            if self.rng.chance(14) {
                let op = *self.rng.pick(&[Op::Beq, Op::Bne, Op::Blt, Op::Bge, Op::Bltu, Op::Bgeu]).unwrap();
                let left = (end - self.items.len()) as u64;
                let to = self.items.len() + 1 + self.rng.below(left.min(6)) as usize;
                let (a, b) = (self.rng.below(32) as u8, self.rng.below(32) as u8);
                self.items.push(Item::To(op, 0, a, b, to));
            } else if self.rng.chance(6) {
                self.shifts();
            } else {
                self.any();
            }
        }
    }

    fn any(&mut self) {
        let i = random_insn(self.rng, self.filter).unwrap();
        self.items.push(Item::Raw(i.raw, i.len.into()));
    }

    /// A register to write to.
    fn destination(&mut self) -> u8 {
        loop {
            let r = self.rng.below(32) as u8;
            if r != 0 && self.filter.x_dst >> r & 1 != 0 {
                return r;
            }
        }
    }

    /// Two shifts that are a rotation, or an extension, or nearly so, with what comes between; of few registers, so that
    /// they also get in each other's way.
    fn shifts(&mut self) {
        let [t, u, d] = std::array::from_fn(|_| self.destination());
        let x = if self.rng.chance(20) { t } else { self.rng.below(32) as u8 };
        let word = self.rng.chance(50);
        let bits = if word { 32 } else { 64 };
        let usual = *self.rng.pick(&[32, 48, 56]).unwrap();
        let n = if word || self.rng.chance(50) { 1 + self.rng.below(bits - 1) } else { usual } as i32;
        let (left, right) = if word { (Op::Slliw, Op::Srliw) } else { (Op::Slli, Op::Srli) };
        let gap = |m: &mut Self| (0..m.rng.below(3)).for_each(|_| m.any());
        if self.rng.chance(60) {
            let pair = [insn(left, t, x, 0, n), insn(right, u, x, 0, bits as i32 - n)];
            let first = self.rng.below(2) as usize;
            self.raw(pair[first]);
            gap(self);
            self.raw(pair[1 - first]);
            gap(self);
            let join = *self.rng.pick(&[Op::Or, Op::Xor, Op::Add, Op::Addw, Op::Sub]).unwrap();
            let (a, b) = if self.rng.chance(50) { (t, u) } else { (u, t) };
            self.raw(insn(join, d, a, b, 0));
        } else {
            let back = if self.rng.chance(60) { n } else { 1 + self.rng.below(bits - 1) as i32 };
            let arithmetic = if word { Op::Sraiw } else { Op::Srai };
            self.raw(insn(left, t, x, 0, n));
            gap(self);
            let op = if self.rng.chance(70) { right } else { arithmetic };
            let d = if self.rng.chance(70) { t } else { d };
            self.raw(insn(op, d, t, 0, back));
        }
    }

    /// A loop counted by `counter`.
    fn counted(&mut self, counter: u8, times: i32, body: impl FnOnce(&mut Self)) {
        self.raw(insn(Op::Addi, counter, 0, 0, times));
        let top = self.items.len();
        body(self);
        self.raw(insn(Op::Addi, counter, counter, 0, -1));
        self.items.push(Item::To(Op::Bne, 0, counter, 0, top));
    }

    /// The whole program: functions first, jumped over, then a loop that calls them, for ever.
    pub fn program(mut self) -> Vec<Item2> {
        let over = self.items.len();
        self.items.push(Item::To(Op::Jal, 0, 0, 0, 0));
        let mut functions = Vec::new();
        for _ in 0..1 + self.rng.below(4) {
            functions.push(self.items.len());
            let n = 1 + self.rng.below(12);
            self.straight(n);
            if self.rng.chance(60) {
                let (n, times) = (1 + self.rng.below(8), 1 + self.rng.below(9) as i32);
                self.counted(5, times, |m| m.straight(n));
            }
            self.raw(insn(Op::Jalr, 0, 1, 0, 0));
        }
        let main = self.items.len();
        self.items[over] = Item::To(Op::Jal, 0, 0, 0, main);
        let outer = 1 + self.rng.below(20) as i32;
        let calls = 1 + self.rng.below(5);
        self.counted(6, outer, |m| {
            for _ in 0..calls {
                let n = m.rng.below(10);
                m.straight(n);
                let f = *m.rng.pick(&functions).unwrap();
                if m.rng.chance(30) {
                    m.items.push(Item::Address(7, f));
                    m.raw(insn(Op::Jalr, 1, 7, 0, 0));
                } else {
                    m.items.push(Item::To(Op::Jal, 1, 0, 0, f));
                }
            }
        });
        self.items.push(Item::To(Op::Jal, 0, 0, 0, main));
        self.layout()
    }

    fn layout(self) -> Vec<Item2> {
        let mut at = Vec::with_capacity(self.items.len() + 1);
        let mut pc = 0;
        for i in &self.items {
            at.push(pc);
            pc += i.len();
        }
        at.push(pc);
        let mut out = Vec::new();
        for (n, i) in self.items.iter().enumerate() {
            let from = at[n] as i64;
            match *i {
                Item::Raw(raw, len) => out.push((raw, len)),
                Item::To(op, rd, a, b, to) => {
                    out.push((insn(op, rd, a, b, (at[to] as i64 - from) as i32), 4));
                }
                Item::Address(rd, to) => {
                    out.push((insn(Op::Auipc, rd, 0, 0, 0), 4));
                    out.push((insn(Op::Addi, rd, rd, 0, (at[to] as i64 - from) as i32), 4));
                }
            }
        }
        out
    }
}

/// An instruction's bits and its length.
pub type Item2 = (u32, u64);

/// The bytes of a program.
pub fn bytes(program: &[Item2]) -> Vec<u8> {
    program.iter().flat_map(|(raw, len)| raw.to_le_bytes().into_iter().take(*len as usize)).collect()
}

/// The program for a person.
pub fn listing(program: &[Item2], base: u64) -> String {
    let mut pc = base;
    let mut out = String::new();
    for (raw, len) in program {
        let text = strata_isa::decode(*raw).map(|d| strata_isa::disasm(&d, pc)).unwrap_or_default();
        out.push_str(&format!("{pc:x}: {}\n", text.replace('\t', " ")));
        pc += len;
    }
    out
}
