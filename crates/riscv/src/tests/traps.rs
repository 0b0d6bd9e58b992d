use super::fixture::*;
use crate::csr::status;
use crate::trap::{INTERRUPT, Privilege, irq};
use strata_engine::{FirmwareCalls, Stop, Vcpu};
use strata_isa::Op;

const HANDLER: u64 = BASE + 0x1000;
const S_HANDLER: u64 = BASE + 0x1100;

/// A machine whose handlers exit.
fn machine(body: &[u32]) -> Machine {
    let mut m = Machine::new(&program(body));
    m.code(HANDLER, &exit());
    m.code(S_HANDLER, &exit());
    m.core().csr.pmp = crate::pmp::Pmp::open();
    m.core().csr.mtvec = HANDLER;
    m.core().csr.stvec = S_HANDLER;
    m
}

fn as_mode(m: &mut Machine, mode: Privilege) {
    m.core().privilege = mode;
    m.core().mode_changed();
}

#[test]
fn traps_tell_cause_place_and_value() {
    let cbo_in_user = insn(Op::CboZero, 0, 5, 0, 0);
    for (word, x5, cause, tval) in [
        (0xffff_ffff, 0, 2, 0xffff_ffff),
        (0x0000_0000, 0, 2, 0), // all zeroes is a compressed illegal instruction
        (0x0000_9c41, 0, 2, 0x9c41),
        (bare(Op::Ecall), 0, 11, 0),
        (bare(Op::Ebreak), 0, 3, BASE + 4),
        (insn(Op::Ld, 6, 5, 0, 0), 0x40, 5, 0x40),
        (insn(Op::Sd, 0, 5, 6, 0), 0x41, 7, 0x41),
        (insn(Op::AmoaddW, 6, 5, 6, 0), BASE + 2, 6, BASE + 2),
        (insn(Op::LrD, 6, 5, 0, 0), BASE + 4, 4, BASE + 4),
        (insn(Op::ScW, 6, 5, 6, 0), BASE + 2, 6, BASE + 2),
        (insn(Op::AmoaddW, 6, 5, 6, 0), DEVICE, 7, DEVICE),
        (insn(Op::LrW, 6, 5, 0, 0), DEVICE, 5, DEVICE),
        (csrr(6, 0x7a0), 0, 2, csrr(6, 0x7a0).into()),
        (csrw(0xf14, 0), 0, 2, csrw(0xf14, 0).into()),
        (csrr(6, 0x001), 0, 2, csrr(6, 0x001).into()),
        (insn(Op::FaddD, 1, 2, 3, 0), 0, 2, insn(Op::FaddD, 1, 2, 3, 0).into()),
        (cbo_in_user, 0x40, 7, 0x40),
    ] {
        let mut m = machine(&[addi(0, 0, 0), word]);
        m.core().x[5] = x5;
        let c = m.run();
        assert_eq!((c.csr.mcause, c.csr.mtval, c.csr.mepc), (cause, tval, BASE + 4), "{word:#x}");
        assert_eq!(c.csr.mstatus & status::MPP, status::MPP);
    }
}

#[test]
fn a_jump_to_nowhere_faults_at_its_target() {
    let mut m = machine(&[insn(Op::Jalr, 1, 5, 0, 0)]);
    m.core().x[5] = 0x2000;
    let c = m.run();
    assert_eq!((c.csr.mcause, c.csr.mtval, c.csr.mepc, c.x[1]), (1, 0x2000, 0x2000, BASE + 4));
}

#[test]
fn an_exception_is_delegated_below_machine_mode_only() {
    for (mode, spp) in [(Privilege::User, 0), (Privilege::Supervisor, status::SPP)] {
        let mut m = machine(&[0xffff_ffff]);
        m.core().csr.medeleg = 1 << 2;
        m.core().csr.mstatus |= status::SIE;
        as_mode(&mut m, mode);
        let c = m.run();
        assert_eq!((c.csr.scause, c.csr.stval, c.csr.sepc), (2, 0xffff_ffff, BASE));
        assert_eq!((c.privilege, c.csr.mcause), (Privilege::Supervisor, 0));
        assert_eq!(c.csr.mstatus & (status::SPP | status::SPIE | status::SIE), spp | status::SPIE);
    }
    let mut m = machine(&[0xffff_ffff]);
    m.core().csr.medeleg = 1 << 2;
    assert_eq!(m.run().csr.mcause, 2);
}

#[test]
fn returns_pop_the_stack() {
    let mut m = machine(&[bare(Op::Mret)]);
    m.code(BASE + 0x100, &exit());
    let c = m.core();
    c.csr.mepc = BASE + 0x100;
    c.csr.mstatus |= status::MPIE | status::MPRV | 1 << status::MPP_SHIFT;
    let c = m.run();
    assert_eq!(c.privilege, Privilege::Supervisor);
    assert_eq!(
        c.csr.mstatus & (status::MIE | status::MPIE | status::MPP | status::MPRV),
        status::MIE | status::MPIE
    );

    let mut m = machine(&[bare(Op::Sret)]);
    m.code(BASE + 0x100, &exit());
    as_mode(&mut m, Privilege::Supervisor);
    m.core().csr.sepc = BASE + 0x100;
    m.core().csr.mstatus |= status::SPIE;
    let c = m.run();
    assert_eq!(c.privilege, Privilege::User);
    assert_eq!(c.csr.mstatus & (status::SIE | status::SPIE | status::SPP), status::SIE | status::SPIE);
}

#[test]
fn traps_of_the_virtual_machine_monitor_bits() {
    let sfence = insn(Op::SfenceVma, 0, 0, 0, 0);
    let sinval = insn(Op::SinvalVma, 0, 0, 0, 0);
    for (word, bit, user_too) in [
        (sfence, status::TVM, true),
        (sinval, status::TVM, true),
        (csrr(5, 0x180), status::TVM, true),
        (bare(Op::Sret), status::TSR, true),
        (bare(Op::Wfi), status::TW, true),
        (bare(Op::Mret), 0, true),
        (bare(Op::SfenceWInval), 0, false),
    ] {
        let mut m = machine(&[word]);
        m.core().csr.mstatus |= bit;
        as_mode(&mut m, Privilege::Supervisor);
        if user_too {
            assert_eq!(m.run().csr.mcause, 2, "{word:#x} in S");
        } else {
            assert_eq!(m.run().csr.mcause, 0, "{word:#x} in S");
        }
        let mut m = machine(&[word]);
        as_mode(&mut m, Privilege::User);
        assert_eq!(m.run().csr.mcause, 2, "{word:#x} in U");
    }
}

#[test]
fn interrupts_come_in_their_order_and_to_their_vector() {
    for (pending, mideleg, cause, to_s) in [
        (irq::MEI | irq::MSI | irq::SEI, 0, 11, false),
        (irq::MSI | irq::SEI, 0, 3, false),
        (irq::SEI | irq::SSI, 0, 9, false),
        (irq::SSI, 0, 1, false),
        (irq::SSI | irq::SEI, irq::SUPERVISOR, 9, true),
        (irq::SSI | irq::SEI | irq::MSI, irq::SUPERVISOR, 3, false),
    ] {
        let mut m = machine(&[]);
        (0..12).for_each(|n| m.hart.shared().set_pin(n, pending >> n & 1 != 0));
        let c = m.core();
        (c.csr.mtvec, c.csr.stvec) = (HANDLER | 1, S_HANDLER | 1);
        (c.csr.mie, c.csr.mideleg) = (irq::ALL, mideleg);
        as_mode(&mut m, Privilege::User);
        for n in 0..12 {
            m.code(HANDLER + 4 * n, &[insn(Op::Sw, 0, 31, 0, 0)]);
            m.code(S_HANDLER + 4 * n, &[insn(Op::Sw, 0, 31, 0, 0)]);
        }
        m.core().x[31] = EXIT;
        let c = m.run();
        let (got, epc) = if to_s { (c.csr.scause, c.csr.sepc) } else { (c.csr.mcause, c.csr.mepc) };
        assert_eq!((got, epc), (INTERRUPT | cause, BASE), "{pending:#x}");
    }
}

#[test]
fn an_interrupt_waits_until_it_is_enabled() {
    // mie is set, mstatus.MIE is not; then csrrsi mstatus, MIE.
    let mut m = machine(&[addi(5, 0, 1), insn(Op::Csrrsi, 0, 8, 0, 0x300), addi(5, 0, 2)]);
    m.core().csr.mie = irq::MSI;
    m.hart.shared().set_pin(3, true);
    let c = m.run();
    assert_eq!((c.csr.mcause, c.csr.mepc, c.x[5]), (INTERRUPT | 3, BASE + 8, 1));
}

#[test]
fn a_latched_software_interrupt_is_cleared_by_the_guest() {
    let body = [csrr(5, 0x144), insn(Op::Csrrci, 0, 2, 0, 0x144), csrr(6, 0x144)];
    let mut m = Machine::kernel(&program(&body));
    m.hart.shared().latch(1);
    let c = m.run();
    assert_eq!((c.x[5], c.x[6]), (2, 0));
}

#[test]
fn ecall_reaches_a_machine_that_is_the_firmware() {
    let mut m =
        Machine::kernel(&program(&[addi(10, 0, 7), addi(17, 0, 9), bare(Op::Ecall), addi(12, 11, 0)]));
    assert_eq!(m.hart.run(), Stop::FirmwareCall([7, 0, 0, 0, 0, 0, 0, 9]));
    assert_eq!(m.core().pc, BASE + 12);
    m.hart.finish_call(3, 4);
    let c = m.run();
    assert_eq!((c.x[10], c.x[11], c.x[12]), (3, 4, 4));
}

#[test]
fn a_hart_that_cannot_fetch_its_handler_is_stuck() {
    let mut m = Machine::new(&[0xffff_ffff]);
    m.core().csr.mtvec = 0x3000;
    let Stop::Stuck(text) = m.hart.run() else { panic!("not stuck") };
    assert!(text.contains("0x3000") && text.contains("cause 1"), "{text}");
}

#[test]
fn counters_are_exact_around_traps_and_writes() {
    let mut m = Machine::new(&program(&[
        addi(0, 0, 0),
        csrr(5, 0xb02),
        csrr(6, 0xb02),
        csrw(0xb02, 0),
        csrr(7, 0xb02),
        addi(0, 0, 0),
        csrr(8, 0xb02),
        insn(Op::Csrrwi, 0, 4, 0, 0x320), // stop instret
        csrr(9, 0xb02),
        csrr(28, 0xb02),
        csrr(29, 0xb00),
    ]));
    let c = m.run();
    assert_eq!((c.x[5], c.x[6]), (1, 2));
    assert_eq!((c.x[7], c.x[8]), (0, 2));
    assert_eq!((c.x[9], c.x[28], c.x[29]), (3, 3, 10));
}

#[test]
fn a_return_looks_for_interrupts_but_not_at_the_clock() {
    let mut m = machine(&[]);
    let c = m.core();
    (c.poll_at, c.clock_at) = (100, 100);
    c.mret().unwrap();
    assert_eq!((c.poll_at, c.clock_at), (0, 100));
}
