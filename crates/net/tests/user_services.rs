//! DHCP, ARP, DNS, UDP and ping in the user-mode network; servers only on the host's loopback.

mod common;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use common::{Guest, MAC, bytes, host, ping};
use smoltcp::socket::{dhcpv4, icmp, tcp, udp};
use strata_net::user::plan::{DNS, GATEWAY, GUEST};
use strata_net::{MAX_FRAME, NetBackend, OpenForward, Resolvers, UserConfig};

const DNS_PORT: SocketAddrV4 = SocketAddrV4::new(DNS, 53);

#[test]
fn dhcp_gives_address_router_and_name_server() {
    let mut guest = Guest::bare(UserConfig::default());
    let handle = guest.sockets.add(dhcpv4::Socket::new());
    let (address, router, dns) =
        guest.until("a lease", |g| match g.sockets.get_mut::<dhcpv4::Socket>(handle).poll()? {
            dhcpv4::Event::Configured(c) => Some((c.address, c.router, c.dns_servers.to_vec())),
            dhcpv4::Event::Deconfigured => None,
        });
    assert_eq!((address.address(), address.prefix_len()), (GUEST, 24));
    assert_eq!((router, dns), (Some(GATEWAY), vec![DNS]));
}

/// An ARP request of the guest for `target`, and the answer where there is one.
fn arp(guest: &mut Guest, target: Ipv4Addr) -> Option<Vec<u8>> {
    let mut frame = vec![0xff; 6];
    frame.extend(MAC);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(MAC);
    frame.extend(GUEST.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    guest.card.net.send(&frame);
    guest.card.net.poll(std::time::Instant::now());
    let mut buf = [0; MAX_FRAME];
    guest.card.net.recv(&mut buf).map(|n| buf[..n].to_vec())
}

#[test]
fn arp_knows_the_gateway_and_the_name_server_and_nobody_else() {
    let mut guest = Guest::bare(UserConfig::default());
    for known in [GATEWAY, DNS] {
        let answer = arp(&mut guest, known).unwrap();
        assert_eq!(answer[..6], MAC);
        assert_eq!(answer[20..22], [0, 2], "a reply");
        assert_eq!(answer[22..28], UserConfig::default().gateway_mac);
        assert_eq!(answer[28..32], known.octets());
    }
    for unknown in [GUEST, Ipv4Addr::new(10, 0, 2, 77), Ipv4Addr::new(192, 0, 2, 1)] {
        assert_eq!(arp(&mut guest, unknown), None);
    }
}

#[test]
fn datagrams_go_out_and_their_answers_come_back() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let echo = std::thread::spawn(move || {
        let mut buf = [0; 65536];
        for _ in 0..3 {
            let (n, from) = server.recv_from(&mut buf).unwrap();
            buf[..n].reverse();
            server.send_to(&buf[..n], from).unwrap();
        }
    });
    let mut guest = Guest::new(UserConfig::default());
    let socket = guest.udp(5000);
    for len in [0, 5, 1400] {
        guest.udp_send(socket, host(port), &bytes(len));
        let (mut data, from) = guest.udp_recv(socket);
        data.reverse();
        assert_eq!(data, bytes(len));
        assert_eq!((from.addr, from.port), (GATEWAY.into(), port));
    }
    echo.join().unwrap();
}

#[test]
fn a_silent_flow_ends() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut guest = Guest::new(UserConfig::default());
    let socket = guest.udp(5000);
    guest.udp_send(socket, host(server.local_addr().unwrap().port()), b"x");
    server.set_nonblocking(true).unwrap();
    guest.until("the datagram", |_| server.recv(&mut [0; 4]).ok());
    let now = std::time::Instant::now();
    let due = guest.card.net.poll(now).unwrap();
    assert!(due > Duration::from_secs(100), "{due:?}");
    assert_eq!(guest.card.net.poll(now + due), None);
}

#[test]
fn a_large_answer_comes_in_fragments() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = server.local_addr().unwrap().port();
    let mut guest = Guest::new(UserConfig::default());
    let socket = guest.udp(5000);
    guest.udp_send(socket, host(port), b"?");
    guest.until("the question", |_| {
        server.set_nonblocking(true).unwrap();
        let (_, from) = server.recv_from(&mut [0; 10]).ok()?;
        server.send_to(&bytes(4000), from).unwrap();
        Some(())
    });
    // The guest's stack here does not put fragments together: look at them as frames.
    let mut payload = Vec::new();
    let mut pieces = 0;
    for _ in 0..2000 {
        guest.card.net.poll(std::time::Instant::now());
        let mut buf = [0; MAX_FRAME];
        while let Some(n) = guest.card.net.recv(&mut buf) {
            if buf[12..14] == [8, 0] && buf[23] == 17 {
                let at = usize::from(u16::from_be_bytes([buf[20], buf[21]]) & 0x1fff) * 8;
                assert_eq!(at, payload.len());
                payload.extend_from_slice(&buf[34..n]);
                pieces += 1;
            }
        }
        if payload.len() >= 4008 {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!((pieces, payload.len()), (3, 4008));
    assert!(payload[8..] == bytes(4000));
}

#[test]
fn a_ping_in_fragments_is_answered_in_fragments() {
    let mut message = vec![8, 0, 0, 0, 0, 1, 0, 2];
    message.extend(bytes(3000));
    let sum = |data: &[u8]| {
        let mut sum: u32 =
            data.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        (!(sum as u16)).to_be_bytes()
    };
    let check = sum(&message);
    message[2..4].copy_from_slice(&check);
    let mut guest = Guest::new(UserConfig::default());
    for (i, piece) in message.chunks(1480).enumerate().rev() {
        let more = if piece.len() == 1480 { 0x2000u16 } else { 0 };
        let mut ip = vec![0x45, 0];
        ip.extend((20 + piece.len() as u16).to_be_bytes());
        ip.extend([0, 1]);
        ip.extend((more | (i * 1480 / 8) as u16).to_be_bytes());
        ip.extend([64, 1, 0, 0]);
        ip.extend(GUEST.octets());
        ip.extend(GATEWAY.octets());
        let check = sum(&ip);
        ip[10..12].copy_from_slice(&check);
        let mac = UserConfig::default().gateway_mac;
        guest.card.net.send(&[&mac[..], &MAC, &[8, 0], &ip, piece].concat());
    }
    guest.card.net.poll(std::time::Instant::now());
    let mut answer = Vec::new();
    let mut buf = [0; MAX_FRAME];
    while let Some(n) = guest.card.net.recv(&mut buf) {
        answer.extend_from_slice(&buf[34..n]);
    }
    assert_eq!(answer[..2], [0, 0]);
    assert!(sum(&answer) == [0, 0] && answer[4..] == message[4..]);
}

#[test]
fn a_closed_udp_port_is_reported() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut guest = Guest::new(UserConfig::default());
    let socket = guest.udp(5000);
    let icmp = guest.icmp(icmp::Endpoint::Udp(5000.into()));
    guest.udp_send(socket, host(port), b"anybody?");
    let message = guest.until("the report", |g| {
        let socket: &mut icmp::Socket = g.sockets.get_mut(icmp);
        Some(socket.recv().ok()?.0.to_vec())
    });
    assert_eq!(message[..2], [3, 3], "destination unreachable, port");
}

/// A name server that answers each query with `answer(query)`.
fn name_server(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut buf = [0; 2048];
        while let Ok((n, from)) = socket.recv_from(&mut buf) {
            if let Some(a) = answer(&buf[..n]) {
                socket.send_to(&a, from).unwrap();
            }
        }
    });
    addr
}

fn query(name: &str, kind: u8) -> Vec<u8> {
    let mut q = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        q.push(label.len() as u8);
        q.extend(label.bytes());
    }
    q.extend([0, 0, kind, 0, 1]);
    q
}

/// Answers with one address, or with a failure.
fn answer(query: &[u8], code: u8, addr: [u8; 4]) -> Vec<u8> {
    let mut a = query.to_vec();
    (a[2], a[3], a[7]) = (0x81, 0x80 | code, u8::from(code == 0));
    if code == 0 {
        a.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        a.extend(addr);
    }
    a
}

fn resolve(guest: &mut Guest, query: &[u8]) -> Vec<u8> {
    let socket = guest.udp(6000);
    guest.udp_send(socket, DNS_PORT, query);
    let (data, from) = guest.udp_recv(socket);
    assert_eq!((from.addr, from.port), (DNS.into(), 53));
    guest.sockets.remove(socket);
    assert_eq!(data[..2], query[..2]);
    data
}

#[test]
fn names_are_looked_up_at_the_servers_in_order() {
    let dead = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let failing = name_server(|q| Some(answer(q, 2, [0; 4])));
    let good = name_server(|q| Some(answer(q, 0, [192, 0, 2, 8])));
    let resolvers = Resolvers::Servers(vec![dead, failing, good]);
    let mut guest = Guest::new(UserConfig { resolvers, ..UserConfig::default() });
    let got = resolve(&mut guest, &query("deb.example.org", 1));
    assert!(got.ends_with(&[192, 0, 2, 8]), "{got:?}");
    // No IPv6 here, whatever the servers say.
    let got = resolve(&mut guest, &query("deb.example.org", 28));
    assert_eq!((got[3] & 0xf, got[7]), (0, 0));
}

#[test]
fn a_silent_server_gives_way_to_the_next() {
    let silent = name_server(|_| None);
    let good = name_server(|q| Some(answer(q, 0, [192, 0, 2, 9])));
    let resolvers = Resolvers::Servers(vec![silent, good]);
    let mut guest = Guest::new(UserConfig { resolvers, ..UserConfig::default() });
    let got = resolve(&mut guest, &query("deb.example.org", 1));
    assert!(got.ends_with(&[192, 0, 2, 9]));
}

#[test]
fn without_a_server_the_guest_is_told_at_once() {
    let resolvers = Resolvers::Servers(Vec::new());
    let mut guest = Guest::new(UserConfig { resolvers, ..UserConfig::default() });
    let got = resolve(&mut guest, &query("deb.example.org", 1));
    assert_eq!(got[3] & 0xf, 2, "SERVFAIL");
    let mut guest = Guest::new(UserConfig { isolated: true, ..UserConfig::default() });
    let got = resolve(&mut guest, &query("deb.example.org", 1));
    assert_eq!(got[3] & 0xf, 5, "REFUSED");
}

#[test]
fn the_hosts_own_names_are_known() {
    let mut guest = Guest::new(UserConfig::default());
    let got = resolve(&mut guest, &query("localhost", 1));
    assert!(got.ends_with(&[127, 0, 0, 1]), "{got:?}");
    let got = resolve(&mut guest, &query("LOCALHOST", 28));
    assert_eq!((got[3] & 0xf, got[7]), (0, 0));
}

#[test]
fn a_forwarded_datagram_port_serves_several_peers() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let mut guest =
        Guest::new(UserConfig { forwards: vec![OpenForward::udp(socket, 53)], ..UserConfig::default() });
    let served = guest.udp(53);
    // Something of the guest's own, so that its card is known.
    assert!(arp(&mut guest, GATEWAY).is_some());
    let peers: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for (i, peer) in peers.iter().enumerate() {
        peer.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        peer.send_to(&[i as u8], addr).unwrap();
    }
    for _ in 0..3 {
        let (data, from) = guest.udp_recv(served);
        assert_eq!(from.addr, GATEWAY.into());
        let socket: &mut udp::Socket = guest.sockets.get_mut(served);
        socket.send_slice(&[data[0] + 100], from).unwrap();
    }
    for _ in 0..5 {
        guest.step();
    }
    for (i, peer) in peers.iter().enumerate() {
        let mut got = [0; 4];
        assert_eq!(peer.recv_from(&mut got).unwrap(), (1, addr));
        assert_eq!(got[0], i as u8 + 100);
    }
}

#[test]
fn the_gateway_and_the_name_server_answer_ping() {
    let mut guest = Guest::new(UserConfig::default());
    assert!(ping(&mut guest, GATEWAY, 56) && ping(&mut guest, DNS, 0) && ping(&mut guest, GATEWAY, 1400));
    assert!(!ping(&mut guest, Ipv4Addr::new(10, 0, 2, 99), 56));
}

#[test]
fn an_idle_network_asks_for_nothing() {
    let mut guest = Guest::new(UserConfig::default());
    assert_eq!(guest.card.net.poll(std::time::Instant::now()), None);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let handle = guest.connect(host(listener.local_addr().unwrap().port()));
    assert!(guest.connected(handle));
    let _peer = listener.accept().unwrap();
    for _ in 0..5 {
        guest.step();
    }
    // The handshake's timer may still be set; once it has passed nothing is.
    let later = std::time::Instant::now() + Duration::from_secs(3);
    assert_eq!(guest.card.net.poll(later), None, "an idle connection has no timer");
    guest.tcp(handle).abort();
    guest.step();
    assert_eq!(guest.tcp(handle).state(), tcp::State::Closed);
}
