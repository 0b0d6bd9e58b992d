use super::*;
use crate::serial::OUTPUT_LIMIT;
use proptest::prelude::*;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use strata_engine::IrqSink;
use strata_state::Part;

#[derive(Default)]
struct Pin(AtomicBool);
impl IrqSink for Pin {
    fn set_line(&self, _line: u32, level: bool) {
        self.0.store(level, SeqCst);
    }
}

struct Bench {
    u: Uart16550,
    link: Arc<SerialLink>,
    pin: Arc<Pin>,
}

fn bench() -> Bench {
    let (pin, link) = (Arc::new(Pin::default()), SerialLink::new().unwrap());
    Bench { u: Uart16550::new(IrqLine::new(pin.clone(), 0), link.clone()), link, pin }
}

impl Bench {
    fn r(&mut self, offset: u64) -> u8 {
        self.u.read(offset, 1) as u8
    }
    fn w(&mut self, offset: u64, value: u8) {
        self.u.write(offset, 1, value.into())
    }
    fn irq(&self) -> bool {
        self.pin.0.load(SeqCst)
    }
    fn output(&self) -> Vec<u8> {
        let mut buf = vec![0; OUTPUT_LIMIT];
        let n = self.link.peek(&mut buf);
        self.link.consume(n);
        buf.truncate(n);
        buf
    }
    /// As a kernel's driver has it: FIFOs on with trigger 8, receive interrupt on.
    fn open(&mut self) {
        self.w(2, 0x87);
        self.w(1, 0x05);
    }
}

#[test]
fn power_on_values_are_what_drivers_probe_for() {
    let mut b = bench();
    assert_eq!([1, 2, 3, 4, 5, 6, 7, 8, 255].map(|o| b.r(o)), [0, 1, 0, 8, 0x60, 0xb0, 0, 0, 0]);
    b.w(1, 0xff);
    assert_eq!(b.r(1), 0x0f);
    b.w(7, 0x5a);
    assert_eq!(b.r(7), 0x5a);
    b.w(2, 0x21); // the 64-byte FIFO of a 16750 is not there
    assert_eq!(b.r(2) & 0xe0, 0xc0);
}

#[test]
fn the_divisor_hides_behind_dlab() {
    let mut b = bench();
    b.w(3, 0x83);
    b.w(0, 0x34);
    b.w(1, 0x12);
    assert_eq!((b.r(0), b.r(1)), (0x34, 0x12));
    b.w(3, 3);
    assert_eq!((b.r(0), b.r(1)), (0, 0));
    assert!(b.output().is_empty());
}

#[test]
fn loopback_turns_bytes_and_modem_lines_around() {
    let mut b = bench();
    b.w(4, 0x1a); // the probe of Linux's driver
    assert_eq!(b.r(6) & 0xf0, 0x90);
    b.w(0, b'x');
    b.w(0, b'y');
    assert_eq!(b.r(5), 0x63, "one byte of room without FIFOs: overrun");
    assert_eq!((b.r(0), b.r(5)), (b'y', 0x60));
    assert!(b.output().is_empty());
    assert_eq!(b.u.receive(b"no"), 0);
    b.w(1, 8);
    b.w(4, 0x08);
    assert!(b.irq());
    assert_eq!((b.r(2), b.r(6)), (0, 0xb2));
    assert!(!b.irq());
}

#[test]
fn the_empty_transmitter_interrupts_as_drivers_expect() {
    let mut b = bench();
    b.w(1, 2);
    assert!(b.irq());
    assert_eq!((b.r(2), b.irq(), b.r(2)), (2, false, 1));
    b.w(1, 0);
    b.w(1, 2);
    assert_eq!((b.irq(), b.r(2)), (true, 2));
    b.w(0, b'a'); // gone at once: empty again
    assert_eq!((b.irq(), b.r(5)), (true, 0x60));
    assert_eq!(b.output(), b"a");
    b.w(1, 0);
    assert!(!b.irq());
}

#[test]
fn a_peer_that_does_not_read_holds_the_transmitter() {
    let mut b = bench();
    b.open();
    b.w(1, 7);
    b.r(2);
    b.link.send(&vec![b'.'; OUTPUT_LIMIT]);
    (0..20).for_each(|i| b.w(0, b'A' + i));
    assert_eq!((b.r(5), b.irq()), (0, false));
    b.output();
    assert!(!b.irq(), "nothing changes until the worker tells");
    b.u.output_resumed();
    assert_eq!((b.r(5), b.r(2)), (0x60, 0xc2));
    assert_eq!(b.output(), b"ABCDEFGHIJKLMNOP");
}

#[test]
fn received_bytes_interrupt_below_and_at_the_trigger() {
    let mut b = bench();
    b.open();
    assert_eq!(b.u.receive(b"abc"), 3);
    assert_eq!((b.irq(), b.r(2)), (true, 0xcc));
    assert_eq!(b.u.receive(&[b'.'; 20]), 13);
    assert_eq!((b.r(2), b.r(5)), (0xc4, 0x61));
    assert_eq!((b.u.room(), b.r(0), b.u.room()), (0, b'a', 1));
    (0..15).for_each(|_| assert!(b.r(0) > 0));
    assert_eq!((b.irq(), b.r(5), b.r(2)), (false, 0x60, 0xc1));
    b.u.receive(b"z");
    b.w(2, 0x83);
    assert_eq!((b.irq(), b.r(5)), (false, 0x60));
}

#[test]
fn input_waits_for_a_guest_that_listens() {
    let mut b = bench();
    for _ in 0..100 {
        // A console that only sends.
        b.r(5);
        b.w(0, b'x');
        b.r(5);
    }
    assert_eq!(b.u.receive(b"a"), 0);
    (0..POLLS_TO_LISTEN).for_each(|_| assert_eq!(b.r(5), 0x60));
    assert_eq!(b.u.receive(b"ab"), 1);
    b.w(2, 1); // switching the FIFOs on keeps it
    assert_eq!((b.r(5), b.r(0)), (0x61, b'a'));
}

#[test]
fn a_forged_state_is_refused() {
    let mut b = bench();
    let mut s = b.u.state();
    s.rx = vec![0; 17];
    assert!(b.u.load(&strata_state::write_record(&s)).is_err());
}

proptest! {
    #[test]
    fn laws_hold_after_any_accesses(ops in prop::collection::vec((0u64..9, any::<u8>(), 0u8..3), 0..60), full: bool) {
        let mut b = bench();
        if full {
            b.link.send(&vec![0; OUTPUT_LIMIT]);
        }
        for (offset, value, kind) in ops {
            match kind {
                0 => { b.r(offset); }
                1 => b.w(offset, value),
                _ => { b.u.receive(&[value, value]); }
            }
            prop_assert_eq!(b.irq(), b.u.interrupt() != iir::NONE);
        }
        strata_state::laws::check(&mut b.u).map_err(TestCaseError::fail)?;
    }
}
