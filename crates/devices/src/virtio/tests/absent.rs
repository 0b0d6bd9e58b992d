//! Pages that are not there: a queue is parked at any point, moves nothing, and goes on when they come.

use super::blk::{header, spy};
use super::driver::*;
use crate::virtio::blk::{Blk, request};
use strata_memory::Presence;

struct Setup {
    d: Driver<Blk>,
    data: u64,
    pages: Vec<(&'static str, u64)>,
}

/// One read of a sector, offered but not served, and every page that it needs.
fn offered() -> Setup {
    let spy = spy();
    let mut d = Driver::ready(spy.make(), 0);
    let (head, data, status) = (d.buffer(&header(request::IN, 2)), d.room(512), d.room(1));
    let table = d.room(64);
    let bufs = [(head, 16, false), (data, 512, true), (status, 1, true)];
    for (i, (addr, len, write)) in bufs.into_iter().enumerate() {
        let flags = u16::from(i < 2) | u16::from(write) << 1;
        d.desc(table, i as u16, addr, len, flags, i as u16 + 1);
    }
    d.desc(d.base(0), 0, table, 48, 4, 0);
    d.offer(0, 0);
    let pages = vec![
        ("descriptor table", d.base(0)),
        ("available ring", d.avail(0)),
        ("used ring", d.used_ring(0)),
        ("indirect table", table),
        ("header", head),
        ("data", data),
        ("status", status),
    ];
    Setup { d, data, pages }
}

#[test]
fn a_queue_parks_for_any_page_and_resumes() {
    for which in 0..7 {
        let Setup { mut d, data, pages } = offered();
        let (what, gpa) = pages[which];
        d.set_presence(gpa, Presence::Absent);
        d.kick(0);
        d.turn();
        assert!(!d.needs_reset(), "{what}");
        let parked = d.virtio.lock().unwrap().core.s.clone();
        assert_eq!((parked.queues[0].next_avail, parked.queues[0].next_used), (0, 0), "{what}");
        d.turn();
        assert_eq!(d.virtio.lock().unwrap().core.s, parked, "{what}: asking again changes nothing");
        d.set_presence(gpa, Presence::Private);
        d.doorbell.ring();
        d.turn();
        assert_eq!(d.used(0), Some((0, 513)), "{what}");
        assert_ne!(d.bytes(data, 512), [0xee; 512], "{what}");
        assert_eq!(d.r(0x60), 1, "{what}");
    }
}

#[test]
fn a_completion_waits_for_its_page_and_is_part_of_the_state() {
    let spy = spy();
    let mut d = Driver::ready(spy.make(), 0);
    let (head, data, status) = (d.buffer(&header(request::IN, 2)), d.room(512), d.room(1));
    d.add(0, &[(head, 16, false), (data, 512, true), (status, 1, true)]);
    d.kick(0);
    let (ram, used) = (d.ram.clone(), d.used_ring(0));
    *spy.during.lock().unwrap() = Some(Box::new(move || set_presence(&ram, used, Presence::Absent)));
    d.turn();
    let waiting = d.virtio.lock().unwrap().core.s.undelivered.clone();
    assert_eq!(waiting.iter().map(|c| (c.queue, c.head, c.len)).collect::<Vec<_>>(), [(0, 0, 513)]);
    assert_eq!(d.r(0x60), 0);

    let saved = d.dev.lock().unwrap().save();
    d.dev.lock().unwrap().reset();
    d.dev.lock().unwrap().load(&saved).unwrap();
    d.set_presence(used, Presence::Private);
    assert!(d.doorbell.rung());
    d.turn();
    assert_eq!((d.used(0), d.used(0), d.r(0x60)), (Some((0, 513)), None, 1));
    // A reset forgets what waits.
    d.add(0, &[(head, 16, false), (data, 512, true), (status, 1, true)]);
    d.turn();
    assert_eq!(d.virtio.lock().unwrap().core.s.undelivered.len(), 1);
    d.w(0x70, 0);
    assert_eq!(d.virtio.lock().unwrap().core.s.undelivered, []);
}
