//! The host's side: one epoll descriptor over all sockets, and the tokens by which their events are known.
//!
//! TCP streams are registered once, edge-triggered, for both directions: a stream whose buffers are full costs no
//! system call, and the epoll descriptor stays quiet until something changes. Everything else is level-triggered.
//! An isolated host side opens no outward socket at all.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use super::link::Unreachable;
use super::table::Id;

/// Events taken from the kernel in one call.
const EVENTS: usize = 128;

/// What an event belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// A TCP connection.
    Tcp(Id),
    /// A UDP flow.
    Udp(Id),
    /// A ping.
    Icmp(Id),
    /// A forwarded DNS query.
    Dns(Id),
    /// The port forward with this number.
    Forward(u32),
    /// The helper threads that look names up.
    Lookup,
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, bits) = match self {
            Token::Tcp(id) => (0, id.bits()),
            Token::Udp(id) => (1, id.bits()),
            Token::Icmp(id) => (2, id.bits()),
            Token::Dns(id) => (3, id.bits()),
            Token::Forward(n) => (4, u64::from(n)),
            Token::Lookup => (5, 0),
        };
        kind << 56 | bits
    }

    fn unpack(bits: u64) -> Option<Token> {
        let id = Id::from_bits(bits);
        Some(match bits >> 56 {
            0 => Token::Tcp(id),
            1 => Token::Udp(id),
            2 => Token::Icmp(id),
            3 => Token::Dns(id),
            4 => Token::Forward(bits as u32),
            5 => Token::Lookup,
            _ => return None,
        })
    }
}

/// What lies outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// The host's networks.
    Open,
    /// Nothing.
    Isolated,
    /// For fuzzing: every connection is made, to a peer that says a few words and goes away after some others came.
    Pretend,
}

/// The host's side.
pub struct Host {
    epoll: OwnedFd,
    outside: Outside,
    /// The far ends of pretended connections.
    pretended: std::cell::RefCell<std::collections::VecDeque<OwnedFd>>,
}

/// Pretended connections alive.
const PRETENDED: usize = 8;

impl Host {
    pub fn new(outside: Outside) -> Result<Host> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Host { epoll, outside, pretended: Default::default() })
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Whether the guest may reach nothing outside.
    pub fn is_isolated(&self) -> bool {
        self.outside == Outside::Isolated
    }

    /// Watches a socket for reading. It is forgotten when it is closed.
    pub fn watch(&self, fd: impl AsFd, token: Token) -> Result<()> {
        epoll::add(&self.epoll, fd, EventData::new_u64(token.pack()), EventFlags::IN)
    }

    /// Watches a socket no more.
    pub fn unwatch(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Watches a stream for every change of either direction.
    pub fn watch_stream(&self, fd: impl AsFd, token: Token) -> Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, fd, EventData::new_u64(token.pack()), flags)
    }

    /// The events that are there now, appended to `to`; gives whether there may be more.
    pub fn take_events(&self, to: &mut Vec<(Token, EventFlags)>) -> bool {
        const NOW: rustix::time::Timespec = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut space = [std::mem::MaybeUninit::<Event>::uninit(); EVENTS];
        match epoll::wait(&self.epoll, &mut space, Some(&NOW)) {
            Ok((events, _)) => {
                let tokens = events.iter().map(|e| (e.data.u64(), e.flags));
                to.extend(tokens.filter_map(|(bits, flags)| Some((Token::unpack(bits)?, flags))));
                events.len() == EVENTS
            }
            Err(Errno::INTR) => true,
            Err(e) => {
                tracing::warn!("user network: cannot ask for the host's sockets: {e}");
                false
            }
        }
    }

    /// A nonblocking socket of `addr`'s family whose connection to `addr` is made or under way.
    pub fn connect(&self, kind: SocketType, addr: SocketAddr) -> Result<OwnedFd> {
        match self.outside {
            Outside::Open => {}
            Outside::Isolated => return Err(Errno::ACCESS),
            Outside::Pretend => return self.pretend(kind),
        }
        let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let fd = socket_with(family, kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
        if kind == SocketType::STREAM {
            rustix::net::sockopt::set_tcp_nodelay(&fd, true)?; // the guest's own stack has gathered already
        }
        match rustix::net::connect(&fd, &addr) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
            Err(e) => Err(e),
        }
    }

    /// One end of a pair of sockets of this process.
    fn pretend(&self, kind: SocketType) -> Result<OwnedFd> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (near, far) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
        rustix::net::send(&far, &[0x55; 3000], rustix::net::SendFlags::NOSIGNAL)?;
        let mut pretended = self.pretended.borrow_mut();
        pretended.truncate(PRETENDED);
        pretended.push_front(far);
        Ok(near)
    }

    /// A nonblocking ICMP socket connected to `addr`: without privilege where the host's `ping_group_range` allows
    /// it, else a raw one (true).
    pub fn ping(&self, addr: std::net::Ipv4Addr) -> Result<(OwnedFd, bool)> {
        if self.outside != Outside::Open {
            return Err(Errno::ACCESS);
        }
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let open = |kind| socket_with(AddressFamily::INET, kind, flags, Some(ipproto::ICMP));
        let (fd, raw) = match open(SocketType::DGRAM) {
            Ok(fd) => (fd, false),
            Err(_) => (open(SocketType::RAW)?, true),
        };
        rustix::net::connect(&fd, &std::net::SocketAddrV4::new(addr, 0))?;
        Ok((fd, raw))
    }
}

/// How the guest is told of a host's error about a destination, where it is to be told.
pub fn unreachable(e: Errno) -> Option<Unreachable> {
    match e {
        Errno::NETUNREACH | Errno::NETDOWN => Some(Unreachable::Network),
        Errno::HOSTUNREACH | Errno::HOSTDOWN | Errno::TIMEDOUT => Some(Unreachable::Host),
        Errno::CONNREFUSED => Some(Unreachable::Port),
        Errno::ACCESS | Errno::PERM => Some(Unreachable::Prohibited),
        _ => None,
    }
}

/// Room for the largest datagram, too much for a thread's stack.
pub fn scratch() -> Box<[u8]> {
    vec![0; 1 << 16].into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use super::super::table::Table;
    use super::*;

    #[test]
    fn tokens_survive_the_kernel() {
        let mut t = Table::new(2);
        let id = t.insert(1, ()).unwrap();
        t.remove(id);
        let id = t.insert(2, ()).unwrap();
        for token in [
            Token::Tcp(id),
            Token::Udp(id),
            Token::Icmp(id),
            Token::Dns(id),
            Token::Forward(u32::MAX),
            Token::Lookup,
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(u64::MAX), None);
    }

    #[test]
    fn an_isolated_side_opens_nothing() {
        let host = Host::new(Outside::Isolated).unwrap();
        let addr = "127.0.0.1:9".parse().unwrap();
        assert_eq!(host.connect(SocketType::STREAM, addr).err(), Some(Errno::ACCESS));
        assert_eq!(host.ping(std::net::Ipv4Addr::LOCALHOST).err(), Some(Errno::ACCESS));
    }
}
