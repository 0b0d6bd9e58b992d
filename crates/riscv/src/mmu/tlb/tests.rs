use super::super::data_tlb::DataContext;
use super::super::fetch_tlb::FETCH_ENTRIES;
use super::*;
use crate::host::HostPage;
use crate::trap::Privilege;

fn mmu_with(va: u64, pa: u64) -> Mmu {
    let mut m = Mmu::new();
    m.data.select(DataContext::Supervisor);
    m.fetch.select(Privilege::Supervisor);
    m.data.fill(va, pa, HostPage::nowhere(), false);
    m.fetch.fill(va, pa, HostPage::nowhere(), false);
    m
}

const VA: u64 = 0xffff_ffc0_1234_5678;

fn readable(m: &Mmu, va: u64) -> bool {
    m.data.entry(va).read == va & PAGE
}

#[test]
fn rights_add_up_for_the_same_page_only() {
    let mut m = mmu_with(VA, 0x8000_0000);
    m.data.fill(VA, 0x8000_0000, HostPage::nowhere(), true);
    let e = m.data.entry(VA);
    assert_eq!((e.read, e.write), (VA & PAGE, VA & PAGE));
    // The page has moved: the right to read the old place must not survive.
    m.data.fill(VA, 0x8000_1000, HostPage::nowhere(), true);
    let e = m.data.entry(VA);
    assert_eq!((e.read, e.write, m.data.pa(VA)), (INVALID, VA & PAGE, 0x8000_1000));
}

#[test]
fn contexts_are_apart_and_kept() {
    let mut m = mmu_with(VA, 0);
    for other in [DataContext::User, DataContext::SupervisorSum, DataContext::Bare, DataContext::Odd] {
        m.data.select(other);
        assert!(!readable(&m, VA));
        m.data.select(DataContext::Supervisor);
        assert!(readable(&m, VA));
    }
    m.data.select(DataContext::Odd);
    m.data.fill(VA, 0, HostPage::nowhere(), false);
    m.data.select(DataContext::User);
    m.data.select(DataContext::Odd);
    assert!(!readable(&m, VA), "rights under MXR were kept");
}

#[test]
fn a_flush_reaches_parked_contexts() {
    for all in [true, false] {
        let mut m = mmu_with(VA, 0);
        m.data.select(DataContext::User);
        if all {
            m.flush_all()
        } else {
            m.flush(VA & PAGE)
        }
        m.data.select(DataContext::Supervisor);
        assert!(!readable(&m, VA));
        assert!(m.fetch.find(VA).is_none());
    }
}

#[test]
fn stamps_change_for_pages_of_code_only() {
    let mut m = mmu_with(VA, 0);
    let stamp = m.fetch.stamp();
    m.flush(VA + 0x10_0000);
    assert_eq!(m.fetch.stamp(), stamp);
    m.flush(VA);
    let second = m.fetch.stamp();
    assert_ne!(second, stamp);
    // An entry that was pushed out by another is still known to have been given out.
    m.fetch.fill(VA, 0, HostPage::nowhere(), false);
    m.fetch.fill(VA + FETCH_ENTRIES as u64 * 4096, 0, HostPage::nowhere(), false);
    m.flush(VA);
    assert_ne!(m.fetch.stamp(), second);
    // One that survives new stamps is, too.
    m.fetch.fill(VA, 0, HostPage::nowhere(), false);
    m.fetch.new_stamps();
    let third = m.fetch.stamp();
    assert!(m.fetch.find(VA).is_some());
    m.flush(VA);
    assert_ne!(m.fetch.stamp(), third);
}

#[test]
fn an_address_of_a_superpage_takes_all_of_it_along() {
    let mut m = mmu_with(VA, 0);
    m.note_span(VA, 2 << 20);
    m.flush(VA ^ 0x1000);
    assert!(!readable(&m, VA));
    // Outside the range, others stay.
    let mut m = mmu_with(VA, 0);
    m.note_span(VA, 2 << 20);
    m.flush(0x4000_1000);
    assert!(readable(&m, VA));
    // Nor does a program's superpage make a range with a kernel's.
    m.note_span(0x4000_0000, 2 << 20);
    m.flush(0x6000_1000);
    m.flush(0xffff_ffc0_0000_0000);
    assert!(readable(&m, VA));
    m.flush(0x4000_1000);
    assert!(!readable(&m, VA));
}

#[test]
fn global_code_survives_a_change_of_space() {
    for global in [true, false] {
        let mut m = mmu_with(0x1000, 0);
        m.flush_all();
        m.fetch.fill(VA, 0, HostPage::nowhere(), global);
        let stamp = m.fetch.stamp();
        m.change_space();
        assert_eq!(m.fetch.stamp() == stamp, global);
        assert_eq!(m.fetch.find(VA).is_some(), global);
        // But not a fence.
        m.flush(VA);
        assert_ne!(m.fetch.stamp(), stamp);
        assert!(m.fetch.find(VA).is_none());
    }
}

#[test]
fn a_flush_of_one_context_s_page_spares_the_stamps_of_others() {
    let mut m = mmu_with(VA, 0);
    let supervisor = m.fetch.stamp();
    m.fetch.select(Privilege::User);
    m.fetch.fill(0x5000, 0, HostPage::nowhere(), false);
    let user = m.fetch.stamp();
    m.flush(0x5000);
    assert_ne!(m.fetch.stamp(), user);
    m.fetch.select(Privilege::Supervisor);
    assert_eq!(m.fetch.stamp(), supervisor);
}
