//! The translator against the interpreter: the same programs, the same counts, the same state. What host code comes out,
//! `golden.rs` compares with the listings in `golden/`, which are for reading and blessed again by one command.

mod cuts;
mod differential;
mod edges;
mod fixture;
mod floats;
mod golden;
mod listing;
mod lockstep;
mod modes;
mod program;
mod spaces;
mod warm;
