//! General registers.

use crate::KvmError;
use kvm_bindings::kvm_regs;
use kvm_ioctls::VcpuFd;
use std::fmt;

strata_state::state! {
    /// General registers, instruction pointer and flags.
    pub struct GeneralState("x86-general", 1) {
        /// RAX.
        1 rax: u64,
        /// RBX.
        2 rbx: u64,
        /// RCX.
        3 rcx: u64,
        /// RDX.
        4 rdx: u64,
        /// RSI.
        5 rsi: u64,
        /// RDI.
        6 rdi: u64,
        /// RSP.
        7 rsp: u64,
        /// RBP.
        8 rbp: u64,
        /// R8 to R15.
        9 high: [u64; 8],
        /// RIP.
        10 rip: u64,
        /// RFLAGS.
        11 rflags: u64,
    }
}

impl GeneralState {
    pub(crate) fn read(fd: &VcpuFd) -> Result<GeneralState, KvmError> {
        let r = fd.get_regs().map_err(KvmError::at("KVM_GET_REGS"))?;
        Ok(GeneralState {
            rax: r.rax,
            rbx: r.rbx,
            rcx: r.rcx,
            rdx: r.rdx,
            rsi: r.rsi,
            rdi: r.rdi,
            rsp: r.rsp,
            rbp: r.rbp,
            high: [r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15],
            rip: r.rip,
            rflags: r.rflags,
        })
    }

    pub(crate) fn write(&self, fd: &VcpuFd) -> Result<(), KvmError> {
        let GeneralState { rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, high, rip, rflags } = *self;
        let [r8, r9, r10, r11, r12, r13, r14, r15] = high;
        let regs = kvm_regs {
            rax,
            rbx,
            rcx,
            rdx,
            rsi,
            rdi,
            rsp,
            rbp,
            r8,
            r9,
            r10,
            r11,
            r12,
            r13,
            r14,
            r15,
            rip,
            rflags,
        };
        fd.set_regs(&regs).map_err(KvmError::at("KVM_SET_REGS"))
    }
}

impl fmt::Display for GeneralState {
    /// Four registers a line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [r8, r9, r10, r11, r12, r13, r14, r15] = self.high;
        let rows = [
            [("rip", self.rip), ("rflags", self.rflags), ("rsp", self.rsp), ("rbp", self.rbp)],
            [("rax", self.rax), ("rbx", self.rbx), ("rcx", self.rcx), ("rdx", self.rdx)],
            [("rsi", self.rsi), ("rdi", self.rdi), ("r8", r8), ("r9", r9)],
            [("r10", r10), ("r11", r11), ("r12", r12), ("r13", r13)],
        ];
        for row in rows {
            for (name, v) in row {
                write!(f, "{name:>7} {v:016x}")?;
            }
            writeln!(f)?;
        }
        writeln!(f, "{:>7} {r14:016x}{:>7} {r15:016x}", "r14", "r15")
    }
}
