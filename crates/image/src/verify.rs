//! Whether a Release is Debian's: verification of `InRelease`, in process.
//!
//! An InRelease is a cleartext-signed text (RFC 9580 section 7) with one or more signatures. It is good
//! when at least one is, made by a key or signing subkey of our keyring which, at this moment, is bound
//! to its primary key, allowed to sign, not expired and not revoked. Only the text that the signature
//! covers is handed on. Hashes weaker than SHA-256 are not accepted, whatever the library would.
//!
//! Deliberately not here: no web of trust, no detached `Release.gpg`, no key download.

use crate::error::{Error, Result};
use pgp::composed::{CleartextSignedMessage, Deserializable, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::Signature;
use pgp::types::{KeyDetails, Tag, VerifyingKey};
use std::path::Path;

/// From Debian's package debian-archive-keyring; `keys/README.md` has version and fingerprints.
const EMBEDDED: [(&str, &[u8]); 4] = [
    ("trixie-automatic.pgp", include_bytes!("../keys/trixie-automatic.pgp")),
    ("trixie-stable.pgp", include_bytes!("../keys/trixie-stable.pgp")),
    ("bookworm-automatic.pgp", include_bytes!("../keys/bookworm-automatic.pgp")),
    ("bookworm-stable.pgp", include_bytes!("../keys/bookworm-stable.pgp")),
];

/// How far the archive's clock may be ahead of ours.
pub(crate) const CLOCK_SKEW: i64 = 86_400;

/// The keys that may sign.
pub struct Keyring {
    keys: Vec<SignedPublicKey>,
    /// Where they come from, for messages.
    origin: String,
}

/// Text with a good signature.
#[derive(Debug)]
pub struct Signed {
    /// The signed text, lines ended by CR LF, dashes unescaped.
    pub text: String,
    /// Fingerprint of the key or subkey that signed, hexadecimal.
    pub signer: String,
}

impl Keyring {
    /// The Debian archive's keys that this program carries.
    ///
    /// # Errors
    /// [`Error::Keyring`] if they do not parse (a test shows that they do).
    pub fn debian() -> Result<Keyring> {
        let mut keys = Vec::new();
        for (name, bytes) in EMBEDDED {
            keys.extend(parse(bytes, name)?);
        }
        Ok(Keyring { keys, origin: "Debian archive keyring 2025.1".into() })
    }

    /// The keys of a file, armored or binary.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read, [`Error::Keyring`] if it holds no key.
    pub fn from_file(path: &Path) -> Result<Keyring> {
        let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
        let name = path.display().to_string();
        let keys = parse(&bytes, &name)?;
        if keys.is_empty() {
            return Err(Error::Keyring { path: name, why: "it holds no OpenPGP public key".into() });
        }
        Ok(Keyring { keys, origin: name })
    }

    /// Verifies an InRelease at time `now` (seconds since 1970); `suite` is for messages only.
    ///
    /// # Errors
    /// [`Error::BadSignature`].
    pub fn verify(&self, suite: &str, in_release: &[u8], now: i64) -> Result<Signed> {
        let bad = |why: String| Error::BadSignature { suite: suite.to_owned(), why };
        let text = std::str::from_utf8(in_release).map_err(|e| bad(format!("not text: {e}")))?;
        let (message, _) = CleartextSignedMessage::from_string(text)
            .map_err(|e| bad(format!("not a cleartext-signed message: {e}")))?;
        let signed = message.signed_text();
        let mut refused = Vec::new();
        for signature in message.signatures() {
            match self.keys.iter().find_map(|key| accept(key, signature, signed.as_bytes(), now)) {
                Some(Ok(signer)) => return Ok(Signed { text: signed, signer }),
                Some(Err(why)) => refused.push(why),
                None => refused.push(format!("{} is not in our keyring", issuer(signature))),
            }
        }
        if refused.is_empty() {
            refused.push("there is no signature in it".into());
        }
        Err(bad(format!("{} (keyring: {})", refused.join("; "), self.origin)))
    }
}

fn parse(bytes: &[u8], name: &str) -> Result<Vec<SignedPublicKey>> {
    let bad = |e: pgp::errors::Error| Error::Keyring { path: name.to_owned(), why: e.to_string() };
    let (keys, _) = SignedPublicKey::from_reader_many(std::io::Cursor::new(bytes)).map_err(bad)?;
    keys.collect::<std::result::Result<Vec<_>, _>>().map_err(bad)
}

fn issuer(signature: &Signature) -> String {
    match (signature.issuer_fingerprint().first(), signature.issuer_key_id().first()) {
        (Some(f), _) => format!("key {f}"),
        (None, Some(id)) => format!("key {id}"),
        (None, None) => "the unnamed signing key".into(),
    }
}

/// `None`: not made by this certificate. Otherwise the signer's fingerprint, or why it does not count.
fn accept(
    cert: &SignedPublicKey,
    s: &Signature,
    text: &[u8],
    now: i64,
) -> Option<std::result::Result<String, String>> {
    let primary = &cert.primary_key;
    if s.verify(primary, text).is_ok() {
        let name = primary.fingerprint().to_string();
        return Some(check_signature(s, primary.created_at().as_secs().into(), now).and_then(|()| {
            primary_state(cert, now)?;
            Ok(name)
        }));
    }
    let subkey = cert.public_subkeys.iter().find(|k| s.verify(&k.key, text).is_ok())?;
    let name = subkey.key.fingerprint().to_string();
    Some(check_signature(s, subkey.key.created_at().as_secs().into(), now).and_then(|()| {
        primary_state(cert, now)?;
        subkey_state(cert, subkey, now)?;
        Ok(name)
    }))
}

fn check_signature(s: &Signature, key_made: i64, now: i64) -> std::result::Result<(), String> {
    let strong = matches!(
        s.hash_alg(),
        Some(
            HashAlgorithm::Sha256
                | HashAlgorithm::Sha384
                | HashAlgorithm::Sha512
                | HashAlgorithm::Sha3_256
                | HashAlgorithm::Sha3_512
        )
    );
    if !strong {
        return Err(format!("the signature by {} uses a weak hash", issuer(s)));
    }
    let made = s.created().map(|t| i64::from(t.as_secs())).ok_or("a signature without a date")?;
    if made < key_made || made > now.saturating_add(CLOCK_SKEW) {
        return Err(format!("the signature by {} has an impossible date", issuer(s)));
    }
    match s.signature_expiration_time().map(|d| i64::from(d.as_secs())) {
        Some(d) if d != 0 && made.saturating_add(d) < now => {
            Err(format!("the signature by {} has expired", issuer(s)))
        }
        _ => Ok(()),
    }
}

/// Newest first: the self-signatures that say what a key may do and for how long.
fn newest<'a>(all: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    all.max_by_key(|s| s.created().map(|t| t.as_secs()).unwrap_or(0))
}

fn unexpired(what: &str, made: u32, binding: &Signature, now: i64) -> std::result::Result<(), String> {
    let life = binding.key_expiration_time().map(|d| i64::from(d.as_secs())).unwrap_or(0);
    if life != 0 && i64::from(made).saturating_add(life) < now {
        return Err(format!("{what} has expired: a newer keyring is needed (--keyring)"));
    }
    Ok(())
}

fn primary_state(cert: &SignedPublicKey, now: i64) -> std::result::Result<(), String> {
    let key = &cert.primary_key;
    let name = format!("key {}", key.fingerprint());
    if cert.details.revocation_signatures.iter().any(|r| r.verify_key(key).is_ok()) {
        return Err(format!("{name} is revoked"));
    }
    let direct = cert.details.direct_signatures.iter().filter(|s| s.verify_key(key).is_ok());
    let users = cert.details.users.iter().flat_map(|u| {
        u.signatures
            .iter()
            .filter(move |s| s.is_certification() && s.verify_certification(key, Tag::UserId, &u.id).is_ok())
    });
    // A direct signature may be there for another purpose (naming a revoker) and say nothing of a time;
    // so the newest of each kind counts, and the earlier end holds.
    let newest_of_each: Vec<&Signature> = newest(direct).into_iter().chain(newest(users)).collect();
    if newest_of_each.is_empty() {
        return Err(format!("{name} has no valid self-signature"));
    }
    newest_of_each.into_iter().try_for_each(|s| unexpired(&name, key.created_at().as_secs(), s, now))
}

fn subkey_state(
    cert: &SignedPublicKey,
    sub: &SignedPublicSubKey,
    now: i64,
) -> std::result::Result<(), String> {
    let name = format!("subkey {}", sub.key.fingerprint());
    let valid = |s: &&Signature| s.verify_subkey_binding(&cert.primary_key, &sub.key).is_ok();
    let (bindings, revocations): (Vec<_>, Vec<_>) = sub
        .signatures
        .iter()
        .filter(valid)
        .partition(|s| s.typ() == Some(pgp::packet::SignatureType::SubkeyBinding));
    if !revocations.is_empty() {
        return Err(format!("{name} is revoked"));
    }
    let binding =
        newest(bindings.into_iter()).ok_or_else(|| format!("{name} is not bound to its primary key"))?;
    // A signing subkey must itself have signed the bond, or anybody's key could be attached.
    let back = binding.embedded_signature().is_some_and(|b| back_signed(b, &sub.key, cert));
    if !binding.key_flags().sign() || !back {
        return Err(format!("{name} may not sign"));
    }
    unexpired(&name, sub.key.created_at().as_secs(), binding, now)
}

fn back_signed(
    back: &Signature,
    sub: &(impl VerifyingKey + pgp::ser::Serialize),
    cert: &SignedPublicKey,
) -> bool {
    back.verify_primary_key_binding(sub, &cert.primary_key).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_keys_parse_and_live() {
        let ring = Keyring::debian().unwrap();
        assert_eq!(ring.keys.len(), EMBEDDED.len());
        let in_2027 = 1_800_000_000;
        for key in &ring.keys {
            primary_state(key, in_2027).unwrap();
            for sub in &key.public_subkeys {
                subkey_state(key, sub, in_2027).unwrap();
            }
            assert!(primary_state(key, 4_000_000_000).unwrap_err().contains("expired"));
        }
    }
}
