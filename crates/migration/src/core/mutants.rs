//! Rules that are broken on purpose: the model has to catch each of them.

use super::model::{FROM, Found, Rules, TO, search};
use super::{Action, Destination, DestinationPhase, Event, Message, Record, Source, SourcePhase};

fn swap(actions: &mut [Action], is: impl Fn(&Action) -> bool) {
    if let Some(at) = actions.iter().position(is).filter(|at| at + 1 < actions.len()) {
        actions.swap(at, at + 1);
    }
}

/// Goes on because the destination is not heard any more.
struct ResumesOnSilence;
impl Rules for ResumesOnSilence {
    fn source(s: Source, e: Event) -> (Source, Vec<Action>) {
        match (s.phase, e) {
            (SourcePhase::Handed, Event::LinkLost) if s.ram => {
                let (next, _) = s.step(Event::Got(Message::Refused));
                (
                    next,
                    vec![
                        Action::Write(Record::Reclaimed, s.epoch + 2),
                        Action::TakeDisks(s.epoch + 2),
                        Action::Run,
                    ],
                )
            }
            _ => s.step(e),
        }
    }
}

/// Commits before the record is durable.
struct CommitsEarly;
impl Rules for CommitsEarly {
    fn source(s: Source, e: Event) -> (Source, Vec<Action>) {
        let (next, mut actions) = s.step(e);
        swap(&mut actions, |a| matches!(a, Action::Write(Record::Handed, _)));
        (next, actions)
    }
}

/// What a record permits is done before that is durable.
fn noted(mut actions: Vec<Action>) -> Vec<Action> {
    for a in &mut actions {
        if let Action::Write(r, epoch) = *a {
            *a = Action::Note(r, epoch);
        }
    }
    actions
}

/// The source hands the machine over by a note.
struct HandsOverByANote;
impl Rules for HandsOverByANote {
    fn source(s: Source, e: Event) -> (Source, Vec<Action>) {
        let (next, actions) = s.step(e);
        (next, if next.phase == SourcePhase::Handed { noted(actions) } else { actions })
    }
}

/// The destination runs it by a note.
struct StartsByANote;
impl Rules for StartsByANote {
    fn destination(d: Destination, e: Event) -> (Destination, Vec<Action>) {
        let (next, actions) = d.step(e);
        (next, if next.phase == DestinationPhase::Running { noted(actions) } else { actions })
    }
}

/// Runs before its journal says so.
struct RunsEarly;
impl Rules for RunsEarly {
    fn destination(d: Destination, e: Event) -> (Destination, Vec<Action>) {
        let (next, mut actions) = d.step(e);
        swap(&mut actions, |a| matches!(a, Action::Write(Record::Started, _)));
        (next, actions)
    }
}

/// An owner that has lost the memory before it ran does not say so.
struct SilentOwner;
impl Rules for SilentOwner {
    fn recover_destination(last: Option<Record>, part: bool, ram: bool) -> (Destination, Vec<Action>) {
        match last {
            Some(Record::Owner) if !ram => {
                (Destination { phase: DestinationPhase::Owner, epoch: TO, part }, vec![])
            }
            _ => Destination::recover(last, part, TO, ram),
        }
    }
}

/// Runs as soon as everything is there.
struct RunsWhenReady;
impl Rules for RunsWhenReady {
    fn destination(d: Destination, e: Event) -> (Destination, Vec<Action>) {
        match (d.phase, e) {
            (DestinationPhase::Ready, Event::LinkLost) => d.step(Event::Got(Message::Commit)),
            _ => d.step(e),
        }
    }
}

/// Frees its memory when it has sent the commit.
struct FreesEarly;
impl Rules for FreesEarly {
    fn source(s: Source, e: Event) -> (Source, Vec<Action>) {
        let (mut next, mut actions) = s.step(e);
        if actions.contains(&Action::Write(Record::Handed, s.epoch + 1)) && s.ram {
            actions.push(Action::Free);
            next.ram = false;
        }
        (next, actions)
    }
}

/// Takes a journal that is not there for a promise.
struct TrustsAbsence;
impl Rules for TrustsAbsence {
    fn destination(d: Destination, e: Event) -> (Destination, Vec<Action>) {
        let (next, mut actions) = d.step(e);
        for a in &mut actions {
            if *a == Action::Send(Message::Unknown) {
                *a = Action::Send(Message::Refused);
            }
        }
        (next, actions)
    }
}

/// Gives up what is ready because the source is not heard.
struct GivesUp;
impl Rules for GivesUp {
    fn destination(d: Destination, e: Event) -> (Destination, Vec<Action>) {
        match (d.phase, e) {
            // Without the durable promise.
            (DestinationPhase::Ready, Event::LinkLost) => {
                (Destination { phase: DestinationPhase::Refused, ..d }, vec![Action::Send(Message::Refused)])
            }
            _ => d.step(e),
        }
    }
}

/// Frees its memory when the machine runs there, whatever that still needs.
struct FreesWhatIsNeeded;
impl Rules for FreesWhatIsNeeded {
    fn source(s: Source, e: Event) -> (Source, Vec<Action>) {
        match (s.phase, e) {
            (SourcePhase::HandedPart, Event::Got(Message::Running)) => s.step(Event::Got(Message::Enough)),
            _ => s.step(e),
        }
    }
}

/// Goes on from the memory that it serves pages from, because the destination is not heard any more.
struct ResumesWhileServing;
impl Rules for ResumesWhileServing {
    fn source(s: Source, e: Event) -> (Source, Vec<Action>) {
        match (s.phase, e) {
            (SourcePhase::Serving, Event::LinkLost) if s.ram => {
                let epoch = s.epoch + 2;
                let next = Source { phase: SourcePhase::Reclaimed, ..s };
                (next, vec![Action::Write(Record::Reclaimed, epoch), Action::TakeDisks(epoch), Action::Run])
            }
            _ => s.step(e),
        }
    }
}

/// Takes what is there in part for what is there as a whole, when its own memory is lost.
struct HandsOverWhatIsNowhere;
impl Rules for HandsOverWhatIsNowhere {
    fn source(s: Source, e: Event) -> (Source, Vec<Action>) {
        match (s.phase, e) {
            (SourcePhase::Unsure, Event::Got(Message::ReadyPart)) => s.step(Event::Got(Message::Ready)),
            _ => s.step(e),
        }
    }
}

/// Gives up pages because the source is not heard any more.
struct GivesUpPages;
impl Rules for GivesUpPages {
    fn destination(d: Destination, e: Event) -> (Destination, Vec<Action>) {
        match (d.phase, e) {
            (DestinationPhase::Pulling, Event::LinkLost) => d.step(Event::Got(Message::Gone)),
            _ => d.step(e),
        }
    }
}

/// Says that nothing is missing as soon as it runs.
struct SaysEnoughEarly;
impl Rules for SaysEnoughEarly {
    fn destination(d: Destination, e: Event) -> (Destination, Vec<Action>) {
        match (d.phase, e) {
            (DestinationPhase::Pulling, Event::Tick) => d.step(Event::Complete),
            _ => d.step(e),
        }
    }
}

/// A source that has lost its memory does not say so.
struct SilentSource;
impl Rules for SilentSource {
    fn source(s: Source, e: Event) -> (Source, Vec<Action>) {
        let (next, mut actions) = s.step(e);
        actions.retain(|a| *a != Action::Send(Message::Gone));
        (next, actions)
    }
    fn recover_source(last: Record, ram: bool) -> (Source, Vec<Action>) {
        let (next, mut actions) = Source::recover(last, FROM, ram);
        actions.retain(|a| *a != Action::Send(Message::Gone));
        (next, actions)
    }
}

/// A destination whose machine is lost says only that it ran: the source waits for its need of pages for ever.
struct NeverEnough;
impl Rules for NeverEnough {
    fn recover_destination(last: Option<Record>, part: bool, ram: bool) -> (Destination, Vec<Action>) {
        let part = part && !matches!(last, Some(Record::Started) if !ram);
        Destination::recover(last, part, TO, ram)
    }
}

fn wrong<R: Rules>(crashes: u8) -> (String, Vec<String>) {
    let found: Found = search::<R>(crashes);
    found.wrong.unwrap_or_else(|| panic!("not caught; stuck: {}, {:?}", found.stuck, found.stuck_by))
}

#[test]
fn going_on_because_of_silence_is_caught() {
    let (why, how) = wrong::<ResumesOnSilence>(0);
    assert!(why.contains("run") || why.contains("keeps"), "{why} {how:?}");
}

#[test]
fn a_commit_before_its_record_is_caught() {
    let (why, how) = wrong::<CommitsEarly>(2);
    assert!(how.iter().any(|s| s.contains("Commit")), "{why} {how:?}");
}

#[test]
fn running_before_the_start_is_recorded_is_caught() {
    let (why, how) = wrong::<RunsEarly>(2);
    assert!(how.iter().any(|s| s.contains("destination crashes")), "{why} {how:?}");
}

#[test]
fn a_decision_that_a_crash_takes_back_is_caught() {
    let (why, how) = wrong::<HandsOverByANote>(2);
    assert!(how.iter().any(|s| s.contains("with its last note")), "{why} {how:?}");
    let (why, how) = wrong::<StartsByANote>(2);
    assert!(how.iter().any(|s| s.contains("with its last note")), "{why} {how:?}");
}

#[test]
fn an_owner_that_does_not_refuse_is_caught() {
    let found = search::<SilentOwner>(2);
    assert!(found.wrong.is_none(), "{:?}", found.wrong);
    assert!(found.stuck > 0 && !found.stuck_by.is_empty());
}

#[test]
fn running_without_a_commit_is_caught() {
    let (why, _) = wrong::<RunsWhenReady>(0);
    assert!(why.contains("run") || why.contains("keeps") || why.contains("epoch"), "{why}");
}

#[test]
fn freeing_memory_before_the_destination_runs_is_caught() {
    let (why, how) = wrong::<FreesEarly>(0);
    assert!(why.contains("frees"), "{why} {how:?}");
}

#[test]
fn a_missing_journal_that_counts_as_a_promise_is_caught() {
    let (why, how) = wrong::<TrustsAbsence>(3);
    assert!(how.iter().any(|s| s.contains("removed")), "{why} {how:?}");
}

#[test]
fn giving_up_without_a_record_is_caught() {
    let (why, how) = wrong::<GivesUp>(2);
    assert!(how.iter().any(|s| s == "destination: LinkLost"), "{why} {how:?}");
}

#[test]
fn freeing_pages_that_are_still_needed_is_caught() {
    let (why, how) = wrong::<FreesWhatIsNeeded>(0);
    assert!(why.contains("frees pages"), "{why} {how:?}");
}

#[test]
fn going_on_from_memory_that_is_served_is_caught() {
    let (why, how) = wrong::<ResumesWhileServing>(0);
    assert!(why.contains("run") || why.contains("keeps"), "{why} {how:?}");
}

#[test]
fn handing_over_what_nobody_has_as_a_whole_is_caught() {
    let (why, how) = wrong::<HandsOverWhatIsNowhere>(1);
    assert!(why.contains("nobody has all of it"), "{why} {how:?}");
}

#[test]
fn giving_up_pages_because_of_silence_is_caught() {
    let (why, how) = wrong::<GivesUpPages>(0);
    assert!(why.contains("gives up pages"), "{why} {how:?}");
}

#[test]
fn saying_that_nothing_is_missing_is_caught() {
    let (why, how) = wrong::<SaysEnoughEarly>(0);
    assert!(why.contains("they are not"), "{why} {how:?}");
}

#[test]
fn a_source_that_does_not_say_that_its_memory_is_lost_is_caught() {
    let found = search::<SilentSource>(1);
    assert!(found.wrong.is_none() && found.stuck > 0, "{:?}", found.wrong);
}

#[test]
fn a_lost_machine_for_which_memory_is_kept_for_ever_is_caught() {
    let found = search::<NeverEnough>(1);
    assert!(found.wrong.is_none() && found.stuck > 0, "{:?}", found.wrong);
}
