//! The greeting: the source says who it is and which versions it speaks, the destination answers with one of them.
//!
//! ```text
//! source       magic:8 "strataMG"  oldest:u16  newest:u16  purpose:u8  stream:u8  zero:2  id:16  secret:32
//! destination  magic:8 "strataMG"  version:u16  answer:u8  zero:1
//! ```

use super::WireError;
use std::io::{Read, Write};

const MAGIC: &[u8; 8] = b"strataMG";
/// Oldest version that this build speaks.
pub const OLDEST: u16 = 1;
/// Newest version that this build speaks.
pub const NEWEST: u16 = 4;
/// The first version with post-copy.
pub const POST_COPY: u16 = 2;
/// The first version with pages that are compressed.
pub const PACKED: u16 = 3;
/// The first version in which frames of the network follow the machine.
pub const FORWARDS: u16 = 4;
/// Most connections for pages.
pub const MAX_STREAMS: u8 = 16;

const YES: u8 = 0;
const WRONG_TOKEN: u8 = 1;
const NO_VERSION: u8 = 2;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Everything but bulk, and who owns the machine.
    Control,
    /// Pages, by the stream's number.
    Pages(u8),
    /// Pages that the destination waits for, and its asking for them (version 2).
    Urgent,
    /// Frames for the guest that come to where it was (version 4).
    Network,
}

/// The source's greeting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Oldest version that it speaks.
    pub oldest: u16,
    /// Newest version that it speaks.
    pub newest: u16,
    /// What the connection is for.
    pub purpose: Purpose,
    /// The migration.
    pub id: [u8; 16],
    /// The token's secret.
    pub secret: [u8; 32],
}

const LEN: usize = 64;

impl Hello {
    /// As bytes.
    pub fn bytes(&self) -> [u8; LEN] {
        let (purpose, stream) = match self.purpose {
            Purpose::Control => (0, 0),
            Purpose::Pages(n) => (1, n),
            Purpose::Urgent => (2, 0),
            Purpose::Network => (3, 0),
        };
        let mut out = [0; LEN];
        out[..8].copy_from_slice(MAGIC);
        out[8..10].copy_from_slice(&self.oldest.to_le_bytes());
        out[10..12].copy_from_slice(&self.newest.to_le_bytes());
        (out[12], out[13]) = (purpose, stream);
        out[16..32].copy_from_slice(&self.id);
        out[32..].copy_from_slice(&self.secret);
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(b: &[u8; LEN]) -> Result<Hello, WireError> {
        if b[..8] != *MAGIC {
            return Err(WireError::Protocol("it does not greet as a source of a migration does"));
        }
        let purpose = match (b[12], b[13], b[14], b[15]) {
            (0, 0, 0, 0) => Purpose::Control,
            (1, n, 0, 0) if n < MAX_STREAMS => Purpose::Pages(n),
            (2, 0, 0, 0) => Purpose::Urgent,
            (3, 0, 0, 0) => Purpose::Network,
            _ => return Err(WireError::Protocol("its connection is for nothing that is known")),
        };
        let (mut id, mut secret) = ([0; 16], [0; 32]);
        id.copy_from_slice(&b[16..32]);
        secret.copy_from_slice(&b[32..]);
        let version = |at: usize| u16::from_le_bytes([b[at], b[at + 1]]);
        Ok(Hello { oldest: version(8), newest: version(10), purpose, id, secret })
    }
}

/// The source's part of the greeting; gives the version that is spoken from now on.
///
/// # Errors
/// The destination does not accept it, or is none.
pub fn greet<S: Read + Write + ?Sized>(stream: &mut S, hello: &Hello) -> Result<u16, WireError> {
    stream.write_all(&hello.bytes())?;
    stream.flush()?;
    let mut b = [0; 12];
    stream.read_exact(&mut b)?;
    if b[..8] != *MAGIC || b[11] != 0 {
        return Err(WireError::Protocol("it does not answer as a destination of a migration does"));
    }
    let version = u16::from_le_bytes([b[8], b[9]]);
    match b[10] {
        YES if (hello.oldest..=hello.newest).contains(&version) => Ok(version),
        WRONG_TOKEN => Err(WireError::Token),
        NO_VERSION => Err(WireError::Version { theirs_oldest: version, theirs_newest: version }),
        _ => Err(WireError::Protocol("its answer to the greeting means nothing")),
    }
}

/// The destination's first part: what the source says. The secret has not been compared yet.
///
/// # Errors
/// It is no greeting.
pub fn hear<S: Read + ?Sized>(stream: &mut S) -> Result<Hello, WireError> {
    let mut b = [0; LEN];
    stream.read_exact(&mut b)?;
    Hello::parse(&b)
}

/// Whether two secrets are the same, in a time that says nothing of where they differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |d, (a, b)| d | (a ^ b)) == 0
}

/// The destination's second part: answers; gives the version that is spoken from now on.
///
/// # Errors
/// The token is not `secret`, or there is no version that both speak: the source has been told.
pub fn answer<S: Write + ?Sized>(stream: &mut S, hello: &Hello, secret: &[u8; 32]) -> Result<u16, WireError> {
    let mut say = |version: u16, what: u8| -> std::io::Result<()> {
        let mut b = [0; 12];
        b[..8].copy_from_slice(MAGIC);
        b[8..10].copy_from_slice(&version.to_le_bytes());
        b[10] = what;
        stream.write_all(&b)?;
        stream.flush()
    };
    if !same(&hello.secret, secret) {
        say(NEWEST, WRONG_TOKEN)?;
        return Err(WireError::Token);
    }
    let version = NEWEST.min(hello.newest);
    if version < OLDEST || version < hello.oldest {
        say(NEWEST, NO_VERSION)?;
        return Err(WireError::Version { theirs_oldest: hello.oldest, theirs_newest: hello.newest });
    }
    say(version, YES)?;
    Ok(version)
}
