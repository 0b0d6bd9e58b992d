//! What a guest has seen of its processor, and so finds again wherever it goes on: known before it is sent anywhere.

use crate::cpuid::Leaves;
use crate::state::VcpuState;
use crate::{Host, KvmError};
use kvm_ioctls::Cap;

/// A counter's rate may differ by this part of it, 250 millionths, which guests take for drift.
const TOLERANCE: u32 = 4000;

/// Flags and the counter's rate, of each vCPU of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Flags that are set, by name.
    pub flags: Vec<String>,
    /// Rate of the time-stamp counter, in kHz; 0 if that is not known.
    pub counter_khz: u32,
}

impl Seen {
    /// By a vCPU that was saved as `state`.
    pub fn by(state: &VcpuState) -> Seen {
        let flags = Leaves::from_rows(&state.cpuid).flags();
        Seen { flags: flags.into_iter().map(str::to_owned).collect(), counter_khz: state.tsc_khz }
    }
}

/// Paging on; 32-bit page tables of three levels; 64-bit mode.
const CR0_PAGING: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LMA: u64 = 1 << 10;

/// Where the kernel reads guest memory when a vCPU is loaded as `state`: the table of page directory pointers, which a
/// processor keeps in registers (Intel SDM vol. 3, 4.4.1). Whoever loads it has that page there before.
pub fn read_at_load(state: &VcpuState) -> Option<u64> {
    let s = &state.system;
    let pae = s.cr0 & CR0_PAGING != 0 && s.cr4 & CR4_PAE != 0 && s.efer & EFER_LMA == 0;
    pae.then_some(s.cr3 & 0xffff_ffe0)
}

impl Host {
    /// Whether a machine of `vcpus` can go on here whose guest has seen that elsewhere.
    ///
    /// # Errors
    /// What the host lacks, by name.
    pub fn can_show(&self, seen: &Seen, vcpus: u32) -> Result<(), KvmError> {
        let most = self.max_vcpus();
        if vcpus as usize > most {
            return Err(KvmError::Vcpus { asked: vcpus, most });
        }
        let names: Vec<&str> = seen.flags.iter().map(String::as_str).collect();
        check_flags(&names, self)?;
        let (guest, host) = (seen.counter_khz, self.counter_khz()?);
        if is_another_rate(guest, host) && !self.kvm.check_extension(Cap::TscControl) {
            return Err(KvmError::Rate { guest, host });
        }
        Ok(())
    }

    /// The rate of a new vCPU's time-stamp counter, in kHz; 0 where the kernel does not say.
    fn counter_khz(&self) -> Result<u32, KvmError> {
        let vm = self.kvm.create_vm().map_err(KvmError::at("KVM_CREATE_VM"))?;
        let vcpu = vm.create_vcpu(0).map_err(KvmError::at("KVM_CREATE_VCPU"))?;
        Ok(vcpu.get_tsc_khz().unwrap_or(0))
    }
}

/// Refuses flags that the host cannot give.
pub(crate) fn check_flags(names: &[&str], host: &Host) -> Result<(), KvmError> {
    let beyond = Leaves::beyond(names, host);
    if beyond.is_empty() {
        return Ok(());
    }
    Err(KvmError::Seen { flags: beyond.into_iter().map(str::to_owned).collect() })
}

/// Whether a guest's counter would have to be made to run faster or slower than the host's does by itself. Where one of
/// them is not known, it is taken as it is.
pub(crate) fn is_another_rate(guest: u32, host: u32) -> bool {
    guest != 0 && guest.abs_diff(host) > host / TOLERANCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_may_drift_and_no_more() {
        for (guest, host, other) in [
            (2_000_000, 2_000_000, false),
            (2_000_400, 2_000_000, false),
            (2_000_600, 2_000_000, true),
            (1_900_000, 2_000_000, true),
            (0, 2_000_000, false),
            (2_000_000, 0, true),
        ] {
            assert_eq!(is_another_rate(guest, host), other, "{guest} at {host}");
        }
    }

    #[test]
    fn what_a_host_lacks_is_named() {
        let host = match Host::open() {
            Ok(host) => host,
            Err(e) => return println!("skipped here: {e}"),
        };
        let seen = |flags: &[&str], counter_khz| Seen {
            flags: flags.iter().map(|f| (*f).to_owned()).collect(),
            counter_khz,
        };
        host.can_show(&seen(&["fpu", "sse2", "hypervisor", "tsc_deadline_timer"], 0), 1).unwrap();
        let e = host.can_show(&seen(&["fpu", "warp_drive"], 0), 1).unwrap_err().to_string();
        assert!(e.contains("lacks warp_drive") && !e.contains("fpu"), "{e}");
        let e = host.can_show(&seen(&[], 0), 1 << 20).unwrap_err().to_string();
        assert!(e.contains("vCPUs"), "{e}");
        let own = host.counter_khz().unwrap();
        host.can_show(&seen(&[], own), 1).unwrap();
        if own != 0 && !host.kvm.check_extension(Cap::TscControl) {
            let e = host.can_show(&seen(&[], own + own / 8), 1).unwrap_err().to_string();
            assert!(e.contains("time-stamp") && e.contains(&own.to_string()), "{e}");
        }
    }
}
