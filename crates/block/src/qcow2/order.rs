//! What must reach the disk before what, so that a host may lose power at any moment.
//!
//! A page cache writes back in any order. Left alone, it may put an L2 entry on the disk before the cluster that
//! the entry points to: after a power cut, the guest would find garbage even in sectors that it had never touched
//! since its last flush, because copy-on-write moved them there. So every write to the L1 table or to an L2 table
//! is preceded by an `fdatasync`, if anything else was written since the last one: data and refcounts first,
//! then what refers to them. The format code caches tables, so this costs about one more sync for each flush that
//! allocated.
//!
//! Which clusters are L2 tables is known from the check at open, and from the L1 entries that pass by.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::header::be64;

/// The order of one image's writes.
#[derive(Debug)]
pub(crate) struct Order {
    file: File,
    l1: Range<u64>,
    tables: Mutex<HashSet<u64>>,
    /// Whether anything but L1 and L2 tables was written since the last sync.
    unsynced: AtomicBool,
}

impl Order {
    /// For the image in `file`, whose L1 table lies at `l1` and names L2 tables at the offsets `tables`.
    pub(crate) fn new(file: File, l1: Range<u64>, tables: impl IntoIterator<Item = u64>) -> Order {
        let tables = Mutex::new(tables.into_iter().collect());
        Order { file, l1, tables, unsynced: AtomicBool::new(false) }
    }

    fn tables(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called before each write at `offset`: does the sync that it needs. `copy` fills a buffer with the
    /// bytes to be written, and is called for writes to the L1 table only.
    pub(crate) fn before(&self, offset: u64, len: u64, copy: impl FnOnce(&mut [u8])) -> io::Result<bool> {
        let in_l1 = self.l1.contains(&offset);
        if !in_l1 && !self.tables().contains(&offset) {
            self.unsynced.store(true, Ordering::Release);
            return Ok(false);
        }
        let synced = self.unsynced.load(Ordering::Acquire);
        if synced {
            self.sync()?;
        }
        if in_l1 && len <= self.l1.end - self.l1.start {
            let mut bytes = vec![0; len as usize];
            copy(&mut bytes);
            let entries = (0..bytes.len() / 8).filter_map(|i| be64(&bytes, i * 8));
            self.tables().extend(entries.map(|e| e & super::check::OFFSET).filter(|&at| at != 0));
        }
        Ok(synced)
    }

    /// Makes everything durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.unsynced.store(false, Ordering::Release);
        Ok(())
    }
}
