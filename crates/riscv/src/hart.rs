//! The hart as a machine drives it.

use crate::config::HartConfig;
use crate::core::Core;
use crate::csr::{Csrs, status};
use crate::interp::{BlockCache, TIER_QUANTUM, run, serve_mail, wakes_at};
use crate::state::{self, HartState};
use crate::tier::Tier;
use crate::trap::Privilege;
use std::fmt::Write;
use std::sync::Arc;
use strata_engine::hot::{HotPaths, Portion};
use strata_engine::{Bus, Clock, Counted, Entry, FirmwareCalls, Stop, Vcpu, VcpuShared};
use strata_memory::GuestRam;
use strata_state::{StateError, Stateful};

/// One RISC-V hart: interpreted, or with a second tier that executes what is hot.
pub struct Hart {
    /// In a box, because a tier keeps its address.
    core: Box<Core>,
    cache: BlockCache,
    tier: Option<Box<dyn Tier>>,
}

impl Hart {
    /// A hart after power-on. It reaches RAM through `ram`, everything else through `bus`.
    pub fn new(config: HartConfig, ram: GuestRam, bus: Arc<dyn Bus>, clock: Arc<dyn Clock>) -> Hart {
        Hart::with_tier(config, ram, bus, clock, None)
    }

    /// [`Hart::new`], with a second tier.
    pub fn with_tier(
        config: HartConfig,
        ram: GuestRam,
        bus: Arc<dyn Bus>,
        clock: Arc<dyn Clock>,
        tier: Option<Box<dyn Tier>>,
    ) -> Hart {
        let mut hart =
            Hart { core: Core::new(config, ram, bus, clock), cache: BlockCache::new(tier.is_some()), tier };
        if hart.tier.is_some() {
            hart.core.quantum = TIER_QUANTUM;
        }
        hart.core.set_registers(hart.reset_state());
        hart
    }

    /// What it was made as.
    pub fn config(&self) -> &HartConfig {
        &self.core.config
    }

    #[cfg(test)]
    pub(crate) fn core(&mut self) -> &mut Core {
        &mut self.core
    }
}

impl Stateful for Hart {
    type State = HartState;

    fn state(&self) -> HartState {
        self.core.to_state()
    }
    fn reset_state(&self) -> HartState {
        let config = &self.core.config;
        let first = if config.machine_is_firmware { Privilege::Supervisor } else { Privilege::Machine };
        HartState { privilege: first as u8, ..HartState::with_csrs(&Csrs::reset(config)) }
    }
    fn check(&self, s: &HartState) -> Result<(), StateError> {
        state::check(s)
    }
    fn set_state(&mut self, s: HartState) {
        self.core.set_registers(s);
    }
    fn settle(&mut self) {
        self.core.forget();
        if let Some(tier) = &mut self.tier {
            tier.forget();
        }
    }
}

impl Vcpu for Hart {
    fn run(&mut self) -> Stop {
        run(&mut self.core, &mut self.cache, self.tier.as_deref_mut())
    }
    fn shared(&self) -> &Arc<VcpuShared> {
        &self.core.shared
    }
    fn serve_mail(&mut self) {
        serve_mail(&mut self.core);
    }
    fn boot(&mut self, entry: Entry) {
        let mut s = self.reset_state();
        s.pc = entry.pc & !1;
        s.x[10..13].copy_from_slice(&entry.args);
        s.privilege = match entry.privilege {
            strata_engine::Privilege::Firmware => Privilege::Machine as u8,
            strata_engine::Privilege::Kernel => Privilege::Supervisor as u8,
        };
        self.set_state(s);
        self.settle();
    }
    fn retired(&self) -> u64 {
        self.core.retired
    }
    fn counted(&mut self) -> Option<&mut dyn Counted> {
        Some(self)
    }
    fn firmware_calls(&mut self) -> Option<&mut dyn FirmwareCalls> {
        Some(self)
    }
    fn describe_registers(&self) -> String {
        self.core.describe()
    }
    fn hot_paths_from(&self, from: usize) -> Portion {
        self.tier.as_ref().map_or(Portion::default(), |tier| tier.hot_paths_from(from))
    }
    fn warm(&mut self, paths: &Arc<HotPaths>) {
        // It is going to run, and somebody may be waiting for it then.
        self.cache.prepare();
        if let Some(tier) = &mut self.tier {
            tier.warm(paths);
        }
    }
}

impl Counted for Hart {
    fn run_for(&mut self, insns: u64) -> Stop {
        // Traps do not count.
        self.core.limit = self.core.retired.saturating_add(insns);
        let stop = self.run();
        self.core.limit = u64::MAX;
        stop
    }
    fn wakes_at(&self) -> u64 {
        wakes_at(&self.core)
    }
}

impl FirmwareCalls for Hart {
    fn finish_call(&mut self, error: u64, value: u64) {
        (self.core.x[10], self.core.x[11]) = (error, value);
    }
    fn set_guest_timer(&mut self, at: u64) {
        self.core.csr.stimecmp = at;
        self.core.poll_soon();
    }
}

impl Core {
    /// Registers for a person to read.
    pub(crate) fn describe(&self) -> String {
        let c = &self.csr;
        let mut out = format!("pc {:016x}  mode {:?}  retired {}\n", self.pc, self.privilege, self.retired);
        for (n, (name, v)) in strata_isa::X_NAMES.iter().zip(self.x).enumerate() {
            let end = if n % 4 == 3 { '\n' } else { ' ' };
            let _ = write!(out, "{name:>4} {v:016x}{end}");
        }
        let rows = [
            [("mstatus", status::read(c.mstatus)), ("mie", c.mie), ("mip", c.mip), ("mideleg", c.mideleg)],
            [("mtvec", c.mtvec), ("mepc", c.mepc), ("mcause", c.mcause), ("mtval", c.mtval)],
            [("stvec", c.stvec), ("sepc", c.sepc), ("scause", c.scause), ("stval", c.stval)],
            [("satp", c.satp), ("medeleg", c.medeleg), ("menvcfg", c.menvcfg), ("stimecmp", c.stimecmp)],
        ];
        for row in rows {
            let cells: Vec<String> = row.iter().map(|(name, v)| format!("{name:>8} {v:016x}")).collect();
            let _ = writeln!(out, "{}", cells.join(" "));
        }
        out
    }
}
