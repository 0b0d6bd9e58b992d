//! `linux KERNEL INITRD`: boots Linux on the board `x86-micro` on KVM, with two vCPUs, and expects the initrd to say "guest is
//! up with 2 processors" and power off.
#![forbid(unsafe_code)]

use anyhow::{Result, bail, ensure};
use std::path::Path;
use std::time::Duration;
use strata_devices::SystemEvent;
use strata_e2e::linux::boot;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [kernel, initrd] = args.as_slice() else { bail!("usage: linux KERNEL INITRD") };
    let cmdline = "console=ttyS0 quiet panic=-1";
    let boot = boot(Path::new(kernel), Path::new(initrd), cmdline, 2, Duration::from_secs(180))?;
    println!("{}", boot.output);
    ensure!(boot.output.contains("guest is up with 2 processors"), "it did not come up: {:?}", boot.event);
    ensure!(boot.event == Some(SystemEvent::PowerOff(0)), "it ended with {:?}", boot.event);
    println!("linux on x86-micro: up and off in {:.1} s, {} exits", boot.time.as_secs_f64(), boot.exits);
    Ok(())
}
