//! Memory that comes from several places, put together before the machine runs.

use crate::{GuestRam, MemoryError, PAGE, Presence};
use rustix::fs::fstat;
use std::os::fd::BorrowedFd;

/// What a part of memory is to be.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// Mapped, copy-on-write, from a file that never changes.
    File {
        /// The file.
        file: BorrowedFd<'a>,
        /// Where in it the part begins: a multiple of the page size.
        at: u64,
    },
    /// Zeroes.
    Zero,
    /// A copy of these bytes.
    Bytes(&'a [u8]),
}

impl GuestRam {
    /// Makes the `len` bytes at `gpa`, which are whole pages of one region, be `part`. None of it counts as written. Only
    /// before anything runs, and not over shared memory, of which others have mappings of their own.
    ///
    /// # Errors
    /// The range is not whole pages of RAM, the file or the bytes are too short, or the host does not map it.
    pub fn lay(&self, gpa: u64, len: u64, part: Part<'_>) -> Result<(), MemoryError> {
        let bad = |why| MemoryError::BadRegion { gpa, len, why };
        let host = |source| MemoryError::Host { len, source };
        let region =
            self.regions().iter().find(|r| r.covers(gpa, len)).ok_or(MemoryError::NotRam { gpa, len })?;
        if len == 0 || !len.is_multiple_of(PAGE) || !gpa.is_multiple_of(PAGE) {
            return Err(bad("not a positive number of whole pages"));
        }
        let (first, count) = (((gpa - region.gpa()) / PAGE) as usize, (len / PAGE) as usize);
        let presence = match part {
            Part::File { file, at } => {
                let held = u64::try_from(fstat(file).map_err(host)?.st_size).unwrap_or(0);
                if at.checked_add(len).is_none_or(|end| end > held) {
                    return Err(bad("longer than the file behind it"));
                }
                region.map_over(first, count, Some((file, at))).map_err(host)?;
                Presence::File
            }
            Part::Zero => {
                region.map_over(first, count, None).map_err(host)?;
                Presence::Zero
            }
            Part::Bytes(bytes) if bytes.len() as u64 == len => {
                region.page(first, count).copy_from(bytes);
                Presence::Private
            }
            Part::Bytes(_) => return Err(bad("not as long as the bytes for it")),
        };
        region.pages().set_presences(first..first + count, presence);
        Ok(())
    }
}
