//! Ping (RFC 792 echo): our own addresses answer by themselves, others are asked through the host's ICMP sockets.
//!
//! An unprivileged ICMP socket exists where the host's `net.ipv4.ping_group_range` says so; else a raw one is tried;
//! where neither may be had the guest gets "prohibited". One socket for each (guest, identifier, destination), at
//! most [`FLOWS`]. Other ICMP messages of the guest are dropped.

use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::SendFlags;

use super::frame::{Ip, PROTO_ICMP, be16, checksum};
use super::host::{self, Host, Token};
use super::link::{Link, Unreachable};
use super::plan::{self, DNS, GATEWAY};
use super::table::{Id, Table};

/// Pings at a time.
const FLOWS: usize = 64;
/// How long a silent one is kept.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Answers taken in one go.
const BURST: usize = 16;

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    guest: Ipv4Addr,
    ident: u16,
    far: Ipv4Addr,
}

struct Flow {
    socket: OwnedFd,
    /// The socket is raw: packets come with their IP header, and anyone's; ours have this identifier.
    raw: Option<u16>,
    last: Instant,
}

/// The pings under way.
pub struct Icmp {
    flows: Table<Key, Flow>,
    next_ident: u16,
}

impl Icmp {
    pub fn new(seed: u64) -> Icmp {
        Icmp { flows: Table::new(FLOWS), next_ident: seed as u16 }
    }

    /// Takes an ICMP message of the guest, which is the payload of `ip` or what its fragments make.
    pub fn input(&mut self, ip: &Ip<'_>, message: &[u8], host: &Host, link: &mut Link) {
        if message.len() < 8 || message[..2] != [ECHO_REQUEST, 0] || checksum(&[message]) != 0 {
            return;
        }
        if matches!(ip.dst, GATEWAY | DNS) {
            let mut answer = message.to_vec();
            answer[0] = ECHO_REPLY;
            finish(&mut answer);
            return link.send_ip(ip.dst, ip.src, PROTO_ICMP, &answer);
        }
        let Some(addr) = plan::to_host(ip.dst) else { return };
        let Some(ident) = be16(message, 4) else { return };
        let key = Key { guest: ip.src, ident, far: ip.dst };
        let result = self.flow(key, addr, host, link.now).and_then(|id| {
            let Some((_, flow)) = self.flows.get_mut(id) else { return Ok(0) };
            flow.last = link.now;
            let mut request = message.to_vec();
            request[4..6].copy_from_slice(&flow.raw.unwrap_or(0).to_be_bytes());
            finish(&mut request);
            rustix::net::send(&flow.socket, &request, SendFlags::NOSIGNAL)
        });
        match result.err().and_then(host::unreachable) {
            Some(Unreachable::Port) | None => {}
            Some(why) => link.send_unreachable(why, ip.src, ip.packet),
        }
    }

    fn flow(&mut self, key: Key, addr: Ipv4Addr, host: &Host, now: Instant) -> rustix::io::Result<Id> {
        if let Some(id) = self.flows.find(&key) {
            return Ok(id);
        }
        let (socket, raw) = host.ping(addr)?;
        if self.flows.is_full()
            && let Some(oldest) = self.flows.iter().min_by_key(|(_, _, f)| f.last).map(|(id, ..)| id)
        {
            self.flows.remove(oldest);
        }
        self.next_ident = self.next_ident.wrapping_add(1);
        let flow = Flow { socket, raw: raw.then_some(self.next_ident), last: now };
        let id = self.flows.insert(key, flow).ok_or(rustix::io::Errno::NOBUFS)?;
        if let Some((_, flow)) = self.flows.get(id)
            && let Err(e) = host.watch(&flow.socket, Token::Icmp(id))
        {
            self.flows.remove(id);
            return Err(e);
        }
        Ok(id)
    }

    /// Answers have come.
    pub fn event(&mut self, id: Id, link: &mut Link, scratch: &mut [u8]) {
        let Some((&key, flow)) = self.flows.get_mut(id) else { return };
        for _ in 0..BURST {
            let Ok(n) = rustix::io::read(&flow.socket, &mut *scratch) else { return };
            let skip = match flow.raw {
                Some(_) => usize::from(scratch.first().copied().unwrap_or(0) & 0xf) * 4,
                None => 0,
            };
            let Some(message) = scratch.get_mut(skip..n).filter(|m| m.len() >= 8) else { continue };
            let ours = flow.raw.is_none_or(|ident| message[4..6] == ident.to_be_bytes());
            if message[..2] == [ECHO_REPLY, 0] && ours {
                flow.last = link.now;
                message[4..6].copy_from_slice(&key.ident.to_be_bytes());
                finish(message);
                link.send_ip(key.far, key.guest, PROTO_ICMP, message);
            }
        }
    }

    /// Ends what has been silent for too long; gives when to look again.
    pub fn expire(&mut self, now: Instant) -> Option<Instant> {
        self.flows.sweep(|_, flow| flow.last + TIMEOUT <= now);
        self.flows.iter().map(|(_, _, flow)| flow.last + TIMEOUT).min()
    }
}

/// Writes the checksum of a message of at least 4 bytes.
fn finish(message: &mut [u8]) {
    message[2..4].fill(0);
    let sum = checksum(&[message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
}
