//! Ranges and vectors of volatile slices: the checks that every disk makes before it moves a byte.

use std::io;

use vm_memory::VolatileSlice;

/// Total length of `bufs` in bytes. Slices describe mapped memory, so their sum cannot wrap in practice; a sum
/// that does is an error all the same.
pub(crate) fn total(bufs: &[VolatileSlice<'_>]) -> io::Result<u64> {
    bufs.iter()
        .try_fold(0u64, |sum, buf| sum.checked_add(buf.len() as u64))
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "request is longer than a disk can be"))
}

/// Checks that `offset..offset + len` lies within a disk of `size` bytes.
pub(crate) fn within(offset: u64, len: u64, size: u64) -> io::Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("request of {len} bytes at offset {offset} ends past the disk's {size} bytes"),
        )),
    }
}

/// Refuses writes to a read-only disk.
pub(crate) fn writable(read_only: bool) -> io::Result<()> {
    if read_only {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the disk is read-only"));
    }
    Ok(())
}
