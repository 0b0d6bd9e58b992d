//! Pages that are compressed: golden bytes, every batch there and back, and blocks that nobody would send.

use super::*;

/// What is new in version 3: pages that are compressed, before and after the machine runs. The blocks are written by hand:
/// what a compressor makes of a page is its own affair.
pub(super) fn to_the_destination_3() -> Vec<u8> {
    let hello = Hello { oldest: 1, newest: 3, purpose: Purpose::Pages(0), id: [3; 16], secret: [5; 32] };
    let mut out = hello.bytes().to_vec();
    let (ram, left_out) = (source(), PageSet::of(8, |p| p < 2));
    let (mut first, mut late) = (PagesWriter::default(), PagesWriter::distinct());
    assert!((2..8).all(|page| !first.add(&ram, page).unwrap()));
    assert!((0..2).all(|page| !late.add(&ram, page).unwrap()));
    let rest = rest_without(2, first.batch().unwrap().counts());
    let block = one_byte(0xa5);
    let blocks = [&(block.len() as u16).to_le_bytes()[..], &block].concat();
    send(&mut out, &Frame::FilePacked(0, 4096, 4096, &one_byte(7))).unwrap();
    send(&mut out, &Frame::Pages(first.batch().unwrap().with_packed(&blocks))).unwrap();
    send_set(&mut out, &left_out, false).unwrap();
    // The second page as it is.
    let lengths = [block.len() as u16, 4096].map(u16::to_le_bytes).concat();
    let blocks = [&lengths[..], &block, &[0x11; 4096]].concat();
    for frame in [
        Frame::Final(Box::new(rest)),
        Frame::Core(Message::Commit),
        Frame::Late(late.batch().unwrap().with_packed(&blocks)),
    ] {
        send(&mut out, &frame).unwrap();
    }
    out
}

/// A block of LZ4 that gives a page of this byte: one literal, all but the last five by looking a byte back, and those.
fn one_byte(byte: u8) -> Vec<u8> {
    let again = 4096 - 1 - 5 - 4 - 15;
    let mut block = vec![0x1f, byte, 1, 0];
    block.extend(std::iter::repeat_n(255, again / 255));
    block.push((again % 255) as u8);
    block.push(0x50);
    block.extend([byte; 5]);
    block
}

#[test]
fn version_3_is_what_it_was() {
    let there = to_the_destination_3();
    assert!(golden("v3-to-destination", &there) == there, "bytes to the destination");
    let heard = to_destination(&golden("v3-to-destination", &there));
    let side = heard.side.unwrap();
    assert_eq!((heard.frames, side.phase, side.part), (6, DestinationPhase::Running, true));
    assert!(heard.memory == memory(&source()), "memory");
}

#[test]
fn a_block_is_of_a_page_or_of_nothing() {
    let page = |block: &[u8], length: usize| {
        let ram = source();
        let mut writer = PagesWriter::default();
        writer.add(&ram, 0).unwrap();
        let blocks = [&(length as u16).to_le_bytes(), block].concat();
        let mut bytes = Vec::new();
        send(&mut bytes, &Frame::Pages(writer.batch().unwrap().with_packed(&blocks))).unwrap();
        let mut buf = Vec::new();
        let came = match receive(&mut &bytes[..], &mut buf) {
            Ok(Frame::Pages(came)) => came.apply(&source()).is_ok(),
            Err(WireError::Protocol(_)) => false,
            other => panic!("{other:?}"),
        };
        assert!(buf.capacity() < 64 << 10, "{}", buf.capacity());
        came
    };
    let block = one_byte(7);
    assert!(page(&block, block.len()) && page(&[3; 4096], 4096));
    // Cut short, with more behind it, longer than a page, and not of what its length says.
    assert!(!page(&block[..block.len() - 1], block.len()));
    assert!(!page(&[&block[..], &[0]].concat(), block.len()));
    assert!(!page(&[3; 5000], 4097) && !page(&[3; 4095], 4096));
    assert!(!page(&[], 0) && !page(&block[..3], 3));
    // Of a little more than a page, of a little less, and of gigabytes.
    let (mut more, mut less) = (block.clone(), block.clone());
    let last = block.len() - 7;
    (more[last], less[last]) = (block[last] + 1, block[last] - 1);
    assert!(!page(&more, more.len()) && !page(&less, less.len()));
    let huge = [&[0x1f, 7, 1, 0][..], &[255; 4000], &[0]].concat();
    assert!(!page(&huge, huge.len()));
    // Looking back to before the page.
    assert!(!page(&[0x1f, 7, 2, 0, 255, 0], 6) && !page(&[0x1f, 7, 0, 0, 255, 0], 6));
    // More pages than there are lengths for.
    let mut bytes = vec![14, 0, 0, 0, 28, 0, 0, 0, 1, 0, 0, 0];
    bytes.extend([0u64, 64 | 2 << 56, 0].iter().flat_map(|w| w.to_le_bytes()));
    assert!(matches!(receive(&mut &bytes[..], &mut Vec::new()), Err(WireError::Protocol(_))));
    for pages in [65, (1 << 56) - 1] {
        bytes[20..28].copy_from_slice(&(pages | 2u64 << 56).to_le_bytes());
        let mut buf = Vec::new();
        assert!(matches!(receive(&mut &bytes[..], &mut buf), Err(WireError::Protocol(_))));
        assert!(buf.capacity() < 4096, "{pages}: {}", buf.capacity());
    }
}

#[test]
fn a_piece_is_as_long_as_it_says_and_no_longer_than_may_be() {
    let (block, mut buf) = (one_byte(7), Vec::new());
    let mut came = |len: u32, block: &[u8]| {
        let mut bytes = Vec::new();
        send(&mut bytes, &Frame::FilePacked(3, 9, len, block)).unwrap();
        match receive(&mut &bytes[..], &mut buf) {
            Ok(frame) => Some(frame == Frame::File(3, 9, &[7; 4096])),
            Err(WireError::Protocol(_)) => None,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(came(4096, &block), Some(true));
    for len in [0, 1, 4095, 4097, MAX_PIECE as u32, MAX_PIECE as u32 + 1, u32::MAX] {
        assert_eq!(came(len, &block), None, "{len}");
    }
    assert_eq!(came(4096, &block[..9]), None);
    assert_eq!(came(4096, &[]), None);
    assert!(buf.capacity() < 3 * MAX_PIECE, "{}", buf.capacity());
    let cut = [34, 0, 0, 0, 13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(matches!(receive(&mut &cut[..], &mut buf), Err(WireError::Protocol(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_pages_come_out_of_the_packer_as_they_went_in(kinds in proptest::collection::vec(0u8..5, 1..BATCH), seed in 1u64..) {
        let (here, there) = (ram(64), ram(64));
        let mut noise = seed;
        for (page, kind) in kinds.iter().enumerate() {
            let mut content = [*kind; 4096];
            // From nothing but one byte to nothing but noise.
            for byte in content.iter_mut().take([0, 0, 700, 3900, 4096][usize::from(*kind)]) {
                noise ^= noise << 13;
                noise ^= noise >> 7;
                noise ^= noise << 17;
                *byte = noise as u8;
            }
            here.load(BASE + page as u64 * 4096, &content).unwrap();
        }
        let (mut writer, mut packer, mut bytes) = (PagesWriter::default(), Packer::default(), Vec::new());
        for page in 0..kinds.len() as u64 {
            writer.add(&here, page).unwrap();
        }
        let batch = writer.batch().unwrap();
        let packed = packer.pack(&batch);
        let is_packed = packed.is_some();
        prop_assert!(is_packed || kinds.iter().any(|k| *k > 2) || batch.counts()[0] == 0);
        let packed = packed.unwrap_or(batch.clone());
        prop_assert!(packed.bytes() <= batch.bytes());
        send(&mut bytes, &Frame::Pages(packed)).unwrap();
        prop_assert_eq!(bytes[0], if is_packed { 14 } else { 4 });
        let mut buf = Vec::new();
        let Frame::Pages(came) = receive(&mut &bytes[..], &mut buf).unwrap() else { panic!() };
        prop_assert_eq!(&came, &batch);
        came.apply(&there).unwrap();
        prop_assert!(memory(&here) == memory(&there));
        // Damaged, it is a batch of as many pages, or an error.
        let pages = batch.pages();
        let n = (seed % (bytes.len() as u64 - 8)) as usize + 8;
        bytes[n] ^= (seed >> 32) as u8 | 1;
        if let Ok(Frame::Pages(came)) = receive(&mut &bytes[..], &mut buf) {
            prop_assert!(n < 4 + 8 + batch.runs().len() * 24 || came.pages() == pages);
            let _ = came.apply(&there);
        }
    }

    #[test]
    fn any_piece_comes_out_as_it_went_in(words in proptest::collection::vec(0u64..9, 1..3000), noise in any::<bool>()) {
        let word = |w: &u64| if noise { w.wrapping_mul(0x9e37_79b9_7f4a_7c15) } else { *w };
        let piece: Vec<u8> = words.iter().flat_map(|w| word(w).to_le_bytes()).collect();
        let (mut packer, mut bytes, mut buf) = (PiecePacker::default(), Vec::new(), Vec::new());
        // Used again and again.
        for _ in 0..2 {
            let Some(block) = packer.pack(&piece) else {
                prop_assert!(piece.len() < 200 || noise);
                return Ok(());
            };
            prop_assert!(block.len() < piece.len());
            bytes.clear();
            send(&mut bytes, &Frame::FilePacked(1, 2, piece.len() as u32, block)).unwrap();
            prop_assert_eq!(receive(&mut &bytes[..], &mut buf).unwrap(), Frame::File(1, 2, &piece));
        }
    }
}
