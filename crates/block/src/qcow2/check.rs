//! Is the map of a qcow2 image sound? Asked before the format code trusts it.
//!
//! QEMU's `docs/interop/qcow2.rst`, "Cluster mapping" and "Host cluster management". Every cluster that the
//! active L1 table, its L2 tables and the refcount structures refer to must begin inside the file; before an
//! image is opened for writing, each must also have at least the refcount that these references give it, and one
//! that may be written in place ("copied") exactly one reference. A truncated file fails the first, a damaged or
//! doubly used one the second, and neither is then made worse by writing to it.
//!
//! A writer that loses power between two write-backs can leave an L2 entry on the disk whose refcount is not there
//! yet, or is there no more. Refcounts that are too low, of clusters that nothing else uses, are repaired
//! ([`Report::repair`]) if the caller knows that the writer died.
//!
//! Not checked: leaked clusters (harmless), tables of internal snapshots, contents of compressed clusters.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::header::{Header, be64, read_up_to};
use crate::DiskError;

/// L2 tables read at open at the most: 64 MiB map 512 GiB of disk at 64 KiB a cluster. Larger images are opened
/// with only their L1 and refcount tables checked; reads past the end of the file still fail then.
const MAX_L2_BYTES: u64 = 64 << 20;
/// Host clusters counted at the most, two bytes each: a file of 2 TiB at 64 KiB a cluster.
const MAX_HOST_CLUSTERS: u64 = 32 << 20;

/// In a count: one of the users is not a compressed cluster, so it needs the cluster for itself.
const PLAIN: u16 = 1 << 15;
/// The rest of a count; this value means "as many or more".
const MANY: u16 = PLAIN - 1;

const COPIED: u64 = 1 << 63;
pub(super) const COMPRESSED: u64 = 1 << 62;
pub(crate) const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
pub(super) const ZERO: u64 = 1;

/// Outcome of a check that found the image usable, perhaps after [`Report::repair`].
#[derive(Debug, Default)]
pub(crate) struct Report {
    /// Whether the whole map was read, or only its top because it is too large.
    pub(crate) complete: bool,
    /// Offsets of the L2 tables.
    pub(crate) tables: Vec<u64>,
    /// Whether there are compressed clusters (or may be, if not everything was read).
    pub(crate) compressed: bool,
    /// 16-bit refcounts that are too low: byte offset in the file, and what it should be.
    missing: Vec<(u64, u16)>,
}

impl Report {
    /// Whether refcounts are missing.
    pub(crate) fn needs_repair(&self) -> bool {
        !self.missing.is_empty()
    }

    /// Writes the missing refcounts and makes them durable. Returns how many.
    pub(crate) fn repair(&self, file: &File) -> io::Result<usize> {
        for &(at, count) in &self.missing {
            file.write_all_at(&count.to_be_bytes(), at)?;
        }
        file.sync_data()?;
        Ok(self.missing.len())
    }
}

/// Checks the image in `file`, `len` bytes long. `writing` adds the refcounts.
pub(crate) fn check(
    file: &File,
    len: u64,
    header: &Header,
    writing: bool,
    path: &Path,
) -> Result<Report, DiskError> {
    let mut map = Map { file, len, header, path, counts: None, copied: Vec::new(), compressed: false };
    let l1_used = u64::from(header.l1_entries).min(header.size.div_ceil(header.l2_span()));
    let l1 = map.table(header.l1_offset, l1_used * 8)?;
    let tables: Vec<u64> = words(&l1).map(|e| e & OFFSET).filter(|&o| o != 0).collect();
    let complete = tables.len() as u64 * header.cluster() <= MAX_L2_BYTES;
    let clusters = len.div_ceil(header.cluster());
    if writing && complete && clusters <= MAX_HOST_CLUSTERS {
        map.counts = Some(vec![0; clusters as usize]);
    }
    map.own_structures(l1_used)?;
    for (l1_entry, &table) in words(&l1).filter(|e| e & OFFSET != 0).zip(&tables) {
        map.refer(table, PLAIN, "an L2 table")?;
        if !complete {
            continue;
        }
        if l1_entry & COPIED != 0 {
            map.copied.push(table);
        }
        let bytes = map.table(table, header.cluster())?;
        words(&bytes).try_for_each(|entry| map.data(entry))?;
    }
    let missing = map.compare()?;
    Ok(Report { complete, compressed: map.compressed || !complete, missing, tables })
}

/// The walk's state: what is read, and how often each host cluster was referred to (see [`PLAIN`] and [`MANY`]).
struct Map<'a> {
    file: &'a File,
    len: u64,
    header: &'a Header,
    path: &'a Path,
    counts: Option<Vec<u16>>,
    copied: Vec<u64>,
    compressed: bool,
}

impl Map<'_> {
    fn corrupt<T>(&self, what: String) -> Result<T, DiskError> {
        Err(DiskError::corrupt(self.path, what))
    }

    /// Reads a table that must lie within the file.
    fn table(&self, offset: u64, bytes: u64) -> Result<Vec<u8>, DiskError> {
        let read = read_up_to(self.file, offset, bytes, self.len)
            .map_err(|e| DiskError::from_io(self.path, "read the map of", e))?;
        if (read.len() as u64) < bytes {
            return self.corrupt(format!("a table at {offset:#x} runs past the end of the file"));
        }
        Ok(read)
    }

    /// Header, L1 and refcount structures refer to themselves.
    fn own_structures(&mut self, l1_used: u64) -> Result<(), DiskError> {
        let (cluster, h) = (self.header.cluster(), self.header);
        self.refer(0, PLAIN, "the header")?;
        for i in 0..(l1_used * 8).div_ceil(cluster) {
            self.refer(h.l1_offset + i * cluster, PLAIN, "the L1 table")?;
        }
        for i in 0..u64::from(h.reftable_clusters) {
            self.refer(h.reftable_offset + i * cluster, PLAIN, "the refcount table")?;
        }
        for block in self.refblocks()?.into_iter().filter(|&b| b != 0) {
            self.refer(block, PLAIN, "a refcount block")?;
        }
        Ok(())
    }

    fn refblocks(&self) -> Result<Vec<u64>, DiskError> {
        let table = self.table(
            self.header.reftable_offset,
            u64::from(self.header.reftable_clusters) * self.header.cluster(),
        )?;
        Ok(words(&table).map(|e| e & !0x1ff).collect())
    }

    /// One reference to the cluster at host offset `at`.
    fn refer(&mut self, at: u64, plain: u16, what: &str) -> Result<(), DiskError> {
        let cluster = self.header.cluster();
        if !at.is_multiple_of(cluster) {
            return self.corrupt(format!("{what} at {at:#x} is not on a cluster boundary"));
        }
        if at >= self.len {
            let len = self.len;
            return self.corrupt(format!("{what} should be at byte {at}, but the file has only {len} bytes"));
        }
        if let Some(count) = self.counts.as_mut().and_then(|c| c.get_mut((at / cluster) as usize)) {
            *count = (*count & PLAIN) | ((*count & MANY) + 1).min(MANY) | plain;
        }
        Ok(())
    }

    /// What one L2 entry refers to.
    fn data(&mut self, entry: u64) -> Result<(), DiskError> {
        if entry & COMPRESSED != 0 {
            return self.compressed(entry);
        }
        let at = entry & OFFSET;
        if at == 0 {
            return Ok(());
        }
        // Bit 0 is the zero flag in version 3 only; such an entry may keep a cluster for later.
        let what = if entry & ZERO != 0 { "a kept cluster" } else { "a data cluster" };
        if entry & COPIED != 0 {
            self.copied.push(at);
        }
        self.refer(at, PLAIN, what)
    }

    fn compressed(&mut self, entry: u64) -> Result<(), DiskError> {
        self.compressed = true;
        let offset_bits = 62 - (self.header.cluster_bits - 8);
        let start = entry & ((1 << offset_bits) - 1);
        let sectors = ((entry & !(COPIED | COMPRESSED)) >> offset_bits) + 1;
        let cluster = self.header.cluster();
        let first = start & !(cluster - 1);
        // The count includes the sector in which the data starts; the file may end within the last one.
        let last = (start & !511) + sectors * 512 - 1;
        if start >= self.len {
            return self.corrupt(format!(
                "a compressed cluster should be at byte {start}, past the end of the file"
            ));
        }
        let mut at = first;
        while at <= last && at < self.len {
            self.refer(at, 0, "a compressed cluster")?;
            at += cluster;
        }
        Ok(())
    }

    /// Compares the counted references with the stored refcounts; returns those that can be repaired.
    fn compare(&self) -> Result<Vec<(u64, u16)>, DiskError> {
        let Some(counts) = &self.counts else { return Ok(Vec::new()) };
        let order = self.header.refcount_order;
        let cluster = self.header.cluster();
        let per_block = (cluster * 8) >> order;
        let blocks = self.refblocks()?;
        let mut stored = vec![0u16; counts.len()];
        let mut missing = Vec::new();
        for (b, part) in stored.chunks_mut(per_block as usize).enumerate() {
            let block_at = blocks.get(b).copied().unwrap_or(0);
            let block = if block_at == 0 { Vec::new() } else { self.table(block_at, cluster)? };
            for (i, slot) in part.iter_mut().enumerate() {
                *slot = refcount(&block, i, order);
                let index = b * per_block as usize + i;
                let count = counts.get(index).copied().unwrap_or(0);
                let (want, plain) = (count & MANY, count & PLAIN != 0);
                if *slot >= want {
                    continue;
                }
                // Shared by compressed clusters, or used by one entry alone: nobody else's data is there.
                let sound = want == 1 || (want < MANY && !plain);
                if sound && order == 4 && block_at != 0 {
                    missing.push((block_at + i as u64 * 2, want));
                } else {
                    let at = index as u64 * cluster;
                    return self
                        .corrupt(format!("the cluster at {at:#x} has {want} users, but refcount {slot}"));
                }
            }
        }
        for &at in &self.copied {
            let count = stored.get((at / cluster) as usize).copied().unwrap_or(0);
            if count > 1 {
                return self
                    .corrupt(format!("the cluster at {at:#x} is shared, but marked as writable in place"));
            }
        }
        Ok(missing)
    }
}

/// Refcount `index` of a block, at most [`MANY`]. Entries narrower than a byte count from the low bits up.
fn refcount(block: &[u8], index: usize, order: u32) -> u16 {
    let bits = 1usize << order;
    if bits < 8 {
        let byte = block.get(index * bits / 8).copied().unwrap_or(0);
        return u16::from(byte >> (index * bits % 8)) & ((1 << bits) - 1);
    }
    let bytes = bits / 8;
    let entry = block.get(index * bytes..(index + 1) * bytes).unwrap_or(&[]);
    let value = entry.iter().fold(0u64, |v, &b| (v << 8) | u64::from(b));
    value.min(u64::from(MANY)) as u16
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    (0..bytes.len() / 8).map(|i| be64(bytes, i * 8).unwrap_or(0))
}
