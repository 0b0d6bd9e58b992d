//! Translation as programs see it; the walk itself is tested by table in `mmu/walk/tests.rs`.

use super::fixture::*;
use crate::csr::{envcfg, status};
use crate::mmu::PAGE;
use crate::trap::Privilege;
use strata_isa::Op;

const ROOT: u64 = BASE + 0x20_0000;
const MID: u64 = ROOT + 0x1000;
const LOW: u64 = ROOT + 0x2000;
const DATA: u64 = BASE + 0x10_0000;
/// Where the table at LOW maps 2 MiB of small pages.
const VA: u64 = 0x4000_0000;
const HANDLER: u64 = BASE + 0x800;

const V: u64 = 1;
const RWX: u64 = 0xf;
const AD: u64 = 0xc0;
const U: u64 = 0x10;

fn pte(pa: u64, bits: u64) -> u64 {
    pa >> 12 << 10 | bits
}

/// In S mode under Sv39: BASE is a gigabyte page onto itself, VA's first page has the entry `low`.
fn machine(body: &[u32], low: u64) -> Machine {
    let mut m = Machine::kernel(&program(body));
    m.code(HANDLER, &exit());
    m.put(ROOT + 8 * 2, pte(BASE, RWX | AD));
    m.put(ROOT + 8, pte(MID, V));
    m.put(MID, pte(LOW, V));
    m.put(LOW, low);
    // The exit device, as a gigabyte page for its first gigabyte.
    m.put(ROOT, pte(0, 0x7 | AD));
    let c = m.core();
    c.csr.stvec = HANDLER;
    c.set_satp(8 << 60 | ROOT >> 12);
    c.x[5] = VA;
    m
}

#[test]
fn accesses_translate_and_mark() {
    let mut m = machine(&[insn(Op::Ld, 6, 5, 0, 8)], pte(DATA, V | 2 | 4));
    m.put(DATA + 8, 5);
    assert_eq!(m.run().x[6], 5);
    assert_eq!(m.get(LOW) & AD, 0x40);
    m.code(BASE, &program(&[insn(Op::Sd, 0, 5, 6, 16)]));
    m.core().pc = BASE;
    m.core().fence_i();
    m.run();
    assert_eq!((m.get(LOW) & AD, m.get(DATA + 16)), (AD, 5));
}

#[test]
fn without_hardware_updates_a_and_d_fault() {
    let mut m = machine(&[insn(Op::Ld, 6, 5, 0, 0)], pte(DATA, V | 2 | 4));
    m.core().csr.menvcfg &= !envcfg::ADUE;
    let c = m.run();
    assert_eq!((c.csr.scause, c.csr.stval), (13, VA));
    assert_eq!(m.get(LOW) & AD, 0);
}

#[test]
fn user_pages_need_sum_and_execute_only_pages_mxr() {
    for (bits, status_bits, ok) in [
        (V | 2 | U | AD, 0, false),
        (V | 2 | U | AD, status::SUM, true),
        (V | 8 | AD, 0, false),
        (V | 8 | AD, status::MXR, true),
        (V | 8 | U | AD, status::MXR, false),
        (V | 8 | U | AD, status::MXR | status::SUM, true),
    ] {
        let mut m = machine(&[insn(Op::Ld, 6, 5, 0, 0)], pte(DATA, bits));
        let c = m.core();
        c.set_status(c.csr.mstatus | status_bits);
        assert_eq!(m.run().csr.scause == 0, ok, "{bits:#x} {status_bits:#x}");
    }
}

#[test]
fn rights_do_not_leak_between_contexts() {
    // Loads with SUM, drops SUM, loads again: the second must fault although the TLB knows the page.
    let body = [insn(Op::Ld, 6, 5, 0, 0), insn(Op::Csrrc, 0, 7, 0, 0x100), insn(Op::Ld, 8, 5, 0, 0)];
    let mut m = machine(&body, pte(DATA, V | 2 | U | AD));
    let c = m.core();
    c.set_status(c.csr.mstatus | status::SUM);
    c.x[7] = status::SUM;
    let c = m.run();
    assert_eq!((c.csr.scause, c.csr.sepc), (13, BASE + 8));
}

#[test]
fn a_read_does_not_give_the_right_to_write() {
    let mut m = machine(&[insn(Op::Ld, 6, 5, 0, 0), insn(Op::Sd, 0, 5, 6, 0)], pte(DATA, V | 2 | AD));
    let c = m.run();
    assert_eq!((c.csr.scause, c.csr.stval, c.csr.sepc), (15, VA, BASE + 4));
}

#[test]
fn sfence_makes_a_new_mapping_seen() {
    let other = DATA + 0x1000;
    let body = [
        insn(Op::Ld, 6, 5, 0, 0),
        insn(Op::Sd, 0, 9, 10, 0), // the entry
        insn(Op::SfenceVma, 0, 5, 0, 0),
        insn(Op::Ld, 7, 5, 0, 0),
    ];
    let mut m = machine(&body, pte(DATA, V | 6 | AD));
    m.put(DATA, 1);
    m.put(other, 2);
    let c = m.core();
    (c.x[9], c.x[10]) = (LOW, pte(other, V | 6 | AD));
    let c = m.run();
    assert_eq!((c.x[6], c.x[7]), (1, 2));
}

#[test]
fn sfence_of_one_address_forgets_a_whole_superpage() {
    // A 2 MiB page: two of its small pages are used, the entry changes, the fence names the first only.
    let body = [
        insn(Op::Ld, 6, 5, 0, 0),
        insn(Op::Ld, 6, 11, 0, 0),
        insn(Op::Sd, 0, 9, 10, 0),
        insn(Op::SfenceVma, 0, 5, 0, 0),
        insn(Op::Ld, 7, 11, 0, 0),
    ];
    let mut m = machine(&body, 0);
    m.put(MID, pte(BASE, V | 6 | AD));
    m.put(BASE + 0x3000, 1);
    m.put(BASE + 0x20_3000, 2);
    let c = m.core();
    (c.x[9], c.x[10], c.x[11]) = (MID, pte(BASE + 0x20_0000, V | 6 | AD), VA + 0x3000);
    let c = m.run();
    assert_eq!((c.x[6], c.x[7]), (1, 2));
}

#[test]
fn code_follows_its_mapping() {
    // The same virtual address, another page after the fence.
    let (one, two) = (DATA, DATA + 0x1000);
    let body = [
        insn(Op::Jalr, 1, 5, 0, 0),
        insn(Op::Sd, 0, 9, 10, 0),
        insn(Op::SfenceVma, 0, 5, 0, 0),
        insn(Op::Jalr, 1, 5, 0, 0),
    ];
    let mut m = machine(&body, pte(one, V | 8 | AD));
    m.code(one, &[addi(7, 7, 1), insn(Op::Jalr, 0, 1, 0, 0)]);
    m.code(two, &[addi(7, 7, 10), insn(Op::Auipc, 8, 0, 0, 0), insn(Op::Jalr, 0, 1, 0, 0)]);
    let c = m.core();
    (c.x[9], c.x[10]) = (LOW, pte(two, V | 8 | AD));
    let c = m.run();
    assert_eq!((c.x[7], c.x[8]), (11, VA + 4));
}

#[test]
fn a_page_fault_in_the_second_half_names_it_and_changes_nothing() {
    let mut m = machine(&[insn(Op::Sd, 0, 5, 6, 0)], pte(DATA, V | 6 | AD));
    (m.core().x[5], m.core().x[6]) = (VA + 0xffc, u64::MAX);
    let c = m.run();
    assert_eq!((c.csr.scause, c.csr.stval), (15, VA + 0x1000));
    assert_eq!(m.get(DATA + 0xff8), 0);
}

#[test]
fn fetch_faults_have_their_own_cause() {
    for (low, cause) in [(pte(DATA, V | 6 | AD), 12), (0, 12), (pte(0x4000, V | 8 | AD), 1)] {
        let mut m = machine(&[insn(Op::Jalr, 1, 5, 0, 4)], low);
        let c = m.run();
        assert_eq!((c.csr.scause, c.csr.stval, c.csr.sepc), (cause, VA + 4, VA + 4));
    }
}

#[test]
fn mprv_borrows_the_previous_mode() {
    let mut m = machine(&[insn(Op::Ld, 6, 5, 0, 0)], pte(DATA, V | 2 | U | AD));
    m.put(DATA, 9);
    let c = m.core();
    c.csr.medeleg = 0;
    c.csr.mtvec = HANDLER;
    c.privilege = Privilege::Machine;
    c.set_status(c.csr.mstatus | status::MPRV);
    c.mode_changed();
    // The exit device is seen through U's eyes too.
    m.put(ROOT, pte(0, 0x7 | U | AD));
    let c = m.run();
    assert_eq!((c.x[6], c.csr.mcause), (9, 0));
}

#[test]
fn a_table_outside_ram_is_an_access_fault() {
    let mut m = machine(&[insn(Op::Ld, 6, 5, 0, 0)], 0);
    m.put(MID, pte(0x1000, V));
    let c = m.run();
    assert_eq!((c.csr.scause, c.csr.stval), (5, VA));
}

#[test]
fn satp_keeps_its_value_where_a_mode_does_not_exist() {
    let body = [csrw(0x180, 6), csrr(7, 0x180)];
    let mut m = machine(&body, 0);
    let old = m.core().csr.satp;
    m.core().x[6] = 5 << 60 | 77;
    assert_eq!(m.run().x[7], old);
    assert_eq!(VA & PAGE, VA);
}
