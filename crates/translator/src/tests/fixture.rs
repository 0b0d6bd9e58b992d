//! A bare machine of one hart, with and without a translator.

use crate::Options;
use std::sync::Arc;
use strata_engine::{Entry, ManualClock, NoBus, Privilege, Vcpu};
use strata_isa::random::SplitMix64;
use strata_isa::{Insn, Op, encode};
use strata_memory::GuestRam;
use strata_riscv::{Hart, HartConfig, HartState};
use strata_state::Stateful;

pub const BASE: u64 = 0x8000_0000;
pub const SIZE: u64 = 4 << 20;
/// Data that programs read and write.
pub const DATA: u64 = BASE + 0x10_0000;

pub struct Machine {
    pub hart: Hart,
    pub ram: GuestRam,
    base: u64,
}

impl Machine {
    /// Translated with these options, or interpreted, with its first instruction at `base`, where traps lead too.
    pub fn new(translated: Option<Options>, base: u64) -> Machine {
        let ram = GuestRam::single(BASE, SIZE).unwrap();
        let clock = Arc::new(ManualClock::default());
        let tier = translated.map(|o| crate::tier_with(o).unwrap());
        let config = HartConfig::new(0);
        let mut hart = Hart::with_tier(config, ram.clone(), Arc::new(NoBus), clock, tier);
        hart.boot(Entry { pc: base, args: [0; 3], privilege: Privilege::Firmware });
        Machine { hart, ram, base }
    }

    /// Random registers, in which `pointers` lead to data.
    pub fn registers(&mut self, rng: &mut SplitMix64, pointers: u32) {
        let mut s: HartState = self.hart.state();
        for n in 1..32 {
            let small = rng.chance(30);
            let any = rng.next_u64();
            s.x[n] = match pointers >> n & 1 {
                1 => DATA + rng.below(SIZE / 4) / 8 * 8,
                _ if small => any % 64,
                _ => any,
            };
            s.f[n] = if rng.chance(50) { (any % 1000) as f64 * 0.37 } else { f64::from_bits(any) }.to_bits();
        }
        s.mstatus |= 3 << 13;
        s.mtvec = self.base & !3;
        self.hart.set_state(s);
        self.hart.settle();
    }

    pub fn memory(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.peek(at, &mut bytes).unwrap();
        bytes
    }
}

pub fn insn(op: Op, rd: u8, rs1: u8, rs2: u8, imm: i32) -> u32 {
    encode(&Insn { op, rd, rs1, rs2, rs3: 0, rm: 0, len: 4, imm, raw: 0 }).unwrap()
}
