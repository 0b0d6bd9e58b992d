//! Where sources come in: connections are secured, greeted, and handed on by what they are for.

use super::pulling::Pull;
use crate::exit::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use strata_memory::GuestRam;
use strata_migration::link::{Link, Security};
use strata_migration::streams::{Meter, take_pages};
use strata_migration::wire::{Frame, MAX_FOLLOWING, Purpose, WireError, answer, hear, receive};
use strata_net::Port;

/// How often those who wait look around.
pub(super) const LOOK: Duration = Duration::from_millis(100);
/// The same, where a machine stands still meanwhile.
const SOON: Duration = Duration::from_micros(500);

/// How long a source that is told why its machine cannot come may go on speaking.
const HEARD_OUT: Duration = Duration::from_secs(2);
/// What the accepting thread knows.
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) security: Security,
    pub(super) secret: [u8; 32],
    /// The migration that is let in; any before one is known.
    pub(super) id: Mutex<Option<[u8; 16]>>,
    pub(super) ram: Mutex<Option<GuestRam>>,
    pub(super) meter: Meter,
    /// Sockets of streams that are being served, to be ended with the attempt.
    pub(super) streams: Mutex<Vec<Arc<TcpStream>>>,
    pub(super) closed: AtomicBool,
    /// Memory that follows, if it does.
    pub(super) pull: OnceLock<Arc<Pull>>,
    /// The port of the machine's card, once there is a machine; a card may be on no interface of the host.
    pub(super) port: OnceLock<Option<Port>>,
    /// Whether the connection for the network has come.
    pub(super) network: AtomicBool,
}

/// A stream's socket while it is served: others may end it, and it ends with this, so that the source hears of it.
struct Served<'a> {
    door: &'a Door,
    socket: Arc<TcpStream>,
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        // One that has ended already.
        let _ = self.socket.shutdown(Shutdown::Both);
        lock(&self.door.streams).retain(|s| !Arc::ptr_eq(s, &self.socket));
    }
}

pub(super) fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A control connection that was let in, and its migration.
pub(super) type Visitor = (Link, [u8; 16]);

impl Door {
    /// Lets sources in until it is closed: streams of pages are served here, control connections are handed on.
    pub(super) fn attend(self: &Arc<Door>, inside: &Sender<Visitor>) {
        while !self.closed.load(SeqCst) {
            let mut fds = [PollFd::new(&self.listener, PollFlags::IN)];
            let wait = Timespec { tv_sec: 0, tv_nsec: LOOK.as_nanos() as i64 };
            if !matches!(poll(&mut fds, Some(&wait)), Ok(1..)) {
                continue;
            }
            let Ok((tcp, _)) = self.listener.accept() else { continue };
            let (door, inside) = (self.clone(), inside.clone());
            // Who greets slowly makes nobody else wait.
            let guest = std::thread::Builder::new().name("migration".into()).spawn(move || {
                if let Err(e) = door.let_in(tcp, &inside) {
                    tracing::warn!("a connection of a migration ended: {e}");
                }
            });
            drop(guest);
        }
    }

    fn serve(&self, link: &Link) -> Result<Served<'_>, WireError> {
        let socket = Arc::new(link.socket()?);
        lock(&self.streams).push(socket.clone());
        Ok(Served { door: self, socket })
    }

    fn let_in(&self, tcp: TcpStream, inside: &Sender<Visitor>) -> Result<(), WireError> {
        let mut link = Link::over(tcp, &self.security)?;
        let hello = hear(&mut link)?;
        answer(&mut link, &hello, &self.secret)?;
        let known = *lock(&self.id);
        match hello.purpose {
            Purpose::Control => {
                // Nobody is left to hear of it once the attempt is over.
                let _ = inside.send((link, hello.id));
                Ok(())
            }
            Purpose::Pages(_) if known == Some(hello.id) => {
                let Some(ram) = lock(&self.ram).clone() else {
                    return Err(WireError::Protocol("pages came before there was a place for them"));
                };
                let _served = self.serve(&link)?;
                let tell = || {
                    if let Some(pull) = self.pull.get() {
                        pull.tell();
                    }
                };
                take_pages(&mut link, &ram, &self.meter, || {
                    self.pull.get().map(|p| p.with(&self.meter, &tell))
                })
            }
            Purpose::Urgent if known == Some(hello.id) => {
                let served = self.serve(&link)?;
                // It comes before the machine does; whoever ends the attempt ends the waiting.
                let pull = loop {
                    match self.pull.get() {
                        Some(pull) => break pull,
                        None if self.closed.load(SeqCst) || lock(&self.ram).is_none() => return Ok(()),
                        None => std::thread::sleep(SOON),
                    }
                };
                pull.fetch(&mut link, &served.socket, &self.meter)
            }
            Purpose::Network if known == Some(hello.id) && !self.network.swap(true, SeqCst) => {
                self.take_frames(&mut link)
            }
            Purpose::Pages(_) | Purpose::Urgent | Purpose::Network => {
                Err(WireError::Protocol("a connection came of another migration, or once more"))
            }
        }
    }

    /// Frames that came to where the machine's card was, until its source ends that.
    fn take_frames(&self, link: &mut Link) -> Result<(), WireError> {
        let (mut buf, mut came) = (Vec::new(), 0);
        while !self.closed.load(SeqCst) {
            match receive(link, &mut buf) {
                Ok(Frame::Ethernet(_)) if came == MAX_FOLLOWING => {
                    return Err(WireError::Protocol("more frames came than may follow a machine"));
                }
                Ok(Frame::Ethernet(frame)) => match self.port.get() {
                    Some(port) => {
                        came += 1;
                        port.iter().for_each(|p| p.follow(frame));
                    }
                    None => {
                        return Err(WireError::Protocol("frames came before there was a machine for them"));
                    }
                },
                Ok(_) => return Err(WireError::Protocol("the source sends pages where frames belong")),
                // None may come for as long as memory is copied.
                Err(e) if e.is_quiet() => {}
                Err(WireError::Io(e)) if e.kind() == std::io::ErrorKind::UnexpectedEof => break,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// No more pages come.
    pub(super) fn end_streams(&self) {
        lock(&self.ram).take();
        for s in lock(&self.streams).drain(..) {
            // One that has ended already.
            let _ = s.shutdown(Shutdown::Both);
        }
    }
}

/// Lets the source finish what it is saying, for a while: a connection that is closed on unread bytes takes what was said last
/// away from it.
pub(super) fn let_speak(control: &mut Link) {
    let until = Instant::now() + HEARD_OUT;
    let mut buf = [0; 64 << 10];
    while Instant::now() < until && control.patience(Some(HEARD_OUT)).is_ok() {
        if !matches!(std::io::Read::read(control, &mut buf), Ok(1..)) {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::mpsc::channel;
    use strata_memory::PAGE;
    use strata_migration::wire::{Frame, Hello, NEWEST, OLDEST, greet, send};

    const ID: [u8; 16] = [3; 16];
    const SECRET: [u8; 32] = [4; 32];

    /// A door that lets a migration in until it is closed.
    fn open() -> (Arc<Door>, std::thread::JoinHandle<()>) {
        let door = Arc::new(Door {
            listener: TcpListener::bind("127.0.0.1:0").unwrap(),
            security: Security::Plain,
            secret: SECRET,
            id: Mutex::new(Some(ID)),
            ram: Mutex::new(Some(GuestRam::single(0x8000_0000, 16 * PAGE).unwrap())),
            meter: Meter::default(),
            streams: Mutex::default(),
            closed: AtomicBool::new(false),
            pull: OnceLock::new(),
            port: OnceLock::new(),
            network: AtomicBool::new(false),
        });
        let attending = door.clone();
        let attending = std::thread::spawn(move || attending.attend(&channel().0));
        (door, attending)
    }

    fn connect(door: &Door, purpose: Purpose, id: [u8; 16]) -> Link {
        let address = door.listener.local_addr().unwrap().to_string();
        let mut link = Link::connect(&address, &Security::Plain).unwrap();
        link.patience(Some(Duration::from_secs(10))).unwrap();
        greet(&mut link, &Hello { oldest: OLDEST, newest: NEWEST, purpose, id, secret: SECRET }).unwrap();
        link
    }

    /// Whether the door has ended a connection, on which it never says anything.
    fn is_ended(link: &mut Link) -> bool {
        let heard = link.read(&mut [0; 8]);
        !matches!(&heard, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
    }

    #[test]
    fn a_stream_that_fails_ends_for_its_source_too_and_leaves_nothing() {
        let (door, attending) = open();
        for n in 0..3 {
            let mut link = connect(&door, Purpose::Pages(n), ID);
            // No stream carries that.
            send(&mut link, &Frame::Why("nonsense".into())).unwrap();
            assert!(is_ended(&mut link), "it is kept open");
            let begun = Instant::now();
            while !lock(&door.streams).is_empty() {
                assert!(begun.elapsed() < Duration::from_secs(10), "a descriptor is kept");
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        door.closed.store(true, SeqCst);
        attending.join().unwrap();
    }

    #[test]
    fn a_migration_has_one_connection_for_the_network_with_frames_and_nothing_else() {
        let (door, attending) = open();
        assert!(is_ended(&mut connect(&door, Purpose::Network, [9; 16])), "it is of another migration");
        let mut link = connect(&door, Purpose::Network, ID);
        // Its card is on no interface of this host.
        assert!(door.port.set(None).is_ok());
        send(&mut link, &Frame::Ethernet(&[7; 60])).unwrap();
        assert!(is_ended(&mut connect(&door, Purpose::Network, ID)), "there is one already");
        link.patience(Some(Duration::from_millis(100))).unwrap();
        assert!(!is_ended(&mut link));
        link.patience(Some(Duration::from_secs(10))).unwrap();
        send(&mut link, &Frame::Round(1)).unwrap();
        assert!(is_ended(&mut link), "that is no frame for a card");
        door.closed.store(true, SeqCst);
        attending.join().unwrap();
    }
}
