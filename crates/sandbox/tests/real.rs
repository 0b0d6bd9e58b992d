//! Sandboxes on this host: what is seen from within is told by this very program, which is what they run.
//!
//! Where the host allows none, that is said aloud, and nothing is tested.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};
use strata_image::Cpio;
use strata_sandbox::{Error, Ids, Job, SUBCOMMAND, child_main, probe, run, ways};

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    match words.split_first() {
        Some((word, rest)) if word == SUBCOMMAND => child_main(rest),
        Some((word, _)) if word == "look" => look(),
        Some((word, _)) if word == "one-user" => one_user(),
        Some((word, _)) if word == "wait" => loop {
            std::thread::park()
        },
        // A harness is asked for its list by some runners.
        _ if words.iter().any(|w| w == "--list") => ExitCode::SUCCESS,
        _ => test(),
    }
}

fn test() -> ExitCode {
    let path: Vec<PathBuf> = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()).collect();
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let ways = match ways(Path::new("/"), uid, gid, &path) {
        Ok(ways) => ways,
        Err(why) => {
            eprintln!("SKIPPED: {why}");
            return ExitCode::SUCCESS;
        }
    };
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("root.cpio");
    fs::write(&archive, root()).unwrap();
    is_refused_where_root_is_alone();
    for way in ways {
        match probe(&way.ids) {
            Err(why) => eprintln!("SKIPPED {}: {why}", way.name),
            Ok(()) => {
                sees_nothing_of_the_host(&way.ids, &archive, dir.path());
                ends_when_it_is_asked_to(&way.ids, &archive);
                says_why_it_does_not_start(&way.ids, &archive);
                println!("ok {}", way.name);
            }
        }
    }
    ExitCode::SUCCESS
}

/// A user namespace with root in it and nobody else looks like root's own host, until a file is to be another user's.
fn is_refused_where_root_is_alone() {
    let own = std::env::current_exe().unwrap();
    let alone =
        |what: &Path| Command::new("unshare").arg("--map-root-user").arg(what).arg("one-user").status();
    if !alone(Path::new("true")).is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED: this host's unshare makes no user namespace");
        return;
    }
    assert!(alone(&own).unwrap().success());
}

/// What that test runs there.
fn one_user() -> ExitCode {
    for way in ways(Path::new("/"), 0, 0, &[]).unwrap() {
        let why = probe(&way.ids).unwrap_err().to_string();
        let expected = if way.ids == Ids::Root { "another user" } else { "uid_map" };
        assert!(why.contains(expected), "{}: {why}", way.name);
    }
    ExitCode::SUCCESS
}

/// A root with this program and the libraries that it needs.
fn root() -> Vec<u8> {
    let own = std::env::current_exe().unwrap();
    let libraries = Command::new("ldd").arg(&own).output().unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    let mut root = Cpio::new();
    root.file("test", 0o755, &fs::read(&own).unwrap());
    for library in libraries.split_whitespace().filter(|w| w.starts_with('/')) {
        root.file(library.trim_start_matches('/'), 0o755, &fs::read(library).unwrap());
    }
    root.finish()
}

fn job(archive: &Path, what: &str) -> Job {
    Job {
        archive: archive.to_owned(),
        size: 256 << 20,
        command: vec!["/test".into(), what.into()],
        folders: vec!["/root/proc".into()],
        views: vec![("/root".into(), "/tree".into()), ("/proc".into(), "/tree/proc".into())],
        ..Job::default()
    }
}

fn sees_nothing_of_the_host(ids: &Ids, archive: &Path, dir: &Path) {
    let given = dir.join("given");
    fs::write(&given, "of the host").unwrap();
    let what = Job { files: vec![(given.clone(), "/build/given".into())], ..job(archive, "look") };
    let (mounts, mut said) = (fs::read_to_string("/proc/self/mountinfo").unwrap(), Vec::new());
    // A folder of the host that this program was started with, so to speak.
    let open = fs::File::open(dir).unwrap();
    rustix::io::fcntl_setfd(&open, rustix::io::FdFlags::empty()).unwrap();
    fs::set_permissions(&given, fs::Permissions::from_mode(0o600)).unwrap();
    let ended = run(ids, &what, &mut |bytes| said.extend(bytes), &mut || true);
    drop(open);
    let said = String::from_utf8(said).unwrap();
    assert!(ended.is_ok() && said == "all is well\n", "{ids:?}: {ended:?}: {said}");
    assert_eq!(fs::read(&given).unwrap(), b"of the sandbox");
    // In there it was made a program of root's that anybody may start.
    assert_eq!(fs::metadata(&given).unwrap().mode() & 0o7777, 0o600);
    assert!(fs::metadata("/dev/null").unwrap().mode() & 0o7777 != 0o600, "the host's /dev/null was changed");
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
}

fn ends_when_it_is_asked_to(ids: &Ids, archive: &Path) {
    let begun = Instant::now();
    let mut asked = 0;
    let ended = run(ids, &job(archive, "wait"), &mut |_| {}, &mut || {
        asked += 1;
        asked < 3
    });
    assert!(matches!(ended, Err(Error::Stopped)), "{ended:?}");
    // Nothing is left of it: its processes are children of one that has been waited for.
    let ours = |p: &Path| {
        let words = fs::read(p.join("cmdline")).unwrap_or_default();
        words == b"/test\0wait\0" && fs::metadata(p).is_ok()
    };
    while fs::read_dir("/proc").unwrap().flatten().any(|p| ours(&p.path())) {
        assert!(begun.elapsed() < Duration::from_secs(20), "it lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn says_why_it_does_not_start(ids: &Ids, archive: &Path) {
    let say = |job: Job| run(ids, &job, &mut |_| {}, &mut || true).unwrap_err().to_string();
    let none = Job { command: vec!["/none".into()], ..job(archive, "") };
    let Err(Error::Ended(status)) = run(ids, &none, &mut |_| {}, &mut || true) else {
        panic!("{none:?} runs")
    };
    assert_eq!(status.code(), Some(1));
    assert!(say(job(Path::new("/no/archive"), "look")).contains("/no/archive"));
    let small = Job { size: 64 << 10, ..job(archive, "look") };
    assert!(say(small).contains("unpacking"));
    let missing = Job { files: vec![("/no/file".into(), "/f".into())], ..job(archive, "look") };
    assert!(say(missing).contains("/no/file"));
}

/// The program inside: looks around, and says what should not be.
fn look() -> ExitCode {
    let mut wrong = Vec::new();
    // Where there is none, ids are mapped one to one, all of them.
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    let has_namespace = !map.contains("4294967295");
    let mut check = |what: &str, holds: bool| {
        if !holds {
            wrong.push(what.to_owned());
        }
    };
    check("it is not root", rustix::process::getuid().is_root());
    check("it is not process 1", std::process::id() == 1);
    let list = |dir: &str| -> Vec<String> {
        let names =
            fs::read_dir(dir).map(|d| d.flatten().map(|e| e.file_name().to_string_lossy().into_owned()));
        names.map(Iterator::collect).unwrap_or_default()
    };
    let processes = list("/proc").into_iter().filter(|n| n.parse::<u32>().is_ok()).count();
    check("it sees other processes", processes == 1);
    check("the host's root is here", !Path::new("/etc").exists() && !Path::new("/home").exists());
    let devices = list("/dev").len();
    check("there are other devices", devices == 10 && fs::write("/dev/null", "x").is_ok());
    let networks = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    check(
        "it has a network",
        networks.lines().filter(|l| l.contains(':')).all(|l| {
            let name = l.trim_start();
            // Tunnels that the kernel makes in every network, with nowhere to go.
            name.starts_with("lo:")
                || name.starts_with("tunl")
                || name.starts_with("sit")
                || name.starts_with("ip6")
                || name.starts_with("gre")
                || name.starts_with("erspan")
        }),
    );
    check(
        "the network can be reached",
        std::net::TcpStream::connect("127.0.0.1:1").is_err_and(|e| e.raw_os_error() != Some(111)),
    );
    check("/proc/sys can be written", fs::write("/proc/sys/kernel/domainname", "x").is_err());
    check(
        "/proc/sysrq-trigger can be written",
        fs::File::options().write(true).open("/proc/sysrq-trigger").is_err(),
    );
    // 0 to 2, and that of this listing.
    check("something of the host is open", list("/proc/self/fd").len() == 4);
    let device = fs::set_permissions("/dev/null", fs::Permissions::from_mode(0o600));
    check("a device's mode can be changed", device.is_err());
    // SAFETY: there is one thread, and what follows is the end if it succeeds.
    let apart = || unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER) };
    check("it gains rights in a namespace", !has_namespace || apart().is_err());
    let mounted = rustix::mount::mount("t", "/tmp", "tmpfs", rustix::mount::MountFlags::empty(), None);
    check("it may mount", mounted.is_err());
    check("it may unmount", rustix::mount::unmount("/proc", rustix::mount::UnmountFlags::DETACH).is_err());
    check("it gains rights", rustix::thread::no_new_privs().is_ok_and(|n| n));

    // What it is for: files of several users, in a tree that is seen at two places, one of them with /proc.
    fs::write("/root/file", "x").unwrap();
    check(
        "files have one owner",
        [1, 1000, 65_534].iter().all(|id| {
            chown("/root/file", Some(*id), Some(*id)).is_ok()
                && fs::metadata("/tree/file").is_ok_and(|m| m.uid() == *id)
        }),
    );
    let setuid = fs::set_permissions("/root/file", fs::Permissions::from_mode(0o4755));
    check("rights cannot be set", setuid.is_ok());
    check(
        "/proc is not where it should be",
        Path::new("/tree/proc/self").exists() && list("/root/proc").is_empty(),
    );
    let given = fs::read("/build/given");
    check("the host's file is not there", given.is_ok_and(|g| g == b"of the host"));
    check("it cannot be written", fs::write("/build/given", "of the sandbox").is_ok());
    check(
        "its mode cannot be changed",
        fs::set_permissions("/build/given", fs::Permissions::from_mode(0o4755)).is_ok(),
    );
    if wrong.is_empty() {
        println!("all is well");
        return ExitCode::SUCCESS;
    }
    eprintln!("{}", wrong.join(", "));
    ExitCode::FAILURE
}
