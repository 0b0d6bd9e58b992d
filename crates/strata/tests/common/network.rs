//! A network of the test's own, with an interface for a machine and the test as its peer.

use super::apart;
use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

/// What waits before a shaped link, in bytes.
const QUEUE: u32 = 256 << 10;

/// The network of this thread and of what it starts from now on. The test's end of [`OwnNetwork::TAP`] is 10.9.0.1.
pub struct OwnNetwork {
    keeper: Child,
}

impl OwnNetwork {
    /// The interface.
    pub const TAP: &str = "t0";

    /// Makes it; `None`, said aloud, where the host forbids it.
    pub fn make() -> Option<OwnNetwork> {
        let own = OwnNetwork { keeper: keeper()? };
        if let Err(e) = enter(&own.keeper) {
            eprintln!("SKIPPED: this host lets the test enter no network namespace: {e}");
            return None;
        }
        let tap = Self::TAP;
        let words = [
            "link set lo up".into(),
            format!("tuntap add dev {tap} mode tap"),
            format!("addr add 10.9.0.1/24 dev {tap}"),
            format!("link set {tap} up"),
        ];
        words.iter().all(|w| ip(None, w)).then_some(own)
    }
}

/// A process in a network of its own, which lasts as long; `None`, said aloud, where the host forbids it.
fn keeper() -> Option<Child> {
    let mut unshare = apart(&["--net"])?;
    let mut keeper =
        unshare.args(["sh", "-c", "echo here; exec sleep 3600"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 5];
    std::io::Read::read_exact(keeper.stdout.as_mut().unwrap(), &mut said).unwrap();
    Some(keeper)
}

/// Takes this thread, and what it starts from now on, to the network of a process.
fn enter(keeper: &Child) -> rustix::io::Result<()> {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    let network = File::open(format!("/proc/{}/ns/net", keeper.id())).unwrap();
    move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
}

/// `ip WORDS`, in the network of a process or in this thread's; whether it succeeded, and if not, that it is skipped.
fn ip(at: Option<&Child>, words: &str) -> bool {
    let c = match at {
        Some(keeper) => inside(keeper, "ip"),
        None => Command::new("ip"),
    };
    run(c, words)
}

/// Runs a program with these words; whether it succeeded, and if not, that it is skipped.
fn run(mut program: Command, words: &str) -> bool {
    let done = program.args(words.split(' ')).output();
    let good = done.as_ref().is_ok_and(|o| o.status.success());
    if !good {
        let why = done.map_or_else(|e| e.to_string(), |o| String::from_utf8_lossy(&o.stderr).into_owned());
        eprintln!("SKIPPED: {program:?}: {why}");
    }
    good
}

/// A program in the network of a process.
fn inside(keeper: &Child, program: &str) -> Command {
    let mut c = Command::new("nsenter");
    c.arg(format!("--net=/proc/{}/ns/net", keeper.id())).arg("--").arg(program);
    c
}

/// Two hosts on one wire, each a network of its own with a bridge and an interface for a machine ([`OwnNetwork::TAP`]), and
/// the test beside them as 10.9.0.1. The hosts are 10.9.0.10 and 10.9.0.11.
pub struct TwoHosts {
    _middle: OwnNetwork,
    hosts: Vec<OwnNetwork>,
}

impl TwoHosts {
    /// Makes them, and takes this thread between them; `None`, said aloud, where the host forbids it.
    pub fn make() -> Option<TwoHosts> {
        let middle = OwnNetwork { keeper: keeper()? };
        if let Err(e) = enter(&middle.keeper) {
            eprintln!("SKIPPED: this host lets the test enter no network namespace: {e}");
            return None;
        }
        let begin =
            ["link set lo up", "link add lan type bridge", "addr add 10.9.0.1/24 dev lan", "link set lan up"];
        if !begin.iter().all(|w| ip(None, w)) {
            return None;
        }
        let mut hosts = Vec::new();
        for n in 0..2 {
            let host = OwnNetwork { keeper: keeper()? };
            let pid = host.keeper.id();
            let here = [
                format!("link add v{n} type veth peer name wire netns {pid}"),
                format!("link set v{n} master lan"),
                format!("link set v{n} up"),
            ];
            let tap = OwnNetwork::TAP;
            let there = [
                "link set lo up".to_owned(),
                "link add br0 type bridge".to_owned(),
                "link set wire master br0".to_owned(),
                "link set wire up".to_owned(),
                format!("tuntap add dev {tap} mode tap"),
                format!("link set {tap} master br0"),
                format!("link set {tap} up"),
                format!("addr add 10.9.0.1{n}/24 dev br0"),
                "link set br0 up".to_owned(),
            ];
            if !here.iter().all(|w| ip(None, w)) || !there.iter().all(|w| ip(Some(&host.keeper), w)) {
                return None;
            }
            hosts.push(host);
        }
        Some(TwoHosts { _middle: middle, hosts })
    }

    /// Lets no more than `rate` through from host to host, with a queue before it that is no longer than a switch's: one
    /// that holds more hides itself behind what is measured. `None`, said aloud, where the host forbids it.
    #[must_use]
    pub fn shaped(self, rate: &str) -> Option<TwoHosts> {
        for (n, host) in self.hosts.iter().enumerate() {
            // Frames as they are on a wire: what is sent as one piece of 64 KB is queued as one.
            let whole = |device: &str| format!("-K {device} tso off gso off gro off");
            let shape = [
                "qdisc add dev wire root handle 1: htb default 1".to_owned(),
                format!("class add dev wire parent 1: classid 1:1 htb rate {rate} burst 64k"),
                format!("qdisc add dev wire parent 1:1 bfifo limit {QUEUE}"),
            ];
            let good = run(Command::new("ethtool"), &whole(&format!("v{n}")))
                && run(inside(&host.keeper, "ethtool"), &whole("wire"))
                && shape.iter().all(|w| run(inside(&host.keeper, "tc"), w));
            if !good {
                return None;
            }
        }
        Some(self)
    }

    /// A program on host `n`.
    pub fn on(&self, n: usize, program: &str) -> Command {
        inside(&self.hosts[n].keeper, program)
    }
}

impl Drop for OwnNetwork {
    fn drop(&mut self) {
        // It sleeps, and is ours.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
