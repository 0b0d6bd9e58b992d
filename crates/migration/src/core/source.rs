//! The source's side: see the diagram in `mod.rs`.

use super::{Action, Epoch, Event, Message, Record};
use Action::{Free, Lost, Pause, Run, Send, TakeDisks, Write};

/// Where the source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourcePhase {
    /// The machine runs; memory is copied.
    Copying,
    /// It stands still; the destination has not said that it is ready.
    Frozen,
    /// Our process died with the machine's memory before it was handed over: the destination may have all of it.
    Unsure,
    /// The destination may run it.
    Handed,
    /// The destination may run it, and will need pages that are only here.
    HandedPart,
    /// It runs there, and needs pages that are only here.
    Serving,
    /// It runs there.
    Done,
    /// It stayed here.
    Aborted,
    /// It came back.
    Reclaimed,
}

/// The source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Where it stands.
    pub phase: SourcePhase,
    /// The epoch at which the machine was ours when this began.
    pub epoch: Epoch,
    /// Whether the machine's memory is here.
    pub ram: bool,
}

impl Source {
    /// One that begins, whose machine is owned at `epoch`. Its driver has written [`Record::Begun`].
    pub fn new(epoch: Epoch) -> Source {
        Source { phase: SourcePhase::Copying, epoch, ram: true }
    }

    /// After a crash: from the last record of its journal, the epoch of its first one, and whether memory is still here.
    pub fn recover(last: Record, epoch: Epoch, ram: bool) -> (Source, Vec<Action>) {
        use SourcePhase::*;
        let at = |phase| Source { phase, epoch, ram };
        match last {
            Record::Handed => (at(Handed), vec![Send(Message::Commit)]),
            Record::HandedPart => (at(HandedPart), vec![at(HandedPart).insist()]),
            Record::Serving => (at(Serving), vec![at(Serving).insist()]),
            Record::Done => (Source { ram: false, ..at(Done) }, if ram { vec![Free] } else { vec![] }),
            // The decision had been made: it is carried out.
            Record::Aborted => (at(Aborted), at(Aborted).go_on(epoch)),
            Record::Reclaimed => (at(Reclaimed), at(Reclaimed).go_on(epoch + 2)),
            // `Begun`. The others are the destination's, and are never in this journal.
            _ if ram => (at(Frozen), vec![Pause]),
            _ => (at(Unsure), vec![Send(Message::Query)]),
        }
    }

    /// What is said again until it is answered, once the machine was handed over.
    fn insist(self) -> Action {
        use SourcePhase::*;
        Send(match self.phase {
            HandedPart | Serving if !self.ram => Message::Gone,
            Serving => Message::Query,
            _ => Message::Commit,
        })
    }

    /// It is ours: from memory if that is here, from its disks if not.
    fn go_on(self, epoch: Epoch) -> Vec<Action> {
        if self.ram { vec![TakeDisks(epoch), Run] } else { vec![Lost(epoch)] }
    }

    fn abort(self) -> (Source, Vec<Action>) {
        let mut actions = vec![Write(Record::Aborted, self.epoch)];
        actions.extend(self.go_on(self.epoch));
        actions.push(Send(Message::Abort));
        (Source { phase: SourcePhase::Aborted, ..self }, actions)
    }

    fn hand_over(self, phase: SourcePhase, record: Record) -> (Source, Vec<Action>) {
        (Source { phase, ..self }, vec![Write(record, self.epoch + 1), Send(Message::Commit)])
    }

    fn reclaim(self) -> (Source, Vec<Action>) {
        let mut actions = vec![Write(Record::Reclaimed, self.epoch + 2)];
        actions.extend(self.go_on(self.epoch + 2));
        (Source { phase: SourcePhase::Reclaimed, ..self }, actions)
    }

    /// Nothing is needed of it any more.
    fn done(self) -> (Source, Vec<Action>) {
        let mut actions = vec![Write(Record::Done, self.epoch + 1)];
        if self.ram {
            actions.push(Free);
        }
        (Source { phase: SourcePhase::Done, ram: false, ..self }, actions)
    }

    /// One step. What changes nothing gives the same state and no actions.
    pub fn step(self, event: Event) -> (Source, Vec<Action>) {
        use Event::*;
        use SourcePhase::*;
        let stay = |actions| (self, actions);
        match (self.phase, event) {
            (Copying, Freeze) => (Source { phase: Frozen, ..self }, vec![Pause, Send(Message::Final)]),
            // It has not been handed over, so nobody else can run it: this side may decide alone.
            (Copying | Frozen, Cancel | LinkLost | Force | Got(Message::Refused | Message::Unknown)) => {
                self.abort()
            }
            (Frozen, Tick) => stay(vec![Send(Message::Final)]),
            (Frozen | Unsure, Got(Message::Ready)) => self.hand_over(Handed, Record::Handed),
            (Frozen, Got(Message::ReadyPart)) => self.hand_over(HandedPart, Record::HandedPart),

            (Unsure, Tick) => stay(vec![Send(Message::Query)]),
            // The destination cannot have it as a whole, and needs a commit that will never be sent.
            (Unsure, Got(Message::Refused | Message::Unknown | Message::ReadyPart) | Cancel | Force) => {
                self.abort()
            }

            (Handed | HandedPart, Tick | Got(Message::Ready | Message::ReadyPart | Message::Query)) => {
                stay(vec![self.insist()])
            }
            (Handed, Got(Message::Running)) => self.done(),
            (Handed | HandedPart, Got(Message::Refused) | Force) => self.reclaim(),

            (HandedPart, Got(Message::Running)) if self.ram => {
                (Source { phase: Serving, ..self }, vec![Write(Record::Serving, self.epoch + 1)])
            }
            (Handed | HandedPart | Serving, Got(Message::Enough)) => self.done(),
            (HandedPart | Serving, Got(Message::Running)) if !self.ram => stay(vec![self.insist()]),
            (Serving, Tick) => stay(vec![self.insist()]),
            // It ran there: what it has written and sent since is not in the memory that is here.
            (Serving, Force) => {
                let (next, mut actions) = Source { ram: false, ..self }.reclaim();
                if self.ram {
                    actions.push(Free);
                }
                (next, actions)
            }

            // Whoever still waits for us there is told.
            (Aborted | Reclaimed, Got(Message::Ready | Message::ReadyPart | Message::Query)) => {
                stay(vec![Send(Message::Abort)])
            }
            _ => stay(vec![]),
        }
    }

    /// Whether nothing is left to be decided here.
    pub fn over(self) -> bool {
        matches!(self.phase, SourcePhase::Done | SourcePhase::Aborted | SourcePhase::Reclaimed)
    }

    /// Whether the machine may be at the destination, and need pages of ours.
    pub fn gives_pages(self) -> bool {
        self.ram && matches!(self.phase, SourcePhase::HandedPart | SourcePhase::Serving)
    }
}
