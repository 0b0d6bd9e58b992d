use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use proptest::prelude::*;

use super::*;
use crate::testing::{get, put, run, tool};
use crate::{Disk, DiskErrorKind, Format, OpenOptions, open::open};

fn new_disk(dir: &Path) -> PathBuf {
    let path = dir.join("disk.img");
    fs::write(&path, vec![0; 1 << 20]).unwrap();
    path
}

fn opened(path: &Path, name: &str) -> Result<crate::OpenDisk, DiskError> {
    open(OpenOptions { format: Some(Format::Raw), ..OpenOptions::new(path, name) })
}

fn elsewhere(instance: &str) -> Owner {
    Owner {
        instance: instance.into(),
        host: "beta".into(),
        host_key: "0123456789abcdef".into(),
        boot: "another-boot".into(),
        pid: 1,
    }
}

#[test]
fn one_writer_many_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = new_disk(dir.path());
    let reader = || open(OpenOptions { read_only: true, ..OpenOptions::new(&path, "r") });
    let writer = opened(&path, "web-1").unwrap();
    assert_eq!(writer.epoch(), Some(1));
    for e in [opened(&path, "web-2").unwrap_err(), reader().unwrap_err()] {
        assert_eq!(e.kind(), DiskErrorKind::InUse);
        let text = e.to_string();
        assert!(text.contains("instance 'web-1' on host") && !text.contains('\n'), "{text}");
    }
    drop(writer);
    assert!(!Record::path_of(&path).exists());
    let (one, two) = (reader().unwrap(), reader().unwrap());
    assert_eq!(opened(&path, "web-1").unwrap_err().kind(), DiskErrorKind::InUse);
    assert!(!Record::path_of(&path).exists(), "a refused owner leaves no record");
    drop((one, two));
    opened(&path, "web-1").unwrap();
}

#[test]
fn a_record_that_is_left_for_later_is_written_when_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = new_disk(dir.path());
    let later = || {
        let raw = OpenOptions { format: Some(Format::Raw), ..OpenOptions::new(&path, "web-1") };
        open(OpenOptions { recording: Recording::Later, ..raw }).unwrap()
    };
    let mut writer = later();
    assert!(!Record::path_of(&path).exists());
    assert_eq!(opened(&path, "web-2").unwrap_err().kind(), DiskErrorKind::InUse, "the lock is there at once");
    writer.settle_in().unwrap();
    let text = opened(&path, "web-2").unwrap_err().to_string();
    assert!(text.contains("instance 'web-1' on host"), "{text}");
    drop(writer);
    assert!(!Record::path_of(&path).exists());
    // Whoever was not asked writes it before anything is made durable, and one that is not used leaves none.
    let mut writer = later();
    put(&mut writer, 0, b"x").unwrap();
    writer.flush().unwrap();
    assert!(Record::path_of(&path).exists());
    drop((writer, later));
    assert!(!Record::path_of(&path).exists());
    // What a dead owner has left stays until then.
    Record { epoch: 4, owner: Owner { pid: 1, ..Owner::this_process("dead") } }
        .write(&Record::path_of(&path))
        .unwrap();
    let raw = OpenOptions { format: Some(Format::Raw), ..OpenOptions::new(&path, "web-1") };
    let mut writer = open(OpenOptions { recording: Recording::Later, ..raw }).unwrap();
    let recorded = || Record::read(&Record::path_of(&path)).unwrap().unwrap();
    assert_eq!((writer.epoch(), recorded().epoch), (Some(5), 4));
    writer.settle_in().unwrap();
    assert_eq!((recorded().epoch, recorded().owner.instance.as_str()), (5, "web-1"));
}

#[test]
fn a_link_leads_to_the_same_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = new_disk(dir.path());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let _held = opened(&link, "a").unwrap();
    assert!(Record::path_of(&path).exists() && !Record::path_of(&link).exists());
}

#[test]
fn a_raised_epoch_stops_the_old_owner_at_its_flush() {
    let dir = tempfile::tempdir().unwrap();
    let path = new_disk(dir.path());
    let mut old = opened(&path, "m").unwrap();
    put(&mut old, 0, b"before").unwrap();
    old.flush().unwrap();
    let raised = Record { epoch: 2, owner: elsewhere("m") };
    raised.write(&Record::path_of(&path)).unwrap();
    let e = old.flush().unwrap_err();
    assert!(e.to_string().contains("epoch 2, this machine came with epoch 1"), "{e}");
    assert!(put(&mut old, 0, b"after!").is_err(), "given up");
    // Lost for good, even if the record goes away.
    fs::remove_file(Record::path_of(&path)).unwrap();
    assert!(old.flush().is_err());
    raised.write(&Record::path_of(&path)).unwrap();
    drop(old);
    assert!(Record::path_of(&path).exists(), "the new owner's record stays");
    let e = open(OpenOptions { epoch: Some(1), ..OpenOptions::new(&path, "m") }).unwrap_err();
    assert!(matches!(e, DiskError::Superseded { ours: 1, recorded: 2, .. }), "{e}");
    let mut new = open(OpenOptions { epoch: Some(2), ..OpenOptions::new(&path, "m") }).unwrap();
    assert_eq!(get(&mut new, 0, 6).unwrap(), b"before");
}

#[test]
fn ownership_is_handed_over_with_everything_durable() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.qcow2");
    crate::qcow2::create_image(&path, 1 << 20).unwrap();
    let mut source = open(OpenOptions::new(&path, "m")).unwrap();
    put(&mut source, 4096, b"moved").unwrap();
    let epoch = source.hand_over(&elsewhere("m")).unwrap();
    assert_eq!(epoch, 2);
    assert!(put(&mut source, 4096, b"stale").is_err() && source.flush().is_err());
    drop(source);
    let someone_else = open(OpenOptions { epoch: Some(2), ..OpenOptions::new(&path, "x") }).unwrap_err();
    assert_eq!(someone_else.kind(), DiskErrorKind::InUse);
    let mut target = open(OpenOptions { epoch: Some(2), ..OpenOptions::new(&path, "m") }).unwrap();
    assert_eq!((get(&mut target, 4096, 5).unwrap(), target.epoch()), (b"moved".to_vec(), Some(2)));
}

#[test]
fn a_record_of_another_host_is_not_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = new_disk(dir.path());
    let at = Record::path_of(&path);
    Record { epoch: 7, owner: elsewhere("far") }.write(&at).unwrap();
    let e = opened(&path, "near").unwrap_err();
    assert_eq!(e.kind(), DiskErrorKind::InUse);
    let reader = OpenOptions { read_only: true, ..OpenOptions::new(&path, "r") };
    assert_eq!(open(reader.clone()).unwrap_err().kind(), DiskErrorKind::InUse);
    assert!(e.to_string().contains("instance 'far' on host beta") && e.to_string().contains("remove"), "{e}");
    assert_eq!(Record::read(&at).unwrap().unwrap().epoch, 7, "untouched");
    // The same host after a reboot: its processes are gone.
    let mut rebooted = Owner::this_process("near");
    rebooted.boot = "an-earlier-boot".into();
    Record { epoch: 7, owner: rebooted }.write(&at).unwrap();
    open(reader).unwrap();
    let disk = opened(&path, "near").unwrap();
    assert_eq!(disk.epoch(), Some(8));
    assert!(disk.notes()[0].contains("taken over"), "{:?}", disk.notes());
}

#[test]
fn a_removed_record_comes_back_and_a_broken_one_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = new_disk(dir.path());
    let at = Record::path_of(&path);
    let mut disk = opened(&path, "m").unwrap();
    fs::remove_file(&at).unwrap();
    disk.flush().unwrap();
    assert!(at.exists());
    drop(disk);
    fs::write(&at, "what is this").unwrap();
    let e = opened(&path, "m").unwrap_err();
    assert_eq!(e.kind(), DiskErrorKind::Corrupt);
    assert!(e.to_string().contains("disk.img.strata-lock"), "{e}");
    assert!(at.exists());
}

#[test]
fn a_directory_that_cannot_be_written_leaves_the_lock_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = new_disk(dir.path());
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(dir.path().join("probe"), b"").is_ok() {
        // Root writes everywhere; a mount or another user would be needed.
        eprintln!("skipped: permissions do not bind this user");
        return;
    }
    let disk = opened(&path, "m").unwrap();
    assert!(disk.notes()[0].contains("only a lock"), "{:?}", disk.notes());
    assert_eq!(opened(&path, "n").unwrap_err().kind(), DiskErrorKind::InUse);
    drop(disk);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
}

/// The other process of the tests below: holds the disk named in the environment until it is killed.
#[test]
#[ignore = "run by the tests below, as a process of its own"]
fn child_holds_a_disk() {
    let Some(path) = std::env::var_os("STRATA_TEST_DISK") else { return };
    let mut disk = opened(Path::new(&path), "child").unwrap();
    put(&mut disk, 0, b"child").unwrap();
    disk.flush().unwrap();
    println!("held");
    std::io::stdout().flush().unwrap();
    loop {
        std::thread::park();
    }
}

fn spawn_holder(path: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["lock::tests::child_holds_a_disk", "--exact", "--ignored", "--nocapture"])
        .env("STRATA_TEST_DISK", path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.as_mut().unwrap());
    assert!(out.lines().any(|line| line.unwrap().ends_with("held")), "the child got the disk");
    child
}

#[test]
fn another_process_is_kept_out_and_its_death_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = new_disk(dir.path());
    let mut child = spawn_holder(&path);
    let e = opened(&path, "parent").unwrap_err();
    assert_eq!(e.kind(), DiskErrorKind::InUse);
    assert!(
        e.to_string().contains(&format!("instance 'child' on host {}", Owner::this_process("x").host)),
        "{e}"
    );
    assert!(e.to_string().contains(&format!("process {}", child.id())), "{e}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(Record::path_of(&path).exists(), "killed: no clean close");
    let mut disk = opened(&path, "parent").unwrap();
    assert_eq!(disk.epoch(), Some(2));
    assert_eq!(get(&mut disk, 0, 5).unwrap(), b"child");
    drop(disk);
    assert!(!Record::path_of(&path).exists());
}

#[test]
fn a_dead_owners_record_outlives_a_refused_takeover() {
    let dir = tempfile::tempdir().unwrap();
    let path = new_disk(dir.path());
    let mut child = spawn_holder(&path);
    child.kill().unwrap();
    child.wait().unwrap();
    // Opened as what it is not: refused, and the next one must still learn that the disk was not closed.
    open(OpenOptions { format: Some(Format::Qcow2), ..OpenOptions::new(&path, "p") }).unwrap_err();
    assert_eq!(opened(&path, "p").unwrap().epoch(), Some(3));
}

#[test]
fn a_disk_that_was_handed_to_another_host_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = new_disk(dir.path());
    let ours = Owner::this_process("web");
    reclaim(&path, &ours).unwrap();
    assert_eq!(recorded(&path).unwrap(), None, "nobody had it");
    let far = Owner { host_key: "far".into(), boot: "far".into(), ..ours.clone() };
    let mut disk = opened(&path, "web").unwrap();
    assert_eq!(disk.hand_over(&far).unwrap(), 2);
    assert_eq!(recorded(&path).unwrap(), Some((2, far)));
    assert_eq!(reclaim(&path, &ours).unwrap_err().kind(), DiskErrorKind::InUse, "it is open yet");
    drop(disk);
    assert_eq!(opened(&path, "web").unwrap_err().kind(), DiskErrorKind::InUse, "it is another host's");
    reclaim(&path, &ours).unwrap();
    assert_eq!(opened(&path, "web").unwrap().epoch(), Some(4));
}

#[test]
fn qemu_may_read_with_a_reader_and_never_write() {
    let (Some(img), Some(io)) = (tool("qemu-img"), tool("qemu-io")) else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = new_disk(dir.path());
    let read = |dir: &Path| run(&img, dir, &["compare", "-f", "raw", "-F", "raw", "disk.img", "disk.img"]).0;
    let write = |dir: &Path| run(&io, dir, &["-f", "raw", "-c", "write 0 512", "disk.img"]);
    let reader = open(OpenOptions { read_only: true, ..OpenOptions::new(&path, "r") }).unwrap();
    assert!(read(dir.path()));
    let (success, text) = write(dir.path());
    assert!(!success && text.contains("lock"), "{text}");
    drop(reader);
    let writer = opened(&path, "w").unwrap();
    assert!(!read(dir.path()) && !write(dir.path()).0);
    drop(writer);
    assert!(write(dir.path()).0);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_read_back(instance in "\\PC{1,40}", host in "[a-z0-9.-]{1,20}", epoch in any::<u64>(), pid in any::<u32>()) {
        let owner = Owner { instance: instance.trim().into(), host, host_key: "k".into(), boot: "b".into(), pid };
        let record = Record { epoch, owner };
        prop_assert_eq!(Record::from_text(&record.to_text()), Some(record));
    }

    #[test]
    fn any_text_is_a_record_or_none(text in "(strata-lock 1\n)?(\\PC{0,20}[ \n]){0,20}") {
        if let Some(record) = Record::from_text(&text) {
            prop_assert_eq!(Record::from_text(&record.to_text()), Some(record));
        }
    }
}
