use super::*;
use Privilege::{Machine, Supervisor, User};

fn pmp(entries: &[(u8, u64)]) -> Pmp {
    let mut p = Pmp::default();
    for (n, &(cfg, addr)) in entries.iter().enumerate() {
        p.write_addr(n, addr);
        let first = n & !7;
        let old = p.read_cfg(first);
        p.write_cfg(first, old | u64::from(cfg) << (8 * (n - first)));
    }
    p
}

#[test]
fn without_entries_only_machine_mode_may() {
    let p = pmp(&[]);
    assert!(p.allows(0, 8, Access::Write, Machine));
    assert!(!p.allows(0, 8, Access::Read, Supervisor));
    assert!(!p.allows(0, 8, Access::Read, User));
}

#[test]
fn each_address_mode_covers_its_range() {
    let napot = pmp(&[(R | MODE, 0x2000_0000 | 0x1ff)]); // 0x8000_0000, 4 KiB
    for (pa, size, ok) in [
        (0x8000_0000, 8, true),
        (0x8000_0ff8, 8, true),
        (0x8000_0ffc, 8, false),
        (0x8000_1000, 1, false),
        (0x7fff_ffff, 1, false),
    ] {
        assert_eq!(napot.allows(pa, size, Access::Read, User), ok, "{pa:#x}+{size}");
    }
    assert!(!napot.allows(0x8000_0000, 4, Access::Write, User));
    let na4 = pmp(&[(X | NA4, 0x100 >> 2)]);
    assert!(na4.allows(0x100, 4, Access::Fetch, User));
    assert!(!na4.allows(0x104, 2, Access::Fetch, User));
    let tor = pmp(&[(0, 0x1000 >> 2), (R | W | TOR, 0x3000 >> 2)]);
    assert!(tor.allows(0x1000, 1, Access::Write, User) && tor.allows(0x2fff, 1, Access::Write, User));
    assert!(!tor.allows(0xfff, 1, Access::Read, User) && !tor.allows(0x3000, 1, Access::Read, User));
    let all = Pmp::open();
    assert!(all.allows(0, 8, Access::Fetch, User) && all.allows((1 << 56) - 8, 8, Access::Write, User));
    let empty = pmp(&[(0, 0x3000 >> 2), (R | TOR, 0x1000 >> 2)]);
    assert!(!empty.allows(0x2000, 1, Access::Read, User));
}

#[test]
fn the_first_match_decides_and_must_match_wholly() {
    let p = pmp(&[(NA4, 0x100 >> 2), (R | W | X | MODE, ADDRESS)]);
    assert!(!p.allows(0x100, 4, Access::Read, User));
    assert!(!p.allows(0xfc, 8, Access::Read, User));
    assert!(p.allows(0xf8, 8, Access::Read, User));
    assert!(!p.uniform(0) && p.uniform(0x1000));
}

#[test]
fn a_lock_binds_machine_mode_and_the_registers() {
    let mut p = pmp(&[(0, 0x1000 >> 2), (LOCK | R | TOR, 0x2000 >> 2)]);
    assert!(!p.allows(0x1000, 4, Access::Write, Machine));
    assert!(p.allows(0x1000, 4, Access::Read, Machine) && p.allows(0x2000, 4, Access::Write, Machine));
    let before = p.clone();
    p.write_cfg(0, u64::from(R | W) << 8);
    p.write_addr(1, 5);
    p.write_addr(0, 5); // the base of a locked range
    assert_eq!(p, before);
}

#[test]
fn reserved_configurations_are_not_kept() {
    let mut p = Pmp::default();
    p.write_cfg(8, 0x6200_0000_0000_0002);
    assert_eq!(p.read_cfg(8), 0);
    assert!(Pmp::restore([W; ENTRIES], [0; ENTRIES]).is_none());
    assert_eq!(Pmp::restore(Pmp::open().cfg(), Pmp::open().addr()), Some(Pmp::open()));
}

#[test]
fn no_register_content_panics() {
    for addr in [0, 1, ADDRESS, ADDRESS - 1, 1 << 53, u64::MAX] {
        for cfg in 0..=255u8 {
            let p = pmp(&[(cfg, addr), (cfg.rotate_left(3), !addr)]);
            for pa in [0, 0xfff, u64::MAX, 1 << 55] {
                let _ = (p.allows(pa, 8, Access::Read, User), p.uniform(pa & !0xfff));
            }
        }
    }
}

#[test]
fn an_open_first_entry_is_noticed_and_lost_again() {
    let mut p = Pmp::open();
    assert!(p.open);
    assert!(p.allows(0x8000_0000, 8, Access::Write, Privilege::User) && p.uniform(0x8000_0000));
    p.write_addr(0, 0x2000_0000);
    assert!(!p.open && !p.allows(0x9000_0000, 8, Access::Write, Privilege::User));
    p.write_addr(0, u64::MAX);
    p.write_cfg(0, 0x1d);
    assert!(!p.open && !p.allows(0x8000_0000, 8, Access::Write, Privilege::User));
    assert!(p.allows(0x8000_0000, 8, Access::Read, Privilege::User));
    p.write_cfg(0, 0x1f);
    assert!(p.open && p == Pmp::restore(p.cfg(), p.addr()).unwrap());
}
