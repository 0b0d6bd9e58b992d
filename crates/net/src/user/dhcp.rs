//! The DHCP server (RFC 2131, options RFC 2132): the first card gets 10.0.2.15, further ones the addresses after it.
//!
//! A card keeps its address for as long as it is among the last [`LEASES`] that asked; there is nothing else to
//! remember, so a lease means nothing when it ends. INFORM is answered without an address. No host name is given.

use std::net::Ipv4Addr;

use super::frame::{Mac, ipv4_at, mac_at};
use super::plan::{BROADCAST, DNS, GATEWAY, GUEST, LEASES, MASK, MTU};

/// Port of the server and of the client.
pub const SERVER_PORT: u16 = 67;
pub const CLIENT_PORT: u16 = 68;

/// Seconds of a lease: a day, as long as nothing depends on it.
const LEASE_SECONDS: u32 = 86_400;
/// Bytes of the fixed part, and what stands before the options.
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Smallest message that old relays and clients take (RFC 1542 section 2.1).
const MIN_REPLY: usize = 300;

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;
const INFORM: u8 = 8;

/// What to send back.
#[derive(Debug, PartialEq, Eq)]
pub struct Reply {
    /// The client's card, or all.
    pub mac: Mac,
    /// The client's address, or all.
    pub dst: Ipv4Addr,
    /// The address now given to `client`, for the neighbour table.
    pub given: Option<(Ipv4Addr, Mac)>,
    /// The DHCP message.
    pub message: Vec<u8>,
}

/// The server: which card has which address.
#[derive(Default)]
pub struct Dhcp {
    /// The card at each address from [`GUEST`] on, and when it last asked, counted in messages.
    leases: Vec<(Mac, u64)>,
    messages: u64,
}

/// A client's message, as far as it matters.
struct Message<'a> {
    fixed: &'a [u8],
    mac: Mac,
    client: Ipv4Addr,
    broadcast: bool,
    kind: u8,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

impl<'a> Message<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Message<'a>> {
        let fixed = bytes.get(..FIXED)?;
        // A request (1) of an Ethernet card (1, 6 bytes).
        if fixed[..3] != [1, 1, 6] || bytes.get(FIXED..FIXED + 4)? != COOKIE {
            return None;
        }
        let mac = mac_at(fixed, 28)?;
        let (mut kind, mut requested, mut server) = (None, None, None);
        let mut rest = bytes.get(FIXED + 4..)?;
        while let [code, tail @ ..] = rest {
            match *code {
                0 => rest = tail,
                255 => break,
                code => {
                    let len = usize::from(*tail.first()?);
                    let value = tail.get(1..1 + len)?;
                    match (code, len) {
                        (53, 1) => kind = value.first().copied(),
                        (50, 4) => requested = ipv4_at(value, 0),
                        (54, 4) => server = ipv4_at(value, 0),
                        _ => {}
                    }
                    rest = tail.get(1 + len..)?;
                }
            }
        }
        let client = ipv4_at(fixed, 12)?;
        let broadcast = fixed[10] & 0x80 != 0;
        (mac[0] & 1 == 0).then_some(())?;
        Some(Message { fixed, mac, client, broadcast, kind: kind?, requested, server })
    }

    fn reply(&self, kind: u8, given: Option<Ipv4Addr>) -> Reply {
        let mut m = self.fixed.to_vec();
        m[0] = 2;
        m[3] = 0; // hops
        m[16..20].copy_from_slice(&given.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        m[20..24].copy_from_slice(&GATEWAY.octets());
        m[44..FIXED].fill(0); // server name, boot file
        m.extend(COOKIE);
        let mut option = |code: u8, value: &[u8]| {
            m.extend([code, value.len() as u8]);
            m.extend(value);
        };
        option(53, &[kind]);
        option(54, &GATEWAY.octets());
        if kind != NAK {
            option(1, &MASK.octets());
            option(3, &GATEWAY.octets());
            option(6, &DNS.octets());
            option(26, &(MTU as u16).to_be_bytes());
            option(28, &BROADCAST.octets());
            if given.is_some() {
                option(51, &LEASE_SECONDS.to_be_bytes());
            }
        }
        m.push(255);
        m.resize(m.len().max(MIN_REPLY), 0);
        let (mac, dst) = match given {
            Some(addr) if !self.broadcast => (self.mac, addr),
            None if kind == ACK => (self.mac, self.client),
            _ => (super::frame::MAC_BROADCAST, Ipv4Addr::BROADCAST),
        };
        let given = given.map(|addr| (addr, self.mac));
        Reply { mac, dst, given, message: m }
    }
}

impl Dhcp {
    /// The card of each address, from the first on.
    pub fn leases(&self) -> Vec<Mac> {
        self.leases.iter().map(|(mac, _)| *mac).collect()
    }

    /// Goes on with the leases of another server like this one.
    pub fn take_over(&mut self, leases: &[Mac]) {
        let sound = leases.iter().take(usize::from(LEASES)).filter(|mac| mac[0] & 1 == 0);
        self.leases = sound.map(|mac| (*mac, 0)).collect();
    }

    /// Answers a client's message, where it asks for an answer.
    pub fn input(&mut self, bytes: &[u8]) -> Option<Reply> {
        let m = Message::parse(bytes)?;
        match m.kind {
            DISCOVER => Some(m.reply(OFFER, Some(self.lease(m.mac)))),
            INFORM if super::plan::is_guest(m.client) => Some(m.reply(ACK, None)),
            // An answer to another server's offer is none of ours.
            REQUEST if m.server.is_none_or(|s| s == GATEWAY) => {
                let addr = self.lease(m.mac);
                let wanted = m.requested.unwrap_or(m.client);
                if wanted == addr { Some(m.reply(ACK, Some(addr))) } else { Some(m.reply(NAK, None)) }
            }
            _ => None, // RELEASE and DECLINE change nothing
        }
    }

    /// The address of the card `mac`: what it had, else a free one, else that of the card silent for longest.
    fn lease(&mut self, mac: Mac) -> Ipv4Addr {
        self.messages += 1;
        let now = self.messages;
        let at = self.leases.iter().position(|(m, _)| *m == mac).unwrap_or_else(|| {
            if self.leases.len() < usize::from(LEASES) {
                self.leases.push((mac, now));
                return self.leases.len() - 1;
            }
            (0..self.leases.len()).min_by_key(|&i| self.leases[i].1).unwrap_or(0)
        });
        if let Some(lease) = self.leases.get_mut(at) {
            *lease = (mac, now);
        }
        let [a, b, c, d] = GUEST.octets();
        Ipv4Addr::new(a, b, c, d.saturating_add(at as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(mac: u8, kind: u8, options: &[u8]) -> Vec<u8> {
        let mut m = vec![0; FIXED];
        m[..3].copy_from_slice(&[1, 1, 6]);
        m[4..8].copy_from_slice(b"xid!");
        m[28..34].copy_from_slice(&[2, 0, 0, 0, 0, mac]);
        m.extend(COOKIE);
        m.extend([0, 53, 1, kind]);
        m.extend(options);
        m.push(255);
        m
    }

    fn kind_of(r: &Reply) -> u8 {
        let at = FIXED + 4;
        assert_eq!(r.message[at..at + 2], [53, 1]);
        r.message[at + 2]
    }

    #[test]
    fn a_card_keeps_its_address_and_the_next_gets_another() {
        let mut d = Dhcp::default();
        let offer = d.input(&message(1, DISCOVER, &[])).unwrap();
        assert_eq!((kind_of(&offer), offer.given), (OFFER, Some((GUEST, [2, 0, 0, 0, 0, 1]))));
        assert_eq!(offer.dst, GUEST);
        let ack = d.input(&message(1, REQUEST, &[50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2])).unwrap();
        assert_eq!((kind_of(&ack), &ack.message[4..8]), (ACK, &b"xid!"[..]));
        let second = d.input(&message(2, DISCOVER, &[])).unwrap();
        assert_eq!(second.given.unwrap().0, Ipv4Addr::new(10, 0, 2, 16));
        let wrong = d.input(&message(2, REQUEST, &[50, 4, 10, 0, 2, 15])).unwrap();
        assert_eq!((kind_of(&wrong), wrong.given, wrong.dst), (NAK, None, Ipv4Addr::BROADCAST));
        assert!(d.input(&message(2, REQUEST, &[54, 4, 192, 0, 2, 1])).is_none());
    }

    #[test]
    fn a_server_elsewhere_goes_on_with_its_leases() {
        let (mut here, mut there) = (Dhcp::default(), Dhcp::default());
        for mac in [1, 2] {
            here.input(&message(mac, DISCOVER, &[]));
        }
        there.take_over(&here.leases());
        let ack = there.input(&message(2, REQUEST, &[50, 4, 10, 0, 2, 16])).unwrap();
        assert_eq!((kind_of(&ack), ack.given.unwrap().0), (ACK, Ipv4Addr::new(10, 0, 2, 16)));
        let hostile = [[1; 6]; 300];
        there.take_over(&hostile);
        assert!(there.leases().is_empty(), "group addresses are nobody's");
    }

    #[test]
    fn cards_beyond_the_pool_take_the_oldest_address() {
        let mut d = Dhcp::default();
        for mac in 0..LEASES {
            d.input(&message(mac, DISCOVER, &[]));
        }
        d.input(&message(0, DISCOVER, &[]));
        let late = d.input(&message(200, DISCOVER, &[])).unwrap();
        assert_eq!(late.given.unwrap().0, Ipv4Addr::new(10, 0, 2, 16));
        assert_eq!(d.leases.len(), usize::from(LEASES));
    }

    proptest! {
        #[test]
        fn any_message_is_survived(tail in proptest::collection::vec(any::<u8>(), 0..80), kind: u8) {
            let mut d = Dhcp::default();
            d.input(&tail);
            let mut m = message(1, kind, &[]);
            m.pop();
            m.extend(&tail);
            if let Some(r) = d.input(&m) {
                prop_assert!(r.message.len() <= 576);
            }
        }
    }
}
