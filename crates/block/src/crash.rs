//! A process that dies by SIGKILL in the middle of its writes has lost nothing that it had flushed.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::testing::{get, ok, pattern, put, tool};
use crate::{Chain, Disk, Format, OpenOptions, create_overlay, open::open};

const SIZE: u64 = 64 << 20;
const STEP: u64 = 48 << 10;

fn options(dir: &Path, format: Format) -> OpenOptions {
    let base = dir.join("base");
    match format {
        Format::Raw => OpenOptions { format: Some(format), ..OpenOptions::new(dir.join("raw"), "crash") },
        Format::Qcow2 => OpenOptions {
            format: Some(format),
            chain: Chain::Given(vec![(base, Format::Raw)]),
            ..OpenOptions::new(dir.join("layer"), "crash")
        },
    }
}

/// Step `i` writes here: spread over the disk, so that it allocates in several L2 tables and between old data.
fn place(i: u64) -> u64 {
    (i * 11 % (SIZE / STEP)) * STEP
}

#[test]
#[ignore = "run by the test below, as a process of its own"]
fn child_writes_until_killed() {
    let Some(dir) = std::env::var_os("STRATA_TEST_DIR") else { return };
    let format = std::env::var("STRATA_TEST_FORMAT").unwrap().parse().unwrap();
    let first: u64 = std::env::var("STRATA_TEST_FIRST").unwrap().parse().unwrap();
    let mut disk = open(options(Path::new(&dir), format)).unwrap();
    let mut out = std::io::stdout();
    for i in first.. {
        put(&mut disk, place(i), &pattern(i, STEP as usize)).unwrap();
        if i % 3 == 0 {
            disk.discard(place(i + 1), STEP).unwrap();
        }
        disk.flush().unwrap();
        writeln!(out, "flushed {i}").unwrap();
        // Not acknowledged: may or may not be there later.
        put(&mut disk, place(i + 1), &[0xdd; 1024]).unwrap();
    }
}

#[test]
fn flushed_writes_survive_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("base"), pattern(0, 4 << 20)).unwrap();
    create_overlay(&dir.path().join("layer"), &dir.path().join("base"), Format::Raw, Some(SIZE)).unwrap();
    std::fs::File::create(dir.path().join("raw")).unwrap().set_len(SIZE).unwrap();
    for format in [Format::Qcow2, Format::Raw] {
        let mut next = 0;
        for round in 0..4u64 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["crash::child_writes_until_killed", "--exact", "--ignored", "--nocapture"])
                .env("STRATA_TEST_DIR", dir.path())
                .env("STRATA_TEST_FORMAT", format.to_string())
                .env("STRATA_TEST_FIRST", next.to_string())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let out = child.stdout.take().unwrap();
            let flushed = |line: String| line.split("flushed ").nth(1)?.parse::<u64>().ok();
            let mut steps = BufReader::new(out).lines().map_while(Result::ok).filter_map(flushed);
            let first = steps.next().expect("at least one flush before the kill");
            let killer = std::thread::spawn(move || {
                // Anywhere in a step: the times are no multiples of anything.
                std::thread::sleep(Duration::from_millis(70 + 37 * round));
                child.kill().unwrap();
                child.wait().unwrap();
            });
            let last = steps.last().unwrap_or(first);
            killer.join().unwrap();
            let mut disk = open(options(dir.path(), format)).unwrap();
            assert!(disk.epoch() > Some(1), "the child left its record");
            // The last step at each place counts; those after the last flush were under way.
            let places = SIZE / STEP;
            for i in (last + 4).saturating_sub(places)..=last {
                let found = get(&mut disk, place(i), STEP as usize).unwrap();
                assert!(found == pattern(i, STEP as usize), "{format} round {round}: step {i} of {last}");
            }
            disk.flush().unwrap();
            next = last + 1;
        }
    }
    if let Some(img) = tool("qemu-img") {
        // Leaked clusters (exit code 3) are what a kill may leave; anything else fails.
        let (_, text) = crate::testing::run(&img, dir.path(), &["check", "layer"]);
        assert!(!text.contains("ERROR"), "{text}");
        ok(&img, dir.path(), &["check", "-r", "leaks", "layer"]);
    }
}
