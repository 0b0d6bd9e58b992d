use crate::*;
use proptest::prelude::*;

fn ram() -> GuestRam {
    GuestRam::new(vec![
        RegionSpec { gpa: 0x8000_0000, len: 16 * PAGE, backing: Backing::memfd(16 * PAGE).unwrap() },
        RegionSpec { gpa: 0x1000, len: PAGE, backing: Backing::Anonymous },
    ])
    .unwrap()
}

#[test]
fn what_is_loaded_is_read_and_marked() {
    let m = ram();
    let epoch = m.regions()[1].pages().begin_epoch();
    m.load(0x8000_0ffe, &[1, 2, 3, 4]).unwrap();
    let mut b = [0; 4];
    m.peek(0x8000_0ffe, &mut b).unwrap();
    assert_eq!(b, [1, 2, 3, 4]);
    let dirty: Vec<_> = (0..16).map(|p| m.regions()[1].pages().dirty_since(p, epoch)).collect();
    assert_eq!(dirty.iter().filter(|d| **d).count(), 2);
    assert!(dirty[0] && dirty[1]);
    assert_eq!(m.regions()[1].pages().presence(1), Presence::Private);
    assert_eq!(m.regions()[1].pages().presence(2), Presence::Zero);
    m.load(0x1ffe, &[5, 6]).unwrap();
    m.trap(0x8000_0000).unwrap();
    let later = m.regions()[1].pages().begin_epoch();
    m.clear();
    m.peek(0x8000_0ffe, &mut b).unwrap();
    assert_eq!(b, [0; 4]);
    m.peek(0x1ffc, &mut b).unwrap();
    assert_eq!(b, [0; 4]);
    let pages = m.regions()[1].pages();
    assert!(pages.dirty_since(1, later) && !pages.dirty_since(2, later));
    assert_eq!(pages.presence(1), Presence::Zero);
    assert!(pages.trapped(0));
}

#[test]
fn an_absent_page_makes_devices_and_engines_wait() {
    let m = ram();
    m.regions()[1].pages().set_presence(3, Presence::Absent);
    let gpa = 0x8000_3000;
    assert!(matches!(m.acquire(gpa - 1, 2, Access::Read), Ok(Acquired::Wait)));
    assert!(matches!(m.acquire(gpa - 1, 1, Access::Read), Ok(Acquired::Ready(_))));
    assert!(matches!(m.engine_page(gpa + 8, Access::Read), EnginePage::Wait));
    m.regions()[1].pages().set_presence(3, Presence::Private);
    assert!(matches!(m.engine_page(gpa + 8, Access::Read), EnginePage::Ready(_)));
}

#[test]
fn a_trapped_page_stays_trapped_when_written() {
    let m = ram();
    m.trap(0x8000_1008).unwrap();
    assert!(matches!(m.engine_page(0x8000_1000, Access::Write), EnginePage::Trapped(_)));
    assert!(matches!(m.engine_page(0x8000_1000, Access::Write), EnginePage::Trapped(_)));
    assert!(matches!(m.engine_page(0x8000_2000, Access::Write), EnginePage::Ready(_)));
}

#[test]
fn bad_regions_are_refused() {
    let spec = |gpa, len| RegionSpec { gpa, len, backing: Backing::Anonymous };
    for specs in [
        vec![spec(0, 0)],
        vec![spec(1, PAGE)],
        vec![spec(0, PAGE + 1)],
        vec![spec(0, 1 << 60)],
        vec![spec(u64::MAX - PAGE + 1, PAGE)],
        vec![spec(0, 2 * PAGE), spec(PAGE, PAGE)],
    ] {
        assert!(matches!(GuestRam::new(specs), Err(MemoryError::BadRegion { .. })));
    }
}

#[test]
fn memory_is_put_together_from_parts_without_being_written() {
    let Backing::SharedFd(file) = Backing::memfd(8 * PAGE).unwrap() else { panic!("not a memfd") };
    rustix::io::pwrite(&file, &[7; 8 * PAGE as usize], 0).unwrap();
    let m = GuestRam::new(vec![RegionSpec { gpa: 0, len: 16 * PAGE, backing: Backing::Anonymous }]).unwrap();
    let from = |at| Part::File { file: std::os::fd::AsFd::as_fd(&file), at };
    m.lay(PAGE, 4 * PAGE, from(4 * PAGE)).unwrap();
    m.lay(2 * PAGE, PAGE, Part::Bytes(&[9; PAGE as usize])).unwrap();
    m.lay(3 * PAGE, PAGE, Part::Zero).unwrap();
    let byte = |page: u64| {
        let mut b = [0];
        m.peek(page * PAGE + 5, &mut b).unwrap();
        b[0]
    };
    assert_eq!([0, 1, 2, 3, 4, 5].map(byte), [0, 7, 9, 0, 7, 0]);
    let map = m.regions()[0].pages();
    let is = [1, 2, 3, 4].map(|p| map.presence(p));
    assert_eq!(is, [Presence::File, Presence::Private, Presence::Zero, Presence::File]);
    assert!((0..16).all(|p| !map.dirty_since(p, 1)));
    m.load(PAGE, &[1]).unwrap();
    assert!(map.dirty_since(1, 1));
    let mut held = [0];
    rustix::io::pread(&file, &mut held, 4 * PAGE).unwrap();
    assert_eq!(held, [7]);
    for (gpa, len, part) in [
        (16 * PAGE, PAGE, Part::Zero),
        (15 * PAGE, 2 * PAGE, Part::Zero),
        (1, PAGE, Part::Zero),
        (0, 0, Part::Zero),
        (0, PAGE, from(8 * PAGE)),
        (0, PAGE, Part::Bytes(&[0])),
    ] {
        assert!(m.lay(gpa, len, part).is_err(), "{gpa:#x}+{len:#x} {part:?}");
    }
    m.clear();
    assert_eq!([1, 2, 4].map(byte), [0, 0, 0]);
}

proptest! {
    #[test]
    fn no_range_outside_ram_is_given(gpa in any::<u64>(), len in any::<u64>(), near in 0u64..0x20000) {
        let m = ram();
        for gpa in [gpa, 0x8000_0000 - 0x1000 + near, near] {
            for len in [len, len % 0x3000] {
                let inside = |base: u64, size: u64| gpa >= base && gpa < base + size && len <= base + size - gpa;
                let expect = inside(0x8000_0000, 16 * PAGE) || inside(0x1000, PAGE);
                prop_assert_eq!(m.acquire(gpa, len, Access::Write).is_ok(), expect);
            }
        }
    }
}
