use super::*;
use rustix::io::{read, write};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

/// A hub with a machine's end to play the guest on.
fn hub(config: HubConfig) -> (Hub, OwnedFd) {
    let (ours, machine) = stream_pair().unwrap();
    (Hub::start(ours, config).unwrap(), machine)
}

fn primary() -> HubConfig {
    HubConfig { primary: true, ..HubConfig::default() }
}

fn numbers(n: usize) -> Vec<u8> {
    (0..n).flat_map(|i| format!("{i}\n").into_bytes()).collect()
}

fn read_all(fd: OwnedFd) -> Vec<u8> {
    let mut out = Vec::new();
    UnixStream::from(fd).read_to_end(&mut out).unwrap();
    out
}

/// Reads until `len` bytes have come.
fn read_n(fd: impl AsFd, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    let mut at = 0;
    while at < len {
        let n = read(&fd, &mut out[at..]).unwrap();
        assert!(n > 0, "end after {at} of {len} bytes");
        at += n;
    }
    out
}

fn write_all(fd: impl AsFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let n = write(&fd, bytes).unwrap();
        bytes = &bytes[n..];
    }
}

#[test]
fn the_primary_gets_every_byte_in_order_from_power_on() {
    let (hub, machine) = hub(primary());
    let all = numbers(300_000);
    let sent = all.clone();
    // The guest prints two megabytes before anybody reads: it has to wait, and nothing is lost.
    let guest = std::thread::spawn(move || write_all(machine, &sent));
    std::thread::sleep(Duration::from_millis(50));
    assert!(!guest.is_finished(), "the guest waits for its first client");
    let (_, fd) = hub.attach(true).unwrap();
    let reader = std::thread::spawn(move || read_all(fd));
    guest.join().unwrap();
    hub.finish(None);
    assert!(reader.join().unwrap() == all);
}

#[test]
fn a_stuck_viewer_holds_nobody() {
    let (hub, machine) = hub(primary());
    let (_, fd) = hub.attach(true).unwrap();
    let (_, stuck) = hub.attach(false).unwrap();
    let all = numbers(300_000);
    let sent = all.clone();
    let reader = std::thread::spawn(move || read_all(fd));
    write_all(&machine, &sent);
    drop(machine);
    hub.finish(Some(Duration::from_secs(20)));
    assert!(reader.join().unwrap() == all);
    // The stuck one got the beginning, in order.
    let seen = read_all(stuck);
    assert!((10_000..all.len()).contains(&seen.len()) && all.starts_with(&seen));
}

#[test]
fn without_clients_the_guest_never_waits_and_a_late_one_sees_the_screen() {
    let (hub, machine) = hub(HubConfig::default());
    write_all(&machine, &numbers(100_000));
    write_all(&machine, b"# ");
    // Attaches and reads up to a marker that the guest prints after that.
    let look = |marker: u8| {
        let (id, fd) = hub.attach(false).unwrap();
        write_all(&machine, &[marker]);
        let mut seen = Vec::new();
        while seen.last() != Some(&marker) {
            seen.extend(read_n(&fd, 1));
        }
        hub.detach(id);
        seen
    };
    // By the first marker all of the output has passed; what the second look sees is the screen.
    look(b'!');
    let screen = String::from_utf8(look(b'?')).unwrap();
    assert_eq!(screen.lines().count(), 24);
    assert!(screen.starts_with("99977\n") && screen.ends_with("99999\n# !?"), "{screen}");
}

#[test]
fn a_primary_may_come_after_the_guest_is_over() {
    let (hub, machine) = hub(primary());
    write_all(&machine, b"brief\n");
    drop(machine);
    std::thread::scope(|s| {
        s.spawn(|| hub.finish(None));
        std::thread::sleep(Duration::from_millis(100));
        let (_, fd) = hub.attach(true).unwrap();
        assert_eq!(read_all(fd), b"brief\n");
    });
    // Unless it is known that none will come.
    let (hub, machine) = self::hub(primary());
    drop(machine);
    hub.no_primary();
    hub.finish(None);
}

#[test]
fn input_of_all_clients_reaches_the_machine_and_its_end_ends_nothing() {
    let (hub, machine) = hub(primary());
    let (_, script) = hub.attach(true).unwrap();
    let (_, person) = hub.attach(false).unwrap();
    let typed = numbers(20_000);
    let sent = typed.clone();
    // Far more than the hub keeps: the script waits until the machine has read it.
    let writer = std::thread::spawn(move || {
        write_all(&script, &sent);
        rustix::net::shutdown(&script, rustix::net::Shutdown::Write).unwrap();
        script
    });
    assert!(read_n(&machine, typed.len()) == typed);
    let script = writer.join().unwrap();
    write_all(&person, b"hello");
    assert_eq!(read_n(&machine, 5), b"hello");
    write_all(&machine, b"still there");
    assert_eq!(read_n(&script, 11), b"still there");
    drop(script);
    write_all(&person, b"!");
    assert_eq!(read_n(&machine, 1), b"!");
}

#[test]
fn a_client_that_types_and_goes_is_heard() {
    let (hub, machine) = hub(HubConfig::default());
    let (_, fd) = hub.attach(false).unwrap();
    write_all(&fd, b"poweroff\n");
    drop(fd);
    assert_eq!(read_n(&machine, 9), b"poweroff\n");
    drop(machine);
    hub.finish(None);
    assert_eq!(hub.attach(false).unwrap_err().kind, Kind::Refused);
}

#[test]
fn there_is_one_primary_and_its_leaving_frees_the_guest() {
    let (hub, machine) = hub(primary());
    let (id, fd) = hub.attach(true).unwrap();
    assert_eq!(hub.attach(true).unwrap_err().kind, Kind::InUse);
    let all = numbers(100_000);
    let guest = std::thread::spawn(move || write_all(machine, &all));
    std::thread::sleep(Duration::from_millis(20));
    assert!(!guest.is_finished());
    hub.detach(id);
    guest.join().unwrap();
    drop(fd);
    hub.finish(None);
}

#[test]
fn clients_are_counted_and_bounded() {
    let (hub, _machine) = hub(HubConfig::default());
    let mut held: Vec<_> = (0..MAX_CLIENTS).map(|_| hub.attach(false).unwrap()).collect();
    assert_eq!(hub.attach(false).unwrap_err().kind, Kind::InUse);
    held.pop();
    while hub.clients() != MAX_CLIENTS - 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    hub.attach(false).unwrap();
}

#[test]
fn a_file_gets_everything() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let file = Some(File::create(&path).unwrap());
    let (hub, machine) = hub(HubConfig { file, ..HubConfig::default() });
    let all = numbers(100_000);
    write_all(&machine, &all);
    drop(machine);
    hub.finish(None);
    assert!(std::fs::read(&path).unwrap() == all);
}
