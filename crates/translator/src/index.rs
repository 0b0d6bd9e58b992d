//! Where a unit is found by its address: asked at every step of code that is not translated yet, and mostly in vain.
//!
//! One table, open-addressed. A slot is the unit's number and 32 bits of a hash of its key, whose upper bits say where the slot
//! wants to be; so an answer, even "there is none", costs one cache line mostly, and the table grows without looking at any
//! unit. A table for all the code that fits takes a millisecond to grow.

use strata_engine::table::populate;

/// A slot that nothing was put into: lookups end here.
const EMPTY: u64 = 0;
/// A slot whose unit was taken out: lookups go on.
const GONE: u64 = u32::MAX as u64;
/// Slots at first.
const LEAST: u32 = 1 << 12;

/// See the module.
pub(crate) struct Index {
    /// Hash in the upper half, number plus 1 in the lower. A power of two of them, at most half of them not empty.
    slots: Box<[u64]>,
    /// Those that are not empty.
    used: usize,
}

/// What a unit is found by: its address, its context, and the number of the page that it begins on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub pc: u64,
    pub context: u8,
    pub id: u32,
}

impl Key {
    fn hash(self) -> u32 {
        const FACTORS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f];
        let place = u64::from(self.id) << 2 | u64::from(self.context);
        let h = (self.pc >> 1).wrapping_mul(FACTORS[0]) ^ place.wrapping_mul(FACTORS[1]);
        ((h ^ h >> 32).wrapping_mul(FACTORS[0]) >> 32) as u32
    }
}

impl Index {
    /// Empty.
    pub fn new() -> Index {
        Index { slots: vec![EMPTY; LEAST as usize].into(), used: 0 }
    }

    /// Takes all out, and keeps the room.
    pub fn clear(&mut self) {
        self.slots.fill(EMPTY);
        self.used = 0;
    }

    /// The slots at which something with this hash may be, in order, up to the first empty one, which comes last.
    fn slots_of(&self, hash: u32) -> impl Iterator<Item = usize> {
        let mask = self.slots.len() - 1;
        let first = (hash >> (32 - self.slots.len().trailing_zeros())) as usize;
        (first..).map(move |n| n & mask)
    }

    /// The first unit under `key` that is the one looked for, and where it is.
    fn look(&self, key: Key, mut is: impl FnMut(u32) -> bool) -> Option<(usize, u32)> {
        let hash = key.hash();
        for at in self.slots_of(hash) {
            let slot = self.slots[at];
            if slot == EMPTY {
                return None;
            }
            // Truncation is meant: the halves of the slot.
            let (of, number) = ((slot >> 32) as u32, (slot as u32).wrapping_sub(1));
            if of == hash && slot != GONE && is(number) {
                return Some((at, number));
            }
        }
        None
    }

    /// The unit under `key`, where `is` tells whether a unit of the same hash is the one.
    pub fn find(&self, key: Key, is: impl FnMut(u32) -> bool) -> Option<u32> {
        self.look(key, is).map(|(_, number)| number)
    }

    /// Puts `unit` under `key`.
    pub fn add(&mut self, key: Key, unit: u32) {
        if 2 * (self.used + 1) > self.slots.len() {
            let old = std::mem::take(&mut self.slots);
            let live = |s: &u64| *s != EMPTY && *s != GONE;
            // If most have gone, there is room enough.
            let room = (4 * old.iter().filter(|s| live(s)).count()).next_power_of_two().max(LEAST as usize);
            self.slots = vec![EMPTY; room].into();
            populate(&mut self.slots, EMPTY);
            self.used = 0;
            old.iter().filter(|s| live(s)).for_each(|s| self.put(*s));
        }
        self.put(u64::from(key.hash()) << 32 | u64::from(unit + 1));
    }

    fn put(&mut self, slot: u64) {
        let free = |at: &usize| matches!(self.slots[*at], EMPTY | GONE);
        let at = self.slots_of((slot >> 32) as u32).find(free);
        if let Some(at) = at {
            // A guest that makes code all the time has the same address come and go.
            self.used += usize::from(self.slots[at] == EMPTY);
            self.slots[at] = slot;
        }
    }

    /// Takes `unit` out from under `key`.
    pub fn remove(&mut self, key: Key, unit: u32) {
        if let Some((at, _)) = self.look(key, |n| n == unit) {
            self.slots[at] = GONE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn key((pc, context, id): (u64, u8, u32)) -> Key {
        Key { pc, context, id }
    }

    proptest! {
        #[test]
        fn it_finds_what_a_map_finds(
            steps in prop::collection::vec((0..200_u64, 0..4_u8, 1..4_u32, any::<bool>()), 1..400),
            many in 0..20_000_u32,
        ) {
            let (mut index, mut map) = (Index::new(), HashMap::new());
            // Others, so that it grows and the same hash is met.
            (0..many).for_each(|n| index.add(key((u64::from(n) << 20, 1, 9)), 1_000_000 + n));
            let mut keys = HashMap::new();
            for (n, (pc, context, id, add)) in (0_u32..).zip(steps) {
                let k = (pc * 2, context, id);
                let is = |keys: &HashMap<u32, _>, n| keys.get(&n) == Some(&k);
                prop_assert_eq!(index.find(key(k), |n| is(&keys, n)), map.get(&k).copied());
                if let Some(old) = map.remove(&k) {
                    index.remove(key(k), old);
                    prop_assert_eq!(index.find(key(k), |n| is(&keys, n)), None);
                }
                if add {
                    index.add(key(k), n);
                    keys.insert(n, k);
                    map.insert(k, n);
                }
            }
            (0..many).for_each(|n| {
                let found = index.find(key((u64::from(n) << 20, 1, 9)), |f| f == 1_000_000 + n);
                assert_eq!(found, Some(1_000_000 + n));
            });
            index.clear();
            prop_assert!(map.iter().all(|(k, n)| index.find(key(*k), |f| f == *n).is_none()));
        }
    }

    #[test]
    fn units_that_come_and_go_take_no_more_room() {
        let mut index = Index::new();
        for n in 0..100_000 {
            index.add(key((u64::from(n % 7), 0, n)), n);
            index.remove(key((u64::from(n % 7), 0, n)), n);
        }
        assert_eq!(index.slots.len(), LEAST as usize);
        // One that comes back finds its place: nobody has to look past where it was.
        let before = index.used;
        for n in 0..10_000 {
            index.add(key((8, 0, 1)), n);
            index.remove(key((8, 0, 1)), n);
        }
        assert!(index.used <= before + 1);
    }
}
