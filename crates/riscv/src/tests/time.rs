use super::fixture::*;
use crate::csr::status;
use crate::trap::{INTERRUPT, irq};
use std::time::{Duration, Instant};
use strata_engine::{Mail, Stop, Vcpu};
use strata_isa::Op;

#[test]
fn the_supervisor_timer_fires_when_time_has_come() {
    // The loop counts until the interrupt.
    let mut m = Machine::kernel(&[addi(5, 5, 1), insn(Op::Jal, 0, 0, 0, -4)]);
    let handler = BASE + 0x200;
    m.code(handler, &program(&[csrr(6, 0xc01), csrr(7, 0x144)]));
    m.clock.advance(5_000);
    let c = m.core();
    c.csr.stvec = handler;
    c.csr.mie = irq::STI;
    c.csr.mstatus |= status::SIE;
    m.hart.set_guest_timer(100);
    let clock = m.clock.clone();
    let t = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(5));
        clock.advance(5_000);
    });
    let c = m.run();
    assert_eq!((c.csr.scause, c.x[6], c.x[7]), (INTERRUPT | 5, 100, irq::STI));
    assert!(c.x[5] > 0);
    t.join().unwrap();
}

#[test]
fn the_machine_timer_follows_its_compare_value() {
    let mut m = Machine::new(&program(&[csrr(5, 0x344), csrr(6, 0x344)]));
    m.clock.advance(1000);
    m.hart.shared().set_timer(10);
    assert_eq!(m.run().x[5], irq::MTI);
    let mut m = Machine::new(&program(&[csrr(5, 0x344)]));
    m.clock.advance(999);
    m.hart.shared().set_timer(10);
    assert_eq!(m.run().x[5], 0);
}

#[test]
fn wfi_sleeps_until_an_enabled_interrupt_and_keeps_serving() {
    let mut m = Machine::new(&program(&[bare(Op::Wfi), addi(5, 0, 1)]));
    m.core().csr.mie = irq::MEI;
    let shared = m.hart.shared().clone();
    let t = std::thread::spawn(move || {
        let ticket = shared.send(Mail::FenceVma { start: 0, size: 4096, asid: None });
        let end = Instant::now() + Duration::from_secs(10);
        while !shared.has_served(ticket) {
            assert!(Instant::now() < end);
            std::thread::yield_now();
        }
        shared.set_pin(1, true); // not enabled: sleeps on
        shared.kick();
        shared
    });
    assert_eq!(m.hart.run(), Stop::Kicked);
    let shared = t.join().unwrap();
    assert!(m.core().waiting && m.core().x[5] == 0);
    shared.set_pin(11, true);
    // mstatus.MIE is off: it wakes and goes on without a trap.
    let c = m.run();
    assert_eq!((c.x[5], c.csr.mcause, c.waiting), (1, 0, false));
}

#[test]
fn wfi_wakes_for_a_deadline() {
    let mut m = Machine::kernel(&program(&[bare(Op::Wfi), addi(5, 0, 1)]));
    m.core().csr.mie = irq::STI;
    m.hart.set_guest_timer(20_000); // 2 ms
    let clock = m.clock.clone();
    let t = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1));
        clock.advance(2_000_000);
    });
    assert_eq!(m.run().x[5], 1);
    t.join().unwrap();
}

#[test]
fn a_kick_stops_an_endless_loop() {
    let mut m = Machine::new(&[insn(Op::Jal, 0, 0, 0, 0)]);
    let shared = m.hart.shared().clone();
    let t = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(2));
        shared.kick();
    });
    assert_eq!(m.hart.run(), Stop::Kicked);
    t.join().unwrap();
    assert!(m.hart.retired() > 0);
    m.hart.shared().kick();
    let before = m.hart.retired();
    assert_eq!(m.hart.run(), Stop::Kicked);
    assert_eq!(m.hart.retired(), before);
}
