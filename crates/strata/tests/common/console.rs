//! A running command whose streams are in the test's hands.

use super::{Done, PATIENCE};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What came out so far, and whether that was all.
#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    ended: bool,
}

/// One output stream, read by a thread so that it never fills up.
struct Ear {
    heard: Arc<(Mutex<Heard>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Ear {
    fn on(mut stream: impl Read + Send + 'static) -> Ear {
        let heard: Arc<(Mutex<Heard>, Condvar)> = Arc::default();
        let ours = heard.clone();
        let thread = std::thread::spawn(move || {
            let mut buf = [0; 4096];
            loop {
                let n = stream.read(&mut buf).unwrap_or(0);
                let mut heard = ours.0.lock().unwrap();
                heard.bytes.extend(&buf[..n]);
                heard.ended = n == 0;
                ours.1.notify_all();
                if n == 0 {
                    return;
                }
            }
        });
        Ear { heard, thread: Some(thread) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.heard.0.lock().unwrap().bytes).into_owned()
    }
}

/// A new mark, and a command that has the guest's shell print it.
fn mark() -> (String, String) {
    let n = ASKED.fetch_add(1, Relaxed) + 1;
    // The quotes keep the terminal's echo of this line from looking like the answer.
    (format!("@{n}@"), format!("echo '@'{n}'@'"))
}

/// A command that runs, most often with a machine's console.
pub struct Console {
    child: Child,
    input: Option<ChildStdin>,
    out: Ear,
    err: Ear,
    /// How much of the output earlier waits have passed over.
    seen: usize,
    started: Instant,
}

/// Why what was waited for has not come: it still may.
const LATE: &str = "the time was over";

/// Questions to all consoles: one that attaches is shown what another was answered before.
static ASKED: AtomicU32 = AtomicU32::new(0);

impl Console {
    /// Starts a command.
    pub fn spawn(mut command: Command) -> Console {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Console {
            input: child.stdin.take(),
            out: Ear::on(child.stdout.take().unwrap()),
            err: Ear::on(child.stderr.take().unwrap()),
            child,
            seen: 0,
            started: Instant::now(),
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// The command's process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Since the start.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Everything that came out so far.
    pub fn text(&self) -> String {
        self.out.text()
    }

    /// Waits for `text`, after what was waited for before; gives what came in between.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        self.wait_long(text, PATIENCE)
    }

    /// As [`Console::wait_for`], for what may take `patience`.
    #[track_caller]
    pub fn wait_long(&mut self, text: &str, patience: Duration) -> String {
        self.hears(text, patience).unwrap_or_else(|why| {
            let (out, err) = (self.out.text(), self.err.text());
            panic!("waited for {text:?}, {why} after {:?}\n{out}\n-- stderr\n{err}", self.age())
        })
    }

    /// As [`Console::wait_long`], where it may as well not come: then why.
    fn hears(&mut self, text: &str, patience: Duration) -> Result<String, &'static str> {
        let end = Instant::now() + patience;
        let mut heard = self.out.heard.0.lock().unwrap();
        loop {
            let new = &heard.bytes[self.seen..];
            if let Some(at) = new.windows(text.len()).position(|w| w == text.as_bytes()) {
                let before = String::from_utf8_lossy(&new[..at]).into_owned();
                self.seen += at + text.len();
                return Ok(before);
            }
            if heard.ended {
                return Err("the output ended");
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LATE);
            }
            heard = self.out.heard.1.wait_timeout(heard, left).unwrap().0;
        }
    }

    /// Waits until a shell answers. Its prompt is no sign of it: busybox's shell prints an empty one when the end of a
    /// background job interrupts its reading. What is typed while a machine boots may be lost, so it is asked again.
    #[track_caller]
    pub fn greet(&mut self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (mark, print) = mark();
            self.send(&print);
            match self.hears(&mark, Duration::from_secs(5)) {
                Ok(_) => return,
                Err(LATE) if Instant::now() < end => {}
                Err(why) => panic!("no shell: {why}\n{}\n{}", self.text(), self.err.text()),
            }
        }
    }

    /// Types a line.
    #[track_caller]
    pub fn send(&mut self, line: &str) {
        self.offer(line).unwrap();
    }

    /// Types a line to what may have ended.
    #[track_caller]
    pub fn offer(&mut self, line: &str) -> std::io::Result<()> {
        let input = self.input.as_mut().expect("its input is closed");
        input.write_all(line.as_bytes()).and_then(|()| input.write_all(b"\n"))
    }

    /// Ends its input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Has the guest's shell run something; it must succeed. Gives what it printed.
    #[track_caller]
    pub fn sh(&mut self, line: &str) -> String {
        self.sh_long(line, PATIENCE)
    }

    /// As [`Console::sh`], for what may take `patience`.
    #[track_caller]
    pub fn sh_long(&mut self, line: &str, patience: Duration) -> String {
        let (mark, print) = mark();
        self.send(&format!("{print}; {line}; echo \"@\"\"end $?\""));
        self.wait_long(&mark, patience);
        let out = self.wait_long("@end ", patience);
        let code = self.wait_for("\n");
        assert_eq!(code.trim(), "0", "`{line}` failed:\n{out}");
        out.trim().replace('\r', "")
    }

    /// Waits for the address that the user-mode network gives by DHCP; on a busy host the guest asks again in the background.
    #[track_caller]
    pub fn wait_for_address(&mut self) {
        super::until("an address by DHCP", || {
            self.sh("ip -4 addr show dev eth0").contains("inet 10.0.2.15/24")
        });
    }

    /// Waits for the end.
    #[track_caller]
    pub fn end(mut self) -> Done {
        self.input = None;
        let end = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < end, "does not end:\n{}\n{}", self.text(), self.err.text());
            std::thread::sleep(Duration::from_millis(10));
        };
        // Something that holds the streams longer than the command lives would hang us here: that is a finding.
        for ear in [&mut self.out, &mut self.err] {
            let _ = ear.thread.take().map(JoinHandle::join);
        }
        Done { code: status.code(), out: self.out.text(), err: self.err.text() }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
