//! The seam to a second tier: whoever executes a hart's code faster than block by block in the interpreter.
//!
//! The hart's loop (`interp/run.rs`) stays in charge. Between two calls of the tier it looks at attention, timers and
//! interrupts; what an instruction does that did not complete, it decides too. So a tier never takes a trap and never
//! serves mail, and code that it has none for runs in the interpreter as if there were no tier:
//!
//! ```text
//!   poll ──► Tier::run ──► Yield: poll again
//!              │  │ Stopped: take the trap, poll again
//!              │ Cold
//!              ▼
//!        interpret one block ──► Tier::interpreted (which counts, and translates what is hot) ──► poll again
//! ```
//!
//! What the tier owes: `core.x[0]` is zero, and `core.pc` and `core.retired` are exact, whenever a call of it returns;
//! it runs no further than `core.poll_at` and `core.limit` allow and looks at the attention word often enough. What
//! it may rely on: the core's address never changes, and nobody else touches it during a call.
//!
//! Code that was hot in another run is a hint ([`Tier::warm`]): it may be translated before it is hot in this one.
//!
//! Re-exported here is what such a tier reads and calls. Fields that emitted code reaches lie at fixed offsets
//! (`offset_of!`): [`Core`], [`Mmu`], [`DataTlb`], [`DataEntry`] and [`FetchTlb`] are `repr(C)`.

pub use crate::core::{Core, Reservation};
pub use crate::csr::{Csrs, status};
pub use crate::host::HostPage;
pub use crate::mmu::{
    DATA_ENTRIES, DataContext, DataEntry, DataRight, DataTlb, FETCH_ENTRIES, FetchPage, FetchTlb, Mmu, PAGE,
    WINDOWS, Windows,
};
pub use crate::trap::{Cause, Exit, Privilege};

use std::sync::Arc;
use strata_engine::hot::{HotPaths, Portion};

/// How a call of [`Tier::run`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ran {
    /// There is no code for what lies at `core.pc`: the loop interprets one block.
    Cold,
    /// Progress was made, or the next poll is due.
    Yield,
    /// The instruction at `core.pc` did not complete.
    Stopped {
        /// Why.
        exit: Exit,
        /// Its bits, for an illegal instruction's trap value.
        raw: u32,
    },
}

/// Executes a hart's code, where it has it. See the module.
pub trait Tier: Send {
    /// Executes from `core.pc` on.
    fn run(&mut self, core: &mut Core) -> Ran;
    /// The interpreter has completed a whole block of `insns` instructions, `bytes` long, that began at virtual address
    /// `pc`. `core.pc` is where it goes on.
    fn interpreted(&mut self, core: &mut Core, pc: u64, insns: usize, bytes: u64);
    /// Registers or RAM were replaced: drop everything derived.
    fn forget(&mut self);
    /// A portion of what it has found hot, for [`Tier::warm`] in another run.
    fn hot_paths_from(&self, _from: usize) -> Portion {
        Portion::default()
    }
    /// Takes a list of what was hot in another run. It outlives [`Tier::forget`].
    fn warm(&mut self, _paths: &Arc<HotPaths>) {}
}

impl Core {
    /// The page of RAM at guest physical address `pa`, for comparing code with it; nothing is marked.
    pub fn ram_page(&self, pa: u64) -> Option<HostPage> {
        match crate::host::place(&self.ram, pa, strata_memory::Access::Read) {
            crate::host::Place::Ram(page) | crate::host::Place::Trapped(page) => Some(page),
            _ => None,
        }
    }
}
