use super::driver::*;
use crate::Mmio;
use crate::virtio::{EmptySlot, rng, status};
use std::sync::atomic::Ordering::SeqCst;
use strata_engine::SeededEntropy;

fn make(w: crate::virtio::Wiring) -> std::io::Result<crate::virtio::Built<crate::virtio::rng::Rng>> {
    rng(w, Box::new(SeededEntropy(1)))
}

#[test]
fn a_device_says_who_it_is_and_an_empty_slot_that_it_is_none() {
    let d = Driver::new(make);
    assert_eq!([0, 4, 8].map(|o| d.r(o)), [0x7472_6976, 2, 4]);
    assert_eq!([0xb0, 0xb4, 0xb8, 0xbc].map(|o| d.r(o)), [u32::MAX; 4]);
    assert_eq!([0, 4, 8].map(|o| EmptySlot.read(o, 4)), [0x7472_6976, 2, 0]);
    let mut dev = d.dev.lock().unwrap();
    for (offset, size) in [(0, 1), (0, 2), (0, 8), (1, 4), (0xfff, 1), (0x100, 8), (0xff8, 8)] {
        assert_eq!(dev.read(offset, size), 0, "{offset:#x} {size}");
        dev.write(offset, size, u64::MAX);
    }
    assert_eq!(dev.read(0x70, 4), 0);
}

#[test]
fn features_stick_only_if_offered_and_modern() {
    let mut d = Driver::new(make);
    let all = d.offered();
    assert_eq!(all, VERSION_1 | INDIRECT | EVENT_IDX);
    for (features, status) in
        [(0, 3), (INDIRECT, 3), (all | 1, 3), (all | 1 << 63, 3), (VERSION_1, 11), (all, 11)]
    {
        d.negotiate(features);
        assert_eq!(d.r(0x70), status, "{features:#x}");
    }
    // Settled: later writes change nothing.
    d.w(0x24, 0);
    d.w(0x20, 1);
    d.w(0x70, 15);
    assert_eq!(d.r(0x70), 15);
    d.w(0x70, 1);
    assert_eq!(d.r(0x70), 15, "bits are only added");
    d.w(0x70, 0);
    assert_eq!(d.r(0x70), 0);
    d.w(0x70, 7);
    assert_eq!(d.r(0x70), 3, "DRIVER_OK comes after FEATURES_OK");
}

#[test]
fn impossible_queues_make_the_device_ask_for_a_reset() {
    let mut d = Driver::new(make);
    let all = d.offered();
    let low = |gpa: u64| gpa as u32;
    let spoils: [(&str, &[(u64, u32)]); 8] = [
        ("not a power of two", &[(0x38, 12)]),
        ("zero", &[(0x38, 0)]),
        ("beyond the maximum", &[(0x38, 128)]),
        ("beyond 16 bits", &[(0x38, 0x1_0010)]),
        ("table misaligned", &[(0x80, low(RAM) + 8)]),
        ("available ring misaligned", &[(0x90, low(RAM) + 1)]),
        ("used ring not in RAM", &[(0xa4, 1)]),
        ("used ring over RAM's end", &[(0xa0, low(RAM + RAM_SIZE) - 64)]),
    ];
    for (what, writes) in spoils {
        d.negotiate(all);
        d.place_queue(0, 16);
        writes.iter().for_each(|&(reg, v)| d.w(reg, v));
        d.w(0x44, 1);
        assert_eq!(d.r(0x44), 0, "{what}");
        assert!(d.needs_reset(), "{what}");
        d.w(0x70, 15);
        assert_eq!(d.r(0x60), 0, "no interrupt before DRIVER_OK");
        d.w(0x70, 0);
        assert!(!d.needs_reset());
    }
    d.w(0x30, 7);
    assert_eq!((d.r(0x34), d.r(0x44)), (0, 0), "there is no queue 7");
    d.w(0x44, 1);
    assert!(!d.needs_reset());
}

#[test]
fn a_ready_queue_does_not_move() {
    let mut d = Driver::ready(make, 0);
    d.place_queue(0, 8);
    d.w(0x80, 0);
    let gpa = d.room(8);
    assert_eq!(d.request(0, &[(gpa, 8, true)]), 8);
    assert_ne!(d.bytes(gpa, 8), [0xee; 8]);
    // Ended and set up anew, it begins at index 0.
    d.w(0x44, 0);
    assert_eq!(d.r(0x44), 0);
    let features = d.features;
    d.init(features, 8);
    assert_eq!(d.request(0, &[(gpa, 4, true)]), 4);
}

#[test]
fn nothing_is_served_before_driver_ok() {
    let mut d = Driver::new(make);
    let all = d.offered();
    d.init(all, 16);
    d.w(0x70, 0);
    d.negotiate(all);
    d.place_queue(0, 16);
    d.w(0x44, 1);
    let gpa = d.room(8);
    d.add(0, &[(gpa, 8, true)]);
    d.kick(0);
    d.turn();
    assert_eq!(d.used(0), None);
    d.w(0x70, 15);
    assert!(d.doorbell.rung(), "what was queued before is looked at");
    d.turn();
    assert_eq!(d.used(0), Some((0, 8)));
}

#[test]
fn interrupts_come_and_are_acknowledged() {
    for without in [0, EVENT_IDX] {
        let mut d = Driver::ready(make, without);
        let gpa = d.room(8);
        d.request(0, &[(gpa, 8, true)]);
        assert_eq!(d.r(0x60), 1);
        assert!(d.wire.level.load(SeqCst));
        d.w(0x64, 3);
        assert_eq!(d.r(0x60), 0);
        assert!(!d.wire.level.load(SeqCst));
        // The driver wants none: by the flag, or by an event far away.
        let (avail, num) = (d.avail(0), 16);
        d.ram.load(avail, &1u16.to_le_bytes()).unwrap();
        d.ram.load(avail + 4 + 2 * num, &1000u16.to_le_bytes()).unwrap();
        d.request(0, &[(gpa, 8, true)]);
        assert_eq!(d.r(0x60), 0);
    }
}

#[test]
fn the_driver_is_asked_to_notify_only_when_the_queue_was_empty() {
    let mut d = Driver::ready(make, 0);
    let gpa = d.room(8);
    let event = d.used_ring(0) + 4 + 8 * 16;
    for _ in 0..3 {
        d.add(0, &[(gpa, 8, true)]);
    }
    assert_eq!(d.u16(event), 0);
    d.kick(0);
    d.turn();
    assert_eq!(d.u16(event), 3);
    let epoch = d.ram.regions()[0].pages().begin_epoch();
    d.turn();
    let page = ((d.used_ring(0) - RAM) / 4096) as usize;
    assert!(!d.ram.regions()[0].pages().dirty_since(page, epoch), "an idle queue writes nothing");
}

#[test]
fn indices_wrap() {
    for without in [0, EVENT_IDX] {
        let mut d = Driver::ready(make, without);
        let gpa = d.room(8);
        for round in 0..9000 {
            let heads: Vec<_> = (0..8).map(|_| d.add(0, &[(gpa, 1, true)])).collect();
            d.kick(0);
            d.turn();
            for h in heads {
                assert_eq!(d.used(0), Some((h, 1)), "round {round}");
            }
        }
        assert_eq!(d.used(0), None);
        assert!(d.wire.edges.load(SeqCst) > 0);
    }
}

#[test]
fn an_available_index_out_of_reach_stops_the_device() {
    let mut d = Driver::ready(make, 0);
    let avail = d.avail(0);
    d.ram.load(avail + 2, &17u16.to_le_bytes()).unwrap();
    d.kick(0);
    d.turn();
    assert!(d.needs_reset());
    assert_eq!(d.r(0x60), 2, "a configuration interrupt");
    assert_eq!(d.used(0), None);
    // It stays stopped, also with a good request, until it is reset.
    d.ram.load(avail + 2, &0u16.to_le_bytes()).unwrap();
    let gpa = d.room(8);
    d.add(0, &[(gpa, 8, true)]);
    d.kick(0);
    assert!(!d.doorbell.rung());
    d.turn();
    assert_eq!(d.used(0), None);
    d.w(0x70, u32::from(status::DRIVER_OK));
    assert!(d.needs_reset());
    let features = d.features;
    d.init(features, 16);
    assert_eq!(d.request(0, &[(gpa, 8, true)]), 8);
}

#[test]
fn a_driver_that_failed_is_left_alone() {
    let mut d = Driver::ready(make, 0);
    d.w(0x70, u32::from(status::FAILED));
    let gpa = d.room(8);
    d.add(0, &[(gpa, 8, true)]);
    d.kick(0);
    d.turn();
    assert_eq!(d.used(0), None);
}

#[test]
fn the_end_of_one_queue_makes_only_its_own_chains_stale() {
    let (mut d, _keyboard, _screen) = super::console::ready();
    let gpa = d.room(16);
    let heads = [0, 1].map(|q| d.add(q, &[(gpa, 16, q == 0)]));
    let ram = d.ram.clone();
    let tokens = [0, 1].map(|q| d.virtio.lock().unwrap().core.pop(q, &ram, &mut Vec::new()).1);
    d.w(0x30, 0);
    d.w(0x44, 0);
    d.virtio.lock().unwrap().core.complete(&tokens.map(|t| (t, 0)));
    assert_eq!([d.used(0), d.used(1)], [None, Some((heads[1], 0))]);
}
