//! The console as SBI's debug console calls reach it: the same text stream as the UART's.

/// Where debug console calls go.
pub trait DebugConsole: Send + Sync {
    /// Writes what there is room for; gives how many bytes.
    fn write(&self, bytes: &[u8]) -> usize;
    /// Writes one byte, even where there is no room.
    fn push(&self, byte: u8);
    /// Up to `limit` bytes of input that has come.
    fn read(&self, limit: usize) -> Vec<u8>;
}
