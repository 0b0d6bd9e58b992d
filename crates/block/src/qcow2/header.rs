//! The qcow2 header, read and checked by ourselves before the format code sees the file.
//!
//! QEMU's `docs/interop/qcow2.rst`, "Header" and "Header extensions". Two reasons to read it twice: the names of
//! backing files must be known before anything is opened, and every length that the format code would trust
//! (tables to allocate, sizes to shift by) is bounded here against the file's real length.
//!
//! ```text
//! 0 magic  4 version  8 backing off  16 len  20 cluster_bits  24 size  32 crypt  36 l1 entries  40 l1 off
//! 48 refcount table off  56 its clusters  60 snapshots  64 their off | v3: 72 incompatible  80 compatible
//! 88 autoclear  96 refcount_order  100 header length | extensions: type(4) length(4) data, padded to 8
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{DiskError, SECTOR, error::printable};

/// The first four bytes of every qcow2 file.
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Longest L1 table in bytes; QEMU's limit too. Covers 2 EiB with the largest clusters, 16 PiB with 64 KiB ones.
const MAX_L1: u64 = 32 << 20;
/// Longest refcount table in bytes; QEMU's limit too.
const MAX_REFTABLE: u64 = 8 << 20;
/// Longest name of a backing file, by the specification.
const MAX_NAME: usize = 1023;

const EXT_END: u32 = 0;
const EXT_BACKING_FORMAT: u32 = 0xe279_2aca;

/// What the header says, checked for consistency with itself and with the file's length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    pub(crate) cluster_bits: u32,
    /// Virtual size in bytes.
    pub(crate) size: u64,
    pub(crate) l1_entries: u32,
    pub(crate) l1_offset: u64,
    pub(crate) reftable_offset: u64,
    pub(crate) reftable_clusters: u32,
    pub(crate) snapshots: u32,
    /// Width of a refcount is `1 << refcount_order` bits.
    pub(crate) refcount_order: u32,
    /// Name of the backing file, as written in the image: untrusted.
    pub(crate) backing: Option<String>,
    /// Format of the backing file, as written in the image.
    pub(crate) backing_format: Option<String>,
}

/// The smallest cluster, in bytes: any header tells within it how large its own are.
const SHORTEST: u64 = 512;

impl Header {
    /// Reads and checks the header of `file`, which is `len` bytes long. `path` is for messages.
    pub(crate) fn read(file: &File, len: u64, path: &Path) -> Result<Header, DiskError> {
        let read = |want| read_up_to(file, 0, want, len).map_err(|e| DiskError::from_io(path, "read", e));
        // No more than the one cluster that it is in: every disk of every restore comes by here, layer by layer.
        let bits = be32(&read(SHORTEST)?, 20).filter(|bits| (9..=21).contains(bits));
        Header::parse(&read(bits.map_or(SHORTEST, |bits| 1 << bits))?, len, path)
    }

    /// Checks the file's first bytes (up to one cluster of the largest size).
    pub(crate) fn parse(head: &[u8], len: u64, path: &Path) -> Result<Header, DiskError> {
        let corrupt = |what: &str| DiskError::corrupt(path, what);
        let short = || corrupt("it ends within its header");
        let u32_at = |at: usize| be32(head, at).ok_or_else(short);
        let u64_at = |at: usize| be64(head, at).ok_or_else(short);

        if head.get(..4) != Some(&MAGIC) {
            return Err(corrupt("it does not begin as a qcow2 image does"));
        }
        let version = u32_at(4)?;
        if !(2..=3).contains(&version) {
            return Err(DiskError::unsupported(
                path,
                format!("it is a qcow image of version {version}"),
                "Convert it with `qemu-img convert -O qcow2 OLD NEW`.",
            ));
        }
        let cluster_bits = u32_at(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(corrupt("its cluster size is outside 512 bytes to 2 MiB"));
        }
        let (features, refcount_order, header_len) =
            if version == 2 { (0, 4, 72) } else { (u64_at(72)?, u32_at(96)?, u32_at(100)? as usize) };
        if refcount_order > 6 || !(header_len == 72 || header_len >= 104) {
            return Err(corrupt("its refcount width or header length is out of range"));
        }
        check_features(features, path)?;
        if u32_at(32)? != 0 {
            return Err(DiskError::unsupported(
                path,
                "it is encrypted",
                "Decrypt it with `qemu-img convert`, and keep the result on an encrypted file system.",
            ));
        }
        let cluster = 1usize << cluster_bits;
        let first = head.get(..cluster.min(head.len())).unwrap_or(head);
        let backing = backing_name(first, u64_at(8)?, u32_at(16)?).map_err(corrupt)?;
        let backing_format =
            if version == 2 { None } else { format_extension(first, header_len).map_err(corrupt)? };

        let header = Header {
            version,
            cluster_bits,
            size: u64_at(24)?,
            l1_entries: u32_at(36)?,
            l1_offset: u64_at(40)?,
            reftable_offset: u64_at(48)?,
            reftable_clusters: u32_at(56)?,
            snapshots: u32_at(60)?,
            refcount_order,
            backing,
            backing_format,
        };
        header.check_tables(len, path)?;
        Ok(header)
    }

    /// Bytes in a cluster.
    pub(crate) fn cluster(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// Bytes of the disk that one L2 table maps.
    pub(crate) fn l2_span(&self) -> u64 {
        self.cluster() * (self.cluster() / 8)
    }

    fn check_tables(&self, len: u64, path: &Path) -> Result<(), DiskError> {
        let corrupt = |what: String| Err(DiskError::corrupt(path, what));
        if self.size == 0 || !self.size.is_multiple_of(SECTOR) {
            let what = format!("its virtual size is {} bytes", self.size);
            let advice = "Make it a whole number of 512-byte sectors with `qemu-img resize`.".to_string();
            return Err(DiskError::TooSmall { path: path.to_path_buf(), what, advice });
        }
        let l1_bytes = u64::from(self.l1_entries) * 8;
        let reftable_bytes = u64::from(self.reftable_clusters) * self.cluster();
        if l1_bytes > MAX_L1 || reftable_bytes > MAX_REFTABLE || reftable_bytes == 0 {
            return corrupt("the size of its L1 or refcount table is out of range".to_string());
        }
        if u64::from(self.l1_entries) < self.size.div_ceil(self.l2_span()) {
            return corrupt("its L1 table is too short for its virtual size".to_string());
        }
        for (name, offset, bytes) in
            [("L1 table", self.l1_offset, l1_bytes), ("refcount table", self.reftable_offset, reftable_bytes)]
        {
            if offset == 0 || !offset.is_multiple_of(self.cluster()) {
                return corrupt(format!("its {name} is not on a cluster boundary"));
            }
            if offset.checked_add(bytes).is_none_or(|end| end > len) {
                return corrupt(format!("its {name} lies past the end of the file, which has {len} bytes"));
            }
        }
        Ok(())
    }
}

/// Refuses what the format code cannot do, by name.
fn check_features(bits: u64, path: &Path) -> Result<(), DiskError> {
    let convert = "Convert it with `qemu-img convert -O qcow2 OLD NEW`.";
    let table: [(u64, &str, &str); 5] = [
        (
            1 << 1,
            "it is marked corrupt by the program that last wrote it",
            "Repair it with `qemu-img check -r all`, or take a backup.",
        ),
        (1 << 0, "its writer died with refcounts not yet written", "Repair it with `qemu-img check -r all`."),
        (1 << 2, "it keeps its data in another file", convert),
        (
            1 << 3,
            "it is compressed with zstd",
            "Convert it with `qemu-img convert -O qcow2 OLD NEW` (without -c).",
        ),
        (
            1 << 4,
            "it has extended L2 entries",
            "Convert it with `qemu-img convert -O qcow2 -o extended_l2=off OLD NEW`.",
        ),
    ];
    for (bit, what, advice) in table {
        if bits & bit != 0 {
            return Err(match bit {
                1 | 2 => DiskError::Corrupt {
                    path: path.to_path_buf(),
                    what: what.to_string(),
                    advice: advice.to_string(),
                },
                _ => DiskError::unsupported(path, what, advice),
            });
        }
    }
    if bits >> 5 != 0 {
        return Err(DiskError::unsupported(
            path,
            format!("it needs unknown qcow2 features (bits {bits:#x})"),
            convert,
        ));
    }
    Ok(())
}

fn backing_name(first: &[u8], offset: u64, len: u32) -> Result<Option<String>, &'static str> {
    if offset == 0 {
        return Ok(None);
    }
    let (start, len) = (usize::try_from(offset).unwrap_or(usize::MAX), len as usize);
    let bytes = start.checked_add(len).and_then(|end| first.get(start..end)).filter(|_| len <= MAX_NAME);
    let bytes = bytes.ok_or("the name of its backing file lies outside its header")?;
    let name = std::str::from_utf8(bytes).map_err(|_| "the name of its backing file is not UTF-8")?;
    Ok(Some(name.to_string()))
}

/// The backing format among the header extensions. All lengths stay within the first cluster.
fn format_extension(first: &[u8], mut at: usize) -> Result<Option<String>, &'static str> {
    let outside = "its header extensions run past the header";
    loop {
        let kind = be32(first, at).ok_or(outside)?;
        let len = be32(first, at + 4).ok_or(outside)? as usize;
        let data = (at + 8).checked_add(len).and_then(|end| first.get(at + 8..end)).ok_or(outside)?;
        match kind {
            EXT_END => return Ok(None),
            EXT_BACKING_FORMAT => return Ok(Some(printable(&String::from_utf8_lossy(data)))),
            _ => at += 8 + len.next_multiple_of(8),
        }
    }
}

/// Up to `want` bytes from `offset`, fewer where the file (`len` bytes) ends.
pub(crate) fn read_up_to(file: &File, offset: u64, want: u64, len: u64) -> std::io::Result<Vec<u8>> {
    let have = want.min(len.saturating_sub(offset));
    let mut bytes = vec![0; usize::try_from(have).map_err(std::io::Error::other)?];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

pub(crate) fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_be_bytes)
}

pub(crate) fn be64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_be_bytes)
}
