//! Boots an image until a text stands on its console.

use crate::peers::{Boot, Peer};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// The longest that a boot may take.
const LIMIT: Duration = Duration::from_secs(600);

/// An image of `strata image`, and what its console says when it is up.
#[derive(Clone)]
pub struct Image {
    /// Its folder in the store.
    pub dir: PathBuf,
    prompt: &'static str,
    cmdline: String,
}

impl Image {
    /// The image `name` of the user's store, pulled by `strata` if it is not there.
    pub fn find(strata: &Path, name: &str, prompt: &'static str) -> Result<Image> {
        let dir = strata_bench::host::store()?.join("images").join(name);
        if !dir.exists() {
            let status = Command::new(strata).args(["image", "pull", name]).status()?;
            ensure!(status.success(), "`strata image pull {name}` failed");
        }
        let record = std::fs::read(dir.join("image.json")).with_context(|| format!("image {name}"))?;
        let record: serde_json::Value = serde_json::from_slice(&record)?;
        let cmdline = record["cmdline"].as_str().unwrap_or_default().to_owned();
        Ok(Image { dir, prompt, cmdline })
    }

    /// Its kernel.
    pub fn kernel(&self) -> PathBuf {
        self.dir.join("kernel")
    }

    /// The kernel's release, for the report.
    pub fn release(&self) -> Result<String> {
        let record: serde_json::Value = serde_json::from_slice(&std::fs::read(self.dir.join("image.json"))?)?;
        Ok(record["kernel"]["release"].as_str().unwrap_or("unknown").to_owned())
    }

    /// Boots it on `peer`: the time from the process's start to the prompt. A disk is copied first, so that every
    /// boot finds it as the image has it.
    pub fn boot(&self, peer: &Peer, scratch: &Path) -> Result<Duration> {
        let (disk, copy) = (self.dir.join("disk.raw"), scratch.join("disk.raw"));
        let disk = disk.exists().then_some(disk);
        if let Some(disk) = &disk {
            let status = Command::new("cp").arg("--sparse=always").arg(disk).arg(&copy).status()?;
            ensure!(status.success(), "copying {} failed", disk.display());
        }
        let kernel = self.kernel();
        let boot = Boot {
            kernel: &kernel,
            initrd: &self.dir.join("initrd"),
            disk: disk.is_some().then_some(&*copy),
            append: self.cmdline.trim_start_matches("console=ttyS0").trim(),
            harts: 1,
        };
        let command = peer.machine(&boot).context("a host is not booted")?;
        let took = until(command, self.prompt).with_context(|| format!("on {}", peer.name()));
        if disk.is_some() {
            std::fs::remove_file(&copy)?;
        }
        took
    }
}

/// Starts `command`, waits until `text` stands on its output, and ends it.
fn until(mut command: Command, text: &str) -> Result<Duration> {
    let started = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let found = watch(&mut child, text, started);
    end(child)?;
    found
}

fn watch(child: &mut Child, text: &str, started: Instant) -> Result<Duration> {
    let mut out = child.stdout.take().context("its output")?;
    let (send, received) = channel();
    std::thread::spawn(move || {
        let mut buf = [0; 4096];
        while let Ok(n @ 1..) = out.read(&mut buf) {
            if send.send((Instant::now(), buf[..n].to_vec())).is_err() {
                break;
            }
        }
    });
    let mut seen = Vec::new();
    loop {
        let left = LIMIT.saturating_sub(started.elapsed());
        match received.recv_timeout(left) {
            Ok((when, bytes)) => {
                seen.extend_from_slice(&bytes);
                if seen.windows(text.len()).any(|w| w == text.as_bytes()) {
                    return Ok(when - started);
                }
            }
            Err(why) => {
                let why = if why == RecvTimeoutError::Timeout { "took too long" } else { "ended" };
                bail!("it {why} before {text:?}:\n{}", String::from_utf8_lossy(&seen));
            }
        }
    }
}

/// Asks it to end, as a terminal that closes would, and waits.
fn end(mut child: Child) -> Result<()> {
    let pid = Pid::from_child(&child);
    if child.try_wait()?.is_none() {
        kill_process(pid, Signal::TERM)?;
    }
    let patience = Instant::now() + Duration::from_secs(5);
    while child.try_wait()?.is_none() {
        if Instant::now() > patience {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_across_reads_and_its_program_ended() {
        let mut c = Command::new("sh");
        c.args(["-c", "printf 'lo'; sleep 0.1; printf 'gin: '; exec sleep 100"]);
        let took = until(c, "login: ").unwrap();
        assert!(took < Duration::from_secs(50));
    }

    #[test]
    fn a_program_that_ends_early_is_told_with_what_it_said() {
        let mut c = Command::new("echo");
        c.arg("panic");
        assert!(until(c, "login: ").unwrap_err().to_string().contains("panic"));
    }
}
