//! The wire to the guest's card: wraps packets into frames, knows which card has which address, answers ARP
//! (RFC 826), cuts packets larger than the MTU into fragments, and tells the guest of what cannot be reached.
//!
//! A packet for a guest address whose card we have not seen is dropped, and the address asked for (at most once a
//! second): TCP sends again, and a datagram may be lost on any wire.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use super::frame::*;
use super::plan::{GATEWAY, GUEST, MTU, is_guest};
use super::queue::FrameQueue;

/// Frames that may wait for the guest: with [`crate::MAX_FRAME`] near 800 KiB, two full TCP windows.
const OUT_FRAMES: usize = 512;
/// Cards remembered; a guest may bridge many, and a hostile one can forge any number.
const NEIGHBOURS: usize = 64;
/// Shortest time between two ARP requests.
const ARP_INTERVAL: Duration = Duration::from_secs(1);

/// Why a destination cannot be reached: the code of an ICMP "destination unreachable" (RFC 792, RFC 1812 5.2.7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Unreachable {
    Network = 0,
    Host = 1,
    Port = 3,
    Prohibited = 13,
}

/// The wire.
pub struct Link {
    mac: Mac,
    out: FrameQueue,
    neighbours: Vec<(Ipv4Addr, Mac)>,
    /// The slot of `neighbours` that the next stranger takes once all are used.
    victim: usize,
    ident: u16,
    asked: Option<Instant>,
    /// The first guest's card was learned, or is another, since this was last asked.
    news: bool,
    /// Time of the current poll.
    pub now: Instant,
}

impl Link {
    pub fn new(mac: Mac, now: Instant) -> Link {
        let out = FrameQueue::new(OUT_FRAMES);
        Link { mac, out, neighbours: Vec::new(), victim: 0, ident: 0, asked: None, news: false, now }
    }

    /// The frames for the guest.
    pub fn out(&mut self) -> &mut FrameQueue {
        &mut self.out
    }

    /// How many more frames fit.
    pub fn room(&self) -> usize {
        self.out.room()
    }

    /// Whether a frame to `mac` is for us.
    pub fn is_for_us(&self, mac: Mac) -> bool {
        mac == self.mac || mac[0] & 1 != 0
    }

    /// Remembers that the card `mac` has the guest address `addr`.
    pub fn learn(&mut self, addr: Ipv4Addr, mac: Mac) {
        if !is_guest(addr) || mac[0] & 1 != 0 {
            return;
        }
        if let Some(known) = self.neighbours.iter_mut().find(|(a, _)| *a == addr) {
            self.news |= addr == GUEST && known.1 != mac;
            known.1 = mac;
            return;
        }
        self.news |= addr == GUEST;
        if self.neighbours.len() < NEIGHBOURS {
            self.neighbours.push((addr, mac));
        } else if let Some(slot) = self.neighbours.get_mut(self.victim) {
            *slot = (addr, mac);
            self.victim = (self.victim + 1) % NEIGHBOURS;
        }
    }

    /// All cards that are known.
    pub fn neighbours(&self) -> Vec<(Ipv4Addr, Mac)> {
        self.neighbours.clone()
    }

    /// The card that has the guest address `addr`.
    pub fn card_of(&self, addr: Ipv4Addr) -> Option<Mac> {
        find(&self.neighbours, addr)
    }

    /// Whether the first guest's card was learned since the last call.
    pub fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.news)
    }

    /// Takes an ARP packet: learns its sender, and answers when it asks for one of our addresses.
    pub fn arp(&mut self, packet: &[u8]) -> Option<()> {
        // Ethernet (1), IPv4, address lengths 6 and 4.
        if packet.get(..6)? != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        let (op, sender_mac, sender) = (be16(packet, 6)?, mac_at(packet, 8)?, ipv4_at(packet, 14)?);
        let target = ipv4_at(packet, 24)?;
        self.learn(sender, sender_mac);
        if op == 1 && matches!(target, GATEWAY | super::plan::DNS) {
            self.send_arp(2, target, (sender_mac, sender), sender_mac);
        }
        Some(())
    }

    fn send_arp(&mut self, op: u8, sender: Ipv4Addr, target: (Mac, Ipv4Addr), to: Mac) {
        let mac = self.mac;
        let mut body = [0; 28];
        body[..8].copy_from_slice(&[0, 1, 8, 0, 6, 4, 0, op]);
        body[8..14].copy_from_slice(&mac);
        body[14..18].copy_from_slice(&sender.octets());
        body[18..24].copy_from_slice(&target.0);
        body[24..28].copy_from_slice(&target.1.octets());
        self.send_frame(to, ETHERTYPE_ARP, &body);
    }

    fn send_frame(&mut self, dst: Mac, ethertype: u16, payload: &[u8]) {
        let mac = self.mac;
        self.out.push_with(ETH_LEN + payload.len(), |slot| {
            write_eth(slot, dst, mac, ethertype);
            slot[ETH_LEN..].copy_from_slice(payload);
            true
        });
    }

    /// Queues an IP packet of `len` bytes that `fill` writes, header included.
    pub fn send_packet<R>(&mut self, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        let Link { out, neighbours, mac, .. } = self;
        let mut result = None;
        let mut unknown = None;
        out.push_with(ETH_LEN + len, |slot| {
            result = Some(fill(&mut slot[ETH_LEN..]));
            let Some(dst) = ipv4_at(slot, ETH_LEN + 16) else { return false };
            let Some(to) = find(neighbours, dst) else {
                unknown = Some(dst);
                return false;
            };
            write_eth(slot, to, *mac, ETHERTYPE_IPV4);
            true
        });
        if let Some(dst) = unknown {
            self.ask(dst);
        }
        result
    }

    /// Asks who has `addr`.
    fn ask(&mut self, addr: Ipv4Addr) {
        let recently = self.asked.is_some_and(|t| self.now.saturating_duration_since(t) < ARP_INTERVAL);
        if is_guest(addr) && !recently {
            self.asked = Some(self.now);
            self.send_arp(1, GATEWAY, ([0; 6], addr), MAC_BROADCAST);
        }
    }

    /// Sends `payload` from `src` to the guest address `dst`, in fragments where it is larger than the MTU. All of
    /// it is dropped where not all fits.
    pub fn send_ip(&mut self, src: Ipv4Addr, dst: Ipv4Addr, proto: u8, payload: &[u8]) {
        match find(&self.neighbours, dst) {
            Some(mac) => self.send_ip_to(mac, src, dst, proto, payload),
            None => self.ask(dst),
        }
    }

    /// As [`Link::send_ip`], to a card that is known otherwise.
    pub fn send_ip_to(&mut self, to: Mac, src: Ipv4Addr, dst: Ipv4Addr, proto: u8, payload: &[u8]) {
        const PIECE: usize = (MTU - IP_LEN) / 8 * 8;
        let pieces = payload.len().div_ceil(PIECE).max(1);
        if payload.len() > usize::from(u16::MAX) - IP_LEN || self.room() < pieces {
            return;
        }
        self.ident = self.ident.wrapping_add(1);
        let (mac, ident) = (self.mac, self.ident);
        for i in 0..pieces {
            let piece = &payload[i * PIECE..payload.len().min((i + 1) * PIECE)];
            let more = if i + 1 < pieces { 0x2000 } else { 0 };
            let fragment = (i * PIECE / 8) as u16 | more;
            let header = IpHeader { src, dst, proto, ident, fragment, payload_len: piece.len() };
            self.out.push_with(ETH_LEN + IP_LEN + piece.len(), |slot| {
                write_eth(slot, to, mac, ETHERTYPE_IPV4);
                slot[ETH_LEN..ETH_LEN + IP_LEN].copy_from_slice(&header.bytes());
                slot[ETH_LEN + IP_LEN..].copy_from_slice(piece);
                true
            });
        }
    }

    /// Sends a UDP datagram whose payload stands at `segment[UDP_LEN..]`; the header is filled in here.
    pub fn send_udp(&mut self, src: SocketAddrV4, dst: SocketAddrV4, segment: &mut [u8]) {
        finish_udp((*src.ip(), src.port()), (*dst.ip(), dst.port()), segment);
        self.send_ip(*src.ip(), *dst.ip(), PROTO_UDP, segment);
    }

    /// Tells the sender of `packet` (its IP header and at least 8 bytes) that its destination cannot be reached.
    pub fn send_unreachable(&mut self, why: Unreachable, guest: Ipv4Addr, packet: &[u8]) {
        let header_len = usize::from(packet.first().copied().unwrap_or(0) & 0xf) * 4;
        let quoted = &packet[..packet.len().min(header_len + 8)];
        let mut message = vec![3, why as u8, 0, 0, 0, 0, 0, 0];
        message.extend_from_slice(quoted);
        let sum = checksum(&[&message]);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        self.send_ip(GATEWAY, guest, PROTO_ICMP, &message);
    }
}

fn find(neighbours: &[(Ipv4Addr, Mac)], addr: Ipv4Addr) -> Option<Mac> {
    neighbours.iter().find(|(a, _)| *a == addr).map(|(_, mac)| *mac)
}

fn write_eth(slot: &mut [u8], dst: Mac, src: Mac, ethertype: u16) {
    slot[..6].copy_from_slice(&dst);
    slot[6..12].copy_from_slice(&src);
    slot[12..ETH_LEN].copy_from_slice(&ethertype.to_be_bytes());
}
