use crate::*;
use std::sync::{Arc, Mutex};
use strata_devices::Mmio;
use strata_engine::{Bus, BusFault};
use strata_state::{Stateful, state};

state! {
    struct NoState("test-probe", 1) {}
}
/// Remembers its last access.
#[derive(Default)]
struct Probe(Vec<(u64, u8, Option<u64>)>);
impl Stateful for Probe {
    type State = NoState;
    fn state(&self) -> NoState {
        NoState {}
    }
    fn reset_state(&self) -> NoState {
        NoState {}
    }
    fn set_state(&mut self, _: NoState) {}
    fn settle(&mut self) {}
}
impl Mmio for Probe {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        self.0.push((offset, size, None));
        offset
    }
    fn write(&mut self, offset: u64, size: u8, value: u64) {
        self.0.push((offset, size, Some(value)));
    }
}

fn place(base: u64, size: u64, offset: u64, widths: Widths) -> Place {
    Place { name: format!("p{base:x}"), base, size, offset, widths }
}

#[test]
fn accesses_reach_their_device_or_fault() {
    let [low, high] = [(); 2].map(|()| Arc::new(Mutex::new(Probe::default())));
    let bus = MmioBus::builder()
        .add(place(0x2000, 0x10, 0x100, 15), high.clone())
        .add(place(0x1000, 0x100, 0, 4), low.clone())
        .add(place(u64::MAX - 0xff, 0xf0, 0, 8), low.clone())
        .build()
        .unwrap();
    assert_eq!(bus.read(0x2008, 8), Ok(0x108));
    assert_eq!(bus.write(0x10fc, 4, 7), Ok(()));
    assert_eq!(bus.read(u64::MAX - 0xff + 0xe8, 8), Ok(0xe8));
    for (gpa, size) in [
        (0, 4),
        (0xffc, 4),
        (0x1000, 1),
        (0x1000, 8),
        (0x1002, 4),
        (0x1100, 4),
        (0x2010, 1),
        (0x2000, 0),
        (0x2000, 3),
        (0x2001, 2),
        (0x1fff, 2),
        (u64::MAX - 7, 8),
    ] {
        assert_eq!(bus.read(gpa, size), Err(BusFault), "{gpa:#x}+{size}");
        assert_eq!(bus.write(gpa, size, 0), Err(BusFault), "{gpa:#x}+{size}");
    }
    assert_eq!(high.lock().unwrap().0, [(0x108, 8, None)]);
    assert_eq!(low.lock().unwrap().0, [(0xfc, 4, Some(7)), (0xe8, 8, None)]);
    assert_eq!(MmioBus::builder().build().unwrap().read(0, 1), Err(BusFault));
}

#[test]
fn impossible_buses_are_refused_by_name() {
    let build = |places: &[Place]| {
        let probe = Arc::new(Mutex::new(Probe::default()));
        let add = |b: BusBuilder, p: &Place| b.add(p.clone(), probe.clone());
        places.iter().fold(MmioBus::builder(), add).build().map(|_| ())
    };
    assert_eq!(build(&[place(0x10, 0x10, 0, 4), place(0, 0x10, 0, 4)]), Ok(()));
    let two = build(&[place(0x10, 0x10, 0, 4), place(0, 0x11, 0, 4)]);
    assert_eq!(two, Err(BusError::Overlap { first: "p0".into(), second: "p10".into(), at: 0x10 }));
    for (base, size, offset) in [(0, 0, 0), (u64::MAX, 2, 0), (0, 2, u64::MAX)] {
        assert!(matches!(build(&[place(base, size, offset, 4)]), Err(BusError::Length { .. })));
    }
}

#[test]
fn the_whole_board_fits_on_one_bus() {
    let probe = Arc::new(Mutex::new(Probe::default()));
    let mut bus = MmioBus::builder();
    for row in RiscvVirt::rows().iter().filter(|r| r.built && r.part != PartId::Ram) {
        for index in 0..row.count {
            bus = bus.add(RiscvVirt::place(row.part, index).unwrap(), probe.clone());
        }
    }
    let bus = bus.build().unwrap();
    assert_eq!(bus.read(0x1000_0005, 1), Ok(5));
    assert_eq!(bus.read(0x1000_8ffc, 4), Ok(0xffc));
    assert_eq!(bus.read(0x0c20_1004, 4), Ok(0x20_1004));
    assert_eq!(bus.read(0x0200_bff8, 8), Ok(0xbff8));
    assert_eq!(bus.read(0x1000, 4), Err(BusFault), "room is not there");
    assert_eq!(bus.read(0x8000_0000, 4), Err(BusFault), "RAM is not the bus's");
}

#[test]
fn htifs_words_lie_where_the_program_has_them() {
    let probe = Arc::new(Mutex::new(Probe::default()));
    let places = RiscvVirt::htif(0x8000_1040, Some(0x8000_1000));
    let bus = places.into_iter().fold(MmioBus::builder(), |b, p| b.add(p, probe.clone())).build().unwrap();
    assert_eq!(
        (bus.read(0x8000_1040, 8), bus.read(0x8000_1000, 4), bus.read(0x8000_1044, 4)),
        (Ok(0), Ok(8), Ok(4))
    );
    assert_eq!((bus.read(0x8000_1008, 8), bus.read(0x8000_1000, 1)), (Err(BusFault), Err(BusFault)));
    assert_eq!(RiscvVirt::htif(0x8000_0000, None).len(), 1);
}
