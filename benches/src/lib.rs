//! What the runners share: the host, the peers on it, and the middle of many samples.

#![forbid(unsafe_code)]

pub mod host;
pub mod qemus;
pub mod stats;
