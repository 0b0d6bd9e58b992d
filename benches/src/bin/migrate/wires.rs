//! Two hosts as network namespaces, a shaped link between them, and this program beside them.
//!
//! ```text
//!   host 0: br0 ── t0 (machine)          host 1: br0 ── t0
//!            └─ wire ══ v0 ── lan ── v1 ══ wire ─┘           ══ 1 Gbit/s, a queue of 256 KB
//!                              └─ 10.9.0.1: probes
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

/// The two hosts.
pub struct Wires {
    _middle: Keeper,
    hosts: Vec<Keeper>,
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
        for n in 0..2 {
            let host = Keeper::new()?;
            let pid = host.0.id();
            run(Command::new("ip"), &format!("link add v{n} type veth peer name wire netns {pid}"))?;
            run(Command::new("ip"), &format!("link set v{n} master lan up"))?;
            for words in [
                "link set lo up",
                "link add br0 type bridge",
                "link set wire master br0 up",
                "tuntap add dev t0 mode tap",
                "link set t0 master br0 up",
                &format!("addr add 10.9.0.1{n}/24 dev br0"),
                "link set br0 up",
            ] {
                run(host.command("ip"), words)?;
            }
            for (at, device) in
                [(Command::new("ethtool"), format!("v{n}")), (host.command("ethtool"), "wire".into())]
            {
                run(at, &format!("-K {device} tso off gso off gro off"))?;
            }
            for words in [
                "qdisc add dev wire root handle 1: htb default 1".to_owned(),
                format!("class add dev wire parent 1: classid 1:1 htb rate {RATE} burst 64k"),
                format!("qdisc add dev wire parent 1:1 bfifo limit {QUEUE}"),
            ] {
                run(host.command("tc"), &words)?;
            }
            hosts.push(host);
        }
        Ok(Wires { _middle: middle, hosts })
    }

    /// A program on host `n`.
    pub fn on(&self, n: usize, program: &str) -> Command {
        self.hosts[n].command(program)
    }

    /// Bytes that host `n` has put on the wire.
    pub fn sent(&self, n: usize) -> Result<u64> {
        let text = run(self.on(n, "ip"), "-s -j link show dev wire")?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        json[0]["stats64"]["tx"]["bytes"].as_u64().context("no count of bytes")
    }
}
