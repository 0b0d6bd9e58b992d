//! The lower crates' errors as ours: their text, and the kind that gives the exit code. And the time of day.

use crate::{Error, Kind};
use std::time::{SystemTime, UNIX_EPOCH};
use strata_block::{DiskError, DiskErrorKind};
use strata_net::{ForwardError, TapError, UserNetError};

/// The time of day, in seconds since 1970; 0 on a host that believes to be older.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// The same in nanoseconds.
pub(crate) fn now_ns() -> u64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX)
}

/// A paragraph: begins with a capital letter, ends with a full stop.
pub(crate) fn paragraph(text: &str) -> String {
    let mut chars = text.chars();
    // A path or an option keeps its case.
    let word = text.split(' ').next().unwrap_or_default();
    let plain = word.chars().all(|c| c.is_ascii_alphabetic());
    let mut out: String = match chars.next() {
        Some(first) if plain => first.to_uppercase().chain(chars).collect(),
        _ => text.to_owned(),
    };
    if !out.ends_with(['.', '!', '?']) {
        out.push('.');
    }
    out
}

impl From<DiskError> for Error {
    fn from(e: DiskError) -> Error {
        let kind = match e.kind() {
            DiskErrorKind::InUse => Kind::InUse,
            DiskErrorKind::Corrupt | DiskErrorKind::Unsupported | DiskErrorKind::TooSmall => Kind::BadInput,
            DiskErrorKind::NotFound => Kind::NotFound,
            DiskErrorKind::Permission => Kind::Permission,
            DiskErrorKind::NoSpace => Kind::CannotCreate,
            DiskErrorKind::Io => Kind::Io,
        };
        Error::new(kind, paragraph(&e.to_string()))
    }
}

impl From<ForwardError> for Error {
    fn from(e: ForwardError) -> Error {
        let kind = match e {
            ForwardError::Taken { .. } => Kind::InUse,
            ForwardError::Forbidden { .. } => Kind::Permission,
            ForwardError::NoAddress { .. } => Kind::Config,
            ForwardError::Other { .. } => Kind::Io,
        };
        Error::new(kind, paragraph(&e.to_string()))
    }
}

impl From<UserNetError> for Error {
    fn from(e: UserNetError) -> Error {
        Error::new(Kind::Host, paragraph(&e.to_string()))
    }
}

impl From<TapError> for Error {
    fn from(e: TapError) -> Error {
        let kind = match e {
            TapError::Name(_) => Kind::Config,
            TapError::NoDriver { .. } => Kind::Host,
            TapError::Permission { .. } => Kind::Permission,
            TapError::Busy { .. } => Kind::InUse,
            TapError::WrongKind { .. } => Kind::Config,
            TapError::Other { .. } => Kind::Io,
        };
        Error::new(kind, paragraph(&e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs() {
        assert_eq!(paragraph("cannot do it"), "Cannot do it.");
        assert_eq!(paragraph("/a/b is no kernel"), "/a/b is no kernel.");
        assert_eq!(paragraph("Done."), "Done.");
        assert_eq!(paragraph(""), ".");
    }
}
