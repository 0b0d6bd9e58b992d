//! Names of instances, and what is made up for those that have none: a name, an Ethernet address.
//!
//! A name is part of file names and of socket addresses; so it is short and plain, and checked here before it
//! touches a path.

use crate::{Error, Kind, Result};
use rustix::rand::{GetRandomFlags, getrandom};

/// Longest name, in bytes: that of a DNS label.
pub const MAX_NAME: usize = 63;

/// Checks a name: `[a-z0-9][a-z0-9-]*`, at most [`MAX_NAME`] bytes.
///
/// # Errors
/// `Config`, with the rule.
pub fn check_name(name: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good =
        name.bytes().all(plain) && !name.is_empty() && !name.starts_with('-') && name.len() <= MAX_NAME;
    if good {
        return Ok(());
    }
    let shown: String = name.chars().take(80).flat_map(char::escape_default).collect();
    Err(Error::new(
        Kind::Config,
        format!(
            "`{shown}` cannot be an instance's name: use 1 to {MAX_NAME} lower-case letters, digits and hyphens, \
             the first no hyphen."
        ),
    ))
}

/// Random bytes from the host's kernel.
///
/// # Errors
/// `Host` if the kernel gives none.
pub fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut done = 0;
    while done < N {
        match getrandom(bytes.get_mut(done..).unwrap_or(&mut []), GetRandomFlags::empty()) {
            Ok(n) => done += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => {
                return Err(Error::new(Kind::Host, format!("The host's kernel gives no randomness: {e}.")));
            }
        }
    }
    Ok(bytes)
}

const ADJECTIVES: [&str; 16] = [
    "amber", "brisk", "calm", "deep", "early", "fair", "grand", "high", "keen", "light", "mild", "noble",
    "pale", "quiet", "still", "warm",
];
const NOUNS: [&str; 16] = [
    "agate", "basalt", "chert", "dune", "esker", "flint", "gneiss", "halite", "jasper", "loess", "marl",
    "onyx", "quartz", "shale", "slate", "tuff",
];

/// A name for an instance that was given none, such as `calm-flint-3f07`. It may be taken; ask for another then.
///
/// # Errors
/// As [`random`].
pub fn made_up_name() -> Result<String> {
    let [a, n, x, y] = random::<4>()?;
    let pick = |list: &[&'static str; 16], i: u8| list.get(usize::from(i % 16)).copied().unwrap_or("run");
    Ok(format!("{}-{}-{x:02x}{y:02x}", pick(&ADJECTIVES, a), pick(&NOUNS, n)))
}

/// An Ethernet address for an instance: a hash of name and salt, locally administered, for one station. The salt is
/// random and the result recorded, so that it is stable, yet differs between two hosts' instances of one name.
pub fn mac_for(name: &str, salt: u64) -> [u8; 6] {
    // FNV-1a: spread is all that is asked of it.
    let mut hash = 0xcbf2_9ce4_8422_2325u64 ^ salt;
    for b in name.bytes() {
        hash = (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    hash ^= hash >> 32;
    let [a, b, c, d, ..] = hash.to_le_bytes();
    // The first two bytes say "local" and make ours easy to find in an address table.
    [0x52, 0x5a, a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "0", "web-1", "a-", &"x".repeat(63)] {
            check_name(good).unwrap();
        }
        for bad in ["", "-a", "A", "a.b", "a/b", "..", "a b", "ä", "a\0", "a_b", &"x".repeat(64)] {
            assert_eq!(check_name(bad).unwrap_err().kind, Kind::Config, "{bad:?}");
        }
        for _ in 0..100 {
            check_name(&made_up_name().unwrap()).unwrap();
        }
    }

    #[test]
    fn macs_are_stable_local_and_different() {
        let mac = mac_for("web", 7);
        assert_eq!(mac, mac_for("web", 7));
        assert_ne!(mac, mac_for("web", 8));
        assert_ne!(mac, mac_for("wec", 7));
        assert_eq!(mac[0] & 3, 2, "locally administered, one station");
    }
}
