//! Every device driven through its registers, as a driver would, and as no driver would.

mod absent;
mod blk;
mod chain;
mod console;
mod driver;
mod net;
mod pci;
mod race;
mod rng;
mod state;
mod transport;
