//! Segments, descriptor tables and control registers.

use crate::KvmError;
use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use std::fmt;

/// Attribute bits of a segment, where AMD's and Intel's manuals have them in the high half of a descriptor, moved down by
/// eight (Intel SDM vol. 3, 25.4.1, "access rights").
mod attribute {
    pub const KIND: u16 = 0x000f;
    pub const CODE_OR_DATA: u16 = 1 << 4;
    pub const LEVEL_SHIFT: u16 = 5;
    pub const PRESENT: u16 = 1 << 7;
    pub const AVAILABLE: u16 = 1 << 12;
    pub const LONG: u16 = 1 << 13;
    pub const BIG: u16 = 1 << 14;
    pub const PAGES: u16 = 1 << 15;
}

strata_state::state! {
    /// A segment register with its hidden part.
    pub struct SegmentState("x86-segment", 1) {
        /// First linear address.
        1 base: u64,
        /// Last offset, in bytes.
        2 limit: u32,
        /// Selector.
        3 selector: u16,
        /// Attributes: bits 0-3 type, 4 S, 5-6 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G.
        4 attributes: u16,
        /// Loaded with a null selector.
        5 unusable: bool,
    }
}

strata_state::state! {
    /// Segments, descriptor tables and control registers.
    pub struct SystemState("x86-system", 1) {
        /// CS, DS, ES, FS, GS, SS, TR, LDTR.
        1 segments: Vec<SegmentState>,
        /// GDTR: base, limit.
        2 gdt: [u64; 2],
        /// IDTR: base, limit.
        3 idt: [u64; 2],
        /// CR0.
        4 cr0: u64,
        /// CR2.
        5 cr2: u64,
        /// CR3.
        6 cr3: u64,
        /// CR4.
        7 cr4: u64,
        /// CR8.
        8 cr8: u64,
        /// IA32_EFER.
        9 efer: u64,
        /// IA32_APIC_BASE.
        10 apic_base: u64,
    }
}

impl SegmentState {
    fn from_kernel(s: &kvm_segment) -> SegmentState {
        let bit = |on: u8, bit: u16| if on != 0 { bit } else { 0 };
        let attributes = u16::from(s.type_) & attribute::KIND
            | bit(s.s, attribute::CODE_OR_DATA)
            | (u16::from(s.dpl) & 3) << attribute::LEVEL_SHIFT
            | bit(s.present, attribute::PRESENT)
            | bit(s.avl, attribute::AVAILABLE)
            | bit(s.l, attribute::LONG)
            | bit(s.db, attribute::BIG)
            | bit(s.g, attribute::PAGES);
        let (base, limit, selector) = (s.base, s.limit, s.selector);
        SegmentState { base, limit, selector, attributes, unusable: s.unusable != 0 }
    }

    fn to_kernel(&self) -> kvm_segment {
        let SegmentState { base, limit, selector, attributes, unusable } = *self;
        let bit = |bit: u16| u8::from(attributes & bit != 0);
        kvm_segment {
            base,
            limit,
            selector,
            type_: (attributes & attribute::KIND) as u8,
            present: bit(attribute::PRESENT),
            dpl: (attributes >> attribute::LEVEL_SHIFT & 3) as u8,
            db: bit(attribute::BIG),
            s: bit(attribute::CODE_OR_DATA),
            l: bit(attribute::LONG),
            g: bit(attribute::PAGES),
            avl: bit(attribute::AVAILABLE),
            unusable: unusable.into(),
            padding: 0,
        }
    }

    /// A segment over the whole 32-bit space: code that may be read (type 11) or data that may be written (type 3).
    fn flat(selector: u16, kind: u16) -> SegmentState {
        use attribute::{BIG, CODE_OR_DATA, PAGES, PRESENT};
        let attributes = kind | CODE_OR_DATA | PRESENT | BIG | PAGES;
        SegmentState { base: 0, limit: u32::MAX, selector, attributes, unusable: false }
    }
}

const CR0_PE: u64 = 1;
const CR0_PAGING: u64 = 1 << 31;

impl SystemState {
    pub(crate) fn read(fd: &VcpuFd) -> Result<SystemState, KvmError> {
        let s = fd.get_sregs().map_err(KvmError::at("KVM_GET_SREGS"))?;
        let segments = [&s.cs, &s.ds, &s.es, &s.fs, &s.gs, &s.ss, &s.tr, &s.ldt];
        Ok(SystemState {
            segments: segments.into_iter().map(SegmentState::from_kernel).collect(),
            gdt: [s.gdt.base, s.gdt.limit.into()],
            idt: [s.idt.base, s.idt.limit.into()],
            cr0: s.cr0,
            cr2: s.cr2,
            cr3: s.cr3,
            cr4: s.cr4,
            cr8: s.cr8,
            efer: s.efer,
            apic_base: s.apic_base,
        })
    }

    pub(crate) fn write(&self, fd: &VcpuFd) -> Result<(), KvmError> {
        let SystemState { segments, gdt, idt, cr0, cr2, cr3, cr4, cr8, efer, apic_base } = self;
        let table = |t: &[u64; 2]| kvm_dtable { base: t[0], limit: t[1] as u16, padding: [0; 3] };
        let segment = |n: usize| segments.get(n).map_or_else(kvm_segment::default, SegmentState::to_kernel);
        let sregs = kvm_sregs {
            cs: segment(0),
            ds: segment(1),
            es: segment(2),
            fs: segment(3),
            gs: segment(4),
            ss: segment(5),
            tr: segment(6),
            ldt: segment(7),
            gdt: table(gdt),
            idt: table(idt),
            cr0: *cr0,
            cr2: *cr2,
            cr3: *cr3,
            cr4: *cr4,
            cr8: *cr8,
            efer: *efer,
            apic_base: *apic_base,
            // What is being delivered is in `events`.
            interrupt_bitmap: [0; 4],
        };
        fd.set_sregs(&sregs).map_err(KvmError::at("KVM_SET_SREGS"))
    }

    /// 32-bit protected mode with flat segments and translation off (the PVH boot ABI; Linux, x86 boot protocol, "32-bit
    /// boot protocol", whose selectors these are).
    pub(crate) fn make_flat(&mut self) {
        let data = SegmentState::flat(0x18, 3);
        let code = SegmentState::flat(0x10, 11);
        // TR must be a busy 32-bit TSS (type 11 of system segments); nothing uses it.
        let attributes = 11 | attribute::PRESENT;
        let tr = SegmentState { base: 0, limit: 0x67, selector: 0, attributes, unusable: false };
        let ldt = self.segments.get(7).cloned().unwrap_or_else(|| data.clone());
        self.segments = vec![code, data.clone(), data.clone(), data.clone(), data.clone(), data, tr, ldt];
        self.cr0 = self.cr0 & !CR0_PAGING | CR0_PE;
        (self.cr3, self.cr4, self.efer) = (0, 0, 0);
    }

    /// Real mode with the next instruction at `pc`; gives the instruction pointer for that.
    pub(crate) fn make_real(&mut self, pc: u64) -> u64 {
        if let Some(cs) = self.segments.first_mut() {
            cs.base = pc & !0xffff;
            // After reset the base of CS is not what its selector says; below 1 MiB it can be.
            cs.selector = if pc < 1 << 20 { (cs.base >> 4) as u16 } else { 0xf000 };
        }
        pc & 0xffff
    }
}

impl fmt::Display for SystemState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = [
            [("cr0", self.cr0), ("cr2", self.cr2), ("cr3", self.cr3), ("cr4", self.cr4)],
            [("efer", self.efer), ("apic", self.apic_base), ("gdt", self.gdt[0]), ("idt", self.idt[0])],
        ];
        for row in rows {
            for (name, v) in row {
                write!(f, "{name:>7} {v:016x}")?;
            }
            writeln!(f)?;
        }
        for (name, s) in ["cs", "ds", "es", "fs", "gs", "ss", "tr", "ldt"].iter().zip(&self.segments) {
            let SegmentState { base, limit, selector, attributes, .. } = s;
            writeln!(
                f,
                "{name:>7} {selector:04x}  base {base:016x}  limit {limit:08x}  attributes {attributes:04x}"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_survive_the_way_to_the_kernel_and_back() {
        let odd =
            SegmentState { base: 1 << 40, limit: 7, selector: 0x33, attributes: 0xf0fb, unusable: true };
        for s in [SegmentState::flat(0x10, 11), odd] {
            assert_eq!(SegmentState::from_kernel(&s.to_kernel()), s);
        }
    }
}
