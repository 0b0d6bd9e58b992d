//! Both ends over connections of this host, with somebody who touches pages meanwhile.

use super::*;
use crate::link::{Security, token};
use crate::streams::take_pages;
use std::net::{Shutdown, TcpListener, TcpStream};
use strata_memory::{Access, EnginePage};

const BASE: u64 = 0x8000_0000;
const PAGES: u64 = 4096;

fn content(page: u64) -> u64 {
    if page.is_multiple_of(5) { 0 } else { page.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
}

fn filled() -> GuestRam {
    let ram = GuestRam::single(BASE, PAGES * PAGE).unwrap();
    for page in (0..PAGES).filter(|p| content(*p) != 0) {
        ram.load(BASE + page * PAGE, &content(page).to_le_bytes().repeat(512)).unwrap();
    }
    ram
}

fn first_word(ram: &GuestRam, page: u64) -> u64 {
    let mut b = [0; 8];
    ram.peek(BASE + page * PAGE, &mut b).unwrap();
    u64::from_le_bytes(b)
}

/// Two ends of a connection.
fn pair() -> (Link, Link) {
    let (secret, seed) = ([1; 32], [2; 32]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let there = std::thread::spawn(move || {
        let mine = Security::destination(&secret, &seed).unwrap();
        Link::over(listener.accept().unwrap().0, &mine).unwrap()
    });
    let mine = Security::source(&token(secret, &seed).unwrap()).unwrap();
    (Link::connect(&address, &mine).unwrap(), there.join().unwrap())
}

fn cut(sockets: &[TcpStream]) {
    sockets.iter().for_each(|s| drop(s.shutdown(Shutdown::Both)));
}

/// Waits for a page as a hart does; how long that took.
fn touch(ram: &GuestRam, page: u64) -> Duration {
    let begun = Instant::now();
    while matches!(ram.engine_page(BASE + page * PAGE, Access::Read), EnginePage::Wait) {
        assert!(begun.elapsed() < Duration::from_secs(30), "page {page} never comes");
        std::thread::yield_now();
    }
    begun.elapsed()
}

#[test]
fn what_is_touched_jumps_the_queue_and_all_the_rest_comes() {
    let (here, there) = (filled(), GuestRam::single(BASE, PAGES * PAGE).unwrap());
    let all = PageSet::of(PAGES as usize, |_| true);
    there.expect_late(&all).unwrap();
    let serving = Serving::new(PAGES as usize, &all, &PageSet::of(PAGES as usize, |p| p / 64 == 9));
    let ((mut urgent, mut fetching), (mut stream, mut taking)) = (pair(), pair());
    let ends = [&urgent, &fetching, &stream, &taking].map(|l| l.socket().unwrap());
    let (sent, came, no) = (Meter::default(), Meter::default(), AtomicBool::new(false));
    let tells = AtomicU64::new(0);
    // 4 MB/s: four seconds for all of it, so that whoever waits for the background waits long.
    sent.limit.store(4 << 20, Relaxed);
    std::thread::scope(|s| {
        s.spawn(|| serving.urgent(&mut urgent, &here, &sent));
        s.spawn(|| serving.background(&mut stream, &here, &sent, true, &no).unwrap());
        let (there, came, tells) = (&there, &came, &tells);
        let tell = move || {
            tells.fetch_add(1, Relaxed);
        };
        s.spawn(move || {
            let late = || Some(Pulling { ram: there, meter: came, tell: &tell });
            take_pages(&mut taking, there, came, late).unwrap_err()
        });
        s.spawn(move || Pulling { ram: there, meter: came, tell: &tell }.fetch(&mut fetching).unwrap());
        let mut slow = 0;
        for n in 0..200 {
            let page = n * 1237 % PAGES;
            slow += u32::from(touch(there, page) > Duration::from_millis(300));
            assert_eq!(first_word(there, page), content(page), "page {page}");
            // What is written here stays.
            there.load(BASE + page * PAGE, &7u64.to_le_bytes()).unwrap();
        }
        assert!(slow < 20, "{slow} of 200 pages came no sooner than with all the others");
        assert!(serving.asked()[0] > 100, "{:?}", serving.asked());
        sent.limit.store(0, Relaxed);
        while there.missing() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        cut(&ends);
    });
    let touched: Vec<u64> = (0..200).map(|n| n * 1237 % PAGES).collect();
    for page in 0..PAGES {
        let expected = if touched.contains(&page) { 7 } else { content(page) };
        assert_eq!(first_word(&there, page), expected, "page {page}");
    }
    assert_eq!((serving.left(), came.counts().iter().sum::<u64>()), (0, PAGES));
    assert!(tells.load(Relaxed) > 0);
}

#[test]
fn after_a_cut_only_what_has_not_come_is_sent() {
    let (here, there) = (filled(), GuestRam::single(BASE, PAGES * PAGE).unwrap());
    let left = PageSet::of(PAGES as usize, |p| p >= 1024);
    there.expect_late(&left).unwrap();
    let none = PageSet::of(PAGES as usize, |_| false);
    let serving = Serving::new(PAGES as usize, &left, &none);
    let (came, tell) = (Meter::default(), || {});
    let pulling = Pulling { ram: &there, meter: &came, tell: &tell };
    // The first connection is cut in the middle.
    let (mut stream, mut taking) = pair();
    let ends = [stream.socket().unwrap(), taking.socket().unwrap()];
    let (sent, no) = (Meter::default(), AtomicBool::new(false));
    let mut buf = Vec::new();
    std::thread::scope(|s| {
        let background = s.spawn(|| serving.background(&mut stream, &here, &sent, true, &no));
        while there.missing() > 2500 {
            let frame = receive(&mut taking, &mut buf).unwrap();
            pulling.take(frame).unwrap();
        }
        cut(&ends);
        assert!(background.join().unwrap().is_err());
    });
    let missing = there.missing() as u64;
    assert!(missing > 0 && serving.left() < missing, "{} left, {missing} missing", serving.left());
    assert!(matches!(there.engine_page(BASE + 4000 * PAGE, Access::Read), EnginePage::Wait));
    // The second one tells what is missing, and who waits.
    let (mut urgent, mut fetching) = pair();
    std::thread::scope(|s| {
        let fetch = s.spawn(|| pulling.fetch(&mut fetching));
        serving.resume(&mut urgent).unwrap();
        assert_eq!(serving.left(), missing);
        let mut buf = Vec::new();
        let Frame::Want(wanted) = receive(&mut urgent, &mut buf).unwrap() else { panic!("nobody waits") };
        assert_eq!(wanted, [4000]);
        let (sent, (mut stream, mut taking)) = (Meter::default(), pair());
        let (there, tell) = (&there, &tell);
        s.spawn(move || {
            let came = Meter::default();
            let late = || Some(Pulling { ram: there, meter: &came, tell });
            take_pages(&mut taking, there, &came, late).unwrap_err()
        });
        serving.background(&mut stream, &here, &sent, true, &no).unwrap();
        drop(stream);
        assert!(fetch.join().unwrap().is_ok());
        assert_eq!(sent.counts().iter().sum::<u64>(), missing);
    });
    assert_eq!((there.missing(), serving.left()), (0, 0));
    assert!((1024..PAGES).all(|page| first_word(&there, page) == content(page)));
}

#[test]
fn what_is_asked_for_must_be_a_page() {
    let here = filled();
    let none = PageSet::of(PAGES as usize, |_| false);
    let serving = Serving::new(PAGES as usize, &none, &none);
    for bad in [Frame::Want(vec![PAGES]), Frame::Want(vec![u64::MAX]), Frame::Round(1)] {
        let (mut urgent, mut there) = pair();
        send(&mut there, &bad).unwrap();
        let e = serving.urgent(&mut urgent, &here, &Meter::default()).unwrap_err();
        assert!(matches!(e, WireError::Protocol(_)), "{e}");
    }
    let (mut urgent, mut there) = pair();
    send(&mut there, &Frame::Absent(PAGES / 64, vec![1])).unwrap();
    assert!(serving.resume(&mut urgent).is_err());
}

#[test]
fn a_stream_that_ends_with_what_was_sent_last_is_lost() {
    let here = filled();
    let (last, none) = (PageSet::of(PAGES as usize, |p| p == 7), PageSet::of(PAGES as usize, |_| false));
    let serving = Serving::new(PAGES as usize, &last, &none);
    let (mut stream, there) = pair();
    let (no, sent) = (AtomicBool::new(false), Meter::default());
    std::thread::scope(|s| {
        let background = s.spawn(|| serving.background(&mut stream, &here, &sent, true, &no));
        while sent.counts() == [0; 3] {
            std::thread::sleep(Duration::from_millis(1));
        }
        // All has been sent, and it takes none of it.
        drop(there);
        assert!(background.join().unwrap().is_err(), "nobody has the last page, and nobody knows that");
    });
}

#[test]
fn a_destination_may_take_its_time_with_what_was_sent_last() {
    let here = filled();
    let (last, none) = (PageSet::of(PAGES as usize, |p| p == 7), PageSet::of(PAGES as usize, |_| false));
    let serving = Serving::new(PAGES as usize, &last, &none);
    let (mut stream, mut there) = pair();
    stream.patience(Some(Duration::from_millis(20))).unwrap();
    let (no, sent) = (AtomicBool::new(false), Meter::default());
    std::thread::scope(|s| {
        let background = s.spawn(|| serving.background(&mut stream, &here, &sent, true, &no));
        let mut buf = Vec::new();
        while !matches!(receive(&mut there, &mut buf).unwrap(), Frame::Round(0)) {}
        // Many times as long as the connection is patient.
        std::thread::sleep(Duration::from_millis(300));
        send(&mut there, &Frame::Round(0)).unwrap();
        assert!(background.join().unwrap().is_ok(), "a connection that is well was given up");
    });
}

#[test]
fn both_ends_never_wait_for_the_other_to_read() {
    let (here, there) = (filled(), GuestRam::single(BASE, PAGES * PAGE).unwrap());
    let all = PageSet::of(PAGES as usize, |_| true);
    there.expect_late(&all).unwrap();
    for page in 0..PAGES {
        assert!(matches!(there.engine_page(BASE + page * PAGE, Access::Read), EnginePage::Wait));
    }
    let (urgent, mut fetching) = pair();
    urgent.patience(Some(Duration::from_millis(200))).unwrap();
    let (came, sent) = (Meter::default(), Meter::default());
    let (mut writer, mut buf, mut asked) = (PagesWriter::distinct(), Vec::new(), Vec::new());
    std::thread::scope(|s| {
        // Ends with a failure, and the connection with it.
        let mut urgent = urgent;
        let fetch = s.spawn(|| Pulling { ram: &there, meter: &came, tell: &|| {} }.fetch(&mut fetching));
        // A source that is busy with writing reads nothing: what it is asked meanwhile has to have room on its way.
        for _ in 0..PAGES as usize / MAX_WANT {
            let before = asked.len();
            loop {
                match receive(&mut urgent, &mut buf) {
                    Ok(Frame::Want(wanted)) => asked.extend(wanted),
                    Ok(_) => {}
                    Err(e) if e.is_quiet() && asked.len() >= before + MAX_WANT => break,
                    Err(e) if e.is_quiet() => {}
                    Err(e) => panic!("{e}"),
                }
            }
            let new = &asked[before..];
            assert_eq!(new.len(), MAX_WANT, "pages are asked for at once");
            for page in new {
                if writer.add(&here, *page).unwrap() {
                    flush(&mut urgent, &mut writer, &sent, &mut Packing::new(false), &mut |_| {}).unwrap();
                }
            }
            flush(&mut urgent, &mut writer, &sent, &mut Packing::new(false), &mut |_| {}).unwrap();
        }
        assert!(fetch.join().unwrap().is_ok(), "{} pages are missing", there.missing());
    });
    asked.sort_unstable();
    assert!(asked.iter().copied().eq(0..PAGES), "each once");
    assert!((0..PAGES).all(|page| first_word(&there, page) == content(page)));
}
