use super::*;
use crate::{Access, Acquired, EnginePage, VolatileSlice};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};
use vm_memory::Bytes;

const BASE: u64 = 0x8000_0000;

fn ram() -> GuestRam {
    GuestRam::single(BASE, 16 * PAGE).unwrap()
}

fn drained(ram: &GuestRam, cursor: &mut u64) -> Vec<u64> {
    let mut pages = Vec::new();
    assert_eq!(ram.drain_code_writes(cursor, |p| pages.push(p)), Drained::Complete);
    pages
}

fn kind(page: EnginePage) -> &'static str {
    match page {
        EnginePage::Ready(_) => "ready",
        EnginePage::Code(_) => "code",
        EnginePage::Trapped(_) => "trapped",
        EnginePage::Wait => "wait",
        EnginePage::NotRam => "not RAM",
    }
}

#[test]
fn the_first_write_is_told_and_no_other() {
    let m = ram();
    let mut cursor = m.code_writes();
    m.watch_code(BASE + PAGE + 4);
    assert!(m.code_watched(BASE + PAGE));
    assert_eq!(kind(m.engine_page(BASE + PAGE, Access::Read)), "ready");
    assert_eq!(kind(m.engine_page(BASE + PAGE, Access::Write)), "code");
    assert_eq!(kind(m.engine_page(BASE, Access::Write)), "ready");
    m.code_written(BASE);
    m.code_written(BASE + PAGE + 8);
    m.code_written(BASE + PAGE + 8);
    assert_eq!(kind(m.engine_page(BASE + PAGE, Access::Write)), "ready");
    assert_eq!(drained(&m, &mut cursor), [BASE + PAGE]);
    assert!(drained(&m, &mut cursor).is_empty());
    m.watch_code(0x1000); // not RAM
    assert!(!m.code_watched(0x1000));
}

#[test]
fn every_way_to_write_tells() {
    let m = ram();
    let mut cursor = m.code_writes();
    let watch_all = || (0..16).for_each(|p| _ = m.watch_code(BASE + p * PAGE));
    watch_all();
    m.load(BASE + PAGE - 1, &[1, 2]).unwrap();
    assert_eq!(drained(&m, &mut cursor), [BASE, BASE + PAGE]);
    watch_all();
    let Ok(Acquired::Ready(slice)) = m.acquire(BASE + 5 * PAGE, 2 * PAGE, Access::Write) else { panic!() };
    assert_eq!(drained(&m, &mut cursor), [BASE + 5 * PAGE, BASE + 6 * PAGE]);
    // Translated again between the device's asking and its writing.
    watch_all();
    slice.subslice(8, 4).unwrap().copy_from(&[1u8; 4]);
    m.written_slice(&slice.subslice(8, 4).unwrap());
    assert_eq!(drained(&m, &mut cursor), [BASE + 5 * PAGE]);
    // What was never written is zero already.
    m.clear();
    let cleared: Vec<u64> = [0, 1, 6].iter().map(|p| BASE + p * PAGE).collect();
    assert_eq!(drained(&m, &mut cursor), cleared);
    m.written(BASE, 0);
    m.written(u64::MAX, 2);
    let _ = m.acquire(BASE, PAGE, Access::Read);
    assert!(drained(&m, &mut cursor).is_empty());
}

#[test]
fn flags_survive_changes_of_presence() {
    let m = ram();
    m.watch_code(BASE);
    m.trap(BASE).unwrap();
    m.regions()[0].pages().mark_dirty(0);
    m.regions()[0].pages().set_presence(0, crate::Presence::Absent);
    assert!(m.code_watched(BASE) && m.regions()[0].pages().trapped(0));
    m.regions()[0].pages().set_presence(0, crate::Presence::Private);
    assert_eq!(kind(m.engine_page(BASE, Access::Write)), "trapped");
}

#[test]
fn a_reader_that_falls_behind_is_told() {
    let m = ram();
    let mut cursor = m.code_writes();
    let event = |n: u64| {
        m.watch_code(BASE + n % 16 * PAGE);
        m.code_written(BASE + n % 16 * PAGE);
    };
    (0..LOG as u64).for_each(event);
    let mut late = cursor;
    assert_eq!(drained(&m, &mut cursor).len(), LOG);
    event(0);
    assert_eq!(m.drain_code_writes(&mut late, |_| panic!("one was overwritten")), Drained::Lost);
    assert!(drained(&m, &mut late).is_empty());
    assert_eq!(drained(&m, &mut cursor), [BASE]);
}

#[test]
fn a_watch_waits_for_harts_that_may_hold_a_right() {
    let m = ram();
    let (mut one, mut two) = (m.register_hart(), m.register_hart());
    let dropped = std::cell::Cell::new(0);
    let drop_rights = || dropped.set(dropped.get() + 1);
    one.enter(drop_rights);
    two.enter(drop_rights);
    // Nobody has ever written there.
    assert!(m.watch_confirmed(m.watch_code(BASE)));
    let _ = m.engine_page(BASE + PAGE, Access::Write);
    let ticket = m.watch_code(BASE + PAGE);
    one.watched(ticket, drop_rights);
    assert!(!m.watch_confirmed(ticket));
    // A second watch of it waits for the same, although the page holds no trace of the right any longer.
    let again = m.watch_code(BASE + PAGE);
    assert!(!m.watch_confirmed(again));
    let before = dropped.get();
    two.refresh(drop_rights);
    two.refresh(drop_rights);
    assert_eq!(dropped.get(), before + 1);
    assert!(m.watch_confirmed(ticket) && m.watch_confirmed(again));
    // One that sleeps is not waited for, and drops its rights when it wakes.
    let _ = m.engine_page(BASE, Access::Write);
    m.code_written(BASE);
    let _ = m.engine_page(BASE, Access::Write);
    two.leave();
    let ticket = m.watch_code(BASE);
    one.watched(ticket, drop_rights);
    assert!(m.watch_confirmed(ticket));
    let before = dropped.get();
    two.enter(drop_rights);
    assert_eq!(dropped.get(), before + 1);
    // Others' watches in between take all rights of one who watches.
    let _ = (m.engine_page(BASE + 2 * PAGE, Access::Write), m.engine_page(BASE + 3 * PAGE, Access::Write));
    let first = m.watch_code(BASE + 2 * PAGE);
    two.watched(first, || panic!("it was the only one"));
    let second = m.watch_code(BASE + 3 * PAGE);
    let before = dropped.get();
    one.watched(second, drop_rights);
    assert_eq!(dropped.get(), before + 1);
    drop(two);
    assert!(m.watch_confirmed(second));
}

fn first_page(ram: &GuestRam) -> VolatileSlice<'_> {
    match ram.acquire(BASE, PAGE, Access::Read) {
        Ok(Acquired::Ready(page)) => page,
        _ => panic!("no RAM"),
    }
}

/// Stores its count to its word of the page, by a modelled tag, and says afterwards how far it is.
struct Writer<'a> {
    ram: &'a GuestRam,
    page: VolatileSlice<'a>,
    word: usize,
    count: u64,
    said: &'a AtomicU64,
}

impl Writer<'_> {
    fn store(&mut self) {
        self.count += 1;
        self.page.store(self.count, self.word * 8, Relaxed).unwrap();
    }
    fn say(&self) {
        self.said.store(self.count, Release);
    }
    /// A hart: asks once, then writes unasked until it is quiet.
    fn hart(&mut self, end: &AtomicBool) {
        let mut quiet = self.ram.register_hart();
        let mut tag = false;
        quiet.enter(|| tag = false);
        for n in 0u64.. {
            if end.load(Relaxed) {
                return;
            }
            if tag {
                self.store();
            } else {
                match self.ram.engine_page(BASE, Access::Write) {
                    EnginePage::Ready(_) => {
                        tag = true;
                        self.store();
                    }
                    EnginePage::Code(_) => {
                        self.store();
                        self.ram.code_written(BASE);
                    }
                    other => panic!("{}", kind(other)),
                }
            }
            self.say();
            if n % 7 == 0 {
                quiet.refresh(|| tag = false);
            }
            if n % 1000 == 0 {
                quiet.leave();
                std::thread::yield_now();
                quiet.enter(|| tag = false);
            }
        }
    }
    /// A device: some time passes between its asking and its writing.
    fn device(&mut self, end: &AtomicBool) {
        while !end.load(Relaxed) {
            let _ = self.ram.acquire(BASE, PAGE, Access::Write);
            std::thread::yield_now();
            self.store();
            self.ram.written(BASE, PAGE);
            self.say();
        }
    }
}

/// After it has watched the page, confirmed, and read it: what others say they have written is in what was read, or the
/// log names the page.
#[test]
fn no_write_is_missed_after_confirmation() {
    const WRITERS: usize = 4;
    let m = ram();
    let said: [AtomicU64; WRITERS] = Default::default();
    let end = AtomicBool::new(false);
    let page = first_page(&m);
    std::thread::scope(|s| {
        for (word, said) in said.iter().enumerate() {
            let (ram, end) = (&m, &end);
            s.spawn(move || {
                let mut w = Writer { ram, page: first_page(ram), word, count: 0, said };
                if word == 0 { w.device(end) } else { w.hart(end) }
            });
        }
        let (until, mut rounds) = (Instant::now() + Duration::from_millis(700), 0u64);
        let mut cursor = m.code_writes();
        let mut quiet = m.register_hart();
        quiet.enter(|| ());
        let ok = (|| {
            while Instant::now() < until {
                let ticket = m.watch_code(BASE);
                quiet.watched(ticket, || ());
                while !m.watch_confirmed(ticket) {
                    std::hint::spin_loop();
                }
                let read: [u64; WRITERS] = std::array::from_fn(|w| page.load::<u64>(w * 8, Relaxed).unwrap());
                loop {
                    let says: [u64; WRITERS] = std::array::from_fn(|w| said[w].load(Acquire));
                    let mut told = false;
                    let drained = m.drain_code_writes(&mut cursor, |_| told = true);
                    if told || drained == Drained::Lost {
                        break;
                    }
                    if (0..WRITERS).any(|w| says[w] > read[w]) {
                        return Err((read, says));
                    }
                }
                rounds += 1;
            }
            Ok(rounds)
        })();
        end.store(true, Relaxed);
        assert!(ok.is_ok_and(|rounds| rounds > 10), "{ok:?}");
    });
}
