//! PLIC: the interrupt controller between devices and harts.
//!
//! RISC-V Platform-Level Interrupt Controller specification 1.0.0, as the SiFive parts and QEMU's `virt` machine lay
//! it out: [`SOURCES`] sources (number 0 does not exist), priorities 0 to 7, and two contexts a hart in the order
//! M, S, wired to the hart's MEIP and SEIP pins.
//! ```text
//! 0x000000 + 4·source          priority            0x200000 + 0x1000·context   threshold
//! 0x001000 + 4·(source/32)     pending, read-only   0x200004 + 0x1000·context   claim / complete
//! 0x002000 + 0x80·context      enable bits
//! ```
//! The gateway of a source is level-triggered:
//! ```text
//!   idle ──line high──► pending ──claim──► claimed ──complete──► idle, or pending again while the line is high
//! ```
//! A request that has become pending stays so when the line falls, until it is claimed. A claim looks at enables and
//! priorities but not at the threshold; a completion counts only in a context where the source is enabled (sections
//! "Interrupt Claim Process", "Interrupt Completion").
//!
//! State: priorities, pending and claimed bits, enables, thresholds. The level of the lines is not kept: every
//! device sets its line again when it is loaded, and a line that rises on a source already pending or claimed
//! changes nothing, so parts may be loaded in any order.
//!
//! Invariant: a source is never both pending and claimed by the gateway's own doing; bit 0 is never set.

use crate::{Mmio, Shared};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use strata_engine::{IrqLine, IrqSink, VcpuShared};
use strata_state::{StateError, Stateful, state};

/// Sources, the reserved number 0 included.
pub const SOURCES: u32 = 96;
/// Contexts of one hart: M mode, S mode.
pub const CONTEXTS_PER_HART: usize = 2;
/// Their pins: the numbers of MEIP and SEIP in `mip`.
const PINS: [u32; CONTEXTS_PER_HART] = [11, 9];

const WORDS: usize = SOURCES as usize / 32;
const PRIORITY_MASK: u8 = 7;
const PENDING_BASE: u64 = 0x1000;
const ENABLE_BASE: u64 = 0x2000;
const ENABLE_STRIDE: u64 = 0x80;
const CONTEXT_BASE: u64 = 0x20_0000;
const CONTEXT_STRIDE: u64 = 0x1000;

state! {
    /// Guest-visible state.
    pub struct PlicState("plic", 1) {
        /// Priority of every source.
        1 priority: Vec<u8>,
        /// Pending sources, 32 a word.
        2 pending: Vec<u32>,
        /// Sources claimed and not completed.
        3 claimed: Vec<u32>,
        /// Enabled sources, three words a context.
        4 enable: Vec<u32>,
        /// Threshold of every context.
        5 threshold: Vec<u8>,
    }
}

/// Levels of the lines; outside the device's lock, so that a device that sets its line to the level it already has
/// takes no lock at all.
type Levels = Arc<[AtomicU32; WORDS]>;

/// The device.
pub struct Plic {
    harts: Vec<Arc<VcpuShared>>,
    levels: Levels,
    s: PlicState,
}

/// What a register offset names.
enum Register {
    Priority(usize),
    Pending(usize),
    /// Index into the enable words.
    Enable(usize),
    Threshold(usize),
    Claim(usize),
    None,
}

impl Plic {
    /// A PLIC for `harts` in order of their number.
    pub fn new(harts: Vec<Arc<VcpuShared>>) -> Plic {
        let s = Self::after_power_on(harts.len());
        Plic { harts, levels: Arc::default(), s }
    }

    /// The wire to source `source` (1 to [`SOURCES`] - 1; any other ends nowhere).
    pub fn irq_line(plic: &Shared<Plic>, source: u32) -> IrqLine {
        if source == 0 || source >= SOURCES {
            return IrqLine::unconnected();
        }
        let levels = plic.lock().unwrap_or_else(|e| e.into_inner()).levels.clone();
        IrqLine::new(Arc::new(Input { plic: plic.clone(), levels }), source)
    }

    fn after_power_on(harts: usize) -> PlicState {
        let contexts = harts * CONTEXTS_PER_HART;
        PlicState {
            priority: vec![0; SOURCES as usize],
            pending: vec![0; WORDS],
            claimed: vec![0; WORDS],
            enable: vec![0; contexts * WORDS],
            threshold: vec![0; contexts],
        }
    }

    fn contexts(&self) -> usize {
        self.s.threshold.len()
    }

    fn register(&self, offset: u64) -> Register {
        let word = |base: u64| ((offset - base) / 4) as usize;
        match offset {
            o if !o.is_multiple_of(4) => Register::None,
            0..PENDING_BASE if word(0) < SOURCES as usize => Register::Priority(word(0)),
            PENDING_BASE..ENABLE_BASE if word(PENDING_BASE) < WORDS => Register::Pending(word(PENDING_BASE)),
            ENABLE_BASE..CONTEXT_BASE => {
                let context = ((offset - ENABLE_BASE) / ENABLE_STRIDE) as usize;
                let word = ((offset - ENABLE_BASE) % ENABLE_STRIDE / 4) as usize;
                if context < self.contexts() && word < WORDS {
                    Register::Enable(context * WORDS + word)
                } else {
                    Register::None
                }
            }
            CONTEXT_BASE.. => {
                let context = ((offset - CONTEXT_BASE) / CONTEXT_STRIDE) as usize;
                match (offset - CONTEXT_BASE) % CONTEXT_STRIDE {
                    0 if context < self.contexts() => Register::Threshold(context),
                    4 if context < self.contexts() => Register::Claim(context),
                    _ => Register::None,
                }
            }
            _ => Register::None,
        }
    }

    /// The pending source of highest priority that `context` has enabled, lowest number first, and its priority.
    fn best(&self, context: usize) -> Option<(u32, u8)> {
        let enable = self.s.enable.chunks_exact(WORDS).nth(context)?;
        let mut best = None;
        for (word, (pending, enabled)) in self.s.pending.iter().zip(enable).enumerate() {
            let mut bits = pending & enabled;
            while bits != 0 {
                let source = word as u32 * 32 + bits.trailing_zeros();
                bits &= bits - 1;
                let priority = self.s.priority.get(source as usize).copied().unwrap_or(0);
                // Priority 0 is "never interrupt".
                if priority > best.map_or(0, |(_, p)| p) {
                    best = Some((source, priority));
                }
            }
        }
        best
    }

    fn level(&self, source: u32) -> bool {
        self.levels.get(source as usize / 32).is_some_and(|w| w.load(SeqCst) & bit(source) != 0)
    }

    /// The gateway: forwards a high line unless its last request is still being served.
    fn forward(&mut self, source: u32) {
        let word = source as usize / 32;
        let claimed = self.s.claimed.get(word).is_none_or(|c| c & bit(source) != 0);
        if let (false, true, Some(p)) = (claimed, self.level(source), self.s.pending.get_mut(word)) {
            *p |= bit(source);
        }
    }

    fn claim(&mut self, context: usize) -> u32 {
        let Some((source, _)) = self.best(context) else { return 0 };
        let word = source as usize / 32;
        if let (Some(p), Some(c)) = (self.s.pending.get_mut(word), self.s.claimed.get_mut(word)) {
            *p &= !bit(source);
            *c |= bit(source);
        }
        source
    }

    fn complete(&mut self, context: usize, source: u32) {
        let word = source as usize / 32;
        let enabled =
            word < WORDS && self.s.enable.get(context * WORDS + word).is_some_and(|e| e & bit(source) != 0);
        if let (true, Some(c)) = (enabled, self.s.claimed.get_mut(word)) {
            *c &= !bit(source);
            self.forward(source);
        }
    }
}

fn bit(source: u32) -> u32 {
    1 << (source % 32)
}

impl Stateful for Plic {
    type State = PlicState;
    fn state(&self) -> PlicState {
        self.s.clone()
    }
    fn reset_state(&self) -> PlicState {
        Self::after_power_on(self.harts.len())
    }
    fn check(&self, s: &PlicState) -> Result<(), StateError> {
        let bad = |why: &str| Err(StateError::Invalid { id: "plic".into(), why: why.into() });
        let contexts = self.harts.len() * CONTEXTS_PER_HART;
        if s.threshold.len() != contexts || s.enable.len() != contexts * WORDS {
            return bad("it is of another number of harts");
        }
        if s.priority.len() != SOURCES as usize || s.pending.len() != WORDS || s.claimed.len() != WORDS {
            return bad("it has another number of sources");
        }
        let zero = |words: &[u32]| words.iter().step_by(WORDS).all(|w| w & 1 == 0);
        if !zero(&s.pending) || !zero(&s.claimed) || !zero(&s.enable) || s.priority.first() != Some(&0) {
            return bad("source 0 is in use");
        }
        if s.priority.iter().chain(&s.threshold).any(|&p| p > PRIORITY_MASK) {
            return bad("a priority is above 7");
        }
        Ok(())
    }
    fn set_state(&mut self, state: PlicState) {
        self.s = state;
    }
    fn settle(&mut self) {
        for (h, hart) in self.harts.iter().enumerate() {
            for (mode, pin) in PINS.into_iter().enumerate() {
                let context = h * CONTEXTS_PER_HART + mode;
                let threshold = self.s.threshold.get(context).copied().unwrap_or(0);
                let level = self.best(context).is_some_and(|(_, p)| p > threshold);
                // Nobody else drives this pin, so a look spares the atomic write that is mostly in vain.
                if (hart.pins() >> pin & 1 != 0) != level {
                    hart.set_pin(pin, level);
                }
            }
        }
    }
}

impl Mmio for Plic {
    fn read(&mut self, offset: u64, size: u8) -> u64 {
        if size != 4 {
            return 0;
        }
        let word = |words: &[u32], i: usize| words.get(i).copied().map_or(0, u64::from);
        let byte = |bytes: &[u8], i: usize| bytes.get(i).copied().map_or(0, u64::from);
        match self.register(offset) {
            Register::Priority(i) => byte(&self.s.priority, i),
            Register::Pending(i) => word(&self.s.pending, i),
            Register::Enable(i) => word(&self.s.enable, i),
            Register::Threshold(c) => byte(&self.s.threshold, c),
            Register::Claim(c) => {
                let source = self.claim(c);
                self.settle();
                u64::from(source)
            }
            Register::None => 0,
        }
    }

    fn write(&mut self, offset: u64, size: u8, value: u64) {
        if size != 4 {
            return;
        }
        let level = value as u8 & PRIORITY_MASK;
        match self.register(offset) {
            Register::Priority(i @ 1..) => {
                if let Some(p) = self.s.priority.get_mut(i) {
                    *p = level;
                }
            }
            Register::Enable(i) => {
                if let Some(e) = self.s.enable.get_mut(i) {
                    *e = value as u32 & if i % WORDS == 0 { !1 } else { !0 };
                }
            }
            Register::Threshold(c) => {
                if let Some(t) = self.s.threshold.get_mut(c) {
                    *t = level;
                }
            }
            Register::Claim(c) => self.complete(c, value as u32),
            Register::Priority(0) | Register::Pending(_) | Register::None => {}
        }
        self.settle();
    }
}

/// The input side, as the wires hold it.
struct Input {
    plic: Shared<Plic>,
    levels: Levels,
}

impl IrqSink for Input {
    fn set_line(&self, source: u32, level: bool) {
        let Some(word) = self.levels.get(source as usize / 32) else { return };
        let mask = bit(source);
        if !level {
            // A falling line changes nothing but its own level: what is pending stays so.
            word.fetch_and(!mask, SeqCst);
        } else if word.fetch_or(mask, SeqCst) & mask == 0 {
            let mut plic = self.plic.lock().unwrap_or_else(|e| e.into_inner());
            plic.forward(source);
            plic.settle();
        }
    }
}

#[cfg(test)]
mod tests;
