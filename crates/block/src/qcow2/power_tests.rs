//! The power fails: of all writes since the last sync, any subset may have reached the disk. Whatever is left must
//! open, and must hold what had been flushed.
//!
//! The journal of one run is played into the image's first state, up to a random place; from there on, each write
//! is applied or lost by the dice. Sectors that the guest wrote, zeroed or discarded since its last acknowledged
//! flush may hold anything; all others must read as they did at that flush.

use std::fs::{self, File, OpenOptions as FileOptions};
use std::os::unix::fs::FileExt;

use super::store::Change;
use super::*;
use crate::testing::{pattern, put, whole};

const SIZE: u64 = 1 << 20;
const SECTORS: usize = SIZE as usize / 512;

/// What the guest did, between two places in the journal.
enum Event {
    /// These sectors were touched; the journal had this length before.
    Touched(usize, std::ops::Range<usize>),
    /// All was flushed: from this length of the journal on, this is what must be there.
    Flushed(usize, Vec<u8>),
}

fn journal_len(disk: &Qcow2Disk) -> usize {
    disk.journal.0.lock().unwrap().len()
}

fn opened(path: &Path, died: bool, base: &Path) -> Result<Qcow2Disk, DiskError> {
    let file = FileOptions::new().read(true).write(true).open(path).unwrap();
    let below = match base.exists() {
        true => vec![Layer::open(base, Format::Raw).unwrap()],
        false => Vec::new(),
    };
    Qcow2Disk::open(file, path, false, died, below)
}

/// Runs random requests on the image; returns what happened and what was written.
fn run(path: &Path, base: &Path, seed: u64) -> (Vec<Event>, Vec<Change>) {
    let mut disk = opened(path, false, base).unwrap();
    let mut events = vec![Event::Flushed(0, whole(&mut disk))];
    let dice = pattern(seed, 4096);
    for roll in dice.chunks(8).take(120) {
        let word = header::be64(roll, 0).unwrap();
        let first = (word >> 8) as usize % SECTORS;
        let count = (1 + (word >> 24) as usize % if word & 64 == 0 { 8 } else { 300 }).min(SECTORS - first);
        let (at, len) = (first as u64 * 512, count as u64 * 512);
        let before = journal_len(&disk);
        match word % 16 {
            0..=8 => put(&mut disk, at, &pattern(word, len as usize)).unwrap(),
            9..=10 => disk.discard(at, len).unwrap(),
            11 => disk.write_zeroes(at, len, true).unwrap(),
            12 => disk.write_zeroes(at, len, false).unwrap(),
            _ => {
                disk.flush().unwrap();
                let at = journal_len(&disk);
                events.push(Event::Flushed(at, whole(&mut disk)));
                continue;
            }
        }
        events.push(Event::Touched(before, first..first + count));
    }
    let changes = disk.journal.0.lock().unwrap().clone();
    (events, changes)
}

/// What is on the disk if the power fails after `cut` changes.
fn after_power_cut(start: &[u8], changes: &[Change], cut: usize, seed: u64) -> Vec<u8> {
    let synced = changes[..cut].iter().rposition(|c| matches!(c, Change::Sync)).unwrap_or(0);
    let dice = pattern(seed, cut - synced);
    let mut bytes = start.to_vec();
    for (i, change) in changes[..cut].iter().enumerate() {
        let lost = i > synced && dice[i - synced] & 1 == 0;
        match change {
            Change::Write(at, data) if !lost => {
                let end = *at as usize + data.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*at as usize..end].copy_from_slice(data);
            }
            // The file's length is metadata of its file system, and orders itself.
            Change::Write(at, data) => bytes.resize(bytes.len().max(*at as usize + data.len()), 0),
            Change::Resize(len) => bytes.resize(*len as usize, 0),
            Change::Sync => {}
        }
    }
    bytes
}

fn cut_the_power(dir: &Path, base: &Path, seeds: std::ops::Range<u64>) {
    let path = dir.join("image");
    let start = fs::read(&path).unwrap();
    for seed in seeds {
        fs::write(&path, &start).unwrap();
        let (events, changes) = run(&path, base, seed);
        for round in 0..24u64 {
            let cut = (seed.wrapping_mul(31) + round * 7919) as usize % (changes.len() + 1);
            let left = after_power_cut(&start, &changes, cut, seed * 100 + round);
            File::create(&path).unwrap().write_all_at(&left, 0).unwrap();
            let mut disk =
                opened(&path, true, base).unwrap_or_else(|e| panic!("seed {seed} round {round}: {e}"));
            let found = whole(&mut disk);
            let mut model: &[u8] = &[];
            let mut unsure = vec![false; SECTORS];
            for event in &events {
                match event {
                    Event::Flushed(at, bytes) if *at <= cut => {
                        model = bytes;
                        unsure.fill(false);
                    }
                    Event::Touched(at, range) if *at <= cut => unsure[range.clone()].fill(true),
                    _ => {}
                }
            }
            for (i, sector) in model.chunks(512).enumerate().filter(|(i, _)| !unsure[*i]) {
                let same = found[i * 512..][..512] == *sector;
                assert!(
                    same,
                    "seed {seed} round {round} cut {cut}: sector {i} was flushed, and is not there"
                );
            }
            // It goes on working.
            put(&mut disk, 0, &[1; 4096]).unwrap();
            disk.flush().unwrap();
        }
    }
}

#[test]
fn a_layer_survives_power_cuts() {
    let dir = crate::testing::memory_dir();
    let base = dir.path().join("base");
    fs::write(&base, pattern(1, SIZE as usize)).unwrap();
    create_overlay(&dir.path().join("image"), &base, Format::Raw, None).unwrap();
    cut_the_power(dir.path(), &base, 0..12);
}

#[test]
fn compressed_images_of_small_clusters_survive_power_cuts() {
    let Some(img) = crate::testing::tool("qemu-img") else { return };
    let dir = crate::testing::memory_dir();
    let text: Vec<u8> = (0..SIZE as usize).map(|i| b"to be or not to be, "[i / 7 % 20]).collect();
    fs::write(dir.path().join("raw"), text).unwrap();
    for options in ["cluster_size=4k", "cluster_size=512", "cluster_size=64k,compat=0.10"] {
        let args = ["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", options, "raw", "image"];
        crate::testing::ok(&img, dir.path(), &args);
        cut_the_power(dir.path(), &dir.path().join("none"), 20..24);
    }
}
