//! The one table of differences from QEMU that are meant. All else is a defect.
//!
//! `docs/decisions/0002-hart-choices.md` says why the hart chose so; an entry here says how such a difference looks in
//! a record, as narrowly as that can be said.

use crate::diff::compare::Record;
use crate::diff::layout::word;
use crate::diff::slots::{Mode, Slot};
use strata_isa::{Effect, decode};

/// A difference that is meant.
pub struct Exception {
    /// Why.
    pub why: &'static str,
    /// Whether it is this one, in word `w` of QEMU's record and ours.
    pub covers: fn(slot: &Slot, w: usize, qemu: &Record, ours: &Record) -> bool,
}

/// All of them.
pub const EXCEPTIONS: &[Exception] = &[
    Exception {
        why: "QEMU without AIA takes the lowest-numbered of several interrupts; the manual's order is SEI, SSI, STI",
        covers: |slot, w, q, o| {
            let several = slot.before.iter().filter(|(_, v)| v.count_ones() > 1).count() > 0;
            let order = |mcause: u64| [9, 1, 5].iter().position(|n| 1 << 63 | n == mcause);
            let better = |w: usize| order(o[w]).zip(order(q[w])).is_some_and(|(o, q)| o < q);
            let ours_first = better(word::MCAUSE) || better(word::SCAUSE);
            let words = [word::MCAUSE, word::SCAUSE, word::MEPC];
            several && ours_first && words.contains(&w)
        },
    },
    Exception {
        why: "pmpaddr has 54 bits; QEMU keeps all 64",
        covers: |slot, w, q, o| read_as(slot, w, q, o, 0x3b0..=0x3bf, |v| v & ((1 << 54) - 1)),
    },
    Exception {
        why: "a PMP entry with W and without R is reserved and loses its W, and bits 5 and 6 are zero; QEMU keeps them",
        covers: |slot, w, q, o| {
            let legal = |v: u64| {
                let bytes = v.to_le_bytes().map(|b| b & 0x9f & if b & 3 == 2 { !2 } else { !0 });
                u64::from_le_bytes(bytes)
            };
            read_as(slot, w, q, o, 0x3a0..=0x3a3, legal)
        },
    },
    Exception {
        why: "medeleg has no bit for ecall from M, as the manual demands, nor for a hypervisor's traps; QEMU has both",
        covers: |slot, w, q, o| read_as(slot, w, q, o, 0x302..=0x302, |v| v & 0xb3ff),
    },
    Exception {
        why: "the lowest bit of an exception's program counter is zero, as the manual demands; QEMU keeps it",
        covers: |slot, w, q, o| {
            read_as(slot, w, q, o, 0x141..=0x141, |v| v & !1)
                || read_as(slot, w, q, o, 0x341..=0x341, |v| v & !1)
                || w == word::SEPC && q[w] & !1 == o[w]
        },
    },
    Exception {
        why: "sfence.w.inval and sfence.inval.ir are illegal in U mode, as the manual demands; QEMU lets them pass",
        covers: |slot, w, _, _| {
            let inval = |raw: u32| matches!(raw, 0x1800_0073 | 0x1810_0073);
            slot.mode == Mode::User
                && (word::MSTATUS..word::REPLACED).contains(&w)
                && slot.code.iter().any(|(raw, _)| inval(*raw))
        },
    },
    Exception {
        why: "mideleg has S mode's interrupts only; QEMU has a hypervisor's and the counters' too",
        covers: |slot, w, q, o| read_as(slot, w, q, o, 0x303..=0x303, |v| v & 0x222),
    },
    Exception {
        why: "mie and mip have the six interrupts that exist; QEMU has a hypervisor's, the counters' and custom ones",
        covers: |slot, w, q, o| {
            let legal = |v: u64| v & 0xaaa;
            let whole = (w == word::MIE || w == word::MIP) && legal(q[w]) == o[w];
            whole
                || read_as(slot, w, q, o, 0x304..=0x304, legal)
                || read_as(slot, w, q, o, 0x344..=0x344, legal)
        },
    },
    Exception {
        why: "without menvcfg.STCE, STIP is what software wrote; QEMU's follows stimecmp even then",
        covers: |slot, w, q, o| {
            let written =
                slot.code.iter().any(|(raw, _)| matches!(raw >> 20, 0x14d | 0x30a) && raw & 0x7f == 0x73);
            w == word::MIP && written && q[w] ^ o[w] == 1 << 5
        },
    },
    Exception {
        why: "an AMO on memory that is not there and may not be written: either fault may come first",
        covers: |slot, w, q, o| {
            let amo = |raw: u32| decode(raw).is_ok_and(|i| matches!(i.op.effect(), Effect::Amo(_)));
            let order = cause(slot, q) == (7, cause(slot, o).1) && cause(slot, o).0 == 15;
            order && is_trap(w) && slot.code.iter().any(|(raw, _)| amo(*raw))
        },
    },
    Exception {
        why: "of an access over the end of the address space both parts fault; ours tells of the first, QEMU of the second",
        covers: |slot, w, q, o| {
            let (theirs, ours) = (cause(slot, q), cause(slot, o));
            let wraps = ours.1 > u64::MAX - 7 && theirs == (ours.0, 0) && matches!(ours.0, 5 | 7);
            wraps && matches!(w, word::MTVAL | word::STVAL)
        },
    },
    Exception {
        why: "CBIE = 2 is reserved and becomes 0, and CDE belongs to an extension that neither has; QEMU keeps both",
        covers: |slot, w, q, o| {
            let legal = |v: u64| v & !(1 << 60) & if v & 0x30 == 0x20 { !0x30 } else { !0 };
            read_as(slot, w, q, o, 0x10a..=0x10a, legal) || read_as(slot, w, q, o, 0x30a..=0x30a, legal)
        },
    },
    Exception {
        why: "WFI over the end of a page that traps: QEMU's epc is a page too far",
        covers: |slot, w, q, o| {
            let wfi = slot.pc & 0xfff == 0xffe && slot.code.iter().any(|(raw, _)| *raw == 0x1050_0073);
            wfi && matches!(w, word::MEPC | word::SEPC) && q[w] == o[w].wrapping_add(0x1000)
        },
    },
    Exception {
        why: "what writes fcsr, if only by accruing flags or writing what is there, makes FS dirty, as the manual demands; \
              QEMU's compares, conversions to integers and CSRRC of 0 do not",
        covers: |slot, w, q, o| {
            const FS: u64 = 3 << 13 | 1 << 63;
            let floats = |raw: u32| {
                decode(raw).is_ok_and(|i| match i.op.effect() {
                    Effect::Fp => i.f_writes() == 0,
                    Effect::Csr => matches!(i.imm, 1..=3),
                    _ => false,
                })
            };
            let clean = slot.mstatus >> 13 & 3 != 3;
            w == word::MSTATUS && clean && q[w] | FS == o[w] && slot.code.iter().any(|(raw, _)| floats(*raw))
        },
    },
];

/// Whether a trap writes word `w`.
fn is_trap(w: usize) -> bool {
    (word::MSTATUS..word::MIE).contains(&w) && w != word::FCSR
}

/// Cause and value of the first trap that the slot took: where it went to S mode, the one before that mode's `ecall`.
fn cause(slot: &Slot, r: &Record) -> (u64, u64) {
    let delegated = r[word::MCAUSE] == 9 && !(slot.pc..slot.pc + 32).contains(&r[word::MEPC]);
    if delegated { (r[word::SCAUSE], r[word::STVAL]) } else { (r[word::MCAUSE], r[word::MTVAL]) }
}

/// Whether word `w` is a register into which the slot read one of the CSRs `range`, and ours is QEMU's value as `legal`
/// makes it.
fn read_as(
    slot: &Slot,
    w: usize,
    q: &Record,
    o: &Record,
    range: std::ops::RangeInclusive<u16>,
    legal: impl Fn(u64) -> u64,
) -> bool {
    let reads = |raw: u32| {
        decode(raw).is_ok_and(|i| {
            i.op.effect() == Effect::Csr
                && range.contains(&(i.imm as u16))
                && usize::from(i.rd) == w
                && w != 0
        })
    };
    slot.code.iter().any(|(raw, _)| reads(*raw)) && legal(q[w]) == o[w]
}
