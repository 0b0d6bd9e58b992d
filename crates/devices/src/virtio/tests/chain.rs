use super::driver::*;
use crate::virtio::virtqueue::{Chain, MAX_SEGMENTS, Nonsense, Popped, QueueState, RingFeatures};
use proptest::prelude::*;
use strata_memory::{Backing, GuestRam, RegionSpec, VolatileSlice};

const NUM: u16 = 16;
const TABLE: u64 = RAM;
const AVAIL: u64 = RAM + 0x1000;
const USED: u64 = RAM + 0x2000;
const INDIRECT_TABLE: u64 = RAM + 0x1_0000;
const DATA: u64 = RAM + 0x2_0000;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const IND: u16 = 4;

type Desc = (u64, u32, u16, u16);

fn table(ram: &GuestRam, at: u64, descs: &[Desc]) {
    for (i, &(addr, len, flags, next)) in descs.iter().enumerate() {
        let d = u128::from(addr) | u128::from(len) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
        ram.load(at + 16 * i as u64, &d.to_le_bytes()).unwrap();
    }
}

fn pop<'m>(ram: &'m GuestRam, head: u16, indirect: bool) -> Result<Popped<'m>, Nonsense> {
    ram.load(AVAIL + 2, &[1, 0]).unwrap();
    ram.load(AVAIL + 4, &head.to_le_bytes()).unwrap();
    let mut q = QueueState { desc: TABLE, avail: AVAIL, used: USED, ready: true, ..QueueState::new(NUM) };
    let popped = q.pop(ram, RingFeatures { event_idx: true, indirect }, &mut Vec::new());
    assert_eq!(q.next_avail, u16::from(matches!(popped, Ok(Popped::Chain(_)))));
    popped
}

fn walk<'m>(ram: &'m GuestRam, descs: &[Desc]) -> Result<Chain<'m>, Nonsense> {
    table(ram, TABLE, descs);
    match pop(ram, 0, true)? {
        Popped::Chain(c) => Ok(c),
        other => panic!("{other:?}"),
    }
}

/// What `walk` refuses, by the beginning of its message.
fn refuses(what: &str, descs: &[Desc]) {
    let ram = ram();
    let e = walk(&ram, descs).expect_err(what).to_string();
    assert!(e.contains(what), "expected {what:?}, got {e:?}");
}

#[test]
fn a_chain_gives_its_buffers_in_order() {
    let ram = ram();
    ram.load(DATA, b"abcdefgh").unwrap();
    let c = walk(
        &ram,
        &[(DATA, 3, NEXT, 2), (0, 0, 0, 0), (DATA + 5, 3, NEXT, 4), (0, 0, 0, 0), (DATA + 9, 4, WRITE, 77)],
    )
    .unwrap();
    assert_eq!((c.head(), c.readable_len(), c.writable_len()), (0, 6, 4));
    let mut r = c.reader();
    assert_eq!(r.array::<2>(), Some(*b"ab"));
    assert_eq!(r.array::<5>(), None, "nothing is taken where there is too little");
    assert_eq!(r.array::<4>(), Some(*b"cfgh"));
    assert_eq!((r.left(), r.read(&mut [0; 4])), (0, 0));
    let (mut a, mut b) = c.reader().split_at(4);
    let mut buf = [0; 8];
    assert_eq!((a.read(&mut buf), b.left()), (4, 2));
    assert_eq!(&buf[..4], b"abcf");
    assert_eq!(b.array(), Some(*b"gh"));
    let mut pieces = Vec::new();
    c.reader().split_at(1).1.slices(4, &mut pieces);
    assert_eq!(pieces.iter().map(VolatileSlice::len).collect::<Vec<_>>(), [2, 2]);

    let (mut w, mut last) = c.writer().split_at(3);
    assert_eq!((w.write(b"WXYZ"), last.write(b"!?")), (3, 1));
    let mut got = [0; 6];
    ram.peek(DATA + 8, &mut got).unwrap();
    assert_eq!(&got, b"\0WXY!\0");
    assert_eq!(c.writer().fill(2, &mut [0; 1], |b| b.fill(b'f')), 2);
    ram.peek(DATA + 8, &mut got).unwrap();
    assert_eq!(&got, b"\0ffY!\0");
}

#[test]
fn what_the_device_may_write_is_marked_dirty_and_nothing_else() {
    let ram = ram();
    table(&ram, TABLE, &[(DATA, 4, NEXT, 1), (DATA + 0x1ffe, 4, WRITE, 0)]);
    ram.load(AVAIL + 2, &[1, 0]).unwrap();
    let pages = ram.regions()[0].pages();
    let epoch = pages.begin_epoch();
    let mut q = QueueState { desc: TABLE, avail: AVAIL, used: USED, ready: true, ..QueueState::new(NUM) };
    assert!(matches!(q.pop(&ram, RingFeatures::default(), &mut Vec::new()), Ok(Popped::Chain(_))));
    let dirty = |epoch| {
        let all = (0..pages.pages()).filter(|p| pages.dirty_since(*p, epoch));
        all.map(|p| RAM + 0x1000 * p as u64).collect::<Vec<_>>()
    };
    assert_eq!(dirty(epoch), [DATA + 0x1000, DATA + 0x2000]);
    let epoch = pages.begin_epoch();
    q.publish(&ram, RingFeatures::default(), std::iter::once((0, 4))).unwrap();
    assert_eq!(dirty(epoch), [USED]);
}

#[test]
fn zero_length_descriptors_are_accepted_and_skipped() {
    let ram = ram();
    let c = walk(
        &ram,
        &[
            (0, 0, NEXT | WRITE, 1),
            (DATA, 4, NEXT, 2),
            (u64::MAX, 0, NEXT, 3),
            (DATA, 4, WRITE | NEXT, 4),
            (7, 0, 0, 0),
        ],
    )
    .unwrap();
    assert_eq!((c.readable_len(), c.writable_len()), (4, 4));
    let c = walk(&ram, &[(0, 0, 0, 0)]).unwrap();
    assert_eq!((c.readable_len(), c.writable_len(), c.reader().left(), c.writer().left()), (0, 0, 0, 0));
    assert_eq!(c.writer().write(b"x"), 0);
}

#[test]
fn indirect_tables_follow_their_rules() {
    let ram = ram();
    // As many entries as Linux may use with a small queue, and a direct descriptor before.
    let long: Vec<Desc> =
        (0..300).map(|i| (DATA + i, 1, if i < 299 { NEXT | WRITE } else { WRITE }, i as u16 + 1)).collect();
    table(&ram, INDIRECT_TABLE, &long);
    // The table's address needs no alignment, and its WRITE flag means nothing.
    let c = walk(&ram, &[(DATA, 16, NEXT, 1), (INDIRECT_TABLE, 300 * 16, IND | WRITE, 9)]).unwrap();
    assert_eq!((c.readable_len(), c.writable_len()), (16, 300));
    table(&ram, INDIRECT_TABLE + 3, &[(DATA, 5, 0, 0)]);
    assert_eq!(walk(&ram, &[(INDIRECT_TABLE + 3, 16, IND, 0)]).unwrap().readable_len(), 5);

    table(&ram, TABLE, &[(INDIRECT_TABLE + 3, 16, IND, 0)]);
    assert!(matches!(pop(&ram, 0, false), Err(Nonsense::Indirect(_))), "not negotiated");
    for (len, flags) in
        [(0, IND), (15, IND), (17, IND), (16 * (MAX_SEGMENTS as u32 + 1), IND), (16, IND | NEXT)]
    {
        assert!(
            matches!(walk(&ram, &[(INDIRECT_TABLE, len, flags, 0)]), Err(Nonsense::Indirect(_))),
            "{len} {flags}"
        );
    }
    let nested = (INDIRECT_TABLE, 16, IND, 0);
    table(&ram, INDIRECT_TABLE, &[nested]);
    assert!(matches!(walk(&ram, &[nested]), Err(Nonsense::Indirect(_))));
    table(&ram, INDIRECT_TABLE, &[(DATA, 1, NEXT, 2), (DATA, 1, 0, 0)]);
    assert!(matches!(
        walk(&ram, &[(INDIRECT_TABLE, 32, IND, 0)]),
        Err(Nonsense::BadIndex { index: 2, entries: 2 })
    ));
    table(&ram, INDIRECT_TABLE, &[(DATA, 1, NEXT, 0)]);
    assert!(matches!(walk(&ram, &[(INDIRECT_TABLE, 16, IND, 0)]), Err(Nonsense::Loop { .. })));
    assert!(matches!(walk(&ram, &[(RAM + RAM_SIZE - 8, 16, IND, 0)]), Err(Nonsense::Memory(_))));
}

#[test]
fn what_no_driver_does_is_refused() {
    refuses("loops", &[(DATA, 1, NEXT, 0)]);
    refuses("loops", &[(DATA, 1, NEXT, 1), (0, 0, NEXT, 0)]);
    refuses("descriptor 16 in a table of 16", &[(DATA, 1, NEXT, 16)]);
    refuses("readable buffer after a writable", &[(DATA, 1, NEXT | WRITE, 1), (DATA, 1, 0, 0)]);
    refuses("not RAM", &[(RAM - 1, 2, 0, 0)]);
    refuses("not RAM", &[(RAM + RAM_SIZE - 1, 2, WRITE, 0)]);
    refuses("not RAM", &[(u64::MAX, u32::MAX, 0, 0)]);
    refuses("not RAM", &[(0, 1, 0, 0)]);
    let ram = ram();
    table(&ram, TABLE, &[(DATA, 1, 0, 0)]);
    assert!(matches!(pop(&ram, NUM, true), Err(Nonsense::BadIndex { .. })));
    assert!(matches!(pop(&ram, u16::MAX, true), Err(Nonsense::BadIndex { .. })));
}

#[test]
fn a_chain_has_at_most_so_many_buffers_and_bytes() {
    let ram = ram();
    let n = MAX_SEGMENTS as u16;
    let flags = |i| if i + 1 < n { NEXT } else { 0 };
    let full: Vec<Desc> = (0..n).map(|i| (DATA, 1, flags(i), i + 1)).collect();
    table(&ram, INDIRECT_TABLE, &full);
    let whole = (INDIRECT_TABLE, 16 * u32::from(n), IND, 0);
    assert_eq!(walk(&ram, &[whole]).unwrap().readable_len(), u64::from(n));
    assert!(matches!(walk(&ram, &[(DATA, 1, NEXT, 1), whole]), Err(Nonsense::TooLong { .. })));

    // 8 GiB that no one touches: two buffers that fit and one byte that does not.
    let size = 8 << 30;
    let big = GuestRam::new(vec![RegionSpec { gpa: RAM, len: size, backing: Backing::Anonymous }]).unwrap();
    let half = u32::MAX / 2;
    let two = [(RAM + 0x10_0000, half, NEXT, 1), (RAM + 0x10_0000, half + 1, NEXT, 2)];
    let c = walk(&big, &[two[0], (two[1].0, two[1].1, 0, 0)]).unwrap();
    assert_eq!(c.readable_len(), u64::from(u32::MAX));
    assert!(matches!(walk(&big, &[two[0], two[1], (RAM, 1, 0, 0)]), Err(Nonsense::TooLong { .. })));
}

fn descs() -> impl Strategy<Value = Vec<Desc>> {
    let addr = prop_oneof![
        6 => (0u64..0x4000).prop_map(|o| DATA + o),
        2 => (0u64..0x40).prop_map(|o| INDIRECT_TABLE + 16 * o),
        1 => (0u64..0x40).prop_map(|o| RAM + RAM_SIZE - 0x20 + o),
        1 => any::<u64>(),
    ];
    let len = prop_oneof![4 => 0u32..64, 2 => (0u32..8).prop_map(|n| n * 16), 1 => any::<u32>()];
    let flags = prop_oneof![4 => 0u16..4, 1 => 0u16..8, 1 => any::<u16>()];
    let next = prop_oneof![8 => 0u16..NUM, 1 => any::<u16>()];
    proptest::collection::vec((addr, len, flags, next), usize::from(NUM))
}

/// Descriptor `at` of the table at `gpa`.
fn entry(ram: &GuestRam, gpa: u64, at: usize) -> Option<Desc> {
    let mut raw = [0; 16];
    ram.peek(gpa.checked_add(16 * at as u64)?, &mut raw).ok()?;
    let v = u128::from_le_bytes(raw);
    Some((v as u64, (v >> 64) as u32, (v >> 96) as u16, (v >> 112) as u16))
}

fn in_ram(addr: u64, len: u32) -> bool {
    (RAM..=RAM + RAM_SIZE).contains(&addr) && u64::from(len) <= RAM + RAM_SIZE - addr
}

/// The rules once more, as a list of the visited: what a chain is, or that it is none.
fn model(ram: &GuestRam, head: u16) -> Option<Vec<(u64, u32, bool)>> {
    let (mut out, mut seen) = (Vec::new(), vec![]);
    let (mut table, mut entries, mut at) = (TABLE, usize::from(NUM), usize::from(head));
    loop {
        if at >= entries || seen.contains(&at) {
            return None;
        }
        seen.push(at);
        let (addr, len, flags, next) = entry(ram, table, at)?;
        if flags & IND != 0 {
            let n = len as usize / 16;
            if table != TABLE
                || flags & NEXT != 0
                || n == 0
                || len % 16 != 0
                || n > MAX_SEGMENTS
                || !in_ram(addr, len)
            {
                return None;
            }
            (table, entries, at, seen) = (addr, n, 0, vec![]);
            continue;
        }
        if len > 0 {
            let write = flags & WRITE != 0;
            if !in_ram(addr, len) || !write && out.last().is_some_and(|&(_, _, w)| w) {
                return None;
            }
            out.push((addr, len, write));
        }
        if flags & NEXT == 0 {
            return Some(out);
        }
        at = usize::from(next);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A chain is taken exactly when the rules allow it, and is then what the descriptors say.
    #[test]
    fn chains_are_what_the_rules_say(direct in descs(), indirect in descs(), head in 0u16..NUM + 1) {
        let ram = ram();
        table(&ram, TABLE, &direct);
        table(&ram, INDIRECT_TABLE, &indirect);
        let expect = model(&ram, head);
        match pop(&ram, head, true) {
            Err(_) => prop_assert_eq!(expect, None),
            Ok(Popped::Chain(c)) => {
                let (mut all, mut pieces) = (Vec::new(), Vec::new());
                c.reader().slices(u64::MAX, &mut pieces);
                all.extend(pieces.drain(..).map(|p| (p, false)));
                c.writer().slices(u64::MAX, &mut pieces);
                all.extend(pieces.drain(..).map(|p| (p, true)));
                let expect = expect.expect("the model refuses it");
                prop_assert_eq!(all.len(), expect.len());
                for ((piece, write), (addr, len, w)) in all.into_iter().zip(expect) {
                    prop_assert_eq!((piece.len(), write), (len as usize, w));
                    let region = ram.acquire(addr, len.into(), strata_memory::Access::Read).unwrap();
                    let strata_memory::Acquired::Ready(place) = region else { panic!() };
                    prop_assert_eq!(piece.ptr_guard().as_ptr(), place.ptr_guard().as_ptr());
                }
            }
            Ok(other) => prop_assert!(false, "{:?}", other),
        }
    }
}

#[test]
fn whoever_translated_code_from_a_buffer_is_told_after_the_write() {
    let ram = ram();
    let mut cursor = ram.code_writes();
    for end in ["recycled", "dropped"] {
        let c = walk(&ram, &[(DATA, 4, NEXT, 1), (DATA + 0x1ffe, 4, WRITE, 0)]).unwrap();
        // Translated anew between the request and its answer.
        let watched = [DATA, DATA + 0x1000, DATA + 0x2000];
        watched.iter().for_each(|&page| _ = ram.watch_code(page));
        ram.drain_code_writes(&mut cursor, |_| ());
        c.writer().write(b"code");
        if end == "recycled" {
            c.recycle(&mut Vec::new())
        } else {
            drop(c)
        }
        let mut told = Vec::new();
        ram.drain_code_writes(&mut cursor, |page| told.push(page));
        assert_eq!(told, watched[1..], "{end}");
    }
}
