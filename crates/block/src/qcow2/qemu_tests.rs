//! Differential: what QEMU's tools write reads the same here, and what is written here satisfies them.

use std::fs;

use super::*;
use crate::testing::{get, ok, pattern, put, tool, whole};
use crate::{OpenDisk, OpenOptions, open::open};

const SIZE: usize = 3 << 20;

fn opened(path: &Path) -> OpenDisk {
    open(OpenOptions::new(path, "t")).unwrap()
}

/// A disk with data, holes, and repeated text that compresses.
fn contents() -> Vec<u8> {
    let mut bytes = vec![0; SIZE];
    bytes[..700_000].copy_from_slice(&pattern(1, 700_000));
    for (i, b) in bytes[1_200_000..2_000_000].iter_mut().enumerate() {
        *b = b"all work and no play "[i % 21];
    }
    bytes[SIZE - 5000..].copy_from_slice(&pattern(2, 5000));
    bytes
}

#[test]
fn images_of_every_geometry_read_and_write() {
    let Some(img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::write(d.join("raw"), contents()).unwrap();
    let geometries = [
        "compat=1.1,cluster_size=512",
        "compat=1.1,cluster_size=4k,refcount_bits=1",
        "compat=1.1,cluster_size=64k,lazy_refcounts=on",
        "compat=1.1,cluster_size=64k,refcount_bits=64",
        "compat=1.1,cluster_size=2M",
        "compat=0.10,cluster_size=4k",
        "compat=0.10",
        "compat=1.1,preallocation=metadata",
    ];
    for (geometry, compress) in geometries.iter().flat_map(|g| [(g, false), (g, true)]) {
        let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", geometry, "raw", "x.qcow2"];
        match (compress, geometry.contains("preallocation")) {
            (true, true) => continue,
            (true, false) => args.insert(1, "-c"),
            _ => {}
        }
        ok(&img, d, &args);
        let path = d.join("x.qcow2");
        let mut disk = opened(&path);
        let mut model = contents();
        assert!(whole(&mut disk) == model, "{geometry} {compress}");
        // Over compressed and plain clusters, into holes, with zeroes and discards.
        for (i, at) in [1000, 650_000, 1_199_990, 1_500_000, 2_500_000, SIZE - 20_000].into_iter().enumerate()
        {
            let data = pattern(i as u64 + 10, 9_999);
            put(&mut disk, at as u64, &data).unwrap();
            model[at..at + data.len()].copy_from_slice(&data);
        }
        disk.write_zeroes(300_000, 200_000, true).unwrap();
        model[300_000..500_000].fill(0);
        disk.write_zeroes(1_300_000, 70_000, false).unwrap();
        model[1_300_000..1_370_000].fill(0);
        disk.flush().unwrap();
        assert!(whole(&mut disk) == model, "{geometry} {compress}");
        drop(disk);
        fs::write(d.join("model"), &model).unwrap();
        ok(&img, d, &["check", "x.qcow2"]);
        ok(&img, d, &["compare", "-f", "qcow2", "-F", "raw", "x.qcow2", "model"]);
    }
}

#[test]
fn a_chain_of_qemus_reads_and_takes_writes_on_top() {
    let Some(img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::write(d.join("raw"), contents()).unwrap();
    ok(&img, d, &["create", "-q", "-f", "qcow2", "-b", "raw", "-F", "raw", "mid.qcow2"]);
    let mut model = contents();
    put(&mut opened(&d.join("mid.qcow2")), 65_000, &pattern(5, 100_000)).unwrap();
    model[65_000..165_000].copy_from_slice(&pattern(5, 100_000));
    ok(
        &img,
        d,
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            "-o",
            "cluster_size=4k",
            "-b",
            "mid.qcow2",
            "-F",
            "qcow2",
            "top.qcow2",
            "8M",
        ],
    );
    model.resize(8 << 20, 0);
    let mut disk = opened(&d.join("top.qcow2"));
    assert_eq!(disk.layers().len(), 2);
    assert!(whole(&mut disk) == model);
    put(&mut disk, SIZE as u64 - 100, &pattern(6, 5000)).unwrap();
    model[SIZE - 100..SIZE + 4900].copy_from_slice(&pattern(6, 5000));
    disk.flush().unwrap();
    drop(disk);
    fs::write(d.join("model"), &model).unwrap();
    ok(&img, d, &["check", "top.qcow2"]);
    ok(&img, d, &["check", "mid.qcow2"]);
    ok(&img, d, &["compare", "-f", "qcow2", "-F", "raw", "top.qcow2", "model"]);
}

#[test]
fn our_images_are_good_and_known_to_qemu() {
    let Some(img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::write(d.join("base.raw"), contents()).unwrap();
    create_overlay(&d.join("layer.qcow2"), &d.join("base.raw"), Format::Raw, Some(100 << 20)).unwrap();
    let info = ok(&img, d, &["info", "layer.qcow2"]);
    for word in ["100 MiB", "backing file: base.raw", "backing file format: raw", "compat: 1.1"] {
        assert!(info.contains(word), "{word}: {info}");
    }
    // Large and sparse, over many L2 tables.
    let place = |i: u64| (i * ((1 << 40) / 200)) & !511;
    create_image(&d.join("big.qcow2"), 1 << 40).unwrap();
    let mut disk = opened(&d.join("big.qcow2"));
    for i in 0..200u64 {
        put(&mut disk, place(i), &pattern(i, 512)).unwrap();
    }
    drop(disk);
    ok(&img, d, &["check", "big.qcow2"]);
    let mut disk = opened(&d.join("big.qcow2"));
    for i in 0..200u64 {
        assert_eq!(get(&mut disk, place(i), 512).unwrap(), pattern(i, 512));
    }
}

#[test]
fn a_snapshot_inside_an_image_survives_our_writes() {
    let Some(img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    fs::write(d.join("raw"), contents()).unwrap();
    ok(&img, d, &["convert", "-f", "raw", "-O", "qcow2", "raw", "x.qcow2"]);
    ok(&img, d, &["snapshot", "-c", "kept", "x.qcow2"]);
    let mut disk = opened(&d.join("x.qcow2"));
    put(&mut disk, 100, &pattern(9, 200_000)).unwrap();
    disk.discard(1 << 20, 1 << 20).unwrap();
    disk.flush().unwrap();
    drop(disk);
    ok(&img, d, &["check", "x.qcow2"]);
    ok(&img, d, &["convert", "-l", "kept", "-O", "raw", "x.qcow2", "back"]);
    assert!(fs::read(d.join("back")).unwrap() == contents());
    let mut disk = opened(&d.join("x.qcow2"));
    assert!(get(&mut disk, 100, 200_000).unwrap() == pattern(9, 200_000));
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let Some(img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    for (format, options, word) in [
        ("qcow2", "extended_l2=on", "extended L2"),
        ("qcow2", "compression_type=zstd", "zstd"),
        ("qcow2", "data_file=data.raw", "another file"),
        ("vmdk", "", "VMDK"),
        ("vdi", "", "VDI"),
        ("vhdx", "", "VHDX"),
        ("vpc", "", "VHD"),
        ("qed", "", "QED"),
        ("qcow", "", "version 1"),
    ] {
        let _ = fs::remove_file(d.join("x"));
        let mut args = vec!["create", "-q", "-f", format, "x", "1M"];
        if !options.is_empty() {
            args.splice(4..4, ["-o", options]);
        }
        ok(&img, d, &args);
        let e = open(OpenOptions::new(d.join("x"), "t")).unwrap_err();
        assert_eq!(e.kind(), crate::DiskErrorKind::Unsupported);
        assert!(e.to_string().contains(word) && e.to_string().contains("qemu-img convert"), "{e}");
    }
}
