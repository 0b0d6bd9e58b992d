//! A command whose console is in the test's hands.

use anyhow::{Context, Result, bail, ensure};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What came out so far, and whether that was all.
#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
    ended: bool,
}

type Ear = Arc<(Mutex<Heard>, Condvar)>;

fn lock(ear: &Ear) -> MutexGuard<'_, Heard> {
    ear.0.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command that runs, with a guest's shell at its other end.
pub struct Console {
    child: Child,
    input: Option<ChildStdin>,
    ear: Ear,
    /// How much of the output earlier waits have passed over.
    seen: usize,
    asked: u32,
}

impl Console {
    /// Starts a command; what it says on standard error goes where ours does.
    ///
    /// # Errors
    /// It does not start.
    pub fn spawn(command: &mut Command) -> Result<Console> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {command:?}"))?;
        let (input, mut out) = (child.stdin.take(), child.stdout.take().context("no output")?);
        let ear = Ear::default();
        let ours = ear.clone();
        std::thread::spawn(move || {
            let mut buf = [0; 4096];
            loop {
                let n = out.read(&mut buf).unwrap_or(0);
                let mut heard = lock(&ours);
                heard.bytes.extend(buf.get(..n).unwrap_or_default());
                heard.ended = n == 0;
                ours.1.notify_all();
                if n == 0 {
                    return;
                }
            }
        });
        Ok(Console { child, input, ear, seen: 0, asked: 0 })
    }

    /// Waits for `text`, after what was waited for before; gives what came in between.
    ///
    /// # Errors
    /// It does not come within `limit`, or the command ends.
    pub fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let mut heard = lock(&self.ear);
        loop {
            let new = heard.bytes.get(self.seen..).unwrap_or_default();
            if let Some(at) = new.windows(text.len()).position(|w| w == text.as_bytes()) {
                let before = String::from_utf8_lossy(new.get(..at).unwrap_or_default()).into_owned();
                self.seen += at + text.len();
                return Ok(before);
            }
            let left = end.saturating_duration_since(Instant::now());
            if heard.ended || left.is_zero() {
                let why = if heard.ended { "the output ended" } else { "the time was over" };
                bail!("waited for {text:?}, {why}:\n{}", String::from_utf8_lossy(&heard.bytes));
            }
            heard = self.ear.1.wait_timeout(heard, left).map_or_else(|e| e.into_inner().0, |r| r.0);
        }
    }

    /// Everything that came out so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&lock(&self.ear).bytes).into_owned()
    }

    /// Waits until nothing comes any more; gives all that came.
    ///
    /// # Errors
    /// It does not end within `limit`.
    pub fn rest(self, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        while !lock(&self.ear).ended {
            ensure!(Instant::now() < end, "its output does not end:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(self.text())
    }

    /// Types a line.
    ///
    /// # Errors
    /// Nobody reads it.
    pub fn send(&mut self, line: &str) -> Result<()> {
        let input = self.input.as_mut().context("its input is closed")?;
        input.write_all(line.as_bytes()).and_then(|()| input.write_all(b"\n")).context("typing")
    }

    /// Has the guest's shell run something, which must succeed; gives what it printed.
    ///
    /// # Errors
    /// It fails, or is not done within `limit`.
    pub fn sh(&mut self, line: &str, limit: Duration) -> Result<String> {
        self.asked += 1;
        let mark = format!("@{}@", self.asked);
        // The quotes keep the terminal's echo of this line from looking like the answer.
        self.send(&format!("echo '@'{}'@'; {line}; echo \"@\"\"end $?\"", self.asked))?;
        self.wait_for(&mark, limit)?;
        let out = self.wait_for("@end ", limit)?;
        let code = self.wait_for("\n", limit)?;
        ensure!(code.trim() == "0", "`{line}` ended with {}:\n{out}", code.trim());
        Ok(out.trim().replace('\r', ""))
    }

    /// Waits until the command ends; gives its exit code.
    ///
    /// # Errors
    /// It does not within `limit`, or by a signal.
    pub fn end(mut self, limit: Duration) -> Result<i32> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return status.code().with_context(|| format!("it ended with {status}"));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("it does not end:\n{}", String::from_utf8_lossy(&lock(&self.ear).bytes))
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // Ended already, unless the test failed or the machine outlives its console.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
