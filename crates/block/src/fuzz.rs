//! Fuzz target: any bytes as a disk image.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use vm_memory::VolatileSlice;

use crate::lock::record::Record;
use crate::qcow2::{Layer, Qcow2Disk, header::Header};
use crate::{Disk, Format, RawDisk, probe::probe_bytes};

/// Longest input that is looked at: more teaches nothing new about the format.
const MAX_INPUT: usize = 1 << 20;

/// Opens `data` as an image, with and without writing, and uses what opens. Errors are fine; a panic, a hang or
/// a large allocation is a finding.
pub fn fuzz_image(data: &[u8]) {
    let data = data.get(..MAX_INPUT).unwrap_or(data);
    let _ = probe_bytes(data, data.get(data.len().saturating_sub(512)..).unwrap_or(data));
    let _ = std::str::from_utf8(data).ok().and_then(Record::from_text);
    for read_only in [true, false] {
        let Some(file) = memory_file(data) else { return };
        let name = Path::new("fuzz");
        let has_backing = Header::parse(data, data.len() as u64, name).is_ok_and(|h| h.backing.is_some());
        let backing = if has_backing { base().into_iter().collect() } else { Vec::new() };
        if let Ok(mut disk) = Qcow2Disk::open(file, name, read_only, data.len() % 2 == 0, backing) {
            exercise(&mut disk);
        }
        if let Some(mut disk) = memory_file(data).and_then(|f| RawDisk::open(f, name, read_only).ok()) {
            exercise(&mut disk);
        }
    }
}

/// Touches the start, the middle and the end.
fn exercise(disk: &mut dyn Disk) {
    let mut bytes = vec![0x5a; 70_000.min(disk.size() as usize)];
    let len = bytes.len() as u64;
    for at in [0, (disk.size() / 2).min(disk.size() - len) & !511, disk.size() - len] {
        let slices = [VolatileSlice::from(bytes.as_mut_slice())];
        let _ = disk.read(at, &slices);
        let _ = disk.write(at, &slices);
        let _ = disk.write_zeroes(at, len / 2, at % 1024 == 0);
        let _ = disk.discard(at, len);
    }
    let _ = disk.flush();
}

fn memory_file(data: &[u8]) -> Option<File> {
    let fd = rustix::fs::memfd_create("strata-fuzz", rustix::fs::MemfdFlags::CLOEXEC).ok()?;
    let file = File::from(fd);
    file.write_all_at(data, 0).ok()?;
    Some(file)
}

fn base() -> Option<Layer> {
    let file = memory_file(&[0x42; 4096])?;
    Some(Layer { file, path: "base".into(), format: Format::Raw, has_backing: false })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::qcow2::header::be64;
    use crate::testing::pattern;

    /// A small good image: 512-byte clusters keep every table within a few kilobytes.
    fn seed() -> Vec<u8> {
        include_bytes!("../corpus/small.qcow2").to_vec()
    }

    #[test]
    fn the_corpus_is_survived() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let mut count = 0;
        for entry in std::fs::read_dir(dir).unwrap() {
            fuzz_image(&std::fs::read(entry.unwrap().path()).unwrap());
            count += 1;
        }
        assert!(count >= 3);
    }

    #[test]
    fn damaged_images_are_survived() {
        let good = seed();
        assert!(Header::parse(&good, good.len() as u64, Path::new("seed")).is_ok());
        let start = Instant::now();
        for round in 0..4000u64 {
            if start.elapsed() > Duration::from_millis(1500) {
                break;
            }
            let dice = pattern(round + 1, 64);
            let mut data = good.clone();
            for change in dice.chunks(16).take(1 + round as usize % 4) {
                let word = be64(change, 0).unwrap();
                // Half of the changes hit the header, half any table; values are small, large or one bit.
                let at = if word & 1 == 0 { word as usize / 2 % 112 } else { word as usize / 2 % data.len() };
                let value = match change[8] % 4 {
                    0 => change[9],
                    1 => 0xff,
                    2 => 0,
                    _ => data[at] ^ 1 << (change[9] % 8),
                };
                data[at] = value;
            }
            if round % 7 == 0 {
                data.truncate(be64(&dice, 40).unwrap() as usize % data.len());
            }
            fuzz_image(&data);
        }
    }
}
