//! What travels: frames over a stream of bytes, in both directions. The bytes are described in `docs/formats/migration.md`.
//!
//! ```text
//!  greeting   token checked, version agreed, which connection it is          hello.rs
//!  frame      header, length cap by kind, payload                            this file
//!  offer      what is said of a machine, as JSON                           offer.rs
//!  pages      runs of pages, in the form of the snapshot format's index      pages.rs
//!  packed     the same, compressed                                           packed.rs
//!  disks      what is said of disks before anything is sent                  disks.rs
//! ```
//! Everything that is read here comes from whoever is at the other end: lengths are capped before anything is allocated,
//! numbers are checked before they are used, and what does not fit is an error that ends the connection.

mod disks;
mod hello;
mod network;
mod offer;
mod packed;
mod pages;

pub use disks::{DiskOffer, DiskWay, Holder};
pub use hello::{
    FORWARDS, Hello, MAX_STREAMS, NEWEST, OLDEST, PACKED, POST_COPY, Purpose, answer, greet, hear,
};
pub use network::Guest;
pub use offer::{Accept, FileOffer, Offer, Processor, Refusal, Rest};
pub use packed::{Packer, PiecePacker};
pub use pages::{BATCH, Brought, PageKind, PageRun, Pages, PagesWriter};

use crate::core::Message;
use std::io::{self, ErrorKind, Read, Write};
use strata_memory::PageSet;

/// Bytes before a payload.
const HEADER: usize = 8;
/// Longest JSON, in bytes: an instance's record and a few hundred connections.
pub const MAX_JSON: usize = 1 << 20;
/// Longest piece of a state or file, in bytes.
pub const MAX_PIECE: usize = 256 << 10;
/// Longest payload with pages: a batch and its runs.
const MAX_PAGES_FRAME: usize = BATCH * 4096 + pages::MAX_RUNS * pages::RUN + 4;
/// Most pages that are asked for at once.
pub const MAX_WANT: usize = 512;
/// Most Ethernet frames that follow a machine.
pub const MAX_FOLLOWING: usize = 2000;
/// Longest Ethernet frame, with a VLAN tag and without its check sequence, in bytes.
const MAX_ETHERNET: usize = 1518;
/// Words of a set of pages in one frame.
const SET_WORDS: usize = 4096;

/// Why a connection cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// It has ended, or the host or network failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// The other side does not keep to the protocol.
    #[error("the other side does not keep to the protocol: {0}")]
    Protocol(&'static str),
    /// A JSON payload does not say what it should.
    #[error("the other side sent what cannot be understood: {0}")]
    Json(#[from] serde_json::Error),
    /// No version that both speak.
    #[error(
        "the other side speaks versions {theirs_oldest} to {theirs_newest} of the migration protocol, this one {OLDEST} \
         to {NEWEST}; use a newer strata on one of the hosts"
    )]
    Version {
        /// Oldest that it speaks.
        theirs_oldest: u16,
        /// Newest that it speaks.
        theirs_newest: u16,
    },
    /// The token is not the one that was printed there.
    #[error(
        "the destination did not accept the token: use the one that `strata migrate receive` has printed, once"
    )]
    Token,
}

impl WireError {
    /// Whether nothing is wrong but that nothing has come for as long as the connection's patience: the next frame can
    /// still be waited for. Silence in the middle of a frame is none of that.
    pub fn is_quiet(&self) -> bool {
        matches!(self, WireError::Io(e) if e.kind() == ErrorKind::WouldBlock)
    }
}

/// One frame.
#[derive(Debug, PartialEq)]
pub enum Frame<'a> {
    /// Source: what is offered.
    Offer(Offer),
    /// Destination: yes.
    Accept(Accept),
    /// Destination: no.
    Refuse(Refusal),
    /// Source: pages of memory. They may be compressed (version 3): what is received is plain again.
    Pages(Pages<'a>),
    /// Source: a piece of a file: its number, the place in it, and bytes.
    File(u16, u64, &'a [u8]),
    /// The same as a block of LZ4, and how many bytes it is (version 3): received as [`Frame::File`].
    FilePacked(u16, u64, u32, &'a [u8]),
    /// Source: a piece of a disk: its number, the place in it, and bytes.
    Disk(u16, u64, &'a [u8]),
    /// Source: a piece of a disk that is zeroes: its number, the place in it, and how many.
    DiskZeroes(u16, u64, u64),
    /// Source: the next piece of the state.
    State(&'a [u8]),
    /// Source: the next piece of the list of hot paths.
    HotPaths(&'a [u8]),
    /// Source: the end of a round on this connection. Destination: all before it has been taken.
    Round(u32),
    /// Source: the end of it all.
    Final(Box<Rest>),
    /// A part of a set of pages: the number of its first word, and words (version 2). Source, on control: pages that are
    /// left out. Destination, on the urgent connection: pages that have not come, ended by a part without words.
    Absent(u64, Vec<u64>),
    /// Destination: pages that somebody waits for (version 2).
    Want(Vec<u64>),
    /// Source: pages of a machine that may run by now; they count only where they have not come yet (version 2).
    Late(Pages<'a>),
    /// Source, on the connection for the network: an Ethernet frame for the guest (version 4).
    Ethernet(&'a [u8]),
    /// Who owns it. Never [`Message::Final`].
    Core(Message),
    /// The source gives up before the machine was handed over, for a reason that a person may read.
    Why(String),
}

fn code(m: Message) -> u8 {
    match m {
        // It has a frame of its own.
        Message::Final => 9,
        Message::Ready => 16,
        Message::Commit => 17,
        Message::Running => 18,
        Message::Abort => 19,
        Message::Refused => 20,
        Message::Query => 21,
        Message::Unknown => 22,
        Message::ReadyPart => 23,
        Message::Enough => 24,
        Message::Gone => 25,
    }
}

/// Most bytes of a payload, by the frame's kind.
fn cap(kind: u8) -> Result<usize, WireError> {
    Ok(match kind {
        1..=3 | 9 => MAX_JSON,
        4 => MAX_PAGES_FRAME,
        5 => MAX_PIECE + 10,
        6 | 7 => MAX_PIECE,
        8 => 4,
        10 => 4096,
        11 => 8 + SET_WORDS * 8,
        12 => MAX_WANT * 8,
        13 => MAX_PAGES_FRAME,
        14 | 15 => MAX_PAGES_FRAME + BATCH * packed::LENGTH,
        16..=25 => 0,
        32 => MAX_PIECE + 10,
        33 => 18,
        34 => MAX_PIECE + 14,
        35 => MAX_ETHERNET,
        _ => return Err(WireError::Protocol("a frame is of no known kind")),
    })
}

/// Writes one frame.
///
/// # Errors
/// The connection's; a payload that is longer than a frame may be.
pub fn send(out: &mut dyn Write, frame: &Frame<'_>) -> Result<(), WireError> {
    let mut payload = Vec::new();
    let kind = match frame {
        Frame::Offer(o) => (1, serde_json::to_writer(&mut payload, o)?).0,
        Frame::Accept(a) => (2, serde_json::to_writer(&mut payload, a)?).0,
        Frame::Refuse(r) => (3, serde_json::to_writer(&mut payload, r)?).0,
        Frame::Pages(p) => {
            p.put(&mut payload);
            if p.is_packed() { 14 } else { 4 }
        }
        Frame::File(n, at, bytes) => {
            payload.extend(n.to_le_bytes());
            payload.extend(at.to_le_bytes());
            payload.extend_from_slice(bytes);
            5
        }
        Frame::FilePacked(n, at, len, block) => {
            payload.extend(n.to_le_bytes());
            payload.extend(at.to_le_bytes());
            payload.extend(len.to_le_bytes());
            payload.extend_from_slice(block);
            34
        }
        Frame::Disk(n, at, bytes) => {
            payload.extend(n.to_le_bytes());
            payload.extend(at.to_le_bytes());
            payload.extend_from_slice(bytes);
            32
        }
        Frame::DiskZeroes(n, at, len) => {
            payload.extend(n.to_le_bytes());
            payload.extend(at.to_le_bytes());
            payload.extend(len.to_le_bytes());
            33
        }
        Frame::State(bytes) => {
            payload.extend_from_slice(bytes);
            6
        }
        Frame::HotPaths(bytes) => {
            payload.extend_from_slice(bytes);
            7
        }
        Frame::Round(n) => {
            payload.extend(n.to_le_bytes());
            8
        }
        Frame::Final(rest) => (9, serde_json::to_writer(&mut payload, rest)?).0,
        Frame::Why(text) => {
            payload.extend(text.chars().take(1000).collect::<String>().as_bytes());
            10
        }
        Frame::Absent(first, words) => {
            payload.extend(first.to_le_bytes());
            payload.extend(words.iter().flat_map(|w| w.to_le_bytes()));
            11
        }
        Frame::Want(pages) => {
            payload.extend(pages.iter().flat_map(|p| p.to_le_bytes()));
            12
        }
        Frame::Late(p) => {
            p.put(&mut payload);
            if p.is_packed() { 15 } else { 13 }
        }
        Frame::Ethernet(bytes) => {
            payload.extend_from_slice(bytes);
            35
        }
        Frame::Core(m) => code(*m),
    };
    if payload.len() > cap(kind)? {
        return Err(WireError::Protocol("a frame to be sent is too long"));
    }
    let mut header = [0; HEADER];
    header[0] = kind;
    header[4..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    // As one write where it is small: no half of it waits for the other.
    if payload.len() < 1 << 14 {
        payload.splice(..0, header);
        out.write_all(&payload)?;
    } else {
        out.write_all(&header)?;
        out.write_all(&payload)?;
    }
    Ok(out.flush()?)
}

/// Writes a set of pages, and with `ended` a part without words behind it.
///
/// # Errors
/// The connection's.
pub fn send_set(out: &mut dyn Write, set: &PageSet, ended: bool) -> Result<(), WireError> {
    for (n, words) in set.words().chunks(SET_WORDS).enumerate() {
        if words.iter().any(|w| *w != 0) {
            send(out, &Frame::Absent((n * SET_WORDS) as u64, words.to_vec()))?;
        }
    }
    if ended { send(out, &Frame::Absent(0, vec![])) } else { Ok(()) }
}

/// Adds a part of a set of `pages` pages to `set`, which has a word for each 64 of them.
///
/// # Errors
/// It does not lie in the set.
pub fn take_set(set: &mut [u64], pages: usize, first: u64, words: &[u64]) -> Result<(), WireError> {
    let outside = WireError::Protocol("a set of pages reaches beyond the machine's memory");
    let Some(to) = usize::try_from(first).ok().and_then(|at| set.get_mut(at..)?.get_mut(..words.len()))
    else {
        return Err(outside);
    };
    to.iter_mut().zip(words).for_each(|(to, from)| *to |= from);
    let beyond =
        set.last().filter(|_| !pages.is_multiple_of(64)).is_some_and(|last| last >> (pages % 64) != 0);
    if beyond { Err(outside) } else { Ok(()) }
}

/// Reads one frame into `buf`, which is used again for the next one.
///
/// # Errors
/// The connection's, or it is no frame.
pub fn receive<'a>(from: &mut dyn Read, buf: &'a mut Vec<u8>) -> Result<Frame<'a>, WireError> {
    let mut header = [0; HEADER];
    let came = loop {
        match from.read(&mut header) {
            Ok(0) => return Err(WireError::Io(ErrorKind::UnexpectedEof.into())),
            Ok(n) => break n,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    };
    from.read_exact(header.get_mut(came..).unwrap_or_default()).map_err(midway)?;
    let [kind, 0, 0, 0, a, b, c, d] = header else {
        return Err(WireError::Protocol("a frame's header has bits that mean nothing"));
    };
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > cap(kind)? {
        return Err(WireError::Protocol("a frame is longer than its kind may be"));
    }
    buf.resize(len, 0);
    from.read_exact(buf).map_err(midway)?;
    match kind {
        14 => Ok(Frame::Pages(Pages::unpack(buf)?)),
        15 => Ok(Frame::Late(Pages::unpack(buf)?)),
        34 => {
            let found =
                piece(buf).and_then(|(n, at, rest)| Some((n, at, u32::from_le_bytes(*rest.first_chunk()?))));
            let (n, at, len) =
                found.ok_or(WireError::Protocol("a compressed piece of a file is cut short"))?;
            Ok(Frame::File(n, at, packed::unpack_piece(buf, 14, len as usize)?))
        }
        _ => parse(kind, buf),
    }
}

/// Whoever falls silent within a frame is lost: what comes next would be taken for the beginning of another.
fn midway(e: io::Error) -> io::Error {
    match e.kind() {
        ErrorKind::WouldBlock => {
            io::Error::new(ErrorKind::TimedOut, "it fell silent in the middle of a frame")
        }
        _ => e,
    }
}

/// A number, a place, and the rest.
fn piece(payload: &[u8]) -> Option<(u16, u64, &[u8])> {
    let (n, rest) = payload.split_first_chunk::<2>()?;
    let (at, bytes) = rest.split_first_chunk::<8>()?;
    Some((u16::from_le_bytes(*n), u64::from_le_bytes(*at), bytes))
}

fn parse(kind: u8, payload: &[u8]) -> Result<Frame<'_>, WireError> {
    Ok(match kind {
        1 => Frame::Offer(serde_json::from_slice(payload)?),
        2 => Frame::Accept(serde_json::from_slice(payload)?),
        3 => Frame::Refuse(serde_json::from_slice(payload)?),
        4 => Frame::Pages(Pages::parse(payload)?),
        5 => {
            let (n, at, bytes) =
                piece(payload).ok_or(WireError::Protocol("a piece of a file is cut short"))?;
            Frame::File(n, at, bytes)
        }
        32 => {
            let (n, at, bytes) =
                piece(payload).ok_or(WireError::Protocol("a piece of a disk is cut short"))?;
            Frame::Disk(n, at, bytes)
        }
        33 => {
            let cut = piece(payload).and_then(|(n, at, len)| Some((n, at, len.try_into().ok()?)));
            let (n, at, len) = cut.ok_or(WireError::Protocol("zeroes of a disk are cut short"))?;
            Frame::DiskZeroes(n, at, u64::from_le_bytes(len))
        }
        6 => Frame::State(payload),
        7 => Frame::HotPaths(payload),
        8 => {
            let n = payload.try_into().map_err(|_| WireError::Protocol("the end of a round is cut short"))?;
            Frame::Round(u32::from_le_bytes(n))
        }
        9 => Frame::Final(serde_json::from_slice(payload)?),
        10 => {
            let text =
                std::str::from_utf8(payload).map_err(|_| WireError::Protocol("a text is not UTF-8"))?;
            Frame::Why(text.to_owned())
        }
        11 => {
            let (first, words) = numbers(payload)?
                .split_first()
                .map(|(f, w)| (*f, w.to_vec()))
                .ok_or(WireError::Protocol("a part of a set of pages does not say where it belongs"))?;
            Frame::Absent(first, words)
        }
        12 => Frame::Want(numbers(payload)?),
        13 => Frame::Late(Pages::parse(payload)?),
        35 => Frame::Ethernet(payload),
        _ => {
            use Message::*;
            let all = [Ready, Commit, Running, Abort, Refused, Query, Unknown, ReadyPart, Enough, Gone];
            let found = all.into_iter().find(|m| code(*m) == kind);
            Frame::Core(found.ok_or(WireError::Protocol("a frame is of no known kind"))?)
        }
    })
}

/// A payload of 64-bit numbers.
fn numbers(payload: &[u8]) -> Result<Vec<u64>, WireError> {
    let (words, []) = payload.as_chunks::<8>() else {
        return Err(WireError::Protocol("a list of numbers is cut short"));
    };
    Ok(words.iter().map(|w| u64::from_le_bytes(*w)).collect())
}

#[cfg(test)]
mod tests;
