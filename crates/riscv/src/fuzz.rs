//! Entry points for fuzzers: bytes become a program or a saved state. Nothing may panic, whatever they are.

use crate::{Hart, HartConfig};
use std::sync::Arc;
use strata_engine::{Counted, Entry, FirmwareCalls, ManualClock, NoBus, Privilege, Stop, Vcpu};
use strata_memory::GuestRam;
use strata_state::{Part, Stateful};

const BASE: u64 = 0x8000_0000;
const SIZE: u64 = 64 << 10;

fn hart(kernel: bool) -> Option<Hart> {
    let ram = GuestRam::single(BASE, SIZE).ok()?;
    let config = if kernel { HartConfig::with_machine_as_firmware(0) } else { HartConfig::new(0) };
    Some(Hart::new(config, ram, Arc::new(NoBus), Arc::new(ManualClock::default())))
}

/// `data` is a program; its first byte says in which mode it starts.
pub fn fuzz_program(data: &[u8]) {
    let Some((&mode, code)) = data.split_first() else { return };
    let kernel = mode & 1 != 0;
    let Ok(ram) = GuestRam::single(BASE, SIZE) else { return };
    let config = if kernel { HartConfig::with_machine_as_firmware(0) } else { HartConfig::new(0) };
    let code = code.get(..SIZE as usize).unwrap_or(code);
    if ram.load(BASE, code).is_err() {
        return;
    }
    let mut hart = Hart::new(config, ram, Arc::new(NoBus), Arc::new(ManualClock::default()));
    let privilege = if kernel { Privilege::Kernel } else { Privilege::Firmware };
    hart.boot(Entry { pc: BASE, args: [BASE, BASE + SIZE / 2, 8], privilege });
    for _ in 0..8 {
        match hart.run_for(64) {
            Stop::Stuck(_) => return,
            Stop::FirmwareCall(_) => hart.finish_call(0, 0),
            _ => {}
        }
    }
    assert!(hart.check(&hart.state()).is_ok(), "a program reached a state that would not load");
}

/// `data` is a saved hart. What loads must save to the same bytes and run.
pub fn fuzz_state(data: &[u8]) {
    let Some(mut hart) = hart(false) else { return };
    if hart.load(data).is_ok() {
        let again = hart.save();
        assert!(hart.load(&again).is_ok() && hart.save() == again, "what was loaded does not save");
        hart.run_for(64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use strata_isa::random::SplitMix64;

    #[test]
    fn programs_of_random_bytes() {
        let mut rng = SplitMix64::new(7);
        for n in 0..400 {
            let mut data: Vec<u8> = (0..256).flat_map(|_| rng.next_u64().to_le_bytes()).collect();
            if n % 2 == 0 {
                // Make most of it 32-bit instructions of known major opcodes.
                data.iter_mut().skip(1).step_by(4).for_each(|b| *b |= 3);
            }
            fuzz_program(&data);
        }
    }

    #[test]
    fn states_with_bytes_changed() {
        let mut rng = SplitMix64::new(9);
        let good = hart(false).unwrap().save();
        fuzz_state(&good);
        for _ in 0..400 {
            let mut bad = good.clone();
            for _ in 0..=rng.below(4) {
                let at = rng.below(bad.len() as u64) as usize;
                bad[at] = rng.next_u64() as u8;
            }
            fuzz_state(&bad);
        }
    }
}
