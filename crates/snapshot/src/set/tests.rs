mod chains;

use super::*;
use crate::MachineRef;
use strata_state::StateHeader;

const GPA: u64 = 0x8000_0000;
const LEN: u64 = 4 << 20;

fn state() -> Vec<u8> {
    let header = StateHeader {
        producer: "t".into(),
        features: vec![],
        board: "riscv-virt".into(),
        engine: "soft".into(),
    };
    StateFile { header, parts: vec![("a".into(), vec![1])] }.bytes()
}

fn manifest(memory: u64) -> Manifest {
    let machine = MachineRef { board: "riscv-virt".into(), engine: "soft".into(), cpus: 1, memory };
    Manifest::new("ab".into(), machine, serde_json::json!({ "name": "web" }))
}

/// Some pages here and there, one of them written with zeroes.
fn memory() -> GuestRam {
    let ram = GuestRam::single(GPA, LEN).unwrap();
    for page in [0, 1, 2, 5, 255, 256, 700, 1023] {
        ram.load(GPA + page * 4096, &[page as u8 | 1; 4096]).unwrap();
    }
    ram.load(GPA + 300 * 4096, &[0; 4096]).unwrap();
    ram
}

fn all(ram: &GuestRam) -> Vec<u8> {
    let mut bytes = vec![0; LEN as usize];
    ram.peek(GPA, &mut bytes).unwrap();
    bytes
}

/// A set of `ram`, written at `new` and named `to`.
fn set_of(new: &Path, ram: &GuestRam, to: &Path) -> Result<Manifest, SnapshotError> {
    let mut writer = SetWriter::create(new)?;
    writer.begin(ram, state())?;
    writer.finish(manifest(LEN), to, &AtomicBool::new(false))
}

fn made(dir: &Path) -> PathBuf {
    let to = dir.join("snap");
    set_of(&dir.join(".new"), &memory(), &to).unwrap();
    to
}

#[test]
fn memory_comes_back_and_the_file_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let to = made(dir.path());
    let set = SetReader::open(&to).unwrap();
    assert_eq!(set.state(), state());
    set.memory().verify().unwrap();
    let before = fs::read(to.join(MEMORY)).unwrap();
    let ram = set.memory().map(GPA).unwrap();
    assert!(all(&ram) == all(&memory()));
    ram.load(GPA + 5 * 4096, &[9; 8192]).unwrap();
    assert!(fs::read(to.join(MEMORY)).unwrap() == before);
    // And what was restored can be saved.
    let again = dir.path().join("again");
    set_of(&dir.path().join(".new"), &ram, &again).unwrap();
    drop(set);
    fs::remove_dir_all(&to).unwrap();
    assert!(all(&SetReader::open(&again).unwrap().memory().map(GPA).unwrap()) == all(&ram));
    ram.clear();
    assert!(all(&ram).iter().all(|b| *b == 0));
}

#[test]
fn every_byte_of_manifest_state_header_and_index_counts() {
    let dir = tempfile::tempdir().unwrap();
    let to = made(dir.path());
    let index = 4096 + LEN as usize;
    for (name, ranges) in [(MANIFEST, None), (STATE, None), (MEMORY, Some([0..4096, index..usize::MAX]))] {
        let path = to.join(name);
        let good = fs::read(&path).unwrap();
        let all = [0..good.len(), 0..0];
        for at in ranges.unwrap_or(all).into_iter().flat_map(|r| r.start..r.end.min(good.len())) {
            // The rest of the header's page and most of the digests are tried in samples.
            if name == MEMORY && at > 200 && at % 37 != 0 {
                continue;
            }
            let file = fs::File::options().write(true).open(&path).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[good[at] ^ 4], at as u64).unwrap();
            let e = SetReader::open(&to).unwrap_err().to_string();
            assert!(!e.contains('\n') && e.contains(name), "byte {at}: {e}");
            std::os::unix::fs::FileExt::write_all_at(&file, &[good[at]], at as u64).unwrap();
            // Nor is it forgotten that somebody has written to the memory.
        }
        let told = SetReader::open(&to);
        assert_eq!(told.is_err(), name == MEMORY, "{name}: {told:?}");
    }
}

#[test]
fn cut_extended_replaced_or_missing_files_are_named() {
    for name in [MANIFEST, STATE, MEMORY] {
        let dir = tempfile::tempdir().unwrap();
        let path = made(dir.path()).join(name);
        let good = fs::read(&path).unwrap();
        for cut in [0, 1, good.len() / 2, good.len() - 1] {
            fs::write(&path, &good[..cut]).unwrap();
            let e = SetReader::open(path.parent().unwrap()).unwrap_err().to_string();
            assert!(e.contains(name), "{e}");
        }
        fs::write(&path, [&good[..], b"x"].concat()).unwrap();
        assert!(SetReader::open(path.parent().unwrap()).is_err(), "{name} with more");
        fs::remove_file(&path).unwrap();
        assert!(SetReader::open(path.parent().unwrap()).is_err());
        fs::write(&path, &good).unwrap();
        let copied = SetReader::open(path.parent().unwrap());
        assert_eq!(copied.is_err(), name == MEMORY, "{copied:?}");
    }
}

#[test]
fn damaged_pages_are_found_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let to = made(dir.path());
    for (at, mib) in [(4096 + 5, "between 0 and 1"), (4096 + (3 << 20), "between 3 and 4")] {
        let path = to.join(MEMORY);
        let mut bytes = fs::read(&path).unwrap();
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let e = Layer::open(&path).unwrap().verify().unwrap_err().to_string();
        assert!(e.contains(mib), "{e}");
        bytes[at] ^= 1;
        fs::write(&path, &bytes).unwrap();
        Layer::open(&path).unwrap().verify().unwrap();
    }
}

#[test]
fn what_is_not_finished_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let new = dir.path().join(".new");
    drop(SetWriter::create(&new).unwrap());
    let mut begun = SetWriter::create(&new).unwrap();
    begun.begin(&memory(), state()).unwrap();
    let e = begun.finish(manifest(LEN), &dir.path().join("snap"), &AtomicBool::new(true)).unwrap_err();
    assert!(e.to_string().contains("cancelled"), "{e}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    fs::create_dir(dir.path().join("snap")).unwrap();
    assert!(set_of(&new, &memory(), &dir.path().join("snap")).is_err());
    assert!(!new.exists());
}

#[test]
fn another_name_for_a_set_outlives_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let first = made(dir.path());
    let second = dir.path().join("second");
    let manifest = SetReader::manifest_of(&first).unwrap();
    link_set(&first, &manifest, &second).unwrap();
    SetReader::open(&first).unwrap();
    fs::remove_dir_all(&first).unwrap();
    SetReader::open(&second).unwrap().memory().verify().unwrap();
    assert!(link_set(&first, &manifest, &dir.path().join("third")).is_err());
    assert!(!dir.path().join("third").exists());
}

#[test]
fn what_is_written_after_the_moment_is_not_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let (ram, to) = (memory(), dir.path().join("snap"));
    let mut writer = SetWriter::create(&dir.path().join(".new")).unwrap();
    writer.begin(&ram, state()).unwrap();
    ram.load(GPA + 255 * 4096, &[77; 8192]).unwrap();
    ram.load(GPA + 512 * 4096, &[77; 4096]).unwrap();
    writer.finish(manifest(LEN), &to, &AtomicBool::new(false)).unwrap();
    assert!(all(&SetReader::open(&to).unwrap().memory().map(GPA).unwrap()) == all(&memory()));
}

#[test]
fn a_list_of_hot_paths_goes_with_the_set_and_is_not_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (dir.path().join("first"), dir.path().join("second"));
    let mut set = SetWriter::create(&dir.path().join(".new")).unwrap();
    set.put_hot_paths(b"no list at all").unwrap();
    set.begin(&memory(), state()).unwrap();
    let manifest = set.finish(manifest(LEN), &first, &AtomicBool::new(false)).unwrap();
    link_set(&first, &manifest, &second).unwrap();
    fs::remove_dir_all(&first).unwrap();
    SetReader::open(&second).unwrap();
    assert_eq!(fs::read(second.join(HOT_PATHS)).unwrap(), b"no list at all");
    // One that has none is another name without one.
    fs::remove_file(second.join(HOT_PATHS)).unwrap();
    link_set(&second, &manifest, &first).unwrap();
    assert!(!first.join(HOT_PATHS).exists());
}

/// What a build of another day wrote is named, and not guessed at.
#[test]
fn other_versions_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let to = made(dir.path());
    let newer = |set: &Path, word: &str| {
        let e = SetReader::open(set).unwrap_err();
        assert!(matches!(e, SnapshotError::Newer { .. }), "{e:?}");
        assert!(e.to_string().contains(word) && !e.to_string().contains('\n'), "{e}");
    };
    let text = String::from_utf8(fs::read(to.join(MANIFEST)).unwrap()).unwrap();
    let resealed = |text: &str| {
        let (head, sum) = text.split_at(text.rfind("\"digest\": \"").unwrap() + 11);
        let blank = format!("{head}{}{}", "0".repeat(64), &sum[64..]);
        let digest = hex(&Sha256::digest(blank.as_bytes()));
        format!("{head}{digest}{}", &sum[64..])
    };
    assert_eq!(resealed(&text), text);
    for (from, to_, word) in [
        ("\"format\": 1", "\"format\": 2", "format 2"),
        ("\"features\": []", "\"features\": [\"folded\"]", "folded"),
    ] {
        assert!(text.contains(from));
        fs::write(to.join(MANIFEST), resealed(&text.replace(from, to_))).unwrap();
        newer(&to, word);
    }
    // A field that a later build added is no reason to refuse.
    fs::write(
        to.join(MANIFEST),
        resealed(&text.replace("\"features\": []", "\"colour\": 1,\n  \"features\": []")),
    )
    .unwrap();
    SetReader::open(&to).unwrap();
    let memory = fs::read(to.join(MEMORY)).unwrap();
    for (at, word) in [(8, "version"), (20, "features")] {
        let mut bytes = memory.clone();
        bytes[at] += 1;
        fs::write(to.join(MEMORY), &bytes).unwrap();
        newer(&to, word);
    }
}

#[test]
fn memory_that_comes_in_pieces_of_any_length_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, to) = (all(&memory()), dir.path().join("snap"));
    let mut set = SetWriter::receive(&dir.path().join(".new"), LEN / 4096).unwrap();
    let mut at = 0;
    for len in [1, 4095, 5000, 4096, 100_000, 999].into_iter().cycle() {
        let piece = &whole[at.min(whole.len())..whole.len().min(at + len)];
        if piece.is_empty() {
            break;
        }
        // What is zero need not come at all.
        if piece.iter().any(|b| *b != 0) || len == 999 {
            set.put(at as u64, piece).unwrap();
        }
        at += len;
    }
    for (place, len) in [(LEN, 1), (LEN - 1, 2), (u64::MAX, 9)] {
        assert!(set.put(place, &vec![1; len]).is_err(), "{place}");
    }
    set.put_state(state());
    set.finish(manifest(LEN), &to, &AtomicBool::new(false)).unwrap();
    let set = SetReader::open(&to).unwrap();
    set.memory().verify().unwrap();
    assert!(all(&set.memory().map(GPA).unwrap()) == whole);
    // Dropped in the middle, it leaves nothing.
    let mut half = SetWriter::receive(&dir.path().join(".new"), LEN / 4096).unwrap();
    half.put(0, &[1]).unwrap();
    assert!(half.begin(&memory(), state()).is_err(), "it is no machine's");
    drop(half);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
