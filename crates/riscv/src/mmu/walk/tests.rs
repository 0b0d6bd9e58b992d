use super::*;
use std::collections::HashMap;

/// Page tables in a map; every entry not there is zero.
#[derive(Default)]
struct Tables {
    entries: HashMap<u64, u64>,
    /// Entries that another hart changes before our update, once.
    raced: HashMap<u64, u64>,
    absent: Option<u64>,
}

impl PteMemory for Tables {
    fn read(&mut self, pa: u64) -> Result<u64, Fault> {
        match self.absent {
            Some(at) if at == pa => Err(Fault::Wait),
            _ if pa >= 1 << 40 => Err(Fault::Access),
            _ => Ok(self.entries.get(&pa).copied().unwrap_or(0)),
        }
    }
    fn update(&mut self, pa: u64, old: u64, new: u64) -> Result<bool, Fault> {
        if let Some(other) = self.raced.remove(&pa) {
            self.entries.insert(pa, other);
        }
        let same = self.entries.get(&pa) == Some(&old);
        if same {
            self.entries.insert(pa, new);
        }
        Ok(same)
    }
}

const ROOT: u64 = 0x10_0000;

fn space(levels: u32) -> Space {
    Space { levels, root: ROOT, user: false, sum: false, mxr: false, pbmte: true, adue: true }
}

fn pte(pa: u64, bits: u64) -> u64 {
    pa >> 12 << 10 | bits
}

const V: u64 = Pte::V;
const R: u64 = Pte::R;
const W: u64 = Pte::W;
const X: u64 = Pte::X;
const U: u64 = Pte::U;
const AD: u64 = Pte::A | Pte::D;
const PA: u64 = 0x1234_5000;

/// A chain of tables for `va`, with `leaf` at `depth` (0 is the root), all pointers plain.
fn tables(levels: u32, va: u64, depth: u32, leaf: u64) -> Tables {
    let mut t = Tables::default();
    let mut table = ROOT;
    for d in 0..=depth {
        let at = table + (va >> (12 + 9 * (levels - 1 - d)) & 511) * 8;
        table += 0x1000;
        t.entries.insert(at, if d == depth { leaf } else { pte(table, V) });
    }
    t
}

/// Result for a read of `va` whose leaf entry at the last level is `leaf`.
fn last_level(s: &Space, leaf: u64, access: Access) -> Result<Leaf, Fault> {
    let va = 0x12_3456_7abc & ((1 << 38) - 1);
    walk(s, va, access, &mut tables(s.levels, va, s.levels - 1, leaf))
}

#[test]
fn every_mode_and_every_level_maps() {
    for levels in [3, 4, 5] {
        for va in [0x2345_6789_0678 & ((1 << (11 + 9 * levels)) - 1), (-0x7654_3210_i64) as u64] {
            for depth in 0..levels {
                let span = 1u64 << (12 + 9 * (levels - 1 - depth));
                let base = 0xff_ffff_ffff_ffff & !(span - 1);
                let leaf = pte(base, V | R | AD);
                let got = walk(&space(levels), va, Access::Read, &mut tables(levels, va, depth, leaf));
                assert_eq!(
                    got,
                    Ok(Leaf { pa: base | va & (span - 1), span, global: false, pte: Pte(leaf) }),
                    "Sv{} {va:#x} {depth}",
                    12 + 9 * levels
                );
                if span > 4096 {
                    let crooked = pte(base | 0x1000, V | R | AD);
                    let got = walk(&space(levels), va, Access::Read, &mut tables(levels, va, depth, crooked));
                    assert_eq!(got, Err(Fault::Page));
                }
            }
        }
    }
}

#[test]
fn addresses_must_be_sign_extended() {
    for (levels, va) in [(3, 1 << 38), (3, u64::MAX << 39), (4, 1 << 47), (4, 1 << 63), (5, 1 << 56)] {
        assert_eq!(walk(&space(levels), va, Access::Read, &mut Tables::default()), Err(Fault::Page));
    }
}

#[test]
fn entries_that_are_not_entries_fault() {
    let s = space(3);
    for bad in [
        R | AD,                 // not valid
        V | W | AD,             // writable, not readable
        V | W | X | AD,         // the same
        V | R | AD | 1 << 54,   // reserved bit
        V | R | AD | 1 << 60,   // reserved bit
        V | R | AD | Pte::PBMT, // reserved memory type
        V,                      // a pointer at the last level
    ] {
        assert_eq!(last_level(&s, pte(PA, bad), Access::Read), Err(Fault::Page), "{bad:#x}");
    }
    for bad in [Pte::A, Pte::D, U, 1 << 61, Pte::N] {
        let mut t = tables(3, 0, 2, pte(PA, V | R | AD));
        let root = t.entries.get_mut(&ROOT).unwrap();
        *root |= bad;
        assert_eq!(walk(&s, 0, Access::Read, &mut t), Err(Fault::Page), "{bad:#x} in a pointer");
    }
    let plain = Space { pbmte: false, ..s };
    for (bits, ok) in [(0, true), (1 << 61, false), (2 << 61, false)] {
        assert_eq!(last_level(&plain, pte(PA, V | R | AD) | bits, Access::Read).is_ok(), ok);
        assert!(last_level(&s, pte(PA, V | R | AD) | bits, Access::Read).is_ok());
    }
}

#[test]
fn permissions_are_what_the_manual_says() {
    use Access::{Fetch, Read, Write};
    // bits, user, sum, mxr, then read, write, fetch
    for (bits, user, sum, mxr, want) in [
        (R, false, false, false, [true, false, false]),
        (R | W, false, false, false, [true, true, false]),
        (X, false, false, false, [false, false, true]),
        (X, false, false, true, [true, false, true]),
        (R | W | X, true, false, false, [false; 3]),
        (R | W | X | U, true, false, false, [true; 3]),
        (R | W | X | U, false, false, false, [false; 3]),
        (R | W | X | U, false, true, false, [true, true, false]),
        (X | U, false, true, true, [true, false, false]),
    ] {
        let s = Space { user, sum, mxr, ..space(4) };
        for (access, ok) in [Read, Write, Fetch].into_iter().zip(want) {
            let got = last_level(&s, pte(PA, V | AD | bits), access);
            assert_eq!(got.is_ok(), ok, "{bits:#x} {user} {sum} {mxr} {access:?}");
        }
    }
}

#[test]
fn a_and_d_are_set_or_fault() {
    for (access, marks) in [(Access::Read, Pte::A), (Access::Fetch, Pte::A), (Access::Write, AD)] {
        let leaf = pte(PA, V | R | W | X);
        let mut t = tables(3, 0x5000, 2, leaf);
        let at = ROOT + 0x2000 + 5 * 8;
        assert!(walk(&space(3), 0x5000, access, &mut t).is_ok());
        assert_eq!(t.entries[&at], leaf | marks);
        let soft = Space { adue: false, ..space(3) };
        let mut t = tables(3, 0x5000, 2, leaf);
        assert_eq!(walk(&soft, 0x5000, access, &mut t), Err(Fault::Page));
        assert_eq!(t.entries[&at], leaf);
    }
    let clean = pte(PA, V | R | W | Pte::A);
    let soft = Space { adue: false, ..space(3) };
    assert!(last_level(&soft, clean, Access::Read).is_ok());
    assert_eq!(last_level(&soft, clean, Access::Write), Err(Fault::Page));
}

#[test]
fn an_entry_changed_by_another_hart_is_looked_at_again() {
    let at = ROOT + 0x2000 + 5 * 8;
    let mut t = tables(3, 0x5000, 2, pte(PA, V | R));
    t.raced.insert(at, pte(PA + 0x1000, V | R));
    let got = walk(&space(3), 0x5000, Access::Read, &mut t).unwrap();
    assert_eq!(got.pa, PA + 0x1000);
    let mut t = tables(3, 0x5000, 2, pte(PA, V | R));
    t.raced.insert(at, 0);
    assert_eq!(walk(&space(3), 0x5000, Access::Read, &mut t), Err(Fault::Page));
}

#[test]
fn contiguous_ranges_of_64_kib() {
    let va = 0x7000 + 0xabc;
    let leaf = pte(0x4568_0000, V | R | AD) | 8 << 10 | Pte::N;
    let got = walk(&space(3), va, Access::Read, &mut tables(3, va, 2, leaf));
    assert_eq!(got, Ok(Leaf { pa: 0x4568_7abc, span: 1 << 16, global: false, pte: Pte(leaf) }));
    let odd = leaf ^ 4 << 10;
    assert_eq!(walk(&space(3), va, Access::Read, &mut tables(3, va, 2, odd)), Err(Fault::Page));
    let above = pte(0x4000_0000, V | R | AD) | 8 << 10 | Pte::N;
    assert_eq!(walk(&space(3), va, Access::Read, &mut tables(3, va, 1, above)), Err(Fault::Page));
}

#[test]
fn a_global_pointer_makes_all_below_it_global() {
    for depth in 0..3 {
        let mut t = tables(3, 0x5000, 2, pte(PA, V | R | AD));
        let mut table = ROOT;
        for d in 0..=depth {
            let at = table + (0x5000 >> (12 + 9 * (2 - d)) & 511) * 8;
            table += 0x1000;
            if d == depth {
                *t.entries.get_mut(&at).unwrap() |= Pte::G;
            }
        }
        assert!(walk(&space(3), 0x5000, Access::Read, &mut t).unwrap().global, "{depth}");
    }
}

#[test]
fn faults_of_the_tables_pass_through() {
    let mut t = tables(3, 0, 0, pte(1 << 41, V));
    assert_eq!(walk(&space(3), 0, Access::Read, &mut t), Err(Fault::Access));
    let mut t = tables(3, 0, 2, pte(PA, V | R | AD));
    t.absent = Some(ROOT + 0x1000);
    assert_eq!(walk(&space(3), 0, Access::Read, &mut t), Err(Fault::Wait));
}

#[test]
fn no_entry_panics() {
    let mut x = 1u64;
    for n in 0..20_000u64 {
        x = x.wrapping_mul(6364136223846793005).wrapping_add(n | 1);
        let mut t = tables(3 + (n % 3) as u32, x, (n / 3 % 3) as u32, x.rotate_left(17) | V);
        let mut s = space(3 + (n % 3) as u32);
        s.root = (x >> 8 & ((1 << 44) - 1)) << 12 & !(n << 40);
        let _ = walk(&s, x, Access::Write, &mut t);
        let _ = walk(&space(s.levels), ((x << 30) as i64 >> 30) as u64, Access::Read, &mut t);
    }
}
