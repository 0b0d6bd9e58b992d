//! Physical memory protection. *The RISC-V Instruction Set Manual*, volume II, "Physical Memory Protection".
//!
//! Sixteen entries, granularity 4 bytes. Pure: registers in, answers out; the MMU asks after each translation and
//! before each page-table access.

use crate::trap::Privilege;

/// Number of entries.
pub(crate) const ENTRIES: usize = 16;

const R: u8 = 1;
const W: u8 = 2;
const X: u8 = 4;
const MODE: u8 = 0x18;
const TOR: u8 = 0x08;
const NA4: u8 = 0x10;
const LOCK: u8 = 0x80;

/// Physical addresses have 56 bits, of which `pmpaddr` leaves out the low two.
const ADDRESS: u64 = (1 << 54) - 1;

/// What an access wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Fetch,
}

/// The registers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pmp {
    cfg: [u8; ENTRIES],
    addr: [u64; ENTRIES],
    /// Some entry is on. Without one, M may do all and others nothing.
    active: bool,
    /// The first entry that is on lets everyone do everything everywhere: no more is asked then.
    open: bool,
}

impl Pmp {
    /// Registers from a saved state; `None` where writing them would not have given them.
    pub fn restore(cfg: [u8; ENTRIES], addr: [u64; ENTRIES]) -> Option<Pmp> {
        let legal = cfg.iter().all(|&c| legal_cfg(c) == c) && addr.iter().all(|&a| a & !ADDRESS == 0);
        let mut p = Pmp { cfg, addr, ..Pmp::default() };
        p.settle();
        legal.then_some(p)
    }

    /// One entry that allows everything to everyone: what firmware leaves to a kernel.
    pub fn open() -> Pmp {
        let mut p = Pmp::default();
        (p.cfg[0], p.addr[0]) = (R | W | X | MODE, ADDRESS);
        p.settle();
        p
    }

    /// Derives what is not a register.
    fn settle(&mut self) {
        self.active = self.cfg.iter().any(|c| c & MODE != 0);
        let first = (0..ENTRIES).find_map(|n| self.range(n).map(|r| (n, r)));
        self.open = first.is_some_and(|(n, (low, high))| {
            low == 0 && high >= (ADDRESS << 2 | 3) && self.cfg[n] & (R | W | X) == R | W | X
        });
    }

    /// The configuration bytes.
    pub fn cfg(&self) -> [u8; ENTRIES] {
        self.cfg
    }

    /// The address registers.
    pub fn addr(&self) -> [u64; ENTRIES] {
        self.addr
    }

    /// `pmpcfg0` (`first` 0) or `pmpcfg2` (`first` 8).
    pub fn read_cfg(&self, first: usize) -> u64 {
        let bytes = self.cfg.iter().skip(first).take(8);
        bytes.rev().fold(0, |v, &b| v << 8 | u64::from(b))
    }

    /// Writes eight configuration bytes; locked ones keep their value.
    pub fn write_cfg(&mut self, first: usize, value: u64) {
        for (c, new) in self.cfg.iter_mut().skip(first).zip(value.to_le_bytes()) {
            if *c & LOCK == 0 {
                *c = legal_cfg(new);
            }
        }
        self.settle();
    }

    /// `pmpaddr<n>`.
    pub fn read_addr(&self, n: usize) -> u64 {
        self.addr.get(n).copied().unwrap_or(0)
    }

    /// Writes `pmpaddr<n>` unless it, or a top-of-range entry that starts at it, is locked.
    pub fn write_addr(&mut self, n: usize, value: u64) {
        let locked = |n: usize| self.cfg.get(n).is_some_and(|c| c & LOCK != 0);
        let base_of_locked = locked(n + 1) && self.cfg.get(n + 1).is_some_and(|c| c & MODE == TOR);
        if !locked(n)
            && !base_of_locked
            && let Some(a) = self.addr.get_mut(n)
        {
            *a = value & ADDRESS;
            self.settle();
        }
    }

    /// First and last byte of entry `n`'s range, if it is on and not empty.
    fn range(&self, n: usize) -> Option<(u64, u64)> {
        let (cfg, addr) = (*self.cfg.get(n)?, *self.addr.get(n)?);
        match cfg & MODE {
            0 => None,
            TOR => {
                let low = n.checked_sub(1).and_then(|p| self.addr.get(p)).copied().unwrap_or(0);
                (low < addr).then(|| (low << 2, (addr << 2) - 1))
            }
            NA4 => Some((addr << 2, (addr << 2) + 3)),
            // The ones at the bottom give the size: 8 bytes with none of them, twice as much with each.
            _ => {
                let span = (1u64 << addr.trailing_ones() << 3) - 1;
                let low = (addr & !(span >> 2)) << 2;
                Some((low, low | span))
            }
        }
    }

    /// Whether `mode` may do `access` to the `size` bytes at `pa`. The first entry that holds any of them decides, and
    /// must hold all of them.
    #[inline]
    pub fn allows(&self, pa: u64, size: u64, access: Access, mode: Privilege) -> bool {
        // Far from the end of what an entry can hold, size does not matter.
        self.open && pa < ADDRESS || self.decides(pa, size, access, mode)
    }

    #[inline(never)]
    fn decides(&self, pa: u64, size: u64, access: Access, mode: Privilege) -> bool {
        let machine = mode == Privilege::Machine;
        if !self.active {
            return machine;
        }
        let last = pa.saturating_add(size - 1);
        for n in 0..ENTRIES {
            let Some((low, high)) = self.range(n) else { continue };
            if last < low || pa > high {
                continue;
            }
            if pa < low || last > high {
                return false;
            }
            let cfg = self.cfg[n];
            let bit = match access {
                Access::Read => R,
                Access::Write => W,
                Access::Fetch => X,
            };
            return cfg & bit != 0 || machine && cfg & LOCK == 0;
        }
        machine
    }

    /// Whether one answer of [`Pmp::allows`] holds for every byte of the page at `page`.
    #[inline]
    pub fn uniform(&self, page: u64) -> bool {
        if !self.active || self.open {
            return true;
        }
        let last = page | 0xfff;
        for n in 0..ENTRIES {
            let Some((low, high)) = self.range(n) else { continue };
            if last < low || page > high {
                continue;
            }
            return low <= page && last <= high;
        }
        true
    }
}

/// What a configuration byte holds after a write: bits 5 and 6 are zero, and W without R is reserved.
fn legal_cfg(c: u8) -> u8 {
    let c = c & (LOCK | MODE | R | W | X);
    if c & (R | W) == W { c & !W } else { c }
}

#[cfg(test)]
#[path = "pmp/tests.rs"]
mod tests;
