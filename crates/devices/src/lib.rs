//! The devices a guest sees. Each is a pure state machine over registers, an interrupt wire and checked descriptor
//! chains; it owns no thread and no host resource. Its host side is a backend, served by a [`Worker`].

mod mmio;
mod worker;

pub use mmio::{Mmio, Shared, SystemEvent, SystemSink};
pub use worker::Worker;
