//! Our side: the same binary that a person uses, in a home of its own.

use crate::guest::{self, Console, Image};
use crate::report::Figures;
use anyhow::{Context, Result, ensure};
use rustix::fs::{Advice, fadvise};
use rustix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use strata_bench::stats::median;
use strata_vmm::{Client, Status};
use tempfile::TempDir;

const SOURCE: &str = "bench-source";
const TAG: &str = "one";
/// After so long a clone is asked how much memory it has of its own.
const SETTLED: Duration = Duration::from_secs(10);

/// Nanoseconds of the host's monotonic clock, as `Status::began` counts them.
fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    (t.tv_sec * 1_000_000_000 + t.tv_nsec) as u64
}

/// Milliseconds from `start` to `end`.
fn ms(start: u64, end: u64) -> f64 {
    end.saturating_sub(start) as f64 / 1e6
}

/// Our program, with a home for this run alone.
pub struct Ours {
    program: PathBuf,
    home: TempDir,
    port: u16,
    cpus: u32,
}

impl Ours {
    pub fn new(program: &Path, image: &Image, cpus: u32) -> Result<Ours> {
        // Beside the images, so that it is the same file system as a user's.
        let images = image.dir.parent().context("the image lies nowhere")?;
        let store = images.parent().context("the images lie nowhere")?;
        let home = tempfile::Builder::new().prefix("bench-").tempdir_in(store)?;
        std::os::unix::fs::symlink(images, home.path().join("images"))?;
        Ok(Ours { program: program.to_owned(), home, port: guest::free_port()?, cpus })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut c = Command::new(&self.program);
        c.args(words).env("STRATA_HOME", self.home.path()).stdin(Stdio::null()).stdout(Stdio::null());
        c
    }

    fn strata(&self, words: &[&str]) -> Result<()> {
        let status = self.command(words).status()?;
        ensure!(status.success(), "`strata {}` ended with {status}", words.join(" "));
        Ok(())
    }

    fn console(&self, name: &str) -> Result<Console> {
        let stream = UnixStream::from(Client::connect(name)?.attach_console()?);
        Ok(Console::over(stream))
    }

    /// Boots the machine, and takes its snapshot.
    pub fn begin(&self, image: &Image, figures: &mut Figures) -> Result<()> {
        let forward = format!("tcp:127.0.0.1:{}:{}", self.port, guest::PORT);
        let cpus = self.cpus.to_string();
        let words = ["run", &image.name, "--name", SOURCE, "--memory", "1G", "--cpus", &cpus, "--detach"];
        self.strata(&[&words[..], &["--forward", &forward]].concat())?;
        self.console(SOURCE)?.bring_up(image)?;
        let (took, still) = self.watched(&["snapshot", "create", SOURCE, "watched"])?;
        figures.add("snapshot: until it is durable", took);
        figures.add("snapshot: machine stands still", still);
        // This one without an open connection, which would be there again each time.
        std::thread::sleep(Duration::from_millis(500));
        self.strata(&["snapshot", "delete", SOURCE, "watched"])?;
        self.strata(&["snapshot", "create", SOURCE, TAG])
    }

    /// Runs a command while a byte goes to the guest and back again and again: how long the command took, and the
    /// longest that a byte took.
    fn watched(&self, words: &[&str]) -> Result<(f64, f64)> {
        let mut stream = guest::echo(self.port)?;
        let usual: Vec<f64> = (0..20)
            .map(|_| Ok(guest::round_trip(&mut stream)?.as_secs_f64() * 1e3))
            .collect::<Result<_>>()?;
        let (over, mut longest) = (AtomicBool::new(false), Duration::ZERO);
        let took = std::thread::scope(|s| -> Result<f64> {
            let command = s.spawn(|| {
                let start = Instant::now();
                let done = self.strata(words);
                over.store(true, Ordering::Release);
                done.map(|()| start.elapsed().as_secs_f64() * 1e3)
            });
            while !over.load(Ordering::Acquire) {
                longest = longest.max(guest::round_trip(&mut stream)?);
            }
            command.join().map_err(|_| anyhow::anyhow!("the command's thread failed"))?
        })?;
        Ok((took, longest.as_secs_f64() * 1e3 - median(&usual)))
    }

    /// One way back from no process to a machine that answers.
    pub fn restore(&self, figures: &mut Figures) -> Result<()> {
        // What it is now is given up, so it may as well be killed.
        self.strata(&["stop", "--force", SOURCE])?;
        self.back("restore", &["snapshot", "restore", SOURCE, TAG], figures)
    }

    /// As [`Ours::restore`], with memory that the host has to read from its disk; first without knowing which of it will be
    /// wanted, then with.
    pub fn cold(&self, figures: &mut Figures) -> Result<()> {
        let snapshot = self.home.path().join("instances").join(SOURCE).join("snapshots").join(TAG);
        let hint = snapshot.join("first-touch");
        for known in [false, true] {
            self.strata(&["stop", "--force", SOURCE])?;
            let what = if known {
                "restore from disk"
            } else {
                // What cannot be removed is not there.
                let _ = std::fs::remove_file(&hint);
                "restore from disk, first touches unknown"
            };
            let memory = File::open(snapshot.join("memory"))?;
            fadvise(&memory, 0, None, Advice::DontNeed)?;
            self.back(what, &["snapshot", "restore", SOURCE, TAG], figures)?;
            let end = Instant::now() + guest::ANSWER;
            while !hint.exists() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        Ok(())
    }

    /// Away, and back again.
    pub fn suspend(&self, figures: &mut Figures) -> Result<()> {
        let start = now();
        self.strata(&["suspend", SOURCE])?;
        figures.add("suspend", ms(start, now()));
        self.back("resume", &["resume", SOURCE], figures)
    }

    fn back(&self, what: &str, words: &[&str], figures: &mut Figures) -> Result<()> {
        let start = now();
        self.strata(words)?;
        let returned = now();
        let status = self.status(SOURCE)?;
        let began = status.began.context("it has not begun to run")?;
        let mut add = |until: &str, end: u64| figures.add(&format!("{what}: until {until}"), ms(start, end));
        add("its first instruction", began);
        add("the command returns", returned);
        // Both at once: neither pays for the pages that the other has touched first.
        let (console, tcp) = std::thread::scope(|s| -> Result<(u64, u64)> {
            let tcp = s.spawn(|| guest::echo(self.port).map(|_| now()));
            self.console(SOURCE)?.ask("")?;
            let console = now();
            Ok((console, tcp.join().map_err(|_| anyhow::anyhow!("a thread failed"))??))
        })?;
        add("its console answers", console);
        add("its service answers", tcp);
        Ok(())
    }

    /// As [`Client`] tells; a machine that was just started may not have run yet.
    fn status(&self, name: &str) -> Result<Status> {
        let (mut client, end) = (Client::connect(name)?, Instant::now() + guest::ANSWER);
        loop {
            let status = client.status()?;
            if status.began.is_some() || Instant::now() > end {
                return Ok(status);
            }
        }
    }

    /// Makes `count` clones of the snapshot on all cores, and looks at their memory when they have settled.
    pub fn clones(&self, count: usize, figures: &mut Figures) -> Result<()> {
        let jobs = std::thread::available_parallelism()?.get();
        let (next, start) = (AtomicUsize::new(0), now());
        let name = |n: usize| format!("bench-clone-{n}");
        let source = format!("{SOURCE}@{TAG}");
        let began: Vec<u64> = std::thread::scope(|s| {
            let work = || {
                let mut all = Vec::new();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return Ok(all);
                    }
                    self.strata(&["clone", &source, &name(n)])?;
                    self.status(&name(n))?.began.context("a clone has not begun to run")?;
                    all.push(now());
                }
            };
            let workers: Vec<_> = (0..jobs).map(|_| s.spawn(work)).collect();
            let made: Result<Vec<Vec<u64>>> = workers
                .into_iter()
                .map(|w| w.join().map_err(|_| anyhow::anyhow!("a thread failed"))?)
                .collect();
            made.map(|m| m.concat())
        })?;
        let last = began.iter().copied().max().unwrap_or(start);
        figures.add(&format!("{count} clones: until all run and answer"), ms(start, last));
        figures.add("a clone, of those", ms(start, last) / count as f64);
        std::thread::sleep(SETTLED);
        for n in 0..count {
            let status = Client::connect(&name(n))?.status()?;
            if let (Some(began), Some(told)) = (status.began, status.told) {
                figures.add("a clone runs and does not know yet that it is one", ms(began, told));
            }
            let own = crate::memory::of(status.pid)?;
            figures.add("memory of its own, a clone (MiB)", own.private);
            figures.add("of that, guest memory (MiB)", own.guest);
            figures.add("translated code beside it (MiB)", own.code);
        }
        for n in 0..count {
            self.strata(&["stop", "--force", &name(n)])?;
            self.strata(&["delete", &name(n)])?;
        }
        Ok(())
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        // Only ours have this home; what cannot be ended has been told on standard error.
        let Ok(names) = std::fs::read_dir(self.home.path().join("instances")) else { return };
        for name in names.flatten().filter_map(|e| e.file_name().into_string().ok()) {
            if !name.starts_with('.') && Client::connect(&name).is_ok() {
                let _ = self.strata(&["stop", "--force", &name]);
            }
        }
    }
}
