use super::fixture::*;
use crate::csr::status;
use crate::trap::{INTERRUPT, irq};
use crate::{Hart, HartConfig};
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata_engine::{Clock, Counted, CountedClock, Entry, FirmwareCalls, Mail, NoBus, Privilege, Stop, Vcpu};
use strata_isa::Op;
use strata_memory::GuestRam;
use strata_state::Stateful;

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

/// A kernel that sets its timer 1000 ticks ahead again and again, counts its interrupts in x5 and the instructions between
/// in x6.
fn ticker() -> (Hart, Arc<CountedClock>, GuestRam) {
    let ram = GuestRam::single(BASE, SIZE).unwrap();
    let clock = Arc::new(CountedClock::new(7, 0));
    let mut hart =
        Hart::new(HartConfig::with_machine_as_firmware(0), ram.clone(), Arc::new(NoBus), clock.clone());
    let body = [
        addi(6, 6, 1),
        addi(7, 7, 3),
        csrr(8, 0xc01),
        insn(Op::Add, 9, 9, 8, 0),
        addi(10, 10, 1),
        insn(Op::Jal, 0, 0, 0, -20),
    ];
    let handler = [
        addi(5, 5, 1),
        csrr(11, 0xc01),
        insn(Op::Add, 12, 12, 11, 0),
        addi(11, 11, 1000),
        csrw(0x14d, 11),
        bare(Op::Sret),
    ];
    let bytes = |words: &[u32]| -> Vec<u8> { words.iter().flat_map(|w| w.to_le_bytes()).collect() };
    ram.load(BASE, &bytes(&body)).unwrap();
    ram.load(BASE + 0x200, &bytes(&handler)).unwrap();
    hart.boot(Entry { pc: BASE, args: [0; 3], privilege: Privilege::Kernel });
    let c = hart.core();
    (c.csr.stvec, c.csr.mie, c.csr.stimecmp) = (BASE + 0x200, irq::STI, 1000);
    c.csr.mstatus |= status::SIE;
    (hart, clock, ram)
}

#[test]
fn timers_fire_at_their_count_however_a_run_is_cut() {
    const ALL: u64 = 200_000;
    let (mut whole, clock, _ram) = ticker();
    clock.follow(0);
    assert_eq!(whole.run_for(ALL), Stop::Kicked);
    assert_eq!(whole.retired(), ALL);
    // 100 ns are a tick: the first interrupt comes after ceil(100000 / 7) instructions.
    assert!(whole.core().x[5] > 10);
    let mut first = ticker();
    first.1.follow(0);
    first.0.run_for(14_286);
    assert_eq!((first.0.core().x[5], first.0.core().pc & 0xf00), (0, 0));
    first.0.run_for(1);
    assert_eq!((first.0.core().x[5], first.0.core().csr.scause), (1, INTERRUPT | 5));
    let mut seed = 1u64;
    for _ in 0..4 {
        let (mut cut, clock, _ram) = ticker();
        while cut.retired() < ALL {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            clock.follow(cut.retired());
            let left = ALL - cut.retired();
            cut.run_for((seed >> 50).clamp(1, left));
            clock.at(cut.retired());
        }
        assert_eq!(cut.state(), whole.state());
    }
}

#[test]
fn what_a_device_brings_about_is_seen_right_after_its_instruction() {
    let body =
        [addi(5, 0, 1), insn(Op::Sw, 0, 31, 0, 0), addi(5, 5, 1), addi(5, 5, 1), insn(Op::Jal, 0, 0, 0, -12)];
    let mut m = Machine::new(&body);
    // The exit device kicks; the store is in the middle of a block.
    for (retired, x5) in [(2, 1), (6, 3)] {
        assert_eq!(m.hart.run_for(1000), Stop::Kicked);
        assert_eq!((m.hart.retired(), m.core().x[5]), (retired, x5));
    }
}

#[test]
fn programs_read_the_time_without_the_kernels_doing() {
    let mut m = Machine::kernel(&[csrr(8, 0xc00), csrr(9, 0xc01), csrr(10, 0xc02)]);
    m.core().privilege = crate::trap::Privilege::User;
    m.hart.run_for(3);
    assert_eq!((m.core().pc, m.core().csr.scause), (BASE + 12, 0));
}
