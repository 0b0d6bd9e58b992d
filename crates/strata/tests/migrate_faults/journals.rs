//! What the hosts' journals say, read from outside.

use super::common::Place;
use std::fs;
use std::path::PathBuf;

/// Kinds of records that decide, as `docs/formats/migration.md` numbers them.
pub mod kind {
    pub const DONE: u8 = 3;
    pub const ABORTED: u8 = 4;
    pub const RECLAIMED: u8 = 5;
    pub const STARTED: u8 = 8;
    pub const REFUSED: u8 = 9;
    pub const READY_PART: u8 = 12;
    pub const WHOLE: u8 = 13;
}

/// The journals of a side of a host.
pub fn journals(host: &Place, side: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(host.seen(&host.home().join("migrations"))).into_iter().flatten();
    let mut all: Vec<_> = entries.map(|e| e.unwrap().path()).collect();
    all.retain(|p| p.extension().is_some_and(|e| e == side));
    all
}

/// The kinds of the records of a host's one journal.
pub fn records(host: &Place, side: &str) -> Vec<u8> {
    // A journal that is just being removed is none.
    let Some(bytes) = journals(host, side).pop().and_then(|path| fs::read(path).ok()) else { return vec![] };
    let (mut at, mut kinds) = (12, vec![]);
    // Behind the last one there are zeroes.
    while let Some(len) =
        bytes.get(at..at + 4).map(|b| u32::from_le_bytes(b.try_into().unwrap())).filter(|n| *n > 0)
    {
        kinds.extend(bytes.get(at + 4));
        // Length, the record, its sum and its end.
        at += 4 + len as usize + 4 + 1;
    }
    kinds
}
