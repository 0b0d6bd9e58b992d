//! A person's terminal (or a script's pipes) joined to a machine's console.
//!
//! On a terminal: raw mode, put back on every way out; Ctrl-] opens the monitor, a one-line menu. Without one,
//! standard input goes to the guest and its output to standard output, byte for byte; the end of input ends nothing.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

/// Ctrl-], as telnet has it: no shell or editor uses it.
const ESCAPE: u8 = 0x1d;

/// What a person asks for in the monitor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// Pause or unpause.
    TogglePause,
    /// Reset.
    Reset,
    /// Power off.
    PowerOff,
    /// Leave the console; what that means for the machine is the caller's affair.
    Quit,
}

/// Why the relay ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The console was closed: the machine has ended.
    Closed,
    /// The person left.
    Quit,
}

/// Raw mode while it lives.
pub struct RawMode {
    before: Option<Termios>,
}

impl RawMode {
    /// Puts standard input into raw mode if it is a terminal.
    pub fn enter() -> RawMode {
        let stdin = std::io::stdin();
        let before = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = tcsetattr(&stdin, OptionalActions::Flush, &raw);
        }
        RawMode { before }
    }

    /// Whether there is a terminal.
    pub fn is_terminal(&self) -> bool {
        self.before.is_some()
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// Signals that would end this process with the terminal still raw.
struct Signals(Vec<(i32, UnixStream)>);

impl Signals {
    fn watch() -> std::io::Result<Signals> {
        let watched = [SIGHUP, SIGINT, SIGTERM].map(|signal| {
            let (ours, theirs) = UnixStream::pair()?;
            signal_hook::low_level::pipe::register(signal, theirs)?;
            Ok((signal, ours))
        });
        watched.into_iter().collect::<std::io::Result<_>>().map(Signals)
    }

    /// One that has come.
    fn come(&self) -> Option<i32> {
        let came = |s: &UnixStream| {
            let mut fd = [PollFd::new(s, PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            poll(&mut fd, Some(&now)).is_ok_and(|n| n > 0)
        };
        self.0.iter().find(|(_, s)| came(s)).map(|(signal, _)| *signal)
    }
}

/// Relays between standard streams and `console` until one side ends. `ask` carries out what the person chooses and
/// gives a line to show.
pub fn relay(console: OwnedFd, mut ask: impl FnMut(Ask) -> String) -> std::io::Result<End> {
    let mode = RawMode::enter();
    // Where nothing has to be put back, signals do what they always do.
    let signals = if mode.is_terminal() { Signals::watch()? } else { Signals(Vec::new()) };
    if mode.is_terminal() {
        say("console connected; Ctrl-] opens the menu");
    }
    let mut keys = Keys { escape: mode.is_terminal(), menu: false };
    let mut typed: Vec<u8> = Vec::new();
    let mut stdin_open = true;
    loop {
        let stdin = std::io::stdin();
        let want_out = if typed.is_empty() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let mut fds = vec![PollFd::from_borrowed_fd(console.as_fd(), want_out)];
        // What was typed goes to the guest first; a pipe full of input waits where it is.
        if stdin_open && typed.is_empty() {
            fds.push(PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN));
        }
        let streams = fds.len();
        fds.extend(signals.0.iter().map(|(_, s)| PollFd::new(s, PollFlags::IN)));
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            r => r?,
        };
        let from_console = fds[0].revents();
        let from_stdin = fds[1..streams].iter().any(|f| !f.revents().is_empty());
        drop(fds);
        if let Some(signal) = signals.come() {
            drop(mode);
            // Ends this process as the signal would have without us.
            signal_hook::low_level::emulate_default_handler(signal)?;
            return Ok(End::Quit);
        }
        if from_console.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) && !show(&console)? {
            return Ok(End::Closed);
        }
        if from_console.contains(PollFlags::OUT) {
            send(&console, &mut typed)?;
        }
        if from_stdin {
            let mut buf = [0; 4096];
            let n = match rustix::io::read(stdin.as_fd(), &mut buf) {
                Ok(n) => n,
                // A terminal that someone left non-blocking, or a signal: nothing came, and it is not the end.
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(_) => 0,
            };
            stdin_open = n > 0;
            match keys.press(buf.get(..n).unwrap_or(&[]), &mut typed, &mut ask) {
                Some(end) => return Ok(end),
                None => send(&console, &mut typed)?,
            }
        }
    }
}

/// Copies what the console has to standard output; false at its end.
fn show(console: &OwnedFd) -> std::io::Result<bool> {
    let mut buf = [0; 65536];
    match rustix::io::read(console, &mut buf) {
        Ok(0) => return Ok(false),
        Ok(n) => {
            let mut out = std::io::stdout().lock();
            out.write_all(buf.get(..n).unwrap_or(&[]))?;
            out.flush()?;
        }
        Err(Errno::AGAIN | Errno::INTR) => {}
        Err(Errno::CONNRESET) => return Ok(false),
        Err(e) => return Err(e.into()),
    }
    Ok(true)
}

/// Sends what the console takes now.
fn send(console: &OwnedFd, typed: &mut Vec<u8>) -> std::io::Result<()> {
    use rustix::net::{SendFlags, send};
    if typed.is_empty() {
        return Ok(());
    }
    match send(console, typed, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Ok(n) => drop(typed.drain(..n)),
        Err(Errno::AGAIN | Errno::INTR) => {}
        // The machine has ended; reading will say so.
        Err(Errno::PIPE | Errno::CONNRESET) => typed.clear(),
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

/// Keys typed: most go to the guest, some to the menu.
struct Keys {
    escape: bool,
    menu: bool,
}

impl Keys {
    fn press(
        &mut self,
        keys: &[u8],
        typed: &mut Vec<u8>,
        ask: &mut impl FnMut(Ask) -> String,
    ) -> Option<End> {
        for &key in keys {
            if std::mem::take(&mut self.menu) {
                let wish = match key.to_ascii_lowercase() {
                    b'p' => Ask::TogglePause,
                    b'r' => Ask::Reset,
                    b'o' => Ask::PowerOff,
                    b'q' => Ask::Quit,
                    ESCAPE => {
                        typed.push(ESCAPE);
                        continue;
                    }
                    _ => {
                        say("back at the console");
                        continue;
                    }
                };
                say(&ask(wish));
                if wish == Ask::Quit {
                    return Some(End::Quit);
                }
            } else if self.escape && key == ESCAPE {
                self.menu = true;
                say(
                    "p pause or go on · r reset · o power off · q quit · Ctrl-] send it · any other key: back",
                );
            } else {
                typed.push(key);
            }
        }
        None
    }
}

/// A line of Strata's own among the guest's; raw mode needs the carriage return.
fn say(text: &str) {
    // Nobody is there to read it if this fails.
    let _ = write!(std::io::stderr(), "\r\n[strata] {text}\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_escape_key_opens_the_menu_and_doubles() {
        let mut asked = Vec::new();
        let mut keys = Keys { escape: true, menu: false };
        let mut typed = Vec::new();
        let mut ask = |a| {
            asked.push(a);
            String::new()
        };
        assert_eq!(keys.press(b"ab\x1dp\x1d\x1dc\x1dxd", &mut typed, &mut ask), None);
        assert_eq!(typed, b"ab\x1dcd");
        assert_eq!(keys.press(b"\x1dqz", &mut typed, &mut ask), Some(End::Quit));
        assert_eq!(asked, [Ask::TogglePause, Ask::Quit]);
    }

    #[test]
    fn without_a_terminal_every_byte_is_the_guests() {
        let mut keys = Keys { escape: false, menu: false };
        let mut typed = Vec::new();
        assert_eq!(keys.press(b"\x1dq", &mut typed, &mut |_| String::new()), None);
        assert_eq!(typed, b"\x1dq");
    }
}
