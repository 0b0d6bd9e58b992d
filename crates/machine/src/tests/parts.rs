//! The laws of parts over every part of a whole machine, their order, and the committed schema.

use super::guest::*;
use crate::MachineSpec;
use crate::loader::Placement;
use strata_board::RiscvVirt;

/// Two harts, every kind of device, and HTIF.
pub(super) fn full(deterministic: bool) -> (crate::Machine, Console) {
    let mut a = Asm::default();
    a.jump(0);
    let program = elf(RAM, &a.bytes(), RAM + 0x1000, RAM + 0x1040);
    let placement = Placement { firmware: Some(source(&program)), ..Placement::default() };
    machine_of(&MachineSpec { deterministic, ..spec(2) }, None, placement)
}

pub(super) fn laws(m: &crate::Machine) {
    for p in m.parts() {
        let mut part = p.part.lock().unwrap();
        if let Err(why) = strata_state::laws::check(&mut *part) {
            panic!("{}: {why}", p.name);
        }
    }
}

#[test]
fn every_part_keeps_the_laws_after_power_on_and_after_anything() {
    laws(&full(true).0);
    let (m, _console) = full(false);
    laws(&m);
    let mut seed = 0x1234_5678_9abc_def1u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed >> 16
    };
    let rows = RiscvVirt::rows().iter().filter(|r| r.size > 0 && r.widths != 0);
    let mut places: Vec<_> = rows.flat_map(|r| (0..r.count).map(|i| (r.base + i * r.size, r.size))).collect();
    places.extend([(RAM + 0x1000, 8), (RAM + 0x1040, 8)]);
    let mut answered = 0;
    for _ in 0..12 {
        for (base, size) in &places {
            for _ in 0..60 {
                let width = 1u8 << (next() % 4);
                // Registers are mostly at the start.
                let span = if next() & 1 == 0 { 0x110.min(*size) } else { *size };
                let at = base + (next() % span / u64::from(width) * u64::from(width));
                let value = match next() % 4 {
                    0 => next() % 16,
                    1 => u64::MAX,
                    2 => RAM + next() % 0x10_0000 * 16,
                    _ => next(),
                };
                answered += if next() & 1 == 0 {
                    u32::from(m.bus.write(at, width, value).is_ok())
                } else {
                    u32::from(m.bus.read(at, width).is_ok())
                };
            }
        }
        let before: Vec<_> = m.parts().iter().map(|p| p.part.lock().unwrap().save()).collect();
        laws(&m);
        let states: Vec<_> = m.parts().iter().zip(before).map(|(p, s)| (p.name.clone(), s)).collect();
        m.load(&states).unwrap();
        assert_eq!(m.save().unwrap(), states);
    }
    assert!(answered > 2000, "the pokes missed: {answered}");
}

#[test]
fn parts_are_in_board_order() {
    for deterministic in [false, true] {
        let (m, _console) = full(deterministic);
        let mut expected = RiscvVirt::parts_in_order(2);
        expected.insert(2, "sbi".into());
        expected.insert(3, "clock".into());
        if deterministic {
            expected.insert(4, "schedule".into());
            expected.insert(5, "randomness".into());
        }
        expected.push("htif".into());
        let names: Vec<_> = m.parts().iter().map(|p| p.name.clone()).collect();
        assert_eq!(names, expected);
    }
}

#[test]
fn states_of_another_machine_are_refused() {
    let (m, _console) = full(false);
    let mut states = m.save().unwrap();
    let last = states.pop().unwrap();
    assert!(m.load(&states).unwrap_err().to_string().contains("htif"));
    states.push(last);
    states.push(("gpu0".into(), vec![]));
    assert!(m.load(&states).unwrap_err().to_string().contains("gpu0"));
}

/// The saved form of a machine. A difference here is a new format: raise the record's version, and let
/// `STRATA_BLESS=1` write the file.
#[test]
fn the_schema_is_the_committed_one() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/formats/state.schema");
    // Together they have all the parts that there are.
    let machines = [full(true), super::pci::on_pci(true)];
    let mut schema = strata_state::Schema::default();
    for p in machines.iter().flat_map(|(m, _)| m.parts()) {
        p.part.lock().unwrap().describe(&mut schema);
    }
    let now = schema.text();
    if std::env::var_os("STRATA_BLESS").is_some() {
        std::fs::write(path, &now).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(now == committed, "the saved form differs from {path}:\n{now}");
}
