//! Fuzz targets: what comes from the network or a file must parse or be refused, never panic. A small
//! committed corpus and pseudo-random changes of it run with the tests.

use crate::deb::Deb;
use crate::index::Index;
use crate::release::Release;
use std::io::{Cursor, Read};

/// A Debian package: every control file and data entry is read.
pub fn fuzz_deb(data: &[u8]) {
    if let Ok(mut deb) = Deb::new(Cursor::new(data), "fuzz") {
        let _ = deb.control();
        let _ = deb.each_entry(|_, entry| {
            let _ = std::io::copy(&mut entry.take(1 << 20), &mut std::io::sink());
            Ok(())
        });
    }
}

/// The text of a Release, and the same as an index whose every package is resolved.
pub fn fuzz_release(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = Release::parse(&text);
    let index = Index::parse("fuzz", &text);
    let _ = index.resolve(&["a"]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    const RELEASE: &[u8] = include_bytes!("corpus/release");
    const PACKAGES: &[u8] = include_bytes!("corpus/packages");

    /// A small generator is enough here: xorshift64.
    fn next(state: &mut u64) -> usize {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 11) as usize
    }

    fn mutate(seed: &[u8], rounds: usize, target: fn(&[u8])) {
        let (mut state, start) = (0x9e37_79b9_7f4a_7c15u64, Instant::now());
        target(seed);
        for _ in 0..rounds {
            let mut data = seed.to_vec();
            for _ in 0..1 + next(&mut state) % 4 {
                let at = next(&mut state) % data.len();
                match next(&mut state) % 3 {
                    0 => data[at] = next(&mut state) as u8,
                    1 => data[at] ^= 1 << (next(&mut state) % 8),
                    _ => data.truncate(at.max(1)),
                }
            }
            target(&data);
            if start.elapsed() > Duration::from_millis(700) {
                return;
            }
        }
    }

    #[test]
    fn packages_never_panic() {
        use crate::deb::tests::{ar_of, deb_of, tar_of};
        mutate(&deb_of("Package: x\n", &[("./usr/bin/x", b"hello")]), 2000, fuzz_deb);
        let plain = ar_of(&[
            ("control.tar", tar_of(&[("./control", b"Package: x\n")])),
            ("data.tar", tar_of(&[("./x", b"y")])),
        ]);
        mutate(&plain, 2000, fuzz_deb);
    }

    #[test]
    fn releases_and_indexes_never_panic() {
        Release::parse(std::str::from_utf8(RELEASE).unwrap()).unwrap();
        assert_eq!(
            Index::parse("t", std::str::from_utf8(PACKAGES).unwrap()).resolve(&["a"]).unwrap().len(),
            2
        );
        mutate(RELEASE, 3000, fuzz_release);
        mutate(PACKAGES, 3000, fuzz_release);
    }
}
