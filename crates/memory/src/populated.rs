//! Which pages the host has given content of their own: what is known of writes that nobody told.
//!
//! Hardware vCPUs write without asking the page map. Until such writes are logged, the host's own account has to do: a
//! memfd's data (lseek(2), SEEK_DATA) are the pages that were touched, and in a private mapping the pages that are no
//! longer the file's are the ones that were written (Linux, Documentation/admin-guide/mm/pagemap.rst). Both say more
//! rather than less; where the host does not say, all pages count.

use crate::{Backing, GuestRam, PAGE, Region};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

/// Bits of an entry of pagemap: in memory, swapped out, a page of a file or of shared memory.
const PRESENT: u64 = 1 << 63;
const SWAPPED: u64 = 1 << 62;
const SHARED: u64 = 1 << 61;
/// Entries read at a time.
const STEP: usize = 4096;

impl GuestRam {
    /// Marks every page as written, in the current epoch, that may have content of its own. Writers may run: what they
    /// write meanwhile is marked or not.
    pub fn mark_populated(&self) {
        for region in self.regions() {
            let all = 0..region.pages().pages();
            let told = match region.backing() {
                Backing::SharedFd(fd) => data(fd, region.size(), |pages| mark(region, pages)).map_err(drop),
                Backing::PrivateOverFile { .. } | Backing::Anonymous => own(region).map_err(drop),
            };
            if told.is_err() {
                mark(region, all);
            }
        }
    }
}

fn mark(region: &Region, pages: Range<usize>) {
    pages.for_each(|p| region.pages().mark_dirty(p));
}

/// Gives the runs of pages of `fd`, which is `len` long, that are not holes.
fn data(fd: &OwnedFd, len: u64, mut found: impl FnMut(Range<usize>)) -> rustix::io::Result<()> {
    let mut at = 0;
    while at < len {
        let from = match seek(fd, SeekFrom::Data(at)) {
            Ok(from) => from.min(len),
            // Nothing but a hole until the end.
            Err(Errno::NXIO) => break,
            Err(e) => return Err(e),
        };
        let to = seek(fd, SeekFrom::Hole(from))?.min(len);
        found((from / PAGE) as usize..to.div_ceil(PAGE) as usize);
        at = to.max(from + PAGE);
    }
    Ok(())
}

/// Marks the pages of a private mapping that are not those of the file behind it.
fn own(region: &Region) -> std::io::Result<()> {
    let table = File::open("/proc/self/pagemap")?;
    let first = region.host_range().start as u64 / PAGE;
    let pages = region.pages().pages();
    let mut entries = vec![0; STEP * 8];
    for begin in (0..pages).step_by(STEP) {
        let count = STEP.min(pages - begin);
        let Some(entries) = entries.get_mut(..count * 8) else { break };
        table.read_exact_at(entries, (first + begin as u64) * 8)?;
        for (n, entry) in entries.as_chunks::<8>().0.iter().enumerate() {
            let entry = u64::from_ne_bytes(*entry);
            if entry & (PRESENT | SWAPPED) != 0 && entry & SHARED == 0 {
                region.pages().mark_dirty(begin + n);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Access, Acquired, Presence, RegionSpec};

    /// Writes a byte as hardware does, which asks nobody.
    fn write_unseen(ram: &GuestRam, page: u64) {
        let Ok(Acquired::Ready(slice)) = ram.acquire(page * PAGE, 1, Access::Read) else { panic!("no page") };
        slice.copy_from(&[7u8]);
    }

    fn marked(ram: &GuestRam, since: u32) -> Vec<usize> {
        let pages = ram.regions()[0].pages();
        (0..pages.pages()).filter(|p| pages.dirty_since(*p, since)).collect()
    }

    #[test]
    fn writes_that_nobody_told_are_found() {
        let memfd = GuestRam::single(0, 64 * PAGE).unwrap();
        let file = tempfile::tempfile().unwrap();
        file.set_len(64 * PAGE).unwrap();
        file.write_all_at(&[1; 4096], 20 * PAGE).unwrap();
        let backing = Backing::PrivateOverFile { file: file.into(), offset: 0 };
        let private = GuestRam::new(vec![RegionSpec { gpa: 0, len: 64 * PAGE, backing }]).unwrap();
        for ram in [memfd, private] {
            let since = ram.begin_epoch();
            // Reading a page of the file makes it nobody's own.
            ram.peek(20 * PAGE, &mut [0]).unwrap();
            [3, 4, 63].into_iter().for_each(|p| write_unseen(&ram, p));
            assert!(marked(&ram, since).is_empty());
            ram.mark_populated();
            let found = marked(&ram, since);
            assert!([3, 4, 63].iter().all(|p| found.contains(p)), "{found:?}");
            assert!(found.len() <= 4, "too many: {found:?}");
            let region = &ram.regions()[0];
            assert_eq!(region.pages().presence(3), Presence::Private);
            let over_file = matches!(region.backing(), Backing::PrivateOverFile { .. });
            assert!(!over_file || !found.contains(&20), "a page of the file counts as written");
        }
    }
}
