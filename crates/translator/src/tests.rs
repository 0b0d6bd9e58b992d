//! The translator against the interpreter: the same programs, the same counts, the same state.

mod differential;
mod fixture;
mod floats;
mod program;
