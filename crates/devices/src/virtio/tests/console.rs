use super::driver::*;
use crate::virtio::console;
use rustix::io::{read, write};
use rustix::pipe::{PipeFlags, pipe_with};
use std::os::fd::OwnedFd;
use std::time::Duration;

const RX: u16 = 0;
const TX: u16 = 1;

struct Ends {
    keyboard: OwnedFd,
    screen: OwnedFd,
}

pub fn ready() -> (Driver<console::Console>, OwnedFd, OwnedFd) {
    let (input, keyboard) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let (screen, output) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap();
    (Driver::ready(|w| console(w, input, output), 0), keyboard, screen)
}

fn setup() -> (Driver<console::Console>, Ends) {
    let (d, keyboard, screen) = ready();
    (d, Ends { keyboard, screen })
}

fn drain(fd: &OwnedFd) -> Vec<u8> {
    let (mut all, mut buf) = (Vec::new(), [0; 65536]);
    while let Ok(n @ 1..) = read(fd, &mut buf) {
        all.extend_from_slice(&buf[..n]);
    }
    all
}

#[test]
fn output_goes_out_and_input_comes_in() {
    let (mut d, ends) = setup();
    let out = d.buffer(b"hello, world");
    assert_eq!(d.request(TX, &[(out, 5, false), (out + 5, 7, false)]), 0);
    assert_eq!(drain(&ends.screen), b"hello, world");

    write(&ends.keyboard, b"ls -l\n").unwrap();
    d.turn();
    assert_eq!(d.worker.wait_for().len(), 1, "without a buffer, input is not looked at");
    let room = d.room(64);
    d.add(RX, &[(room, 4, true)]);
    d.kick(RX);
    d.turn();
    assert_eq!(d.used(RX), Some((0, 4)));
    d.add(RX, &[(room + 4, 60, true)]);
    d.kick(RX);
    d.turn();
    assert_eq!(d.used(RX), Some((1, 2)));
    assert_eq!(d.bytes(room, 6), b"ls -l\n");
    d.add(RX, &[(room, 64, true)]);
    d.turn();
    assert_eq!((d.used(RX), d.worker.wait_for().len()), (None, 2));
    write(&ends.keyboard, b"x").unwrap();
    d.turn();
    assert_eq!(d.used(RX), Some((2, 1)));
}

#[test]
fn a_slow_reader_gets_everything_once() {
    let (mut d, ends) = setup();
    let text: Vec<u8> = (0..300_000u32).flat_map(|i| (i as u16).to_le_bytes()).collect();
    let out = d.buffer(&text);
    let head = d.add(TX, &[(out, text.len() as u32, false)]);
    d.kick(TX);
    d.turn();
    assert_eq!(d.used(TX), None);
    assert_eq!(d.worker.wait_to_write().len(), 1);
    assert!(!d.worker.drained());
    // Saved in the middle and loaded again: it goes on where it was.
    let saved = d.dev.lock().unwrap().save();
    d.dev.lock().unwrap().load(&saved).unwrap();
    let mut got = Vec::new();
    while got.len() < text.len() {
        let new = drain(&ends.screen);
        assert!(
            !new.is_empty()
                || d.worker.turn() == Some(Duration::ZERO)
                || !d.worker.wait_to_write().is_empty()
        );
        got.extend(new);
        d.turn();
    }
    assert!(got == text);
    assert_eq!(d.used(TX), Some((head, 0)));
    assert!(d.worker.drained() && d.worker.wait_to_write().is_empty());
}

#[test]
fn the_end_of_input_or_of_the_reader_ends_nothing() {
    let (mut d, ends) = setup();
    let room = d.room(64);
    d.add(RX, &[(room, 64, true)]);
    drop(ends);
    d.turn();
    assert_eq!((d.used(RX), d.worker.wait_for().len()), (None, 1));
    let out = d.buffer(b"nobody hears");
    for _ in 0..3 {
        assert_eq!(d.request(TX, &[(out, 12, false)]), 0);
    }
    assert!(!d.needs_reset() && d.worker.wait_to_write().is_empty());
}

#[test]
fn the_terminal_size_is_told() {
    let (d, _ends) = setup();
    assert_eq!((d.config(0, 2), d.config(2, 2), d.config(4, 4)), (80, 25, 1));
    d.virtio.lock().unwrap().set_size(132, 50);
    assert_eq!((d.config(0, 2), d.config(2, 2), d.r(0x60)), (132, 50, 2));
}
