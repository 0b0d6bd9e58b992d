//! The worker that moves bytes between a serial device and two descriptors.

use super::{Serial, SerialLink};
use crate::{Shared, Worker};
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

/// How long output is gathered after a write, before the next. Below what a person sees, above what a guest needs
/// for a line.
const GATHER: Duration = Duration::from_millis(1);
/// Output that is written without gathering further: one page, the unit in which pipes and terminals take bytes.
const CHUNK: usize = 4096;
/// Reads or writes in one turn, so that a turn ends even if the peer is as fast as we are.
const STEPS: usize = 16;

/// An open descriptor of the peer.
struct End {
    fd: OwnedFd,
    /// A file or a device such as `/dev/null`: always ready, and `epoll` refuses it.
    always_ready: bool,
}

impl End {
    fn new(fd: OwnedFd) -> std::io::Result<End> {
        let flags = fcntl_getfl(&fd)?;
        if !flags.contains(OFlags::NONBLOCK) {
            fcntl_setfl(&fd, flags | OFlags::NONBLOCK)?;
        }
        let always_ready = match FileType::from_raw_mode(fstat(&fd)?.st_mode) {
            FileType::Fifo | FileType::Socket => false,
            FileType::CharacterDevice => !rustix::termios::isatty(&fd),
            _ => true,
        };
        Ok(End { fd, always_ready })
    }
}

/// Serves the host side of device `D`.
pub struct SerialWorker<D> {
    name: String,
    device: Shared<D>,
    link: Arc<SerialLink>,
    input: Option<End>,
    output: Option<End>,
    /// Read, but the device had become narrower meanwhile.
    left: Vec<u8>,
    /// The peer takes no more at the moment.
    blocked: bool,
    written: Option<Instant>,
    gather: Duration,
}

impl<D: Serial> SerialWorker<D> {
    /// A worker for `device`, whose link is `link`. Without `output` what the guest sends is dropped; without
    /// `input` it receives nothing.
    ///
    /// The descriptors are set to non-blocking, which holds for everyone who shares their open file description:
    /// give descriptors of one's own (a standard stream opened anew), not duplicates of a shell's.
    ///
    /// # Errors
    /// What the host says to `fcntl` and `fstat` on the descriptors.
    pub fn new(
        name: impl Into<String>,
        device: Shared<D>,
        link: Arc<SerialLink>,
        input: Option<OwnedFd>,
        output: Option<OwnedFd>,
    ) -> std::io::Result<SerialWorker<D>> {
        let input = input.map(End::new).transpose()?;
        let output = output.map(End::new).transpose()?;
        let (name, left) = (name.into(), Vec::new());
        let (blocked, written, gather) = (false, None, GATHER);
        let mut w = SerialWorker { name, device, link, input, output, left, blocked, written, gather };
        if w.output.is_none() {
            w.hang_up();
        }
        Ok(w)
    }

    /// The same worker, which writes at once: a turn leaves nothing behind that the peer would take.
    #[must_use]
    pub fn without_gathering(mut self) -> SerialWorker<D> {
        self.gather = Duration::ZERO;
        self
    }

    /// A worker over one two-way stream (a socket, a terminal).
    ///
    /// # Errors
    /// As [`SerialWorker::new`]; also when the descriptor cannot be duplicated.
    pub fn over_stream(
        name: impl Into<String>,
        device: Shared<D>,
        link: Arc<SerialLink>,
        stream: OwnedFd,
    ) -> std::io::Result<SerialWorker<D>> {
        let input = stream.try_clone()?;
        SerialWorker::new(name, device, link, Some(input), Some(stream))
    }

    fn device(&self) -> MutexGuard<'_, D> {
        self.device.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Room in the device; if there is none, the device will ring once there is.
    fn room_or_starve(&self) -> usize {
        let device = self.device();
        let room = device.room();
        if room == 0 {
            self.link.starve();
        }
        room
    }

    fn hang_up(&mut self) {
        self.output = None;
        self.blocked = false;
        if self.link.close() {
            self.device().output_resumed();
        }
    }

    /// Writes what waits. Gives when to come again, if not only when rung or when the peer is ready.
    fn write_out(&mut self) -> Option<Duration> {
        let mut buf = [0; CHUNK];
        for _ in 0..STEPS {
            let end = self.output.as_ref()?;
            let waiting = self.link.waiting();
            if waiting == 0 {
                return None;
            }
            if let Some(early) =
                self.written.and_then(|at| self.gather.checked_sub(at.elapsed())).filter(|d| !d.is_zero())
                && waiting < CHUNK
            {
                return Some(early);
            }
            let n = self.link.peek(&mut buf);
            match rustix::io::write(&end.fd, buf.get(..n).unwrap_or_default()) {
                Ok(n) => {
                    self.blocked = false;
                    // A full chunk is no reason to wait; the remainder of it is gathered.
                    self.written = Some(Instant::now());
                    if self.link.consume(n) {
                        self.device().output_resumed();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.blocked = true;
                    return None;
                }
                Err(why) => {
                    tracing::info!(name = self.name, %why, "the console's reader is gone; output is dropped");
                    self.hang_up();
                }
            }
        }
        Some(Duration::ZERO)
    }

    /// Reads what the device has room for. Gives whether to come again at once.
    fn read_in(&mut self) -> bool {
        let mut buf = [0; 256];
        for _ in 0..STEPS {
            if !self.left.is_empty() {
                let taken = self.device().receive(&self.left);
                self.left.drain(..taken.min(self.left.len()));
                if !self.left.is_empty() {
                    return self.room_or_starve() > 0;
                }
            }
            let Some(end) = &self.input else { return false };
            let room = self.room_or_starve().min(buf.len());
            if room == 0 {
                return false;
            }
            let result = rustix::io::read(&end.fd, buf.get_mut(..room).unwrap_or_default());
            match result {
                Ok(0) => self.input = None,
                Ok(n) => self.left.extend(buf.iter().take(n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                Err(why) => {
                    tracing::info!(name = self.name, %why, "the console's input has ended");
                    self.input = None;
                }
            }
        }
        true
    }
}

impl<D: Serial> Worker for SerialWorker<D> {
    fn wait_for(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.link.as_fd()];
        if let Some(end) = &self.input
            && !end.always_ready
            && self.room_or_starve() > 0
        {
            fds.push(end.fd.as_fd());
        }
        fds
    }

    fn wait_to_write(&self) -> Vec<BorrowedFd<'_>> {
        self.output.iter().filter(|e| self.blocked && !e.always_ready).map(|e| e.fd.as_fd()).collect()
    }

    fn turn(&mut self) -> Option<Duration> {
        self.link.silence();
        let again = self.write_out();
        if self.read_in() { Some(Duration::ZERO) } else { again }
    }

    fn drained(&self) -> bool {
        self.link.is_empty()
    }

    fn name(&self) -> &str {
        &self.name
    }
}
