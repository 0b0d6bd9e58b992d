//! The window: the range of addresses in which functions have their memory, wherever their BARs say.
//!
//! A driver moves BARs while others are in use, so an access looks for its function among a few atomics. What reaches
//! nobody reads as ones and is lost as a write, as on any PCI bus. Where two BARs overlap, the lower device answers.

use super::Function;
use crate::Shared;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};
use strata_engine::{Bus, BusFault};

/// Told where a function's memory was and is, if it is anywhere.
type Moved = Box<dyn Fn(Option<u64>, Option<u64>) + Send + Sync>;

/// Nowhere: no BAR can be there.
const NOWHERE: u64 = u64::MAX;

/// Where a function's memory is now.
pub struct Home {
    base: AtomicU64,
    size: u64,
    window: Range<u64>,
    moved: OnceLock<Moved>,
}

impl Home {
    /// For a function with `size` bytes of memory in `window`: nowhere as yet.
    pub fn new(size: u64, window: Range<u64>) -> Arc<Home> {
        Arc::new(Home { base: AtomicU64::new(NOWHERE), size, window, moved: OnceLock::new() })
    }

    /// Has `moved` called whenever it goes somewhere else. Once, before anything runs.
    pub fn on_move(&self, moved: impl Fn(Option<u64>, Option<u64>) + Send + Sync + 'static) {
        // A second one would be a mistake of the machine's; the first stays.
        let _ = self.moved.set(Box::new(moved));
    }

    /// The function's memory begins at `base`, if it answers and that is in the window. Called with the function
    /// locked.
    pub fn set(&self, base: Option<u64>) {
        let inside = |b: &u64| *b >= self.window.start && b.saturating_add(self.size) <= self.window.end;
        let new = base.filter(inside);
        let old = self.base.swap(new.unwrap_or(NOWHERE), SeqCst);
        let old = (old != NOWHERE).then_some(old);
        if let Some(moved) = self.moved.get().filter(|_| old != new) {
            moved(old, new);
        }
    }

    /// The place in the function's memory that an access is for, if it is.
    fn offset(&self, gpa: u64, size: u8) -> Option<u64> {
        let at = gpa.checked_sub(self.base.load(SeqCst))?;
        (at.checked_add(size.into())? <= self.size).then_some(at)
    }
}

/// Every function's memory by address.
#[derive(Default)]
pub struct Window {
    functions: Vec<(Arc<Home>, Shared<dyn Function>)>,
}

impl Window {
    /// Adds a function's memory.
    pub fn add(&mut self, home: Arc<Home>, function: Shared<dyn Function>) {
        self.functions.push((home, function));
    }

    fn find(&self, gpa: u64, size: u8) -> Option<(&Shared<dyn Function>, u64)> {
        self.functions.iter().find_map(|(home, function)| Some((function, home.offset(gpa, size)?)))
    }
}

impl Bus for Window {
    fn read(&self, gpa: u64, size: u8) -> Result<u64, BusFault> {
        let Some((function, at)) = self.find(gpa, size) else {
            return Ok(if size >= 8 { u64::MAX } else { (1 << (8 * u32::from(size))) - 1 });
        };
        Ok(function.lock().unwrap_or_else(|e| e.into_inner()).read_memory(at, size))
    }

    fn write(&self, gpa: u64, size: u8, value: u64) -> Result<(), BusFault> {
        if let Some((function, at)) = self.find(gpa, size) {
            function.lock().unwrap_or_else(|e| e.into_inner()).write_memory(at, size, value);
        }
        Ok(())
    }
}
