//! CPUID: which processor a guest sees.
//!
//! A [`CpuModel`] is the host's own processor, a level of the x86-64 psABI, or a list of flags. A level or list gives a
//! guest the same features on every host that has them, which is what lets a machine move between unlike hosts; where
//! the host lacks one, it is refused by name. Three things are added to what is asked for: what no 64-bit kernel does
//! without, the hypervisor's own leaves, and each vCPU's number.
//!
//! A level hides every *named* flag beyond it (`flags.rs` has the names); leaves that hold sizes and names (caches,
//! brand) stay the host's. No guest gets what its saved state has no room for: virtualization of its own, and AMX.

mod flags;

pub use flags::{FLAGS, Flag, Register};

use crate::{Host, KvmError};
use flags::{BASE, NEVER, V2, V3, V4};
use kvm_bindings::{CpuId, kvm_cpuid_entry2};
use std::fmt;
use std::io;
use std::str::FromStr;

/// Which processor a guest sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum CpuModel {
    /// All that this host has.
    #[default]
    Host,
    /// A level of the x86-64 psABI: 2, 3 or 4.
    Level(u8),
    /// These flags, and what every x86-64 processor has.
    Flags(Vec<&'static Flag>),
}

impl FromStr for CpuModel {
    type Err = KvmError;

    /// `host`, `x86-64-v2` to `x86-64-v4`, or flags with commas between them as `/proc/cpuinfo` spells them.
    fn from_str(text: &str) -> Result<CpuModel, KvmError> {
        match text {
            "host" => return Ok(CpuModel::Host),
            "x86-64-v2" => return Ok(CpuModel::Level(2)),
            "x86-64-v3" => return Ok(CpuModel::Level(3)),
            "x86-64-v4" => return Ok(CpuModel::Level(4)),
            _ => {}
        }
        let find = |name: &str| {
            FLAGS.iter().find(|f| f.name == name).ok_or_else(|| KvmError::UnknownFlag {
                flag: name.into(),
                hint:
                    "processors are `host`, `x86-64-v2`, `x86-64-v3`, `x86-64-v4` or flags as /proc/cpuinfo \
                       spells them, with commas between"
                        .into(),
            })
        };
        text.split(',').map(str::trim).map(find).collect::<Result<_, _>>().map(CpuModel::Flags)
    }
}

impl fmt::Display for CpuModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CpuModel::Host => f.write_str("host"),
            CpuModel::Level(n) => write!(f, "x86-64-v{n}"),
            CpuModel::Flags(flags) => {
                f.write_str(&flags.iter().map(|f| f.name).collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl CpuModel {
    /// The levels, lowest first.
    pub const LEVELS: [CpuModel; 3] = [CpuModel::Level(2), CpuModel::Level(3), CpuModel::Level(4)];

    /// Whether a guest can have it on this host.
    ///
    /// # Errors
    /// The host lacks a flag.
    pub fn check(&self, host: &Host) -> Result<(), KvmError> {
        self.leaves(host, 0, 1).map(drop)
    }

    /// The flags that the model gives a guest; `None` for all that the host has.
    fn wanted(&self) -> Option<Vec<&'static str>> {
        let level = |n: u8| {
            let above = [(2, V2), (3, V3), (4, V4)].into_iter().filter(move |(level, _)| *level <= n);
            BASE.iter().chain(above.flat_map(|(_, names)| names)).copied().collect()
        };
        match self {
            CpuModel::Host => None,
            CpuModel::Level(n) => Some(level(*n)),
            CpuModel::Flags(flags) => {
                Some(BASE.iter().copied().chain(flags.iter().map(|f| f.name)).collect())
            }
        }
    }

    /// The CPUID leaves for vCPU `id` of `count`.
    ///
    /// # Errors
    /// The host lacks a flag.
    pub fn leaves(&self, host: &Host, id: u32, count: u32) -> Result<Leaves, KvmError> {
        let mut leaves = Leaves(host.supported().as_slice().to_vec());
        // The kernel's APIC has the deadline timer, whatever its list of supported leaves says.
        leaves.set(&flags::TSC_DEADLINE, host.kvm.check_extension(kvm_ioctls::Cap::TscDeadlineTimer));
        leaves.set(&flags::HYPERVISOR, true);
        if let Some(wanted) = self.wanted() {
            let lacks = |f: &&Flag| wanted.contains(&f.name) && (!leaves.has(f) || NEVER.contains(&f.name));
            let missing: Vec<_> = FLAGS.iter().filter(lacks).map(|f| f.name).collect();
            if !missing.is_empty() {
                return Err(KvmError::MissingFlags { model: self.to_string(), flags: missing });
            }
            FLAGS.iter().filter(|f| !wanted.contains(&f.name)).for_each(|f| leaves.set(f, false));
        }
        FLAGS.iter().filter(|f| NEVER.contains(&f.name)).for_each(|f| leaves.set(f, false));
        leaves.number(id, count);
        Ok(leaves)
    }
}

/// CPUID leaves.
#[derive(Clone, Debug)]
pub struct Leaves(Vec<kvm_cpuid_entry2>);

/// Marks a leaf that has subleaves.
const HAS_SUBLEAVES: u32 = 1;

impl Leaves {
    /// Whether `flag` is set.
    pub fn has(&self, flag: &Flag) -> bool {
        self.0.iter().any(|e| flag.is_in(e) && value(e, flag.register) & 1 << flag.bit != 0)
    }

    fn set(&mut self, flag: &Flag, on: bool) {
        for e in self.0.iter_mut().filter(|e| flag.is_in(e)) {
            let register = match flag.register {
                Register::Eax => &mut e.eax,
                Register::Ebx => &mut e.ebx,
                Register::Ecx => &mut e.ecx,
                Register::Edx => &mut e.edx,
            };
            *register = *register & !(1 << flag.bit) | u32::from(on) << flag.bit;
        }
    }

    /// Writes the vCPU's number into the leaves that have it, and a topology of one package with `count` cores.
    fn number(&mut self, id: u32, count: u32) {
        let bits = u32::BITS - count.saturating_sub(1).leading_zeros();
        for e in &mut self.0 {
            match (e.function, e.index) {
                // Initial APIC id and logical processors; HTT says that the latter holds.
                (1, _) => {
                    e.ebx = e.ebx & 0xffff | (id & 0xff) << 24 | count.min(255) << 16;
                    e.edx = e.edx & !(1 << 28) | u32::from(count > 1) << 28;
                }
                // Cores of the package, in the leaf about caches.
                (4, _) if e.eax & 0x1f != 0 => {
                    let cores = count.next_power_of_two().saturating_sub(1).min(63);
                    e.eax = e.eax & 0x3fff | cores << 26;
                }
                // Extended topology: threads of a core, then cores of the package.
                (0xb | 0x1f, 0) => (e.eax, e.ebx, e.ecx, e.edx) = (0, 1, 1 << 8, id),
                (0xb | 0x1f, 1) => (e.eax, e.ebx, e.ecx, e.edx) = (bits, count, 2 << 8 | 1, id),
                (0xb | 0x1f, n) => (e.eax, e.ebx, e.ecx, e.edx) = (0, 0, n, id),
                // AMD: cores of the package and the bits of their numbers.
                (0x8000_0008, _) => e.ecx = e.ecx & !0xf0ff | bits << 12 | count.saturating_sub(1).min(255),
                (0x8000_001e, _) => (e.eax, e.ebx) = (id, id),
                _ => {}
            }
        }
        if self.0.iter().any(|e| e.function == 0xb)
            && !self.0.iter().any(|e| (e.function, e.index) == (0xb, 1))
        {
            let second = kvm_cpuid_entry2 {
                function: 0xb,
                index: 1,
                flags: HAS_SUBLEAVES,
                eax: bits,
                ebx: count,
                ecx: 2 << 8 | 1,
                edx: id,
                ..Default::default()
            };
            self.0.push(second);
        }
    }

    /// As they are saved: leaf, subleaf, EAX, EBX, ECX, EDX; the subleaf of a leaf that has none is 2^32 - 1.
    pub(crate) fn rows(&self) -> Vec<[u32; 6]> {
        let subleaf = |e: &kvm_cpuid_entry2| if e.flags & HAS_SUBLEAVES == 0 { u32::MAX } else { e.index };
        self.0.iter().map(|e| [e.function, subleaf(e), e.eax, e.ebx, e.ecx, e.edx]).collect()
    }

    /// The same from what was saved.
    pub(crate) fn from_rows(rows: &[[u32; 6]]) -> Leaves {
        let leaf = |&[function, subleaf, eax, ebx, ecx, edx]: &[u32; 6]| {
            let (index, flags) = if subleaf == u32::MAX { (0, 0) } else { (subleaf, HAS_SUBLEAVES) };
            kvm_cpuid_entry2 { function, index, flags, eax, ebx, ecx, edx, padding: [0; 3] }
        };
        Leaves(rows.iter().map(leaf).collect())
    }

    /// The flags that are set here.
    pub(crate) fn flags(&self) -> Vec<&'static str> {
        FLAGS.iter().filter(|f| self.has(f)).map(|f| f.name).collect()
    }

    /// Those among `names` that `host` cannot give, and those that are no flags.
    pub(crate) fn beyond<'a>(names: &[&'a str], host: &Host) -> Vec<&'a str> {
        let theirs = Leaves(host.supported().as_slice().to_vec());
        let given = |f: &Flag| [&flags::TSC_DEADLINE, &flags::HYPERVISOR].iter().any(|g| g.name == f.name);
        let has = |name: &str| FLAGS.iter().any(|f| f.name == name && (theirs.has(f) || given(f)));
        names.iter().filter(|name| !has(name)).copied().collect()
    }

    pub(crate) fn to_kernel(&self) -> Result<CpuId, KvmError> {
        CpuId::from_entries(&self.0).map_err(|e| KvmError::Refused {
            step: "a list of CPUID leaves",
            source: io::Error::other(format!("{e:?}")),
        })
    }
}

fn value(e: &kvm_cpuid_entry2, register: Register) -> u32 {
    match register {
        Register::Eax => e.eax,
        Register::Ebx => e.ebx,
        Register::Ecx => e.ecx,
        Register::Edx => e.edx,
    }
}

#[cfg(test)]
mod tests;
