//! smoltcp's view of the wire: takes the one packet at hand, and writes what it sends straight into the guest's
//! frame queue. When the queue is full it gives no leave to send; smoltcp then keeps its segment for later.

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use super::super::link::Link;
use super::super::plan::MTU;

/// The wire during one call of smoltcp.
pub struct Wire<'a> {
    /// The guest's packet, until smoltcp has taken it.
    pub packet: Option<&'a [u8]>,
    pub link: &'a mut Link,
}

/// The guest's packet.
pub struct Rx<'a>(&'a [u8]);

/// Leave to send one packet.
pub struct Tx<'a>(&'a mut Link);

impl Device for Wire<'_> {
    type RxToken<'b>
        = Rx<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Tx<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Rx<'_>, Tx<'_>)> {
        Some((Rx(self.packet.take()?), Tx(self.link)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Tx<'_>> {
        (self.link.room() > 0).then_some(Tx(self.link))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ip;
        caps.max_transmission_unit = MTU;
        caps
    }
}

impl RxToken for Rx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut f = Some(f);
        let sent = self.0.send_packet(len, |packet| f.take().map(|f| f(packet)));
        match (sent.flatten(), f) {
            (Some(result), _) => result,
            // No room: smoltcp answers an incoming segment without asking first. It is lost, as on any wire.
            (None, Some(f)) => f(&mut vec![0; len]),
            (None, None) => unreachable!("the packet was written, so there is a result"),
        }
    }
}
