//! The Debian image of the long runs: pulled once, kept under the target folder.

use super::{Console, Place, mirror_or_strata};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// For a boot, or for apt: an interpreter on a busy host takes minutes.
pub const LONG: Duration = Duration::from_secs(1200);

pub fn home() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("e2e-home")
}

/// `strata WORDS` in the home that keeps Debian between runs.
pub fn strata(place: &Place, words: &[&str]) -> Command {
    let mut c = place.command("");
    c.args(words).env("STRATA_HOME", home());
    c
}

/// Pulls the first suite that verifies; gives the image's name.
pub fn pull(place: &Place) -> String {
    let mut refused = String::new();
    for image in ["debian:13", "debian:forky", "debian:sid"] {
        let start = Instant::now();
        if strata(place, &["image", "show", image]).output().unwrap().status.success() {
            println!("{image}: pulled by an earlier run");
            return image.into();
        }
        let pull = strata(place, &["image", "pull", image]).stdin(Stdio::null()).output().unwrap();
        if pull.status.success() {
            println!("{image}: pulled in {:.0?}", start.elapsed());
            return image.into();
        }
        refused = mirror_or_strata(&pull);
        println!("{image}: not this one, {refused}");
        assert_eq!(
            pull.status.code(),
            Some(75),
            "only a mirror may be why another suite is tried: {refused}"
        );
    }
    panic!("no suite can be pulled; the last one: {refused}");
}

/// An image that has these packages too: made of the other one once, by apt in a machine, and kept as that is; gives its folder
/// and its name.
pub fn pull_with(place: &Place, packages: &str) -> (PathBuf, String) {
    let name = format!("with-{}", packages.replace(' ', "-"));
    let folder = home().join("images").join(&name);
    if strata(place, &["image", "show", &name]).output().unwrap().status.success() {
        println!("{name}: made by an earlier run");
        return (folder, name);
    }
    let plain = home().join("images").join(pull(place));
    let start = Instant::now();
    let record = std::fs::read_to_string(plain.join("image.json")).unwrap();
    let append = record.split("\"cmdline\": \"").nth(1).and_then(|r| r.split('"').next()).unwrap();
    let disk = place.work().join("disk");
    let mut copy = Command::new("cp");
    copy.arg("--sparse=always").arg(plain.join("disk.raw")).arg(&disk);
    place.finish(&mut copy).good();
    let file = |name: &str| plain.join(name).to_str().unwrap().to_owned();
    let (kernel, initrd) = (file("kernel"), file("initrd"));
    let boot = ["--kernel", &kernel, "--initrd", &initrd, "--append", append];
    let mut c =
        Console::spawn(strata(place, &[&["run", "--cpus", "2", "--disk", "disk"], &boot[..]].concat()));
    log_in(&mut c, &name, start);
    has_an_address(&mut c);
    timed("apt-get update", || c.sh_long("apt-get -q update", LONG));
    let install = format!(
        "DEBIAN_FRONTEND=noninteractive apt-get -qy -o Acquire::Retries=20 install --no-install-recommends {packages}"
    );
    timed("apt-get install", || c.sh_long(&install, LONG));
    c.sh_long("apt-get clean; rm -rf /var/lib/apt/lists/*; fstrim / || true", LONG);
    power_off(c);
    place
        .finish(&mut strata(place, &[&["image", "import", "disk", "--name", &name], &boot[..]].concat()))
        .good();
    std::fs::remove_file(disk).unwrap();
    println!("{name}: made in {:.0?}", start.elapsed());
    (folder, name)
}

/// Has Debian power off.
pub fn power_off(mut c: Console) {
    c.send("systemctl poweroff");
    c.wait_long("Power down", LONG);
    let done = c.end();
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{}", done.out);
}

/// Logs in as root; leaves a shell whose answers can be read.
pub fn log_in(c: &mut Console, what: &str, since: Instant) {
    c.wait_long("login:", LONG);
    println!("{what}: login after {:.1?}", since.elapsed());
    c.send("root");
    c.wait_long("~# ", LONG);
    println!("{what}: shell after {:.1?}", since.elapsed());
    // No colours, no title, no bracketed paste: plain lines.
    c.send("export TERM=dumb PS1='# ' PAGER=cat; bind 'set enable-bracketed-paste off'");
    c.sh("true");
}

/// The login prompt does not wait for the network.
pub fn has_an_address(c: &mut Console) {
    let wait = "for i in $(seq 60); do ip -4 addr | grep -q 'inet 10.0.2.15/24' && break; sleep 1; done";
    c.sh_long(wait, LONG);
    let addresses = c.sh("ip -4 addr | cat");
    assert!(addresses.contains("inet 10.0.2.15/24"), "no address by DHCP:\n{addresses}");
}

/// Runs a step and prints how long it took.
pub fn timed<T>(what: &str, step: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = step();
    println!("{what}: {:.1?}", start.elapsed());
    value
}
