use crate::*;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[test]
fn a_pin_alerts_only_when_it_changes() {
    let s = VcpuShared::default();
    s.set_pin(9, false);
    assert!(!s.attention());
    s.set_pin(9, true);
    assert!(s.take_attention());
    s.set_pin(9, true);
    assert!(!s.attention());
    assert_eq!(s.pins(), 1 << 9);
}

#[test]
fn a_sleeper_wakes_for_mail_and_the_ticket_is_honoured() {
    let s = Arc::new(VcpuShared::default());
    let t = std::thread::spawn({
        let s = s.clone();
        move || {
            let mut got = Vec::new();
            while got.len() < 2 {
                s.sleep(None);
                s.take_attention();
                s.serve_mail(|m| got.push(m));
            }
            got
        }
    });
    let a = s.send(Mail::FenceI);
    let b = s.send(Mail::DropPages);
    let end = Instant::now() + Duration::from_secs(10);
    while !(s.has_served(a) && s.has_served(b)) {
        assert!(Instant::now() < end, "mail was not served");
        std::thread::yield_now();
    }
    assert_eq!(t.join().unwrap(), [Mail::FenceI, Mail::DropPages]);
}

#[test]
fn a_flood_of_mail_becomes_a_full_fence() {
    let s = VcpuShared::default();
    let last = (0..1000).map(|i| s.send(Mail::FenceVma { start: i, size: 1, asid: Some(1) })).last().unwrap();
    let mut got = Vec::new();
    s.serve_mail(|m| got.push(m));
    assert!(got.len() < 40);
    assert!(got.contains(&Mail::FenceVma { start: 0, size: u64::MAX, asid: None }));
    assert!(s.has_served(last));
}

#[test]
fn the_clock_stands_still_while_stopped() {
    let c = GuestClock::stopped_at(1000);
    assert_eq!(c.now(), 1000);
    c.start();
    std::thread::sleep(Duration::from_millis(2));
    c.stop();
    let at = c.now();
    assert!(at >= 2_001_000, "{at}");
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(c.now(), at);
    c.set(5);
    assert_eq!(c.now(), 5);
}
