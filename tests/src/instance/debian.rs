//! An image of Debian for amd64, on KVM: to its shell, through a reboot, to its end. For `cargo xtask soak amd64`.

use super::Console;
use anyhow::{Result, ensure};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A boot of Debian in a host made in software takes a minute.
const LONG: Duration = Duration::from_secs(600);

/// Logs in as root; leaves a shell whose answers can be read.
fn log_in(guest: &mut Console, what: &str, since: Instant) -> Result<()> {
    guest.wait_for("login:", LONG)?;
    println!("  {what}: login after {:.1} s", since.elapsed().as_secs_f64());
    guest.send("root")?;
    guest.wait_for("~# ", LONG)?;
    println!("  {what}: shell after {:.1} s", since.elapsed().as_secs_f64());
    // No colours, no title, no bracketed paste: plain lines.
    guest.send("export TERM=dumb PS1='# ' PAGER=cat; bind 'set enable-bracketed-paste off'")?;
    guest.sh("true", LONG).map(drop)
}

/// Two vCPUs, disk and network (this host's port 8000 serves the file `hello`), a reboot, a power-off.
pub fn lives(strata: &Path, image: &str) -> Result<()> {
    let mut run = Command::new(strata);
    run.args(["run", image, "--arch", "amd64", "--engine", "kvm", "--cpus", "2", "--memory", "1G"]);
    let begun = Instant::now();
    let mut guest = Console::spawn(run.args(["--name", "debian"]))?;
    log_in(&mut guest, "first boot", begun)?;
    let cpus = guest.sh("nproc", LONG)?;
    ensure!(cpus == "2", "it has {cpus} processors");
    let machine = guest.sh("uname -m; dpkg --print-architecture; dpkg --audit", LONG)?;
    ensure!(machine == "x86_64\namd64", "it is {machine:?}");
    let failed = guest.sh("systemctl is-system-running --wait; systemctl --failed --plain --no-legend", LONG);
    let failed = failed.unwrap_or_else(|e| format!("{e:#}"));
    ensure!(failed.trim() == "running", "not all of it is up: {failed}");
    let address = "for i in $(seq 60); do ip -4 addr | grep -q 'inet 10.0.2.15/24' && break; sleep 1; done; ip -4 addr | cat";
    let address = guest.sh(address, LONG)?;
    ensure!(address.contains("inet 10.0.2.15/24"), "no address by DHCP:\n{address}");
    let fetch =
        "exec 3<>/dev/tcp/10.0.2.2/8000; printf 'GET /hello HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3 | tail -1";
    let fetched = guest.sh(fetch, LONG)?;
    ensure!(fetched == "hello from the host", "the network gave {fetched:?}");

    let begun = Instant::now();
    guest.sh("dd if=/dev/urandom of=/root/data bs=1M count=64 2>/dev/null && sync", LONG)?;
    println!("  64 MB written and synced in {:.1} s", begun.elapsed().as_secs_f64());
    let sum = guest.sh("sha256sum /root/data", LONG)?;
    guest.send("systemctl reboot")?;
    log_in(&mut guest, "reboot", Instant::now())?;
    let now = guest.sh("sha256sum /root/data", LONG)?;
    ensure!(now == sum, "what was written before the reboot was {sum}, and is {now}");
    guest.send("systemctl poweroff")?;
    guest.wait_for("Power down", LONG)?;
    let code = guest.end(LONG)?;
    ensure!(code == 0, "it ended with code {code}");
    let deleted = Command::new(strata).args(["delete", "debian"]).status()?;
    ensure!(deleted.success(), "deleting it ended with {deleted}");
    Ok(())
}
