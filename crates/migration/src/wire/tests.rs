//! Every frame there and back, streams of the first version to the byte, and streams that nobody would send.

mod packed;

use self::packed::to_the_destination_3;
use super::*;
use crate::core::DestinationPhase;
use crate::fuzz::{to_destination, to_source};
use proptest::prelude::*;
use serde_json::json;
use std::collections::VecDeque;
use std::path::Path;
use strata_memory::{Access, Acquired, GuestRam, PageSet};
use strata_snapshot::MachineRef;

const BASE: u64 = 0x8000_0000;

fn machine() -> MachineRef {
    MachineRef { board: "riscv-virt".into(), engine: "soft".into(), cpus: 2, memory: 8 * 4096 }
}

fn ram(pages: u64) -> GuestRam {
    GuestRam::single(BASE, pages * 4096).unwrap()
}

fn fill(ram: &GuestRam, page: u64, byte: u8) {
    match ram.acquire(BASE + page * 4096, 4096, Access::Write).unwrap() {
        Acquired::Ready(s) => s.copy_from(&[byte; 4096]),
        Acquired::Wait => panic!("not there"),
    }
}

fn memory(ram: &GuestRam) -> Vec<u8> {
    let mut all = vec![0; ram.regions()[0].size() as usize];
    ram.peek(BASE, &mut all).unwrap();
    all
}

/// A machine of 8 pages: 0 and 1 with content, 2 the same as 0, 3 written and zero again, the others never touched.
fn source() -> GuestRam {
    let ram = ram(8);
    fill(&ram, 0, 0xa5);
    fill(&ram, 1, 0x11);
    fill(&ram, 2, 0xa5);
    fill(&ram, 3, 0x77);
    fill(&ram, 3, 0);
    ram
}

fn to_the_destination() -> Vec<u8> {
    let hello = Hello { oldest: 1, newest: 1, purpose: Purpose::Control, id: [3; 16], secret: [5; 32] };
    let mut out = hello.bytes().to_vec();
    let ram = source();
    let mut writer = PagesWriter::default();
    assert!((0..8).all(|page| !writer.add(&ram, page).unwrap()));
    let file = FileOffer { role: "kernel".into(), name: "kernel".into(), size: 3, sha256: Some("00".into()) };
    let offer = Offer {
        producer: "strata 0.1.0".into(),
        machine: machine(),
        instance: json!({"name": "web"}),
        epoch: 2,
        files: vec![file],
        disks: vec![],
        dry_run: false,
        verify: false,
        processor: None,
    };
    let rest = Rest {
        state: 5,
        pages: writer.batch().unwrap().counts(),
        flows: vec![],
        files: vec![3],
        disks: vec![],
        guest: Guest::default(),
        stood: 1_500_000,
        memory: None,
        hot_paths: 2,
        absent: 0,
    };
    for frame in [
        Frame::Offer(offer),
        Frame::Pages(writer.batch().unwrap()),
        Frame::File(0, 0, b"abc"),
        Frame::State(b"state"),
        Frame::HotPaths(b"hp"),
        Frame::Round(1),
        Frame::Final(Box::new(rest)),
        Frame::Core(Message::Query),
        Frame::Core(Message::Commit),
    ] {
        send(&mut out, &frame).unwrap();
    }
    out
}

fn to_the_source() -> Vec<u8> {
    let mut out = Vec::new();
    let hello = Hello { oldest: 1, newest: 1, purpose: Purpose::Pages(2), id: [3; 16], secret: [5; 32] };
    assert_eq!(answer(&mut out, &hello, &[5; 32]).unwrap(), 1);
    let accept = Accept {
        producer: "strata 0.1.0".into(),
        name: "web".into(),
        wants: vec![0],
        disks: vec![],
        holder: None,
        notes: vec!["n".into()],
        whole_only: None,
        verify: false,
    };
    let no = Refusal { kind: "in-use".into(), message: "No.".into() };
    for frame in [
        Frame::Accept(accept),
        Frame::Refuse(no),
        Frame::Round(1),
        Frame::Why("why".into()),
        Frame::Core(Message::Ready),
        Frame::Core(Message::Running),
    ] {
        send(&mut out, &frame).unwrap();
    }
    out
}

/// The last word on a machine of which `absent` pages have not come.
fn rest_without(absent: u64, pages: [u64; 3]) -> Rest {
    Rest {
        state: 0,
        pages,
        flows: vec![],
        files: vec![],
        disks: vec![],
        guest: Guest::default(),
        stood: 1,
        memory: None,
        hot_paths: 0,
        absent,
    }
}

/// What is new in version 2: the machine comes without pages 0 to 3, and is sent those when it runs.
fn to_the_destination_2() -> Vec<u8> {
    let hello = Hello { oldest: 1, newest: 2, purpose: Purpose::Urgent, id: [3; 16], secret: [5; 32] };
    let mut out = hello.bytes().to_vec();
    let (ram, left_out) = (source(), PageSet::of(8, |p| p < 4));
    let (mut first, mut late) = (PagesWriter::default(), PagesWriter::distinct());
    assert!((4..8).all(|page| !first.add(&ram, page).unwrap()));
    assert!((0..4).all(|page| !late.add(&ram, page).unwrap()));
    let rest = rest_without(4, first.batch().unwrap().counts());
    send(&mut out, &Frame::Pages(first.batch().unwrap())).unwrap();
    send_set(&mut out, &left_out, false).unwrap();
    for frame in [
        Frame::Final(Box::new(rest)),
        Frame::Core(Message::Commit),
        Frame::Late(late.batch().unwrap()),
        Frame::Core(Message::Gone),
    ] {
        send(&mut out, &frame).unwrap();
    }
    out
}

fn to_the_source_2() -> Vec<u8> {
    let mut out = Vec::new();
    let hello = Hello { oldest: 1, newest: 2, purpose: Purpose::Urgent, id: [3; 16], secret: [5; 32] };
    assert_eq!(answer(&mut out, &hello, &[5; 32]).unwrap(), 2);
    send(&mut out, &Frame::Core(Message::ReadyPart)).unwrap();
    send_set(&mut out, &PageSet::of(8, |p| p < 4), true).unwrap();
    for frame in [Frame::Want(vec![3, 1]), Frame::Core(Message::Running), Frame::Core(Message::Enough)] {
        send(&mut out, &frame).unwrap();
    }
    out
}

/// The bytes of a version, which later builds must write and understand for as long as they speak it.
fn golden(name: &str, bytes: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/wire/golden").join(name);
    if std::env::var_os("STRATA_BLESS").is_some() {
        std::fs::write(&path, bytes).unwrap();
    }
    std::fs::read(&path).unwrap()
}

#[test]
fn version_1_is_what_it_was() {
    assert!(
        golden("v1-to-destination", &to_the_destination()) == to_the_destination(),
        "bytes to the destination"
    );
    assert!(golden("v1-to-source", &to_the_source()) == to_the_source(), "bytes to the source");
}

#[test]
fn version_2_is_what_it_was() {
    let (there, here) = (to_the_destination_2(), to_the_source_2());
    assert!(golden("v2-to-destination", &there) == there, "bytes to the destination");
    assert!(golden("v2-to-source", &here) == here, "bytes to the source");
}

#[test]
fn a_stream_of_version_2_makes_a_machine_that_becomes_whole() {
    let bytes = golden("v2-to-destination", &to_the_destination_2());
    let heard = to_destination(&bytes);
    let side = heard.side.unwrap();
    assert_eq!((heard.frames, side.phase, side.part), (6, DestinationPhase::Running, true));
    assert!(heard.memory == memory(&source()), "memory");
    // Without the pages it runs, and is not whole; told that they never come, it goes on without them.
    let late = bytes.len() - 8 - (8 + 4 + 2 * 24 + 3 * 4096);
    let heard = to_destination(&bytes[..late]);
    assert_eq!((heard.side.unwrap().phase, heard.memory.len()), (DestinationPhase::Pulling, 0));
    let heard = to_destination(&[&bytes[..late], &bytes[bytes.len() - 8..]].concat());
    assert_eq!(heard.side.unwrap().phase, DestinationPhase::Doomed);
    assert_eq!(to_source(&golden("v2-to-source", &to_the_source_2())).phase, crate::core::SourcePhase::Done);
}

/// What is new in version 4: a connection for the network, with frames and nothing else.
fn to_the_destination_4() -> Vec<u8> {
    let hello = Hello { oldest: 1, newest: 4, purpose: Purpose::Network, id: [3; 16], secret: [5; 32] };
    let mut out = hello.bytes().to_vec();
    let frame = [&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0][..], &[0x45; 46]].concat();
    send(&mut out, &Frame::Ethernet(&frame)).unwrap();
    send(&mut out, &Frame::Ethernet(&[7; MAX_ETHERNET])).unwrap();
    out
}

#[test]
fn version_4_is_what_it_was() {
    let there = to_the_destination_4();
    assert!(golden("v4-to-destination", &there) == there, "bytes to the destination");
    assert_eq!(to_destination(&there).frames, 2);
    assert!(send(&mut std::io::sink(), &Frame::Ethernet(&[7; MAX_ETHERNET + 1])).is_err());
}

#[test]
fn a_set_of_pages_stays_within_memory() {
    let set = PageSet::of(300_000, |p| p % 70_000 == 3);
    let mut bytes = Vec::new();
    send_set(&mut bytes, &set, true).unwrap();
    let (mut from, mut buf, mut came) = (&bytes[..], Vec::new(), vec![0; 300_000usize.div_ceil(64)]);
    while let Frame::Absent(first, words) = receive(&mut from, &mut buf).unwrap() {
        if words.is_empty() {
            break;
        }
        take_set(&mut came, 300_000, first, &words).unwrap();
    }
    assert!(PageSet::from_words(came) == set && from.is_empty());
    for (first, words) in [(0, vec![1 << 10]), (1, vec![0]), (0, vec![0, 0]), (u64::MAX, vec![0])] {
        assert!(take_set(&mut [0], 10, first, &words).is_err(), "{first} {words:?}");
    }
    assert!(take_set(&mut [0], 10, 0, &[1 << 9]).is_ok());
}

#[test]
fn a_late_page_is_never_the_same_as_another() {
    let (here, there) = (source(), ram(8));
    there.expect_late(&PageSet::of(8, |_| true)).unwrap();
    let (mut distinct, mut same) = (PagesWriter::distinct(), PagesWriter::default());
    for page in 0..8 {
        distinct.add(&here, page).unwrap();
        same.add(&here, page).unwrap();
    }
    assert!(same.batch().unwrap().bring(&there).is_err());
    let brought = distinct.batch().unwrap().bring(&there).unwrap();
    // Pages 0 and 1 came before the one that was refused.
    assert_eq!((brought.pages, brought.twice, brought.waited), ([1, 5, 0], 2, false));
    assert!(memory(&there) == memory(&here));
}

#[test]
fn a_stream_of_version_1_makes_the_machine() {
    let heard = to_destination(&golden("v1-to-destination", &to_the_destination()));
    assert_eq!(heard.frames, 9);
    assert!(heard.memory == memory(&source()), "memory");
    assert_eq!(
        (heard.state.as_slice(), heard.side.unwrap().phase),
        (&b"state"[..], DestinationPhase::Running)
    );
    assert_eq!(heard.rest.unwrap().pages, [2, 5, 1]);
    assert_eq!(to_source(&golden("v1-to-source", &to_the_source())).phase, crate::core::SourcePhase::Done);
}

#[test]
fn a_stream_that_is_cut_anywhere_never_starts_the_machine() {
    let whole = to_the_destination();
    for cut in (0..whole.len()).rev().step_by(7).chain(whole.len() - 9..whole.len()) {
        let heard = to_destination(&whole[..cut]);
        assert!(heard.side.is_none_or(|d| d.phase != DestinationPhase::Running), "cut at {cut}");
    }
}

#[test]
fn the_greeting_finds_a_version_or_says_so() {
    let hello =
        |oldest, newest| Hello { oldest, newest, purpose: Purpose::Control, id: [0; 16], secret: [1; 32] };
    let both = |h: Hello, secret: [u8; 32]| {
        let mut said = Vec::new();
        let there = answer(&mut said, &h, &secret);
        struct Two<'a>(&'a [u8]);
        impl Read for Two<'_> {
            fn read(&mut self, b: &mut [u8]) -> std::io::Result<usize> {
                self.0.read(b)
            }
        }
        impl Write for Two<'_> {
            fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
                Ok(b.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        (greet(&mut Two(&said), &h), there)
    };
    assert!(matches!(both(hello(1, 1), [1; 32]), (Ok(1), Ok(1))));
    assert!(matches!(both(hello(1, 7), [1; 32]), (Ok(4), Ok(4))));
    assert!(matches!(both(hello(2, 2), [1; 32]), (Ok(2), Ok(2))));
    assert!(matches!(
        both(hello(5, 7), [1; 32]),
        (Err(WireError::Version { .. }), Err(WireError::Version { .. }))
    ));
    assert!(matches!(both(hello(1, 1), [2; 32]), (Err(WireError::Token), Err(WireError::Token))));
}

#[test]
fn what_is_too_long_is_refused_before_it_is_read() {
    for kind in 0..=255u8 {
        let mut header = [0; 8];
        header[0] = kind;
        header[4..].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut buf = Vec::new();
        assert!(matches!(receive(&mut &header[..], &mut buf), Err(WireError::Protocol(_))), "{kind}");
        assert_eq!(buf.capacity(), 0);
    }
}

#[test]
fn pages_outside_of_memory_change_nothing() {
    let big = ram(16);
    fill(&big, 3, 1);
    fill(&big, 12, 9);
    let mut writer = PagesWriter::default();
    assert!([3, 12].into_iter().all(|p| !writer.add(&big, p).unwrap()));
    let small = ram(8);
    assert!(writer.batch().unwrap().apply(&small).is_err());
    assert!(memory(&small).iter().all(|b| *b == 0));
}

#[test]
fn what_became_zero_is_zero_there_too() {
    let (here, there) = (ram(4), ram(4));
    fill(&there, 1, 8);
    fill(&here, 1, 8);
    fill(&here, 1, 0);
    let mut writer = PagesWriter::default();
    assert!((0..4).all(|p| !writer.add(&here, p).unwrap()));
    let batch = writer.batch().unwrap();
    assert_eq!(batch.runs().len(), 1);
    assert_eq!(batch.apply(&there).unwrap(), [0, 4, 0]);
    assert!(memory(&there).iter().all(|b| *b == 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_memory_arrives(content in proptest::collection::vec(0u8..4, 32), order in Just((0..32u64).collect::<Vec<_>>()).prop_shuffle()) {
        let (here, there) = (ram(32), ram(32));
        content.iter().enumerate().for_each(|(page, byte)| fill(&here, page as u64, *byte));
        let mut writer = PagesWriter::default();
        let mut buf = Vec::new();
        for page in order {
            if writer.add(&here, page).unwrap() || page % 5 == 0 {
                let mut bytes = Vec::new();
                send(&mut bytes, &Frame::Pages(writer.batch().unwrap())).unwrap();
                let Frame::Pages(p) = receive(&mut &bytes[..], &mut buf).unwrap() else { panic!() };
                p.apply(&there).unwrap();
                writer.clear();
            }
        }
        if let Some(batch) = writer.batch() {
            batch.apply(&there).unwrap();
        }
        prop_assert!(memory(&here) == memory(&there));
    }

    #[test]
    fn no_bytes_are_beyond_it(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        to_destination(&bytes);
        to_source(&bytes);
        // Behind a greeting that is as it should be.
        to_destination(&[&to_the_destination()[..64], &bytes].concat());
        to_source(&[&to_the_source()[..12], &bytes].concat());
        to_source(&[&to_the_source_2()[..12], &bytes].concat());
    }

    #[test]
    fn no_damage_is_beyond_it(at in any::<prop::sample::Index>(), xor in 1u8.., near in 0usize..600) {
        let mut bytes = to_the_destination();
        let n = if near < 300 { bytes.len() - 1 - near } else { at.index(bytes.len()) };
        bytes[n] ^= xor;
        to_destination(&bytes);
        let mut bytes = to_the_source();
        let n = at.index(bytes.len());
        bytes[n] ^= xor;
        to_source(&bytes);
        let (mut there, mut here) = (to_the_destination_2(), to_the_source_2());
        let (m, n) = (at.index(there.len()), at.index(here.len()));
        (there[m], here[n]) = (there[m] ^ xor, here[n] ^ xor);
        to_destination(&there);
        to_source(&here);
        let mut there = to_the_destination_3();
        let m = at.index(there.len());
        // Mostly where pages are compressed.
        let m = if near < 300 { 64 + near % 120 } else { m };
        there[m] ^= xor;
        to_destination(&there);
    }
}

#[test]
fn silence_before_a_frame_is_not_silence_within_one() {
    /// Gives these bytes, and then nothing.
    struct Falters(VecDeque<u8>);
    impl Read for Falters {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buf)? {
                0 => Err(ErrorKind::WouldBlock.into()),
                n => Ok(n),
            }
        }
    }
    let mut bytes = Vec::new();
    send(&mut bytes, &Frame::Why("a reason".into())).unwrap();
    for cut in 0..bytes.len() {
        let mut from = Falters(bytes.iter().copied().take(cut).collect());
        let e = receive(&mut from, &mut Vec::new()).unwrap_err();
        assert_eq!(e.is_quiet(), cut == 0, "after {cut} bytes: {e}");
    }
    let mut from = Falters(bytes.into());
    let mut buf = Vec::new();
    assert!(matches!(receive(&mut from, &mut buf), Ok(Frame::Why(_))));
    assert!(receive(&mut from, &mut buf).unwrap_err().is_quiet());
}
