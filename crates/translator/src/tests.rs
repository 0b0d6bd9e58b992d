//! The translator against the interpreter: the same programs, the same counts, the same state.

mod differential;
mod edges;
mod fixture;
mod floats;
mod lockstep;
mod program;
mod spaces;
