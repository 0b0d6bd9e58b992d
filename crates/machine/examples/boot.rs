//! Boots a kernel with its console on standard input and output: the machine without anything around it.
//!
//! `boot KERNEL [INITRD [CMDLINE [HARTS [MIB]]]]`
use std::fs::File;
use std::os::fd::AsFd;
use std::time::Instant;
use strata_engine::SeededEntropy;
use strata_machine::loader::{Placement, Source};
use strata_machine::{ConsoleFds, MachineSpec, Resources, build};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |i: usize, default: &str| args.get(i).cloned().unwrap_or(default.to_owned());
    let open = |name: String| Ok::<_, std::io::Error>(Source { file: File::open(&name)?, name });
    let spec = MachineSpec {
        board: strata_machine::Board::RiscvVirt,
        harts: arg(3, "1").parse()?,
        processor: None,
        transport: Default::default(),
        memory: arg(4, "512").parse::<u64>()? << 20,
        cmdline: arg(2, "console=ttyS0"),
        deterministic: false,
        slots: MachineSpec::usual_slots(0, 0),
    };
    let initrd = args.get(1).cloned().map(open).transpose()?;
    let console = ConsoleFds {
        input: std::io::stdin().as_fd().try_clone_to_owned()?,
        output: std::io::stdout().as_fd().try_clone_to_owned()?,
    };
    let resources = Resources {
        tier: None,
        pace: false,
        restore: None,
        placement: Placement { firmware: None, kernel: Some(open(arg(0, "Image"))?), initrd },
        console,
        disks: vec![],
        nics: vec![],
        entropy: Box::new(SeededEntropy(1)),
        code_size: None,
        boot_entropy: Box::new(SeededEntropy(2)),
    };
    let started = Instant::now();
    let machine = build(&spec, resources)?;
    machine.start()?;
    let exit = machine.wait();
    let (n, t) = (machine.retired(), started.elapsed().as_secs_f64());
    eprintln!("{exit:?}: {n} instructions in {t:.2} s, {:.0} MIPS", n as f64 / t / 1e6);
    Ok(())
}
