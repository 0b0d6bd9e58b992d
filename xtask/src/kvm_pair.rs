//! `cargo xtask soak amd64 pair`: two hosts with genuine KVM, made in software, and a Linux that goes from one to the other.
//!
//! ```text
//!  this host     qemu-system-x86_64, TCG  ══ a link of datagrams ══  qemu-system-x86_64, TCG
//!   ├─ 10.9.0.1, leads                                                10.9.0.2, follows
//!   └─ Debian's kernel with kvm-amd, an initramfs of busybox and strata, the same for both
//!       └─ Debian's kernel in an instance of strata, with the program `guests/linux/turns.c`
//! ```
//! What they do is `tests/src/instance/pair.rs`. Which of the two a host is the kernel's command line says; what the kernel
//! does not know there it gives to init as a variable. Each end of the link is a socket in a folder: nobody else is on it, and
//! neither host has to be there first.

use crate::kvm_host::{APPEND, Host, MODULES, PACKAGES, host, init, make, pack, program, put, watch};
use crate::run::{cargo, command};
use crate::tools::{self, Tools, target};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const MORE_PACKAGES: &[(&str, &str)] = &[("gcc", "gcc")];
/// Two hosts share two processors, and a migration takes long there.
const LIMIT: Duration = Duration::from_secs(3600);
/// For the hosts' link.
const LINK_MODULES: [&str; 8] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
];

/// What a host does, by the number that it is given.
const SIDES: &str = "export STRATA_HOME=/tmp/strata XDG_RUNTIME_DIR=/tmp/run
mkdir -p -m 700 /tmp/run
ifconfig eth0 10.9.0.$side netmask 255.255.255.0 up
case $side in
1) instance /bin/strata pair lead /guest/vmlinuz /guest/initrd.gz 10.9.0.1 10.9.0.2 || worst=1;;
2) instance /bin/strata pair follow 10.9.0.2 || worst=1;;
esac
";

/// The guest has nothing but its program.
const GUEST_INIT: &str = "#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
exec /bin/turns
";

/// Builds it all, and runs both hosts.
pub fn soak(tools: &Tools) -> Result<(), String> {
    tools::packages(PACKAGES)?;
    tools::packages(MORE_PACKAGES)?;
    command(cargo(tools).args(["build", "--release", "--bins", "-p", "strata", "-p", "strata-e2e"]))?;
    let dir = target().join("tools/kvm-pair");
    let Host { root, kernel, .. } = host(&dir, &[&LINK_MODULES[..], &MODULES[..]].concat())?;
    for name in ["strata", "instance"] {
        program(&target().join("release").join(name), name, &root)?;
    }
    guest(&dir.join("guest"), &root.join("guest/initrd.gz"))?;
    let archive = dir.join("initramfs.gz");
    pack(&root, &init(SIDES), &archive)?;
    let (begun, until) = (Instant::now(), Instant::now() + LIMIT);
    let side = |side: u32| {
        let other = 3 - side;
        let link = format!(
            "dgram,id=link,local.type=unix,local.path={side}.socket,remote.type=unix,remote.path={other}.socket"
        );
        let append = format!("{APPEND} side={side}");
        let more = ["-append", &append, "-netdev", &link, "-device", "virtio-net-pci,netdev=link,romfile="];
        watch(tools, &kernel, &archive, &more, until, &format!("{side}"))
    };
    let [first, second] = std::thread::scope(|s| {
        let both = [1, 2].map(|n| s.spawn(move || side(n)));
        both.map(|h| h.join().unwrap_or_else(|_| Err("a thread that watched a host has ended".to_owned())))
    });
    let (mut said, follows) = (first?, second?);
    if said.verdict.as_deref() == Some("0") {
        // Whatever went wrong there, or that it did not end.
        said.verdict = follows.verdict;
    }
    println!("kvm: both hosts were off after {:.0?}", begun.elapsed());
    said.judge(LIMIT)
}

/// The initrd of the Linux that goes from one to the other.
fn guest(root: &Path, archive: &Path) -> Result<(), String> {
    let _ = fs::remove_dir_all(root);
    for d in ["bin", "dev"] {
        make(&root.join(d))?;
    }
    put(Path::new("/bin/busybox"), &root.join("bin/busybox"))?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../guests/linux/turns.c");
    let mut gcc = Command::new("gcc");
    command(gcc.args(["-O2", "-static", "-pthread", "-o"]).arg(root.join("bin/turns")).arg(source))?;
    pack(root, GUEST_INIT, archive)
}
