//! A 16550A UART, as Linux's `8250` driver, U-Boot and OpenSBI drive it.
//!
//! National Semiconductor PC16550D data sheet, section "Registers"; eight byte-wide registers, and whatever the width
//! of an access, it is one of them:
//! ```text
//!      read          write            read        write
//!  0   RBR  (DLL)    THR  (DLL)    4  MCR         MCR
//!  1   IER  (DLM)    IER  (DLM)    5  LSR         -
//!  2   IIR           FCR           6  MSR         -
//!  3   LCR           LCR           7  SCR         SCR       (DLL, DLM: while LCR bit 7 is set)
//! ```
//! The line has no speed: a byte sent is gone at once unless the peer holds it back, and then the transmitter stays
//! busy (THRE low). A byte received raises its interrupt at once: below the FIFO's trigger level as a character
//! timeout, so no timer is needed. The modem lines CTS, DSR and DCD are always on.
//!
//! State: the registers and both FIFOs. The interrupt wire is derived. The host side is the [`SerialLink`].
//!
//! Input is offered only to a guest that listens: whose receive interrupt is enabled, or that has looked for a byte
//! sixteen times running. Otherwise what a script sends early would be read by the firmware, or lost
//! when the kernel's driver clears the FIFOs.
//!
//! Not here: line errors (parity, framing, break), since no line makes them; the pins OUT1 and OUT2 outside loopback.

use crate::Mmio;
use crate::serial::{Serial, SerialLink, SerialWorker};
use std::sync::Arc;
use strata_engine::IrqLine;
use strata_state::{StateError, Stateful, state};

/// The worker of a UART.
pub type UartWorker = SerialWorker<Uart16550>;

/// Depth of each FIFO.
const FIFO: usize = 16;
/// Reads of LSR that found the transmitter idle, without a byte sent between them, after which the guest is taken to
/// be polling for input. A driver that only sends makes two or three.
const POLLS_TO_LISTEN: u8 = 16;

/// Interrupt enables.
mod ier {
    pub const RECEIVED: u8 = 1;
    pub const THR_EMPTY: u8 = 2;
    pub const LINE_STATUS: u8 = 4;
    pub const MODEM: u8 = 8;
    pub const ALL: u8 = 15;
}
/// Interrupt identification.
mod iir {
    pub const NONE: u8 = 1;
    pub const MODEM: u8 = 0;
    pub const THR_EMPTY: u8 = 2;
    pub const RECEIVED: u8 = 4;
    pub const LINE_STATUS: u8 = 6;
    pub const TIMEOUT: u8 = 12;
    pub const FIFOS_ON: u8 = 0xc0;
}
/// FIFO control.
mod fcr {
    pub const ENABLE: u8 = 1;
    pub const CLEAR_RX: u8 = 2;
    pub const CLEAR_TX: u8 = 4;
    pub const KEPT: u8 = 0xc9;
}
/// Line status.
mod lsr {
    pub const READY: u8 = 1;
    pub const OVERRUN: u8 = 2;
    pub const THR_EMPTY: u8 = 0x20;
    pub const IDLE: u8 = 0x40;
}
const LCR_DLAB: u8 = 0x80;
const MCR_LOOPBACK: u8 = 0x10;
const MCR_ALL: u8 = 0x1f;
const MCR_OUT2: u8 = 8;
/// Divisor of 9600 baud at the usual 1.8432 MHz. The line has no speed; a driver reads back what it wrote.
const DIVISOR_RESET: u16 = 12;

state! {
    /// Guest-visible state.
    pub struct UartState("uart16550", 1) {
        /// Interrupt enable register.
        1 ier: u8,
        /// Line control register.
        2 lcr: u8,
        /// Modem control register.
        3 mcr: u8,
        /// FIFO control register, without its self-clearing bits.
        4 fcr: u8,
        /// Scratch register.
        5 scr: u8,
        /// Divisor latches.
        6 divisor: u16,
        /// An overrun since LSR was read.
        7 overrun: bool,
        /// Changes of modem lines since MSR was read.
        8 msr_delta: u8,
        /// The interrupt of the empty transmitter waits.
        9 thr_empty: bool,
        /// Received, not yet read.
        10 rx: Vec<u8>,
        /// Sent by the guest, not yet taken by the peer.
        11 tx: Vec<u8>,
        /// Reads of LSR since the last byte sent, up to 16.
        12 polls: u8,
    }
}

/// The device.
pub struct Uart16550 {
    irq: IrqLine,
    link: Arc<SerialLink>,
    s: UartState,
}

impl Uart16550 {
    /// A UART after power-on that interrupts through `irq` and sends through `link`.
    pub fn new(irq: IrqLine, link: Arc<SerialLink>) -> Uart16550 {
        Uart16550 { irq, link, s: Self::after_power_on() }
    }

    fn after_power_on() -> UartState {
        UartState {
            ier: 0,
            lcr: 0,
            mcr: MCR_OUT2,
            fcr: 0,
            scr: 0,
            divisor: DIVISOR_RESET,
            overrun: false,
            msr_delta: 0,
            thr_empty: false,
            rx: Vec::new(),
            tx: Vec::new(),
            polls: 0,
        }
    }

    fn looped(&self) -> bool {
        self.s.mcr & MCR_LOOPBACK != 0
    }

    /// Bytes each direction holds.
    fn depth(&self) -> usize {
        if self.s.fcr & fcr::ENABLE != 0 { FIFO } else { 1 }
    }

    fn trigger(&self) -> usize {
        match self.s.fcr & (fcr::ENABLE | 0xc0) {
            0x41 => 4,
            0x81 => 8,
            0xc1 => 14,
            _ => 1,
        }
    }

    /// The modem lines, bits 4 to 7 of MSR.
    fn lines(&self) -> u8 {
        if self.looped() {
            let m = self.s.mcr;
            (m & 2) << 3 | (m & 1) << 5 | (m & 0xc) << 4
        } else {
            0xb0
        }
    }

    fn line_status(&self) -> u8 {
        let mut l = 0;
        if !self.s.rx.is_empty() {
            l |= lsr::READY;
        }
        if self.s.overrun {
            l |= lsr::OVERRUN;
        }
        if self.s.tx.is_empty() {
            l |= lsr::THR_EMPTY | lsr::IDLE;
        }
        l
    }

    /// The interrupt of highest priority (data sheet, table "Interrupt Control Functions").
    fn interrupt(&self) -> u8 {
        let s = &self.s;
        let on = |enable: u8| s.ier & enable != 0;
        if on(ier::LINE_STATUS) && s.overrun {
            iir::LINE_STATUS
        } else if on(ier::RECEIVED) && s.rx.len() >= self.trigger() {
            iir::RECEIVED
        } else if on(ier::RECEIVED) && !s.rx.is_empty() {
            iir::TIMEOUT
        } else if on(ier::THR_EMPTY) && s.thr_empty {
            iir::THR_EMPTY
        } else if on(ier::MODEM) && s.msr_delta != 0 {
            iir::MODEM
        } else {
            iir::NONE
        }
    }

    fn listens(&self) -> bool {
        self.s.ier & ier::RECEIVED != 0 || self.s.polls >= POLLS_TO_LISTEN
    }

    fn transmit(&mut self, byte: u8) {
        self.s.polls = 0;
        self.s.thr_empty = false;
        if self.looped() {
            // Overrun: a full FIFO keeps what it has, the single register takes the newer byte.
            let full = self.s.rx.len() >= self.depth();
            self.s.overrun |= full;
            if full && self.depth() == 1 {
                self.s.rx.clear();
            }
            if self.s.rx.len() < self.depth() {
                self.s.rx.push(byte);
            }
            self.s.thr_empty = true;
        } else if self.s.tx.len() < self.depth() {
            // A guest that writes into a full transmitter loses the byte, as on the part.
            self.s.tx.push(byte);
        }
    }

    fn set_fcr(&mut self, value: u8) {
        let toggled = (value ^ self.s.fcr) & fcr::ENABLE != 0;
        if value & fcr::CLEAR_RX != 0 {
            self.s.rx.clear();
        }
        if value & fcr::CLEAR_TX != 0 {
            self.s.tx.clear();
            self.s.thr_empty = true;
        }
        // The part empties both FIFOs when they are switched. What fits stays here, lest a byte be lost that came
        // between a driver's enabling the interrupt and its switching the FIFOs on.
        self.s.fcr = if value & fcr::ENABLE != 0 { value & fcr::KEPT } else { 0 };
        if toggled {
            let depth = self.depth();
            self.s.rx.truncate(depth);
        }
    }

    fn set_mcr(&mut self, value: u8) {
        let before = self.lines();
        self.s.mcr = value & MCR_ALL;
        let now = self.lines();
        // Bits 0, 1 and 3 tell of any change, bit 2 of RI falling.
        self.s.msr_delta |= (before ^ now) >> 4 & 0b1011 | (before & !now) >> 4 & 0b0100;
    }

    fn set_ier(&mut self, value: u8) {
        let old = std::mem::replace(&mut self.s.ier, value & ier::ALL);
        if (old ^ self.s.ier) & ier::THR_EMPTY != 0 {
            // Enabling it interrupts at once if the transmitter is empty, even if that was reported before: drivers
            // rely on it to start sending.
            self.s.thr_empty = self.s.ier & ier::THR_EMPTY != 0 && self.s.tx.is_empty();
        }
    }
}

impl Stateful for Uart16550 {
    type State = UartState;
    fn state(&self) -> UartState {
        self.s.clone()
    }
    fn reset_state(&self) -> UartState {
        Self::after_power_on()
    }
    fn check(&self, s: &UartState) -> Result<(), StateError> {
        if s.rx.len() > FIFO || s.tx.len() > FIFO {
            let why = "a FIFO holds more than 16 bytes".into();
            return Err(StateError::Invalid { id: "uart16550".into(), why });
        }
        Ok(())
    }
    fn set_state(&mut self, state: UartState) {
        self.s = state;
    }
    fn settle(&mut self) {
        if !self.s.tx.is_empty() {
            let taken = self.link.send(&self.s.tx);
            self.s.tx.drain(..taken.min(self.s.tx.len()));
            self.s.thr_empty |= self.s.tx.is_empty();
        }
        self.irq.set(self.interrupt() != iir::NONE);
        if self.room() > 0 {
            self.link.has_room();
        }
    }
}

impl Mmio for Uart16550 {
    fn read(&mut self, offset: u64, _size: u8) -> u64 {
        let dlab = self.s.lcr & LCR_DLAB != 0;
        let value = match offset {
            0 if dlab => self.s.divisor as u8,
            1 if dlab => (self.s.divisor >> 8) as u8,
            0 if self.s.rx.is_empty() => 0,
            0 => self.s.rx.remove(0),
            1 => self.s.ier,
            2 => {
                let id = self.interrupt();
                if id == iir::THR_EMPTY {
                    self.s.thr_empty = false;
                }
                if self.s.fcr & fcr::ENABLE != 0 { id | iir::FIFOS_ON } else { id }
            }
            3 => self.s.lcr,
            4 => self.s.mcr,
            5 => {
                let status = self.line_status();
                self.s.overrun = false;
                if status & (lsr::THR_EMPTY | lsr::READY) == lsr::THR_EMPTY {
                    self.s.polls = (self.s.polls + 1).min(POLLS_TO_LISTEN);
                }
                status
            }
            6 => self.lines() | std::mem::take(&mut self.s.msr_delta),
            7 => self.s.scr,
            _ => 0,
        };
        self.settle();
        u64::from(value)
    }

    fn write(&mut self, offset: u64, _size: u8, value: u64) {
        let dlab = self.s.lcr & LCR_DLAB != 0;
        let byte = value as u8;
        match offset {
            0 if dlab => self.s.divisor = self.s.divisor & 0xff00 | u16::from(byte),
            1 if dlab => self.s.divisor = self.s.divisor & 0xff | u16::from(byte) << 8,
            0 => self.transmit(byte),
            1 => self.set_ier(byte),
            2 => self.set_fcr(byte),
            3 => self.s.lcr = byte,
            4 => self.set_mcr(byte),
            7 => self.s.scr = byte,
            _ => {}
        }
        self.settle();
    }
}

impl Serial for Uart16550 {
    fn room(&self) -> usize {
        if self.looped() || !self.listens() { 0 } else { self.depth().saturating_sub(self.s.rx.len()) }
    }

    fn receive(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room());
        self.s.rx.extend(bytes.iter().take(n));
        self.settle();
        n
    }

    fn output_resumed(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests;
