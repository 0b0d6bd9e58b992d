//! The life of a machine, as a pure core: `step(state, event) -> (state, actions)`, no I/O.
//!
//! ```text
//!            Start               Pause               Parked
//!  Created ────────► Running ───────────► Pausing ───────────► Paused
//!                    ▲  ▲ │                  │ Unpause            │ Unpause
//!                    │  │ │◄─────────────────┘◄───────────────────┘
//!             Parked │  │ │ Reset (guest or host)
//!                    │  └─┼───────────► Resetting
//!                    └────┼──────────────────┘
//!                         │ PowerOff, Stuck, Stop (from any phase but Ended)
//!                         └──────────► Ending ──── Parked ───► Ended
//! ```
//! Invariants:
//! - **Pause is a barrier.** In `Paused` and `Ended` no vCPU executes and no device works; the clock stands still.
//!   Phases in between have asked for it ([`Action::Park`]) and wait for [`Event::Parked`].
//! - The first reason to end is the one reported; what comes later changes nothing.
//! - A reset asked for while paused happens, and leaves the machine paused.
//! - Parts are reset, the clock among them, only while nothing runs and the clock stands still.
//!
//! The driver (`driver.rs`) owns the one mutable state and carries the actions out.

/// How a machine ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest powered off. 0 is a good end; anything else is the guest's own code.
    PowerOff(u32),
    /// The host stopped it.
    Stopped,
    /// No vCPU can go on; the text says why, with registers.
    Stuck(String),
}

/// Where a machine is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Built, never run.
    Created,
    /// vCPUs and devices run.
    Running,
    /// On the way to `Paused`.
    Pausing,
    /// Nothing guest-visible changes.
    Paused,
    /// On the way back to power-on; `then_pause` if it was paused when asked.
    Resetting {
        /// Whether it is paused afterwards.
        then_pause: bool,
    },
    /// On the way to `Ended`.
    Ending(Exit),
    /// Over.
    Ended(Exit),
}

/// What happens to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// First start.
    Start,
    /// Someone asks for a pause.
    Pause,
    /// Someone asks to go on.
    Unpause,
    /// Guest or host asks for a reset.
    Reset,
    /// The guest powers off with a code.
    PowerOff(u32),
    /// The host ends it.
    Stop,
    /// No vCPU can go on.
    Stuck(String),
    /// All vCPUs and workers have stopped as asked.
    Parked,
}

/// What the driver is to do, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask all vCPUs and workers to stop at their next boundary; `Parked` follows.
    Park,
    /// Let them go on.
    Release,
    /// Let the guest's clock go on.
    StartClock,
    /// Stop the guest's clock.
    StopClock,
    /// Put RAM, parts and vCPUs back to power-on.
    ResetParts,
    /// End all threads.
    Finish,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the machine is {phase}; it cannot {request} now")]
pub struct Refused {
    /// The phase's name.
    pub phase: &'static str,
    /// The request's name.
    pub request: &'static str,
}

impl Phase {
    /// A word for people and protocols.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Created => "created",
            Phase::Running => "running",
            Phase::Pausing => "pausing",
            Phase::Paused => "paused",
            Phase::Resetting { .. } => "resetting",
            Phase::Ending(_) => "ending",
            Phase::Ended(_) => "ended",
        }
    }
}

impl Event {
    /// A word for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Event::Start => "start",
            Event::Pause => "pause",
            Event::Unpause => "unpause",
            Event::Reset => "reset",
            Event::PowerOff(_) => "power off",
            Event::Stop => "stop",
            Event::Stuck(_) => "stop as stuck",
            Event::Parked => "park",
        }
    }

    fn ending(&self) -> Option<Exit> {
        match self {
            Event::PowerOff(code) => Some(Exit::PowerOff(*code)),
            Event::Stop => Some(Exit::Stopped),
            Event::Stuck(why) => Some(Exit::Stuck(why.clone())),
            _ => None,
        }
    }
}

/// One step. An event that changes nothing gives the same phase and no actions; one that makes no sense is refused.
pub fn step(phase: Phase, event: &Event) -> Result<(Phase, Vec<Action>), Refused> {
    use Action::*;
    let to = |p, a: &[Action]| Ok((p, a.to_vec()));
    if let Some(exit) = event.ending() {
        return match phase {
            Phase::Created | Phase::Paused => to(Phase::Ended(exit), &[Finish]),
            Phase::Running | Phase::Pausing | Phase::Resetting { .. } => to(Phase::Ending(exit), &[Park]),
            over @ (Phase::Ending(_) | Phase::Ended(_)) => to(over, &[]),
        };
    }
    match (phase, event) {
        (Phase::Created, Event::Start) => to(Phase::Running, &[StartClock, Release]),

        (Phase::Running, Event::Pause) => to(Phase::Pausing, &[Park]),
        (Phase::Pausing, Event::Parked) => to(Phase::Paused, &[StopClock]),
        (Phase::Pausing, Event::Unpause) => to(Phase::Running, &[Release]),
        (Phase::Paused, Event::Unpause) => to(Phase::Running, &[StartClock, Release]),
        (p @ (Phase::Pausing | Phase::Paused), Event::Pause) => to(p, &[]),
        (p @ Phase::Running, Event::Unpause) => to(p, &[]),

        (Phase::Running, Event::Reset) => to(Phase::Resetting { then_pause: false }, &[Park]),
        (Phase::Pausing, Event::Reset) => to(Phase::Resetting { then_pause: true }, &[Park]),
        (Phase::Paused, Event::Reset) => to(Phase::Paused, &[ResetParts]),
        (p @ Phase::Resetting { .. }, Event::Reset) => to(p, &[]),
        (Phase::Resetting { .. }, Event::Pause) => to(Phase::Resetting { then_pause: true }, &[]),
        (Phase::Resetting { .. }, Event::Unpause) => to(Phase::Resetting { then_pause: false }, &[]),
        (Phase::Resetting { then_pause: false }, Event::Parked) => {
            to(Phase::Running, &[StopClock, ResetParts, StartClock, Release])
        }
        (Phase::Resetting { then_pause: true }, Event::Parked) => to(Phase::Paused, &[StopClock, ResetParts]),

        (Phase::Ending(exit), Event::Parked) => to(Phase::Ended(exit), &[StopClock, Finish]),

        // A park that was overtaken (pause, then unpause at once) is reported late: nothing to do.
        (p, Event::Parked) => to(p, &[]),
        (p, e) => Err(Refused { phase: p.name(), request: e.name() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phases() -> Vec<Phase> {
        let exit = Exit::PowerOff(3);
        vec![
            Phase::Created,
            Phase::Running,
            Phase::Pausing,
            Phase::Paused,
            Phase::Resetting { then_pause: false },
            Phase::Resetting { then_pause: true },
            Phase::Ending(exit.clone()),
            Phase::Ended(exit),
        ]
    }

    fn events() -> Vec<Event> {
        let stuck = Event::Stuck("x".into());
        vec![
            Event::Start,
            Event::Pause,
            Event::Unpause,
            Event::Reset,
            Event::PowerOff(1),
            Event::Stop,
            stuck,
            Event::Parked,
        ]
    }

    /// Runs every order of events up to a depth on a model of the threads, and holds the invariants at each step.
    #[test]
    fn every_order_of_events_keeps_the_barrier() {
        fn go(phase: Phase, running: bool, clock: bool, parking: bool, depth: u32) {
            if matches!(phase, Phase::Paused | Phase::Ended(_)) {
                assert!(!running && !clock, "{phase:?} with running={running} clock={clock}");
            }
            if depth == 0 {
                return;
            }
            for e in events() {
                // The threads report `Parked` only when they were asked to park.
                if e == Event::Parked && !parking {
                    continue;
                }
                let Ok((next, actions)) = step(phase.clone(), &e) else { continue };
                let mut running = if e == Event::Parked { false } else { running };
                let (mut clock, mut parking) = (clock, parking && e != Event::Parked);
                for a in &actions {
                    match a {
                        Action::Park => parking = true,
                        Action::Release => {
                            assert!(clock, "{phase:?} {e:?}: runs without a clock");
                            (running, parking) = (true, false);
                        }
                        Action::StartClock => clock = true,
                        Action::StopClock => clock = false,
                        Action::ResetParts | Action::Finish => {
                            assert!(!running && !clock, "{phase:?} {e:?} {a:?}");
                        }
                    }
                }
                if let (Phase::Ending(a) | Phase::Ended(a), Phase::Ending(b) | Phase::Ended(b)) =
                    (&phase, &next)
                {
                    assert_eq!(a, b, "the first reason stays");
                }
                go(next, running, clock, parking, depth - 1);
            }
        }
        go(Phase::Created, false, false, false, 6);
    }

    #[test]
    fn every_phase_answers_every_event() {
        for p in phases() {
            for e in events() {
                let over = matches!(p, Phase::Ending(_) | Phase::Ended(_));
                if e.ending().is_some() {
                    let (next, _) = step(p.clone(), &e).unwrap();
                    assert!(matches!(next, Phase::Ending(_) | Phase::Ended(_)));
                } else if over && e != Event::Parked {
                    assert!(step(p.clone(), &e).is_err(), "{p:?} {e:?}");
                }
            }
        }
    }
}
