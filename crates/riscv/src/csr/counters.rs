//! `mcycle`, `minstret` and who may read which counter.
//!
//! *The RISC-V Instruction Set Manual*, volume II, "Hardware Performance Monitor", "Machine Counter-Enable Register",
//! "Machine Counter-Inhibit Register". A cycle is a retired instruction, so that runs repeat. The other 29 counters
//! exist and are zero.

use crate::core::Core;
use crate::trap::Privilege;

/// `mcounteren` and `scounteren`: a bit for each of the 32 counters.
pub(crate) const ALL: u64 = 0xffff_ffff;
/// Bits of `mcountinhibit` that exist.
pub(crate) const CY: u64 = 1;
pub(crate) const IR: u64 = 4;
/// `time`'s bit in the enable registers.
pub(crate) const TM: u64 = 2;

/// A counter of instructions: it shows the number retired plus an offset, or stands still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counter {
    /// What it adds to the number retired, or, while inhibited, what it shows.
    pub base: u64,
    /// `mcountinhibit`.
    pub inhibited: bool,
}

impl Counter {
    /// The value when `retired` instructions have retired.
    pub fn value(self, retired: u64) -> u64 {
        if self.inhibited { self.base } else { self.base.wrapping_add(retired) }
    }

    /// Sets it to `value` when `retired` instructions have retired.
    pub fn set(&mut self, value: u64, retired: u64) {
        self.base = if self.inhibited { value } else { value.wrapping_sub(retired) };
    }

    /// Stops it, or lets it go on.
    pub fn inhibit(&mut self, inhibited: bool, retired: u64) {
        let value = self.value(retired);
        self.inhibited = inhibited;
        self.set(value, retired);
    }
}

impl Core {
    /// Instructions retired before the one that is executing, which must be the last of its block: the block is charged
    /// whole when it is entered.
    pub(crate) fn retired_before(&self) -> u64 {
        self.retired.wrapping_sub(1)
    }

    /// Whether the present mode may read the counter behind `mask`.
    pub(crate) fn counter_open(&self, mask: u64) -> bool {
        let machine = self.privilege == Privilege::Machine;
        let user = self.privilege == Privilege::User;
        (machine || self.csr.mcounteren & mask != 0) && (!user || self.csr.scounteren & mask != 0)
    }
}
