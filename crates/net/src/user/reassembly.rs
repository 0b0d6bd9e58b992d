//! Puts the guest's IPv4 fragments together (RFC 791 section 3.2): datagrams above the MTU, such as large pings.
//!
//! Bounded: [`SLOTS`] packets at a time, each at most the 64 KiB an IP packet can have, each for at most
//! [`TIMEOUT`]. Overlaps are not resolved: a fragment that overlaps differently ends its packet (RFC 5722's view).

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::frame::{IP_LEN, Ip};

/// Packets being put together.
const SLOTS: usize = 8;
/// How long a packet may stay incomplete: RFC 1122 section 3.3.2 says 60 to 120 s for the Internet; this is one hop.
const TIMEOUT: Duration = Duration::from_secs(15);

#[derive(PartialEq, Eq, Clone, Copy)]
struct Key {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    proto: u8,
    ident: u16,
}

struct Partial {
    key: Key,
    since: Instant,
    data: Vec<u8>,
    /// Ranges present, sorted and disjoint.
    have: Vec<(usize, usize)>,
    total: Option<usize>,
}

/// The packets being put together.
#[derive(Default)]
pub struct Reassembly {
    partial: Vec<Partial>,
}

impl Reassembly {
    /// Takes a fragment; gives the whole payload once its last piece has come.
    pub fn add(&mut self, ip: &Ip<'_>, now: Instant) -> Option<Vec<u8>> {
        self.partial.retain(|p| now.saturating_duration_since(p.since) < TIMEOUT);
        let key = Key { src: ip.src, dst: ip.dst, proto: ip.proto, ident: ip.ident };
        let at = self.partial.iter().position(|p| p.key == key).unwrap_or_else(|| {
            if self.partial.len() == SLOTS {
                self.partial.remove(0); // the oldest
            }
            self.partial.push(Partial { key, since: now, data: Vec::new(), have: Vec::new(), total: None });
            self.partial.len() - 1
        });
        let (offset, more) = ip.fragment;
        match self.partial.get_mut(at)?.add(offset, more, ip.payload) {
            Some(false) => None,
            Some(true) => Some(self.partial.remove(at).data),
            None => {
                self.partial.remove(at);
                None
            }
        }
    }
}

impl Partial {
    /// Whether the packet is now whole; `None` where the fragment is nonsense.
    fn add(&mut self, offset: usize, more: bool, piece: &[u8]) -> Option<bool> {
        let end = offset + piece.len();
        if piece.is_empty()
            || end > usize::from(u16::MAX) - IP_LEN
            || (more && !piece.len().is_multiple_of(8))
        {
            return None;
        }
        if !more && self.total.replace(end).is_some_and(|t| t != end) {
            return None;
        }
        if self.have.contains(&(offset, end)) {
            return Some(false); // sent twice
        }
        let at = self.have.partition_point(|&(start, _)| start < offset);
        let before = at.checked_sub(1).and_then(|i| self.have.get(i));
        if before.is_some_and(|b| b.1 > offset) || self.have.get(at).is_some_and(|a| a.0 < end) {
            return None;
        }
        self.have.insert(at, (offset, end));
        if self.data.len() < end {
            self.data.resize(end, 0);
        }
        self.data.get_mut(offset..end)?.copy_from_slice(piece);
        let Some(total) = self.total else { return Some(false) };
        if self.data.len() > total {
            return None;
        }
        Some(self.have.iter().map(|(s, e)| e - s).sum::<usize>() == total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn piece(payload: &[u8], offset: usize, more: bool, ident: u16) -> Ip<'_> {
        let (src, dst) = (Ipv4Addr::new(10, 0, 2, 15), Ipv4Addr::new(10, 0, 2, 2));
        Ip { src, dst, proto: 17, fragment: (offset, more), ident, packet: payload, payload }
    }

    proptest! {
        #[test]
        fn pieces_in_any_order_give_the_whole(
            len in 1usize..5000,
            order in Just((0..700).collect::<Vec<usize>>()).prop_shuffle(),
        ) {
            let whole: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let chunks: Vec<&[u8]> = whole.chunks(8).collect();
            let mut r = Reassembly::default();
            let mut got = None;
            let order: Vec<usize> = order.into_iter().filter(|&i| i < chunks.len()).collect();
            for (n, &i) in order.iter().enumerate() {
                prop_assert!(got.is_none());
                got = r.add(&piece(chunks[i], i * 8, i + 1 < chunks.len(), 5), Instant::now());
                prop_assert_eq!(got.is_some(), n + 1 == chunks.len());
            }
            prop_assert_eq!(got.unwrap(), whole);
        }

        #[test]
        fn nonsense_is_bounded(pieces in proptest::collection::vec((any::<u16>(), any::<bool>(), 0usize..64, 0u16..20), 0..200)) {
            let mut r = Reassembly::default();
            for (offset, more, len, ident) in pieces {
                let data = vec![0; len];
                r.add(&piece(&data, usize::from(offset & 0x1fff) * 8, more, ident), Instant::now());
                prop_assert!(r.partial.len() <= SLOTS);
                prop_assert!(r.partial.iter().all(|p| p.data.len() <= 65535));
            }
        }
    }

    #[test]
    fn an_overlap_ends_the_packet() {
        let (mut r, now) = (Reassembly::default(), Instant::now());
        assert!(r.add(&piece(&[1; 16], 0, true, 1), now).is_none());
        assert!(r.add(&piece(&[2; 16], 8, false, 1), now).is_none());
        assert!(r.partial.is_empty());
    }
}
