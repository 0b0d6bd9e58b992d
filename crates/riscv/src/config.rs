//! What kind of hart to make, and how firmware tables describe it.

use strata_isa::Extensions;

/// Frequency of the `time` CSR and of both timers' compare values: 10 MHz, as on QEMU's `virt`.
pub const TIMEBASE_HZ: u64 = 10_000_000;

/// Nanoseconds of the machine's clock in one tick of `time`.
pub(crate) const NS_PER_TICK: u64 = 1_000_000_000 / TIMEBASE_HZ;

/// Bytes of a cache block, for Zicbom and Zicboz alike.
pub const CACHE_BLOCK: u64 = 64;

/// The largest translation mode, as the device tree's `mmu-type` names it.
pub const MMU_TYPE: &str = "riscv,sv57";

/// What kind of hart to make.
#[derive(Clone, Debug)]
pub struct HartConfig {
    /// Number of the hart (`mhartid`).
    pub hart_id: u64,
    /// The machine itself is the firmware: M mode never runs, every trap goes to S, `ecall` from S stops `run`.
    pub machine_is_firmware: bool,
    /// Instruction-set extensions that the decoder knows. The device tree's strings always name the whole set.
    pub extensions: Extensions,
}

impl HartConfig {
    /// Hart `hart_id` of a machine that brings its own firmware.
    pub fn new(hart_id: u64) -> HartConfig {
        HartConfig { hart_id, machine_is_firmware: false, extensions: Extensions::ALL }
    }

    /// Hart `hart_id` of a machine that is the firmware.
    pub fn with_machine_as_firmware(hart_id: u64) -> HartConfig {
        HartConfig { machine_is_firmware: true, ..HartConfig::new(hart_id) }
    }
}

const SINGLE: &str = "imafdc";
/// In the canonical order of the naming chapter: Zi*, Zb*, then S*.
const MULTI: [&str; 16] = [
    "zicbom",
    "zicboz",
    "zicntr",
    "zicond",
    "zicsr",
    "zifencei",
    "zihintpause",
    "zihpm",
    "zba",
    "zbb",
    "zbs",
    "sstc",
    "svadu",
    "svinval",
    "svnapot",
    "svpbmt",
];

/// The device tree's `riscv,isa`.
pub fn isa_string(_config: &HartConfig) -> String {
    format!("rv64{SINGLE}_{}", MULTI.join("_"))
}

/// The device tree's `riscv,isa-extensions`; `riscv,isa-base` is `rv64i`.
pub fn isa_extensions_list() -> Vec<String> {
    SINGLE.chars().map(String::from).chain(MULTI.iter().map(|&m| m.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strings_name_the_same_set() {
        let s = isa_string(&HartConfig::new(0));
        assert_eq!(
            s,
            "rv64imafdc_zicbom_zicboz_zicntr_zicond_zicsr_zifencei_zihintpause_zihpm_zba_zbb_zbs_sstc_svadu_svinval_\
             svnapot_svpbmt"
        );
        assert_eq!(isa_extensions_list().len(), 22);
    }
}
