//! Fuzz targets: plain functions that take any bytes and must come back.

use std::time::{Duration, Instant};

use crate::user::Outside;
use crate::{MAX_FRAME, NetBackend, Resolvers, UserConfig, UserNet};

/// Frames and pauses for a user-mode network that touches nothing outside the process.
///
/// The first byte chooses what lies outside (even: nothing; odd: peers in this process that accept everything).
/// Then, repeated: a word (16 bits, little-endian) that is a pause of so many milliseconds where its top bit is set,
/// else the length (modulo [`MAX_FRAME`] + 64) of the frame that follows.
pub fn fuzz_user_net(data: &[u8]) {
    let Some((&first, mut rest)) = data.split_first() else { return };
    let outside = if first & 1 == 0 { Outside::Isolated } else { Outside::Pretend };
    let resolvers = Resolvers::Servers(vec![([127, 0, 0, 1], 53).into()]);
    let config = UserConfig { resolvers, seed: 1, max_connections: 8, ..UserConfig::default() };
    let Ok(mut net) = UserNet::with_outside(config, outside) else { return };
    let mut now = Instant::now();
    let mut buf = [0; MAX_FRAME];
    while let [low, high, tail @ ..] = rest {
        let word = u16::from_le_bytes([*low, *high]);
        rest = tail;
        if word & 0x8000 != 0 {
            now += Duration::from_millis(u64::from(word & 0x7fff));
        } else {
            let len = usize::from(word) % (MAX_FRAME + 64);
            let (frame, tail) = rest.split_at(len.min(rest.len()));
            net.send(frame);
            rest = tail;
        }
        net.poll(now);
        while net.recv(&mut buf).is_some() {}
    }
}

#[cfg(test)]
mod tests;
