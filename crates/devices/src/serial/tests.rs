use super::*;
use crate::uart16550::{Uart16550, UartWorker};
use crate::{Mmio, Shared, Worker};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use strata_engine::IrqLine;

struct Bench {
    uart: Shared<Uart16550>,
    link: Arc<SerialLink>,
    worker: UartWorker,
}

fn over(input: Option<OwnedFd>, output: Option<OwnedFd>) -> Bench {
    let link = SerialLink::new().unwrap();
    let uart = Arc::new(Mutex::new(Uart16550::new(IrqLine::unconnected(), link.clone())));
    let worker = UartWorker::new("uart0", uart.clone(), link.clone(), input, output).unwrap();
    Bench { uart, link, worker }
}

fn over_socket() -> (Bench, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let input: OwnedFd = ours.try_clone().unwrap().into();
    (over(Some(input), Some(ours.into())), theirs)
}

impl Bench {
    /// Gives turns as a machine's I/O thread does, until `done` or for ten seconds. Gives how many.
    fn run_until(&mut self, mut done: impl FnMut(&mut Bench) -> bool) -> usize {
        let end = Instant::now() + Duration::from_secs(10);
        let mut wait = Some(Duration::ZERO);
        for turns in 0.. {
            if done(self) {
                return turns;
            }
            assert!(Instant::now() < end, "it took too long");
            let reads = self.worker.wait_for();
            let writes = self.worker.wait_to_write();
            let mut fds: Vec<_> = reads.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            fds.extend(writes.iter().map(|fd| PollFd::new(fd, PollFlags::OUT)));
            let at_most = wait.unwrap_or(Duration::from_millis(20));
            poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: at_most.as_nanos() as _ })).unwrap();
            wait = self.worker.turn();
        }
        0
    }
    fn write(&self, offset: u64, value: u8) {
        self.uart.lock().unwrap().write(offset, 1, value.into())
    }
    fn read(&self, offset: u64) -> u8 {
        self.uart.lock().unwrap().read(offset, 1) as u8
    }
    fn rings(&self) -> bool {
        let fds = self.worker.wait_for();
        let mut fds = [PollFd::new(&fds[0], PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() > 0
    }
}

#[test]
fn a_byte_after_silence_is_written_in_the_next_turn_and_a_flood_in_few() {
    let (mut b, mut peer) = over_socket();
    b.write(0, b'!');
    assert!(b.rings());
    b.worker.turn();
    let mut one = [0];
    peer.read_exact(&mut one).unwrap();
    assert_eq!((one, b.rings()), (*b"!", false));
    (0..50_000).for_each(|i| b.write(0, i as u8));
    let turns = b.run_until(|b| b.link.is_empty());
    assert!(turns < 10, "{turns} turns for 50 kB");
    let mut all = vec![0; 50_000];
    peer.read_exact(&mut all).unwrap();
    assert!(all.iter().enumerate().all(|(i, b)| *b == i as u8));
}

#[test]
fn a_peer_that_does_not_read_loses_nothing() {
    let (mut b, mut peer) = over_socket();
    b.write(2, 1);
    let mut sent = 0u32;
    while sent < 1_000_000 {
        if b.read(5) & 0x20 == 0 {
            b.worker.turn();
            if b.read(5) & 0x20 == 0 {
                break;
            }
        }
        b.write(0, sent as u8);
        sent += 1;
    }
    assert!(sent < 1_000_000, "a full peer must hold the transmitter");
    let reader = std::thread::spawn(move || {
        let mut all = vec![0; sent as usize];
        peer.read_exact(&mut all).map(|()| all)
    });
    b.run_until(|b| b.link.is_empty());
    assert_eq!(b.read(5), 0x60);
    let all = reader.join().unwrap().unwrap();
    assert!(all.iter().enumerate().all(|(i, b)| *b == i as u8));
}

#[test]
fn without_gathering_a_turn_leaves_nothing_and_a_push_finds_room() {
    let (mut b, mut peer) = over_socket();
    b.worker = b.worker.without_gathering();
    for n in 0..20u8 {
        b.write(0, n);
        b.worker.turn();
        assert!(b.worker.drained(), "{n}");
    }
    assert_eq!(b.link.send(&vec![20; OUTPUT_LIMIT + 1]), OUTPUT_LIMIT);
    b.link.push(21);
    let reader = std::thread::spawn(move || {
        let mut got = vec![0; 20 + OUTPUT_LIMIT + 1];
        peer.read_exact(&mut got).unwrap();
        got
    });
    b.run_until(|b| b.worker.drained());
    let got = reader.join().unwrap();
    assert_eq!((got[..20].to_vec(), got.last()), ((0..20).collect(), Some(&21)));
}

#[test]
fn a_closed_peer_stops_nothing() {
    let (mut b, peer) = over_socket();
    drop(peer);
    for i in 0..300_000u32 {
        b.write(0, i as u8);
        if i % 1000 == 0 {
            b.worker.turn();
        }
    }
    b.run_until(|b| b.link.is_empty());
    assert_eq!(b.read(5), 0x60);
    assert_eq!(b.worker.wait_for().len(), 1, "nothing left to wait for but the bell");
    assert_eq!(b.worker.turn(), None);
}

#[test]
fn input_stays_with_the_peer_until_the_guest_listens_and_none_is_lost() {
    let (mut b, mut peer) = over_socket();
    let text: Vec<u8> = (0..3000).map(|i| i as u8).collect();
    peer.write_all(&text).unwrap();
    b.worker.turn();
    assert_eq!((b.worker.wait_for().len(), b.read(5)), (1, 0x60));
    b.write(2, 1);
    b.write(1, 1); // the receive interrupt: now it listens
    let mut got = Vec::new();
    b.run_until(|b| {
        while b.read(5) & 1 != 0 {
            got.push(b.read(0));
        }
        got.len() == text.len()
    });
    assert_eq!(got, text);
}

#[test]
fn the_end_of_input_leaves_the_output() {
    let (mut b, mut peer) = over_socket();
    b.write(1, 1);
    peer.write_all(b"x").unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    b.run_until(|b| b.read(5) & 1 != 0);
    assert_eq!(b.read(0), b'x');
    b.run_until(|b| b.worker.wait_for().len() == 1);
    b.write(0, b'y');
    b.worker.turn();
    let mut one = [0];
    peer.read_exact(&mut one).unwrap();
    assert_eq!(one, *b"y");
}

#[test]
fn files_need_no_waiting() {
    let mut input = tempfile();
    input.write_all(&[b'i'; 100]).unwrap();
    rustix::fs::seek(&input, rustix::fs::SeekFrom::Start(0)).unwrap();
    let output = tempfile();
    let mut b = over(Some(input.into()), Some(output.try_clone().unwrap().into()));
    b.write(1, 1);
    let mut got = 0;
    b.run_until(|b| {
        while b.read(5) & 1 != 0 {
            b.write(0, b.read(0));
            got += 1;
        }
        got == 100 && b.link.is_empty()
    });
    assert_eq!(output.metadata().unwrap().len(), 100);
}

#[test]
fn without_a_peer_output_is_dropped() {
    let mut b = over(None, None);
    (0..200_000).for_each(|_| b.write(0, b'x'));
    assert_eq!((b.read(5), b.worker.turn()), (0x60, None));
}

/// A file without a name.
fn tempfile() -> std::fs::File {
    rustix::fs::memfd_create("serial-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap().into()
}
