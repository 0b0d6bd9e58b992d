//! Names of control and status registers, for disassembly and logs. What they hold is the hart's affair.
//!
//! *The RISC-V Instruction Set Manual*, volume II, "CSR Listing", and the chapters of the extensions that add some.

/// The name of CSR `n`, as the assembler spells it.
pub fn csr_name(n: u16) -> Option<String> {
    if let Some((_, name)) = NAMES.iter().find(|(number, _)| *number == n) {
        return Some((*name).into());
    }
    let (prefix, index) = match n {
        0xc03..=0xc1f => ("hpmcounter", n - 0xc00),
        0xb03..=0xb1f => ("mhpmcounter", n - 0xb00),
        0x323..=0x33f => ("mhpmevent", n - 0x320),
        0x3a0..=0x3af => ("pmpcfg", n - 0x3a0),
        0x3b0..=0x3ef => ("pmpaddr", n - 0x3b0),
        _ => return None,
    };
    Some(format!("{prefix}{index}"))
}

const NAMES: [(u16, &str); 61] = [
    (0x001, "fflags"),
    (0x002, "frm"),
    (0x003, "fcsr"),
    (0xc00, "cycle"),
    (0xc01, "time"),
    (0xc02, "instret"),
    (0x100, "sstatus"),
    (0x104, "sie"),
    (0x105, "stvec"),
    (0x106, "scounteren"),
    (0x10a, "senvcfg"),
    (0x10c, "sstateen0"),
    (0x10d, "sstateen1"),
    (0x10e, "sstateen2"),
    (0x10f, "sstateen3"),
    (0x140, "sscratch"),
    (0x141, "sepc"),
    (0x142, "scause"),
    (0x143, "stval"),
    (0x144, "sip"),
    (0x14d, "stimecmp"),
    (0x180, "satp"),
    (0x5a8, "scontext"),
    (0xda0, "scountovf"),
    (0xf11, "mvendorid"),
    (0xf12, "marchid"),
    (0xf13, "mimpid"),
    (0xf14, "mhartid"),
    (0xf15, "mconfigptr"),
    (0x300, "mstatus"),
    (0x301, "misa"),
    (0x302, "medeleg"),
    (0x303, "mideleg"),
    (0x304, "mie"),
    (0x305, "mtvec"),
    (0x306, "mcounteren"),
    (0x30a, "menvcfg"),
    (0x30c, "mstateen0"),
    (0x30d, "mstateen1"),
    (0x30e, "mstateen2"),
    (0x30f, "mstateen3"),
    (0x320, "mcountinhibit"),
    (0x340, "mscratch"),
    (0x341, "mepc"),
    (0x342, "mcause"),
    (0x343, "mtval"),
    (0x344, "mip"),
    (0x34a, "mtinst"),
    (0x34b, "mtval2"),
    (0x747, "mseccfg"),
    (0xb00, "mcycle"),
    (0xb02, "minstret"),
    (0x7a0, "tselect"),
    (0x7a1, "tdata1"),
    (0x7a2, "tdata2"),
    (0x7a3, "tdata3"),
    (0x7a4, "tinfo"),
    (0x7a8, "mcontext"),
    (0x7b0, "dcsr"),
    (0x7b1, "dpc"),
    (0x7b2, "dscratch0"),
];
