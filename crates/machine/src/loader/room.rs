//! What of RAM has been given to whom.

use super::LoadError;
use strata_memory::GuestRam;

/// RAM and what has been placed in it so far.
pub(super) struct Room<'a> {
    ram: &'a GuestRam,
    /// The region that things are placed in by their distance from its start.
    pub base: u64,
    /// Its end.
    pub end: u64,
    taken: Vec<(u64, u64, String)>,
}

impl<'a> Room<'a> {
    /// Of RAM that holds nothing; `base` to `end` is its main region.
    pub fn new(ram: &'a GuestRam, base: u64, end: u64) -> Room<'a> {
        Room { ram, base, end, taken: Vec::new() }
    }

    /// There is no place for `name`.
    pub fn no_room(&self, name: &str, why: String) -> LoadError {
        let ram = self.ram.regions().iter().map(|r| r.size()).sum::<u64>() >> 20;
        LoadError::NoRoom { name: name.to_owned(), ram, why }
    }

    /// Claims `[at, at + len)` for `name`.
    ///
    /// # Errors
    /// It is not RAM, or somebody else's.
    pub fn claim(&mut self, name: &str, at: u64, len: u64) -> Result<(), LoadError> {
        if !self.ram.contains(at, len) {
            return Err(self.no_room(name, format!("it wants {len:#x} bytes from address {at:#x} on")));
        }
        let end = at + len;
        if let Some((a, b, who)) = self.taken.iter().find(|(a, b, _)| at < *b && *a < end) {
            return Err(self.no_room(name, format!("it overlaps {who} at {a:#x} to {b:#x}")));
        }
        self.taken.push((at, end, name.to_owned()));
        Ok(())
    }

    /// Puts `bytes` at `at`, and claims `memory` bytes from there on, or as many as there are.
    ///
    /// # Errors
    /// As [`Room::claim`].
    pub fn put(&mut self, name: &str, at: u64, bytes: &[u8], memory: u64) -> Result<(), LoadError> {
        self.claim(name, at, memory.max(bytes.len() as u64))?;
        self.ram.load(at, bytes).map_err(|e| self.no_room(name, e.to_string()))
    }

    /// The end of what has been placed highest.
    pub fn top(&self) -> u64 {
        self.taken.iter().map(|t| t.1).max().unwrap_or(self.base)
    }
}
