//! What a peer sees of a machine: an ICMP echo every half millisecond, and when each answer came.

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto, recv, sendto, socket};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two echoes.
const EVERY: Duration = Duration::from_micros(500);
const ID: u16 = 0x5374;

/// Probes that are under way.
pub struct Probe {
    over: Arc<AtomicBool>,
    answers: JoinHandle<Vec<Instant>>,
}

fn echo(sequence: u16) -> [u8; 16] {
    let mut m = [0; 16];
    m[0] = 8;
    m[4..6].copy_from_slice(&ID.to_be_bytes());
    m[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum: u32 = m.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    m[2..4].copy_from_slice(&sum.to_be_bytes());
    m
}

impl Probe {
    /// Begins to probe, from the network of this thread.
    pub fn begin(to: Ipv4Addr) -> Result<Probe> {
        let socket =
            socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).context("probes need root")?;
        let socket = Arc::new(socket);
        let over = Arc::new(AtomicBool::new(false));
        let (sending, until) = (socket.clone(), over.clone());
        std::thread::spawn(move || {
            let begun = Instant::now();
            let mut n = 0u32;
            while !until.load(Relaxed) {
                // One that cannot be sent is one without an answer.
                let _ = sendto(&*sending, &echo(n as u16), SendFlags::DONTWAIT, &SocketAddrV4::new(to, 0));
                n += 1;
                std::thread::sleep((EVERY * n).saturating_sub(begun.elapsed()));
            }
        });
        let until = over.clone();
        let answers = std::thread::spawn(move || {
            let (mut all, mut buf) = (Vec::new(), [0; 256]);
            while !until.load(Relaxed) {
                match recv(&*socket, &mut buf, RecvFlags::DONTWAIT) {
                    // Behind an IP header without options.
                    Ok((n, _)) if n >= 28 && buf[20] == 0 && buf[24..26] == ID.to_be_bytes() => {
                        all.push(Instant::now())
                    }
                    Ok(_) => {}
                    Err(_) => std::thread::sleep(Duration::from_micros(100)),
                }
            }
            all
        });
        Ok(Probe { over, answers })
    }

    /// Ends; gives the longest time between two answers since `from`, and when it began.
    pub fn end(self, from: Instant) -> Result<(Instant, Duration)> {
        self.over.store(true, Relaxed);
        let all = self.answers.join().map_err(|_| anyhow::anyhow!("the probes ended"))?;
        let after = all.iter().filter(|t| **t >= from).count();
        let first = all.len().saturating_sub(after + 1);
        let gaps = all[first..].windows(2).map(|w| (w[0], w[1] - w[0]));
        gaps.max_by_key(|gap| gap.1).context("nobody answers")
    }
}
