//! User-mode networking: a network of its own for one machine, inside our process, without any privilege.
//!
//! ```text
//!   guest ── frames ──► inbox ──► ARP, DHCP, DNS ────────────► answered here
//!                             ├─► TCP (smoltcp) ─────────────► host stream sockets
//!                             ├─► UDP ───────────────────────► host datagram sockets
//!                             └─► ICMP echo ─────────────────► host ping sockets
//!   guest ◄─ frames ── outbox ◄──────────────────────────────┘
//! ```
//! The guest sees a network 10.0.2.0/24 with a gateway, a name server and DHCP ([`plan`]); the outside sees ordinary
//! sockets of this process. `send` only queues; all work is done in `poll`, by the caller's thread, and (only to
//! fill the outbox again, once the guest has emptied half of it) in `recv`. Time enters through `poll` alone,
//! randomness through the seed.
//!
//! Invariants: every frame may be hostile; queues, flows, buffers and lookups are bounded, each where it is kept;
//! nothing is opened that the guest did not ask for, and nothing at all outside when `isolated`.
//! Deliberately not here: IPv6, IGMP and multicast, routing between guests, `traceroute`, path MTU discovery (the
//! host's kernel does that on its side).

mod dhcp;
mod dns;
mod forward;
pub(crate) mod frame;
mod host;
mod icmp;
mod link;
pub mod plan;
mod queue;
mod reassembly;
mod resolver;
mod table;
mod tcp;
mod udp;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::process::{Resource, getrlimit};

pub use self::forward::{Forward, ForwardError, ForwardSyntax, OpenForward, Proto, bind_forward};
pub use self::resolver::Resolvers;
pub use self::tcp::OpenFlow;

use self::frame::*;
pub(crate) use self::host::Outside;
use self::host::{Host, Token};
use self::link::Link;
use self::queue::FrameQueue;
use self::udp::FlowKey;
use crate::NetBackend;

/// Frames of the guest that may wait for `poll`.
const IN_FRAMES: usize = 512;
/// Frames that answering one frame can take: a 64 KiB ping comes back in 45 fragments.
const ANSWER_ROOM: usize = 48;
/// How often the kernel is asked for more events in one `poll`.
const EVENT_ROUNDS: usize = 4;

/// What a user-mode network is made from.
#[derive(Debug)]
pub struct UserConfig {
    /// The gateway's and name server's hardware address; the lowest bit of its first byte is 0.
    pub gateway_mac: [u8; 6],
    /// Host ports that lead to the guest, already open.
    pub forwards: Vec<OpenForward>,
    /// Where names are looked up.
    pub resolvers: Resolvers,
    /// The guest reaches the gateway and what `forwards` bring, and nothing outside.
    pub isolated: bool,
    /// Seed of TCP's initial sequence numbers and the like. Different for every start of a machine, unless runs are
    /// to repeat.
    pub seed: u64,
    /// Connections at a time at most; fewer where the process may open few files.
    pub max_connections: usize,
}

impl Default for UserConfig {
    fn default() -> Self {
        UserConfig {
            gateway_mac: [0x52, 0x55, 10, 0, 2, 2],
            forwards: Vec::new(),
            resolvers: Resolvers::default(),
            isolated: false,
            seed: 0,
            max_connections: tcp::CONNECTIONS,
        }
    }
}

/// A user-mode network that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum UserNetError {
    /// The gateway's address is a group address.
    #[error(
        "the gateway's hardware address {0:02x?} is a group address: clear the lowest bit of its first byte"
    )]
    GatewayMac([u8; 6]),
    /// The host gives no event descriptor.
    #[error("cannot set up user-mode networking: the host refuses {what}: {source}; see `ulimit -n`")]
    Host {
        /// What was asked for.
        what: &'static str,
        /// What the host said.
        source: std::io::Error,
    },
    /// A forward's socket cannot be used.
    #[error(
        "cannot forward to port {guest_port} of the guest: the {proto} socket given for it is unusable: {source}"
    )]
    Forward {
        /// The guest's port.
        guest_port: u16,
        /// The socket's protocol.
        proto: Proto,
        /// What the host said.
        source: std::io::Error,
    },
}

/// Which cards of the guest have which addresses: what a network of the same guest elsewhere goes on with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cards {
    /// The card of each address that DHCP has given, from the first on.
    pub leases: Vec<Mac>,
    /// Addresses that cards have shown.
    pub neighbours: Vec<(Ipv4Addr, Mac)>,
}

/// The user-mode network of one card.
pub struct UserNet {
    inbox: FrameQueue,
    stack: Stack,
}

/// All but the inbox.
struct Stack {
    link: Link,
    host: Host,
    dhcp: dhcp::Dhcp,
    dns: dns::Dns,
    tcp: tcp::Tcp,
    udp: udp::Udp,
    icmp: icmp::Icmp,
    fragments: reassembly::Reassembly,
    /// Protocol of each forward, by number.
    forwards: Vec<Proto>,
    events: Vec<(Token, EventFlags)>,
    /// Where datagrams are received.
    scratch: Box<[u8]>,
}

impl UserNet {
    /// Makes the network. Opens nothing but an event descriptor or two.
    ///
    /// # Errors
    /// The gateway's address is none, the host gives no descriptor, or a forward's socket cannot be used.
    pub fn new(config: UserConfig) -> Result<UserNet, UserNetError> {
        let outside = if config.isolated { Outside::Isolated } else { Outside::Open };
        UserNet::with_outside(config, outside)
    }

    /// As [`UserNet::new`], with the outside chosen by the fuzz targets.
    pub(crate) fn with_outside(config: UserConfig, outside: Outside) -> Result<UserNet, UserNetError> {
        if config.gateway_mac[0] & 1 != 0 {
            return Err(UserNetError::GatewayMac(config.gateway_mac));
        }
        let refused = |what| move |e: rustix::io::Errno| UserNetError::Host { what, source: e.into() };
        let host = Host::new(outside).map_err(refused("an epoll descriptor"))?;
        let dns = dns::Dns::new(config.resolvers, &host).map_err(refused("an event descriptor"))?;
        // Half of what the process may open is for disks, control sockets and the rest of us.
        let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        let connections = config.max_connections.min(files / 2).max(1);
        // The one place where the clock is read: a zero that every later `now` is measured from.
        let epoch = Instant::now();
        let mut link = Link::new(config.gateway_mac, epoch);
        let mut stack = Stack {
            tcp: tcp::Tcp::new(config.seed, connections, &mut link, epoch),
            udp: udp::Udp::new(udp::FLOWS.min(files / 8).max(1)),
            icmp: icmp::Icmp::new(config.seed),
            link,
            host,
            dns,
            dhcp: dhcp::Dhcp::default(),
            fragments: reassembly::Reassembly::default(),
            forwards: Vec::new(),
            events: Vec::new(),
            scratch: host::scratch(),
        };
        for forward in config.forwards {
            let (guest_port, proto) = (forward.guest_port, forward.proto);
            let unusable =
                |e: rustix::io::Errno| UserNetError::Forward { guest_port, proto, source: e.into() };
            stack.add_forward(forward).map_err(unusable)?;
        }
        Ok(UserNet { inbox: FrameQueue::new(IN_FRAMES), stack })
    }

    /// TCP connections that stand now: what a machine that is saved takes with it, though their far ends stay here.
    pub fn open_flows(&self) -> Vec<OpenFlow> {
        self.stack.tcp.open_flows(&self.stack.link)
    }

    /// The guest was saved with these connections, and they are no more: it is told at once, by a reset of each, instead
    /// of waiting for nothing. Gives how many they are; what cannot be the guest's is passed over.
    pub fn reset_flows(&mut self, flows: &[OpenFlow]) -> usize {
        self.stack.tcp.reset_flows(flows, &mut self.stack.link)
    }

    /// What is known of the guest's cards.
    pub fn cards(&self) -> Cards {
        Cards { leases: self.stack.dhcp.leases(), neighbours: self.stack.link.neighbours() }
    }

    /// The same guest was on another network like this one: takes over what that knew. What cannot be is passed over.
    pub fn go_on_with(&mut self, cards: &Cards) {
        self.stack.dhcp.take_over(&cards.leases);
        cards.neighbours.iter().for_each(|(addr, mac)| self.stack.link.learn(*addr, *mac));
    }

    fn take_inbox(&mut self) {
        while self.stack.link.room() >= ANSWER_ROOM
            && let Some(frame) = self.inbox.front()
        {
            self.stack.input(frame);
            self.inbox.pop();
        }
    }
}

impl NetBackend for UserNet {
    fn send(&mut self, frame: &[u8]) {
        self.inbox.push(frame);
    }

    fn recv(&mut self, buf: &mut [u8]) -> Option<usize> {
        let out = self.stack.link.out();
        if out.is_half_empty() && (self.stack.tcp.is_blocked() || !self.inbox.is_empty()) {
            self.take_inbox();
            self.stack.tcp.run(&mut self.stack.link);
        }
        let out = self.stack.link.out();
        let frame = out.front()?;
        let len = frame.len();
        // A buffer below MAX_FRAME breaks the contract; the frame is then lost as a giant is on any wire.
        let copied = buf.get_mut(..len).map(|b| b.copy_from_slice(frame));
        out.pop();
        copied.map(|()| len)
    }

    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.stack.host.fd()
    }

    fn poll(&mut self, now: Instant) -> Option<Duration> {
        // A clock that steps back would make timers panic or sleep; it stands still instead.
        self.stack.link.now = now.max(self.stack.link.now);
        self.take_inbox();
        let more = self.stack.take_events();
        let due = self.stack.run();
        if more {
            return Some(Duration::ZERO);
        }
        due.map(|t| t.saturating_duration_since(self.stack.link.now))
    }
}

impl Stack {
    fn add_forward(&mut self, forward: OpenForward) -> rustix::io::Result<()> {
        let OpenForward { proto, guest_port, socket } = forward;
        let number = self.forwards.len() as u32;
        rustix::io::ioctl_fionbio(&socket, true)?;
        self.host.watch(&socket, Token::Forward(number))?;
        match proto {
            Proto::Tcp => self.tcp.add_forward(number, socket, guest_port),
            Proto::Udp => self.udp.add_forward(number, socket, guest_port),
        }
        self.forwards.push(proto);
        Ok(())
    }

    /// Takes a frame of the guest. What is not for us, or nonsense, is dropped.
    fn input(&mut self, frame: &[u8]) -> Option<()> {
        let eth = Eth::parse(frame).filter(|e| self.link.is_for_us(e.dst))?;
        match eth.ethertype {
            ETHERTYPE_ARP => self.link.arp(eth.payload),
            ETHERTYPE_IPV4 => self.ip(&eth, &Ip::parse(eth.payload)?),
            _ => None,
        }
    }

    fn ip(&mut self, eth: &Eth<'_>, ip: &Ip<'_>) -> Option<()> {
        let from_guest = plan::is_guest(ip.src);
        if from_guest {
            self.link.learn(ip.src, eth.src);
        } else if !ip.src.is_unspecified() || ip.proto != PROTO_UDP {
            return None; // a forged sender; only DHCP speaks before it has an address
        }
        let whole;
        let payload = match ip.is_fragment() {
            // Nothing but DHCP is to be had without an address, and TCP does not fragment.
            true if from_guest && ip.proto != PROTO_TCP => {
                whole = self.fragments.add(ip, self.link.now)?;
                &whole
            }
            true => return None,
            false => ip.payload,
        };
        match ip.proto {
            PROTO_UDP => self.udp(ip, &Udp::parse(ip.src, ip.dst, payload)?),
            PROTO_TCP => self.tcp.input(ip, &self.host, &mut self.dns, &mut self.link),
            PROTO_ICMP => self.icmp.input(ip, payload, &self.host, &mut self.link),
            _ => {}
        }
        Some(())
    }

    fn udp(&mut self, ip: &Ip<'_>, udp: &Udp<'_>) {
        if udp.dst_port == dhcp::SERVER_PORT
            && matches!(ip.dst, plan::GATEWAY | std::net::Ipv4Addr::BROADCAST)
        {
            return self.dhcp(udp);
        }
        if !plan::is_guest(ip.src) || udp.src_port == 0 || udp.dst_port == 0 {
            return;
        }
        let guest = SocketAddrV4::new(ip.src, udp.src_port);
        let far = SocketAddrV4::new(ip.dst, udp.dst_port);
        if far == SocketAddrV4::new(plan::DNS, dns::PORT) {
            self.dns.input(guest, udp.payload, &self.host, &mut self.link);
        } else {
            self.udp.input(FlowKey { guest, far }, udp.payload, &self.host, &mut self.link);
        }
    }

    fn dhcp(&mut self, udp: &Udp<'_>) {
        let Some(reply) = self.dhcp.input(udp.payload) else { return };
        if let Some((addr, mac)) = reply.given {
            self.link.learn(addr, mac);
        }
        let mut segment = [&[0; UDP_LEN], reply.message.as_slice()].concat();
        finish_udp((plan::GATEWAY, dhcp::SERVER_PORT), (reply.dst, dhcp::CLIENT_PORT), &mut segment);
        self.link.send_ip_to(reply.mac, plan::GATEWAY, reply.dst, PROTO_UDP, &segment);
    }

    /// Passes on what has happened to the host's sockets; gives whether there may be more.
    fn take_events(&mut self) -> bool {
        let mut more = true;
        for _ in 0..EVENT_ROUNDS {
            let mut events = std::mem::take(&mut self.events);
            more = self.host.take_events(&mut events);
            for (token, flags) in events.drain(..) {
                self.event(token, flags);
            }
            self.events = events;
            if !more {
                break;
            }
        }
        more
    }

    fn event(&mut self, token: Token, flags: EventFlags) {
        let Stack { link, host, scratch, .. } = self;
        match token {
            Token::Tcp(id) => self.tcp.event(id, flags, host, link),
            Token::Udp(id) => self.udp.event(id, link, scratch),
            Token::Icmp(id) => self.icmp.event(id, link, scratch),
            Token::Dns(id) => self.dns.event(id, host, link, scratch),
            Token::Lookup => self.dns.lookups_done(link),
            Token::Forward(n) => match self.forwards.get(n as usize) {
                Some(Proto::Tcp) => self.tcp.forward_event(n, host, link),
                Some(Proto::Udp) => self.udp.forward_event(n, link, scratch),
                None => {}
            },
        }
    }

    /// Lets timers and connections run; gives when to do so again.
    fn run(&mut self) -> Option<Instant> {
        let Stack { link, host, .. } = self;
        let due = [
            self.tcp.run(link),
            self.tcp.resume_forwards(host, link.now),
            self.dns.expire(host, link),
            self.udp.expire(link.now),
            self.icmp.expire(link.now),
        ];
        due.into_iter().flatten().min()
    }
}
