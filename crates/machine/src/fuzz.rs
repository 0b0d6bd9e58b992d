//! Fuzz targets: plain functions over bytes, for any fuzzer and for the tests.

use crate::loader::{LoadError, Placement, Source, load};
use std::fs::File;
use std::io::Write;
use strata_memory::GuestRam;

const BASE: u64 = 0x8000_0000;
const SIZE: u64 = 16 << 20;

fn source(bytes: &[u8]) -> Option<Source> {
    let fd = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    let mut file = File::from(fd);
    file.write_all(bytes).ok()?;
    Some(Source { file, name: "fuzz".into() })
}

/// Loads a file into a small machine: the first byte says as what, the others are the file. It must be refused with
/// an error, or everything lies in RAM.
///
/// # Panics
/// When it does not: that is the finding.
pub fn fuzz_loader(data: &[u8]) {
    let Some((role, bytes)) = data.split_first() else { return };
    let (Some(file), Some(raw)) = (source(bytes), source(&[0x13, 0, 0, 0])) else { return };
    let what = match role % 4 {
        0 => Placement { kernel: Some(file), ..Placement::default() },
        1 => Placement { firmware: Some(file), ..Placement::default() },
        2 => Placement { firmware: Some(raw), kernel: Some(file), initrd: None },
        _ => Placement { firmware: Some(raw), kernel: None, initrd: Some(file) },
    };
    let Ok(ram) = GuestRam::single(BASE, SIZE) else { return };
    let Ok(loaded) = load::<LoadError>(&ram, &what, |_| Ok(vec![0xd0; 1000])) else { return };
    let (at, len) = loaded.fdt;
    assert!(at >= BASE && at + len <= BASE + SIZE, "the device tree is at {at:#x}");
    let mut tree = [0; 1000];
    assert!(ram.peek(at, &mut tree).is_ok() && tree == [0xd0; 1000], "the device tree was overwritten");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    #[test]
    fn the_corpus_and_what_is_near_it() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/loader");
        let mut seeds: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|f| f.unwrap().path()).collect();
        seeds.sort();
        let seeds: Vec<_> = seeds.iter().map(|p| std::fs::read(p).unwrap()).collect();
        assert!(seeds.len() >= 4);
        seeds.iter().for_each(|s| fuzz_loader(s));
        let (start, mut random) = (Instant::now(), 1u64);
        let mut next = || {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize
        };
        for n in 0..4000 {
            let mut data = seeds[n % seeds.len()].clone();
            for _ in 0..next() % 6 {
                let at = next() % data.len();
                data[at] = next() as u8;
            }
            if next() % 4 == 0 {
                data.truncate(next() % data.len());
            }
            fuzz_loader(&data);
            if start.elapsed() > Duration::from_secs(2) {
                break;
            }
        }
    }
}
