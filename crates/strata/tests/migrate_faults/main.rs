//! Migrations in which something goes wrong at a random moment of a random step: of each eight, in four a process dies, in one
//! the link is cut for a while, in two a bit is turned over on the way, in one the destination's disk is full for a while.
//! What comes of each is compared with its row of the recovery table.
//!
//! ```text
//!  moments   chance, and when something goes wrong      scene    two hosts, and a machine on the first
//!  journals  what the hosts' journals say               faults   what goes wrong, and what has to come of it
//! ```
//! The guest prints a number that grows, for ever. Whoever runs it prints its numbers: those of two runs must not overlap,
//! and a machine that goes on, goes on behind the last number that was printed before. Of each three samples one is, by
//! chance, of a bare-metal guest on this host's KVM, which also compares its memory with what it left there; where KVM or
//! `userfaultfd` cannot be used, that is said, and those are of riscv64 guests too.
//!
//! `STRATA_FAULTS` says how many (8 by default), `STRATA_SEED` which; `STRATA_FAULTS_GUEST` is `kvm` or `riscv64` where all are
//! to be of one kind.

#[path = "../common/mod.rs"]
mod common;
mod faults;
mod journals;
mod moments;
mod scene;

use moments::Chance;
use scene::{End, Guest, kvm_is_usable};

#[test]
fn one_copy_at_most_whoever_dies_and_exactly_one_where_it_can_be_saved() {
    let var = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let (count, seed) = (var("STRATA_FAULTS").unwrap_or(8), var("STRATA_SEED").unwrap_or(1));
    let only = std::env::var("STRATA_FAULTS_GUEST").ok();
    assert!(matches!(only.as_deref(), None | Some("kvm" | "riscv64")), "no such guest: {only:?}");
    let kvm = only.as_deref() != Some("riscv64") && kvm_is_usable();
    assert!(kvm || only.as_deref() != Some("kvm"), "there is no KVM for the samples that are asked for");
    let (mut moved, mut stayed, mut lost, mut missed, mut on_kvm) = (0, 0, 0, 0, 0);
    for n in 0..count {
        let mut chance = Chance::new(seed.wrapping_add(n));
        // Drawn always: a seed is the same sample on all hosts that have KVM.
        let guest = match (chance.below(3), only.is_some()) {
            (0, false) | (_, true) if kvm => Guest::Kvm,
            _ => Guest::Riscv,
        };
        let end = match n % 8 {
            4 => faults::cut(guest, &mut chance),
            5 | 6 => faults::damage(guest, &mut chance),
            7 => faults::full_disk(guest, &mut chance),
            _ => faults::death(guest, &mut chance),
        };
        on_kvm += u32::from(guest == Guest::Kvm);
        match end {
            Some(End::There) => moved += 1,
            Some(End::Here) => stayed += 1,
            Some(End::Lost) => lost += 1,
            None => missed += 1,
        }
    }
    println!(
        "{count} faults (seed {seed}), {on_kvm} of them on KVM: {moved} moved, {stayed} stayed, {lost} lost with their memory, \
         {missed} came too late"
    );
}
