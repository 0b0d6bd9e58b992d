//! The laws of parts over every device, and a machine that goes on elsewhere.

use super::blk::{Spy, header, spy};
use super::driver::*;
use crate::Mmio;
use crate::virtio::blk::request;
use crate::virtio::{Device, EmptySlot, rng};
use strata_block::MemDisk;
use strata_engine::SeededEntropy;
use strata_memory::{GuestRam, PAGE};
use strata_state::{Part, Schema, laws};

/// Holds the laws in every state between power-on and a stopped device.
fn lawful<D: Device>(mut d: Driver<D>) {
    let check = |d: &Driver<D>, when: &str| {
        let saved = d.dev.lock().unwrap().save();
        let law = laws::check(&mut *d.dev.lock().unwrap());
        assert_eq!(law, Ok(()), "{} {when}", D::NAME);
        d.dev.lock().unwrap().load(&saved).unwrap();
    };
    check(&d, "as built");
    let features = d.offered();
    d.negotiate(features);
    check(&d, "negotiated");
    d.init(features, 8);
    check(&d, "ready");
    let gpa = d.room(64);
    for q in 0..D::QUEUES.len() as u16 {
        d.add(q, &[(gpa, 16, false), (gpa + 16, 48, true)]);
        d.kick(q);
    }
    check(&d, "with chains waiting");
    d.turn();
    check(&d, "after serving");
    d.ram.load(d.avail(0) + 2, &[0, 0x40]).unwrap();
    d.kick(0);
    d.doorbell.ring();
    for q in 0..D::QUEUES.len() as u16 {
        d.ram.load(d.avail(q) + 2, &[0, 0x40]).unwrap();
    }
    d.turn();
    check(&d, "after nonsense");
    d.dev.lock().unwrap().reset();
    assert_eq!([d.r(0x70), d.r(0x60), d.r(0x44)], [0, 0, 0]);
}

#[test]
fn every_device_obeys_the_laws() {
    lawful(Driver::new(spy().make()));
    lawful(Driver::new(|w| rng(w, Box::new(SeededEntropy(1)))));
    let (d, _keyboard, _screen) = super::console::ready();
    lawful(d);
    lawful(super::net::quiet());
    assert_eq!(laws::check(&mut EmptySlot), Ok(()));
}

#[test]
fn the_schema_lists_every_record() {
    let mut s = Schema::default();
    for part in devices() {
        part.lock().unwrap().describe(&mut s);
    }
    EmptySlot.describe(&mut s);
    let expect = include_str!("schema.txt");
    assert_eq!(s.text(), expect, "a change of format needs a new version and a new schema.txt");
}

fn devices() -> Vec<crate::Shared<dyn Mmio>> {
    vec![
        Driver::new(spy().make()).dev,
        Driver::new(|w| rng(w, Box::new(SeededEntropy(1)))).dev,
        super::console::ready().0.dev,
        super::net::quiet().dev,
    ]
}

/// Guest memory with the same contents.
fn copy(ram: &GuestRam) -> GuestRam {
    let to = super::driver::ram();
    let mut page = [0; PAGE as usize];
    for gpa in (RAM..RAM + RAM_SIZE).step_by(PAGE as usize) {
        ram.peek(gpa, &mut page).unwrap();
        to.load(gpa, &page).unwrap();
    }
    to
}

#[test]
fn requests_that_wait_are_served_where_the_machine_goes_on() {
    let here = spy();
    let mut d = Driver::ready(here.make(), 0);
    let (head, data, status) = (d.buffer(&header(request::IN, 1)), d.room(512), d.room(1));
    let bufs = [(head, 16, false), (data, 512, true), (status, 1, true)];
    assert_eq!(d.request(0, &bufs), 513);
    d.w(0x64, 1);
    let heads = [d.add(0, &bufs), d.add(0, &bufs)];
    d.kick(0);
    let saved = d.dev.lock().unwrap().save();

    let there = Spy::new(MemDisk::from_bytes(here.bytes()));
    let mut e = Driver::on(copy(&d.ram), there.make());
    e.turn();
    e.dev.lock().unwrap().load(&saved).unwrap();
    e.queues = d.queues.clone();
    assert!(e.doorbell.rung(), "nobody will notify for what was notified before");
    e.turn();
    assert_eq!([e.used(0), e.used(0), e.used(0)], [Some((heads[0], 513)), Some((heads[1], 513)), None]);
    assert_eq!(e.r(0x60), 1);
    assert!(e.wire.level.load(std::sync::atomic::Ordering::SeqCst));
    assert_eq!(e.request(0, &bufs), 513);
}

#[test]
fn a_record_that_does_not_fit_is_refused_and_changes_nothing() {
    let d = Driver::ready(spy().make(), 0);
    let saved = d.dev.lock().unwrap().save();
    let smaller = Driver::new(Spy::new(MemDisk::new(4096)).make());
    let before = smaller.dev.lock().unwrap().save();
    let e = smaller.dev.lock().unwrap().load(&saved).unwrap_err().to_string();
    assert!(e.contains("64 sectors") && e.contains("has 8"), "{e}");
    assert_eq!(smaller.dev.lock().unwrap().save(), before);
    // A read-only disk lacks features that the driver uses.
    let read_only = Driver::new(Spy::new(MemDisk::from_bytes(vec![0; 64 * 512]).into_read_only()).make());
    let e = read_only.dev.lock().unwrap().load(&saved).unwrap_err().to_string();
    assert!(e.contains("features"), "{e}");
    // RAM that is too small for the rings.
    let little = GuestRam::single(RAM, PAGE).unwrap();
    let e = Driver::on(little, spy().make()).dev.lock().unwrap().load(&saved).unwrap_err().to_string();
    assert!(e.contains("not RAM"), "{e}");
}
