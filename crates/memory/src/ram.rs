//! Guest RAM: regions, and the calls through which they are reached.

use crate::capture::Slot;
use crate::code_watch::CodeWatch;
use crate::late::Late;
use crate::mapping::Mapping;
use crate::page_map::{CODE, TRAPPED};
use crate::throttle::Throttle;
use crate::{Backing, MemoryError, PageMap, Presence};
use rustix::fs::{FallocateFlags, fallocate};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use vm_memory::VolatileSlice;

/// Page size of the page-state map, in bytes: the base page of every guest architecture here.
pub const PAGE: u64 = 4096;

/// Longest region: 4 TiB. A number beyond it is a mistake, and the map of its pages alone would take 5 GiB.
const MAX_REGION: u64 = 1 << 42;

/// What to make a region from.
#[derive(Debug)]
pub struct RegionSpec {
    /// First guest physical address, page-aligned.
    pub gpa: u64,
    /// Length in bytes, page-aligned, not 0.
    pub len: u64,
    /// What is behind it.
    pub backing: Backing,
}

/// A range of guest RAM over one host mapping.
#[derive(Debug)]
pub struct Region {
    gpa: u64,
    len: u64,
    backing: Backing,
    mapping: Mapping,
    map: PageMap,
    capture: Slot,
}

impl Region {
    fn new(spec: RegionSpec) -> Result<Region, MemoryError> {
        let RegionSpec { gpa, len, backing } = spec;
        let bad = |why| Err(MemoryError::BadRegion { gpa, len, why });
        if len == 0 || !len.is_multiple_of(PAGE) || !gpa.is_multiple_of(PAGE) {
            return bad("not a positive number of whole pages");
        }
        if len > MAX_REGION || gpa.checked_add(len).is_none() {
            return bad("longer than 4 TiB");
        }
        let mapping = Mapping::new(&backing, len)?;
        let first = match backing {
            Backing::PrivateOverFile { .. } => Presence::File,
            _ => Presence::Zero,
        };
        let map = PageMap::new((len / PAGE) as usize, first);
        Ok(Region { gpa, len, backing, mapping, map, capture: Slot::default() })
    }

    /// First guest physical address.
    pub fn gpa(&self) -> u64 {
        self.gpa
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.len
    }

    /// What is behind the region.
    pub fn backing(&self) -> &Backing {
        &self.backing
    }

    /// Where it is in this process: host addresses, as numbers.
    pub fn host_range(&self) -> std::ops::Range<usize> {
        let start = self.mapping.at(0) as usize;
        start..start + self.len as usize
    }

    /// Has the host bring pages in before they are touched, `count` from index `first` on; whether it did. Nothing that
    /// can be seen changes.
    pub fn read_ahead(&self, first: usize, count: usize) -> bool {
        let page = PAGE as usize;
        first
            .checked_mul(page)
            .zip(count.checked_mul(page))
            .is_some_and(|(at, len)| self.mapping.read_ahead(at, len))
    }

    /// State of the region's pages.
    pub fn pages(&self) -> &PageMap {
        &self.map
    }

    /// Whether the range is wholly in it.
    pub(crate) fn covers(&self, gpa: u64, len: u64) -> bool {
        self.holds(gpa, len)
    }

    /// Puts a private mapping of a file, or of zeroes, in place of `count` pages from number `first` on.
    pub(crate) fn map_over(
        &self,
        first: usize,
        count: usize,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> rustix::io::Result<()> {
        self.mapping.replace(first * PAGE as usize, count * PAGE as usize, file)
    }

    pub(crate) fn capture(&self) -> &Slot {
        &self.capture
    }

    /// `count` pages from number `first` on, which must be in the region.
    pub(crate) fn page(&self, first: usize, count: usize) -> VolatileSlice<'_> {
        assert!(first + count <= self.map.pages(), "pages {first}+{count} are not in the region");
        self.slice(self.gpa + first as u64 * PAGE, count as u64 * PAGE)
    }

    /// Zeroes; gives the pages that were not zero before.
    fn clear(&self, late: &Late) -> impl Iterator<Item = u64> {
        late.forget(self);
        self.capture.before_clear(self);
        let punched = match &self.backing {
            Backing::SharedFd(fd) => {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                // Refused only by file systems without holes; then zeroes are written.
                fallocate(fd, how, 0, self.len).is_ok()
            }
            // Writing zeroes would first copy what they replace.
            Backing::PrivateOverFile { .. } | Backing::Anonymous => self.mapping.renew().is_ok(),
        };
        (0..self.map.pages()).filter(|&p| self.map.presence(p) != Presence::Zero).map(move |p| {
            let gpa = self.gpa + p as u64 * PAGE;
            if !punched {
                self.slice(gpa, PAGE).copy_from(&[0u8; PAGE as usize]);
            }
            // Marked first, so that whoever copies dirty pages copies the zeroes.
            self.map.mark_dirty(p);
            self.map.set_presence(p, Presence::Zero);
            gpa
        })
    }

    fn holds(&self, gpa: u64, len: u64) -> bool {
        gpa >= self.gpa && gpa - self.gpa < self.len && len <= self.len - (gpa - self.gpa)
    }

    fn page_range(&self, gpa: u64, len: u64) -> std::ops::RangeInclusive<usize> {
        let first = (gpa - self.gpa) / PAGE;
        let last = (gpa - self.gpa + len.saturating_sub(1)) / PAGE;
        first as usize..=last as usize
    }

    fn slice(&self, gpa: u64, len: u64) -> VolatileSlice<'_> {
        let host = self.mapping.at((gpa - self.gpa) as usize);
        // SAFETY: `[gpa, gpa + len)` lies in this region (all callers check with `holds`), so the bytes are mapped
        // for as long as `self` is borrowed; a volatile slice bears concurrent change.
        unsafe { VolatileSlice::new(host, len as usize) }
    }
}

/// What a device wants to do with guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Only read it.
    Read,
    /// Write it (and perhaps read it).
    Write,
}

/// The answer to [`GuestRam::acquire`].
pub enum Acquired<'a> {
    /// Here it is. For writing, its pages are already marked dirty; after the write, [`GuestRam::written`] is due.
    Ready(VolatileSlice<'a>),
    /// Some page is not there yet; all that are not have been asked for. Park the queue and ask again when the machine
    /// says that pages have come.
    Wait,
}

/// The answer to [`GuestRam::engine_page`].
#[derive(Clone, Copy, Debug)]
pub enum EnginePage {
    /// Host address of the page's first byte.
    Ready(*mut u8),
    /// A device lies over the page: ask the bus first for each access, and cache nothing. The host address is that
    /// of the RAM beneath; after a write to that, call [`GuestRam::code_written`].
    Trapped(*mut u8),
    /// Asked for a write: code was translated from the page. Write, then call [`GuestRam::code_written`], and do not
    /// cache the right to write.
    Code(*mut u8),
    /// The page is not there yet, or whoever writes is slowed down ([`Throttle`]): try again soon.
    Wait,
    /// Not RAM.
    NotRam,
}

/// All RAM of one machine. Cloning gives another handle to the same memory.
#[derive(Clone, Debug)]
pub struct GuestRam {
    regions: Arc<[Region]>,
    watch: Arc<CodeWatch>,
    late: Arc<Late>,
    throttle: Arc<Throttle>,
}

impl GuestRam {
    /// Makes RAM from `specs`, which must not overlap.
    pub fn new(specs: Vec<RegionSpec>) -> Result<GuestRam, MemoryError> {
        let mut regions = specs.into_iter().map(Region::new).collect::<Result<Vec<_>, _>>()?;
        regions.sort_by_key(|r| r.gpa);
        if let Some(w) = regions.windows(2).find(|w| w[0].gpa + w[0].len > w[1].gpa) {
            return Err(MemoryError::BadRegion {
                gpa: w[1].gpa,
                len: w[1].len,
                why: "overlaps another region",
            });
        }
        let watch = Arc::new(CodeWatch::new());
        Ok(GuestRam { regions: regions.into(), watch, late: Arc::default(), throttle: Arc::default() })
    }

    /// One region of `len` bytes over a memfd at `gpa`.
    pub fn single(gpa: u64, len: u64) -> Result<GuestRam, MemoryError> {
        GuestRam::new(vec![RegionSpec { gpa, len, backing: Backing::memfd(len)? }])
    }

    /// The regions, by address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    fn region(&self, gpa: u64, len: u64) -> Result<&Region, MemoryError> {
        self.regions.iter().find(|r| r.holds(gpa, len)).ok_or(MemoryError::NotRam { gpa, len })
    }

    pub(crate) fn watch(&self) -> &CodeWatch {
        &self.watch
    }

    /// What slows harts down that write to memory.
    pub fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    pub(crate) fn late(&self) -> &Late {
        &self.late
    }

    /// The map that holds the page of `gpa`, and its index there.
    pub(crate) fn pages_at(&self, gpa: u64) -> Option<(&PageMap, usize)> {
        let region = self.region(gpa, 1).ok()?;
        Some((&region.map, ((gpa - region.gpa) / PAGE) as usize))
    }

    /// The guest physical address of a byte of RAM by its host address.
    pub(crate) fn address_of(&self, host: *const u8) -> Option<u64> {
        self.regions.iter().find_map(|r| {
            let offset = (host as usize).checked_sub(r.mapping.at(0) as usize)? as u64;
            (offset < r.len).then_some(r.gpa + offset)
        })
    }

    /// Whether the whole range is RAM of one region.
    pub fn contains(&self, gpa: u64, len: u64) -> bool {
        self.region(gpa, len).is_ok()
    }

    /// **The one way for devices to reach guest memory**: makes sure that the range's pages are there, and marks them
    /// dirty for a write. `len` 0 gives an empty slice. Whoever writes calls [`GuestRam::written`] when it is done.
    ///
    /// # Errors
    /// [`MemoryError::NotRam`] where the range is not wholly in one region.
    pub fn acquire(&self, gpa: u64, len: u64, access: Access) -> Result<Acquired<'_>, MemoryError> {
        let region = self.region(gpa, len)?;
        if len > 0 {
            let pages = region.page_range(gpa, len);
            let mut absent = pages.clone().filter(|p| region.map.presence(*p) == Presence::Absent).peekable();
            if absent.peek().is_some() {
                // All of them are asked for at once.
                absent.for_each(|p| self.late.touched(region, p, true));
                // Those that came before it was known that a device waits for them woke nobody.
                if pages.clone().any(|p| region.map.presence(p) == Presence::Absent) {
                    return Ok(Acquired::Wait);
                }
            }
            if access == Access::Write {
                for p in pages.clone() {
                    region.map.mark_dirty(p);
                    // Not yet written, so this is not what makes it exact: but code that is about to be replaced may go
                    // at once, and a writer who forgets to tell is right nearly always.
                    self.watch.tell(&region.map, p, region.gpa + p as u64 * PAGE);
                }
                region.capture.before_write(region, pages);
            }
        }
        Ok(Acquired::Ready(region.slice(gpa, len)))
    }

    /// An engine's slow path: the host address of the page that holds `gpa`. For a write the page is marked dirty;
    /// the engine may then write to it until the next dirty epoch, and as [`GuestRam::watch_code`] demands.
    pub fn engine_page(&self, gpa: u64, access: Access) -> EnginePage {
        let page = gpa & !(PAGE - 1);
        let Ok(region) = self.region(page, PAGE) else { return EnginePage::NotRam };
        let index = ((page - region.gpa) / PAGE) as usize;
        if region.map.presence(index) == Presence::Absent {
            self.late.touched(region, index, false);
            return EnginePage::Wait;
        }
        let host = region.mapping.at((page - region.gpa) as usize);
        let flags = if access == Access::Write {
            let anew = self.throttle.rate() != 0 && !region.map.dirty_since(index, region.map.epoch());
            if anew && !self.throttle.take() {
                return EnginePage::Wait;
            }
            region.map.mark_dirty(index);
            region.capture.before_write(region, index..=index);
            region.map.let_cache(index)
        } else if region.map.trapped(index) {
            TRAPPED
        } else {
            0
        };
        match (flags & TRAPPED != 0, flags & CODE != 0) {
            (true, _) => EnginePage::Trapped(host),
            (_, true) => EnginePage::Code(host),
            _ => EnginePage::Ready(host),
        }
    }

    /// Puts a device over the page that holds `gpa` (see [`EnginePage::Trapped`]).
    pub fn trap(&self, gpa: u64) -> Result<(), MemoryError> {
        let region = self.region(gpa, 1)?;
        region.map.trap(((gpa - region.gpa) / PAGE) as usize);
        Ok(())
    }

    /// Copies `bytes` into RAM: for the loader, before the first instruction.
    pub fn load(&self, gpa: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        let len = bytes.len() as u64;
        match self.acquire(gpa, len, Access::Write)? {
            Acquired::Ready(s) => s.copy_from(bytes),
            Acquired::Wait => return Err(MemoryError::NotRam { gpa, len }),
        }
        self.written(gpa, len);
        Ok(())
    }

    /// Copies RAM out, for debuggers and tests; pages that are not there are an error.
    pub fn peek(&self, gpa: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let len = bytes.len() as u64;
        match self.acquire(gpa, len, Access::Read)? {
            Acquired::Ready(s) => s.copy_to(bytes),
            Acquired::Wait => return Err(MemoryError::NotRam { gpa, len }),
        };
        Ok(())
    }

    /// All RAM back to zeroes, as after power-on. Where it is a memfd, the host gets the memory back. Engines must
    /// forget what they cached.
    pub fn clear(&self) {
        self.regions.iter().flat_map(|r| r.clear(&self.late)).for_each(|page| self.code_written(page));
    }
}
