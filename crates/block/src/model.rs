//! Every disk against a vector: random requests, with the disk closed and opened again in between.

use std::fs::File;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::qcow2::create_image;
use crate::testing::{get, pattern, put, tool, whole};
use crate::{Chain, Disk, Format, OpenOptions, create_overlay, open_disk};

const SIZE: u64 = 1 << 20;

#[derive(Debug, Clone)]
enum Request {
    Read(u64, u64),
    Write(u64, u64, u64),
    Discard(u64, u64),
    Zero(u64, u64, bool),
    Flush,
    Reopen,
}

/// A range within the disk: sectors mostly, odd bytes at times, small and large.
fn range() -> impl Strategy<Value = (u64, u64)> {
    let len = prop_oneof![1..5000u64, (1..400u64).prop_map(|s| s * 512), Just(65536), Just(0)];
    (0..SIZE, len, any::<bool>()).prop_map(|(at, len, odd)| {
        let at = if odd { at } else { at & !511 };
        (at, len.min(SIZE - at))
    })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        3 => range().prop_map(|(a, l)| Request::Read(a, l)),
        6 => (range(), any::<u64>()).prop_map(|((a, l), s)| Request::Write(a, l, s)),
        2 => range().prop_map(|(a, l)| Request::Discard(a, l)),
        2 => (range(), any::<bool>()).prop_map(|((a, l), u)| Request::Zero(a, l, u)),
        1 => Just(Request::Flush),
        1 => Just(Request::Reopen),
    ]
}

type Opener<'a> = &'a dyn Fn() -> Box<dyn Disk>;

fn play(open: Opener<'_>, mut model: Vec<u8>, requests: &[Request]) -> Result<Vec<u8>, TestCaseError> {
    let mut disk = open();
    for request in requests {
        match *request {
            Request::Read(at, len) => {
                let found = get(&mut *disk, at, len as usize).unwrap();
                prop_assert!(found == model[at as usize..(at + len) as usize], "read {at}+{len}");
            }
            Request::Write(at, len, seed) => {
                let data = pattern(seed, len as usize);
                put(&mut *disk, at, &data).unwrap();
                model[at as usize..(at + len) as usize].copy_from_slice(&data);
            }
            Request::Discard(at, len) => {
                disk.discard(at, len).unwrap();
                // Each byte is what it was, or zero; from then on it stays what it is.
                let now = get(&mut *disk, at, len as usize).unwrap();
                let was = &mut model[at as usize..(at + len) as usize];
                prop_assert!(now.iter().zip(&*was).all(|(n, w)| n == w || *n == 0), "discard {at}+{len}");
                was.copy_from_slice(&now);
            }
            Request::Zero(at, len, unmap) => {
                disk.write_zeroes(at, len, unmap).unwrap();
                model[at as usize..(at + len) as usize].fill(0);
            }
            Request::Flush => disk.flush().unwrap(),
            Request::Reopen => {
                drop(disk);
                disk = open();
            }
        }
    }
    prop_assert!(whole(&mut *disk) == model, "at the end");
    disk.flush().unwrap();
    drop(disk);
    prop_assert!(whole(&mut *open()) == model, "opened again");
    Ok(model)
}

fn opener(path: PathBuf, format: Format, chain: Chain) -> impl Fn() -> Box<dyn Disk> {
    move || {
        let mut options = OpenOptions::new(&path, "model");
        (options.format, options.chain) = (Some(format), chain.clone());
        open_disk(options).unwrap()
    }
}

/// The image must satisfy QEMU too.
fn check_with_qemu(dir: &Path, name: &str, model: &[u8]) {
    let Some(qemu_img) = tool("qemu-img") else { return };
    crate::testing::ok(&qemu_img, dir, &["check", name]);
    std::fs::write(dir.join("model"), model).unwrap();
    crate::testing::ok(&qemu_img, dir, &["compare", "-F", "raw", "-f", "qcow2", name, "model"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn raw_is_a_vector(requests in prop::collection::vec(request(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        File::create(&path).unwrap().set_len(SIZE).unwrap();
        play(&opener(path, Format::Raw, Chain::Alone), vec![0; SIZE as usize], &requests)?;
    }

    #[test]
    fn an_overlay_is_a_vector(base in 1..=SIZE / 512, requests in prop::collection::vec(request(), 1..60)) {
        let dir = tempfile::tempdir().unwrap();
        let (raw, path) = (dir.path().join("base"), dir.path().join("disk"));
        let below = pattern(base, base as usize * 512);
        std::fs::write(&raw, &below).unwrap();
        create_overlay(&path, &raw, Format::Raw, Some(SIZE)).unwrap();
        let mut model = below.clone();
        model.resize(SIZE as usize, 0);
        let chain = Chain::Given(vec![(raw.clone(), Format::Raw)]);
        let model = play(&opener(path, Format::Qcow2, chain), model, &requests)?;
        prop_assert!(std::fs::read(&raw).unwrap() == below, "the base has changed");
        check_with_qemu(dir.path(), "disk", &model);
    }

    #[test]
    fn a_layer_over_a_layer_is_a_vector(first in prop::collection::vec(request(), 1..20),
                                        second in prop::collection::vec(request(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let (below, path) = (dir.path().join("base"), dir.path().join("disk"));
        create_image(&below, SIZE).unwrap();
        let model = play(&opener(below.clone(), Format::Qcow2, Chain::Alone), vec![0; SIZE as usize], &first)?;
        create_overlay(&path, &below, Format::Qcow2, None).unwrap();
        let model = play(&opener(path, Format::Qcow2, Chain::SameDirectory), model, &second)?;
        check_with_qemu(dir.path(), "disk", &model);
    }
}

#[test]
fn version_2_images_are_vectors_too() {
    let Some(qemu_img) = tool("qemu-img") else { return };
    let dir = tempfile::tempdir().unwrap();
    crate::testing::ok(
        &qemu_img,
        dir.path(),
        &["create", "-q", "-f", "qcow2", "-o", "compat=0.10", "disk", "1M"],
    );
    let requests = [
        Request::Write(0, 300_000, 1),
        Request::Zero(100, 70_000, true),
        Request::Discard(65536, 131_072),
        Request::Zero(200_000, 65_536, false),
        Request::Reopen,
        Request::Write(900_001, 1000, 2),
        Request::Read(0, SIZE),
    ];
    let open = opener(dir.path().join("disk"), Format::Qcow2, Chain::Alone);
    let model = play(&open, vec![0; SIZE as usize], &requests).unwrap();
    check_with_qemu(dir.path(), "disk", &model);
}
