//! amd64 instances on KVM as a person has them: by the commands, with Debian's own kernel and a shell in the guest.
//!
//! Where it runs, user-mode networking leads a guest to this host's own port 8000, on which somebody serves the file
//! `hello`.

mod console;
mod debian;
pub mod pair;

use anyhow::{Context, Result, ensure};
pub use console::Console;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How long a guest may take to come up: some ten seconds in a host made in software.
const UP: Duration = Duration::from_secs(300);
/// How long a command in it may take.
const SOON: Duration = Duration::from_secs(120);
/// What the guest's init says before its shell.
const IS_UP: &str = "guest is up with 2 processors";

/// What the scenarios are run with.
#[derive(Debug)]
pub struct Setting {
    /// The `strata` binary.
    pub strata: PathBuf,
    /// Debian's kernel.
    pub kernel: PathBuf,
    /// An initrd that loads the virtio drivers, says "guest is up with 2 processors" and starts a shell.
    pub initrd: PathBuf,
}

/// A scenario by its name.
pub type Scenario = (&'static str, fn(&Setting) -> Result<()>);

/// All of them.
pub const SCENARIOS: [Scenario; 2] =
    [("devices and power off", devices), ("suspend, snapshot, clone and migration", saved)];

impl Setting {
    fn run(&self, name: &str) -> Command {
        let mut c = Command::new(&self.strata);
        // By name: a host that is itself made in software is too slow for `auto` when others use its processors.
        c.args([
            "run", "--arch", "amd64", "--engine", "kvm", "--cpus", "2", "--memory", "256M", "--name", name,
        ]);
        c.arg("--kernel").arg(&self.kernel).arg("--initrd").arg(&self.initrd);
        c.args(["--append", "quiet panic=-1"]);
        c
    }

    /// A command that is done at once.
    fn strata(&self, args: &[&str]) -> Result<String> {
        let done = Command::new(&self.strata).args(args).output().context("starting strata")?;
        let err = String::from_utf8_lossy(&done.stderr);
        ensure!(done.status.success(), "strata {args:?} ended with {}: {err}", done.status);
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    fn console(&self, name: &str) -> Result<Console> {
        Console::spawn(Command::new(&self.strata).args(["console", name]))
    }
}

/// A shell on two vCPUs of a level, with a disk, a network and an entropy source on a PCI bus; its reboot, its end.
fn devices(s: &Setting) -> Result<()> {
    let disk = tempfile::NamedTempFile::new()?;
    disk.as_file().set_len(8 << 20)?;
    disk.as_file().write_all_at(b"from the host", 4096)?;
    let begun = Instant::now();
    let refused = s.run("refused").args(["--cpu", "x86-64-v4"]).output()?;
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && why.contains("lacks avx512"), "no AVX-512 here, but: {why}");
    let mut run = s.run("devices");
    run.args(["--cpu", "x86-64-v2", "--virtio", "pci", "--disk"]).arg(disk.path());
    let mut guest = Console::spawn(&mut run)?;
    guest.wait_for(IS_UP, UP)?;
    println!("  up after {:.1} s", begun.elapsed().as_secs_f64());
    // A processor of that level and no more, though this host's has more.
    let flags = guest.sh("grep -m 1 ^flags /proc/cpuinfo", SOON)?;
    let has = |flag: &str| flags.split_whitespace().any(|f| f == flag);
    ensure!(has("popcnt") && has("sse4_2") && !has("avx2") && !has("aes"), "the processor has {flags}");
    let read = guest.sh("dd if=/dev/vda bs=4096 skip=1 count=1 2>/dev/null | head -c 13; echo", SOON)?;
    ensure!(read == "from the host", "the disk has {read:?}");
    guest.sh("echo from the guest | dd of=/dev/vda bs=4096 seek=2 conv=fsync 2>/dev/null", SOON)?;
    guest.sh("dd if=/dev/vda of=/dev/null bs=64k 2>/dev/null", SOON)?;
    guest.sh("ifconfig eth0 up && udhcpc -i eth0 -n -q -f -s /dhcp >/dev/null 2>&1", SOON)?;
    let fetched = guest.sh("wget -q -O - http://10.0.2.2:8000/hello", SOON)?;
    ensure!(fetched == "hello from the host", "the network gave {fetched:?}");
    let random = guest.sh("head -c 64 /dev/hwrng | wc -c", SOON)?;
    ensure!(random == "64", "the entropy source gave {random:?} bytes");
    let told = guest.sh("grep -c 'PCI-MSI.*virtio' /proc/interrupts", SOON)?;
    ensure!(told.parse::<u32>().is_ok_and(|n| n >= 6), "{told} of its interrupts come by messages");
    let clock = guest.sh("cat /sys/devices/system/clocksource/clocksource0/current_clocksource", SOON)?;
    println!("  its clock is {clock}");
    guest.send("reboot -f")?;
    guest.wait_for(IS_UP, UP).context("after a reboot")?;
    let disk_now = guest.sh("dd if=/dev/vda bs=4096 skip=2 count=1 2>/dev/null | head -c 14; echo", SOON)?;
    ensure!(disk_now == "from the guest", "after a reboot, the disk has {disk_now:?}");
    guest.send("poweroff -f")?;
    let code = guest.end(SOON)?;
    ensure!(code == 0, "it ended with code {code}");
    let mut written = [0; 14];
    disk.as_file().read_exact_at(&mut written, 8192)?;
    ensure!(&written == b"from the guest", "the disk was given {:?}", String::from_utf8_lossy(&written));
    s.strata(&["delete", "devices"]).map(drop)
}

/// Memory, and what a shell remembers, through a suspend, a snapshot of a machine that runs, a clone of that, and a migration.
fn saved(s: &Setting) -> Result<()> {
    saved_often(s, 1)
}

/// The same with one machine, again and again.
fn saved_often(s: &Setting, rounds: u32) -> Result<()> {
    let mut run = s.run("first");
    run.arg("--detach");
    let started = Command::new(run.get_program()).args(run.get_args()).output()?;
    ensure!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    let mut guest = s.console("first")?;
    guest.wait_for(IS_UP, UP)?;
    ensure!(s.strata(&["ps", "--verbose"])?.contains("kvm"), "`strata ps` does not say that KVM runs it");
    for round in 1..=rounds {
        let begun = Instant::now();
        guest = saved_once(s, guest).with_context(|| format!("round {round}"))?;
        if rounds > 1 {
            println!("round {round}: {:.1} s", begun.elapsed().as_secs_f64());
        }
    }
    let begun = Instant::now();
    moved(s, guest).context("in a migration")?;
    println!("  to another home in {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// To another home, which is as another host, while it writes to memory, where it ends; its clock does not go back.
fn moved(s: &Setting, mut guest: Console) -> Result<()> {
    let other = tempfile::tempdir()?;
    let there = |args: &[&str]| {
        let mut c = Command::new(&s.strata);
        c.args(args).env("STRATA_HOME", other.path()).env("XDG_RUNTIME_DIR", other.path());
        c
    };
    let here = |args: &[&str]| {
        let mut c = Command::new(&s.strata);
        c.args(args);
        c
    };
    guest.sh("kept=going; head -c 3000000 /dev/urandom > /big; md5sum /big > /sum", SOON)?;
    guest.sh(WRITER, SOON)?;
    guest.sh(WATCH, SOON)?;
    drop(guest);
    send(&here, &there, &["--verify"])?;
    let mut guest = Console::spawn(&mut there(&["console", "first"]))?;
    still_the_same(&mut guest, "going").context("there")?;
    let told = guest.sh("test -e /back && cat /back; cat /gap", SOON)?;
    println!("  its clock was at most {told} hundredths of a second late to itself");
    ensure!(told.parse::<u32>().is_ok(), "its clock went back: {told}");
    drop(guest);
    let stopped = there(&["stop", "first"]).output()?;
    ensure!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    Ok(())
}

/// What writes to the guest's memory all the time.
const WRITER: &str = "(while true; do head -c 1000000 /dev/urandom > /set; done) & true";
/// What looks at the guest's clock, in hundredths of a second: whether it goes back, and the longest time between two looks.
const WATCH: &str = "(last=0; gap=0; while true; do read t rest < /proc/uptime; now=${t%.*}${t#*.}; \
    [ $last -gt 0 ] && [ $now -lt $last ] && echo $now after $last > /back; \
    [ $last -gt 0 ] && [ $((now - last)) -gt $gap ] && gap=$((now - last)) && echo $gap > /gap; last=$now; done) & true";

/// Sends the machine from one home to the other, without encryption, for which a host made in software takes long.
fn send(from: &dyn Fn(&[&str]) -> Command, to: &dyn Fn(&[&str]) -> Command, options: &[&str]) -> Result<()> {
    let address = "127.0.0.1:7000";
    let mut waits = Console::spawn(&mut to(&["migrate", "receive", "--plain", "--listen", address]))?;
    let token = waits.wait_for("\n", SOON)?;
    let done =
        from(&["migrate", "first", address, "--plain", "--token", token.trim()]).args(options).output()?;
    let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    ensure!(done.status.success(), "it stays: {out}{err}");
    println!("{}", out.lines().map(|l| format!("  | {l}")).collect::<Vec<_>>().join("\n"));
    let code = waits.end(SOON)?;
    ensure!(code == 0, "whoever receives it ended with {code}");
    Ok(())
}

/// One round of it; gives the machine's console back.
fn saved_once(s: &Setting, mut guest: Console) -> Result<Console> {
    guest.sh("kept=before; head -c 3000000 /dev/urandom > /big; md5sum /big > /sum", SOON)?;
    drop(guest);
    s.strata(&["suspend", "first"])?;
    s.strata(&["resume", "first"])?;
    let mut guest = s.console("first")?;
    still_the_same(&mut guest, "before").context("after a resume")?;
    guest.sh("kept=later; before=$(date +%s)", SOON)?;
    s.strata(&["pause", "first"])?;
    std::thread::sleep(Duration::from_secs(2));
    s.strata(&["unpause", "first"])?;
    guest.sh("true", SOON)?;

    s.strata(&["snapshot", "create", "first", "one"])?;
    still_the_same(&mut guest, "later").context("after a snapshot")?;
    guest.sh("kept=last; echo other > /big", SOON)?;
    s.strata(&["snapshot", "create", "first", "two"])?;
    s.strata(&["snapshot", "verify", "first", "two"])?;
    s.strata(&["clone", "first@one", "second"])?;
    let mut clone = s.console("second")?;
    still_the_same(&mut clone, "later").context("in a clone")?;
    // The driver hears of it from a work queue of its guest, in its own time.
    let told = "until dmesg | grep -q 'virtual machine fork'; do sleep 0.1; done; dmesg | grep -c 'virtual machine fork'";
    let told = clone.sh(told, SOON)?;
    ensure!(told == "1", "the clone's generation ID was told {told} times");
    drop(clone);
    s.strata(&["clone", "first@two", "third"])?;
    let mut clone = s.console("third")?;
    let has = clone.sh("cat /big; echo $kept", SOON)?;
    ensure!(has == "other\nlast", "a clone of the second snapshot has {has:?}");
    drop(clone);
    for name in ["second", "third"] {
        s.strata(&["stop", name])?;
        s.strata(&["delete", name])?;
    }
    for tag in ["one", "two"] {
        s.strata(&["snapshot", "delete", "first", tag])?;
    }
    Ok(guest)
}

fn still_the_same(guest: &mut Console, kept: &str) -> Result<()> {
    let has = guest.sh("echo $kept; md5sum -c /sum", SOON)?;
    ensure!(has == format!("{kept}\n/big: OK"), "the guest has {has:?}");
    Ok(())
}

/// Says what every VMM has said, and where each thread of `strata` is in the host's kernel: whether a machine that hangs hangs
/// there, in its guest or in the VMM is the first question, and the host is gone when somebody asks it.
fn what_is_left(s: &Setting) {
    println!("{}", s.strata(&["ps", "--verbose"]).unwrap_or_else(|e| format!("{e:#}")));
    let home = std::env::var_os("STRATA_HOME").map(PathBuf::from).unwrap_or_default();
    let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let entries = |dir: &Path| std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path());
    for log in entries(&home.join("instances")).map(|dir| dir.join("vmm.log")) {
        println!("{}:\n{}", log.display(), read(log.clone()));
    }
    let ours = entries(Path::new("/proc")).filter(|p| read(p.join("comm")).starts_with("strata"));
    for task in ours.flat_map(|p| entries(&p.join("task")).collect::<Vec<_>>()) {
        let [name, stat, stack] = ["comm", "stat", "stack"].map(|file| read(task.join(file)));
        // State, and the time in user space and in the kernel (proc(5)), after the name, which may have spaces.
        let after: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
        let field = |n: usize| after.get(n).copied().unwrap_or("?");
        println!("{} {}: {} user {} kernel {}", task.display(), name.trim(), field(0), field(11), field(12));
        println!("{}", stack.lines().take(6).collect::<Vec<_>>().join("\n"));
    }
}

/// Whether Debian lives; says so.
pub fn debian(strata: &Path, image: &str) -> bool {
    let begun = Instant::now();
    let lives = debian::lives(strata, image);
    match &lives {
        Ok(()) => println!("passed in {:.1} s: {image}", begun.elapsed().as_secs_f64()),
        Err(e) => println!("FAILED: {image}: {e:#}"),
    }
    println!("kvm: {} scenarios passed, 0 skipped", u8::from(lives.is_ok()));
    lives.is_ok()
}

/// Whether a scenario passes; says so.
fn passes(setting: &Setting, name: &str, scenario: impl FnOnce() -> Result<()>) -> bool {
    let begun = Instant::now();
    match scenario() {
        Ok(()) => println!("passed in {:.1} s: {name}", begun.elapsed().as_secs_f64()),
        Err(e) => {
            println!("FAILED: {name}: {e:#}");
            what_is_left(setting);
            return false;
        }
    }
    true
}

/// Runs every scenario, or that many rounds of the second; gives whether all passed.
pub fn all(setting: &Setting, rounds: Option<u32>) -> bool {
    let all = match rounds {
        Some(n) => {
            vec![passes(setting, "suspend, snapshot and clone, again and again", || saved_often(setting, n))]
        }
        None => SCENARIOS.map(|(name, scenario)| passes(setting, name, || scenario(setting))).into(),
    };
    let passed = all.iter().filter(|p| **p).count();
    println!("kvm: {passed} scenarios passed, 0 skipped");
    passed == all.len()
}

/// The setting of the program's arguments, and how many rounds are asked for.
pub fn setting(args: &[String]) -> Option<(Setting, Option<u32>)> {
    let [strata, kernel, initrd, rest @ ..] = args else { return None };
    let rounds = match rest {
        [] => None,
        [n] => Some(n.parse().ok()?),
        _ => return None,
    };
    let path = |p: &String| Path::new(p).to_owned();
    Some((Setting { strata: path(strata), kernel: path(kernel), initrd: path(initrd) }, rounds))
}
