//! What the tests need from Debian: independent implementations to compare with, and a RISC-V compiler.
//!
//! Packages come through the host's own apt. The system's QEMU may be too old, so a newer suite's is unpacked beside it,
//! without touching the system: a private apt state, `dpkg-deb -x`, and wrappers on the tests' PATH. Too old is what
//! - lacks extensions of RISC-V (7.2: Zicond, Zicbom, Zicboz and Svadu), or
//! - may translate a page while another processor writes it, and keep what it read (before 8.1). A Linux in it that patches
//!   its own code, as all do, then runs into breakpoints that are not there any more: one processor hangs, or all.

use crate::run::command;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Package, and a program that tells whether it is there.
const PACKAGES: &[(&str, &str)] = &[
    ("binutils-riscv64-linux-gnu", "riscv64-linux-gnu-objdump"),
    ("gcc-riscv64-unknown-elf", "riscv64-unknown-elf-gcc"),
    ("device-tree-compiler", "dtc"),
    ("qemu-utils", "qemu-img"),
    ("iproute2", "ip"),
    ("nftables", "nft"),
    ("ca-certificates", "update-ca-certificates"),
];

/// The oldest QEMU that knows every extension compared with it, and sees every write to code.
const QEMU_AT_LEAST: u32 = 9;

/// Programs of QEMU, and their packages.
const QEMUS: [(&str, &str); 2] =
    [("qemu-system-riscv64", "qemu-system-riscv"), ("qemu-system-x86_64", "qemu-system-x86")];

/// The suite whose QEMU is unpacked where the system's is older.
const QEMU_SUITE: &str = "trixie";

/// Where the tools are.
pub struct Tools {
    /// Directory of wrappers, to be first on the PATH.
    pub bin: PathBuf,
}

impl Tools {
    /// PATH with the wrappers first.
    pub fn path(&self) -> OsString {
        let old = std::env::var_os("PATH").unwrap_or_default();
        let all = std::iter::once(self.bin.clone()).chain(std::env::split_paths(&old));
        std::env::join_paths(all).unwrap_or(old)
    }
}

/// The target directory.
pub fn target() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(t) => std::path::absolute(&t).unwrap_or(t.into()),
        None => root.join("target"),
    }
}

/// Installs what is missing.
pub fn install() -> Result<Tools, String> {
    let dir = target().join("tools");
    let bin = dir.join("bin");
    fs::create_dir_all(&bin).map_err(|e| format!("cannot make {}: {e}", bin.display()))?;
    packages(PACKAGES)?;
    qemu(&dir, &bin)?;
    Ok(Tools { bin })
}

fn there(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).any(|d| d.join(program).is_file())
}

/// Installs those of `wanted` (package, and a program that tells whether it is there) that are missing.
pub fn packages(wanted: &[(&str, &str)]) -> Result<(), String> {
    let missing: Vec<_> = wanted.iter().filter(|(_, program)| !there(program)).map(|(p, _)| *p).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let hint =
        |e| format!("{e}\nThe tests need the Debian packages {missing:?}; install them and try again.");
    let apt = || {
        let mut c = if there("sudo") && !is_root() { Command::new("sudo") } else { Command::new("env") };
        c.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]);
        c
    };
    command(apt().arg("update")).map_err(hint)?;
    command(apt().args(["install", "-y", "--no-install-recommends"]).args(&missing)).map_err(hint)
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0)
}

fn version(qemu: &Path) -> Option<u32> {
    let out = Command::new(qemu).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.split("version ").nth(1)?.split('.').next()?.parse().ok()
}

/// Makes sure that every QEMU on the tests' PATH is new enough.
fn qemu(dir: &Path, bin: &Path) -> Result<(), String> {
    let fits = |program: &Path| version(program).is_some_and(|v| v >= QEMU_AT_LEAST);
    if QEMUS.iter().all(|(program, _)| fits(&bin.join(program)) || fits(Path::new(program))) {
        return Ok(());
    }
    let root = dir.join("qemu");
    let state = dir.join("apt");
    for d in ["lists/partial", "cache/archives/partial", "empty"] {
        fs::create_dir_all(state.join(d)).map_err(|e| format!("cannot make {}: {e}", state.display()))?;
    }
    let sources = state.join("sources.list");
    let mirror = mirror()?;
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    let line = format!("deb [arch=amd64 signed-by={keyring}] {mirror} {QEMU_SUITE} main\n");
    fs::write(&sources, line).map_err(|e| format!("cannot write {}: {e}", sources.display()))?;
    fs::write(state.join("status"), "").map_err(|e| format!("cannot write the apt status: {e}"))?;
    let option = |k: &str, v: &Path| format!("{k}={}", v.display());
    let apt = || {
        let mut c = Command::new("apt-get");
        c.arg("-qq").args(["-o", "APT::Architecture=amd64", "-o", "APT::Architectures=amd64"]);
        c.args(["-o", "APT::Sandbox::User=root", "-o", "APT::Get::List-Cleanup=false"]);
        c.args(["-o", &option("Dir::Etc::sourcelist", &sources)]);
        c.args(["-o", &option("Dir::Etc::sourceparts", &state.join("empty"))]);
        c.args(["-o", &option("Dir::State::lists", &state.join("lists"))]);
        c.args(["-o", &option("Dir::State::status", &state.join("status"))]);
        c.args(["-o", &option("Dir::Cache", &state.join("cache"))]);
        c
    };
    command(apt().arg("update"))?;
    let packages = QEMUS.iter().map(|(_, package)| package);
    command(apt().args(["install", "-y", "--download-only", "--no-install-recommends"]).args(packages))?;
    let _ = fs::remove_dir_all(&root);
    fs::create_dir_all(&root).map_err(|e| format!("cannot make {}: {e}", root.display()))?;
    let archives = state.join("cache/archives");
    for deb in fs::read_dir(&archives).map_err(|e| format!("cannot list {}: {e}", archives.display()))? {
        let deb = deb.map_err(|e| e.to_string())?.path();
        if deb.extension().is_some_and(|e| e == "deb") {
            let status = Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&root).status();
            if !status.is_ok_and(|s| s.success()) {
                return Err(format!("cannot unpack {}", deb.display()));
            }
        }
    }
    for (program, _) in QEMUS {
        write_wrapper(bin, program, &root)?;
        if !fits(&bin.join(program)) {
            return Err(format!("the {program} unpacked at {} does not run", root.display()));
        }
    }
    Ok(())
}

fn write_wrapper(bin: &Path, program: &str, root: &Path) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let (r, wrapper) = (root.display(), bin.join(program));
    let lib = format!("{r}/usr/lib/x86_64-linux-gnu");
    // The data directory and a silent audio back end keep it from loading parts of another version.
    let text = format!(
        "#!/bin/sh\nexport QEMU_MODULE_DIR={lib}/qemu\nexec {lib}/ld-linux-x86-64.so.2 --library-path {lib} \
         {r}/usr/bin/{program} -L {r}/usr/share/qemu -L {r}/usr/share/seabios -audio none \"$@\"\n"
    );
    let write = || {
        fs::write(&wrapper, &text)?;
        fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755))
    };
    write().map_err(|e| format!("cannot write {}: {e}", wrapper.display()))
}

/// The Debian archive that this host's apt is configured with.
fn mirror() -> Result<String, String> {
    let out = Command::new("apt-get")
        .args(["indextargets", "--format", "$(SITE) $(REPO_URI) $(CREATED_BY)", "Origin: Debian"])
        .output()
        .map_err(|e| format!("apt-get does not run: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.lines()
        .filter(|l| l.ends_with("Packages"))
        .filter_map(|l| l.split_whitespace().nth(1))
        .find(|u| !u.contains("security"))
        .map(str::to_owned)
        .ok_or_else(|| "apt has no Debian archive among its sources (or needs `apt-get update`)".to_owned())
}
