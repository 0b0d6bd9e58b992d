//! Whole machines with tiny guest programs.

pub(crate) mod guest;
mod live;
mod parts;
mod pausing;
mod programs;
mod repeats;
mod saved;
mod warmth;
