use super::*;
use crate::fuzz::fuzz_export;
use crate::{MachineRef, Manifest, SnapshotError};
use std::path::Path;
use strata_engine::SeededEntropy;
use strata_engine::fuzz::mutate;

/// A small export that another program has made from the page that documents the format.
const SMALL: &[u8] = include_bytes!("../../corpus/export/small");

fn manifest() -> Manifest {
    let machine = MachineRef { board: "riscv-virt".into(), engine: "soft".into(), cpus: 1, memory: 4 << 20 };
    let mut manifest = Manifest::new("ab".into(), machine, serde_json::json!({ "name": "web" }));
    manifest.state.size = 5;
    manifest
}

fn contents() -> Contents {
    Contents { state: 5, memory: 4 << 20, disks: vec![1 << 30], boot: [None, Some(3), None] }
}

/// Something of each item.
fn made() -> Vec<u8> {
    let mut w = ExportWriter::new(Vec::new(), Path::new("x"), &manifest(), &contents()).unwrap();
    w.put(Item::State, 0, b"state").unwrap();
    w.put(Item::Memory, 0, &[7; PIECE]).unwrap();
    w.put(Item::Memory, 3 << 20, &[8; 4096]).unwrap();
    w.put(Item::Disk(0), (1 << 30) - 512, &[9; 512]).unwrap();
    w.put(Item::Boot(1), 0, b"abc").unwrap();
    w.finish().unwrap()
}

type Read = (Vec<(Item, u64, Vec<u8>)>, Manifest);

fn read(bytes: &[u8]) -> Result<Read, SnapshotError> {
    let mut r = ExportReader::open(bytes, Path::new("file.strata"))?;
    let mut all = Vec::new();
    while let Some(p) = r.step()? {
        all.push((p.item, p.place, p.bytes.to_vec()));
    }
    assert_eq!(r.at(), bytes.len() as u64);
    Ok((all, r.manifest().clone()))
}

#[test]
fn what_was_put_in_comes_out() {
    let (pieces, m) = read(&made()).unwrap();
    assert_eq!(m.bytes(), manifest().bytes());
    let sizes: Vec<_> = pieces.iter().map(|(i, at, b)| (*i, *at, b.len())).collect();
    assert_eq!(
        sizes,
        [
            (Item::State, 0, 5),
            (Item::Memory, 0, PIECE),
            (Item::Memory, 3 << 20, 4096),
            (Item::Disk(0), (1 << 30) - 512, 512),
            (Item::Boot(1), 0, 3)
        ]
    );
    assert!(pieces[1].2.iter().all(|b| *b == 7) && pieces[4].2 == b"abc");
}

#[test]
fn the_format_is_as_its_page_says() {
    let (pieces, m) = read(SMALL).unwrap();
    assert_eq!((m.id.as_str(), m.machine.memory), ("00112233445566778899aabbccddeeff", 8192));
    let want = [
        (Item::State, 0, b"the state".to_vec()),
        (Item::Memory, 4096, vec![0x13; 4096]),
        (Item::Disk(0), 512, b"sector".repeat(85)),
        (Item::Boot(1), 0, b"kernel".to_vec()),
    ];
    assert_eq!(pieces, want);
}

#[test]
fn every_byte_and_every_length_counts() {
    let good = made();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 4;
        let e = read(&bad).map(|_| ()).unwrap_err().to_string();
        assert!(e.contains("file.strata") && !e.contains('\n'), "byte {at}: {e}");
        let e = read(&good[..at]).map(|_| ()).unwrap_err().to_string();
        assert!(e.contains("cut short"), "cut at {at}: {e}");
    }
    let e = read(&[&good[..], b"x"].concat()).map(|_| ()).unwrap_err().to_string();
    assert!(e.contains("follows"), "{e}");
}

#[test]
fn another_version_is_named() {
    let mut bytes = made();
    bytes[8] = 2;
    assert!(matches!(read(&bytes), Err(SnapshotError::Newer { need, .. }) if need.contains("version 2")));
    bytes[8] = 1;
    bytes[12] = 1;
    assert!(matches!(read(&bytes), Err(SnapshotError::Newer { need, .. }) if need.contains("features 0x1")));
}

/// Pieces that are sound by themselves, in an order or at a place that is not.
#[test]
fn pieces_that_do_not_fit_are_refused() {
    let with = |put: &dyn Fn(&mut ExportWriter<Vec<u8>>)| {
        let mut w = ExportWriter::new(Vec::new(), Path::new("x"), &manifest(), &contents()).unwrap();
        put(&mut w);
        read(&w.finish().unwrap()).map(|_| ())
    };
    with(&|_| ()).unwrap();
    for (item, place, len) in [
        (Item::State, 1, 5),
        (Item::Memory, 4 << 20, 1),
        (Item::Memory, u64::MAX, 2),
        (Item::Disk(1), 0, 1),
        (Item::Boot(0), 0, 1),
        (Item::Boot(3), 0, 1),
        (Item::Manifest, 0, 1),
        (Item::Contents, 0, 1),
        (Item::End, 0, 1),
    ] {
        let e = with(&|w| w.put(item, place, &vec![1; len]).unwrap()).unwrap_err().to_string();
        assert!(e.contains("damaged"), "{item:?} at {place}: {e}");
    }
    let twice = |a: (Item, u64), b: (Item, u64)| {
        with(&|w| [a, b].iter().for_each(|(item, place)| w.put(*item, *place, &[1; 2]).unwrap()))
    };
    twice((Item::Memory, 0), (Item::Memory, 2)).unwrap();
    twice((Item::Memory, 0), (Item::Memory, 1)).unwrap_err();
    twice((Item::Memory, 2), (Item::Memory, 0)).unwrap_err();
    twice((Item::Memory, 0), (Item::State, 0)).unwrap_err();
    let mut w = ExportWriter::new(Vec::new(), Path::new("x"), &manifest(), &contents()).unwrap();
    assert!(w.put(Item::Memory, 0, &vec![1; PIECE + 1]).is_err());
}

#[test]
fn corpus_and_its_mutants() {
    let mut random = SeededEntropy(13);
    for seed in [SMALL, &made()] {
        fuzz_export(seed);
        for _ in 0..2000 {
            let mut bytes = seed.to_vec();
            mutate(&mut bytes, &mut random);
            fuzz_export(&bytes);
        }
    }
}
