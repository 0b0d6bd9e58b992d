//! Connections that a restored machine believes to have: whoever kept their far ends has gone.
//!
//! A reset must carry the very number that the guest expects next (RFC 5961, section 3.2), which we do not know. So we
//! ask: a segment that cannot fit any window makes the guest say what it expects (RFC 9293, section 3.10.7.4), and that
//! answer, which belongs to no connection here, is refused by a reset that fits.

use super::super::frame::{PROTO_TCP, transport_checksum};
use super::super::link::Link;
use super::super::plan::is_guest;
use super::{CONNECTIONS, FlowKey, Tcp};
use std::net::SocketAddrV4;

/// An open connection as the guest sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlow {
    /// The guest's end.
    pub guest: SocketAddrV4,
    /// The other end.
    pub far: SocketAddrV4,
    /// The card of the guest's end.
    pub mac: [u8; 6],
}

/// A TCP header without options.
const HEADER: usize = 20;
const ACK: u8 = 0x10;

impl Tcp {
    /// Connections that stand, where the guest is one end and a socket of the host the other.
    pub fn open_flows(&self, link: &Link) -> Vec<OpenFlow> {
        let stands = self.conns.iter().filter(|(_, _, c)| c.is_open());
        let flow = |guest: SocketAddrV4, far| Some(OpenFlow { guest, far, mac: link.card_of(*guest.ip())? });
        stands.filter_map(|(_, key, _)| flow(key.guest, key.far)).collect()
    }

    /// Has these connections of the guest reset as soon as it listens; gives how many they are.
    pub fn reset_flows(&mut self, flows: &[OpenFlow], link: &mut Link) -> usize {
        let sound = |f: &&OpenFlow| is_guest(*f.guest.ip()) && f.guest.port() != 0 && f.far.port() != 0;
        self.gone.extend(flows.iter().filter(sound).take(CONNECTIONS));
        self.lost.extend(self.gone.iter().map(|f| FlowKey { guest: f.guest, far: f.far }));
        self.gone.iter().for_each(|f| link.learn(*f.guest.ip(), f.mac));
        self.gone.len()
    }

    /// Asks the guest about those that were not asked about yet.
    pub(super) fn ask_about_the_gone(&mut self, link: &mut Link) {
        while link.room() > 0
            && let Some(OpenFlow { guest, far, .. }) = self.gone.pop_front()
        {
            let mut segment = [0; HEADER];
            segment[..2].copy_from_slice(&far.port().to_be_bytes());
            segment[2..4].copy_from_slice(&guest.port().to_be_bytes());
            // Sequence and acknowledgement are zero. The header's length in words is in the upper half of a byte.
            segment[12] = (HEADER as u8 / 4) << 4;
            segment[13] = ACK;
            let sum = transport_checksum(*far.ip(), *guest.ip(), PROTO_TCP, &segment);
            segment[16..18].copy_from_slice(&sum.to_be_bytes());
            link.send_ip(*far.ip(), *guest.ip(), PROTO_TCP, &segment);
        }
    }
}
