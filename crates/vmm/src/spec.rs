//! What a VMM is asked to run: paths and numbers, as the command line or an instance's record give them.
//!
//! The spec names host resources and opens none; the VMM does that, after it has checked what can be checked without
//! opening anything. It crosses from the launching process to the VMM as JSON; both are the same build, so `version`
//! only guards against a binary that was replaced in between.

use crate::arch::{self, Arch, Engine};
use crate::{Error, InstanceRecord, Kind, Result, name};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Version of [`VmmSpec`].
pub const SPEC_VERSION: u32 = 2;
/// Most vCPUs: what the board's interrupt controller has contexts for.
pub const MAX_CPUS: u32 = 64;
/// Least memory, in bytes.
pub const MIN_MEMORY: u64 = 16 << 20;
/// Most memory, in bytes, whatever the host has.
pub const MAX_MEMORY: u64 = 1 << 40;
/// Most disks: the board has 8 virtio slots, of which the network card and the entropy source take two.
pub const MAX_DISKS: usize = 6;
/// Longest kernel command line, in bytes: RISC-V Linux's `COMMAND_LINE_SIZE`, without its final zero.
pub const MAX_CMDLINE: usize = 1023;

/// How the soft engine runs guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// Instruction by instruction.
    Interpreter,
    /// As host code.
    Translator,
}

impl From<Tier> for strata_machine::Tier {
    fn from(t: Tier) -> Self {
        match t {
            Tier::Interpreter => strata_machine::Tier::Interpreter,
            Tier::Translator => strata_machine::Tier::Translator,
        }
    }
}

/// How a machine's virtio devices are reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Virtio {
    /// In slots at fixed addresses.
    #[default]
    Mmio,
    /// As functions of a PCI bus.
    Pci,
}

impl From<Virtio> for strata_machine::Transport {
    fn from(v: Virtio) -> Self {
        match v {
            Virtio::Mmio => strata_machine::Transport::Mmio,
            Virtio::Pci => strata_machine::Transport::Pci,
        }
    }
}

/// A disk image's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// Plain bytes.
    Raw,
    /// QEMU's copy-on-write format.
    Qcow2,
}

impl From<DiskFormat> for strata_block::Format {
    fn from(f: DiskFormat) -> Self {
        match f {
            DiskFormat::Raw => strata_block::Format::Raw,
            DiskFormat::Qcow2 => strata_block::Format::Qcow2,
        }
    }
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec {
    /// File or block device.
    pub path: PathBuf,
    /// Opened for reading only.
    #[serde(default)]
    pub read_only: bool,
    /// Its format; probed where absent.
    #[serde(default)]
    pub format: Option<DiskFormat>,
    /// The one file that it is a writable layer over, with that file's format. Absent: backing files may only come
    /// from the disk's own directory.
    #[serde(default)]
    pub base: Option<(PathBuf, DiskFormat)>,
    /// Further qcow2 layers under the disk and over `base`, if there is one, nearest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<PathBuf>,
}

impl DiskSpec {
    pub(crate) fn make_absolute(&mut self) -> Result<()> {
        make_absolute(&mut self.path)?;
        self.layers.iter_mut().try_for_each(make_absolute)?;
        self.base.iter_mut().try_for_each(|(path, _)| make_absolute(path))
    }
}

/// Makes a path absolute, without resolving links: a link may be meant to lead elsewhere later.
pub(crate) fn make_absolute(path: &mut PathBuf) -> Result<()> {
    if path.as_os_str().is_empty() {
        return Err(Error::new(Kind::Config, "A file's name is empty: name the file."));
    }
    *path = std::path::absolute(&*path).map_err(|e| Error::io("find the current folder", e))?;
    Ok(())
}

/// The network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum NetSpec {
    /// User-mode networking.
    User {
        /// Port forwards, as text: `[tcp:|udp:][ADDRESS:]HOST_PORT:GUEST_PORT`.
        #[serde(default)]
        forwards: Vec<String>,
    },
    /// A TAP interface of the host.
    Tap {
        /// Its name.
        name: String,
    },
    /// No network card.
    None,
}

/// Where the console's output goes besides the clients that attach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ConsoleSpec {
    /// To a primary client, which gets every byte: the guest waits for it. What was printed before it attached is
    /// kept for it. Only the launching client of a machine in the foreground can be it.
    Primary,
    /// To whoever attaches.
    Hub,
    /// To a file, which is made or appended to.
    File {
        /// The file.
        path: PathBuf,
    },
    /// To everyone who connects to a Unix socket that is made here and removed at the end.
    Socket {
        /// Its address.
        path: PathBuf,
    },
}

/// Everything about one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmmSpec {
    /// [`SPEC_VERSION`].
    pub version: u32,
    /// The instance's name.
    pub name: String,
    /// Image that it was made from, for `status`.
    #[serde(default)]
    pub image: Option<String>,
    /// Architecture of the guest.
    #[serde(default)]
    pub arch: Arch,
    /// What is to run it.
    #[serde(default)]
    pub engine: Engine,
    /// The processor that its guest sees, by name; the host's own where absent. Of amd64 machines only.
    #[serde(default)]
    pub cpu: Option<String>,
    /// How its virtio devices are reached.
    #[serde(default)]
    pub virtio: Virtio,
    /// vCPUs, 1 to [`MAX_CPUS`].
    pub cpus: u32,
    /// Memory in bytes.
    pub memory: u64,
    /// For runs that repeat: the seed of all randomness. Absent, the machine runs freely.
    #[serde(default)]
    pub deterministic: Option<u64>,
    /// How to run it; the best that build and host have where absent.
    #[serde(default)]
    pub tier: Option<Tier>,
    /// Kernel command line.
    #[serde(default)]
    pub cmdline: String,
    /// M-mode firmware.
    #[serde(default)]
    pub firmware: Option<PathBuf>,
    /// Kernel, or the firmware's payload.
    #[serde(default)]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    #[serde(default)]
    pub initrd: Option<PathBuf>,
    /// Disks, in the order of their virtio slots.
    #[serde(default)]
    pub disks: Vec<DiskSpec>,
    /// Network.
    pub net: NetSpec,
    /// The card's Ethernet address.
    pub mac: [u8; 6],
    /// Console.
    pub console: ConsoleSpec,
    /// Whether the machine ends with the process that launched it.
    pub foreground: bool,
    /// The instance's folder; its lock is passed beside the spec.
    #[serde(default)]
    pub instance_dir: Option<PathBuf>,
    /// Whether that folder is removed at the end.
    #[serde(default)]
    pub ephemeral: bool,
    /// The saved set to go on from, in that folder. Absent, it is power-on.
    #[serde(default)]
    pub restore: Option<PathBuf>,
    /// What the instance's record says from the first instruction on, where that is something else: what it goes on from
    /// is used up by its start, and one that fails to start stays what it was.
    #[serde(default)]
    pub becomes: Option<Box<InstanceRecord>>,
    /// Whether it is a copy then, or has gone back in time, and is told so.
    #[serde(default)]
    pub renewed: bool,
    /// Whether its clock goes on then as if it had never stood still.
    #[serde(default)]
    pub advance: bool,
    /// Whether another machine on the same bridge may have the same Ethernet address.
    #[serde(default)]
    pub share_mac: bool,
    /// The folder of the snapshot that it goes on from, where it is kept which memory was touched first.
    #[serde(default)]
    pub first_touch: Option<PathBuf>,
}

impl VmmSpec {
    /// A spec with a name and defaults: one vCPU, 512 MiB, user-mode networking, console to whoever attaches,
    /// detached.
    pub fn new(name: impl Into<String>) -> VmmSpec {
        let name = name.into();
        VmmSpec {
            version: SPEC_VERSION,
            mac: name::mac_for(&name, 0),
            name,
            image: None,
            arch: Arch::default(),
            engine: Engine::default(),
            cpu: None,
            virtio: Virtio::default(),
            cpus: 1,
            memory: 512 << 20,
            deterministic: None,
            tier: None,
            cmdline: String::new(),
            firmware: None,
            kernel: None,
            initrd: None,
            disks: Vec::new(),
            net: NetSpec::User { forwards: Vec::new() },
            console: ConsoleSpec::Hub,
            foreground: false,
            instance_dir: None,
            ephemeral: false,
            restore: None,
            becomes: None,
            renewed: false,
            advance: false,
            share_mac: false,
            first_touch: None,
        }
    }

    /// The same with all paths absolute: seen from where the caller stands now.
    ///
    /// # Errors
    /// `Config` for an empty path, or what the host answers about the current folder.
    pub fn absolute(&self) -> Result<VmmSpec> {
        let mut spec = self.clone();
        let files = [
            &mut spec.firmware,
            &mut spec.kernel,
            &mut spec.initrd,
            &mut spec.instance_dir,
            &mut spec.restore,
            &mut spec.first_touch,
        ];
        files.into_iter().flatten().try_for_each(make_absolute)?;
        spec.disks.iter_mut().try_for_each(DiskSpec::make_absolute)?;
        if let ConsoleSpec::File { path } | ConsoleSpec::Socket { path } = &mut spec.console {
            make_absolute(path)?;
        }
        Ok(spec)
    }

    /// Checks what can be checked without opening anything.
    ///
    /// # Errors
    /// `Config` for numbers, names and combinations that cannot work; `Host` for more memory than the host has.
    pub fn check(&self) -> Result<()> {
        self.check_with(host_memory())
    }

    fn check_with(&self, host: Option<u64>) -> Result<()> {
        let config = |m: String| Err(Error::new(Kind::Config, m));
        if self.version != SPEC_VERSION {
            let m = "The strata program was replaced while it started a machine; start it again.";
            return Err(Error::new(Kind::Protocol, m));
        }
        name::check_name(&self.name)?;
        if self.cpus == 0 || self.cpus > MAX_CPUS {
            return config(format!(
                "A machine has 1 to {MAX_CPUS} CPUs, not {}; choose with --cpus.",
                self.cpus
            ));
        }
        check_memory(self.memory, host)?;
        arch::check(self.arch, self.engine, self.cpu.as_deref())?;
        if self.arch == Arch::Amd64 {
            let soft_only = [
                (self.tier.is_some(), "--tier chooses how the software engine runs code"),
                (self.deterministic.is_some(), "--deterministic runs are the software engine's"),
                (
                    self.firmware.is_some(),
                    "--firmware is for RISC-V; an amd64 machine begins with its kernel",
                ),
            ];
            if let Some((_, what)) = soft_only.into_iter().find(|(wanted, _)| *wanted) {
                return config(format!("{what}: leave it out, or use --arch riscv64."));
            }
        }
        if let Some(tier) = self.tier {
            strata_machine::Tier::from(tier).check().map_err(strata_machine::BuildError::from)?;
        }
        if self.cmdline.len() > MAX_CMDLINE || self.cmdline.bytes().any(|b| b == 0 || b == b'\n') {
            return config(format!(
                "The kernel command line must be one line of at most {MAX_CMDLINE} bytes; it has {}.",
                self.cmdline.len()
            ));
        }
        if self.disks.len() > MAX_DISKS {
            return config(format!("A machine has at most {MAX_DISKS} disks, not {}.", self.disks.len()));
        }
        if self.kernel.is_none() && self.firmware.is_none() {
            return config("There is nothing to start: name an image, a --kernel or a --firmware.".into());
        }
        if self.initrd.is_some() && self.kernel.is_none() {
            return config("An --initrd is the kernel's: name the --kernel that is to use it.".into());
        }
        if self.console == ConsoleSpec::Primary && !self.foreground {
            return config(
                "A detached machine has no terminal: use --console file=, socket= or none.".into(),
            );
        }
        if let NetSpec::User { forwards } = &self.net {
            for f in forwards {
                f.parse::<strata_net::Forward>().map_err(|e| Error::new(Kind::Config, format!("{e}.")))?;
            }
        }
        Ok(())
    }
}

/// Checks a machine's memory in bytes against our limits and against the host's RAM and swap (if known).
fn check_memory(memory: u64, host: Option<u64>) -> Result<()> {
    let mib = memory >> 20;
    if memory < MIN_MEMORY {
        let least = MIN_MEMORY >> 20;
        let m =
            format!("{mib} MiB of memory start no kernel: give the machine at least {least} MiB (--memory).");
        return Err(Error::new(Kind::Config, m));
    }
    if memory > MAX_MEMORY {
        let m = format!(
            "{mib} MiB of memory are more than the most a machine can have, {} GiB.",
            MAX_MEMORY >> 30
        );
        return Err(Error::new(Kind::Config, m));
    }
    if !memory.is_multiple_of(4096) {
        return Err(Error::new(
            Kind::Config,
            format!("{memory} bytes of memory are not whole pages of 4096 bytes."),
        ));
    }
    match host {
        Some(host) if memory > host => Err(Error::new(
            Kind::Host,
            format!(
                "The machine wants {mib} MiB of memory, but this host has {} MiB of RAM and swap together: give \
                 the machine less (--memory).",
                host >> 20
            ),
        )),
        _ => Ok(()),
    }
}

/// The host's RAM and swap in bytes, or `None` if it does not say.
pub fn host_memory() -> Option<u64> {
    meminfo(&std::fs::read_to_string(Path::new("/proc/meminfo")).ok()?, &["MemTotal", "SwapTotal"])
}

/// Sum of the named rows of `/proc/meminfo`, in bytes. `None` if one is missing.
pub(crate) fn meminfo(text: &str, rows: &[&str]) -> Option<u64> {
    rows.iter().try_fold(0u64, |sum, row| {
        let rest = text.lines().find_map(|l| l.strip_prefix(row)?.strip_prefix(':'))?;
        let kib: u64 = rest.trim().trim_end_matches("kB").trim().parse().ok()?;
        sum.checked_add(kib.checked_mul(1024)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> VmmSpec {
        VmmSpec { kernel: Some("/k".into()), ..VmmSpec::new("a") }
    }

    fn kind(change: impl FnOnce(&mut VmmSpec)) -> Option<Kind> {
        let mut s = good();
        change(&mut s);
        s.check_with(Some(4 << 30)).err().map(|e| e.kind)
    }

    #[test]
    fn limits() {
        assert_eq!(kind(|_| ()), None);
        assert_eq!(kind(|s| s.cpus = 0), Some(Kind::Config));
        assert_eq!(kind(|s| s.cpus = 64), None);
        assert_eq!(kind(|s| s.cpus = 65), Some(Kind::Config));
        assert_eq!(kind(|s| s.memory = 0), Some(Kind::Config));
        assert_eq!(kind(|s| s.memory = (16 << 20) - 4096), Some(Kind::Config));
        assert_eq!(kind(|s| s.memory = 16 << 20), None);
        assert_eq!(kind(|s| s.memory = (16 << 20) + 1), Some(Kind::Config));
        assert_eq!(kind(|s| s.memory = (4 << 30) + 4096), Some(Kind::Host));
        assert_eq!(kind(|s| s.memory = u64::MAX), Some(Kind::Config));
        assert_eq!(kind(|s| s.tier = Some(Tier::Interpreter)), None);
        let refused = strata_machine::Tier::Translator.check().is_err().then_some(Kind::Host);
        assert_eq!(kind(|s| s.tier = Some(Tier::Translator)), refused);
        assert_eq!(kind(|s| s.engine = Engine::Kvm), Some(Kind::Config));
        assert_eq!(kind(|s| s.cpu = Some("x86-64-v2".into())), Some(Kind::Config));
        assert_eq!(kind(|s| s.arch = Arch::Amd64), None);
        let amd64 = |change: &dyn Fn(&mut VmmSpec)| {
            kind(|s| {
                s.arch = Arch::Amd64;
                change(s);
            })
        };
        assert_eq!(amd64(&|s| s.tier = Some(Tier::Interpreter)), Some(Kind::Config));
        assert_eq!(amd64(&|s| s.deterministic = Some(1)), Some(Kind::Config));
        assert_eq!(amd64(&|s| s.firmware = Some("/f".into())), Some(Kind::Config));
        assert_eq!(amd64(&|s| s.engine = Engine::Soft), Some(Kind::Config));
        assert_eq!(kind(|s| s.kernel = None), Some(Kind::Config));
        assert_eq!(kind(|s| s.console = ConsoleSpec::Primary), Some(Kind::Config));
        assert_eq!(kind(|s| s.cmdline = "a\nb".into()), Some(Kind::Config));
        assert_eq!(kind(|s| s.net = NetSpec::User { forwards: vec!["0:22".into()] }), Some(Kind::Config));
        assert_eq!(kind(|s| s.name = "../x".into()), Some(Kind::Config));
    }

    #[test]
    fn too_much_memory_says_what_the_host_has() {
        let mut s = good();
        s.memory = 64 << 30;
        let text = s.check_with(Some(3 << 30)).unwrap_err().message;
        assert!(text.contains("65536 MiB") && text.contains("3072 MiB"), "{text}");
        assert!(host_memory().unwrap() > MIN_MEMORY);
    }

    #[test]
    fn paths_become_absolute() {
        let mut s = good();
        s.initrd = Some("i".into());
        s.console = ConsoleSpec::File { path: "../c".into() };
        s.disks.push(DiskSpec {
            path: "d".into(),
            read_only: false,
            format: None,
            base: None,
            layers: vec![],
        });
        let s = s.absolute().unwrap();
        let here = std::env::current_dir().unwrap();
        assert_eq!((s.kernel.unwrap(), s.initrd.unwrap()), ("/k".into(), here.join("i")));
        assert_eq!(s.disks[0].path, here.join("d"));
        assert!(matches!(s.console, ConsoleSpec::File { path } if path.is_absolute()));
        assert!(VmmSpec { kernel: Some("".into()), ..good() }.absolute().is_err());
    }

    #[test]
    fn spec_survives_json() {
        let mut s = good();
        let base = Some((PathBuf::from("/i/disk.raw"), DiskFormat::Raw));
        s.disks.push(DiskSpec {
            path: "/d".into(),
            read_only: true,
            format: Some(DiskFormat::Qcow2),
            base,
            layers: vec![],
        });
        let json = serde_json::to_string(&s).unwrap();
        assert_eq!(serde_json::from_str::<VmmSpec>(&json).unwrap(), s);
    }
}
