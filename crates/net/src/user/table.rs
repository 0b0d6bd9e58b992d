//! A bounded table of flows: found by key for the guest's frames, by id for the host's events.
//!
//! Invariants: at most `limit` entries; an id names one entry for ever (slots carry a generation), so that an event
//! that was already waiting when its flow ended finds nothing. Walking goes in slot order, never in hash order:
//! what the guest sees does not depend on the process's hash seed.

use std::collections::HashMap;
use std::hash::Hash;

/// Names an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id {
    slot: u32,
    generation: u32,
}

/// Bits of a generation in [`Id::bits`].
const GENERATION_BITS: u32 = 24;

impl Id {
    /// The id as 56 bits, for an event's token.
    pub fn bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    /// The id of the low 56 bits of a token.
    pub fn from_bits(bits: u64) -> Id {
        Id { slot: bits as u32, generation: (bits >> 32) as u32 & ((1 << GENERATION_BITS) - 1) }
    }
}

struct Slot<K, V> {
    generation: u32,
    entry: Option<(K, V)>,
}

/// The table.
pub struct Table<K, V> {
    slots: Vec<Slot<K, V>>,
    free: Vec<u32>,
    index: HashMap<K, Id>,
    limit: usize,
}

impl<K: Hash + Eq + Clone, V> Table<K, V> {
    pub fn new(limit: usize) -> Table<K, V> {
        Table { slots: Vec::new(), free: Vec::new(), index: HashMap::new(), limit }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    pub fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    pub fn find(&self, key: &K) -> Option<Id> {
        self.index.get(key).copied()
    }

    pub fn get(&self, id: Id) -> Option<(&K, &V)> {
        let slot = self.slots.get(id.slot as usize).filter(|s| s.generation == id.generation)?;
        slot.entry.as_ref().map(|(k, v)| (k, v))
    }

    pub fn get_mut(&mut self, id: Id) -> Option<(&K, &mut V)> {
        let slot = self.slots.get_mut(id.slot as usize).filter(|s| s.generation == id.generation)?;
        slot.entry.as_mut().map(|(k, v)| (&*k, v))
    }

    /// Adds an entry; `None` where the table is full or the key is taken.
    pub fn insert(&mut self, key: K, value: V) -> Option<Id> {
        if self.is_full() || self.index.contains_key(&key) {
            return None;
        }
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, entry: None });
            self.slots.len() as u32 - 1
        });
        let slot = self.slots.get_mut(at as usize)?;
        let id = Id { slot: at, generation: slot.generation };
        slot.entry = Some((key.clone(), value));
        self.index.insert(key, id);
        Some(id)
    }

    pub fn remove(&mut self, id: Id) -> Option<(K, V)> {
        let slot = self.slots.get_mut(id.slot as usize).filter(|s| s.generation == id.generation)?;
        let (key, value) = slot.entry.take()?;
        slot.generation = (slot.generation + 1) & ((1 << GENERATION_BITS) - 1);
        self.free.push(id.slot);
        self.index.remove(&key);
        Some((key, value))
    }

    pub fn iter(&self) -> impl Iterator<Item = (Id, &K, &V)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| {
            let (key, value) = slot.entry.as_ref()?;
            Some((Id { slot: i as u32, generation: slot.generation }, key, value))
        })
    }

    /// Removes and drops every entry for which `gone` holds.
    pub fn sweep(&mut self, mut gone: impl FnMut(&K, &V) -> bool) {
        let ids: Vec<Id> = self.iter().filter(|(_, k, v)| gone(k, v)).map(|(id, ..)| id).collect();
        for id in ids {
            self.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_id_finds_nothing_after_its_slot_is_used_again() {
        let mut t = Table::new(1);
        let a = t.insert("a", 1).unwrap();
        assert!(t.insert("b", 2).is_none() && t.is_full());
        assert_eq!(t.remove(a), Some(("a", 1)));
        let b = t.insert("b", 2).unwrap();
        assert_ne!(a, b);
        assert!(t.get(a).is_none() && t.remove(a).is_none());
        assert_eq!(t.get(Id::from_bits(b.bits())), Some((&"b", &2)));
        assert_eq!(t.find(&"b"), Some(b));
        t.sweep(|_, v| *v == 2);
        assert!(t.len() == 0 && t.find(&"b").is_none());
    }
}
