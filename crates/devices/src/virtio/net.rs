//! virtio-net, virtio 1.3 §5.1: one pair of queues on a [`NetBackend`], and a queue for commands.
//!
//! Frames go one way from the transmit queue to the backend and the other way into the driver's receive buffers,
//! with MRG_RXBUF over several of them. No offloads are offered, so every header but its `num_buffers` is zero.
//!
//! The wire's manners: a frame that is too long or too short is dropped, as is everything while the link is down or
//! no driver listens. A frame for which the driver has no buffer is held back, and the backend with it; that one
//! frame is host state and lost when the machine is saved, as frames on a wire may be.
//!
//! The one command there is says that the driver has told its neighbours where it is (§5.1.6.5.4), which it is asked for
//! when the backend has come to another place.
//!
//! State: none of its own. MAC address and link are bindings, made anew when a machine is built.

use super::core::{Token, Virtio, Wiring, lock};
use super::device::{Device, QueueSpec, VirtioState};
use super::pump::Port;
use super::virtqueue::{Chain, Nonsense, Popped};
use super::{Built, built};
use crate::Worker;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};
use strata_memory::{GuestRam, VolatileSlice};
use strata_net::{MAX_FRAME, NetBackend};

/// Length of the header before every frame (§5.1.6).
const HEADER: usize = 12;
/// Where `num_buffers` stands in it.
const NUM_BUFFERS: usize = 10;
/// Shortest frame worth sending: an Ethernet header.
const MIN_FRAME: usize = 14;
/// Largest payload: what [`MAX_FRAME`] leaves beside Ethernet header and VLAN tag.
const MTU: u16 = MAX_FRAME as u16 - 18;
/// Receive buffers that one frame may take: a whole queue of them.
const MAX_BUFFERS: usize = 256;
/// Frames moved each way in one turn: about a queue's worth.
const MAX_FRAMES: usize = 256;
/// While the driver gives no receive buffers the backend's descriptor is not waited for, since it would stay
/// readable; its timers are looked after this often instead.
const STARVED: Duration = Duration::from_millis(10);

/// Commands dealt with in one turn.
const MAX_COMMANDS: usize = 64;

const RX: u16 = 0;
const TX: u16 = 1;
const CONTROL: u16 = 2;

/// Bits of the status in the config space (§5.1.4).
const LINK_UP: u8 = 1;
const ANNOUNCE: u8 = 2;
/// Class and command of the acknowledgement, and the answers to any command (§5.1.6.5).
const ANNOUNCE_ACK: [u8; 2] = [3, 0];
const OK: u8 = 0;
const ERR: u8 = 1;

/// Feature bits (§5.1.3).
pub mod feature {
    /// The config space tells the largest payload.
    pub const MTU: u64 = 1 << 3;
    /// The config space tells the MAC address.
    pub const MAC: u64 = 1 << 5;
    /// A frame may fill several receive buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The config space tells whether the link is up.
    pub const STATUS: u64 = 1 << 16;
    /// There is a queue for commands.
    pub const CTRL_VQ: u64 = 1 << 17;
    /// The driver can be asked to tell its neighbours where it is.
    pub const GUEST_ANNOUNCE: u64 = 1 << 21;
}

strata_state::state! {
    /// State of virtio-net.
    pub struct NetState("virtio-net", 1) {
        /// Shared by all virtio devices.
        1 virtio: VirtioState,
    }
}

/// The guest's view of virtio-net.
pub struct Net {
    /// `mac:[u8; 6] status:u16 max_virtqueue_pairs:u16 mtu:u16` (§5.1.4).
    config: [u8; 12],
}

impl Net {
    fn new(mac: [u8; 6]) -> Net {
        let mut config = [0; 12];
        config[..6].copy_from_slice(&mac);
        config[6] = LINK_UP;
        config[8] = 1; // one pair of queues
        config[10..].copy_from_slice(&MTU.to_le_bytes());
        Net { config }
    }

    fn link_up(&self) -> bool {
        self.config[6] & LINK_UP != 0
    }

    /// Does a command, which is a class and a number; gives the answer.
    fn command(&mut self, command: Option<[u8; 2]>) -> u8 {
        if command != Some(ANNOUNCE_ACK) {
            return ERR;
        }
        self.config[6] &= !ANNOUNCE;
        OK
    }
}

impl Device for Net {
    type State = NetState;
    const ID: u32 = 1;
    const NAME: &'static str = "virtio-net";
    const QUEUES: &'static [QueueSpec] = &[
        QueueSpec { name: "receive", max: 256 },
        QueueSpec { name: "transmit", max: 256 },
        QueueSpec { name: "control", max: 64 },
    ];
    const QUEUES_ONCE: usize = 2;

    fn features(&self) -> u64 {
        feature::MTU
            | feature::MAC
            | feature::MRG_RXBUF
            | feature::STATUS
            | feature::CTRL_VQ
            | feature::GUEST_ANNOUNCE
    }
    fn config(&self) -> &[u8] {
        &self.config
    }
    fn pack(&self, virtio: VirtioState) -> NetState {
        NetState { virtio }
    }
    fn fresh(&self, virtio: VirtioState) -> NetState {
        NetState { virtio }
    }
    fn transport(state: &NetState) -> &VirtioState {
        &state.virtio
    }
    fn unpack(&mut self, NetState { virtio }: NetState) -> VirtioState {
        virtio
    }
}

impl Virtio<Net> {
    /// Plugs the cable in or out; the driver is told.
    pub fn set_link(&mut self, up: bool) {
        if self.device.link_up() != up {
            self.device.config[6] ^= LINK_UP;
            self.core.config_changed();
        }
    }

    /// Asks the driver to tell its neighbours where it is, if it knows how to.
    pub fn announce(&mut self) {
        if self.core.negotiated() & feature::GUEST_ANNOUNCE != 0 {
            self.device.config[6] |= ANNOUNCE;
            self.core.config_changed();
        }
    }
}

/// What became of a frame for the guest.
enum Delivery {
    /// It is in the receive queue, or dropped as a wire would.
    Gone,
    /// No buffer for it now.
    NoRoom,
}

struct NetWorker {
    port: Port<Net>,
    backend: Box<dyn NetBackend>,
    tx: Box<[u8; MAX_FRAME]>,
    /// Header and frame, as the guest gets them.
    rx: Box<[u8; HEADER + MAX_FRAME]>,
    /// Length of the frame in `rx` that waits for buffers.
    held: Option<usize>,
}

/// Copies the frame behind the header of `chain` into `to`; `None` if it is none that a wire would carry.
fn frame_of<'t>(chain: &Chain<'_>, to: &'t mut [u8; MAX_FRAME]) -> Result<Option<&'t [u8]>, Nonsense> {
    let mut r = chain.reader();
    if r.array::<HEADER>().is_none() {
        return Err(Nonsense::Request("no whole virtio-net header"));
    }
    let len = r.left();
    if len < MIN_FRAME as u64 || len > MAX_FRAME as u64 {
        return Ok(None);
    }
    let n = r.read(to);
    Ok(to.get(..n))
}

impl NetWorker {
    /// Sends what the driver has queued; gives whether there may be more.
    fn transmit(&mut self) -> bool {
        let NetWorker { port, backend, tx, .. } = self;
        let mut spare = Vec::new();
        let mut finished = None;
        for _ in 0..MAX_FRAMES {
            let (popped, token, up) = {
                let mut v = lock(&port.virtio);
                if let Some(token) = finished.take() {
                    v.core.complete(&[(token, 0)]);
                }
                let (popped, token) = v.core.pop(TX, &port.ram, &mut spare);
                (popped, token, v.device.link_up())
            };
            let Popped::Chain(chain) = popped else { return false };
            match frame_of(&chain, tx) {
                Ok(Some(frame)) if up => backend.send(frame),
                Ok(_) => {}
                Err(e) => {
                    port.core(|c| c.fail(&e));
                    return false;
                }
            }
            chain.recycle(&mut spare);
            finished = Some(token);
        }
        if let Some(token) = finished {
            port.core(|c| c.complete(&[(token, 0)]));
        }
        true
    }

    /// Does what the driver commands.
    fn control(&mut self) {
        let NetWorker { port, .. } = self;
        let mut spare = Vec::new();
        for _ in 0..MAX_COMMANDS {
            let mut v = lock(&port.virtio);
            let (popped, token) = v.core.pop(CONTROL, &port.ram, &mut spare);
            let Popped::Chain(chain) = popped else { return };
            let answer = v.device.command(chain.reader().array());
            let written = chain.writer().write(&[answer]) as u32;
            chain.recycle(&mut spare);
            v.core.complete(&[(token, written)]);
        }
        // There may be more.
        port.doorbell.ring();
    }

    /// Gives the guest up to `budget` frames; gives how many were dealt with.
    fn receive(&mut self, budget: usize) -> usize {
        let (mut spare, mut buffers) = (Vec::new(), Vec::new());
        let ram = self.port.ram.clone();
        for done in 0..budget {
            if self.held.is_none() {
                let Some(room) = self.rx.get_mut(HEADER..) else { return done };
                self.held = self.backend.recv(room).map(|n| n.min(MAX_FRAME));
            }
            let Some(len) = self.held else { return done };
            let mut v = lock(&self.port.virtio);
            let packet = self.rx.get(..HEADER + len).unwrap_or_default();
            match deliver(&mut v, &ram, packet, &mut buffers, &mut spare) {
                Ok(Delivery::Gone) => self.held = None,
                Ok(Delivery::NoRoom) => return done,
                Err(e) => {
                    v.core.fail(&e);
                    self.held = None;
                }
            }
        }
        budget
    }
}

/// Puts `packet`, which is a zero header and a frame, into receive buffers of the driver's. `done` and `spare` only
/// lend their allocations.
fn deliver<'m>(
    v: &mut Virtio<Net>,
    ram: &'m GuestRam,
    packet: &[u8],
    done: &mut Vec<(Token, u32)>,
    spare: &mut Vec<VolatileSlice<'m>>,
) -> Result<Delivery, Nonsense> {
    if !v.core.live(RX) || !v.device.link_up() {
        return Ok(Delivery::Gone);
    }
    done.clear();
    let mergeable = v.core.negotiated() & feature::MRG_RXBUF != 0;
    let least = if mergeable { HEADER } else { packet.len() };
    let (mut first, mut at) = (None, 0);
    while let Some(rest) = packet.get(at..).filter(|r| !r.is_empty()) {
        let (popped, token) = v.core.pop(RX, ram, spare);
        let Popped::Chain(chain) = popped else {
            v.core.put_back(token, done.len() as u16);
            return Ok(Delivery::NoRoom);
        };
        if at == 0 && chain.writable_len() < least as u64 {
            return Err(Nonsense::Request(
                "receive buffer too short for a header, or for a frame without MRG_RXBUF",
            ));
        }
        if done.len() >= MAX_BUFFERS {
            return Err(Nonsense::Request("frame spread over more receive buffers than a queue holds"));
        }
        let n = chain.writer().write(rest);
        done.push((token, n as u32));
        at += n;
        match first {
            None => first = Some(chain),
            Some(_) => chain.recycle(spare),
        }
    }
    if let Some(chain) = first {
        let (_, mut num_buffers) = chain.writer().split_at(NUM_BUFFERS as u64);
        num_buffers.write(&(done.len() as u16).to_le_bytes());
        chain.recycle(spare);
    }
    v.core.complete(done);
    Ok(Delivery::Gone)
}

impl Worker for NetWorker {
    fn wait_for(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.port.doorbell.as_fd()];
        if self.held.is_none() {
            fds.push(self.backend.poll_fd());
        }
        fds
    }

    fn turn(&mut self) -> Option<Duration> {
        self.port.doorbell.hush();
        if self.backend.take_moved() {
            lock(&self.port.virtio).announce();
        }
        self.control();
        let mut more = self.transmit();
        let mut budget = MAX_FRAMES;
        let wait = loop {
            let wait = self.backend.poll(Instant::now());
            // What the guest took may have made room for more in the backend: ask it again until it is quiet.
            let n = self.receive(budget);
            budget -= n;
            if n == 0 {
                break wait;
            }
            if budget == 0 {
                more = true;
                break wait;
            }
        };
        match (more, self.held) {
            (true, _) => Some(Duration::ZERO),
            (false, Some(_)) => Some(wait.map_or(STARVED, |w| w.min(STARVED))),
            (false, None) => wait,
        }
    }

    fn name(&self) -> &str {
        Net::NAME
    }
}

/// Makes a virtio-net behind MMIO registers, with the address `mac`, on `backend`.
///
/// # Errors
/// The host has no descriptor left.
pub fn net(wiring: Wiring, backend: Box<dyn NetBackend>, mac: [u8; 6]) -> io::Result<Built<Net>> {
    let ram = wiring.ram.clone();
    Ok(built(Virtio::new(Net::new(mac), wiring)?, |virtio| {
        Box::new(NetWorker {
            port: Port::new(virtio, ram),
            backend,
            tx: Box::new([0; MAX_FRAME]),
            rx: Box::new([0; HEADER + MAX_FRAME]),
            held: None,
        })
    }))
}
