//! The bus: guest physical accesses that are not plain RAM.

/// Nothing answers at that address, or not in that width. The vCPU takes an access fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusFault;

/// Where a vCPU's accesses outside RAM go. Called from every vCPU thread at once.
pub trait Bus: Send + Sync {
    /// Reads `size` (1, 2, 4 or 8) bytes at `gpa`, zero-extended.
    fn read(&self, gpa: u64, size: u8) -> Result<u64, BusFault>;
    /// Writes the low `size` bytes of `value`.
    fn write(&self, gpa: u64, size: u8, value: u64) -> Result<(), BusFault>;
}

/// A bus with nothing on it.
pub struct NoBus;

impl Bus for NoBus {
    fn read(&self, _gpa: u64, _size: u8) -> Result<u64, BusFault> {
        Err(BusFault)
    }
    fn write(&self, _gpa: u64, _size: u8, _value: u64) -> Result<(), BusFault> {
        Err(BusFault)
    }
}
