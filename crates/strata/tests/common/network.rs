//! A network of the test's own, with an interface for a machine and the test as its peer.

use super::apart;
use std::fs::File;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};

/// The network of this thread and of what it starts from now on. The test's end of [`OwnNetwork::TAP`] is 10.9.0.1.
pub struct OwnNetwork {
    keeper: Child,
}

impl OwnNetwork {
    /// The interface.
    pub const TAP: &str = "t0";

    /// Makes it; `None`, said aloud, where the host forbids it.
    pub fn make() -> Option<OwnNetwork> {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        let mut unshare = apart(&["--net"])?;
        let keeper = unshare.args(["sh", "-c", "echo here; exec sleep 3600"]).stdout(Stdio::piped()).spawn();
        let mut own = OwnNetwork { keeper: keeper.unwrap() };
        let mut said = [0; 5];
        std::io::Read::read_exact(own.keeper.stdout.as_mut().unwrap(), &mut said).unwrap();
        let network = File::open(format!("/proc/{}/ns/net", own.keeper.id())).unwrap();
        if let Err(e) = move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)) {
            eprintln!("SKIPPED: this host lets the test enter no network namespace: {e}");
            return None;
        }
        let tap = Self::TAP;
        for words in [
            "link set lo up".into(),
            format!("tuntap add dev {tap} mode tap"),
            format!("addr add 10.9.0.1/24 dev {tap}"),
            format!("link set {tap} up"),
        ] {
            let out = Command::new("ip").args(words.split(' ')).output().unwrap();
            if !out.status.success() {
                eprintln!("SKIPPED: ip {words}: {}", String::from_utf8_lossy(&out.stderr));
                return None;
            }
        }
        Some(own)
    }
}

impl Drop for OwnNetwork {
    fn drop(&mut self) {
        // It sleeps, and is ours.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}
