//! A path's host code for a person: each RISC-V instruction, and below it what it became.
//!
//! Whatever differs from run to run or from layout to layout has a name instead of a number: the core's fields, shared
//! pieces of code, sites, labels. So a listing changes when the code does, and not otherwise.

use crate::emit::windows::Window;
use crate::emit::{Emitted, Emitter, Job};
use crate::features::Features;
use crate::layout::{self, BIAS, Word};
use crate::trampolines::Trampolines;
use crate::unit::{Page, Site, Step};
use iced_x86::{
    Code, Decoder, DecoderOptions, Formatter, Instruction, IntelFormatter, Mnemonic, OpKind, Register,
    SymbolResolver, SymbolResult,
};
use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::mem::{offset_of, size_of};
use strata_isa::ops::Width;
use strata_isa::{decode, disasm};
use strata_riscv::tier::{Core, DATA_ENTRIES, DataContext, DataEntry, FetchTlb, Privilege, WINDOWS, Windows};
use strata_x64::Asm;

/// Every extension that emitted code can use: listings do not depend on the host.
const FEATURES: Features = Features { bmi1: true, bmi2: true, lzcnt: true, popcnt: true, fma: true };
const SHARED: u64 = 0x10_0000;
const UNIT: u64 = 0x20_0000;
/// Column of host instructions.
const INDENT: usize = 12;

/// A path being written by hand.
pub struct Path {
    pub privilege: Privilege,
    pub context: DataContext,
    /// The machine has no other hart.
    pub alone: bool,
    steps: Vec<Step>,
    pages: Vec<Page>,
    at: u64,
}

impl Path {
    /// Begins at `pc`, in U mode, with other harts around.
    pub fn at(pc: u64) -> Path {
        let (privilege, context) = (Privilege::User, DataContext::User);
        let mut path =
            Path { privilege, context, alone: false, steps: Vec::new(), pages: Vec::new(), at: pc };
        path.enter(pc);
        path
    }

    fn enter(&mut self, va: u64) {
        let va = va & !0xfff;
        if !self.pages.iter().any(|p| p.va == va) {
            let id = self.pages.len() as u32 + 1;
            self.pages.push(Page { va, pa: va, id });
        }
    }

    /// An instruction after which the path goes on at `next`, or behind it.
    fn push(mut self, word: u32, next: Option<u64>) -> Path {
        let insn = decode(word).expect("an instruction");
        let (pc, end) = (self.at, self.at + u64::from(insn.len));
        self.enter(pc);
        self.enter(end - 1);
        self.at = next.unwrap_or(end);
        self.steps.push(Step { pc, insn, next: self.at, pages: self.pages.len() as u8 });
        self
    }

    /// An instruction that the next one follows.
    pub fn then(self, word: u32) -> Path {
        self.push(word, None)
    }

    /// Several of them.
    pub fn then_all(self, words: &[u32]) -> Path {
        words.iter().fold(self, |path, word| path.then(*word))
    }

    /// A branch or jump that is taken.
    pub fn taken(self, word: u32) -> Path {
        let off = decode(word).expect("an instruction").imm;
        let next = self.at.wrapping_add_signed(off.into());
        self.push(word, Some(next))
    }

    /// A jump to what a register says, which is `next`.
    pub fn to(self, word: u32, next: u64) -> Path {
        self.push(word, Some(next))
    }

    /// What the emitter makes of it.
    pub fn listing(&self) -> String {
        let mut asm = Asm::new(SHARED);
        let shared = Trampolines::emit(&mut asm);
        assert!(asm.here() < UNIT);
        let n = self.steps.len();
        let site = |(i, s): (usize, &Step)| Site { pc: s.pc, insn: s.insn, refund: (n - i) as u32 };
        let sites: Vec<Site> = self.steps.iter().enumerate().map(site).collect();
        let job = Job {
            steps: &self.steps,
            sites: &sites,
            pages: &self.pages,
            context: self.context,
            privilege: self.privilege,
            unit: 0,
            first_exit: 0,
            alone: self.alone,
            windows: matches!(self.context, DataContext::User | DataContext::Bare),
        };
        asm.clear(UNIT);
        let made = Emitter::emit(&mut asm, &shared, FEATURES, &job);
        let code = asm.finish().expect("code");
        let mut decoder = Decoder::with_ip(64, code, UNIT, DecoderOptions::NONE);
        let host: Vec<Instruction> = decoder.iter().collect();
        assert!(host.iter().all(|i| !i.is_invalid()), "no code after {} bytes", decoder.position());
        self.text(&host, &made, Names::new(&host, &made, &shared, &sites, self))
    }

    fn text(&self, host: &[Instruction], made: &Emitted, names: Names) -> String {
        let (labels, steps) = (names.labels.clone(), self.steps.len());
        let mut formatter = IntelFormatter::with_options(Some(Box::new(names)), None);
        let options = formatter.options_mut();
        options.set_space_after_operand_separator(true);
        options.set_first_operand_char_index(8);
        options.set_hex_prefix("0x");
        options.set_hex_suffix("");
        options.set_uppercase_hex(false);
        options.set_branch_leading_zeros(false);
        options.set_signed_immediate_operands(true);
        let mut out = String::from("entry:\n");
        for i in host {
            for (n, _) in made.marks.iter().enumerate().filter(|(_, at)| **at == i.ip()) {
                match self.steps.get(n) {
                    Some(s) => {
                        let text = disasm(&s.insn, s.pc).replacen('\t', " ", 1).replace(',', ", ");
                        writeln!(out, "{:x}: {text}", s.pc).unwrap();
                    }
                    None if n == steps => out.push_str("cold:\n"),
                    None => out.push('\n'),
                }
            }
            // Padding, which aligns the distance of a jump to be patched.
            if i.mnemonic() == Mnemonic::Nop || i.code() == Code::Xchg_rm16_r16 || i.code() == Code::Nopw {
                continue;
            }
            let label = labels.get(&i.ip()).map(|l| format!("{l}:")).unwrap_or_default();
            let mut text = String::new();
            formatter.format(i, &mut text);
            writeln!(out, "  {label:<width$}{}", text.trim_end(), width = INDENT - 2).unwrap();
        }
        out
    }
}

/// What numbers mean in one unit.
struct Names {
    /// Of places in the unit.
    labels: HashMap<u64, String>,
    /// Of places elsewhere, and of what helpers are given.
    fixed: HashMap<u64, String>,
    /// Where a linkable jump will lead, by the address behind it.
    links: HashMap<u64, String>,
    /// Of the core's fields, by displacement from the base register.
    fields: HashMap<i32, String>,
    tlb: i32,
    pas: i32,
}

impl Names {
    fn new(host: &[Instruction], made: &Emitted, to: &Trampolines, sites: &[Site], path: &Path) -> Names {
        let end = host.last().map_or(UNIT, |i| i.next_ip());
        let links: HashMap<u64, String> =
            made.exits.iter().map(|e| (e.patch_at + 4, format!("unit@{:x}", e.target))).collect();
        // A jump that will be linked leads nowhere yet.
        let placed = host.iter().filter(|i| !links.contains_key(&i.next_ip()));
        let targets: BTreeSet<u64> = placed.filter_map(target).filter(|t| (UNIT..end).contains(t)).collect();
        let labels = targets.into_iter().zip(1..).map(|(t, n)| (t, format!("L{n}"))).collect();
        let mut fixed = HashMap::from([
            (to.exit, "exit".into()),
            (to.fuel, "fuel".into()),
            (to.interpret, "interpret".into()),
            (to.crossings.ecall, "cross.ecall".into()),
            (to.crossings.sret, "cross.sret".into()),
            (to.crossings.set_status, "set_status".into()),
            (to.crossings.read_status, "read_status".into()),
        ]);
        for w in [Width::I8, Width::U8, Width::I16, Width::U16, Width::I32, Width::U32, Width::I64] {
            let name = format!("{w:?}").to_lowercase();
            fixed.insert(to.load(w), format!("load.{name}"));
            fixed.insert(to.store(w), format!("store.{name}"));
        }
        for (write, name) in [(false, "refill.read"), (true, "refill.write")] {
            fixed.insert(to.refill(path.context, write), name.into());
        }
        for s in sites {
            fixed.insert(std::ptr::from_ref(s) as u64, format!("site@{:x}", s.pc));
        }
        let fields = fields(path);
        Names { labels, fixed, links, fields, tlb: layout::tlb(path.context), pas: layout::pas(path.context) }
    }

    /// The core's field at a displacement.
    fn field(&self, disp: i32) -> String {
        let entry = size_of::<DataEntry>() as i32;
        let within = |start: i32, size: i32| {
            let offset = disp - start;
            (0..DATA_ENTRIES as i32 * size).contains(&offset).then(|| (offset / size, offset % size))
        };
        if let Some(name) = self.fields.get(&disp) {
            return name.clone();
        }
        if let Some((n, offset)) = within(self.tlb, entry) {
            const READ: usize = offset_of!(DataEntry, read);
            const READ_ADDEND: usize = offset_of!(DataEntry, read.addend);
            const WRITE: usize = offset_of!(DataEntry, write);
            const WRITE_ADDEND: usize = offset_of!(DataEntry, write.addend);
            let part = match offset as usize {
                READ => "read.tag",
                READ_ADDEND => "read.addend",
                WRITE => "write.tag",
                WRITE_ADDEND => "write.addend",
                _ => "?",
            };
            let n = if n == 0 { String::new() } else { format!("[{n}]") };
            return format!("tlb{n}.{part}");
        }
        match within(self.pas, 16) {
            Some((0, 0)) => "pas.read".into(),
            Some((0, 8)) => "pas.write".into(),
            _ => format!("core+{:#x}", disp + BIAS as i32),
        }
    }
}

/// Where a branch leads.
fn target(i: &Instruction) -> Option<u64> {
    (i.op_count() == 1 && i.op0_kind() == OpKind::NearBranch64).then(|| i.near_branch_target())
}

/// Single fields that emitted code touches.
fn fields(path: &Path) -> HashMap<i32, String> {
    let at = |offset: usize| offset as i32 - BIAS as i32;
    let mut all = HashMap::new();
    for r in 0..32 {
        all.insert(at(offset_of!(Core, x) + r * 8), format!("x.{}", strata_isa::X_NAMES[r]));
        all.insert(at(offset_of!(Core, f) + r * 8), format!("f.{}", strata_isa::F_NAMES[r]));
        all.insert(at(offset_of!(Core, f) + r * 8 + 4), format!("f.{}.upper", strata_isa::F_NAMES[r]));
    }
    all.insert(at(offset_of!(Core, pc)), "pc".into());
    for (w, name) in [
        (Word::Fuel, "fuel"),
        (Word::Reserve, "reserve"),
        (Word::Refund, "refund"),
        (Word::Exit, "exit"),
        (Word::Raw, "raw"),
        (Word::Jumps, "jumps"),
        (Word::Attention, "attention"),
        (Word::FpOn, "fp_on"),
        (Word::Mxcsr, "mxcsr"),
        (Word::HostMxcsr, "host_mxcsr"),
        (Word::End, "end"),
        (Word::JumpsSupervisor, "jumps.supervisor"),
        (Word::JumpsSum, "jumps.sum"),
    ] {
        all.insert(at(offset_of!(Core, tier)) + w as i32 * 8, format!("word.{name}"));
    }
    for number in 0..WINDOWS as u8 {
        for (write, kind) in [(false, "read"), (true, "write")] {
            let w = Window { number, write };
            let place = layout::window(path.context, w);
            let addends = offset_of!(Windows, addends) as i32;
            all.insert(place, format!("{kind}_window{number}.tag"));
            all.insert(place + addends, format!("{kind}_window{number}.addend"));
        }
    }
    for (offset, name) in [
        (offset_of!(Core, csr.sscratch), "csr.sscratch"),
        (offset_of!(Core, csr.sepc), "csr.sepc"),
        (offset_of!(Core, csr.scause), "csr.scause"),
        (offset_of!(Core, csr.stval), "csr.stval"),
        (offset_of!(Core, csr.mstatus), "csr.mstatus"),
        (offset_of!(Core, mmu.data.selected), "data_context"),
        (offset_of!(Core, reservation.va), "reservation.va"),
        (offset_of!(Core, reservation.pa), "reservation.pa"),
        (offset_of!(Core, reservation.value), "reservation.value"),
        (offset_of!(Core, reservation.bytes), "reservation.bytes"),
    ] {
        all.insert(at(offset), name.into());
    }
    for page in &path.pages {
        let (set, n) = FetchTlb::id_place(path.privilege, page.va);
        let ids = offset_of!(Core, mmu.fetch.ids) + (set * strata_riscv::tier::FETCH_ENTRIES + n) * 4;
        all.insert(at(ids), format!("page_id@{:x}", page.va));
    }
    all
}

impl SymbolResolver for Names {
    fn symbol(
        &mut self,
        i: &Instruction,
        _operand: u32,
        operand: Option<u32>,
        address: u64,
        _size: u32,
    ) -> Option<SymbolResult<'_>> {
        let kind = operand.map(|n| i.op_kind(n));
        let name = match kind {
            Some(OpKind::Memory) if i.memory_base() == Register::RBP => self.field(address as i32),
            Some(OpKind::Memory) => return None,
            Some(OpKind::NearBranch64) => match self.links.get(&i.next_ip()) {
                Some(link) => link.clone(),
                None => self.labels.get(&address).or_else(|| self.fixed.get(&address))?.clone(),
            },
            _ => self.fixed.get(&address).filter(|_| address > u32::MAX.into())?.clone(),
        };
        Some(SymbolResult::with_string(address, name))
    }
}
