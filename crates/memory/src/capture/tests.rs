use super::*;
use crate::{Access, EnginePage, Presence};
use std::collections::BTreeMap;

const GPA: u64 = 0x8000_0000;
const PAGES: usize = 512;

#[derive(Default)]
struct Kept(Mutex<BTreeMap<usize, Vec<u8>>>);

impl PageSink for Kept {
    fn put(&self, first: usize, bytes: &[u8]) {
        let mut kept = self.0.lock().unwrap();
        for (i, page) in bytes.chunks(PAGE as usize).enumerate() {
            assert!(kept.insert(first + i, page.to_vec()).is_none(), "page {} came twice", first + i);
        }
    }
}

fn all() -> PageSet {
    PageSet::of(PAGES, |_| true)
}

fn filled() -> GuestRam {
    let ram = GuestRam::single(GPA, PAGES as u64 * PAGE).unwrap();
    (0..PAGES as u64).for_each(|p| ram.load(GPA + p * PAGE, &[p as u8; PAGE as usize]).unwrap());
    ram
}

/// Writes to a page as a device does, or as a hart's slow path does.
fn write(ram: &GuestRam, page: u64, by_hart: bool, byte: u8) {
    let gpa = GPA + page * PAGE;
    if !by_hart {
        return ram.load(gpa + 8, &[byte; 64]).unwrap();
    }
    match ram.engine_page(gpa, Access::Write) {
        EnginePage::Ready(_) => {}
        other => panic!("{other:?}"),
    }
    // The right is there: the store itself goes past the map.
    ram.regions()[0].page(page as usize, 1).subslice(8, 64).unwrap().copy_from(&[byte; 64]);
}

#[test]
fn a_set_gives_its_pages_in_runs() {
    let set = PageSet::of(200, |p| [0, 1, 63, 64, 65, 130, 199].contains(&p));
    assert_eq!(set.runs().collect::<Vec<_>>(), [(0, 2), (63, 3), (130, 1), (199, 1)]);
    assert!(set.len() == 7 && set.has(130) && !set.has(131) && !set.has(1000));
    assert!(PageSet::of(65, |_| false).is_empty());
}

/// Writers of both kinds race with the copier: each page comes once, and as it was at the beginning.
#[test]
fn what_is_captured_is_the_moment_and_not_what_is_written_meanwhile() {
    for round in 0..20 {
        let ram = filled();
        let since = ram.begin_epoch();
        let kept = Arc::new(Kept::default());
        let wanted = PageSet::of(PAGES, |p| p % 7 != 3);
        let capture = ram.capture(wanted.clone(), kept.clone()).unwrap().unwrap();
        std::thread::scope(|s| {
            for writer in 0..4u64 {
                let ram = &ram;
                s.spawn(move || {
                    for n in 0..600u64 {
                        let page = (n * 37 + writer * 131 + round * 17) % PAGES as u64;
                        write(ram, page, writer % 2 == 0, 0xf0 | writer as u8);
                    }
                });
            }
            assert!(capture.run(&AtomicBool::new(false)));
        });
        let kept = kept.0.lock().unwrap();
        assert_eq!(kept.len(), wanted.len());
        for (page, bytes) in kept.iter() {
            assert!(wanted.has(*page) && bytes.iter().all(|b| *b == *page as u8), "page {page}");
        }
        // What was written is dirty since the beginning, so that the next capture has it.
        let map = ram.regions()[0].pages();
        for page in 0..PAGES {
            let mut now = [0; PAGE as usize];
            ram.peek(GPA + page as u64 * PAGE, &mut now).unwrap();
            assert!(map.dirty_since(page, since) || now.iter().all(|b| *b == page as u8));
        }
    }
}

#[test]
fn more_old_pages_than_are_held_go_to_the_sink_at_once() {
    let pages = HELD + 100;
    let ram = GuestRam::single(GPA, pages as u64 * PAGE).unwrap();
    ram.begin_epoch();
    let kept = Arc::new(Kept::default());
    let capture = ram.capture(PageSet::of(pages, |_| true), kept.clone()).unwrap().unwrap();
    (0..pages as u64).for_each(|p| write(&ram, p, p % 2 == 0, 9));
    assert_eq!(kept.0.lock().unwrap().len(), 100);
    assert!(capture.run(&AtomicBool::new(false)));
    assert!(kept.0.lock().unwrap().values().all(|b| b.iter().all(|b| *b == 0)));
    assert_eq!(kept.0.lock().unwrap().len(), pages);
}

#[test]
fn a_reset_is_not_captured() {
    let ram = filled();
    ram.begin_epoch();
    let kept = Arc::new(Kept::default());
    let capture = ram.capture(all(), kept.clone()).unwrap().unwrap();
    write(&ram, 5, true, 1);
    ram.clear();
    assert!(capture.run(&AtomicBool::new(false)));
    let kept = kept.0.lock().unwrap();
    assert!(kept.len() == PAGES && kept.iter().all(|(p, bytes)| bytes.iter().all(|b| *b == *p as u8)));
}

#[test]
fn there_is_one_at_a_time_and_one_that_is_given_up_leaves_nothing() {
    let ram = filled();
    ram.begin_epoch();
    let kept = Arc::new(Kept::default());
    let capture = ram.capture(all(), kept.clone()).unwrap().unwrap();
    assert!(ram.capture(all(), kept.clone()).unwrap().is_none());
    assert!(!capture.run(&AtomicBool::new(true)));
    write(&ram, 1, true, 1);
    assert!(kept.0.lock().unwrap().is_empty());
    ram.begin_epoch();
    ram.regions()[0].pages().set_presence(9, Presence::Absent);
    assert!(ram.capture(all(), kept.clone()).is_err());
    drop(ram.capture(PageSet::of(PAGES, |p| p != 9), kept).unwrap().unwrap());
}
