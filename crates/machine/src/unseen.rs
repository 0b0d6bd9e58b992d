//! Writes to memory that an engine's vCPUs make without asking the map of pages first.
//!
//! The software engine asks; hardware does not. There, whoever wants to know what was written has it collected before.

/// Where such writes are known.
pub(crate) trait Unseen: Send + Sync {
    /// Marks in the map of pages what was written since the last call, or since power-on; in any phase.
    ///
    /// # Errors
    /// What the host refused.
    fn collect(&self) -> Result<(), String>;
}
