//! What the other decoder (iced-x86) says of some bytes, in our words.

use iced_x86::{Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, OpKind, Register};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operand {
    Gpr { number: u8, bytes: usize },
    Xmm { number: u8 },
    Mem { base: Option<u8>, index: Option<u8>, scale: u8, disp: i32, bytes: usize },
    Imm { value: u64, mask: u64 },
    Target(u64),
}

impl Operand {
    /// An immediate of which the low `bytes` count.
    pub fn imm(value: i64, bytes: usize) -> Operand {
        let mask = u64::MAX >> (64 - 8 * bytes);
        Operand::Imm { value: value as u64 & mask, mask }
    }

    pub fn is(&self, got: &Operand) -> bool {
        match (self, got) {
            (Operand::Imm { value, mask }, Operand::Imm { value: got, .. }) => *value == got & mask,
            _ => self == got,
        }
    }
}

pub struct Decoded {
    pub mnemonic: String,
    pub operands: Vec<Operand>,
    pub lock: bool,
    pub len: usize,
    pub text: String,
}

/// The single instruction that `bytes` are.
pub fn decoded(bytes: &[u8], address: u64) -> Decoded {
    let mut all = decoded_all(bytes, address);
    assert_eq!(all.len(), 1, "{bytes:02x?} is not one instruction: {:?}", texts(&all));
    all.remove(0)
}

/// All of them, without a byte left over.
pub fn decoded_all(bytes: &[u8], address: u64) -> Vec<Decoded> {
    let mut decoder = Decoder::with_ip(64, bytes, address, DecoderOptions::NONE);
    let mut all = Vec::new();
    while decoder.can_decode() {
        let insn = decoder.decode();
        assert!(!insn.is_invalid(), "{bytes:02x?} is no code after {:?}", texts(&all));
        all.push(Decoded {
            mnemonic: format!("{:?}", insn.mnemonic()).to_lowercase(),
            operands: (0..insn.op_count()).map(|i| operand(&insn, i)).collect(),
            lock: insn.has_lock_prefix(),
            len: insn.len(),
            text: text(&insn),
        });
    }
    assert_eq!(all.iter().map(|d| d.len).sum::<usize>(), bytes.len());
    all
}

fn texts(all: &[Decoded]) -> Vec<&str> {
    all.iter().map(|d| d.text.as_str()).collect()
}

fn operand(insn: &Instruction, i: u32) -> Operand {
    match insn.op_kind(i) {
        OpKind::Register if insn.op_register(i).is_xmm() => {
            Operand::Xmm { number: insn.op_register(i).number() as u8 }
        }
        OpKind::Register => {
            let register = insn.op_register(i);
            assert!(register.is_gpr(), "{register:?}");
            let high = [Register::AH, Register::CH, Register::DH, Register::BH];
            assert!(!high.contains(&register), "a legacy high byte: {}", text(insn));
            Operand::Gpr { number: number(register), bytes: register.size() }
        }
        OpKind::Memory => Operand::Mem {
            base: some(insn.memory_base()),
            index: some(insn.memory_index()),
            scale: if insn.memory_index() == Register::None { 1 } else { insn.memory_index_scale() as u8 },
            disp: i32::try_from(insn.memory_displacement64() as i64).unwrap(),
            bytes: insn.memory_size().size(),
        },
        OpKind::NearBranch64 => Operand::Target(insn.near_branch64()),
        _ => Operand::Imm { value: insn.immediate(i), mask: u64::MAX },
    }
}

fn some(register: Register) -> Option<u8> {
    (register != Register::None).then(|| {
        assert!(register.is_gpr64(), "{register:?} in an address");
        number(register)
    })
}

fn number(register: Register) -> u8 {
    register.full_register().number() as u8
}

fn text(insn: &Instruction) -> String {
    let mut formatter = IntelFormatter::new();
    let options = formatter.options_mut();
    options.set_space_after_operand_separator(true);
    options.set_space_between_memory_add_operators(true);
    options.set_hex_prefix("0x");
    options.set_hex_suffix("");
    options.set_uppercase_hex(false);
    options.set_branch_leading_zeros(false);
    options.set_small_hex_numbers_in_decimal(true);
    let mut text = String::new();
    formatter.format(insn, &mut text);
    text
}
