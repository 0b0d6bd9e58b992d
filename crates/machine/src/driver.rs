//! The driver: the one thread that owns a machine's phase and carries out what the lifecycle core decides.
//!
//! The phase that others see changes after its actions are done, so that "paused" is never published too early; while
//! they are being done, and while anyone saves or loads, [`Published::hold`] keeps the other out: nobody saves a
//! machine that is just being let go.

use crate::gate::{Gate, Want};
use crate::io_thread::Waker;
use crate::lifecycle::{Action, Event, Exit, Phase, Refused, step};
use crate::machine::Rebuild;
use crate::timekeeper::Timekeeper;
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use strata_engine::VcpuShared;

/// What the driver is told.
#[derive(Debug)]
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
    still: Mutex<()>,
}

impl Published {
    pub(crate) fn new() -> Published {
        Published { phase: Mutex::new(Phase::Created), change: Condvar::new(), still: Mutex::new(()) }
    }

    pub(crate) fn get(&self) -> Phase {
        self.phase.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    pub(crate) fn set(&self, phase: Phase) {
        *self.phase.lock().unwrap_or_else(|e| e.into_inner()) = phase;
        self.change.notify_all();
    }

    /// Keeps the phase, and what goes with it, as it is for as long as the guard lives.
    pub(crate) fn hold(&self) -> MutexGuard<'_, ()> {
        self.still.lock().unwrap_or_else(|e| e.into_inner())
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
    pub(crate) clock: Arc<dyn Timekeeper>,
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
                Message::Parked(g) if self.gate.is_park(g) => (Event::Parked, None),
                Message::Parked(_) => continue,
            };
            let outcome = match step(phase.clone(), &event) {
                Ok((next, actions)) => {
                    self.carry_out(next, &actions).map(|next| phase = next).map_err(|end| {
                        phase = end;
                        Refused { phase: phase.name(), request: event.name() }
                    })
                }
                Err(refused) => Err(refused),
            };
            if let Some(reply) = reply {
                // Whoever asked may have stopped listening.
                let _ = reply.send(outcome);
            }
            if matches!(phase, Phase::Ended(_)) {
                return;
            }
        }
    }

    /// Does `actions`, then publishes `next`. If one fails, which only happens while all threads are parked, the
    /// machine has ended, as the error says.
    fn carry_out(&mut self, next: Phase, actions: &[Action]) -> Result<Phase, Phase> {
        let published = self.published.clone();
        let _still = published.hold();
        for action in actions {
            if let Err(why) = self.act(*action) {
                let end = Phase::Ended(Exit::Stuck(why));
                // Its end is told either way.
                let _ = self.clock.stop();
                self.end();
                published.set(end.clone());
                return Err(end);
            }
        }
        if matches!(next, Phase::Ending(_) | Phase::Ended(_)) {
            // A vCPU that stands at a page which is not there parks no sooner.
            self.rebuild.ram.let_touches_go();
        }
        published.set(next.clone());
        Ok(next)
    }

    fn act(&mut self, action: Action) -> Result<(), String> {
        match action {
            Action::Park => self.want(Want::Park),
            Action::Release => self.want(Want::Run),
            Action::StartClock => self.clock.start()?,
            Action::StopClock => self.clock.stop()?,
            Action::ResetParts => self.rebuild.reset()?,
            Action::Finish => self.end(),
        }
        Ok(())
    }

    /// Ends all threads, and waits for the last output to be handed over.
    fn end(&self) {
        self.want(Want::Exit);
        self.rebuild.ram.let_touches_go();
        self.gate.wait_empty();
    }

    fn want(&self, want: Want) {
        self.gate.set(want);
        self.vcpus.iter().for_each(|v| v.kick());
        self.wakers.iter().for_each(Waker::wake);
    }
}

impl Drop for Driver {
    /// Whoever waits for the end must not wait for ever, should the driver itself fail.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.want(Want::Exit);
            let why = "the machine's driver failed; this is an error of strata's own".to_owned();
            self.published.set(Phase::Ended(Exit::Stuck(why)));
        }
    }
}
