//! What the guest talks to: it sinks, sends or echoes, as the first byte of a connection says.

use anyhow::Result;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// As much as the guest's program expects.
const TOTAL: u64 = 128 << 20;

/// Serves as long as this process lives.
pub struct Server {
    /// On every address.
    pub port: u16,
}

impl Server {
    /// With the PART-th part of the usual amounts.
    pub fn start(part: u32) -> Result<Server> {
        let listener = TcpListener::bind("0.0.0.0:0")?;
        let port = listener.local_addr()?.port();
        std::thread::spawn(move || {
            for guest in listener.incoming().flatten() {
                // A guest that goes away is measured no more.
                std::thread::spawn(move || serve(guest, TOTAL / u64::from(part)));
            }
        });
        Ok(Server { port })
    }
}

fn serve(mut guest: TcpStream, mut left: u64) -> Result<()> {
    guest.set_nodelay(true)?;
    let (mut what, mut buf) = ([0], vec![0; 256 << 10]);
    guest.read_exact(&mut what)?;
    match what {
        [b's'] => {
            while left > 0 {
                match guest.read(&mut buf)? {
                    0 => return Ok(()),
                    n => left = left.saturating_sub(n as u64),
                }
            }
            guest.write_all(&[1])?;
        }
        [b'r'] => {
            while left > 0 {
                let n = buf.len().min(usize::try_from(left)?);
                guest.write_all(&buf[..n])?;
                left -= n as u64;
            }
        }
        _ => loop {
            let n = guest.read(&mut buf)?;
            if n == 0 {
                break;
            }
            guest.write_all(&buf[..n])?;
        },
    }
    Ok(())
}
