//! Frames on the control socket: length, JSON, and descriptors beside them.
//!
//! ```text
//! 0      4                4 + length
//! +------+----------------+
//! | u32  | UTF-8 JSON     |     little-endian length of the JSON, 1 to MAX_FRAME
//! +------+----------------+
//! ```
//! Descriptors travel by `SCM_RIGHTS` with the first byte of the frame that says how many they are (`fds`).
//! Invariants: nothing is allocated for a length before the bytes have come; a peer that breaks a rule is refused,
//! once, by [`WireError`], and the connection is over; descriptors nobody asked for are closed.

use crate::protocol::Message;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// Longest JSON of a frame, in bytes: far more than any message needs, and little enough to hold for every client.
pub const MAX_FRAME: usize = 1 << 20;
/// Most descriptors with one frame.
pub const MAX_FDS: usize = 4;
const READ_SIZE: usize = 16 << 10;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The peer closed it, between two frames or within one.
    #[error("the other end closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the control socket failed: {0}")]
    Socket(#[from] std::io::Error),
    /// A frame's length is 0 or too large.
    #[error("a frame of {0} bytes came; it must have 1 to {MAX_FRAME}")]
    Length(usize),
    /// The JSON is none, or no message.
    #[error("a frame is no message of this protocol: {0}")]
    Content(#[from] serde_json::Error),
    /// Descriptors are missing or too many.
    #[error("a frame came with a wrong number of file descriptors")]
    Descriptors,
}

impl From<Errno> for WireError {
    fn from(e: Errno) -> Self {
        match e {
            Errno::PIPE | Errno::CONNRESET => WireError::Closed,
            e => WireError::Socket(e.into()),
        }
    }
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    taken: usize,
}

impl Decoder {
    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..std::mem::take(&mut self.taken));
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame's JSON, or `None` until more has come.
    ///
    /// # Errors
    /// [`WireError::Length`]; after it the stream has no meaning any more.
    pub fn next_frame(&mut self) -> Result<Option<&[u8]>, WireError> {
        let rest = self.bytes.get(self.taken..).unwrap_or(&[]);
        let Some((head, body)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*head) as usize;
        if len == 0 || len > MAX_FRAME {
            return Err(WireError::Length(len));
        }
        let frame = body.get(..len);
        if frame.is_some() {
            self.taken += 4 + len;
        }
        Ok(frame)
    }
}

/// A message as the bytes of its frame.
///
/// # Errors
/// [`WireError::Length`] if it is too long.
pub fn encode(message: &Message) -> Result<Vec<u8>, WireError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let len = bytes.len() - 4;
    if len > MAX_FRAME {
        return Err(WireError::Length(len));
    }
    for (to, from) in bytes.iter_mut().zip((len as u32).to_le_bytes()) {
        *to = from;
    }
    Ok(bytes)
}

/// The sending half of a connection; clones share it, and each message goes out whole.
#[derive(Clone, Debug)]
pub struct Sender {
    socket: Arc<OwnedFd>,
    turn: Arc<Mutex<()>>,
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    socket: Arc<OwnedFd>,
    decoder: Decoder,
    fds: VecDeque<OwnedFd>,
}

/// Both halves of a connected stream socket.
pub fn halves(socket: OwnedFd) -> (Sender, Receiver) {
    let socket = Arc::new(socket);
    let sender = Sender { socket: socket.clone(), turn: Arc::default() };
    (sender, Receiver { socket, decoder: Decoder::default(), fds: VecDeque::new() })
}

impl Sender {
    /// Sends one message with its descriptors.
    ///
    /// # Errors
    /// The socket's; its time limit counts as a failure. The connection is of no use afterwards.
    pub fn send(&self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), WireError> {
        if fds.len() != message.fds() || fds.len() > MAX_FDS {
            return Err(WireError::Descriptors);
        }
        let bytes = encode(message)?;
        let _turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        let mut rest = &bytes[..];
        let mut fds = fds;
        while !rest.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(WireError::Descriptors);
            }
            match sendmsg(&self.socket, &[IoSlice::new(rest)], &mut control, SendFlags::NOSIGNAL) {
                Ok(n) => {
                    rest = rest.get(n..).unwrap_or(&[]);
                    fds = &[];
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    /// Ends the connection in both directions: whoever reads it, here or there, sees its end.
    pub fn shutdown(&self) {
        // It may have ended already.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
    }
}

impl Receiver {
    /// Waits for the next message; gives it with its descriptors.
    ///
    /// # Errors
    /// See [`WireError`]; the connection is of no use afterwards.
    pub fn recv(&mut self) -> Result<(Message, Vec<OwnedFd>), WireError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                let message: Message = serde_json::from_slice(frame)?;
                let wanted = message.fds();
                if wanted > self.fds.len() || wanted > MAX_FDS {
                    return Err(WireError::Descriptors);
                }
                let fds = self.fds.drain(..wanted).collect();
                return Ok((message, fds));
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), WireError> {
        let mut bytes = [0; READ_SIZE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [IoSliceMut::new(&mut bytes)];
        let got = match recvmsg(&self.socket, &mut into, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => got,
            Err(Errno::INTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        for m in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = m {
                self.fds.extend(fds);
            }
        }
        // Frames with descriptors are answered one by one; more than two frames' worth waiting is an attack.
        if got.flags.contains(ReturnFlags::CTRUNC) || self.fds.len() > 2 * MAX_FDS {
            return Err(WireError::Descriptors);
        }
        if got.bytes == 0 {
            return Err(WireError::Closed);
        }
        self.decoder.push(bytes.get(..got.bytes).unwrap_or(&[]));
        Ok(())
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests;
