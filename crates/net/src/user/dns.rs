//! The name server 10.0.2.3 (RFC 1035), UDP side; DNS over TCP is a plain connection to the host's name server.
//!
//! ```text
//!  query ─► A, IN, host's library ──► helper thread ──► answer built here
//!        ─► AAAA ───────────────────► "no such record" at once: this network has no IPv6
//!        ─► anything else ──────────► forwarded as it is ─► next server on silence ─► SERVFAIL
//! ```
//! An address on the host's loopback is given as the gateway's, which is what reaches it from inside. Bounded: so
//! many lookups and forwarded queries at a time, the oldest of the latter gives way. No cache: the guest, the host's
//! library and the servers each have one.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::SocketType;

use super::frame::{UDP_LEN, be16};
use super::host::{Host, Token};
use super::link::Link;
use super::plan;
use super::resolver::{Found, LOOKUPS, Lookup, Resolvers, Servers};
use super::table::{Id, Table};

/// The port of a name server.
pub const PORT: u16 = 53;

/// Forwarded queries at a time.
const QUERIES: usize = 128;
/// How long a server may take, and how often each is asked: together below the 10 s after which guests give up.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
const ROUNDS: usize = 2;
/// Seconds that a guest may keep an address which the host's library gave, as that tells no lifetime.
const TTL: u32 = 30;
/// Addresses in an answer: so many fit the 512 bytes of a plain UDP answer with the longest name.
const ANSWERS: usize = 14;

const HEADER: usize = 12;
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;
const CLASS_IN: u16 = 1;

/// Response codes of RFC 1035 section 4.1.1.
#[derive(Clone, Copy)]
enum Code {
    Ok = 0,
    Format = 1,
    Failed = 2,
    NoName = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// A query with one question.
struct Question {
    name: Option<String>,
    kind: u16,
    class: u16,
    /// Where the question ends in the message.
    end: usize,
}

/// Parses the header and the only question.
fn parse(query: &[u8]) -> Result<Question, Code> {
    let flags = be16(query, 2).ok_or(Code::Format)?;
    if flags & 0x7800 != 0 {
        return Err(Code::NotImplemented);
    }
    if be16(query, 4) != Some(1) {
        return Err(Code::Format);
    }
    let mut at = HEADER;
    let mut name = Some(String::new());
    loop {
        let len = usize::from(*query.get(at).ok_or(Code::Format)?);
        at += 1;
        if len == 0 {
            break;
        }
        if len > 63 || at + len > HEADER + 255 {
            return Err(Code::Format); // a compressed or overlong name has no place in a question
        }
        let label = query.get(at..at + len).ok_or(Code::Format)?;
        let plain = label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        name = name.filter(|_| plain).map(|mut n| {
            if !n.is_empty() {
                n.push('.');
            }
            n.extend(label.iter().map(|&b| char::from(b)));
            n
        });
        at += len;
    }
    let (kind, class) = (be16(query, at).ok_or(Code::Format)?, be16(query, at + 2).ok_or(Code::Format)?);
    Ok(Question { name: name.filter(|n| !n.is_empty()), kind, class, end: at + 4 })
}

/// An answer to `query`, whose question ends at `end`.
fn answer(query: &[u8], end: usize, code: Code, addresses: &[Ipv4Addr]) -> Vec<u8> {
    let addresses = &addresses[..addresses.len().min(ANSWERS)];
    let question = query.get(HEADER..end).unwrap_or_default();
    let mut m = vec![0; UDP_LEN];
    m.extend_from_slice(query.get(..2).unwrap_or(&[0, 0]));
    // A response; opcode and "recursion desired" as asked; recursion available.
    let flags = be16(query, 2).unwrap_or(0) & 0x7900 | 0x8080 | code as u16;
    m.extend(flags.to_be_bytes());
    m.extend(u16::from(!question.is_empty()).to_be_bytes());
    m.extend((addresses.len() as u16).to_be_bytes());
    m.extend([0; 4]);
    m.extend_from_slice(question);
    for addr in addresses {
        m.extend([0xc0, HEADER as u8]); // the name of the question
        m.extend([TYPE_A.to_be_bytes(), CLASS_IN.to_be_bytes()].concat());
        m.extend(TTL.to_be_bytes());
        m.extend(4u16.to_be_bytes());
        m.extend(addr.octets());
    }
    m
}

/// A lookup in the host's library.
struct Waiting {
    number: u64,
    guest: SocketAddrV4,
    query: Vec<u8>,
    end: usize,
    local: bool,
}

/// A forwarded query.
struct Query {
    socket: OwnedFd,
    guest: SocketAddrV4,
    query: Vec<u8>,
    /// Servers still to ask, the next one last.
    rest: Vec<SocketAddr>,
    deadline: Instant,
}

/// The name server.
pub struct Dns {
    servers: Servers,
    lookup: Lookup,
    waiting: Vec<Waiting>,
    queries: Table<u64, Query>,
    next: u64,
}

impl Dns {
    pub fn new(resolvers: Resolvers, host: &Host) -> rustix::io::Result<Dns> {
        let lookup = Lookup::new()?;
        host.watch(lookup.fd(), Token::Lookup)?;
        let queries = Table::new(QUERIES);
        Ok(Dns { servers: Servers::new(resolvers), lookup, waiting: Vec::new(), queries, next: 0 })
    }

    /// The host's name servers, for DNS over TCP.
    pub fn servers(&mut self, now: Instant) -> Vec<SocketAddr> {
        self.servers.list(now).to_vec()
    }

    /// Takes a query of the guest.
    pub fn input(&mut self, guest: SocketAddrV4, query: &[u8], host: &Host, link: &mut Link) {
        // Too short to be answered, or itself an answer.
        if query.len() < HEADER || query[2] & 0x80 != 0 {
            return;
        }
        let q = match parse(query) {
            Ok(q) => q,
            Err(code) => return reply(link, guest, answer(query, 0, code, &[])),
        };
        if host.is_isolated() {
            return reply(link, guest, answer(query, q.end, Code::Refused, &[]));
        }
        match (q.kind, q.class, q.name) {
            (TYPE_AAAA, CLASS_IN, _) => reply(link, guest, answer(query, q.end, Code::Ok, &[])),
            (TYPE_A, CLASS_IN, Some(name)) if self.servers.uses_library() => {
                self.look_up(guest, query, q.end, name, link)
            }
            _ => self.forward(guest, query.to_vec(), host, link),
        }
    }

    fn look_up(&mut self, guest: SocketAddrV4, query: &[u8], end: usize, name: String, link: &mut Link) {
        if self.waiting.iter().any(|w| w.guest == guest && w.query == query) {
            return; // the guest has lost patience; the answer will come
        }
        let busy = self.waiting.len();
        let lower = name.to_ascii_lowercase();
        let local = lower == "localhost" || lower.ends_with(".localhost");
        self.next += 1;
        if busy < LOOKUPS && self.lookup.start(self.next, name, busy) {
            let query = query.to_vec();
            self.waiting.push(Waiting { number: self.next, guest, query, end, local });
        } else {
            reply(link, guest, answer(query, end, Code::Failed, &[]));
        }
    }

    /// Answers what the helper threads have found.
    pub fn lookups_done(&mut self, link: &mut Link) {
        while let Some((number, found)) = self.lookup.finished() {
            let Some(at) = self.waiting.iter().position(|w| w.number == number) else { continue };
            let w = self.waiting.swap_remove(at);
            let (code, mut addresses) = match found {
                Found::Addresses(list) => {
                    (Code::Ok, list.into_iter().map(|a| seen_inside(a, w.local)).collect())
                }
                Found::NoName => (Code::NoName, Vec::new()),
                Found::Failed => (Code::Failed, Vec::new()),
            };
            addresses.dedup();
            reply(link, w.guest, answer(&w.query, w.end, code, &addresses));
        }
    }

    fn forward(&mut self, guest: SocketAddrV4, query: Vec<u8>, host: &Host, link: &mut Link) {
        let list = self.servers.list(link.now);
        let mut rest: Vec<SocketAddr> = list.iter().copied().cycle().take(list.len() * ROUNDS).collect();
        rest.reverse();
        if self.queries.is_full()
            && let Some(oldest) = self.queries.iter().min_by_key(|(_, number, _)| **number).map(|q| q.0)
        {
            self.queries.remove(oldest);
        }
        self.ask(guest, query, rest, host, link);
    }

    /// Sends a query to the next of the `rest` of its servers.
    fn ask(
        &mut self,
        guest: SocketAddrV4,
        query: Vec<u8>,
        mut rest: Vec<SocketAddr>,
        host: &Host,
        link: &mut Link,
    ) {
        let deadline = link.now + SERVER_TIMEOUT;
        while let Some(server) = rest.pop() {
            // A socket of its own for each: the kernel's choice of port guards against forged answers.
            let Ok(socket) = host.connect(SocketType::DGRAM, server) else { continue };
            if rustix::net::send(&socket, &query, rustix::net::SendFlags::NOSIGNAL).is_err() {
                continue;
            }
            self.next += 1;
            let Some(id) = self.queries.insert(self.next, Query { socket, guest, query, rest, deadline })
            else {
                return;
            };
            let watched = self.queries.get(id).map(|(_, q)| host.watch(&q.socket, Token::Dns(id)));
            if !matches!(watched, Some(Ok(()))) {
                self.queries.remove(id);
            }
            return;
        }
        let end = parse(&query).map_or(0, |q| q.end);
        reply(link, guest, answer(&query, end, Code::Failed, &[]));
    }

    fn ask_next(&mut self, id: Id, host: &Host, link: &mut Link) {
        if let Some((_, q)) = self.queries.remove(id) {
            self.ask(q.guest, q.query, q.rest, host, link);
        }
    }

    /// A server has answered, or its host has refused.
    pub fn event(&mut self, id: Id, host: &Host, link: &mut Link, scratch: &mut [u8]) {
        let Some((_, q)) = self.queries.get(id) else { return };
        let Some(space) = scratch.get_mut(UDP_LEN..) else { return };
        match rustix::io::read(&q.socket, &mut *space) {
            Ok(n) => {
                let message = &space[..n];
                let flags = be16(message, 2).unwrap_or(0);
                if n < HEADER || message[..2] != q.query[..2] || flags & 0x8000 == 0 {
                    return; // not the answer to this query
                }
                let failed = matches!(flags & 0xf, 2 | 5); // SERVFAIL, REFUSED
                if failed && !q.rest.is_empty() {
                    return self.ask_next(id, host, link);
                }
                let guest = q.guest;
                link.send_udp(SocketAddrV4::new(plan::DNS, PORT), guest, &mut scratch[..UDP_LEN + n]);
                self.queries.remove(id);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            Err(_) => self.ask_next(id, host, link),
        }
    }

    /// Asks the next server where one has been silent for too long; gives when to look again.
    pub fn expire(&mut self, host: &Host, link: &mut Link) -> Option<Instant> {
        let now = link.now;
        let late: Vec<Id> =
            self.queries.iter().filter(|(_, _, q)| q.deadline <= now).map(|(id, ..)| id).collect();
        for id in late {
            self.ask_next(id, host, link);
        }
        self.queries.iter().map(|(_, _, q)| q.deadline).min()
    }
}

/// The address by which the guest reaches what the host calls `addr`. Names under `localhost` (`local`) are the
/// guest's own (RFC 6761 section 6.3).
fn seen_inside(addr: Ipv4Addr, local: bool) -> Ipv4Addr {
    if addr.is_loopback() && !local { plan::GATEWAY } else { addr }
}

/// Sends a message that stands after [`UDP_LEN`] free bytes.
fn reply(link: &mut Link, guest: SocketAddrV4, mut segment: Vec<u8>) {
    link.send_udp(SocketAddrV4::new(plan::DNS, PORT), guest, &mut segment);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn query(name: &str, kind: u16) -> Vec<u8> {
        let mut q = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            q.push(label.len() as u8);
            q.extend(label.bytes());
        }
        q.extend([0, 0, kind as u8, 0, 1]);
        q
    }

    #[test]
    fn a_question_is_read_and_answered() {
        let q = query("deb.example.org", TYPE_A);
        let p = parse(&q).ok().unwrap();
        assert_eq!((p.name.as_deref(), p.kind, p.class, p.end), (Some("deb.example.org"), 1, 1, q.len()));
        let a = answer(&q, p.end, Code::Ok, &[Ipv4Addr::new(192, 0, 2, 7)]);
        let m = &a[UDP_LEN..];
        assert_eq!(m[..HEADER], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
        assert_eq!(m[HEADER..q.len()], q[HEADER..]);
        assert_eq!(m[q.len()..], [0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 7]);
    }

    #[test]
    fn the_hosts_loopback_is_the_gateway_to_the_guest() {
        let debian = Ipv4Addr::new(127, 0, 1, 1); // what Debian gives a host's own name
        assert_eq!(seen_inside(debian, false), plan::GATEWAY);
        assert_eq!(seen_inside(Ipv4Addr::LOCALHOST, true), Ipv4Addr::LOCALHOST);
        assert_eq!(seen_inside(Ipv4Addr::new(192, 0, 2, 1), false), Ipv4Addr::new(192, 0, 2, 1));
    }

    #[test]
    fn an_odd_name_is_not_for_the_library() {
        assert!(parse(&query("a b.example", TYPE_A)).ok().unwrap().name.is_none());
        assert!(parse(&[0, 0, 0x28, 0, 0, 1]).is_err());
    }

    #[test]
    fn the_largest_answer_fits_plain_udp() {
        let label = "a".repeat(62);
        let q = query(&[label.as_str(); 4].join("."), TYPE_A);
        let end = parse(&q).ok().unwrap().end;
        let a = answer(&q, end, Code::Ok, &[Ipv4Addr::LOCALHOST; 100]);
        assert!(a.len() - UDP_LEN <= 512, "{}", a.len());
    }

    proptest! {
        #[test]
        fn any_query_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..90)) {
            let end = parse(&bytes).map_or(0, |q| q.end);
            prop_assert!(end <= bytes.len());
            answer(&bytes, end, Code::Ok, &[Ipv4Addr::LOCALHOST]);
        }
    }
}
