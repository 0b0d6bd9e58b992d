//! Configuration space of a function: a type 0 header with one memory BAR, and capabilities (PCI 3.0, 6.1 and 6.7).
//!
//! What a function is stands in an image that never changes; what a driver can change is a record, laid over it at
//! every read.

/// What a function says that it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device, by the vendor's numbers.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass, programming interface: 24 bits.
    pub class: u32,
    /// Subsystem vendor and subsystem.
    pub subsystem: [u16; 2],
    /// Whether it has an interrupt pin (A).
    pub pin: bool,
    /// Bytes of its memory, a power of two of 16 or more; 0 for none.
    pub memory: u32,
}

/// A capability.
#[derive(Clone, Debug)]
pub struct Capability {
    /// Its id.
    pub id: u8,
    /// What follows id and link.
    pub body: Vec<u8>,
}

strata_state::state! {
    /// What a driver can change in a function's header.
    pub struct HeaderState("pci-header", 1) {
        /// Command register.
        1 command: u16,
        /// BAR 0.
        2 bar: u32,
        /// Cache line size, of no consequence.
        3 cache_line: u8,
        /// Interrupt line: the driver's own note.
        4 line: u8,
    }
}

/// Bits of the command register (6.2.2).
mod command {
    pub const MEMORY: u16 = 1 << 1;
    pub const MASTER: u16 = 1 << 2;
    pub const NO_PIN: u16 = 1 << 10;
    pub const WRITABLE: u16 = MEMORY | MASTER | NO_PIN;
}

/// Bits of the status register (6.2.3), where it stands above the command register.
mod status {
    pub const INTERRUPT: u32 = 1 << (16 + 3);
    pub const CAPABILITIES: u32 = 1 << (16 + 4);
}

/// Registers of the header, by the offset of their 32 bits.
mod reg {
    pub const ID: usize = 0x00;
    pub const COMMAND: u8 = 0x04;
    pub const CLASS: usize = 0x08;
    pub const CACHE_LINE: u8 = 0x0c;
    pub const BAR: u8 = 0x10;
    pub const SUBSYSTEM: usize = 0x2c;
    pub const CAPABILITIES: usize = 0x34;
    pub const INTERRUPT: u8 = 0x3c;
}

/// Where capabilities begin.
const FIRST_CAPABILITY: usize = 0x40;
/// Low bits of a memory BAR, which tell its kind: 32 bits, not prefetchable.
const BAR_KIND: u32 = 0xf;
/// A BAR is a multiple of at least this.
pub const BAR_ALIGN: u32 = BAR_KIND + 1;

/// A function's header and capabilities.
#[derive(Clone, Debug)]
pub struct Header {
    image: [u8; 256],
    memory: u32,
    /// What a driver has changed.
    pub s: HeaderState,
}

fn set(image: &mut [u8; 256], at: usize, bytes: &[u8]) {
    image.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}

impl Header {
    /// The header of a function that is `id` and has `capabilities`, as after power-on. Gives with it where each of
    /// them begins.
    pub fn new(id: &Identity, capabilities: &[Capability]) -> (Header, Vec<u8>) {
        let mut image = [0; 256];
        set(&mut image, reg::ID, &id.vendor.to_le_bytes());
        set(&mut image, reg::ID + 2, &id.device.to_le_bytes());
        set(&mut image, reg::CLASS, &(id.class << 8 | u32::from(id.revision)).to_le_bytes());
        set(&mut image, reg::SUBSYSTEM, &id.subsystem[0].to_le_bytes());
        set(&mut image, reg::SUBSYSTEM + 2, &id.subsystem[1].to_le_bytes());
        set(&mut image, usize::from(reg::INTERRUPT) + 1, &[u8::from(id.pin)]);
        let (mut link, mut at, mut places) = (reg::CAPABILITIES, FIRST_CAPABILITY, Vec::new());
        for c in capabilities {
            // Ours all fit: a test holds the last to it.
            set(&mut image, link, &[at as u8]);
            set(&mut image, at, &[c.id, 0]);
            set(&mut image, at + 2, &c.body);
            places.push(at as u8);
            (link, at) = (at + 1, (at + 2 + c.body.len()).next_multiple_of(4));
        }
        (Header { image, memory: id.memory, s: Header::fresh() }, places)
    }

    /// The state after power-on.
    pub fn fresh() -> HeaderState {
        HeaderState { command: 0, bar: 0, cache_line: 0, line: 0 }
    }

    /// Whether some driver could have brought `s` about.
    pub fn accepts(&self, s: &HeaderState) -> bool {
        s.command & !command::WRITABLE == 0 && s.bar & !self.bar_mask() == 0
    }

    /// Bits of the BAR that a driver can set.
    fn bar_mask(&self) -> u32 {
        self.memory.wrapping_neg() & !BAR_KIND & if self.memory == 0 { 0 } else { u32::MAX }
    }

    /// The register at `at`, a multiple of 4. `interrupt` is whether the function wants its pin high.
    pub fn read(&self, at: u8, interrupt: bool) -> u32 {
        let bytes = self.image.iter().skip(usize::from(at & !3)).take(4);
        let fixed = bytes.rev().fold(0, |v, b| v << 8 | u32::from(*b));
        match at & !3 {
            reg::COMMAND => {
                let capable = self.image.get(reg::CAPABILITIES).is_some_and(|first| *first != 0);
                u32::from(self.s.command)
                    | if capable { status::CAPABILITIES } else { 0 }
                    | if interrupt { status::INTERRUPT } else { 0 }
            }
            reg::CACHE_LINE => u32::from(self.s.cache_line),
            reg::BAR => self.s.bar,
            reg::INTERRUPT => fixed | u32::from(self.s.line),
            _ => fixed,
        }
    }

    /// Writes those bits of the register at `at` that `mask` has and that can be written.
    pub fn write(&mut self, at: u8, mask: u32, value: u32) {
        let put = |old: u32, writable: u32| old & !(mask & writable) | value & mask & writable;
        let bar_mask = self.bar_mask();
        let s = &mut self.s;
        match at & !3 {
            reg::COMMAND => s.command = put(s.command.into(), command::WRITABLE.into()) as u16,
            reg::CACHE_LINE => s.cache_line = put(s.cache_line.into(), 0xff) as u8,
            reg::BAR => s.bar = put(s.bar, bar_mask),
            reg::INTERRUPT => s.line = put(s.line.into(), 0xff) as u8,
            _ => {}
        }
    }

    /// First address of its memory, if that answers.
    pub fn base(&self) -> Option<u64> {
        (self.memory != 0 && self.s.command & command::MEMORY != 0).then_some(self.s.bar.into())
    }

    /// Whether its pin may not be used.
    pub fn no_pin(&self) -> bool {
        self.s.command & command::NO_PIN != 0
    }
}
