//! A machine whose runs repeat: the one thread that runs everything of it, in an order that depends on nothing else.
//!
//! ```text
//!   time  = instructions retired by all harts together * NS_PER_INSN, and what was skipped while all waited
//!   |------------ quantum ------------|------------ quantum ------------|
//!   devices, then hart 0 ...          devices, then hart 1 ...            (round-robin; one that waits gives the rest
//!                                                                          of its quantum to the next)
//! ```
//! - **Harts** run one at a time, each until the quantum ends or it waits. The clock goes with the instructions of the one
//!   that runs, so its timers fire at their exact count; another's timer is seen when its turn comes.
//! - **Devices** do their work between two quanta and at no other time: requests that the guest has made are served to
//!   their end, and what comes from the host (keys, frames) is delivered then. Output leaves before the guest goes on, so
//!   that how fast somebody reads is not seen.
//! - **When all harts wait** time goes to the first timer that wakes one, at once or (`pace`) as fast as the host's does.
//!   Where something from the host comes meanwhile, it goes by whole quanta.
//! - **A pause** stops anywhere, after any instruction, and is not seen: hart, quantum and time are where they were. One
//!   can be asked for at an exact count ([`Schedule::pause_at`]).
//!
//! What remains outside: what the host sends and when, and a disk that fails.

mod devices;
mod schedule;

pub use schedule::PauseAtError;

pub(crate) use schedule::{Schedule, SchedulePart};

use crate::cpus::{Cpus, PAGE_RETRY, SharedVcpu, lock};
use crate::firmware;
use crate::gate::{Member, Want};
use crate::io_thread::Waker;
use crate::lifecycle::Event;
use crate::sbi::HartStatus;
use devices::Devices;
use std::sync::Arc;
use std::time::{Duration, Instant};
use strata_devices::Worker;
use strata_devices::aclint::TICK_NS;
use strata_engine::{Clock, CountedClock, Stop};

/// What an instruction takes: a processor of 500 million a second, between what the interpreter does on a common host (a
/// fifth of it) and a translator (several times as many), so that time under load is not far from the host's.
pub(crate) const NS_PER_INSN: u64 = 2;
/// Instructions a quantum. The longest that a device's answer takes beyond its own time is two of them, 65 microseconds of
/// the guest's, as of a quick disk; between two stand some microseconds of the host's, which a quantum outweighs.
pub(crate) const QUANTUM: u64 = 1 << 14;
/// Its length in time.
const QUANTUM_NS: u64 = QUANTUM * NS_PER_INSN;
/// When the machine was first switched on, by its own real-time clock: 1 January 2026, in nanoseconds since 1970. Any
/// moment would do that no certificate or file system in use finds absurd.
pub(crate) const WALL_START: u64 = 1_767_225_600_000_000_000;
/// Whoever sends a vCPU mail while this thread sleeps is heard at least this often.
const LOOK: Duration = Duration::from_millis(20);
/// Shorter waits are not worth the host's while.
const LEAST_WAIT: u64 = 50_000;

// Deadlines are whole ticks, so that time is always a whole number of instructions.
const _: () = assert!(TICK_NS.is_multiple_of(NS_PER_INSN));

/// What makes a machine deterministic.
pub(crate) struct Counted {
    pub(crate) clock: Arc<CountedClock>,
    pub(crate) schedule: Arc<Schedule>,
    /// Whether idle time passes as fast as the host's.
    pub(crate) pace: bool,
}

/// How a hart's turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Its quantum is over, or the machine is wanted.
    Went,
    /// It has nothing to do; whether it did anything before.
    Idle(bool),
}

/// See the module.
pub(crate) struct Deterministic {
    counted: Counted,
    cpus: Arc<Cpus>,
    vcpus: Vec<SharedVcpu>,
    devices: Devices,
    /// When devices had their turn last.
    turned_at: Option<u64>,
    /// Harts in a row that had nothing to do.
    idle: usize,
    /// A hart has ended or reset the machine: none executes anything more until it is parked for that.
    over: bool,
}

impl Deterministic {
    pub(crate) fn new(
        counted: Counted,
        cpus: Arc<Cpus>,
        vcpus: Vec<SharedVcpu>,
        workers: Vec<Box<dyn Worker>>,
    ) -> Deterministic {
        Deterministic {
            counted,
            cpus,
            vcpus,
            devices: Devices::new(workers),
            turned_at: None,
            idle: 0,
            over: false,
        }
    }

    /// Runs as `member` of the gate until it says exit.
    pub(crate) fn run(mut self, member: &Member, waker: &Waker) {
        loop {
            match member.ask() {
                Want::Exit => return self.devices.drain(waker),
                Want::Park => {
                    self.over = false;
                    self.sleep(waker);
                }
                Want::Run if self.over => self.sleep(waker),
                Want::Run if self.counted.schedule.take_pause() => {
                    member.gate().happened(Event::Pause);
                }
                Want::Run => self.step(waker),
            }
        }
    }

    /// Stands still until woken, but serves mail.
    fn sleep(&mut self, waker: &Waker) {
        waker.wait(Some(LOOK));
        self.vcpus.iter().for_each(|v| lock(v).serve_mail());
        // The harts that were parked may have been replaced.
        self.idle = 0;
    }

    fn wanted(&self) -> bool {
        self.over || self.cpus.gate.want() != Want::Run
    }

    /// Devices, where their time has come; then the turn of one hart.
    fn step(&mut self, waker: &Waker) {
        let (clock, schedule) = (self.counted.clock.clone(), self.counted.schedule.clone());
        if !schedule.served() {
            // After a pause that came during what follows, devices have had their turn.
            let now = clock.now();
            if now == 0 || self.turned_at != Some(now) {
                self.devices.turns(waker, now);
                self.turned_at = Some(now);
            }
            self.idle = 0;
            // Only here: after a pause in the middle of a quantum the guest would find room for its output sooner than
            // without the pause.
            if !self.devices.hand_over(waker, || self.cpus.gate.want() == Want::Run) {
                return;
            }
            schedule.set_served(true);
        }
        let end = next_quantum(clock.now());
        let hart = schedule.turn();
        let turn = self.turn(waker, hart, end);
        if clock.now() >= end {
            schedule.set_served(false);
            schedule.set_turn(self.after(hart));
            self.idle = 0;
        } else if let Turn::Idle(did) = turn {
            schedule.set_turn(self.after(hart));
            self.idle = if did { 1 } else { self.idle + 1 };
            if self.idle >= self.vcpus.len() {
                self.pass_time(waker);
            }
        }
    }

    fn after(&self, hart: usize) -> usize {
        if hart + 1 < self.vcpus.len() { hart + 1 } else { 0 }
    }

    /// Runs `hart` until the time is `end`, or it waits, or the machine is wanted.
    fn turn(&mut self, waker: &Waker, hart: usize, end: u64) -> Turn {
        let (clock, schedule) = (&self.counted.clock, &self.counted.schedule);
        let Some(vcpu) = self.vcpus.get(hart) else { return Turn::Went };
        let mut did = false;
        loop {
            let left = end.saturating_sub(clock.now()).div_ceil(NS_PER_INSN);
            let insns = left.min(schedule.until_pause());
            if insns == 0 || self.wanted() {
                return Turn::Went;
            }
            if let Some(entry) = self.cpus.harts.take_entry(hart) {
                lock(vcpu).boot(entry);
            }
            if self.cpus.harts.status(hart) != HartStatus::Started || self.cpus.harts.is_stuck(hart) {
                return Turn::Idle(did);
            }
            self.cpus.warmth.let_visitor(hart);
            self.cpus.begin();
            let (stop, ran) = {
                let mut vcpu = lock(vcpu);
                let before = vcpu.retired();
                clock.follow(before);
                let stop = match vcpu.counted() {
                    Some(counted) => counted.run_for(insns),
                    None => Stop::Stuck("this engine cannot stop at a count of instructions".into()),
                };
                clock.at(vcpu.retired());
                (stop, vcpu.retired().wrapping_sub(before))
            };
            schedule.add(ran);
            did |= ran > 0;
            match stop {
                Stop::Kicked => {}
                Stop::Idle => return Turn::Idle(did),
                Stop::FirmwareCall(args) => {
                    did = true;
                    if !firmware::answer(&self.cpus, hart, vcpu, args) {
                        self.over = true;
                    }
                }
                // Time stands still until the page is there.
                Stop::Wait => {
                    waker.wait(Some(PAGE_RETRY));
                }
                Stop::Stuck(why) => {
                    if self.cpus.harts.stuck(hart) {
                        self.cpus.nobody_goes_on(why);
                    }
                    return Turn::Idle(did);
                }
            }
        }
    }

    /// All harts wait: lets time pass until something may end that.
    fn pass_time(&mut self, waker: &Waker) {
        self.idle = 0;
        let clock = &self.counted.clock;
        let now = clock.now();
        let next = next_quantum(now);
        let hart = self.first_timer();
        // A timer within this quantum is met exactly. A later one is met in its own quantum, which begins with devices.
        let hart = if hart < next { hart } else { this_quantum(hart) };
        let device = self.devices.due().map_or(u64::MAX, |at| next_quantum(at.max(now + 1) - 1));
        let to = hart.min(device);
        let to = if to == u64::MAX {
            // Only the host can end this.
            match self.wait_for_host(waker, now, LOOK) {
                Some(to) => to,
                None => return,
            }
        } else if self.counted.pace && to - now > LEAST_WAIT {
            match self.wait_for_host(waker, now, Duration::from_nanos(to - now).min(LOOK)) {
                Some(reached) => reached.min(to),
                None => return,
            }
        } else {
            to
        };
        self.counted.clock.set(to);
        if to.is_multiple_of(QUANTUM_NS) {
            self.counted.schedule.set_served(false);
        }
    }

    /// When the first timer of a hart that waits is due; `u64::MAX` for never.
    fn first_timer(&self) -> u64 {
        let alive =
            |h: &usize| self.cpus.harts.status(*h) == HartStatus::Started && !self.cpus.harts.is_stuck(*h);
        let timers = (0..self.vcpus.len()).filter(alive).filter_map(|h| self.vcpus.get(h));
        timers.filter_map(|v| Some(lock(v).counted()?.wakes_at())).min().unwrap_or(u64::MAX)
    }

    /// Waits until a device has something from the host, or for `at_most`. Gives the time that it is then: a quantum's
    /// beginning. `None` if the machine is wanted.
    fn wait_for_host(&self, waker: &Waker, now: u64, at_most: Duration) -> Option<u64> {
        let begun = Instant::now();
        let came = self.devices.wait(waker, at_most);
        self.vcpus.iter().for_each(|v| lock(v).serve_mail());
        if self.wanted() {
            return None;
        }
        let passed = if self.counted.pace { begun.elapsed().as_nanos() as u64 } else { 0 };
        match this_quantum(now.saturating_add(passed)) {
            to if to > now => Some(to),
            _ if came || self.counted.pace => Some(next_quantum(now)),
            _ => None,
        }
    }
}

/// The beginning of the quantum that `ns` lies in.
fn this_quantum(ns: u64) -> u64 {
    ns - ns % QUANTUM_NS
}

/// The beginning of the first quantum after `ns`; time ends with the last that can be counted.
fn next_quantum(ns: u64) -> u64 {
    this_quantum(ns).saturating_add(QUANTUM_NS)
}
