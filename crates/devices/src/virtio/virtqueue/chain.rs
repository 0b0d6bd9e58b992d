//! Descriptor chains, virtio 1.3 §2.7.5: **the only place where a descriptor is checked**.
//!
//! A [`Chain`] exists only if all of this holds; whoever has one need not check again:
//! - every index lies inside its table; the walk ended within as many steps as its table has entries;
//! - an indirect table was negotiated, is last in its chain, not nested, a whole number of descriptors, not empty;
//! - every buffer lies wholly in one region of RAM, is present, and is marked dirty where the device may write;
//! - readable buffers come before writable ones; at most [`MAX_SEGMENTS`] buffers and [`MAX_BYTES`] bytes.
//!
//! Zero-length descriptors are **accepted and skipped**: the specification does not forbid them. They count as
//! steps, their address is not looked at, and they take no part in the order of readable and writable.
//!
//! Each descriptor is read from guest memory once, so a guest that rewrites it meanwhile gains nothing. Buffer
//! contents may change at any time: protocol headers are copied out before they are believed.
//!
//! A chain holds addresses of guest memory, so it lives within one turn of its worker: dirty epochs, pre-images
//! and changes of presence begin between turns.

use super::Nonsense;
use strata_memory::{Access, Acquired, GuestRam, VolatileSlice};

/// Most buffers in one chain, and most entries of an indirect table: what one vectored system call takes
/// (`IOV_MAX`), and four times what our devices ask drivers to use. Drivers may put more into an indirect table
/// than the queue has entries (Linux does), so the queue size is no bound.
pub const MAX_SEGMENTS: usize = 1024;

/// Most bytes in one chain. A used element reports lengths in 32 bits (§2.7.8).
pub const MAX_BYTES: u64 = u32::MAX as u64;

const DESC_SIZE: u64 = 16;
const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// One descriptor, as copied from guest memory (§2.7.5): `addr:u64 len:u32 flags:u16 next:u16`.
struct Desc {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

/// A descriptor table that has been acquired.
pub(super) struct Table<'m> {
    bytes: VolatileSlice<'m>,
    entries: u32,
}

impl<'m> Table<'m> {
    /// Acquires a table of `entries` descriptors; `None` means wait.
    pub(super) fn acquire(ram: &'m GuestRam, gpa: u64, entries: u32) -> Result<Option<Self>, Nonsense> {
        match ram.acquire(gpa, u64::from(entries) * DESC_SIZE, Access::Read)? {
            Acquired::Ready(bytes) => Ok(Some(Table { bytes, entries })),
            Acquired::Wait => Ok(None),
        }
    }

    fn get(&self, index: u32) -> Result<Desc, Nonsense> {
        let bad = Nonsense::BadIndex { index, entries: self.entries };
        let mut raw = [0u8; DESC_SIZE as usize];
        match self.bytes.subslice(index as usize * raw.len(), raw.len()) {
            Ok(place) if index < self.entries => place.copy_to(&mut raw),
            _ => return Err(bad),
        };
        let v = u128::from_le_bytes(raw);
        Ok(Desc { addr: v as u64, len: (v >> 64) as u32, flags: (v >> 96) as u16, next: (v >> 112) as u16 })
    }
}

/// A checked chain of buffers in guest memory. It owns nothing of the ring.
#[derive(Debug)]
pub struct Chain<'m> {
    ram: &'m GuestRam,
    head: u16,
    /// Readable buffers, then writable ones; none is empty.
    slices: Vec<VolatileSlice<'m>>,
    /// How many of them are readable.
    readable: usize,
    readable_len: u64,
    writable_len: u64,
}

impl<'m> Chain<'m> {
    /// Walks the chain that starts at `head` of `table`. `None` means that some page is not there yet: nothing has
    /// happened but that all of its buffers were asked for; ask again. `spare` gives its allocation to the chain.
    pub(super) fn walk(
        ram: &'m GuestRam,
        mut table: Table<'m>,
        head: u16,
        indirect: bool,
        spare: &mut Vec<VolatileSlice<'m>>,
    ) -> Result<Option<Chain<'m>>, Nonsense> {
        spare.clear();
        let slices = std::mem::take(spare);
        let mut chain = Chain { ram, head, slices, readable: 0, readable_len: 0, writable_len: 0 };
        let (mut at, mut steps, mut inside, mut whole) = (u32::from(head), 0, false, true);
        loop {
            let d = table.get(at)?;
            steps += 1;
            if steps > table.entries {
                return Err(Nonsense::Loop { head });
            }
            if d.flags & INDIRECT != 0 {
                let entries = check_indirect(&d, indirect, inside)?;
                let Some(t) = Table::acquire(ram, d.addr, entries)? else { return Ok(None) };
                (table, at, steps, inside) = (t, 0, 0, true);
                continue;
            }
            whole &= chain.add(ram, &d)?;
            if d.flags & NEXT == 0 {
                return Ok(whole.then_some(chain));
            }
            at = u32::from(d.next);
        }
    }

    /// Adds the buffer of `d`; false means wait.
    fn add(&mut self, ram: &'m GuestRam, d: &Desc) -> Result<bool, Nonsense> {
        if d.len == 0 {
            return Ok(true);
        }
        let len = u64::from(d.len);
        let writable = d.flags & WRITE != 0;
        if !writable && self.writable_len > 0 {
            return Err(Nonsense::Order { head: self.head });
        }
        if self.slices.len() >= MAX_SEGMENTS || self.readable_len + self.writable_len + len > MAX_BYTES {
            return Err(Nonsense::TooLong { head: self.head });
        }
        let access = if writable { Access::Write } else { Access::Read };
        let Acquired::Ready(slice) = ram.acquire(d.addr, len, access)? else { return Ok(false) };
        self.slices.push(slice);
        if writable {
            self.writable_len += len;
        } else {
            self.readable += 1;
            self.readable_len += len;
        }
        Ok(true)
    }

    /// Index of the chain's first descriptor: its name in the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// Bytes that the device may read.
    pub fn readable_len(&self) -> u64 {
        self.readable_len
    }

    /// Bytes that the device may write.
    pub fn writable_len(&self) -> u64 {
        self.writable_len
    }

    /// Reads from the chain's first readable byte on.
    pub fn reader(&self) -> Reader<'_, 'm> {
        let slices = self.slices.get(..self.readable).unwrap_or_default();
        Reader(Cursor { slices, skip: 0, left: self.readable_len })
    }

    /// Writes from the chain's first writable byte on.
    pub fn writer(&self) -> Writer<'_, 'm> {
        let slices = self.slices.get(self.readable..).unwrap_or_default();
        Writer(Cursor { slices, skip: 0, left: self.writable_len })
    }

    /// Tells guest memory that the writable buffers have been written. It happens by itself when the chain goes; who
    /// keeps the chain longer calls it before the driver learns that the request is done.
    pub fn tell(&self) {
        let written = self.slices.get(self.readable..).unwrap_or_default();
        written.iter().for_each(|slice| self.ram.written_slice(slice));
    }

    /// Gives the chain's allocation back for the next one.
    pub fn recycle(mut self, spare: &mut Vec<VolatileSlice<'m>>) {
        self.tell();
        let slices = std::mem::take(&mut self.slices);
        if slices.capacity() > spare.capacity() {
            *spare = slices;
        }
    }
}

impl Drop for Chain<'_> {
    fn drop(&mut self) {
        self.tell();
    }
}

/// The number of entries of the indirect table that `d` names, if it may name one.
fn check_indirect(d: &Desc, negotiated: bool, inside: bool) -> Result<u32, Nonsense> {
    let refuse = |why| Err(Nonsense::Indirect(why));
    let len = u64::from(d.len);
    if !negotiated {
        return refuse("the feature was not negotiated");
    }
    if inside {
        return refuse("it stands in an indirect table");
    }
    if d.flags & NEXT != 0 {
        return refuse("another descriptor follows it");
    }
    if len == 0 || !len.is_multiple_of(DESC_SIZE) {
        return refuse("its table is not a positive number of whole descriptors");
    }
    if len / DESC_SIZE > MAX_SEGMENTS as u64 {
        return refuse("its table is too long");
    }
    Ok((len / DESC_SIZE) as u32)
}

/// A place in a list of buffers, and how far one may go from there.
#[derive(Clone)]
struct Cursor<'c, 'm> {
    slices: &'c [VolatileSlice<'m>],
    /// Bytes of the first slice that lie behind.
    skip: usize,
    left: u64,
}

impl<'c, 'm> Cursor<'c, 'm> {
    /// The next contiguous piece of at most `max` bytes; `None` at the end.
    fn piece(&mut self, max: u64) -> Option<VolatileSlice<'m>> {
        let first = self.slices.first()?;
        let here = first.len().saturating_sub(self.skip);
        let n = max.min(self.left).min(here as u64) as usize;
        if n == 0 {
            return None;
        }
        let piece = first.subslice(self.skip, n).ok()?;
        if n == here {
            self.slices = self.slices.get(1..).unwrap_or_default();
            self.skip = 0;
        } else {
            self.skip += n;
        }
        self.left -= n as u64;
        Some(piece)
    }

    fn split_at(&self, n: u64) -> (Self, Self) {
        let (mut head, mut tail) = (self.clone(), self.clone());
        head.left = head.left.min(n);
        let mut skip = head.left;
        while let Some(p) = tail.piece(skip) {
            skip -= p.len() as u64;
        }
        (head, tail)
    }

    fn take(&mut self, n: u64, out: &mut Vec<VolatileSlice<'m>>) {
        let mut want = n;
        while let Some(p) = self.piece(want) {
            want -= p.len() as u64;
            out.push(p);
        }
    }
}

/// Reads a chain's readable bytes in order.
#[derive(Clone)]
pub struct Reader<'c, 'm>(Cursor<'c, 'm>);

impl<'c, 'm> Reader<'c, 'm> {
    /// Bytes left.
    pub fn left(&self) -> u64 {
        self.0.left
    }

    /// Copies out as much as there is room and data for; gives how much.
    pub fn read(&mut self, buf: &mut [u8]) -> usize {
        let mut done = 0;
        while let Some(p) = self.0.piece((buf.len() - done) as u64) {
            done += p.copy_to(buf.get_mut(done..).unwrap_or_default());
        }
        done
    }

    /// The next `N` bytes, or `None` if there are fewer.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let mut buf = [0; N];
        (self.left() >= N as u64 && self.read(&mut buf) == N).then_some(buf)
    }

    /// The first `n` bytes (or all), and what follows.
    pub fn split_at(&self, n: u64) -> (Self, Self) {
        let (a, b) = self.0.split_at(n);
        (Reader(a), Reader(b))
    }

    /// Appends the next `n` bytes (or all) to `out` as buffers, for vectored I/O without a copy.
    pub fn slices(&mut self, n: u64, out: &mut Vec<VolatileSlice<'m>>) {
        self.0.take(n, out);
    }
}

/// Writes a chain's writable bytes in order.
#[derive(Clone)]
pub struct Writer<'c, 'm>(Cursor<'c, 'm>);

impl<'c, 'm> Writer<'c, 'm> {
    /// Bytes left.
    pub fn left(&self) -> u64 {
        self.0.left
    }

    /// Copies in as much as there is room for; gives how much.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        let mut done = 0;
        while let Some(p) = self.0.piece((bytes.len() - done) as u64) {
            p.copy_from(bytes.get(done..).unwrap_or_default());
            done += p.len();
        }
        done
    }

    /// Fills the next `n` bytes (or all) with what `fill` puts into `buf`, piece by piece; gives how many.
    pub fn fill(&mut self, n: u64, buf: &mut [u8], mut fill: impl FnMut(&mut [u8])) -> u64 {
        let mut done = 0;
        while let Some(p) = self.0.piece((n - done).min(buf.len() as u64)) {
            let part = buf.get_mut(..p.len()).unwrap_or_default();
            fill(part);
            p.copy_from(part);
            done += p.len() as u64;
        }
        done
    }

    /// The first `n` bytes (or all), and what follows.
    pub fn split_at(&self, n: u64) -> (Self, Self) {
        let (a, b) = self.0.split_at(n);
        (Writer(a), Writer(b))
    }

    /// Appends the next `n` bytes (or all) to `out` as buffers, for vectored I/O without a copy.
    pub fn slices(&mut self, n: u64, out: &mut Vec<VolatileSlice<'m>>) {
        self.0.take(n, out);
    }
}
