//! Runs of QEMU.

use crate::tools::{QEMU, find};
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// The hart with exactly the extensions that ours has.
///
/// All 29 programmable counters exist (ours are zeroes); the debug triggers do not.
pub const CPU: &str = "rv64,zba=on,zbb=on,zbs=on,zicond=on,zicbom=on,zicboz=on,sstc=on,svinval=on,svnapot=on,\
svpbmt=on,svadu=on,zihpm=on,zicntr=on,v=off,h=off,zfa=off,zawrs=off,zbc=off,zcb=off,zacas=off,zicbop=off,\
zihintntl=off,debug=off,smepmp=off,pmu-mask=0xfffffff8,mvendorid=0,marchid=0,mimpid=0";

/// A `qemu-system-riscv64` of `machine` without devices that nobody asked for. The caller adds the program.
pub fn command(machine: &str) -> Result<Command> {
    let program = find(QEMU).context("no qemu-system-riscv64 on the PATH")?;
    let mut c = Command::new(program);
    c.args([
        "-M",
        machine,
        "-cpu",
        CPU,
        "-display",
        "none",
        "-nic",
        "none",
        "-no-reboot",
        "-monitor",
        "none",
    ]);
    c.stdin(Stdio::null());
    Ok(c)
}

/// Runs to the end, for at most `limit`; after that it is killed and that is an error.
pub fn run(mut c: Command, limit: Duration) -> Result<(ExitStatus, Vec<u8>)> {
    let mut child = c.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("starting QEMU")?;
    let mut out = child.stdout.take().context("QEMU's output")?;
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut out, &mut bytes).map(|_| bytes)
    });
    let end = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            child.kill()?;
            child.wait()?;
            bail!("QEMU was still running after {limit:?}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    let bytes = reader.join().map_err(|_| anyhow::anyhow!("reading QEMU's output"))??;
    Ok((status, bytes))
}

/// Runs the bare-metal ELF `program` on the `virt` machine; gives its exit status and what it printed.
pub fn run_virt(program: &Path, harts: usize, limit: Duration) -> Result<(ExitStatus, Vec<u8>)> {
    let mut c = command("virt")?;
    c.args(["-m", "128M", "-smp", &harts.to_string(), "-serial", "stdio", "-bios"]).arg(program);
    run(c, limit)
}
