//! A disk in the host's memory: for tests of what stands on a [`Disk`], and for RAM disks.
//!
//! Nothing survives the process; `flush` only counts. Tests can ask how often it was called, and make the disk
//! fail from a given write on, which is how a device's error paths are reached.

use std::io;

use vm_memory::VolatileSlice;

use crate::vectors::{total, within, writable};
use crate::{Disk, SECTOR};

/// A disk whose bytes are a vector. For tests and RAM disks.
#[derive(Debug, Clone)]
pub struct MemDisk {
    bytes: Vec<u8>,
    read_only: bool,
    flushes: u64,
    writes_left: Option<u64>,
}

impl MemDisk {
    /// A disk of `size` zero bytes, rounded up to whole sectors.
    pub fn new(size: usize) -> MemDisk {
        MemDisk::from_bytes(vec![0; size])
    }

    /// A disk with these contents, padded with zeroes to whole sectors.
    pub fn from_bytes(mut bytes: Vec<u8>) -> MemDisk {
        bytes.resize(bytes.len().next_multiple_of(SECTOR as usize), 0);
        MemDisk { bytes, read_only: false, flushes: 0, writes_left: None }
    }

    /// The same disk, refusing writes.
    pub fn into_read_only(mut self) -> MemDisk {
        self.read_only = true;
        self
    }

    /// After `count` more successful writes, every write fails as on a full file system.
    pub fn fail_after(&mut self, count: u64) {
        self.writes_left = Some(count);
    }

    /// The contents.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many flushes have succeeded.
    pub fn flushes(&self) -> u64 {
        self.flushes
    }

    /// The bytes of a range that must lie within the disk.
    fn range(&mut self, offset: u64, len: u64) -> io::Result<&mut [u8]> {
        within(offset, len, self.bytes.len() as u64)?;
        let start = offset as usize;
        self.bytes.get_mut(start..start + len as usize).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    fn take_write(&mut self) -> io::Result<()> {
        writable(self.read_only)?;
        match &mut self.writes_left {
            None => Ok(()),
            Some(0) => Err(io::Error::from(io::ErrorKind::StorageFull)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }
}

impl Disk for MemDisk {
    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_only(&self) -> bool {
        self.read_only
    }

    fn read(&mut self, offset: u64, bufs: &[VolatileSlice<'_>]) -> io::Result<()> {
        let mut from = &*self.range(offset, total(bufs)?)?;
        for buf in bufs {
            let (now, rest) = from.split_at(buf.len());
            buf.copy_from(now);
            from = rest;
        }
        Ok(())
    }

    fn write(&mut self, offset: u64, bufs: &[VolatileSlice<'_>]) -> io::Result<()> {
        let len = total(bufs)?;
        within(offset, len, self.size())?;
        self.take_write()?;
        let mut to = self.range(offset, len)?;
        for buf in bufs {
            let (now, rest) = to.split_at_mut(buf.len());
            buf.copy_to(now);
            to = rest;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushes += 1;
        Ok(())
    }

    fn discard(&mut self, offset: u64, len: u64) -> io::Result<()> {
        self.write_zeroes(offset, len, true)
    }

    fn write_zeroes(&mut self, offset: u64, len: u64, _unmap: bool) -> io::Result<()> {
        within(offset, len, self.size())?;
        self.take_write()?;
        self.range(offset, len)?.fill(0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{get, put, slice};

    #[test]
    fn it_keeps_bytes_counts_flushes_and_fails_on_request() {
        let mut d = MemDisk::new(1000);
        assert_eq!(d.size(), 1024);
        put(&mut d, 10, b"hello").unwrap();
        let (mut a, mut b) = ([0; 2], [0; 3]);
        d.read(10, &[slice(&mut a), slice(&mut b)]).unwrap();
        assert_eq!((&a, &b), (b"he", b"llo"));
        assert!(put(&mut d, 1023, b"xy").is_err() && get(&mut d, u64::MAX, 2).is_err());
        d.fail_after(1);
        d.discard(11, 3).unwrap();
        assert_eq!(put(&mut d, 0, b"x").unwrap_err().kind(), io::ErrorKind::StorageFull);
        d.flush().unwrap();
        assert_eq!((&d.bytes()[10..15], d.flushes()), (&b"h\0\0\0o"[..], 1));
        assert!(put(&mut d.into_read_only(), 0, b"x").is_err());
    }
}
