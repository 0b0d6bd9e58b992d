//! Translated code under address translation: pages remapped under it, address spaces that hold different code at one
//! address, instructions over the end of a page whose halves lie anywhere.
//!
//! ```text
//!   0x4000_0000  X: a routine over two pages, in each address space its own, or remapped by the kernel
//!   0x8000_0000  all of RAM, as it is, global; the kernel runs here in S mode
//! ```

use super::fixture::*;
use super::lockstep::*;
use strata_isa::Op::*;
use strata_isa::random::SplitMix64;

const X: u64 = 0x4000_0000;
/// Page tables: a root, one of 2 MiB pages, one of 4 KiB pages for each of two spaces.
const TABLES: u64 = BASE + 0x2_0000;
/// Physical pages that X may lead to.
const BODIES: u64 = BASE + 0x4_0000;
const HANDLER: u64 = BASE + 0x8000;
/// V R W X A D.
const RWX: u64 = 0xcf;
const GLOBAL: u64 = 1 << 5;

fn pte(pa: u64, flags: u64) -> u64 {
    pa >> 12 << 10 | flags
}

fn root(space: u64) -> u64 {
    TABLES + space * 0x3000
}

/// Where the entry of X's page `n` lies.
fn entry(space: u64, n: u64) -> u64 {
    root(space) + 0x2000 + n * 8
}

fn satp(space: u64, asid: u64) -> u64 {
    8 << 60 | asid << 44 | root(space) >> 12
}

/// Two spaces, in which X leads to the bodies `bodies`.
fn tables(bodies: [[u64; 2]; 2]) -> Vec<(u64, Vec<u8>)> {
    let mut parts = Vec::new();
    let mut word = |at: u64, v: u64| parts.push((at, v.to_le_bytes().to_vec()));
    for space in [0, 1] {
        word(root(space) + 8, pte(root(space) + 0x1000, 1));
        word(root(space) + 16, pte(BASE, RWX | GLOBAL));
        word(root(space) + 0x1000, pte(root(space) + 0x2000, 1));
        for n in [0, 1] {
            word(entry(space, n), pte(BODIES + bodies[space as usize][n as usize] * 4096, RWX));
        }
    }
    parts
}

/// A page of X's first kind: at its end the first half of `addi x10, x10, 2 * n + 1`, whose second half lies on the other
/// page, preceded by work of its own.
fn first_page(n: i32) -> Vec<u8> {
    let mut page = vec![0; 4096];
    let words = [insn(Addi, 11, 11, 0, n), insn(Xori, 12, 10, 0, n), insn(Add, 13, 13, 12, 0)];
    page[4096 - 14..4096 - 2].copy_from_slice(&code(&words));
    page[4094..].copy_from_slice(&insn(Addi, 10, 10, 0, 0).to_le_bytes()[..2]);
    page
}

/// The other page: the instruction's second half, more work, and back.
fn second_page(n: i32) -> Vec<u8> {
    let add = insn(Addi, 10, 10, 0, 2 * n + 1).to_le_bytes();
    let rest = code(&[insn(Addi, 14, 14, 0, n), insn(Jalr, 0, 1, 0, 0)]);
    let mut page = vec![0; 4096];
    page[..2].copy_from_slice(&add[2..]);
    page[2..10].copy_from_slice(&rest);
    page
}

fn all_bodies() -> Vec<(u64, Vec<u8>)> {
    let first = (0..4).map(|n| (BODIES + n * 4096, first_page(n as i32 * 3 + 1)));
    let second = (4..8).map(|n| (BODIES + n * 4096, second_page(n as i32 * 5)));
    first.chain(second).collect()
}

/// Harts in S mode at `BASE`, with the kernel there.
fn kernel(words: &[u32], more: &[(u64, Vec<u8>)]) -> Lockstep {
    let mut parts = vec![(BASE, code(words)), (HANDLER, code(&[insn(Jal, 0, 0, 0, 0)]))];
    parts.extend(all_bodies());
    parts.extend(more.iter().cloned());
    let mut all = Lockstep::new(BASE, &parts);
    all.set(|s| {
        (s.privilege, s.satp, s.stvec, s.mtvec) = (1, satp(0, 1), HANDLER, HANDLER);
        s.medeleg = 0xffff;
        // All of memory for S mode.
        s.pmpaddr[0] = u64::MAX >> 10;
        s.pmpcfg[0] = 0x1f;
    });
    all
}

const ENTER: u64 = X + 4096 - 14;

#[test]
fn each_address_space_has_its_own_code() {
    // With numbers of their own; with one number and a fence; with one number, and only the page fenced.
    for (asids, fence) in
        [([1, 2], None), ([1, 1], Some((0, 0))), ([3, 3], Some((9, 0))), ([0, 0], Some((0, 0)))]
    {
        let switch = |r: u8| {
            let fences = fence.map(|(va, asid)| insn(SfenceVma, 0, va, asid, 0));
            std::iter::once(insn(Csrrw, 0, r, 0, 0x180)).chain(fences).collect::<Vec<_>>()
        };
        let call = insn(Jalr, 1, 9, 0, 0);
        let mut words = switch(20);
        words.extend([call, call]);
        words.extend(switch(21));
        words.push(call);
        words.push(insn(Jal, 0, 0, 0, -4 * words.len() as i32));
        let mut all = kernel(&words, &tables([[0, 4], [1, 5]]));
        all.set(|s| {
            (s.x[9], s.x[20], s.x[21], s.x[28]) = (ENTER, satp(0, asids[0]), satp(1, asids[1]), X + 4096);
        });
        let what = format!("{asids:?}");
        let mut rng = SplitMix64::new(asids[0] + 1);
        for _ in 0..60 {
            all.run(1 + rng.below(400), &what);
        }
        let s = all.run(5000, &what);
        assert_ne!(s.pc, HANDLER, "{what}: cause {} at {:#x}", s.scause, s.sepc);
        assert!(s.x[10] > 1000 && s.x[11] > 100 && s.x[14] > 100);
    }
}

#[test]
fn pages_are_remapped_under_their_code() {
    // Takes bodies in turn: x22 is an index into a list of pairs of entries, written before each call.
    let mut words = vec![
        insn(Andi, 23, 22, 0, 0x7f0),
        insn(Add, 23, 23, 24, 0),
        insn(Ld, 25, 23, 0, 0),
        insn(Ld, 26, 23, 0, 8),
        insn(Sd, 0, 27, 25, 0),
        insn(Sd, 0, 27, 26, 8),
        insn(SfenceVma, 0, 9, 0, 0),
        insn(SfenceVma, 0, 28, 0, 0),
        insn(Jalr, 1, 9, 0, 0),
        insn(Jalr, 1, 9, 0, 0),
        insn(Addi, 22, 22, 0, 16),
    ];
    words.push(insn(Jal, 0, 0, 0, -4 * words.len() as i32));
    let list = DATA;
    let mut rng = SplitMix64::new(77);
    let mut pairs = Vec::new();
    for _ in 0..128 {
        // Mostly one of two, so that paths get hot and come back.
        let pick = |rng: &mut SplitMix64| if rng.chance(70) { rng.below(2) } else { rng.below(4) };
        let (a, b) = (pick(&mut rng), 4 + pick(&mut rng));
        pairs.extend(pte(BODIES + a * 4096, RWX).to_le_bytes());
        pairs.extend(pte(BODIES + b * 4096, RWX).to_le_bytes());
    }
    let mut parts = tables([[0, 4], [1, 5]]);
    parts.push((list, pairs));
    let mut all = kernel(&words, &parts);
    all.set(|s| {
        (s.x[9], s.x[24], s.x[27], s.x[28]) = (ENTER, list, entry(0, 0), X + 4096);
    });
    for n in 0..150 {
        let s = all.run(1 + rng.below(600), &format!("run {n}"));
        assert_ne!(s.pc, HANDLER, "cause {} at {:#x}, for {:#x}", s.scause, s.sepc, s.stval);
    }
    let s = all.run(1, "end");
    assert!(s.x[10] > 1000 && s.x[11] > 1000 && s.x[14] > 1000);
    all.compare_memory("remapped");
}

#[test]
fn a_page_that_goes_away_faults_at_the_right_half() {
    // Every 64th call finds X's second page unmapped, every 32nd its first: the handler puts them back.
    let words = [
        insn(Addi, 22, 22, 0, 1),
        insn(Andi, 23, 22, 0, 31),
        insn(Bne, 0, 23, 0, 20),
        insn(Andi, 24, 22, 0, 32),
        insn(Srli, 24, 24, 0, 2),
        insn(Add, 24, 24, 27, 0),
        insn(Sd, 0, 24, 0, 0),
        insn(SfenceVma, 0, 0, 0, 0),
        insn(Jalr, 1, 9, 0, 0),
        insn(Jal, 0, 0, 0, -36),
    ];
    let handler = [
        insn(Csrrs, 30, 0, 0, 0x141),
        insn(Csrrs, 29, 0, 0, 0x143),
        insn(Xor, 31, 31, 30, 0),
        insn(Add, 31, 31, 29, 0),
        insn(Sd, 0, 27, 25, 0),
        insn(Sd, 0, 27, 26, 8),
        insn(SfenceVma, 0, 0, 0, 0),
        insn(Sret, 0, 0, 0, 0),
    ];
    let mut parts = tables([[0, 4], [1, 5]]);
    parts.push((HANDLER, code(&handler)));
    let mut all = kernel(&words, &parts);
    all.set(|s| {
        (s.x[9], s.x[27]) = (ENTER, entry(0, 0));
        (s.x[25], s.x[26]) = (pte(BODIES, RWX), pte(BODIES + 4 * 4096, RWX));
    });
    let mut rng = SplitMix64::new(3);
    let mut faults = [0, 0];
    for n in 0..300 {
        let s = all.run(1 + rng.below(300), &format!("run {n}"));
        match s.x[29] {
            0 => {}
            at if at == X + 4096 => faults[1] += 1,
            at => {
                assert_eq!(at, ENTER);
                faults[0] += 1;
            }
        }
    }
    assert!(faults[0] > 20 && faults[1] > 20, "{faults:?}");
}

#[test]
fn a_page_that_goes_away_between_halves_of_a_rotation_shows_all_registers() {
    // x12 is written while x11 is owed half of what it held; later x11 is written as well.
    let routine = [
        insn(Slliw, 11, 12, 0, 25),
        insn(Srliw, 10, 12, 0, 7),
        insn(Or, 12, 10, 11, 0),
        insn(Addw, 12, 12, 13, 0),
        insn(Addi, 11, 0, 0, 5),
        insn(Xor, 13, 12, 11, 0),
        insn(Jalr, 0, 1, 0, 0),
    ];
    // Every 32nd call finds X's second page unmapped: the handler puts it back.
    let words = [
        insn(Addi, 22, 22, 0, 1),
        insn(Andi, 23, 22, 0, 31),
        insn(Bne, 0, 23, 0, 12),
        insn(Sd, 0, 27, 0, 8),
        insn(SfenceVma, 0, 0, 0, 0),
        insn(Jalr, 1, 9, 0, 0),
        insn(Jal, 0, 0, 0, -24),
    ];
    let mut handler: Vec<u32> =
        [10, 11, 12].into_iter().flat_map(|r| [insn(Slli, 31, 31, 0, 3), insn(Xor, 31, 31, r, 0)]).collect();
    handler.extend([insn(Sd, 0, 27, 26, 8), insn(SfenceVma, 0, 0, 0, 0), insn(Sret, 0, 0, 0, 0)]);
    for before in 1..routine.len() {
        let at = 4096 - 4 * before as u64;
        let mut parts = tables([[0, 4], [1, 5]]);
        parts.push((HANDLER, code(&handler)));
        parts.push((BODIES + at, code(&routine[..before])));
        parts.push((BODIES + 4 * 4096, code(&routine[before..])));
        let mut all = kernel(&words, &parts);
        all.set(|s| {
            (s.x[9], s.x[27], s.x[26]) = (X + at, entry(0, 0), pte(BODIES + 4 * 4096, RWX));
            (s.x[12], s.x[13]) = (0x1234_5678_9abc_def1, 0x0fed_cba9_8765_4321);
        });
        for n in [700, 1000, 7, 900, 33, 2000] {
            all.run(n, &format!("{before} before the end, for {n}"));
        }
        assert_ne!(all.run(0, "end").x[31], 0);
    }
}
