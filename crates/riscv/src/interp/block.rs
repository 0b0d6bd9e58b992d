//! Decoded code: runs of instructions that are entered at the start and left at the end.
//!
//! ```text
//!   pc ──► slots      by virtual address, valid while the fetch TLB's stamp is the same
//!           │ miss: translate
//!           ▼
//!          known      by physical address, valid while the bytes in RAM are those that were decoded
//!           │ miss: decode
//!           ▼
//!          code       the instructions of all blocks, one after the other
//! ```
//! A switch of address spaces or a flush makes slots stale, never decoded code. Stores are not watched: RISC-V lets
//! fetches see old bytes until fence.i, which starts a new generation; a block of an older one is compared with RAM when
//! it is next found, and decoded anew only if it differs.
//!
//! A block ends with the first instruction that may go elsewhere or change what code means, before the page's end, or at
//! [`MAX_INSNS`]. Blocks are shared between virtual addresses, so pc-relative instructions count from the block's start
//! (`relative`). What does not fit in a block (an instruction over the end of a page, one on a page that PMP splits, an
//! illegal one) is fetched by itself, by [`BlockCache::alone`].

use crate::core::Core;
use crate::host::HostPage;
use crate::mmu::FetchPage;
use crate::trap::{Cause, Exit};
use strata_engine::table::populate;
use strata_isa::ops::Width;
use strata_isa::{Insn, Op, Operand, decode_with};
use zerocopy::FromZeros;

/// Longest block. With 4 bytes each, an offset within a block plus an instruction's length fits the `u8` of
/// [`Insn::len`].
pub(crate) const MAX_INSNS: usize = 60;
/// Slots by virtual address, 768 KiB: a quarter of them made a Debian kernel's boot some 5% slower.
const SLOTS: usize = 1 << 15;
/// Blocks known by physical address: a kernel's boot touches some tens of thousands.
const KNOWN: usize = 1 << 16;
/// Likewise beside a second tier, which has all that runs often: a quarter, for a machine's own memory stays small.
const KNOWN_COLD: usize = KNOWN / 4;
/// Instructions kept before everything is dropped: blocks that lost their place in `known` pile up. 4 MiB a hart, so that
/// a machine's own memory stays small; decoding all of it anew takes some 6 ms, once in a long while.
const MAX_CODE: usize = 1 << 18;
/// Likewise beside a second tier.
const MAX_CODE_COLD: usize = MAX_CODE / 4;

/// A block: a range of the code, and its bytes in guest memory.
#[derive(Clone, Copy, Default, FromZeros)]
pub(crate) struct Block {
    start: u32,
    len: u16,
    /// Bytes of guest code.
    pub size: u16,
}

#[derive(Clone, Copy, FromZeros)]
struct Slot {
    pc: u64,
    stamp: u64,
    block: Block,
}

#[derive(Clone, Copy, FromZeros)]
struct Known {
    /// Physical address of the first instruction and 1; 0 if there is none.
    key: u64,
    generation: u64,
    block: Block,
}

/// See the module.
pub(crate) struct BlockCache {
    slots: Box<[Slot; SLOTS]>,
    /// A power of two.
    known: Box<[Known]>,
    /// Instructions that may be kept.
    max_code: usize,
    /// The first place is [`BlockCache::alone`]'s.
    code: Vec<Insn>,
    /// Whether it was made ready.
    begun: bool,
}

/// No stamp of the fetch TLB is 0.
const NO_SLOT: Slot = Slot { pc: 0, stamp: 0, block: Block { start: 0, len: 0, size: 0 } };
const NOTHING: Insn = Insn { op: Op::Addi, rd: 32, rs1: 0, rs2: 0, rs3: 0, rm: 0, len: 4, imm: 0, raw: 0x13 };
const UNKNOWN: Known = Known { key: 0, generation: 0, block: Block { start: 0, len: 0, size: 0 } };

#[inline(always)]
fn slot_index(pc: u64) -> usize {
    ((pc >> 1) ^ (pc >> 13)) as usize & (SLOTS - 1)
}

/// Reserved at once, touched as it fills: growing by doubling would hold twice the memory for a moment.
fn room_for_code(max: usize) -> Vec<Insn> {
    let mut code = Vec::with_capacity(max + MAX_INSNS);
    code.push(NOTHING);
    code
}

impl BlockCache {
    /// Empty; for what is `cold` if a second tier runs the rest.
    pub fn new(cold: bool) -> BlockCache {
        let (known, max_code) = if cold { (KNOWN_COLD, MAX_CODE_COLD) } else { (KNOWN, MAX_CODE) };
        // Zeroes of the host's, which take no memory before they are touched.
        let slots = <[Slot; SLOTS]>::new_box_zeroed().unwrap_or_else(|_| Box::new([NO_SLOT; SLOTS]));
        let known =
            <[Known]>::new_box_zeroed_with_elems(known).unwrap_or_else(|_| vec![UNKNOWN; known].into());
        strata_isa::prepare();
        BlockCache { slots, known, max_code, code: room_for_code(max_code), begun: false }
    }

    /// Makes ready for what is looked for, if that has not been done: not for a hart that may never run.
    pub fn prepare(&mut self) {
        if !std::mem::replace(&mut self.begun, true) {
            populate(&mut self.slots[..], NO_SLOT);
            populate(&mut self.known, UNKNOWN);
        }
    }

    fn known_index(&self, pa: u64) -> usize {
        ((pa >> 1) ^ (pa >> 17)) as usize & (self.known.len() - 1)
    }

    /// The instructions of `block`.
    #[inline(always)]
    pub fn code(&self, block: Block) -> &[Insn] {
        let start = block.start as usize;
        self.code.get(start..start + usize::from(block.len)).unwrap_or(&[])
    }

    /// The block at `core.pc`, if it has been found there before and the address still leads there.
    #[inline(always)]
    pub fn at_hand(&self, core: &Core) -> Option<Block> {
        let slot = &self.slots[slot_index(core.pc)];
        (slot.pc == core.pc && slot.stamp == core.mmu.fetch.stamp()).then_some(slot.block)
    }

    /// The block at `core.pc`.
    #[cold]
    #[inline(never)]
    pub fn find(&mut self, core: &mut Core) -> Result<Block, Exit> {
        self.prepare();
        let pc = core.pc;
        let FetchPage { page, pa, whole } = core.fetch_page(pc)?;
        if !whole {
            return self.alone(core);
        }
        let pa = pa | pc & 0xfff;
        let place = self.known_index(pa);
        let known = self.known[place];
        let block = if known.key == pa | 1
            && (known.generation == core.code_generation || same_bytes(self.code(known.block), pc, page))
        {
            known.block
        } else {
            match self.build(core, pc, page) {
                Some(b) => b,
                None => return self.alone(core),
            }
        };
        self.known[place] = Known { key: pa | 1, generation: core.code_generation, block };
        self.slots[slot_index(pc)] = Slot { pc, stamp: core.mmu.fetch.stamp(), block };
        Ok(block)
    }

    /// The instruction at `core.pc` by itself, in a block that lasts until the next call.
    #[cold]
    #[inline(never)]
    pub fn alone(&mut self, core: &mut Core) -> Result<Block, Exit> {
        let pc = core.pc;
        let first = core.fetch_page(pc)?.page;
        // The second half of an aligned word is as PMP and the page let the first be.
        let raw = if pc & 3 == 0 { raw_at(first, pc) } else { None };
        let raw = match raw {
            Some(raw) => raw,
            None => {
                let (low, second) = (first.load(pc, Width::U16) as u32, pc.wrapping_add(2));
                let wide = low & 3 == 3;
                low | if wide {
                    (core.fetch_page(second)?.page.load(second, Width::U16) as u32) << 16
                } else {
                    0
                }
            }
        };
        match decode_with(raw, core.config.extensions) {
            Ok(insn) => {
                self.code[0] = relative(insn, 0);
                Ok(Block { start: 0, len: 1, size: insn.len.into() })
            }
            Err(bits) => Err(core.raise(Cause::Illegal, bits.into())),
        }
    }

    /// Decodes from `pc` on; `None` if not even one instruction fits.
    fn build(&mut self, core: &Core, pc: u64, page: HostPage) -> Option<Block> {
        if self.code.len() > self.max_code {
            self.code.truncate(1);
            self.known.fill(UNKNOWN);
            self.slots.fill(NO_SLOT);
        }
        let start = self.code.len();
        let room = 4096 - (pc & 0xfff);
        let mut off = 0;
        while self.code.len() - start < MAX_INSNS && off < room {
            let Some(raw) = raw_at(page, pc.wrapping_add(off)) else { break };
            let Ok(insn) = decode_with(raw, core.config.extensions) else { break };
            self.code.push(relative(insn, off as u8));
            off += u64::from(insn.len);
            if insn.op.effect().ends_block() {
                break;
            }
        }
        let len = self.code.len() - start;
        (len > 0).then_some(Block { start: start as u32, len: len as u16, size: off as u16 })
    }
}

/// Makes `insn`, `off` bytes into its block, count from the block's start, and renames a destination x0.
fn relative(mut insn: Insn, off: u8) -> Insn {
    match insn.op {
        // A jump ends its block, so nobody asks for its own length any more: `len` becomes the block's.
        Op::Jal => (insn.imm, insn.len) = (insn.imm + i32::from(off), insn.len + off),
        Op::Jalr => insn.len += off,
        // The low 12 bits of AUIPC's immediate are free.
        Op::Auipc | Op::Beq | Op::Bne | Op::Blt | Op::Bge | Op::Bltu | Op::Bgeu => insn.imm += i32::from(off),
        _ => {}
    }
    // The text asks CSR instructions for their rd, to know whether they read.
    let csr = insn.op.effect() == strata_isa::Effect::Csr;
    if insn.rd == 0 && !csr && insn.op.form().operands().contains(&Operand::Rd) {
        insn.rd = 32;
    }
    insn
}

/// The bytes of the instruction at `at`, which is in `page`; `None` if it goes over the page's end. An aligned word is read
/// in one piece: kernels patch code that other harts may be fetching (Ziccif).
fn raw_at(page: HostPage, at: u64) -> Option<u32> {
    if at & 3 == 0 {
        let word = page.load(at, Width::U32) as u32;
        return Some(if word & 3 == 3 { word } else { word & 0xffff });
    }
    let half = |at| page.load(at, Width::U16) as u32;
    let low = half(at);
    match low & 3 {
        3 if at & 0xfff == 0xffe => None,
        3 => Some(low | half(at.wrapping_add(2)) << 16),
        _ => Some(low),
    }
}

/// Whether `page` still holds at `pc` what `code` was decoded from.
fn same_bytes(code: &[Insn], mut pc: u64, page: HostPage) -> bool {
    code.iter().all(|insn| {
        let now = raw_at(page, pc);
        pc = pc.wrapping_add(if insn.raw & 3 == 3 { 4 } else { 2 });
        now == Some(insn.raw)
    })
}
