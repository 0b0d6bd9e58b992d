//! The settings of a Debian image: every file that is ours and not a package's.
//!
//! - root logs in on the serial console without a password: there, and only there, `login` is told to
//!   skip authentication; root's password stays locked, so nothing else lets anybody in.
//! - the first (and any) Ethernet NIC gets its address by DHCP from systemd-networkd; systemd-resolved
//!   keeps `/etc/resolv.conf`, since networkd alone hands name servers to nobody else.
//! - units that do nothing in such a machine are masked: each costs an emulated boot a fork and an exec.
//! - apt has the mirror, proxy and validity settings of the pull.

use crate::archive::OpenSuite;
use crate::mirror::Source;
use crate::root::FileEntry;

/// No virtual terminal, no TPM, no EFI, no battery, no swap, nothing to collect or update by itself.
const MASKED: [&str; 30] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty@tty1.service",
    "ldconfig.service",
    "modprobe@configfs.service",
    "modprobe@dm_mod.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "modprobe@loop.service",
    "systemd-binfmt.service",
    "systemd-boot-random-seed.service",
    "systemd-boot-update.service",
    "systemd-firstboot.service",
    "systemd-hibernate-clear.service",
    "systemd-hwdb-update.service",
    "systemd-journal-catalog-update.service",
    "systemd-pcrmachine.service",
    "systemd-pcrphase.service",
    "systemd-pcrphase-sysinit.service",
    "systemd-pstore.service",
    "systemd-tpm2-setup.service",
    "systemd-tpm2-setup-early.service",
    "systemd-update-done.service",
    "systemd-vconsole-setup.service",
    "tpm2.target",
];

const NETWORK: &str = "[Match]\nType=ether\nKind=!*\n\n[Network]\nDHCP=yes\n\n[DHCPv4]\nUseDomains=yes\n";

const GETTY: &str = "# The console belongs to whoever runs the machine: no password is asked there.\n[Service]\nExecStart=\n\
    ExecStart=-/sbin/agetty -o '-f -- \\\\u' --noreset --noclear --keep-baud 115200,57600,38400,9600 - ${TERM}\n";

/// Host keys are made on the first boot, not in the image: instances must not share them.
const SSH_KEYS: &str = "[Unit]\nDescription=Make the SSH host keys of this machine\nBefore=ssh.service\n\
    ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key\n\n[Service]\nType=oneshot\nExecStart=/usr/bin/ssh-keygen -A\n\n\
    [Install]\nWantedBy=multi-user.target\n";

const HOSTS: &str = "127.0.0.1\tlocalhost\n127.0.1.1\tstrata\n::1\tlocalhost ip6-localhost ip6-loopback\n\
    ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// Removed before [`overlay`] is laid over the root.
pub(crate) const REMOVED: [&str; 6] = [
    "etc/profile.d/80-systemd-osc-context.sh",
    "etc/resolv.conf",
    "etc/ssh/ssh_host_*",
    "etc/apt/sources.list",
    "var/cache/debconf/*-old",
    "var/lib/systemd/random-seed",
];

/// What the settings depend on.
pub(crate) struct Choices<'a> {
    pub open: &'a OpenSuite,
    pub source: &'a Source,
    /// Whether Valid-Until is enforced in the image too.
    pub check_valid_until: bool,
    /// UUID of the root file system.
    pub root: &'a str,
    /// Path in the guest of the keyring apt shall use.
    pub keyring: &'a str,
    /// Contents of root's `authorized_keys`, if SSH is wanted.
    pub ssh_key: Option<&'a str>,
}

/// The kernel command line of a Debian image.
pub(crate) fn cmdline(root: &str) -> String {
    format!("console=ttyS0 root=UUID={root} rw quiet")
}

/// U-Boot's menu: the disk's own kernel and initramfs.
pub(crate) fn extlinux(root: &str, release: &str) -> String {
    format!(
        "default strata\ntimeout 1\n\nlabel strata\n\tmenu label Debian, Linux {release}\n\tlinux /boot/vmlinuz\n\
         \tinitrd /boot/initrd.img\n\tappend {}\n",
        cmdline(root)
    )
}

/// Files and links to lay over the configured root.
pub(crate) fn overlay(c: &Choices<'_>) -> (Vec<FileEntry>, Vec<(String, String)>) {
    let file = |path: &str, text: String| (path.to_owned(), 0o644, text.into_bytes());
    let mut files = vec![
        file("etc/hostname", "strata\n".into()),
        file("etc/hosts", HOSTS.into()),
        file("etc/fstab", format!("UUID={}\t/\text4\tdefaults,noatime\t0\t0\n", c.root)),
        // Empty: each machine makes its own on its first boot.
        file("etc/machine-id", String::new()),
        file("etc/default/locale", "LANG=C.UTF-8\n".into()),
        file("etc/locale.conf", "LANG=C.UTF-8\n".into()),
        file("etc/systemd/network/80-ethernet.network", NETWORK.into()),
        file("etc/systemd/system/serial-getty@ttyS0.service.d/strata.conf", GETTY.into()),
        file("etc/apt/sources.list.d/debian.sources", sources(c)),
        file("etc/apt/apt.conf.d/90strata", apt_conf(c)),
    ];
    let mut links = vec![("etc/resolv.conf".to_owned(), "../run/systemd/resolve/resolv.conf".to_owned())];
    // Escape sequences around every prompt, for terminals that few have: noise in a log.
    links.push(("etc/tmpfiles.d/20-systemd-osc-context.conf".into(), "/dev/null".into()));
    links.extend(MASKED.iter().map(|unit| (format!("etc/systemd/system/{unit}"), "/dev/null".to_owned())));
    if let Some(key) = c.ssh_key {
        files.push(("root/.ssh/authorized_keys".into(), 0o600, format!("{}\n", key.trim_end()).into_bytes()));
        files.push(file("etc/systemd/system/strata-ssh-keys.service", SSH_KEYS.into()));
        links.push((
            "etc/systemd/system/multi-user.target.wants/strata-ssh-keys.service".into(),
            "../strata-ssh-keys.service".into(),
        ));
    }
    (files, links)
}

fn sources(c: &Choices<'_>) -> String {
    format!(
        "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nSigned-By: {}\n",
        c.source.mirror, c.open.suite.codename, c.keyring
    )
}

fn apt_conf(c: &Choices<'_>) -> String {
    let mut out = String::from(
        "// As the image was pulled; and without what an emulated machine pays dearly for.\n\
         Acquire::Languages \"none\";\nAcquire::PDiffs \"false\";\n",
    );
    if let Some(proxy) = &c.source.proxy {
        for scheme in ["http", "https"] {
            out.push_str(&format!("Acquire::{scheme}::Proxy \"{proxy}\";\n"));
        }
    }
    if !c.check_valid_until {
        out.push_str("Acquire::Check-Valid-Until \"false\";\n");
    }
    out
}
