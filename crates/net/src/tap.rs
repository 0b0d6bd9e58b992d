//! TAP: a network card of the host whose other end is ours (Linux `Documentation/networking/tuntap.rst`).
//!
//! Frames go straight between the guest and the host's kernel; bridges, addresses and filters are the host's
//! business. The descriptor is opened by whoever builds the machine ([`open_tap`]) or handed over already open
//! ([`Tap::from_fd`]); the device's name and address are never part of a machine's state.
//! Deliberately not here: several queues, and the offloads of `IFF_VNET_HDR`.

// The one ioctl that attaches a descriptor to an interface; nothing else in this crate is unsafe.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use crate::{MAX_FRAME, NetBackend};

/// Where TAP devices are made.
const DEVICE: &str = "/dev/net/tun";

/// A TAP device that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// The name is no interface name.
    #[error("`{0}` is no name for a network interface: 1 to 15 bytes without `/`, `%`, spaces or NUL")]
    Name(String),
    /// The host's kernel has no TUN/TAP.
    #[error(
        "cannot open {DEVICE} for tap={name}: {source}; load the driver with `modprobe tun`, in a container pass the \
         device in (`--device {DEVICE}`), or use user-mode networking"
    )]
    NoDriver {
        /// The interface asked for.
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// This user may not use the interface.
    #[error(
        "this user may not use the TAP interface {name}: {source}; let root make it once with \
         `ip tuntap add dev {name} mode tap user $USER && ip link set {name} up`, or use user-mode networking"
    )]
    Permission {
        /// The interface asked for.
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// Another process holds the interface.
    #[error(
        "the TAP interface {name} is in use by another process: stop that one, or choose another interface"
    )]
    Busy {
        /// The interface asked for.
        name: String,
    },
    /// The interface is not a TAP interface with one queue.
    #[error(
        "{name} is no TAP interface with a single queue: {source}; remove it (`ip link delete {name}`) or choose \
         another name"
    )]
    WrongKind {
        /// The interface asked for.
        name: String,
        /// What the host said.
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot use the TAP interface {name}: {what}: {source}")]
    Other {
        /// The interface asked for.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What the host said.
        source: io::Error,
    },
}

/// One end of a TAP device.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
}

impl Tap {
    /// From a descriptor that is attached to a TAP interface without packet information (`IFF_TAP | IFF_NO_PI`).
    ///
    /// # Errors
    /// It cannot be made nonblocking.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Tap> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Tap { fd })
    }
}

/// Opens the TAP interface `name`; it is made where there is none and the caller may.
///
/// # Errors
/// Says what is missing on the host and how to get it.
pub fn open_tap(name: &str) -> Result<Tap, TapError> {
    let valid = |b: u8| b > b' ' && b < 0x7f && b != b'/' && b != b'%';
    if name.is_empty()
        || name.len() >= libc::IFNAMSIZ
        || !name.bytes().all(valid)
        || name == "."
        || name == ".."
    {
        return Err(TapError::Name(name.to_owned()));
    }
    let named = || name.to_owned();
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE);
    let fd: OwnedFd = match file {
        Ok(file) => file.into(),
        Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
            return Err(TapError::Permission { name: named(), source });
        }
        Err(source) => return Err(TapError::NoDriver { name: named(), source }),
    };
    attach(fd.as_fd(), name).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TapError::Permission { name: named(), source },
        Some(libc::EBUSY) => TapError::Busy { name: named() },
        Some(libc::EINVAL) => TapError::WrongKind { name: named(), source },
        _ => TapError::Other { name: named(), what: "cannot attach to it", source },
    })?;
    Tap::from_fd(fd).map_err(|source| TapError::Other {
        name: named(),
        what: "cannot make it nonblocking",
        source,
    })
}

/// Attaches an open `/dev/net/tun` to the interface `name`, which is shorter than `IFNAMSIZ`.
fn attach(fd: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    // SAFETY: `ifreq` is plain old data for which all zeroes is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which lives through the call; the descriptor is open.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

impl NetBackend for Tap {
    fn send(&mut self, frame: &[u8]) {
        // A full queue loses frames, as does an interface that is down.
        let _ = rustix::io::write(&self.fd, frame);
    }

    fn recv(&mut self, buf: &mut [u8]) -> Option<usize> {
        loop {
            // A larger MTU of the interface is the host's choice and no reason to hand a cut frame on. The kernel
            // cuts at `buf`, so a frame that fills a buffer of MAX_FRAME is taken as whole.
            match rustix::io::read(&self.fd, &mut *buf) {
                Ok(n) if n > MAX_FRAME => continue,
                Ok(n) => return Some(n),
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return None,
            }
        }
    }

    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    fn poll(&mut self, _: Instant) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_none_is_refused_before_anything_is_opened() {
        for name in ["", "a/b", "sixteen-bytes-xx", "a b", "tap%d", "..", "t\0"] {
            assert!(matches!(open_tap(name), Err(TapError::Name(_))), "{name:?}");
        }
    }

    #[test]
    fn frames_pass_a_descriptor_both_ways() {
        // A pair of datagram sockets keeps frame bounds as a TAP device does.
        let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let mut tap = Tap::from_fd(ours.into()).unwrap();
        let mut buf = [0; MAX_FRAME];
        assert_eq!(tap.recv(&mut buf), None);
        theirs.send(&[7; 60]).unwrap();
        theirs.send(&[8; 1514]).unwrap();
        assert_eq!(tap.recv(&mut buf), Some(60));
        assert_eq!((tap.recv(&mut buf), buf[1513]), (Some(1514), 8));
        tap.send(&[9; 42]);
        assert_eq!((theirs.recv(&mut buf).unwrap(), buf[41]), (42, 9));
        assert_eq!(tap.poll(Instant::now()), None);
    }
}
