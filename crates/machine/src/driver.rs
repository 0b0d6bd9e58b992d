//! The driver: the one thread that owns a machine's phase and carries out what the lifecycle core decides.

use crate::gate::{Gate, Want};
use crate::io_thread::Waker;
use crate::lifecycle::{Action, Event, Phase, Refused, step};
use crate::machine::Rebuild;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex};
use strata_engine::{GuestClock, VcpuShared};

/// What the driver is told.
pub(crate) enum Message {
    /// Someone asks, and wants to know whether it was accepted.
    Request(Event, Sender<Result<(), Refused>>),
    /// Something happened inside the machine.
    Happened(Event),
    /// All threads have acknowledged the park of that generation.
    Parked(u64),
}

/// The phase, as everyone else sees it.
pub(crate) struct Published {
    phase: Mutex<Phase>,
    change: Condvar,
}

impl Published {
    pub(crate) fn new() -> Published {
        Published { phase: Mutex::new(Phase::Created), change: Condvar::new() }
    }

    pub(crate) fn get(&self) -> Phase {
        self.phase.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    fn set(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(|e| e.into_inner()) = phase;
        self.change.notify_all();
    }

    /// Waits until `done` holds of the phase, and gives it.
    pub(crate) fn wait(&self, done: impl Fn(&Phase) -> bool) -> Phase {
        let mut phase = self.phase.lock().unwrap_or_else(|e| e.into_inner());
        while !done(&phase) {
            phase = self.change.wait(phase).unwrap_or_else(|e| e.into_inner());
        }
        phase.clone()
    }
}

/// See the module.
pub(crate) struct Driver {
    pub(crate) inbox: Receiver<Message>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) vcpus: Vec<Arc<VcpuShared>>,
    pub(crate) wakers: Vec<Waker>,
    pub(crate) clock: Arc<GuestClock>,
    pub(crate) published: Arc<Published>,
    pub(crate) rebuild: Rebuild,
}

impl Driver {
    /// Runs until the machine has ended.
    pub(crate) fn run(mut self) {
        let mut phase = Phase::Created;
        while let Ok(message) = self.inbox.recv() {
            let (event, reply) = match message {
                Message::Request(event, reply) => (event, Some(reply)),
                Message::Happened(event) => (event, None),
                // A park that an unpause overtook is not the one waited for now.
                Message::Parked(g) if g == self.gate.generation() && self.gate.want() == Want::Park => {
                    (Event::Parked, None)
                }
                Message::Parked(_) => continue,
            };
            let outcome = step(phase.clone(), &event);
            if let Ok((next, actions)) = &outcome {
                phase = next.clone();
                for action in actions {
                    if let Err(why) = self.act(*action) {
                        phase = Phase::Ended(crate::lifecycle::Exit::Stuck(why));
                        self.end();
                    }
                }
                self.published.set(phase.clone());
            }
            if let Some(reply) = reply {
                // Whoever asked may have stopped listening.
                let _ = reply.send(outcome.map(|_| ()));
            }
            if matches!(phase, Phase::Ended(_)) {
                return;
            }
        }
        self.end();
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Park => self.want(Want::Park),
            Action::Release => self.want(Want::Run),
            Action::StartClock => self.clock.start(),
            Action::StopClock => self.clock.stop(),
            Action::ResetParts => self.rebuild.reset()?,
            Action::Finish => self.end(),
        }
        Ok(())
    }

    fn end(&self) {
        self.want(Want::Exit);
    }

    fn want(&self, want: Want) {
        self.gate.set(want);
        self.vcpus.iter().for_each(|v| v.kick());
        self.wakers.iter().for_each(Waker::wake);
    }
}
