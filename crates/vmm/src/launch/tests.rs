//! Real processes with a guest of straw: this test binary, run again, is the VMM.

use super::*;
use crate::control::{Assembled, MachineControl};
use crate::exit::Outcome;
use crate::instances::{NewInstance, Store};
use crate::runtime::Runtime;
use crate::spec::{ConsoleSpec, NetSpec};
use rustix::io::{FdFlags, fcntl_setfd, read, write};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// Prints "boot", echoes lines, and obeys those it knows.
#[derive(Default)]
struct Straw {
    end: Mutex<Option<Outcome>>,
    changed: Condvar,
    guest: Mutex<Option<std::thread::JoinHandle<()>>>,
    stream: Mutex<Option<UnixStream>>,
}

impl Straw {
    fn end(&self, outcome: Outcome) {
        self.end.lock().unwrap().get_or_insert(outcome);
        self.changed.notify_all();
    }

    fn guest(self: &Arc<Self>, mut stream: UnixStream) {
        let mut line = String::new();
        let mut byte = [0];
        let mut say = stream.try_clone().unwrap();
        let mut say = |text: &str| std::io::Write::write_all(&mut say, text.as_bytes());
        say("boot\n").unwrap();
        while stream.read(&mut byte).is_ok_and(|n| n == 1) {
            line.push(byte[0] as char);
            if byte[0] != b'\n' {
                continue;
            }
            match std::mem::take(&mut line).trim() {
                "poweroff" => return self.end(Outcome::PowerOff { code: 0 }),
                "flood" => {
                    for i in 0..100_000 {
                        say(&format!("{i}\n")).unwrap();
                    }
                    return self.end(Outcome::PowerOff { code: 0 });
                }
                "fail" => return self.end(Outcome::PowerOff { code: 300 }),
                "stick" => return self.end(Outcome::Stuck { why: "x1=0".into() }),
                other => say(&format!("<{other}>\n")).unwrap(),
            }
        }
    }
}

struct Held(Arc<Straw>);

impl MachineControl for Held {
    fn tier(&self) -> &'static str {
        "interpreter"
    }
    fn start(&self) -> Result<(), String> {
        let stream = self.0.stream.lock().unwrap().as_ref().unwrap().try_clone().unwrap();
        let straw = self.0.clone();
        if straw.end.lock().unwrap().is_some() {
            return Ok(());
        }
        *self.0.guest.lock().unwrap() = Some(std::thread::spawn(move || straw.guest(stream)));
        Ok(())
    }
    fn pause(&self) -> Result<(), String> {
        Ok(())
    }
    fn unpause(&self) -> Result<(), String> {
        Ok(())
    }
    fn reset(&self) -> Result<(), String> {
        Ok(())
    }
    fn stop(&self) {
        self.0.end(Outcome::Stopped { by: String::new() });
    }
    fn phase(&self) -> &'static str {
        "running"
    }
    fn wait(&self) -> Outcome {
        let mut end = self.0.end.lock().unwrap();
        while end.is_none() {
            end = self.0.changed.wait(end).unwrap();
        }
        end.clone().unwrap()
    }
    fn release(&self) {
        // Its thread may still be reading; it has nothing more to say.
        if let Some(s) = self.0.stream.lock().unwrap().take() {
            s.shutdown(std::net::Shutdown::Both).unwrap();
        }
        if let Some(t) = self.0.guest.lock().unwrap().take() {
            t.join().unwrap();
        }
    }
}

fn straw(spec: &VmmSpec) -> Result<Assembled> {
    match spec.cmdline.as_str() {
        "brief" => {
            // Printed, and over, before anybody can have asked for anything.
            let (ours, theirs) = crate::console::stream_pair()?;
            write(&theirs, b"brief\n").unwrap();
            let machine = Arc::new(Straw::default());
            machine.end(Outcome::PowerOff { code: 5 });
            *machine.stream.lock().unwrap() = Some(theirs.into());
            let flush = Box::new(Vec::new);
            return Ok(Assembled {
                machine: Box::new(Held(machine)),
                console: ours,
                settle_in: Box::new(|| Ok(Vec::new())),
                flush,
                over_file: Vec::new(),
                notes: Vec::new(),
            });
        }
        "refuse" => return Err(Error::new(Kind::BadInput, "The straw is wet.")),
        "die" => std::process::abort(),
        _ => {}
    }
    let (ours, theirs) = crate::console::stream_pair()?;
    let machine = Arc::new(Straw::default());
    *machine.stream.lock().unwrap() = Some(theirs.into());
    let flush_fails = spec.cmdline == "unflushable";
    let flush =
        move || flush_fails.then(|| "Disk straw could not be flushed.".to_owned()).into_iter().collect();
    let notes = vec!["made of straw".into()];
    Ok(Assembled {
        machine: Box::new(Held(machine)),
        console: ours,
        settle_in: Box::new(|| Ok(Vec::new())),
        flush: Box::new(flush),
        over_file: Vec::new(),
        notes,
    })
}

/// In a child this is the VMM; in the test run itself there is nothing to do.
#[test]
fn child_entry() {
    if std::env::var_os("STRATA_TEST_VMM").is_some() {
        std::process::exit(crate::run_child(straw).into());
    }
}

/// In a child: runs a machine in the foreground, as `strata run` does, until it is killed.
#[test]
fn child_runner() {
    if let Some(dir) = std::env::var_os("STRATA_TEST_RUNNER") {
        let dir = Path::new(&dir);
        let launched = launcher(dir).launch(&VmmSpec { foreground: true, ..spec("orphan") }, None).unwrap();
        fs::write(dir.join("pid"), launched.pid.to_string()).unwrap();
        std::thread::sleep(Duration::from_secs(60));
    }
}

fn launcher(dir: &Path) -> Launcher {
    Launcher {
        program: std::env::current_exe().unwrap(),
        args: ["--exact", "launch::tests::child_entry", "--nocapture"].map(Into::into).to_vec(),
        env: vec![("STRATA_TEST_VMM".into(), "1".into()), ("XDG_RUNTIME_DIR".into(), dir.into())],
    }
}

fn spec(name: &str) -> VmmSpec {
    VmmSpec { kernel: Some("/straw".into()), net: NetSpec::None, ..VmmSpec::new(name) }
}

fn place() -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::at(dir.path().join("strata")).unwrap();
    (dir, runtime)
}

fn left(r: &Runtime) -> Vec<String> {
    fs::read_dir(r.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

fn read_n(fd: &OwnedFd, n: usize) -> String {
    let mut out = vec![0; n];
    let mut at = 0;
    while at < n {
        let got = read(fd, &mut out[at..]).unwrap();
        assert!(got > 0, "end after {:?}", String::from_utf8_lossy(&out[..at]));
        at += got;
    }
    String::from_utf8(out).unwrap()
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn alive(pid: u32) -> bool {
    // A zombie has no descriptors any more; one whose parent is gone is soon no more at all.
    fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|mut d| d.next().is_some())
}

#[test]
fn a_foreground_run_is_driven_by_a_script_and_loses_nothing() {
    let (dir, runtime) = place();
    let spec = VmmSpec { foreground: true, console: ConsoleSpec::Primary, ..spec("web") };
    let mut run = launcher(dir.path()).launch(&spec, None).unwrap();
    assert_eq!((run.name.as_str(), run.notes.clone()), ("web", vec!["made of straw".to_owned()]));
    let console = run.client.attach_primary().unwrap();
    // A whole script at once, then end of input: that does not end the machine, `flood` does.
    write(&console, b"one\ntwo\nflood\n").unwrap();
    rustix::net::shutdown(&console, rustix::net::Shutdown::Write).unwrap();
    let reader = std::thread::spawn(move || {
        // A slow reader: the guest waits for it.
        std::thread::sleep(Duration::from_millis(300));
        let mut all = String::new();
        UnixStream::from(console).read_to_string(&mut all).unwrap();
        all
    });
    let report = run.wait().unwrap();
    assert_eq!((report.outcome.clone(), report.code()), (Outcome::PowerOff { code: 0 }, 0));
    let flood: String = (0..100_000).map(|i| format!("{i}\n")).collect();
    assert!(reader.join().unwrap() == format!("boot\n<one>\n<two>\n{flood}"));
    assert_eq!(left(&runtime), [""; 0]);
    assert_eq!(run.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_detached_machine_holds_nothing_of_its_caller() {
    let (dir, runtime) = place();
    // Two descriptors that a careless caller leaves open to its children.
    let (r, w) = rustix::pipe::pipe().unwrap();
    fcntl_setfd(&w, FdFlags::empty()).unwrap();
    let file = fs::File::create(dir.path().join("held")).unwrap();
    fcntl_setfd(&file, FdFlags::empty()).unwrap();
    let Launched { client, pid, mut child, .. } = launcher(dir.path()).launch(&spec("web"), None).unwrap();
    drop(client);
    drop(w);
    assert_eq!(read(&r, &mut [0; 1]).unwrap(), 0, "nobody else holds the pipe");
    let mut standard = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_str().unwrap().parse().unwrap();
        let target = fs::read_link(entry.path()).unwrap();
        assert_ne!(target, dir.path().join("held"));
        if number < 3 {
            standard.push((number, target.file_name().unwrap().to_str().unwrap().to_owned()));
        }
    }
    standard.sort();
    assert_eq!(standard, [(0, "null".into()), (1, "null".into()), (2, "web.log".into())]);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    let session = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap().to_owned();
    assert_eq!(session, pid.to_string(), "leads a session of its own");

    // Its console from another connection, and again: the second begins with the last screenful.
    let mut c = Client::connect_in(&runtime, "web").unwrap();
    let first = c.attach_console().unwrap();
    assert_eq!(read_n(&first, 5), "boot\n");
    write(&first, b"hi\n").unwrap();
    assert_eq!(read_n(&first, 5), "<hi>\n");
    drop(first);
    let second = c.attach_console().unwrap();
    assert_eq!(read_n(&second, 10), "boot\n<hi>\n");
    write(&second, b"poweroff\n").unwrap();
    assert_eq!(c.wait().unwrap().code(), 0);
    child.wait().unwrap();
    assert_eq!(left(&runtime), [""; 0]);
}

#[test]
fn failures_have_their_kind_and_leave_nothing() {
    let (dir, runtime) = place();
    let launch = |spec: VmmSpec| launcher(dir.path()).launch(&spec, None).map(|_| ()).unwrap_err();
    let cmdline = |c: &str| VmmSpec { cmdline: c.into(), ..spec("web") };
    assert_eq!(launch(cmdline("refuse")), Error::new(Kind::BadInput, "The straw is wet."));
    assert_eq!(left(&runtime), [""; 0]);
    let e = launch(cmdline("die"));
    assert_eq!(e.kind, Kind::Died);
    assert!(e.message.contains("signal 6"), "{e}");
    assert_eq!(launch(VmmSpec { cpus: 0, ..spec("web") }).kind, Kind::Config);
    runtime.list().unwrap();
    let taken = dir.path().join("console");
    fs::write(&taken, b"").unwrap();
    let e = launch(VmmSpec { console: ConsoleSpec::Socket { path: taken }, ..spec("web") });
    assert_eq!(e.kind, Kind::InUse, "{e}");
    assert_eq!(left(&runtime), [""; 0]);

    let running = launcher(dir.path()).launch(&spec("web"), None).unwrap();
    assert_eq!(launch(spec("web")).kind, Kind::InUse);
    drop(running.client);
    assert_eq!(
        Client::connect_in(&runtime, "web").unwrap().stop(&mut |_| ()).unwrap().code(),
        Kind::Stopped.code()
    );
    assert_eq!(left(&runtime), [""; 0], "the name is free when the stop is answered");
}

#[test]
fn a_brief_run_is_seen_whole_and_ends_at_once() {
    let (dir, runtime) = place();
    let run = |pause| {
        let begun = Instant::now();
        let spec = VmmSpec {
            foreground: true,
            console: ConsoleSpec::Primary,
            cmdline: "brief".into(),
            ..spec("web")
        };
        let mut run = launcher(dir.path()).launch(&spec, None).unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        let console = run.client.attach_primary().unwrap();
        let mut text = String::new();
        UnixStream::from(console).read_to_string(&mut text).unwrap();
        assert_eq!(text, "brief\n");
        std::thread::sleep(Duration::from_millis(pause));
        assert_eq!(run.wait().unwrap().code(), 5);
        assert_eq!(left(&runtime), [""; 0]);
        begun.elapsed()
    };
    for pause in [0, 50] {
        // One that waits for somebody waits for a second. The host may be busy, but not each time.
        let fastest = run(pause).min(run(pause));
        assert!(fastest < Duration::from_millis(900), "{fastest:?} with a pause of {pause} ms");
    }
}

#[test]
fn codes_and_last_words() {
    let (dir, _runtime) = place();
    for (cmdline, typed, code, word) in [
        ("", "fail\n", 63, "code 300"),
        ("", "stick\n", Kind::Stuck.code(), "x1=0"),
        ("unflushable", "poweroff\n", Kind::Io.code(), "could not be flushed"),
    ] {
        let spec = VmmSpec { foreground: true, cmdline: cmdline.into(), ..spec("web") };
        let mut run = launcher(dir.path()).launch(&spec, None).unwrap();
        let console = run.client.attach_console().unwrap();
        write(&console, typed.as_bytes()).unwrap();
        let report = run.wait().unwrap();
        assert_eq!(report.code(), code);
        assert!(report.message().unwrap().contains(word), "{report:?}");
        assert_eq!(run.child.wait().unwrap().code(), Some(code.into()));
    }
}

#[test]
fn signals_stop_it_and_a_kill_leaves_only_what_is_swept() {
    let (dir, runtime) = place();
    let run = launcher(dir.path()).launch(&spec("a"), None).unwrap();
    let mut c = Client::connect_in(&runtime, "a").unwrap();
    kill_process(Pid::from_raw(run.pid as i32).unwrap(), Signal::TERM).unwrap();
    let report = c.wait().unwrap();
    assert_eq!(report.outcome, Outcome::Stopped { by: "a termination signal".into() });
    assert_eq!(left(&runtime), [""; 0]);

    let mut run = launcher(dir.path()).launch(&VmmSpec { foreground: true, ..spec("b") }, None).unwrap();
    assert_eq!(runtime.list().unwrap()[0].pid, run.pid);
    // The killed one stays a zombie until its parent has looked: that does not hold its name.
    runtime.kill("b").unwrap();
    assert_eq!(left(&runtime), [""; 0]);
    let e = run.wait().unwrap_err();
    assert!(e.kind == Kind::Died && e.message.contains("signal 9"), "{e}");
}

#[test]
fn a_foreground_machine_does_not_outlive_its_runner() {
    let (dir, runtime) = place();
    let mut runner = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "launch::tests::child_runner", "--nocapture"])
        .env("STRATA_TEST_RUNNER", dir.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let pid_file = dir.path().join("pid");
    until("the machine runs", || fs::read_to_string(&pid_file).is_ok_and(|t| !t.is_empty()));
    let pid: u32 = fs::read_to_string(&pid_file).unwrap().parse().unwrap();
    assert!(runtime.is_running("orphan") && alive(pid));
    runner.kill().unwrap();
    runner.wait().unwrap();
    until("the machine is gone", || !alive(pid));
    assert_eq!(left(&runtime), [""; 0]);
}

#[test]
fn an_instances_lock_goes_with_its_machine() {
    let (dir, runtime) = place();
    let store = Store::at(&dir.path().join("home")).unwrap();
    let new = |name: Option<&str>| NewInstance {
        name: name.map(str::to_owned),
        ephemeral: name.is_none(),
        image: None,
        base: None,
        disk_size: None,
        deterministic: None,
        tier: None,
        arch: Default::default(),
        engine: Default::default(),
        cpu: None,
        virtio: Default::default(),
        cpus: 1,
        memory: 64 << 20,
        cmdline: String::new(),
        firmware: None,
        kernel: Some("/straw".into()),
        initrd: None,
        disks: Vec::new(),
        net: NetSpec::None,
    };
    let start = |instance: crate::Instance| {
        let run = launcher(dir.path()).launch(&instance.spec(), Some(instance.lock())).unwrap();
        instance.keep();
        run
    };
    // Ephemeral: held while it runs, gone when it has ended.
    let run = start(store.create(new(None)).unwrap());
    assert!(store.sweep().unwrap().is_empty() && store.list().unwrap()[0].in_use);
    Client::connect_in(&runtime, &run.name).unwrap().stop(&mut |_| ()).unwrap();
    assert!(store.list().unwrap().is_empty());
    // Killed: swept by whoever looks next.
    let run = start(store.create(new(None)).unwrap());
    runtime.kill(&run.name).unwrap();
    assert_eq!(store.sweep().unwrap(), std::slice::from_ref(&run.name));
    // Kept: free again when it has ended, with its log.
    let run = start(store.create(new(Some("kept"))).unwrap());
    assert_eq!(store.take("kept").unwrap_err().kind, Kind::InUse);
    let mut c = Client::connect_in(&runtime, &run.name).unwrap();
    let console = c.attach_console().unwrap();
    write(console.as_fd(), b"stick\n").unwrap();
    c.wait().unwrap();
    let kept = store.take("kept").unwrap();
    assert!(fs::read_to_string(kept.dir().join("vmm.log")).unwrap().contains("x1=0"));
}
