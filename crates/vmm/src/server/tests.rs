use super::*;
use crate::client::Client;
use crate::console::{HubConfig, stream_pair};
use crate::exit::Outcome;
use crate::protocol::{Reply, method};
use crate::runtime::{NameLock, Runtime};
use std::collections::BTreeSet;

/// A machine without a guest.
#[derive(Default)]
struct Fake {
    phase: Mutex<&'static str>,
    changed: Condvar,
}

impl Fake {
    fn set(&self, phase: &'static str) {
        *self.phase.lock().unwrap() = phase;
        self.changed.notify_all();
    }
    fn change(&self, from: &[&str], to: &'static str) -> Result<(), String> {
        let now = self.phase();
        if !from.contains(&now) {
            return Err(format!("the machine is {now}"));
        }
        self.set(to);
        Ok(())
    }
}

impl MachineControl for Fake {
    fn tier(&self) -> &'static str {
        "interpreter"
    }
    fn start(&self) -> Result<(), String> {
        self.change(&[""], "running")
    }
    fn pause(&self) -> Result<(), String> {
        self.change(&["running", "paused"], "paused")
    }
    fn unpause(&self) -> Result<(), String> {
        self.change(&["running", "paused"], "running")
    }
    fn reset(&self) -> Result<(), String> {
        self.change(&["running", "paused"], "running")
    }
    fn stop(&self) {
        self.set("ended");
    }
    fn phase(&self) -> &'static str {
        *self.phase.lock().unwrap()
    }
    fn wait(&self) -> Outcome {
        let mut p = self.phase.lock().unwrap();
        while *p != "ended" {
            p = self.changed.wait(p).unwrap();
        }
        Outcome::Stopped { by: String::new() }
    }
    fn release(&self) {}
}

struct Setup {
    _dir: tempfile::TempDir,
    runtime: Runtime,
    _name: NameLock,
    machine: Arc<Fake>,
    guest: OwnedFd,
    server: Server,
}

fn setup(primary: bool) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::at(dir.path().join("r")).unwrap();
    let name = runtime.lock("web").unwrap();
    let machine = Arc::new(Fake::default());
    let (ours, guest) = stream_pair().unwrap();
    let hub = Arc::new(Hub::start(ours, HubConfig { primary, ..HubConfig::default() }).unwrap());
    let server = Server::start(name.bind().unwrap(), VmmSpec::new("web"), machine.clone(), hub).unwrap();
    machine.start().unwrap();
    Setup { _dir: dir, runtime, _name: name, machine, guest, server }
}

impl Setup {
    fn client(&self) -> Client {
        Client::connect_in(&self.runtime, "web").unwrap()
    }
    fn report(&self) -> ExitReport {
        let by = self.server.stopped_by().unwrap_or_default();
        ExitReport { outcome: Outcome::Stopped { by }, problems: Vec::new() }
    }
}

#[test]
fn requests_are_answered_and_refused_by_kind() {
    let s = setup(false);
    let mut c = s.client();
    let status = c.status().unwrap();
    assert_eq!(
        (status.name.as_str(), status.phase.as_str(), status.pid),
        ("web", "running", std::process::id())
    );
    c.pause().unwrap();
    assert_eq!(c.status().unwrap().phase, "paused");
    c.unpause().unwrap();
    c.reset().unwrap();
    s.machine.set("ended");
    assert_eq!(c.pause().unwrap_err().kind, Kind::Refused);
    assert_eq!(c.call("no.such", Value::Null, &[]).unwrap_err().kind, Kind::Protocol);
    assert_eq!(c.status().unwrap().phase, "ended", "the connection is still good");
}

#[test]
fn several_clients_wait_and_one_stops() {
    let s = setup(false);
    let mut waiting: Vec<Client> = (0..3).map(|_| s.client()).collect();
    let mut stopper = s.client();
    let waiters: Vec<_> =
        waiting.drain(..).map(|mut c| std::thread::spawn(move || c.wait().unwrap())).collect();
    let stop = std::thread::spawn(move || {
        let mut notes = Vec::new();
        let report = stopper.stop(&mut |n| notes.push(n.to_owned())).unwrap();
        (report, notes)
    });
    s.machine.wait();
    while s.server.stopped_by().is_none() {
        std::thread::yield_now();
    }
    assert!(waiters.iter().all(|w| !w.is_finished()), "answered only when all is free");
    let report = s.report();
    s.server.ended(report.clone());
    for w in waiters {
        assert_eq!(w.join().unwrap(), report);
    }
    let (got, notes) = stop.join().unwrap();
    assert_eq!(got.outcome, Outcome::Stopped { by: "`strata stop`".into() });
    assert_eq!(notes.len(), 2);
}

#[test]
fn waiting_can_be_cancelled_and_ends_with_the_process() {
    let s = setup(false);
    let mut c = s.client();
    let cancel = c.canceller();
    let waiter = std::thread::spawn(move || (c.wait().unwrap_err().kind, c.status().unwrap().phase));
    // A cancel that comes before its request has no effect: it is sent again until it has.
    while !waiter.is_finished() {
        cancel.cancel();
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(waiter.join().unwrap(), (Kind::Cancelled, "running".into()));
    // It holds the connection open as its client does.
    drop(cancel);
    // A connection that goes takes its jobs with it.
    let mut c = s.client();
    let fd = rustix::io::fcntl_dupfd_cloexec(&c, 3).unwrap();
    let waiter = std::thread::spawn(move || c.wait().unwrap_err().kind);
    rustix::net::shutdown(&fd, rustix::net::Shutdown::Both).unwrap();
    assert_eq!(waiter.join().unwrap(), Kind::Died);
    while !s.server.shared.lock().connections.is_empty() {
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn consoles_are_streams_and_the_primary_is_the_owners() {
    let s = setup(true);
    rustix::io::write(&s.guest, b"boot\n").unwrap();
    let mut viewer = s.client();
    assert_eq!(viewer.attach_primary().unwrap_err().kind, Kind::Permission);
    let (ours, theirs) = stream_pair().unwrap();
    let (tx, rx) = halves(theirs);
    s.server.serve_owner(tx, rx).unwrap();
    let (tx, mut rx) = halves(ours);
    let params = json!({"primary": true});
    let attach = Message::Request { id: 1, method: method::CONSOLE_ATTACH.into(), params, fds: 0 };
    tx.send(&attach, &[]).unwrap();
    let (answer, fds) = rx.recv().unwrap();
    assert!(matches!(answer, Message::Response { id: 1, reply: Reply::Ok(_), fds: 1 }));
    let mut buf = [0; 64];
    assert_eq!(rustix::io::read(&fds[0], &mut buf).unwrap(), 5);
    rustix::io::write(&fds[0], b"ls\n").unwrap();
    assert_eq!(rustix::io::read(&s.guest, &mut buf).unwrap(), 3);
    let console = viewer.attach_console().unwrap();
    assert_eq!(rustix::io::read(&console, &mut buf).unwrap(), 5, "the last screenful");
    viewer.call(method::CONSOLE_DETACH, Value::Null, &[]).unwrap();
    assert_eq!(rustix::io::read(&console, &mut buf).unwrap(), 0);
    // The machine goes with its owner.
    drop((tx, rx));
    s.machine.wait();
    assert!(s.server.stopped_by().unwrap().contains("process that ran it"));
}

#[test]
fn subscribers_hear_of_phases_and_the_end() {
    let s = setup(false);
    let (mut a, mut b) = (s.client(), s.client());
    a.subscribe().unwrap();
    b.pause().unwrap();
    assert_eq!(a.next_event().unwrap().unwrap(), ("phase".into(), json!({"phase": "paused"})));
    s.machine.stop();
    let report = s.report();
    s.server.ended(report.clone());
    assert_eq!(a.next_event().unwrap().unwrap(), ("ended".into(), json!(report)));
    assert_eq!(a.next_event().unwrap(), None);
}

#[test]
fn nonsense_ends_the_connection_and_nothing_else() {
    let s = setup(false);
    let hello = || crate::wire::encode(&Message::hello()).unwrap();
    let other = Message::Hello { protocol: 99, version: "9".into() };
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 64],
        crate::wire::encode(&other).unwrap(),
        [hello(), hello()].concat(),
        [hello(), b"\x02\0\0\0{}".to_vec()].concat(),
    ] {
        let fd = s.runtime.connect("web").unwrap();
        // It may be refused before all has been written.
        let _ = rustix::net::send(&fd, &bytes, rustix::net::SendFlags::NOSIGNAL);
        let (_tx, mut rx) = halves(fd);
        let mut answers = BTreeSet::new();
        while let Ok((m, _)) = rx.recv() {
            if let Message::Response { id, reply: Reply::Error(e), .. } = m {
                assert_eq!((id, e.kind), (0, Kind::Protocol));
                answers.insert(e.message);
            }
        }
        assert!(answers.len() <= 1);
    }
    s.client().status().unwrap();
}

#[test]
fn clients_and_their_requests_are_bounded() {
    let s = setup(false);
    let mut held: Vec<Client> = (0..MAX_CONNECTIONS).map(|_| s.client()).collect();
    assert_eq!(Client::connect_in(&s.runtime, "web").unwrap_err().kind, Kind::Died);
    held.truncate(1);
    while s.server.shared.lock().connections.len() > 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (tx, mut rx) = halves(s.runtime.connect("web").unwrap());
    tx.send(&Message::hello(), &[]).unwrap();
    rx.recv().unwrap();
    for id in 1..=MAX_JOBS as u64 + 1 {
        let wait = Message::Request { id, method: method::WAIT.into(), params: Value::Null, fds: 0 };
        tx.send(&wait, &[]).unwrap();
    }
    match rx.recv().unwrap().0 {
        Message::Response { id, reply: Reply::Error(e), .. } => {
            assert_eq!((id, e.kind), (MAX_JOBS as u64 + 1, Kind::Refused));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_connected_just_before_the_end_still_hears_of_it() {
    let s = setup(false);
    let (mut late, idle) = (s.client(), s.client());
    s.machine.stop();
    let report = s.report();
    let server = s.server;
    let ending = report.clone();
    let begun = Instant::now();
    let end = std::thread::spawn(move || server.ended(ending));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(late.wait().unwrap(), report);
    end.join().unwrap();
    assert!(begun.elapsed() < LAST_ANSWERS, "one that never asks holds nobody for long");
    drop(idle);
}

#[test]
fn a_process_that_waits_for_no_memory_leaves_recovery_to_the_journal() {
    let ram = strata_memory::GuestRam::single(0x8000_0000, strata_memory::PAGE).unwrap();
    let arrivals = strata_machine::Arrivals::new(ram.clone(), &[], Vec::new());
    let s = setup(false);
    s.server.follow(Arc::new(Pull::over(ram, Arc::new(arrivals))));
    for force in [false, true] {
        assert_eq!(s.client().recover_migration(force, 1).unwrap_err().kind, Kind::NotFound);
    }
}
