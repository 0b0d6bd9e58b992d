//! TCP through the gateway: every connection of the guest ends here and goes on as a connection of the host.
//!
//! We look a segment's connection up ourselves and let smoltcp, a socket a connection, do the protocol: one shared
//! interface that takes any address, and a socket set of one for each connection, so that a thousand connections
//! cost no segment a walk over them. A segment that belongs to none goes to an empty set, which answers RST.
//!
//! Invariants: at most `limit` connections and so many host sockets; buffers shrink as connections grow in number
//! ([`buffer_size`]), so that all of them together hold below 80 MiB; each call serves a connection at most once.

mod conn;
mod gone;
mod wire;

use std::collections::{HashSet, VecDeque};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SocketFlags, SocketType};
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpCidr};

pub use self::gone::OpenFlow;

use self::conn::{Conn, Next, Phase, Place, Stream, reset_host};
use self::wire::Wire;
use super::dns::Dns;
use super::frame::Ip;
use super::host::{self, Host, Token};
use super::link::{Link, Unreachable};
use super::plan::{self, GATEWAY, GUEST};
use super::table::{Id, Table};
use super::udp::FlowKey;

/// Connections at a time, unless the process has few descriptors.
pub const CONNECTIONS: usize = 1024;
/// A connection that is being made may be dropped for a newer one after this time, an open one after that.
const IDLE_CONNECTING: Duration = Duration::from_secs(10);
const IDLE_OPEN: Duration = Duration::from_secs(300);
/// How long a forwarded connection waits for the guest to answer.
const FORWARD_TIMEOUT: smoltcp::time::Duration = smoltcp::time::Duration::from_secs(75);
/// First of the gateway's ports used for forwarded connections (RFC 6335's dynamic range).
const FIRST_PORT: u16 = 49_152;
/// How long a forwarded port rests after the process could not accept.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// Connections accepted on one port in one go.
const ACCEPTS: usize = 16;

const FIN_SYN_RST_ACK: u8 = 0x17;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;

/// Bytes of each of a connection's two buffers, the `open`-th at a time: a few downloads are fast, many are bounded
/// (32 * 512 KiB + 224 * 128 KiB + 768 * 32 KiB = 68 MiB).
fn buffer_size(open: usize) -> usize {
    match open {
        0..32 => 256 << 10,
        32..256 => 64 << 10,
        _ => 16 << 10,
    }
}

/// A forwarded port.
struct Listener {
    number: u32,
    socket: OwnedFd,
    guest_port: u16,
    /// Not watched until then: the process had no descriptor for what came.
    paused: Option<Instant>,
}

/// All connections.
pub struct Tcp {
    iface: Interface,
    /// The set that owns no connection: what comes to it is refused.
    nobody: SocketSet<'static>,
    conns: Table<FlowKey, Conn>,
    /// Connections to serve now, and those that wait for room to the guest.
    work: VecDeque<Id>,
    blocked: VecDeque<Id>,
    /// The earliest deadline of all, or earlier.
    deadline: Option<Instant>,
    listeners: Vec<Listener>,
    /// Connections of before a restore, which the guest is still to be asked about.
    gone: VecDeque<OpenFlow>,
    /// All of those. No connection of ours may look like one of them: the guest may not have let go of it.
    lost: HashSet<FlowKey>,
    /// The port that was used last.
    port: u16,
    epoch: Instant,
}

impl Tcp {
    /// `epoch` is smoltcp's zero of time.
    pub fn new(seed: u64, limit: usize, link: &mut Link, epoch: Instant) -> Tcp {
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut iface =
            Interface::new(config, &mut Wire { packet: None, link }, smoltcp::time::Instant::ZERO);
        iface.set_any_ip(true);
        iface.update_ip_addrs(|addrs| {
            let _ = addrs.push(IpCidr::new(GATEWAY.into(), 24)); // the list is empty, so there is room
        });
        Tcp {
            iface,
            nobody: SocketSet::new(Vec::new()),
            conns: Table::new(limit),
            work: VecDeque::new(),
            blocked: VecDeque::new(),
            deadline: None,
            listeners: Vec::new(),
            gone: VecDeque::new(),
            lost: HashSet::new(),
            // Another at every start: a guest that was saved may wait for stray segments from where the last one began.
            port: FIRST_PORT | (spread(seed) as u16),
            epoch,
        }
    }

    /// Adds a forwarded port, whose socket listens and is nonblocking.
    pub fn add_forward(&mut self, number: u32, socket: OwnedFd, guest_port: u16) {
        self.listeners.push(Listener { number, socket, guest_port, paused: None });
    }

    fn now(&self, link: &Link) -> smoltcp::time::Instant {
        let since = link.now.saturating_duration_since(self.epoch).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(since).unwrap_or(i64::MAX / 2))
    }

    /// Takes a segment of the guest.
    pub fn input(&mut self, ip: &Ip<'_>, host: &Host, dns: &mut Dns, link: &mut Link) {
        let (Some(&[s0, s1, d0, d1]), Some(flags)) = (ip.payload.first_chunk(), ip.payload.get(13)) else {
            return;
        };
        let key = FlowKey {
            guest: SocketAddrV4::new(ip.src, u16::from_be_bytes([s0, s1])),
            far: SocketAddrV4::new(ip.dst, u16::from_be_bytes([d0, d1])),
        };
        if key.guest.port() == 0 || key.far.port() == 0 {
            return;
        }
        let opens = flags & FIN_SYN_RST_ACK == SYN;
        let now = self.now(link);
        if let Some(id) = self.conns.find(&key) {
            let Some((_, conn)) = self.conns.get_mut(id) else { return };
            let place = if opens { conn.place() } else { Place::InUse };
            if place == Place::Free {
                self.conns.remove(id);
            } else if place == Place::Draining {
                return; // the guest will send its SYN again
            } else {
                conn.last = link.now;
                match &mut conn.phase {
                    Phase::Open(stream) => {
                        stream.input(ip.packet, &mut self.iface, now, link);
                        self.queue(id);
                    }
                    Phase::Connecting { .. } if flags & RST != 0 => {
                        self.conns.remove(id);
                    }
                    Phase::Connecting { .. } => {} // the same SYN again
                }
                return;
            }
        }
        if opens {
            self.open(key, ip.packet, host, dns, link);
        } else {
            self.refuse(ip.packet, link);
        }
    }

    /// Answers a segment with RST, unless it is one.
    fn refuse(&mut self, packet: &[u8], link: &mut Link) {
        let now = self.now(link);
        self.iface.poll_ingress_single(now, &mut Wire { packet: Some(packet), link }, &mut self.nobody);
    }

    /// Begins the host's connection for a SYN of the guest.
    fn open(&mut self, key: FlowKey, syn: &[u8], host: &Host, dns: &mut Dns, link: &mut Link) {
        let mut targets: Vec<SocketAddr> = if *key.far.ip() == plan::DNS {
            // Our name server's TCP side is the host's name server.
            if key.far.port() == super::dns::PORT { dns.servers(link.now) } else { Vec::new() }
        } else {
            match plan::to_host(*key.far.ip()) {
                Some(addr) => vec![SocketAddrV4::new(addr, key.far.port()).into()],
                None => return,
            }
        };
        targets.reverse();
        if !self.make_room(link.now) {
            return; // the guest will send its SYN again
        }
        self.connect(key, syn.to_vec(), targets, Errno::CONNREFUSED, host, link);
    }

    /// Connects to the last of `targets` that does not fail at once, else tells the guest of the `error`.
    fn connect(
        &mut self,
        key: FlowKey,
        syn: Vec<u8>,
        mut targets: Vec<SocketAddr>,
        mut error: Errno,
        host: &Host,
        link: &mut Link,
    ) {
        while let Some(target) = targets.pop() {
            match host.connect(SocketType::STREAM, target) {
                Ok(fd) => {
                    let phase = Phase::Connecting { syn, rest: targets };
                    self.insert(key, Conn::new(phase, fd, link.now), host);
                    return;
                }
                Err(e) => error = e,
            }
        }
        match host::unreachable(error) {
            Some(Unreachable::Port) | None => self.refuse(&syn, link),
            Some(why) => link.send_unreachable(why, *key.guest.ip(), &syn),
        }
    }

    fn insert(&mut self, key: FlowKey, conn: Conn, host: &Host) -> Option<Id> {
        let id = self.conns.insert(key, conn)?;
        let (_, conn) = self.conns.get(id)?;
        if let Some(fd) = &conn.host
            && let Err(e) = host.watch_stream(fd.as_fd(), Token::Tcp(id))
        {
            tracing::warn!("user network: cannot watch a connection: {e}");
            self.conns.remove(id);
            return None;
        }
        Some(id)
    }

    /// Makes room for one more connection, at the cost of the one idle for longest; false where all are in use.
    fn make_room(&mut self, now: Instant) -> bool {
        if !self.conns.is_full() {
            return true;
        }
        let idle = |c: &Conn| now.saturating_duration_since(c.last);
        let victim = self.conns.iter().filter(|(_, _, c)| {
            let grace = match c.phase {
                _ if c.is_lingering() => Duration::ZERO,
                Phase::Connecting { .. } => IDLE_CONNECTING,
                Phase::Open(_) => IDLE_OPEN,
            };
            idle(c) >= grace
        });
        let victim = victim.max_by_key(|(_, _, c)| (c.is_lingering(), idle(c))).map(|(id, ..)| id);
        victim.and_then(|id| self.conns.remove(id)).is_some()
    }

    /// Something has happened to a host's stream.
    pub fn event(&mut self, id: Id, flags: EventFlags, host: &Host, link: &mut Link) {
        let Some((&key, conn)) = self.conns.get_mut(id) else { return };
        let broken = flags.intersects(EventFlags::ERR | EventFlags::HUP);
        match &mut conn.phase {
            Phase::Connecting { .. } if flags.contains(EventFlags::OUT) || broken => {
                self.connected(id, key, host, link);
            }
            Phase::Connecting { .. } => {}
            Phase::Open(stream) => {
                conn.readable |= broken || flags.intersects(EventFlags::IN | EventFlags::RDHUP);
                conn.writable |= broken || flags.contains(EventFlags::OUT);
                // Nobody is left to take what a guest that has not answered yet might send.
                if broken && stream.socket().state() == tcp::State::SynSent {
                    stream.socket().abort();
                }
                self.queue(id);
            }
        }
    }

    /// The host's connection is made, or has failed.
    fn connected(&mut self, id: Id, key: FlowKey, host: &Host, link: &mut Link) {
        let now = self.now(link);
        let size = buffer_size(self.conns.len());
        let Some((_, conn)) = self.conns.get_mut(id) else { return };
        let error = conn.host.as_ref().map(rustix::net::sockopt::socket_error);
        let Phase::Connecting { syn, rest } = &mut conn.phase else { return };
        let (syn, rest) = (std::mem::take(syn), std::mem::take(rest));
        if let Some(Ok(Err(e)) | Err(e)) = error {
            self.conns.remove(id);
            return self.connect(key, syn, rest, e, host, link);
        }
        let mut socket = new_socket(size);
        if socket.listen((*key.far.ip(), key.far.port())).is_err() {
            self.conns.remove(id);
            return;
        }
        let mut stream = Stream::new(socket);
        stream.input(&syn, &mut self.iface, now, link);
        conn.phase = Phase::Open(Box::new(stream));
        (conn.readable, conn.writable) = (true, true);
        self.queue(id);
    }

    /// Connections have come to the forward `number`.
    pub fn forward_event(&mut self, number: u32, host: &Host, link: &mut Link) {
        let Some(at) = self.listeners.iter().position(|l| l.number == number) else { return };
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listeners.get_mut(at) else { return };
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let fd = match rustix::net::accept_with(&listener.socket, flags) {
                Ok(fd) => fd,
                Err(Errno::CONNABORTED | Errno::INTR) => continue,
                Err(Errno::AGAIN) => return,
                Err(e) => {
                    tracing::warn!(
                        "user network: cannot accept a forwarded connection: {e}; see `ulimit -n`"
                    );
                    host.unwatch(&listener.socket);
                    listener.paused = link.now.checked_add(ACCEPT_PAUSE);
                    return;
                }
            };
            let to = SocketAddrV4::new(GUEST, listener.guest_port);
            if !self.make_room(link.now) {
                reset_host(&mut Some(fd));
                continue;
            }
            self.forward(fd, to, host, link.now);
        }
    }

    /// Connects an accepted stream to the guest.
    fn forward(&mut self, fd: OwnedFd, to: SocketAddrV4, host: &Host, now: Instant) {
        let _ = rustix::net::sockopt::set_tcp_nodelay(&fd, true);
        let Some(from) = self.free_port(to) else { return };
        let key = FlowKey { guest: to, far: from };
        let Some(stream) = self.call(key) else { return };
        let conn = Conn::new(Phase::Open(Box::new(stream)), fd, now);
        if let Some(id) = self.insert(key, conn, host) {
            self.queue(id);
        }
    }

    /// A connection to the guest, whose SYN is to be sent.
    fn call(&mut self, key: FlowKey) -> Option<Stream> {
        let mut socket = new_socket(buffer_size(self.conns.len()));
        socket.set_timeout(Some(FORWARD_TIMEOUT));
        let (to, from) = ((*key.guest.ip(), key.guest.port()), (*key.far.ip(), key.far.port()));
        socket.connect(self.iface.context(), to, from).ok()?;
        Some(Stream::new(socket))
    }

    /// The guest's card has been seen for the first time: connections to it whose SYN had nowhere to go begin anew,
    /// instead of waiting for a timer that has grown long while the guest was booting.
    fn call_again(&mut self) {
        let waiting = self.conns.iter().filter(|(_, _, c)| c.is_calling());
        let waiting: Vec<(Id, FlowKey)> = waiting.map(|(id, key, _)| (id, *key)).collect();
        for (id, key) in waiting {
            if let Some(fresh) = self.call(key)
                && let Some((_, conn)) = self.conns.get_mut(id)
            {
                conn.phase = Phase::Open(Box::new(fresh));
                self.queue(id);
            }
        }
    }

    /// A port of the gateway from which no connection to `to` comes yet.
    fn free_port(&mut self, to: SocketAddrV4) -> Option<SocketAddrV4> {
        for _ in 0..=self.conns.len() + self.lost.len() {
            self.port = self.port.checked_add(1).unwrap_or(FIRST_PORT);
            let from = SocketAddrV4::new(GATEWAY, self.port);
            let key = FlowKey { guest: to, far: from };
            if self.conns.find(&key).is_none() && !self.lost.contains(&key) {
                return Some(from);
            }
        }
        None
    }

    /// Puts a connection on the list to serve.
    fn queue(&mut self, id: Id) {
        if let Some((_, conn)) = self.conns.get_mut(id)
            && !conn.queued
        {
            conn.queued = true;
            self.work.push_back(id);
        }
    }

    /// Watches forwarded ports again whose rest is over; gives when the next one's is.
    pub fn resume_forwards(&mut self, host: &Host, now: Instant) -> Option<Instant> {
        for listener in self.listeners.iter_mut().filter(|l| l.paused.is_some_and(|t| t <= now)) {
            let watched = host.watch(&listener.socket, Token::Forward(listener.number));
            listener.paused = if watched.is_ok() { None } else { now.checked_add(ACCEPT_PAUSE) };
        }
        self.listeners.iter().filter_map(|l| l.paused).min()
    }

    /// Whether connections wait for room to the guest.
    pub fn is_blocked(&self) -> bool {
        !self.blocked.is_empty() || !self.gone.is_empty()
    }

    /// Serves every connection to which something happened, or whose time has come; gives when to call again.
    pub fn run(&mut self, link: &mut Link) -> Option<Instant> {
        if link.take_news() {
            self.call_again();
        }
        self.ask_about_the_gone(link);
        if self.deadline.is_some_and(|t| t <= link.now) {
            let due = |c: &Conn| c.deadline.is_some_and(|t| t <= link.now);
            let ids: Vec<Id> = self.conns.iter().filter(|(_, _, c)| due(c)).map(|(id, ..)| id).collect();
            ids.into_iter().for_each(|id| self.queue(id));
            self.deadline =
                self.conns.iter().filter(|(_, _, c)| !c.queued).filter_map(|(_, _, c)| c.deadline).min();
        }
        let now = self.now(link);
        self.work.append(&mut self.blocked);
        for _ in 0..self.work.len() {
            let Some(id) = self.work.pop_front() else { break };
            let Some((_, conn)) = self.conns.get_mut(id) else { continue };
            match conn.serve(&mut self.iface, now, self.epoch, link) {
                Next::Wait => {
                    conn.queued = false;
                    self.deadline = [self.deadline, conn.deadline].into_iter().flatten().min();
                }
                Next::Blocked => self.blocked.push_back(id),
                Next::Gone => {
                    self.conns.remove(id);
                }
            }
        }
        self.deadline
    }
}

/// Numbers that are as good as drawn, from seeds that may be near each other (the finalizer of SplitMix64).
fn spread(seed: u64) -> u64 {
    let n = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ n >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ n >> 31
}

/// A socket with two buffers of `size` bytes, that neither waits for more to send nor holds its acknowledgements
/// back: both ends are near, and we gather on our own.
fn new_socket(size: usize) -> tcp::Socket<'static> {
    let buffer = || tcp::SocketBuffer::new(vec![0; size]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}
