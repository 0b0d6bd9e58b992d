//! The one text of meaning, run on values.
//!
//! An instruction in a block was made relative to the block's start (`block.rs`), so [`Core::pc`] stands still while a
//! block runs: `pc_plus`, `jump` and `branch` count from there.

use crate::core::Core;
use crate::csr::status;
use crate::mmu::PAGE;
use crate::trap::{Cause, Exit, Privilege};
use std::sync::atomic::{Ordering, compiler_fence, fence};
use strata_isa::Insn;
use strata_isa::ops::{Amo, Bin, Cbo, Cond, CsrOp, Fmt, Fp, Ops, Reg, Sys, Un, VmaFence, Width};

/// A yield costs about a microsecond where nobody waits for the processor; so many pauses last longer.
const PAUSES_A_YIELD: u32 = 64;

impl Ops for Core {
    type V = u64;
    type Stop = Exit;

    #[inline(always)]
    fn imm(&mut self, c: i64) -> u64 {
        c as u64
    }
    #[inline(always)]
    fn x(&mut self, r: Reg) -> u64 {
        self.x[usize::from(r)]
    }
    #[inline(always)]
    fn set_x(&mut self, r: Reg, v: u64) {
        self.x[usize::from(r)] = v;
    }
    #[inline(always)]
    fn f(&mut self, r: Reg) -> u64 {
        self.f[usize::from(r & 31)]
    }
    #[inline(always)]
    fn set_f(&mut self, r: Reg, v: u64) {
        self.f[usize::from(r & 31)] = v;
        self.csr.mstatus |= status::FS;
    }
    #[inline(always)]
    fn hold(&mut self, v: u64) -> u64 {
        v
    }

    #[inline(always)]
    fn pc_plus(&mut self, off: i64) -> u64 {
        self.pc.wrapping_add(off as u64)
    }
    #[inline(always)]
    fn bin(&mut self, op: Bin, a: u64, b: u64) -> u64 {
        op.eval(a, b)
    }
    #[inline(always)]
    fn un(&mut self, op: Un, a: u64) -> u64 {
        op.eval(a)
    }
    #[inline(always)]
    fn select(&mut self, c: u64, a: u64, b: u64) -> u64 {
        if c != 0 { a } else { b }
    }

    #[inline(always)]
    fn load(&mut self, addr: u64, w: Width) -> Result<u64, Exit> {
        let right = &self.mmu.data.entry(addr).read;
        if addr & (PAGE | (w.bytes() - 1)) == right.tag {
            Ok(w.extend(right.page(addr).load(addr, w)))
        } else {
            self.load_slow(addr, w)
        }
    }
    #[inline(always)]
    fn store(&mut self, addr: u64, v: u64, w: Width) -> Result<(), Exit> {
        let right = &self.mmu.data.entry(addr).write;
        if addr & (PAGE | (w.bytes() - 1)) == right.tag {
            right.page(addr).store(addr, v, w);
            Ok(())
        } else {
            self.store_slow(addr, v, w)
        }
    }
    #[inline(always)]
    fn amo(&mut self, op: Amo, addr: u64, v: u64, w: Width) -> Result<u64, Exit> {
        self.atomic(op, addr, v, w)
    }
    #[inline(always)]
    fn load_reserved(&mut self, addr: u64, w: Width) -> Result<u64, Exit> {
        self.reserve(addr, w)
    }
    #[inline(always)]
    fn store_conditional(&mut self, addr: u64, v: u64, w: Width) -> Result<u64, Exit> {
        self.conditional(addr, v, w)
    }
    #[inline(always)]
    fn cache_block(&mut self, op: Cbo, addr: u64) -> Result<(), Exit> {
        self.cache_operation(op, addr)
    }

    #[inline(always)]
    fn require_fp(&mut self) -> Result<(), Exit> {
        if self.csr.mstatus & status::FS != 0 { Ok(()) } else { Err(Exit::Illegal) }
    }
    #[inline(always)]
    fn fp(&mut self, op: Fp, fmt: Fmt, rm: u8, abc: [u64; 3]) -> Result<u64, Exit> {
        self.float(op, fmt, rm, abc)
    }

    #[inline(always)]
    fn csr(&mut self, op: CsrOp, csr: u16, src: u64, read: bool, write: bool) -> Result<u64, Exit> {
        self.access_csr(op, csr, src, read, write)
    }
    #[inline(always)]
    fn system(&mut self, op: Sys) -> Result<(), Exit> {
        self.system_instruction(op)
    }
    #[inline(always)]
    fn fence(&mut self, pred: u8, succ: u8) {
        const R_OR_I: u8 = 0b1010;
        const W_OR_O: u8 = 0b0101;
        // The host (at least as strong as release-acquire for relaxed accesses on x86; the fence says so elsewhere)
        // only lets later loads overtake earlier stores.
        if pred & W_OR_O != 0 && succ & R_OR_I != 0 {
            fence(Ordering::SeqCst);
        } else if cfg!(target_arch = "x86_64") {
            compiler_fence(Ordering::SeqCst);
        } else {
            fence(Ordering::AcqRel);
        }
    }
    #[inline(always)]
    fn fence_vma(&mut self, op: VmaFence, va: Option<u64>, asid: Option<u64>) -> Result<(), Exit> {
        self.translation_fence(op, va, asid)
    }

    #[inline(always)]
    fn jump(&mut self, off: i64) {
        self.next = self.pc.wrapping_add(off as u64);
    }
    #[inline(always)]
    fn jump_to(&mut self, target: u64) {
        self.next = target;
    }
    #[inline(always)]
    fn branch(&mut self, cond: Cond, a: u64, b: u64, off: i64) {
        if cond.eval(a, b) {
            self.next = self.pc.wrapping_add(off as u64);
        }
    }
    #[inline(always)]
    fn illegal(&mut self, _insn: &Insn) -> Exit {
        Exit::Illegal
    }
}

impl Core {
    #[inline(never)]
    fn system_instruction(&mut self, op: Sys) -> Result<(), Exit> {
        match op {
            Sys::Ecall => Err(match self.privilege {
                Privilege::User => self.raise(Cause::EcallUser, 0),
                Privilege::Supervisor if self.config.machine_is_firmware => Exit::Call,
                Privilege::Supervisor => self.raise(Cause::EcallSupervisor, 0),
                Privilege::Machine => self.raise(Cause::EcallMachine, 0),
            }),
            // The loop puts in the instruction's own address.
            Sys::Ebreak => Err(self.raise(Cause::Breakpoint, 0)),
            Sys::Mret => self.mret(),
            Sys::Sret => self.sret(),
            Sys::Wfi => self.wait_for_interrupt(),
            Sys::FenceI => {
                self.fence_i();
                Ok(())
            }
            // A guest that spins waits for another hart, which may have no processor of the host at this moment.
            Sys::Pause => {
                self.pauses = self.pauses.wrapping_add(1);
                if self.pauses.is_multiple_of(PAUSES_A_YIELD) {
                    std::thread::yield_now();
                } else {
                    std::hint::spin_loop();
                }
                Ok(())
            }
        }
    }

    fn wait_for_interrupt(&mut self) -> Result<(), Exit> {
        let forbidden = match self.privilege {
            Privilege::User => true,
            Privilege::Supervisor => self.csr.mstatus & status::TW != 0,
            Privilege::Machine => false,
        };
        if forbidden {
            return Err(Exit::Illegal);
        }
        self.waiting = true;
        self.poll_soon();
        Ok(())
    }

    /// All address spaces at once: the TLB does not tell them apart.
    #[inline(never)]
    fn translation_fence(&mut self, op: VmaFence, va: Option<u64>, asid: Option<u64>) -> Result<(), Exit> {
        let invalidates = matches!(op, VmaFence::SfenceVma | VmaFence::SinvalVma);
        let allowed = match self.privilege {
            Privilege::User => false,
            Privilege::Supervisor => !invalidates || self.csr.mstatus & status::TVM == 0,
            Privilege::Machine => true,
        };
        if !allowed {
            return Err(Exit::Illegal);
        }
        if invalidates {
            // An identifier has 16 bits; those above are reserved and ignored.
            self.mmu.fence(self.csr.satp, va, asid.map(|asid| asid as u16));
        }
        Ok(())
    }
}
