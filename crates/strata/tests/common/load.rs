//! Clients that write to a service all the time, each over one connection that is never made anew, and remember what they were
//! told is durable.
//!
//! Client `c` makes the writes 1, 2, 3 … in this order; what belongs under a number follows from both, so the last number
//! that was acknowledged says what has to be found.

use super::{PATIENCE, until};
use std::io::{self, BufRead, BufReader, Error, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a service is spoken to with.
pub trait Service: Copy + Send + 'static {
    /// The first words on a connection; an error if it cannot serve yet.
    fn greet(self, on: &mut Connection) -> io::Result<()>;
    /// Asks for a write.
    fn write(self, client: u32, number: u64) -> Vec<u8>;
    /// Reads that it is durable, and that no other one is meant.
    fn acknowledged(self, client: u32, number: u64, from: &mut dyn BufRead) -> io::Result<()>;
    /// Asks for what was written.
    fn read(self, client: u32, number: u64) -> Vec<u8>;
    /// Reads what was found.
    fn found(self, from: &mut dyn BufRead) -> io::Result<Option<Vec<u8>>>;
}

/// What belongs under a number: letters, of many lengths.
pub fn value(client: u32, number: u64) -> Vec<u8> {
    let mut x = (u64::from(client) << 40 | number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let len = 16 + x % 200;
    std::iter::repeat_with(|| {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        b'a' + ((x >> 33) % 26) as u8
    })
    .take(len as usize)
    .collect()
}

/// An answer that should not be.
pub fn wrong(what: impl Into<String>) -> Error {
    Error::other(what.into())
}

/// A connection to a service.
pub struct Connection {
    pub stream: TcpStream,
    pub heard: BufReader<TcpStream>,
}

impl Connection {
    /// Opens one to a service that serves.
    pub fn open(service: impl Service, address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut new = Connection { heard: BufReader::new(stream.try_clone()?), stream };
        service.greet(&mut new)?;
        Ok(new)
    }

    /// Reads back what client `client` was told is durable, and compares all of it.
    #[track_caller]
    pub fn check(&mut self, service: impl Service, Acknowledged { client, last }: Acknowledged) {
        // Some at a time, so that neither side waits for the other to read.
        for first in (1..=last).step_by(256) {
            let numbers = first..=last.min(first + 255);
            let asked: Vec<u8> = numbers.clone().flat_map(|n| service.read(client, n)).collect();
            self.stream.write_all(&asked).unwrap();
            for n in numbers {
                let found = service.found(&mut self.heard).unwrap();
                let text = found.as_deref().map(String::from_utf8_lossy);
                assert_eq!(
                    text,
                    Some(String::from_utf8_lossy(&value(client, n))),
                    "client {client}, {n} of {last}"
                );
            }
        }
    }
}

/// The writes of a client up to a number.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledged {
    pub client: u32,
    pub last: u64,
}

/// What a client was told so far.
#[derive(Default)]
struct Told {
    acknowledged: AtomicU64,
    /// The longest wait for an answer since somebody asked, in microseconds.
    longest: AtomicU64,
    enough: AtomicBool,
}

struct Client {
    number: u32,
    told: Arc<Told>,
    stream: TcpStream,
    thread: JoinHandle<io::Result<Connection>>,
}

/// All clients.
pub struct Load<S> {
    service: S,
    clients: Vec<Client>,
}

impl<S: Service> Load<S> {
    /// Lets clients numbered from `first` on write, one for each depth: so many writes are asked for before the first answer
    /// is read.
    pub fn begin(service: S, address: SocketAddr, first: u32, depths: &[u64]) -> Load<S> {
        let begin = |(number, &depth): (u32, &u64)| {
            let connection = Connection::open(service, address).unwrap();
            let stream = connection.stream.try_clone().unwrap();
            let told = Arc::<Told>::default();
            let ours = told.clone();
            let thread = std::thread::spawn(move || write(service, connection, number, depth, &ours));
            Client { number, told, stream, thread }
        };
        Load { service, clients: (first..).zip(depths).map(begin).collect() }
    }

    /// What is durable, of each client.
    pub fn acknowledged(&self) -> Vec<Acknowledged> {
        let of = |c: &Client| Acknowledged { client: c.number, last: c.told.acknowledged.load(SeqCst) };
        self.clients.iter().map(of).collect()
    }

    /// Each client is answered, by the connection that it has.
    #[track_caller]
    pub fn goes_on(&self) {
        for (client, before) in self.clients.iter().zip(self.acknowledged()) {
            until("a write is acknowledged", || {
                assert!(!client.thread.is_finished(), "client {} has lost its connection", client.number);
                client.told.acknowledged.load(SeqCst) > before.last
            });
        }
    }

    /// The longest wait for an answer that has come since this was asked the last time.
    pub fn longest(&self) -> Duration {
        let of = |c: &Client| c.told.longest.swap(0, SeqCst);
        Duration::from_micros(self.clients.iter().map(of).max().unwrap_or(0))
    }

    /// Ends it; each client finds on its own connection what it has written.
    #[track_caller]
    pub fn end(self) -> Vec<Acknowledged> {
        self.clients.iter().for_each(|c| c.told.enough.store(true, SeqCst));
        let service = self.service;
        let end = |Client { number, told, thread, .. }: Client| {
            let mut connection = thread.join().unwrap().unwrap_or_else(|e| panic!("client {number}: {e}"));
            let all = Acknowledged { client: number, last: told.acknowledged.load(SeqCst) };
            connection.check(service, all);
            all
        };
        self.clients.into_iter().map(end).collect()
    }

    /// Ends it when nobody answers any more.
    pub fn give_up(self) -> Vec<Acknowledged> {
        let end = |Client { number, told, stream, thread }: Client| {
            let _ = stream.shutdown(Shutdown::Both);
            assert!(thread.join().unwrap().is_err(), "client {number} was served to its end");
            Acknowledged { client: number, last: told.acknowledged.load(SeqCst) }
        };
        self.clients.into_iter().map(end).collect()
    }
}

/// Writes until it is enough.
fn write(
    service: impl Service,
    mut on: Connection,
    client: u32,
    depth: u64,
    told: &Told,
) -> io::Result<Connection> {
    let mut last = 0;
    while !told.enough.load(SeqCst) {
        let numbers = last + 1..=last + depth;
        let asked: Vec<u8> = numbers.clone().flat_map(|n| service.write(client, n)).collect();
        let since = Instant::now();
        on.stream.write_all(&asked)?;
        for n in numbers {
            service.acknowledged(client, n, &mut on.heard)?;
            told.longest.fetch_max(since.elapsed().as_micros() as u64, SeqCst);
            told.acknowledged.store(n, SeqCst);
            last = n;
        }
    }
    Ok(on)
}
