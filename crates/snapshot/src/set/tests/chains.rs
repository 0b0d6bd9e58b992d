//! Sets that stand on each other, are merged, and are still what they were.

use super::*;
use crate::{LayerChain, MAX_LAYERS, Rewrite, RunKind, rewrite_set};
use std::ops::Range;

/// Sets of one memory at several moments, each standing on the one before.
struct Line {
    dir: tempfile::TempDir,
    ram: GuestRam,
    /// Name, dirty epoch since, and all bytes at that moment.
    taken: Vec<(PathBuf, u32, Vec<u8>)>,
}

impl Line {
    fn new() -> Line {
        Line { dir: tempfile::tempdir().unwrap(), ram: memory(), taken: Vec::new() }
    }

    /// Takes one; `meanwhile` runs between its moment and its end.
    fn take(&mut self, meanwhile: impl FnOnce(&GuestRam)) -> Manifest {
        let to = self.dir.path().join(format!("s{}", self.taken.len()));
        let mut writer = SetWriter::create(&self.dir.path().join(".new")).unwrap();
        if let Some((below, since, _)) = self.taken.last() {
            writer.stand_on(below, *since).unwrap();
        }
        let epoch = writer.begin(&self.ram, state()).unwrap();
        self.taken.push((to.clone(), epoch, all(&self.ram)));
        meanwhile(&self.ram);
        writer.finish(manifest(LEN), &to, &AtomicBool::new(false)).unwrap()
    }

    /// Each is what it was, also when it is mapped from several layers and copied whole from there.
    fn check(&self) {
        for (n, (path, _, bytes)) in self.taken.iter().enumerate() {
            let set = SetReader::open(path).unwrap();
            set.memory().verify().unwrap();
            let ram = set.memory().map(GPA).unwrap();
            assert!(all(&ram) == *bytes, "set {n}");
            let (again, to) = (self.dir.path().join(".again"), self.dir.path().join("copy"));
            set_of(&again, &ram, &to).unwrap();
            assert!(all(&SetReader::open(&to).unwrap().memory().map(GPA).unwrap()) == *bytes, "copy of {n}");
            fs::remove_dir_all(&to).unwrap();
        }
    }
}

#[test]
fn a_set_has_only_what_was_written_since_the_one_below() {
    let mut line = Line::new();
    line.take(|ram| ram.load(GPA + 5 * 4096, &[1; 4096]).unwrap());
    line.ram.load(GPA + 900 * 4096, &[2; 3 * 4096]).unwrap();
    line.ram.load(GPA + 4096, &[0; 4096]).unwrap();
    let second = line.take(|_| {});
    assert_eq!(second.below.len(), 1);
    // Builds that know of one layer only refuse it by that word.
    assert_eq!(SetReader::manifest_of(&line.taken[1].0).unwrap().features, ["layers"]);
    let layer = Layer::open(&line.taken[1].0.join(MEMORY)).unwrap();
    let data: u64 = layer.runs().iter().filter(|r| matches!(r.kind, RunKind::Data(_))).map(|r| r.pages).sum();
    assert_eq!(data, 4, "{:?}", layer.runs());
    assert!(fs::metadata(line.taken[1].0.join(MEMORY)).unwrap().len() < 64 << 10);
    // Nothing at all, then everything back to zeroes, then most of it: which is a whole set again.
    let third = line.take(|_| {});
    assert_eq!(third.below.len(), 2);
    line.ram.clear();
    line.take(|_| {});
    line.ram.load(GPA, &vec![3; LEN as usize]).unwrap();
    let whole = line.take(|_| {});
    assert!(whole.below.is_empty() && !line.taken[4].0.join("memory.1").exists());
    line.check();
    // Each has what it needs: the others may go.
    fs::remove_dir_all(&line.taken[0].0).unwrap();
    fs::remove_dir_all(&line.taken[1].0).unwrap();
    line.taken.drain(..2);
    line.check();
    let second = line.dir.path().join("second");
    let manifest = SetReader::manifest_of(&line.taken[0].0).unwrap();
    link_set(&line.taken[0].0, &manifest, &second).unwrap();
    fs::remove_dir_all(&line.taken[0].0).unwrap();
    assert!(all(&SetReader::open(&second).unwrap().memory().map(GPA).unwrap()) == line.taken[0].2);
}

#[test]
fn a_set_that_fails_or_is_cancelled_takes_no_mark_with_it() {
    let mut line = Line::new();
    line.take(|_| {});
    for n in 0..3 {
        write_some(&line.ram, n);
        let new = line.dir.path().join(".new");
        let mut writer = SetWriter::create(&new).unwrap();
        writer.stand_on(&line.taken[0].0, line.taken[0].1).unwrap();
        writer.begin(&line.ram, state()).unwrap();
        write_some(&line.ram, n + 10);
        match n {
            0 => assert!(writer.finish(manifest(LEN), &new, &AtomicBool::new(true)).is_err()),
            // Its place is taken.
            1 => assert!(writer.finish(manifest(LEN), &line.taken[0].0, &AtomicBool::new(false)).is_err()),
            _ => drop(writer),
        }
        assert!(!new.exists());
    }
    line.take(|_| {});
    line.check();
}

#[test]
fn a_machine_that_goes_on_from_an_unkept_set_stands_on_what_that_stood_on() {
    let mut line = Line::new();
    line.take(|_| {});
    write_some(&line.ram, 1);
    line.take(|_| {});
    let (unkept, _, bytes) = line.taken.pop().unwrap();
    let set = SetReader::open(&unkept).unwrap();
    let ram = set.memory().map(GPA).unwrap();
    set.memory().mark_uppermost(&ram);
    assert!(all(&ram) == bytes);
    fs::remove_dir_all(&unkept).unwrap();
    ram.load(GPA + 9 * 4096, &[5; 4096]).unwrap();
    line.ram = ram;
    line.taken[0].1 = strata_memory::FIRST_EPOCH;
    assert_eq!(line.take(|_| {}).below.len(), 1);
    line.check();
}

#[test]
fn a_missing_strange_or_damaged_layer_below_is_named() {
    let mut line = Line::new();
    line.take(|_| {});
    line.ram.load(GPA, &[8]).unwrap();
    line.take(|_| {});
    line.ram.load(GPA, &[9]).unwrap();
    line.take(|_| {});
    let top = &line.taken[2].0;
    let named = |e: SnapshotError, word: &str| {
        let e = e.to_string();
        assert!(e.contains("memory.1") && e.contains(word) && !e.contains('\n'), "{e}");
    };
    let below = top.join("memory.1");
    // Another layer under its name.
    fs::rename(&below, top.join("kept")).unwrap();
    named(SetReader::open(top).unwrap_err(), "No such file");
    fs::hard_link(top.join("memory.2"), &below).unwrap();
    named(SetReader::open(top).unwrap_err(), "not the one that the manifest names");
    fs::remove_file(&below).unwrap();
    fs::rename(top.join("kept"), &below).unwrap();
    SetReader::open(top).unwrap();
    // A chain that the layers themselves do not bear out.
    let open = |name: &str| Layer::open(&top.join(name)).unwrap();
    for (layers, word) in [
        (vec!["memory", "memory.2"], "another"),
        (vec!["memory.1"], "missing"),
        (vec!["memory.2", "memory.2"], "stands on no layer"),
    ] {
        let e = LayerChain::new(layers.into_iter().map(open).collect()).unwrap_err().to_string();
        assert!(e.contains(word), "{e}");
    }
    let mut bytes = fs::read(&below).unwrap();
    bytes[4096] ^= 1;
    fs::write(&below, &bytes).unwrap();
    named(SetReader::open(top).unwrap_err(), "written to");
    named(open("memory.1").verify().unwrap_err(), "between 0 and 1");
}

#[test]
fn there_are_only_so_many_layers() {
    let mut line = Line::new();
    for n in 0..MAX_LAYERS {
        line.ram.load(GPA + n as u64 * 4096, &[n as u8]).unwrap();
        assert_eq!(line.take(|_| {}).below.len(), n);
    }
    let mut writer = SetWriter::create(&line.dir.path().join(".new")).unwrap();
    let (below, since, _) = line.taken.last().unwrap();
    assert!(writer.stand_on(below, *since).unwrap_err().to_string().contains("as many layers"));
    // It can be written all the same.
    writer.begin(&line.ram, state()).unwrap();
    let whole =
        writer.finish(manifest(LEN), &line.dir.path().join("whole"), &AtomicBool::new(false)).unwrap();
    assert!(whole.below.is_empty());
    line.check();
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(8))]
    /// Whatever is written between the moments and meanwhile: each set is its moment.
    #[test]
    fn a_chain_is_what_a_whole_copy_of_the_moment_would_be(
        rounds in proptest::collection::vec(
            proptest::collection::vec((0u64..1020, 0usize..9000, proptest::prelude::any::<u8>()), 0..12), 1..6)
    ) {
        let mut line = Line::new();
        for writes in &rounds {
            let (before, after) = writes.split_at(writes.len() / 2);
            let write = |ram: &GuestRam, part: &[(u64, usize, u8)]| for (page, len, byte) in part {
                ram.load(GPA + page * 4096 + 100, &vec![*byte & 3; *len]).unwrap();
            };
            write(&line.ram, before);
            line.take(|ram| write(ram, after));
        }
        line.check();
    }
}

/// Merges layers of set `n`, in every set that has them.
fn merge(line: &Line, n: usize, which: Range<usize>) {
    let set = SetReader::open(&line.taken[n].0).unwrap();
    let refs = |m: &Manifest| m.layers().cloned().collect::<Vec<_>>();
    let old = refs(set.manifest())[which.clone()].to_vec();
    let file = line.dir.path().join("merged");
    set.memory().merge(which, &file, new_id().unwrap()).unwrap();
    for (path, ..) in &line.taken {
        let all = refs(&SetReader::manifest_of(path).unwrap());
        if let Some(at) = all.windows(old.len()).position(|w| w == old) {
            rewrite_set(path, &Rewrite { merged: Some((at..at + old.len(), &file)), ..Rewrite::default() })
                .unwrap();
        }
    }
    fs::remove_file(file).unwrap();
    assert!(
        !fs::read_dir(line.dir.path()).unwrap().any(|e| e
            .unwrap()
            .file_name()
            .to_string_lossy()
            .starts_with(".swap"))
    );
}

fn write_some(ram: &GuestRam, n: u64) {
    ram.load(GPA + (n * 7 + 3) * 4096, &[n as u8 + 1; 3 * 4096]).unwrap();
    ram.load(GPA + 700 * 4096, &[n as u8 & 1; 4096]).unwrap();
    ram.load(GPA + (n + 100) * 4096, &[0xcc; 4096]).unwrap();
}

#[test]
fn merged_layers_are_what_they_were_and_can_be_stood_on() {
    let mut line = Line::new();
    for n in 0..5 {
        write_some(&line.ram, n);
        line.take(|_| {});
    }
    let layers = |line: &Line, n: usize| SetReader::open(&line.taken[n].0).unwrap().memory().layers().len();
    // Those in the middle of the last one's; two of which are others' own.
    merge(&line, 4, 1..3);
    assert_eq!((layers(&line, 4), layers(&line, 3), layers(&line, 2)), (4, 3, 3));
    line.check();
    // A merged one with its neighbour, down to the lowest: one flat layer is below.
    merge(&line, 4, 1..4);
    assert_eq!((layers(&line, 4), layers(&line, 3)), (2, 1));
    line.check();
    for n in 5..8 {
        write_some(&line.ram, n);
        assert_eq!(line.take(|_| {}).below.len(), n as usize - 3);
    }
    merge(&line, 6, 0..2);
    line.check();
    // All of one.
    merge(&line, 7, 0..4);
    assert_eq!(layers(&line, 7), 1);
    line.check();
}

#[test]
fn a_rewritten_set_differs_where_it_was_asked_to_and_a_failure_changes_nothing() {
    let mut line = Line::new();
    line.take(|_| {});
    write_some(&line.ram, 1);
    line.take(|_| {});
    let path = line.taken[1].0.clone();
    let before = SetReader::manifest_of(&path).unwrap();
    rewrite_set(&path, &Rewrite { parent: Some(Some("cd".into())), ..Rewrite::default() }).unwrap();
    let now = SetReader::manifest_of(&path).unwrap();
    assert_eq!(now.parent.as_deref(), Some("cd"));
    assert_eq!((now.id, now.memory, now.below), (before.id, before.memory, before.below));
    // A layer that is no layer, one of another name, and more layers than there are.
    let nothing = line.dir.path().join("nothing");
    fs::write(&nothing, b"x").unwrap();
    let lowest = path.join("memory.1");
    for (which, file) in [(0..1, &nothing), (0..1, &lowest), (1..3, &lowest), (1..1, &lowest)] {
        let rewrite = Rewrite { merged: Some((which.clone(), file)), ..Rewrite::default() };
        assert!(rewrite_set(&path, &rewrite).is_err(), "{which:?} {}", file.display());
        line.check();
    }
    // Damage is found before it would be merged into a sound layer.
    let top = path.join(MEMORY);
    let mut bytes = fs::read(&top).unwrap();
    bytes[4096] ^= 1;
    fs::write(&top, bytes).unwrap();
    let chain = LayerChain::new([top, lowest].iter().map(|p| Layer::open(p).unwrap()).collect()).unwrap();
    let file = line.dir.path().join("merged");
    assert!(chain.merge(0..2, &file, [1; 16]).unwrap_err().to_string().contains("damaged"));
    assert!(!file.exists());
}

/// Layers that builds have written open for ever, and are what they were. `STRATA_BLESS=1` writes those of this one where
/// they are missing.
#[test]
fn golden_layers_are_read_for_ever() {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens");
    const PAGES: u64 = 8;
    let content = |n: usize| -> Vec<u8> {
        let page = |p: u64| match (n, p) {
            (3, 2) => 0xc2,
            (1.., 2) => 0xa2,
            (1.., 5) => 0,
            (2.., 3) => 0xb3,
            (_, 7) => 0,
            _ => p as u8 + 1,
        };
        (0..PAGES).flat_map(|p| [page(p); 4096]).collect()
    };
    let at = |name: &str| goldens.join(name);
    if std::env::var_os("STRATA_BLESS").is_some() && !at("1-merged").exists() {
        let dir = tempfile::tempdir().unwrap();
        let ram = GuestRam::single(GPA, PAGES * 4096).unwrap();
        let mut below: Option<(PathBuf, u32)> = None;
        for (n, name) in ["1-flat", "1-above", "1-above2", "1-top"].iter().enumerate() {
            for (p, page) in content(n).chunks(4096).enumerate() {
                let mut now = [0; 4096];
                ram.peek(GPA + p as u64 * 4096, &mut now).unwrap();
                if now != page {
                    ram.load(GPA + p as u64 * 4096, page).unwrap();
                }
            }
            let mut writer = SetWriter::create(&dir.path().join(".new")).unwrap();
            if let Some((dir, since)) = &below {
                writer.stand_on(dir, *since).unwrap();
            }
            let (to, epoch) = (dir.path().join(name), writer.begin(&ram, state()).unwrap());
            writer.finish(manifest(PAGES * 4096), &to, &AtomicBool::new(false)).unwrap();
            fs::create_dir_all(&goldens).unwrap();
            fs::copy(to.join(MEMORY), at(name)).unwrap();
            below = Some((to, epoch));
        }
        let chain = ["1-above2", "1-above", "1-flat"].map(|n| Layer::open(&at(n)).unwrap());
        LayerChain::new(chain.into()).unwrap().merge(0..2, &at("1-merged"), new_id().unwrap()).unwrap();
    }
    for (names, n) in [
        (&["1-flat"][..], 0),
        (&["1-above", "1-flat"], 1),
        (&["1-above2", "1-above", "1-flat"], 2),
        (&["1-top", "1-above2", "1-above", "1-flat"], 3),
        (&["1-merged", "1-flat"], 2),
        (&["1-top", "1-merged", "1-flat"], 3),
    ] {
        let layers = names.iter().map(|n| Layer::open(&at(n)).unwrap()).collect();
        let chain = LayerChain::new(layers).unwrap();
        chain.verify().unwrap();
        let mut bytes = vec![0; (PAGES * 4096) as usize];
        chain.map(GPA).unwrap().peek(GPA, &mut bytes).unwrap();
        assert!(bytes == content(n), "{names:?}");
    }
}
