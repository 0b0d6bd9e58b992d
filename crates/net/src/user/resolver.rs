//! Where names are looked up: the host's resolver library for addresses, the host's name servers for the rest.
//!
//! The library knows all of the host's ways to a name (`/etc/hosts`, mDNS, a local cache), but its calls block; so
//! they run on at most [`THREADS`] helper threads, started when first needed, and come back through an eventfd.
//! A thread whose network is gone ends after the lookup it is in.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use dns_lookup::{AddrInfoHints, LookupErrorKind, getaddrinfo};
use rustix::event::{EventfdFlags, eventfd};

/// Helper threads at most: a guest at boot asks for a handful of names at once.
const THREADS: usize = 4;
/// Lookups under way at most, waiting ones included.
pub const LOOKUPS: usize = 64;
/// How often the resolver configuration is looked at again.
const REREAD: Duration = Duration::from_secs(1);
/// Name servers used, as in the C library's MAXNS.
const SERVERS: usize = 3;

/// Where the guest's names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolvers {
    /// As the host does: IPv4 addresses through its resolver library, other records from the servers of this file,
    /// which is read again when it changes.
    Host(PathBuf),
    /// Everything from these servers, in order.
    Servers(Vec<SocketAddr>),
}

impl Default for Resolvers {
    fn default() -> Self {
        Resolvers::Host("/etc/resolv.conf".into())
    }
}

/// The name servers, kept up to date.
pub struct Servers {
    source: Resolvers,
    list: Vec<SocketAddr>,
    seen: Option<(SystemTime, u64)>,
    looked: Option<Instant>,
}

impl Servers {
    pub fn new(source: Resolvers) -> Servers {
        let list = match &source {
            Resolvers::Servers(list) => list.clone(),
            Resolvers::Host(_) => Vec::new(),
        };
        Servers { source, list, seen: None, looked: None }
    }

    /// Whether addresses come from the host's library.
    pub fn uses_library(&self) -> bool {
        matches!(self.source, Resolvers::Host(_))
    }

    /// The servers to ask, in order.
    pub fn list(&mut self, now: Instant) -> &[SocketAddr] {
        if let Resolvers::Host(path) = &self.source
            && self.looked.is_none_or(|t| now.saturating_duration_since(t) >= REREAD)
        {
            self.looked = Some(now);
            let mark = std::fs::metadata(path).and_then(|m| Ok((m.modified()?, m.len()))).ok();
            if mark.is_none() || mark != self.seen {
                self.seen = mark;
                self.list = parse_resolv_conf(&std::fs::read_to_string(path).unwrap_or_default());
            }
        }
        &self.list
    }
}

/// The `nameserver` lines of resolv.conf(5).
fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        let addr = words.next().filter(|w| *w == "nameserver").and(words.next())?;
        let (addr, scope) = addr.split_once('%').unwrap_or((addr, ""));
        Some(match addr.parse().ok()? {
            IpAddr::V4(a) => SocketAddr::from((a, 53)),
            IpAddr::V6(a) => SocketAddrV6::new(a, 53, 0, scope_id(scope)).into(),
        })
    };
    text.lines().filter_map(server).take(SERVERS).collect()
}

/// The number of a link-local scope, given as number or as interface name.
fn scope_id(scope: &str) -> u32 {
    let named = || {
        let plain = !scope.is_empty() && !scope.contains('/') && !scope.starts_with('.');
        plain.then(|| std::fs::read_to_string(format!("/sys/class/net/{scope}/ifindex")).ok()).flatten()
    };
    scope.parse().ok().or_else(|| named()?.trim().parse().ok()).unwrap_or(0)
}

/// What came of a lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The name's IPv4 addresses; none where it has only others.
    Addresses(Vec<Ipv4Addr>),
    /// There is no such name.
    NoName,
    /// Nobody could say.
    Failed,
}

/// A lookup's number, and the name.
type Job = (u64, String);
/// A lookup's number, and what came of it.
type Done = (u64, Found);

/// The helper threads.
pub struct Lookup {
    jobs: SyncSender<Job>,
    waiting: Arc<Mutex<Receiver<Job>>>,
    done: (Sender<Done>, Receiver<Done>),
    wake: Arc<OwnedFd>,
    threads: usize,
}

impl Lookup {
    pub fn new() -> rustix::io::Result<Lookup> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let (jobs, waiting) = sync_channel(LOOKUPS);
        Ok(Lookup { jobs, waiting: Arc::new(Mutex::new(waiting)), done: channel(), wake, threads: 0 })
    }

    /// Readable when a lookup is done.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Starts looking `name` up as `number`; false where too much is under way. `busy` lookups are unfinished.
    pub fn start(&mut self, number: u64, name: String, busy: usize) -> bool {
        if busy >= self.threads && self.threads < THREADS {
            let (waiting, done, wake) = (self.waiting.clone(), self.done.0.clone(), self.wake.clone());
            let thread = std::thread::Builder::new().name("net-lookup".into()).stack_size(256 << 10);
            match thread.spawn(move || serve(&waiting, &done, &wake)) {
                Ok(_) => self.threads += 1,
                Err(e) => tracing::warn!("user network: cannot start a thread to look names up: {e}"),
            }
        }
        self.threads > 0 && self.jobs.try_send((number, name)).is_ok()
    }

    /// A finished lookup. Quiets the descriptor when there is none left.
    pub fn finished(&mut self) -> Option<Done> {
        let mut count = [0; 8];
        let _ = rustix::io::read(&*self.wake, &mut count);
        self.done.1.try_recv().ok()
    }
}

fn serve(waiting: &Mutex<Receiver<Job>>, done: &Sender<Done>, wake: &OwnedFd) {
    loop {
        let job = match waiting.lock() {
            Ok(jobs) => jobs.recv(),
            Err(_) => return,
        };
        let Ok((number, name)) = job else { return };
        if done.send((number, look_up(&name))).is_err() {
            return;
        }
        let _ = rustix::io::write(wake, &1u64.to_ne_bytes());
    }
}

fn look_up(name: &str) -> Found {
    let hints = AddrInfoHints { address: libc::AF_INET, socktype: libc::SOCK_STREAM, ..Default::default() };
    match getaddrinfo(Some(name), None, Some(hints)) {
        Ok(all) => Found::Addresses(
            all.filter_map(|info| match info.ok()?.sockaddr {
                SocketAddr::V4(a) => Some(*a.ip()),
                SocketAddr::V6(_) => None,
            })
            .collect(),
        ),
        Err(e) => match e.kind() {
            LookupErrorKind::NoName => Found::NoName,
            LookupErrorKind::NoData | LookupErrorKind::Family => Found::Addresses(Vec::new()),
            _ => Found::Failed,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_gives_its_first_three_servers() {
        let text = "# nameserver 1.1.1.1\nsearch x\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # second\n\
                    nameserver nonsense\nnameserver fe80::1%3\nnameserver 192.0.2.9\n";
        let list = parse_resolv_conf(text);
        assert_eq!(list[0], "192.0.2.1:53".parse().unwrap());
        assert_eq!(list[1], "[2001:db8::1]:53".parse().unwrap());
        assert_eq!(list[2], "[fe80::1%3]:53".parse().unwrap());
        assert_eq!(list.len(), 3);
    }

    #[test]
    fn a_changed_file_is_read_again_and_a_missing_one_is_empty() {
        let path = std::env::temp_dir().join(format!("strata-resolv-{}", std::process::id()));
        let mut servers = Servers::new(Resolvers::Host(path.clone()));
        let start = Instant::now();
        assert!(servers.list(start).is_empty());
        std::fs::write(&path, "nameserver 192.0.2.1\n").unwrap();
        assert!(servers.list(start).is_empty());
        assert_eq!(servers.list(start + REREAD).len(), 1);
        std::fs::write(&path, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n").unwrap();
        assert_eq!(servers.list(start + REREAD * 2).len(), 2);
        std::fs::remove_file(&path).unwrap();
        assert!(servers.list(start + REREAD * 3).is_empty());
    }

    #[test]
    fn the_library_knows_localhost_and_refuses_nonsense() {
        assert_eq!(look_up("localhost"), Found::Addresses(vec![Ipv4Addr::LOCALHOST]));
        assert_ne!(look_up("no such name"), Found::Addresses(vec![Ipv4Addr::LOCALHOST]));
    }

    #[test]
    fn lookups_come_back_through_the_descriptor() {
        let mut lookup = Lookup::new().unwrap();
        for number in 0..8 {
            assert!(lookup.start(number, "localhost".into(), number as usize));
        }
        assert_eq!(lookup.threads, THREADS);
        let mut seen = 0u32;
        while seen != 0xff {
            let mut fds = [rustix::event::PollFd::new(&*lookup.wake, rustix::event::PollFlags::IN)];
            let limit = rustix::time::Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut fds, Some(&limit)).unwrap(), 1);
            while let Some((number, found)) = lookup.finished() {
                assert_eq!(found, Found::Addresses(vec![Ipv4Addr::LOCALHOST]));
                seen |= 1 << number;
            }
        }
    }
}
