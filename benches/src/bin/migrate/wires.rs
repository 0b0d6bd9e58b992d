//! Two hosts as network namespaces, a shaped link between them, and this program beside them.
//!
//! ```text
//!   host 0: br0 ── t0 (machine)          host 1: br0 ── t0
//!            └─ wire ══ v0 ── lan ── v1 ══ wire ─┘           ══ 1 Gbit/s, a queue of 256 KB
//!                              └─ 10.9.0.1: probes
//!
//!   host 2: br0 ── t0, t1, and an unshaped link to lan: machines that go to another process of their own host
//! ```

use anyhow::{Context, Result, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

/// What the link lets through.
pub const RATE: &str = "1gbit";
/// What waits before it, in bytes: a longer queue hides itself behind the figures.
const QUEUE: &str = "262144";

/// The host of machines that go nowhere.
const LONE: usize = 2;
/// Machines' interfaces.
const TAPS: [&str; 2] = ["t0", "t1"];

/// A process in a network of its own, which lasts as long.
struct Keeper(Child);

impl Keeper {
    fn new() -> Result<Keeper> {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "echo here; exec sleep 86400"])
            .stdout(Stdio::piped())
            .spawn()
            .context("unshare: this needs root")?;
        let mut said = [0; 5];
        child.stdout.as_mut().context("no output")?.read_exact(&mut said).context("unshare --net failed")?;
        Ok(Keeper(child))
    }

    fn command(&self, program: &str) -> Command {
        let mut c = Command::new("nsenter");
        c.arg(format!("--net=/proc/{}/ns/net", self.0.id())).arg("--").arg(program);
        c
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // It sleeps, and is ours.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The hosts.
pub struct Wires {
    _middle: Keeper,
    hosts: Vec<Keeper>,
}

/// Where a machine goes from, and where to.
pub struct Way<'a> {
    /// The hosts of both sides, and the machine's interface there.
    sides: [(&'a Keeper, &'static str); 2],
    /// The destination's address.
    pub to: &'static str,
    /// The source's interface that all goes through.
    wire: &'static str,
}

fn run(mut c: Command, words: &str) -> Result<String> {
    let out = c.args(words.split(' ')).output().with_context(|| format!("{words}: see --setup"))?;
    ensure!(out.status.success(), "{c:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

impl Wires {
    /// Makes them, and takes this thread, and what it starts from now on, between them.
    pub fn make() -> Result<Wires> {
        let middle = Keeper::new()?;
        let network = File::open(format!("/proc/{}/ns/net", middle.0.id()))?;
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        for words in
            ["link set lo up", "link add lan type bridge", "addr add 10.9.0.1/24 dev lan", "link set lan up"]
        {
            run(Command::new("ip"), words)?;
        }
        let mut hosts = Vec::new();
        for n in 0..3 {
            let host = Keeper::new()?;
            let pid = host.0.id();
            run(Command::new("ip"), &format!("link add v{n} type veth peer name wire netns {pid}"))?;
            run(Command::new("ip"), &format!("link set v{n} master lan up"))?;
            for words in ["link set lo up", "link add br0 type bridge", "link set wire master br0 up"] {
                run(host.command("ip"), words)?;
            }
            for tap in TAPS.iter().take(if n == LONE { 2 } else { 1 }) {
                run(host.command("ip"), &format!("tuntap add dev {tap} mode tap"))?;
                run(host.command("ip"), &format!("link set {tap} master br0 up"))?;
            }
            run(host.command("ip"), &format!("addr add 10.9.0.1{n}/24 dev br0"))?;
            run(host.command("ip"), "link set br0 up")?;
            for (at, device) in
                [(Command::new("ethtool"), format!("v{n}")), (host.command("ethtool"), "wire".into())]
            {
                run(at, &format!("-K {device} tso off gso off gro off"))?;
            }
            if n != LONE {
                for words in [
                    "qdisc add dev wire root handle 1: htb default 1".to_owned(),
                    format!("class add dev wire parent 1: classid 1:1 htb rate {RATE} burst 64k"),
                    format!("qdisc add dev wire parent 1:1 bfifo limit {QUEUE}"),
                ] {
                    run(host.command("tc"), &words)?;
                }
            }
            hosts.push(host);
        }
        Ok(Wires { _middle: middle, hosts })
    }

    /// From host to host, by the shaped link.
    pub fn far(&self) -> Way<'_> {
        let sides = [0, 1].map(|n| (&self.hosts[n], TAPS[0]));
        Way { sides, to: "10.9.0.11", wire: "wire" }
    }

    /// To another process of the same host, by loopback.
    pub fn near(&self) -> Way<'_> {
        Way { sides: TAPS.map(|tap| (&self.hosts[LONE], tap)), to: "127.0.0.1", wire: "lo" }
    }
}

impl Way<'_> {
    /// A program on side `n`.
    pub fn on(&self, n: usize, program: &str) -> Command {
        self.sides[n].0.command(program)
    }

    /// The machine's interface on side `n`.
    pub fn tap(&self, n: usize) -> &'static str {
        self.sides[n].1
    }

    /// Bytes that have gone through the source's interface; on loopback, those of both directions.
    pub fn sent(&self) -> Result<u64> {
        let text = run(self.on(0, "ip"), &format!("-s -j link show dev {}", self.wire))?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        json[0]["stats64"]["tx"]["bytes"].as_u64().context("no count of bytes")
    }
}
