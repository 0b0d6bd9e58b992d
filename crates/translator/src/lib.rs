//! Translates RISC-V code to x86-64 while it runs.
//!
//! ```text
//!   translator.rs   the tier: what runs, what is trusted; translator/paths.rs: what is translated
//!    ├─ trace.rs        paths, written down while the interpreter runs them
//!    ├─ warm.rs         paths that were hot in another run, found again
//!    ├─ emit/           from a path to host code: the one text of meaning, run on host registers
//!    ├─ cache.rs        units: found, linked, doubted, dropped; sites.rs, what helpers know of their instructions
//!    ├─ trampolines.rs  the way in, the way out, calls of helpers.rs; crossings.rs, changes of mode
//!    └─ code_memory.rs  memory that is written through one mapping and executed through another
//! ```
//! The hart's loop stays in charge (`strata_riscv::tier`): traps, interrupts, mail and time are its own. Whatever has no
//! code here runs in the interpreter, and any instruction without a rule calls the interpreter's instance in place.
//!
//! Exactness: registers, memory, program counter and the count of retired instructions are the interpreter's wherever
//! anyone can look: at traps, interrupts, limits, and whenever `run` returns.
//!
//! What small paths become stands in `golden/*.txt`, RISC-V above x86. A test holds emission to it, and
//! `STRATA_BLESS=1 cargo test -p strata-translator golden` renews it.
//!
//! Deliberately not here: decoding and meaning (`strata-isa`), translation of addresses (`strata-riscv`), and any host
//! other than x86-64, where [`tier`] refuses.

mod cache;
mod code_memory;
mod crossings;
mod emit;
mod features;
pub mod figures;
mod floats;
mod helpers;
mod index;
mod layout;
mod list;
mod patience;
mod registers;
mod shards;
mod sites;
mod trace;
mod trampolines;
mod translator;
mod unit;
mod warm;

use strata_riscv::tier::Tier;

/// What of a translator can be chosen. No guest can tell: tests use it to reach in seconds what else takes hours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Executions in the interpreter before an address counts as hot. With 0 nothing waits: whatever can be translated
    /// is before it runs for the first time, block by block.
    pub hot: u8,
    /// Instructions from the first one on for which an address has to be met eight times as often. A guest that has just
    /// begun or arrived is waited for; nearly all of its code is met for the first time, and interpreting a path some
    /// dozen times takes less than translating it.
    pub awaited: u64,
    /// Host code kept, in bytes; rounded up to whole pages and to what two units may need.
    pub code_size: usize,
}

impl Default for Options {
    /// What [`tier`] takes.
    fn default() -> Options {
        // A Debian boot makes a few MiB of code. Only what is used is ever touched.
        Options { hot: 16, awaited: 1 << 20, code_size: 32 << 20 }
    }
}

/// Why there can be no translator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranslatorError {
    /// The host gives no memory that can be executed.
    #[error(
        "the host gave no {size} bytes of memory for translated code ({source}); allow executable memfds \
         (sysctl vm.memfd_noexec=0), or use --tier interpreter"
    )]
    NoCodeMemory {
        /// Bytes asked for.
        size: usize,
        /// The system's answer.
        source: rustix::io::Errno,
    },
    /// The host's processor lacks what translated code needs.
    #[error("the translator needs an x86-64 processor with BMI2; use --tier interpreter")]
    Processor,
}

/// A translator for one hart, to be given to `strata_riscv::Hart::with_tier`.
///
/// # Errors
/// [`TranslatorError`] where the host does not allow one.
pub fn tier() -> Result<Box<dyn Tier>, TranslatorError> {
    tier_with(Options::default())
}

/// [`tier`], but as `options` say.
///
/// # Errors
/// [`TranslatorError`] where the host does not allow one.
pub fn tier_with(options: Options) -> Result<Box<dyn Tier>, TranslatorError> {
    Ok(Box::new(translator::Translator::new(options)?))
}

#[cfg(test)]
mod tests;
