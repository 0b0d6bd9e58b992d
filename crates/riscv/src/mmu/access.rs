//! Accesses that miss the TLB, and those that never ask it: split, atomic, cache-block, fetch.
//!
//! The order of a trap's reasons, and of effects: alignment of atomics, translation, physical protection, what lies
//! there; and only then memory changes. An access that crosses a page checks both pages first.

use super::pte::Pte;
use super::tlb::PAGE;
use super::walk::{Fault, Leaf, PteMemory, Space, levels, passes, walk};
use crate::config::CACHE_BLOCK;
use crate::core::{Core, Reservation};
use crate::csr::{envcfg, status};
use crate::host::{HostPage, Place, place, wrote};
use crate::pmp::{Access, Pmp};
use crate::trap::{Cause, Exit, Privilege};
use strata_isa::ops::{Amo, Cbo, Width};
use strata_memory::GuestRam;

/// A page to fetch from.
#[derive(Clone, Copy, Debug)]
pub struct FetchPage {
    /// The page itself.
    pub page: HostPage,
    /// Its guest physical address.
    pub pa: u64,
    /// The whole page may be executed, and the page is remembered. Otherwise ask for every instruction.
    pub whole: bool,
}

/// Page-table entries in RAM, as S mode may reach them.
struct Tables<'a> {
    ram: &'a GuestRam,
    pmp: &'a Pmp,
}

impl Tables<'_> {
    fn entry(&self, pa: u64, access: Access) -> Result<(HostPage, Place), Fault> {
        if !self.pmp.allows(pa, 8, access, Privilege::Supervisor) {
            return Err(Fault::Access);
        }
        let place = place(self.ram, pa, ram_access(access));
        match place.page() {
            Some(page) => Ok((page, place)),
            None if matches!(place, Place::Wait) => Err(Fault::Wait),
            None => Err(Fault::Access),
        }
    }
}

impl PteMemory for Tables<'_> {
    fn read(&mut self, pa: u64) -> Result<u64, Fault> {
        Ok(self.entry(pa, Access::Read)?.0.load(pa, Width::I64))
    }
    fn update(&mut self, pa: u64, old: u64, new: u64) -> Result<bool, Fault> {
        let (page, place) = self.entry(pa, Access::Write)?;
        let done = page.compare_exchange(pa, old, new, Width::I64).is_ok();
        wrote(self.ram, pa, place);
        Ok(done)
    }
}

/// One half of an access over the end of a page.
struct Half {
    pa: u64,
    place: Place,
    page: HostPage,
    len: u64,
}

fn ram_access(access: Access) -> strata_memory::Access {
    if access == Access::Write { strata_memory::Access::Write } else { strata_memory::Access::Read }
}

fn crosses_page(va: u64, size: u64) -> bool {
    (va & !PAGE) + size > 4096
}

fn load_bytes(page: HostPage, at: u64, size: u64) -> u64 {
    (0..size).rev().fold(0, |v, i| v << 8 | page.load(at.wrapping_add(i), Width::U8))
}

fn store_bytes(page: HostPage, at: u64, v: u64, size: u64) {
    for i in 0..size {
        page.store(at.wrapping_add(i), v >> (8 * i), Width::U8);
    }
}

impl Core {
    fn fault(&mut self, fault: Fault, access: Access, va: u64) -> Exit {
        let cause = match (fault, access) {
            (Fault::Wait, _) => return Exit::Wait,
            (Fault::Page, Access::Read) => Cause::LoadPage,
            (Fault::Page, Access::Write) => Cause::StorePage,
            (Fault::Page, Access::Fetch) => Cause::FetchPage,
            (Fault::Access, Access::Read) => Cause::LoadAccess,
            (Fault::Access, Access::Write) => Cause::StoreAccess,
            (Fault::Access, Access::Fetch) => Cause::FetchAccess,
        };
        self.raise(cause, va)
    }

    /// How addresses are translated in `mode`; `None` for not at all.
    fn space(&self, mode: Privilege) -> Option<Space> {
        let c = &self.csr;
        Some(Space {
            levels: levels(c.satp).filter(|_| mode != Privilege::Machine)?,
            root: (c.satp & ((1 << 44) - 1)) << 12,
            user: mode == Privilege::User,
            sum: c.mstatus & status::SUM != 0,
            mxr: c.mstatus & status::MXR != 0,
            pbmte: c.menvcfg & envcfg::PBMTE != 0,
            adue: c.menvcfg & envcfg::ADUE != 0,
        })
    }

    /// Where `va` leads.
    #[inline(never)]
    fn translate(&mut self, va: u64, access: Access, mode: Privilege) -> Result<Leaf, Fault> {
        let Some(space) = self.space(mode) else {
            return Ok(Leaf { pa: va, span: 4096, global: mode == Privilege::Machine, pte: Pte(0) });
        };
        let c = &self.csr;
        if let Some(leaf) = self.mmu.second.find(c.satp, va)
            && passes(&space, leaf.pte, access)
        {
            return Ok(leaf);
        }
        let leaf = walk(&space, va, access, &mut Tables { ram: &self.ram, pmp: &c.pmp })?;
        self.mmu.note_span(va, leaf.span);
        self.mmu.second.fill(c.satp, va, &leaf);
        Ok(leaf)
    }

    /// Translates, checks and looks up `size` bytes that lie in one page, and fills the data TLB.
    #[inline(never)]
    fn reach(&mut self, va: u64, size: u64, access: Access) -> Result<(u64, Place), Exit> {
        let mode = self.data_privilege();
        let Leaf { pa, global, .. } =
            self.translate(va, access, mode).map_err(|f| self.fault(f, access, va))?;
        if !self.csr.pmp.allows(pa, size, access, mode) {
            return Err(self.fault(Fault::Access, access, va));
        }
        let place = place(&self.ram, pa, ram_access(access));
        match place {
            Place::Wait => return Err(Exit::Wait),
            Place::Ram(page) if self.csr.pmp.uniform(pa & PAGE) => {
                self.mmu.data.fill(va, pa, page, global, access == Access::Write);
            }
            // A page that may be written may be read.
            Place::Code(page) if self.csr.pmp.uniform(pa & PAGE) => {
                self.mmu.data.fill(va, pa, page, global, false);
            }
            _ => {}
        }
        Ok((pa, place))
    }

    /// In a run that must repeat, whatever may reach a device is an instruction by itself, and the device finds the time
    /// of that instruction.
    fn at_device(&self, place: Place) -> Result<(), Exit> {
        if self.limit != u64::MAX && matches!(place, Place::Trapped(_) | Place::Bus) {
            if !self.alone {
                return Err(Exit::Alone);
            }
            self.clock.at(self.retired);
        }
        Ok(())
    }

    /// A load that the TLB did not answer: gives the value, extended to `w`.
    ///
    /// # Errors
    /// The trap it takes, or memory that has not come yet; nothing has changed then. So for all that follow.
    #[cold]
    #[inline(never)]
    pub fn load_slow(&mut self, va: u64, w: Width) -> Result<u64, Exit> {
        let size = w.bytes();
        if crosses_page(va, size) {
            return self.load_split(va, w);
        }
        let e = self.mmu.data.entry(va);
        if e.read.tag == va & PAGE {
            return Ok(w.extend(load_bytes(e.read.page(va), va, size)));
        }
        let (pa, place) = self.reach(va, size, Access::Read)?;
        self.at_device(place)?;
        let aligned = va & (size - 1) == 0;
        if matches!(place, Place::Trapped(_) | Place::Bus)
            && aligned
            && let Ok(v) = self.bus.read(pa, size as u8)
        {
            return Ok(w.extend(v));
        }
        match place.page() {
            Some(page) if aligned => Ok(w.extend(page.load(pa, w))),
            Some(page) => Ok(w.extend(load_bytes(page, pa, size))),
            None => Err(self.raise(Cause::LoadAccess, va)),
        }
    }

    /// A load over the end of a page, from RAM only.
    fn load_split(&mut self, va: u64, w: Width) -> Result<u64, Exit> {
        let [low, high] = self.reach_split(va, w.bytes(), Access::Read)?;
        let bytes = |half: &Half| load_bytes(half.page, half.pa, half.len);
        Ok(w.extend(bytes(&low) | bytes(&high) << (8 * low.len)))
    }

    /// Both halves of an access over the end of a page.
    fn reach_split(&mut self, va: u64, size: u64, access: Access) -> Result<[Half; 2], Exit> {
        let second = (va | !PAGE).wrapping_add(1);
        let first_len = second.wrapping_sub(va);
        let mut half = |va, len| {
            let (pa, place) = self.reach(va, len, access)?;
            match place.page() {
                Some(page) => Ok(Half { pa, place, page, len }),
                None => Err(self.fault(Fault::Access, access, va)),
            }
        };
        Ok([half(va, first_len)?, half(second, size - first_len)?])
    }

    /// A store that the TLB did not answer.
    #[cold]
    #[inline(never)]
    pub fn store_slow(&mut self, va: u64, v: u64, w: Width) -> Result<(), Exit> {
        let size = w.bytes();
        if crosses_page(va, size) {
            let [low, high] = self.reach_split(va, size, Access::Write)?;
            for (half, v) in [(&low, v), (&high, v >> (8 * low.len))] {
                store_bytes(half.page, half.pa, v, half.len);
                wrote(&self.ram, half.pa, half.place);
            }
            return Ok(());
        }
        let e = self.mmu.data.entry(va);
        if e.write.tag == va & PAGE {
            store_bytes(e.write.page(va), va, v, size);
            return Ok(());
        }
        let (pa, place) = self.reach(va, size, Access::Write)?;
        self.at_device(place)?;
        let aligned = va & (size - 1) == 0;
        if matches!(place, Place::Trapped(_) | Place::Bus) && aligned {
            let low = if size == 8 { v } else { v & ((1 << (8 * size)) - 1) };
            if self.bus.write(pa, size as u8, low).is_ok() {
                return Ok(());
            }
        }
        match place.page() {
            Some(page) if aligned => page.store(pa, v, w),
            Some(page) => store_bytes(page, pa, v, size),
            None => return Err(self.raise(Cause::StoreAccess, va)),
        }
        wrote(&self.ram, pa, place);
        Ok(())
    }

    /// Page, physical address and place for an atomic access: aligned, and RAM.
    fn reach_atomic(&mut self, va: u64, w: Width, access: Access) -> Result<(HostPage, u64, Place), Exit> {
        let read = access == Access::Read;
        let size = w.bytes();
        if va & (size - 1) != 0 {
            return Err(self.raise(if read { Cause::LoadMisaligned } else { Cause::StoreMisaligned }, va));
        }
        let e = self.mmu.data.entry(va);
        let right = if read { e.read } else { e.write };
        if va & PAGE == right.tag {
            let page = right.page(va);
            return Ok((page, self.mmu.data.pa(va, !read) | va & !PAGE, Place::Ram(page)));
        }
        let (pa, place) = self.reach(va, size, access)?;
        match place.page() {
            Some(page) => Ok((page, pa, place)),
            None => Err(self.fault(Fault::Access, access, va)),
        }
    }

    /// AMO.
    #[inline(never)]
    pub fn atomic(&mut self, op: Amo, va: u64, v: u64, w: Width) -> Result<u64, Exit> {
        let (page, pa, place) = self.reach_atomic(va, w, Access::Write)?;
        let mut old = page.load(va, w);
        while let Err(now) = page.compare_exchange(va, old, op.eval(old, v, w), w) {
            old = now;
        }
        wrote(&self.ram, pa, place);
        Ok(w.extend(old))
    }

    /// LR.
    #[inline(never)]
    pub fn reserve(&mut self, va: u64, w: Width) -> Result<u64, Exit> {
        let (page, pa, _) = self.reach_atomic(va, w, Access::Read)?;
        // LR may carry acquire ordering; loads of the host are ordered enough, the compiler's need saying.
        let value = page.load(va, w);
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        self.reservation = Reservation { va, pa, value, bytes: w.bytes() as u8 };
        Ok(w.extend(value))
    }

    /// SC. Even one that fails for want of a reservation faults where a store would, as an implementation may choose.
    #[inline(never)]
    pub fn conditional(&mut self, va: u64, v: u64, w: Width) -> Result<u64, Exit> {
        let (page, pa, place) = self.reach_atomic(va, w, Access::Write)?;
        let r = std::mem::replace(&mut self.reservation, Reservation::NONE);
        let same = r.va == va && r.pa == pa && u64::from(r.bytes) == w.bytes();
        let stored = same && page.compare_exchange(va, r.value, v, w).is_ok();
        wrote(&self.ram, pa, place);
        Ok(u64::from(!stored))
    }

    /// Zicbom and Zicboz. Caches are coherent, so all but `cbo.zero` only check.
    #[inline(never)]
    pub fn cache_operation(&mut self, op: Cbo, va: u64) -> Result<(), Exit> {
        let mask = match op {
            Cbo::Clean | Cbo::Flush => envcfg::CBCFE,
            Cbo::Inval => envcfg::CBIE,
            Cbo::Zero => envcfg::CBZE,
        };
        let below_machine = self.privilege < Privilege::Machine && self.csr.menvcfg & mask == 0;
        let in_user = self.privilege == Privilege::User && self.csr.senvcfg & mask == 0;
        if below_machine || in_user {
            return Err(Exit::Illegal);
        }
        let va = va & !(CACHE_BLOCK - 1);
        if op != Cbo::Zero {
            // Permitted where a load or a store is; the fault, if any, is a store's.
            return match self.reach(va, CACHE_BLOCK, Access::Read) {
                Ok(_) => Ok(()),
                Err(Exit::Wait) => Err(Exit::Wait),
                Err(_) => self.reach(va, CACHE_BLOCK, Access::Write).map(drop),
            };
        }
        let e = self.mmu.data.entry(va);
        let (pa, place) = if e.write.tag == va & PAGE {
            (va, Place::Ram(e.write.page(va)))
        } else {
            self.reach(va, CACHE_BLOCK, Access::Write)?
        };
        let Some(page) = place.page() else { return Err(self.raise(Cause::StoreAccess, va)) };
        for at in (0..CACHE_BLOCK).step_by(8) {
            page.store(va + at, 0, Width::I64);
        }
        wrote(&self.ram, pa, place);
        Ok(())
    }

    /// [`Core::fetch_page`], where the answer is remembered. For looking ahead of the guest: a walk would leave its mark in
    /// the guest's page table, where there is none if the guest never comes there.
    #[inline(always)]
    pub fn fetch_page_at_hand(&mut self, va: u64) -> Option<FetchPage> {
        self.mmu.fetch.find(va).map(|e| FetchPage { page: e.page, pa: e.pa, whole: true })
    }

    /// The page of code that holds the 2 bytes at `va`.
    #[inline(never)]
    pub fn fetch_page(&mut self, va: u64) -> Result<FetchPage, Exit> {
        if let Some(known) = self.fetch_page_at_hand(va) {
            return Ok(known);
        }
        let (access, mode) = (Access::Fetch, self.privilege);
        let Leaf { pa, global, .. } =
            self.translate(va, access, mode).map_err(|f| self.fault(f, access, va))?;
        if !self.csr.pmp.allows(pa, 2, access, mode) {
            return Err(self.fault(Fault::Access, access, va));
        }
        match place(&self.ram, pa, strata_memory::Access::Read) {
            Place::Ram(page) | Place::Trapped(page) | Place::Code(page) => {
                let whole = self.csr.pmp.uniform(pa & PAGE);
                if whole {
                    self.mmu.fetch.fill(va, pa, page, global);
                }
                Ok(FetchPage { page, pa: pa & PAGE, whole })
            }
            Place::Wait => Err(Exit::Wait),
            Place::Bus => Err(self.fault(Fault::Access, access, va)),
        }
    }
}

#[cfg(test)]
#[path = "access/tests.rs"]
mod tests;
