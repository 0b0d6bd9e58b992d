//! Snapshots that leave as one file and come back.

use super::*;

/// A home with an instance that has the snapshot `one`, whose disk begins with 1; now it begins with 2.
fn source(dir: &Path) -> Store {
    let store = Store::at(&dir.join("home")).unwrap();
    store.create(new(dir, Some("web"))).unwrap().keep();
    sector(&store.take("web").unwrap(), Some(1));
    run(dir, &store, "web", |c, _| assert!(c.snapshot("one", false).is_ok()));
    sector(&store.take("web").unwrap(), Some(2));
    store
}

#[test]
fn a_snapshot_in_a_file_needs_nothing_of_where_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let store = source(dir.path());
    let file = dir.path().join("web.strata");
    let mut told = Vec::new();
    store.export("web", "one", &file, &mut |done, total| told.push((done, total))).unwrap();
    assert!(told.is_sorted() && told.last().is_some_and(|(done, total)| done == total), "{:?}", told.last());
    // Never over another file, and always the same bytes.
    assert_eq!(store.export("web", "one", &file, &mut |_, _| ()).unwrap_err().kind, Kind::CannotCreate);
    let again = dir.path().join("again");
    store.export("web", "one", &again, &mut |_, _| ()).unwrap();
    assert!(fs::read(&file).unwrap() == fs::read(&again).unwrap());
    assert!(fs::metadata(&file).unwrap().len() < 1 << 20, "zeroes are not in it");

    // Beside its source it needs another name; elsewhere it keeps its own, and everything of the source may be gone.
    let taken = store.import(&file, None, None, &mut |_, _| ()).unwrap_err();
    assert_eq!(taken.kind, Kind::CannotCreate, "{taken}");
    let copy = store.import(&file, Some("copy"), None, &mut |_, _| ()).unwrap();
    assert_eq!(copy, ("copy".into(), "one".into()));
    store.take("web").unwrap().delete().unwrap();
    fs::remove_file(dir.path().join("kernel")).unwrap();
    fs::remove_file(dir.path().join("image.raw")).unwrap();
    let mut last = (0, 0);
    let (name, tag) = store.import(&file, None, None, &mut |done, total| last = (done, total)).unwrap();
    assert_eq!((name.as_str(), tag.as_str()), ("web", "one"));
    assert_eq!(last, (fs::metadata(&file).unwrap().len(), fs::metadata(&file).unwrap().len()));
    for name in ["copy", "web"] {
        let manifest = store.verify(name, "one", true).unwrap();
        assert_eq!(manifest.tag, "one");
        let mut web = store.take(name).unwrap();
        assert_eq!(web.record().at, Some(manifest.id));
        assert_eq!(sector(&web, None), 1);
        sector(&web, Some(3));
        web.go_back("one").unwrap();
        assert_eq!(sector(&web, None), 1);
        run_from(dir.path(), web, |c, _| assert!(c.snapshot("two", false).is_ok()));
        // And from power-on, by the kernel that came with it.
        run(dir.path(), &store, name, |c, _| c.reset().unwrap());
    }
    // A clone of what was imported needs nothing of it, and what goes out again is the same machine.
    store.clone_from("web", "one", "third", None).unwrap().keep();
    store.export("web", "one", &dir.path().join("third.strata"), &mut |_, _| ()).unwrap();
    store.take("web").unwrap().delete().unwrap();
    assert_eq!(sector(&store.take("third").unwrap(), None), 1);
    run(dir.path(), &store, "third", |c, _| c.reset().unwrap());
    store.import(&dir.path().join("third.strata"), Some("fourth"), None, &mut |_, _| ()).unwrap();
    let mut fourth = store.take("fourth").unwrap();
    fourth.go_back("one").unwrap();
    run_from(dir.path(), fourth, |_, _| ());
}

#[test]
fn an_export_that_is_damaged_or_does_not_fit_makes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = source(dir.path());
    let (file, bad) = (dir.path().join("web.strata"), dir.path().join("bad"));
    store.export("web", "one", &file, &mut |_, _| ()).unwrap();
    let good = fs::read(&file).unwrap();
    let before = listing(&dir.path().join("home"));
    let refused = |bytes: &[u8], word: &str| {
        fs::write(&bad, bytes).unwrap();
        let e = store.import(&bad, Some("copy"), None, &mut |_, _| ()).unwrap_err();
        assert_eq!(e.kind, Kind::BadInput, "{e}");
        assert!(e.message.contains(word) && e.message.contains("bad") && !e.message.contains('\n'), "{e}");
    };
    for at in (0..good.len()).step_by(good.len() / 97) {
        refused(&good[..at], if at < 16 { "cut short" } else { "cut" });
        let mut bytes = good.clone();
        bytes[at] ^= 0x10;
        refused(&bytes, "");
    }
    refused(&[&good[..], &[0]].concat(), "follows");
    let mut newer = good.clone();
    newer[8] = 9;
    refused(&newer, "version 9");
    let mut from = dir.path().to_path_buf();
    assert_eq!(store.import(&from, Some("copy"), None, &mut |_, _| ()).unwrap_err().kind, Kind::BadInput);
    from.push("absent");
    assert_eq!(store.import(&from, Some("copy"), None, &mut |_, _| ()).unwrap_err().kind, Kind::NotFound);
    assert_eq!(listing(&dir.path().join("home")), before, "nothing is left of any of them");

    // Damaged pages do not leave: what was exported can be trusted.
    let memory = dir.path().join("home/instances/web/snapshots/one/memory");
    let kept = fs::metadata(&memory).unwrap().modified().unwrap();
    let open = fs::File::options().write(true).open(&memory).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&open, b"x", 4096 + (9 << 20)).unwrap();
    open.set_modified(kept).unwrap();
    store.verify("web", "one", false).unwrap();
    let e = store.export("web", "one", &dir.path().join("new"), &mut |_, _| ()).unwrap_err();
    assert!(e.kind == Kind::BadInput && e.message.contains("between 9 and 10 MiB"), "{e}");
    assert!(!dir.path().join("new").exists());
}

/// Runs in a child: exports and imports for ever.
#[test]
fn child_carries_snapshots() {
    let Some(dir) = std::env::var_os("STRATA_TEST_CARRY").map(PathBuf::from) else { return };
    let store = Store::at(&dir.join("home")).unwrap();
    for i in 0.. {
        let (file, name) = (dir.join(format!("out/{i}")), format!("copy{i}"));
        store.export("web", "one", &file, &mut |_, _| ()).unwrap();
        store.import(&file, Some(&name), None, &mut |_, _| ()).unwrap();
    }
}

#[test]
fn whoever_carries_a_snapshot_may_be_killed_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = source(dir.path());
    for round in 0..12u64 {
        let out = dir.path().join("out");
        fs::create_dir(&out).unwrap();
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "transfer::child_carries_snapshots", "--nocapture"])
            .env("STRATA_TEST_CARRY", dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while fs::read_dir(&out).unwrap().next().is_none() && begun.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(round * 7919 % 60_000));
        child.kill().unwrap();
        child.wait().unwrap();
        // A file that has a name is whole, an instance that has one too, and the rest goes by itself.
        for entry in fs::read_dir(&out).unwrap() {
            let file = entry.unwrap().path();
            assert!(!file.file_name().unwrap().to_string_lossy().starts_with('.'), "{file:?}");
            store.import(&file, Some("whole"), None, &mut |_, _| ()).unwrap();
            store.take("whole").unwrap().delete().unwrap();
        }
        store.sweep().unwrap();
        for listed in store.list().unwrap() {
            store.verify(&listed.record.name, "one", true).unwrap();
            assert!(!listed.in_use);
            if listed.record.name != "web" {
                assert_eq!(sector(&store.take(&listed.record.name).unwrap(), None), 1);
                store.take(&listed.record.name).unwrap().delete().unwrap();
            }
        }
        let left = fs::read_dir(dir.path().join("home/instances")).unwrap();
        let mut left: Vec<_> = left.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, [".lock", "web"]);
        fs::remove_dir_all(&out).unwrap();
    }
}
