use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::DiskErrorKind;
use crate::testing::{get, pattern, put, slice, whole};

fn disk(size: u64) -> RawDisk {
    let file = tempfile::tempfile().unwrap();
    file.set_len(size).unwrap();
    RawDisk::open(file, Path::new("test"), false).unwrap()
}

#[test]
fn sizes_that_are_no_disk_are_refused_with_the_cure() {
    for (size, word) in [(0, "truncate -s 10G"), (513, "truncate -s 1024"), (1000, "cut short")] {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        let e = RawDisk::open(file, Path::new("x.img"), false).unwrap_err();
        assert_eq!(e.kind(), DiskErrorKind::TooSmall);
        assert!(e.to_string().contains(word), "{e}");
    }
}

#[test]
fn more_slices_than_one_call_takes_arrive_in_order() {
    let mut d = disk(1 << 20);
    let data = pattern(1, 150_000);
    // Odd lengths, empty slices between, and more of them than BATCH.
    let mut copy = data.clone();
    let mut parts: Vec<_> = copy.chunks_mut(777).collect();
    parts.insert(3, &mut []);
    assert!(parts.len() > 2 * BATCH);
    let slices: Vec<_> = parts.into_iter().map(slice).collect();
    d.write(1000, &slices).unwrap();
    assert_eq!(get(&mut d, 1000, data.len()).unwrap(), data);
    let mut back = vec![0; data.len()];
    let slices: Vec<_> = back.chunks_mut(1111).map(slice).collect();
    d.read(1000, &slices).unwrap();
    assert_eq!(back, data);
}

#[test]
fn nothing_moves_outside_the_disk() {
    let mut d = disk(4096);
    assert!(put(&mut d, 4000, &[1; 97]).is_err());
    assert!(put(&mut d, u64::MAX, &[1]).is_err());
    assert!(get(&mut d, 4096, 1).is_err());
    assert!(d.discard(0, 4097).is_err());
    assert!(d.write_zeroes(u64::MAX - 1, 2, true).is_err());
    d.discard(4096, 0).unwrap();
    assert_eq!(whole(&mut d), vec![0; 4096]);
    assert_eq!(d.file.metadata().unwrap().len(), 4096);
}

#[test]
fn a_file_cut_while_in_use_is_an_error_not_zeroes() {
    let mut d = disk(8192);
    put(&mut d, 0, &pattern(2, 8192)).unwrap();
    d.file.set_len(4096).unwrap();
    let e = get(&mut d, 2048, 4096).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::UnexpectedEof);
    assert!(e.to_string().contains("cut short"), "{e}");
}

#[test]
fn zeroes_and_holes_free_space_where_the_host_can() {
    for unmap in [true, false] {
        let mut d = disk(4 << 20);
        put(&mut d, 0, &pattern(3, 4 << 20)).unwrap();
        d.flush().unwrap();
        let before = d.file.metadata().unwrap().blocks();
        d.write_zeroes(4096, 2 << 20, unmap).unwrap();
        d.flush().unwrap();
        assert_eq!(get(&mut d, 4096, 2 << 20).unwrap(), vec![0; 2 << 20]);
        assert_eq!(get(&mut d, 0, 4096).unwrap(), pattern(3, 4096));
        if unmap && d.can_punch {
            assert!(d.file.metadata().unwrap().blocks() < before);
        }
    }
}

#[test]
fn a_host_without_fallocate_gets_written_zeroes() {
    let mut d = disk(1 << 20);
    (d.can_punch, d.can_zero) = (false, false);
    put(&mut d, 0, &pattern(4, 1 << 20)).unwrap();
    d.write_zeroes(511, 300_000, true).unwrap();
    d.discard(600_000, 4096).unwrap();
    let mut want = pattern(4, 1 << 20);
    want[511..300_511].fill(0);
    assert!(whole(&mut d) == want);
}

#[test]
fn read_only_and_abandoned_disks_take_no_writes() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    let mut d = RawDisk::open(file, Path::new("test"), true).unwrap();
    assert_eq!(put(&mut d, 0, &[1; 512]).unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(d.discard(0, 512).is_err() && d.write_zeroes(0, 512, false).is_err());
    d.flush().unwrap();

    let mut d = disk(4096);
    d.abandon();
    assert!(put(&mut d, 0, &[1; 512]).is_err() && d.flush().is_err());
    assert_eq!(get(&mut d, 0, 512).unwrap(), [0; 512]);
}

#[test]
fn a_guessed_disk_does_not_turn_into_another_format() {
    let mut d = disk(4096);
    d.keep_raw();
    let mut sector = pattern(5, 1024);
    put(&mut d, 0, &sector).unwrap();
    assert_eq!(get(&mut d, 0, 1024).unwrap(), sector);
    sector[..4].copy_from_slice(&MAGIC);
    let e = put(&mut d, 0, &sector).unwrap_err();
    assert!(e.to_string().contains("say that it is raw"), "{e}");
    // Nor byte by byte, nor in two slices.
    put(&mut d, 0, &MAGIC[..3]).unwrap();
    assert!(put(&mut d, 3, &MAGIC[3..]).is_err());
    let (mut a, mut b) = (MAGIC[..1].to_vec(), MAGIC[1..].to_vec());
    assert!(d.write(0, &[slice(&mut a), slice(&mut b)]).is_err());
    assert_ne!(get(&mut d, 0, 4).unwrap(), MAGIC);
}

#[test]
fn a_full_host_is_an_error_and_keeps_what_was_written() {
    // A file size limit of the process would hit other tests; /dev/full refuses writes just as a full disk does.
    let full = std::fs::OpenOptions::new().read(true).write(true).open("/dev/full").unwrap();
    let d = RawDisk {
        file: full,
        size: 1 << 20,
        read_only: false,
        can_punch: true,
        can_zero: true,
        broken: false,
        keep_raw: false,
    };
    let mut d: Box<dyn Disk> = Box::new(d);
    assert_eq!(put(&mut *d, 0, &[1; 512]).unwrap_err().kind(), ErrorKind::StorageFull);
}
