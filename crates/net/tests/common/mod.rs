//! A guest for the tests: a second smoltcp interface, joined to the user-mode network in memory.

#![allow(dead_code)] // each test file uses its part

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::wire::{EthernetAddress, HardwareAddress, Icmpv4Packet, Icmpv4Repr, IpCidr, IpEndpoint};
use strata_net::user::plan::{GATEWAY, GUEST};
use strata_net::{MAX_FRAME, NetBackend, UserConfig, UserNet};

pub const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The card: what the guest sends goes to the network, what it gives is received.
pub struct Card {
    pub net: UserNet,
    /// Frames sent since the network last ran.
    sent: usize,
}

/// Frames that a card's ring holds, after which the network gets to run.
const RING: usize = 256;

pub struct Rx(Vec<u8>);
pub struct Tx<'a>(&'a mut Card);

impl RxToken for Rx {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Tx<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.net.send(&frame);
        self.0.sent += 1;
        if self.0.sent.is_multiple_of(RING) {
            self.0.net.poll(Instant::now());
        }
        result
    }
}

impl Device for Card {
    type RxToken<'a> = Rx;
    type TxToken<'a> = Tx<'a>;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Rx, Tx<'_>)> {
        let mut frame = vec![0; MAX_FRAME];
        let len = self.net.recv(&mut frame)?;
        frame.truncate(len);
        Some((Rx(frame), Tx(self)))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Tx<'_>> {
        Some(Tx(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ethernet;
        caps.max_transmission_unit = 1514;
        caps.max_burst_size = Some(64);
        caps
    }
}

pub struct Guest {
    pub card: Card,
    pub iface: Interface,
    pub sockets: SocketSet<'static>,
    start: Instant,
    next_port: u16,
}

impl Guest {
    /// A guest without an address.
    pub fn bare(config: UserConfig) -> Guest {
        let mut card = Card { net: UserNet::new(config).unwrap(), sent: 0 };
        let mut own = Config::new(HardwareAddress::Ethernet(EthernetAddress(MAC)));
        own.random_seed = 7;
        let iface = Interface::new(own, &mut card, smoltcp::time::Instant::ZERO);
        Guest { card, iface, sockets: SocketSet::new(Vec::new()), start: Instant::now(), next_port: 40_000 }
    }

    /// A guest with the address that DHCP would give.
    pub fn new(config: UserConfig) -> Guest {
        let mut guest = Guest::bare(config);
        guest.iface.update_ip_addrs(|a| a.push(IpCidr::new(GUEST.into(), 24)).unwrap());
        guest.iface.routes_mut().add_default_ipv4_route(GATEWAY).unwrap();
        guest
    }

    pub fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(self.start.elapsed().as_micros() as i64)
    }

    /// Lets both sides run once, and waits a moment where nothing happened.
    pub fn step(&mut self) {
        let due = self.card.net.poll(Instant::now());
        let changed = self.iface.poll(self.now(), &mut self.card, &mut self.sockets);
        if changed == PollResult::SocketStateChanged || due == Some(Duration::ZERO) {
            return;
        }
        let due = self.card.net.poll(Instant::now());
        let wait = due.unwrap_or(Duration::MAX).min(Duration::from_millis(5));
        let limit = rustix::time::Timespec { tv_sec: 0, tv_nsec: wait.subsec_nanos().into() };
        let mut fds =
            [rustix::event::PollFd::from_borrowed_fd(self.card.net.poll_fd(), rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&limit)).unwrap();
    }

    /// Runs until `f` gives something.
    pub fn until<T>(&mut self, what: &str, mut f: impl FnMut(&mut Guest) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(result) = f(self) {
                return result;
            }
            assert!(start.elapsed() < PATIENCE, "{what} takes too long");
            self.step();
        }
    }

    /// A TCP connection under way to `far`.
    pub fn connect(&mut self, far: SocketAddrV4) -> SocketHandle {
        self.connect_with(far, 256 << 10)
    }

    pub fn connect_with(&mut self, far: SocketAddrV4, buffer: usize) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; buffer]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        self.next_port += 1;
        socket.connect(self.iface.context(), (*far.ip(), far.port()), self.next_port).unwrap();
        self.sockets.add(socket)
    }

    pub fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Waits until the connection stands (true) or has been refused.
    pub fn connected(&mut self, handle: SocketHandle) -> bool {
        self.until("a connection", |g| match g.tcp(handle).state() {
            tcp::State::SynSent => None,
            tcp::State::Closed => Some(false),
            _ => Some(true),
        })
    }

    /// Everything the far end sends until it says that it is done.
    pub fn read_to_end(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut all = Vec::new();
        self.until("reading to the end", |g| {
            let socket = g.tcp(handle);
            while socket.can_recv() {
                socket
                    .recv(|data| {
                        all.extend_from_slice(data);
                        (data.len(), ())
                    })
                    .unwrap();
            }
            use tcp::State::*;
            let young = matches!(socket.state(), Listen | SynSent | SynReceived);
            (!socket.may_recv() && !young).then_some(())
        });
        all
    }

    pub fn write_all(&mut self, handle: SocketHandle, mut data: &[u8]) {
        self.until("writing", |g| {
            if g.tcp(handle).can_send() {
                let n = g.tcp(handle).send_slice(data).unwrap();
                data = &data[n..];
            }
            data.is_empty().then_some(())
        });
    }

    pub fn udp(&mut self, port: u16) -> SocketHandle {
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 64 << 10]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).unwrap();
        self.sockets.add(socket)
    }

    pub fn udp_send(&mut self, handle: SocketHandle, to: SocketAddrV4, data: &[u8]) {
        let socket: &mut udp::Socket = self.sockets.get_mut(handle);
        socket.send_slice(data, IpEndpoint::new((*to.ip()).into(), to.port())).unwrap();
    }

    pub fn udp_recv(&mut self, handle: SocketHandle) -> (Vec<u8>, IpEndpoint) {
        self.until("a datagram", |g| {
            let socket: &mut udp::Socket = g.sockets.get_mut(handle);
            let (data, meta) = socket.recv().ok()?;
            Some((data.to_vec(), meta.endpoint))
        })
    }

    pub fn icmp(&mut self, bound: icmp::Endpoint) -> SocketHandle {
        let buffer = || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 16], vec![0; 64 << 10]);
        let mut socket = icmp::Socket::new(buffer(), buffer());
        socket.bind(bound).unwrap();
        self.sockets.add(socket)
    }
}

/// An address as the guest writes it for a port of the host's loopback.
pub fn host(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(GATEWAY, port)
}

/// Bytes without a pattern that a mistake could repeat.
pub fn bytes(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend(x.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// Gives the test's thread a network namespace of its own; false, with a word about why, where it can have none.
pub fn own_network() -> bool {
    let obstacle = if !rustix::process::geteuid().is_root() {
        "only root may make a network namespace"
    } else if Command::new("ip").arg("-V").output().is_err() {
        "there is no `ip` command"
    // SAFETY: a new network namespace for this thread alone; no descriptor or memory is affected.
    } else if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        "the host allows no new network namespace"
    } else {
        ip("link set lo up");
        return true;
    };
    println!("skipped: {obstacle}");
    false
}

/// Runs the `ip` command in the thread's network.
pub fn ip(args: &str) {
    let out = Command::new("ip").args(args.split(' ')).output().unwrap();
    assert!(out.status.success(), "ip {args}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Whether `to` answers a ping of `len` bytes within so many steps.
pub fn ping(guest: &mut Guest, to: Ipv4Addr, len: usize) -> bool {
    let handle = guest.icmp(icmp::Endpoint::Ident(0x77));
    let data = bytes(len);
    let request = Icmpv4Repr::EchoRequest { ident: 0x77, seq_no: 3, data: &data };
    let socket: &mut icmp::Socket = guest.sockets.get_mut(handle);
    let space = socket.send(request.buffer_len(), to.into()).unwrap();
    request.emit(&mut Icmpv4Packet::new_unchecked(space), &ChecksumCapabilities::default());
    for _ in 0..200 {
        guest.step();
        let socket: &mut icmp::Socket = guest.sockets.get_mut(handle);
        let Ok((message, from)) = socket.recv() else { continue };
        let packet = Icmpv4Packet::new_checked(message).unwrap();
        let reply = Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).unwrap();
        assert_eq!(from, to.into());
        assert_eq!(reply, Icmpv4Repr::EchoReply { ident: 0x77, seq_no: 3, data: &data });
        guest.sockets.remove(handle);
        return true;
    }
    guest.sockets.remove(handle);
    false
}
