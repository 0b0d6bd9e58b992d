use super::*;

/// A repeatable source of numbers (xorshift64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn checksum(pieces: &[&[u8]]) -> [u8; 2] {
    let all = pieces.concat();
    let mut sum = 0u32;
    for pair in all.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An IPv4 frame of the guest with right checksums, so that nonsense gets past the first check.
fn frame(proto: u8, dst: [u8; 4], flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut payload = payload.to_vec();
    let src = [10, 0, 2, 15];
    let pseudo = [&src[..], &dst, &[0, proto], &(payload.len() as u16).to_be_bytes()].concat();
    let (at, pseudo) = match proto {
        6 => (16, &pseudo[..]),
        17 => (6, &pseudo[..]),
        _ => (2, &[][..]),
    };
    if let Some(place) = payload.get_mut(at..at + 2) {
        place.fill(0);
        let sum = checksum(&[pseudo, &payload]);
        payload[at..at + 2].copy_from_slice(&sum);
    }
    let mut f = [&[0x52, 0x55, 10, 0, 2, 2, 0x52, 0x54, 0, 0, 0, 1, 8, 0, 0x45, 0][..]].concat();
    f.extend((20 + payload.len() as u16).to_be_bytes());
    f.extend([0, 9]);
    f.extend(flags.to_be_bytes());
    f.extend([64, proto, 0, 0]);
    f.extend(src);
    f.extend(dst);
    let sum = checksum(&[&f[14..34]]);
    f[24..26].copy_from_slice(&sum);
    f.extend(payload);
    f
}

/// One made-up frame: mostly well-formed outside, with values at the edges within.
fn made_up(r: &mut Random) -> Vec<u8> {
    let dst = [[10, 0, 2, 2], [10, 0, 2, 3], [192, 0, 2, 1], [255; 4], [0; 4]][r.below(5)];
    let fill = |r: &mut Random, n: usize| (0..n).map(|_| r.next() as u8).collect::<Vec<u8>>();
    match r.below(8) {
        0 => {
            let n = r.below(80);
            fill(r, n)
        }
        1 | 2 => {
            let n = r.below(40);
            let mut p = fill(r, 8 + n);
            let port = [53u16, 67, 7, 0][r.below(4)];
            p[2..4].copy_from_slice(&port.to_be_bytes());
            let len = if r.below(4) == 0 { r.next() as u16 } else { p.len() as u16 };
            p[4..6].copy_from_slice(&len.to_be_bytes());
            frame(17, dst, 0, &p)
        }
        3 => {
            let n = r.below(60);
            let flags = r.next() as u16 & 0x3fff;
            let p = fill(r, n);
            frame([1, 17][r.below(2)], dst, flags, &p)
        }
        _ => {
            // Few ports and near sequence numbers, so that segments meet living connections.
            let n = r.below(60);
            let options = r.below(4) * 4;
            let mut p = fill(r, 20 + options + n);
            p[..4].copy_from_slice(&[0x80, r.below(3) as u8, 0, 80]);
            let near = [0, 0, 1, 1, 1, 2, 0x7fff_ffff, 0x8000_0000, u32::MAX, 61][r.below(10)];
            p[4..8].copy_from_slice(&near.to_be_bytes());
            if r.below(2) == 0 {
                p[8..12].copy_from_slice(&near.wrapping_add(1).to_be_bytes());
            }
            p[12] = ((5 + options / 4) as u8) << 4;
            p[13] = [0x02, 0x10, 0x11, 0x14, 0x18, 0x12, 0x04, 0x3f][r.below(8)];
            if options > 0 && r.below(2) == 0 {
                let known = [[2, 4, 5, 0xb4], [3, 3, 14, 1], [5, 10, 0, 0], [8, 10, 0, 0]][r.below(4)];
                p[20..24].copy_from_slice(&known);
            }
            frame(6, dst, 0, &p)
        }
    }
}

fn input(r: &mut Random) -> Vec<u8> {
    let mut data = vec![r.next() as u8];
    for _ in 0..r.below(24) {
        if r.below(6) == 0 {
            data.extend((r.next() as u16 | 0x8000).to_le_bytes());
        }
        let f = made_up(r);
        let answers = [0, 0x4000][r.below(2)];
        data.extend((f.len() as u16 | answers).to_le_bytes());
        data.extend(f);
    }
    data
}

#[test]
fn the_corpus_and_made_up_inputs_come_back() {
    for (name, data, at_least) in corpus() {
        let sent = run(data);
        assert!(
            sent >= at_least,
            "{name} has only brought {sent} bytes: it does not get as far as it should"
        );
    }
    let start = std::time::Instant::now();
    let mut r = Random(0x5eed);
    let mut runs = 0;
    while runs < 3000 && start.elapsed() < Duration::from_millis(1500) {
        fuzz_user_net(&input(&mut r));
        runs += 1;
    }
    assert!(runs > 50, "only {runs} inputs in the time");
}

/// Name, input, and how many bytes it brings the guest when it gets to where it is meant to.
fn corpus() -> [(&'static str, &'static [u8], usize); 4] {
    [
        ("empty", b"", 0),
        ("dhcp", include_bytes!("corpus/dhcp"), 342),
        ("handshake", include_bytes!("corpus/handshake"), 3000),
        ("fragments", include_bytes!("corpus/fragments"), 34 + 19),
    ]
}

/// Writes the corpus again, after a change of the input's form: `cargo test -p strata-net -- --ignored corpus`.
#[test]
#[ignore = "writes into the source tree"]
fn write_corpus() {
    let entry = |frames: &[Vec<u8>]| {
        let mut data = vec![1];
        for f in frames {
            data.extend((f.len() as u16 | 0x4000).to_le_bytes());
            data.extend(f);
        }
        data.extend(0xffffu16.to_le_bytes());
        data
    };
    let dhcp = {
        let mut p = vec![0, 68, 0, 67, 1, 0, 0, 0, 1, 1, 6, 0];
        p.resize(8 + 236, 0);
        p.extend([99, 130, 83, 99, 53, 1, 1, 255]);
        let len = p.len() as u16;
        p[4..6].copy_from_slice(&len.to_be_bytes());
        frame(17, [255; 4], 0, &p)
    };
    let tcp = |seq: u8, ack: u32, flags: u8, data: &[u8]| {
        let mut p = vec![0x80, 0, 0, 80, 0, 0, 0, seq];
        p.extend(ack.to_be_bytes());
        p.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        p.extend(data);
        frame(6, [10, 0, 2, 2], 0, &p)
    };
    let handshake =
        entry(&[tcp(1, 0, 2, &[]), tcp(2, 0, 0x10, &[]), tcp(2, 0, 0x19, b"hello"), tcp(1, 0, 2, &[])]);
    // The last piece is zero, so that the first one's checksum is the whole's.
    let pieces = [(0x2000, &[8, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9][..]), (2, &[0; 3])];
    let fragments = entry(&pieces.map(|(at, data)| frame(1, [10, 0, 2, 2], at, data)));
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fuzz/corpus");
    std::fs::create_dir_all(&dir).unwrap();
    for (name, data) in [("dhcp", entry(&[dhcp])), ("handshake", handshake), ("fragments", fragments)] {
        std::fs::write(dir.join(name), data).unwrap();
    }
}
