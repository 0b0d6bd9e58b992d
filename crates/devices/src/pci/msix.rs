//! How a function interrupts: by its pin, or by messages (MSI-X; PCI 3.0, 6.8.2) once a driver has turned those on.
//!
//! ```text
//!  the device's wire ─► level ──── MSI-X off, pin not forbidden ─► the function's pin
//!  a cause ─► its vector ─► row of the table ── not masked ─► message
//!                                              └─ masked ─► pending, sent when the mask goes
//! ```
//! This is the last lock that is taken: it calls nothing but the interrupt controller.

use std::sync::{Arc, Mutex, MutexGuard};
use strata_engine::{IrqLine, IrqSink, MsiSink};

/// No vector: the cause is not told.
pub const NO_VECTOR: u16 = 0xffff;
/// Bytes of a row of the table.
const ROW: u64 = 16;
/// Bits of the message control register.
const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;
/// The mask bit of a row, in its last word.
const MASKED: u32 = 1;
/// A row after power-on.
const UNUSED: [u32; 4] = [0, 0, 0, MASKED];
/// Most vectors here: as many as `pending` has bits.
const LIMIT: usize = 64;

strata_state::state! {
    /// MSI-X.
    pub struct MsixState("pci-msix", 1) {
        /// Message control: bit 15 on, bit 14 all masked.
        1 control: u16,
        /// The table: address, its upper half, data, mask.
        2 table: Vec<[u32; 4]>,
        /// Vectors that wait for their mask to go, a bit each.
        3 pending: u64,
    }
}

struct Inner {
    s: MsixState,
    /// What the device wants of its pin.
    level: bool,
    no_pin: bool,
}

/// The interrupts of one function.
pub struct Interrupts {
    pin: IrqLine,
    /// Where messages go; none where the board takes none.
    messages: Option<Arc<dyn MsiSink>>,
    vectors: usize,
    inner: Mutex<Inner>,
}

impl Interrupts {
    /// By messages with so many `vectors` (1 to 64), or by `pin`.
    pub fn new(pin: IrqLine, messages: Option<Arc<dyn MsiSink>>, vectors: usize) -> Arc<Interrupts> {
        let vectors = vectors.clamp(1, LIMIT);
        let inner = Mutex::new(Inner { s: fresh(vectors), level: false, no_pin: false });
        Arc::new(Interrupts { pin, messages, vectors, inner })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How many vectors there are: none where messages go nowhere.
    pub fn vectors(&self) -> usize {
        if self.messages.is_some() { self.vectors } else { 0 }
    }

    /// What a driver may set a cause's vector to: that, or none.
    pub fn vector(&self, wanted: u16) -> u16 {
        if usize::from(wanted) < self.vectors() { wanted } else { NO_VECTOR }
    }

    /// Whether messages are on, and the pin therefore is not used.
    pub fn by_message(&self) -> bool {
        self.inner().s.control & ENABLE != 0
    }

    /// Tells `vector`; for [`NO_VECTOR`] nothing happens.
    pub fn send(&self, vector: u16) {
        let mut g = self.inner();
        if usize::from(self.vector(vector)) < self.vectors && g.s.control & ENABLE != 0 {
            g.s.pending |= 1 << vector;
            self.deliver(&mut g);
        }
    }

    /// Sends what is pending and not masked.
    fn deliver(&self, g: &mut Inner) {
        if g.s.control & (ENABLE | MASK_ALL) != ENABLE || g.s.pending == 0 {
            return;
        }
        let Some(sink) = &self.messages else { return };
        for (n, [low, high, data, mask]) in g.s.table.iter().enumerate() {
            let bit = 1_u64 << n;
            if g.s.pending & bit != 0 && mask & MASKED == 0 {
                g.s.pending &= !bit;
                sink.send(u64::from(*high) << 32 | u64::from(*low), *data);
            }
        }
    }

    fn settle(&self, g: &mut Inner) {
        self.deliver(g);
        self.pin.set(g.level && !g.no_pin && g.s.control & ENABLE == 0);
    }

    /// Whether the device wants its pin high, whatever comes of it.
    pub fn level(&self) -> bool {
        self.inner().level
    }

    /// Forbids the pin, or allows it.
    pub fn set_no_pin(&self, no_pin: bool) {
        let mut g = self.inner();
        g.no_pin = no_pin;
        self.settle(&mut g);
    }

    /// The message control register.
    pub fn control(&self) -> u16 {
        self.inner().s.control | (self.vectors.saturating_sub(1) as u16)
    }

    /// Writes those bits of it that `mask` has and that can be written.
    pub fn set_control(&self, mask: u16, value: u16) {
        let mut g = self.inner();
        let mask = mask & (ENABLE | MASK_ALL);
        g.s.control = g.s.control & !mask | value & mask;
        self.settle(&mut g);
    }

    /// Reads 4 bytes of the table.
    pub fn read_table(&self, offset: u64) -> u32 {
        let g = self.inner();
        let row = g.s.table.get((offset / ROW) as usize);
        row.and_then(|row| row.get((offset % ROW / 4) as usize)).copied().unwrap_or(0)
    }

    /// Writes 4 bytes of the table.
    pub fn write_table(&self, offset: u64, value: u32) {
        let mut g = self.inner();
        let row = g.s.table.get_mut((offset / ROW) as usize);
        let Some(word) = row.and_then(|row| row.get_mut((offset % ROW / 4) as usize)) else { return };
        // The address is of whole words; of the last word one bit is in use.
        *word = match offset % ROW {
            0 => value & !3,
            12 => value & MASKED,
            _ => value,
        };
        self.deliver(&mut g);
    }

    /// Reads 4 bytes of the bits of vectors that are pending.
    pub fn read_pending(&self, offset: u64) -> u32 {
        match offset {
            0 => self.inner().s.pending as u32,
            4 => (self.inner().s.pending >> 32) as u32,
            _ => 0,
        }
    }

    /// The state, without what the device wants of its pin: that is the device's.
    pub fn state(&self) -> MsixState {
        self.inner().s.clone()
    }

    /// The state after power-on.
    pub fn fresh(&self) -> MsixState {
        fresh(self.vectors)
    }

    /// Whether some driver could have brought `s` about, here or on a device of an older build, which had no fewer vectors
    /// than `least`.
    pub fn accepts(&self, s: &MsixState, least: usize) -> bool {
        let beyond = if self.vectors == LIMIT { 0 } else { u64::MAX << self.vectors };
        let word = |[low, _, _, mask]: &[u32; 4]| low & 3 == 0 && mask & !MASKED == 0;
        let off = self.messages.is_none() && *s != fresh(s.table.len());
        s.control & !(ENABLE | MASK_ALL) == 0
            && (least..=self.vectors).contains(&s.table.len())
            && s.table.iter().all(word)
            && s.pending & beyond == 0
            && !off
    }

    /// Sets the state. What was pending and is not masked had been sent before it was saved, or is sent now.
    pub fn set_state(&self, s: MsixState) {
        let mut g = self.inner();
        g.s = s;
        g.s.table.resize(self.vectors, UNUSED);
        self.settle(&mut g);
    }
}

/// After power-on every row is masked.
fn fresh(vectors: usize) -> MsixState {
    MsixState { control: 0, table: vec![UNUSED; vectors], pending: 0 }
}

impl IrqSink for Interrupts {
    fn set_line(&self, _line: u32, level: bool) {
        let mut g = self.inner();
        g.level = level;
        self.settle(&mut g);
    }
}
