use crate::csr::{MISA, envcfg, status};
use crate::tests::fixture::*;
use crate::trap::{Exit, Privilege, irq};
use strata_isa::ops::CsrOp;

fn write(m: &mut Machine, n: u16, v: u64) -> Result<u64, Exit> {
    m.core().access_csr(CsrOp::Write, n, v, false, true)
}

fn read(m: &mut Machine, n: u16) -> Result<u64, Exit> {
    m.core().access_csr(CsrOp::Set, n, 0, true, false)
}

#[test]
fn a_write_leaves_what_the_register_can_hold() {
    const ALL: u64 = u64::MAX;
    let high = 2 << 32 | 2 << 34;
    for (n, v, want) in [
        (0x300, ALL, 1 << 63 | high | 0x7e_79aa),
        (0x300, 0, high),
        (0x300, 2 << 11, high), // MPP 2 is not kept: it stays what it was
        (0x100, ALL, 1 << 63 | 2 << 32 | 0xc_6122),
        (0x301, 0, MISA),
        (0x302, ALL, 0xb3ff),
        (0x303, ALL, 0x222),
        (0x304, ALL, 0xaaa),
        (0x305, 0x1001, 0x1001),
        (0x305, 0x1002, 0), // a reserved mode
        (0x306, ALL, 0xffff_ffff),
        (0x30a, ALL, 7 << 61 | 0xf1),
        (0x30a, 2 << 4, 0),
        (0x320, ALL, 5),
        (0x323, ALL, 0),
        (0x340, ALL, ALL),
        (0x341, ALL, ALL - 1),
        (0x342, ALL, ALL),
        (0x343, ALL, ALL),
        (0x344, ALL, irq::SUPERVISOR),
        (0x3a0, ALL, 0x9f9f_9f9f_9f9f_9f9f),
        (0x3a2, 0x2, 0),
        (0x3b0, ALL, (1 << 54) - 1),
        (0x3bf, ALL, (1 << 54) - 1),
        (0x105, 0x2000, 0x2000),
        (0x106, ALL, 0xffff_ffff),
        (0x10a, ALL, 0xf1),
        (0x140, ALL, ALL),
        (0x141, 3, 2),
        (0x142, ALL, ALL),
        (0x143, 5, 5),
        (0x180, 8 << 60 | 0xffff << 44 | 1, 8 << 60 | 0xffff << 44 | 1),
        (0x180, 10 << 60, 10 << 60),
        (0x180, 11 << 60, 0),
        (0x14d, ALL, ALL),
        (0xb03, ALL, 0),
        (0xb1f, ALL, 0),
    ] {
        let mut m = Machine::new(&[]);
        write(&mut m, n, v).unwrap();
        assert_eq!(read(&mut m, n).unwrap(), want, "{n:#x} = {v:#x}");
    }
}

#[test]
fn registers_that_do_not_exist_are_illegal() {
    let mut m = Machine::new(&[]);
    for n in
        [0x3a1, 0x3a3, 0x3a4, 0x3c0, 0x7a0, 0x7b0, 0x747, 0x34a, 0x34b, 0x600, 0x200, 0x5a8, 0x800, 0xfff]
    {
        assert_eq!(read(&mut m, n), Err(Exit::Illegal), "{n:#x}");
    }
}

#[test]
fn numbers_say_who_may_and_whether_it_can_be_written() {
    let mut m = Machine::new(&[]);
    assert_eq!(write(&mut m, 0xf14, 0), Err(Exit::Illegal));
    assert_eq!(write(&mut m, 0xc00, 0), Err(Exit::Illegal));
    m.core().privilege = Privilege::Supervisor;
    assert_eq!(read(&mut m, 0x300), Err(Exit::Illegal));
    assert!(read(&mut m, 0x100).is_ok());
    m.core().privilege = Privilege::User;
    assert_eq!(read(&mut m, 0x100), Err(Exit::Illegal));
}

#[test]
fn counters_need_both_enables() {
    for (mode, mcounteren, scounteren, ok) in [
        (Privilege::Machine, 0, 0, true),
        (Privilege::Supervisor, 0, 7, false),
        (Privilege::Supervisor, 7, 0, true),
        (Privilege::User, 7, 0, false),
        (Privilege::User, 0, 7, false),
        (Privilege::User, 7, 7, true),
    ] {
        let mut m = Machine::new(&[]);
        let c = m.core();
        (c.privilege, c.csr.mcounteren, c.csr.scounteren) = (mode, mcounteren, scounteren);
        for n in [0xc00, 0xc01, 0xc02] {
            assert_eq!(read(&mut m, n).is_ok(), ok, "{mode:?} {n:#x}");
        }
        assert_eq!(read(&mut m, 0xc03).is_ok(), mode == Privilege::Machine);
    }
}

#[test]
fn stimecmp_needs_its_enable_and_the_timer_bit() {
    for (menvcfg, mcounteren, ok) in [(0, 2, false), (envcfg::STCE, 0, false), (envcfg::STCE, 2, true)] {
        let mut m = Machine::new(&[]);
        let c = m.core();
        (c.privilege, c.csr.menvcfg, c.csr.mcounteren) = (Privilege::Supervisor, menvcfg, mcounteren);
        assert_eq!(read(&mut m, 0x14d).is_ok(), ok);
    }
}

#[test]
fn supervisor_views_show_what_is_delegated() {
    let mut m = Machine::new(&[]);
    write(&mut m, 0x304, irq::ALL).unwrap();
    write(&mut m, 0x344, irq::SUPERVISOR).unwrap();
    assert_eq!((read(&mut m, 0x104).unwrap(), read(&mut m, 0x144).unwrap()), (0, 0));
    write(&mut m, 0x303, irq::SSI | irq::STI).unwrap();
    assert_eq!((read(&mut m, 0x104).unwrap(), read(&mut m, 0x144).unwrap()), (0x22, 0x22));
    write(&mut m, 0x104, 0).unwrap();
    assert_eq!(read(&mut m, 0x304).unwrap(), irq::ALL & !0x22);
    write(&mut m, 0x144, 0).unwrap(); // of these only SSIP is S's to write
    assert_eq!(read(&mut m, 0x344).unwrap(), irq::STI | irq::SEI);
}

#[test]
fn the_external_pin_is_not_written_back_into_software() {
    let mut m = Machine::new(&[]);
    let shared = m.core().shared.clone();
    shared.set_pin(9, true);
    let seen = m.core().access_csr(CsrOp::Set, 0x344, irq::SSI, true, true).unwrap();
    assert_eq!(seen, irq::SEI);
    shared.set_pin(9, false);
    assert_eq!(read(&mut m, 0x344).unwrap(), irq::SSI);
}

#[test]
fn stip_is_the_comparison_with_stce_and_software_without() {
    let mut m = Machine::new(&[]);
    write(&mut m, 0x344, irq::STI).unwrap();
    assert_eq!(read(&mut m, 0x344).unwrap(), irq::STI);
    write(&mut m, 0x14d, 100).unwrap();
    write(&mut m, 0x30a, envcfg::STCE).unwrap();
    assert_eq!(read(&mut m, 0x344).unwrap(), 0);
    write(&mut m, 0x344, irq::STI).unwrap();
    assert_eq!(read(&mut m, 0x344).unwrap(), 0);
    m.clock.advance(10_000);
    assert_eq!(read(&mut m, 0x344).unwrap(), irq::STI);
}

#[test]
fn floating_point_state_needs_fs_and_dirties_it() {
    let mut m = Machine::new(&[]);
    assert_eq!(read(&mut m, 3), Err(Exit::Illegal));
    write(&mut m, 0x300, 1 << 13).unwrap();
    assert_eq!(read(&mut m, 3), Ok(0));
    assert_eq!(read(&mut m, 0x300).unwrap() & status::FS, 1 << 13);
    write(&mut m, 2, 0xfd).unwrap();
    write(&mut m, 1, 0xff).unwrap();
    assert_eq!(read(&mut m, 3), Ok(0xbf));
    assert_eq!(read(&mut m, 0x300).unwrap() >> 63, 1);
}

#[test]
fn every_number_can_be_read_and_written_without_a_panic() {
    for v in [0, u64::MAX, 0x5555_5555_5555_5555] {
        let mut m = Machine::new(&[]);
        for n in 0..4096 {
            let _ = (write(&mut m, n, v), read(&mut m, n));
        }
        use strata_state::Stateful;
        m.hart.check(&m.hart.state()).unwrap();
    }
}
