//! Fuzz targets: plain functions that take any bytes and must come back.

use std::time::{Duration, Instant};

use crate::user::Outside;
use crate::user::frame::{ETH_LEN, IP_LEN, Ip, PROTO_TCP, transport_checksum};
use crate::{MAX_FRAME, NetBackend, Resolvers, UserConfig, UserNet};

/// Frames and pauses for a user-mode network that touches nothing outside the process.
///
/// The first byte chooses what lies outside (even: nothing; odd: peers in this process that accept everything).
/// Then, repeated: a word (16 bits, little-endian) that is a pause of so many milliseconds where its top bit is set,
/// else the length (modulo [`MAX_FRAME`] + 64) of the frame that follows. Where the next bit is set too, a TCP
/// segment in that frame is made to acknowledge what the network sent last: no input could guess its numbers.
pub fn fuzz_user_net(data: &[u8]) {
    run(data);
}

/// Gives how many bytes the network sent.
fn run(data: &[u8]) -> usize {
    let mut sent = 0;
    let Some((&first, mut rest)) = data.split_first() else { return sent };
    let outside = if first & 1 == 0 { Outside::Isolated } else { Outside::Pretend };
    let resolvers = Resolvers::Servers(vec![([127, 0, 0, 1], 53).into()]);
    let config = UserConfig { resolvers, seed: 1, max_connections: 8, ..UserConfig::default() };
    let Ok(mut net) = UserNet::with_outside(config, outside) else { return sent };
    let mut now = Instant::now();
    let mut buf = [0; MAX_FRAME];
    let mut expected = None;
    while let [low, high, tail @ ..] = rest {
        let word = u16::from_le_bytes([*low, *high]);
        rest = tail;
        if word & 0x8000 != 0 {
            now += Duration::from_millis(u64::from(word & 0x7fff));
        } else {
            let len = usize::from(word & 0x3fff) % (MAX_FRAME + 64);
            let (frame, tail) = rest.split_at(len.min(rest.len()));
            let mut frame = frame.to_vec();
            if word & 0x4000 != 0 {
                acknowledge(&mut frame, expected);
            }
            net.send(&frame);
            rest = tail;
        }
        net.poll(now);
        while let Some(len) = net.recv(&mut buf) {
            sent += len;
            expected = buf.get(..len).and_then(next_sequence).or(expected);
        }
    }
    sent
}

/// The sequence number that follows a TCP frame of the network.
fn next_sequence(frame: &[u8]) -> Option<u32> {
    let ip = Ip::parse(frame.get(ETH_LEN..)?).filter(|ip| ip.proto == PROTO_TCP)?;
    let sequence = u32::from_be_bytes(ip.payload.get(4..8)?.try_into().ok()?);
    let header = usize::from(ip.payload.get(12)? >> 4) * 4;
    let flags = ip.payload.get(13)?;
    let data = ip.payload.len().saturating_sub(header) as u32;
    Some(
        sequence
            .wrapping_add(data)
            .wrapping_add(u32::from(flags & 1))
            .wrapping_add(u32::from(flags >> 1 & 1)),
    )
}

/// Makes the TCP segment of a frame, if there is one, acknowledge everything before `expected`.
fn acknowledge(frame: &mut [u8], expected: Option<u32>) -> Option<()> {
    const SEGMENT: usize = ETH_LEN + IP_LEN;
    let ip = Ip::parse(frame.get(ETH_LEN..)?).filter(|ip| ip.proto == PROTO_TCP)?;
    let (src, dst, end) = (ip.src, ip.dst, ETH_LEN + ip.packet.len());
    let segment = frame.get_mut(SEGMENT..end).filter(|s| s.len() >= 20)?;
    segment[8..12].copy_from_slice(&expected?.to_be_bytes());
    segment[16..18].fill(0);
    let sum = transport_checksum(src, dst, PROTO_TCP, segment);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests;
