//! Configuration space, windows and interrupts as a guest's PCI code uses them.

use super::*;
use crate::{Mmio, Shared};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use strata_engine::{Bus, IrqLine, IrqSink, MsiSink};
use strata_state::laws;

/// Messages, and levels of wires, as they come.
#[derive(Default)]
pub(crate) struct Seen {
    pub messages: Mutex<Vec<(u64, u32)>>,
    pub wires: AtomicU32,
}

impl MsiSink for Seen {
    fn send(&self, address: u64, data: u32) {
        self.messages.lock().unwrap().push((address, data));
    }
}

impl IrqSink for Seen {
    fn set_line(&self, line: u32, level: bool) {
        match level {
            true => self.wires.fetch_or(1 << line, SeqCst),
            false => self.wires.fetch_and(!(1 << line), SeqCst),
        };
    }
}

const IDENTITY: Identity = Identity {
    vendor: 0x1234,
    device: 0x5678,
    revision: 9,
    class: 0x01_0203,
    subsystem: [0xaaaa, 0xbbbb],
    pin: true,
    memory: 0x1000,
};

fn header() -> Header {
    let capability = |id: u8, len: usize| Capability { id, body: vec![id; len] };
    Header::new(&IDENTITY, &[capability(9, 14), capability(17, 3), capability(9, 2)]).0
}

#[test]
fn a_header_says_what_the_function_is() {
    let h = header();
    assert_eq!(h.read(0, false), 0x5678_1234);
    assert_eq!(h.read(4, false), 0x0010_0000);
    assert_eq!(h.read(4, true), 0x0018_0000);
    assert_eq!(h.read(8, false), 0x0102_0309);
    assert_eq!(h.read(0x2c, false), 0xbbbb_aaaa);
    assert_eq!(h.read(0x3c, false), 0x0100);
    // The list of capabilities, by its links.
    let byte = |at: u8| h.read(at & !3, false) >> (8 * (at & 3)) & 0xff;
    let (mut at, mut found) = (byte(0x34) as u8, vec![]);
    while at != 0 {
        found.push((byte(at), at));
        at = byte(at + 1) as u8;
    }
    assert_eq!(found, [(9, 0x40), (17, 0x50), (9, 0x58)]);
}

#[test]
fn a_bar_tells_its_size_and_answers_when_it_may() {
    let mut h = header();
    h.write(0x10, u32::MAX, u32::MAX);
    assert_eq!(h.read(0x10, false), 0xffff_f000);
    assert_eq!(h.base(), None);
    h.write(0x10, u32::MAX, 0xe000_1234);
    // One byte of the command register.
    h.write(4, 0xff, 0xffff_ffff);
    assert_eq!(h.read(4, false) & 0xffff, 6);
    assert_eq!(h.base(), Some(0xe000_1000));
    h.write(0x14, u32::MAX, u32::MAX);
    assert_eq!(h.read(0x14, false), 0);
    let mut none = Header::new(&Identity { memory: 0, ..IDENTITY }, &[]).0;
    none.write(0x10, u32::MAX, u32::MAX);
    none.write(4, u32::MAX, u32::MAX);
    assert_eq!((none.read(0x10, false), none.base()), (0, None));
    assert!(none.accepts(&none.s) && none.no_pin());
    assert!(!none.accepts(&HeaderState { bar: 0x1000, ..Header::fresh() }));
}

proptest! {
    /// Whatever is written, what says who the function is stays, and what can be read back is what may be written.
    #[test]
    fn nothing_else_can_be_written(writes in prop::collection::vec((any::<u8>(), any::<u32>(), any::<u32>()), 0..64)) {
        let (mut h, fresh) = (header(), header());
        for (at, mask, value) in writes {
            h.write(at, mask, value);
        }
        prop_assert!(h.accepts(&h.s));
        for at in (0..=255_u8).step_by(4).filter(|at| ![4, 0xc, 0x10, 0x3c].contains(at)) {
            prop_assert_eq!(h.read(at, false), fresh.read(at, false), "{:#x}", at);
        }
    }
}

/// A function with a byte of its own at every place.
struct Memory(Header, Arc<Home>, [u8; 0x1000]);

impl Memory {
    fn new(window: std::ops::Range<u64>) -> Memory {
        Memory(header(), Home::new(0x1000, window), [0; 0x1000])
    }
}

impl Function for Memory {
    fn read_config(&mut self, at: u8) -> u32 {
        self.0.read(at, false)
    }
    fn write_config(&mut self, at: u8, mask: u32, value: u32) {
        self.0.write(at, mask, value);
        self.1.set(self.0.base());
    }
    fn read_memory(&mut self, offset: u64, size: u8) -> u64 {
        (0..size.into()).fold(0, |v, n| v | u64::from(self.2[(offset + n) as usize]) << (8 * n))
    }
    fn write_memory(&mut self, offset: u64, size: u8, value: u64) {
        (0..size.into()).for_each(|n| self.2[(offset + n) as usize] = (value >> (8 * n)) as u8);
    }
}

impl strata_state::Stateful for Memory {
    type State = HeaderState;
    fn state(&self) -> HeaderState {
        self.0.s.clone()
    }
    fn reset_state(&self) -> HeaderState {
        Header::fresh()
    }
    fn set_state(&mut self, s: HeaderState) {
        self.0.s = s;
    }
    fn settle(&mut self) {
        self.1.set(self.0.base());
    }
}

#[test]
fn configuration_space_is_where_the_number_says() {
    let mut ecam = Ecam::default();
    let function: Shared<dyn Function> = Arc::new(Mutex::new(Memory::new(0..1)));
    assert!(ecam.add(0, Arc::new(Mutex::new(HostBridge::default()))) && ecam.add(3, function.clone()));
    assert!(!ecam.add(3, function.clone()) && !ecam.add(DEVICES, function));
    let device = |n: u64| n << 15;
    assert_eq!(ecam.read(device(0), 4), 0x0008_1b36);
    assert_eq!(ecam.read(device(0) + 8, 4), 0x0600_0000);
    assert_eq!(ecam.read(device(3), 2), 0x1234);
    assert_eq!(ecam.read(device(3) + 2, 2), 0x5678);
    assert_eq!(ecam.read(device(3) + 11, 1), 1);
    assert_eq!(ecam.read(device(3) + 0x100, 4), 0, "no extended capability");
    // Nobody: another device, another function of one that is there, another bus.
    for at in [device(1), device(3) + 0x1000, 1 << 20, 0xfff_f000] {
        assert_eq!([1, 2, 4].map(|size| ecam.read(at, size)), [0xff, 0xffff, 0xffff_ffff], "{at:#x}");
        ecam.write(at, 4, 0);
    }
    ecam.write(device(3) + 4, 1, 2);
    ecam.write(device(3) + 5, 1, 4);
    ecam.write(device(3) + 0x3c, 4, 0xffff_ff0b);
    assert_eq!(ecam.read(device(3) + 4, 2), 0x402);
    assert_eq!(ecam.read(device(3) + 0x3c, 4), 0x010b);
    assert_eq!(laws::check(&mut ecam), Ok(()));
    assert_eq!(laws::check(&mut HostBridge::default()), Ok(()));
}

#[test]
fn memory_answers_where_its_bar_is_and_only_in_the_window() {
    const WINDOW: std::ops::Range<u64> = 0x4000_0000..0x4010_0000;
    let functions = [0, 1].map(|_| Arc::new(Mutex::new(Memory::new(WINDOW))));
    let moves = Arc::new(Mutex::new(vec![]));
    let noted = moves.clone();
    functions[0].lock().unwrap().1.on_move(move |old, new| noted.lock().unwrap().push((old, new)));
    let mut window = Window::default();
    for f in &functions {
        let home = f.lock().unwrap().1.clone();
        window.add(home, f.clone());
    }
    let put = |n: usize, bar: u32, command: u32| {
        let mut f = functions[n].lock().unwrap();
        f.write_config(0x10, u32::MAX, bar);
        f.write_config(4, u32::MAX, command);
    };
    assert_eq!(window.read(0x4000_0000, 4), Ok(0xffff_ffff));
    put(0, 0x4000_1000, 2);
    put(1, 0x4000_2000, 2);
    window.write(0x4000_1ff8, 8, 0x0102_0304_0506_0708).unwrap();
    window.write(0x4000_2000, 2, 0xaabb).unwrap();
    assert_eq!(window.read(0x4000_1ffc, 2), Ok(0x0304));
    assert_eq!(window.read(0x4000_2000, 4), Ok(0xaabb));
    assert_eq!(window.read(0x4000_1ffe, 4), Ok(0xffff_ffff), "across two functions is nobody's");
    put(0, 0x4000_2000, 2);
    assert_eq!(window.read(0x4000_2ff8, 8), Ok(0x0102_0304_0506_0708), "the lower device answers");
    put(0, 0x400f_f000, 2);
    put(0, 0x4010_0000, 2);
    assert_eq!(window.read(0x4010_0000, 1), Ok(0xff), "outside");
    put(0, 0x4000_0000, 0);
    let at = |n: u64| Some(0x4000_0000 + n);
    let expected = [
        (None, at(0x1000)),
        (at(0x1000), at(0x2000)),
        (at(0x2000), at(0xf_f000)),
        (at(0xf_f000), None),
        (None, at(0)),
        (at(0), None),
    ];
    // Moving with memory accesses on passes no place in between: the BAR is one register.
    assert_eq!(*moves.lock().unwrap(), expected);
}

#[test]
fn a_wire_is_high_as_long_as_anyone_wants_it() {
    let seen = Arc::new(Seen::default());
    let pins = Pins::new([0, 1, 2, 3].map(|n| IrqLine::new(seen.clone(), n)));
    let [a, b, c] = [1, 5, 6].map(|n| pins.of(n));
    a.set(true);
    b.set(true);
    c.set(true);
    assert_eq!(seen.wires.load(SeqCst), 0b110);
    a.set(false);
    c.set(false);
    assert_eq!(seen.wires.load(SeqCst), 0b010);
    b.set(false);
    assert_eq!(seen.wires.load(SeqCst), 0);
}

#[test]
fn messages_wait_for_their_mask() {
    let seen = Arc::new(Seen::default());
    let irq = Interrupts::new(IrqLine::new(seen.clone(), 0), Some(seen.clone()), 3);
    let sent = || std::mem::take(&mut *seen.messages.lock().unwrap());
    assert_eq!((irq.vectors(), irq.control(), irq.vector(2), irq.vector(3)), (3, 2, 2, NO_VECTOR));
    for n in 0..3 {
        for (word, value) in [0xfee0_0003, 0, 0x40 + n as u32].into_iter().enumerate() {
            irq.write_table(16 * n + 4 * word as u64, value);
        }
    }
    assert_eq!([0, 4, 8, 12, 48].map(|at| irq.read_table(at)), [0xfee0_0000, 0, 0x40, 1, 0]);
    irq.send(0);
    assert_eq!(irq.read_pending(0), 0, "off");
    irq.set_control(0xffff, 0xc000);
    irq.write_table(12, 0);
    irq.send(0);
    irq.send(2);
    irq.send(NO_VECTOR);
    assert_eq!((sent(), irq.read_pending(0), irq.read_pending(4)), (vec![], 0b101, 0));
    irq.set_control(0x4000, 0);
    assert_eq!((sent(), irq.read_pending(0)), (vec![(0xfee0_0000, 0x40)], 0b100));
    let saved = irq.state();
    assert!(irq.accepts(&saved, 3));
    irq.write_table(16 * 2 + 12, 0);
    assert_eq!(sent(), [(0xfee0_0000, 0x42)]);
    // Another one goes on with what was pending.
    let other = Interrupts::new(IrqLine::unconnected(), Some(seen.clone()), 3);
    other.set_state(saved.clone());
    assert_eq!(sent(), []);
    other.write_table(16 * 2 + 12, 0);
    assert_eq!(sent(), [(0xfee0_0000, 0x42)]);
    // One with more vectors takes it for an older build's.
    let later = Interrupts::new(IrqLine::unconnected(), Some(seen.clone()), 5);
    assert!(later.accepts(&saved, 3) && !later.accepts(&saved, 4));
    later.set_state(saved.clone());
    assert_eq!((later.state().table.len(), later.read_table(16 * 4 + 12)), (5, 1));
    // While messages are on, the pin is low.
    irq.set_line(0, true);
    assert_eq!((seen.wires.load(SeqCst), irq.level()), (0, true));
    irq.set_control(0x8000, 0);
    assert_eq!(seen.wires.load(SeqCst), 1);
    irq.set_no_pin(true);
    assert_eq!(seen.wires.load(SeqCst), 0);
    for break_it in [
        (|s| s.control = 1) as fn(&mut MsixState),
        |s| s.table.truncate(2),
        |s| s.table[1][3] = 2,
        |s| s.table[0][0] = 1,
        |s| s.pending = 8,
    ] {
        let mut s = saved.clone();
        break_it(&mut s);
        assert!(!irq.accepts(&s, 3), "{s:?}");
    }
    let silent = Interrupts::new(IrqLine::unconnected(), None, 3);
    assert!(silent.vectors() == 0 && silent.accepts(&silent.fresh(), 3) && !silent.accepts(&saved, 3));
}

proptest! {
    /// As many messages as causes, each once its row is not masked, whatever order masks and causes come in.
    #[test]
    fn no_cause_is_lost_and_none_is_told_while_masked(steps in prop::collection::vec((0..4_u8, 0..4_u16), 1..80)) {
        let seen = Arc::new(Seen::default());
        let irq = Interrupts::new(IrqLine::unconnected(), Some(seen.clone()), 4);
        (0..4).for_each(|n| irq.write_table(16 * n + 8, n as u32));
        irq.set_control(0x8000, 0x8000);
        let (mut masked, mut all, mut waits) = ([true; 4], false, [false; 4]);
        for (what, n) in steps {
            let v = usize::from(n);
            match what {
                0 => {
                    irq.send(n);
                    waits[v] = true;
                }
                1 => {
                    masked[v] = !masked[v];
                    irq.write_table(16 * u64::from(n) + 12, masked[v].into());
                }
                _ => {
                    all = n & 1 == 1;
                    irq.set_control(0x4000, if all { 0x4000 } else { 0 });
                }
            }
            let due: Vec<_> = (0..4).filter(|v| waits[*v] && !masked[*v] && !all).collect();
            due.iter().for_each(|v| waits[*v] = false);
            let sent: Vec<_> = seen.messages.lock().unwrap().drain(..).map(|(_, data)| data as usize).collect();
            prop_assert_eq!(sent, due);
        }
    }
}
