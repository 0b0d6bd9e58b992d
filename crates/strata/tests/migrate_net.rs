//! A running machine that changes hosts, on a wire: its place goes with it, and nobody has to look for it.

mod common;

use common::{Console, Done, OwnNetwork, Place, TwoHosts, until};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A host with its place.
struct Host<'a> {
    wires: &'a TwoHosts,
    n: usize,
    place: Place,
}

impl Host<'_> {
    fn command(&self, words: &str) -> Command {
        let mut c = self.wires.on(self.n, env!("CARGO_BIN_EXE_strata"));
        self.place.at_home(&mut c).args(words.split_whitespace());
        c
    }

    fn strata(&self, words: &str) -> Done {
        self.place.finish(&mut self.command(words))
    }

    fn console(&self) -> Console {
        let mut c = Console::spawn(self.command("console web"));
        c.send("");
        c.wait_for("# ");
        c
    }

    /// Has `from` send its machine here.
    fn take(&self, from: &Host<'_>, options: &str) {
        // One that nobody has: who had the last one may not be gone yet.
        static PORT: AtomicU16 = AtomicU16::new(7000);
        let address = format!("10.9.0.1{}:{}", self.n, PORT.fetch_add(1, Relaxed));
        let mut there = Console::spawn(self.command(&format!("migrate receive --listen {address}")));
        let token = there.wait_for("\n").trim().to_owned();
        eprintln!("{}", from.strata(&format!("migrate web {address} --token {token} {options}")).good());
        assert_eq!(there.end().code, Some(0));
    }
}

/// Behind which of the hosts the wire in the middle takes the card to be.
fn seen_at(mac: &str) -> Option<usize> {
    let out = Command::new("bridge").args(["fdb", "show", "br", "lan"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let row = text.lines().find(|l| l.starts_with(mac))?;
    row.split_once("dev v")?.1.chars().next()?.to_digit(10).map(|n| n as usize)
}

#[test]
fn connections_survive_and_the_wire_learns_at_once() {
    let Some(wires) = TwoHosts::make() else { return };
    let hosts = [Place::with_busybox(), Place::new()];
    let mut n = 0;
    let hosts = hosts.map(|place| {
        n += 1;
        Host { wires: &wires, n: n - 1, place }
    });
    hosts[0]
        .strata(&format!("run busybox --name web --memory 128M --net tap={} --detach", OwnNetwork::TAP))
        .good();
    let mut c = hosts[0].console();
    c.sh("ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0");
    let mac = c.sh("cat /sys/class/net/eth0/address");
    until("a ping", || c.sh("ping -c 1 -W 1 10.9.0.1 > /dev/null && echo yes || true") == "yes");
    assert_eq!(seen_at(&mac), Some(0));
    // It says nothing by itself: what the wire knows of its move it has been told.
    for (from, to) in [(0, 1), (1, 0)] {
        hosts[to].take(&hosts[from], "");
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
        hosts[to].take(&hosts[from], "");
        let now = last();
        until("more numbers", || last() > now + 100);
    }
    eprintln!("{} numbers, the longest silence {:?}", last(), heard.lock().unwrap().longest);
    hosts[0].strata("stop web").good();
}

#[test]
fn a_link_that_loses_one_frame_in_a_hundred_loses_nothing_of_the_machine() {
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
    let hosts =
        [(0, Place::with_busybox()), (1, Place::new())].map(|(n, place)| Host { wires: &wires, n, place });
    hosts[0].strata("run busybox --name web --memory 128M --net none --detach").good();
    let mut c = hosts[0].console();
    c.sh("dd if=/dev/urandom of=/tmp/ballast bs=1M count=16 2>/dev/null; md5sum < /tmp/ballast > /tmp/sum");
    c.sh("n=0; while true; do n=$((n+1)); echo $n > /tmp/count; usleep 20000; done & echo started");
    drop(c);
    for (from, to, strategy) in [(0, 1, "auto"), (1, 0, "postcopy")] {
        hosts[to].take(&hosts[from], &format!("--verify --strategy {strategy}"));
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
