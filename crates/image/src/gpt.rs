//! The partition table of a Debian disk: one root partition at 1 MiB, to the end. Format: UEFI 2.10,
//! chapter 5 (GUID Partition Table).
//!
//! The type is "Linux root" for the architecture, of the Discoverable Partitions Specification; attribute bit 2
//! (legacy BIOS bootable) is what U-Boot's distro boot looks for.

use crate::arch::Arch;
use crate::error::{Error, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

const SECTOR: u64 = 512;
/// Where the root partition begins: 1 MiB, aligned for every storage there is.
const FIRST: u64 = 2048;
const ENTRIES: usize = 128;
const ENTRY: usize = 128;
/// Sectors of one copy of the entries.
const TABLE: u64 = 32;
const BOOTABLE: u64 = 1 << 2;
/// 72ec70a6-cf74-40e6-bd49-4bda08e8f224, in the mixed byte order of GPT.
const ROOT_RISCV64: [u8; 16] =
    [0xa6, 0x70, 0xec, 0x72, 0x74, 0xcf, 0xe6, 0x40, 0xbd, 0x49, 0x4b, 0xda, 0x08, 0xe8, 0xf2, 0x24];
/// 4f68bce3-e8cd-4db1-96e7-fbcaf984b709, likewise.
const ROOT_AMD64: [u8; 16] =
    [0xe3, 0xbc, 0x68, 0x4f, 0xcd, 0xe8, 0xb1, 0x4d, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09];
/// Smallest disk that makes sense: table, root and a little room.
pub(crate) const MIN_DISK: u64 = 1 << 30;

/// Sixteen random bytes as a version-4 UUID, as text.
pub(crate) fn random_uuid() -> Result<[u8; 16]> {
    let mut b = [0u8; 16];
    let path = Path::new("/dev/urandom");
    File::open(path)
        .and_then(|mut f| std::io::Read::read_exact(&mut f, &mut b))
        .map_err(|e| Error::io("read", path, e))?;
    b[6] = (b[6] & 0x0f) | 0x40;
    b[8] = (b[8] & 0x3f) | 0x80;
    Ok(b)
}

/// The usual text of a UUID.
pub(crate) fn uuid_text(b: &[u8; 16]) -> String {
    let h = crate::fetch::hex(b);
    let part = |r: std::ops::Range<usize>| h.get(r).unwrap_or("");
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

/// GPT stores the first three groups little-endian.
fn mixed(b: &[u8; 16]) -> [u8; 16] {
    let mut out = *b;
    out[0..4].reverse();
    out[4..6].reverse();
    out[6..8].reverse();
    out
}

/// The sector after the root partition: on a 1 MiB boundary, like its beginning.
fn end(size: u64) -> u64 {
    (size / SECTOR - TABLE - 1) / FIRST * FIRST
}

/// Where the root partition of such a disk begins, and how long it is, in bytes.
pub(crate) fn root(size: u64) -> (u64, u64) {
    (FIRST * SECTOR, (end(size) - FIRST) * SECTOR)
}

/// Writes a table for a disk of `size` bytes (a multiple of 1 MiB, at least [`MIN_DISK`]) to `disk`,
/// which is made that long. The rest is not touched: a new file stays sparse.
pub(crate) fn write(
    disk: &File,
    path: &Path,
    size: u64,
    arch: Arch,
    disk_id: &[u8; 16],
    part_id: &[u8; 16],
) -> Result<()> {
    let io = |e| Error::io("write", path, e);
    if size < MIN_DISK || !size.is_multiple_of(1 << 20) {
        return Err(Error::BadSetting {
            what: format!("a disk of {size} bytes"),
            why: "it must be a multiple of 1 MiB and at least 1 GiB".into(),
        });
    }
    disk.set_len(size).map_err(io)?;
    let sectors = size / SECTOR;
    let last_usable = sectors - TABLE - 2;
    let end = end(size) - 1;
    let entries = entries(arch, part_id, end);
    let crc = crc32fast::hash(&entries);
    let last = sectors - 1;
    let front = header(1, last, 2, last_usable, disk_id, crc);
    let back = header(last, 1, last - TABLE, last_usable, disk_id, crc);
    for (at, bytes) in
        [(0, &protective(sectors)[..]), (1, &front), (2, &entries), (last - TABLE, &entries), (last, &back)]
    {
        disk.write_all_at(bytes, at * SECTOR).map_err(io)?;
    }
    Ok(())
}

fn protective(sectors: u64) -> Vec<u8> {
    let mut b = vec![0u8; 512];
    let count = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    put(&mut b, 446, &[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
    put(&mut b, 458, &count.to_le_bytes());
    put(&mut b, 510, &[0x55, 0xaa]);
    b
}

fn entries(arch: Arch, part_id: &[u8; 16], end: u64) -> Vec<u8> {
    let mut b = vec![0u8; ENTRIES * ENTRY];
    let kind = match arch {
        Arch::Riscv64 => ROOT_RISCV64,
        Arch::Amd64 => ROOT_AMD64,
    };
    put(&mut b, 0, &kind);
    put(&mut b, 16, &mixed(part_id));
    put(&mut b, 32, &FIRST.to_le_bytes());
    put(&mut b, 40, &end.to_le_bytes());
    put(&mut b, 48, &BOOTABLE.to_le_bytes());
    let name: Vec<u8> = "root".encode_utf16().flat_map(u16::to_le_bytes).collect();
    put(&mut b, 56, &name);
    b
}

fn header(own: u64, other: u64, table: u64, last_usable: u64, disk_id: &[u8; 16], crc: u32) -> Vec<u8> {
    let mut b = vec![0u8; 512];
    put(&mut b, 0, b"EFI PART");
    put(&mut b, 8, &0x0001_0000u32.to_le_bytes());
    put(&mut b, 12, &92u32.to_le_bytes());
    put(&mut b, 24, &own.to_le_bytes());
    put(&mut b, 32, &other.to_le_bytes());
    put(&mut b, 40, &(TABLE + 2).to_le_bytes());
    put(&mut b, 48, &last_usable.to_le_bytes());
    put(&mut b, 56, &mixed(disk_id));
    put(&mut b, 72, &table.to_le_bytes());
    put(&mut b, 80, &(ENTRIES as u32).to_le_bytes());
    put(&mut b, 84, &(ENTRY as u32).to_le_bytes());
    put(&mut b, 88, &crc.to_le_bytes());
    let own_crc = crc32fast::hash(b.get(..92).unwrap_or(&b));
    put(&mut b, 16, &own_crc.to_le_bytes());
    b
}

fn put(b: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(to) = b.get_mut(at..at.saturating_add(bytes.len())) {
        to.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_copies_hold_and_the_disk_stays_sparse() {
        let file = tempfile::tempfile().unwrap();
        let path = Path::new("x");
        let (d, p) = ([1u8; 16], [2u8; 16]);
        write(&file, path, MIN_DISK, Arch::Amd64, &d, &p).unwrap();
        let sectors = MIN_DISK / SECTOR;
        for (own, other) in [(1, sectors - 1), (sectors - 1, 1)] {
            let mut h = vec![0u8; 512];
            file.read_exact_at(&mut h, own * SECTOR).unwrap();
            let long = |at: usize| u64::from_le_bytes(h[at..at + 8].try_into().unwrap());
            assert_eq!((&h[..8], long(24), long(32)), (&b"EFI PART"[..], own, other));
            let mut table = vec![0u8; ENTRIES * ENTRY];
            file.read_exact_at(&mut table, long(72) * SECTOR).unwrap();
            assert_eq!(h[88..92], crc32fast::hash(&table).to_le_bytes());
            let crc = h[16..20].to_vec();
            h[16..20].fill(0);
            assert_eq!(crc, crc32fast::hash(&h[..92]).to_le_bytes());
            let end = u64::from_le_bytes(table[40..48].try_into().unwrap());
            assert_eq!(root(MIN_DISK), (1 << 20, (end + 1 - FIRST) * SECTOR));
            assert_eq!(
                uuid_text(&mixed(&table[..16].try_into().unwrap())),
                "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
            );
            assert!(end <= long_at(&h, 48) && (end + 1) % FIRST == 0 && table[48] == 4);
        }
        use std::os::unix::fs::MetadataExt;
        assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20);
    }

    fn long_at(b: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn odd_sizes_are_refused_and_uuids_read_as_usual() {
        let file = tempfile::tempfile().unwrap();
        for size in [0, MIN_DISK - 1, MIN_DISK + 512] {
            assert!(matches!(
                write(&file, Path::new("x"), size, Arch::Amd64, &[0; 16], &[0; 16]),
                Err(Error::BadSetting { .. })
            ));
        }
        let root =
            [0x72, 0xec, 0x70, 0xa6, 0xcf, 0x74, 0x40, 0xe6, 0xbd, 0x49, 0x4b, 0xda, 0x08, 0xe8, 0xf2, 0x24];
        assert_eq!(mixed(&root), ROOT_RISCV64);
        assert_eq!(uuid_text(&root), "72ec70a6-cf74-40e6-bd49-4bda08e8f224");
        let u = random_uuid().unwrap();
        assert!(u[6] >> 4 == 4 && u[8] >> 6 == 2);
    }
}
