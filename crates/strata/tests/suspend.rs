//! A machine that becomes files and a machine again, as a person uses it.

mod common;

use common::{Place, lives, shell, until};
use std::fs;
use std::time::Instant;

/// The one set that a suspended instance has.
fn saved(place: &Place, name: &str) -> std::path::PathBuf {
    let dir = place.home().join("instances").join(name);
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let is = |p: &std::path::PathBuf| p.file_name().unwrap().to_string_lossy().starts_with("saved-");
    let sets: Vec<_> = entries.filter(is).collect();
    assert_eq!(sets.len(), 1, "{sets:?}");
    sets[0].clone()
}

#[test]
fn a_suspended_machine_goes_on_where_it_was() {
    let place = Place::with_busybox();
    let disk = place.file("disk", "");
    fs::File::options().write(true).open(&disk).unwrap().set_len(8 << 20).unwrap();
    let mut c = place.open("run busybox --name web --memory 256M --disk disk");
    c.wait_for("# ");
    // What only memory knows: a shell's variable, a process, a file in RAM, a write that is still in the cache.
    c.sh("x=$((6 * 7)); echo in memory > /tmp/file; echo on disk | dd of=/dev/vda conv=notrunc 2>/dev/null");
    c.sh("n=0; while true; do n=$((n+1)); echo $n > /tmp/count; sleep 0.05; done & echo started");
    let begun = Instant::now();
    place.strata("suspend web").good();
    eprintln!("suspended after {:?}", begun.elapsed());
    let done = c.end();
    assert_eq!(done.code, Some(0), "{done:?}");
    assert!(done.err.contains("suspended") && done.err.contains("strata resume web"), "{done:?}");
    assert!(place.running().is_empty());
    assert!(place.strata("ps --all").good().lines().any(|l| l.starts_with("web") && l.contains("suspended")));
    place.strata("start web").refused(82, &["web", "suspended", "strata resume web"]);

    // Twice: the second time from memory that is mapped from the first.
    for round in 0..2 {
        let begun = Instant::now();
        assert_eq!(place.strata("resume web").good(), "web\n");
        eprintln!("resumed after {:?}", begun.elapsed());
        place.strata("resume web").refused(69, &["web", "runs"]);
        let mut c = shell(&place, "web");
        assert_eq!(c.sh("echo $x $(cat /tmp/file)"), "42 in memory");
        let count = |c: &mut common::Console| c.sh("cat /tmp/count").parse::<u64>().unwrap_or(0);
        let before = count(&mut c);
        until("the process in the background counts on", || count(&mut c) > before);
        assert_eq!(c.sh("head -c 7 /dev/vda"), "on disk");
        // The network card works; flows that were open do not survive, and none was.
        c.wait_for_address();
        if round == 0 {
            place.strata("pause web").good();
            place.strata("suspend web").good();
            assert_eq!(c.end().code, Some(0));
        } else {
            c.sh("x=43; sync");
            place.strata("stop web").good();
        }
    }
    assert_eq!(&fs::read(&disk).unwrap()[..7], b"on disk");
    place.strata("resume web").refused(82, &["web", "not suspended", "strata start web"]);
    place.strata("delete web").good();
    place.is_clean();
}

#[test]
fn what_was_hot_is_kept_and_goes_with_snapshots_and_clones() {
    let place = Place::with_busybox();
    let list = |of: &str| place.home().join("instances").join(of).join("hot-paths");
    place.strata("run busybox --name web --memory 128M --net none --detach").good();
    let mut c = place.open("console web");
    c.wait_for("# ");
    assert!(!list("web").exists());
    place.strata("snapshot create web one").good();
    let of_one = fs::read(list("web/snapshots/one")).unwrap();
    assert!(of_one.len() > 10_000 && of_one.starts_with(b"hotpaths"), "{} bytes", of_one.len());
    c.send("poweroff");
    assert_eq!(c.end().code, Some(0));
    let first = fs::read(list("web")).unwrap();
    assert!(first.len() > 10_000 && first.starts_with(b"hotpaths"), "{} bytes", first.len());

    // A clone has the snapshot's, and writes its own when it ends.
    place.strata("clone web@one other").good();
    let d = shell(&place, "other");
    place.strata("suspend other").good();
    assert!(fs::read(list("other")).unwrap().starts_with(b"hotpaths"));
    drop(d);
    place.strata("stop other").good();
    place.strata("delete other").good();

    // A damaged one is told of by a line, is no error, and is replaced.
    fs::write(list("web"), &first[..first.len() / 2]).unwrap();
    let mut c = place.open("start web");
    c.wait_for("# ");
    place.strata("stop web").good();
    let done = c.end();
    assert_eq!(done.err.lines().filter(|l| l.contains("hot-paths is ignored")).count(), 1, "{done:?}");
    assert!(fs::read(list("web")).unwrap().len() > 10_000);
    place.strata("delete --snapshots web").good();
    place.is_clean();
}

#[test]
fn what_was_saved_is_checked_before_it_runs_and_can_be_thrown_away() {
    let place = Place::with_busybox();
    place.strata("run busybox --name web --memory 128M --net none --detach").good();
    let vmm = place.vmm_of("web");
    place.strata("suspend web").good();
    until("its process is gone", || !lives(vmm));
    let set = saved(&place, "web");
    for file in ["manifest.json", "state", "memory"] {
        let path = set.join(file);
        let good = fs::read(&path).unwrap();
        // Cut, and gone; put back it is whole again, but memory is then another file.
        fs::File::options().write(true).open(&path).unwrap().set_len(good.len() as u64 / 2).unwrap();
        place.strata("resume web").refused(65, &[file]);
        fs::remove_file(&path).unwrap();
        place.strata("resume web").refused(66, &[file]);
        fs::write(&path, &good).unwrap();
        if file == "memory" {
            place.strata("resume web").refused(65, &["memory", "a copy"]);
        }
    }
    assert!(place.running().is_empty(), "{:?}", place.running());
    place.strata("suspend web").refused(66, &["web"]);
    place.strata("stop web").good();
    assert!(!set.exists());
    let mut c = place.open("start web");
    c.wait_for("# ");
    c.send("poweroff");
    assert_eq!(c.end().code, Some(0));
    place.strata("delete web").good();
    place.is_clean();
}

#[test]
fn snapshots_are_gone_back_to_and_cloned() {
    let place = Place::with_busybox();
    place.strata("run busybox --name web --memory 128M --detach").good();
    let mut c = place.open("console web");
    c.wait_for("# ");
    c.sh("x=1; echo one > /tmp/file");
    let begun = Instant::now();
    place.strata("snapshot create web one").good();
    eprintln!("snapshot after {:?}", begun.elapsed());
    place.strata("snapshot create web one").refused(73, &["web", "one", "already"]);
    // It went on; what is written now is gone after the way back.
    c.sh("x=2; echo two > /tmp/file");
    place.strata("snapshot create web two").good();
    c.sh("x=3");
    place.strata("snapshot verify web one").good();
    place.strata("snapshot export web one one.strata").good();
    place.strata("snapshot export web one one.strata").refused(73, &["one.strata", "exists"]);
    assert!(place.strata("snapshot list web").good().contains("one"));
    let begun = Instant::now();
    assert_eq!(place.strata("snapshot restore --verify web one").good(), "web\n");
    eprintln!("restored after {:?}", begun.elapsed());
    assert_eq!(c.end().code, Some(0));
    let mut c = shell(&place, "web");
    assert_eq!(c.sh("echo $x $(cat /tmp/file)"), "1 one");
    place.strata("snapshot create web branch").good();
    assert_eq!(
        place.strata("snapshot tree web").good(),
        "one\n  branch  (the machine comes from here)\n  two\n"
    );

    // Clones beside their source, of a snapshot and of this moment; each goes its own way.
    assert_eq!(place.strata("clone web@two other").good(), "other\n");
    place.strata("clone web now").good();
    assert!(place.strata("snapshot tree web").good().contains("branch  (the machine comes from here)"));
    place.strata("clone web@two other").refused(73, &["other", "exists"]);
    let mut d = shell(&place, "other");
    assert_eq!(d.sh("echo $x $(cat /tmp/file)"), "2 two");
    d.sh("echo other > /tmp/file");
    // A copy is told that it is one, and its kernel then makes new randomness; so is a machine that went back.
    let told = "dmesg | grep -c 'due to virtual machine fork' || true";
    assert_eq!(d.sh(told), "1");
    assert_eq!(c.sh(told), "1");
    let mut e = shell(&place, "now");
    assert_eq!(e.sh("echo $x"), "1");
    assert_eq!(c.sh("cat /tmp/file"), "one");

    // The source and its snapshots may go; the clone stays, and can be suspended.
    place.strata("stop web").good();
    place.strata("delete web").refused(82, &["web", "--snapshots"]);
    place.strata("snapshot delete web two").good();
    place.strata("snapshot restore web two").refused(66, &["web", "two"]);
    place.strata("delete --snapshots web").good();
    // What was carried away comes back, under its old name.
    place.strata("snapshot import one.strata --net none").refused(78, &["network card"]);
    assert_eq!(place.strata("snapshot import one.strata").good(), "web@one\n");
    place.strata("snapshot import one.strata").refused(73, &["web", "exists"]);
    place.strata("snapshot restore web one").good();
    let mut c = shell(&place, "web");
    assert_eq!(c.sh("echo $x $(cat /tmp/file)"), "1 one");
    place.strata("stop web").good();
    place.strata("delete --snapshots web").good();
    drop((d, e));
    place.strata("suspend other").good();
    place.strata("resume other").good();
    let mut d = shell(&place, "other");
    assert_eq!(d.sh("cat /tmp/file"), "other");
    assert_eq!(d.sh(told), "1", "one that only goes on is not told again");
    for name in ["other", "now"] {
        place.strata(&format!("stop {name}")).good();
        place.strata(&format!("delete {name}")).good();
    }
    place.is_clean();
}
