//! One slot: instructions under test and what surrounds them.

use crate::diff::csrs::{self, Policy};
use crate::diff::layout::{CODE, NOWHERE, RAM, RAM_SIZE, SCRATCH, SCRATCH_SIZE, SLOT};
use crate::diff::operands;
use crate::diff::paging::{CODE_S, CODE_U, Tables};
use strata_isa::random::{Filter, SplitMix64, random_insn};
use strata_isa::{Effect, Extensions, Form, Insn, Op, decode, encode};

/// The mode a slot runs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Mode {
    User = 0,
    Supervisor = 1,
    Machine = 3,
}

/// One slot.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Mode at its first instruction.
    pub mode: Mode,
    /// Where its code lies, as an offset in the code window.
    pub offset: u64,
    /// Its code: each instruction's bits and length.
    pub code: Vec<(u32, u8)>,
    /// Address of its first instruction in its mode.
    pub pc: u64,
    /// `mstatus` before it.
    pub mstatus: u64,
    /// `fcsr` before it.
    pub fcsr: u64,
    /// Physical address of the 64 bytes to log.
    pub watch: u64,
    /// Registers that get a value: 0 to 31 for x, 32 to 63 for f.
    pub operands: Vec<(u8, u64)>,
    /// CSRs to write before: a stub's address and the value.
    pub before: Vec<(u64, u64)>,
    /// CSRs to write after.
    pub after: Vec<(u64, u64)>,
}

/// What the slots of one phase share.
#[derive(Clone, Copy, Debug, Default)]
pub struct Phase {
    /// `satp`; 0 is untranslated.
    pub satp: u64,
    /// The environment registers.
    pub menvcfg: u64,
    #[allow(missing_docs)]
    pub senvcfg: u64,
    #[allow(missing_docs)]
    pub mcounteren: u64,
    #[allow(missing_docs)]
    pub scounteren: u64,
    /// Where traps to S mode go.
    pub stvec: u64,
}

impl Phase {
    /// What a register holds between slots.
    pub fn value(&self, n: u16) -> u64 {
        match n {
            0x105 => self.stvec,
            0x106 => self.scounteren,
            0x10a => self.senvcfg,
            0x180 => self.satp,
            0x305 => RAM + 64 * csrs::harness_trap_line(),
            0x306 => self.mcounteren,
            0x30a => self.menvcfg,
            0x14d => u64::MAX,
            0x3a0 => 0x1f,
            0x3b0 => u64::MAX,
            _ => 0,
        }
    }

    /// Every register of the phase.
    pub const REGISTERS: [u16; 8] = [0x105, 0x106, 0x10a, 0x306, 0x30a, 0x14d, 0x180, 0x304];
}

/// Makes slots.
pub struct Maker<'a> {
    pub(crate) rng: &'a mut SplitMix64,
    pub(crate) tables: &'a Tables,
    filters: &'a Filters,
    /// The present phase.
    pub phase: Phase,
    /// Slots in the program: jumps stay among them.
    count: u64,
}

/// The kinds of instruction, each as a filter.
pub struct Filters {
    plain: Filter,
    memory: Filter,
    jumps: Filter,
    csr: Filter,
    fences: Filter,
    zero_base: Filter,
}

impl Default for Filters {
    fn default() -> Self {
        use Effect::*;
        let all = || {
            let mut f = Filter::new(Extensions::ALL);
            f.reserved_rm = 4;
            f
        };
        let memory = |op: Op| {
            matches!(
                op.effect(),
                Load(_)
                    | Store(_)
                    | Reserve(_)
                    | Conditional(_)
                    | Amo(_)
                    | FpLoad(_)
                    | FpStore(_)
                    | Cache
                    | CacheZero
            )
        };
        let mut csr = all().only(|op| op.effect() == Csr);
        csr.csrs = csrs::all().collect();
        let mut based = all().only(memory);
        based.x_base = !1;
        Filters {
            plain: all().only(|op| matches!(op.effect(), Pure | Fp)),
            memory: based,
            jumps: all().only(|op| matches!(op.effect(), Jump | JumpTo | Branch)),
            csr,
            fences: all()
                .only(|op| matches!(op.effect(), Fence | FenceVma) || matches!(op, Op::Pause | Op::FenceI)),
            zero_base: all().only(memory),
        }
    }
}

/// Code of a slot may not reach here: the rest is where jumps land.
const PAD: u64 = 22;

impl<'a> Maker<'a> {
    /// A maker for a program of `count` slots.
    pub fn new(rng: &'a mut SplitMix64, tables: &'a Tables, filters: &'a Filters, count: u64) -> Maker<'a> {
        Maker { rng, tables, filters, phase: Phase::default(), count }
    }

    /// Slot number `n`.
    pub fn slot(&mut self, n: u64) -> Slot {
        let mode = match self.rng.below(10) {
            0..4 => Mode::Machine,
            4..7 => Mode::Supervisor,
            _ => Mode::User,
        };
        let mut s = self.empty(n, mode);
        match self.rng.below(100) {
            0..44 => self.plain(&mut s),
            44..66 => self.memory(&mut s),
            66..74 => self.jump(&mut s),
            74..86 => self.csr(&mut s),
            86..92 => self.system(&mut s),
            92..97 => self.reserved(&mut s),
            _ => self.reservation(&mut s),
        }
        s
    }

    fn empty(&mut self, n: u64, mode: Mode) -> Slot {
        // The last slot of a page may have its instruction across the page's end, into the first of the next.
        let offset = match n % 128 {
            127 if n + 1 < self.count && self.rng.chance(50) => 30,
            0 => 4,
            _ => self.rng.below(2) * 2,
        };
        let offset = n * SLOT + offset;
        let mut s = Slot {
            mode,
            offset,
            code: Vec::new(),
            pc: self.code_at(mode, offset),
            mstatus: 0,
            fcsr: 0,
            watch: SCRATCH,
            operands: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
        };
        s.mstatus = self.mstatus(mode);
        let flags = if self.rng.chance(20) { self.rng.below(32) } else { 0 };
        s.fcsr = flags | if self.rng.chance(8) { self.rng.below(8) } else { self.rng.below(5) } << 5;
        if mode != Mode::Machine && self.rng.chance(25) {
            // Delegate, but never what S mode's handler itself does.
            let medeleg = self.rng.next_u64() & 0xb3ff & !(1 << 9);
            self.set(&mut s, 0x302, medeleg);
        }
        s
    }

    /// Without MIE: the harness itself could be interrupted. MPIE becomes MIE on the way into M mode.
    fn mstatus(&mut self, mode: Mode) -> u64 {
        let r = self.rng.next_u64();
        let fs = if self.rng.chance(88) { 3 } else { r & 3 };
        let traps = if r >> 2 & 7 == 0 { r & (7 << 20) } else { 0 };
        let mprv = if mode == Mode::Machine && r >> 5 & 3 == 0 { 1 << 17 } else { 0 };
        (mode as u64) << 11 | fs << 13 | mprv | traps | r & (1 << 1 | 1 << 5 | 1 << 7 | 1 << 8 | 3 << 18)
    }

    /// The address of the code window's byte `offset` in `mode`.
    fn code_at(&self, mode: Mode, offset: u64) -> u64 {
        let base = match mode {
            _ if self.phase.satp == 0 => CODE,
            Mode::Machine => CODE,
            Mode::Supervisor => CODE_S,
            Mode::User => CODE_U,
        };
        base + offset
    }

    /// A place where a jump may land: the padding of some slot.
    fn landing(&mut self) -> u64 {
        self.rng.below(self.count) * SLOT + PAD + self.rng.below(4) * 2
    }

    /// Sets a CSR for the slot and back after it.
    fn set(&self, s: &mut Slot, n: u16, value: u64) {
        s.before.push((csrs::stub(n), value));
        let after = (csrs::stub(n), self.phase.value(n));
        if !s.after.contains(&after) {
            s.after.push(after);
        }
    }

    fn push(&self, s: &mut Slot, insn: &Insn) {
        s.code.push((insn.raw, insn.len));
    }

    /// Gives every register that `insn` reads, and that has no value yet, one.
    fn fill(&mut self, s: &mut Slot, insn: &Insn) {
        let reads = u64::from(insn.x_reads()) | u64::from(insn.f_reads()) << 32;
        for r in (0..64u8).filter(|r| reads >> r & 1 != 0) {
            if s.operands.iter().all(|(n, _)| *n != r) {
                let v = if r < 32 { operands::integer(self.rng) } else { operands::float(self.rng) };
                give(s, r, v);
            }
        }
    }

    fn random(&mut self, filter: &Filter) -> Insn {
        random_insn(self.rng, filter).unwrap_or_else(|| panic!("a filter lets nothing through"))
    }

    fn fits(&self, s: &Slot) -> bool {
        let len: u64 = s.code.iter().map(|(_, len)| u64::from(*len)).sum();
        match s.offset % SLOT {
            30 => len <= 4,
            at => at + len <= PAD,
        }
    }

    fn plain(&mut self, s: &mut Slot) {
        let many = if s.offset % SLOT == 30 || self.rng.chance(80) { 1 } else { 2 + self.rng.below(2) };
        for _ in 0..many {
            let insn = self.random(&self.filters.plain);
            let reads = u64::from(insn.x_reads()) | u64::from(insn.f_reads()) << 32;
            let new =
                (0..64u8).filter(|r| reads >> r & 1 != 0 && s.operands.iter().all(|(n, _)| n != r)).count();
            if s.operands.len() + new > 4 {
                break;
            }
            self.fill(s, &insn);
            self.push(s, &insn);
        }
    }

    /// Whether the slot's data accesses are translated.
    fn translated(&self, s: &Slot) -> bool {
        self.phase.satp != 0 && (s.mode != Mode::Machine || s.mstatus >> 17 & 1 != 0)
    }

    /// A virtual address for data of `size` bytes in the slot's mode, and the physical one to watch.
    fn target(&mut self, s: &Slot, size: u64, effect: Effect) -> (u64, u64) {
        let align = match self.rng.below(10) {
            0..7 => size,
            _ => 1,
        };
        let offset = match self.rng.below(12) {
            // Across a page's end.
            0 => (1 + self.rng.below(14)) * 0x1000 - self.rng.below(size.max(1)),
            _ => self.rng.below(SCRATCH_SIZE - 64) / align * align,
        };
        if self.translated(s) {
            return self.tables.target(self.rng, offset, matches!(effect, Effect::Amo(_)));
        }
        let open = s.mode == Mode::Machine && s.mstatus >> 17 & 1 == 0;
        match self.rng.below(24) {
            0 => (NOWHERE + offset, SCRATCH),
            // QEMU writes the first half of a store over the end of RAM before it faults.
            1 if effect.writes().is_none() => (RAM + RAM_SIZE - 1 - self.rng.below(8), SCRATCH),
            // Beyond what pmpaddr can say, QEMU's all ones still match.
            2 => {
                let high = if open { [55, 56, 57, 63][self.rng.below(4) as usize] } else { 54 };
                let low = if open { u64::MAX } else { (1 << 54) - 1 };
                (self.rng.next_u64() & low | 1 << high, SCRATCH)
            }
            _ => (SCRATCH + offset, SCRATCH + offset),
        }
    }

    fn memory(&mut self, s: &mut Slot) {
        let zero = self.rng.chance(2);
        let mut insn = self.random(if zero { &self.filters.zero_base } else { &self.filters.memory });
        while insn.rs1 == 0 && matches!(insn.op.effect(), Effect::Conditional(_)) {
            insn = self.random(&self.filters.memory);
        }
        let aligned = self.access(s, &insn);
        // QEMU asks for the first and the last byte only, so a rule that may lie inside what is accessed is not compared.
        let inside = !aligned || matches!(insn.op.effect(), Effect::Cache | Effect::CacheZero);
        // Its AMO is a load and then a store: refused, it has set A only.
        let amo = matches!(insn.op.effect(), Effect::Amo(_)) && self.translated(s);
        if !inside && !amo && self.rng.chance(12) {
            self.protect(s);
        }
    }

    /// `insn`, which accesses memory, at some address. Gives whether that is a multiple of its size.
    fn access(&mut self, s: &mut Slot, insn: &Insn) -> bool {
        let size = insn.op.effect().writes().or(insn.op.effect().reads()).unwrap_or(0);
        let size = if size == 0 { 64 } else { size.into() };
        let (mut va, pa) = self.target(s, size, insn.op.effect());
        if matches!(insn.op.effect(), Effect::Conditional(_)) && pa == SCRATCH && !self.translated(s) {
            // Without memory there, QEMU's SC fails before it faults.
            va = SCRATCH;
        }
        if insn.rs1 != 0 {
            give(s, insn.rs1, va.wrapping_sub(insn.imm as i64 as u64));
        }
        s.watch = watch(pa);
        self.fill(s, insn);
        self.push(s, insn);
        va.is_multiple_of(size)
    }

    /// Physical memory protection, never locked, around what the slot touches.
    fn protect(&mut self, s: &mut Slot) {
        undelegate(s);
        for i in 0..3u16 {
            let near = [s.watch, SCRATCH, CODE + s.offset, RAM][self.rng.below(4) as usize];
            let size = self.rng.below(16);
            let address = near.wrapping_add(self.rng.below(64)) >> 2;
            // The low ones make a NAPOT range of 2^(size + 3) bytes, or another TOR bound.
            let value =
                if self.rng.chance(70) { address & !(1 << size) | ((1 << size) - 1) } else { address };
            self.set(s, 0x3b0 + i, value);
        }
        self.set(s, 0x3b3, u64::MAX);
        let r = self.rng.next_u64();
        // One entry is always on: without any, QEMU's mret itself faults.
        let last = if self.rng.chance(80) { 0x1f << 24 } else { 0x18 << 24 };
        // W without R is reserved.
        let legal = |b: u64| if b & 3 == 2 { b | 1 } else { b };
        let low = (0..3).fold(0, |v, i| v | legal(r >> (8 * i) & 0x1f) << (8 * i));
        self.set(s, 0x3a0, low | last);
    }

    fn jump(&mut self, s: &mut Slot) {
        loop {
            let insn = self.random(&self.filters.jumps);
            let here = s.offset;
            if insn.op == Op::Jalr {
                let target = match self.rng.below(10) {
                    0 if self.phase.satp != 0 && s.mode != Mode::Machine => {
                        self.tables.no_code(self.rng, s.mode == Mode::User)
                    }
                    0 => [NOWHERE, 1 << 60, RAM + RAM_SIZE][self.rng.below(3) as usize],
                    1 => {
                        let at = self.landing();
                        self.code_at(s.mode, at) | 1
                    }
                    _ => {
                        let at = self.landing();
                        self.code_at(s.mode, at)
                    }
                };
                if insn.rs1 != 0 {
                    give(s, insn.rs1, target.wrapping_sub(insn.imm as i64 as u64));
                }
                self.push(s, &insn);
                return;
            }
            let range = match (insn.op.effect(), insn.len) {
                (Effect::Jump, 4) => 1 << 15,
                (Effect::Branch, 2) => 1 << 3,
                _ => 1 << 6,
            };
            let slot = (here / SLOT).wrapping_add(self.rng.below(2 * range)).wrapping_sub(range);
            if slot >= self.count {
                continue;
            }
            let target = slot * SLOT + PAD + self.rng.below(4) * 2;
            let imm = target.wrapping_sub(here) as i64 as i32;
            if let Ok(raw) = encode(&Insn { imm, ..insn }) {
                let insn = Insn { imm, raw, ..insn };
                self.fill(s, &insn);
                if insn.op.effect() == Effect::Branch && self.rng.chance(40) {
                    // Equal operands, or nearly.
                    let v = operands::integer(self.rng);
                    give(s, insn.rs1, v);
                    if insn.rs2 != insn.rs1 {
                        let close = v.wrapping_add(self.rng.below(3)).wrapping_sub(1);
                        give(s, insn.rs2, close);
                    }
                }
                self.push(s, &insn);
                return;
            }
        }
    }

    fn csr(&mut self, s: &mut Slot) {
        let insn = loop {
            let mut insn = self.random(&self.filters.csr);
            if self.rng.chance(6) {
                insn = Insn { imm: self.rng.below(4096) as i32, ..insn };
                insn.raw = insn.raw & 0xf_ffff | (insn.imm as u32) << 20;
            }
            if self.harmless(s, &insn) {
                break insn;
            }
        };
        let n = insn.imm as u16;
        if insn.op.form() == Form::Csr && insn.rs1 != 0 {
            let mut v = csrs::source(self.rng, n, insn.op == Op::Csrrw);
            if csrs::policy(n) == Policy::Satp && s.mode != Mode::Machine && self.phase.satp != 0 {
                v |= 8 << 60;
            }
            give(s, insn.rs1, v);
        }
        self.push(s, &insn);
        match csrs::policy(n) {
            Policy::Counter if insn.rd != 0 => s.code.push((u32::from(insn.rd) << 7 | 0x13, 4)), // li rd, 0
            Policy::Counter => {}
            _ if s.offset % SLOT != 30 => {
                let rd = 1 + self.rng.below(31) as u32;
                s.code.push((u32::from(n) << 20 | 2 << 12 | rd << 7 | 0x73, 4)); // csrr rd, n
            }
            _ => {}
        }
        self.put_back(s, n);
        if matches!(n, 0x105 | 0x180) {
            // A trap that is delegated to nowhere would come again for ever.
            undelegate(s);
        }
        let pending = !matches!(n, 0x105 | 0x14d | 0x180 | 0x305) && self.rng.chance(30);
        if pending {
            let r = self.rng.next_u64();
            self.set(s, 0x303, r & 0x222);
            self.set(s, 0x344, r >> 16 & 0x222);
            s.before.push((csrs::stub(0x304), r >> 32 & 0xaaa));
            if self.phase.satp == 0 || s.mode == Mode::Machine {
                self.set(s, 0x105, self.phase.stvec | r >> 48 & 1);
            }
        }
    }

    /// Whether the harness can recover from it.
    fn harmless(&self, s: &Slot, insn: &Insn) -> bool {
        let n = insn.imm as u16;
        let whole = matches!(insn.op, Op::Csrrw | Op::Csrrwi);
        let immediate = insn.op.form() == Form::CsrI;
        let crossing = s.offset % SLOT == 30;
        match csrs::policy(n) {
            Policy::Vector if whole => !immediate && insn.rs1 != 0,
            Policy::Vector => !immediate || insn.rs1 < 4,
            // S mode's next fetch is to be translated: untranslated, it would be in QEMU's PCI window.
            Policy::Satp => s.mode == Mode::Machine || !immediate && insn.rs1 != 0 && insn.op != Op::Csrrc,
            Policy::Counter => !crossing,
            _ => true,
        }
    }

    /// After a slot that may have changed `n`: what the harness relies on.
    fn put_back(&self, s: &mut Slot, n: u16) {
        let own = match csrs::policy(n) {
            Policy::Restore | Policy::Vector | Policy::Deadline | Policy::Satp => Some(n),
            Policy::PmpCfg if n & 1 == 0 => Some(n),
            _ => None,
        };
        // Registers of which `n` is a view, or on which it has an effect.
        let other = match n {
            0x104 => Some(0x304),
            0x144 | 0x30a => Some(0x344),
            _ => None,
        };
        for n in own.into_iter().chain(other) {
            let item = (csrs::stub(n), self.phase.value(n));
            if !s.after.contains(&item) {
                s.after.push(item);
            }
        }
        if matches!(n, 0x180 | 0x10a | 0x30a) {
            s.after.push((csrs::fence(), 0));
        }
    }

    fn system(&mut self, s: &mut Slot) {
        const ECALL: u32 = 0x73;
        const EBREAK: u32 = 0x10_0073;
        const C_EBREAK: u32 = 0x9002;
        const WFI: u32 = 0x1050_0073;
        let crossing = s.offset % SLOT == 30;
        match self.rng.below(10) {
            0..4 => {
                let insn = self.random(&self.filters.fences);
                self.fill(s, &insn);
                self.push(s, &insn);
            }
            4 => s.code.push((ECALL, 4)),
            5 if self.rng.chance(50) => s.code.push((C_EBREAK, 2)),
            5 => s.code.push((EBREAK, 4)),
            6 => {
                // Only with something to wake up for.
                self.set(s, 0x303, 2);
                self.set(s, 0x344, 2);
                s.before.push((csrs::stub(0x304), 2));
                s.mstatus &= !(1 << 7);
                s.code.push((WFI, 4));
            }
            _ if crossing => s.code.push((0x1020_0073, 4)),
            n => self.go_back(s, n == 7),
        }
    }

    /// `mret` or `sret` with everything it looks at set just before.
    fn go_back(&mut self, s: &mut Slot, machine: bool) {
        const MRET: u32 = 0x3020_0073;
        const SRET: u32 = 0x1020_0073;
        let (status, epc, insn) = if machine { (0x300, 0x341, MRET) } else { (0x100, 0x141, SRET) };
        let write = |n: u32, rs1: u32| (n << 20 | rs1 << 15 | 1 << 12 | 0x73, 4);
        let bare = self.rng.chance(15);
        let r = self.rng.next_u64();
        let to = match (machine, r & 3) {
            (true, 3) => Mode::Machine,
            (true, 1) => Mode::Supervisor,
            (false, 1 | 3) => Mode::Supervisor,
            _ => Mode::User,
        };
        let field = if machine { (r & 3) << 11 } else { (r & 1) << 8 };
        let kept = self.rng.next_u64() & (1 << 1 | 1 << 3 | 1 << 5 | 1 << 7 | 1 << 17 | 3 << 18 | 7 << 20);
        let landing = self.landing();
        if !bare {
            give(s, 5, field | kept | 3 << 13);
            give(s, 6, self.code_at(to, landing));
            s.code.extend([write(status, 5), write(epc, 6)]);
        } else {
            let at = self.code_at(to, landing);
            self.set(s, 0x141, at);
        }
        s.code.push((insn, 4));
    }

    /// An encoding that means nothing.
    fn reserved(&mut self, s: &mut Slot) {
        loop {
            let r = self.rng.next_u64();
            let word = match self.rng.below(4) {
                0 => r as u32,
                1 => r as u32 & 0xffff,
                _ => {
                    let near = self.random(
                        [&self.filters.plain, &self.filters.memory, &self.filters.csr][r as usize % 3],
                    );
                    near.raw ^ 1 << (r >> 8 & 31) ^ if r >> 13 & 1 != 0 { 1 << (r >> 16 & 31) } else { 0 }
                }
            };
            if let Err(raw) = decode(word) {
                s.code.push((raw, if raw & 3 == 3 { 4 } else { 2 }));
                return;
            }
        }
    }

    /// LR, perhaps something, SC: at the same place or elsewhere.
    fn reservation(&mut self, s: &mut Slot) {
        if s.offset % SLOT == 30 {
            return self.plain(s);
        }
        let r = self.rng.next_u64();
        let amo = |funct5: u32, wide: u64, rd: u32, rs1: u32, rs2: u32| {
            let order = (r >> 40) as u32 & 3;
            (funct5 << 27 | order << 25 | rs2 << 20 | rs1 << 15 | (2 + wide as u32) << 12 | rd << 7 | 0x2f, 4)
        };
        let wide = r & 1;
        let (va, pa) = self.target(s, 8, Effect::Conditional(8));
        let elsewhere = match r >> 8 & 7 {
            0 => va.wrapping_add(8),
            1 => va ^ 4,
            _ => va,
        };
        give(s, 10, va);
        give(s, 11, elsewhere);
        let v = operands::integer(self.rng);
        give(s, 12, v);
        s.watch = watch(pa);
        s.code.push(amo(2, wide, 13, 10, 0));
        match r >> 16 & 7 {
            0 => s.code.push((0x00c5_3023, 4)), // sd a2, (a0)
            1 => s.code.push((0x00c5_b023, 4)), // sd a2, (a1)
            2 => s.code.push((0x0005_b703, 4)), // ld a4, (a1)
            3 => s.code.push(amo(2, wide, 14, 11, 0)),
            _ => {}
        }
        s.code.push(amo(3, wide, 15, 11, 12));
        if r >> 20 & 3 == 0 {
            s.code.push(amo(3, wide, 16, 11, 12));
        }
        debug_assert!(self.fits(s));
    }
}

/// Sends all traps of the slot to M mode.
fn undelegate(s: &mut Slot) {
    s.before.retain(|(stub, _)| *stub != csrs::stub(0x302));
}

/// Gives register `r` (f registers from 32) a value, in the place of one that it was given before.
fn give(s: &mut Slot, r: u8, value: u64) {
    match s.operands.iter().position(|(n, _)| *n == r) {
        Some(at) => s.operands[at].1 = value,
        None if s.operands.len() < 4 => s.operands.push((r, value)),
        None => {}
    }
}

/// The 64 bytes around `pa`, within scratch memory.
fn watch(pa: u64) -> u64 {
    ((pa & !7).saturating_sub(24)).clamp(SCRATCH, SCRATCH + SCRATCH_SIZE - 64)
}
