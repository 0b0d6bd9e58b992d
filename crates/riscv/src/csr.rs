//! Control and status registers: what they hold, and how instructions reach them.
//!
//! [`Csrs`] holds the plain ones as the guest last left them, legal at all times (WARL is applied when writing, never
//! when reading). Who may access which, and what a read or write does, is `table.rs`, one row a register.
//!
//! *The RISC-V Instruction Set Manual*, volume II, "Control and Status Registers (CSRs)".

pub(crate) mod counters;
pub mod status;
mod table;

use crate::config::HartConfig;
use crate::core::Core;
use crate::pmp::Pmp;
use crate::trap::{DELEGABLE, Exit, irq};
use counters::Counter;
use strata_isa::ops::CsrOp;

/// Bits of `menvcfg` and `senvcfg`.
pub(crate) mod envcfg {
    pub const FIOM: u64 = 1;
    pub const CBIE: u64 = 3 << 4;
    pub const CBCFE: u64 = 1 << 6;
    pub const CBZE: u64 = 1 << 7;
    pub const ADUE: u64 = 1 << 61;
    pub const PBMTE: u64 = 1 << 62;
    pub const STCE: u64 = 1 << 63;
    pub const SENVCFG: u64 = FIOM | CBIE | CBCFE | CBZE;
    pub const MENVCFG: u64 = SENVCFG | ADUE | PBMTE | STCE;

    /// The value that a write of `new` leaves: CBIE 2 is reserved and becomes 0.
    pub const fn legal(new: u64, mask: u64) -> u64 {
        let new = new & mask;
        if new & CBIE == 2 << 4 { new & !CBIE } else { new }
    }
}

/// `misa`: 64 bits, A C D F I M S U. Read-only.
pub(crate) const MISA: u64 =
    2 << 62 | 1 << 0 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 8 | 1 << 12 | 1 << 18 | 1 << 20;

/// Registers that hold a value between instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Csrs {
    pub mstatus: u64,
    pub mie: u64,
    /// The bits of `mip` that software sets: SSIP, STIP (only without `menvcfg.STCE`), SEIP.
    pub mip: u64,
    pub medeleg: u64,
    pub mideleg: u64,
    pub mtvec: u64,
    pub mscratch: u64,
    pub mepc: u64,
    pub mcause: u64,
    pub mtval: u64,
    pub mcounteren: u64,
    pub menvcfg: u64,
    pub stvec: u64,
    pub sscratch: u64,
    pub sepc: u64,
    pub scause: u64,
    pub stval: u64,
    pub satp: u64,
    pub scounteren: u64,
    pub senvcfg: u64,
    pub stimecmp: u64,
    pub frm: u8,
    pub fflags: u8,
    pub(crate) cycle: Counter,
    pub(crate) instret: Counter,
    pub(crate) pmp: Pmp,
}

impl Csrs {
    /// After power-on; `config` tells whether a firmware will set things up, or has to be thought to have done so.
    pub(crate) fn reset(config: &HartConfig) -> Csrs {
        let mut c = Csrs {
            mstatus: status::RESET,
            mie: 0,
            mip: 0,
            medeleg: 0,
            mideleg: 0,
            mtvec: 0,
            mscratch: 0,
            mepc: 0,
            mcause: 0,
            mtval: 0,
            mcounteren: 0,
            // Page-based memory types and A/D updates are on until firmware turns them off.
            menvcfg: envcfg::PBMTE | envcfg::ADUE,
            stvec: 0,
            sscratch: 0,
            sepc: 0,
            scause: 0,
            stval: 0,
            satp: 0,
            scounteren: 0,
            senvcfg: 0,
            stimecmp: if config.machine_is_firmware { u64::MAX } else { 0 },
            frm: 0,
            fflags: 0,
            cycle: Counter::default(),
            instret: Counter::default(),
            pmp: Pmp::default(),
        };
        if config.machine_is_firmware {
            c.medeleg = DELEGABLE;
            c.mideleg = irq::SUPERVISOR;
            c.mcounteren = counters::ALL;
            // A kernel that finds no SBI PMU leaves this as it is, and its vDSO reads the time in U mode: firmware in use
            // (OpenSBI) has always opened these three.
            c.scounteren = counters::CY | counters::TM | counters::IR;
            c.menvcfg = envcfg::MENVCFG & !envcfg::FIOM;
            c.pmp = Pmp::open();
        }
        c
    }
}

impl Core {
    /// A CSR instruction, as [`strata_isa::ops::Ops::csr`] describes it.
    ///
    /// # Errors
    /// [`Exit::Illegal`] where the register does not exist or may not be accessed now.
    #[inline(never)]
    pub fn access_csr(&mut self, op: CsrOp, n: u16, src: u64, read: bool, write: bool) -> Result<u64, Exit> {
        let row = table::row(n).ok_or(Exit::Illegal)?;
        let read_only = n >> 10 == 3;
        let needs = u64::from(n >> 8 & 3);
        if (self.privilege as u64) < needs || write && read_only || !(row.open)(self, n) {
            return Err(Exit::Illegal);
        }
        // A register with read side effects would need `read`; there is none.
        let _ = read;
        let old = (row.read)(self, n);
        if write {
            // SEIP reads as pin or software bit, but only the software bit is modified.
            let base = if n == table::MIP { self.csr.mip | old & !irq::SEI } else { old };
            let new = match op {
                CsrOp::Write => src,
                CsrOp::Set => base | src,
                CsrOp::Clear => base & !src,
            };
            (row.write)(self, n, new);
        }
        Ok(old)
    }
}

#[cfg(test)]
mod tests;
