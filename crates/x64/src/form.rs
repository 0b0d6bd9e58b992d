//! One form of an instruction, read from the manual's opcode column at compile time.
//!
//! The text is the manual's (volume 2, section 3.1.1.1 and 3.1.1.2): `66 0F 3A 0B /r ib`, `REX.W 99`, `B8+rd id`,
//! `VEX.LZ.66.0F38.W0 F7 /r`. Two liberties: a leading `F0` is a LOCK prefix, and `+cc` stands for the sixteen rows
//! the manual gives to conditions. A text that cannot be read fails the build.

/// What does not depend on the operands.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    /// Legacy prefixes in order, first in the low byte, without REX.
    pub prefix: u32,
    pub prefix_len: u8,
    /// Escape and opcode bytes, first in the low byte; for VEX forms the opcode only.
    pub opcode: u32,
    /// 0 means that there is no such form.
    pub opcode_len: u8,
    /// The `/digit`, in the place of ModRM.reg; 0 for `/r`.
    pub digit: u8,
    pub imm_len: u8,
    /// REX.W or VEX.W.
    pub w: bool,
    /// The register in ModRM.reg, and the one in ModRM.rm, is a byte register, so that numbers 4 to 7 need a REX.
    pub byte_reg: bool,
    pub byte_rm: bool,
    /// VEX.mmmmm, or 0 for a legacy form.
    pub vex_map: u8,
    pub vex_pp: u8,
}

impl Form {
    /// The absence of a form.
    pub const NONE: Form = Form {
        prefix: 0,
        prefix_len: 0,
        opcode: 0,
        opcode_len: 0,
        digit: 0,
        imm_len: 0,
        w: false,
        byte_reg: false,
        byte_rm: false,
        vex_map: 0,
        vex_pp: 0,
    };

    #[inline]
    pub const fn exists(&self) -> bool {
        self.opcode_len != 0
    }

    /// Adds a register or condition number to the last opcode byte (`+rd`, `+cc`).
    #[inline]
    pub const fn plus(mut self, n: u8) -> Form {
        self.opcode += (n as u32) << (8 * (self.opcode_len - 1));
        self
    }

    /// With one more prefix before those it has.
    const fn prefixed(mut self, byte: u8) -> Form {
        self.prefix = self.prefix << 8 | byte as u32;
        self.prefix_len += 1;
        self
    }

    /// With one more prefix behind those it has.
    const fn also(mut self, byte: u8) -> Form {
        self.prefix |= (byte as u32) << (8 * self.prefix_len);
        self.prefix_len += 1;
        self
    }

    const fn op(mut self, byte: u8) -> Form {
        self.opcode |= (byte as u32) << (8 * self.opcode_len);
        self.opcode_len += 1;
        self
    }
}

/// The form that an opcode column describes.
pub(crate) const fn form(column: &str) -> Form {
    let (mut f, mut rest) = (Form::NONE, column.as_bytes());
    while !rest.is_empty() {
        let (word, after) = until(rest, b' ');
        f = read_word(f, word);
        rest = after;
    }
    assert!(f.exists(), "an opcode column without an opcode");
    f
}

const fn read_word(mut f: Form, word: &[u8]) -> Form {
    match word {
        b"NP" | b"/r" => {}
        [b'/', digit @ b'0'..=b'7'] => f.digit = *digit - b'0',
        b"ib" | b"cb" => f.imm_len = 1,
        b"id" | b"cd" => f.imm_len = 4,
        b"io" => f.imm_len = 8,
        b"REX.W" => f.w = true,
        b"66" | b"F2" | b"F3" | b"F0" if !f.exists() && f.vex_map == 0 => f = f.also(hex(word)),
        [b'V', b'E', b'X', b'.', fields @ ..] => f = read_vex(f, fields),
        [high, low] | [high, low, b'+', b'r', b'd'] | [high, low, b'+', b'c', b'c'] => {
            f = f.op(hex(&[*high, *low]));
        }
        _ => panic!("an opcode column with an unknown word"),
    }
    f
}

const fn read_vex(mut f: Form, mut fields: &[u8]) -> Form {
    while !fields.is_empty() {
        let (field, after) = until(fields, b'.');
        match field {
            b"LZ" | b"LIG" | b"NP" | b"W0" => {}
            b"66" => f.vex_pp = 1,
            b"F3" => f.vex_pp = 2,
            b"F2" => f.vex_pp = 3,
            b"0F" => f.vex_map = 1,
            b"0F38" => f.vex_map = 2,
            b"0F3A" => f.vex_map = 3,
            b"W1" => f.w = true,
            _ => panic!("an unknown field in VEX"),
        }
        fields = after;
    }
    assert!(f.vex_map != 0, "VEX without an opcode map");
    f
}

/// Cuts at the first `stop`; the second part is empty when there is none.
const fn until(text: &[u8], stop: u8) -> (&[u8], &[u8]) {
    let mut i = 0;
    while i < text.len() && text[i] != stop {
        i += 1;
    }
    let (word, rest) = text.split_at(i);
    (word, if let [_, after @ ..] = rest { after } else { rest })
}

const fn hex(word: &[u8]) -> u8 {
    let (mut value, mut i) = (0, 0);
    while i < word.len() {
        let digit = match word[i] {
            d @ b'0'..=b'9' => d - b'0',
            d @ b'A'..=b'F' => d - b'A' + 10,
            _ => panic!("not a hexadecimal digit"),
        };
        value = value * 16 + digit;
        i += 1;
    }
    value
}

/// Forms for 8, 16, 32 and 64 bits from the manual's row for bytes and the one for wider operands.
pub(crate) const fn sizes(byte: &str, wider: &str) -> [Form; 4] {
    let mut forms = wide(wider);
    forms[0] = form(byte);
    forms[0].byte_rm = true;
    forms[0].byte_reg = takes_register(byte);
    forms
}

/// Forms for 16, 32 and 64 bits: the 66 prefix, nothing, REX.W. A 4-byte immediate has two bytes in the first.
pub(crate) const fn wide(column: &str) -> [Form; 4] {
    let [_, _, d, q] = dq(column);
    let mut w = d.prefixed(0x66);
    if w.imm_len == 4 {
        w.imm_len = 2;
    }
    [Form::NONE, w, d, q]
}

/// Forms for 32 and 64 bits.
pub(crate) const fn dq(column: &str) -> [Form; 4] {
    let d = form(column);
    [Form::NONE, Form::NONE, d, Form { w: true, ..d }]
}

/// Forms for 32 and 64 bits where the manual's rows differ in more than REX.W.
pub(crate) const fn pair(d: &str, q: &str) -> [Form; 4] {
    [Form::NONE, Form::NONE, form(d), form(q)]
}

/// Forms for single and double precision.
pub(crate) const fn floats(single: &str, double: &str) -> [Form; 2] {
    [form(single), form(double)]
}

/// Forms for single and double precision, each with 32- and 64-bit integers.
pub(crate) const fn floats_dq(single: &str, double: &str) -> [[Form; 4]; 2] {
    [dq(single), dq(double)]
}

/// A form whose ModRM.rm is a byte register, whatever ModRM.reg is.
pub(crate) const fn byte_rm(column: &str) -> Form {
    Form { byte_rm: true, ..form(column) }
}

/// The sixteen conditions of a `+cc` form.
pub(crate) const fn conditions(f: Form) -> [Form; 16] {
    let (mut all, mut cc) = ([f; 16], 0);
    while cc < 16 {
        all[cc] = f.plus(cc as u8);
        cc += 1;
    }
    all
}

/// The sixteen conditions of a `+cc` form in every width that has it.
pub(crate) const fn conditions_wide(column: &str) -> [[Form; 4]; 16] {
    let (mut all, mut cc) = ([wide(column); 16], 0);
    while cc < 16 {
        let [_, w, d, q] = all[cc];
        all[cc] = [Form::NONE, w.plus(cc as u8), d.plus(cc as u8), q.plus(cc as u8)];
        cc += 1;
    }
    all
}

/// The same forms under a LOCK prefix. The last, CMP, writes nothing and must not have one.
pub(crate) const fn locked(mut forms: [[Form; 4]; 8]) -> [[Form; 4]; 8] {
    let mut op = 0;
    while op < 7 {
        let [b, w, d, q] = forms[op];
        forms[op] = [b.also(0xf0), w.also(0xf0), d.also(0xf0), q.also(0xf0)];
        op += 1;
    }
    forms[7] = [Form::NONE; 4];
    forms
}

const fn takes_register(column: &str) -> bool {
    let text = column.as_bytes();
    let mut i = 0;
    while i + 1 < text.len() {
        if text[i] == b'/' && text[i + 1] == b'r' {
            return true;
        }
        i += 1;
    }
    false
}
