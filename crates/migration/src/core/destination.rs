//! The destination's side: see the diagram in `mod.rs`.

use super::{Action, Epoch, Event, Message, Record};
use Action::{Free, GiveUpPages, Lost, Note, Run, Send, TakeDisks, Write};

/// Where the destination stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DestinationPhase {
    /// No journal says anything of this migration.
    Unknown,
    /// Parts of it come in.
    Receiving,
    /// All of it is here, or all but pages that are to be fetched; whether it will run is the source's to say.
    Ready,
    /// It is ours and has not run.
    Owner,
    /// It runs, and pages are fetched from the source.
    Pulling,
    /// It runs.
    Running,
    /// It runs, and pages that it may need will never come.
    Doomed,
    /// It ran, and its memory was lost in a crash.
    Crashed,
    /// It will never run here.
    Refused,
}

/// The destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Destination {
    /// Where it stands.
    pub phase: DestinationPhase,
    /// The epoch at which the machine would be ours.
    pub epoch: Epoch,
    /// Whether it came without pages that are fetched when it runs.
    pub part: bool,
}

impl Destination {
    /// One that begins, and would own the machine at `epoch`. Its driver has written [`Record::Begun`].
    pub fn new(epoch: Epoch) -> Destination {
        Destination { phase: DestinationPhase::Receiving, epoch, part: false }
    }

    /// After a crash: from the last record of its journal, if there is one, whether [`Record::ReadyPart`] is in it, and
    /// whether memory (as far as it had come) is still here.
    pub fn recover(last: Option<Record>, part: bool, epoch: Epoch, ram: bool) -> (Destination, Vec<Action>) {
        use DestinationPhase::*;
        let at = |phase| Destination { phase, epoch, part };
        match last {
            None => (at(Unknown), vec![]),
            Some(Record::Refused) => (at(Refused), vec![Send(Message::Refused)]),
            Some(Record::Ready | Record::ReadyPart) if ram => (at(Ready), vec![Send(at(Ready).answer())]),
            Some(Record::Owner) if ram => at(Owner).start(),
            Some(Record::Started) if ram => {
                let phase = if part { Pulling } else { Running };
                (at(phase), vec![TakeDisks(epoch), Run, Send(Message::Running)])
            }
            Some(Record::Whole) if ram => (at(Running), vec![TakeDisks(epoch), Run, Send(Message::Enough)]),
            // It ran: what it has written and sent cannot be taken back, so it is ours for good. Pages are of no use any more.
            Some(Record::Started) if part => {
                let actions = vec![Write(Record::Whole, epoch), Lost(epoch), Send(Message::Enough)];
                (at(Crashed), actions)
            }
            Some(Record::Started | Record::Whole) => {
                (at(Crashed), vec![Lost(epoch), Send(at(Crashed).answer())])
            }
            // It never ran, and cannot any more: the source, if it still has its memory, can go on. A part of memory is
            // worth as much as none.
            Some(_) => at(Unknown).refuse(),
        }
    }

    /// What is said to a source that asks, by where this side stands.
    fn answer(self) -> Message {
        use DestinationPhase::*;
        match (self.phase, self.part) {
            (Ready, false) => Message::Ready,
            (Ready, true) => Message::ReadyPart,
            (Pulling, _) | (_, false) => Message::Running,
            (_, true) => Message::Enough,
        }
    }

    fn refuse(self) -> (Destination, Vec<Action>) {
        let actions = vec![Write(Record::Refused, self.epoch), Free, Send(Message::Refused)];
        (Destination { phase: DestinationPhase::Refused, ..self }, actions)
    }

    fn ready(self, part: bool) -> (Destination, Vec<Action>) {
        let next = Destination { phase: DestinationPhase::Ready, part, ..self };
        let record = if part { Record::ReadyPart } else { Record::Ready };
        (next, vec![Note(record, self.epoch), Send(next.answer())])
    }

    fn start(self) -> (Destination, Vec<Action>) {
        let actions =
            vec![TakeDisks(self.epoch), Write(Record::Started, self.epoch), Run, Send(Message::Running)];
        let phase = if self.part { DestinationPhase::Pulling } else { DestinationPhase::Running };
        (Destination { phase, ..self }, actions)
    }

    /// One step. What changes nothing gives the same state and no actions.
    pub fn step(self, event: Event) -> (Destination, Vec<Action>) {
        use DestinationPhase::*;
        use Event::*;
        let stay = |actions| (self, actions);
        match (self.phase, event) {
            (Receiving, Loaded) => self.ready(false),
            (Receiving, LoadedPart) => self.ready(true),
            // The source has lost its memory (`Query`), or goes on (`Abort`), or cannot send the rest.
            (Receiving, Got(Message::Abort | Message::Query | Message::Gone) | Cancel | LinkLost | Force) => {
                self.refuse()
            }

            // What is missing comes from nowhere but the source.
            (Ready, Got(Message::Gone) | Force) if self.part => self.refuse(),
            (Ready, Got(Message::Commit) | Force) => {
                let (next, mut actions) = self.start();
                actions.insert(0, Note(Record::Owner, self.epoch));
                (next, actions)
            }
            // `Cancel` is a person's, who knows that a source whose host crashed meanwhile cannot go on either.
            (Ready, Got(Message::Abort) | Cancel) => self.refuse(),
            (Ready, Tick | Got(Message::Final | Message::Query)) => stay(vec![Send(self.answer())]),

            (Pulling, Complete) => {
                let next = Destination { phase: Running, ..self };
                (next, vec![Write(Record::Whole, self.epoch), Send(Message::Enough)])
            }
            (Pulling, Got(Message::Gone) | Force) => {
                (Destination { phase: Doomed, ..self }, vec![GiveUpPages, Send(Message::Enough)])
            }
            // `Abort` comes too late only where somebody has forced it to run here: the source is to hear of that.
            (
                Pulling | Running | Doomed | Crashed,
                Got(Message::Commit | Message::Query | Message::Final | Message::Abort | Message::Gone),
            ) => stay(vec![Send(self.answer())]),
            (
                Refused,
                Got(Message::Commit | Message::Query | Message::Final | Message::Abort | Message::Gone),
            ) => stay(vec![Send(Message::Refused)]),
            (Unknown, Got(Message::Commit | Message::Query | Message::Final | Message::Gone)) => {
                stay(vec![Send(Message::Unknown)])
            }
            _ => stay(vec![]),
        }
    }

    /// Whether nothing is left to be decided here.
    pub fn over(self) -> bool {
        use DestinationPhase::*;
        matches!(self.phase, Running | Doomed | Crashed | Refused | Unknown)
    }

    /// Whether it runs, or has run, here.
    pub fn started(self) -> bool {
        use DestinationPhase::*;
        matches!(self.phase, Pulling | Running | Doomed | Crashed)
    }
}
