//! A port of the host's network that a card can leave and come back to: a TAP device, and who is behind it.
//!
//! ```text
//!   open ──leave──► left ──come_back──► open        a machine that goes to another host, and stays after all
//!   open ──arrive──► open, announcing               one that has come: switches and neighbours are told where it is
//! ```
//! While it is left, frames from the guest are dropped, as by a cable that is pulled. The descriptor to wait for is an
//! epoll descriptor of its own, which stays the same whatever becomes of the TAP device.
//!
//! Until neighbours have heard where a card is, frames for it come to the interface that it has left, from the moment on
//! at which its machine stood still. TCP would send them again, after 200 ms at the earliest. So whoever has the card leave
//! gets hold of what comes there ([`Left`]), and whoever has it arrive takes what was sent after it ([`Port::follow`]).

use crate::tap::{Tap, TapError, open_tap};
use crate::{MAX_FRAME, NetBackend, Shown};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// When it is said where a card is, after its arrival: again and again, since each may be lost, and a switch may just be
/// learning about the links between.
const ROUNDS: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(80),
    Duration::from_millis(200),
    Duration::from_millis(450),
    Duration::from_millis(900),
];

/// How long an interface that was just left may take to be free.
const STILL_CLOSING: Duration = Duration::from_secs(1);

/// Frames that may wait for a machine that has come, or comes: as many as a TAP device holds.
const FOLLOWED: usize = 500;

/// A port with the card `mac` behind it. Clones are the same port.
#[derive(Clone)]
pub struct Port {
    epoll: Arc<OwnedFd>,
    state: Arc<Mutex<State>>,
}

struct State {
    name: String,
    mac: [u8; 6],
    tap: Option<Tap>,
    shown: Shown,
    /// It has come to another place, which the driver does not know.
    moved: bool,
    /// Announcements that were made, and when the first one was.
    announcing: Option<(usize, Option<Instant>)>,
    /// Frames that came to where it was before, and a descriptor that is readable while there are any.
    followed: VecDeque<Vec<u8>>,
    bell: OwnedFd,
}

/// The interface that a card has left: nothing is sent there any more, and what comes for the card can be read. It is free
/// when this is dropped, which takes some milliseconds: a host's kernel waits for all its processors.
pub struct Left {
    tap: Tap,
    mac: [u8; 6],
}

impl Left {
    /// The next frame for the card alone, or `None` for now. `buf` holds at least [`MAX_FRAME`] bytes; gives the length.
    /// What is for everybody is passed over, some of it at a time: it comes to every place where the card may be.
    pub fn recv(&mut self, buf: &mut [u8]) -> Option<usize> {
        for _ in 0..FOLLOWED {
            let n = self.tap.recv(buf)?;
            if buf.get(..n).is_some_and(|frame| frame.starts_with(&self.mac)) {
                return Some(n);
            }
        }
        None
    }

    /// Waits until a frame has come, for so long.
    pub fn wait(&self, limit: Duration) {
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: i64::from(limit.subsec_nanos()) };
        let mut fds = [PollFd::from_borrowed_fd(self.tap.poll_fd(), PollFlags::IN)];
        // An interface that was removed is never quiet.
        if poll(&mut fds, Some(&limit)).is_err() || fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR))
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Port {
    /// The TAP interface `name`, with the card `mac`.
    ///
    /// # Errors
    /// As [`open_tap`].
    pub fn open(name: &str, mac: [u8; 6]) -> Result<Port, TapError> {
        Port::over(open_tap(name)?, name, mac)
    }

    fn over(tap: Tap, name: &str, mac: [u8; 6]) -> Result<Port, TapError> {
        let fail = |e| other(name, e);
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(fail)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(fail)?;
        epoll::add(&epoll, &bell, EventData::new_u64(1), EventFlags::IN).map_err(fail)?;
        let (name, shown, followed) = (name.to_owned(), Shown::default(), VecDeque::new());
        let state = State { name, mac, tap: None, shown, moved: false, announcing: None, followed, bell };
        let port = Port { epoll: Arc::new(epoll), state: Arc::new(Mutex::new(state)) };
        port.put_in(tap)?;
        Ok(port)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_in(&self, tap: Tap) -> Result<(), TapError> {
        let mut state = self.lock();
        let added = epoll::add(&*self.epoll, tap.poll_fd(), EventData::new_u64(0), EventFlags::IN);
        added.map_err(|e| other(&state.name, e))?;
        state.tap = Some(tap);
        Ok(())
    }

    /// Leaves the interface: from now on nothing passes. Gives it, if it was not left before.
    pub fn leave(&self) -> Option<Left> {
        let mut state = self.lock();
        let (tap, mac) = (state.tap.take()?, state.mac);
        // Whoever waits for frames is woken by none of it. One that was never waited for is left all the same.
        let _ = epoll::delete(&*self.epoll, tap.poll_fd());
        Some(Left { tap, mac })
    }

    /// A frame for the card that came to where it was before. One of too many is lost, as on a wire.
    pub fn follow(&self, frame: &[u8]) {
        let mut state = self.lock();
        if state.followed.len() < FOLLOWED && frame.starts_with(&state.mac) {
            state.followed.push_back(frame.to_owned());
            // It cannot be full, and rings already if it is not zero.
            let _ = rustix::io::write(&state.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Closes the interface for good: when this returns, another process may open it, unless somebody has [`Left`] of it.
    pub fn close(&self) {
        drop(self.lock().tap.take());
    }

    /// Opens the interface again that was left.
    ///
    /// # Errors
    /// As [`open_tap`].
    pub fn come_back(&self) -> Result<(), TapError> {
        let name = {
            let state = self.lock();
            if state.tap.is_some() {
                return Ok(());
            }
            state.name.clone()
        };
        let begun = Instant::now();
        let tap = loop {
            match open_tap(&name) {
                // It may be that it is still being closed.
                Err(TapError::Busy { .. }) if begun.elapsed() < STILL_CLOSING => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                opened => break opened?,
            }
        };
        self.put_in(tap)?;
        self.lock().announcing = Some((0, None));
        Ok(())
    }

    /// Addresses that the guest has shown.
    pub fn shown(&self) -> Shown {
        self.lock().shown.clone()
    }

    /// The guest has come from elsewhere, where it had `shown` these addresses: once its frames are moved, it is said where
    /// it is. What has waited here was for nobody.
    pub fn arrive(&self, shown: Shown) {
        let mut state = self.lock();
        let mut buf = [0; MAX_FRAME + 1];
        for _ in 0..10_000 {
            if state.tap.as_mut().and_then(|t| t.recv(&mut buf)).is_none() {
                break;
            }
        }
        (state.shown, state.moved, state.announcing) = (shown, true, Some((0, None)));
    }
}

fn other(name: &str, e: rustix::io::Errno) -> TapError {
    TapError::Other { name: name.to_owned(), what: "cannot wait for its frames", source: e.into() }
}

impl NetBackend for Port {
    fn send(&mut self, frame: &[u8]) {
        let mut state = self.lock();
        let mac = state.mac;
        state.shown.hear(mac, frame);
        if let Some(tap) = &mut state.tap {
            tap.send(frame);
        }
    }

    fn recv(&mut self, buf: &mut [u8]) -> Option<usize> {
        let mut state = self.lock();
        let Some(frame) = state.followed.pop_front() else {
            return state.tap.as_mut().and_then(|t| t.recv(buf));
        };
        if state.followed.is_empty() {
            let _ = rustix::io::read(&state.bell, &mut [0; 8]);
        }
        let n = frame.len().min(buf.len());
        buf.iter_mut().zip(&frame).for_each(|(to, from)| *to = *from);
        Some(n)
    }

    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn poll(&mut self, now: Instant) -> Option<Duration> {
        let mut state = self.lock();
        let (mut round, begun) = state.announcing?;
        let begun = begun.unwrap_or(now);
        while let Some(due) = ROUNDS.get(round) {
            if let Some(left) = due.checked_sub(now.saturating_duration_since(begun)).filter(|l| !l.is_zero())
            {
                state.announcing = Some((round, Some(begun)));
                return Some(left);
            }
            let frames = state.shown.frames(state.mac);
            if let Some(tap) = &mut state.tap {
                frames.iter().for_each(|f| tap.send(f));
            }
            round += 1;
        }
        state.announcing = None;
        None
    }

    fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.lock().moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::os::unix::net::UnixDatagram;

    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn readable(port: &Port) -> bool {
        let fd = port.poll_fd();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }

    /// A pair of datagram sockets keeps frame bounds as a TAP device does.
    fn port() -> (Port, UnixDatagram) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.set_nonblocking(true).unwrap();
        (Port::over(Tap::from_fd(ours.into()).unwrap(), "t0", MAC).unwrap(), theirs)
    }

    #[test]
    fn a_port_that_is_left_carries_nothing_and_wakes_nobody() {
        let (mut port, theirs) = port();
        let mut buf = [0; MAX_FRAME];
        theirs.send(&[7; 60]).unwrap();
        assert!(readable(&port));
        let left = port.leave().unwrap();
        assert!(port.leave().is_none() && !readable(&port));
        assert_eq!(port.recv(&mut buf), None);
        port.send(&[1; 60]);
        assert!(theirs.recv(&mut buf).is_err(), "a frame was sent from an interface that was left");
        drop(left);
        assert!(theirs.send(&[7; 60]).is_err(), "the other end is not closed");
        assert!(!readable(&port));
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        port.put_in(Tap::from_fd(ours.into()).unwrap()).unwrap();
        theirs.send(&[8; 61]).unwrap();
        assert!(readable(&port));
        assert_eq!(port.recv(&mut buf), Some(61));
    }

    #[test]
    fn what_comes_to_where_a_card_was_follows_it_and_is_of_nobody_else() {
        let ((here, theirs), (mut there, _switch)) = (port(), port());
        let frame = |to: [u8; 6], n: u8| [&to[..], &[n; 60]].concat();
        let everybody = [0xff; 6];
        for sent in [frame(everybody, 1), frame(MAC, 2), frame([2, 0, 0, 0, 0, 8], 3), frame(MAC, 4)] {
            theirs.send(&sent).unwrap();
        }
        let mut left = here.leave().unwrap();
        left.wait(Duration::from_secs(10));
        let mut buf = [0; MAX_FRAME];
        let mut came = Vec::new();
        while let Some(n) = left.recv(&mut buf) {
            came.push(buf[..n].to_vec());
        }
        assert_eq!(came, [frame(MAC, 2), frame(MAC, 4)]);
        came.iter().for_each(|f| there.follow(f));
        there.follow(&frame(everybody, 5));
        for sent in &came {
            assert!(readable(&there));
            let n = there.recv(&mut buf).unwrap();
            assert_eq!(&buf[..n], sent);
        }
        assert!(!readable(&there));
        (0..2 * FOLLOWED).for_each(|_| there.follow(&came[0]));
        let kept = std::iter::from_fn(|| there.recv(&mut buf)).count();
        assert_eq!((kept, readable(&there)), (FOLLOWED, false));
    }

    #[test]
    fn a_card_that_has_come_is_announced_until_it_is_known() {
        let (mut here, _) = port();
        let known = Shown::new(&["10.9.0.2".parse().unwrap()]);
        here.send(&known.frames(MAC)[0]);
        assert_eq!(here.shown(), known);
        let (mut there, theirs) = port();
        theirs.send(&[7; 60]).unwrap();
        assert!(!there.take_moved());
        there.arrive(here.shown());
        let mut buf = [0; MAX_FRAME];
        assert_eq!(there.recv(&mut buf), None, "what waited was for nobody");
        assert_eq!((there.take_moved(), there.take_moved()), (true, false));
        let begun = Instant::now();
        let (mut now, mut count) = (begun, 0);
        while let Some(wait) = there.poll(now) {
            assert!(wait > Duration::ZERO && wait < Duration::from_secs(1));
            now += wait;
            while let Ok(n) = theirs.recv(&mut buf) {
                assert_eq!(buf[..n], known.frames(MAC)[0]);
                count += 1;
            }
        }
        count += std::iter::from_fn(|| theirs.recv(&mut buf).ok()).count();
        assert_eq!(count, ROUNDS.len());
        assert!(now - begun < Duration::from_secs(2));
    }
}
