//! A machine that goes on from a snapshot meets each page of its memory for the first time. Which ones, and in what order,
//! is written down once and read ahead of it ever after, so that it is fast at once.
//!
//! ```text
//!  nothing is kept with the snapshot   look three times which pages this process has been given; keep that
//!  something is                        have the kernel map those pages, in that order, as soon as the machine runs
//! ```
//! Both are done beside the machine, and without them it runs as well, only slower: nothing here is an error.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use strata_memory::GuestRam;
use strata_snapshot::FirstTouch;

/// After how long each look is taken: the order within one is lost.
const LOOKS: [Duration; 3] =
    [Duration::from_millis(20), Duration::from_millis(180), Duration::from_millis(1800)];
/// Pages of which a process is told about at once.
const BATCH: usize = 4096;
/// What `/proc/self/pagemap` has of a page: 8 bytes, whose top bit says that it is there.
const ENTRY: usize = 8;
const PAGE: usize = 4096;

/// The memory of a machine that goes on from a snapshot, and where it is kept what is touched first.
pub(crate) struct FirstTouches {
    ram: GuestRam,
    host: Range<usize>,
    id: [u8; 16],
    dir: PathBuf,
}

impl FirstTouches {
    /// Of a machine with that memory, which goes on from the snapshot `id` in `dir`.
    pub(crate) fn of(ram: &GuestRam, id: &str, dir: &Path) -> Option<FirstTouches> {
        let id = u128::from_str_radix(id, 16).ok()?.to_be_bytes();
        let [region] = ram.regions() else { return None };
        Some(FirstTouches { host: region.host_range(), ram: ram.clone(), id, dir: dir.to_owned() })
    }

    /// Reads ahead what is kept, or finds it out and keeps it.
    pub(crate) fn begin(self) {
        // No thread, no help.
        let _ = std::thread::Builder::new().name("first-touch".into()).spawn(move || {
            let FirstTouches { ram, host, id, dir } = self;
            match FirstTouch::read(&dir, &id) {
                Some(FirstTouch(runs)) => {
                    for (first, pages) in runs {
                        if !ram.regions().iter().all(|r| r.read_ahead(first as usize, pages as usize)) {
                            return;
                        }
                    }
                }
                None => {
                    // The memory may go before we have looked: it is not touched.
                    drop(ram);
                    find_out(&host, id, dir);
                }
            }
        });
    }
}

fn find_out(host: &Range<usize>, id: [u8; 16], dir: PathBuf) {
    let Ok(map) = File::open("/proc/self/pagemap") else { return };
    let mut seen = vec![false; host.len() / PAGE];
    let mut runs = Vec::new();
    for look in LOOKS {
        std::thread::sleep(look);
        if find_new(&map, host.start, &mut seen, &mut runs).is_err() {
            return;
        }
    }
    // The snapshot may be gone.
    let _ = FirstTouch(runs).write(&dir, &id);
}

/// Adds the pages that have come since the last look.
fn find_new(map: &File, host: usize, seen: &mut [bool], runs: &mut Vec<(u32, u32)>) -> std::io::Result<()> {
    let mut buf = vec![0; BATCH * ENTRY];
    for (batch, seen) in seen.chunks_mut(BATCH).enumerate() {
        let first = batch * BATCH;
        let bytes = &mut buf[..seen.len() * ENTRY];
        map.read_exact_at(bytes, ((host / PAGE + first) * ENTRY) as u64)?;
        for (n, (entry, seen)) in bytes.chunks(ENTRY).zip(seen).enumerate() {
            if entry[ENTRY - 1] & 0x80 == 0 || std::mem::replace(seen, true) {
                continue;
            }
            let page = (first + n) as u32;
            match runs.last_mut() {
                Some((first, pages)) if *first + *pages == page => *pages += 1,
                _ => runs.push((page, 1)),
            }
        }
    }
    Ok(())
}
