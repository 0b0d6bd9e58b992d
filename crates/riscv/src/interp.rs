//! The interpreter: decoded blocks (`block.rs`), the loop over them (`run.rs`), and what the operations of the one text
//! of meaning do on values (`ops.rs`).

mod block;
mod ops;
mod run;

pub(crate) use block::BlockCache;
pub(crate) use run::{QUANTUM, TIER_QUANTUM, run, serve_mail, wakes_at};
