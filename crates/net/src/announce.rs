//! Telling a network where a card is now: what its owner is known by, learned from what it sends, and said again when the
//! card has come to another port. Nobody has to wait until a switch has forgotten the old one.
//!
//! ```text
//!  the guest's ARP, its neighbour solicitations and advertisements ──► addresses ──► gratuitous ARP (RFC 5227, 3),
//!                                                                                    unsolicited NA (RFC 4861, 7.2.6)
//! ```
//! Where no address is known, a RARP request (RFC 903) still shows switches the card. Only what comes from the card itself
//! counts, and only the last [`MAX`] addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most addresses that are kept.
pub const MAX: usize = 16;
const ETH: usize = 14;
const ARP: [u8; 2] = [8, 6];
const RARP: [u8; 2] = [0x80, 0x35];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Every node of a link (RFC 4291, 2.7.1), and its Ethernet address (RFC 2464, 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Addresses that a card has shown, the latest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown(Vec<IpAddr>);

impl Shown {
    /// From what another host has learned.
    pub fn new(addresses: &[IpAddr]) -> Shown {
        let mut shown = Shown::default();
        addresses.iter().rev().for_each(|a| shown.add(*a));
        shown
    }

    /// They.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.0
    }

    fn add(&mut self, address: IpAddr) {
        if address.is_unspecified() || address.is_multicast() || self.0.first() == Some(&address) {
            return;
        }
        self.0.retain(|a| *a != address);
        self.0.insert(0, address);
        self.0.truncate(MAX);
    }

    /// Looks at a frame that the card `mac` has sent.
    pub fn hear(&mut self, mac: [u8; 6], frame: &[u8]) {
        // What most frames are is told by two bytes.
        let learned = match frame.get(12..14) {
            Some(kind) if kind == ARP => arp_sender(mac, frame),
            Some(kind) if kind == IPV6 && frame.get(20) == Some(&ICMPV6) => neighbour(mac, frame),
            _ => None,
        };
        learned.into_iter().for_each(|a| self.add(a));
    }

    /// What the card would send to be found.
    pub fn frames(&self, mac: [u8; 6]) -> Vec<Vec<u8>> {
        if self.0.is_empty() {
            return vec![arp(mac, RARP, 3, Ipv4Addr::UNSPECIFIED)];
        }
        let one = |a: &IpAddr| match a {
            IpAddr::V4(a) => arp(mac, ARP, 1, *a),
            IpAddr::V6(a) => advertisement(mac, *a),
        };
        self.0.iter().map(one).collect()
    }
}

/// The sender of an ARP packet of the card's.
fn arp_sender(mac: [u8; 6], frame: &[u8]) -> Option<IpAddr> {
    let body = frame.get(ETH..ETH + 28)?;
    let whose = body.get(8..14)?;
    // Ethernet (1), IPv4, lengths 6 and 4.
    if body.get(..6)? != [0, 1, 8, 0, 6, 4] || whose != mac || frame.get(6..12)? != mac {
        return None;
    }
    let a: [u8; 4] = body.get(14..18)?.try_into().ok()?;
    Some(Ipv4Addr::from(a).into())
}

/// The sender of a neighbour solicitation, or the target of an advertisement, of the card's.
fn neighbour(mac: [u8; 6], frame: &[u8]) -> Option<IpAddr> {
    if frame.get(6..12)? != mac {
        return None;
    }
    let at = match *frame.get(ETH + 40)? {
        SOLICITATION => ETH + 8,
        ADVERTISEMENT => ETH + 48,
        _ => return None,
    };
    let a: [u8; 16] = frame.get(at..at + 16)?.try_into().ok()?;
    Some(Ipv6Addr::from(a).into())
}

fn ethernet(to: [u8; 6], mac: [u8; 6], kind: [u8; 2]) -> Vec<u8> {
    [&to[..], &mac[..], &kind[..]].concat()
}

fn arp(mac: [u8; 6], kind: [u8; 2], operation: u8, address: Ipv4Addr) -> Vec<u8> {
    let mut f = ethernet([0xff; 6], mac, kind);
    let target = if kind == RARP { mac } else { [0; 6] };
    f.extend([0, 1, 8, 0, 6, 4, 0, operation]);
    f.extend(mac);
    f.extend(address.octets());
    f.extend(target);
    f.extend(address.octets());
    // As a wire wants it at least.
    f.resize(60, 0);
    f
}

fn advertisement(mac: [u8; 6], address: Ipv6Addr) -> Vec<u8> {
    // Override, and nothing solicited; the target; its link-layer address as an option of 8 bytes.
    let mut body = vec![ADVERTISEMENT, 0, 0, 0, 0x20, 0, 0, 0];
    body.extend(address.octets());
    body.extend([2, 1]);
    body.extend(mac);
    let sum = checksum(address, &body);
    if let Some(at) = body.get_mut(2..4) {
        at.copy_from_slice(&sum.to_be_bytes());
    }
    let mut f = ethernet(ALL_NODES_MAC, mac, IPV6);
    f.extend([0x60, 0, 0, 0, 0, body.len() as u8, ICMPV6, 255]);
    f.extend(address.octets());
    f.extend(ALL_NODES.octets());
    f.extend(body);
    f
}

/// Of ICMPv6 to all nodes (RFC 8200, 8.1); `body` has an even length.
fn checksum(from: Ipv6Addr, body: &[u8]) -> u16 {
    let length = [0, 0, 0, body.len() as u8, 0, 0, 0, ICMPV6];
    let all = [&from.octets()[..], &ALL_NODES.octets()[..], &length[..], body].concat();
    let mut sum: u32 =
        all.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |b| u32::from(*b))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    #[test]
    fn what_it_says_is_what_it_learns_from() {
        let addresses: Vec<IpAddr> =
            ["10.9.0.2", "fe80::9", "2001:db8::9"].map(|a| a.parse().unwrap()).to_vec();
        let shown = Shown::new(&addresses);
        assert_eq!(shown.addresses(), addresses);
        let mut learned = Shown::default();
        shown.frames(MAC).iter().rev().for_each(|f| learned.hear(MAC, f));
        assert_eq!(learned, shown);
        // Another card's frames, and what is cut short, teach nothing.
        let mut none = Shown::default();
        for f in shown.frames(MAC) {
            none.hear([2; 6], &f);
            (0..40).for_each(|n| none.hear(MAC, &f[..n]));
        }
        assert_eq!(none, Shown::default());
    }

    #[test]
    fn frames_are_those_of_the_standards() {
        let v4 = Shown::new(&["10.9.0.2".parse().unwrap()]).frames(MAC);
        assert_eq!(v4[0][..14], [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 8, 6]);
        assert_eq!(
            v4[0][14..42],
            [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 9, 0, 2, 0, 0, 0, 0, 0, 0, 10, 9, 0, 2]
        );
        let v6 = Shown::new(&["fe80::9".parse().unwrap()]).frames(MAC);
        assert_eq!((v6[0].len(), v6[0][54], v6[0][58], v6[0][21]), (86, 136, 0x20, 255));
        // With its checksum in place the sum over all of it is all ones.
        assert_eq!(checksum("fe80::9".parse().unwrap(), &v6[0][54..]), 0);
        let unknown = Shown::default().frames(MAC);
        assert_eq!((unknown.len(), &unknown[0][12..14], unknown[0][21]), (1, &RARP[..], 3));
        let many: Vec<IpAddr> = (1..40u8).map(|n| Ipv4Addr::new(10, 0, 0, n).into()).collect();
        assert_eq!(Shown::new(&many).frames(MAC).len(), MAX);
    }
}
