//! A running machine changes hosts: who owns it, what travels, and how.
//!
//! ```text
//!  core      both sides as pure functions; the rules by which at most one copy runs    core/mod.rs
//!  journal   what a side has decided, durable before it acts on it                     journal.rs
//!  wire      frames, greeting, pages                                                   wire/mod.rs
//!  link      connections: TLS 1.3 with both sides authenticated, by a token            link.rs, token.rs
//!  rounds    when to go on copying, and when to stop the machine                       rounds.rs
//!  streams   memory on its way                                                         streams.rs
//!  packing   whether pages go compressed                                           packing.rs
//!  late      post-copy: memory that follows the machine                                late.rs
//!  digest    memory compared without sending it again                                  digest.rs
//! ```
//! Invariants: nothing here starts, stops or reads a machine but through memory that it is given; every byte from the
//! other side is checked before it is believed; a decision is durable before anybody hears of it.
//!
//! Deliberately not here: instances, disks, the machine's process. Those are `strata_vmm`'s.
#![forbid(unsafe_code)]

pub mod core;
pub mod digest;
#[doc(hidden)]
pub mod fuzz;
pub mod journal;
pub mod late;
pub mod link;
pub mod packing;
pub mod rounds;
pub mod streams;
pub mod token;
pub mod wire;

pub use crate::core::{
    Action, Destination, DestinationPhase, Epoch, Event, Message, Record, Source, SourcePhase,
};
