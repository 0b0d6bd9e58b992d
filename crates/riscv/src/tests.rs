//! Programs from memory: what the parts do together.

pub(crate) mod fixture;
mod harts;
mod memory;
mod paging;
mod random;
mod saving;
mod tier;
mod time;
mod traps;
mod watching;
