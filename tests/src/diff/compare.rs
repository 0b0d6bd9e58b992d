//! Compares two logs, and tells a person where they part.

use crate::diff::exceptions::Exception;
use crate::diff::image::Image;
use crate::diff::layout::{RECORD, SCRATCH, TABLES, word, word_name};
use crate::diff::run::Outcome;
use std::fmt::Write;
use strata_isa::{decode, disasm};

/// One slot's record.
pub type Record = [u64; word::COUNT];

/// Record `n` of a log; slot `n - 1` wrote it.
pub fn record(log: &[u8], n: usize) -> Record {
    let bytes = &log[n * RECORD as usize..(n + 1) * RECORD as usize];
    std::array::from_fn(|w| u64::from_le_bytes(std::array::from_fn(|b| bytes[w * 8 + b])))
}

/// What slot `n - 1` left: its record, with the registers that the next slot's operands took the place of put back.
fn left_by(image: &Image, log: &[u8], n: usize) -> Record {
    let mut r = record(log, n);
    if let Some(next) = image.slots.get(n) {
        let after = record(log, n + 1);
        for (i, (register, _)) in next.operands.iter().enumerate().rev() {
            r[usize::from(*register)] = after[word::REPLACED + i];
        }
    }
    // Bookkeeping of the harness.
    r[0] = 0;
    r[word::REPLACED..word::MEMORY].fill(0);
    r
}

/// A slot after which the engines differ in ways that they did not before.
pub struct Mismatch {
    /// The slot's number.
    pub slot: usize,
    /// Words of the record, with what QEMU and we have there.
    pub words: Vec<(usize, u64, u64)>,
}

/// What a comparison found.
#[derive(Default)]
pub struct Comparison {
    /// Differences that nothing explains.
    pub mismatches: Vec<Mismatch>,
    /// How often each exception held.
    pub excepted: Vec<u64>,
}

/// Compares; stops after `limit` mismatches.
pub fn logs(
    image: &Image,
    qemu: &Outcome,
    ours: &Outcome,
    exceptions: &[Exception],
    limit: usize,
) -> Comparison {
    let mut found = Comparison { mismatches: Vec::new(), excepted: vec![0; exceptions.len()] };
    if qemu.log == ours.log {
        return found;
    }
    let mut known = [false; word::COUNT];
    for (n, slot) in image.slots.iter().enumerate() {
        if found.mismatches.len() >= limit {
            break;
        }
        let (q, o) = (left_by(image, &qemu.log, n + 1), left_by(image, &ours.log, n + 1));
        let mut words = Vec::new();
        for w in 0..word::COUNT {
            // A register that already differed is no news; all else begins anew with each slot.
            if q[w] == o[w] || w < 64 && known[w] {
                continue;
            }
            match exceptions.iter().position(|e| (e.covers)(slot, w, &q, &o)) {
                Some(e) => found.excepted[e] += 1,
                None => words.push((w, q[w], o[w])),
            }
        }
        for (w, k) in known.iter_mut().enumerate() {
            // An operand that was given is the same again.
            *k = q[w] != o[w];
        }
        if let Some(next) = image.slots.get(n + 1) {
            next.operands.iter().for_each(|(r, _)| known[usize::from(*r)] = false);
        }
        if !words.is_empty() {
            found.mismatches.push(Mismatch { slot: n, words });
        }
    }
    found
}

/// The first word of page tables and scratch memory that differs at the end, as an address and both values.
pub fn memory(qemu: &Outcome, ours: &Outcome) -> Option<(u64, u64, u64)> {
    let words =
        |o: &Outcome| o.memory.as_chunks::<8>().0.iter().map(|w| u64::from_le_bytes(*w)).collect::<Vec<_>>();
    let (q, o) = (words(qemu), words(ours));
    let at = q.iter().zip(&o).position(|(q, o)| q != o)?;
    Some((TABLES + at as u64 * 8, q[at], o[at]))
}

/// Where an address of [`memory`] lies.
pub fn place(address: u64) -> String {
    if address < SCRATCH {
        format!("page table entry {address:#x}")
    } else {
        format!("scratch memory {address:#x}")
    }
}

/// A slot, for a person.
pub fn describe(image: &Image, n: usize) -> String {
    let Some(s) = image.slots.get(n) else { return String::new() };
    let mut out = format!("seed {:#x} slot {n} in {:?} mode at {:#x}:\n", image.seed, s.mode, s.pc);
    let mut pc = s.pc;
    for (raw, len) in &s.code {
        let text = decode(*raw).map_or_else(|_| "(reserved)".into(), |i| disasm(&i, pc));
        let width = usize::from(*len) * 2 + 2;
        let _ = writeln!(out, "    {pc:#x}: {raw:#0width$x}  {}", text.replace('\t', " "));
        pc += u64::from(*len);
    }
    let _ = writeln!(out, "    mstatus {:#x} fcsr {:#x} watching {:#x}", s.mstatus, s.fcsr, s.watch);
    for (r, v) in &s.operands {
        let _ = writeln!(out, "    {} = {v:#x}", word_name(usize::from(*r)));
    }
    for (name, list) in [("before", &s.before), ("after", &s.after)] {
        for (stub, v) in list {
            let _ = writeln!(out, "    {name}: {} = {v:#x}", crate::diff::csrs::stub_name(*stub));
        }
    }
    out
}

/// Everything about a mismatch that a person needs to find its cause.
pub fn explain(image: &Image, qemu: &Outcome, ours: &Outcome, m: &Mismatch) -> String {
    let mut out = describe(image, m.slot);
    for (w, q, o) in &m.words {
        let _ = writeln!(out, "    {:<10} QEMU {q:#018x}  ours {o:#018x}", word_name(*w));
    }
    let (q, o) = (record(&qemu.log, m.slot + 1), record(&ours.log, m.slot + 1));
    for (who, r) in [("QEMU", q), ("ours", o)] {
        let _ = writeln!(
            out,
            "    {who}: satp {:#x} cause {:#x} tval {:#x} epc {:#x}; S: cause {:#x} tval {:#x} epc {:#x}",
            r[word::SATP],
            r[word::MCAUSE],
            r[word::MTVAL],
            r[word::MEPC],
            r[word::SCAUSE],
            r[word::STVAL],
            r[word::SEPC]
        );
    }
    out
}
