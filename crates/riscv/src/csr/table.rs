//! One row a register (or run of alike registers): number, condition, read, write.
//!
//! Privilege and read-only are in the number itself (bits 9:8 and 11:10) and are checked before the row is asked.
//! `open` is what else must hold, else the access is an illegal instruction. What is not here is illegal: the
//! hypervisor's, debug and trace registers (`tselect` and so on), `mseccfg`, `mtval2`, `mtinst`.

use super::{MISA, counters, envcfg, status};
use crate::config::NS_PER_TICK;
use crate::core::Core;
use crate::trap::{DELEGABLE, Privilege, irq};

pub(super) const MIP: u16 = 0x344;

/// A register, or the registers `first` to `last`.
pub(super) struct Row {
    first: u16,
    last: u16,
    /// Whether it may be accessed now, privilege apart.
    pub open: fn(&Core, u16) -> bool,
    /// What it reads as.
    pub read: fn(&mut Core, u16) -> u64,
    /// Writes it, as far as it can hold the value, with all that follows.
    pub write: fn(&mut Core, u16, u64),
}

/// The row of register `n`.
pub(super) fn row(n: u16) -> Option<&'static Row> {
    match INDEX[usize::from(n & 0xfff)] {
        0 => None,
        i => ROWS.get(usize::from(i) - 1),
    }
}

static INDEX: [u8; 4096] = {
    let mut index = [0; 4096];
    let mut i = 0;
    while i < ROWS.len() {
        let mut n = ROWS[i].first;
        while n <= ROWS[i].last {
            assert!(index[n as usize] == 0, "two rows for one register");
            index[n as usize] = i as u8 + 1;
            n += 1;
        }
        i += 1;
    }
    index
};

const fn row_of(n: u16, read: fn(&mut Core, u16) -> u64, write: fn(&mut Core, u16, u64)) -> Row {
    Row { first: n, last: n, open: |_, _| true, read, write }
}

const fn open(
    n: u16,
    open: fn(&Core, u16) -> bool,
    read: fn(&mut Core, u16) -> u64,
    write: fn(&mut Core, u16, u64),
) -> Row {
    Row { first: n, last: n, open, read, write }
}

/// Fixed at `value`; writes, where the number allows them, change nothing.
const fn fixed(first: u16, last: u16, read: fn(&mut Core, u16) -> u64) -> Row {
    Row { first, last, open: |_, _| true, read, write: |_, _, _| () }
}

/// Holds whatever is written, through `mask`.
macro_rules! plain {
    ($n:literal $field:ident, $mask:expr) => {
        row_of($n, |c, _| c.csr.$field, |c, _, v| c.csr.$field = v & $mask)
    };
}

/// Address bits of an instruction: all but the lowest.
const PC: u64 = !1;

static ROWS: &[Row] = &[
    // Unprivileged floating point.
    open(0x001, fp, |c, _| c.csr.fflags.into(), |c, _, v| set_fcsr(c, u64::from(c.csr.frm) << 5 | v & 31)),
    open(0x002, fp, |c, _| c.csr.frm.into(), |c, _, v| set_fcsr(c, (v & 7) << 5 | u64::from(c.csr.fflags))),
    open(0x003, fp, |c, _| u64::from(c.csr.frm) << 5 | u64::from(c.csr.fflags), |c, _, v| set_fcsr(c, v)),
    // Unprivileged counters.
    open(0xc00, counter, |c, _| c.csr.cycle.value(c.retired_before()), |_, _, _| ()),
    open(0xc01, counter, |c, _| c.time(), |_, _, _| ()),
    open(0xc02, counter, |c, _| c.csr.instret.value(c.retired_before()), |_, _, _| ()),
    Row { first: 0xc03, last: 0xc1f, open: counter, read: |_, _| 0, write: |_, _, _| () },
    // Supervisor.
    row_of(
        0x100,
        |c, _| status::read_s(c.csr.mstatus),
        |c, _, v| c.set_status(status::written_s(c.csr.mstatus, v)),
    ),
    row_of(
        0x104,
        |c, _| c.csr.mie & c.csr.mideleg,
        |c, _, v| {
            let m = c.csr.mideleg;
            set_mie(c, c.csr.mie & !m | v & m)
        },
    ),
    row_of(0x105, |c, _| c.csr.stvec, |c, _, v| c.csr.stvec = vector(c.csr.stvec, v)),
    plain!(0x106 scounteren, counters::ALL),
    row_of(0x10a, |c, _| c.csr.senvcfg, |c, _, v| c.csr.senvcfg = envcfg::legal(v, envcfg::SENVCFG)),
    plain!(0x140 sscratch, u64::MAX),
    plain!(0x141 sepc, PC),
    plain!(0x142 scause, u64::MAX),
    plain!(0x143 stval, u64::MAX),
    row_of(
        0x144,
        |c, _| c.pending() & c.csr.mideleg,
        |c, _, v| {
            let m = c.csr.mideleg & irq::SSI;
            set_mip(c, c.csr.mip & !m | v & m)
        },
    ),
    open(
        0x14d,
        sstc,
        |c, _| c.csr.stimecmp,
        |c, _, v| {
            c.csr.stimecmp = v;
            c.poll_soon();
        },
    ),
    open(0x180, satp_open, |c, _| c.csr.satp, |c, _, v| c.set_satp(v)),
    // Machine.
    row_of(
        0x300,
        |c, _| status::read(c.csr.mstatus),
        |c, _, v| c.set_status(status::written(c.csr.mstatus, v)),
    ),
    fixed(0x301, 0x301, |_, _| MISA),
    plain!(0x302 medeleg, DELEGABLE),
    row_of(
        0x303,
        |c, _| c.csr.mideleg,
        |c, _, v| {
            c.csr.mideleg = v & irq::SUPERVISOR;
            c.poll_soon();
        },
    ),
    row_of(0x304, |c, _| c.csr.mie, |c, _, v| set_mie(c, v)),
    row_of(0x305, |c, _| c.csr.mtvec, |c, _, v| c.csr.mtvec = vector(c.csr.mtvec, v)),
    plain!(0x306 mcounteren, counters::ALL),
    row_of(0x30a, |c, _| c.csr.menvcfg, set_menvcfg),
    row_of(0x320, inhibited, |c, _, v| {
        let now = c.retired_before();
        c.csr.cycle.inhibit(v & counters::CY != 0, now);
        c.csr.instret.inhibit(v & counters::IR != 0, now);
    }),
    fixed(0x323, 0x33f, |_, _| 0),
    plain!(0x340 mscratch, u64::MAX),
    plain!(0x341 mepc, PC),
    plain!(0x342 mcause, u64::MAX),
    plain!(0x343 mtval, u64::MAX),
    row_of(MIP, |c, _| c.pending(), |c, _, v| set_mip(c, v)),
    Row {
        first: 0x3a0,
        last: 0x3a3,
        // On RV64 the odd ones do not exist.
        open: |_, n| n & 1 == 0,
        read: |c, n| c.csr.pmp.read_cfg(usize::from(n & 2) * 4),
        write: |c, n, v| {
            c.csr.pmp.write_cfg(usize::from(n & 2) * 4, v);
            c.protection_changed();
        },
    },
    Row {
        first: 0x3b0,
        last: 0x3bf,
        open: |_, _| true,
        read: |c, n| c.csr.pmp.read_addr(usize::from(n & 15)),
        write: |c, n, v| {
            c.csr.pmp.write_addr(usize::from(n & 15), v);
            c.protection_changed();
        },
    },
    // The write takes the place of the increment: the instruction after it reads the written value.
    row_of(0xb00, |c, _| c.csr.cycle.value(c.retired_before()), |c, _, v| c.csr.cycle.set(v, c.retired)),
    row_of(0xb02, |c, _| c.csr.instret.value(c.retired_before()), |c, _, v| c.csr.instret.set(v, c.retired)),
    fixed(0xb03, 0xb1f, |_, _| 0),
    fixed(0xf11, 0xf13, |_, _| 0), // vendor, architecture, implementation: none given
    fixed(0xf14, 0xf14, |c, _| c.config.hart_id),
    fixed(0xf15, 0xf15, |_, _| 0),
];

fn fp(c: &Core, _: u16) -> bool {
    c.csr.mstatus & status::FS != 0
}

fn counter(c: &Core, n: u16) -> bool {
    c.counter_open(1 << (n & 31))
}

/// `stimecmp` needs `menvcfg.STCE` and, below M, `mcounteren.TM`.
fn sstc(c: &Core, _: u16) -> bool {
    let enabled = c.csr.menvcfg & envcfg::STCE != 0 && c.csr.mcounteren & counters::TM != 0;
    c.privilege == Privilege::Machine || enabled
}

fn satp_open(c: &Core, _: u16) -> bool {
    c.privilege == Privilege::Machine || c.csr.mstatus & status::TVM == 0
}

fn inhibited(c: &mut Core, _: u16) -> u64 {
    let bit = |b, m| if b { m } else { 0 };
    bit(c.csr.cycle.inhibited, counters::CY) | bit(c.csr.instret.inhibited, counters::IR)
}

fn set_fcsr(c: &mut Core, v: u64) {
    (c.csr.frm, c.csr.fflags) = ((v >> 5 & 7) as u8, (v & 31) as u8);
    c.csr.mstatus |= status::FS;
}

/// Direct and vectored exist; another mode leaves the register as it is.
fn vector(old: u64, new: u64) -> u64 {
    if new & 3 < 2 { new } else { old }
}

fn set_mie(c: &mut Core, v: u64) {
    c.csr.mie = v & irq::ALL;
    c.poll_soon();
}

fn set_mip(c: &mut Core, v: u64) {
    let stip = if c.csr.menvcfg & envcfg::STCE != 0 { 0 } else { irq::STI };
    let mask = irq::SSI | irq::SEI | stip;
    c.csr.mip = c.csr.mip & !mask | v & mask;
    c.poll_soon();
}

fn set_menvcfg(c: &mut Core, _: u16, v: u64) {
    let old = c.csr.menvcfg;
    c.csr.menvcfg = envcfg::legal(v, envcfg::MENVCFG);
    let changed = old ^ c.csr.menvcfg;
    if changed & (envcfg::ADUE | envcfg::PBMTE) != 0 {
        c.protection_changed();
    }
    if changed & envcfg::STCE != 0 {
        // With STCE, STIP is the comparison; without, what software last wrote, which is nothing.
        c.csr.mip &= !irq::STI;
        c.poll_soon();
    }
}

impl Core {
    /// The `time` CSR.
    pub(crate) fn time(&self) -> u64 {
        self.clock.at(self.retired) / NS_PER_TICK
    }

    /// The bits of `mip` that wires drive.
    pub(crate) fn pins(&self) -> u64 {
        self.shared.pins() & (irq::SSI | irq::MSI | irq::SEI | irq::MEI)
    }

    /// `mip`, exact: pins, timers as they are this moment, and software's bits.
    pub(crate) fn pending(&mut self) -> u64 {
        self.csr.mip |= self.shared.take_latched() & irq::SSI;
        let mut mip = self.csr.mip | self.pins();
        let stce = self.csr.menvcfg & envcfg::STCE != 0;
        let timer = self.shared.timer();
        if timer != u64::MAX || stce {
            let now = self.time();
            if timer != u64::MAX && now >= timer {
                mip |= irq::MTI;
            }
            if stce && now >= self.csr.stimecmp {
                mip |= irq::STI;
            }
        }
        mip
    }
}
