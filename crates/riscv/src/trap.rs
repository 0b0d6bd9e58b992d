//! Traps: their causes, where they go, and the way back.
//!
//! *The RISC-V Instruction Set Manual*, volume II, "Machine Cause Register", "Machine Trap Delegation Registers",
//! "Privilege and Global Interrupt-Enable Stack in mstatus register", "Trap-Return Instructions".
//!
//! An instruction that does not complete gives an [`Exit`]; what a trap is about lies in [`Core::raised`] meanwhile, to
//! keep the results of loads in registers. The interpreter's loop then calls [`Core::take_trap`].

use crate::core::Core;
use crate::csr::status::{MIE, MPIE, MPP, MPP_SHIFT, MPRV, SIE, SPIE, SPP};

/// A privilege mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Privilege {
    /// U.
    User = 0,
    /// S.
    Supervisor = 1,
    /// M.
    Machine = 3,
}

impl Privilege {
    /// The mode with this number.
    pub fn from_bits(n: u64) -> Option<Privilege> {
        match n {
            0 => Some(Privilege::User),
            1 => Some(Privilege::Supervisor),
            3 => Some(Privilege::Machine),
            _ => None,
        }
    }
}

/// Why an instruction did not complete. As wide as a register: the loop compares it after every instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Exit {
    /// A trap, described in [`Core::raised`].
    Trap,
    /// An illegal instruction; its bits are known to the loop only.
    Illegal,
    /// Memory that has not come yet; the instruction is to be tried again.
    Wait,
    /// `ecall` from S to a machine that is the firmware.
    Call,
    /// It goes to a device in a run that must repeat: it is to be tried again by itself, so that its count is exact and
    /// what it brings about is seen right after it.
    Alone,
}

/// Synchronous causes: "Machine Cause Register".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Cause {
    FetchAccess = 1,
    Illegal = 2,
    Breakpoint = 3,
    LoadMisaligned = 4,
    LoadAccess = 5,
    StoreMisaligned = 6,
    StoreAccess = 7,
    EcallUser = 8,
    EcallSupervisor = 9,
    EcallMachine = 11,
    FetchPage = 12,
    LoadPage = 13,
    StorePage = 15,
}

/// Bits of `mip` and `mie`.
pub(crate) mod irq {
    pub const SSI: u64 = 1 << 1;
    pub const MSI: u64 = 1 << 3;
    pub const STI: u64 = 1 << 5;
    pub const MTI: u64 = 1 << 7;
    pub const SEI: u64 = 1 << 9;
    pub const MEI: u64 = 1 << 11;
    /// All that exist.
    pub const ALL: u64 = SSI | MSI | STI | MTI | SEI | MEI;
    /// Those of S mode, which can be delegated.
    pub const SUPERVISOR: u64 = SSI | STI | SEI;
    /// Highest priority first ("Machine Interrupt Registers").
    pub const BY_PRIORITY: [u8; 6] = [11, 3, 7, 9, 1, 5];
}

/// Set in `mcause` and `scause` for an interrupt.
pub(crate) const INTERRUPT: u64 = 1 << 63;

/// Exceptions that `medeleg` can delegate: all that exist but `ecall` from M.
pub(crate) const DELEGABLE: u64 = 0xb3ff;

/// A trap taken over and over at the first instruction of its own handler, without one instruction in between.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spin {
    at: u64,
    retired: u64,
    times: u32,
}

/// After that many the hart is stuck. One is enough in theory; a few let another hart's store be seen first.
const SPIN_LIMIT: u32 = 16;

impl Core {
    /// Notes a trap for the loop to take.
    #[cold]
    pub fn raise(&mut self, cause: Cause, tval: u64) -> Exit {
        self.raised = (cause, tval);
        Exit::Trap
    }

    /// Enters the handler of a synchronous trap whose instruction is at `self.pc`. Gives false if the hart makes no
    /// progress: it traps at the first instruction of its handler, into that same handler.
    #[must_use]
    pub fn take_trap(&mut self, cause: Cause, tval: u64) -> bool {
        let code = cause as u64;
        let epc = self.pc;
        let to_supervisor = self.privilege < Privilege::Machine && self.csr.medeleg >> code & 1 != 0;
        self.enter(code, tval, to_supervisor);
        if self.pc != epc {
            return true;
        }
        let again = self.spin.at == epc && self.spin.retired == self.retired;
        let times = if again { self.spin.times + 1 } else { 1 };
        self.spin = Spin { at: epc, retired: self.retired, times };
        times < SPIN_LIMIT
    }

    /// Takes the interrupt that `mip` (all pending ones) calls for, if any.
    pub fn take_interrupt(&mut self, mip: u64) {
        let pending = mip & self.csr.mie;
        if pending == 0 {
            return;
        }
        let enabled = |mode: Privilege, bit: u64| {
            self.privilege < mode || self.privilege == mode && self.csr.mstatus & bit != 0
        };
        // Interrupts for M come first, whatever their number.
        let for_machine = pending & !self.csr.mideleg;
        let for_supervisor = pending & self.csr.mideleg;
        let (set, to_supervisor) = if for_machine != 0 && enabled(Privilege::Machine, MIE) {
            (for_machine, false)
        } else if for_supervisor != 0 && enabled(Privilege::Supervisor, SIE) {
            (for_supervisor, true)
        } else {
            return;
        };
        if let Some(code) = irq::BY_PRIORITY.into_iter().find(|&n| set >> n & 1 != 0) {
            self.enter(INTERRUPT | u64::from(code), 0, to_supervisor);
        }
    }

    /// Saves where we were and goes to the handler.
    fn enter(&mut self, cause: u64, tval: u64, to_supervisor: bool) {
        let from = self.privilege as u64;
        let c = &mut self.csr;
        let old = c.mstatus;
        let vector = if to_supervisor {
            (c.sepc, c.scause, c.stval) = (self.pc, cause, tval);
            let kept = old & !(SIE | SPIE | SPP);
            c.mstatus = kept | if old & SIE != 0 { SPIE } else { 0 } | if from != 0 { SPP } else { 0 };
            self.privilege = Privilege::Supervisor;
            c.stvec
        } else {
            (c.mepc, c.mcause, c.mtval) = (self.pc, cause, tval);
            let kept = old & !(MIE | MPIE | MPP);
            c.mstatus = kept | if old & MIE != 0 { MPIE } else { 0 } | from << MPP_SHIFT;
            self.privilege = Privilege::Machine;
            c.mtvec
        };
        let base = vector & !3;
        let vectored = vector & 1 != 0 && cause & INTERRUPT != 0;
        self.pc = if vectored { base.wrapping_add(4 * (cause & 0xff)) } else { base };
        self.mode_changed();
    }

    /// `mret`.
    pub fn mret(&mut self) -> Result<(), Exit> {
        if self.privilege < Privilege::Machine {
            return Err(Exit::Illegal);
        }
        let old = self.csr.mstatus;
        let to = Privilege::from_bits(old >> MPP_SHIFT & 3).unwrap_or(Privilege::User);
        let mut new = old & !(MIE | MPP) | MPIE;
        if old & MPIE != 0 {
            new |= MIE;
        }
        self.go_back(to, new, self.csr.mepc);
        Ok(())
    }

    /// `sret`.
    pub fn sret(&mut self) -> Result<(), Exit> {
        use crate::csr::status::TSR;
        let allowed = match self.privilege {
            Privilege::User => false,
            Privilege::Supervisor => self.csr.mstatus & TSR == 0,
            Privilege::Machine => true,
        };
        if !allowed {
            return Err(Exit::Illegal);
        }
        let old = self.csr.mstatus;
        let to = if old & SPP != 0 { Privilege::Supervisor } else { Privilege::User };
        let mut new = old & !(SIE | SPP) | SPIE;
        if old & SPIE != 0 {
            new |= SIE;
        }
        self.go_back(to, new, self.csr.sepc);
        Ok(())
    }

    fn go_back(&mut self, to: Privilege, mut mstatus: u64, pc: u64) {
        if to < Privilege::Machine {
            mstatus &= !MPRV;
        }
        self.csr.mstatus = mstatus;
        self.privilege = to;
        self.next = pc;
        self.mode_changed();
        self.check_interrupts();
    }
}
