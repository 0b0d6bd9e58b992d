//! Fuzz targets: plain functions over bytes, for any fuzzer and for the tests.

use crate::export::{ExportReader, Item};
use std::path::Path;

/// Any bytes as an export: refused, or pieces that lie within the items and do not overlap.
///
/// # Panics
/// When they do not: that is the finding.
pub fn fuzz_export(data: &[u8]) {
    let Ok(mut reader) = ExportReader::open(data, Path::new("fuzz")) else { return };
    let contents = reader.contents().clone();
    let mut last = (Item::Contents, 0);
    while let Ok(Some(piece)) = reader.step() {
        assert!((piece.item, piece.place) >= last, "{last:?} then {:?} {}", piece.item, piece.place);
        let end = piece.place + piece.bytes.len() as u64;
        let size = match piece.item {
            Item::State => contents.state,
            Item::Memory => contents.memory,
            Item::Disk(n) => contents.disks[usize::from(n)],
            Item::Boot(n) => contents.boot[usize::from(n)].unwrap_or(0),
            other => panic!("{other:?} among the items"),
        };
        assert!(end <= size);
        last = (piece.item, end);
    }
    assert!(reader.at() <= data.len() as u64);
}
