//! The bare-metal programs of `guests/`, each on QEMU and on each tier of our machine. They check themselves; the code of a failure
//! is the line of the check that failed.

use anyhow::{Context, Result, ensure};
use std::time::Duration;
use strata_e2e::{guest, qemu, soft, tools};
use strata_machine::Exit;

const LIMIT: Duration = Duration::from_secs(180);

fn passes_on_all(name: &str, harts: usize, options: &[&str]) -> Result<()> {
    if !tools::have(&[tools::GCC, tools::QEMU]) {
        return Ok(());
    }
    let tmp = tempfile::tempdir()?;
    let elf = tmp.path().join(name);
    guest::build(&["start.S", "trap.c", &format!("{name}.c")], options, &elf)?;
    let (status, _) = qemu::run_virt(&elf, harts, LIMIT).context("on QEMU")?;
    ensure!(
        status.success(),
        "{name} ended on QEMU with {status}: the number is that of the line, modulo 256"
    );
    for (tier, how) in soft::TIERS {
        let run = soft::run_machine(how, &elf, harts, LIMIT).with_context(|| format!("on our {tier}"))?;
        ensure!(run.exit == Exit::PowerOff(0), "{name} ended on our {tier} with {:?}", run.exit);
    }
    Ok(())
}

macro_rules! guests {
    ($($name:ident, $harts:literal, $options:expr;)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            let file = stringify!($name).split("_on_").next().unwrap_or_default();
            passes_on_all(file, $harts, &$options)
        })*
    };
}

guests! {
    traps, 1, [];
    paging, 1, [];
    interrupts, 1, [];
    pmp, 1, [];
    plic, 1, [];
    code, 1, [];
    foreign, 2, [];
    harts_on_two, 2, ["-DHARTS=2"];
    harts_on_four, 4, ["-DHARTS=4"];
}

#[test]
fn htif_gives_the_exit_code() -> Result<()> {
    if !tools::have(&[tools::GCC, tools::QEMU]) {
        return Ok(());
    }
    let tmp = tempfile::tempdir()?;
    let elf = tmp.path().join("htif");
    guest::build(&["htif.S"], &[], &elf)?;
    let mut c = qemu::command("spike")?;
    c.arg("-bios").arg(&elf);
    let (status, _) = qemu::run(c, LIMIT)?;
    ensure!(status.code() == Some(7), "QEMU's spike machine ended with {status}");
    for (tier, how) in soft::TIERS {
        let run = soft::run_machine(how, &elf, 1, LIMIT)?;
        ensure!(run.exit == Exit::PowerOff(7), "ours, {tier}, ended with {:?}", run.exit);
    }
    Ok(())
}
