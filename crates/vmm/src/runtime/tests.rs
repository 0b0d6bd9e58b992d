use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};

fn runtime() -> (tempfile::TempDir, Runtime) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Runtime::at(dir.path().join("strata")).unwrap();
    (dir, runtime)
}

fn files(r: &Runtime) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(r.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_folder_is_private_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    Runtime::at(at("new")).unwrap();
    assert_eq!(std::fs::metadata(at("new")).unwrap().permissions().mode() & 0o777, 0o700);
    Runtime::at(at("new")).unwrap();

    symlink(at("new"), at("link")).unwrap();
    std::fs::write(at("file"), b"").unwrap();
    std::fs::create_dir(at("open")).unwrap();
    std::fs::set_permissions(at("open"), PermissionsExt::from_mode(0o750)).unwrap();
    for bad in ["link", "file", "open"] {
        assert_eq!(Runtime::at(at(bad)).unwrap_err().kind, Kind::Permission, "{bad}");
    }
    assert_eq!(Runtime::at(at("no/such")).unwrap_err().kind, Kind::NotFound);
}

#[test]
fn another_users_folder_is_refused() {
    if !geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("theirs");
    std::fs::create_dir(&path).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
    assert_eq!(Runtime::at(&path).unwrap_err().kind, Kind::Permission);
}

#[test]
fn one_name_one_machine() {
    let (_dir, r) = runtime();
    let held = r.lock("web").unwrap();
    let e = r.lock("web").unwrap_err();
    assert_eq!(e.kind, Kind::InUse);
    assert!(e.message.contains(&format!("process {}", std::process::id())), "{e}");
    assert!(r.is_running("web") && !r.is_running("other"));
    let list = r.list().unwrap();
    assert_eq!((list.len(), list[0].name.as_str(), list[0].pid), (1, "web", std::process::id()));
    let _socket = held.bind().unwrap();
    r.connect("web").unwrap();
    drop(held);
    assert_eq!(files(&r), [""; 0]);
    assert_eq!(r.connect("web").unwrap_err().kind, Kind::NotFound);
    for bad in ["", "../x", "a/b"] {
        assert_eq!(r.lock(bad).unwrap_err().kind, Kind::Config);
        assert_eq!(r.connect(bad).unwrap_err().kind, Kind::Config);
        assert!(!r.is_running(bad));
    }
}

#[test]
fn starts_race_and_one_wins() {
    let (_dir, r) = runtime();
    let wins: usize = std::thread::scope(|s| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let r = r.clone();
                s.spawn(move || {
                    let held = r.lock("web");
                    // Long enough for all others to give up.
                    std::thread::sleep(3 * LOCK_PATIENCE);
                    usize::from(held.is_ok())
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).sum()
    });
    assert_eq!(wins, 1);
    assert_eq!(files(&r), [""; 0]);
}

#[test]
fn asking_who_runs_never_makes_a_start_fail() {
    let (_dir, r) = runtime();
    std::thread::scope(|s| {
        let asking = s.spawn(|| {
            for _ in 0..3000 {
                r.list().unwrap();
                r.is_running("web");
            }
        });
        while !asking.is_finished() {
            drop(r.lock("web").unwrap());
        }
    });
}

#[test]
fn what_a_dead_one_left_is_removed() {
    let (_dir, r) = runtime();
    let held = r.lock("live").unwrap();
    for left in ["dead.lock", "dead.sock", "dead.log"] {
        std::fs::write(r.path().join(left), b"{\"pid\":1,\"since\":0}").unwrap();
    }
    assert!(!r.is_running("dead"));
    assert_eq!(r.list().unwrap().len(), 1);
    assert_eq!(files(&r), ["live.lock"]);
    // A socket without a lock is in nobody's way either.
    std::fs::write(r.path().join("again.sock"), b"").unwrap();
    r.lock("again").unwrap().bind().unwrap();
    drop(held);
}

#[test]
fn kill_does_not_trust_a_number_that_nobody_holds() {
    let (_dir, r) = runtime();
    let record = format!("{{\"pid\":{},\"since\":0}}", std::process::id());
    std::fs::write(r.path().join("dead.lock"), record).unwrap();
    // It would end this test's own process.
    assert_eq!(r.kill("dead").unwrap_err().kind, Kind::NotFound);
    assert_eq!(r.kill("absent").unwrap_err().kind, Kind::NotFound);
}

#[test]
fn a_long_path_to_the_folder_is_no_hindrance() {
    let dir = tempfile::tempdir().unwrap();
    let deep = (0..20).fold(dir.path().to_owned(), |p, i| p.join(format!("a-rather-long-folder-name-{i}")));
    std::fs::create_dir_all(&deep).unwrap();
    let r = Runtime::at(deep.join("strata")).unwrap();
    let name = "x".repeat(crate::name::MAX_NAME);
    let held = r.lock(&name).unwrap();
    let _socket = held.bind().unwrap();
    r.connect(&name).unwrap();
}
