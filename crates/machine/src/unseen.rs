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

    /// Whether the host logs such writes: it does from the first collection on.
    fn is_logged(&self) -> bool;

    /// Has the host log no more of them, which costs vCPUs a fault for each page. The next collection begins anew, with all
    /// that was ever written.
    ///
    /// # Errors
    /// What the host refused.
    fn stop_log(&self) -> Result<(), String>;
}
