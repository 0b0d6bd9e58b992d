//! Which entries of a direct-mapped set may be present, and which of these are the same in every address space: so that
//! forgetting costs as much as there is to forget.

/// A bit an entry; `WORDS` times 64 entries.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Marks<const WORDS: usize> {
    present: [u64; WORDS],
    global: [u64; WORDS],
}

impl<const WORDS: usize> Marks<WORDS> {
    pub const EMPTY: Self = Marks { present: [0; WORDS], global: [0; WORDS] };

    /// Entry `i` has been filled.
    pub fn set(&mut self, i: usize, global: bool) {
        let (word, bit) = (i / 64 % WORDS, 1 << (i % 64));
        self.present[word] |= bit;
        if global {
            self.global[word] |= bit;
        } else {
            self.global[word] &= !bit;
        }
    }

    /// Whether entry `i` may be present and was filled as one of every address space.
    pub fn is_global(&self, i: usize) -> bool {
        self.present[i / 64 % WORDS] & self.global[i / 64 % WORDS] & 1 << (i % 64) != 0
    }

    /// Calls `f` for every entry that may be present.
    pub fn each(&self, f: impl FnMut(usize)) {
        bits(self.present, f);
    }

    /// [`Marks::each`], and none is any longer.
    pub fn take_all(&mut self, f: impl FnMut(usize)) {
        bits(std::mem::replace(&mut self.present, [0; WORDS]), f);
    }

    /// [`Marks::take_all`], but for the global ones.
    pub fn take_local(&mut self, f: impl FnMut(usize)) {
        let local = std::array::from_fn(|w| self.present[w] & !self.global[w]);
        (0..WORDS).for_each(|w| self.present[w] &= self.global[w]);
        bits::<WORDS>(local, f);
    }
}

fn bits<const WORDS: usize>(words: [u64; WORDS], mut f: impl FnMut(usize)) {
    for (w, mut word) in words.into_iter().enumerate() {
        while word != 0 {
            f(w * 64 + word.trailing_zeros() as usize);
            word &= word - 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_marked_comes_back_once() {
        let mut m = Marks::<2>::EMPTY;
        for (i, global) in [(0, false), (63, true), (64, true), (127, false), (64, false)] {
            m.set(i, global);
        }
        let mut seen = Vec::new();
        m.each(|i| seen.push(i));
        m.take_local(|i| seen.push(1000 + i));
        m.take_local(|i| seen.push(2000 + i));
        m.take_all(|i| seen.push(3000 + i));
        m.take_all(|i| seen.push(4000 + i));
        assert_eq!(seen, [0, 63, 64, 127, 1000, 1064, 1127, 3063]);
    }
}
