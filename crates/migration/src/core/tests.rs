//! Rows of the recovery table, one by one.

use super::*;

fn phases() -> [SourcePhase; 9] {
    use SourcePhase::*;
    [Copying, Frozen, Unsure, Handed, HandedPart, Serving, Done, Aborted, Reclaimed]
}

fn writes(actions: &[Action]) -> Vec<Record> {
    actions.iter().filter_map(|a| if let Action::Write(r, _) = a { Some(*r) } else { None }).collect()
}

#[test]
fn only_the_source_that_was_not_handed_over_goes_on_by_itself() {
    for phase in phases() {
        for event in [Event::Cancel, Event::LinkLost, Event::Tick] {
            let (_, actions) = Source { phase, epoch: 1, ram: true }.step(event);
            let may = matches!(phase, SourcePhase::Copying | SourcePhase::Frozen | SourcePhase::Unsure);
            assert!(may || !actions.contains(&Action::Run), "{phase:?} {event:?} {actions:?}");
        }
    }
}

#[test]
fn a_ready_destination_waits_whatever_it_does_not_hear() {
    for (part, word) in [(false, Message::Ready), (true, Message::ReadyPart)] {
        let ready = Destination { phase: DestinationPhase::Ready, epoch: 2, part };
        for event in [Event::Tick, Event::LinkLost, Event::Got(Message::Query), Event::Got(Message::Final)] {
            let (next, actions) = ready.step(event);
            assert_eq!(next, ready);
            assert!(actions.iter().all(|a| *a == Action::Send(word)), "{actions:?}");
        }
    }
}

#[test]
fn a_source_that_lost_memory_hands_over_what_is_whole_there() {
    let (unsure, actions) = Source::recover(Record::Begun, 4, false);
    assert_eq!((unsure.phase, actions), (SourcePhase::Unsure, vec![Action::Send(Message::Query)]));
    let (handed, actions) = unsure.step(Event::Got(Message::Ready));
    assert_eq!(handed.phase, SourcePhase::Handed);
    assert_eq!(actions, [Action::Write(Record::Handed, 5), Action::Send(Message::Commit)]);
}

#[test]
fn what_comes_back_has_a_higher_epoch_than_what_was_handed_over() {
    let (handed, _) =
        Source { phase: SourcePhase::Frozen, epoch: 4, ram: true }.step(Event::Got(Message::Ready));
    let (back, actions) = handed.step(Event::Got(Message::Refused));
    assert_eq!(back.phase, SourcePhase::Reclaimed);
    assert_eq!(actions, [Action::Write(Record::Reclaimed, 6), Action::TakeDisks(6), Action::Run]);
}

#[test]
fn a_destination_that_had_started_is_never_taken_back() {
    let (crashed, actions) = Destination::recover(Some(Record::Started), false, 9, false);
    assert_eq!(crashed.phase, DestinationPhase::Crashed);
    assert_eq!(actions, [Action::Lost(9), Action::Send(Message::Running)]);
    for event in [Event::Got(Message::Abort), Event::Cancel, Event::Force] {
        assert_eq!(crashed.step(event).0, crashed);
    }
    // A source that goes on all the same hears that it ran here.
    assert_eq!(crashed.step(Event::Got(Message::Abort)).1, [Action::Send(Message::Running)]);
}

#[test]
fn without_memory_everything_before_the_start_becomes_a_promise() {
    for last in [Record::Begun, Record::Ready, Record::ReadyPart, Record::Owner] {
        let (d, actions) = Destination::recover(Some(last), last == Record::ReadyPart, 9, false);
        assert_eq!((d.phase, writes(&actions)), (DestinationPhase::Refused, vec![Record::Refused]));
    }
    assert_eq!(Destination::recover(None, false, 9, false).0.phase, DestinationPhase::Unknown);
}

#[test]
fn every_state_answers_every_event_and_writes_before_it_speaks() {
    let messages = [
        Message::Final,
        Message::Ready,
        Message::Commit,
        Message::Running,
        Message::Abort,
        Message::Refused,
        Message::Query,
        Message::Unknown,
        Message::ReadyPart,
        Message::Enough,
        Message::Gone,
    ];
    let events = [
        Event::Freeze,
        Event::Loaded,
        Event::LoadedPart,
        Event::Complete,
        Event::Cancel,
        Event::LinkLost,
        Event::Tick,
        Event::Force,
    ];
    let all = || events.into_iter().chain(messages.map(Event::Got));
    let ordered = |actions: &[Action]| {
        let first_send = actions.iter().position(|a| matches!(a, Action::Send(_))).unwrap_or(actions.len());
        actions.iter().skip(first_send).all(|a| !matches!(a, Action::Write(..)))
    };
    for (phase, ram) in phases().into_iter().flat_map(|p| [(p, true), (p, false)]) {
        for event in all() {
            let (_, actions) = Source { phase, epoch: 1, ram }.step(event);
            assert!(ordered(&actions), "{phase:?} {event:?} {actions:?}");
        }
    }
}

/// Rows of post-copy: what became of it, whoever's memory is lost when.
#[test]
fn what_is_there_in_part_is_answered_by_its_own_rows() {
    use Message::*;
    let told = |(_, actions): (Source, Vec<Action>)| actions;
    // Never handed over, and nobody has all of it: lost with the source.
    let (unsure, _) = Source::recover(Record::Begun, 4, false);
    let (aborted, actions) = unsure.step(Event::Got(ReadyPart));
    assert_eq!(aborted.phase, SourcePhase::Aborted);
    assert_eq!(actions, [Action::Write(Record::Aborted, 4), Action::Lost(4), Action::Send(Abort)]);
    // Handed over, and the source's memory lost: the destination either never ran it, or runs on for as long as it can.
    for last in [Record::HandedPart, Record::Serving] {
        assert_eq!(told(Source::recover(last, 4, false)), [Action::Send(Gone)]);
    }
    let ready = Destination { phase: DestinationPhase::Ready, epoch: 5, part: true };
    assert_eq!(ready.step(Event::Got(Gone)).0.phase, DestinationPhase::Refused);
    let (pulling, _) = ready.step(Event::Got(Commit));
    assert_eq!((pulling.phase, pulling.over()), (DestinationPhase::Pulling, false));
    let (doomed, actions) = pulling.step(Event::Got(Gone));
    assert_eq!(
        (doomed.phase, actions),
        (DestinationPhase::Doomed, vec![Action::GiveUpPages, Action::Send(Enough)])
    );
    // The destination's lost: the source's memory is worth nothing any more.
    let (crashed, actions) = Destination::recover(Some(Record::Started), true, 5, false);
    assert_eq!(actions, [Action::Write(Record::Whole, 5), Action::Lost(5), Action::Send(Enough)]);
    assert_eq!(crashed.phase, DestinationPhase::Crashed);
    let serving = Source { phase: SourcePhase::Serving, epoch: 4, ram: true };
    assert_eq!(told(serving.step(Event::Got(Enough))), [Action::Write(Record::Done, 5), Action::Free]);
    assert_eq!(told(serving.step(Event::LinkLost)), []);
    assert_eq!(told(serving.step(Event::Cancel)), []);
    // A person's word: it is started from its disks, not from memory that it has run on from.
    assert_eq!(
        told(serving.step(Event::Force)),
        [Action::Write(Record::Reclaimed, 6), Action::Lost(6), Action::Free]
    );
    // Without its source it can never be whole.
    assert_eq!(ready.step(Event::Force).0.phase, DestinationPhase::Refused);
}
