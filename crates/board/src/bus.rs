//! The bus: from a guest physical address to the device that is there.
//!
//! Sorted ranges that do not overlap, fixed once built; a lookup is a binary search over their first addresses and
//! takes no lock. The device's own lock is held for the length of the access.
//!
//! A range can be a window, behind which another bus looks for the device by itself: PCI functions move.
//!
//! A range may lie over RAM (HTIF does): the engine asks the bus first for a page that is marked so, and takes a
//! [`BusFault`] to mean the RAM beneath.

use std::sync::{Arc, Mutex};
use strata_devices::Mmio;
use strata_engine::{Bus, BusFault};

use crate::Widths;

/// Where a device, or a part of its registers, is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Name for messages.
    pub name: String,
    /// First guest physical address.
    pub base: u64,
    /// Length in bytes.
    pub size: u64,
    /// The device's own offset of the first byte; not 0 where a device's registers are scattered.
    pub offset: u64,
    /// Access widths that it answers to.
    pub widths: Widths,
}

/// Why a bus cannot be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BusError {
    /// Two ranges share an address.
    #[error("`{second}` at {at:#x} overlaps `{first}`; move one of them")]
    Overlap {
        /// The lower one.
        first: String,
        /// The higher one.
        second: String,
        /// First address of the higher one.
        at: u64,
    },
    /// A range is empty or goes beyond the last address.
    #[error("`{name}` at {base:#x} has an impossible length of {size:#x} bytes")]
    Length {
        /// Its name.
        name: String,
        /// Its first address.
        base: u64,
        /// Its length.
        size: u64,
    },
}

type Device = Arc<Mutex<dyn Mmio>>;

/// What is in a range.
enum Target {
    Device(Device),
    Window(Arc<dyn Bus>),
}

/// A bus being put together.
#[derive(Default)]
pub struct BusBuilder {
    places: Vec<(Place, Target)>,
}

impl BusBuilder {
    /// Puts `device` at `place`.
    pub fn add(mut self, place: Place, device: Device) -> BusBuilder {
        self.places.push((place, Target::Device(device)));
        self
    }

    /// Gives accesses to `place` to another bus, by their addresses.
    pub fn add_window(mut self, place: Place, window: Arc<dyn Bus>) -> BusBuilder {
        self.places.push((place, Target::Window(window)));
        self
    }

    /// The bus.
    ///
    /// # Errors
    /// Ranges that overlap or are impossible.
    pub fn build(mut self) -> Result<MmioBus, BusError> {
        self.places.sort_by_key(|(p, _)| p.base);
        let mut bus = MmioBus { starts: Vec::new(), ranges: Vec::new() };
        let mut last: Option<(u64, String)> = None;
        for (Place { name, base, size, offset, widths }, target) in self.places {
            let end = base.checked_add(size).filter(|_| size > 0 && offset.checked_add(size).is_some());
            let Some(end) = end else { return Err(BusError::Length { name, base, size }) };
            if let Some((_, first)) = last.filter(|(last_end, _)| *last_end > base) {
                return Err(BusError::Overlap { first, second: name, at: base });
            }
            last = Some((end, name));
            bus.starts.push(base);
            bus.ranges.push(Range { size, offset, widths, target });
        }
        Ok(bus)
    }
}

struct Range {
    size: u64,
    offset: u64,
    widths: Widths,
    target: Target,
}

/// The devices of a machine by address.
pub struct MmioBus {
    /// First address of each range, ascending; apart from the ranges, so that a search touches few cache lines.
    starts: Vec<u64>,
    ranges: Vec<Range>,
}

impl MmioBus {
    /// Starts a bus.
    pub fn builder() -> BusBuilder {
        BusBuilder::default()
    }

    /// The range that holds the access, and the device's offset.
    #[inline]
    fn find(&self, gpa: u64, size: u8) -> Result<(&Range, u64), BusFault> {
        let after = self.starts.partition_point(|&start| start <= gpa);
        let index = after.checked_sub(1).ok_or(BusFault)?;
        let (Some(&start), Some(range)) = (self.starts.get(index), self.ranges.get(index)) else {
            return Err(BusFault);
        };
        let (at, len) = (gpa - start, u64::from(size));
        let inside = at < range.size && len <= range.size - at;
        let allowed = size.is_power_of_two() && range.widths & size != 0 && gpa & (len - 1) == 0;
        if inside && allowed { Ok((range, range.offset + at)) } else { Err(BusFault) }
    }
}

impl Bus for MmioBus {
    fn read(&self, gpa: u64, size: u8) -> Result<u64, BusFault> {
        let (range, offset) = self.find(gpa, size)?;
        match &range.target {
            Target::Device(device) => Ok(device.lock().unwrap_or_else(|e| e.into_inner()).read(offset, size)),
            Target::Window(bus) => bus.read(gpa, size),
        }
    }

    fn write(&self, gpa: u64, size: u8, value: u64) -> Result<(), BusFault> {
        let (range, offset) = self.find(gpa, size)?;
        match &range.target {
            Target::Device(device) => {
                device.lock().unwrap_or_else(|e| e.into_inner()).write(offset, size, value);
                Ok(())
            }
            Target::Window(bus) => bus.write(gpa, size, value),
        }
    }
}
