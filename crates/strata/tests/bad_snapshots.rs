//! Snapshots that cannot be: each is named in one line, and the machine or the snapshot is as it was.

mod common;

use common::{Place, apart, lives, until};
use std::fs;
use std::process::Stdio;

#[test]
fn of_two_who_resume_one_machine_one_does() {
    let place = Place::with_busybox();
    place.strata("run busybox --name web --memory 128M --net none --detach").good();
    for round in 0..3 {
        place.strata("suspend web").good();
        let both: Vec<_> = (0..2).map(|_| place.open("resume web")).collect();
        let mut done: Vec<_> = both.into_iter().map(|c| c.end()).collect();
        done.sort_by_key(|d| d.code);
        assert_eq!((done[0].code, done[0].out.as_str()), (Some(0), "web\n"), "round {round}: {done:?}");
        // It runs, or is being started, or has been already.
        assert!(matches!(done[1].code, Some(69 | 82)), "round {round}: {done:?}");
        assert!(done[1].err.contains("web") && done[1].err.trim_end().lines().count() == 1, "{done:?}");
    }
    // The same of two who go back, and of two clones of one name.
    place.strata("snapshot create web one").good();
    let vmm = place.vmm_of("web");
    place.strata("stop web").good();
    until("it is gone", || !lives(vmm));
    for words in ["snapshot restore web one", "clone web@one two"] {
        let both: Vec<_> = (0..2).map(|_| place.open(words)).collect();
        let done: Vec<_> = both.into_iter().map(|c| c.end()).collect();
        assert!(done.iter().any(|d| d.code == Some(0)), "{words}: {done:?}");
        for d in done.iter().filter(|d| d.code != Some(0)) {
            assert_eq!(d.err.trim_end().lines().count(), 1, "{words}: {done:?}");
        }
        place.strata("snapshot verify web one").good();
    }
    for name in ["web", "two"] {
        place.strata(&format!("stop {name}")).good();
        place.strata(&format!("delete --snapshots {name}")).good();
    }
    place.is_clean();
}

#[test]
fn a_snapshot_that_is_damaged_costs_the_machine_nothing() {
    let place = Place::with_busybox();
    place.strata("run busybox --name web --memory 128M --net none --detach").good();
    let mut c = place.open("console web");
    c.wait_for("# ");
    c.sh("x=7");
    place.strata("snapshot create web one").good();
    place.strata("snapshot export web one good").good();
    let set = place.home().join("instances/web/snapshots/one");
    for file in ["manifest.json", "state", "memory"] {
        let (path, aside) = (set.join(file), set.join("aside"));
        for how in ["cut", "flipped", "gone"] {
            fs::rename(&path, &aside).unwrap();
            let mut bytes = fs::read(&aside).unwrap();
            match how {
                "cut" => bytes.truncate(bytes.len() / 2),
                // In the header of the memory, which is its first page.
                _ => bytes[100] ^= 1,
            }
            if how != "gone" {
                fs::write(&path, &bytes).unwrap();
            }
            let code = if how == "gone" { 66 } else { 65 };
            for words in ["snapshot restore web one", "clone web@one two", "snapshot export web one bad"] {
                place.strata(words).refused(code, &[file]);
            }
            let _ = fs::remove_file(&path);
            fs::rename(&aside, &path).unwrap();
        }
    }
    // A damaged page is found by who looks.
    let memory = set.join("memory");
    let kept = fs::metadata(&memory).unwrap().modified().unwrap();
    let open = fs::File::options().write(true).open(&memory).unwrap();
    let mut bytes = fs::read(&memory).unwrap();
    let at = bytes.iter().skip(8192).position(|b| *b != 0).unwrap() + 8192;
    bytes[at] ^= 1;
    std::os::unix::fs::FileExt::write_all_at(&open, &bytes[at..=at], at as u64).unwrap();
    open.set_modified(kept).unwrap();
    for words in
        ["snapshot verify web one", "snapshot restore web one --verify", "snapshot export web one bad"]
    {
        place.strata(words).refused(65, &["memory", "MiB"]);
    }
    assert!(!place.work().join("bad").exists());
    for (cut, word) in [(1000, "cut short"), (0, "cut short")] {
        fs::write(place.work().join("bad"), &fs::read(place.work().join("good")).unwrap()[..cut]).unwrap();
        place.strata("snapshot import bad --name two").refused(65, &["bad", word]);
    }
    // All the while it ran on.
    assert_eq!(c.sh("echo $x"), "7");
    assert_eq!(place.kept(), ["web"]);
    place.strata("stop web").good();
    place.strata("delete --snapshots web").good();
    place.is_clean();
}

#[test]
fn on_a_full_disk_the_machine_goes_on() {
    let Some(mut unshare) = apart(&["--mount"]) else { return };
    let place = Place::with_busybox();
    fs::create_dir(place.home().join("instances")).unwrap();
    let script = r#"
        mount -t tmpfs -o size=160m none "$STRATA_HOME/instances" || exit 99
        mkdir small; mount -t tmpfs -o size=1m none small || exit 99
        "$STRATA" run busybox --name web --memory 128M --net none --detach || exit 90
        "$STRATA" snapshot create web s0 || exit 91
        dd if=/dev/zero of="$STRATA_HOME/instances/web/fill" bs=64k 2> /dev/null
        "$STRATA" snapshot create web s1 2> full; echo "code $?" >> full
        "$STRATA" suspend web 2> suspend; echo "code $?" >> suspend
        "$STRATA" ps > ps
        ls -A "$STRATA_HOME/instances/web" "$STRATA_HOME/instances/web/snapshots" > left
        "$STRATA" snapshot verify web s0 || exit 92
        "$STRATA" snapshot export web s0 small/file 2> export; echo "code $?" >> export
        ls -A small > small.left
        "$STRATA" snapshot export web s0 file || exit 93
        "$STRATA" snapshot import file --name two 2> import; echo "code $?" >> import
        "$STRATA" ps --all > all
        # Half of what is to be copied fits: the machine runs on meanwhile, and has all of its memory afterwards.
        rm "$STRATA_HOME/instances/web/fill"
        say() {
            # Neither what is typed nor what was said before looks like the answer.
            n=$((n + 1)); echo "$1; echo said_$n\"\"." | "$STRATA" console web > "$2" &
            pid=$!; until grep -q "said_$n[.]" "$2"; do sleep 0.1; done; kill $pid
        }
        say 'dd if=/dev/urandom of=/dev/x bs=1M count=24; md5sum /dev/x | cut -c1-32 > /dev/sum' c0
        say '(while :; do date > /dev/now; done) & true' c2
        dd if=/dev/zero of="$STRATA_HOME/instances/web/fill" bs=1M 2> /dev/null
        truncate -s -16M "$STRATA_HOME/instances/web/fill"
        "$STRATA" snapshot create web s1 2> half; echo "code $?" >> half
        ls -A "$STRATA_HOME/instances/web" "$STRATA_HOME/instances/web/snapshots" >> left
        say 'kill %1; test "$(md5sum /dev/x | cut -c1-32)" = "$(cat /dev/sum)"; echo same_$?' c1
        # With room again all of it works.
        rm "$STRATA_HOME/instances/web/fill"
        "$STRATA" snapshot create web s1 || exit 94
        "$STRATA" suspend web || exit 95
        "$STRATA" resume web || exit 96
        "$STRATA" stop web && "$STRATA" delete --snapshots web
    "#;
    unshare.args(["sh", "-c", script]).env("STRATA", env!("CARGO_BIN_EXE_strata")).stdin(Stdio::null());
    let done = place.finish(place.at_home(&mut unshare));
    if done.code == Some(99) {
        eprintln!("SKIPPED: this host lets the test mount nothing");
        return;
    }
    assert_eq!(done.code, Some(0), "{done:?}");
    let file = |name: &str| fs::read_to_string(place.work().join(name)).unwrap();
    for (name, doing) in
        [("full", "write"), ("half", "write"), ("suspend", "write"), ("export", "small/file"), ("import", "")]
    {
        let text = file(name);
        let (message, code) =
            text.trim_end().rsplit_once("\ncode ").unwrap_or_else(|| panic!("{name}: {text}"));
        let message = message
            .lines()
            .filter(|l| *l != "strata: writing the snapshot" && *l != "strata: reading the snapshot");
        let message: Vec<_> = message.collect();
        assert_eq!((message.len(), code), (1, "73"), "{name}: {text}");
        assert!(message[0].contains("No space left") && message[0].contains(doing), "{name}: {text}");
    }
    assert!(file("ps").lines().any(|l| l.starts_with("web") && l.contains("running")), "{}", file("ps"));
    assert!(!file("left").contains(".new-") && !file("left").contains("saved-"), "{}", file("left"));
    assert_eq!(file("small.left"), "");
    assert!(file("c1").contains("same_0"), "{} {}", file("c0"), file("c1"));
    assert!(!file("all").contains("two"), "{}", file("all"));
}
