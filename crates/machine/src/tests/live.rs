//! Snapshots of a machine that goes on writing: by its harts, with rights they have cached, and by a device.

use super::guest::*;
use crate::{Machine, Phase, Tier};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use strata_isa::Op;
use strata_memory::{FIRST_EPOCH, GuestRam};
use strata_snapshot::{MachineRef, Manifest, SetReader, SetWriter};

const LEN: u64 = 16 << 20;
/// The entropy device's registers, its queue (descriptors, available and used ring a page each) and buffers.
const RNG: u64 = 0x1000_8000;
const QUEUE: u64 = RAM + 0x90_0000;
const BUFFERS: u64 = RAM + 0xa0_0000;
/// What the other hart writes: pages that it writes all the time, and many that it writes now and then.
const HOT: u64 = RAM + 0xb0_0000;
const COLD: u64 = RAM + 0xb4_0000;

/// A hart that lets the entropy device fill 64 pages for ever, one after the other, and counts in memory while it waits; and
/// one that stores and adds to 16 pages for ever, and to one of 256 more each time.
fn writers() -> Asm {
    let mut a = Asm::default();
    let skip = a.hole();
    let second = a.here();
    a.li(S0, HOT).li(S1, COLD).li(A2, 0x1000).addi(A0, 0, 0);
    let round = a.here();
    a.addi(T1, S0, 0).addi(T2, 0, 16);
    let page = a.here();
    a.addi(A0, A0, 1).op(Op::Sd, 0, T1, A0, 64).op(Op::AmoaddD, T0, T1, A0, 0).op(Op::Sb, 0, T1, A0, 129);
    a.op(Op::Add, T1, T1, A2, 0).addi(T2, T2, -1).branch(Op::Bne, T2, 0, page);
    a.op(Op::Andi, T0, A0, 0, 0xff).op(Op::Slli, T0, T0, 0, 12).op(Op::Add, T0, T0, S1, 0);
    a.op(Op::Sd, 0, T0, A0, 2040).jump(round);
    a.land(skip);
    // The queue's descriptors: 64 buffers of a page, for the device to write.
    a.li(S0, RNG).li(S1, QUEUE).li(T0, BUFFERS).li(A2, 0x1000).addi(T1, 0, 64).li(T2, 0x2_0000_1000);
    let descriptor = a.here();
    a.op(Op::Sd, 0, S1, T0, 0).op(Op::Sd, 0, S1, T2, 8).addi(S1, S1, 16).op(Op::Add, T0, T0, A2, 0);
    a.addi(T1, T1, -1).branch(Op::Bne, T1, 0, descriptor);
    for (register, value) in [
        (0x70, 0),
        (0x70, 3),
        (0x24, 1),
        // VIRTIO_F_VERSION_1, and nothing else.
        (0x20, 1),
        (0x24, 0),
        (0x20, 0),
        (0x70, 11),
        (0x30, 0),
        (0x38, 64),
        (0x80, QUEUE),
        (0x84, 0),
        (0x90, QUEUE + 0x1000),
        (0x94, 0),
        (0xa0, QUEUE + 0x2000),
        (0xa4, 0),
        (0x44, 1),
        (0x70, 15),
    ] {
        a.li(T0, value).op(Op::Sw, 0, S0, T0, register);
    }
    a.call(HSM, 0, &[1, Asm::address(second), 0]);
    a.li(S0, RNG).li(S1, QUEUE + 0x1000).li(A1, QUEUE + 0x2000).addi(A0, 0, 0).addi(A2, 0, 0);
    let offer = a.here();
    a.op(Op::Andi, T0, A0, 0, 63).op(Op::Slli, T1, T0, 0, 1).op(Op::Add, T1, T1, S1, 0).op(
        Op::Sh,
        0,
        T1,
        T0,
        4,
    );
    a.addi(A0, A0, 1).op(Op::Fence, 0, 0, 0, 0xff).op(Op::Sh, 0, S1, A0, 2);
    a.op(Op::Fence, 0, 0, 0, 0xff).op(Op::Sw, 0, S0, 0, 0x50);
    let wait = a.here();
    a.addi(A2, A2, 1).op(Op::Sd, 0, S1, A2, 2032).op(Op::Lhu, T2, A1, 0, 2);
    a.op(Op::Slli, T1, A0, 0, 48).op(Op::Srli, T1, T1, 0, 48).branch(Op::Bne, T1, T2, wait);
    a.jump(offer);
    a
}

fn bytes(ram: &GuestRam) -> Vec<u8> {
    let mut all = vec![0; LEN as usize];
    ram.peek(RAM, &mut all).unwrap();
    all
}

/// A moment that was saved: its set, its dirty epoch, and all of memory.
struct Moment {
    set: PathBuf,
    epoch: u32,
    memory: Vec<u8>,
}

/// Saves the machine as it is now over `base`, while it goes on.
fn save(m: &Machine, dir: &Path, n: usize, base: Option<(&Path, u32)>) -> Moment {
    let set = dir.join(format!("s{n}"));
    let mut writer = SetWriter::create(&dir.join(".new")).unwrap();
    if let Some((below, since)) = base {
        writer.stand_on(below, since).unwrap();
    }
    assert_eq!(m.pause().unwrap(), Phase::Paused);
    let epoch = writer.begin(m.ram(), m.save_state().unwrap()).unwrap();
    let memory = bytes(m.ram());
    m.unpause().unwrap();
    let machine = MachineRef { board: "riscv-virt".into(), engine: "soft".into(), cpus: 2, memory: LEN };
    let manifest = Manifest::new(format!("{n:032x}"), machine, Default::default());
    let manifest = writer.finish(manifest, &set, &AtomicBool::new(false)).unwrap();
    assert_eq!(manifest.below.is_empty(), base.is_none());
    Moment { set, epoch, memory }
}

#[test]
fn no_write_of_a_hart_or_a_device_is_missed() {
    for tier in Tier::ALL.into_iter().filter(|t| t.check().is_ok()) {
        within(Duration::from_secs(120), move || {
            let dir = tempfile::tempdir().unwrap();
            let (m, console) = machine_of(&spec(2), Some(tier), kernel_placement(&writers().image()));
            let _output = console.collect();
            m.start().unwrap();
            let count = || word(&m, HOT + 64);
            // The used ring's index; the device may get no processor for long.
            let used = || word(&m, QUEUE + 0x2000) >> 16 & 0xffff;
            let mut moments: Vec<Moment> = Vec::new();
            for n in 0..7 {
                let (before, used_before) = (count(), used());
                while count() < before + 2000 || used() == used_before {
                    std::thread::sleep(Duration::from_millis(1));
                }
                std::thread::sleep(Duration::from_micros(n as u64 * 731 % 3000));
                let base = moments.last().map(|b| (b.set.as_path(), b.epoch));
                moments.push(save(&m, dir.path(), n, base));
            }
            // Both wrote all the time.
            for pair in moments.windows(2) {
                let page = |m: &Moment, gpa: u64| m.memory[(gpa - RAM) as usize..][..4096].to_vec();
                assert!(page(&pair[0], HOT) != page(&pair[1], HOT));
                let filled = (0..64)
                    .filter(|b| page(&pair[0], BUFFERS + b * 4096) != page(&pair[1], BUFFERS + b * 4096));
                assert!(filled.count() > 0, "the device has written nothing");
            }
            m.stop();
            for (n, moment) in moments.iter().enumerate() {
                let ram = SetReader::open(&moment.set).unwrap().memory().map(RAM).unwrap();
                assert!(bytes(&ram) == moment.memory, "{}: moment {n} differs", tier.name());
            }
            // A machine that goes on from the last one knows what it has written since.
            let last = SetReader::open(&moments[6].set).unwrap();
            let (ours, console) = Console::pair();
            let _output = ours.collect();
            let mut resources = resources_of(Some(tier), kernel_placement(&writers().image()), console);
            let (ram, state) = (last.memory().map(RAM).unwrap(), last.state().to_vec());
            resources.restore = Some(crate::Restore { ram, state, generation: None, passed: 0 });
            let m = crate::build(&spec(2), resources).unwrap();
            m.start().unwrap();
            std::thread::sleep(Duration::from_millis(20));
            let moment = save(&m, dir.path(), 7, Some((&moments[6].set, FIRST_EPOCH)));
            m.stop();
            let ram = SetReader::open(&moment.set).unwrap().memory().map(RAM).unwrap();
            assert!(bytes(&ram) == moment.memory, "{}: after going on", tier.name());
        });
    }
}
