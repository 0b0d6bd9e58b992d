//! Fuzz targets: plain functions over bytes, for any fuzzer and for the tests.

use crate::Entropy;
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

/// Damages `bytes` in one place, as a bad disk or a bad person might: a byte is changed, put in, or has one bit turned,
/// or the rest is cut off.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut dyn Entropy) {
    let mut r = [0; 8];
    random.fill(&mut r);
    let at = u32::from_le_bytes([r[0], r[1], r[4], r[5]]) as usize % bytes.len().max(1);
    match (r[2] % 4, bytes.get_mut(at)) {
        (0, Some(b)) => *b = r[3],
        (1, _) => bytes.truncate(at),
        (2, _) => bytes.insert(at, r[3]),
        (_, Some(b)) => *b ^= 1 << (r[3] % 8),
        (_, None) => {}
    }
}
