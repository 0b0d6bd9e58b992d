//! Whole machines with tiny guest programs.

pub(crate) mod guest;
mod late;
mod live;
mod parts;
mod pausing;
mod pci;
mod programs;
mod repeats;
mod saved;
mod slowed;
mod warmth;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod x86;
