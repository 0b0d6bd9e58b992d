//! What can be said of a machine that changes hosts.

use super::{CopyNetArgs, NameArg, parse_size};
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `strata migrate …`.
#[derive(Args, Debug)]
pub struct MigrateArgs {
    /// Other than sending a machine
    #[command(subcommand)]
    pub command: Option<MigrateCommand>,
    /// The machine
    #[arg(required = true)]
    pub name: Option<String>,
    /// Where `strata migrate receive` listens: HOST:PORT
    #[arg(required = true)]
    pub address: Option<String>,
    /// What that has printed
    #[arg(long, value_name = "TOKEN", required = true, env = "STRATA_MIGRATE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// How memory travels: `auto`, `precopy`, `hybrid`, `postcopy` or `stop-and-copy`
    #[arg(
        long,
        value_name = "HOW",
        default_value = "auto",
        long_help = "How memory travels. `precopy`: while it runs, round by round. `stop-and-copy`: while it stands still. \
                     `postcopy`: after it, while it runs there already. `hybrid`: rounds, and then what is left after it. \
                     `auto`: rounds, and after it only where it writes faster than the link carries. With post-copy, until \
                     memory has followed, the loss of either host loses the machine's memory; a lost connection only makes it \
                     wait."
    )]
    pub strategy: StrategyArg,
    /// Longest time that it may stand still, in milliseconds: a bound, not an aim
    #[arg(long, value_name = "MS", default_value_t = 300)]
    pub max_downtime: u64,
    /// Connections for memory
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub streams: u8,
    /// Most bytes of memory a second, as they are sent, such as 50M; no limit if left out
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub bandwidth: Option<u64>,
    /// Slow it down while it is copied, if it writes faster than the link carries
    #[arg(
        long,
        long_help = "Slow it down while it is copied, if it writes faster than the link carries: as little as it takes to come \
                     to an end, and only those of its processors that write to ever more memory. It runs at full speed again \
                     as soon as it has moved, or stays. With --strategy auto or precopy; `auto` then lets memory follow the \
                     machine only where that does not help."
    )]
    pub throttle: bool,
    /// Without encryption; only to this host itself
    #[arg(long)]
    pub plain: bool,
    /// Send its disks along: its own, and those of its files that the destination does not have
    #[arg(long)]
    pub with_disks: bool,
    /// Let it go without its snapshots, which are removed here when it has gone
    #[arg(long)]
    pub without_snapshots: bool,
    /// Compare its memory at both ends by a digest, for which it stands still longer; pages that follow it are left out
    #[arg(long)]
    pub verify: bool,
    /// Only say whether it can go, and what that would be like
    #[arg(long)]
    pub dry_run: bool,
}

/// See [`MigrateArgs`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum StrategyArg {
    /// The best there is for how much the machine writes.
    Auto,
    /// While it runs, round by round.
    Precopy,
    /// While it stands still.
    StopAndCopy,
    /// After it, while it runs there already.
    #[value(name = "postcopy")]
    PostCopy,
    /// Round by round, and what is left after it.
    Hybrid,
}

/// `strata migrate receive|status|cancel|recover`.
#[derive(Subcommand, Debug)]
pub enum MigrateCommand {
    /// Wait for one machine from another host; prints where it listens and a token, and ends when the machine runs here
    Receive(ReceiveArgs),
    /// Show where a migration is
    Status(NameArg),
    /// Let a machine stay where it is, if it has not been handed over
    Cancel(NameArg),
    /// After a crash in the middle of a migration: find out whose the machine is
    Recover(RecoverArgs),
}

/// `strata migrate receive`.
#[derive(Args, Debug)]
pub struct ReceiveArgs {
    /// Where to listen: ADDRESS:PORT; port 0 is any free one
    #[arg(long, value_name = "ADDR")]
    pub listen: String,
    /// Its name here; its source's, if left out
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Its network here; as at its source, if left out
    #[command(flatten)]
    pub net: CopyNetArgs,
    /// Where a disk is here that was given to it with --disk, in the same order: the same file, or the name of a new one
    /// (with --with-disks there). If left out, only a disk that is the same file under the same name is taken
    #[arg(long, value_name = "FILE")]
    pub disk: Vec<PathBuf>,
    /// Without encryption; only from this host itself
    #[arg(long)]
    pub plain: bool,
}

/// `strata migrate recover`.
#[derive(Args, Debug)]
pub struct RecoverArgs {
    /// The instance
    pub name: String,
    /// Decide without the other host, which never comes back
    #[arg(
        long,
        long_help = "Decide without the other host. This is right only if nothing of the machine runs there now, nothing of \
                     it will ever be started there, and that host does not reach its disks: if any of that is wrong, the \
                     machine may run twice."
    )]
    pub force: bool,
    /// How long to wait for the other host, in seconds
    #[arg(long, value_name = "S", default_value_t = 30)]
    pub timeout: u64,
}
