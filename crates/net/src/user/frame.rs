//! The frames' own formats: Ethernet II, IPv4 (RFC 791), UDP (RFC 768), and the Internet checksum (RFC 1071).
//!
//! A parser takes any bytes and gives a view whose lengths are checked, or nothing; who holds a view need not look
//! at lengths again. VLAN tags, IPv6 and IP options' meaning are deliberately left out: a tagged or IPv6 frame is
//! no frame of this network, options are skipped.

use std::net::Ipv4Addr;

/// A hardware address.
pub type Mac = [u8; 6];
/// The broadcast hardware address.
pub const MAC_BROADCAST: Mac = [0xff; 6];

/// Bytes of an Ethernet header.
pub const ETH_LEN: usize = 14;
/// Bytes of an IPv4 header without options.
pub const IP_LEN: usize = 20;
/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;

pub const ETHERTYPE_IPV4: u16 = 0x0800;
pub const ETHERTYPE_ARP: u16 = 0x0806;
pub const PROTO_ICMP: u8 = 1;
pub const PROTO_TCP: u8 = 6;
pub const PROTO_UDP: u8 = 17;

/// The big-endian 16 bits at `at`.
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// The address at `at`.
pub fn ipv4_at(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(octets.into())
}

/// The hardware address at `at`.
pub fn mac_at(bytes: &[u8], at: usize) -> Option<Mac> {
    bytes.get(at..at.checked_add(6)?)?.try_into().ok()
}

/// The one's complement sum of 16-bit words over several pieces, each but the last of even length.
fn sum(pieces: &[&[u8]]) -> u16 {
    let mut total = 0u64;
    for piece in pieces {
        let mut words = piece.chunks_exact(4);
        for w in &mut words {
            total += u64::from(u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
        }
        for pair in words.remainder().chunks(2) {
            total += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The Internet checksum of `pieces`; zero over data that holds its own right checksum.
pub fn checksum(pieces: &[&[u8]]) -> u16 {
    !sum(pieces)
}

/// The checksum of a transport `segment` with the pseudo header of RFC 768 and RFC 9293.
pub fn transport_checksum(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, segment: &[u8]) -> u16 {
    let mut pseudo = [0; 12];
    pseudo[..4].copy_from_slice(&src.octets());
    pseudo[4..8].copy_from_slice(&dst.octets());
    pseudo[9] = proto;
    pseudo[10..].copy_from_slice(&(segment.len() as u16).to_be_bytes());
    checksum(&[&pseudo, segment])
}

/// An Ethernet frame.
pub struct Eth<'a> {
    pub dst: Mac,
    pub src: Mac,
    pub ethertype: u16,
    pub payload: &'a [u8],
}

impl<'a> Eth<'a> {
    pub fn parse(frame: &'a [u8]) -> Option<Eth<'a>> {
        let (dst, src) = (mac_at(frame, 0)?, mac_at(frame, 6)?);
        // A sender is one card: a group address as source is a forgery.
        if src[0] & 1 != 0 {
            return None;
        }
        Some(Eth { dst, src, ethertype: be16(frame, 12)?, payload: frame.get(ETH_LEN..)? })
    }
}

/// An IPv4 packet whose header is whole and right.
pub struct Ip<'a> {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub proto: u8,
    /// Offset of a fragment in bytes, and whether more follow: `(0, false)` for a whole packet.
    pub fragment: (usize, bool),
    pub ident: u16,
    /// The packet from its header to its stated end, without the frame's padding.
    pub packet: &'a [u8],
    pub payload: &'a [u8],
}

impl<'a> Ip<'a> {
    pub fn parse(bytes: &'a [u8]) -> Option<Ip<'a>> {
        let first = *bytes.first()?;
        let header_len = usize::from(first & 0xf) * 4;
        let packet = bytes.get(..usize::from(be16(bytes, 2)?))?;
        let header = packet.get(..header_len)?;
        if first >> 4 != 4 || header_len < IP_LEN || checksum(&[header]) != 0 {
            return None;
        }
        let flags = be16(header, 6)?;
        Some(Ip {
            src: ipv4_at(header, 12)?,
            dst: ipv4_at(header, 16)?,
            proto: *header.get(9)?,
            fragment: (usize::from(flags & 0x1fff) * 8, flags & 0x2000 != 0),
            ident: be16(header, 4)?,
            packet,
            payload: packet.get(header_len..)?,
        })
    }

    /// Whether this is a piece of a larger packet.
    pub fn is_fragment(&self) -> bool {
        self.fragment != (0, false)
    }
}

/// Fields of an IPv4 header that we write.
pub struct IpHeader {
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub proto: u8,
    pub ident: u16,
    /// Flags and fragment offset, as they stand in the header.
    pub fragment: u16,
    /// Bytes after the header; the sum with [`IP_LEN`] fits 16 bits.
    pub payload_len: usize,
}

impl IpHeader {
    pub fn bytes(&self) -> [u8; IP_LEN] {
        let mut h = [0; IP_LEN];
        h[0] = 0x45;
        h[2..4].copy_from_slice(&((IP_LEN + self.payload_len) as u16).to_be_bytes());
        h[4..6].copy_from_slice(&self.ident.to_be_bytes());
        h[6..8].copy_from_slice(&self.fragment.to_be_bytes());
        h[8] = 64;
        h[9] = self.proto;
        h[12..16].copy_from_slice(&self.src.octets());
        h[16..20].copy_from_slice(&self.dst.octets());
        let sum = checksum(&[&h]);
        h[10..12].copy_from_slice(&sum.to_be_bytes());
        h
    }
}

/// A UDP datagram.
pub struct Udp<'a> {
    pub src_port: u16,
    pub dst_port: u16,
    pub payload: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Parses the payload of a packet from `src` to `dst`. A checksum of zero means that the sender made none.
    pub fn parse(src: Ipv4Addr, dst: Ipv4Addr, segment: &'a [u8]) -> Option<Udp<'a>> {
        let len = usize::from(be16(segment, 4)?);
        let segment = segment.get(..len)?;
        let payload = segment.get(UDP_LEN..)?;
        if be16(segment, 6)? != 0 && transport_checksum(src, dst, PROTO_UDP, segment) != 0 {
            return None;
        }
        Some(Udp { src_port: be16(segment, 0)?, dst_port: be16(segment, 2)?, payload })
    }
}

/// Fills in the header of a UDP datagram whose payload already stands at `segment[UDP_LEN..]`.
pub fn finish_udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), segment: &mut [u8]) {
    let len = segment.len() as u16;
    let Some(header) = segment.get_mut(..UDP_LEN) else { return };
    header[..2].copy_from_slice(&src.1.to_be_bytes());
    header[2..4].copy_from_slice(&dst.1.to_be_bytes());
    header[4..6].copy_from_slice(&len.to_be_bytes());
    header[6..8].fill(0);
    let sum = match transport_checksum(src.0, dst.0, PROTO_UDP, segment) {
        0 => 0xffff, // zero would say "no checksum"
        s => s,
    };
    segment[6..8].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
    const B: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);

    fn packet(payload: &[u8]) -> Vec<u8> {
        let header =
            IpHeader { src: A, dst: B, proto: PROTO_UDP, ident: 7, fragment: 0, payload_len: payload.len() };
        [&header.bytes()[..], payload].concat()
    }

    #[test]
    fn a_built_packet_parses_and_a_damaged_one_does_not() {
        let mut segment = [&[0; UDP_LEN][..], b"hello"].concat();
        finish_udp((A, 1000), (B, 53), &mut segment);
        let mut bytes = packet(&segment);
        bytes.extend([0; 9]); // padding of a short frame
        let ip = Ip::parse(&bytes).unwrap();
        assert_eq!((ip.src, ip.dst, ip.proto, ip.is_fragment()), (A, B, PROTO_UDP, false));
        let udp = Udp::parse(ip.src, ip.dst, ip.payload).unwrap();
        assert_eq!((udp.src_port, udp.dst_port, udp.payload), (1000, 53, &b"hello"[..]));
        for i in 0..IP_LEN {
            let mut bad = bytes.clone();
            bad[i] ^= 0x10;
            assert!(Ip::parse(&bad).is_none(), "header byte {i}");
        }
        let mut bad = segment.clone();
        bad[9] ^= 1;
        assert!(Udp::parse(A, B, &bad).is_none());
    }

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        // The example of RFC 1071 section 3.
        assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        assert_eq!(checksum(&[&[0xff]]), !0xff00);
    }

    proptest! {
        #[test]
        fn parsers_take_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Eth::parse(&bytes);
            if let Some(ip) = Ip::parse(&bytes) {
                prop_assert!(ip.payload.len() + IP_LEN <= ip.packet.len());
            }
            let _ = Udp::parse(A, B, &bytes);
        }

        #[test]
        fn cutting_a_packet_anywhere_is_noticed(len in 0usize..60, cut in 0usize..80) {
            let bytes = packet(&vec![3; len]);
            if let Some(short) = bytes.get(..cut) && cut < bytes.len() {
                prop_assert!(Ip::parse(short).is_none());
            }
        }
    }
}
