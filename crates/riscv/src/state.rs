//! What is saved of a hart: every register that the guest can see, and nothing that can be derived.
//!
//! `time` is the machine's clock's, pins and the machine timer's compare value are the interrupt controllers'.

use crate::core::{Core, Reservation};
use crate::csr::counters::{self, Counter};
use crate::csr::{Csrs, envcfg, status};
use crate::mmu::known_mode;
use crate::pmp::{ENTRIES, Pmp};
use crate::trap::{DELEGABLE, Privilege, irq};
use strata_state::{StateError, state};

state! {
    /// Registers of a RISC-V hart.
    pub struct HartState("riscv-hart", 1) {
        /// x0 to x31.
        1 x: [u64; 32],
        /// f0 to f31, raw.
        2 f: [u64; 32],
        /// Address of the next instruction.
        3 pc: u64,
        /// 0 U, 1 S, 3 M.
        4 privilege: u8,
        /// Waits in WFI.
        5 waiting: bool,
        /// Whether LR holds a reservation, and of what.
        6 reserved: bool,
        /// Virtual address of the reservation.
        7 reserved_va: u64,
        /// Physical address of the reservation.
        8 reserved_pa: u64,
        /// Value that LR loaded.
        9 reserved_value: u64,
        /// 4 or 8.
        10 reserved_bytes: u8,
        /// Instructions retired since power-on.
        11 retired: u64,
        /// `mcycle`, less `retired` unless inhibited.
        12 cycle_base: u64,
        /// `mcountinhibit.CY`.
        13 cycle_inhibited: bool,
        /// `minstret`, less `retired` unless inhibited.
        14 instret_base: u64,
        /// `mcountinhibit.IR`.
        15 instret_inhibited: bool,
        /// `mstatus` without SD.
        16 mstatus: u64,
        /// `mie`.
        17 mie: u64,
        /// Software's bits of `mip`.
        18 mip: u64,
        /// `medeleg`.
        19 medeleg: u64,
        /// `mideleg`.
        20 mideleg: u64,
        /// `mtvec`.
        21 mtvec: u64,
        /// `mscratch`.
        22 mscratch: u64,
        /// `mepc`.
        23 mepc: u64,
        /// `mcause`.
        24 mcause: u64,
        /// `mtval`.
        25 mtval: u64,
        /// `mcounteren`.
        26 mcounteren: u64,
        /// `menvcfg`.
        27 menvcfg: u64,
        /// `stvec`.
        28 stvec: u64,
        /// `sscratch`.
        29 sscratch: u64,
        /// `sepc`.
        30 sepc: u64,
        /// `scause`.
        31 scause: u64,
        /// `stval`.
        32 stval: u64,
        /// `satp`.
        33 satp: u64,
        /// `scounteren`.
        34 scounteren: u64,
        /// `senvcfg`.
        35 senvcfg: u64,
        /// `stimecmp`.
        36 stimecmp: u64,
        /// `fcsr`.
        37 fcsr: u8,
        /// `pmpcfg`, a byte an entry.
        38 pmpcfg: [u8; 16],
        /// `pmpaddr0` to `pmpaddr15`.
        39 pmpaddr: [u64; 16],
    }
}

const _: () = assert!(ENTRIES == 16);

impl HartState {
    /// These CSRs, and all else zero: U mode at address 0, with nothing retired.
    pub(crate) fn with_csrs(c: &Csrs) -> HartState {
        HartState {
            x: [0; 32],
            f: [0; 32],
            pc: 0,
            privilege: 0,
            waiting: false,
            reserved: false,
            reserved_va: 0,
            reserved_pa: 0,
            reserved_value: 0,
            reserved_bytes: 0,
            retired: 0,
            cycle_base: c.cycle.base,
            cycle_inhibited: c.cycle.inhibited,
            instret_base: c.instret.base,
            instret_inhibited: c.instret.inhibited,
            mstatus: c.mstatus,
            mie: c.mie,
            mip: c.mip,
            medeleg: c.medeleg,
            mideleg: c.mideleg,
            mtvec: c.mtvec,
            mscratch: c.mscratch,
            mepc: c.mepc,
            mcause: c.mcause,
            mtval: c.mtval,
            mcounteren: c.mcounteren,
            menvcfg: c.menvcfg,
            stvec: c.stvec,
            sscratch: c.sscratch,
            sepc: c.sepc,
            scause: c.scause,
            stval: c.stval,
            satp: c.satp,
            scounteren: c.scounteren,
            senvcfg: c.senvcfg,
            stimecmp: c.stimecmp,
            fcsr: c.frm << 5 | c.fflags,
            pmpcfg: c.pmp.cfg(),
            pmpaddr: c.pmp.addr(),
        }
    }
}

impl Core {
    /// The registers as they are.
    pub(crate) fn to_state(&self) -> HartState {
        let reserved = self.reservation.bytes != 0;
        let r = if reserved { self.reservation } else { Reservation::NONE };
        let csrs = HartState::with_csrs(&self.csr);
        HartState {
            x: std::array::from_fn(|n| self.x[n]),
            f: self.f,
            pc: self.pc,
            privilege: self.privilege as u8,
            waiting: self.waiting,
            reserved,
            reserved_va: r.va,
            reserved_pa: r.pa,
            reserved_value: r.value,
            reserved_bytes: r.bytes,
            retired: self.retired,
            // An interrupt that was sent and not taken over yet is on its way into this register.
            mip: csrs.mip | self.shared.latched() & irq::SSI,
            ..csrs
        }
    }

    /// Replaces the registers by a state that [`check`] has passed.
    pub(crate) fn set_registers(&mut self, s: HartState) {
        // A field that is not used does not compile.
        let HartState {
            x,
            f,
            pc,
            privilege,
            waiting,
            reserved,
            reserved_va,
            reserved_pa,
            reserved_value,
            reserved_bytes,
            retired,
            cycle_base,
            cycle_inhibited,
            instret_base,
            instret_inhibited,
            mstatus,
            mie,
            mip,
            medeleg,
            mideleg,
            mtvec,
            mscratch,
            mepc,
            mcause,
            mtval,
            mcounteren,
            menvcfg,
            stvec,
            sscratch,
            sepc,
            scause,
            stval,
            satp,
            scounteren,
            senvcfg,
            stimecmp,
            fcsr,
            pmpcfg,
            pmpaddr,
        } = s;
        self.shared.take_latched();
        self.x = [0; 256];
        self.x[..32].copy_from_slice(&x);
        (self.f, self.pc, self.waiting, self.retired) = (f, pc, waiting, retired);
        self.privilege = Privilege::from_bits(privilege.into()).unwrap_or(Privilege::Machine);
        self.reservation = if reserved {
            Reservation { va: reserved_va, pa: reserved_pa, value: reserved_value, bytes: reserved_bytes }
        } else {
            Reservation::NONE
        };
        self.csr = Csrs {
            mstatus,
            mie,
            mip,
            medeleg,
            mideleg,
            mtvec,
            mscratch,
            mepc,
            mcause,
            mtval,
            mcounteren,
            menvcfg,
            stvec,
            sscratch,
            sepc,
            scause,
            stval,
            satp,
            scounteren,
            senvcfg,
            stimecmp,
            frm: fcsr >> 5,
            fflags: fcsr & 31,
            cycle: Counter { base: cycle_base, inhibited: cycle_inhibited },
            instret: Counter { base: instret_base, inhibited: instret_inhibited },
            pmp: Pmp::restore(pmpcfg, pmpaddr).unwrap_or_default(),
        };
    }
}

/// Refuses what no guest could have brought its hart into.
pub(crate) fn check(s: &HartState) -> Result<(), StateError> {
    let rules = [
        (s.x[0] == 0, "x0 is not zero"),
        (s.pc & 1 == 0, "pc is odd"),
        (Privilege::from_bits(s.privilege.into()).is_some(), "there is no such privilege"),
        (status::is_legal(s.mstatus), "mstatus"),
        (s.mie & !irq::ALL == 0, "mie"),
        (s.mip & !irq::SUPERVISOR == 0, "mip"),
        (s.medeleg & !DELEGABLE == 0, "medeleg"),
        (s.mideleg & !irq::SUPERVISOR == 0, "mideleg"),
        (s.mtvec & 2 == 0 && s.stvec & 2 == 0, "a trap vector's mode"),
        (s.mepc & 1 == 0 && s.sepc & 1 == 0, "a trap's pc is odd"),
        (s.mcounteren & !counters::ALL == 0 && s.scounteren & !counters::ALL == 0, "counter enables"),
        (s.menvcfg == envcfg::legal(s.menvcfg, envcfg::MENVCFG), "menvcfg"),
        (s.senvcfg == envcfg::legal(s.senvcfg, envcfg::SENVCFG), "senvcfg"),
        (known_mode(s.satp), "satp's mode"),
        (Pmp::restore(s.pmpcfg, s.pmpaddr).is_some(), "PMP"),
        (
            if s.reserved { matches!(s.reserved_bytes, 4 | 8) } else { s.reserved_bytes == 0 },
            "the reservation's width",
        ),
    ];
    match rules.into_iter().find(|(holds, _)| !holds) {
        None => Ok(()),
        Some((_, why)) => Err(StateError::Invalid { id: "riscv-hart".into(), why: why.into() }),
    }
}
