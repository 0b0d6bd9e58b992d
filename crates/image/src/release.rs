//! A Release file: what a suite is, until when, and the hash of each of its indexes.
//! Format: DebianRepository/Format, "Release files". Parsed only from text whose signature is good.

use crate::deb822;
use crate::error::{Error, Result};
use crate::fetch::Wanted;
use crate::time;
use std::collections::HashMap;

/// The fields of a Release that a pull needs.
#[derive(Debug, Clone)]
pub struct Release {
    /// `trixie`, `forky`, `sid`.
    pub codename: String,
    /// The date as written.
    pub date: String,
    /// Valid-Until as written, if there is one.
    pub valid_until: Option<String>,
    /// Whether indexes are also served under their hash.
    pub by_hash: bool,
    files: HashMap<String, Wanted>,
}

impl Release {
    /// Parses the signed text.
    ///
    /// # Errors
    /// [`Error::Malformed`] if a required field is missing or a date or hash is not one.
    pub fn parse(text: &str) -> Result<Release> {
        let bad = |why: String| Error::malformed("the Release file", why);
        let stanza = deb822::stanzas(text).next().ok_or_else(|| bad("it is empty".into()))?;
        let need = |name: &str| {
            stanza.get(name).map(str::to_owned).ok_or_else(|| bad(format!("it has no field {name}")))
        };
        let mut files = HashMap::new();
        for line in need("SHA256")?.lines().filter(|l| !l.trim().is_empty()) {
            let mut words = line.split_whitespace();
            let (Some(hash), Some(size), Some(name)) = (words.next(), words.next(), words.next()) else {
                return Err(bad(format!("a hash line reads {line:?}")));
            };
            let wanted = wanted(hash, size).ok_or_else(|| bad(format!("a hash line reads {line:?}")))?;
            files.insert(name.to_owned(), wanted);
        }
        let release = Release {
            codename: need("Codename")?,
            date: need("Date")?,
            valid_until: stanza.get("Valid-Until").map(str::to_owned),
            by_hash: stanza.get("Acquire-By-Hash").is_some_and(|v| v.eq_ignore_ascii_case("yes")),
            files,
        };
        release.made()?;
        release.expires()?;
        Ok(release)
    }

    /// When it was made, in seconds since 1970.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the date is not one.
    pub fn made(&self) -> Result<i64> {
        date("Date", &self.date)
    }

    /// When it stops being valid, if it says so.
    ///
    /// # Errors
    /// [`Error::Malformed`] if the date is not one.
    pub fn expires(&self) -> Result<Option<i64>> {
        self.valid_until.as_deref().map(|d| date("Valid-Until", d)).transpose()
    }

    /// Hash and length of an index, by its path below the suite's folder.
    pub fn file(&self, name: &str) -> Option<&Wanted> {
        self.files.get(name)
    }
}

fn date(field: &str, text: &str) -> Result<i64> {
    time::parse_rfc5322(text).ok_or_else(|| {
        Error::malformed("the Release file", format!("{field} reads {text:?}, which is no date in UTC"))
    })
}

/// A hash and a length as indexes write them.
pub(crate) fn wanted(hash: &str, size: &str) -> Option<Wanted> {
    let hex = hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    hex.then_some(())?;
    Some(Wanted { sha256: hash.to_owned(), size: size.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Suite: testing\r\nCodename: forky\r\nDate: Fri, 30 Oct 2026 08:08:01 UTC\r\n\
        Acquire-By-Hash: yes\r\nSHA256:\r\n \
        0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef 17 main/x\r\n";

    #[test]
    fn reads_what_it_needs() {
        let r = Release::parse(TEXT).unwrap();
        assert_eq!((r.codename.as_str(), r.by_hash, r.expires().unwrap()), ("forky", true, None));
        assert_eq!(r.file("main/x").unwrap().size, 17);
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        for (from, to) in [("30 Oct", "30 Okt"), ("0123", "01"), (" 17 ", " x "), ("SHA256", "SHA1")] {
            assert!(
                matches!(Release::parse(&TEXT.replace(from, to)), Err(Error::Malformed { .. })),
                "{from}"
            );
        }
    }
}
