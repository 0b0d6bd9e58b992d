//! Our own view of images: chains, damage, truncation, what is refused. QEMU's view is in `qemu_tests`.

use std::fs::{self, OpenOptions as FileOptions};
use std::os::unix::fs::FileExt;

use super::*;
use crate::testing::{get, pattern, put, whole};
use crate::{DiskErrorKind, OpenDisk, OpenOptions, open::open};

fn opened(path: &Path) -> Result<OpenDisk, DiskError> {
    open(OpenOptions::new(path, "t"))
}

/// An image with data in its first MiB, and its bytes.
fn image(dir: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let path = dir.join("disk.qcow2");
    create_image(&path, 8 << 20).unwrap();
    let mut disk = opened(&path).unwrap();
    put(&mut disk, 0, &pattern(1, 1 << 20)).unwrap();
    disk.flush().unwrap();
    drop(disk);
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

fn poke(path: &Path, at: u64, bytes: &[u8]) {
    FileOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn a_layer_grows_over_its_base_and_leaves_it_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top) = (dir.path().join("base.raw"), dir.path().join("sub/top.qcow2"));
    fs::create_dir(dir.path().join("sub")).unwrap();
    fs::write(&base, pattern(2, 100_000)).unwrap();
    create_overlay(&top, &base, Format::Raw, Some(1 << 20)).unwrap();
    // Its base is one directory up: not for a person's image, but the caller may name it.
    let e = opened(&top).unwrap_err();
    assert!(e.to_string().contains("outside the image's own directory"), "{e}");
    let chain = Chain::Given(vec![(base.clone(), Format::Raw)]);
    let mut disk = open(OpenOptions { chain, ..OpenOptions::new(&top, "t") }).unwrap();
    let mut want = pattern(2, 100_000);
    want.resize(1 << 20, 0);
    assert!(whole(&mut disk) == want);
    put(&mut disk, 99_999, b"over the seam").unwrap();
    want[99_999..100_012].copy_from_slice(b"over the seam");
    assert!(whole(&mut disk) == want);
    assert!(disk.layers().iter().eq([&base]));
    drop(disk);
    assert!(fs::read(&base).unwrap() == pattern(2, 100_000));
    assert!(fs::metadata(&top).unwrap().len() < 1 << 20, "sparse");
}

#[test]
fn creating_refuses_what_makes_no_sense_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (base, top) = (dir.path().join("base"), dir.path().join("top"));
    fs::write(&base, vec![1; 4096]).unwrap();
    let kind = |r: Result<(), DiskError>| r.unwrap_err().kind();
    assert_eq!(kind(create_overlay(&top, &base, Format::Raw, Some(2048))), DiskErrorKind::TooSmall);
    assert_eq!(kind(create_overlay(&top, &base, Format::Raw, Some(5000))), DiskErrorKind::TooSmall);
    assert_eq!(kind(create_overlay(&top, &base, Format::Qcow2, None)), DiskErrorKind::Corrupt);
    assert_eq!(
        kind(create_overlay(&top, &dir.path().join("no"), Format::Raw, None)),
        DiskErrorKind::NotFound
    );
    assert_eq!(kind(create_image(&dir.path().join("no/x"), 4096)), DiskErrorKind::NotFound);
    assert_eq!(kind(create_image(&top, u64::MAX - 511)), DiskErrorKind::TooSmall);
    assert!(!top.exists());
    assert_eq!(kind(create_image(&base, 4096)), DiskErrorKind::Unsupported);
    assert_eq!(fs::read(&base).unwrap(), vec![1; 4096], "never overwritten");
}

#[test]
fn an_image_cut_anywhere_is_refused_or_reads_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = image(dir.path());
    let cluster = 65536;
    for cut in (0..bytes.len()).step_by(cluster / 2).chain([1, 71, 103, 500]) {
        fs::write(&path, &bytes[..cut]).unwrap();
        match opened(&path) {
            Err(e) => {
                let fits = matches!(e.kind(), DiskErrorKind::Corrupt | DiskErrorKind::TooSmall);
                assert!(fits && !e.to_string().contains('\n'), "{cut}: {e}");
            }
            // Less than 4 bytes are no qcow2 image, but a raw disk of the wrong size; else only the last
            // cluster can have lost its tail unnoticed.
            Ok(mut disk) => {
                assert!(cut > bytes.len() - cluster, "{cut} of {}", bytes.len());
                whole(&mut disk);
            }
        }
        assert!(fs::read(&path).unwrap() == bytes[..cut], "{cut}: nothing was changed");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "{cut}: nothing was left behind");
    }
}

#[test]
fn a_cluster_used_twice_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = image(dir.path());
    let header = Header::parse(&bytes, bytes.len() as u64, &path).unwrap();
    let l1 = header::be64(&bytes, header.l1_offset as usize).unwrap() & 0x00ff_ffff_ffff_fe00;
    let first = bytes[l1 as usize..l1 as usize + 8].to_vec();
    poke(&path, l1 + 8, &first);
    let e = opened(&path).unwrap_err();
    assert!(e.kind() == DiskErrorKind::Corrupt && e.to_string().contains("has 2 users"), "{e}");
    // Reading it is still possible: that is how one saves what can be saved.
    open(OpenOptions { read_only: true, ..OpenOptions::new(&path, "t") }).unwrap();
    // Data on top of the L1 table.
    let onto = (header.l1_offset | 1 << 63).to_be_bytes();
    poke(&path, l1 + 8, &onto);
    assert_eq!(opened(&path).unwrap_err().kind(), DiskErrorKind::Corrupt);
}

#[test]
fn a_lost_refcount_is_repaired_only_after_a_death() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = image(dir.path());
    let header = Header::parse(&bytes, bytes.len() as u64, &path).unwrap();
    let block = header::be64(&bytes, header.reftable_offset as usize).unwrap();
    let l1 = header::be64(&bytes, header.l1_offset as usize).unwrap() & 0x00ff_ffff_ffff_fe00;
    let data = header::be64(&bytes, l1 as usize).unwrap() & 0x00ff_ffff_ffff_fe00;
    poke(&path, block + data / 65536 * 2, &[0, 0]);
    let e = opened(&path).unwrap_err();
    assert!(e.to_string().contains("counted as free"), "{e}");
    let file = FileOptions::new().read(true).write(true).open(&path).unwrap();
    let mut disk = Qcow2Disk::open(file, &path, false, true, Vec::new()).unwrap();
    assert!(get(&mut disk, 0, 1 << 20).unwrap() == pattern(1, 1 << 20));
    drop(disk);
    assert!(fs::read(&path).unwrap() == bytes, "as it was before the loss");
    opened(&path).unwrap();
}

#[test]
fn headers_that_ask_too_much_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = image(dir.path());
    let cases: &[(u64, &[u8], &str)] = &[
        (4, &[0, 0, 0, 4], "version 4"),
        (20, &[0, 0, 0, 40], "cluster size"),
        (24, &[0; 8], "virtual size"),
        (24, &[0x7f, 0, 0, 0, 0, 0, 0, 0], "too short"),
        (32, &[0, 0, 0, 2], "encrypted"),
        (36, &[0xff; 4], "out of range"),
        (40, &[0, 0, 0, 0, 0, 1, 0, 1], "cluster boundary"),
        (40, &[0, 1, 0, 0, 0, 0, 0, 0], "past the end"),
        (56, &[0xff; 4], "out of range"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 1], "qemu-img check -r all"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 2], "marked corrupt"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 4], "another file"),
        (72, &[0, 0, 0, 0, 0, 0, 0, 16], "extended L2"),
        (72, &[0x80, 0, 0, 0, 0, 0, 0, 0], "unknown"),
        (96, &[0, 0, 0, 7], "refcount width"),
        (100, &[0, 0, 0xff, 0xff], "extensions"),
    ];
    for (at, change, word) in cases {
        fs::write(&path, &bytes).unwrap();
        poke(&path, *at, change);
        let changed = fs::read(&path).unwrap();
        let e = opened(&path).unwrap_err();
        assert!(e.to_string().contains(word), "{at}: {e}");
        assert!(fs::read(&path).unwrap() == changed, "{at}");
    }
}

/// An image over `name`, with that format (or none) in its header.
fn over(dir: &Path, name: &str, format: Option<&str>) -> std::path::PathBuf {
    let path = dir.join("top.qcow2");
    let _ = fs::remove_file(&path);
    let file = FileOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    let store = Store::new(file, &Seal::default(), false).unwrap();
    let builder = <Qcow2<Store>>::create_builder(store);
    use imago::FormatCreateBuilder;
    builder.size(1 << 20).backing(name.into(), format.unwrap_or("raw").into()).create().unwrap();
    if format.is_none() {
        // The extension's type becomes one that nobody knows.
        let bytes = fs::read(&path).unwrap();
        let at = bytes.windows(4).position(|w| w == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
        poke(&path, at as u64, &[0x11; 4]);
    }
    path
}

#[test]
fn names_in_a_header_are_opened_by_the_rules() {
    let outside = tempfile::tempdir().unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, vec![7; 4096]).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::write(d.join("base"), vec![1; 4096]).unwrap();
    std::os::unix::fs::symlink(&secret, d.join("link")).unwrap();
    std::os::unix::fs::symlink(d.join("base"), d.join("inner")).unwrap();
    let up = format!("../{}/secret", outside.path().file_name().unwrap().to_str().unwrap());
    let refused = [
        (secret.to_str().unwrap(), Some("raw"), "outside"),
        (&up, Some("raw"), "outside"),
        ("link", Some("raw"), "outside"),
        ("/dev/zero", Some("raw"), "outside"),
        ("nbd://host/disk", Some("raw"), "plain file name"),
        ("json:{\"file\":{}}", Some("raw"), "plain file name"),
        ("base", None, "does not say which format"),
        ("base", Some("vmdk"), "format 'vmdk'"),
        (".", Some("raw"), "not a regular file"),
        ("gone", Some("raw"), "There is no disk at"),
        ("top.qcow2", Some("qcow2"), "more than 16"),
    ];
    for (name, format, word) in refused {
        let e = opened(&over(d, name, format)).unwrap_err();
        assert!(e.to_string().contains(word), "{name}: {e}");
    }
    for name in ["base", "./base", "inner", d.join("base").to_str().unwrap()] {
        let mut disk = opened(&over(d, name, Some("raw"))).unwrap();
        assert_eq!(get(&mut disk, 4095, 2).unwrap(), [1, 0]);
        assert!(disk.notes().iter().any(|n| n.contains("stands on")), "{:?}", disk.notes());
    }
    let alone = OpenOptions { chain: Chain::Alone, ..OpenOptions::new(over(d, "base", Some("raw")), "t") };
    assert!(open(alone).unwrap_err().to_string().contains("none is allowed"));
    let too_many = Chain::Given(vec![(d.join("base"), Format::Raw), (d.join("base"), Format::Raw)]);
    assert!(
        open(OpenOptions { chain: too_many, ..OpenOptions::new(over(d, "base", Some("raw")), "t") }).is_err()
    );
    let none = Chain::Given(Vec::new());
    assert!(
        open(OpenOptions { chain: none, ..OpenOptions::new(over(d, "base", Some("raw")), "t") }).is_err()
    );
}

#[test]
fn an_abandoned_image_writes_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let (path, bytes) = image(dir.path());
    let file = FileOptions::new().read(true).write(true).open(&path).unwrap();
    let mut disk = Qcow2Disk::open(file, &path, false, false, Vec::new()).unwrap();
    disk.discard(0, 1 << 20).unwrap();
    disk.abandon();
    assert!(put(&mut disk, 0, b"x").is_err() && disk.flush().is_err() && get(&mut disk, 0, 1).is_err());
    drop(disk);
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn a_full_host_is_an_error_and_acknowledged_data_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.qcow2");
    create_image(&path, 64 << 20).unwrap();
    let exe = std::env::current_exe().unwrap();
    let child = std::process::Command::new(exe)
        .args(["qcow2::tests::child_fills_its_file", "--exact", "--ignored", "--nocapture"])
        .env("STRATA_TEST_DISK", &path)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{text}{}", String::from_utf8_lossy(&child.stderr));
    let acknowledged = text.lines().filter(|l| l.ends_with("acknowledged")).count() as u64;
    assert!(acknowledged >= 10, "{text}");
    let mut disk = opened(&path).unwrap();
    for i in 0..acknowledged {
        assert!(get(&mut disk, i << 16, 65536).unwrap() == pattern(i + 1, 65536), "{i}");
    }
    // There is room again.
    put(&mut disk, 32 << 20, &[1; 4096]).unwrap();
    disk.flush().unwrap();
}

/// A limit on file size is what a full disk looks like, without needing one (or root).
#[test]
#[ignore = "run by the test above, as a process of its own"]
fn child_fills_its_file() {
    let Some(path) = std::env::var_os("STRATA_TEST_DISK") else { return };
    let limit = rustix::process::Rlimit { current: Some(2 << 20), maximum: None };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
    // SAFETY: ignoring a signal has no handler to get wrong; without it the limit kills the process.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    let mut disk = opened(Path::new(&path)).unwrap();
    for i in 0..1000u64 {
        let written = put(&mut disk, i << 16, &pattern(i + 1, 65536));
        if written.and_then(|()| disk.flush()).is_err() {
            assert!(i < 40);
            // It goes on failing, and does not panic; reads go on working.
            for j in i..i + 20 {
                assert!(put(&mut disk, j << 16, &[1; 65536]).is_err());
            }
            assert!(get(&mut disk, 0, 65536).unwrap() == pattern(1, 65536));
            return;
        }
        println!("{i} acknowledged");
    }
    panic!("the limit was never met");
}

#[test]
#[ignore = "a measurement, not a check: cargo test -p strata-block --release -- --ignored --nocapture sequential"]
fn sequential_write_speed() {
    let dir = tempfile::tempdir().unwrap();
    let (raw, base, layer) = (dir.path().join("raw"), dir.path().join("base"), dir.path().join("layer"));
    for path in [&raw, &base] {
        fs::File::create(path).unwrap().set_len(1 << 30).unwrap();
    }
    for block in [4 << 10, 64 << 10, 1 << 20] {
        for round in ["first", "again"] {
            let _ = fs::remove_file(&layer);
            create_overlay(&layer, &base, Format::Raw, None).unwrap();
            for path in [&raw, &layer] {
                let mut disk = opened(path).unwrap();
                let mut data = pattern(1, block);
                let start = std::time::Instant::now();
                for at in (0..200u64 << 20).step_by(block) {
                    disk.write(at, &[crate::testing::slice(&mut data)]).unwrap();
                }
                disk.flush().unwrap();
                eprintln!("{round} {block:8} bytes {:5} {:?}", disk.format(), start.elapsed());
            }
        }
    }
}
