//! `cargo xtask test-kvm`: a host with genuine KVM, in software, and the KVM tests inside.
//!
//! ```text
//!  this host    qemu-system-x86_64, TCG, a processor with SVM and nested paging
//!   └─ Debian's kernel with kvm-amd, an initramfs of busybox and the tests
//!       └─ the tests' guests, among them that kernel again, on /dev/kvm
//! ```
//! So they run the same on a machine without hardware virtualization, and no scenario may be skipped there. The last line
//! is "kvm: N scenarios passed, M skipped".

use crate::run::command;
use crate::tools::{self, Tools, target};
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const PACKAGES: &[(&str, &str)] =
    &[("qemu-system-x86", "qemu-system-x86_64"), ("busybox-static", "busybox"), ("xz-utils", "xz")];

/// Modules in the order in which they are inserted.
const MODULES: [&str; 4] = ["irqbypass", "ccp", "kvm", "kvm-amd"];
/// A run takes half a minute on an idle host of two processors.
const LIMIT: Duration = Duration::from_secs(600);
/// What the host's init says at the end, with the worst exit status of what it ran.
const VERDICT: &str = "test-kvm ended with ";

/// Installs what is missing, builds the host and runs the tests in it.
pub fn test(tools: &Tools) -> Result<(), String> {
    tools::packages(PACKAGES)?;
    let dir = target().join("tools/kvm-host");
    let kernel = kernel(&dir)?;
    let root = dir.join("root");
    let _ = fs::remove_dir_all(&root);
    for d in ["bin", "dev", "guest", "modules", "proc", "sys", "tmp"] {
        make(&root.join(d))?;
    }
    put(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
    for (module, n) in MODULES.iter().zip(0..) {
        let from = find(&dir.join("kernel/lib/modules"), module)?;
        unpack(&from, &root.join(format!("modules/{n}-{module}.ko")))?;
    }
    programs(tools, &root)?;
    put(&kernel, &root.join("guest/vmlinuz"))?;
    guest(&dir.join("guest"), &root.join("guest/initrd.gz"))?;
    let archive = dir.join("initramfs.gz");
    pack(&root, INIT, &archive)?;
    run(&kernel, &archive)
}

/// The initrd of the Linux that runs as a guest inside: it says how many processors it has, and powers off.
fn guest(root: &Path, archive: &Path) -> Result<(), String> {
    let _ = fs::remove_dir_all(root);
    for d in ["bin", "dev", "proc"] {
        make(&root.join(d))?;
    }
    put(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
    pack(root, GUEST_INIT, archive)
}

/// Packs `root` with `init` as an initramfs.
fn pack(root: &Path, init: &str, archive: &Path) -> Result<(), String> {
    write(&root.join("init"), init)?;
    command(Command::new("chmod").arg("755").arg(root.join("init")))?;
    let pack = "find . | busybox cpio -o -H newc 2>/dev/null | gzip -1 > \"$0\"";
    command(Command::new("sh").args(["-c", pack]).arg(archive).current_dir(root))
}

const GUEST_INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
echo guest is up with $(grep -c ^processor /proc/cpuinfo) processors
poweroff -f
";

/// Inserts the modules, runs the tests one after the other, and tells the worst of their ends.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
for m in /modules/*; do insmod $m || echo \"cannot insert $m\"; done
export RUST_BACKTRACE=1 PATH=/bin
worst=0
unit --test-threads=1 || worst=$?
conformance run /program all || worst=$?
linux /guest/vmlinuz /guest/initrd.gz || worst=$?
echo \"test-kvm ended with $worst\"
poweroff -f
";

fn make(dir: &Path) -> Result<(), String> {
    fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))
}

fn put(from: &Path, to: &Path) -> Result<(), String> {
    if let Some(dir) = to.parent() {
        make(dir)?;
    }
    fs::copy(from, to)
        .map(drop)
        .map_err(|e| format!("cannot copy {} to {}: {e}", from.display(), to.display()))
}

fn write(to: &Path, text: &str) -> Result<(), String> {
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
    command(cargo().args(["build", "-p", "strata-e2e", "--bins"]))?;
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
    let linux = target().join("debug/linux");
    let all = [(conformance.as_path(), "conformance"), (Path::new(unit), "unit"), (linux.as_path(), "linux")];
    for (from, name) in all {
        let to = root.join("bin").join(name);
        put(from, &to)?;
        command(Command::new("strip").arg("-g").arg(&to))?;
        for library in
            output(Command::new("ldd").arg(from))?.split_whitespace().filter(|w| w.starts_with('/'))
        {
            put(Path::new(library), &root.join(library.trim_start_matches('/')))?;
        }
    }
    Ok(())
}

/// Starts the host, and shows what it prints, until it is off.
fn run(kernel: &Path, initramfs: &Path) -> Result<(), String> {
    let mut c = Command::new("qemu-system-x86_64");
    c.args(["-accel", "tcg", "-cpu", "max,+svm,+npt", "-smp", "2", "-m", "2G"]);
    c.args(["-nographic", "-no-reboot", "-nic", "none", "-append", "console=ttyS0 quiet panic=-1"]);
    c.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    eprintln!("+ {c:?}");
    let mut host = c
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|e| format!("qemu-system-x86_64 did not start: {e}"))?;
    let (tell, hear) = channel();
    if let Some(out) = host.stdout.take() {
        std::thread::spawn(move || {
            let lines = BufReader::new(out).split(b'\n').map_while(Result::ok);
            lines.map(|l| String::from_utf8_lossy(&l).trim_end().to_owned()).try_for_each(|l| tell.send(l))
        });
    }
    let (begun, mut verdict, mut count) = (Instant::now(), None, None);
    loop {
        match hear.recv_timeout(LIMIT.saturating_sub(begun.elapsed())) {
            Ok(line) => {
                println!("  {line}");
                verdict = line.strip_prefix(VERDICT).map(str::to_owned).or(verdict);
                count = Some(line).filter(|l| l.ends_with(" skipped") && l.starts_with("kvm: ")).or(count);
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
    let count = count.ok_or("the host ended before the scenarios did")?;
    println!("{count}");
    match verdict.as_deref() {
        Some("0") => Ok(()),
        Some(status) => Err(format!("the tests on KVM ended with {status}")),
        None => Err(format!("the host did not end its tests within {LIMIT:?}")),
    }
}
