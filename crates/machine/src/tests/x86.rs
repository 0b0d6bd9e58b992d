//! Machines of the board `x86-micro` on this host's KVM, with guests of a few bytes. Where it has none, the tests say so
//! and pass.

use super::guest::*;
use super::pci::{Pci, ask_for_random};
use crate::{Board, BuildError, Exit, Machine, MachineSpec, Phase, Tier, Transport};
use std::io::Read;
use std::time::{Duration, Instant};
use strata_board::PartId;
use strata_memory::Presence;
use strata_state::StateFile;

const CODE: u32 = 0x10_0000;
const COUNT: u64 = 0x20_0000;

/// An ELF file with a PVH entry, of one segment at [`CODE`].
fn pvh(code: &[u8]) -> Vec<u8> {
    let mut note = Vec::new();
    [4_u32, 4, 18].iter().for_each(|w| note.extend(w.to_le_bytes()));
    note.extend(b"Xen\0");
    note.extend(CODE.to_le_bytes());
    let (phoff, note_at) = (64_u64, 64 + 2 * 56_u64);
    let code_at = note_at + note.len() as u64;
    let mut b = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    b.extend([2_u16, 62].iter().flat_map(|v| v.to_le_bytes()));
    b.extend(1_u32.to_le_bytes());
    b.extend([u64::from(CODE), phoff, 0].iter().flat_map(|v| v.to_le_bytes()));
    b.extend(0_u32.to_le_bytes());
    b.extend([64_u16, 56, 2, 64, 0, 0].iter().flat_map(|v| v.to_le_bytes()));
    for (kind, at, address, len) in
        [(1_u32, code_at, u64::from(CODE), code.len() as u64), (4, note_at, 0, note.len() as u64)]
    {
        b.extend(kind.to_le_bytes());
        b.extend(7_u32.to_le_bytes());
        b.extend([at, address, address, len, len, 4].iter().flat_map(|v| v.to_le_bytes()));
    }
    b.extend(note);
    b.extend(code);
    b
}

/// Prints `byte`: mov dx, 0x3f8; mov al, byte; out dx, al.
fn put(byte: u8) -> Vec<u8> {
    vec![0x66, 0xba, 0xf8, 0x03, 0xb0, byte, 0xee]
}

/// Counts at [`COUNT`] for ever: inc dword [COUNT]; jmp back.
fn count() -> Vec<u8> {
    [&[0xff, 0x05][..], &(COUNT as u32).to_le_bytes(), &[0xeb, 0xf8]].concat()
}

/// Powers off: mov dx, 0x600; mov al, 5 << 2 | 0x20; out dx, al; jmp to itself.
const OFF: [u8; 9] = [0x66, 0xba, 0x00, 0x06, 0xb0, 0x34, 0xee, 0xeb, 0xfe];
/// Resets: mov al, 0xfe; out 0x64, al; jmp to itself.
const RESET: [u8; 6] = [0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfe];

fn amd64(vcpus: u32) -> MachineSpec {
    MachineSpec { board: Board::X86Micro, ..spec(vcpus) }
}

/// A machine with that program; none where there is no KVM.
fn machine(vcpus: u32, code: &[u8]) -> Option<(Machine, Console)> {
    let (ours, console) = Console::pair();
    match crate::build(&amd64(vcpus), resources_of(None, kernel_placement(&pvh(code)), console)) {
        Ok(m) => Some((m, ours)),
        Err(BuildError::Kvm(
            e @ (strata_kvm::KvmError::Absent | strata_kvm::KvmError::Permission { .. }),
        )) => {
            println!("skipped here: {e}");
            None
        }
        Err(e) => panic!("{e}"),
    }
}

fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_program_prints_and_powers_off() {
    let Some((m, console)) = machine(2, &[put(b'h'), put(b'i'), OFF.to_vec()].concat()) else { return };
    assert_eq!((m.tier(), m.board()), ("kvm", Board::X86Micro));
    m.start().unwrap();
    assert_eq!(m.wait(), Exit::PowerOff(0));
    let printed = console.collect();
    drop(m);
    assert_eq!(printed.join().unwrap(), b"hi");
}

#[test]
fn what_vcpus_wrote_is_known_after_it_was_collected_and_goes_on_elsewhere() {
    let Some((m, console)) = machine(1, &count()) else { return };
    m.start().unwrap();
    until("it counts", || word(&m, COUNT) > 0);
    assert_eq!(m.pause().unwrap(), Phase::Paused);
    let stood = word(&m, COUNT);
    let page = (COUNT / 4096) as usize;
    let pages = m.ram().regions()[0].pages();
    assert!(m.writes_unseen() && pages.presence(page) == Presence::Zero);
    m.collect_dirty().unwrap();
    assert_eq!(pages.presence(page), Presence::Private);
    assert_eq!(pages.presence(page + 100), Presence::Zero, "nobody has written there");
    // From now on it is logged.
    let epoch = m.ram().begin_epoch();
    m.collect_dirty().unwrap();
    assert!(!pages.dirty_since(page, epoch));
    let state = m.save_state().unwrap();
    let mut memory = vec![0; 16 << 20];
    m.ram().peek(0, &mut memory).unwrap();
    assert_eq!(word(&m, COUNT), stood, "it ran on");
    m.unpause().unwrap();
    until("it goes on", || word(&m, COUNT) > stood);
    m.pause().unwrap();
    m.collect_dirty().unwrap();
    assert!(pages.dirty_since(page, epoch));
    // Without the log it is known again from what was ever written.
    assert!(m.logs_dirty());
    m.stop_log().unwrap();
    assert!(!m.logs_dirty());
    let epoch = m.ram().begin_epoch();
    m.collect_dirty().unwrap();
    assert!(m.logs_dirty() && pages.dirty_since(page, epoch));
    m.stop();
    drop((m, console));

    let (other, console) = machine(1, &count()).unwrap();
    other.ram().load(0, &memory).unwrap();
    other.load_state(&state).unwrap();
    other.start().unwrap();
    until("the other goes on", || word(&other, COUNT) > stood);
    other.stop();
    drop((other, console));

    let header = StateFile::parse(&state).unwrap().header;
    assert_eq!((header.board.as_str(), header.engine.as_str()), ("x86-micro", "kvm"));
    let mut endless = Asm::default();
    endless.jump(0);
    let (riscv, _console) = kernel(1, &endless.image());
    let e = riscv.load_state(&state).unwrap_err().to_string();
    assert!(e.contains("board x86-micro") && e.contains("riscv-virt"), "{e}");
}

#[test]
fn a_reset_begins_anew() {
    let Some((m, mut console)) = machine(1, &[put(b'x'), RESET.to_vec()].concat()) else { return };
    m.start().unwrap();
    let mut printed = [0; 3];
    console.from_guest.read_exact(&mut printed).unwrap();
    assert_eq!(&printed, b"xxx");
    m.stop();
}

/// As Linux does it to start again: to real mode, and to where a PC's firmware begins.
#[test]
fn a_jump_to_the_firmware_begins_anew() {
    // lgdt [0x8120]; ljmp 8:0x8000
    let code = [&put(b'x')[..], &[0x0f, 0x01, 0x15, 0x20, 0x81, 0, 0], &[0xea, 0, 0x80, 0, 0, 8, 0]].concat();
    let Some((m, mut console)) = machine(1, &code) else { return };
    // In a segment of 16 bits: mov eax, cr0; and al, 0xfe; mov cr0, eax; ljmp 0xf000:0xfff0.
    let to_real = [0x0f, 0x20, 0xc0, 0x24, 0xfe, 0x0f, 0x22, 0xc0, 0xea, 0xf0, 0xff, 0x00, 0xf0];
    m.ram().load(0x8000, &to_real).unwrap();
    m.ram().load(0x8108, &0x0000_9b00_0000_ffff_u64.to_le_bytes()).unwrap();
    m.ram().load(0x8120, &[0x0f, 0, 0, 0x81, 0, 0]).unwrap();
    m.start().unwrap();
    // The second time, what stood in memory is gone, and the machine ends.
    let mut printed = [0; 2];
    console.from_guest.read_exact(&mut printed).unwrap();
    assert_eq!(&printed, b"xx");
}

#[test]
fn a_device_on_the_pci_bus_is_notified_at_its_bar_and_answers_by_a_message() {
    const RINGS: u64 = 0x30_0000;
    let bar: u32 = 0xe800_0000 + 8 * 0x1_0000;
    // mov word [BAR + 0x3000], 0; then wait for the used index, and print.
    let mut code = vec![0x66, 0xc7, 0x05];
    code.extend((bar + 0x3000).to_le_bytes());
    code.extend([0, 0]);
    code.extend([0x66, 0x83, 0x3d]); // cmp word [RINGS + 0x202], 1
    code.extend((RINGS as u32 + 0x202).to_le_bytes());
    code.extend([1, 0x75, 0xf6]); // jne back
    code.extend([put(b'k'), OFF.to_vec()].concat());
    let (ours, console) = Console::pair();
    let spec = MachineSpec { transport: Transport::Pci, ..amd64(1) };
    let m = match crate::build(&spec, resources_of(None, kernel_placement(&pvh(&code)), console)) {
        Ok(m) => m,
        Err(BuildError::Kvm(
            e @ (strata_kvm::KvmError::Absent | strata_kvm::KvmError::Permission { .. }),
        )) => return println!("skipped here: {e}"),
        Err(e) => panic!("{e}"),
    };
    let base = |part| Board::X86Micro.place(part, 0).unwrap().base;
    let pci = Pci { bus: &*m.bus, ecam: base(PartId::PcieEcam), window: base(PartId::PcieMmio) };
    assert_eq!(
        (pci.config(0, 0, 4), pci.config(8, 0, 4), pci.config(8, 0x3d, 1)),
        (0x0008_1b36, 0x1044_1af4, 0)
    );
    // Messages on, vector 1 to the local APIC of the one vCPU: it is off, which is its right.
    let mut at = pci.config(8, 0x34, 1);
    while pci.config(8, at, 1) != 0x11 {
        at = pci.config(8, at + 1, 1);
    }
    pci.set_config(8, at + 2, 2, 0x8000);
    assert_eq!(ask_for_random(&m, &pci, RINGS, Some(1)), u64::from(bar));
    let row = |word: u64, value: u64| m.bus.write(u64::from(bar) + 0x4010 + word, 4, value).unwrap();
    [(0, 0xfee0_0000), (8, 0x41), (12, 0)].into_iter().for_each(|(word, value)| row(word, value));
    m.start().unwrap();
    let (exit, m) = within(Duration::from_secs(20), move || (m.wait(), m));
    assert_eq!(exit, Exit::PowerOff(0));
    assert_eq!(m.bus.read(u64::from(bar) + 0x1000, 1), Ok(0), "it went by a message");
    let printed = ours.collect();
    drop(m);
    assert_eq!(printed.join().unwrap(), b"k");
}

#[test]
fn a_vcpu_that_cannot_go_on_ends_the_machine_with_its_registers() {
    // lidt with a limit of 0; ud2: a triple fault. The other vCPU, which nobody has started, changes nothing.
    let code = [0x0f, 0x01, 0x1d, 0, 0, 0x30, 0, 0x0f, 0x0b];
    let Some((m, _console)) = machine(2, &code) else { return };
    m.start().unwrap();
    let exit = within(Duration::from_secs(20), move || m.wait());
    assert!(matches!(&exit, Exit::Stuck(why) if why.contains("rip")), "{exit:?}");
}

#[test]
fn what_only_the_software_engine_has_is_refused_by_name() {
    for (spec, tier, word) in [
        (MachineSpec { deterministic: true, ..amd64(1) }, None, "repeat"),
        (amd64(1), Some(Tier::Interpreter), "tiers"),
        (MachineSpec { processor: Some("x86-64-v2".into()), ..spec(1) }, None, "processor models"),
    ] {
        let (_ours, console) = Console::pair();
        let resources = resources_of(tier, kernel_placement(&pvh(&OFF)), console);
        let Err(e) = crate::build(&spec, resources) else { panic!("it was built") };
        assert!(e.to_string().contains(word), "{e}");
    }
}
