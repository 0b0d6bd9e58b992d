//! Journals that nobody will ask again are removed.
//!
//! A source's is of no use once it is known where the machine is. A destination's stays: nothing tells it that its source has
//! heard the answer, and a source that handed the machine over, or keeps memory for it, decides by that alone, however much
//! later it asks. They are a block each.

use super::{Journal, Said, Side, list, path_of};
use crate::core::Record;
use std::fs;
use std::path::Path;

/// For how long a settled journal is kept for people to read, in seconds.
const KEPT: u64 = 24 * 3600;

/// Whether nobody will ask what a journal says.
fn settled(said: &Said, side: Side) -> bool {
    side == Side::Source && matches!(said.last, Record::Done | Record::Aborted | Record::Reclaimed)
}

/// Removes what is settled since a day at `now` (seconds since 1970), but for migrations that an instance is still `in_one`
/// of, and for journals that are in use. Gives how many those were.
///
/// # Errors
/// The folder cannot be read.
pub fn prune(home: &Path, now: u64, in_one: impl Fn(&str) -> bool) -> std::io::Result<usize> {
    let old = |said: &Said, side| settled(said, side) && now.saturating_sub(said.time) > KEPT;
    let gone = |(id, side): &(String, Side)| {
        // What is damaged or unreadable is left to people.
        let may =
            !in_one(id) && Journal::look(home, id, *side).is_ok_and(|s| s.is_some_and(|s| old(&s, *side)));
        // Whoever acts for it holds it.
        let held = if may { Journal::take(home, id, *side).ok().flatten() } else { None };
        held.is_some_and(|(_held, said)| {
            old(&said, *side) && fs::remove_file(path_of(home, id, *side)).is_ok()
        })
    };
    Ok(list(home)?.iter().filter(|j| gone(j)).count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Detail, now};

    #[test]
    fn only_what_nobody_will_ask_again_is_removed_and_not_at_once() {
        use Record::*;
        let rows: [(Side, &[Record], bool); 14] = [
            (Side::Source, &[], false),
            (Side::Source, &[Aborted], true),
            (Side::Source, &[Handed], false),
            (Side::Source, &[Handed, Done], true),
            (Side::Source, &[Handed, Reclaimed], true),
            (Side::Source, &[HandedPart, Serving], false),
            (Side::Source, &[HandedPart, Serving, Done], true),
            (Side::Destination, &[], false),
            (Side::Destination, &[Ready], false),
            // Whatever it says, the source may not have heard it.
            (Side::Destination, &[Ready, Refused], false),
            (Side::Destination, &[Refused], false),
            (Side::Destination, &[Ready, Owner, Started], false),
            (Side::Destination, &[ReadyPart, Owner, Started], false),
            (Side::Destination, &[ReadyPart, Owner, Started, Whole], false),
        ];
        let detail = Detail { name: "web".into(), address: "h:1".into(), token: String::new(), plain: false };
        let later = now() + KEPT + 60;
        for (side, records, goes) in rows {
            let home = tempfile::tempdir().unwrap();
            let mut journal = Journal::begin(home.path(), "ab", side, 4, &detail).unwrap();
            records.iter().for_each(|r| journal.write(*r, 5).unwrap());
            let prune = |now: u64, moving: &str| prune(home.path(), now, |id| id == moving).unwrap();
            assert_eq!(prune(later, ""), 0, "{side:?} {records:?} is in use");
            drop(journal);
            assert_eq!(prune(now(), ""), 0, "{side:?} {records:?} was settled this moment");
            assert_eq!(prune(later, "ab"), 0, "{side:?} {records:?} is an instance's");
            assert_eq!(prune(later, ""), usize::from(goes), "{side:?} {records:?}");
            assert_eq!(list(home.path()).unwrap().is_empty(), goes, "{side:?} {records:?}");
        }
    }
}
