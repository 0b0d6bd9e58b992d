//! Port forwards: what a user asks for, and the open host socket it becomes.
//!
//! The network itself opens no port: whoever builds the machine calls [`bind_forward`] (or brings a socket of its
//! own) before the process gives its privileges up, and hands the [`OpenForward`] over.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::str::FromStr;

/// The protocol of a forwarded port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Proto {
    /// Connections.
    #[default]
    Tcp,
    /// Datagrams.
    Udp,
}

/// A host port which leads to a port of the guest.
///
/// As text: `[tcp:|udp:][ADDRESS:]HOST_PORT:GUEST_PORT`, an IPv6 address in brackets; TCP on 127.0.0.1 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Forward {
    /// Where the host listens.
    pub host_addr: IpAddr,
    /// On which port; 0 lets the host choose.
    pub host_port: u16,
    /// The guest's port.
    pub guest_port: u16,
    /// Connections or datagrams.
    pub proto: Proto,
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = SocketAddr::new(self.host_addr, self.host_port);
        write!(f, "{}:{host}:{}", self.proto, self.guest_port)
    }
}

/// A text that names no forward.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no port forward: write HOST_PORT:GUEST_PORT, such as 2222:22, or in full \
     udp:127.0.0.1:5353:53 (IPv6 addresses in brackets, ports from 1 to 65535)"
)]
pub struct ForwardSyntax(String);

impl FromStr for Forward {
    type Err = ForwardSyntax;

    fn from_str(text: &str) -> Result<Forward, ForwardSyntax> {
        let parse = || {
            let (proto, rest) = match text.split_once(':') {
                Some(("tcp", rest)) => (Proto::Tcp, rest),
                Some(("udp", rest)) => (Proto::Udp, rest),
                _ => (Proto::Tcp, text),
            };
            let (rest, guest_port) = rest.rsplit_once(':')?;
            let (host_addr, host_port) = match rest.rsplit_once(':') {
                Some((addr, port)) => {
                    let bare = addr.strip_prefix('[').and_then(|a| a.strip_suffix(']'));
                    let addr = match bare {
                        Some(v6) => IpAddr::V6(v6.parse().ok()?),
                        None => IpAddr::V4(addr.parse().ok()?),
                    };
                    (addr, port)
                }
                None => (IpAddr::V4(Ipv4Addr::LOCALHOST), rest),
            };
            let port = |text: &str| text.parse::<u16>().ok().filter(|p| *p != 0);
            Some(Forward { host_addr, host_port: port(host_port)?, guest_port: port(guest_port)?, proto })
        };
        parse().ok_or_else(|| ForwardSyntax(text.to_owned()))
    }
}

/// A forward whose host socket is open.
#[derive(Debug)]
pub struct OpenForward {
    pub(super) proto: Proto,
    pub(super) guest_port: u16,
    pub(super) socket: OwnedFd,
}

impl OpenForward {
    /// From a listening TCP socket.
    pub fn tcp(listener: TcpListener, guest_port: u16) -> OpenForward {
        OpenForward { proto: Proto::Tcp, guest_port, socket: listener.into() }
    }

    /// From a bound UDP socket.
    pub fn udp(socket: UdpSocket, guest_port: u16) -> OpenForward {
        OpenForward { proto: Proto::Udp, guest_port, socket: socket.into() }
    }
}

/// A host port that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// Another program has it.
    #[error(
        "cannot forward {forward}: port {} of {} is already taken on this host; \
         stop the program that listens there, or choose another host port", forward.host_port, forward.host_addr
    )]
    Taken {
        /// What was asked for.
        forward: Forward,
    },
    /// Ports below `net.ipv4.ip_unprivileged_port_start` are for root.
    #[error(
        "cannot forward {forward}: this user may not listen on port {} of {}; choose a host port from 1024 on, or \
         lower the limit with `sysctl net.ipv4.ip_unprivileged_port_start={}`",
        forward.host_port, forward.host_addr, forward.host_port
    )]
    Forbidden {
        /// What was asked for.
        forward: Forward,
    },
    /// The host has no such address.
    #[error(
        "cannot forward {forward}: {} is no address of this host; use one that `ip address` lists, or 0.0.0.0 for \
         all", forward.host_addr
    )]
    NoAddress {
        /// What was asked for.
        forward: Forward,
    },
    /// Anything else.
    #[error("cannot forward {forward}: cannot listen on {}:{}: {source}", forward.host_addr, forward.host_port)]
    Other {
        /// What was asked for.
        forward: Forward,
        /// What the host said.
        source: std::io::Error,
    },
}

/// Opens the host socket of a forward.
///
/// # Errors
/// Says which port cannot be had, why, and what to do.
pub fn bind_forward(forward: Forward) -> Result<OpenForward, ForwardError> {
    let addr = SocketAddr::new(forward.host_addr, forward.host_port);
    let opened = match forward.proto {
        Proto::Tcp => TcpListener::bind(addr).map(|l| OpenForward::tcp(l, forward.guest_port)),
        Proto::Udp => UdpSocket::bind(addr).map(|s| OpenForward::udp(s, forward.guest_port)),
    };
    opened.map_err(|source| match source.kind() {
        std::io::ErrorKind::AddrInUse => ForwardError::Taken { forward },
        std::io::ErrorKind::PermissionDenied => ForwardError::Forbidden { forward },
        std::io::ErrorKind::AddrNotAvailable => ForwardError::NoAddress { forward },
        _ => ForwardError::Other { forward, source },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_as_documented_and_printed_back() {
        for (text, full) in [
            ("2222:22", "tcp:127.0.0.1:2222:22"),
            ("udp:5353:53", "udp:127.0.0.1:5353:53"),
            ("0.0.0.0:80:8080", "tcp:0.0.0.0:80:8080"),
            ("udp:[::1]:1:2", "udp:[::1]:1:2"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(forward.to_string(), full);
            assert_eq!(full.parse(), Ok(forward));
        }
        for bad in
            ["", "22", "22:", ":22", "0:22", "22:0", "70000:1", "sctp:1:2", "::1:1:2", "host:1:2", "1:2:3:4"]
        {
            assert!(bad.parse::<Forward>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_taken_port_is_named() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let error = bind_forward(format!("{port}:22").parse().unwrap()).unwrap_err();
        assert!(matches!(error, ForwardError::Taken { .. }));
        let text = error.to_string();
        assert!(text.contains(&port.to_string()) && text.contains("already taken"), "{text}");
        let error = bind_forward("192.0.2.1:4000:22".parse().unwrap()).unwrap_err();
        assert!(matches!(error, ForwardError::NoAddress { .. }), "{error}");
    }
}
