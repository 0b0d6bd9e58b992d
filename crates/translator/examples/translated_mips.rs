//! How many guest instructions a second run translated, and interpreted:
//! `cargo run --release -p strata-translator --example translated_mips -- flat-binary…`.
//!
//! Each is loaded at 0x8000_0000 and ends by `ecall`; the hart is set up as if its machine were the firmware.

use std::sync::Arc;
use std::time::Instant;
use strata_engine::{Entry, GuestClock, NoBus, Privilege, Stop, Vcpu};
use strata_memory::GuestRam;
use strata_riscv::{Hart, HartConfig};

const BASE: u64 = 0x8000_0000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for path in std::env::args().skip(1) {
        let image = std::fs::read(&path)?;
        for translated in [true, false] {
            let ram = GuestRam::single(BASE, 64 << 20)?;
            ram.load(BASE, &image)?;
            let clock = Arc::new(GuestClock::stopped_at(0));
            clock.start();
            let tier = if translated { Some(strata_translator::tier()?) } else { None };
            let config = HartConfig::with_machine_as_firmware(0);
            let mut hart = Hart::with_tier(config, ram, Arc::new(NoBus), clock, tier);
            hart.boot(Entry { pc: BASE, args: [0; 3], privilege: Privilege::Kernel });
            let start = Instant::now();
            let stop = hart.run();
            let seconds = start.elapsed().as_secs_f64();
            let Stop::FirmwareCall(args) = stop else { return Err(format!("stopped by {stop:?}").into()) };
            let mips = hart.retired() as f64 / seconds / 1e6;
            let how = if translated { "translated" } else { "interpreted" };
            println!("{path}: a0 = {:#x}, {how} in {seconds:.3} s: {mips:.0} MIPS", args[0]);
        }
    }
    Ok(())
}
