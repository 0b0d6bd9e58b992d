//! A map that may grow large while a guest waits: it is many small ones, each of which grows by itself, so that no addition
//! takes long; and what holds little takes little memory. It is emptied at once, and keeps its memory for the next time.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

/// How many small ones. Growing one of 512 entries takes some ten microseconds.
const SHARDS: usize = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct Shards<K, V> {
    shards: Box<[HashMap<K, V, RandomState>]>,
    state: RandomState,
    len: usize,
}

impl<K: Copy + Eq + Hash, V: Copy> Shards<K, V> {
    /// Empty; nothing is touched before it is used.
    pub fn new() -> Shards<K, V> {
        let state = RandomState::new();
        let shards = (0..SHARDS).map(|_| HashMap::with_hasher(state.clone())).collect();
        Shards { shards, state, len: 0 }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The shard of `key`. By bits of its hash that the shard itself looks at neither first nor last.
    fn place(&self, key: &K) -> usize {
        (self.state.hash_one(key) >> 40) as usize & (SHARDS - 1)
    }

    /// What is kept under `key`.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.shards[self.place(key)].get(key)
    }

    /// What is kept under `key`, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let n = self.place(key);
        self.shards[n].get_mut(key)
    }

    /// What is kept under `key`; if that is nothing, `new` from now on.
    pub fn or_insert_with(&mut self, key: K, new: impl FnOnce() -> V) -> &mut V {
        let n = self.place(&key);
        let len = &mut self.len;
        self.shards[n].entry(key).or_insert_with(|| {
            *len += 1;
            new()
        })
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.shards.iter_mut().for_each(HashMap::clear);
        self.len = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_was_put_in_until_all_goes() {
        let mut map = Shards::new();
        for round in 0..2u32 {
            assert_eq!((map.len(), map.get(&7)), (0, None));
            (0..10_000u64).for_each(|k| assert_eq!(*map.or_insert_with(k, || round), round));
            (0..10_000u64).for_each(|k| assert_eq!(*map.or_insert_with(k, || 9), round));
            *map.get_mut(&7).unwrap() = 5;
            assert_eq!((map.len(), map.get(&7)), (10_000, Some(&5)));
            assert_eq!(map.get_mut(&10_000), None);
            map.clear();
        }
    }

    #[test]
    fn entries_are_spread_evenly() {
        let mut map = Shards::new();
        // As pages lie: one after the other.
        (0..1u64 << 16).for_each(|n| {
            map.or_insert_with((n << 12, n << 12, 1u8), || 0);
        });
        let most = map.shards.iter().map(HashMap::len).max().unwrap();
        assert!(most < 2 * (1 << 16) / SHARDS, "{most}");
    }
}
