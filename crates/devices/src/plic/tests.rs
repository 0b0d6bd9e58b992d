use super::*;
use std::sync::Mutex;
use strata_state::Part;

const M: u64 = 1 << 11;
const S: u64 = 1 << 9;

fn plic(harts: usize) -> (Shared<Plic>, Vec<Arc<VcpuShared>>) {
    let harts: Vec<_> = (0..harts).map(|_| Arc::new(VcpuShared::default())).collect();
    (Arc::new(Mutex::new(Plic::new(harts.clone()))), harts)
}

fn write(p: &Shared<Plic>, offset: u64, value: u64) {
    p.lock().unwrap().write(offset, 4, value)
}

fn read(p: &Shared<Plic>, offset: u64) -> u64 {
    p.lock().unwrap().read(offset, 4)
}

/// Offset of a context's claim register.
fn claim(context: u64) -> u64 {
    0x20_0004 + 0x1000 * context
}

/// Source `source` with `priority`, enabled in `context`.
fn enable(p: &Shared<Plic>, source: u64, priority: u64, context: u64) {
    write(p, 4 * source, priority);
    let at = 0x2000 + 0x80 * context + source / 32 * 4;
    let old = read(p, at);
    write(p, at, old | 1 << (source % 32));
}

#[test]
fn a_level_interrupt_is_claimed_completed_and_comes_again_while_high() {
    let (p, harts) = plic(2);
    let line = Plic::irq_line(&p, 40);
    enable(&p, 40, 1, 3); // S mode of hart 1
    line.set(true);
    assert_eq!((harts[0].pins(), harts[1].pins()), (0, S));
    assert_eq!(read(&p, 0x1004), 1 << 8);
    assert_eq!(read(&p, claim(3)), 40);
    assert_eq!((harts[1].pins(), read(&p, claim(3))), (0, 0));
    line.set(true); // still high: no second request before completion
    assert_eq!(harts[1].pins(), 0);
    write(&p, claim(3), 40);
    assert_eq!(harts[1].pins(), S);
    assert_eq!(read(&p, claim(3)), 40);
    line.set(false);
    write(&p, claim(3), 40);
    assert_eq!(harts[1].pins(), 0);
}

#[test]
fn a_pending_request_outlives_its_line() {
    let (p, harts) = plic(1);
    let line = Plic::irq_line(&p, 1);
    line.set(true);
    line.set(false);
    assert_eq!(harts[0].pins(), 0);
    enable(&p, 1, 1, 0);
    assert_eq!(harts[0].pins(), M);
    assert_eq!(read(&p, claim(0)), 1);
    write(&p, claim(0), 1);
    assert_eq!(harts[0].pins(), 0);
}

#[test]
fn priority_orders_then_number_and_the_threshold_masks_the_pin_only() {
    let (p, harts) = plic(1);
    for (source, priority) in [(5, 2), (9, 7), (3, 2), (70, 7)] {
        enable(&p, source, priority, 1);
        Plic::irq_line(&p, source as u32).set(true);
    }
    write(&p, 0x20_1000, 7);
    assert_eq!((harts[0].pins(), read(&p, 0x20_1000)), (0, 7));
    let order: Vec<u64> = (0..5).map(|_| read(&p, claim(1))).collect();
    assert_eq!(order, [9, 70, 3, 5, 0]);
}

#[test]
fn a_completion_counts_only_where_the_source_is_enabled() {
    let (p, harts) = plic(1);
    enable(&p, 7, 1, 1);
    Plic::irq_line(&p, 7).set(true);
    assert_eq!(read(&p, claim(1)), 7);
    write(&p, claim(0), 7);
    write(&p, claim(1), 0xffff_ffff);
    assert_eq!(harts[0].pins(), 0);
    write(&p, claim(1), 7);
    assert_eq!(harts[0].pins(), S);
}

#[test]
fn source_zero_and_strange_registers_do_not_exist() {
    let (p, harts) = plic(1);
    write(&p, 0, 7);
    write(&p, 0x2000, u64::MAX);
    write(&p, 0x1000, u64::MAX);
    for offset in [0, 0x1000, 4 * 96, 0x100c, 0x200c, 0x2000 + 0x80 * 2, 0x20_0008, 0x20_2000, 0x5f_fffc, 2] {
        write(&p, offset, 1);
        assert_eq!(read(&p, offset), 0, "{offset:#x}");
    }
    assert_eq!(read(&p, 0x2000), 0xffff_fffe);
    Plic::irq_line(&p, 0).set(true);
    Plic::irq_line(&p, 96).set(true);
    assert_eq!(harts[0].pins(), 0);
}

#[test]
fn parts_may_be_loaded_in_any_order() {
    for device_first in [false, true] {
        let (p, _) = plic(1);
        enable(&p, 8, 3, 1);
        Plic::irq_line(&p, 8).set(true);
        let saved = p.lock().unwrap().save();
        let (q, harts) = plic(1);
        let line = Plic::irq_line(&q, 8);
        if device_first {
            line.set(true);
        }
        q.lock().unwrap().load(&saved).unwrap();
        line.set(true);
        assert_eq!(harts[0].pins(), S);
        assert_eq!(read(&q, claim(1)), 8);
        line.set(false);
        write(&q, claim(1), 8);
        assert_eq!(harts[0].pins(), 0);
    }
}

#[test]
fn laws_hold_and_impossible_states_are_refused() {
    let (p, _) = plic(2);
    enable(&p, 8, 3, 1);
    Plic::irq_line(&p, 8).set(true);
    let mut p = p.lock().unwrap();
    let good = p.state();
    strata_state::laws::check(&mut *p).unwrap();
    let spoil: [fn(&mut PlicState); 4] =
        [|s| s.priority[3] = 8, |s| s.pending[0] |= 1, |s| s.enable.truncate(3), |s| s.claimed.push(0)];
    for change in spoil {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(p.load(&strata_state::write_record(&bad)).is_err(), "{bad:?}");
    }
    assert_eq!(p.state(), p.reset_state());
}
