use super::*;
use crate::spec::{DiskFormat, NetSpec};
use std::time::{Duration, Instant};

fn new(name: Option<&str>) -> NewInstance {
    NewInstance {
        name: name.map(str::to_owned),
        ephemeral: name.is_none(),
        image: Some("busybox".into()),
        base: None,
        disk_size: None,
        deterministic: None,
        tier: None,
        arch: Default::default(),
        engine: Default::default(),
        cpu: None,
        virtio: Default::default(),
        cpus: 2,
        memory: 1 << 30,
        cmdline: "quiet".into(),
        firmware: None,
        kernel: Some("/k".into()),
        initrd: None,
        disks: Vec::new(),
        net: NetSpec::None,
    }
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::at(dir.path()).unwrap();
    (dir, store)
}

fn names(s: &Store) -> Vec<String> {
    s.list().unwrap().into_iter().map(|l| l.record.name).collect()
}

fn base(dir: &Path) -> (PathBuf, DiskFormat) {
    let path = dir.join("image.raw");
    fs::write(&path, vec![7; 1 << 20]).unwrap();
    (path, DiskFormat::Raw)
}

#[test]
fn an_instance_is_made_kept_run_again_and_removed() {
    let (dir, s) = store();
    let base = base(dir.path());
    let made = s.create(NewInstance { base: Some(base.clone()), ..new(Some("web")) }).unwrap();
    let record = made.record().clone();
    assert_eq!(s.take("web").unwrap_err().kind, Kind::InUse, "whoever makes it holds it");
    made.keep();

    assert_eq!(s.create(new(Some("web"))).unwrap_err().kind, Kind::CannotCreate);
    let again = s.take("web").unwrap();
    assert_eq!(again.record(), &record);
    let spec = again.spec();
    assert_eq!((spec.cpus, spec.memory, spec.mac, spec.ephemeral), (2, 1 << 30, record.mac, false));
    assert_eq!(spec.disks[0].base, Some(base));
    assert!(spec.disks[0].path.is_file() && !spec.disks[0].read_only);
    assert!(s.list().unwrap()[0].in_use);
    drop(again);
    assert!(!s.list().unwrap()[0].in_use, "dropping one that was taken keeps it");

    s.take("web").unwrap().delete().unwrap();
    assert_eq!(names(&s), [""; 0]);
    assert_eq!(s.take("web").unwrap_err().kind, Kind::NotFound);
    assert_eq!(s.take("../web").unwrap_err().kind, Kind::Config);
}

#[test]
fn one_that_is_not_kept_or_cannot_be_made_leaves_nothing() {
    let (dir, s) = store();
    drop(s.create(new(Some("web"))).unwrap());
    let missing =
        NewInstance { base: Some((dir.path().join("absent"), DiskFormat::Raw)), ..new(Some("web")) };
    assert_eq!(s.create(missing).unwrap_err().kind, Kind::NotFound);
    assert_eq!(s.entries().unwrap(), [".lock"]);
}

#[test]
fn sweeping_takes_ephemeral_ones_without_a_holder_and_what_is_half_made() {
    let (_dir, s) = store();
    s.create(new(Some("kept"))).unwrap().keep();
    s.create(new(None)).unwrap().keep();
    let running = s.create(new(None)).unwrap();
    for half in [".new-x", ".old-y"] {
        fs::create_dir(s.dir.join(half)).unwrap();
        fs::write(s.dir.join(half).join("disk.qcow2"), b"x").unwrap();
    }
    let swept = s.sweep().unwrap();
    assert_eq!(swept.len(), 1);
    let mut want = vec!["kept".to_owned(), running.record().name.clone()];
    want.sort();
    assert_eq!(names(&s), want);
    assert_eq!(s.entries().unwrap().len(), 3, "with the lock");
}

#[test]
fn a_damaged_record_is_told_and_hides_nothing_else() {
    let (_dir, s) = store();
    s.create(new(Some("a"))).unwrap().keep();
    s.create(new(Some("b"))).unwrap().keep();
    fs::write(s.dir.join("a/instance.json"), b"{\"schema\": 1").unwrap();
    assert_eq!(names(&s), ["b"]);
    assert_eq!(s.take("a").unwrap_err().kind, Kind::BadInput);
    // One from the future is not guessed at.
    let mut record = s.read("b").unwrap();
    record.schema = SCHEMA + 1;
    fs::write(s.dir.join("b/instance.json"), record.bytes()).unwrap();
    let e = s.read("b").unwrap_err();
    assert!(e.message.contains("newer strata"), "{e}");
}

#[test]
fn the_record_of_an_earlier_version_is_read() {
    let text = include_bytes!("../../corpus/record");
    let record = InstanceRecord::parse(text).unwrap();
    assert_eq!(record.name, "web");
    assert_eq!(record.net, NetSpec::User { forwards: vec!["2222:22".into()] });
}

/// Runs in a child: makes and removes instances for ever.
#[test]
fn child_makes_instances() {
    let Some(home) = std::env::var_os("STRATA_TEST_STORE") else { return };
    let home = PathBuf::from(home);
    let s = Store::at(&home).unwrap();
    for i in 0.. {
        let base = Some((home.join("image.raw"), DiskFormat::Raw));
        let kept = format!("n{}", i % 4);
        s.create(NewInstance { base: base.clone(), ..new(Some(&kept)) }).unwrap().keep();
        s.create(NewInstance { base, ..new(None) }).unwrap().keep();
        s.take(&kept).unwrap().delete().unwrap();
    }
}

#[test]
fn a_maker_may_be_killed_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    base(dir.path());
    let s = Store::at(dir.path()).unwrap();
    let mut seen_work = 0;
    for round in 0..25u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "instances::tests::child_makes_instances", "--nocapture"])
            .env("STRATA_TEST_STORE", dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while s.entries().unwrap().len() < 3 && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_micros(round * 797 % 10_000));
        child.kill().unwrap();
        child.wait().unwrap();
        seen_work += usize::from(s.entries().unwrap().len() > 1);
        s.sweep().unwrap();
        for name in s.names().unwrap() {
            // What has a name is whole: record, layer, lock; and it opens.
            let instance = s.take(&name).unwrap();
            assert!(!instance.record().ephemeral, "swept");
            let disk = instance.spec().disks.remove(0);
            let (base, format) = disk.base.unwrap();
            let chain = strata_block::Chain::Given(vec![(base, format.into())]);
            let options =
                strata_block::OpenOptions { chain, ..strata_block::OpenOptions::new(disk.path, &name) };
            assert_eq!(strata_block::Disk::size(&strata_block::open::open(options).unwrap()), 1 << 20);
            instance.delete().unwrap();
        }
        assert_eq!(s.entries().unwrap(), [".lock"], "nothing half-made stays");
    }
    assert!(seen_work > 20, "the child was killed at work only {seen_work} times");
}
