//! Where everything lies in a differential program, and how a descriptor and a record are laid out.
//!
//! ```text
//!   0x8000_0000  harness          0x8001_0000  page tables       0x8020_0000  lists
//!   0x8000_1000  S-mode traps     0x8002_0000  scratch memory    0x80a0_0000  descriptors
//!   0x8000_2000  CSR stubs        0x8010_0000  code of slots     0x80e0_0000  log
//!   0x8000_4000  slot count
//! ```

/// Start of RAM.
pub const RAM: u64 = 0x8000_0000;
/// Bytes of RAM.
pub const RAM_SIZE: u64 = 64 << 20;
/// A page full of `ecall`: where traps that are delegated to S mode go.
pub const S_TRAP: u64 = RAM + 0x1000;
/// Routines of two instructions that write t0 to a CSR.
pub const STUBS: u64 = RAM + 0x2000;
/// The number of slots, read by the harness.
pub const SLOTS: u64 = RAM + 0x4000;
/// Page tables.
pub const TABLES: u64 = RAM + 0x1_0000;
/// Memory for loads and stores under test.
pub const SCRATCH: u64 = RAM + 0x2_0000;
/// Bytes of it: 16 pages, aligned to their size, so that they can be one NAPOT range.
pub const SCRATCH_SIZE: u64 = 0x1_0000;
/// Code of the slots.
pub const CODE: u64 = RAM + 0x10_0000;
/// Bytes of code a slot has.
pub const SLOT: u64 = 32;
/// Most slots in a program.
pub const MAX_SLOTS: usize = 0x8000;
/// Lists of CSR writes before and after a slot.
pub const LISTS: u64 = RAM + 0x20_0000;
/// Descriptors.
pub const DESCRIPTORS: u64 = RAM + 0xa0_0000;
/// Bytes of one.
pub const DESCRIPTOR: u64 = 88;
/// The log: a first record that only gives the registers to begin with, then one a slot.
pub const LOG: u64 = RAM + 0xe0_0000;
/// Bytes of a record.
pub const RECORD: u64 = 704;
/// An address where nothing is, on either machine.
pub const NOWHERE: u64 = 0x1_9000_0000;
/// Where syscon is.
pub const FINISHER: u64 = 0x10_0000;
/// The hart's timer compare register.
pub const MTIMECMP: u64 = 0x200_4000;

/// The constants that the harness takes, as compiler options.
pub fn defines() -> Vec<String> {
    let all = [
        ("S_TRAP", S_TRAP),
        ("SLOTS", SLOTS),
        ("DESCRIPTORS", DESCRIPTORS),
        ("DESCRIPTOR", DESCRIPTOR),
        ("LOG", LOG),
        ("RECORD", RECORD),
        ("FINISHER", FINISHER),
        ("MTIMECMP", MTIMECMP),
    ];
    all.iter().map(|(name, value)| format!("-D{name}={value:#x}")).collect()
}

/// Words of a record, by index. Registers x0 to x31 are 0 to 31 (x0's place holds the number of slots to go), f0 to
/// f31 are 32 to 63.
pub mod word {
    #![allow(missing_docs)]
    pub const MSTATUS: usize = 64;
    pub const MCAUSE: usize = 65;
    pub const MTVAL: usize = 66;
    pub const MEPC: usize = 67;
    pub const FCSR: usize = 68;
    pub const SEPC: usize = 69;
    pub const SCAUSE: usize = 70;
    pub const STVAL: usize = 71;
    pub const MIE: usize = 72;
    pub const MIP: usize = 73;
    pub const SATP: usize = 74;
    /// What the registers that got operands held before.
    pub const REPLACED: usize = 75;
    pub const MEMORY: usize = 79;
    pub const MSTATUS_BEFORE: usize = 87;
    pub const COUNT: usize = 88;
}

/// A word's name.
pub fn word_name(n: usize) -> String {
    const NAMES: [&str; 11] =
        ["mstatus", "mcause", "mtval", "mepc", "fcsr", "sepc", "scause", "stval", "mie", "mip", "satp"];
    match n {
        0 => "slots to go".into(),
        1..32 => strata_isa::X_NAMES[n].into(),
        32..64 => strata_isa::F_NAMES[n - 32].into(),
        64..75 => NAMES[n - 64].into(),
        75..79 => format!("register of operand {} before", n - word::REPLACED),
        79..87 => format!("memory+{:#x}", (n - word::MEMORY) * 8),
        _ => "mstatus before".into(),
    }
}
