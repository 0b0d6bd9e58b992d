//! How many guest instructions the interpreter retires in a second: `cargo run --release -p strata-riscv --example mips`.
//!
//! Without an argument it runs a small sieve of Eratosthenes, hand-encoded; with one, a flat binary loaded at 0x8000_0000
//! that ends by `ecall` (the hart is set up as if its machine were the firmware).

use std::sync::Arc;
use strata_engine::{Entry, GuestClock, NoBus, Privilege, Stop, Vcpu};
use strata_isa::{Insn, Op, encode};
use strata_memory::GuestRam;
use strata_riscv::{Hart, HartConfig};

const BASE: u64 = 0x8000_0000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let image = match std::env::args().nth(1) {
        Some(path) => std::fs::read(path)?,
        None => sieve()?,
    };
    let ram = GuestRam::single(BASE, 64 << 20)?;
    ram.load(BASE, &image)?;
    let clock = Arc::new(GuestClock::stopped_at(0));
    clock.start();
    let mut hart = Hart::new(HartConfig::with_machine_as_firmware(0), ram, Arc::new(NoBus), clock);
    hart.boot(Entry { pc: BASE, args: [0; 3], privilege: Privilege::Kernel });
    let start = cpu_seconds();
    let stop = hart.run();
    let seconds = cpu_seconds() - start;
    let Stop::FirmwareCall(args) = stop else { return Err(format!("stopped by {stop:?}").into()) };
    let retired = hart.retired();
    println!(
        "a0 = {:#x}, {retired} instructions in {seconds:.3} s of processor time: {:.0} MIPS",
        args[0],
        retired as f64 / seconds / 1e6
    );
    Ok(())
}

/// Processor time of this thread: other work on the host does not count.
fn cpu_seconds() -> f64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as f64 + t.tv_nsec as f64 / 1e9
}

/// Counts the primes below 2^20, ten times over.
fn sieve() -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    const ZERO: u8 = 0;
    const A0: u8 = 10;
    let [n, k, j, t, p, rounds, one] = [11u8, 12, 13, 14, 15, 16, 17];
    let insn = |op, rd, rs1, rs2, imm| Insn { op, rd, rs1, rs2, rs3: 0, rm: 0, len: 4, imm, raw: 0 };
    // Offsets are in instructions from the branch.
    let branch = |op, rs1, rs2, insns: i32| insn(op, 0, rs1, rs2, insns * 4);
    let program = [
        insn(Op::Addi, rounds, ZERO, 0, 10),
        insn(Op::Addi, one, ZERO, 0, 1),
        insn(Op::Lui, p, 0, 0, 0x0010_0000), // bytes at BASE + 1 MiB
        insn(Op::Auipc, t, 0, 0, 0),
        insn(Op::Add, p, p, t, 0),
        insn(Op::Lui, n, 0, 0, 0x0010_0000),
        // round: clear the table
        insn(Op::Addi, k, ZERO, 0, 0),
        insn(Op::Add, t, p, k, 0),
        insn(Op::Sd, 0, t, ZERO, 0),
        insn(Op::Addi, k, k, 0, 8),
        branch(Op::Bltu, k, n, -3),
        insn(Op::Addi, A0, ZERO, 0, 0),
        insn(Op::Addi, k, ZERO, 0, 2),
        // next: is I crossed out?
        insn(Op::Add, t, p, k, 0),
        insn(Op::Lbu, t, t, 0, 0),
        branch(Op::Bne, t, ZERO, 8),
        insn(Op::Addi, A0, A0, 0, 1),
        insn(Op::Add, j, k, k, 0),
        branch(Op::Bgeu, j, n, 5),
        // cross out multiples
        insn(Op::Add, t, p, j, 0),
        insn(Op::Sb, 0, t, one, 0),
        insn(Op::Add, j, j, k, 0),
        branch(Op::Bltu, j, n, -3),
        insn(Op::Addi, k, k, 0, 1),
        branch(Op::Bltu, k, n, -11),
        insn(Op::Addi, rounds, rounds, 0, -1),
        branch(Op::Bne, rounds, ZERO, -20),
        insn(Op::Ecall, 0, 0, 0, 0),
    ];
    let words: Result<Vec<u32>, _> = program.iter().map(encode).collect();
    Ok(words?.into_iter().flat_map(u32::to_le_bytes).collect())
}
