//! Processor flags by name, and the levels that are made of them.
//!
//! Names are those of `/proc/cpuinfo`; places are those of Intel's SDM (CPUID) and AMD's APM volume 3, appendix E. The
//! levels are those of the x86-64 psABI, table 3.1; a level's own list has what it adds.

use kvm_bindings::kvm_cpuid_entry2;

/// An output register of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// EAX.
    Eax,
    /// EBX.
    Ebx,
    /// ECX.
    Ecx,
    /// EDX.
    Edx,
}

/// One flag.
#[derive(Debug, PartialEq, Eq)]
pub struct Flag {
    /// Name.
    pub name: &'static str,
    /// Leaf.
    pub leaf: u32,
    /// Subleaf; 0 where there are none.
    pub subleaf: u32,
    /// Register.
    pub register: Register,
    /// Bit.
    pub bit: u8,
}

impl Flag {
    pub(super) fn is_in(&self, e: &kvm_cpuid_entry2) -> bool {
        (e.function, e.index) == (self.leaf, self.subleaf)
    }
}

const fn flag(name: &'static str, leaf: u32, subleaf: u32, register: Register, bit: u8) -> Flag {
    Flag { name, leaf, subleaf, register, bit }
}

/// The APIC's deadline timer.
pub(super) const TSC_DEADLINE: Flag = flag("tsc_deadline_timer", 1, 0, Register::Ecx, 24);
/// A hypervisor is there.
pub(super) const HYPERVISOR: Flag = flag("hypervisor", 1, 0, Register::Ecx, 31);

/// What every x86-64 processor has, what no kernel does without, and what the engine gives by itself.
pub(super) const BASE: &[&str] = &[
    "fpu",
    "tsc",
    "msr",
    "pae",
    "cx8",
    "apic",
    "sep",
    "mtrr",
    "pge",
    "cmov",
    "pat",
    "mmx",
    "fxsr",
    "sse",
    "sse2",
    "syscall",
    "nx",
    "lm",
    "x2apic",
    "tsc_deadline_timer",
    "hypervisor",
];
/// Level 2 adds.
pub(super) const V2: &[&str] = &["cx16", "lahf_lm", "popcnt", "pni", "ssse3", "sse4_1", "sse4_2"];
/// Level 3 adds.
pub(super) const V3: &[&str] = &["avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"];
/// Level 4 adds.
pub(super) const V4: &[&str] = &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"];

/// What no guest gets: its state would not be saved.
pub(super) const NEVER: &[&str] = &["vmx", "svm", "amx_tile", "amx_int8", "amx_bf16"];

/// Every flag that has a name here: a level or a list hides those that it does not contain.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = {
    use Register::{Eax, Ebx, Ecx, Edx};
    &[
        flag("fpu", 1, 0, Edx, 0), flag("tsc", 1, 0, Edx, 4), flag("msr", 1, 0, Edx, 5), flag("pae", 1, 0, Edx, 6),
        flag("cx8", 1, 0, Edx, 8), flag("apic", 1, 0, Edx, 9), flag("sep", 1, 0, Edx, 11),
        flag("mtrr", 1, 0, Edx, 12), flag("pge", 1, 0, Edx, 13), flag("cmov", 1, 0, Edx, 15),
        flag("pat", 1, 0, Edx, 16), flag("clflush", 1, 0, Edx, 19), flag("mmx", 1, 0, Edx, 23),
        flag("fxsr", 1, 0, Edx, 24), flag("sse", 1, 0, Edx, 25), flag("sse2", 1, 0, Edx, 26),
        flag("pni", 1, 0, Ecx, 0), flag("pclmulqdq", 1, 0, Ecx, 1), flag("monitor", 1, 0, Ecx, 3),
        flag("vmx", 1, 0, Ecx, 5), flag("ssse3", 1, 0, Ecx, 9), flag("fma", 1, 0, Ecx, 12),
        flag("cx16", 1, 0, Ecx, 13), flag("pdcm", 1, 0, Ecx, 15), flag("pcid", 1, 0, Ecx, 17),
        flag("sse4_1", 1, 0, Ecx, 19), flag("sse4_2", 1, 0, Ecx, 20), flag("x2apic", 1, 0, Ecx, 21),
        flag("movbe", 1, 0, Ecx, 22), flag("popcnt", 1, 0, Ecx, 23), TSC_DEADLINE, flag("aes", 1, 0, Ecx, 25),
        flag("xsave", 1, 0, Ecx, 26), flag("avx", 1, 0, Ecx, 28), flag("f16c", 1, 0, Ecx, 29),
        flag("rdrand", 1, 0, Ecx, 30), HYPERVISOR,
        flag("fsgsbase", 7, 0, Ebx, 0), flag("tsc_adjust", 7, 0, Ebx, 1), flag("bmi1", 7, 0, Ebx, 3),
        flag("hle", 7, 0, Ebx, 4), flag("avx2", 7, 0, Ebx, 5), flag("smep", 7, 0, Ebx, 7),
        flag("bmi2", 7, 0, Ebx, 8), flag("erms", 7, 0, Ebx, 9), flag("invpcid", 7, 0, Ebx, 10),
        flag("rtm", 7, 0, Ebx, 11), flag("mpx", 7, 0, Ebx, 14), flag("avx512f", 7, 0, Ebx, 16),
        flag("avx512dq", 7, 0, Ebx, 17), flag("rdseed", 7, 0, Ebx, 18), flag("adx", 7, 0, Ebx, 19),
        flag("smap", 7, 0, Ebx, 20), flag("avx512ifma", 7, 0, Ebx, 21), flag("clflushopt", 7, 0, Ebx, 23),
        flag("clwb", 7, 0, Ebx, 24), flag("avx512cd", 7, 0, Ebx, 28), flag("sha_ni", 7, 0, Ebx, 29),
        flag("avx512bw", 7, 0, Ebx, 30), flag("avx512vl", 7, 0, Ebx, 31),
        flag("avx512vbmi", 7, 0, Ecx, 1), flag("umip", 7, 0, Ecx, 2), flag("pku", 7, 0, Ecx, 3),
        flag("waitpkg", 7, 0, Ecx, 5), flag("avx512_vbmi2", 7, 0, Ecx, 6), flag("gfni", 7, 0, Ecx, 8),
        flag("vaes", 7, 0, Ecx, 9), flag("vpclmulqdq", 7, 0, Ecx, 10), flag("avx512_vnni", 7, 0, Ecx, 11),
        flag("avx512_bitalg", 7, 0, Ecx, 12), flag("avx512_vpopcntdq", 7, 0, Ecx, 14), flag("la57", 7, 0, Ecx, 16),
        flag("rdpid", 7, 0, Ecx, 22), flag("movdiri", 7, 0, Ecx, 27), flag("movdir64b", 7, 0, Ecx, 28),
        flag("fsrm", 7, 0, Edx, 4), flag("avx512_vp2intersect", 7, 0, Edx, 8), flag("serialize", 7, 0, Edx, 14),
        flag("amx_bf16", 7, 0, Edx, 22), flag("avx512_fp16", 7, 0, Edx, 23), flag("amx_tile", 7, 0, Edx, 24),
        flag("amx_int8", 7, 0, Edx, 25),
        flag("avx_vnni", 7, 1, Eax, 4), flag("avx512_bf16", 7, 1, Eax, 5),
        flag("xsaveopt", 0xd, 1, Eax, 0), flag("xsavec", 0xd, 1, Eax, 1), flag("xgetbv1", 0xd, 1, Eax, 2),
        flag("xsaves", 0xd, 1, Eax, 3),
        flag("syscall", 0x8000_0001, 0, Edx, 11), flag("nx", 0x8000_0001, 0, Edx, 20),
        flag("pdpe1gb", 0x8000_0001, 0, Edx, 26), flag("rdtscp", 0x8000_0001, 0, Edx, 27),
        flag("lm", 0x8000_0001, 0, Edx, 29), flag("lahf_lm", 0x8000_0001, 0, Ecx, 0),
        flag("svm", 0x8000_0001, 0, Ecx, 2), flag("abm", 0x8000_0001, 0, Ecx, 5),
        flag("sse4a", 0x8000_0001, 0, Ecx, 6), flag("misalignsse", 0x8000_0001, 0, Ecx, 7),
        flag("3dnowprefetch", 0x8000_0001, 0, Ecx, 8), flag("xop", 0x8000_0001, 0, Ecx, 11),
        flag("fma4", 0x8000_0001, 0, Ecx, 16), flag("tbm", 0x8000_0001, 0, Ecx, 21),
        flag("topoext", 0x8000_0001, 0, Ecx, 22), flag("perfctr_core", 0x8000_0001, 0, Ecx, 23),
        flag("clzero", 0x8000_0008, 0, Ebx, 0), flag("wbnoinvd", 0x8000_0008, 0, Ebx, 9),
    ]
};
