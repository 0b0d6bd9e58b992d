//! The token that a destination prints once, and by which a source is let in and knows whom it talks to.
//!
//! `strata1:` and 128 hexadecimal digits: a secret of 32 bytes, and the digest of the destination's public key. The
//! source's own key follows from the secret, so each side knows the other's key before it has seen it.

use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "strata1:";

/// A token.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Known to both sides only.
    pub secret: [u8; 32],
    /// SHA-256 of the destination's public key, as a `SubjectPublicKeyInfo`.
    pub fingerprint: [u8; 32],
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.secret.iter().chain(&self.fingerprint).try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// What a token is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a token is `strata1:` and 128 hexadecimal digits, as `strata migrate receive` prints it")]
pub struct NoToken;

impl FromStr for Token {
    type Err = NoToken;
    fn from_str(text: &str) -> Result<Token, NoToken> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(NoToken)?.as_bytes();
        if digits.len() != 128 {
            return Err(NoToken);
        }
        let digit = |b: u8| (b as char).to_digit(16);
        let mut bytes = [0u8; 64];
        for (to, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let [a, b] = *pair else { return Err(NoToken) };
            *to = (digit(a).ok_or(NoToken)? << 4 | digit(b).ok_or(NoToken)?) as u8;
        }
        let (secret, fingerprint) = bytes.split_at(32);
        let half = |b: &[u8]| b.try_into().map_err(|_| NoToken);
        Ok(Token { secret: half(secret)?, fingerprint: half(fingerprint)? })
    }
}

/// Random bytes of the host.
///
/// # Errors
/// What the host answers.
pub fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut at = 0;
    while let Some(rest) = bytes.get_mut(at..).filter(|r| !r.is_empty()) {
        match getrandom(rest, GetRandomFlags::empty()) {
            Ok(n) => at += n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(bytes)
}

/// The seed of the source's key, which follows from the secret.
pub(crate) fn source_seed(secret: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update(b"strata migration, the source's key").chain_update(secret).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_being_printed_and_nothing_else_is_one() {
        let token = Token { secret: random().unwrap(), fingerprint: [7; 32] };
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token.clone()));
        assert_eq!(format!(" {text}\n").parse(), Ok(token));
        let other = text.replace(':', ";");
        for bad in
            ["", "strata1:", &text[..text.len() - 1], &format!("{text}0"), &other, &text.replace("07", "0g")]
        {
            assert_eq!(bad.parse::<Token>(), Err(NoToken), "{bad}");
        }
    }

    #[test]
    fn a_token_is_not_shown_by_accident() {
        let token = Token { secret: [3; 32], fingerprint: [7; 32] };
        assert!(!format!("{token:?}").contains("03"));
        assert_ne!(source_seed(&[3; 32]), [3; 32]);
    }
}
