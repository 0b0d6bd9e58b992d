//! The command line: every command, option and help text. Nothing is done here.

mod migrate;
mod saved;

pub use migrate::*;
pub use saved::*;

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use strata_vmm::{Arch, Engine, Tier, Virtio};

/// Runs virtual machines on any Linux host, with or without hardware virtualization.
#[derive(Parser, Debug)]
#[command(name = "strata", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 good; 1-63 the guest's own; 64-99 Strata's, by kind (docs/exit-codes.md)."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Make a machine and run it, with its console on this terminal
    Run(Box<RunArgs>),
    /// Run a kept instance again
    Start(StartArgs),
    /// List running machines
    Ps(PsArgs),
    /// End a machine as pulling its plug would, after its writes have reached the disk; a suspended one loses its memory
    Stop(StopArgs),
    /// Save a machine with its memory and end its process
    Suspend(NameArg),
    /// Let a suspended machine go on, in the background
    Resume(ResumeArgs),
    /// Moments of a machine, kept to go back to
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Make a machine that goes on from another's snapshot, or from this moment, and run it in the background
    Clone(CloneArgs),
    /// Move a running machine to another host
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Migrate(Box<MigrateArgs>),
    /// Stop a machine's processors, keeping its memory
    Pause(NameArg),
    /// Let a paused machine go on
    Unpause(NameArg),
    /// Press a machine's reset button
    Reset(NameArg),
    /// Connect this terminal to a running machine's console
    Console(NameArg),
    /// Remove a kept instance and its disk
    Delete(DeleteArgs),
    /// Images that machines are made from
    #[command(subcommand)]
    Image(ImageCommand),
    /// Tell what this host offers, and what each missing thing costs
    Doctor,
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// The process of one machine (started by the others)
    #[command(hide = true)]
    Vmm,
}

/// Name of an instance.
#[derive(Args, Debug)]
pub struct NameArg {
    /// The instance
    pub name: String,
}

/// What a machine is made of.
#[derive(Args, Debug)]
pub struct MachineArgs {
    /// Architecture: `riscv64`, or `amd64` on a host with KVM; that of the --kernel, or riscv64, if left out
    #[arg(long, value_name = "ARCH", value_parser = parse_arch)]
    pub arch: Option<Arch>,
    /// What runs it: `auto`, `kvm` (amd64, however slow this host's is) or `soft` (riscv64)
    #[arg(long, value_name = "ENGINE", default_value = "auto", value_parser = parse_engine)]
    pub engine: Engine,
    /// Processor that the guest sees: `host`, `x86-64-v2`, `x86-64-v3`, `x86-64-v4`, or flags with commas (amd64)
    #[arg(
        long,
        value_name = "MODEL",
        long_help = "Processor that the guest of an amd64 machine sees: `host`, all that this host's has (if left \
                     out); `x86-64-v2`, `x86-64-v3` or `x86-64-v4`, a level of the x86-64 psABI; or flags as \
                     /proc/cpuinfo spells them, with commas between, which are added to what every x86-64 processor \
                     has. A level or a list is the same on every host, so that what is saved on one goes on on \
                     another; a host whose processor lacks a flag of it refuses it by that flag's name."
    )]
    pub cpu: Option<String>,
    /// Where virtio devices are: `mmio`, in slots at fixed addresses, or `pci`, on a PCIe bus
    #[arg(long, value_name = "WHERE", default_value = "mmio", value_parser = parse_virtio)]
    pub virtio: Virtio,
    /// Number of processors
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub cpus: u32,
    /// Memory, such as 512M or 2G
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = parse_size)]
    pub memory: u64,
    /// How to run its code: `interpreter` or `translator`; the fastest that this host allows, if left out
    #[arg(long, value_name = "TIER", value_parser = parse_tier)]
    pub tier: Option<Tier>,
    /// Network: `user` (needs no rights), `tap=NAME`, or `none`
    #[arg(long, value_name = "NET", default_value = "user", value_parser = parse_net)]
    pub net: Net,
    /// Port forwards, as text.
    #[arg(
        long,
        value_name = "H:G",
        help = "Pass connections to a port of this host on to the machine: [tcp:|udp:][ADDRESS:]HOST_PORT:GUEST_PORT"
    )]
    pub forward: Vec<String>,
}

/// Where the console goes and who waits.
#[derive(Args, Debug)]
pub struct FrontArgs {
    /// Return as soon as the machine runs, and leave it running
    #[arg(long)]
    pub detach: bool,
    /// Console: `stdio`, `file=PATH`, `socket=PATH` or `none`
    #[arg(long, value_name = "WHERE", value_parser = parse_console)]
    pub console: Option<Console>,
}

/// `strata run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// Image: debian:13, debian:forky, debian:sid, busybox, or one that was imported; pulled if it is not here
    pub image: Option<String>,
    /// Kernel (Image, bzImage or ELF) instead of the image's; with --firmware, what the firmware starts
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Text to append to the kernel command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Option<String>,
    /// M-mode firmware (raw or ELF) instead of Strata's own; the image then gives only its disk
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// A disk file (raw or qcow2); may be repeated. FILE,ro opens it read-only
    #[arg(long, value_name = "FILE")]
    pub disk: Vec<PathBuf>,
    /// Keep the machine as an instance of this name
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Make its runs repeat: all processors take turns on one thread, and time comes from the instructions they execute
    #[arg(
        long,
        long_help = "Make its runs repeat: all processors take turns on one thread, and time comes from the \
                     instructions that they have executed, beginning at the same date each time. The same image, \
                     options and seed give the same run, instruction by instruction. What comes from outside and when \
                     is not repeated: keys typed, answers of the network (use --net none), and a disk that fails or \
                     that another run has written to. It is slower, and processors do not run at the same time."
    )]
    pub deterministic: bool,
    /// Seed of all randomness in a deterministic run
    #[arg(long, value_name = "N", requires = "deterministic", default_value_t = 0)]
    pub seed: u64,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub machine: MachineArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub front: FrontArgs,
}

/// `strata start`.
#[derive(Args, Debug)]
pub struct StartArgs {
    /// The instance
    pub name: String,
    /// How to run its code this time, instead of what it was made with
    #[arg(long, value_name = "TIER", value_parser = parse_tier)]
    pub tier: Option<Tier>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub mac: MacArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub front: FrontArgs,
}

/// `strata ps`.
#[derive(Args, Debug)]
pub struct PsArgs {
    /// Kept instances that do not run, too
    #[arg(long)]
    pub all: bool,
    /// How each is run, too
    #[arg(short, long)]
    pub verbose: bool,
}

/// `strata stop`.
#[derive(Args, Debug)]
pub struct StopArgs {
    /// The instance
    pub name: String,
    /// Kill its process at once
    #[arg(long)]
    pub force: bool,
}

/// `strata delete`.
#[derive(Args, Debug)]
pub struct DeleteArgs {
    /// The instances
    #[arg(required = true)]
    pub names: Vec<String>,
    /// With their snapshots
    #[arg(long)]
    pub snapshots: bool,
}

/// `strata image …`.
#[derive(Subcommand, Debug)]
pub enum ImageCommand {
    /// Make an image from Debian's own packages
    Pull(PullArgs),
    /// List images
    List,
    /// Tell all about an image
    Show(NameArg),
    /// Remove images
    Remove {
        /// The images
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Make an image from a disk file (raw or qcow2)
    Import(ImportArgs),
    /// Bring an image's kernel, modules and initramfs up to date
    UpdateKernel(PullArgs),
}

/// Where images come from.
#[derive(Args, Debug)]
pub struct PullArgs {
    /// debian:13, debian:forky, debian:sid or busybox
    pub image: String,
    /// Architecture: `riscv64` or `amd64`; the image's name then ends in -amd64
    #[arg(long, value_name = "ARCH", value_parser = parse_arch)]
    pub arch: Option<Arch>,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub source: SourceArgs,
}

/// Options of a pull.
#[derive(Args, Debug, Default)]
pub struct SourceArgs {
    /// Debian archive to use instead of the one that this host's apt is configured with
    #[arg(long, value_name = "URL")]
    pub mirror: Option<String>,
    /// Keys to trust instead of Debian's
    #[arg(long, value_name = "FILE")]
    pub keyring: Option<PathBuf>,
    /// Accept a release that is past its Valid-Until date
    #[arg(long)]
    pub allow_expired: bool,
    /// File with a password for root (root logs in without one on the serial console otherwise)
    #[arg(long, value_name = "FILE")]
    pub root_password_file: Option<PathBuf>,
    /// Public key to let root in by ssh with; installs an ssh server
    #[arg(long, value_name = "FILE")]
    pub ssh_key: Option<PathBuf>,
}

/// `strata image import`.
#[derive(Args, Debug)]
pub struct ImportArgs {
    /// Disk file
    pub file: PathBuf,
    /// Name of the new image; the file's name otherwise
    #[arg(long)]
    pub name: Option<String>,
    /// Kernel to boot it with; without one it boots by a --firmware only
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk for that kernel
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub append: Option<String>,
}

/// Network of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    /// User-mode networking.
    User,
    /// A TAP interface.
    Tap(String),
    /// None.
    None,
}

/// Console of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Console {
    /// This terminal, or standard input and output.
    Stdio,
    /// A file.
    File(PathBuf),
    /// A Unix socket.
    Socket(PathBuf),
    /// Nowhere (attach with `strata console`).
    None,
}

/// A size in bytes with an optional suffix K, M, G or T (powers of 1024; B and iB may follow).
pub fn parse_size(text: &str) -> Result<u64, String> {
    let lower = text.trim().to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = lower.get(number.len()..).unwrap_or("");
    let shift = match suffix.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return Err("a size is a number with K, M, G or T, such as 512M or 2G".into()),
    };
    let n: u64 =
        number.trim().parse().map_err(|_| "a size is a whole number with K, M, G or T, such as 2G")?;
    n.checked_mul(1 << shift).ok_or_else(|| "that is more than can be counted".into())
}

fn parse_arch(text: &str) -> Result<Arch, String> {
    Arch::by_name(text).ok_or_else(|| "an architecture is `riscv64` or `amd64`".into())
}

fn parse_engine(text: &str) -> Result<Engine, String> {
    match text {
        "auto" => Ok(Engine::Auto),
        "kvm" => Ok(Engine::Kvm),
        "soft" => Ok(Engine::Soft),
        _ => Err("an engine is `auto`, `kvm` or `soft`".into()),
    }
}

fn parse_virtio(text: &str) -> Result<Virtio, String> {
    match text {
        "mmio" => Ok(Virtio::Mmio),
        "pci" => Ok(Virtio::Pci),
        _ => Err("virtio devices are on `mmio` or `pci`".into()),
    }
}

fn parse_tier(text: &str) -> Result<Tier, String> {
    match text {
        "interpreter" => Ok(Tier::Interpreter),
        "translator" => Ok(Tier::Translator),
        _ => Err("a tier is `interpreter` or `translator`".into()),
    }
}

fn parse_net(text: &str) -> Result<Net, String> {
    match text.split_once('=') {
        None if text == "user" => Ok(Net::User),
        None if text == "none" => Ok(Net::None),
        Some(("tap", name)) if !name.is_empty() => Ok(Net::Tap(name.into())),
        _ => Err("a network is `user`, `tap=NAME` or `none`".into()),
    }
}

fn parse_console(text: &str) -> Result<Console, String> {
    match text.split_once('=') {
        None if text == "stdio" => Ok(Console::Stdio),
        None if text == "none" => Ok(Console::None),
        Some(("file", path)) if !path.is_empty() => Ok(Console::File(path.into())),
        Some(("socket", path)) if !path.is_empty() => Ok(Console::Socket(path.into())),
        _ => Err("a console is `stdio`, `file=PATH`, `socket=PATH` or `none`".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, n) in
            [("512M", 512 << 20), ("2G", 2 << 30), ("2GiB", 2 << 30), ("4096", 4096), ("1k", 1024)]
        {
            assert_eq!(parse_size(text), Ok(n), "{text}");
        }
        for text in ["", "G", "1.5G", "-1", "99999999999T", "5X", "1 2"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
