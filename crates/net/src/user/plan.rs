//! The addresses of the user-mode network: the same for every machine, and the same as QEMU's, so that a guest's
//! fixed settings and its documentation fit both.
//!
//! | address    | who                                                               |
//! |------------|-------------------------------------------------------------------|
//! | 10.0.2.2   | gateway, DHCP server, and the host's own loopback seen from inside |
//! | 10.0.2.3   | name server                                                       |
//! | 10.0.2.15… | guests, by DHCP; the first is the target of port forwards         |

use std::net::Ipv4Addr;

/// First address of the guest network 10.0.2.0/24.
pub const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 0);
/// The guest network's mask.
pub const MASK: Ipv4Addr = Ipv4Addr::new(255, 255, 255, 0);
/// Broadcast address of the guest network.
pub const BROADCAST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 255);
/// The gateway; connections to it reach the host's 127.0.0.1.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
/// The name server.
pub const DNS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
/// The address that the first guest gets, and to which ports are forwarded.
pub const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
/// How many addresses DHCP has to give, from [`GUEST`] on: bridges inside the guest may ask for several.
pub const LEASES: u8 = 16;
/// Largest IP packet on the guest network, in bytes.
pub const MTU: usize = 1500;

/// Whether `addr` lies in 10.0.2.0/24.
pub fn in_network(addr: Ipv4Addr) -> bool {
    addr.octets()[..3] == NETWORK.octets()[..3]
}

/// Whether a guest may call itself `addr`: in the network, and none of ours.
pub fn is_guest(addr: Ipv4Addr) -> bool {
    in_network(addr) && !matches!(addr, NETWORK | GATEWAY | DNS | BROADCAST)
}

/// The host address which a guest's destination stands for, or `None` for one that leads nowhere: the guest
/// network's other addresses, loopback, "this network", multicast and reserved ranges (RFC 1122 section 3.2.1.3).
pub fn to_host(dst: Ipv4Addr) -> Option<Ipv4Addr> {
    match dst {
        GATEWAY => Some(Ipv4Addr::LOCALHOST),
        d if in_network(d) || d.is_loopback() || d.octets()[0] == 0 || d.octets()[0] >= 224 => None,
        d => Some(d),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_map_as_the_table_says() {
        assert_eq!(to_host(GATEWAY), Some(Ipv4Addr::LOCALHOST));
        for nowhere in
            [DNS, GUEST, BROADCAST, Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST]
        {
            assert_eq!(to_host(nowhere), None, "{nowhere}");
        }
        assert_eq!(to_host(Ipv4Addr::new(224, 0, 0, 251)), None);
        assert_eq!(to_host(Ipv4Addr::new(192, 0, 2, 1)), Some(Ipv4Addr::new(192, 0, 2, 1)));
        assert!(is_guest(GUEST) && !is_guest(DNS) && !is_guest(Ipv4Addr::new(10, 0, 3, 15)));
    }
}
