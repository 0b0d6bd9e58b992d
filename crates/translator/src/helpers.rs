//! What translated code calls: the interpreter's instance of an instruction, and the slow paths of loads and stores.
//!
//! These are the only functions that make a `&mut Core` from the address that translated code carries. Invariant: it is
//! the core that [`crate::translator::Translator`] entered the code with; that call's own borrow is not used while the
//! code runs, so each helper's is the only one. A site's address is that of a unit that is alive as long as its code is.

use crate::layout::Word;
use crate::unit::{Leave, Site};
use strata_isa::Effect;
use strata_isa::ops::Width;
use strata_isa::sem::execute;
use strata_riscv::tier::{Core, Exit};

/// A value, and 0 or the way out: in rax and rdx.
#[repr(C)]
pub(crate) struct Pair {
    value: u64,
    out: u64,
}

/// `Exit` as a number, in the tier's words.
pub(crate) fn exit_code(exit: Exit) -> u64 {
    match exit {
        Exit::Trap => 0,
        Exit::Illegal => 1,
        Exit::Wait => 2,
        Exit::Call => 3,
        Exit::Alone => 4,
    }
}

/// And back.
pub(crate) fn exit_of(code: u64) -> Exit {
    match code {
        0 => Exit::Trap,
        1 => Exit::Illegal,
        2 => Exit::Wait,
        3 => Exit::Call,
        _ => Exit::Alone,
    }
}

/// Notes why the instruction at `site` stopped, and gives the way out.
#[cold]
fn stop(core: &mut Core, site: &Site, exit: Exit) -> u64 {
    core.pc = site.pc;
    core.tier[Word::Refund as usize] = site.refund.into();
    core.tier[Word::Exit as usize] = exit_code(exit);
    core.tier[Word::Raw as usize] = site.insn.raw.into();
    Leave::Stopped.with(0).into()
}

/// Address of [`interpret_site`].
pub(crate) fn interpret() -> u64 {
    interpret_site as *const () as u64
}

/// Executes the instruction at `site`. The map has been stored; where 0 comes back, the unit goes on behind it.
extern "sysv64" fn interpret_site(core: *mut Core, site: *const Site) -> u64 {
    // SAFETY: the module's invariant.
    let (core, site) = unsafe { (&mut *core, &*site) };
    let left = core.tier[Word::Fuel as usize].wrapping_add(core.tier[Word::Reserve as usize]);
    // The unit was charged whole; this instruction and those before it count, as in an interpreter's block.
    let after = u64::from(site.refund) - 1;
    core.retired = core.tier[Word::End as usize].wrapping_sub(left).wrapping_sub(after);
    core.pc = site.pc;
    core.next = site.pc.wrapping_add(site.insn.len.into());
    let before = Meaning::of(core);
    crate::floats::fold_flags(core);
    if let Err(exit) = execute(core, &site.insn) {
        core.x[0] = 0;
        return stop(core, site, exit);
    }
    core.x[0] = 0;
    let effect = site.insn.op.effect();
    let goes_on = match effect {
        Effect::System | Effect::FenceVma => false,
        Effect::Csr => before == Meaning::of(core) && !core.poll_is_due(),
        _ => true,
    };
    if goes_on {
        return 0;
    }
    core.pc = core.next;
    core.tier[Word::Refund as usize] = after;
    Leave::Find.with(0).into()
}

/// What a CSR instruction may change that translated code relies on.
#[derive(PartialEq, Eq)]
struct Meaning {
    selected: u64,
    privilege: u8,
    generation: u64,
    floats: u64,
    satp: u64,
}

impl Meaning {
    fn of(core: &Core) -> Meaning {
        Meaning {
            selected: core.mmu.data.selected as u64,
            privilege: core.privilege as u8,
            generation: core.code_generation,
            floats: crate::floats::mode(core),
            satp: core.csr.satp,
        }
    }
}

macro_rules! accesses {
    ($($w:ident $load:ident $store:ident;)*) => {
        $(
            extern "sysv64" fn $load(core: *mut Core, va: u64, _: u64, site: *const Site) -> Pair {
                // SAFETY: the module's invariant.
                let (core, site) = unsafe { (&mut *core, &*site) };
                match core.load_slow(va, Width::$w) {
                    Ok(value) => Pair { value, out: 0 },
                    Err(exit) => Pair { value: 0, out: stop(core, site, exit) },
                }
            }
            extern "sysv64" fn $store(core: *mut Core, va: u64, v: u64, site: *const Site) -> Pair {
                // SAFETY: the module's invariant.
                let (core, site) = unsafe { (&mut *core, &*site) };
                match core.store_slow(va, v, Width::$w) {
                    Ok(()) => Pair { value: 0, out: 0 },
                    Err(exit) => Pair { value: 0, out: stop(core, site, exit) },
                }
            }
        )*
        /// Address of the slow path of a load.
        pub(crate) fn load(w: Width) -> u64 {
            match w {
                $(Width::$w => $load as *const () as u64,)*
            }
        }
        /// Address of the slow path of a store.
        pub(crate) fn store(w: Width) -> u64 {
            match w {
                $(Width::$w => $store as *const () as u64,)*
            }
        }
    };
}

accesses! {
    I8 load_i8 store_i8;
    U8 load_u8 store_u8;
    I16 load_i16 store_i16;
    U16 load_u16 store_u16;
    I32 load_i32 store_i32;
    U32 load_u32 store_u32;
    I64 load_i64 store_i64;
}
