//! The caller's side: starts the processes, maps their ids, listens, and ends them when it is asked to.

use crate::{Error, Ids, Job};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::fs::Metadata;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The word by which this program is started again for a sandbox: its main calls [`crate::child_main`] with what follows.
pub const SUBCOMMAND: &str = "sandbox";
/// What follows it in process 1.
pub(crate) const FIRST: &str = "first";
/// Said when ids may be mapped.
pub(crate) const MAP: &str = "map";
/// Answered when they are.
pub(crate) const GO: &str = "go";
/// Said when all is ready, before the program's first output.
pub(crate) const UP: &str = "up";
/// Begins the reason for which it is not.
pub(crate) const FAILED: &str = "failed ";

/// How often the caller is asked whether to go on.
const GLANCE: Duration = Duration::from_millis(100);
/// The longest line before the program's own output.
const LINE: usize = 4096;

/// What is passed on from process to process.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub ids: Ids,
    pub root: PathBuf,
    pub job: Job,
}

/// Whether sandboxes can be made with `ids`: makes one, which does nothing.
///
/// # Errors
/// Why not.
pub fn probe(ids: &Ids) -> Result<(), Error> {
    let job = Job { size: 1 << 20, ..Job::default() };
    run(ids, &job, &mut |_| {}, &mut || true)
}

/// Runs `job` with `ids` to its end. What it prints goes to `output` as it comes, in pieces of any length; `go_on` is asked
/// some times a second.
///
/// # Errors
/// It could not be started, did not end with status 0, or was not to go on: then all its processes have ended.
pub fn run(
    ids: &Ids,
    job: &Job,
    output: &mut dyn FnMut(&[u8]),
    go_on: &mut dyn FnMut() -> bool,
) -> Result<(), Error> {
    // Only a place to mount a root on, which no other process sees.
    let root = tempfile::tempdir().map_err(Error::host("making a folder for temporary files"))?;
    let order = Order { ids: ids.clone(), root: root.path().to_owned(), job: job.clone() };
    let given = owners(job);
    let program = std::env::current_exe().map_err(Error::host("finding this program"))?;
    let mut running = Running(
        Command::new(program)
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(Error::host("starting a process"))?,
    );
    let pid = running.0.id();
    // It dies when this end of its input is closed.
    let mut input = running.0.stdin.take().ok_or(Error::Stopped)?;
    let mut lines = running.0.stdout.take().map(Heard::new).ok_or(Error::Stopped)?;
    let mut text = serde_json::to_string(&order).map_err(|e| Error::host("passing it on")(e.into()))?;
    text.push('\n');
    // If it is gone already, what it said tells why.
    let _ = input.write_all(text.as_bytes());
    lines.expect(MAP)?;
    map(ids, pid)?;
    let _ = input.write_all(format!("{GO}\n").as_bytes());
    lines.expect(UP)?;
    let heard = lines.rest(output, go_on);
    if heard.is_err() {
        drop(running);
        take_back(&given)?;
        return heard;
    }
    let status = running.0.wait().map_err(Error::host("waiting for it"))?;
    take_back(&given)?;
    if status.success() { Ok(()) } else { Err(Error::Ended(status)) }
}

/// Owner and mode of the files of a job.
fn owners(job: &Job) -> Vec<(&Path, Metadata)> {
    job.files.iter().filter_map(|(of, _)| Some((of.as_path(), std::fs::metadata(of).ok()?))).collect()
}

/// Gives files that were written in there their owner and mode back: they may be somebody's who is only there, or a program
/// that gives its caller rights.
fn take_back(given: &[(&Path, Metadata)]) -> Result<(), Error> {
    given.iter().try_for_each(|(file, was)| {
        chown(file, Some(was.uid()), Some(was.gid()))
            .and_then(|()| std::fs::set_permissions(file, was.permissions()))
            .map_err(Error::host(format!("taking {} back", file.display())))
    })
}

/// Maps the ids of process `pid`.
fn map(ids: &Ids, pid: u32) -> Result<(), Error> {
    match ids {
        Ids::Root => Ok(()),
        Ids::Identity => ["uid_map", "gid_map"].iter().try_for_each(|m| {
            let file = format!("/proc/{pid}/{m}");
            std::fs::write(&file, Ids::identity()).map_err(Error::host(format!("writing {file}")))
        }),
        Ids::Subordinate { uid, gid, users, groups, programs: [u, g] } => {
            [(u, *uid, *users), (g, *gid, *groups)].into_iter().try_for_each(|(program, own, first)| {
                let doing = format!("running {}", program.display());
                let done = Command::new(program).args(Ids::map(own, first, pid)).output();
                let done = done.map_err(Error::host(doing.clone()))?;
                let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
                done.status
                    .success()
                    .then_some(())
                    .ok_or(Error::Host { doing, source: std::io::Error::other(said) })
            })
        }
    }
}

/// A process that does not outlive its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself. Process 1 dies with it, and all of its own with that.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What it prints.
struct Heard {
    from: std::process::ChildStdout,
    /// What has come of the program's own output.
    rest: Vec<u8>,
}

impl Heard {
    fn new(from: std::process::ChildStdout) -> Heard {
        Heard { from, rest: Vec::new() }
    }

    /// Reads the line `word`.
    fn expect(&mut self, word: &str) -> Result<(), Error> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end();
                return match line.strip_prefix(FAILED) {
                    Some(why) => Err(Error::Inside(why.to_owned())),
                    None if line == word => Ok(()),
                    None => Err(Error::Inside(format!("it said {line:?} where {word:?} was expected"))),
                };
            }
            let mut buf = [0; 512];
            let n = self.from.read(&mut buf).map_err(Error::host("listening to it"))?;
            self.rest.extend(buf.get(..n).unwrap_or_default());
            if n == 0 || self.rest.len() > LINE {
                return Err(Error::Inside("it ended before it was ready".to_owned()));
            }
        }
    }

    /// Passes on all that comes, to its end.
    fn rest(&mut self, output: &mut dyn FnMut(&[u8]), go_on: &mut dyn FnMut() -> bool) -> Result<(), Error> {
        output(&self.rest);
        let glance = Timespec { tv_sec: 0, tv_nsec: i64::from(GLANCE.subsec_nanos()) };
        let mut buf = [0; 4096];
        loop {
            if !go_on() {
                return Err(Error::Stopped);
            }
            // An interrupted wait is an early one.
            let ready = poll(&mut [PollFd::new(&self.from, PollFlags::IN)], Some(&glance)).unwrap_or(0);
            if ready == 0 {
                continue;
            }
            match self.from.read(&mut buf).map_err(Error::host("listening to it"))? {
                0 => return Ok(()),
                n => output(buf.get(..n).unwrap_or_default()),
            }
        }
    }
}
