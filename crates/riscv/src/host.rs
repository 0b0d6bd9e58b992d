//! Guest RAM by host address: the only unsafe code of the hart.
//!
//! [`HostPage`] is one page of guest RAM. Invariant: its pointer is to 4096 mapped, page-aligned bytes which stay mapped
//! as long as the [`GuestRam`] they came from; a [`crate::core::Core`] keeps both and nothing else keeps a `HostPage`.
//! Every access masks its offset to the page and to its own alignment, so that no value of a guest can leave the page:
//! with the invariant, the methods are safe whatever they are given.
//!
//! All accesses are atomics of their own width: relaxed for plain loads and stores (RVWMO asks no more), SeqCst for
//! compare-exchange, on which LR/SC, AMOs and A/D updates are built. Memory is little-endian.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use strata_isa::ops::Width;
use strata_memory::{Access, EnginePage, GuestRam};

/// One page of guest RAM, by its host address.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub struct HostPage(NonNull<u8>);

// SAFETY: the pointer is to memory that is shared between threads on purpose and accessed by atomics only.
unsafe impl Send for HostPage {}

/// What lies at a guest physical page.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// RAM.
    Ram(HostPage),
    /// A device, and RAM beneath for what the device does not answer.
    Trapped(HostPage),
    /// Asked for a write: RAM from which code was translated. Nobody may remember the right to write to it.
    Code(HostPage),
    /// RAM that has not come yet.
    Wait,
    /// No RAM: the bus.
    Bus,
}

/// Where [`HostPage::nowhere`] points, so that even an unused TLB entry points to memory.
#[repr(align(4096))]
struct Nowhere([AtomicU64; 512]);
static NOWHERE: Nowhere = Nowhere([const { AtomicU64::new(0) }; 512]);

/// Looks up the page that holds `gpa`; for a write it is marked dirty.
pub(crate) fn place(ram: &GuestRam, gpa: u64, access: Access) -> Place {
    let page = |p: *mut u8| NonNull::new(p).map(HostPage);
    match ram.engine_page(gpa, access) {
        EnginePage::Ready(p) => page(p).map_or(Place::Bus, Place::Ram),
        EnginePage::Trapped(p) => page(p).map_or(Place::Bus, Place::Trapped),
        EnginePage::Code(p) => page(p).map_or(Place::Bus, Place::Code),
        EnginePage::Wait => Place::Wait,
        EnginePage::NotRam => Place::Bus,
    }
}

impl Place {
    /// The RAM there, if any.
    pub fn page(self) -> Option<HostPage> {
        match self {
            Place::Ram(p) | Place::Trapped(p) | Place::Code(p) => Some(p),
            Place::Wait | Place::Bus => None,
        }
    }
}

/// After a write to `place`, at `pa`, that did not go by a write tag: tells whoever has translated code from there.
#[inline]
pub(crate) fn wrote(ram: &GuestRam, pa: u64, place: Place) {
    if !matches!(place, Place::Ram(_)) {
        ram.code_written(pa);
    }
}

impl HostPage {
    /// The page at a host address that [`HostPage::address`] gave, kept as a number. Only the data TLB does so.
    #[inline(always)]
    pub(crate) fn remembered(address: u64) -> HostPage {
        let p = std::ptr::with_exposed_provenance_mut(address as usize);
        NonNull::new(p).map_or_else(HostPage::nowhere, HostPage)
    }

    /// A page that no guest sees.
    pub(crate) fn nowhere() -> HostPage {
        HostPage(NonNull::from(&NOWHERE.0).cast())
    }

    /// Host address of its first byte.
    pub fn address(self) -> usize {
        self.0.as_ptr().expose_provenance()
    }

    #[inline(always)]
    fn at(self, at: u64, size: u64) -> *mut u8 {
        let offset = at & 0xfff & !(size - 1);
        // SAFETY: `offset` < 4096, within the page by the invariant.
        unsafe { self.0.as_ptr().add(offset as usize) }
    }

    /// The value of `w`'s size at the page offset of `at`, zero-extended.
    #[inline(always)]
    pub fn load(self, at: u64, w: Width) -> u64 {
        let p = self.at(at, w.bytes());
        // SAFETY: `p` is aligned to the width and the width's bytes from it lie in the page (`at`).
        unsafe {
            match w.bytes() {
                1 => AtomicU8::from_ptr(p).load(Relaxed).into(),
                2 => u16::from_le(AtomicU16::from_ptr(p.cast()).load(Relaxed)).into(),
                4 => u32::from_le(AtomicU32::from_ptr(p.cast()).load(Relaxed)).into(),
                _ => u64::from_le(AtomicU64::from_ptr(p.cast()).load(Relaxed)),
            }
        }
    }

    /// Stores the low bytes of `v`.
    #[inline(always)]
    pub fn store(self, at: u64, v: u64, w: Width) {
        let p = self.at(at, w.bytes());
        // SAFETY: as in `load`.
        unsafe {
            match w.bytes() {
                1 => AtomicU8::from_ptr(p).store(v as u8, Relaxed),
                2 => AtomicU16::from_ptr(p.cast()).store((v as u16).to_le(), Relaxed),
                4 => AtomicU32::from_ptr(p.cast()).store((v as u32).to_le(), Relaxed),
                _ => AtomicU64::from_ptr(p.cast()).store(v.to_le(), Relaxed),
            }
        }
    }

    /// Compares 4 bytes (`I32`, `U32`) or 8 with `old` and stores `new` if they are equal; else gives what is there.
    #[inline(always)]
    pub fn compare_exchange(self, at: u64, old: u64, new: u64, w: Width) -> Result<(), u64> {
        if w.bytes() == 4 {
            let p = self.at(at, 4);
            // SAFETY: as in `load`.
            let word = unsafe { AtomicU32::from_ptr(p.cast()) };
            let (old, new) = ((old as u32).to_le(), (new as u32).to_le());
            word.compare_exchange(old, new, SeqCst, SeqCst).map(drop).map_err(|v| u32::from_le(v).into())
        } else {
            let p = self.at(at, 8);
            // SAFETY: as in `load`.
            let word = unsafe { AtomicU64::from_ptr(p.cast()) };
            word.compare_exchange(old.to_le(), new.to_le(), SeqCst, SeqCst).map(drop).map_err(u64::from_le)
        }
    }
}
