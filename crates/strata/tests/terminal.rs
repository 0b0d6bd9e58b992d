//! A person's terminal: raw while the console is on it, as it was afterwards, however the command ends.

mod common;

use common::{Place, SPIN, until, write_code};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};

/// Our end of a terminal, and the command's.
fn terminal() -> (OwnedFd, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).and_then(|()| unlockpt(&ours)).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    (ours, rustix::fs::open(&name, flags, Mode::empty()).unwrap())
}

fn start(mut command: Command, terminal: &OwnedFd) -> Child {
    let end = || terminal.try_clone().unwrap();
    command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap()
}

/// Reads until `text` comes.
fn wait_for(ours: &OwnedFd, text: &str) {
    let mut seen = Vec::new();
    let mut buf = [0; 1024];
    until(text, || {
        let n = rustix::io::read(ours, &mut buf).unwrap();
        seen.extend(&buf[..n]);
        String::from_utf8_lossy(&seen).contains(text)
    });
}

/// Runs a machine on a terminal, ends it so; the terminal must be as before.
fn ends(how: impl FnOnce(&OwnedFd, &Child)) -> ExitStatus {
    let place = Place::new();
    write_code(&place.work().join("spin"), &SPIN);
    let (ours, theirs) = terminal();
    let canonical = || tcgetattr(&theirs).unwrap().local_modes.contains(LocalModes::ICANON);
    assert!(canonical());
    let mut child = start(place.command("run --firmware spin"), &theirs);
    wait_for(&ours, "Ctrl-] opens the menu");
    assert!(!canonical(), "the console's terminal should be raw");
    how(&ours, &child);
    let status = child.wait().unwrap();
    assert!(canonical(), "the terminal was left raw");
    until("the machine is gone", || place.running().is_empty());
    // What it leaves if the client dies is swept by whoever comes next.
    place.strata("ps").good();
    place.is_clean();
    status
}

#[test]
fn the_menu_ends_the_machine() {
    // To quit is a good end; to pull the plug is not the guest's own end, and is told as that.
    for (key, code) in [(b"q", 0), (b"o", 79)] {
        let status = ends(|ours, _| {
            rustix::io::write(ours, b"\x1d").unwrap();
            wait_for(ours, "q quit");
            rustix::io::write(ours, key).unwrap();
        });
        assert_eq!(status.code(), Some(code));
    }
}

#[test]
fn a_signal_ends_it_and_puts_the_terminal_back() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let status = ends(|_, child| {
            kill_process(Pid::from_raw(child.id().cast_signed()).unwrap(), signal).unwrap();
        });
        assert_eq!(status.signal(), Some(signal.as_raw()));
    }
}
