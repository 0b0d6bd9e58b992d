//! What the network at a machine's source knows of its guest, for the one at its destination.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};

/// What a network knows of the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Addresses that it has shown to a bridge, the latest first: what it is announced with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// Of a user-mode network: the card of each address that DHCP has given, from the first on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<[u8; 6]>,
    /// Of a user-mode network: which card has which address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub neighbours: Vec<(Ipv4Addr, [u8; 6])>,
}

impl Guest {
    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        *self == Guest::default()
    }
}
