//! virtio-console, virtio 1.3 §5.3: one port, its queues on a pair of descriptors (pipe, socket or terminal).
//!
//! A chain of the transmit queue stays at the queue's head until the backend has taken all of it; how far it got is
//! in the state, so nothing is said twice or lost over a save. Input is read only when the driver has a buffer for
//! it. End of input is not the end of anything, and output that nobody reads any more is dropped.
//!
//! Not here: several ports, emergency write.

use super::core::{Token, Virtio, Wiring, lock};
use super::device::{Device, QueueSpec, VirtioState};
use super::pump::Port;
use super::virtqueue::{Chain, Popped};
use super::{Built, built};
use crate::Worker;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

const RX: u16 = 0;
const TX: u16 = 1;

/// Bytes moved by one system call: `PIPE_BUF`, which a pipe that polls writable takes without blocking.
const PIECE: usize = 4096;
/// Pieces moved each way in one turn.
const MAX_PIECES: usize = 64;

/// Feature bits (§5.3.3).
pub mod feature {
    /// The config space tells the size of the terminal.
    pub const SIZE: u64 = 1;
}

strata_state::state! {
    /// State of virtio-console.
    pub struct ConsoleState("virtio-console", 1) {
        /// Shared by all virtio devices.
        1 virtio: VirtioState,
        /// Bytes of the chain at the head of the transmit queue that are out already.
        2 sent: u32,
    }
}

/// The guest's view of virtio-console.
pub struct Console {
    /// `cols:u16 rows:u16 max_nr_ports:u32 emerg_wr:u32` (§5.3.4). A fact of the host, not of the state.
    config: [u8; 12],
    sent: u32,
}

impl Device for Console {
    type State = ConsoleState;
    const ID: u32 = 3;
    const NAME: &'static str = "virtio-console";
    const QUEUES: &'static [QueueSpec] =
        &[QueueSpec { name: "receive", max: 64 }, QueueSpec { name: "transmit", max: 64 }];

    fn features(&self) -> u64 {
        feature::SIZE
    }
    fn config(&self) -> &[u8] {
        &self.config
    }
    fn pack(&self, virtio: VirtioState) -> ConsoleState {
        ConsoleState { virtio, sent: self.sent }
    }
    fn fresh(&self, virtio: VirtioState) -> ConsoleState {
        ConsoleState { virtio, sent: 0 }
    }
    fn transport(state: &ConsoleState) -> &VirtioState {
        &state.virtio
    }
    fn unpack(&mut self, ConsoleState { virtio, sent }: ConsoleState) -> VirtioState {
        self.sent = sent;
        virtio
    }
}

impl Virtio<Console> {
    /// Tells the driver the terminal's size.
    pub fn set_size(&mut self, cols: u16, rows: u16) {
        let mut size = [0; 4];
        size[..2].copy_from_slice(&cols.to_le_bytes());
        size[2..].copy_from_slice(&rows.to_le_bytes());
        if self.device.config[..4] != size {
            self.device.config[..4].copy_from_slice(&size);
            self.core.config_changed();
        }
    }
}

struct ConsoleWorker {
    port: Port<Console>,
    /// `None` after its end.
    input: Option<OwnedFd>,
    /// `None` when nobody reads it any more.
    output: Option<OwnedFd>,
    /// The driver has a buffer and there was no input.
    want_input: bool,
    /// A chain waits for the backend.
    want_output: bool,
}

/// What a system call on the backend came to.
enum Moved {
    Bytes(usize),
    NotNow,
    Gone,
}

/// Whether `fd` is ready for `what` now. Asked before every call, since the descriptor may be shared with programs
/// that would not bear O_NONBLOCK on it.
fn ready(fd: &OwnedFd, what: PollFlags) -> bool {
    let mut fds = [PollFd::new(fd, what)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|n| n > 0)
}

fn moved(r: rustix::io::Result<usize>) -> Moved {
    match r {
        Ok(0) => Moved::Gone,
        Ok(n) => Moved::Bytes(n),
        Err(Errno::AGAIN | Errno::INTR) => Moved::NotNow,
        Err(_) => Moved::Gone,
    }
}

impl ConsoleWorker {
    /// Writes the next piece of `chain`, of which `sent` bytes are out; gives how many are out now, or `None` if
    /// the backend takes nothing now.
    fn write_piece(&mut self, chain: &Chain<'_>, sent: u64) -> Option<u64> {
        let all = chain.readable_len();
        let (Some(fd), true) = (&self.output, sent < all) else { return Some(all) };
        if !ready(fd, PollFlags::OUT) {
            return None;
        }
        let mut piece = [0; PIECE];
        let n = chain.reader().split_at(sent).1.read(&mut piece);
        match moved(rustix::io::write(fd, piece.get(..n).unwrap_or_default())) {
            Moved::Bytes(n) => Some(sent + n as u64),
            Moved::NotNow => None,
            Moved::Gone => {
                self.output = None;
                Some(all)
            }
        }
    }

    /// Says what the driver has queued; gives whether there may be more to say at once.
    fn transmit(&mut self) -> bool {
        let ram = self.port.ram.clone();
        let mut spare = Vec::new();
        self.want_output = false;
        for _ in 0..MAX_PIECES {
            let (popped, token, sent) = {
                let mut v = lock(&self.port.virtio);
                let (popped, token) = v.core.pop(TX, &ram, &mut spare);
                (popped, token, u64::from(v.device.sent))
            };
            let Popped::Chain(chain) = popped else { return false };
            let now = self.write_piece(&chain, sent);
            self.settle_output(token, now.unwrap_or(sent), chain.readable_len());
            chain.recycle(&mut spare);
            if now.is_none() {
                self.want_output = true;
                return false;
            }
        }
        true
    }

    /// Completes the chain of `token` if `sent` is `all` of it, else leaves it at the queue's head.
    fn settle_output(&mut self, token: Token, sent: u64, all: u64) {
        let mut v = lock(&self.port.virtio);
        if !v.core.current(token) {
            return;
        }
        if sent >= all {
            v.device.sent = 0;
            v.core.complete(&[(token, 0)]);
        } else {
            v.device.sent = sent as u32; // a chain has at most u32::MAX bytes
            v.core.put_back(token, 1);
        }
    }

    /// Gives the driver what there is to read; gives whether there may be more.
    fn receive(&mut self) -> bool {
        let ram = self.port.ram.clone();
        let mut spare = Vec::new();
        let mut piece = [0; PIECE];
        self.want_input = false;
        for _ in 0..MAX_PIECES {
            let Some(fd) = &self.input else { return false };
            let (popped, token) = self.port.core(|c| c.pop(RX, &ram, &mut spare));
            let Popped::Chain(chain) = popped else { return false };
            let room = chain.writable_len().min(PIECE as u64) as usize;
            let got = if room == 0 {
                Moved::Bytes(0)
            } else if ready(fd, PollFlags::IN) {
                moved(rustix::io::read(fd, piece.get_mut(..room).unwrap_or_default()))
            } else {
                Moved::NotNow
            };
            if let Moved::Bytes(n) = got {
                chain.writer().write(piece.get(..n).unwrap_or_default());
                chain.tell();
                self.port.core(|c| c.complete(&[(token, n as u32)]));
            } else {
                self.port.core(|c| c.put_back(token, 1));
                self.want_input = matches!(got, Moved::NotNow);
                if !self.want_input {
                    self.input = None;
                }
                return false;
            }
            chain.recycle(&mut spare);
        }
        true
    }
}

impl Worker for ConsoleWorker {
    fn wait_for(&self) -> Vec<BorrowedFd<'_>> {
        let input = self.input.iter().filter(|_| self.want_input).map(AsFd::as_fd);
        std::iter::once(self.port.doorbell.as_fd()).chain(input).collect()
    }

    fn wait_to_write(&self) -> Vec<BorrowedFd<'_>> {
        self.output.iter().filter(|_| self.want_output).map(AsFd::as_fd).collect()
    }

    fn turn(&mut self) -> Option<Duration> {
        self.port.doorbell.hush();
        let more_out = self.transmit();
        let more_in = self.receive();
        (more_out || more_in).then_some(Duration::ZERO)
    }

    fn drained(&self) -> bool {
        !self.want_output && !self.port.doorbell.rung()
    }

    fn name(&self) -> &str {
        Console::NAME
    }
}

/// Makes a virtio-console behind MMIO registers that reads from `input` and writes to `output`.
///
/// # Errors
/// The host has no descriptor left.
pub fn console(wiring: Wiring, input: OwnedFd, output: OwnedFd) -> io::Result<Built<Console>> {
    let ram = wiring.ram.clone();
    let mut config = [0; 12];
    config[..4].copy_from_slice(&[80, 0, 25, 0]);
    config[4] = 1; // max_nr_ports
    Ok(built(Virtio::new(Console { config, sent: 0 }, wiring)?, |virtio| {
        Box::new(ConsoleWorker {
            port: Port::new(virtio, ram),
            input: Some(input),
            output: Some(output),
            want_input: false,
            want_output: false,
        })
    }))
}
