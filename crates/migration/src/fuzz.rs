//! Fuzz targets: plain functions over bytes, for any fuzzer and for the tests. One for each direction.

use crate::core::{Destination, DestinationPhase, Event, Message, Source};
use crate::wire::{
    Frame, Hello, NEWEST, OLDEST, Purpose, Rest, answer, greet, hear, receive, send, take_set,
};
use std::io::{self, Read, Write};
use strata_memory::{GuestRam, PageSet};

/// Memory of the machine that is attacked.
const PAGES: usize = 8;
const RAM: u64 = PAGES as u64 * 4096;
const SECRET: [u8; 32] = [5; 32];

/// Reads from the bytes, and writes to nowhere.
struct Peer<'a>(&'a [u8]);

impl Read for Peer<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Peer<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a destination made of a stream.
#[derive(Debug, Default)]
pub struct Heard {
    /// Memory afterwards; nothing if a page has not come.
    pub memory: Vec<u8>,
    /// Frames that were understood.
    pub frames: usize,
    /// Bytes of state.
    pub state: Vec<u8>,
    /// The last word, if it came.
    pub rest: Option<Rest>,
    /// Who owns it, to the best of its knowledge.
    pub side: Option<Destination>,
}

/// Any bytes as what a source says.
///
/// # Panics
/// When something is done that must not be: that is the finding.
pub fn to_destination(data: &[u8]) -> Heard {
    let mut peer = Peer(data);
    let mut heard = Heard::default();
    let Ok(hello) = hear(&mut peer) else { return heard };
    if answer(&mut peer, &hello, &SECRET).is_err() {
        return heard;
    }
    let Ok(ram) = GuestRam::single(0x8000_0000, RAM) else { return heard };
    let mut side = Destination::new(2);
    let mut absent = [0];
    let mut buf = Vec::new();
    while let Ok(frame) = receive(&mut peer, &mut buf) {
        heard.frames += 1;
        let event = match frame {
            Frame::Pages(_) if side.phase != DestinationPhase::Receiving => break,
            Frame::Pages(pages) => match pages.apply(&ram) {
                Ok(counts) => {
                    assert_eq!(counts, pages.counts());
                    continue;
                }
                Err(_) => break,
            },
            Frame::State(piece) => {
                heard.state.extend_from_slice(piece);
                continue;
            }
            Frame::Absent(first, words) => match take_set(&mut absent, PAGES, first, &words) {
                Ok(()) => continue,
                Err(_) => break,
            },
            Frame::Final(rest) => {
                let left_out = PageSet::from_words(absent.to_vec());
                if heard.rest.is_some() || left_out.len() as u64 != rest.absent {
                    break;
                }
                heard.rest = Some(*rest);
                let Ok(Some(missing)) = ram.expect_late(&left_out) else { break };
                if missing > 0 { Event::LoadedPart } else { Event::Loaded }
            }
            Frame::Late(pages) if side.started() => {
                let before = ram.missing() as u64;
                let Ok(brought) = pages.bring(&ram) else { break };
                let new = brought.pages.iter().sum::<u64>();
                assert_eq!((ram.missing() as u64 + new, brought.pages[2]), (before, 0));
                if ram.missing() > 0 || side.phase != DestinationPhase::Pulling {
                    continue;
                }
                Event::Complete
            }
            Frame::Late(_) => break,
            Frame::Core(m) => Event::Got(m),
            _ => continue,
        };
        side = side.step(event).0;
    }
    heard.memory = vec![0; RAM as usize];
    let whole = ram.peek(0x8000_0000, &mut heard.memory).is_ok();
    assert!(whole == (ram.missing() == 0), "memory is there to the last page, or pages are missing");
    if !whole {
        heard.memory.clear();
    }
    heard.side = Some(side);
    heard
}

/// Any bytes as what a destination says; gives where the source stands then.
///
/// # Panics
/// When something is done that must not be: that is the finding.
pub fn to_source(data: &[u8]) -> Source {
    let mut peer = Peer(data);
    let mut side = Source::new(1).step(Event::Freeze).0;
    let hello =
        Hello { oldest: OLDEST, newest: NEWEST, purpose: Purpose::Control, id: [0; 16], secret: SECRET };
    if greet(&mut peer, &hello).is_err() {
        return side;
    }
    let mut buf = Vec::new();
    let (mut ready, mut set) = (false, [0]);
    while let Ok(frame) = receive(&mut peer, &mut buf) {
        if let Frame::Core(m) = frame {
            ready |= matches!(m, Message::Ready | Message::ReadyPart);
            let in_part = side.gives_pages();
            side = side.step(Event::Got(m)).0;
            assert!(
                !in_part || side.ram || m == Message::Enough || m == Message::Refused,
                "freed after {m:?}"
            );
        }
        if let Frame::Absent(first, words) = &frame {
            let fits = take_set(&mut set, PAGES, *first, words).is_ok();
            assert!(!fits || set[0] >> PAGES == 0, "a page that there is not");
            set = [0];
        }
        assert!(ready || side.ram, "memory was given away before the destination was ready");
        // Whatever was understood can be said again.
        assert!(send(&mut io::sink(), &frame).is_ok());
    }
    side
}
