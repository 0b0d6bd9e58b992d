use super::driver::*;
use crate::virtio::net::{Net, feature};
use crate::virtio::{Built, Wiring, net};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use strata_net::{MAX_FRAME, NetBackend};

#[derive(Default)]
struct Frames {
    sent: Vec<Vec<u8>>,
    waiting: VecDeque<Vec<u8>>,
    polls: u32,
    wait: Option<Duration>,
    moved: bool,
}

struct Wires(Arc<Mutex<Frames>>, crate::Wake);

impl NetBackend for Wires {
    fn send(&mut self, frame: &[u8]) {
        self.0.lock().unwrap().sent.push(frame.to_vec());
    }
    fn recv(&mut self, buf: &mut [u8]) -> Option<usize> {
        assert!(buf.len() >= MAX_FRAME);
        let frame = self.0.lock().unwrap().waiting.pop_front()?;
        buf[..frame.len()].copy_from_slice(&frame);
        Some(frame.len())
    }
    fn poll_fd(&self) -> BorrowedFd<'_> {
        self.1.as_fd()
    }
    fn poll(&mut self, _now: Instant) -> Option<Duration> {
        let mut f = self.0.lock().unwrap();
        f.polls += 1;
        f.wait
    }
    fn take_moved(&mut self) -> bool {
        std::mem::take(&mut self.0.lock().unwrap().moved)
    }
}

const MAC: [u8; 6] = [2, 1, 2, 3, 4, 5];
const RX: u16 = 0;
const TX: u16 = 1;

fn make(frames: &Arc<Mutex<Frames>>) -> impl FnOnce(Wiring) -> io::Result<Built<Net>> + use<> {
    let backend = Box::new(Wires(frames.clone(), crate::Wake::new().unwrap()));
    move |w| net(w, backend, MAC)
}

fn ready(without: u64) -> (Driver<Net>, Arc<Mutex<Frames>>) {
    let frames = Arc::default();
    (Driver::ready(make(&frames), without), frames)
}

/// Makes a device on a wire where nothing happens.
pub fn silent() -> impl FnOnce(Wiring) -> io::Result<Built<Net>> {
    make(&Arc::default())
}

/// A device on a wire where nothing happens, without a driver.
pub fn quiet() -> Driver<Net> {
    Driver::new(make(&Arc::default()))
}

fn frame(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 3 + len) as u8).collect()
}

/// The header of a frame that came in over `n` buffers.
fn header(n: u8) -> [u8; 12] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n, 0]
}

#[test]
fn the_config_space_tells_mac_link_and_mtu() {
    let (d, _) = ready(0);
    let mac: Vec<u8> = (0..6).map(|i| d.config(i, 1) as u8).collect();
    assert_eq!(mac, MAC);
    assert_eq!((d.config(6, 2), d.config(8, 2), d.config(10, 2)), (1, 1, 1500));
}

#[test]
fn frames_go_out_without_their_header() {
    let (mut d, frames) = ready(0);
    let f = frame(100);
    let packet = d.buffer(&[&[0; 12][..], &f].concat());
    assert_eq!(d.request(TX, &[(packet, 112, false)]), 0);
    assert_eq!(d.request(TX, &[(packet, 5, false), (packet + 5, 50, false), (packet + 55, 57, false)]), 0);
    let before = frames.lock().unwrap().polls;
    assert_eq!(frames.lock().unwrap().sent, [f.clone(), f]);
    assert!(before > 0, "the backend is polled after frames were sent");
    // Too short or too long for a wire: dropped, and the buffer given back.
    let long = d.buffer(&vec![1; 12 + MAX_FRAME + 1]);
    d.request(TX, &[(long, 12 + MAX_FRAME as u32 + 1, false)]);
    d.request(TX, &[(long, 12 + 13, false)]);
    assert_eq!(frames.lock().unwrap().sent.len(), 2);
    d.request(TX, &[(long, 12 + MAX_FRAME as u32, false)]);
    assert_eq!(frames.lock().unwrap().sent.len(), 3);
    d.add(TX, &[(long, 11, false)]);
    d.kick(TX);
    d.turn();
    assert!(d.needs_reset());
}

#[test]
fn frames_come_in_with_a_header_in_one_buffer_or_several() {
    for without in [0, feature::MRG_RXBUF] {
        let (mut d, frames) = ready(without);
        let room = d.room(2048);
        let head = d.add(RX, &[(room, 12, true), (room + 12, 1600, true)]);
        frames.lock().unwrap().waiting.push_back(frame(MAX_FRAME));
        d.turn();
        assert_eq!(d.used(RX), Some((head, 12 + MAX_FRAME as u32)));
        assert_eq!(d.bytes(room, 12), header(1));
        assert_eq!(d.bytes(room + 12, MAX_FRAME), frame(MAX_FRAME));
        assert_eq!(d.r(0x60), 1);
    }
    let (mut d, frames) = ready(0);
    let room: Vec<_> = (0..4).map(|_| d.room(100)).collect();
    let heads: Vec<_> = room.iter().map(|&r| d.add(RX, &[(r, 100, true)])).collect();
    frames.lock().unwrap().waiting.push_back(frame(250));
    d.turn();
    let lens = [100, 100, 62];
    heads.iter().zip(lens).for_each(|(&h, n)| assert_eq!(d.used(RX), Some((h, n))));
    assert_eq!(d.used(RX), None);
    let got: Vec<u8> = room.iter().zip(lens).flat_map(|(&r, n)| d.bytes(r, n as usize)).collect();
    assert_eq!(got, [&header(3)[..], &frame(250)].concat());
    assert_eq!(d.wire.edges.load(SeqCst), 1);
}

#[test]
fn a_frame_waits_for_buffers_and_the_backend_with_it() {
    let (mut d, frames) = ready(0);
    let room = d.room(4096);
    d.add(RX, &[(room, 64, true)]);
    frames.lock().unwrap().waiting.extend([frame(100), frame(60)]);
    d.turn();
    assert_eq!(d.used(RX), None, "64 bytes are not enough for it");
    assert_eq!(frames.lock().unwrap().waiting.len(), 1);
    assert_eq!(d.worker.wait_for().len(), 1, "the backend's descriptor is not waited for");
    assert_eq!(d.worker.turn(), Some(Duration::from_millis(10)));
    frames.lock().unwrap().wait = Some(Duration::from_millis(3));
    assert_eq!(d.worker.turn(), Some(Duration::from_millis(3)));
    d.add(RX, &[(room + 64, 1000, true)]);
    d.add(RX, &[(room + 2048, 1000, true)]);
    d.turn();
    assert_eq!([d.used(RX), d.used(RX), d.used(RX)], [Some((0, 64)), Some((1, 48)), Some((2, 72))]);
    assert_eq!(d.bytes(room, 112), [&header(2)[..], &frame(100)].concat());
    assert_eq!(d.bytes(room + 2048, 72), [&header(1)[..], &frame(60)].concat());
    assert_eq!(d.worker.wait_for().len(), 2);
}

#[test]
fn buffers_that_can_never_hold_a_frame_stop_the_device() {
    for (without, len) in [(0, 11), (feature::MRG_RXBUF, 111)] {
        let (mut d, frames) = ready(without);
        let room = d.room(128);
        d.add(RX, &[(room, len, true)]);
        frames.lock().unwrap().waiting.push_back(frame(100));
        d.turn();
        assert!(d.needs_reset(), "{len}");
        assert_eq!(d.used(RX), None);
    }
}

#[test]
fn without_driver_or_link_frames_are_dropped() {
    let frames = Arc::default();
    let mut d = Driver::new(make(&frames));
    frames.lock().unwrap().waiting.extend((0..1000).map(|_| frame(60)));
    d.turn();
    assert!(frames.lock().unwrap().waiting.is_empty());

    let features = d.offered();
    d.init(features, 16);
    let generation = d.r(0xfc);
    d.virtio.lock().unwrap().set_link(false);
    assert_eq!((d.r(0x60), d.config(6, 2)), (2, 0));
    assert_ne!(d.r(0xfc), generation);
    d.w(0x64, 2);
    d.virtio.lock().unwrap().set_link(false);
    assert_eq!(d.r(0x60), 0, "nothing changed");
    let room = d.room(2048);
    d.add(RX, &[(room, 2048, true)]);
    frames.lock().unwrap().waiting.push_back(frame(60));
    d.request(TX, &[(room, 100, false)]);
    assert_eq!(d.used(RX), None);
    assert!(frames.lock().unwrap().waiting.is_empty());
    assert!(frames.lock().unwrap().sent.is_empty());
    d.virtio.lock().unwrap().set_link(true);
    d.request(TX, &[(room, 100, false)]);
    assert_eq!(frames.lock().unwrap().sent.len(), 1);
}

#[test]
fn a_driver_that_can_is_asked_to_tell_its_neighbours() {
    const CONTROL: u16 = 2;
    let (mut d, frames) = ready(0);
    let (command, answer) = (d.buffer(&[3, 0]), d.room(1));
    frames.lock().unwrap().moved = true;
    d.turn();
    assert_eq!(
        (d.r(0x60) & 2, d.config(6, 2)),
        (2, 3),
        "the config space has changed: link up, and to announce"
    );
    d.turn();
    assert_eq!(d.config(6, 2), 3, "until that is acknowledged");
    d.request(CONTROL, &[(command, 2, false), (answer, 1, true)]);
    assert_eq!((d.bytes(answer, 1), d.config(6, 2)), (vec![0], 1));
    // What it does not know, and what is no command, is answered so.
    for bytes in [&[3, 1][..], &[0, 0], &[3]] {
        let (command, answer) = (d.buffer(bytes), d.room(1));
        assert_eq!(d.request(CONTROL, &[(command, bytes.len() as u32, false), (answer, 1, true)]), 1);
        assert_eq!(d.bytes(answer, 1), [1], "{bytes:?}");
    }
    let (mut old, frames) = ready(feature::GUEST_ANNOUNCE);
    frames.lock().unwrap().moved = true;
    old.turn();
    assert_eq!((old.r(0x60), old.config(6, 2)), (0, 1), "a driver that cannot is not asked");
}
