//! A list that may grow long while a guest waits: it grows a chunk at a time and never moves what it holds, so that no
//! addition takes longer than another. It is emptied at once, and keeps its memory for the next time.

use std::ops::{Index, IndexMut};

/// Places of a chunk.
const CHUNK: usize = 4096;

/// See the module.
#[derive(Debug)]
pub(crate) struct List<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
}

impl<T: Copy> List<T> {
    /// Empty.
    pub fn new() -> List<T> {
        List { chunks: Vec::new(), len: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds one, whose number is the length before.
    pub fn push(&mut self, one: T) {
        let n = self.len / CHUNK;
        if n == self.chunks.len() {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        self.chunks[n].push(one);
        self.len += 1;
    }

    /// Number `n`.
    pub fn get(&self, n: usize) -> Option<&T> {
        self.chunks.get(n / CHUNK)?.get(n % CHUNK)
    }

    /// Number `n`, to be changed.
    pub fn get_mut(&mut self, n: usize) -> Option<&mut T> {
        self.chunks.get_mut(n / CHUNK)?.get_mut(n % CHUNK)
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.chunks.iter_mut().for_each(Vec::clear);
        self.len = 0;
    }
}

impl<T> Index<usize> for List<T> {
    type Output = T;

    fn index(&self, n: usize) -> &T {
        &self.chunks[n / CHUNK][n % CHUNK]
    }
}

impl<T> IndexMut<usize> for List<T> {
    fn index_mut(&mut self, n: usize) -> &mut T {
        &mut self.chunks[n / CHUNK][n % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_it_stays_in_place_until_all_goes() {
        let mut list = List::new();
        for round in 0..2 {
            assert!(list.is_empty() && list.get(0).is_none());
            list.push(round);
            let first: *const usize = &list[0];
            (1..3 * CHUNK).for_each(|n| list.push(n + round));
            assert_eq!((list.len(), first), (3 * CHUNK, &raw const list[0]));
            assert!((0..3 * CHUNK).all(|n| list.get(n) == Some(&(n + round)) && list[n] == n + round));
            assert_eq!(list.get_mut(3 * CHUNK), None);
            list.clear();
        }
    }
}
