//! Branches: relative ones to labels and absolute addresses, and the patching of those that are already in place.
//!
//! A branch to a label always has its 4-byte form, whatever the distance: its length does not depend on what comes
//! later, and a site that is to be patched stays one. Who knows better says `_short`.

use crate::asm::{Asm, Fixup, Label};
use crate::encode::Place;
use crate::error::AsmError;
use crate::form::{Form, form};
use crate::operand::Cc;

const JMP: Form = form("E9 cd");
const JMP_SHORT: Form = form("EB cb");
const JCC: Form = form("0F 80+cc cd");
const JCC_SHORT: Form = form("70+cc cb");
const CALL: Form = form("E8 cd");

impl Asm {
    /// `jcc rel32` to a label.
    #[inline]
    pub fn jcc(&mut self, cc: Cc, to: Label) {
        self.branch(&JCC.plus(cc as u8), to);
    }

    /// `jmp rel32` to a label.
    #[inline]
    pub fn jmp(&mut self, to: Label) {
        self.branch(&JMP, to);
    }

    /// `call rel32` to a label.
    #[inline]
    pub fn call(&mut self, to: Label) {
        self.branch(&CALL, to);
    }

    /// `jcc rel8` to a label; out of reach (127 bytes) is an error that [`Asm::finish`] reports.
    #[inline]
    pub fn jcc_short(&mut self, cc: Cc, to: Label) {
        self.branch(&JCC_SHORT.plus(cc as u8), to);
    }

    /// `jmp rel8` to a label; out of reach (127 bytes) is an error that [`Asm::finish`] reports.
    #[inline]
    pub fn jmp_short(&mut self, to: Label) {
        self.branch(&JMP_SHORT, to);
    }

    /// `jmp rel32` to an address; out of reach (2 GiB) is an error that [`Asm::finish`] reports.
    #[inline]
    pub fn jmp_abs(&mut self, target: u64) {
        self.branch_abs(&JMP, target);
    }

    /// `jcc rel32` to an address, like [`Asm::jmp_abs`].
    #[inline]
    pub fn jcc_abs(&mut self, cc: Cc, target: u64) {
        self.branch_abs(&JCC.plus(cc as u8), target);
    }

    /// `call rel32` to an address, like [`Asm::jmp_abs`].
    #[inline]
    pub fn call_abs(&mut self, target: u64) {
        self.branch_abs(&CALL, target);
    }

    /// Like [`Asm::jmp_abs`], at a place where another thread may run while the target is replaced. Gives the offset
    /// of the 4-byte relative field.
    ///
    /// The field lies within an aligned group of 8 bytes (a `nop` before the jump sees to that), so it also never
    /// crosses a cache line. That is what both vendors promise atomicity for: AMD's manual (volume 2, 7.3.2) makes a
    /// misaligned store indivisible only there. A patcher may store 4 bytes, or the whole aligned group.
    pub fn patchable_jmp_abs(&mut self, target: u64) -> usize {
        let in_group = self.here().wrapping_add(1) & 7;
        if in_group > 4 {
            self.nop(8 - in_group as usize);
        }
        self.jmp_abs(target);
        self.len() - 4
    }

    #[inline]
    fn branch(&mut self, form: &Form, to: Label) {
        self.put(form, 0, 0, Place::NONE, 0);
        let width = form.imm_len;
        self.fixups.push(Fixup { at: self.len() - usize::from(width), width, label: to });
    }

    #[inline]
    fn branch_abs(&mut self, form: &Form, target: u64) {
        self.put(form, 0, 0, Place::NONE, 0);
        self.fill(self.len() - 4, 4, target);
    }

    /// `n` bytes that do nothing, in as few instructions as the manual recommends (table 4-12 at NOP).
    pub fn nop(&mut self, n: usize) {
        const LONGEST: usize = 9;
        const NOPS: [&[u8]; LONGEST] = [
            &[0x90],
            &[0x66, 0x90],
            &[0x0f, 0x1f, 0x00],
            &[0x0f, 0x1f, 0x40, 0],
            &[0x0f, 0x1f, 0x44, 0, 0],
            &[0x66, 0x0f, 0x1f, 0x44, 0, 0],
            &[0x0f, 0x1f, 0x80, 0, 0, 0, 0],
            &[0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
            &[0x66, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0],
        ];
        let mut left = n;
        while left > 0 {
            let bytes = NOPS[left.min(LONGEST) - 1];
            let mut word = [0; 8];
            let in_word = bytes.len().min(8); // the ninth byte is a zero of the tail
            word[..in_word].copy_from_slice(&bytes[..in_word]);
            self.store(u64::from_le_bytes(word), in_word as u32, 0, (bytes.len() - in_word) as u32);
            left -= bytes.len();
        }
    }
}

/// Rewrites the relative field at offset `at` of `code`, so that the branch it ends leads to `target`. `from_next` is
/// the address behind the field, where the branch counts from.
///
/// This is an ordinary store: where the code may be running, see [`Asm::patchable_jmp_abs`].
pub fn patch_rel32(code: &mut [u8], at: usize, from_next: u64, target: u64) -> Result<(), AsmError> {
    let Ok(distance) = i32::try_from(target.wrapping_sub(from_next) as i64) else {
        return Err(AsmError::OutOfReach { at, target, width: 4 });
    };
    let len = code.len();
    let field = code.get_mut(at..).and_then(|c| c.get_mut(..4)).ok_or(AsmError::OutsideCode { at, len })?;
    field.copy_from_slice(&distance.to_le_bytes());
    Ok(())
}
