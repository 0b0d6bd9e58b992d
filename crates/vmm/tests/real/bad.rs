//! Snapshots that are whole and still not this machine's.

use super::*;
use std::sync::atomic::AtomicBool;
use strata_snapshot::{Manifest, SetReader, SetWriter};

/// Writes the set in `dir` again, changed.
fn rewritten(dir: &Path, change: impl FnOnce(&mut Manifest, &mut Vec<u8>)) {
    let set = SetReader::open(dir).unwrap();
    let (mut manifest, mut state) = (set.manifest().clone(), set.state().to_vec());
    change(&mut manifest, &mut state);
    let ram = set.memory().map(0).unwrap();
    let mut writer = SetWriter::create(&dir.with_file_name(".new-set")).unwrap();
    writer.begin(&ram, state).unwrap();
    fs::remove_dir_all(dir).unwrap();
    writer.finish(manifest, dir, &AtomicBool::new(false)).unwrap();
}

/// All files of an instance but its log.
fn files(dir: &Path) -> Vec<(PathBuf, u64)> {
    listing(dir).into_iter().filter(|(path, _)| !path.ends_with("vmm.log")).collect()
}

#[test]
fn another_machines_moment_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(&dir.path().join("home")).unwrap();
    store.create(new(dir.path(), Some("web"))).unwrap().keep();
    run(dir.path(), &store, "web", |c, _| assert!(c.snapshot("one", false).is_ok()));
    let set = dir.path().join("home/instances/web/snapshots/one");
    let good = fs::read(set.join("state")).unwrap();
    let start = |word: &str| {
        let mut web = store.take("web").unwrap();
        let (was, files) = (web.record().clone(), files(web.dir()));
        web.go_back("one").unwrap();
        let e = launcher(dir.path()).launch(&web.spec(), Some(web.lock())).map(|_| ()).unwrap_err();
        assert_eq!(e.kind, Kind::BadInput, "{e}");
        assert!(e.message.contains(word) && !e.message.contains('\n'), "{e}");
        // And nothing has become of it.
        web.stays();
        assert_eq!(self::files(web.dir()), files);
        drop(web);
        assert_eq!(*store.take("web").unwrap().record(), was);
    };
    let header = |change: fn(&mut strata_state::StateHeader)| {
        let good = good.clone();
        move |_: &mut Manifest, state: &mut Vec<u8>| {
            let mut file = strata_state::StateFile::parse(&good).unwrap();
            change(&mut file.header);
            *state = file.bytes();
        }
    };
    rewritten(&set, header(|h| h.board = "x86-micro".into()));
    start("board x86-micro");
    rewritten(&set, header(|h| h.engine = "kvm".into()));
    start("engine kvm");
    rewritten(&set, header(|h| h.features.push("deterministic".into())));
    start("deterministic");
    rewritten(&set, |m, state| {
        *state = good.clone();
        m.machine.cpus = 7;
    });
    start("7 CPUs");
    rewritten(&set, |m, _| m.machine.cpus = 2);

    // A layer of its disk that is gone is missed before anything is given up.
    let layer = store.verify("web", "one", true).unwrap().disks[0].layers[0].clone();
    let path = dir.path().join("home/instances/web").join(&layer);
    fs::rename(&path, dir.path().join("aside")).unwrap();
    for e in [
        store.verify("web", "one", false).unwrap_err(),
        store.clone_from("web", "one", "two", None).map(|_| ()).unwrap_err(),
        store.export("web", "one", &dir.path().join("file"), &mut |_, _| ()).unwrap_err(),
    ] {
        assert!(e.kind == Kind::BadInput && e.message.contains(&layer), "{e}");
    }
    fs::rename(dir.path().join("aside"), &path).unwrap();
    let mut web = store.take("web").unwrap();
    web.go_back("one").unwrap();
    run_from(dir.path(), web, |_, _| ());
}
