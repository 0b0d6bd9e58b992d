//! For how long a guest is held up by work that can be done thoroughly, and could be done roughly at once.
//!
//! Doubting units one by one keeps their code; how long it takes depends on how many they are, how many links lead to
//! them, and how far all of that lies apart. When it takes too long, dropping all code takes microseconds. No guest can
//! tell which it was.

use std::time::{Duration, Instant};

/// A guest is never to be held up for longer than 5 ms; another program of the host may take its share of that.
const MOST: Duration = Duration::from_millis(3);
/// Pieces of work between two looks at the clock: of some tens of nanoseconds each, so that looking costs nothing.
const LOOK: u32 = 256;

/// What is left of it.
#[derive(Debug)]
pub(crate) struct Patience {
    start: Instant,
    until_look: u32,
    over: bool,
}

impl Patience {
    /// All of it.
    pub fn new() -> Patience {
        Patience { start: Instant::now(), until_look: LOOK, over: false }
    }

    /// Whether one more piece of work may be done.
    pub fn lasts(&mut self) -> bool {
        self.until_look -= 1;
        if self.until_look == 0 {
            self.until_look = LOOK;
            // Tests have little, so that it ends in them too.
            self.over |= cfg!(test) || self.start.elapsed() > MOST;
        }
        !self.over
    }

    /// Whether it has come to an end, and work was left undone.
    pub fn over(&self) -> bool {
        self.over
    }

    /// Time since it was whole.
    pub fn start(&self) -> Instant {
        self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_and_does_not_come_back() {
        let mut p = Patience::new();
        assert!((1..LOOK).all(|_| p.lasts()) && !p.over());
        assert!(!p.lasts() && p.over());
        assert!((0..2 * LOOK).all(|_| !p.lasts()));
    }
}
