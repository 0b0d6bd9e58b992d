//! The images `debian:13`, `debian:forky`, `debian:sid`: a bootable disk from Debian's own packages.
//!
//! ```text
//! host   resolve ─ fetch ─ merge into root.tar ─ GPT on a sparse disk
//! guest  mke2fs ─ untar ─ preinst, dpkg --configure ─ settings ─ unmount ─ power off      (guest/build.sh)
//!        or, without a machine: untar ─ preinst, dpkg --configure ─ settings ─ mke2fs -d
//! host   record
//! ```
//! The kernel belongs to the image's record and, with the same initramfs, to the disk's `/boot` for
//! firmware that boots by itself. It is not a package of the guest: Debian's would bring an initramfs
//! generator and 117 MB of modules. Of those the disk gets the ones a virtual machine can use
//! ([`kept_on_disk`]), with what they depend on, unpacked and without signatures.

use crate::arch::Arch;
use crate::archive::{Archive, OpenSuite};
use crate::busybox::{self, Base};
use crate::error::{Error, Result};
use crate::gpt;
use crate::index::Package;
use crate::initramfs;
use crate::kernel::{self, BOOT_MODULES, Plain};
use crate::progress::{Progress, Stage};
use crate::pull::PullRequest;
use crate::record::{DiskFormat, DiskRecord, Record};
use crate::root::{self, FileEntry, Merged};
use crate::runner::{GuestError, GuestJob, GuestRunner};
use crate::settings::{self, Choices};
use crate::store::{Staging, require_space};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Beside the essential packages. systemd-resolved costs 0.3 MB and keeps resolv.conf; fdisk has the
/// `sfdisk` that grows the root.
const ROOTS: [&str; 19] = [
    "apt",
    "dbus",
    "debian-archive-keyring",
    "e2fsprogs",
    "fdisk",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "libpam-systemd",
    "login",
    "mount",
    "netbase",
    "passwd",
    "procps",
    "systemd-resolved",
    "systemd-sysv",
    "tzdata",
    "udev",
];
/// What a disk has if nobody says: it is sparse, and grows with the root when it is made larger.
pub const DEFAULT_DISK: u64 = 8 << 30;
/// Downloads, root.tar and disk together.
const SPACE: u64 = 1536 << 20;
const GUEST_MEMORY: u64 = 1 << 30;
/// About 12 G instructions: a minute on a good day, and never this long.
const GUEST_LIMIT: Duration = Duration::from_secs(3600);
/// Console lines kept for an error message.
const TAIL: usize = 8;

/// Makes disk, kernel and initrd in `stage`; the record.
pub(crate) fn make(
    archive: &Archive<'_>,
    open: &OpenSuite,
    request: &PullRequest,
    runner: &dyn GuestRunner,
    stage: &Staging,
) -> Result<Record> {
    require_space(&stage.dir, SPACE)?;
    let secrets = Secrets::read(request)?;
    let packages = package_set(open, secrets.ssh_key.is_some())?;
    let (base, kernel_packages) = busybox::base(archive, open, &kept_on_disk)?;
    let debs = archive.fetch(&packages)?;
    let boot = base.kernel.with_needs(BOOT_MODULES.into_iter())?;
    let initrd = initramfs::disk(&base.busybox, &boot);
    kernel::write(&stage.dir.join("kernel"), &base.kernel.image)?;
    kernel::write(&stage.dir.join("initrd"), &initrd)?;

    let root_id = gpt::uuid_text(&gpt::random_uuid()?);
    let named: Vec<(PathBuf, String)> =
        debs.into_iter().zip(packages.iter().map(|p| p.name.clone())).collect();
    let extra = boot_files(&base, initrd, &root_id)?;
    let root_tar = stage.dir.join("root.tar");
    let merged = write_root(&named, &extra, &root_tar, archive)?;

    let size = if request.disk_size == 0 { DEFAULT_DISK } else { request.disk_size };
    let disk = stage.dir.join(DiskFormat::Raw.file());
    let file = File::create(&disk).map_err(|e| Error::io("create", &disk, e))?;
    gpt::write(&file, &disk, size, archive.arch, &gpt::random_uuid()?, &gpt::random_uuid()?)?;
    drop(file);

    let build =
        build_initrd(archive, open, &base, &boot, &merged, &root_id, &secrets, request, gpt::root(size));
    let build_path = stage.dir.join("build.initrd");
    kernel::write(&build_path, &build)?;
    let job = GuestJob {
        arch: archive.arch,
        kernel: stage.dir.join("kernel"),
        initrd: build_path.clone(),
        cmdline: busybox::CMDLINE.into(),
        disks: vec![disk, root_tar.clone()],
        memory: GUEST_MEMORY,
        time_limit: GUEST_LIMIT,
        cancel: archive.cancel.clone(),
    };
    run(job, runner, archive.progress, packages.len() as u64)?;
    for scratch in [&root_tar, &build_path] {
        std::fs::remove_file(scratch).map_err(|e| Error::io("remove", scratch, e))?;
    }

    let mut record = Record::new(&crate::canonical_name(&request.image), archive.arch);
    record.cmdline = settings::cmdline(&root_id);
    record.kernel = Some(busybox::kernel_record(open, &base.kernel));
    record.disk = Some(DiskRecord { format: DiskFormat::Raw, virtual_size: size });
    record.origin = Some(busybox::origin(archive, open));
    let all = packages.into_iter().cloned().chain(kernel_packages);
    record.packages = all.map(|p| (p.name, p.version)).collect::<BTreeMap<_, _>>();
    Ok(record)
}

/// What the user gave that is nobody else's business.
struct Secrets {
    password: Option<String>,
    ssh_key: Option<String>,
}

impl Secrets {
    fn read(request: &PullRequest) -> Result<Secrets> {
        let read = |path: &Option<PathBuf>, what: &str| match path {
            None => Ok(None),
            Some(p) => {
                let text = std::fs::read_to_string(p).map_err(|e| Error::io("read", p, e))?;
                let line = text.lines().find(|l| !l.trim().is_empty()).unwrap_or("").to_owned();
                if line.is_empty() {
                    return Err(Error::BadSetting {
                        what: format!("{what} {}", p.display()),
                        why: "it is empty".into(),
                    });
                }
                Ok(Some(line))
            }
        };
        let secrets = Secrets {
            password: read(&request.root_password_file, "--root-password-file")?,
            ssh_key: read(&request.ssh_key, "--ssh-key")?,
        };
        if secrets
            .ssh_key
            .as_ref()
            .is_some_and(|k| k.contains("PRIVATE KEY") || k.split_whitespace().count() < 2)
        {
            return Err(Error::BadSetting {
                what: "--ssh-key".into(),
                why: "it must be a public key, as in a .pub file".into(),
            });
        }
        Ok(secrets)
    }
}

fn package_set(open: &OpenSuite, ssh: bool) -> Result<Vec<&Package>> {
    let mut roots: Vec<&str> = ROOTS.to_vec();
    if ssh {
        roots.push("openssh-server");
    }
    open.index.resolve(&roots)
}

/// The modules a virtual machine's user may want: file systems, network, block, virtio.
fn kept_on_disk(stem: &str) -> bool {
    const DIRS: [&str; 36] = [
        "arch/riscv/",
        "arch/x86/crypto/",
        "crypto/",
        "lib/",
        "drivers/virtio/",
        "drivers/vhost/",
        "drivers/md/dm-",
        "drivers/md/dm_",
        "drivers/block/loop",
        "drivers/block/nbd",
        "drivers/block/zram/",
        "drivers/net/bonding/",
        "drivers/net/wireguard/",
        "drivers/net/vxlan/",
        "fs/9p/",
        "fs/autofs/",
        "fs/binfmt_misc",
        "fs/btrfs/",
        "fs/fat/",
        "fs/fuse/",
        "fs/isofs/",
        "fs/netfs/",
        "fs/nls/",
        "fs/overlayfs/",
        "fs/squashfs/",
        "fs/xfs/",
        "net/8021q/",
        "net/802/",
        "net/9p/",
        "net/bridge/",
        "net/ipv4/",
        "net/ipv6/",
        "net/netfilter/",
        "net/packet/",
        "net/sched/",
        "net/vmw_vsock/",
    ];
    const FILES: [&str; 9] = [
        "drivers/net/dummy",
        "drivers/net/veth",
        "drivers/net/tun",
        "drivers/net/tap",
        "drivers/net/macvlan",
        "drivers/net/macvtap",
        "drivers/net/ipvlan/ipvlan",
        "drivers/net/ifb",
        "drivers/block/virtio_blk",
    ];
    DIRS.iter().any(|d| stem.starts_with(d)) || FILES.contains(&stem)
}

/// Kernel, initramfs and modules as they lie on the disk.
fn boot_files(base: &Base, initrd: Vec<u8>, root_id: &str) -> Result<Vec<FileEntry>> {
    let k = &base.kernel;
    let lib = format!("usr/lib/modules/{}", k.release);
    let mut out = vec![
        ("boot/vmlinuz".to_owned(), 0o644, k.image.clone()),
        ("boot/initrd.img".to_owned(), 0o644, initrd),
        (
            "boot/extlinux/extlinux.conf".to_owned(),
            0o644,
            settings::extlinux(root_id, &k.release).into_bytes(),
        ),
    ];
    out.extend(k.lists.iter().map(|(name, bytes)| (format!("{lib}/{name}"), 0o644, bytes.clone())));
    out.extend(k.with_needs(k.names())?.into_iter().map(|m| (format!("{lib}/{}", m.path), 0o644, m.bytes)));
    Ok(out)
}

/// What formats the disk before there is a root to take programs from.
fn captured(arch: Arch, path: &str) -> bool {
    const LIBS: [&str; 6] =
        ["libext2fs.so", "libcom_err.so", "libblkid.so", "libuuid.so", "libe2p.so", "libc.so"];
    path == "usr/sbin/mke2fs"
        || path == "etc/mke2fs.conf"
        || path.starts_with(arch.loader())
        || path
            .strip_prefix("usr/lib/")
            .and_then(|l| l.strip_prefix(arch.triplet())?.strip_prefix('/'))
            .is_some_and(|l| l.starts_with("ld-linux-") || LIBS.iter().any(|p| l.starts_with(p)))
}

fn write_root(
    named: &[(PathBuf, String)],
    extra: &[FileEntry],
    path: &Path,
    archive: &Archive<'_>,
) -> Result<Merged> {
    let file = File::create(path).map_err(|e| Error::io("create", path, e))?;
    let mut out = BufWriter::with_capacity(1 << 20, file);
    let captured = |path: &str| captured(archive.arch, path);
    let out_path = (&mut out as &mut dyn Write, path);
    let merged =
        root::merge(archive.arch, named, extra, &captured, out_path, archive.progress, archive.cancel)?;
    out.flush().map_err(|e| Error::io("write", path, e))?;
    Ok(merged)
}

#[expect(clippy::too_many_arguments, reason = "one caller; each is a different kind of thing")]
fn build_initrd(
    archive: &Archive<'_>,
    open: &OpenSuite,
    base: &Base,
    boot: &[Plain],
    merged: &Merged,
    root_id: &str,
    secrets: &Secrets,
    request: &PullRequest,
    (root_start, root_size): (u64, u64),
) -> Vec<u8> {
    let (overlay, links) = settings::overlay(&Choices {
        open,
        source: archive.source,
        check_valid_until: archive.source.check_valid_until && !request.allow_expired,
        root: root_id,
        keyring: "/usr/share/keyrings/debian-archive-keyring.pgp",
        ssh_key: secrets.ssh_key.as_deref(),
    });
    let mut preinst: Vec<&str> = merged.preinst.iter().map(String::as_str).collect();
    // These two make the files that the others' scripts expect.
    preinst.sort_by_key(|p| !matches!(*p, "base-passwd" | "base-files"));
    let lines = |all: &[&str]| all.iter().map(|l| format!("{l}\n")).collect::<String>().into_bytes();
    let mut files = vec![
        (
            "settings".to_owned(),
            0o644,
            format!(
                "root_uuid={root_id}\nroot_start={root_start}\nroot_kib={}\nkernel={}\narch={}\n",
                root_size >> 10,
                base.kernel.release,
                archive.arch.name()
            )
            .into_bytes(),
        ),
        ("preinst".to_owned(), 0o644, lines(&preinst)),
        ("remove".to_owned(), 0o644, lines(&settings::REMOVED)),
    ];
    if let Some(password) = &secrets.password {
        files.push(("password".to_owned(), 0o600, format!("root:{password}\n").into_bytes()));
    }
    files.extend(overlay.into_iter().map(|(path, mode, bytes)| (format!("overlay/{path}"), mode, bytes)));
    let file_links: Vec<_> =
        links.into_iter().map(|(path, target)| (format!("overlay/{path}"), target)).collect();
    // Programs lie at their merged places; our initramfs has folders where Debian has links.
    let unmerged = |path: &str| path.strip_prefix("usr/").unwrap_or(path).to_owned();
    let programs: Vec<_> = merged.programs.iter().map(|(p, m, b)| (unmerged(p), *m, b.clone())).collect();
    let links: Vec<_> = merged.links.iter().map(|(p, t)| (unmerged(p), t.clone())).collect();
    let what =
        initramfs::Build { programs: &programs, links: &links, files: &files, file_links: &file_links };
    initramfs::build(&base.busybox, boot, &what)
}

/// Runs the building machine and reads its console.
fn run(job: GuestJob, runner: &dyn GuestRunner, progress: &dyn Progress, packages: u64) -> Result<()> {
    let mut news = News::default();
    // Formatting and unpacking count as one package each, the end as another.
    let total = packages.saturating_add(3);
    progress.stage(Stage::Configure, 0, total);
    let ended = runner.run(job, &mut |bytes| {
        news.hear(bytes);
        progress.stage(Stage::Configure, news.steps.min(total), total);
    });
    news.hear(b"\n");
    let fail = |why: String| {
        let tail = news.tail.iter().cloned().collect::<Vec<_>>().join(" | ");
        Err(Error::Guest { stage: news.stage.clone(), why, tail })
    };
    match (ended, &news.failed) {
        (Err(GuestError::Cancelled), _) => Err(Error::Cancelled),
        (_, Some(why)) => fail(why.clone()),
        (Err(e), None) => fail(e.to_string()),
        (Ok(()), None) if !news.done => fail("it powered off before it was done".into()),
        (Ok(()), None) => Ok(()),
    }
}

/// What the building machine said.
#[derive(Default)]
struct News {
    line: Vec<u8>,
    tail: VecDeque<String>,
    stage: String,
    steps: u64,
    failed: Option<String>,
    done: bool,
}

impl News {
    fn hear(&mut self, bytes: &[u8]) {
        for &b in bytes {
            match b {
                b'\n' => self.end_line(),
                b'\r' => {}
                // A line without end is cut, not collected.
                _ if self.line.len() < 4096 => self.line.push(b),
                _ => {}
            }
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line).trim().to_owned();
        self.line.clear();
        if line.is_empty() {
            return;
        }
        match line.strip_prefix("STRATA ").and_then(|w| w.split_once(' ').or(Some((w, "")))) {
            Some(("stage", stage)) => {
                self.steps = self.steps.saturating_add(1);
                stage.clone_into(&mut self.stage);
            }
            Some(("failed", why)) => self.failed = Some(format!("{why} failed")),
            Some(("done", _)) => self.done = true,
            _ if line.starts_with("Setting up ") => self.steps = self.steps.saturating_add(1),
            _ => {}
        }
        if self.tail.len() >= TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::{Cancel, Silent};
    use crate::runner::Place;

    struct Says(&'static str, fn() -> std::result::Result<(), GuestError>);

    impl GuestRunner for Says {
        fn ready(&self, _: Arch) -> std::result::Result<Place, GuestError> {
            Ok(Place::Machine)
        }
        fn run(&self, _: GuestJob, console: &mut dyn FnMut(&[u8])) -> std::result::Result<(), GuestError> {
            for piece in self.0.as_bytes().chunks(3) {
                console(piece);
            }
            self.1()
        }
    }

    fn outcome(text: &'static str, end: fn() -> std::result::Result<(), GuestError>) -> Result<()> {
        let job = GuestJob {
            arch: Arch::default(),
            kernel: PathBuf::new(),
            initrd: PathBuf::new(),
            cmdline: String::new(),
            disks: vec![],
            memory: 0,
            time_limit: Duration::ZERO,
            cancel: Cancel::default(),
        };
        run(job, &Says(text, end), &Silent, 3)
    }

    #[test]
    fn the_console_decides() {
        outcome("STRATA stage format\r\nSetting up x ...\r\nSTRATA done", || Ok(())).unwrap();
        let e = outcome("STRATA stage format\r\n", || Ok(())).unwrap_err().to_string();
        assert!(e.contains("to format") && e.contains("before it was done"), "{e}");
        let e = outcome("STRATA stage extract\ntar: oops\nSTRATA failed tar\n", || Ok(()))
            .unwrap_err()
            .to_string();
        assert!(e.contains("tar failed") && e.contains("tar: oops | STRATA failed tar"), "{e}");
        let e = outcome("STRATA done\n", || Err(GuestError::TimedOut(Duration::from_secs(9))))
            .unwrap_err()
            .to_string();
        assert!(e.contains("within 9s"), "{e}");
        assert!(matches!(outcome("", || Err(GuestError::Cancelled)), Err(Error::Cancelled)));
    }
}
