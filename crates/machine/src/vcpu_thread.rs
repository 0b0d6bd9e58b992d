//! The thread of one vCPU: runs it, answers its firmware calls, and stops at the gate.
//!
//! Wherever it waits (parked, stopped by HSM, stuck, in a remote fence), it goes on serving mail, so that two harts
//! that wait for each other never wait for ever.

use crate::cpus::{Cpus, SharedVcpu, lock, wait};
use crate::firmware;
use crate::gate::{Member, Want};
use crate::sbi::HartStatus;
use strata_engine::Stop;

/// Runs vCPU number `hart`, which is `member` of the gate, until the gate says exit.
pub(crate) fn run(cpus: &Cpus, member: &Member, hart: usize, vcpu: &SharedVcpu) {
    let Some(shared) = cpus.shared.get(hart).cloned() else { return };
    loop {
        match member.ask() {
            Want::Exit => return,
            Want::Park => {
                wait(&shared, vcpu, None);
                continue;
            }
            Want::Run => {}
        }
        if let Some(entry) = cpus.harts.take_entry(hart) {
            lock(vcpu).boot(entry);
        }
        if cpus.harts.status(hart) != HartStatus::Started || cpus.harts.is_stuck(hart) {
            wait(&shared, vcpu, None);
            continue;
        }
        cpus.warmth.let_visitor(hart);
        cpus.begin();
        let seen = cpus.arrivals.seen();
        let stop = lock(vcpu).run();
        match stop {
            // `run` sleeps instead of being idle.
            Stop::Kicked | Stop::Idle => {}
            Stop::Wait => cpus.arrivals.await_page(hart, seen, |limit| wait(&shared, vcpu, Some(limit))),
            Stop::FirmwareCall(args) => {
                if !firmware::answer(cpus, hart, vcpu, args) {
                    // An unpause may overtake the end that it asked for.
                    while cpus.gate.want() == Want::Run {
                        wait(&shared, vcpu, None);
                    }
                }
            }
            Stop::Stuck(why) => {
                if cpus.harts.stuck(hart) {
                    cpus.nobody_goes_on(why);
                }
            }
        }
    }
}
