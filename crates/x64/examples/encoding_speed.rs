//! What an instruction costs to encode: `cargo run --release -p strata-x64 --example encoding_speed`.

use std::hint::black_box;
use std::time::Instant;

use strata_x64::{Alu, Asm, Cc, Gpr, Mem, Size};

const REGS: [Gpr; 8] = [Gpr::Rax, Gpr::Rcx, Gpr::Rdx, Gpr::Rbx, Gpr::R8, Gpr::R9, Gpr::R12, Gpr::R13];

/// Eight instructions as a translator emits them, operands known only at run time.
fn emit(asm: &mut Asm, n: usize) {
    let (a, b, disp) = (REGS[n % 8], REGS[n / 8 % 8], (n as i32 & 31) * 8 - 128);
    let skip = asm.label();
    asm.mov_rm(Size::Q, a, Mem::base(Gpr::Rbp, disp));
    asm.alu_rr(Alu::Add, Size::Q, a, b);
    asm.alu_ri(Alu::And, Size::D, b, disp * 3);
    asm.lea(Size::Q, b, Mem::index(a, b, 4, disp));
    asm.movsx_rr(a, Size::D, a);
    asm.alu_rm(Alu::Cmp, Size::Q, a, Mem::base(b, disp));
    asm.jcc(Cc::Ne, skip);
    asm.mov_mr(Size::Q, Mem::base(Gpr::Rbp, disp), a);
    asm.bind(skip);
}

fn main() {
    const UNITS: usize = 200_000;
    const BLOCKS: usize = 16;
    let mut asm = Asm::new(0x1000);
    for round in 0..5 {
        let start = Instant::now();
        let mut bytes = 0;
        for unit in 0..UNITS {
            asm.clear(0x1000);
            for n in 0..BLOCKS {
                emit(&mut asm, black_box(unit + n));
            }
            bytes += asm.finish().expect("the code is right").len();
        }
        let ns = start.elapsed().as_nanos() as f64;
        let count = (UNITS * BLOCKS * 8) as f64;
        println!(
            "round {round}: {:.2} ns an instruction, {:.2} bytes each",
            ns / count,
            bytes as f64 / count
        );
    }
}
