//! A link between two hosts on which things go wrong.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// Carries connections to a host, until it is cut. (What is lost in between no carrier of connections can show.)
pub struct Cable {
    /// Where the host is reached by it.
    pub address: String,
    inside: Arc<Inside>,
}

struct Inside {
    there: String,
    whole: AtomicBool,
    /// Both ends of each connection.
    ends: Mutex<Vec<[TcpStream; 2]>>,
    swallowed: AtomicUsize,
    damage: Mutex<Option<Damage>>,
    /// Bytes that were carried, of those that may be damaged.
    carried: AtomicU64,
}

/// Where a bit is turned over.
#[derive(Clone, Copy, Debug)]
pub struct Damage {
    /// On what the host is told, and not on what it says.
    pub to_host: bool,
    /// Not on connections before this one.
    pub from: usize,
    /// In which of those bytes, counted over all connections.
    pub at: u64,
    /// Which bit.
    pub bit: u32,
}

impl Cable {
    /// To `there`.
    pub fn to(there: String) -> Cable {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let inside = Arc::new(Inside {
            there,
            whole: AtomicBool::new(true),
            ends: Mutex::default(),
            swallowed: AtomicUsize::new(usize::MAX),
            damage: Mutex::default(),
            carried: AtomicU64::new(0),
        });
        let cable = Cable { address: listener.local_addr().unwrap().to_string(), inside: inside.clone() };
        std::thread::spawn(move || {
            for here in listener.incoming() {
                let Ok(here) = here else { return };
                inside.carry(here);
            }
        });
        cable
    }

    /// Ends all connections, and lets no others come about.
    pub fn cut(&self) {
        self.inside.whole.store(false, SeqCst);
        (0..self.connections()).for_each(|n| self.end(n));
    }

    /// Makes it whole again.
    pub fn join(&self) {
        self.inside.whole.store(true, SeqCst);
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.inside.ends.lock().unwrap().len()
    }

    /// Ends one connection.
    pub fn end(&self, number: usize) {
        self.inside.ends.lock().unwrap()[number].iter().for_each(|s| drop(s.shutdown(Shutdown::Both)));
    }

    /// From now on, what the host is told on this connection goes nowhere.
    pub fn swallow(&self, number: usize) {
        self.inside.swallowed.store(number, SeqCst);
    }

    /// Turns a bit over, once.
    pub fn damage(&self, what: Damage) {
        *self.inside.damage.lock().unwrap() = Some(what);
    }

    /// Whether that has happened.
    pub fn is_damaged(&self) -> bool {
        self.inside.damage.lock().unwrap().is_none()
    }
}

impl Inside {
    fn carry(self: &Arc<Inside>, here: TcpStream) {
        let far = self.whole.load(SeqCst).then(|| TcpStream::connect(&self.there).ok()).flatten();
        // Where it is cut nobody answers.
        let Some(far) = far else { return };
        let both = || (here.try_clone().unwrap(), far.try_clone().unwrap());
        let number = {
            let mut ends = self.ends.lock().unwrap();
            ends.push(both().into());
            ends.len() - 1
        };
        for to_host in [true, false] {
            let (mut from, mut to) = if to_host { both() } else { (both().1, both().0) };
            let _ = to.set_nodelay(true);
            let inside = self.clone();
            std::thread::spawn(move || {
                let mut buf = [0; 16 << 10];
                while let Ok(n @ 1..) = from.read(&mut buf) {
                    let bytes = &mut buf[..n];
                    inside.pass(bytes, number, to_host);
                    let lost = to_host && inside.swallowed.load(SeqCst) == number;
                    if !lost && to.write_all(bytes).is_err() {
                        break;
                    }
                }
                let _ = to.shutdown(Shutdown::Both);
            });
        }
    }

    fn pass(&self, bytes: &mut [u8], number: usize, to_host: bool) {
        let mut damage = self.damage.lock().unwrap();
        let Some(d) = damage.filter(|d| d.to_host == to_host && number >= d.from) else { return };
        let first = self.carried.fetch_add(bytes.len() as u64, SeqCst);
        if let Some(byte) = d.at.checked_sub(first).and_then(|at| bytes.get_mut(at as usize)) {
            *byte ^= 1 << d.bit;
            *damage = None;
        }
    }
}
