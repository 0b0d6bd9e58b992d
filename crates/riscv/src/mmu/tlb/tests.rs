use super::super::data_tlb::{DATA_ENTRIES, DataContext};
use super::super::fetch_tlb::FETCH_ENTRIES;
use super::super::pte::Pte;
use super::super::walk::Leaf;
use super::*;
use crate::host::HostPage;
use crate::trap::Privilege;

const VA: u64 = 0xffff_ffc0_1234_5678;
/// Address spaces 1 and 2, and one that has the ASID of the first.
const ONE: u64 = 8 << 60 | 1 << 44 | 0x111;
const TWO: u64 = 8 << 60 | 2 << 44 | 0x222;
const OTHER_ONE: u64 = 8 << 60 | 1 << 44 | 0x333;

fn fill(m: &mut Mmu, va: u64, global: bool) {
    m.data.fill(va, 0x8000_0000, HostPage::nowhere(), global, false);
    m.fetch.fill(va, 0x8000_0000, HostPage::nowhere(), global);
}

fn mmu_with(va: u64, global: bool) -> Mmu {
    let mut m = Mmu::new();
    m.data.select(DataContext::Supervisor);
    m.fetch.select(Privilege::Supervisor);
    fill(&mut m, va, global);
    m
}

fn readable(m: &Mmu, va: u64) -> bool {
    m.data.entry(va).read.tag == va & PAGE
}

fn leaf(pa: u64, global: bool) -> Leaf {
    Leaf { pa, span: 4096, global, pte: Pte(0xcf) }
}

#[test]
fn rights_add_up_for_the_same_page_only() {
    let mut m = mmu_with(VA, false);
    m.data.fill(VA, 0x8000_0000, HostPage::nowhere(), false, true);
    let e = m.data.entry(VA);
    assert_eq!((e.read.tag, e.write.tag), (VA & PAGE, VA & PAGE));
    // The page has moved: the right to read the old place must not survive.
    m.data.fill(VA, 0x8000_1000, HostPage::nowhere(), false, true);
    let e = m.data.entry(VA);
    assert_eq!((e.read.tag, e.write.tag, m.data.pa(VA, true)), (INVALID, VA & PAGE, 0x8000_1000));
}

#[test]
fn a_page_of_one_space_goes_with_it_beside_one_of_all() {
    // What a kernel does when it copies from a process: read a page of the process, write one of its own, which may well
    // have the same place.
    let own = VA + DATA_ENTRIES as u64 * 4096;
    for read_first in [true, false] {
        let mut m = Mmu::new();
        m.data.select(DataContext::SupervisorSum);
        for write in [!read_first, read_first] {
            let (va, pa) = if write { (own, 0x8000_1000) } else { (VA, 0x8000_0000) };
            m.data.fill(va, pa, HostPage::nowhere(), write, write);
        }
        assert!(readable(&m, VA) && m.data.entry(own).write.tag == own & PAGE);
        m.change_space();
        assert!(!readable(&m, VA), "read first: {read_first}");
        // Alone, the kernel's stays.
        m.data.fill(own, 0x8000_1000, HostPage::nowhere(), true, true);
        m.change_space();
        assert_eq!(m.data.entry(own).write.tag, own & PAGE);
    }
}

#[test]
fn contexts_are_apart_and_kept() {
    let mut m = mmu_with(VA, false);
    for other in [DataContext::User, DataContext::SupervisorSum, DataContext::Bare, DataContext::Odd] {
        m.data.select(other);
        assert!(!readable(&m, VA));
        m.data.select(DataContext::Supervisor);
        assert!(readable(&m, VA));
    }
    m.data.select(DataContext::Odd);
    m.data.fill(VA, 0, HostPage::nowhere(), false, false);
    m.data.select(DataContext::User);
    m.data.select(DataContext::Odd);
    assert!(!readable(&m, VA), "rights under MXR were kept");
}

#[test]
fn a_flush_reaches_other_contexts() {
    for va in [None, Some(VA & PAGE)] {
        let mut m = mmu_with(VA, true);
        m.data.select(DataContext::User);
        m.fence(ONE, va, None);
        m.data.select(DataContext::Supervisor);
        assert!(!readable(&m, VA));
        assert!(m.fetch.find(VA).is_none());
    }
}

#[test]
fn rights_to_write_go_alone() {
    let mut m = mmu_with(VA, false);
    m.data.select(DataContext::User);
    let far = VA + 4096 * (DATA_ENTRIES as u64 + 3);
    m.data.fill(far, 0x8000_0000, HostPage::nowhere(), true, true);
    m.data.fill(far, 0x8000_0000, HostPage::nowhere(), true, false);
    m.data.drop_writes_to(0x8000_1000);
    assert_eq!(m.data.entry(far).write.tag, far & PAGE);
    m.data.select(DataContext::Supervisor);
    m.data.drop_writes_to(0x8000_0123);
    m.data.select(DataContext::User);
    assert_eq!((m.data.entry(far).read.tag, m.data.entry(far).write.tag), (far & PAGE, INVALID));
    m.data.fill(far, 0x8000_0000, HostPage::nowhere(), true, true);
    m.data.drop_writes();
    assert_eq!((m.data.entry(far).read.tag, m.data.entry(far).write.tag), (far & PAGE, INVALID));
}

#[test]
fn stamps_change_for_pages_of_code_only() {
    let mut m = mmu_with(VA, false);
    let stamp = m.fetch.stamp();
    m.fence(ONE, Some(VA + 0x10_0000), None);
    assert_eq!(m.fetch.stamp(), stamp);
    m.fence(ONE, Some(VA), None);
    let second = m.fetch.stamp();
    assert_ne!(second, stamp);
    // An entry that was pushed out by another is still known to have been given out.
    fill(&mut m, VA, false);
    fill(&mut m, VA + FETCH_ENTRIES as u64 * 4096, false);
    m.fence(ONE, Some(VA), None);
    assert_ne!(m.fetch.stamp(), second);
    // One that survives new stamps is, too, once it is given out again; before, nobody has it.
    fill(&mut m, VA, false);
    m.fetch.new_stamps();
    let third = m.fetch.stamp();
    assert!(m.fetch.find(VA).is_some());
    m.fence(ONE, Some(VA), None);
    assert_ne!(m.fetch.stamp(), third);
    fill(&mut m, VA, false);
    m.fetch.new_stamps();
    let fourth = m.fetch.stamp();
    m.fence(ONE, Some(VA), None);
    assert_eq!(m.fetch.stamp(), fourth);
    assert!(m.fetch.find(VA).is_none());
}

#[test]
fn an_id_goes_with_its_translation() {
    let id = |m: &Mmu| {
        (m.fetch.id(Privilege::Supervisor, VA), m.fetch.ids[1][(VA >> 12) as usize % FETCH_ENTRIES])
    };
    let with_id = |global| {
        let mut m = mmu_with(VA, global);
        m.fetch.set_id(Privilege::Supervisor, VA, 7);
        m.fetch.set_id(Privilege::User, VA, 8);
        assert_eq!((id(&m), m.fetch.id(Privilege::User, VA)), ((7, 7), 0));
        m
    };
    type Forget = fn(&mut Mmu);
    let gone: [(&str, Forget); 6] = [
        ("fence of all", |m| m.fence(ONE, None, None)),
        ("fence of the address", |m| m.fence(ONE, Some(VA), None)),
        ("fence of the space", |m| m.fence(ONE, None, Some(1))),
        ("another space", |m| m.change_space()),
        ("pages", |m| m.forget_pages()),
        ("eviction", |m| fill(m, VA + 4096 * FETCH_ENTRIES as u64, false)),
    ];
    for (what, forget) in gone {
        let mut m = with_id(false);
        forget(&mut m);
        assert_eq!(id(&m), (0, 0), "{what}");
        // A global one outlives its space.
        let mut m = with_id(true);
        forget(&mut m);
        assert_eq!(id(&m).1 == 7, what.contains("space"), "{what}");
    }
    let mut m = with_id(false);
    m.fetch.new_stamps();
    m.fence(ONE, Some(VA + 4096), None);
    m.fence(ONE, None, Some(2));
    assert_eq!(id(&m), (7, 7));
}

#[test]
fn an_address_of_a_superpage_takes_all_of_it_along() {
    for (span, far) in [(2 << 20, 0x10_1000), (1 << 16, 0x1000), (1 << 30, 0x1000_1000)] {
        for asid in [None, Some(1)] {
            let mut m = mmu_with(VA, false);
            m.note_span(VA, span);
            m.second.fill(ONE, VA, &leaf(0x8000_0000, false));
            m.fence(ONE, Some(VA ^ far), asid);
            assert!(!readable(&m, VA) && m.second.find(ONE, VA).is_none());
        }
        // Outside the range, others stay. Nor does a program's superpage concern a kernel.
        let mut m = mmu_with(VA, false);
        m.note_span(VA, span);
        m.note_span(VA & !(3 << 62), span);
        let apart = 2 * span.max(MEGAPAGE);
        for elsewhere in [0x4000_1000, VA + apart, VA - apart] {
            m.fence(ONE, Some(elsewhere), None);
            assert!(readable(&m, VA), "{span:#x}");
        }
        m.fence(ONE, Some(VA & !(3 << 62) ^ far), None);
        assert!(!readable(&m, VA));
    }
}

#[test]
fn global_pages_survive_a_change_of_space() {
    for global in [true, false] {
        for change in [|m: &mut Mmu| m.change_space(), |m: &mut Mmu| m.fence(ONE, None, Some(1))] {
            let mut m = mmu_with(0x1000, false);
            m.flush_all();
            fill(&mut m, VA, global);
            let stamp = m.fetch.stamp();
            m.fence(ONE, None, Some(2));
            assert!(readable(&m, VA), "it was another's");
            change(&mut m);
            assert_eq!((m.fetch.stamp() == stamp, readable(&m, VA)), (global, global));
            assert_eq!(m.fetch.find(VA).is_some(), global);
            // But not a fence of everything.
            m.fence(ONE, Some(VA), None);
            assert_ne!(m.fetch.stamp(), stamp);
            assert!(m.fetch.find(VA).is_none() && !readable(&m, VA));
        }
    }
}

#[test]
fn a_flush_of_one_context_s_page_spares_the_stamps_of_others() {
    let mut m = mmu_with(VA, false);
    let supervisor = m.fetch.stamp();
    m.fetch.select(Privilege::User);
    fill(&mut m, 0x5000, false);
    let user = m.fetch.stamp();
    m.fence(ONE, Some(0x5000), None);
    assert_ne!(m.fetch.stamp(), user);
    m.fetch.select(Privilege::Supervisor);
    assert_eq!(m.fetch.stamp(), supervisor);
}

#[test]
fn the_second_level_keeps_address_spaces_apart() {
    let mut m = Mmu::new();
    let pa = |m: &mut Mmu, satp, va| m.second.find(satp, va).map(|l| l.pa);
    m.second.fill(ONE, VA, &leaf(0x1000, false));
    m.second.fill(TWO, VA, &leaf(0x2000, false));
    m.second.fill(TWO, VA + 4096, &leaf(0x3000, true));
    assert_eq!(pa(&mut m, ONE, VA), Some(0x1678));
    assert_eq!(pa(&mut m, TWO, VA), Some(0x2678));
    assert_eq!(pa(&mut m, ONE, VA + 4096), Some(0x3678));
    // Two spaces of one identifier, which only a guest's mistake brings about.
    assert_eq!(pa(&mut m, OTHER_ONE, VA), None);
    m.second.fill(ONE, VA, &leaf(0x1000, false));
    // Fences of a space spare others and global pages, those of an address other addresses.
    m.fence(ONE, None, Some(2));
    assert_eq!((pa(&mut m, ONE, VA), pa(&mut m, TWO, VA)), (Some(0x1678), None));
    m.fence(TWO, Some(VA + 4096), Some(1));
    assert_eq!(pa(&mut m, ONE, VA + 4096), Some(0x3678));
    m.fence(TWO, Some(VA), Some(1));
    assert_eq!(pa(&mut m, ONE, VA), None);
    m.fence(TWO, Some(VA + 4096), None);
    assert_eq!(pa(&mut m, ONE, VA + 4096), None);
    m.second.fill(ONE, VA, &leaf(0x1000, false));
    m.second.fill(ONE, VA + 4096, &leaf(0x1000, true));
    m.forget_pages();
    assert!(pa(&mut m, ONE, VA).is_some() && pa(&mut m, ONE, VA + 4096).is_some());
    m.fence(TWO, None, None);
    assert_eq!((pa(&mut m, ONE, VA), pa(&mut m, ONE, VA + 4096)), (None, None));
}

#[test]
fn the_oldest_of_a_set_falls_out() {
    let mut m = Mmu::new();
    let satp = |n: u64| 8 << 60 | n << 44 | n;
    (1..=4).for_each(|n| m.second.fill(satp(n), VA, &leaf(n << 12, false)));
    m.second.fill(satp(1), VA, &leaf(0x9000, false));
    m.second.fill(satp(5), VA, &leaf(0x5000, false));
    let found: Vec<_> = (1..=5).map(|n| m.second.find(satp(n), VA).map(|l| l.pa >> 12)).collect();
    assert_eq!(found, [Some(9), None, Some(3), Some(4), Some(5)]);
    // An identifier with the same place takes it over: the other's pages are void, not the newcomer's.
    m.second.fill(satp(257), VA, &leaf(0x7000, false));
    assert_eq!(m.second.find(satp(1), VA), None);
    assert_eq!(m.second.find(satp(257), VA), None);
}
