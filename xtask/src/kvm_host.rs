//! `cargo xtask test-kvm`: a host with genuine KVM, in software, and the KVM tests inside.
//!
//! ```text
//!  this host    qemu-system-x86_64, TCG, a processor with SVM and nested paging
//!   └─ Debian's kernel with kvm-amd, an initramfs of busybox, strata and the tests
//!       └─ the tests' guests, among them that kernel again in instances of strata, on /dev/kvm
//! ```
//! So they run the same on a machine without hardware virtualization, and no scenario may be skipped there. The last line
//! is "kvm: N scenarios passed, M skipped".
//!
//! Of some ten runs one ends with a guest that stands still, or whose processor gives up with a triple fault, at another
//! place each time, as guests of QEMU do there too (`docs/status.md`). So a host in which instances fail, and nothing else, is
//! made once more, and both say so: what fails twice is a failure.

use crate::run::command;
use crate::tools::{self, Tools, target};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

pub(crate) const PACKAGES: &[(&str, &str)] = &[("busybox-static", "busybox"), ("xz-utils", "xz")];

const QEMU: &str = "qemu-system-x86_64";

/// The counter of this host's processors is one, and steady, which Linux believes of an AMD processor only when told: without
/// that its KVM corrects each guest's counter whenever a vCPU is scheduled, as no host does that anybody would use.
pub(crate) const APPEND: &str = "console=ttyS0 quiet panic=-1 tsc=reliable";

/// Modules in the order in which they are inserted.
pub(crate) const MODULES: [&str; 4] = ["irqbypass", "ccp", "kvm", "kvm-amd"];
/// Modules of the Linux that runs as a guest inside, likewise.
const GUEST_MODULES: [&str; 11] = [
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio-rng",
];
/// A run takes some two minutes on an idle host of two processors.
const LIMIT: Duration = Duration::from_secs(900);
/// What the host's init says at the end, with a number for what failed.
const VERDICT: &str = "test-kvm ended with ";
/// What is said of a number that is not 0.
const ENDED: &str = "the tests on KVM ended with ";

/// Installs what is missing, builds the host and runs the tests in it.
pub fn test(tools: &Tools) -> Result<(), String> {
    tools::packages(PACKAGES)?;
    let dir = target().join("tools/kvm-host");
    let Host { root, kernel, modules } = host(&dir, &MODULES)?;
    programs(tools, &root)?;
    guest(&dir.join("guest"), &modules, &root.join("guest/initrd.gz"))?;
    let archive = dir.join("initramfs.gz");
    pack(&root, &init(TESTS), &archive)?;
    let once = || run(tools, &kernel, &archive, &[], LIMIT);
    once().or_else(|why| match why.strip_prefix(ENDED) {
        Some("1") => {
            println!("kvm: an instance failed. ONCE MORE: what comes again is a failure; see docs/status.md");
            once().inspect(|()| println!("kvm: passed only when tried again"))
        }
        _ => Err(why),
    })
}

/// A host that is being made.
pub(crate) struct Host {
    /// What becomes its initramfs.
    pub(crate) root: PathBuf,
    /// Its kernel, which its guests have too.
    pub(crate) kernel: PathBuf,
    /// Where all modules of that are.
    pub(crate) modules: PathBuf,
}

/// Begins a host in `dir/root`, with these modules and without programs.
pub(crate) fn host(dir: &Path, wanted: &[&str]) -> Result<Host, String> {
    let shared = target().join("tools/kvm-host");
    let (root, kernel) = (dir.join("root"), kernel(&shared)?);
    let modules = shared.join("kernel/lib/modules");
    let _ = fs::remove_dir_all(&root);
    for d in ["bin", "data", "dev", "etc", "guest", "modules", "proc", "sys", "tmp", "www"] {
        make(&root.join(d))?;
    }
    put(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
    put_modules(&modules, wanted, &root)?;
    put(&kernel, &root.join("guest/vmlinuz"))?;
    write(&root.join("www/hello"), "hello from the host\n")?;
    write(&root.join("etc/passwd"), "root:x:0:0:root:/tmp:/bin/sh\n")?;
    Ok(Host { root, kernel, modules })
}

/// Puts modules into `root`, under names by which they are inserted in order.
pub(crate) fn put_modules(all: &Path, wanted: &[&str], root: &Path) -> Result<(), String> {
    for (module, n) in wanted.iter().zip(0..) {
        unpack(&find(all, module)?, &root.join(format!("modules/{n:02}-{module}.ko")))?;
    }
    Ok(())
}

/// The initrd of the Linux that runs as a guest inside: it says how many processors it has, and starts a shell.
pub(crate) fn guest(root: &Path, modules: &Path, archive: &Path) -> Result<(), String> {
    let _ = fs::remove_dir_all(root);
    for d in ["bin", "dev", "modules", "proc", "sys"] {
        make(&root.join(d))?;
    }
    put(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
    put_modules(modules, &GUEST_MODULES, root)?;
    let dhcp = root.join("dhcp");
    write(&dhcp, GUEST_DHCP)?;
    command(Command::new("chmod").arg("755").arg(&dhcp))?;
    pack(root, GUEST_INIT, archive)
}

/// Packs `root` with `init` as an initramfs.
pub(crate) fn pack(root: &Path, init: &str, archive: &Path) -> Result<(), String> {
    write(&root.join("init"), init)?;
    command(Command::new("chmod").arg("755").arg(root.join("init")))?;
    let pack = "find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > \"$0\"";
    command(Command::new("sh").args(["-c", pack]).arg(archive).current_dir(root))
}

const GUEST_INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in /modules/*; do insmod $m; done
echo guest is up with $(grep -c ^processor /proc/cpuinfo) processors
exec setsid cttyhack sh
";

/// What the guest's DHCP client does with an address.
const GUEST_DHCP: &str = "#!/bin/sh
[ \"$1\" = bound ] && ifconfig $interface $ip netmask $subnet && route add default gw $router
";

/// Runs the tests one after the other; what is left is 1 if only instances failed.
const TESTS: &str = "export STRATA_HOME=/tmp/strata
unit --test-threads=1 || worst=2
conformance run /program all || worst=2
instance /bin/strata /guest/vmlinuz /guest/initrd.gz || worst=$((worst + 1))
";

/// A host's init that runs `what`, which leaves a number for what failed in `worst`.
pub(crate) fn init(what: &str) -> String {
    format!("{BEGIN}{what}{END}")
}

/// Makes a host ready, and inserts its modules.
const BEGIN: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
ifconfig lo 127.0.0.1 up
httpd -p 127.0.0.1:8000 -h /www
for m in /modules/*; do insmod $m || echo \"cannot insert $m\"; done
export RUST_BACKTRACE=1 PATH=/bin HOME=/tmp
worst=0
";
/// Tells the number, and turns it off.
const END: &str = "echo \"test-kvm ended with $worst\"
poweroff -f
";

pub(crate) fn make(dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))
}

pub(crate) fn put(from: &Path, to: &Path) -> Result<(), String> {
    if let Some(dir) = to.parent() {
        make(dir)?;
    }
    fs::copy(from, to)
        .map(drop)
        .map_err(|e| format!("cannot copy {} to {}: {e}", from.display(), to.display()))
}

pub(crate) fn write(to: &Path, text: &str) -> Result<(), String> {
    fs::write(to, text).map_err(|e| format!("cannot write {}: {e}", to.display()))
}

fn output(c: &mut Command) -> Result<String, String> {
    let done = c.output().map_err(|e| format!("{c:?} did not start: {e}"))?;
    if !done.status.success() {
        return Err(format!("{c:?} ended with {}: {}", done.status, String::from_utf8_lossy(&done.stderr)));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

/// Unpacks the newest kernel package that apt knows, beside the system; gives the kernel.
fn kernel(dir: &Path) -> Result<PathBuf, String> {
    let depends = output(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
    let package = depends
        .lines()
        .filter_map(|l| l.trim().strip_prefix("Depends: "))
        .find(|p| p.starts_with("linux-image-"))
        .ok_or("apt knows no linux-image-amd64; is Debian's archive for amd64 among its sources?")?;
    let unpacked = dir.join("kernel");
    let image = unpacked.join(format!("boot/vmlinuz-{}", package.trim_start_matches("linux-image-")));
    if image.is_file() {
        return Ok(image);
    }
    let _ = fs::remove_dir_all(dir);
    let half = dir.join("half");
    make(&half)?;
    let download = ["-qq", "-o", "APT::Sandbox::User=root", "download", package];
    command(Command::new("apt-get").args(download).current_dir(dir))?;
    let entries = fs::read_dir(dir).map_err(|e| format!("cannot list {}: {e}", dir.display()))?;
    let deb = entries.flatten().map(|e| e.path()).find(|p| p.extension().is_some_and(|e| e == "deb"));
    let deb = deb.ok_or_else(|| format!("apt-get downloaded no {package}"))?;
    command(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&half))?;
    // Only what is whole has the name that is looked for.
    fs::rename(&half, &unpacked).map_err(|e| format!("cannot rename {}: {e}", half.display()))?;
    Ok(image)
}

/// The file of module `name` somewhere below `dir`, compressed or not.
fn find(dir: &Path, name: &str) -> Result<PathBuf, String> {
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        for path in fs::read_dir(&dir).map_err(|e| format!("cannot list {}: {e}", dir.display()))?.flatten() {
            let (path, file) = (path.path(), path.file_name().to_string_lossy().into_owned());
            if path.is_dir() {
                left.push(path);
            } else if file == format!("{name}.ko") || file == format!("{name}.ko.xz") {
                return Ok(path);
            }
        }
    }
    Err(format!("the kernel package has no module {name}"))
}

fn unpack(from: &Path, to: &Path) -> Result<(), String> {
    if from.extension().is_none_or(|e| e != "xz") {
        return put(from, to);
    }
    let plain = fs::File::create(to).map_err(|e| format!("cannot make {}: {e}", to.display()))?;
    command(Command::new("xz").arg("-dc").arg(from).stdout(plain))
}

/// Builds the tests, and puts them and the libraries that they need into `root`.
fn programs(tools: &Tools, root: &Path) -> Result<(), String> {
    let cargo = || crate::run::cargo(tools);
    command(cargo().args(["build", "-p", "strata-e2e", "-p", "strata", "--bins"]))?;
    let conformance = target().join("debug/conformance");
    command(Command::new(&conformance).arg("build").arg(root.join("program")))?;
    let built = cargo()
        .args(["test", "-p", "strata-kvm", "--lib", "--no-run", "--message-format=json"])
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| format!("cargo did not start: {e}"))?;
    let text = String::from_utf8_lossy(&built.stdout).into_owned();
    // One line a crate; only the tests' own has a program.
    let unit =
        text.lines().filter_map(|l| l.split("\"executable\":\"").nth(1)?.split('"').next()).next_back();
    let unit = unit.ok_or("cargo built no tests of strata-kvm")?;
    let built = |name: &str| (target().join("debug").join(name), name.to_owned());
    let unit = (PathBuf::from(unit), "unit".to_owned());
    for (from, name) in &[built("conformance"), built("instance"), built("strata"), unit] {
        program(from, name, root)?;
    }
    Ok(())
}

/// Puts a program and the libraries that it needs into `root`.
pub(crate) fn program(from: &Path, name: &str, root: &Path) -> Result<(), String> {
    let to = root.join("bin").join(name);
    put(from, &to)?;
    command(Command::new("strip").arg("-g").arg(&to))?;
    for library in output(Command::new("ldd").arg(from))?.split_whitespace().filter(|w| w.starts_with('/')) {
        put(Path::new(library), &root.join(library.trim_start_matches('/')))?;
    }
    Ok(())
}

/// How many scenarios passed and were skipped, if `line` is a program's count of them.
fn counts(line: &str) -> Option<[u32; 2]> {
    let (passed, rest) = line.strip_prefix("kvm: ")?.split_once(" scenarios passed, ")?;
    Some([passed.parse().ok()?, rest.strip_suffix(" skipped")?.parse().ok()?])
}

/// What a host that was started has said when it is off.
pub(crate) struct Said {
    /// Scenarios that passed, and that were skipped.
    pub(crate) count: [u32; 2],
    /// The number for what failed.
    pub(crate) verdict: Option<String>,
}

impl Said {
    /// Says how many scenarios there were; an error if not all went well.
    pub(crate) fn judge(self, limit: Duration) -> Result<(), String> {
        let [passed, skipped] = self.count;
        if passed == 0 {
            return Err("the host ended before the scenarios did".to_owned());
        }
        println!("kvm: {passed} scenarios passed, {skipped} skipped");
        match self.verdict.as_deref() {
            Some("0") => Ok(()),
            Some(status) => Err(format!("{ENDED}{status}")),
            None => Err(format!("the host did not end its tests within {limit:?}")),
        }
    }
}

/// Starts the host with more arguments, and shows what it prints, until it is off.
pub(crate) fn run(
    tools: &Tools,
    kernel: &Path,
    initramfs: &Path,
    more: &[&str],
    limit: Duration,
) -> Result<(), String> {
    watch(tools, kernel, initramfs, more, Instant::now() + limit, " ")?.judge(limit)
}

/// Starts the host in the folder of its initramfs, with more arguments, and shows what it prints behind a mark, until it is off.
pub(crate) fn watch(
    tools: &Tools,
    kernel: &Path,
    initramfs: &Path,
    more: &[&str],
    until: Instant,
    mark: &str,
) -> Result<Said, String> {
    // `Command` looks for a program on this process's PATH, not on the one that it is given.
    let ours = tools.bin.join(QEMU);
    let mut c = Command::new(if ours.is_file() { ours } else { QEMU.into() });
    c.args(["-accel", "tcg", "-cpu", "max,+svm,+npt", "-smp", "2", "-m", "2G"]);
    c.args(["-nographic", "-no-reboot", "-nic", "none", "-append", APPEND]);
    c.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs).args(more);
    c.current_dir(initramfs.parent().unwrap_or(Path::new(".")));
    eprintln!("+ {c:?}");
    let mut host = c
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{QEMU} did not start: {e}"))?;
    let (tell, hear) = channel();
    if let Some(out) = host.stdout.take() {
        std::thread::spawn(move || {
            let lines = BufReader::new(out).split(b'\n').map_while(Result::ok);
            lines.map(|l| String::from_utf8_lossy(&l).trim_end().to_owned()).try_for_each(|l| tell.send(l))
        });
    }
    let mut said = Said { count: [0, 0], verdict: None };
    loop {
        match hear.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{mark} {line}");
                said.verdict = line.strip_prefix(VERDICT).map(str::to_owned).or(said.verdict);
                let counted = counts(&line).unwrap_or_default();
                said.count.iter_mut().zip(counted).for_each(|(all, n)| *all += n);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                // It may end by itself just now; either way it is waited for.
                let _ = host.kill();
                break;
            }
        }
    }
    let _ = host.wait();
    Ok(said)
}
