//! The hart's inside: everything that an instruction can read or change.
//!
//! The interpreter keeps decoded blocks apart from this (`interp/block.rs`), so that a block can be walked while its
//! instructions change the core. What invalidates blocks is told by two numbers here: the fetch TLB's stamp (which
//! virtual addresses still mean what) and [`Core::code_generation`] (which bytes may have changed).
//!
//! Named methods for everything that changes what an address or an interrupt means: [`Core::mode_changed`],
//! [`Core::set_status`], [`Core::set_satp`], [`Core::protection_changed`], [`Core::fence_i`], [`Core::forget`].

use crate::config::HartConfig;
use crate::csr::{Csrs, status};
use crate::mmu::{DataContext, Mmu};
use crate::trap::{Cause, Privilege, Spin};
use std::sync::Arc;
use strata_engine::{Bus, Clock, VcpuShared, Vigil};
use strata_memory::{GuestRam, Quiet};

/// What LR reserved. SC compares the value in memory with it: another hart's store of the same value is not noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Reservation {
    /// Virtual address.
    pub va: u64,
    /// Guest physical address.
    pub pa: u64,
    /// What LR loaded, zero-extended.
    pub value: u64,
    /// 4 or 8; 0 where nothing is reserved, and the rest means nothing then.
    pub bytes: u8,
}

impl Reservation {
    /// Nothing is reserved.
    pub const NONE: Reservation = Reservation { va: 0, pa: 0, value: 0, bytes: 0 };
}

/// All that an instruction can read or change. Its address never changes ([`crate::Hart`] keeps it in a box).
#[repr(C)]
pub struct Core {
    /// Integer registers, then, at 32, a slot for writes to x0 (the block builder renames them). x0 itself may be
    /// written by a CSR instruction and is cleared after every block. As long as a `u8` can count, so that no index
    /// needs a check; the rest is never touched.
    pub x: [u64; 256],
    /// Floating-point registers, raw.
    pub f: [u64; 32],
    /// Address of the running block; between blocks, of the next instruction.
    pub pc: u64,
    /// Where to go after the running block.
    pub next: u64,
    /// Instructions retired since power-on; the running block is counted whole.
    pub retired: u64,
    /// When `retired` reaches this, the loop looks at timers and interrupts.
    pub poll_at: u64,
    /// `run` returns when exactly so many have retired; `u64::MAX` for never.
    pub limit: u64,
    /// Grows when bytes fetched earlier may have changed.
    pub code_generation: u64,
    /// The second tier's own words; nobody else touches them.
    pub tier: [u64; 16],
    /// Control and status registers.
    pub csr: Csrs,
    /// The present mode.
    pub privilege: Privilege,
    /// The trap behind an [`crate::tier::Exit::Trap`].
    pub raised: (Cause, u64),
    /// What LR reserved.
    pub reservation: Reservation,
    /// Translations remembered.
    pub mmu: Mmu,
    /// Instructions between two looks at the clock.
    pub(crate) quantum: u64,
    /// When to read the clock again, in retired instructions.
    pub(crate) clock_at: u64,
    /// The timers' bits of `mip` when the clock was last read.
    pub timers: u64,
    /// The running block is a single instruction.
    pub(crate) alone: bool,
    /// The next block is to be.
    pub(crate) next_alone: bool,
    /// In WFI.
    pub(crate) waiting: bool,
    /// How long it has been worth while to stay awake there.
    pub(crate) vigil: Vigil,
    pub(crate) spin: Spin,
    /// Times that `pause` was executed, for whoever else needs this processor.
    pub(crate) pauses: u32,
    /// What the hart was made as.
    pub config: HartConfig,
    /// RAM.
    pub ram: GuestRam,
    /// Tells those who watch pages that rights to write were dropped.
    pub(crate) quiet: Quiet,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) clock: Arc<dyn Clock>,
    /// What others share of this hart.
    pub shared: Arc<VcpuShared>,
}

impl Core {
    /// A hart after power-on.
    pub(crate) fn new(
        config: HartConfig,
        ram: GuestRam,
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
    ) -> Box<Core> {
        let mut core = Box::new(Core {
            x: [0; 256],
            f: [0; 32],
            pc: 0,
            next: 0,
            retired: 0,
            poll_at: 0,
            limit: u64::MAX,
            alone: false,
            next_alone: false,
            code_generation: 1,
            tier: [0; 16],
            csr: Csrs::reset(&config),
            privilege: Privilege::Machine,
            raised: (Cause::Illegal, 0),
            reservation: Reservation::NONE,
            mmu: Mmu::new(),
            quantum: crate::interp::QUANTUM,
            clock_at: 0,
            timers: 0,
            waiting: false,
            vigil: Vigil::default(),
            spin: Spin::default(),
            pauses: 0,
            config,
            quiet: ram.register_hart(),
            ram,
            bus,
            clock,
            shared: Arc::new(VcpuShared::default()),
        });
        core.mode_changed();
        core
    }

    /// Makes the loop look at interrupts before the next block.
    pub fn poll_soon(&mut self) {
        self.poll_at = 0;
        self.clock_at = 0;
    }

    /// Makes the loop look at interrupts before the next block, with the timers as they were last seen: for changes
    /// that enable interrupts but move no deadline.
    pub fn check_interrupts(&mut self) {
        self.poll_at = 0;
    }

    /// The mode in which loads and stores happen.
    pub fn data_privilege(&self) -> Privilege {
        let m = self.csr.mstatus;
        if m & status::MPRV != 0 && self.privilege == Privilege::Machine {
            Privilege::from_bits(m >> status::MPP_SHIFT & 3).unwrap_or(Privilege::User)
        } else {
            self.privilege
        }
    }

    /// Selects the TLBs that belong to the privilege and the bits of `mstatus`. Call after a change of either.
    pub fn mode_changed(&mut self) {
        let m = self.csr.mstatus;
        let data = match self.data_privilege() {
            Privilege::Machine => DataContext::Bare,
            _ if m & status::MXR != 0 => DataContext::Odd,
            Privilege::User => DataContext::User,
            Privilege::Supervisor if m & status::SUM != 0 => DataContext::SupervisorSum,
            Privilege::Supervisor => DataContext::Supervisor,
        };
        self.mmu.data.select(data);
        self.mmu.fetch.select(self.privilege);
    }

    /// Sets `mstatus` to a legal value.
    pub fn set_status(&mut self, new: u64) {
        let old = std::mem::replace(&mut self.csr.mstatus, new);
        if (old ^ new) & (status::MPRV | status::MPP | status::SUM | status::MXR) != 0 {
            self.mode_changed();
        }
        if new & !old & (status::SIE | status::MIE) != 0 {
            self.check_interrupts();
        }
    }

    /// Writes `satp`: an unknown mode leaves it as it is.
    pub fn set_satp(&mut self, new: u64) {
        if crate::mmu::known_mode(new) && new != self.csr.satp {
            let old = std::mem::replace(&mut self.csr.satp, new);
            if old >> 60 == new >> 60 {
                self.mmu.change_space();
            } else {
                // Even a global page is global to one mode only.
                self.mmu.flush_all();
            }
        }
    }

    /// PMP, or a rule of translation in `menvcfg`, has changed.
    pub fn protection_changed(&mut self) {
        self.mmu.flush_all();
    }

    /// Bytes fetched from now on are those that memory holds now.
    pub fn fence_i(&mut self) {
        // Stores of others that this hart has seen are seen by its fetches too. x86 does so without being told.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        self.code_generation += 1;
        self.mmu.fetch.new_stamps();
    }

    /// The hart begins to run, or wakes: rights to write that it kept are looked at again.
    pub(crate) fn awake(&mut self) {
        self.quiet.enter(|| self.mmu.data.drop_writes());
    }

    /// The hart is between two instructions, and gives up rights to write to pages that others have watched.
    pub(crate) fn quiesce(&mut self) {
        self.quiet.refresh(|| self.mmu.data.drop_writes());
    }

    /// Watches the guest physical page that holds `pa` for writes, this hart's included, and gives the ticket that
    /// [`GuestRam::watch_confirmed`] asks for: see [`GuestRam::watch_code`]. For between two instructions.
    pub fn watch_code(&mut self, pa: u64) -> u64 {
        let before = self.quiet.epoch();
        let ticket = self.ram.watch_code(pa);
        if ticket != before {
            self.mmu.data.drop_writes_to(pa);
            self.quiet.watched(ticket, || self.mmu.data.drop_writes());
        }
        ticket
    }

    /// Drops everything derived: translations and knowledge of code. Call after registers or RAM were replaced.
    pub(crate) fn forget(&mut self) {
        self.mmu.flush_all();
        self.fence_i();
        self.mode_changed();
        self.spin = Spin::default();
        self.poll_soon();
    }
}
