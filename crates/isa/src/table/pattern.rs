//! From the text of a row to the shifts and masks that decode it, when the crate compiles.
//!
//! [`compile`] reads a pattern (bit 31 or 15 first) and an immediate as the manual spells it (`"imm[12|10:5|4:1|11]"`:
//! which bits of the value the pattern's `i` letters carry, from left to right) and gives a [`Code`]. Text that does
//! not add up (an unknown letter, a field in two pieces, more letters than immediate bits) stops the build. Every bit
//! of a pattern is 0, 1 or a field's letter, so no bit of an instruction is ignored unless a field says so.

/// A register-like field: `((word >> shift) & mask) + add`. Absent fields have mask 0 and give the constant `add`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pub shift: u8,
    pub mask: u8,
    pub add: u8,
}

impl Field {
    const fn fixed(value: u8) -> Field {
        Field { shift: 0, mask: 0, add: value }
    }

    #[inline]
    pub(crate) const fn get(self, word: u32) -> u8 {
        ((word >> self.shift) as u8 & self.mask) + self.add
    }

    /// The word's bits for `value`; bits that do not fit are lost, which the encoder finds by decoding again.
    pub(crate) const fn put(self, value: u8) -> u32 {
        ((value.wrapping_sub(self.add) & self.mask) as u32) << self.shift
    }
}

/// A run of immediate bits: `width` bits at `from` of the word are bits `to` and up of the value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seg {
    pub from: u8,
    pub to: u8,
    pub mask: u32,
}

/// An immediate: its runs and its sign bit (31 where it is unsigned, which makes the extension do nothing).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Imm {
    pub segs: [Seg; 8],
    pub count: u8,
    pub top: u8,
}

impl Imm {
    #[inline]
    pub(crate) fn get(&self, word: u32) -> i32 {
        let mut v = 0u32;
        for s in &self.segs[..self.count as usize] {
            v |= ((word >> s.from) & s.mask) << s.to;
        }
        let up = 31 - self.top as u32;
        ((v << up) as i32) >> up
    }

    pub(crate) fn put(&self, value: i32) -> u32 {
        let mut word = 0;
        for s in &self.segs[..self.count as usize] {
            word |= ((value as u32 >> s.to) & s.mask) << s.from;
        }
        word
    }
}

/// What a pattern compiles to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Code {
    /// Which bits are fixed, and to what.
    pub mask: u32,
    pub bits: u32,
    /// Bits that must not all be zero; 0 where there is no such demand.
    pub nonzero: u32,
    pub rd: Field,
    pub rs1: Field,
    pub rs2: Field,
    pub rs3: Field,
    /// Rounding mode, or aq and rl.
    pub rm: Field,
    pub imm: Imm,
}

impl Code {
    #[inline]
    pub(crate) const fn matches(&self, word: u32) -> bool {
        word & self.mask == self.bits && (self.nonzero == 0 || word & self.nonzero != 0)
    }
}

/// Compiles a row. `fixed` are rd, rs1 and rs2 where the pattern has no field for them.
pub(crate) const fn compile(pattern: &str, layout: &str, fixed: [u8; 3]) -> Code {
    let p = pattern.as_bytes();
    let len = p.len();
    assert!(len == 32 || len == 16, "a pattern has 32 or 16 characters");
    let (imm, imm_bits, imm_nonzero) = immediate(p, layout.as_bytes());
    let mut code = Code {
        mask: 0,
        bits: 0,
        nonzero: if imm_nonzero { imm_bits } else { 0 },
        rd: field(p, b'd', b'x', fixed[0]),
        rs1: field(p, b's', b'x', fixed[1]),
        rs2: field(p, b't', b't', fixed[2]),
        rs3: field(p, b'u', b'u', 0),
        rm: field(p, b'm', b'r', 0),
        imm,
    };
    let mut i = 0;
    while i < len {
        let bit = 1u32 << (len - 1 - i);
        match p[i] {
            b'0' => code.mask |= bit,
            b'1' => {
                code.mask |= bit;
                code.bits |= bit;
            }
            b'D' | b'S' | b'T' | b'X' => code.nonzero |= bit,
            b'd' | b's' | b't' | b'u' | b'x' | b'm' | b'a' | b'r' | b'i' => {}
            _ => panic!("unknown letter in a pattern"),
        }
        i += 1;
    }
    code
}

/// The field of letter `a` or `b`, in either case. Letter `r` takes the `a` (aq) before it along.
const fn field(p: &[u8], a: u8, b: u8, fixed: u8) -> Field {
    let (mut lowest, mut width, mut i) = (0, 0, 0);
    while i < p.len() {
        let c = p[i].to_ascii_lowercase();
        if c == a || c == b || (b == b'r' && c == b'a') {
            assert!(width == 0 || lowest == p.len() - i, "a field in two pieces");
            lowest = p.len() - 1 - i;
            width += 1;
        }
        i += 1;
    }
    match width {
        0 => Field::fixed(fixed),
        // Three bits name x8 to x15, but a rounding mode is three bits of its own.
        3 if b != b'r' => Field { shift: lowest as u8, mask: 7, add: 8 },
        2 | 3 | 5 => Field { shift: lowest as u8, mask: (1 << width) - 1, add: 0 },
        _ => panic!("a field has 2, 3 or 5 bits"),
    }
}

/// Reads `"nzuimm[5:4|9:6|2|3]"`. Gives the runs, the word's immediate bits, and whether zero is reserved.
const fn immediate(p: &[u8], l: &[u8]) -> (Imm, u32, bool) {
    let mut imm = Imm { segs: [Seg { from: 0, to: 0, mask: 0 }; 8], count: 0, top: 0 };
    let (mut unsigned, mut nonzero, mut at) = (false, false, 0);
    while at < l.len() && l[at] != b'[' {
        unsigned |= l[at] == b'u';
        nonzero |= l[at] == b'z';
        at += 1;
    }
    let (mut word_bits, mut pos, mut last) = (0, 0, (99, 99));
    while at + 1 < l.len() {
        let (high, after) = number(l, at + 1);
        let (low, after) = if l[after] == b':' { number(l, after + 1) } else { (high, after) };
        at = after;
        let mut to = high + 1;
        while to > low {
            to -= 1;
            while pos < p.len() && p[pos] != b'i' {
                pos += 1;
            }
            assert!(pos < p.len(), "an immediate longer than its letters");
            let from = (p.len() - 1 - pos) as u8;
            pos += 1;
            word_bits |= 1 << from;
            if from + 1 != last.0 || to + 1 != last.1 {
                imm.count += 1;
            }
            let s = &mut imm.segs[imm.count as usize - 1];
            *s = Seg { from, to, mask: s.mask << 1 | 1 };
            last = (from, to);
            if to > imm.top {
                imm.top = to;
            }
        }
    }
    while pos < p.len() {
        assert!(p[pos] != b'i', "letters without immediate bits");
        pos += 1;
    }
    if unsigned || l.is_empty() {
        imm.top = 31;
    }
    (imm, word_bits, nonzero)
}

const fn number(l: &[u8], mut at: usize) -> (u8, usize) {
    let start = at;
    let mut n = 0;
    while l[at].is_ascii_digit() {
        n = n * 10 + (l[at] - b'0');
        at += 1;
    }
    assert!(at > start, "a bit number expected");
    (n, at)
}

/// Whether some word matches both.
pub(crate) const fn overlap(a: &Code, b: &Code) -> bool {
    (a.bits ^ b.bits) & a.mask & b.mask == 0
        // One demands a field that the other fixes to zero.
        && !(a.nonzero != 0 && a.nonzero & b.mask == a.nonzero && a.nonzero & b.bits == 0)
        && !(b.nonzero != 0 && b.nonzero & a.mask == b.nonzero && b.nonzero & a.bits == 0)
}
