//! virtio-blk, virtio 1.3 §5.2: one queue of requests on a [`Disk`].
//!
//! ```text
//! readable: type:u32 reserved:u32 sector:u64 [data to write | ranges]     writable: [data read] status:u8
//! ```
//! Any division into buffers is accepted. Data moves between the disk and guest memory without a copy of ours.
//! A request that the protocol cannot answer (no whole header, no status byte) is nonsense; everything else is
//! answered: OK, IOERR (outside the disk, not whole sectors, too many ranges, the host's error) or UNSUPP.
//!
//! Durability (§5.2.6.2): with FLUSH negotiated the disk is a write-back cache and the driver flushes; without it
//! every write is flushed before it is completed.
//!
//! Not here: several queues, SIZE_MAX (a driver such as U-Boot's reads a whole kernel in one buffer), CONFIG_WCE,
//! TOPOLOGY, secure erase, zoned disks, change of capacity.

use super::core::{Virtio, Wiring};
use super::device::{Device, QueueSpec, VirtioState};
use super::pump::{Port, RequestWorker, Serve, Served};
use super::virtqueue::{Chain, Nonsense, Reader, Writer};
use super::{Built, built};
use std::io;
use strata_block::Disk;
use strata_memory::VolatileSlice;
use strata_state::StateError;

/// Unit of capacity and of request addresses, whatever the block size (§5.2.4).
pub const SECTOR: u64 = 512;

/// Requests under way at most.
const QUEUE_SIZE: u16 = 256;
/// Data buffers in one request: the queue's size less header and status, so that a driver without indirect
/// descriptors cannot be promised more than fits.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;
/// Ranges in one discard or write-zeroes request. Drivers merge few; each costs a system call under one request.
const MAX_RANGES: u32 = 16;
/// Longest range to discard: 2 GiB, a table update for any format.
const MAX_DISCARD: u32 = 4 << 20;
/// Longest range to zero: 64 MiB, which a host without hole punching really writes, in one turn of the worker.
const MAX_ZERO: u32 = 128 << 10;
/// Longest answer to GET_ID (§5.2.6).
const ID_LEN: usize = 20;

/// Feature bits (§5.2.3).
pub mod feature {
    /// The config space tells the most data buffers.
    pub const SEG_MAX: u64 = 1 << 2;
    /// The disk is read-only.
    pub const RO: u64 = 1 << 5;
    /// The config space tells the block size.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// Flush requests.
    pub const FLUSH: u64 = 1 << 9;
    /// Discard requests.
    pub const DISCARD: u64 = 1 << 13;
    /// Write-zeroes requests.
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// Request types (§5.2.6).
pub mod request {
    /// Read.
    pub const IN: u32 = 0;
    /// Write.
    pub const OUT: u32 = 1;
    /// Flush.
    pub const FLUSH: u32 = 4;
    /// Give the serial number.
    pub const GET_ID: u32 = 8;
    /// Discard ranges.
    pub const DISCARD: u32 = 11;
    /// Zero ranges.
    pub const WRITE_ZEROES: u32 = 13;
}

/// What a request can end with (§5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Ok = 0,
    /// Not done.
    IoErr = 1,
    /// No such request here.
    Unsupp = 2,
}

strata_state::state! {
    /// State of virtio-blk.
    pub struct BlkState("virtio-blk", 1) {
        /// Shared by all virtio devices.
        1 virtio: VirtioState,
        /// Capacity that the driver was told, in sectors of 512 bytes.
        2 capacity: u64,
    }
}

/// The guest's view of virtio-blk.
pub struct Blk {
    capacity: u64,
    read_only: bool,
    config: [u8; 60],
}

impl Blk {
    fn new(disk: &dyn Disk) -> Blk {
        let capacity = disk.size() / SECTOR;
        let mut config = [0u8; 60];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &capacity.to_le_bytes());
        put(12, &SEG_MAX.to_le_bytes());
        put(20, &(SECTOR as u32).to_le_bytes());
        put(34, &1u16.to_le_bytes()); // num_queues
        put(36, &MAX_DISCARD.to_le_bytes());
        put(40, &MAX_RANGES.to_le_bytes());
        put(44, &8u32.to_le_bytes()); // discard_sector_alignment: host file systems free 4 KiB at a time
        put(48, &MAX_ZERO.to_le_bytes());
        put(52, &MAX_RANGES.to_le_bytes());
        put(56, &[1]); // write_zeroes_may_unmap
        Blk { capacity, read_only: disk.read_only(), config }
    }
}

impl Device for Blk {
    type State = BlkState;
    const ID: u32 = 2;
    const NAME: &'static str = "virtio-blk";
    const QUEUES: &'static [QueueSpec] = &[QueueSpec { name: "requests", max: QUEUE_SIZE }];

    fn features(&self) -> u64 {
        let writing = if self.read_only { feature::RO } else { feature::DISCARD | feature::WRITE_ZEROES };
        feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH | writing
    }
    fn config(&self) -> &[u8] {
        &self.config
    }
    fn pack(&self, virtio: VirtioState) -> BlkState {
        BlkState { virtio, capacity: self.capacity }
    }
    fn fresh(&self, virtio: VirtioState) -> BlkState {
        self.pack(virtio)
    }
    fn transport(state: &BlkState) -> &VirtioState {
        &state.virtio
    }
    fn check(&self, state: &BlkState) -> Result<(), StateError> {
        if state.capacity != self.capacity {
            let why = format!(
                "the guest knows a disk of {} sectors, the one given has {}; give it the disk that it was saved with",
                state.capacity, self.capacity
            );
            return Err(StateError::Invalid { id: "virtio-blk".into(), why });
        }
        Ok(())
    }
    fn unpack(&mut self, BlkState { virtio, capacity: _ }: BlkState) -> VirtioState {
        virtio
    }
}

/// The host's side: a disk and what it is called.
struct Backend {
    disk: Box<dyn Disk>,
    serial: [u8; ID_LEN],
}

/// Why a request is not done; the host's error is for the log.
enum Refusal {
    IoErr,
    Unsupp,
    Host(&'static str, io::Error),
}

impl From<Refusal> for Status {
    fn from(r: Refusal) -> Status {
        match r {
            Refusal::Unsupp => Status::Unsupp,
            Refusal::IoErr | Refusal::Host(..) => Status::IoErr,
        }
    }
}

fn host(doing: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |e| Refusal::Host(doing, e)
}

impl Backend {
    /// Byte offset of `sector` if `len` bytes from there are whole sectors of the disk.
    fn place(&self, sector: u64, len: u64) -> Result<u64, Refusal> {
        let offset = sector.checked_mul(SECTOR).ok_or(Refusal::IoErr)?;
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.disk.size());
        if inside && len.is_multiple_of(SECTOR) { Ok(offset) } else { Err(Refusal::IoErr) }
    }

    /// Does the request; gives how many bytes of data were written to the guest.
    fn run<'m>(
        &mut self,
        head: [u8; 16],
        mut data_in: Reader<'_, 'm>,
        mut data_out: Writer<'_, 'm>,
        write_through: bool,
        bufs: &mut Vec<VolatileSlice<'m>>,
    ) -> Result<u64, Refusal> {
        let h = u128::from_le_bytes(head);
        let (kind, sector) = (h as u32, (h >> 64) as u64);
        match kind {
            request::IN => {
                let len = data_out.left();
                let offset = self.place(sector, len)?;
                data_out.slices(len, bufs);
                self.disk.read(offset, bufs).map_err(host("read from"))?;
                Ok(len)
            }
            request::OUT if self.disk.read_only() => Err(Refusal::IoErr),
            request::OUT => {
                let len = data_in.left();
                let offset = self.place(sector, len)?;
                data_in.slices(len, bufs);
                self.disk.write(offset, bufs).map_err(host("write to"))?;
                self.settle(write_through)
            }
            request::FLUSH => self.settle(true),
            request::GET_ID => Ok(data_out.write(&self.serial) as u64),
            request::DISCARD | request::WRITE_ZEROES if self.disk.read_only() => Err(Refusal::IoErr),
            request::DISCARD | request::WRITE_ZEROES => {
                self.ranges(kind == request::DISCARD, &mut data_in)?;
                self.settle(write_through)
            }
            _ => Err(Refusal::Unsupp),
        }
    }

    fn settle(&mut self, flush: bool) -> Result<u64, Refusal> {
        if flush {
            self.disk.flush().map_err(host("flush"))?;
        }
        Ok(0)
    }

    /// Discards or zeroes the ranges `sector:u64 sectors:u32 flags:u32` (§5.2.6). All are checked before the first
    /// is touched.
    fn ranges(&mut self, discard: bool, list: &mut Reader<'_, '_>) -> Result<(), Refusal> {
        let count = list.left() / 16;
        if !list.left().is_multiple_of(16) || count == 0 || count > u64::from(MAX_RANGES) {
            return Err(Refusal::IoErr);
        }
        let (max, known_flags) = if discard { (MAX_DISCARD, 0) } else { (MAX_ZERO, 1) };
        let mut checked = [(0, 0, false); MAX_RANGES as usize];
        for slot in checked.iter_mut().take(count as usize) {
            let r = u128::from_le_bytes(list.array().ok_or(Refusal::IoErr)?);
            let (sector, sectors, flags) = (r as u64, (r >> 64) as u32, (r >> 96) as u32);
            if flags & !known_flags != 0 {
                return Err(Refusal::Unsupp);
            }
            if sectors > max {
                return Err(Refusal::IoErr);
            }
            let len = u64::from(sectors) * SECTOR;
            *slot = (self.place(sector, len)?, len, flags & 1 != 0);
        }
        for &(offset, len, unmap) in checked.iter().filter(|(_, len, _)| *len > 0) {
            if discard {
                self.disk.discard(offset, len).map_err(host("discard from"))?;
            } else {
                self.disk.write_zeroes(offset, len, unmap).map_err(host("zero"))?;
            }
        }
        Ok(())
    }
}

impl Serve for Backend {
    const BLOCKS: bool = true;

    fn serve<'m>(
        &mut self,
        chain: &Chain<'m>,
        features: u64,
        bufs: &mut Vec<VolatileSlice<'m>>,
    ) -> Result<Served, Nonsense> {
        let mut data_in = chain.reader();
        let head = data_in.array().ok_or(Nonsense::Request("no whole virtio-blk header"))?;
        let Some(room) = chain.writable_len().checked_sub(1) else {
            return Err(Nonsense::Request("no room for the virtio-blk status"));
        };
        let (data_out, mut status_out) = chain.writer().split_at(room);
        let write_through = features & feature::FLUSH == 0;
        let (status, data, warning) = match self.run(head, data_in, data_out, write_through, bufs) {
            Ok(n) => (Status::Ok, n, None),
            Err(refusal) => {
                let warning = match &refusal {
                    Refusal::Host(doing, e) => Some(format!("could not {doing} the disk: {e}")),
                    _ => None,
                };
                (refusal.into(), 0, warning)
            }
        };
        status_out.write(&[status as u8]);
        // §2.7.8.2: that many bytes from the first writable one on were written, without a gap.
        let written = if data == room { room + 1 } else { data };
        Ok(Served { written: written as u32, warning })
    }
}

/// Makes a virtio-blk behind MMIO registers, on `disk`. `serial` is what the guest sees as the disk's serial number,
/// cut to 20 bytes.
///
/// # Errors
/// The host has no descriptor left.
pub fn blk(wiring: Wiring, disk: Box<dyn Disk>, serial: &str) -> io::Result<Built<Blk>> {
    let ram = wiring.ram.clone();
    let mut id = [0; ID_LEN];
    id.iter_mut().zip(serial.bytes()).for_each(|(to, from)| *to = from);
    Ok(built(Virtio::new(Blk::new(&*disk), wiring)?, |virtio| {
        Box::new(RequestWorker { port: Port::new(virtio, ram), backend: Backend { disk, serial: id } })
    }))
}
