//! The scenarios from the host's side. What the guest does in each is in guests/conformance/scenarios.c.

use super::rig::{Engine, Rig};
use anyhow::{Context, Result, ensure};
use rustix::event::{EventfdFlags, eventfd};
use std::cell::Cell;
use std::time::{Duration, Instant};

/// One of them.
pub struct Scenario {
    /// Name, for reports.
    pub name: &'static str,
    /// The number that the guest knows it by.
    number: u64,
    cpus: u32,
    host: fn(&Rig, &dyn Fn() -> Result<Rig>) -> Result<()>,
}

const fn scenario(
    name: &'static str,
    number: u64,
    cpus: u32,
    host: fn(&Rig, &dyn Fn() -> Result<Rig>) -> Result<()>,
) -> Scenario {
    Scenario { name, number, cpus, host }
}

/// All of them.
pub const ALL: &[Scenario] = &[
    scenario("traps", 1, 1, ends_well),
    scenario("accesses to devices in every width", 2, 1, ends_well),
    scenario("timers", 3, 1, ends_well),
    scenario("interrupts between processors", 4, 2, ends_well),
    scenario("interrupts of a device", 5, 1, ends_well),
    scenario("memory written by a device", 6, 1, ends_well),
    scenario("dirty pages", 7, 1, dirty_pages),
    scenario("a pause is a barrier", 8, 2, pauses),
    scenario("saved and loaded anywhere", 9, 1, saving),
    scenario("an interrupt by descriptor", 10, 1, interrupt_by_descriptor),
    scenario("a doorbell by descriptor", 11, 1, doorbell),
    scenario("a guest that hears nothing", 12, 1, deaf),
];

/// Long enough for a host that others use too.
const LIMIT: Duration = Duration::from_secs(20);

impl Scenario {
    /// Runs it.
    ///
    /// # Errors
    /// What did not go as it should.
    pub fn run(&self, engine: Engine, program: &[u8]) -> Result<()> {
        let new = || Rig::new(engine, self.cpus, program);
        let rig = new()?;
        rig.boot(self.number);
        (self.host)(&rig, &new)
    }
}

fn ends_well(rig: &Rig, _new: &dyn Fn() -> Result<Rig>) -> Result<()> {
    rig.finish(LIMIT)
}

fn dirty_pages(rig: &Rig, _new: &dyn Fn() -> Result<Rig>) -> Result<()> {
    rig.run(LIMIT, |r| r.device.progress() != 0)?;
    let pages = rig.device.progress();
    let epoch = rig.begin_epoch()?;
    ensure!(rig.dirty(epoch, pages, 16)?.is_empty(), "pages are dirty before anything ran");
    rig.set_shared_word(2, 1)?;
    rig.finish(LIMIT)?;
    let dirty = rig.dirty(epoch, pages, 16)?;
    ensure!(dirty == [0, 3, 6, 9, 12, 15], "dirty are {dirty:?}");
    let epoch = rig.begin_epoch()?;
    ensure!(rig.dirty(epoch, pages, 16)?.is_empty(), "pages are dirty in an epoch without a write");
    Ok(())
}

fn pauses(rig: &Rig, _new: &dyn Fn() -> Result<Rig>) -> Result<()> {
    let count = || Ok::<_, anyhow::Error>([rig.shared_word(0)?, rig.shared_word(1)?]);
    for _ in 0..10 {
        let before = count()?;
        rig.run(LIMIT, |r| {
            let now = [r.shared_word(0), r.shared_word(1)];
            now.iter().zip(before).all(|(now, before)| now.as_ref().is_ok_and(|n| *n > before))
        })?;
        let then = count()?;
        std::thread::sleep(Duration::from_millis(3));
        ensure!(count()? == then, "it counted while it was paused");
    }
    Ok(())
}

/// What the sum must be is what a run without interruption comes to.
fn saving(rig: &Rig, new: &dyn Fn() -> Result<Rig>) -> Result<()> {
    // Enough for the engine to be caught at it; in a host made in software, a turn's ten exits take milliseconds.
    let turns = if rig.engine == Engine::Kvm { 200 } else { 1500 };
    rig.set_shared_word(0, turns)?;
    rig.finish(LIMIT)?;
    let expected = rig.shared_word(2)?;
    let (first, mut now) = (new()?, new()?);
    first.boot(9);
    first.set_shared_word(0, turns)?;
    now.load(&first.save()?).context("the state before the first instruction")?;
    let mut moves = 0;
    // Odd times, so that it is caught in every kind of exit, in a trap and asleep; and longer ones from move to move, so that
    // a host where an exit is slow comes to an end too.
    for n in 0_u64.. {
        let (begun, after) = (Instant::now(), Duration::from_micros((300 + n * 137 % 2100) * (1 + n)));
        now.run(LIMIT, |r| r.device.end().is_some() || begun.elapsed() >= after)?;
        if now.device.end().is_some() {
            break;
        }
        let next = new()?;
        next.load(&now.save()?).with_context(|| format!("move {n}, progress {}", now.device.progress()))?;
        (now, moves) = (next, moves + 1);
        ensure!(n < 2000, "no progress beyond {}", now.device.progress());
    }
    ensure!(
        now.device.end() == Some(0),
        "the guest's check in line {:?} failed\n{}",
        now.device.end(),
        now.describe()
    );
    ensure!(now.shared_word(2)? == expected, "another sum than without moves");
    ensure!(moves > 0, "it was never moved");
    Ok(())
}

fn interrupt_by_descriptor(rig: &Rig, _new: &dyn Fn() -> Result<Rig>) -> Result<()> {
    let fd = eventfd(0, EventfdFlags::NONBLOCK)?;
    let by_hand = rig.interrupt_by(&fd)?;
    let told = Cell::new(0);
    rig.run(LIMIT, |r| {
        while told.get() < r.device.progress() {
            told.set(told.get() + 1);
            let _ = rustix::io::write(&fd, &1u64.to_ne_bytes());
            if let Some(line) = &by_hand {
                let _ = rustix::io::read(&fd, &mut [0; 8]);
                line.set(true);
            }
        }
        r.device.end().is_some()
    })?;
    rig.finish(LIMIT)?;
    ensure!(told.get() == 5, "the guest asked for {} interrupts", told.get());
    Ok(())
}

fn doorbell(rig: &Rig, _new: &dyn Fn() -> Result<Rig>) -> Result<()> {
    let bell = eventfd(0, EventfdFlags::NONBLOCK)?;
    rig.doorbell(bell.try_clone()?)?;
    rig.finish(LIMIT)?;
    let mut count = [0; 8];
    rustix::io::read(&bell, &mut count).context("the doorbell did not ring")?;
    ensure!(u64::from_ne_bytes(count) == 1000, "it rang {} times", u64::from_ne_bytes(count));
    if let Some(writes) = rig.memory_writes() {
        ensure!(writes < 50, "{writes} writes left the guest, although the kernel has the doorbell");
    }
    Ok(())
}

fn deaf(rig: &Rig, _new: &dyn Fn() -> Result<Rig>) -> Result<()> {
    rig.run(LIMIT, |r| r.device.progress() == 1)?;
    for _ in 0..5 {
        let begun = Instant::now();
        rig.run(LIMIT, |_| begun.elapsed() > Duration::from_millis(3))?;
        ensure!(begun.elapsed() < Duration::from_secs(10), "it took {:?} to stop", begun.elapsed());
    }
    Ok(())
}
