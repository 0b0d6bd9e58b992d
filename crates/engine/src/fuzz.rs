//! Fuzz targets: plain functions over bytes, for any fuzzer and for the tests.

use crate::hot::{HotPaths, MAX_PATHS};

/// Any bytes as a list of hot paths: refused, or a list that survives being written again and finds all that is in it.
///
/// # Panics
/// When it does not: that is the finding.
pub fn fuzz_hot_paths(data: &[u8]) {
    let Ok(paths) = HotPaths::from_bytes(data) else { return };
    assert!(paths.len() <= MAX_PATHS);
    assert_eq!(HotPaths::from_bytes(&paths.to_bytes()).as_ref(), Ok(&paths));
    for p in paths.iter().take(16) {
        assert!(paths.at(p.mode, p.pc, p.head).all(|(n, _)| n < paths.len()));
    }
}
