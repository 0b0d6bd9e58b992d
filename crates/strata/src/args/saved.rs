//! What can be said of saved machines: suspend and resume, snapshots, clones.

use super::{NameArg, Net, parse_net};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `strata resume`.
#[derive(Args, Debug)]
pub struct ResumeArgs {
    /// The instance
    pub name: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub goes_on: GoesOnArgs,
}

/// How a machine goes on from where it was saved.
#[derive(Args, Clone, Copy, Debug)]
pub struct GoesOnArgs {
    /// Its clock: `keep` lets it go on from where it stood, `advance` counts the time that has passed
    #[arg(
        long,
        value_name = "HOW",
        default_value = "keep",
        long_help = "Its clock. `keep` lets it go on from where it stood: timers and timeouts of the guest see no gap, its \
                     date is behind until it asks its real-time clock (hwclock -s). `advance` counts the time that has \
                     passed: the date is right at once, and timers that were due meanwhile are due at once."
    )]
    pub clock: ClockPolicy,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub mac: MacArgs,
}

/// What becomes of the address of a machine's network card.
#[derive(Args, Clone, Copy, Debug)]
pub struct MacArgs {
    /// Ethernet address: `keep` it even if another machine on the bridge has it, or take a `new` one
    #[arg(
        long,
        value_name = "HOW",
        long_help = "Ethernet address. Without this option it stays, and the machine is refused if another one that runs \
                     has the same on the same bridge. `keep` lets them. `new` makes a new one, which the guest sees when \
                     its driver next looks: at a boot, or when the driver is bound again."
    )]
    pub mac: Option<MacPolicy>,
}

/// See [`GoesOnArgs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ClockPolicy {
    /// It goes on from where it stood.
    Keep,
    /// It has counted the time that passed.
    Advance,
}

/// See [`MacArgs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum MacPolicy {
    /// The same, even where another has it.
    Keep,
    /// Another.
    New,
}

/// A snapshot of an instance.
#[derive(Args, Debug)]
pub struct SnapshotArgs {
    /// The instance
    pub name: String,
    /// The snapshot's name
    pub tag: String,
}

/// `strata snapshot …`.
#[derive(Subcommand, Debug)]
pub enum SnapshotCommand {
    /// Keep this moment of a running machine
    Create(SnapshotArgs),
    /// List an instance's snapshots
    List(NameArg),
    /// Show which snapshot came from which
    Tree(NameArg),
    /// Go back to a snapshot, in the background; what the machine is now is lost
    Restore(RestoreArgs),
    /// Remove a snapshot; later ones stay
    Delete(SnapshotArgs),
    /// Check every byte of a snapshot's memory, and that its disk is there
    Verify(SnapshotArgs),
    /// Write a snapshot with its disk to one file, to be carried to another host
    Export(ExportArgs),
    /// Make an instance of a snapshot in a file; it does not run yet
    Import(SnapshotImportArgs),
}

/// `strata snapshot restore`.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// Which
    #[command(flatten)]
    pub which: SnapshotArgs,
    /// Check every byte of its memory first
    #[arg(long)]
    pub verify: bool,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub goes_on: GoesOnArgs,
}

/// `strata snapshot export`.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Which
    #[command(flatten)]
    pub which: SnapshotArgs,
    /// The file, which must not exist yet
    pub file: PathBuf,
}

/// `strata snapshot import`.
#[derive(Args, Debug)]
pub struct SnapshotImportArgs {
    /// The file
    pub file: PathBuf,
    /// The new instance; called as its source was, if left out
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Network of the copy
    #[command(flatten)]
    pub net: CopyNetArgs,
}

/// Where a copy of a machine is.
#[derive(Args, Debug)]
pub struct CopyNetArgs {
    /// Network of the copy: `user` or `tap=NAME`
    #[arg(long, value_name = "NET", value_parser = parse_net)]
    pub net: Option<Net>,
    /// Ports of this host for the copy, as for `strata run`; the source's stay the source's
    #[arg(long, value_name = "H:G")]
    pub forward: Vec<String>,
}

/// `strata clone`.
#[derive(Args, Debug)]
pub struct CloneArgs {
    /// The instance, with @TAG for one of its snapshots
    #[arg(value_name = "NAME[@TAG]")]
    pub source: String,
    /// The new instance
    pub new: String,
    /// Network of the clone
    #[command(flatten)]
    pub net: CopyNetArgs,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub goes_on: GoesOnArgs,
}
