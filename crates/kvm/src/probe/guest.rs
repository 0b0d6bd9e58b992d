//! The probe's guest: five pages, and a program in 64-bit mode at privilege level 0.
//!
//! | page | holds |
//! |---|---|
//! | 0 | program |
//! | 1-3 | page tables: PML4, PDPT, PD, which map the first 2 MiB to itself as one page |
//! | 4 | sum, count, stack |
//!
//! The loop writes to another page than it runs from: a software processor takes a write to a page with code for code
//! that changes, and looked 200 times slower than it is.
//!
//! First [`EXITS`] port writes, to time an exit. Then for ever: read the count, do once what only kernels may (CR3,
//! interrupt flag, segment), go `count` times round the outer loop, write to the port. A turn of it is 128 turns of
//! memory and arithmetic, which add 128 + 127 + … + 1 to the sum: so the host can check what it timed.

use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs};

/// Size of guest memory.
pub const MEMORY: usize = 5 * PAGE;
/// The port written to.
pub const PORT: u16 = 0x10;
/// Port writes before the first loop.
pub const EXITS: usize = 32;
/// Where the sum is, eight bytes; the count follows it.
pub const SUM: usize = 4 * PAGE;
/// Where the count of outer turns is, four bytes, never 0 when it is read.
pub const COUNT: usize = SUM + 8;
/// Instructions a turn of the outer loop.
pub const TURN_INSNS: u64 = 1 + 128 * 7 + 2;
/// What a turn of the outer loop adds to the sum.
pub const TURN_SUM: u64 = 128 * 129 / 2;

const PAGE: usize = 0x1000;
const OUT: [u8; 2] = [0xe6, PORT as u8];
#[rustfmt::skip]
const LOOP: [u8; 51] = [
    0x8b, 0x4b, 0x08,                   // again: mov ecx, [rbx + 8]
    0x41, 0x0f, 0x20, 0xd8,             //        mov r8, cr3
    0x41, 0x0f, 0x22, 0xd8,             //        mov cr3, r8
    0x9c,                               //        pushfq
    0xfa,                               //        cli
    0x8c, 0xda,                         //        mov edx, ds
    0x8e, 0xda,                         //        mov ds, edx
    0x9d,                               //        popfq
    0xba, 0x80, 0x00, 0x00, 0x00,       // outer: mov edx, 128
    0x48, 0x8b, 0x03,                   // inner: mov rax, [rbx]
    0x48, 0x01, 0xd0,                   //        add rax, rdx
    0x48, 0x89, 0x03,                   //        mov [rbx], rax
    0x49, 0x31, 0xc1,                   //        xor r9, rax
    0x49, 0xc1, 0xc1, 0x05,             //        rol r9, 5
    0xff, 0xca,                         //        dec edx
    0x75, 0xec,                         //        jnz inner
    0xff, 0xc9,                         //        dec ecx
    0x75, 0xe3,                         //        jnz outer
    OUT[0], OUT[1],                     //        out PORT, al
    0xeb, 0xcd,                         //        jmp again
];

/// Guest memory as it is at the start.
pub fn memory() -> [u8; MEMORY] {
    let entry = |page: u64, flags: u64| ((page * PAGE as u64) | flags).to_le_bytes();
    let mut program = OUT.repeat(EXITS);
    program.extend(LOOP);
    let mut memory = [0; MEMORY];
    // Flags: 1 present, 2 writable, 0x80 a large page.
    for (at, bytes) in
        [(0, &program[..]), (PAGE, &entry(2, 3)), (2 * PAGE, &entry(3, 3)), (3 * PAGE, &entry(0, 0x83))]
    {
        memory[at..at + bytes.len()].copy_from_slice(bytes);
    }
    memory
}

/// General registers at the start.
pub fn registers() -> kvm_regs {
    kvm_regs { rip: 0, rbx: SUM as u64, rsp: MEMORY as u64, rflags: 2, ..Default::default() }
}

/// Makes of the registers after reset those of a 64-bit kernel.
pub fn to_long_mode(mut s: kvm_sregs) -> kvm_sregs {
    let data = kvm_segment { limit: u32::MAX, type_: 3, present: 1, s: 1, db: 1, g: 1, ..Default::default() };
    s.cs = kvm_segment { selector: 8, type_: 11, db: 0, l: 1, ..data };
    s.ss = kvm_segment { selector: 16, ..data };
    // The program reloads DS, and there is no descriptor table: in 64-bit mode the null selector will do.
    (s.ds, s.es, s.fs, s.gs) = (data, data, data, data);
    s.cr3 = PAGE as u64;
    s.cr4 = 0x20; // PAE
    s.cr0 = 0x8000_0033; // PG, NE, ET, MP, PE
    s.efer = 0x500; // LMA, LME
    s
}
