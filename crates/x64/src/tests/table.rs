//! A case from every row of the table.

use super::opinion::Operand;
use super::random::{Draw, Selector, Widths};
use super::{Asked, Case};
use crate::rows::rows;
use crate::{Alu, Cc, Fma, Fop, Fs, Gpr, Mem, Shift, Size, Xmm};

macro_rules! cases {
    ($(
        $name:ident [$($selector:ident: $S:ty),*] ($($operand:ident: $T:ty),*) $en:ident $mnemonic:literal = $forms:expr;
    )*) => {
        pub const CASES: &[Case] = &[$(Case {
            method: stringify!($name),
            #[allow(unused, reason = "not every row has selectors or operands")]
            call: |rng, asm| {
                let mut widths = Widths::of(stringify!($name));
                $(
                    let $selector = <$S>::pick(rng);
                    $selector.tell(&mut widths);
                )*
                let mut operands = Vec::new();
                $(
                    let ($operand, wanted) = <$T>::draw(rng, widths);
                    operands.push(wanted);
                )*
                asm.$name($($selector,)* $($operand),*);
                let mnemonic = format!($mnemonic).to_lowercase();
                expected(stringify!($name), mnemonic, operands, vec![$($selector as u8),*])
            },
        }),*];
    };
}

rows!(cases);

/// What rows say in words of their own.
fn expected(method: &str, mut mnemonic: String, mut operands: Vec<Operand>, key: Vec<u8>) -> Asked {
    match method {
        // The count register is in the instruction but not in the call.
        "shift_rcl" => operands.push(Operand::Gpr { number: 1, bytes: 1 }),
        // The only one that names the other precision too.
        "cvt_f2f" => mnemonic.push(if key[0] == Fs::S as u8 { 'd' } else { 's' }),
        // An address, not an access.
        "lea" => {
            if let Some(Operand::Mem { bytes, .. }) = operands.last_mut() {
                *bytes = 0;
            }
        }
        _ => {}
    }
    Asked { mnemonic, operands, key }
}
