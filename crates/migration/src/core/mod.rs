//! Who owns a machine that moves: the two sides as pure functions, `step(state, event) -> (state, actions)`, no I/O.
//!
//! ```text
//! SOURCE                                               DESTINATION
//!
//!  Copying ──freeze──► Frozen ────── Final ─────────►  Receiving ──loaded, (Ready)──► Ready
//!     │ cancel, lost      │ ◄───────── Ready ──────────────┼────────────────────────────┤
//!     ▼                   │                                │ abort, RAM lost            │
//!  [Aborted] ◄────────────┤ cancel, lost, Refused          ▼                            │
//!   runs on               │                            [Refused] ◄──────────────────────┤ Abort, RAM lost
//!                      [Handed] ───── Commit ──────────────┼────────────────────────────┤
//!                      │      │                            │ RAM lost                   ▼
//!         Refused, ◄───┘      │                            ├───────────────────────── (Owner)
//!       [Reclaimed]           │                            │                      disks at our epoch
//!         runs on             │ ◄───── Running ────────────┼──────────────────────── [Started]
//!                             ▼                                                         ▼
//!                          [Done], memory freed                                      Running ──RAM lost──► Crashed
//! ```
//! With **post-copy** the destination runs before all of memory is there, and fetches the rest:
//! ```text
//!  Frozen ────────── Final, pages left out ─────────►  Receiving ──loaded, (ReadyPart)──► Ready, in part
//!     │ ◄──────────────── ReadyPart ───────────────────────────────────────────────────────┤
//!  [HandedPart] ────── Commit ────────────────────────────────────────────────────────────►│
//!     │                                                                                 (Owner)
//!     │ ◄───────────────── Running ─────────────────────────────────────────────────── [Started]
//!  [Serving] ── pages, for as long as it takes ──────────────────────────────────────► Pulling ──RAM lost──► Crashed
//!     │ ◄────────────────── Enough ────────────────────────────────────────────────── [Whole], all here
//!     ▼                                                                                    ▼
//!  [Done], memory freed                                                                 Running
//!
//!  Source's RAM lost ── Gone ──►  Ready, in part: Refused      Pulling: Doomed, runs until it needs what never comes
//! ```
//! A name in brackets is a record in that side's journal, durable before the next action; one in parentheses is durable no
//! later than the next in brackets. The destination never ran what it lost before `Started`, whichever of its records
//! outlived that: it refuses. So the machine stands still for two durable writes, one a side. The rules:
//!
//! - **R1** The source runs on only if it never wrote `Handed`, or after it has heard `Refused`.
//! - **R2** The destination runs only after `Commit`.
//! - **R3** `Handed` is durable before the first byte of `Commit` leaves: that write is the commit.
//! - **R4** `Started` is durable before the destination's first instruction.
//! - **R5** Silence decides nothing: `Ready` neither runs nor gives up because the other is not heard, nor does `Handed`.
//! - **R6** The source keeps its memory until the destination is known to have started.
//! - **R7** Every change of owner has a higher epoch; disks are taken at that epoch, and refuse a lower one.
//! - **R8** `Refused` is a promise for ever; a journal that is not there promises nothing ([`Message::Unknown`]).
//! - **R9** What was handed over in part is freed only after `Enough`; and it is never handed over by a source that has lost
//!   its memory: nobody else has the rest.
//! - **R10** The destination gives up pages that have not come only after `Gone`, never because the source is silent.
//!
//! What each side does after a crash follows from the last record of its journal, and from whether memory outlived the
//! crash: [`Source::recover`], [`Destination::recover`]. Where one host never comes back, a person says so
//! ([`Event::Force`]), and with that promises that it runs nothing and reaches no disk; a store that several hosts agree
//! in can take that decision instead, by answering the same event.
//!
//! The model test (`model.rs`) drives these two functions through every order of loss, duplication, reordering and
//! crashes.

mod destination;
#[cfg(test)]
mod model;
#[cfg(test)]
mod mutants;
mod source;

pub use destination::{Destination, DestinationPhase};
pub use source::{Source, SourcePhase};

/// Grows with every change of owner.
pub type Epoch = u64;

/// What one side tells the other about ownership. All may be lost, doubled and late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// Source: it stands still, and this is the rest of it.
    Final,
    /// Destination: all of it is here, and it can run.
    Ready,
    /// Source: it is yours.
    Commit,
    /// Destination: it was started here.
    Running,
    /// Source: it goes on here; give yours up.
    Abort,
    /// Destination: it will never run here.
    Refused,
    /// What do you know of it?
    Query,
    /// Destination: there is no journal of it here, which proves nothing.
    Unknown,
    /// Destination: all of it but pages that it will fetch is here, and it can run.
    ReadyPart,
    /// Destination: it was started here, and needs no page of the source's any more.
    Enough,
    /// Source: the memory that you still need of me is lost.
    Gone,
}

/// A line of a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Record {
    /// Either side: it has begun. Written before anything is sent or taken.
    Begun,
    /// Source: the destination may have it from now on.
    Handed,
    /// Source: the destination runs it.
    Done,
    /// Source: it stays here.
    Aborted,
    /// Source: it is here again, at a higher epoch.
    Reclaimed,
    /// Destination: it is here as a whole.
    Ready,
    /// Destination: it is ours, and has not run.
    Owner,
    /// Destination: it runs, or has run.
    Started,
    /// Destination: it will never run here.
    Refused,
    /// Source: the destination may have it from now on, and will need pages that are only here.
    HandedPart,
    /// Source: it runs there, and needs pages that are only here.
    Serving,
    /// Destination: it is here but for pages that only the source has.
    ReadyPart,
    /// Destination: all pages have come, or are of no use any more.
    Whole,
}

/// What happens to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// The source is to stand still for the rest of the copy.
    Freeze,
    /// The destination has received and checked all of it.
    Loaded,
    /// The destination has received and checked all of it but pages that it is to fetch when it runs.
    LoadedPart,
    /// The last of those pages has come.
    Complete,
    /// Somebody wants it to stay where it is.
    Cancel,
    /// The connection is gone.
    LinkLost,
    /// Time has passed: what may have been lost is said again.
    Tick,
    /// The other side says something.
    Got(Message),
    /// A person says that the other host will never come back, runs nothing, and reaches no disk.
    Force,
}

/// What a side does, in this order, each before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// The machine stands still.
    Pause,
    /// The record is made durable, and those before it.
    Write(Record, Epoch),
    /// The record is made; a crash may take it, and nothing waits for it.
    Note(Record, Epoch),
    /// The message is sent; nobody knows whether it arrives.
    Send(Message),
    /// The machine's disks are taken at this epoch.
    TakeDisks(Epoch),
    /// The machine runs, from the memory that is here.
    Run,
    /// Memory is freed.
    Free,
    /// Pages that have not come will never come.
    GiveUpPages,
    /// The machine is lost, as when its host crashes: it may be started from its disks at this epoch.
    Lost(Epoch),
}

#[cfg(test)]
mod tests;
