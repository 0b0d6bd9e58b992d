//! Lists of hot paths: what is made of good ones, and that bad ones make no difference.

use super::differential::seeds;
use super::fixture::*;
use super::program::{self, Maker, POINTERS, RESERVED};
use crate::Options;
use std::sync::Arc;
use strata_engine::hot::{HotPath, HotPaths, Turn, hash};
use strata_engine::{Counted, Vcpu};
use strata_isa::Op::*;
use strata_isa::random::{Filter, SplitMix64};
use strata_isa::{Effect, Extensions, decode};
use strata_state::Stateful;

/// Makes no code in the few rounds of these tests but what a list names.
const RELUCTANT: Options = Options { hot: 200, awaited: 0, code_size: 32 << 20 };

/// A loop of two blocks with a call in it.
fn looping() -> Vec<u8> {
    let words = [
        insn(Addi, 10, 10, 0, 3),
        insn(Andi, 11, 10, 0, 1),
        insn(Beq, 0, 11, 0, 8),
        insn(Xor, 12, 12, 10, 0),
        insn(Jal, 1, 0, 0, 12),
        insn(Addi, 13, 13, 0, 1),
        insn(Jal, 0, 0, 0, -24),
        insn(Add, 14, 14, 10, 0),
        insn(Jalr, 0, 1, 0, 0),
    ];
    words.into_iter().flat_map(u32::to_le_bytes).collect()
}

fn machine(options: Option<Options>, base: u64, program: &[u8]) -> Machine {
    let mut m = Machine::new(options, base);
    m.ram.load(base, program).unwrap();
    m.registers(&mut SplitMix64::new(5), 0);
    m
}

fn list(m: &Machine) -> HotPaths {
    HotPaths::of(m.hart.hot_paths())
}

/// What a run of the loop found hot.
fn found() -> HotPaths {
    let mut m = machine(Some(Options::default()), BASE, &looping());
    m.hart.run_for(10_000);
    list(&m)
}

/// A path without what depends on where it lies and how often it ran.
fn shape(p: &HotPath) -> (u64, u64, u8, u8, Vec<Turn>) {
    (p.head, p.hash, p.mode, p.len, p.turns().collect())
}

#[test]
fn what_was_hot_is_translated_early() {
    let paths = found();
    assert!(!paths.is_empty());
    // At the same place, and where another boot has put the same page.
    for base in [BASE, BASE + 0x5000] {
        let [mut cold, mut warm] = [0; 2].map(|_| machine(Some(RELUCTANT), base, &looping()));
        warm.hart.warm(&Arc::new(paths.clone()));
        assert_eq!(cold.hart.run_for(400), warm.hart.run_for(400));
        assert!(cold.hart.state() == warm.hart.state());
        assert!(cold.hart.hot_paths().is_empty());
        let made = list(&warm);
        assert!(!made.is_empty(), "nothing was made at {base:#x}");
        for p in made.iter() {
            assert!(paths.iter().any(|q| shape(p) == shape(q) && p.pc - base == q.pc - BASE), "{p:?}");
        }
    }
}

#[test]
fn a_guest_that_is_waited_for_is_interpreted_longer() {
    let eager = Options { hot: 16, ..RELUCTANT };
    let [at_once, later] = [0, 5_000].map(|awaited| {
        let mut m = machine(Some(Options { awaited, ..eager }), BASE, &looping());
        // Some hundred rounds, then thousands.
        [900, 20_000].map(|insns| {
            m.hart.run_for(insns);
            m.hart.hot_paths().len()
        })
    });
    assert!(at_once[0] > 0 && later[0] == 0, "{at_once:?} {later:?}");
    assert!(later[1] > 0);
    // Anew with every state that is loaded.
    let mut m = machine(Some(Options { awaited: 5_000, ..eager }), BASE, &looping());
    m.hart.run_for(20_000);
    m.hart.settle();
    m.hart.run_for(900);
    assert!(m.hart.hot_paths().is_empty());
}

#[test]
fn portions_are_the_whole() {
    let mut m = machine(Some(Options { hot: 1, ..RELUCTANT }), BASE, &looping());
    m.hart.run_for(10_000);
    let all = m.hart.hot_paths();
    let first = m.hart.hot_paths_from(0);
    assert!(first.next == Some(1) && first.paths[..] == all[..1] && all.len() > 1);
    let last = m.hart.hot_paths_from(all.len() - 1);
    assert!(last.paths.len() == 1 && last.paths[0] == all[all.len() - 1] && last.next.is_none());
    assert!(m.hart.hot_paths_from(usize::MAX).paths.is_empty());
}

#[test]
fn code_that_has_changed_is_not_made_of_an_old_list() {
    let paths = Arc::new(found());
    for (at, word) in
        [(4, insn(Andi, 11, 10, 0, 2)), (20, insn(Addi, 13, 13, 0, 2)), (28, insn(Sub, 14, 14, 10, 0))]
    {
        let mut changed = looping();
        changed[at..at + 4].copy_from_slice(&word.to_le_bytes());
        let [mut plain, mut warm] = [None, Some(RELUCTANT)].map(|o| machine(o, BASE, &changed));
        warm.hart.warm(&paths);
        assert_eq!(plain.hart.run_for(500), warm.hart.run_for(500));
        assert!(plain.hart.state() == warm.hart.state(), "at {at}");
        for p in warm.hart.hot_paths() {
            // Paths past the change may be there, and hold the code as it is.
            assert!(paths.iter().any(|q| shape(&p) == shape(q)), "{p:?}");
            let far = BASE + at as u64;
            assert!(!(p.pc <= far && far < p.pc + 4), "a path that begins with the change: {p:?}");
        }
        assert!(warm.hart.hot_paths().len() < paths.len(), "at {at}");
    }
}

#[test]
fn a_path_is_made_once_until_the_hart_is_reset() {
    let paths = Arc::new(found());
    let mut m = machine(Some(RELUCTANT), BASE, &looping());
    m.hart.warm(&paths);
    m.hart.run_for(400);
    let made = m.hart.hot_paths().len();
    assert!(made > 0);
    let again = m.hart.state();
    m.hart.set_state(again);
    m.hart.settle();
    assert!(m.hart.hot_paths().is_empty());
    m.hart.run_for(400);
    assert_eq!(m.hart.hot_paths().len(), made);
}

/// A path from a random place of `program` by random turns, described as a run that took it would have.
fn any_path(rng: &mut SplitMix64, program: &[u8], base: u64) -> Option<HotPath> {
    let half = |at: u64| {
        let at = at.checked_sub(base)? as usize;
        Some(u32::from(u16::from_le_bytes(program.get(at..at + 2)?.try_into().ok()?)))
    };
    let somewhere = |rng: &mut SplitMix64| base + rng.below(program.len() as u64 / 2) * 2;
    let start = somewhere(rng);
    let (mut pc, mut raws, mut turns) = (start, Vec::new(), Vec::new());
    let blocks = 1 + rng.below(6);
    for _ in 0..blocks {
        loop {
            let low = half(pc)?;
            let raw = if low & 3 == 3 { low | half(pc + 2)? << 16 } else { low };
            let i = decode(raw).ok()?;
            raws.push((raw, i.len));
            let taken = pc.wrapping_add(i.imm as i64 as u64);
            let on = pc + u64::from(i.len);
            let effect = i.op.effect();
            pc = match effect {
                Effect::Jump => taken,
                Effect::Branch if rng.chance(50) => {
                    turns.push(Turn::Taken);
                    taken
                }
                Effect::Branch => {
                    turns.push(Turn::On);
                    on
                }
                Effect::JumpTo => {
                    let to = somewhere(rng);
                    turns.push(Turn::To(to.wrapping_sub(start)));
                    to
                }
                _ => on,
            };
            if effect.ends_block() {
                break;
            }
        }
    }
    let word = (start & !7).checked_sub(base)? as usize;
    let head = u64::from_le_bytes(program.get(word..word + 8)?.try_into().ok()?);
    let bytes = raws.iter().flat_map(|(raw, len)| raw.to_le_bytes().into_iter().take((*len).into()));
    // Machine mode without translated data addresses, as these programs run.
    Some(HotPath::new(3, start, head, raws.len().try_into().ok()?, hash(bytes)).with_turns(turns))
}

/// Runs `seed`'s program interpreted, and with a list of paths that nobody has ever taken; how many of them were made.
fn compare(seed: u64) -> usize {
    let mut rng = SplitMix64::new(seed);
    let mut filter = Filter::new(Extensions::ALL).only(|op| {
        let e = op.effect();
        matches!(
            e,
            Effect::Pure | Effect::Load(_) | Effect::Store(_) | Effect::Amo(_) | Effect::Fp | Effect::Fence
        )
    });
    (filter.x_dst, filter.x_base, filter.offsets) = (!RESERVED, POINTERS, -64..=2047);
    let code = program::bytes(&Maker::new(&mut rng, &filter).program());
    let base = BASE + if rng.chance(50) { 0x1000 - rng.below(25) * 8 } else { 0 };
    let registers = rng.next_u64();
    let paths = (0..400).filter_map(|_| any_path(&mut rng, &code, base));
    let paths = Arc::new(HotPaths::of(paths));
    let options = Options { hot: [200, 16, 0][(seed % 3) as usize], ..RELUCTANT };
    let mut machines = [None, Some(options)].map(|translated| {
        let mut m = Machine::new(translated, base);
        m.ram.load(base, &code).unwrap();
        m.registers(&mut SplitMix64::new(registers), POINTERS);
        m.hart.warm(&paths);
        m
    });
    let mut left = 10_000;
    while left > 0 {
        let most = if rng.chance(30) { 40 } else { 3000 };
        let n = 1 + rng.below(most).min(left - 1);
        let [a, b] = &mut machines;
        let stops = (a.hart.run_for(n), b.hart.run_for(n));
        assert_eq!(stops.0, stops.1, "seed {seed:#x}, {left} left");
        assert!(a.hart.state() == b.hart.state(), "seed {seed:#x}, {left} left");
        left -= n;
    }
    let [a, b] = &machines;
    assert!(a.memory(DATA, 1 << 20) == b.memory(DATA, 1 << 20), "memory differs, seed {seed:#x}");
    let made = b.hart.hot_paths();
    made.iter().filter(|p| paths.iter().any(|q| q.pc == p.pc && shape(q) == shape(p))).count()
}

#[test]
fn paths_that_nobody_has_taken_change_nothing() {
    let made: usize = seeds(60).map(compare).sum();
    // Most begin in mid-instruction, or are not cut as a recording would be.
    assert!(made > 100, "only {made} paths of the lists were made");
}

#[test]
fn looking_ahead_leaves_no_mark_in_the_guests_page_table() {
    const TABLES: u64 = BASE + 0x2_0000;
    const PTE: u64 = TABLES + 0x2008;
    // V R W X D: the guest comes to 0x1000, which is two pages up, only where x5 is not 0.
    let kernel = |x5: u64, options: Option<Options>| {
        let mut m = Machine::new(options, BASE);
        let near = [insn(Addi, 10, 10, 0, 1), insn(Bne, 0, 5, 0, 0xffc), insn(Jal, 0, 0, 0, -8)];
        let far = [insn(Addi, 11, 11, 0, 1), insn(Jal, 0, 0, 0, -0x1004)];
        for (at, words) in [(BASE, &near[..]), (BASE + 0x1000, &far[..])] {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            m.ram.load(at, &bytes).unwrap();
        }
        let entries = [
            (TABLES, (TABLES + 0x1000) >> 2 | 1),
            (TABLES + 0x1000, (TABLES + 0x2000) >> 2 | 1),
            (PTE - 8, BASE >> 2 | 0x8f),
            (PTE, (BASE + 0x1000) >> 2 | 0x8f),
        ];
        entries.iter().for_each(|(at, pte)| m.ram.load(*at, &pte.to_le_bytes()).unwrap());
        let mut s = m.hart.state();
        (s.pc, s.privilege, s.satp, s.x[5]) = (0, 1, 8 << 60 | TABLES >> 12, x5);
        // Hardware sets A.
        s.menvcfg |= 1 << 61;
        (s.pmpaddr[0], s.pmpcfg[0]) = (u64::MAX >> 10, 0x1f);
        m.hart.set_state(s);
        m.hart.settle();
        m
    };
    let accessed = |m: &Machine| m.memory(PTE, 1)[0] & 0x40 != 0;
    // Over both pages, to where it began, as often as a loop goes round in a path.
    let round = [BASE, BASE + 0x1000].map(|at| kernel(0, None).memory(at, 8)).concat();
    let bytes = [round.as_slice(); 8].concat().into_iter();
    let head = u64::from_le_bytes(kernel(0, None).memory(BASE, 8).try_into().unwrap());
    let path = HotPath::new(1, 0, head, 32, hash(bytes)).with_turns([Turn::Taken; 8]);
    let paths = Arc::new(HotPaths::of([path.clone()]));
    let [mut plain, mut warm] = [None, Some(RELUCTANT)].map(|o| kernel(0, o));
    warm.hart.warm(&paths);
    for m in [&mut plain, &mut warm] {
        m.hart.run_for(300);
        assert!(!accessed(m));
    }
    assert!(plain.hart.state() == warm.hart.state() && warm.hart.hot_paths().is_empty());
    // It was looked for, and is made once the page is there.
    for m in [&mut plain, &mut warm] {
        let mut s = m.hart.state();
        s.x[5] = 1;
        m.hart.set_state(s);
        m.hart.settle();
        m.hart.run_for(301);
        assert!(accessed(m));
    }
    assert!(plain.hart.state() == warm.hart.state());
    assert!(warm.hart.hot_paths().iter().any(|p| p.pc == 0 && shape(p) == shape(&path)));
}
