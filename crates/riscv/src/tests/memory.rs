use super::fixture::*;
use strata_engine::{Stop, Vcpu};
use strata_isa::Op;
use strata_memory::Presence;

const DATA: u64 = BASE + 0x10_0000;

#[test]
fn misaligned_accesses_succeed_within_and_over_pages() {
    for at in [DATA + 1, DATA + 0xffd, DATA + 0xfff, DATA + 0xff9] {
        let mut m = Machine::new(&program(&[
            insn(Op::Sd, 0, 5, 6, 0),
            insn(Op::Ld, 7, 5, 0, 0),
            insn(Op::Lw, 8, 5, 0, 0),
            insn(Op::Lhu, 9, 5, 0, 6),
            insn(Op::Sh, 0, 5, 6, 8),
            insn(Op::Lh, 28, 5, 0, 8),
        ]));
        (m.core().x[5], m.core().x[6]) = (at, 0x8899_aabb_ccdd_eeff);
        let c = m.run();
        assert_eq!(c.x[7], 0x8899_aabb_ccdd_eeff, "{at:#x}");
        assert_eq!(c.x[8] as i64, 0xccdd_eeff_u32 as i32 as i64);
        assert_eq!((c.x[9], c.x[28] as i64), (0x8899, 0xeeff_u16 as i16 as i64));
        assert_eq!(m.get(at), 0x8899_aabb_ccdd_eeff);
    }
}

#[test]
fn a_store_over_the_end_of_ram_changes_nothing() {
    let mut m = Machine::new(&[insn(Op::Sd, 0, 5, 6, 0)]);
    m.code(BASE + 0x800, &exit());
    let at = BASE + SIZE - 3;
    let c = m.core();
    (c.x[5], c.x[6], c.csr.mtvec) = (at, u64::MAX, BASE + 0x800);
    let c = m.run();
    assert_eq!((c.csr.mcause, c.csr.mtval), (7, BASE + SIZE));
    assert_eq!(m.get(BASE + SIZE - 8), 0);
}

#[test]
fn lr_and_sc_meet_only_on_an_unchanged_value() {
    let body = [
        insn(Op::LrD, 6, 5, 0, 0),
        insn(Op::ScD, 7, 5, 9, 0),  // succeeds
        insn(Op::ScD, 8, 5, 10, 0), // the reservation is gone
        insn(Op::LrW, 11, 5, 0, 0),
        insn(Op::Sw, 0, 5, 10, 0),
        insn(Op::ScW, 12, 5, 9, 0), // changed in between
        insn(Op::LrW, 13, 5, 0, 0),
        insn(Op::ScD, 14, 5, 9, 0), // another width
    ];
    let mut m = Machine::new(&program(&body));
    m.put(DATA, 0x1234_5678_9abc_def0);
    let c = m.core();
    (c.x[5], c.x[9], c.x[10]) = (DATA, 77, 88);
    let c = m.run();
    assert_eq!((c.x[6], c.x[7], c.x[8]), (0x1234_5678_9abc_def0, 0, 1));
    assert_eq!((c.x[11], c.x[12], c.x[14]), (77, 1, 1));
    assert_eq!(m.get(DATA), 88);
}

#[test]
fn amos_give_the_old_value_and_keep_the_other_half() {
    let body =
        [insn(Op::AmoaddW, 6, 5, 9, 0), insn(Op::AmomaxuW, 7, 5, 9, 0), insn(Op::AmoswapD, 8, 5, 5, 0)];
    let mut m = Machine::new(&program(&body));
    m.put(DATA, 0x1111_2222_ffff_ffff);
    (m.core().x[5], m.core().x[9]) = (DATA, 3);
    let c = m.run();
    assert_eq!((c.x[6] as i64, c.x[7], c.x[8]), (-1, 2, 0x1111_2222_0000_0003));
    assert_eq!(m.get(DATA), DATA);
}

#[test]
fn the_bus_gets_what_is_not_ram() {
    let body = [insn(Op::Sw, 0, 5, 6, 4), insn(Op::Lw, 7, 5, 0, 4), insn(Op::Lwu, 8, 5, 0, 4)];
    let mut m = Machine::new(&program(&body));
    (m.core().x[5], m.core().x[6]) = (DEVICE, 0x1_8000_0001);
    let c = m.run();
    assert_eq!((c.x[7] as i64, c.x[8]), (0x8000_0001_u32 as i32 as i64, 0x8000_0001));
    let at = DEVICE + 4;
    let want = [(true, at, 4, 0x8000_0001), (false, at, 4, 0x8000_0001), (false, at, 4, 0x8000_0001)];
    assert_eq!(*m.bus.seen.lock().unwrap(), want);
}

#[test]
fn a_trapped_page_asks_the_bus_and_then_the_ram_beneath() {
    // The device answers 4 bytes at a time only; 8 bytes go to the RAM beneath.
    let mut m = Machine::new(&program(&[
        insn(Op::Sd, 0, 5, 6, 0),
        insn(Op::Ld, 7, 5, 0, 0),
        insn(Op::Sw, 0, 5, 7, 0),
        insn(Op::Lwu, 8, 5, 0, 0),
        insn(Op::Ld, 9, 5, 0, 0),
    ]));
    m.ram.trap(OVER_RAM).unwrap();
    (m.core().x[5], m.core().x[6]) = (OVER_RAM, 5 << 32 | 6);
    let c = m.run();
    assert_eq!((c.x[7], c.x[8], c.x[9]), (5 << 32 | 6, 6, 5 << 32 | 6));
    assert_ne!(c.mmu.data.entry(OVER_RAM).read.tag, OVER_RAM);
    assert_eq!(*m.bus.seen.lock().unwrap(), [(true, OVER_RAM, 4, 6), (false, OVER_RAM, 4, 6)]);
}

#[test]
fn absent_pages_stop_the_run_at_the_instruction() {
    let mut m = Machine::new(&program(&[addi(6, 0, 1), insn(Op::Ld, 7, 5, 0, 0)]));
    m.put(DATA, 99);
    m.core().x[5] = DATA;
    let page = ((DATA - BASE) / 4096) as usize;
    m.ram.regions()[0].pages().set_presence(page, Presence::Absent);
    assert_eq!(m.hart.run(), Stop::Wait);
    assert_eq!((m.core().pc, m.core().x[6], m.hart.retired()), (BASE + 4, 1, 1));
    assert_eq!(m.hart.run(), Stop::Wait);
    m.ram.regions()[0].pages().set_presence(page, Presence::Private);
    assert_eq!(m.run().x[7], 99);
}

#[test]
fn stores_mark_pages_dirty_and_a_new_epoch_is_noticed() {
    let mut m = Machine::new(&program(&[insn(Op::Ld, 7, 5, 0, 0), insn(Op::Sd, 0, 5, 6, 0)]));
    m.core().x[5] = DATA;
    m.run();
    let ram = m.ram.clone();
    let map = ram.regions()[0].pages();
    let page = ((DATA - BASE) / 4096) as usize;
    let epoch = map.begin_epoch();
    assert!(map.dirty_since(page, epoch - 1) && !map.dirty_since(page, epoch));
    m.hart.shared().send(strata_engine::Mail::DropPages);
    m.core().pc = BASE;
    m.run();
    assert!(map.dirty_since(page, epoch));
}

#[test]
fn code_changes_are_seen_after_fence_i() {
    // Runs the routine, overwrites its first instruction, fences, runs it again.
    let routine = BASE + 0x800;
    let body =
        [insn(Op::Jalr, 1, 5, 0, 0), insn(Op::Sw, 0, 5, 6, 0), bare(Op::FenceI), insn(Op::Jalr, 1, 5, 0, 0)];
    let mut m = Machine::new(&program(&body));
    m.code(routine, &[addi(7, 7, 1), insn(Op::Jalr, 0, 1, 0, 0)]);
    (m.core().x[5], m.core().x[6]) = (routine, addi(7, 7, 100).into());
    assert_eq!(m.run().x[7], 101);
}

#[test]
fn an_instruction_may_lie_over_two_pages_and_blocks_end_there() {
    let mut m = Machine::new(&[]);
    let start = BASE + 0xffe - 8;
    m.code(start, &program(&[addi(5, 5, 1), addi(5, 5, 2), addi(5, 5, 4), addi(5, 5, 8)]));
    m.core().pc = start;
    let c = m.run();
    assert_eq!(c.x[5], 15);
    // What follows the page's end is missing: the fault names the second half.
    let mut m = Machine::new(&[]);
    m.code(BASE + 0x800, &exit());
    let last = BASE + SIZE - 2;
    m.ram.load(last, &0x0293_u16.to_le_bytes()).unwrap();
    (m.core().pc, m.core().csr.mtvec) = (last, BASE + 0x800);
    let c = m.run();
    assert_eq!((c.csr.mcause, c.csr.mepc, c.csr.mtval), (1, last, BASE + SIZE));
}

#[test]
fn cbo_zero_clears_one_block_when_allowed() {
    let mut m = Machine::new(&program(&[insn(Op::CboZero, 0, 5, 0, 0), insn(Op::CboFlush, 0, 5, 0, 0)]));
    for at in (DATA - 64..DATA + 128).step_by(8) {
        m.put(at, u64::MAX);
    }
    m.core().x[5] = DATA + 13;
    m.run();
    assert_eq!(
        (m.get(DATA - 8), m.get(DATA), m.get(DATA + 56), m.get(DATA + 64)),
        (u64::MAX, 0, 0, u64::MAX)
    );
}

#[test]
fn pmp_splits_a_page_for_data_and_code() {
    let mut m = Machine::new(&program(&[insn(Op::Ld, 6, 5, 0, 0), insn(Op::Ld, 7, 5, 0, 8)]));
    m.code(BASE + 0x800, &exit());
    m.put(DATA, 42);
    let c = m.core();
    c.csr.mtvec = BASE + 0x800;
    c.x[5] = DATA;
    // Entry 0: the 8 bytes at DATA + 8, locked, no rights; code page split by entry 1 (all rights).
    c.csr.pmp.write_addr(0, (DATA + 8) >> 2);
    c.csr.pmp.write_addr(1, (BASE + 0x10) >> 2);
    c.csr.pmp.write_cfg(0, 0x98 | 0x17 << 8);
    c.protection_changed();
    let c = m.run();
    assert_eq!((c.x[6], c.csr.mcause, c.csr.mtval), (42, 5, DATA + 8));
}

/// A page from which code was translated: every kind of store to it is told, once, and none is lost.
#[test]
fn writes_to_watched_code_are_told() {
    const CODE: u64 = BASE + 0x2000;
    let store = |op| insn(op, 0, 5, 6, 0);
    let amo = |op| insn(op, 7, 5, 6, 0);
    let stores: [(&[u32], u64, bool); 9] = [
        (&[store(Op::Sb)], CODE, true),
        (&[store(Op::Sd)], CODE, true),
        (&[store(Op::Sd)], CODE + 3, true),
        (&[store(Op::Sd)], CODE - 4, true),
        (&[store(Op::Sd)], CODE + 0xffc, true),
        (&[amo(Op::AmoaddD)], CODE, true),
        (&[insn(Op::LrD, 7, 5, 0, 0), insn(Op::ScD, 8, 5, 6, 0)], CODE, true),
        (&[insn(Op::CboZero, 0, 5, 0, 0)], CODE, true),
        (&[insn(Op::Ld, 7, 5, 0, 0)], CODE, false),
    ];
    for (body, at, told) in stores {
        // Twice, so that the second time goes by the TLB; and once before it is watched, so that there is a right to drop.
        for warm in [false, true] {
            let mut m = Machine::new(&program(&[body, body].concat()));
            let start = m.core().pc;
            (m.core().x[5], m.core().x[6]) = (at, 0x0101_0101_0101_0101);
            if warm {
                m.run();
                m.core().pc = start;
            }
            let mut cursor = m.ram.code_writes();
            let ticket = m.core().watch_code(CODE + 8);
            assert!(m.ram.watch_confirmed(ticket), "one hart waits for nobody");
            m.run();
            let mut pages = Vec::new();
            m.ram.drain_code_writes(&mut cursor, |p| pages.push(p));
            assert_eq!(pages == [CODE], told, "{at:#x} {warm} {body:x?} {pages:x?}");
            assert_eq!(m.ram.code_watched(CODE), !told);
        }
    }
}

#[test]
fn an_update_of_a_page_table_in_watched_code_is_told() {
    // Not that anyone does it: but it is a write like any other.
    let (root, page) = (BASE + 0x20_0000, BASE >> 12 << 10);
    let mut m = Machine::kernel(&program(&[insn(Op::Ld, 7, 5, 0, 0)]));
    m.put(root + 8 * 2, page | 0xcf);
    m.put(root + 8, page | 0x0f);
    m.put(root, 0xc7);
    let c = m.core();
    c.set_satp(8 << 60 | root >> 12);
    c.x[5] = 0x4000_0000;
    c.watch_code(root);
    m.run();
    assert_eq!(m.get(root + 8) & 0xc0, 0x40);
    assert!(!m.ram.code_watched(root));
}
