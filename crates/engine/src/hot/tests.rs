use super::*;
use crate::SeededEntropy;
use crate::fuzz::{fuzz_hot_paths, mutate};
use proptest::prelude::*;

/// The valid list of the corpus, made by a program of its own from the page that documents the format.
const THREE: &[u8] = include_bytes!("../../corpus/hot-paths/three");
const CORPUS: [&[u8]; 4] = [
    THREE,
    include_bytes!("../../corpus/hot-paths/empty"),
    include_bytes!("../../corpus/hot-paths/newer"),
    include_bytes!("../../corpus/hot-paths/turns-past-the-path"),
];

fn turns() -> impl Strategy<Value = Vec<Turn>> {
    let turn = prop_oneof![Just(Turn::On), Just(Turn::Taken), any::<u64>().prop_map(Turn::To)];
    prop::collection::vec(turn, 0..20)
}

fn path() -> impl Strategy<Value = HotPath> {
    // Few places, so that some are the same and many are near.
    (0..4u8, 0..9u64, 0..3u64, 20..=150u8, any::<u64>(), any::<u32>(), turns()).prop_map(
        |(mode, pc, head, len, hash, count, turns)| {
            HotPath { count, ..HotPath::new(mode, pc * 0x802, head, len, hash % 3) }.with_turns(turns)
        },
    )
}

/// As after a change that keeps the checksum right.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.len().saturating_sub(CHECKSUM);
    bytes.truncate(end);
    let sum = hash(bytes.iter().copied());
    bytes.extend(sum.to_le_bytes());
    bytes
}

#[test]
fn the_format_is_as_its_page_says() {
    let list = HotPaths::from_bytes(THREE).unwrap();
    let mut paths: Vec<_> = list.iter().cloned().collect();
    paths.sort_by_key(|p| p.pc);
    let bare = HotPath::new(3, 0x8000_0000, 0x1122_3344_5566_7788, 1, hash([0x13, 0, 0, 0]));
    let way = [Turn::Taken, Turn::To(4096), Turn::On];
    assert_eq!(paths[0], bare);
    assert_eq!(paths[1], HotPath { count: 7, ..HotPath::new(0, 0x8000_0ffe, 5, 90, 6) }.with_turns(way));
    assert_eq!(paths[2].turns().collect::<Vec<_>>(), [Turn::To(u64::MAX)]);
    assert_eq!(list.to_bytes(), THREE);
}

#[test]
fn what_is_no_list_is_refused_and_says_why() {
    let why = |bytes: &[u8]| HotPaths::from_bytes(bytes).unwrap_err();
    assert_eq!(why(b""), HotPathsError::Foreign);
    assert_eq!(why(b"hotpathsriscv32\0"), HotPathsError::Foreign);
    assert_eq!(why(CORPUS[2]), HotPathsError::Version(2));
    assert_eq!(why(CORPUS[3]), HotPathsError::Damaged("a path is impossible"));
    let longer = resealed([THREE, b"and more"].concat());
    assert_eq!(why(&longer), HotPathsError::Damaged("something follows the last path"));
    let mut many = THREE.to_vec();
    many[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(why(&resealed(many)), HotPathsError::Damaged("it is larger than any"));
    assert_eq!(why(&[THREE, &vec![0; MAX_BYTES]].concat()), HotPathsError::Damaged("it is larger than any"));
    assert_eq!(HotPaths::from_bytes(CORPUS[1]).unwrap(), HotPaths::default());
}

#[test]
fn a_list_is_bounded_and_keeps_the_hottest() {
    let many =
        (0..MAX_PATHS as u64 + 500).map(|n| HotPath { count: n as u32, ..HotPath::new(1, n * 2, n, 3, n) });
    let list = HotPaths::of(many);
    assert_eq!(list.len(), MAX_PATHS);
    assert_eq!(list.iter().map(|p| p.count).min(), Some(500));
    let winding =
        (0..20_000u64).map(|n| HotPath::new(1, n * 2, n, 150, n).with_turns((0..100).map(Turn::To)));
    let list = HotPaths::of(winding);
    let bytes = list.to_bytes();
    assert!(bytes.len() <= MAX_BYTES && bytes.len() > MAX_BYTES - 2000, "{}", bytes.len());
    assert_eq!(HotPaths::from_bytes(&bytes), Ok(list));
}

#[test]
fn what_is_not_met_again_is_forgotten() {
    let mut list = HotPaths::of([HotPath { count: 5, ..HotPath::new(0, 2, 3, 4, 5) }]);
    for left in [2, 1] {
        list = HotPaths::of(list.aged());
        assert_eq!(list.iter().map(|p| p.count).collect::<Vec<_>>(), [left]);
    }
    assert!(HotPaths::of(list.aged()).is_empty());
}

#[test]
fn corpus_and_its_mutants() {
    let mut random = SeededEntropy(11);
    for seed in CORPUS {
        fuzz_hot_paths(seed);
        for _ in 0..3000 {
            let mut bytes = seed.to_vec();
            mutate(&mut bytes, &mut random);
            fuzz_hot_paths(&bytes);
            // Behind the checksum, too.
            fuzz_hot_paths(&resealed(bytes));
        }
    }
}

proptest! {
    #[test]
    fn a_list_comes_back(paths in prop::collection::vec(path(), 0..60)) {
        let list = HotPaths::of(paths.clone());
        prop_assert_eq!(HotPaths::from_bytes(&list.to_bytes()), Ok(list.clone()));
        for p in &paths {
            let found = list.at(p.mode, p.pc, p.head).any(|(n, q)| {
                identity(q) == identity(p) && list.iter().nth(n) == Some(q)
            });
            prop_assert!(found, "{:?}", p);
            let total: u64 = paths.iter().filter(|q| identity(q) == identity(p)).map(|q| u64::from(q.count)).sum();
            let kept = list.iter().find(|q| identity(q) == identity(p)).unwrap();
            prop_assert_eq!(u64::from(kept.count), total.min(u32::MAX.into()));
        }
        prop_assert!(list.at(9, 0, 0).next().is_none());
    }

    #[test]
    fn one_wrong_byte_anywhere_and_it_is_refused(
        paths in prop::collection::vec(path(), 1..8), change in 1..=255u8
    ) {
        let bytes = HotPaths::of(paths).to_bytes();
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= change;
            prop_assert!(HotPaths::from_bytes(&bad).is_err(), "byte {at}");
            prop_assert!(HotPaths::from_bytes(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
