//! A running machine that changes hosts, on a wire: its place goes with it, and nobody has to look for it.

mod common;

use common::{Console, Host, OwnNetwork, Place, TwoHosts, until};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Behind which of the hosts the wire in the middle takes the card to be.
fn seen_at(mac: &str) -> Option<usize> {
    let out = Command::new("bridge").args(["fdb", "show", "br", "lan"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let row = text.lines().find(|l| l.starts_with(mac))?;
    row.split_once("dev v")?.1.chars().next()?.to_digit(10).map(|n| n as usize)
}

/// Starts `web` on a host, as 10.9.0.2, which reaches the test; gives its console.
fn on_the_wire(host: &Host<'_>) -> Console {
    host.strata(&format!("run busybox --name web --memory 128M --net tap={} --detach", OwnNetwork::TAP))
        .good();
    let mut c = host.console();
    c.sh("ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0");
    until("a ping", || c.sh("ping -c 1 -W 1 10.9.0.1 > /dev/null && echo yes || true") == "yes");
    c
}

#[test]
fn connections_survive_and_the_wire_learns_at_once() {
    // Their wire leads to no mirror.
    let places = [Place::with_busybox(), Place::new()];
    let Some(wires) = TwoHosts::make() else { return };
    let hosts = Host::both(&wires, places);
    let mut c = on_the_wire(&hosts[0]);
    let mac = c.sh("cat /sys/class/net/eth0/address");
    assert_eq!(seen_at(&mac), Some(0));
    // It says nothing by itself: what the wire knows of its move it has been told.
    for (from, to) in [(0, 1), (1, 0)] {
        eprintln!("{}", hosts[to].take(&hosts[from], ""));
        until("the wire knows where it is", || seen_at(&mac) == Some(to));
        // Nobody listens there, and it says so.
        let asked = TcpStream::connect_timeout(&"10.9.0.2:9".parse().unwrap(), common::PATIENCE);
        assert_eq!(asked.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    }
    // Numbers on one connection, all of them, in their order, whoever carries it.
    let listener = TcpListener::bind("10.9.0.1:9000").unwrap();
    let mut c = hosts[0].console();
    c.sh("(n=0; while true; do n=$((n+1)); echo $n; done | nc 10.9.0.1 9000) & echo begun");
    drop(c);
    let (stream, _) = listener.accept().unwrap();
    let heard = Arc::new(Mutex::new(Heard::default()));
    let ours = heard.clone();
    // It ends with the test: nobody tells it when the guest is gone.
    std::thread::spawn(move || {
        let mut at = Instant::now();
        for line in BufReader::new(stream).lines() {
            let n = line.ok().and_then(|l| l.parse().ok());
            let mut heard = ours.lock().unwrap();
            heard.broken |= n != Some(heard.last + 1);
            heard.last += 1;
            heard.longest = heard.longest.max(at.elapsed());
            at = Instant::now();
        }
        ours.lock().unwrap().broken = true;
    });
    let last = || {
        let heard = heard.lock().unwrap();
        assert!(!heard.broken, "after number {}", heard.last);
        heard.last
    };
    until("numbers", || last() > 100);
    for (from, to) in [(0, 1), (1, 0)] {
        eprintln!("{}", hosts[to].take(&hosts[from], ""));
        let now = last();
        until("more numbers", || last() > now + 100);
    }
    eprintln!("{} numbers, the longest silence {:?}", last(), heard.lock().unwrap().longest);
    hosts[0].strata("stop web").good();
}

/// How many segments of the test's connections to the machine were lost on the way: what the kernel has sent again, less
/// what the machine says it had already (D-SACK), which had come late and no more.
fn lost() -> u64 {
    let out = Command::new("ss").args(["-Htin", "dst", "10.9.0.2"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains("ESTAB"), "the connection is gone: {text:?}");
    let after = |word| text.split_once(word).map(|(_, rest)| rest.split_whitespace().next().unwrap());
    // Those in flight, and all. Either word is left out if there was none.
    let again = after(" retrans:").map_or(0, |r| r.split_once('/').unwrap().1.parse().unwrap());
    let twice = after(" dsack_dups:").map_or(0, |d| d.parse().unwrap());
    eprintln!("sent again: {again}, of which {twice} twice for nothing");
    u64::saturating_sub(again, twice)
}

/// TCP would send again what is lost on the way, but after 200 ms: so nothing is.
#[test]
fn what_is_sent_to_a_machine_while_it_moves_follows_it() {
    let places = [Place::with_busybox(), Place::new()];
    let Some(wires) = TwoHosts::make() else { return };
    let hosts = Host::both(&wires, places);
    let mut c = on_the_wire(&hosts[0]);
    c.sh("nc -l -p 9100 > /dev/null & echo begun");
    drop(c);
    let mut stream = None;
    until("a connection", || {
        stream = TcpStream::connect_timeout(&"10.9.0.2:9100".parse().unwrap(), common::PATIENCE).ok();
        stream.is_some()
    });
    let mut stream = stream.unwrap();
    stream.set_nodelay(true).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let until_then = over.clone();
    let sender = std::thread::spawn(move || {
        while !until_then.load(Relaxed) {
            stream.write_all(b"something\n").unwrap();
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    // A host that is very busy lets a queue run over: not again and again.
    let mut whole = [false; 2];
    for turn in 0..5 {
        for (n, strategy) in ["auto", "postcopy"].into_iter().enumerate() {
            std::thread::sleep(Duration::from_millis(300));
            let before = lost();
            eprintln!("{}", hosts[1 - n].take(&hosts[n], &format!("--strategy {strategy}")));
            std::thread::sleep(Duration::from_millis(500));
            let lost = lost().saturating_sub(before);
            eprintln!("lost in move {turn} by {strategy}: {lost}");
            whole[n] |= lost == 0;
        }
        if whole == [true; 2] {
            break;
        }
    }
    over.store(true, Relaxed);
    sender.join().unwrap();
    assert_eq!(whole, [true; 2], "something was lost in each of the moves by auto, or by postcopy");
    hosts[0].strata("stop web").good();
}

#[test]
fn a_link_that_loses_one_frame_in_a_hundred_loses_nothing_of_the_machine() {
    // Their wire leads to no mirror.
    let places = [Place::with_busybox(), Place::new()];
    let Some(wires) = TwoHosts::make() else { return };
    let rules = [
        "add table inet loss",
        "add chain inet loss in { type filter hook input priority 0; }",
        "add rule inet loss in iifname br0 numgen random mod 100 < 1 counter drop",
    ];
    for (n, rule) in (0..2).flat_map(|n| rules.map(|rule| (n, rule))) {
        let done = wires.on(n, "nft").arg(rule).output();
        if !done.as_ref().is_ok_and(|o| o.status.success()) {
            eprintln!("SKIPPED: this host loses no frames: {done:?}");
            return;
        }
    }
    let hosts = Host::both(&wires, places);
    hosts[0].strata("run busybox --name web --memory 128M --net none --detach").good();
    let mut c = hosts[0].console();
    c.sh("dd if=/dev/urandom of=/tmp/ballast bs=1M count=16 2>/dev/null; md5sum < /tmp/ballast > /tmp/sum");
    c.sh("n=0; while true; do n=$((n+1)); echo $n > /tmp/count; usleep 20000; done & echo started");
    drop(c);
    for (from, to, strategy) in [(0, 1, "auto"), (1, 0, "postcopy")] {
        eprintln!("{}", hosts[to].take(&hosts[from], &format!("--verify --strategy {strategy}")));
        let mut c = hosts[to].console();
        let count = c.sh("cat /tmp/count");
        assert_eq!(c.sh("md5sum < /tmp/ballast | cmp - /tmp/sum && echo same"), "same");
        until("it counts on", || c.sh("cat /tmp/count") != count);
    }
    let lost = wires.on(1, "nft").args(["list", "chain", "inet", "loss", "in"]).output().unwrap();
    let lost = String::from_utf8_lossy(&lost.stdout).into_owned();
    assert!(lost.contains("packets") && !lost.contains("packets 0 "), "{lost}");
    hosts[0].strata("stop web").good();
}

/// What has come over a connection: numbers from 1 on.
#[derive(Default)]
struct Heard {
    last: u64,
    longest: Duration,
    /// One was missing, or it has ended.
    broken: bool,
}
