//! What needs a host network of its own: TAP, ping through the host's sockets, and destinations that do not exist.
//! Each test has its own network namespace; it is skipped, with a word about why, where there can be none.

mod common;

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use common::{Guest, ip, own_network, ping};
use smoltcp::socket::{icmp, tcp};
use strata_net::{MAX_FRAME, NetBackend, Tap, TapError, UserConfig, open_tap};

/// An address of the host that is not loopback, from the range for documentation.
const HOST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

const MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];

/// The next frame that `wanted` takes.
fn frame(tap: &mut Tap, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    let start = Instant::now();
    let mut buf = [0; MAX_FRAME];
    while start.elapsed() < Duration::from_secs(10) {
        while let Some(n) = tap.recv(&mut buf) {
            if wanted(&buf[..n]) {
                return buf[..n].to_vec();
            }
        }
        let limit = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(tap.poll_fd(), rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&limit)).unwrap();
    }
    panic!("the kernel sent no such frame");
}

fn ip_checksum(header: &[u8]) -> [u8; 2] {
    let mut sum: u32 = header.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[test]
fn datagrams_pass_between_the_kernel_and_a_tap() {
    if !own_network() {
        return;
    }
    if !std::path::Path::new("/dev/net/tun").exists() {
        println!("skipped: there is no /dev/net/tun");
        return;
    }
    let mut tap = open_tap("strata0").unwrap();
    assert!(matches!(open_tap("strata0"), Err(TapError::Busy { .. })));
    assert!(matches!(open_tap("lo"), Err(TapError::WrongKind { .. })));
    ip("addr add 10.77.0.1/24 dev strata0");
    ip("link set strata0 up");

    let socket = UdpSocket::bind("10.77.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    socket.send_to(b"to the guest", "10.77.0.2:7").unwrap();
    // The kernel asks who that is; we are.
    let asked = frame(&mut tap, |f| f[12..14] == [8, 6] && f[38..42] == [10, 77, 0, 2]);
    let kernel: [u8; 6] = asked[6..12].try_into().unwrap();
    let mut answer = [&kernel[..], &MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &MAC, &[10, 77, 0, 2]].concat();
    answer.extend_from_slice(&asked[22..32]);
    tap.send(&answer);
    let datagram = frame(&mut tap, |f| f[12..14] == [8, 0] && f[23] == 17);
    assert_eq!(datagram[..6], MAC);
    assert!(datagram.ends_with(b"to the guest"));

    // And back, without a UDP checksum, as IPv4 allows.
    let mut header = vec![0x45, 0, 0, 20 + 8 + 3, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1];
    let sum = ip_checksum(&header);
    header[10..12].copy_from_slice(&sum);
    let port = socket.local_addr().unwrap().port().to_be_bytes();
    tap.send(&[&kernel[..], &MAC, &[8, 0], &header, &[0, 7], &port, &[0, 11, 0, 0], b"hey"].concat());
    let mut got = [0; 16];
    let (n, from) = socket.recv_from(&mut got).unwrap();
    assert_eq!((&got[..n], from), (&b"hey"[..], "10.77.0.2:7".parse().unwrap()));
}

#[test]
fn ping_reaches_the_outside_with_and_without_privilege() {
    if !own_network() {
        return;
    }
    ip(&format!("addr add {HOST}/32 dev lo"));
    for range in ["1 0", "0 2147483647"] {
        // A raw socket first, then the unprivileged kind.
        std::fs::write("/proc/sys/net/ipv4/ping_group_range", range).unwrap();
        let mut guest = Guest::new(UserConfig::default());
        assert!(ping(&mut guest, HOST, 56), "with ping_group_range {range}");
        assert!(ping(&mut guest, HOST, 1400), "with ping_group_range {range}");
    }
}

#[test]
fn a_destination_without_a_route_is_reported() {
    if !own_network() {
        return;
    }
    let mut guest = Guest::new(UserConfig::default());
    let socket = guest.udp(5000);
    let reports = guest.icmp(icmp::Endpoint::Udp(5000.into()));
    guest.udp_send(socket, SocketAddrV4::new(HOST, 9), b"anybody?");
    let report = guest
        .until("the report", |g| Some(g.sockets.get_mut::<icmp::Socket>(reports).recv().ok()?.0.to_vec()));
    assert_eq!(report[..2], [3, 0], "network unreachable");

    // The same for a connection, looked at as frames: the guest's stack here does not act on the report.
    let handle = guest.connect(SocketAddrV4::new(HOST, 80));
    guest.iface.poll(guest.now(), &mut guest.card, &mut guest.sockets);
    guest.card.net.poll(Instant::now());
    let mut buf = [0; MAX_FRAME];
    let n = guest.card.net.recv(&mut buf).unwrap();
    assert_eq!((buf[23], &buf[34..36]), (1, &[3, 0][..]));
    assert_eq!(buf[42 + 9], 6, "it quotes the segment");
    assert!(n >= 42 + 28);
    assert_eq!(guest.tcp(handle).state(), tcp::State::SynSent);
}
