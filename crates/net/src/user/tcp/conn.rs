//! One connection: a host stream on one side, a smoltcp socket that plays the far end for the guest on the other.
//!
//! ```text
//!             guest's SYN                      connected: answer the SYN
//!   (nothing) ───────────► Connecting ───────────────────────────────► Open
//!                              │ refused: RST   not reachable: ICMP      │ both sides have said FIN, all is
//!                              ▼                                         ▼ delivered, or either side has reset
//!                            gone ◄─────────────────────────────────── gone
//! ```
//! Each direction is one bounded buffer inside the smoltcp socket: host data goes in while there is space, guest
//! data goes out while the host's stream takes it; the advertised windows and the kernel's buffers do the rest.
//! FIN and reset travel each way as what they are. The guest sees no SYN answered before the host's peer has.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};
use smoltcp::iface::{Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp;

use super::super::link::Link;
use super::wire::Wire;

/// How often a connection that cannot go on for want of room, though there is room, is looked at.
const RETRY: Duration = Duration::from_millis(10);

/// What a connection is waiting for.
pub enum Phase {
    /// The host's connection is being made.
    Connecting {
        /// The guest's packet, to be answered then.
        syn: Vec<u8>,
        /// Where else to try.
        rest: Vec<SocketAddr>,
    },
    /// Data flow.
    Open(Box<Stream>),
}

/// A connection.
pub struct Conn {
    pub phase: Phase,
    /// The host's stream; closed early while the guest's side is in TIME-WAIT.
    pub host: Option<OwnedFd>,
    /// When something last happened.
    pub last: Instant,
    /// When smoltcp wants to be asked again.
    pub deadline: Option<Instant>,
    /// It stands in the list of connections to serve.
    pub queued: bool,
    /// The host's stream may have something to read, may take something.
    pub readable: bool,
    pub writable: bool,
}

/// The guest's side of an open connection.
pub struct Stream {
    pub set: SocketSet<'static>,
    pub handle: SocketHandle,
    /// The guest has sent FIN, and it has been passed on.
    guest_fin: bool,
    fin_passed: bool,
    /// The host's peer has sent FIN, and the guest is being told.
    host_fin: bool,
    fin_sent: bool,
    /// What the guest sent before its FIN and the host has not taken yet: TIME-WAIT's end would throw it away.
    rest: Vec<u8>,
}

/// What is to be done with a connection after it was served.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing until something happens.
    Wait,
    /// It has more to send to the guest than there was room for.
    Blocked,
    /// It is over.
    Gone,
}

impl Stream {
    pub fn new(socket: tcp::Socket<'static>) -> Stream {
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(socket);
        Stream {
            set,
            handle,
            guest_fin: false,
            fin_passed: false,
            host_fin: false,
            fin_sent: false,
            rest: Vec::new(),
        }
    }

    pub fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.set.get_mut(self.handle)
    }

    /// Gives a packet of the guest to the socket.
    pub fn input(
        &mut self,
        packet: &[u8],
        iface: &mut Interface,
        now: smoltcp::time::Instant,
        link: &mut Link,
    ) {
        iface.poll_ingress_single(now, &mut Wire { packet: Some(packet), link }, &mut self.set);
        use tcp::State::*;
        self.guest_fin |= matches!(self.socket().state(), CloseWait | Closing | LastAck | TimeWait);
    }
}

impl Conn {
    pub fn new(phase: Phase, host: OwnedFd, now: Instant) -> Conn {
        Conn {
            phase,
            host: Some(host),
            last: now,
            deadline: None,
            queued: false,
            readable: false,
            writable: false,
        }
    }

    /// Moves what can be moved, both ways.
    pub fn serve(
        &mut self,
        iface: &mut Interface,
        now: smoltcp::time::Instant,
        epoch: Instant,
        link: &mut Link,
    ) -> Next {
        let Phase::Open(stream) = &mut self.phase else { return Next::Wait };
        if stream.socket().state() == tcp::State::Established {
            stream.socket().set_timeout(None); // it was for the guest's first answer
        }
        let mut reset = false;
        if let Some(host) = &self.host {
            reset |= push(stream, host, &mut self.writable).is_err();
            reset |= pull(stream, host, &mut self.readable).is_err();
        }
        if reset {
            stream.socket().abort();
        }
        let mut wire = Wire { packet: None, link };
        while wire.link.room() > 0
            && iface.poll_egress(now, &mut wire, &mut stream.set) == PollResult::SocketStateChanged
        {}
        let room = wire.link.room() > 0;
        if stream.is_over(&mut self.host) {
            return Next::Gone;
        }
        let due = iface.poll_at(now, &stream.set);
        let in_std = |t: smoltcp::time::Instant| {
            epoch.checked_add(Duration::from_micros(u64::try_from(t.total_micros()).unwrap_or(0)))
        };
        match due {
            Some(t) if t <= now && !room => {
                self.deadline = None;
                return Next::Blocked;
            }
            Some(t) if t <= now => self.deadline = in_std(now).map(|t| t + RETRY),
            t => self.deadline = t.and_then(in_std),
        }
        Next::Wait
    }

    /// The guest's side has ended, and only waits for stray segments.
    pub fn is_lingering(&self) -> bool {
        self.host.is_none()
    }

    /// Both sides have agreed on it, and the host's has not ended.
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open(_)) && !self.is_lingering() && !self.is_calling()
    }

    /// A SYN to the guest has not been answered.
    pub fn is_calling(&self) -> bool {
        match &self.phase {
            Phase::Connecting { .. } => false,
            Phase::Open(s) => s.set.get::<tcp::Socket>(s.handle).state() == tcp::State::SynSent,
        }
    }

    /// What a new SYN of the guest finds here.
    pub fn place(&mut self) -> Place {
        let Phase::Open(stream) = &mut self.phase else { return Place::InUse };
        match stream.socket().state() {
            tcp::State::Closed | tcp::State::TimeWait if stream.delivered() => {
                if !stream.both_fin() {
                    reset_host(&mut self.host);
                }
                Place::Free
            }
            tcp::State::Closed | tcp::State::TimeWait => Place::Draining,
            _ => Place::InUse,
        }
    }
}

/// Whether a new connection of the same addresses and ports may begin (RFC 9293 section 3.10.7.4, TIME-WAIT).
#[derive(Debug, PartialEq, Eq)]
pub enum Place {
    /// The old one is over.
    Free,
    /// The old one is over for the guest, but the host has not yet taken all of its data.
    Draining,
    /// The old one is alive.
    InUse,
}

impl Stream {
    fn both_fin(&self) -> bool {
        self.guest_fin && self.host_fin
    }

    /// Whether the host has taken all that the guest sent.
    fn delivered(&mut self) -> bool {
        self.rest.is_empty() && !self.socket().can_recv()
    }

    /// Whether nothing is left to do; closes the host's stream in the way that the guest's side ended.
    fn is_over(&mut self, host: &mut Option<OwnedFd>) -> bool {
        let (delivered, both) = (self.delivered(), self.both_fin());
        match self.socket().state() {
            // The guest has taken its SYN back, or its reset came before the connection stood.
            tcp::State::Listen => reset_host(host),
            tcp::State::TimeWait if delivered && self.fin_passed => *host = None,
            // An abort's RST is still to be sent.
            tcp::State::Closed if self.socket().remote_endpoint().is_some() => {}
            tcp::State::Closed if both && !delivered && host.is_some() => {}
            tcp::State::Closed => {
                if !both {
                    reset_host(host);
                }
                return true;
            }
            _ => {}
        }
        self.socket().state() == tcp::State::Listen
    }
}

/// Closes the host's stream with a reset.
pub fn reset_host(host: &mut Option<OwnedFd>) {
    if let Some(fd) = host.take() {
        let _ = rustix::net::sockopt::set_socket_linger(&fd, Some(Duration::ZERO));
    }
}

/// Guest to host. An error means that the host's connection is gone.
fn push(stream: &mut Stream, host: &OwnedFd, writable: &mut bool) -> Result<(), Errno> {
    while *writable && stream.socket().can_recv() && stream.rest.is_empty() {
        let sent = stream.socket().recv(|data| match rustix::net::send(host, data, SendFlags::NOSIGNAL) {
            Ok(n) => (n, Ok(())),
            Err(e) => (0, Err(e)),
        });
        match sent {
            Ok(Ok(())) | Ok(Err(Errno::INTR)) => {}
            Ok(Err(Errno::AGAIN)) => *writable = false,
            Ok(Err(e)) => return Err(e),
            Err(_) => break, // nothing to take after all
        }
    }
    while stream.socket().state() == tcp::State::TimeWait && stream.socket().can_recv() {
        let Stream { set, handle, rest, .. } = stream;
        let _ = set.get_mut::<tcp::Socket>(*handle).recv(|data| {
            rest.extend_from_slice(data);
            (data.len(), ())
        });
    }
    while *writable && !stream.rest.is_empty() {
        match rustix::net::send(host, &stream.rest, SendFlags::NOSIGNAL) {
            Ok(n) => drop(stream.rest.drain(..n)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => *writable = false,
            Err(e) => return Err(e),
        }
    }
    if stream.guest_fin && !stream.fin_passed && stream.delivered() {
        stream.fin_passed = true;
        rustix::net::shutdown(host, Shutdown::Write)?;
    }
    Ok(())
}

/// Host to guest. An error means that the host's connection is gone.
fn pull(stream: &mut Stream, host: &OwnedFd, readable: &mut bool) -> Result<(), Errno> {
    while *readable && !stream.host_fin && stream.socket().can_send() {
        let got = stream.socket().send(|space| match rustix::io::read(host, space) {
            Ok(n) => (n, Ok(n)),
            Err(e) => (0, Err(e)),
        });
        match got {
            Ok(Ok(0)) => stream.host_fin = true,
            Ok(Ok(_)) | Ok(Err(Errno::INTR)) => {}
            Ok(Err(Errno::AGAIN)) => *readable = false,
            Ok(Err(e)) => return Err(e),
            Err(_) => break, // no space after all
        }
    }
    // In LAST-ACK smoltcp answers a window update without taking it to heart, and would go on only by probing a
    // window that has long been open: so a FIN that leads there waits until all before it has arrived.
    if stream.host_fin && !stream.fin_sent && (!stream.guest_fin || stream.socket().send_queue() == 0) {
        stream.fin_sent = true;
        stream.socket().close();
    }
    Ok(())
}
