//! State files of whole machines: the same from every tier, and those of earlier schemas, which load for ever.

use super::guest::*;
use super::parts::full;
use super::pci::on_pci;
use super::repeats::{busy, deterministic_in};
use crate::{Machine, Phase, Restore, Tier};
use std::path::PathBuf;
use strata_memory::{Backing, GuestRam, RegionSpec};
use strata_state::StateFile;

const HARTS: u32 = 2;
const COUNT: u64 = 500_000;

/// A machine that stands in the middle of some work.
fn working(tier: Option<Tier>) -> Machine {
    let (m, console) = deterministic_in(tier, HARTS, &busy(HARTS.into(), 1000).image());
    // Its output has a reader until it ends.
    let _reader = console.collect();
    m.pause_at(COUNT).unwrap();
    m.start().unwrap();
    assert_eq!(m.wait_pause(), Phase::Paused);
    m
}

#[test]
fn a_state_file_is_the_same_from_every_tier_and_after_loading() {
    let saved: Vec<_> = Tier::ALL
        .into_iter()
        .filter(|t| t.check().is_ok())
        .map(|t| working(Some(t)).save_state().unwrap())
        .collect();
    assert!(saved.iter().all(|s| *s == saved[0]), "the tiers differ");
    let (m, _console) = deterministic_in(None, HARTS, &busy(HARTS.into(), 1000).image());
    m.load_state(&saved[0]).unwrap();
    assert_eq!((m.save_state().unwrap() == saved[0], m.count()), (true, Some(COUNT)));
}

#[test]
fn files_of_other_machines_are_refused_by_name() {
    let file = StateFile::parse(&working(None).save_state().unwrap()).unwrap();
    let (m, _console) = deterministic_in(None, HARTS, &busy(HARTS.into(), 1000).image());
    let before = m.save_state().unwrap();
    let refuse = |change: &dyn Fn(&mut StateFile), word: &str| {
        let mut f = file.clone();
        change(&mut f);
        let e = m.load_state(&f.bytes()).unwrap_err().to_string();
        assert!(e.contains(word), "{e}");
    };
    refuse(&|f| f.header.board = "x86-micro".into(), "board x86-micro");
    refuse(&|f| f.header.engine = "kvm".into(), "engine kvm");
    refuse(&|f| f.header.features.clear(), "not deterministic");
    refuse(&|f| drop(f.parts.pop()), "missing");
    refuse(&|f| f.parts.push(("gpu0".into(), vec![])), "gpu0");
    assert!(m.save_state().unwrap() == before, "a refused file changed something");
}

#[test]
fn a_machine_begins_in_the_middle_over_a_file_of_memory() {
    let m = working(None);
    let (state, mut ram) = (m.save_state().unwrap(), vec![0; 16 << 20]);
    m.ram().peek(RAM, &mut ram).unwrap();
    let exit = {
        m.unpause().unwrap();
        m.wait()
    };
    let end = m.save_state().unwrap();
    drop(m);
    // The file has other things before the memory.
    let file = source(&[vec![0xee; 4096], ram.clone()].concat()).file;
    let backing = Backing::PrivateOverFile { file: file.try_clone().unwrap().into(), offset: 4096 };
    let restored = GuestRam::new(vec![RegionSpec { gpa: RAM, len: 16 << 20, backing }]).unwrap();
    let (ours, console) = Console::pair();
    let _output = ours.collect();
    let mut resources = resources_of(None, kernel_placement(&busy(HARTS.into(), 1000).image()), console);
    resources.restore = Some(Restore { ram: restored, state, generation: None, passed: 0 });
    let spec = crate::MachineSpec { deterministic: true, ..spec(HARTS) };
    let m = crate::build(&spec, resources).unwrap();
    assert_eq!(m.count(), Some(COUNT));
    m.start().unwrap();
    assert_eq!(m.wait(), exit);
    assert!(m.save_state().unwrap() == end);
    // The file is as it was; and a reset gives zeroes and the kernel, not the file again.
    let mut now = vec![0; ram.len()];
    std::os::unix::fs::FileExt::read_exact_at(&file, &mut now, 4096).unwrap();
    assert!(now == ram);
    m.ram().clear();
    m.ram().peek(RAM, &mut now).unwrap();
    assert!(now.iter().all(|b| *b == 0));
}

/// Time that passes while a machine is a file, for one that is to have counted it.
#[test]
fn a_clock_goes_on_as_if_it_had_never_stood_still() {
    let machine = || kernel(HARTS, &busy(HARTS.into(), 1000).image());
    let (m, _console) = machine();
    let state = m.save_state().unwrap();
    for passed in [0, 3_600_000_000_000, u64::MAX] {
        let (n, _console) = machine();
        n.load_state_after(&state, passed).unwrap();
        assert_eq!(n.clock_at(), m.clock_at().saturating_add(passed));
        assert_eq!(n.save_state().unwrap() == state, passed == 0);
    }
    let state = working(None).save_state().unwrap();
    let (ours, console) = Console::pair();
    let mut resources = resources_of(None, kernel_placement(&busy(HARTS.into(), 1000).image()), console);
    let ram = GuestRam::single(RAM, 16 << 20).unwrap();
    resources.restore = Some(Restore { ram, state, generation: None, passed: 1 });
    let spec = crate::MachineSpec { deterministic: true, ..spec(HARTS) };
    let e = crate::build(&spec, resources).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("instructions"), "{e}");
    drop(ours);
}

fn goldens() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/goldens").into()
}

/// Every state file that was ever committed loads. Each schema has its own; `STRATA_BLESS=1` writes those of this one.
#[test]
fn golden_states_load_for_ever() {
    // FNV-1a: the names must not depend on the compiler.
    let hash =
        |text: &str| text.bytes().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let fresh = || {
        let kernel = deterministic_in(None, HARTS, &busy(HARTS.into(), 1000).image()).0;
        [("busy", kernel), ("htif", full(true).0), ("pci", on_pci(true).0)]
    };
    let [full_schema, pci_schema] = [full(true).0, on_pci(true).0].map(|m| hash(&m.schema()));
    let now = [
        ("busy", full_schema, working(None)),
        ("htif", full_schema, full(true).0),
        ("pci", pci_schema, on_pci(true).0),
    ];
    for (kind, schema, m) in &now {
        let path = goldens().join(format!("{schema:08x}-{kind}.state"));
        if std::env::var_os("STRATA_BLESS").is_some() {
            std::fs::create_dir_all(goldens()).unwrap();
            std::fs::write(&path, m.save_state().unwrap()).unwrap();
        }
        assert!(path.exists(), "this schema has no golden state {}: see STRATA_BLESS", path.display());
    }
    for entry in std::fs::read_dir(goldens()).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let (of, kind) = name.trim_end_matches(".state").split_once('-').unwrap();
        let m = fresh().into_iter().find(|(k, _)| *k == kind).unwrap().1;
        let golden = std::fs::read(&path).unwrap();
        m.load_state(&golden).unwrap_or_else(|e| panic!("{name}: {e}"));
        let schema = now.iter().find(|(k, ..)| *k == kind).map_or(0, |(_, schema, _)| *schema);
        if of == format!("{schema:08x}") {
            let (old, new) = (StateFile::parse(&golden).unwrap(), m.save_state().unwrap());
            assert!(StateFile::parse(&new).unwrap().parts == old.parts, "{name}");
        }
    }
}
