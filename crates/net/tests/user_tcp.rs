//! TCP through the user-mode network, against servers on the host's loopback.

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Guest, bytes, host};
use smoltcp::socket::tcp;
use strata_net::{Forward, NetBackend, OpenForward, UserConfig};

/// A server on loopback that runs `f` on its first connection.
fn server<T: Send + 'static>(f: impl FnOnce(TcpStream) -> T + Send + 'static) -> (u16, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (port, std::thread::spawn(move || f(listener.accept().unwrap().0)))
}

fn read_all(mut stream: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

#[test]
fn fifty_megabytes_come_down_whole() {
    const LEN: usize = 50 << 20;
    let (port, served) = server(|mut s| s.write_all(&bytes(LEN)).unwrap());
    let mut guest = Guest::new(UserConfig::default());
    let start = Instant::now();
    let handle = guest.connect(host(port));
    let got = guest.read_to_end(handle);
    let speed = LEN as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!("download: {speed:.0} MB/s");
    assert!(got == bytes(LEN), "{} bytes arrived", got.len());
    served.join().unwrap();
}

#[test]
fn an_upload_arrives_whole_at_a_slow_reader() {
    const LEN: usize = 20 << 20;
    let (port, served) = server(|s| {
        std::thread::sleep(Duration::from_millis(100)); // long enough to fill every buffer on the way
        read_all(s)
    });
    let mut guest = Guest::new(UserConfig::default());
    let start = Instant::now();
    let handle = guest.connect(host(port));
    guest.write_all(handle, &bytes(LEN));
    guest.tcp(handle).close();
    assert!(guest.read_to_end(handle).is_empty());
    let speed = LEN as f64 / start.elapsed().as_secs_f64() / 1e6;
    println!("upload: {speed:.0} MB/s");
    assert!(served.join().unwrap() == bytes(LEN));
}

#[test]
fn a_closed_port_refuses() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mut guest = Guest::new(UserConfig::default());
    let start = Instant::now();
    let handle = guest.connect(host(port));
    assert!(!guest.connected(handle));
    assert!(start.elapsed() < Duration::from_millis(900), "refused at once, not after a retry");
}

#[test]
fn an_isolated_guest_reaches_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let mut guest = Guest::new(UserConfig { isolated: true, ..UserConfig::default() });
    let handle = guest.connect(host(listener.local_addr().unwrap().port()));
    for _ in 0..40 {
        guest.step();
    }
    assert_eq!(guest.tcp(handle).state(), tcp::State::SynSent);
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn the_guest_may_end_first_and_still_read() {
    let (port, served) = server(|mut s| {
        let mut question = Vec::new();
        s.read_to_end(&mut question).unwrap(); // ends at the guest's FIN
        s.write_all(&bytes(300_000)).unwrap();
        question
    });
    let mut guest = Guest::new(UserConfig::default());
    let handle = guest.connect(host(port));
    guest.write_all(handle, b"question");
    guest.tcp(handle).close();
    assert!(guest.read_to_end(handle) == bytes(300_000));
    assert_eq!(served.join().unwrap(), b"question");
}

#[test]
fn the_host_may_end_first_and_still_read() {
    let (port, served) = server(|mut s| {
        s.write_all(b"banner").unwrap();
        s.shutdown(Shutdown::Write).unwrap();
        read_all(s)
    });
    let mut guest = Guest::new(UserConfig::default());
    let handle = guest.connect(host(port));
    assert_eq!(guest.read_to_end(handle), b"banner");
    guest.write_all(handle, &bytes(300_000));
    guest.tcp(handle).close();
    guest.until("the end", |g| matches!(g.tcp(handle).state(), tcp::State::Closed).then_some(()));
    assert!(served.join().unwrap() == bytes(300_000));
}

#[test]
fn a_reset_passes_both_ways() {
    let (port, served) = server(|mut s| {
        let mut one = [0];
        s.read_exact(&mut one).unwrap();
        s.read(&mut one).unwrap_err().kind()
    });
    let mut guest = Guest::new(UserConfig::default());
    let handle = guest.connect(host(port));
    guest.write_all(handle, b"x");
    guest.until("the byte to leave", |g| (g.tcp(handle).send_queue() == 0).then_some(()));
    for _ in 0..5 {
        guest.step();
    }
    guest.tcp(handle).abort();
    guest.until("the server to notice", |_| served.is_finished().then_some(()));
    assert_eq!(served.join().unwrap(), std::io::ErrorKind::ConnectionReset);

    let (port, served) = server(|s| {
        std::thread::sleep(Duration::from_millis(50));
        drop(s) // with unread data: the host resets
    });
    let handle = guest.connect(host(port));
    guest.write_all(handle, b"never read");
    guest.until("the reset", |g| (g.tcp(handle).state() == tcp::State::Closed).then_some(()));
    served.join().unwrap();
}

#[test]
fn a_hundred_connections_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = std::thread::spawn(move || {
        let each: Vec<_> = (0..100)
            .map(|_| {
                let mut s = listener.accept().unwrap().0;
                std::thread::spawn(move || {
                    let mut question = vec![0; 20_000];
                    s.read_exact(&mut question).unwrap();
                    s.write_all(&question).unwrap();
                })
            })
            .collect();
        each.into_iter().for_each(|t| t.join().unwrap());
    });
    let mut guest = Guest::new(UserConfig::default());
    let handles: Vec<_> = (0..100).map(|_| guest.connect_with(host(port), 32 << 10)).collect();
    let text = |i: usize| bytes(20_000 + i)[i..].to_vec();
    for (i, &handle) in handles.iter().enumerate() {
        guest.write_all(handle, &text(i));
    }
    for (i, &handle) in handles.iter().enumerate() {
        assert!(guest.read_to_end(handle) == text(i), "connection {i}");
    }
    echo.join().unwrap();
}

#[test]
fn many_downloads_share_the_way_to_the_guest() {
    // Together their windows are larger than the queue of frames: they wait for room, and lose nothing.
    const LEN: usize = 3 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || {
        let each = (0..8).map(|_| listener.accept().unwrap().0);
        let each: Vec<_> =
            each.map(|mut s| std::thread::spawn(move || s.write_all(&bytes(LEN)).unwrap())).collect();
        each.into_iter().for_each(|t| t.join().unwrap());
    });
    let mut guest = Guest::new(UserConfig::default());
    let handles: Vec<_> = (0..8).map(|_| guest.connect(host(port))).collect();
    let mut got = vec![Vec::new(); handles.len()];
    guest.until("all downloads", |g| {
        for (handle, got) in handles.iter().zip(&mut got) {
            while g.tcp(*handle).can_recv() {
                let take = |data: &mut [u8]| {
                    got.extend_from_slice(data);
                    (data.len(), ())
                };
                g.tcp(*handle).recv(take).unwrap();
            }
        }
        got.iter().all(|g| g.len() >= LEN).then_some(())
    });
    assert!(got.iter().all(|g| *g == bytes(LEN)));
    served.join().unwrap();
}

#[test]
fn a_host_that_reads_late_gets_all_after_time_wait_is_over() {
    let (port, served) = server(|mut s| {
        s.shutdown(Shutdown::Write).unwrap();
        let mut one = [0];
        s.read_exact(&mut one).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        [&one[..], &read_all(s)].concat()
    });
    let mut guest = Guest::new(UserConfig::default());
    let handle = guest.connect(host(port));
    assert!(guest.read_to_end(handle).is_empty());
    // Fill the host's buffers to the brim, and ours after them.
    let mut data = Vec::new();
    let mut full = Instant::now();
    while full.elapsed() < Duration::from_millis(60) {
        if guest.tcp(handle).can_send() {
            let next = bytes(10_000);
            let n = guest.tcp(handle).send_slice(&next).unwrap();
            data.extend_from_slice(&next[..n]);
            full = Instant::now();
        }
        guest.step();
    }
    guest.tcp(handle).close();
    let far_later = Instant::now() + Duration::from_secs(30);
    for _ in 0..50 {
        guest.step();
    }
    guest.card.net.poll(far_later);
    guest.until("the server", |g| {
        g.card.net.poll(far_later);
        served.is_finished().then_some(())
    });
    let got = served.join().unwrap();
    assert!(got == data, "{} of {} bytes", got.len(), data.len());
}

#[test]
fn the_descriptor_tells_when_the_host_has_something() {
    let (port, served) = server(|mut s| {
        std::thread::sleep(Duration::from_millis(100));
        s.write_all(b"late").unwrap();
        let mut one = [0];
        let _ = s.read(&mut one); // until the guest goes
    });
    let mut guest = Guest::new(UserConfig::default());
    let handle = guest.connect(host(port));
    assert!(guest.connected(handle));
    for _ in 0..3 {
        guest.step();
    }
    let ready = |guest: &Guest, millis: i64| {
        let limit = rustix::time::Timespec { tv_sec: millis / 1000, tv_nsec: millis % 1000 * 1_000_000 };
        let fd = guest.card.net.poll_fd();
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(fd, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&limit)).unwrap() == 1
    };
    assert!(!ready(&guest, 0), "nothing yet");
    assert!(ready(&guest, 10_000) && ready(&guest, 0), "and it stays so until it is looked at");
    guest.card.net.poll(Instant::now());
    assert!(!ready(&guest, 0));
    guest.until("the word", |g| (g.tcp(handle).recv_queue() == 4).then_some(()));
    drop(guest);
    served.join().unwrap();
}

#[test]
fn beyond_the_limit_a_new_connection_waits_for_an_old_one_to_end() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut guest = Guest::new(UserConfig { max_connections: 2, ..UserConfig::default() });
    let first = guest.connect(host(port));
    let second = guest.connect(host(port));
    assert!(guest.connected(first) && guest.connected(second));
    let third = guest.connect(host(port));
    for _ in 0..20 {
        guest.step();
    }
    assert_eq!(guest.tcp(third).state(), tcp::State::SynSent);
    guest.tcp(first).abort();
    assert!(guest.connected(third), "by the SYN's next try");
}

#[test]
fn a_flood_of_connections_is_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    listener.set_nonblocking(true).unwrap();
    let mut guest = Guest::new(UserConfig { max_connections: 40, ..UserConfig::default() });
    for _ in 0..300 {
        guest.connect_with(host(port), 2048);
    }
    let mut accepted = Vec::new();
    for _ in 0..50 {
        guest.step();
        accepted.extend(listener.accept());
    }
    accepted.extend(std::iter::from_fn(|| listener.accept().ok()));
    assert_eq!(accepted.len(), 40);
}

#[test]
fn a_guest_that_takes_nothing_stalls_only_itself() {
    let (port, served) = server(|mut s| s.write_all(&bytes(2 << 20)).unwrap());
    let mut guest = Guest::new(UserConfig::default());
    let handle = guest.connect(host(port));
    assert!(guest.connected(handle));
    // Without the guest's card taking frames, the network fills its queue and then rests.
    let start = Instant::now();
    let mut polls = 0;
    while start.elapsed() < Duration::from_millis(100) {
        polls += 1;
        let due = guest.card.net.poll(Instant::now());
        std::thread::sleep(due.unwrap_or(Duration::MAX).min(Duration::from_millis(20)));
    }
    assert!(polls < 20, "{polls} polls in 100 ms");
    assert!(guest.read_to_end(handle) == bytes(2 << 20));
    served.join().unwrap();
}

#[test]
fn a_forwarded_port_leads_to_the_guest() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let forwards = vec![OpenForward::tcp(listener, 22)];
    let mut guest = Guest::new(UserConfig { forwards, ..UserConfig::default() });
    // Nobody listens yet: the peer is told so.
    let early = std::thread::spawn(move || {
        let mut s = TcpStream::connect(addr).unwrap();
        s.read(&mut [0]).map_err(|e| e.kind())
    });
    guest.until("the refusal", |_| early.is_finished().then_some(()));
    assert_eq!(early.join().unwrap(), Err(std::io::ErrorKind::ConnectionReset));

    let mut socket =
        tcp::Socket::new(tcp::SocketBuffer::new(vec![0; 8192]), tcp::SocketBuffer::new(vec![0; 8192]));
    socket.listen(22).unwrap();
    let handle = guest.sockets.add(socket);
    let client = std::thread::spawn(move || {
        let mut s = TcpStream::connect(addr).unwrap();
        s.write_all(&bytes(100_000)).unwrap();
        s.shutdown(Shutdown::Write).unwrap();
        read_all(s)
    });
    guest.until("the connection", |g| g.tcp(handle).is_active().then_some(()));
    assert_eq!(guest.tcp(handle).remote_endpoint().unwrap().addr, host(0).ip().to_owned().into());
    assert!(guest.read_to_end(handle) == bytes(100_000));
    guest.write_all(handle, b"and back");
    guest.tcp(handle).close();
    guest.until("the client", |_| client.is_finished().then_some(()));
    assert_eq!(client.join().unwrap(), b"and back");
}

#[test]
fn a_forward_made_from_text_works_and_its_port_is_then_taken() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let forward: Forward = format!("{free}:80").parse().unwrap();
    let open = strata_net::bind_forward(forward).unwrap();
    assert!(strata_net::bind_forward(forward).unwrap_err().to_string().contains("already taken"));
    let guest = Guest::new(UserConfig { forwards: vec![open], ..UserConfig::default() });
    drop(guest);
    strata_net::bind_forward(forward).unwrap();
}

#[test]
fn dns_over_tcp_goes_to_the_hosts_server_past_a_dead_one() {
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (port, served) = server(|mut s| {
        let mut question = [0; 5];
        s.read_exact(&mut question).unwrap();
        s.write_all(b"answer").unwrap();
        question
    });
    let servers = vec![dead, ([127, 0, 0, 1], port).into()];
    let resolvers = strata_net::Resolvers::Servers(servers);
    let mut guest = Guest::new(UserConfig { resolvers, ..UserConfig::default() });
    let handle = guest.connect(SocketAddrV4::new(strata_net::user::plan::DNS, 53));
    guest.write_all(handle, b"\0\x03abc");
    assert_eq!(guest.read_to_end(handle), b"answer");
    assert_eq!(&served.join().unwrap(), b"\0\x03abc");
}

/// As after a restore: the guest's connections stand, and the network is another one that knows of none.
#[test]
fn connections_of_before_a_restore_are_reset_at_once() {
    let (port, served) = server(|mut s| {
        s.write_all(b"hello").unwrap();
        s.read(&mut [0]).map(|n| n == 0)
    });
    let forward = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = forward.local_addr().unwrap();
    let forwards = vec![OpenForward::tcp(forward, 80)];
    let mut guest = Guest::new(UserConfig { forwards, ..UserConfig::default() });
    let out = guest.connect(host(port));
    assert!(guest.connected(out));
    let mut inward = TcpStream::connect(to).unwrap();
    let buffer = || tcp::SocketBuffer::new(vec![0; 4096]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.listen(80).unwrap();
    let accepted = guest.sockets.add(socket);
    guest.until("a connection from outside", |g| g.tcp(accepted).may_send().then_some(()));
    guest.until("what the server says", |g| (g.tcp(out).recv_queue() == 5).then_some(()));
    let flows = guest.card.net.open_flows();
    assert_eq!(flows.len(), 2, "{flows:?}");
    assert!(flows.iter().all(|f| f.mac == common::MAC));

    let forward = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = forward.local_addr().unwrap();
    let forwards = vec![OpenForward::tcp(forward, 80)];
    guest.card.net = strata_net::UserNet::new(UserConfig { forwards, ..UserConfig::default() }).unwrap();
    assert!(matches!(served.join().unwrap(), Ok(true) | Err(_)), "the far end hears of it too");
    assert!(!matches!(inward.read(&mut [0]), Ok(1..)));
    let foreign = strata_net::OpenFlow { guest: host(1), far: host(2), mac: common::MAC };
    let start = Instant::now();
    assert_eq!(guest.card.net.reset_flows(&[flows[0], flows[1], foreign]), 2);
    // Somebody is quicker than the resets. With the same seed it would be called from the same port as the one before,
    // and the guest would take it for that.
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.listen(80).unwrap();
    let newer = guest.sockets.add(socket);
    let old = guest.tcp(accepted).remote_endpoint().unwrap();
    let _quick = TcpStream::connect(to).unwrap();
    guest.until("a new connection from outside", |g| g.tcp(newer).may_send().then_some(()));
    assert_ne!(guest.tcp(newer).remote_endpoint().unwrap(), old);
    for handle in [out, accepted] {
        guest.until("a reset", |g| (g.tcp(handle).state() == tcp::State::Closed).then_some(()));
    }
    assert!(start.elapsed() < Duration::from_secs(2), "at once, not after retries: {:?}", start.elapsed());
    // And what begins now is as good as ever.
    let (port, served) = server(|mut s| s.write_all(b"again").unwrap());
    let handle = guest.connect(host(port));
    assert_eq!(guest.read_to_end(handle), b"again");
    served.join().unwrap();
}
