//! Random valid instructions, from the same rows as everything else.
//!
//! For tests that need instruction streams: the generator of differential programs, the tests of this crate, fuzzers of
//! a translator. The same seed gives the same stream for ever on every host, so a failure is repeated by its seed.

use std::ops::RangeInclusive;

use crate::decode::decode_with;
use crate::insn::Insn;
use crate::table::pattern::Field;
use crate::table::{Effect, Extensions, Form, Op, Operand, ROWS, RVC, Row};

/// A small deterministic generator: Steele, Lea and Flood's SplitMix64, public domain. Not for secrets.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> SplitMix64 {
        SplitMix64(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((self.next_u64() as u128 * n as u128) >> 64) as u64
    }

    /// True `percent` times in a hundred.
    pub fn chance(&mut self, percent: u8) -> bool {
        self.below(100) < percent.into()
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }
}

/// Which instructions [`random_insn`] may give. Register sets have bit `r` for register `r`; x0 counts like any other.
#[derive(Clone, Debug)]
pub struct Filter {
    extensions: Extensions,
    wide: Vec<&'static Row>,
    narrow: Vec<&'static Row>,
    /// Integer registers that may be written.
    pub x_dst: u32,
    /// Integer registers that may be read as data.
    pub x_src: u32,
    /// Integer registers that may hold an address: of an access, a cache block or a JALR.
    pub x_base: u32,
    /// Floating-point registers that may be written.
    pub f_dst: u32,
    /// Floating-point registers that may be read.
    pub f_src: u32,
    /// CSRs that CSR instructions name; empty for any of the 4096 numbers.
    pub csrs: Vec<u16>,
    /// Offsets that loads and stores may have.
    pub offsets: RangeInclusive<i32>,
    /// How often to try a compressed instruction, in percent.
    pub compressed: u8,
    /// How often a rounding mode is one of the reserved 5 and 6, in percent.
    pub reserved_rm: u8,
}

impl Filter {
    /// Everything that `extensions` have, with all registers; a third compressed, no reserved rounding modes.
    pub fn new(extensions: Extensions) -> Filter {
        let known = |row: &&Row| extensions.has(row.ext) && extensions.has(row.op.extension());
        Filter {
            extensions,
            wide: ROWS.iter().filter(known).collect(),
            narrow: RVC.iter().filter(known).collect(),
            x_dst: u32::MAX,
            x_src: u32::MAX,
            x_base: u32::MAX,
            f_dst: u32::MAX,
            f_src: u32::MAX,
            csrs: Vec::new(),
            offsets: i32::MIN..=i32::MAX,
            compressed: 33,
            reserved_rm: 0,
        }
    }

    /// Only instructions that `accept` accepts, for example by [`Op::effect`] or [`Op::extension`]; compressed ones by
    /// what they expand to.
    pub fn only(mut self, accept: impl Fn(Op) -> bool) -> Filter {
        self.wide.retain(|row| accept(row.op));
        self.narrow.retain(|row| accept(row.op));
        self
    }

    /// The registers that `operand` may name, and all where it names none.
    fn allowed(&self, operand: Operand) -> u32 {
        match operand {
            Operand::Rd => self.x_dst,
            Operand::Rs1 | Operand::Rs2 => self.x_src,
            Operand::Mem | Operand::Addr => self.x_base,
            Operand::Fd => self.f_dst,
            Operand::Fs1 | Operand::Fs2 | Operand::Fs3 => self.f_src,
            _ => u32::MAX,
        }
    }
}

/// How many rows are tried before giving up: a filter under which one row in a hundred is possible still fails less
/// than once in 10^17 calls.
const TRIES: usize = 4096;

/// A random instruction that `filter` lets through, decoded from its own bits; `None` if it lets hardly any through.
pub fn random_insn(rng: &mut SplitMix64, filter: &Filter) -> Option<Insn> {
    (0..TRIES).find_map(|_| {
        let narrow = !filter.narrow.is_empty() && (filter.wide.is_empty() || rng.chance(filter.compressed));
        let row = rng.pick(if narrow { &filter.narrow } else { &filter.wide })?;
        let word = random_word(rng, filter, row)?;
        let insn = decode_with(word, filter.extensions).ok()?;
        let memory = row.op.form().operands().contains(&Operand::Mem) && row.effect != Effect::JumpTo;
        (insn.op == row.op && (!memory || filter.offsets.contains(&insn.imm))).then_some(insn)
    })
}

fn random_word(rng: &mut SplitMix64, filter: &Filter, row: &Row) -> Option<u32> {
    let c = &row.code;
    let (mut rd_set, mut rs1_set, mut rs2_set, mut rs3_set) = (u32::MAX, u32::MAX, u32::MAX, u32::MAX);
    for operand in row.op.form().operands() {
        let allowed = filter.allowed(*operand);
        match operand {
            Operand::Rd | Operand::Fd => rd_set = allowed,
            Operand::Rs1 | Operand::Mem | Operand::Addr | Operand::Fs1 => rs1_set = allowed,
            Operand::Rs2 | Operand::Fs2 => rs2_set = allowed,
            Operand::Fs3 => rs3_set = allowed,
            _ => {}
        }
    }
    // One field for both (the compressed two-operand forms): it must please both.
    let shared = c.rd.mask != 0 && (c.rd.shift, c.rd.mask) == (c.rs1.shift, c.rs1.mask);
    if shared {
        rd_set &= rs1_set;
    }
    let mut word = c.bits;
    word |= c.rd.put(random_register(rng, c.rd, rd_set)?);
    if !shared {
        word |= c.rs1.put(random_register(rng, c.rs1, rs1_set)?);
    }
    word |= c.rs2.put(random_register(rng, c.rs2, rs2_set)?);
    word |= c.rs3.put(random_register(rng, c.rs3, rs3_set)?);
    let rm = match c.rm.mask {
        7 if rng.chance(filter.reserved_rm) => 5 + rng.below(2),
        7 => *rng.pick(&[0, 1, 2, 3, 4, 7, 7, 7])?,
        _ => rng.next_u64(),
    };
    word |= c.rm.put(rm as u8);
    Some(word | c.imm.put(random_immediate(rng, filter, row.form)))
}

/// A register that both the field can hold and the set has. A fixed register must be in the set, unless it is x0.
fn random_register(rng: &mut SplitMix64, field: Field, set: u32) -> Option<u8> {
    let holds =
        if field.mask == 0 { 1 << field.add } else { (((1u64 << (field.mask + 1)) - 1) << field.add) as u32 };
    let set = if holds == 1 { 1 } else { set & holds };
    let mut nth = rng.below(set.count_ones().into());
    (0..32u8).find(|r| {
        let here = set >> r & 1 == 1;
        if here && nth > 0 {
            nth -= 1;
            return false;
        }
        here
    })
}

/// Random bits, but corners more often than chance would give them. Bits that the encoding lacks fall away.
fn random_immediate(rng: &mut SplitMix64, filter: &Filter, form: Form) -> i32 {
    if form.operands().contains(&Operand::Csr)
        && let Some(n) = rng.pick(&filter.csrs)
    {
        return (*n).into();
    }
    if form.operands().contains(&Operand::Mem) && rng.chance(75) {
        let (low, high) = (i64::from(*filter.offsets.start()), i64::from(*filter.offsets.end()));
        let (low, high) = (low.max(-2048), high.min(2047));
        return (low + rng.below((high - low + 1).max(0) as u64) as i64) as i32;
    }
    match rng.below(8) {
        0 => 0,
        1 => -1,
        2 => 1 << rng.below(32),
        3 => !(1 << rng.below(32)),
        4 => rng.below(16) as i32,
        _ => rng.next_u64() as i32,
    }
}

#[cfg(test)]
#[path = "random/tests.rs"]
mod tests;
