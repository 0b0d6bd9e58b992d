//! The engine against this host's KVM, with guests of a few bytes. Where it has none, the tests say so and pass.

use crate::cpuid::CpuModel;
use crate::state::VcpuState;
use crate::{Buses, Cause, Chips, Host, KvmClock, KvmError, KvmVcpu, Vm};
use rustix::event::{EventfdFlags, eventfd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use strata_engine::{Bus, BusFault, Entry, Privilege, Stop, Vcpu};
use strata_memory::{GuestRam, PAGE};
use strata_state::{Part, Record, read_record, write_record};

const CODE: u64 = 0x1000;
const DATA: u64 = 0x4000;
const DEVICE: u64 = 0xd000_0000;

/// Writes down every access; reads give the address's low byte in each byte.
#[derive(Default)]
struct Notes(Mutex<Vec<(char, u64, u8, u64)>>);

impl Bus for Notes {
    fn read(&self, gpa: u64, size: u8) -> Result<u64, BusFault> {
        self.0.lock().unwrap().push(('r', gpa, size, 0));
        if gpa == 0x99 { Err(BusFault) } else { Ok(0x0101_0101_0101_0101 * (gpa & 0xff)) }
    }
    fn write(&self, gpa: u64, size: u8, value: u64) -> Result<(), BusFault> {
        self.0.lock().unwrap().push(('w', gpa, size, value));
        Ok(())
    }
}

struct Rig {
    vm: Arc<Vm>,
    cpu: KvmVcpu,
    ports: Arc<Notes>,
    memory: Arc<Notes>,
}

/// A machine of 64 KiB with `code` to run; none where there is no KVM.
fn rig(code: &[u8]) -> Option<Rig> {
    let host = match Host::open() {
        Ok(host) => Arc::new(host),
        Err(e @ (KvmError::Absent | KvmError::Permission { .. })) => {
            println!("skipped here: {e}");
            return None;
        }
        Err(e) => panic!("{e}"),
    };
    let ram = GuestRam::single(0, 16 * PAGE).unwrap();
    ram.load(CODE, code).unwrap();
    let vm = Vm::new(host, ram).unwrap();
    let (ports, memory) = (Arc::new(Notes::default()), Arc::new(Notes::default()));
    let buses = Buses { ports: ports.clone(), memory: memory.clone() };
    let mut cpu = KvmVcpu::new(vm.clone(), 0, 1, &CpuModel::Host, buses).unwrap();
    cpu.boot(Entry { pc: CODE, args: [1, 2, 3], privilege: Privilege::Kernel });
    Some(Rig { vm, cpu, ports, memory })
}

impl Rig {
    /// Runs until someone kicks, which happens after `after` at the latest.
    fn run_for(&mut self, after: Duration) -> Stop {
        let shared = self.cpu.shared().clone();
        let kicker = std::thread::spawn(move || {
            std::thread::sleep(after);
            shared.kick();
        });
        let stop = self.cpu.run();
        kicker.join().unwrap();
        stop
    }
}

const SHORT: Duration = Duration::from_millis(60);
/// jmp to itself.
const SPIN: [u8; 2] = [0xeb, 0xfe];

#[test]
fn accesses_reach_their_bus_in_their_width() {
    #[rustfmt::skip]
    let code = [
        &[0xe6, 0x11][..],                              // out 0x11, al      (AL is 1)
        &[0xe4, 0x12, 0x88, 0xc3],                      // in al, 0x12; mov bl, al
        &[0xe5, 0x99],                                  // in eax, 0x99      (nobody there)
        &[0xa3, 0x08, 0, 0, 0xd0],                      // mov [DEVICE + 8], eax
        &[0x66, 0x8b, 0x0d, 0x34, 0, 0, 0xd0],          // mov cx, [DEVICE + 0x34]
        &[0x0f, 0xb6, 0x15, 0x56, 0, 0, 0xd0],          // movzx edx, byte [DEVICE + 0x56]
        &SPIN,
    ].concat();
    let Some(mut r) = rig(&code) else { return };
    assert_eq!(r.run_for(SHORT), Stop::Kicked);
    let s = r.cpu.state().unwrap();
    assert_eq!(*r.ports.0.lock().unwrap(), [('w', 0x11, 1, 1), ('r', 0x12, 1, 0), ('r', 0x99, 4, 0)]);
    let expected =
        [('w', DEVICE + 8, 4, 0xffff_ffff), ('r', DEVICE + 0x34, 2, 0), ('r', DEVICE + 0x56, 1, 0)];
    assert_eq!(*r.memory.0.lock().unwrap(), expected);
    let g = &s.general;
    assert_eq!((g.rax, g.rbx, g.rcx & 0xffff, g.rdx), (0xffff_ffff, 0x12, 0x3434, 0x56), "{g}");
    let exits = r.cpu.exits();
    let counts =
        [Cause::PortRead, Cause::PortWrite, Cause::MemoryRead, Cause::MemoryWrite].map(|c| exits.of(c));
    assert_eq!(counts, [2, 1, 2, 1]);
}

#[test]
fn a_string_of_outs_is_as_many_accesses() {
    // mov esi, CODE; mov ecx, 3; mov dx, 0x80; rep outsw
    let code =
        [0xbe, 0, 0x10, 0, 0, 0xb9, 3, 0, 0, 0, 0x66, 0xba, 0x80, 0, 0xf3, 0x66, 0x6f, SPIN[0], SPIN[1]];
    let Some(mut r) = rig(&code) else { return };
    assert_eq!(r.run_for(SHORT), Stop::Kicked);
    let values = [0x00be, 0x0010, 0xb900].map(|v| ('w', 0x80, 2, v));
    assert_eq!(*r.ports.0.lock().unwrap(), values);
}

#[test]
fn a_kick_ends_a_guest_that_spins_or_halts_and_one_that_comes_early_is_kept() {
    // cli; hlt
    for code in [&SPIN[..], &[0xfa, 0xf4]] {
        let Some(mut r) = rig(code) else { return };
        r.cpu.shared().kick();
        assert_eq!(r.cpu.run(), Stop::Kicked);
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(r.run_for(Duration::from_millis(10)), Stop::Kicked);
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
    }
}

#[test]
fn a_triple_fault_is_told_with_registers() {
    // lidt of an empty table, then ud2
    let code = [0x0f, 0x01, 0x1d, 0, 0x40, 0, 0, 0x0f, 0x0b];
    let Some(mut r) = rig(&code) else { return };
    let Stop::Stuck(why) = r.run_for(Duration::from_secs(3)) else { panic!("it went on") };
    assert!(why.contains("rip") && why.contains("cr0"), "{why}");
    println!("{why}");
}

#[test]
fn state_survives_a_save_between_any_two_accesses() {
    // inc ebx; out 0x10, al; in al, 0x40; jmp back
    let code = [0x43, 0xe6, 0x10, 0xe4, 0x40, 0xeb, 0xf9];
    let (Some(mut a), Some(mut b)) = (rig(&code), rig(&code)) else { return };
    for _ in 0..5 {
        assert_eq!(a.run_for(Duration::from_millis(5)), Stop::Kicked);
        let saved = a.cpu.save();
        b.cpu.load(&saved).unwrap();
        let (x, y) = (a.cpu.state().unwrap(), b.cpu.state().unwrap());
        assert_eq!((&x.general, &x.system, &x.events), (&y.general, &y.system, &y.events));
        assert_eq!((&x.apic, &x.extended), (&y.apic, &y.extended));
        std::mem::swap(&mut a, &mut b);
        // No access was lost or made twice: as many writes as turns, within the one that was under way.
        let writes: usize = [&a, &b]
            .map(|r| r.ports.0.lock().unwrap().iter().filter(|n| n.0 == 'w').count())
            .into_iter()
            .sum();
        let turns = x.general.rbx as usize - 2;
        assert!(writes == turns || writes + 1 == turns, "{writes} writes, {turns} turns");
    }
}

#[test]
fn a_reset_is_power_on_and_what_is_no_state_is_refused() {
    let Some(mut r) = rig(&SPIN) else { return };
    assert_eq!(r.run_for(Duration::from_millis(5)), Stop::Kicked);
    let saved = r.cpu.save();
    r.cpu.reset();
    let s = r.cpu.state().unwrap();
    // The first vCPU executes from the reset vector.
    assert_eq!((s.general.rip, s.system.segments[0].base, s.activity), (0xfff0, 0xffff_0000, 0));
    let bad: [fn(&mut VcpuState); 5] = [
        |s| s.activity = 9,
        |s| s.extended.area.truncate(8),
        |s| s.apic.registers.truncate(63),
        |s| s.msrs.values.push([0x79, 1]),
        |s| s.cpuid.iter_mut().filter(|r| r[0] == 7).for_each(|r| r[3] = u32::MAX),
    ];
    for break_it in bad {
        let mut state: VcpuState = read_record(&saved).unwrap();
        break_it(&mut state);
        assert!(r.cpu.load(&write_record(&state)).is_err());
    }
    assert!(r.cpu.load(&[]).is_err());
    r.cpu.load(&saved).unwrap();
    let described = VcpuState::schema_text();
    assert!(described.contains("x86-vcpu v1") && described.contains("x86-segment v1"), "{described}");
}

/// From 32-bit mode to 64-bit mode, as a kernel does it, with its tables from 0x8000 on and a descriptor table in DATA.
fn to_64_bit(after: &[u8]) -> Vec<u8> {
    #[rustfmt::skip]
    let mut code = [
        &[0x0f, 0x20, 0xe0, 0x83, 0xc8, 0x20, 0x0f, 0x22, 0xe0][..],   // CR4.PAE
        &[0xb8, 0, 0x80, 0, 0, 0x0f, 0x22, 0xd8],                      // CR3 = 0x8000
        &[0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32, 0x0d, 0, 1, 0, 0, 0x0f, 0x30], // EFER.LME
        &[0x0f, 0x20, 0xc0, 0x0d, 0, 0, 0, 0x80, 0x0f, 0x22, 0xc0],    // CR0.PG
        &[0x0f, 0x01, 0x15, 0, 0x40, 0, 0],                            // lgdt [DATA]
    ].concat();
    let target = CODE as u32 + code.len() as u32 + 7;
    code.push(0xea);
    code.extend(target.to_le_bytes());
    code.extend([8, 0]);
    code.extend(after);
    code
}

fn put_tables(ram: &GuestRam) {
    for (at, entry) in [(0x8000, 0x9003_u64), (0x9000, 0xa003), (0xa000, 0x83)] {
        ram.load(at, &entry.to_le_bytes()).unwrap();
    }
    ram.load(DATA, &[0x0f, 0, 0x10, 0x40, 0, 0]).unwrap();
    ram.load(DATA + 0x18, &0x00af_9a00_0000_ffff_u64.to_le_bytes()).unwrap();
}

#[test]
fn a_vcpu_that_ran_on_in_64_bit_mode_begins_anew() {
    let Some(mut r) = rig(&to_64_bit(&SPIN)) else { return };
    put_tables(r.vm.ram());
    for _ in 0..3 {
        assert_eq!(r.run_for(SHORT), Stop::Kicked);
        let s = r.cpu.state().unwrap();
        assert_eq!((s.system.efer & 0x500, s.system.cr0 >> 31), (0x500, 1), "{}{}", s.general, s.system);
        r.cpu.reset();
        let s = r.cpu.state().unwrap();
        assert_eq!((s.general.rip, s.system.efer, s.system.cr0 & 0x8000_0001), (0xfff0, 0, 0));
        // out 0x11, al: in 32-bit mode, from where it is told.
        r.vm.ram().load(0x2000, &[0xe6, 0x11, SPIN[0], SPIN[1]]).unwrap();
        r.cpu.boot(Entry { pc: 0x2000, args: [7, 2, 3], privilege: Privilege::Kernel });
        assert_eq!(r.run_for(SHORT), Stop::Kicked);
        let s = r.cpu.state().unwrap();
        assert_eq!((s.general.rip, s.system.efer, s.system.cr0 & 0x8000_0001), (0x2002, 0, 1));
        assert_eq!(std::mem::take(&mut *r.ports.0.lock().unwrap()), [('w', 0x11, 1, 7)]);
        r.cpu.boot(Entry { pc: CODE, args: [1, 2, 3], privilege: Privilege::Kernel });
    }
}

#[test]
fn doorbells_and_interrupts_go_by_descriptor() {
    // mov dword [DEVICE + 0x50], 2; then 3
    let write = |v: u8| [0xc7, 0x05, 0x50, 0, 0, 0xd0, v, 0, 0, 0];
    let code = [&write(2)[..], &write(3), &SPIN].concat();
    let Some(mut r) = rig(&code) else { return };
    let bell = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    r.vm.add_doorbell(DEVICE + 0x50, Some(2), &bell).unwrap();
    assert!(r.vm.add_doorbell(DEVICE + 0x50, Some(2), &bell).is_err(), "twice");
    assert_eq!(r.run_for(SHORT), Stop::Kicked);
    let mut count = [0; 8];
    rustix::io::read(&bell, &mut count).expect("the doorbell has rung");
    assert_eq!(u64::from_ne_bytes(count), 1);
    assert_eq!(*r.memory.0.lock().unwrap(), [('w', DEVICE + 0x50, 4, 3)], "only the other value is an exit");
    let line = eventfd(0, EventfdFlags::NONBLOCK).unwrap();
    r.vm.add_interrupt(5, &line).unwrap();
    assert!(r.vm.add_interrupt(5, &line).is_err(), "one descriptor twice");
}

#[test]
fn the_dirty_log_knows_what_the_guest_wrote() {
    // mov [DATA], eax; mov [DATA + 0x3000], eax
    let code = [0xa3, 0, 0x40, 0, 0, 0xa3, 0, 0x70, 0, 0, SPIN[0], SPIN[1]];
    let Some(mut r) = rig(&code) else { return };
    r.vm.log_dirty(true).unwrap();
    r.vm.collect_dirty().unwrap();
    let vm = r.vm.clone();
    let pages = vm.ram().regions()[0].pages();
    let since = pages.begin_epoch();
    assert_eq!(r.run_for(SHORT), Stop::Kicked);
    assert!(r.vm.collect_dirty().unwrap() >= 2);
    let dirty = |gpa: u64| pages.dirty_since((gpa / PAGE) as usize, since);
    assert!(dirty(DATA) && dirty(DATA + 0x3000) && !dirty(0xf000) && !dirty(DATA + 0x1000));
    let since = pages.begin_epoch();
    assert_eq!(r.run_for(Duration::from_millis(5)), Stop::Kicked);
    assert_eq!(r.vm.collect_dirty().unwrap(), 0, "it only spins");
    assert!(!pages.dirty_since((DATA / PAGE) as usize, since));
    r.vm.log_dirty(false).unwrap();
}

#[test]
fn chips_and_clock_keep_what_they_are_given() {
    let Some(r) = rig(&SPIN) else { return };
    let mut chips = Chips::new(r.vm.clone()).unwrap();
    let at_first = chips.save();
    chips.line(5).set(true);
    chips.line(99).set(true);
    assert_ne!(chips.save(), at_first, "a line that is high is in the state");
    let high = chips.save();
    chips.reset();
    chips.load(&high).unwrap();
    chips.line(5).set(false);
    assert!(chips.load(&at_first[..at_first.len() - 1]).is_err());
    assert_eq!(chips.failed(), None);

    let clock = KvmClock::new(r.vm.clone());
    clock.set(5_000_000_000);
    assert_eq!(clock.held_at(), Some(5_000_000_000));
    clock.release().unwrap();
    clock.set(0);
    assert_eq!(clock.held_at(), None);
    clock.hold().unwrap();
    let shown = clock.held_at().unwrap();
    assert!((5_000_000_000..8_000_000_000).contains(&shown), "{shown}");
}

#[test]
fn a_level_is_given_or_refused_by_name() {
    let Some(r) = rig(&SPIN) else { return };
    for level in 2..=4 {
        let model = CpuModel::Level(level);
        match model.leaves(&r.vm.host, 0, 1) {
            Ok(leaves) => {
                let has = |name: &str| {
                    let flag = crate::cpuid::FLAGS.iter().find(|f| f.name == name).unwrap();
                    leaves.has(flag)
                };
                assert!(has("ssse3") && has("hypervisor") && (level < 4 || has("avx512f")));
                assert!(!has("vmx") && !has("svm") && (level > 2 || !has("avx")));
            }
            Err(KvmError::MissingFlags { flags, .. }) => println!("{model} lacks {flags:?} here"),
            Err(e) => panic!("{e}"),
        }
    }
}

#[test]
fn the_schema_is_the_committed_one() {
    let mut schema = strata_state::Schema::default();
    VcpuState::describe_fields(&mut schema);
    crate::chips::ChipsState::describe_fields(&mut schema);
    crate::chips::KvmClockState::describe_fields(&mut schema);
    if std::env::var_os("STRATA_BLESS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/formats/state-kvm.schema");
        return std::fs::write(path, schema.text()).unwrap();
    }
    // Built in: this test runs in hosts too that have no source.
    let committed = include_str!("../../../docs/formats/state-kvm.schema");
    assert_eq!(committed, schema.text(), "the saved form differs; if that is meant, `cargo xtask bless`");
}

#[test]
fn a_loaded_state_writes_nothing_to_memory() {
    let Some(mut r) = rig(&SPIN) else { return };
    let there = [0x5a; 64];
    r.vm.ram().load(DATA, &there).unwrap();
    let mut s = r.cpu.state().unwrap();
    // An order to have the wall clock at DATA, given when the guest began.
    s.msrs.values.retain(|[n, _]| *n != 0x4b56_4d00);
    s.msrs.values.push([0x4b56_4d00, DATA]);
    r.cpu.set_state(&s).unwrap();
    let mut now = [0; 64];
    r.vm.ram().peek(DATA, &mut now).unwrap();
    assert_eq!(now, there);
}
