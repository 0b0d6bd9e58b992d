//! What a machine is to be made of, and the host resources it is given.
//!
//! [`MachineSpec`] names no host resource: it can be stored, compared and sent. [`Resources`] are descriptors and
//! backends that are already open; nothing in this crate opens a path.

use crate::Tier;
use crate::loader::Placement;
use std::os::fd::OwnedFd;
use strata_block::Disk;
use strata_board::{Board, Transport};
use strata_engine::Entropy;
use strata_memory::GuestRam;
use strata_net::NetBackend;

/// Most harts a machine may have: the PLIC's context space and the boot time of a hart thread each set it.
pub const MAX_HARTS: u32 = 64;
/// Least memory, in bytes: below this no kernel starts.
pub const MIN_MEMORY: u64 = 16 << 20;
/// Most memory, in bytes: 1 TiB, far above any host this runs on, and inside Sv39's reach.
pub const MAX_MEMORY: u64 = 1 << 40;

/// A device in a numbered virtio slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotDevice {
    /// The `n`-th disk of the resources.
    Disk(usize),
    /// The `n`-th network card of the resources.
    Net(usize),
    /// The entropy source.
    Rng,
}

/// The fixed description of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineSpec {
    /// The board, which decides the engine too.
    pub board: Board,
    /// Number of harts, or vCPUs, 1 to [`MAX_HARTS`].
    pub harts: u32,
    /// The processor that a guest on KVM sees, as `strata_kvm::cpuid::CpuModel` reads it; none is the host's own.
    pub processor: Option<String>,
    /// RAM in bytes, a multiple of 4096.
    pub memory: u64,
    /// Kernel command line.
    pub cmdline: String,
    /// Whether its runs repeat: one host thread runs everything of it in a fixed order, and time comes from the
    /// instructions that its harts have retired.
    pub deterministic: bool,
    /// How virtio devices are reached: in slots, or as functions of a PCI bus.
    pub transport: Transport,
    /// Which device is in which virtio slot. Recorded, so that a device keeps its address whatever else changes.
    pub slots: Vec<(u32, SlotDevice)>,
}

impl MachineSpec {
    /// The usual slots: disks from slot 0 up, network cards below the entropy source, which has the last one.
    pub fn usual_slots(disks: usize, nets: usize) -> Vec<(u32, SlotDevice)> {
        const LAST: u32 = 7;
        let disks = (0..disks).map(|n| (n as u32, SlotDevice::Disk(n)));
        let nets = (0..nets).map(|n| ((LAST - 1).wrapping_sub(n as u32), SlotDevice::Net(n)));
        disks.chain(nets).chain([(LAST, SlotDevice::Rng)]).collect()
    }
}

/// A network card's host side and its address.
pub struct Nic {
    /// Where frames go.
    pub backend: Box<dyn NetBackend>,
    /// The card's Ethernet address.
    pub mac: [u8; 6],
}

/// The console's two directions; both may be ends of one socket.
pub struct ConsoleFds {
    /// What is typed comes from here; its end never stops the machine.
    pub input: OwnedFd,
    /// What the guest prints goes here.
    pub output: OwnedFd,
}

/// A moment to begin at, instead of power-on.
pub struct Restore {
    /// RAM as it was: as long as the spec says, where the board has it.
    pub ram: GuestRam,
    /// What [`Machine::save_state`](crate::Machine::save_state) gave.
    pub state: Vec<u8>,
    /// A new VM generation ID, for a machine that is a copy or goes back in time; none where it only goes on.
    pub generation: Option<[u8; 16]>,
    /// Nanoseconds that have passed meanwhile and that its clock is to have counted: none, and it has stood still.
    pub passed: u64,
}

/// Host resources, all open.
pub struct Resources {
    /// How the software engine is to run the harts; none is [`Tier::best`], or what of it the host allows.
    pub tier: Option<Tier>,
    /// Most host code that is kept for each hart, in bytes; none is the translator's own measure.
    pub code_size: Option<usize>,
    /// In a deterministic machine: whether time in which all harts wait passes as fast as the host's, for a person or a
    /// peer to keep up with, and not at once.
    pub pace: bool,
    /// The moment to begin at; none is power-on.
    pub restore: Option<Restore>,
    /// What to load into RAM, at power-on and at every reset.
    pub placement: Placement,
    /// Console.
    pub console: ConsoleFds,
    /// Disks, in the order that the spec's slots number them.
    pub disks: Vec<Box<dyn Disk>>,
    /// Network cards, likewise.
    pub nics: Vec<Nic>,
    /// Randomness for the entropy device.
    pub entropy: Box<dyn Entropy>,
    /// Randomness for the seed that each boot's device tree carries.
    pub boot_entropy: Box<dyn Entropy>,
}
