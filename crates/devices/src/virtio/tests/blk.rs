use super::driver::*;
use crate::virtio::blk::{Blk, Status, feature, request};
use crate::virtio::{Built, Wiring, blk};
use proptest::prelude::*;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use strata_block::{Disk, MemDisk};
use strata_memory::VolatileSlice;

/// What the test does in the middle of a transfer.
type During = Option<Box<dyn FnMut() + Send>>;

/// A disk that the test looks into, and that calls the test in the middle of a transfer.
#[derive(Clone)]
pub struct Spy {
    pub disk: Arc<Mutex<MemDisk>>,
    pub during: Arc<Mutex<During>>,
}

impl Spy {
    pub fn new(disk: MemDisk) -> Spy {
        Spy { disk: Arc::new(Mutex::new(disk)), during: Arc::default() }
    }
    pub fn bytes(&self) -> Vec<u8> {
        self.disk.lock().unwrap().bytes().to_vec()
    }
    fn run<R>(&self, f: impl FnOnce(&mut MemDisk) -> R) -> R {
        if let Some(f) = &mut *self.during.lock().unwrap() {
            f();
        }
        f(&mut self.disk.lock().unwrap())
    }
    pub fn make(&self) -> impl FnOnce(Wiring) -> io::Result<Built<Blk>> + use<> {
        let disk = Box::new(self.clone());
        move |w| blk(w, disk, "serial-number-longer-than-20")
    }
}

impl Disk for Spy {
    fn size(&self) -> u64 {
        self.disk.lock().unwrap().size()
    }
    fn read_only(&self) -> bool {
        self.disk.lock().unwrap().read_only()
    }
    fn read(&mut self, offset: u64, bufs: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.run(|d| d.read(offset, bufs))
    }
    fn write(&mut self, offset: u64, bufs: &[VolatileSlice<'_>]) -> io::Result<()> {
        self.run(|d| d.write(offset, bufs))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.run(|d| d.flush())
    }
    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.run(|d| d.discard(offset, len))
    }
    fn write_zeroes(&mut self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.run(|d| d.write_zeroes(offset, len, unmap))
    }
}

const SECTORS: usize = 64;

fn pattern() -> Vec<u8> {
    (0..SECTORS * 512).map(|i| (i / 512 * 7 + i) as u8).collect()
}

pub fn spy() -> Spy {
    Spy::new(MemDisk::from_bytes(pattern()))
}

pub fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

struct Answer {
    status: u8,
    written: u32,
    data: Vec<u8>,
}

/// One request with `readable` behind the header and `room` bytes for data.
fn ask(d: &mut Driver<Blk>, kind: u32, sector: u64, readable: &[u8], room: usize) -> Answer {
    let head = d.buffer(&header(kind, sector));
    let (send, get, status) = (d.buffer(readable), d.room(room), d.room(1));
    let bufs = [
        (head, 16, false),
        (send, readable.len() as u32, false),
        (get, room as u32, true),
        (status, 1, true),
    ];
    let written = d.request(0, &bufs);
    Answer { status: d.bytes(status, 1)[0], written, data: d.bytes(get, room) }
}

const OK: u8 = Status::Ok as u8;
const IOERR: u8 = Status::IoErr as u8;
const UNSUPP: u8 = Status::Unsupp as u8;

#[test]
fn the_config_space_describes_the_disk() {
    let d = Driver::ready(spy().make(), 0);
    assert_eq!(d.config(0, 8), SECTORS as u64);
    assert_eq!(d.config(0, 4), SECTORS as u64);
    assert_eq!((d.config(12, 4), d.config(20, 4), d.config(34, 2), d.config(56, 1)), (254, 512, 1, 1));
    assert_eq!(d.config(59, 8), 0, "behind the end");
    assert_eq!(d.features & feature::RO, 0);
    assert!(d.worker.blocks());
}

#[test]
fn what_is_written_is_read() {
    let spy = spy();
    let mut d = Driver::ready(spy.make(), 0);
    let a = ask(&mut d, request::IN, 3, &[], 1024);
    assert_eq!((a.status, a.written), (OK, 1025));
    assert_eq!(a.data, pattern()[3 * 512..5 * 512]);
    let a = ask(&mut d, request::OUT, 4, &[9; 1024], 0);
    assert_eq!((a.status, a.written), (OK, 1));
    assert_eq!(spy.bytes()[4 * 512..6 * 512], [9; 1024]);
    assert_eq!(spy.bytes()[6 * 512..], pattern()[6 * 512..]);
    assert_eq!(spy.disk.lock().unwrap().flushes(), 0, "the driver flushes");
    assert_eq!(ask(&mut d, request::FLUSH, 0, &[], 0).status, OK);
    assert_eq!(spy.disk.lock().unwrap().flushes(), 1);
    let a = ask(&mut d, request::GET_ID, 0, &[], 20);
    assert_eq!((a.status, &a.data[..], a.written), (OK, &b"serial-number-longer"[..], 21));
    assert_eq!(ask(&mut d, 77, 0, &[], 512).status, UNSUPP);
}

#[test]
fn without_flush_every_write_is_durable() {
    let spy = spy();
    let mut d = Driver::ready(spy.make(), feature::FLUSH);
    assert_eq!(ask(&mut d, request::OUT, 4, &[9; 512], 0).status, OK);
    assert_eq!(spy.disk.lock().unwrap().flushes(), 1);
}

#[test]
fn what_the_disk_cannot_do_is_an_error_and_changes_nothing() {
    let spy = spy();
    let mut d = Driver::ready(spy.make(), 0);
    let end = SECTORS as u64;
    for (kind, sector, send, room) in [
        (request::IN, end, 0, 512),
        (request::IN, end - 1, 0, 1024),
        (request::IN, u64::MAX, 0, 512),
        (request::IN, u64::MAX / 512 + 1, 0, 512),
        (request::IN, 0, 0, 100),
        (request::OUT, end - 1, 1024, 0),
        (request::OUT, 0, 513, 0),
    ] {
        let a = ask(&mut d, kind, sector, &vec![1; send], room);
        assert_eq!((a.status, a.written), (IOERR, u32::from(room == 0)), "{kind} {sector} {send} {room}");
    }
    assert_eq!(spy.bytes(), pattern());
    spy.disk.lock().unwrap().fail_after(0);
    assert_eq!(ask(&mut d, request::OUT, 0, &[1; 512], 0).status, IOERR);
    assert!(!d.needs_reset());
}

fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
}

#[test]
fn ranges_are_discarded_and_zeroed() {
    let spy = spy();
    let mut d = Driver::ready(spy.make(), 0);
    let two = [range(8, 8, 0), range(32, 1, 0), range(0, 0, 0)].concat();
    assert_eq!(ask(&mut d, request::DISCARD, 0, &two, 0).status, OK);
    let mut expect = pattern();
    expect[8 * 512..16 * 512].fill(0);
    expect[32 * 512..33 * 512].fill(0);
    assert!(spy.bytes() == expect);
    assert_eq!(ask(&mut d, request::WRITE_ZEROES, 0, &range(1, 1, 1), 0).status, OK);
    expect[512..1024].fill(0);
    assert!(spy.bytes() == expect);
    for (kind, list, status) in [
        (request::DISCARD, range(2, 1, 1), UNSUPP),
        (request::WRITE_ZEROES, range(2, 1, 2), UNSUPP),
        (request::DISCARD, vec![], IOERR),
        (request::DISCARD, vec![0; 15], IOERR),
        (request::DISCARD, range(2, 1, 0).repeat(17), IOERR),
        (request::DISCARD, range(2, u32::MAX, 0), IOERR),
        // The second is outside: the first is not touched either.
        (request::WRITE_ZEROES, [range(2, 1, 0), range(SECTORS as u64, 1, 0)].concat(), IOERR),
    ] {
        assert_eq!(ask(&mut d, kind, 0, &list, 0).status, status, "{kind} {list:?}");
    }
    assert!(spy.bytes() == expect);
}

#[test]
fn a_read_only_disk_says_so_and_stays_so() {
    let spy = Spy::new(MemDisk::from_bytes(pattern()).into_read_only());
    let mut d = Driver::ready(spy.make(), 0);
    assert_ne!(d.features & feature::RO, 0);
    assert_eq!(d.features & (feature::DISCARD | feature::WRITE_ZEROES), 0);
    assert_eq!(ask(&mut d, request::OUT, 0, &[1; 512], 0).status, IOERR);
    assert_eq!(ask(&mut d, request::DISCARD, 0, &range(0, 1, 0), 0).status, IOERR);
    assert_eq!(ask(&mut d, request::IN, 0, &[], 512).status, OK);
    assert_eq!(ask(&mut d, request::FLUSH, 0, &[], 0).status, OK);
}

#[test]
fn a_request_without_header_or_status_stops_the_device() {
    for bufs in [vec![(RAM, 15, false), (RAM, 1, true)], vec![(RAM, 16, false)], vec![(RAM, 1, true)]] {
        let mut d = Driver::ready(spy().make(), 0);
        d.add(0, &bufs);
        d.kick(0);
        d.turn();
        assert!(d.needs_reset());
        assert_eq!((d.used(0), d.r(0x60)), (None, 2));
    }
}

#[test]
fn registers_answer_during_a_request_and_a_reset_makes_it_stale() {
    let spy = spy();
    let mut d = Driver::ready(spy.make(), 0);
    let (head, data, status) = (d.buffer(&header(request::IN, 0)), d.room(512), d.room(1));
    let bufs = [(head, 16, false), (data, 512, true), (status, 1, true)];
    d.add(0, &bufs);
    d.kick(0);
    // A guest that resets in the middle, and has set the queue up again before the disk answers.
    let (dev, features, rings) = (d.dev.clone(), d.features, [d.base(0), d.avail(0), d.used_ring(0)]);
    let ram = d.ram.clone();
    *spy.during.lock().unwrap() = Some(Box::new(move || {
        let mut dev = dev.try_lock().expect("no lock is held during I/O");
        assert_eq!(dev.read(0x70, 4), 15);
        dev.write(0x70, 4, 0);
        assert_eq!(dev.read(0x70, 4), 0);
        ram.load(rings[1], &[0; 4]).unwrap();
        let halves = [(0x24, 0), (0x20, features), (0x24, 1), (0x20, features >> 32), (0x70, 11), (0x38, 16)];
        let areas = [(0x80, rings[0]), (0x84, rings[0] >> 32), (0x90, rings[1]), (0x94, rings[1] >> 32)];
        let rest = [(0xa0, rings[2]), (0xa4, rings[2] >> 32), (0x44, 1), (0x70, 15)];
        halves.into_iter().chain(areas).chain(rest).for_each(|(reg, v)| dev.write(reg, 4, v));
        assert_eq!((dev.read(0x70, 4), dev.read(0x44, 4)), (15, 1));
    }));
    d.turn();
    *spy.during.lock().unwrap() = None;
    assert_eq!((d.r(0x70), d.used(0), d.r(0x60)), (15, None, 0), "the stale completion is dropped");
    let features = d.features;
    d.init(features, 16);
    assert_eq!(d.request(0, &bufs), 513);
    assert_eq!(d.bytes(data, 512), pattern()[..512]);
}

#[test]
fn many_requests_need_one_doorbell_and_a_turn_is_bounded() {
    let spy = spy();
    let mut d = Driver::new(spy.make());
    let features = d.offered();
    d.init(features, 256);
    let (head, data, status) = (d.buffer(&header(request::IN, 1)), d.room(512), d.room(1));
    for _ in 0..80 {
        d.add(0, &[(head, 16, false), (data, 512, true), (status, 1, true)]);
    }
    d.kick(0);
    assert_eq!(d.worker.turn(), Some(std::time::Duration::ZERO));
    assert_eq!(d.u16(d.used_ring(0) + 2), 64);
    d.turn();
    assert_eq!(d.u16(d.used_ring(0) + 2), 80);
    assert_eq!(d.wire.edges.load(std::sync::atomic::Ordering::SeqCst), 1);
}

proptest! {
    /// Any division of a request into buffers means the same, direct or indirect.
    #[test]
    fn framing_does_not_matter(
        cuts in proptest::collection::vec(1usize..700, 0..6),
        indirect in any::<bool>(),
        writing in any::<bool>(),
    ) {
        let spy = spy();
        let mut d = Driver::ready(spy.make(), 0);
        let sector = 5;
        let (kind, readable, writable) =
            if writing { (request::OUT, 16 + 1024, 1) } else { (request::IN, 16, 1024 + 1) };
        let mut out = header(kind, sector);
        out.resize(readable, 0x5a);
        let (from, to) = (d.buffer(&out), d.room(writable));
        let mut bufs = Vec::new();
        for (gpa, total, write) in [(from, readable, false), (to, writable, true)] {
            let mut at = 0;
            for &c in cuts.iter().chain([&usize::MAX]) {
                let n = c.min(total - at);
                if n > 0 {
                    bufs.push((gpa + at as u64, n as u32, write));
                }
                at += n;
            }
        }
        let head = if indirect { d.add_indirect(0, &bufs) } else { d.add(0, &bufs) };
        d.kick(0);
        d.turn();
        prop_assert_eq!(d.used(0), Some((head, writable as u32)));
        let got = d.bytes(to, writable);
        prop_assert_eq!(got[writable - 1], OK);
        let disk = spy.bytes();
        let place = &disk[5 * 512..7 * 512];
        if writing {
            prop_assert!(place.iter().all(|b| *b == 0x5a));
        } else {
            prop_assert_eq!(place, &got[..1024]);
        }
    }
}

/// Reads a sector twelve times at once from a disk that takes so long for each; gives how many the driver had been told of
/// when each began.
fn told_when_each_began(takes: Duration) -> Vec<u16> {
    let spy = spy();
    let mut d = Driver::ready(spy.make(), 0);
    for _ in 0..12 {
        let (head, room, status) = (d.buffer(&header(0, 0)), d.room(512), d.room(1));
        d.add_indirect(0, &[(head, 16, false), (room, 512, true), (status, 1, true)]);
    }
    let told = Arc::new(Mutex::new(Vec::new()));
    let (ram, at, seen) = (d.ram.clone(), d.used_ring(0) + 2, told.clone());
    *spy.during.lock().unwrap() = Some(Box::new(move || {
        let mut idx = [0; 2];
        ram.peek(at, &mut idx).unwrap();
        seen.lock().unwrap().push(u16::from_le_bytes(idx));
        std::thread::sleep(takes);
    }));
    d.kick(0);
    d.turn();
    assert_eq!(std::iter::from_fn(|| d.used(0)).map(|(_, len)| len).collect::<Vec<_>>(), [513; 12]);
    let told = told.lock().unwrap().clone();
    assert_eq!(told.len(), 12);
    told
}

#[test]
fn the_driver_is_told_of_several_quick_requests_at_once() {
    // A host that is busy elsewhere in the middle of it makes a quick request a slow one.
    let together = (0..50).any(|_| {
        let told = told_when_each_began(Duration::ZERO);
        assert!((0..).zip(&told).all(|(n, told)| (n - told) < 8), "one waits for too many: {told:?}");
        told == [0, 0, 0, 0, 0, 0, 0, 0, 8, 8, 8, 8]
    });
    assert!(together);
}

#[test]
fn the_driver_is_told_of_slow_requests_one_by_one() {
    assert_eq!(told_when_each_began(Duration::from_millis(1)), (0..12).collect::<Vec<u16>>());
}
