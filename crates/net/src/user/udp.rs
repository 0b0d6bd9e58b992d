//! UDP to the outside: one connected host socket a flow (guest address and port, destination address and port).
//!
//! A connected socket takes answers from the asked peer only, and learns when the peer's host refuses: the guest
//! then gets the ICMP message that a router would pass on. At most [`FLOWS`] flows; the one silent for longest gives
//! way. Forwarded ports are the `UdpForward`s: peers outside are seen by the guest as ports of the gateway.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketType};

use super::frame::{IP_LEN, IpHeader, PROTO_UDP, UDP_LEN, finish_udp};
use super::host::{self, Host, Token};
use super::link::{Link, Unreachable};
use super::plan::{self, GATEWAY, GUEST};
use super::table::{Id, Table};

/// Flows at a time, unless the process has few descriptors.
pub const FLOWS: usize = 512;
/// How long a silent flow lives: the least that RFC 4787 REQ-5 allows, less for questions to a name server.
const TIMEOUT: Duration = Duration::from_secs(120);
const DNS_TIMEOUT: Duration = Duration::from_secs(30);
/// Datagrams taken from one socket in one go, so that a flood leaves time for the others.
const BURST: usize = 64;
/// Peers of a forwarded port that are remembered for the guest's answers.
const PEERS: usize = 256;

/// A guest's socket and whom it talks to.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FlowKey {
    pub guest: SocketAddrV4,
    pub far: SocketAddrV4,
}

struct Flow {
    socket: OwnedFd,
    last: Instant,
}

/// All flows.
pub struct Udp {
    flows: Table<FlowKey, Flow>,
    forwards: Vec<UdpForward>,
}

/// A host port whose datagrams go to the guest.
struct UdpForward {
    /// Its number among all forwards.
    number: u32,
    socket: OwnedFd,
    guest_port: u16,
    /// Who sent to it: the peer, the port under which the guest sees it, when it last sent.
    peers: Vec<(SocketAddr, u16, Instant)>,
}

impl Udp {
    pub fn new(limit: usize) -> Udp {
        Udp { flows: Table::new(limit), forwards: Vec::new() }
    }

    /// Adds a forwarded port, whose socket is open and nonblocking.
    pub fn add_forward(&mut self, number: u32, socket: OwnedFd, guest_port: u16) {
        self.forwards.push(UdpForward { number, socket, guest_port, peers: Vec::new() });
    }

    /// Takes a datagram of the guest.
    pub fn input(&mut self, key: FlowKey, payload: &[u8], host: &Host, link: &mut Link) {
        if self.answer_forward(key, payload, link.now) {
            return;
        }
        let Some(addr) = plan::to_host(*key.far.ip()) else { return };
        let result = self.flow(key, addr, host, link.now).and_then(|id| {
            let Some((_, flow)) = self.flows.get_mut(id) else { return Ok(0) };
            flow.last = link.now;
            rustix::net::send(&flow.socket, payload, SendFlags::NOSIGNAL)
        });
        // What does not fit the socket's buffer is lost, as on any wire; an error may be about an earlier datagram.
        if let Err(e) = result
            && let Some(why) = host::unreachable(e)
        {
            unreachable(link, key, why);
        }
    }

    /// The flow of `key`, made where there is none.
    fn flow(&mut self, key: FlowKey, addr: Ipv4Addr, host: &Host, now: Instant) -> Result<Id, Errno> {
        if let Some(id) = self.flows.find(&key) {
            return Ok(id);
        }
        let socket = host.connect(SocketType::DGRAM, SocketAddrV4::new(addr, key.far.port()).into())?;
        if self.flows.is_full()
            && let Some(oldest) = self.flows.iter().min_by_key(|(_, _, f)| f.last).map(|(id, ..)| id)
        {
            self.flows.remove(oldest);
        }
        let id = self.flows.insert(key, Flow { socket, last: now }).ok_or(Errno::NOBUFS)?;
        if let Some((_, flow)) = self.flows.get(id)
            && let Err(e) = host.watch(&flow.socket, Token::Udp(id))
        {
            self.flows.remove(id);
            return Err(e);
        }
        Ok(id)
    }

    /// Datagrams (or a refusal) have come for a flow.
    pub fn event(&mut self, id: Id, link: &mut Link, scratch: &mut [u8]) {
        let Some((&key, flow)) = self.flows.get_mut(id) else { return };
        for _ in 0..BURST {
            let Some(space) = scratch.get_mut(UDP_LEN..) else { return };
            match rustix::io::read(&flow.socket, space) {
                Ok(n) => {
                    flow.last = link.now;
                    link.send_udp(key.far, key.guest, &mut scratch[..UDP_LEN + n]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(e) => {
                    if let Some(why) = host::unreachable(e) {
                        unreachable(link, key, why);
                    }
                    return;
                }
            }
        }
    }

    /// Datagrams have come for the forward `number`.
    pub fn forward_event(&mut self, number: u32, link: &mut Link, scratch: &mut [u8]) {
        let Some(forward) = self.forwards.iter_mut().find(|f| f.number == number) else { return };
        for _ in 0..BURST {
            let Some(space) = scratch.get_mut(UDP_LEN..) else { return };
            match rustix::net::recvfrom(&forward.socket, space, RecvFlags::DONTWAIT) {
                Ok((n, _, Some(from))) => {
                    let Ok(from) = SocketAddr::try_from(from) else { continue };
                    let Some(port) = forward.port_of(from, link.now) else { continue };
                    let to = SocketAddrV4::new(GUEST, forward.guest_port);
                    link.send_udp(SocketAddrV4::new(GATEWAY, port), to, &mut scratch[..UDP_LEN + n]);
                }
                Ok((_, _, None)) | Err(Errno::INTR) => {}
                Err(_) => return, // empty, or an earlier answer was refused
            }
        }
    }

    /// Sends the guest's datagram to a peer of a forwarded port, where that is what it answers.
    fn answer_forward(&mut self, key: FlowKey, payload: &[u8], now: Instant) -> bool {
        if (*key.guest.ip(), *key.far.ip()) != (GUEST, GATEWAY) {
            return false;
        }
        for forward in self.forwards.iter_mut().filter(|f| f.guest_port == key.guest.port()) {
            if let Some(peer) = forward.peers.iter_mut().find(|p| p.1 == key.far.port()) {
                peer.2 = now;
                let _ = rustix::net::sendto(&forward.socket, payload, SendFlags::NOSIGNAL, &peer.0);
                return true;
            }
        }
        false
    }

    /// Ends flows that have been silent for too long; gives when to look again.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        let end = |key: &FlowKey, flow: &Flow| {
            flow.last + if key.far.port() == super::dns::PORT { DNS_TIMEOUT } else { TIMEOUT }
        };
        self.flows.sweep(|key, flow| end(key, flow) <= now);
        for forward in &mut self.forwards {
            forward.peers.retain(|p| now.saturating_duration_since(p.2) < TIMEOUT);
        }
        self.flows.iter().map(|(_, key, flow)| end(key, flow)).min()
    }
}

impl UdpForward {
    /// The gateway's port under which the guest sees `peer`: the peer's own, where no other peer has it.
    fn port_of(&mut self, peer: SocketAddr, now: Instant) -> Option<u16> {
        if let Some(known) = self.peers.iter_mut().find(|p| p.0 == peer) {
            known.2 = now;
            return Some(known.1);
        }
        if self.peers.len() >= PEERS {
            let oldest = (0..self.peers.len()).min_by_key(|&i| self.peers[i].2)?;
            self.peers.swap_remove(oldest);
        }
        let free = |port: &u16| *port != 0 && self.peers.iter().all(|p| p.1 != *port);
        let port = (0..=PEERS as u16).map(|i| peer.port().wrapping_add(i)).find(free)?;
        self.peers.push((peer, port, now));
        Some(port)
    }
}

/// Tells the guest that a flow's destination cannot be reached, quoting a datagram as it would have sent it.
fn unreachable(link: &mut Link, key: FlowKey, why: Unreachable) {
    let (src, dst) = (*key.guest.ip(), *key.far.ip());
    let header = IpHeader { src, dst, proto: PROTO_UDP, ident: 0, fragment: 0, payload_len: UDP_LEN };
    let mut packet = [0; IP_LEN + UDP_LEN];
    packet[..IP_LEN].copy_from_slice(&header.bytes());
    finish_udp((src, key.guest.port()), (dst, key.far.port()), &mut packet[IP_LEN..]);
    link.send_unreachable(why, src, &packet);
}
