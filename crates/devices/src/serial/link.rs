//! The bounded buffer between a serial device and its worker.

use crate::wake::Wake;
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

/// Most bytes of output that wait for the peer: a whole kernel's boot log, so that a slow terminal does not slow a
/// boot, and little beside a VM's other memory.
pub const OUTPUT_LIMIT: usize = 64 * 1024;

#[derive(Default)]
struct Output {
    bytes: VecDeque<u8>,
    /// The worker has been rung for what is here.
    rung: bool,
    /// The device was refused.
    refused: bool,
    /// The peer is gone.
    closed: bool,
}

/// The link. Locks nest device → link; the worker takes one at a time.
pub struct SerialLink {
    output: Mutex<Output>,
    /// The worker found the device without room and waits for [`SerialLink::has_room`].
    starved: AtomicBool,
    wake: Wake,
}

impl SerialLink {
    /// An empty link with a peer.
    ///
    /// # Errors
    /// The host has no descriptor left.
    pub fn new() -> std::io::Result<Arc<SerialLink>> {
        let (output, starved) = (Mutex::default(), AtomicBool::new(false));
        Ok(Arc::new(SerialLink { output, starved, wake: Wake::new()? }))
    }

    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Takes output from the device; gives how many bytes. Less than all means: hold the rest until
    /// [`crate::serial::Serial::output_resumed`].
    pub fn send(&self, bytes: &[u8]) -> usize {
        let mut out = self.output();
        if out.closed || bytes.is_empty() {
            return bytes.len();
        }
        let n = bytes.len().min(OUTPUT_LIMIT.saturating_sub(out.bytes.len()));
        out.bytes.extend(bytes.iter().take(n));
        out.refused |= n < bytes.len();
        if !std::mem::replace(&mut out.rung, true) {
            self.wake.ring();
        }
        n
    }

    /// Takes a byte even beyond the limit: for whoever cannot wait, and cannot send many.
    pub fn push(&self, byte: u8) {
        let mut out = self.output();
        if out.closed {
            return;
        }
        out.bytes.push_back(byte);
        if !std::mem::replace(&mut out.rung, true) {
            self.wake.ring();
        }
    }

    /// The device has room for input (again). Cheap when nobody waits for it.
    pub fn has_room(&self) {
        if self.starved.load(SeqCst) && self.starved.swap(false, SeqCst) {
            self.wake.ring();
        }
    }

    /// Whether all output has reached the peer, or will never.
    pub fn is_empty(&self) -> bool {
        self.output().bytes.is_empty()
    }

    /// The worker waits for room; called with the device's lock held, so that no change of its room is missed.
    pub(super) fn starve(&self) {
        self.starved.store(true, SeqCst);
    }

    /// Bytes of output that wait.
    pub(super) fn waiting(&self) -> usize {
        self.output().bytes.len()
    }

    /// Copies the oldest output to `to`; gives how much.
    pub(crate) fn peek(&self, to: &mut [u8]) -> usize {
        let out = self.output();
        let n = to.len().min(out.bytes.len());
        to.iter_mut().zip(&out.bytes).for_each(|(t, b)| *t = *b);
        n
    }

    /// Forgets the oldest `n` bytes, which the peer has. Gives whether the device is to be told to go on.
    pub(crate) fn consume(&self, n: usize) -> bool {
        let mut out = self.output();
        let n = n.min(out.bytes.len());
        out.bytes.drain(..n);
        if out.bytes.is_empty() {
            out.rung = false;
        }
        out.bytes.len() <= OUTPUT_LIMIT / 2 && std::mem::take(&mut out.refused)
    }

    /// The peer is gone: drops all output, now and later. Gives whether the device is to be told to go on.
    pub(super) fn close(&self) -> bool {
        let mut out = self.output();
        out.closed = true;
        out.bytes = VecDeque::new();
        std::mem::take(&mut out.refused)
    }

    pub(super) fn silence(&self) {
        self.wake.silence();
    }
}

impl AsFd for SerialLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
