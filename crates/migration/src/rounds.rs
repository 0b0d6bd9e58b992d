//! When to go on copying and when to stop the machine: a pure model of dirty rate against bandwidth.
//!
//! Each round gives what was written meanwhile. From that follow what is left to be sent, and so the downtime if the
//! machine stopped now: `pending bytes / bandwidth + fixed part`. It goes on while that gets less, and stops at the local
//! minimum, or where it is as good as nothing; the user's limit is an upper bound and not an aim. No count of rounds is
//! fixed. Where rounds bring nothing any more and the limit is not reached, it says so, or has the rest follow the machine
//! (post-copy), as [`Follow`] says.
//!
//! Where the user allows it, a machine that writes too fast is slowed down instead: each round without progress lowers the rate
//! at which it may write to pages anew, from what was measured down to a floor, and no further than it takes.
//!
//! Bandwidth is counted in bytes of pages, as what is written is: compressed pages make it more than what the link carries.
//! The first round's pages are not like those that are written: it says only how fast pages go as they are, at least, and at
//! most; what stops the machine believes the former, what gives up copying the latter.
//!
//! Every page has a byte of history, a bit for each of the last eight rounds. What was written in three of the last four is
//! held back: it would only be sent again.

use std::time::Duration;
use strata_memory::{PAGE, PageSet};

/// A downtime that is not worth another round.
const AS_GOOD_AS_NOTHING: Duration = Duration::from_millis(5);
/// A round that lowers the estimate by less than this part of it has brought nothing.
const PROGRESS: f64 = 0.10;
/// How many such rounds in a row are enough.
const PATIENCE: u32 = 3;
/// A stop is made at an estimate that is at most this much above the best one seen.
const NEAR_BEST: f64 = 1.25;
/// Rounds without progress before the rest follows the machine, where it may.
const PATIENCE_IF_IT_MAY_FOLLOW: u32 = 2;
/// A downtime that is preferred to having the rest follow the machine: who is looking does not notice it, and a machine
/// that is whole does not depend on two hosts.
const RATHER_STAND: Duration = Duration::from_millis(50);
/// The part of the link's rate at which writing makes rounds that are not worth what they send.
const OUTRUN: f64 = 0.75;
/// What is left of the rate of writing after a round without progress.
const SLOWER: f64 = 0.7;
/// The part of the link's rate below which a machine is not slowed: rounds get shorter by so much then that it is not its
/// harts which keep them from coming to an end.
const FLOOR: f64 = 0.05;
/// Nor below so many pages a second, at which its kernel can still do its work.
const FLOOR_PAGES: f64 = 256.0;
/// From as many bytes on a round says something about bandwidth.
const TELLING: u64 = 1 << 20;

/// A round that is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Done {
    /// Bytes that the link took.
    pub bytes: u64,
    /// Bytes of pages that these were, before they were compressed.
    pub plain: u64,
    /// How long that took.
    pub took: Duration,
}

/// What is known after a round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The downtime if it stopped now.
    pub downtime: Duration,
    /// Bytes of pages per second that are expected to go.
    pub bandwidth: f64,
    /// Bytes per second that were written anew in the last round, counted in pages.
    pub dirty_rate: f64,
    /// Pages that are left to be sent.
    pub pending: u64,
    /// Those among them that are held back.
    pub held: u64,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// Send these while it runs.
    Copy(PageSet),
    /// Stop it and send the rest.
    Stop,
    /// Stop it, and let the rest follow while it runs there.
    Follow,
    /// Rounds bring nothing any more, and the limit is not reached.
    Stalls,
}

/// Whether the rest may follow a machine that runs at the destination already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Follow {
    /// It may not.
    #[default]
    Never,
    /// Where rounds bring nothing any more and it would stand for long.
    IfNeeded,
    /// As soon as a round brings little.
    Soon,
}

/// The rounds of one migration.
pub struct Rounds {
    history: Vec<u8>,
    pending: Vec<u64>,
    limit: Duration,
    fixed: Duration,
    follow: Follow,
    may_slow: bool,
    /// Pages a second that may be written anew, where it is slowed.
    pace: Option<f64>,
    bandwidth: f64,
    /// The same, at most.
    reach: f64,
    best: Option<Duration>,
    idle: u32,
    rounds: u32,
}

impl Rounds {
    /// For memory of `pages` pages, of which all are to be sent. `fixed` is the part of a downtime that does not come from
    /// pages.
    pub fn new(pages: usize, limit: Duration, fixed: Duration) -> Rounds {
        Rounds {
            history: vec![0; pages],
            pending: PageSet::of(pages, |_| true).words().to_vec(),
            limit,
            fixed,
            follow: Follow::Never,
            may_slow: false,
            pace: None,
            bandwidth: 0.0,
            reach: 0.0,
            best: None,
            idle: 0,
            rounds: 0,
        }
    }

    /// The rest may follow.
    pub fn let_follow(&mut self, follow: Follow) {
        self.follow = follow;
    }

    /// It may be slowed down.
    pub fn let_slow(&mut self) {
        self.may_slow = true;
    }

    /// How many pages a second it may write anew; 0 is any number.
    pub fn pace(&self) -> u64 {
        self.pace.map_or(0, |p| p.ceil() as u64)
    }

    /// The downtime of a machine that the rest follows, but for what is known of each page: a bit.
    pub fn downtime_if_it_follows(&self) -> Duration {
        let bits = (self.history.len() / 8) as f64;
        self.fixed + Duration::from_secs_f64(if self.bandwidth > 0.0 { bits / self.bandwidth } else { 0.0 })
    }

    /// Pages that were written in one of the last rounds: whoever goes on with the machine needs them first.
    pub fn recent(&self) -> PageSet {
        PageSet::of(self.history.len(), |p| self.history.get(p).is_some_and(|h| h >> 5 != 0))
    }

    /// What is left, with nothing held back.
    pub fn rest(&self) -> PageSet {
        PageSet::from_words(self.pending.clone())
    }

    /// The first round: all pages.
    pub fn first(&mut self) -> PageSet {
        let all = self.rest();
        self.pending.fill(0);
        all
    }

    /// A first round of these pages only.
    pub fn only(&mut self, pages: &PageSet) {
        self.pending.iter_mut().zip(pages.words()).for_each(|(p, s)| *p &= !s);
    }

    /// Pages were written.
    pub fn written(&mut self, dirty: &PageSet) {
        self.pending.iter_mut().zip(dirty.words()).for_each(|(p, d)| *p |= d);
    }

    /// Whether a page has been written too often lately.
    fn hot(history: u8) -> bool {
        (history >> 4).count_ones() >= 3
    }

    /// A round is over, during which `dirty` was written.
    pub fn next(&mut self, dirty: &PageSet, done: Done) -> (Next, Estimate) {
        self.rounds += 1;
        self.written(dirty);
        for (n, words) in self.history.chunks_mut(64).enumerate() {
            let word = dirty.words().get(n).copied().unwrap_or(0);
            for (bit, h) in words.iter_mut().enumerate() {
                *h = *h >> 1 | ((word >> bit & 1) as u8) << 7;
            }
        }
        let seconds = done.took.as_secs_f64().max(1e-6);
        if done.plain >= TELLING || self.bandwidth == 0.0 {
            self.reach = (done.plain as f64 / seconds).max(1.0);
            self.bandwidth =
                if self.rounds > 1 { self.reach } else { (done.bytes as f64 / seconds).max(1.0) };
        }
        // A machine that is slowed makes rounds shorter by that: what it writes again is worth sending.
        let hot = |h: u8| self.pace.is_none() && Self::hot(h);
        let held: Vec<u64> = self
            .history
            .chunks(64)
            .map(|c| c.iter().enumerate().fold(0, |w, (bit, h)| w | u64::from(hot(*h)) << bit))
            .collect();
        let held: Vec<u64> = held.iter().zip(&self.pending).map(|(h, p)| h & p).collect();
        let count = |words: &[u64]| words.iter().map(|w| u64::from(w.count_ones())).sum::<u64>();
        let pending = count(&self.pending);
        let residue = Duration::from_secs_f64((pending * PAGE) as f64 / self.bandwidth);
        let estimate = Estimate {
            downtime: residue + self.fixed,
            bandwidth: self.bandwidth,
            dirty_rate: (dirty.len() as u64 * PAGE) as f64 / seconds,
            pending,
            held: count(&held),
        };
        (self.decide(estimate, &held), estimate)
    }

    fn decide(&mut self, e: Estimate, held: &[u64]) -> Next {
        let best = self.best.unwrap_or(Duration::MAX);
        if e.downtime.as_secs_f64() < best.as_secs_f64() * (1.0 - PROGRESS) {
            self.idle = 0;
        } else {
            self.idle += 1;
        }
        self.best = Some(best.min(e.downtime));
        if e.downtime <= AS_GOOD_AS_NOTHING.max(self.fixed) {
            return Next::Stop;
        }
        let send: Vec<u64> = self.pending.iter().zip(held).map(|(p, h)| p & !h).collect();
        let nothing = send.iter().all(|w| *w == 0);
        if self.slows(e, nothing) {
            self.idle = 0;
            // What was written too often was so at another pace.
            return Next::Copy(PageSet::from_words(std::mem::replace(
                &mut self.pending,
                vec![0; held.len()],
            )));
        }
        if self.follow != Follow::Never && !self.may_slow_more(e) && self.follows(e) {
            return Next::Follow;
        }
        if self.idle >= PATIENCE {
            let near = e.downtime.as_secs_f64() <= best.as_secs_f64() * NEAR_BEST;
            if e.downtime <= self.limit && (near || self.idle >= 3 * PATIENCE) {
                return Next::Stop;
            }
            if self.idle >= 3 * PATIENCE {
                return Next::Stalls;
            }
        }
        if nothing {
            // Nothing but what is written again and again: another round would send nothing.
            return match self.follow {
                Follow::Soon => Next::Follow,
                _ if e.downtime <= self.limit => Next::Stop,
                Follow::IfNeeded => Next::Follow,
                Follow::Never => Next::Stalls,
            };
        }
        self.pending.iter_mut().zip(&send).for_each(|(p, s)| *p &= !s);
        Next::Copy(PageSet::from_words(send))
    }
}

impl Rounds {
    fn floor(e: Estimate) -> f64 {
        (e.bandwidth * FLOOR / PAGE as f64).max(FLOOR_PAGES)
    }

    /// Whether it may write more than at the floor, and need not.
    fn may_slow_more(&self, e: Estimate) -> bool {
        self.may_slow && self.pace.is_none_or(|p| p > Self::floor(e))
    }

    /// Lowers the pace, if it may and must: the limit is not reached, and this round has brought nothing, or the next cannot
    /// (there is `nothing` to send but what is held back, or it writes as fast as the link takes it).
    fn slows(&mut self, e: Estimate, nothing: bool) -> bool {
        // Pages that shrink go faster than the link takes bytes.
        let bandwidth = e.bandwidth.max(self.reach);
        let in_vain = self.idle > 0 || nothing || e.dirty_rate >= bandwidth;
        if e.downtime <= self.limit || !in_vain || !self.may_slow_more(e) {
            return false;
        }
        let measured = e.dirty_rate.min(bandwidth) / PAGE as f64;
        self.pace = Some((self.pace.unwrap_or(f64::MAX).min(measured) * SLOWER).max(Self::floor(e)));
        // What was reached before, at another load, is no measure for what comes.
        self.best = Some(e.downtime);
        true
    }

    /// Whether the rest is to follow the machine now.
    fn follows(&self, e: Estimate) -> bool {
        // A writer that nearly outruns the link makes every round nearly as long as the one before.
        let outrun = e.dirty_rate >= e.bandwidth.max(self.reach) * OUTRUN;
        match self.follow {
            Follow::Never => false,
            Follow::Soon => outrun || self.idle > 0,
            Follow::IfNeeded => {
                let long = e.downtime > self.limit.min(RATHER_STAND);
                long && (outrun && e.downtime > self.limit || self.idle >= PATIENCE_IF_IT_MAY_FOLLOW)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const BW: f64 = 100.0 * MIB as f64;

    /// Runs rounds against a guest whose writes `dirty` says by the round's length; gives rounds, bytes, what came of it.
    fn run(pages: usize, limit: u64, dirty: impl FnMut(Duration) -> PageSet) -> (u32, u64, Next, Estimate) {
        run_with(pages, limit, Follow::Never, dirty)
    }

    fn run_with(
        pages: usize,
        limit: u64,
        follow: Follow,
        dirty: impl FnMut(Duration) -> PageSet,
    ) -> (u32, u64, Next, Estimate) {
        run_packed(pages, limit, follow, |_| 1.0, dirty)
    }

    /// The same where the pages of a round become `ratio` of what they are.
    fn run_packed(
        pages: usize,
        limit: u64,
        follow: Follow,
        ratio: impl Fn(u32) -> f64,
        mut dirty: impl FnMut(Duration) -> PageSet,
    ) -> (u32, u64, Next, Estimate) {
        let mut rounds = Rounds::new(pages, Duration::from_millis(limit), Duration::from_millis(2));
        rounds.let_follow(follow);
        let (mut send, mut total, mut n) = (rounds.first(), 0, 0);
        loop {
            n += 1;
            let plain = send.len() as u64 * PAGE;
            let bytes = (plain as f64 * ratio(n)) as u64;
            let took = Duration::from_secs_f64(bytes as f64 / BW);
            total += bytes;
            let (next, e) = rounds.next(&dirty(took), Done { bytes, plain, took });
            match next {
                Next::Copy(set) => send = set,
                end => return (n, total + rounds.rest().len() as u64 * PAGE, end, e),
            }
            assert!(n < 1000, "it does not end");
        }
    }

    /// Pages `from..from+n` of which as many are written as `rate` MiB/s does in that time.
    fn writer(pages: usize, from: usize, n: usize, rate: f64) -> impl FnMut(Duration) -> PageSet {
        let mut at = 0;
        move |took| {
            let count = ((took.as_secs_f64() * rate * MIB as f64 / PAGE as f64) as usize).min(n);
            let first = at;
            at = (at + count) % n;
            PageSet::of(pages, |p| p >= from && p < from + n && (p - from + n - first) % n < count)
        }
    }

    #[test]
    fn an_idle_machine_stops_at_once() {
        let (n, total, next, _) = run(25_600, 300, |_| PageSet::of(25_600, |_| false));
        assert_eq!((n, total, next), (1, 100 * MIB, Next::Stop));
    }

    #[test]
    fn it_goes_on_below_the_limit_while_that_helps() {
        // Half the bandwidth over 64 MiB: each round is half as long as the one before.
        let (n, total, next, e) = run(65_536, 1_000, writer(65_536, 0, 16_384, 50.0));
        assert_eq!(next, Next::Stop);
        assert!(n > 5 && e.downtime < Duration::from_millis(20), "{n} rounds, {e:?}");
        assert!(total < 2 * 256 * MIB, "{} MiB", total / MIB);
    }

    #[test]
    fn what_is_always_written_is_held_back() {
        // 4 MiB that are written all the time, and nothing else.
        let hot = |_| PageSet::of(25_600, |p| p < 1024);
        let (_, total, next, e) = run(25_600, 300, hot);
        assert_eq!((next, e.held), (Next::Stop, 1024));
        assert!(total < 130 * MIB, "{} MiB: sent over and over", total / MIB);
    }

    #[test]
    fn a_writer_that_is_faster_than_the_link_is_told() {
        let (n, total, next, e) = run(65_536, 300, writer(65_536, 0, 60_000, 300.0));
        assert_eq!(next, Next::Stalls);
        assert!(e.downtime > Duration::from_millis(300) && n < 50, "{n} rounds, {e:?}");
        assert!(total < 12 * 256 * MIB, "{} MiB", total / MIB);
    }

    #[test]
    fn the_rest_follows_a_writer_that_the_link_does_not_keep_up_with() {
        for (follow, most) in [(Follow::IfNeeded, 3), (Follow::Soon, 2)] {
            let (n, total, next, e) = run_with(65_536, 300, follow, writer(65_536, 0, 60_000, 300.0));
            assert_eq!(next, Next::Follow, "{follow:?}");
            assert!(n <= most && total <= 2 * 256 * MIB, "{follow:?}: {n} rounds, {} MiB", total / MIB);
            assert!(e.downtime > Duration::from_millis(300), "{e:?}");
        }
        // A set that is rewritten faster than it can be sent, and is not all of memory.
        let (_, total, next, _) = run_with(65_536, 300, Follow::IfNeeded, writer(65_536, 0, 20_000, 300.0));
        assert_eq!(next, Next::Follow);
        assert!(total <= 2 * 256 * MIB, "{} MiB", total / MIB);
    }

    #[test]
    fn a_machine_that_can_go_as_a_whole_is_not_followed() {
        let idle = |_: Duration| PageSet::of(25_600, |_| false);
        assert_eq!(run_with(25_600, 300, Follow::IfNeeded, idle).2, Next::Stop);
        assert_eq!(run_with(25_600, 300, Follow::Soon, idle).2, Next::Stop);
        // It converges, or stands for a time that nobody notices.
        let slow = writer(65_536, 0, 16_384, 50.0);
        assert_eq!(run_with(65_536, 300, Follow::IfNeeded, slow).2, Next::Stop);
        let hot = |_: Duration| PageSet::of(25_600, |p| p < 1024);
        assert_eq!(run_with(25_600, 300, Follow::IfNeeded, hot).2, Next::Stop);
    }

    /// Runs rounds that may slow a guest which writes to `set` pages at `rate` MiB/s, or at `pace` if that is less and it is
    /// `heeded`; gives rounds, all paces, what came of it.
    fn run_slowed(set: usize, rate: f64, heeded: bool, follow: Follow) -> (u32, Vec<u64>, Next, Estimate) {
        const PAGES: usize = 65_536;
        let mut rounds = Rounds::new(PAGES, Duration::from_millis(300), Duration::from_millis(2));
        rounds.let_slow();
        rounds.let_follow(follow);
        let (mut send, mut paces, mut at) = (rounds.first(), vec![], 0);
        for n in 1..1000 {
            let bytes = send.len() as u64 * PAGE;
            let took = Duration::from_secs_f64(bytes as f64 / BW);
            let pages_a_second = match rounds.pace() {
                pace @ 1.. if heeded => (pace as f64).min(rate * 256.0),
                _ => rate * 256.0,
            };
            let count = ((took.as_secs_f64() * pages_a_second) as usize).min(set);
            let first = at;
            at = (at + count) % set;
            let dirty = PageSet::of(PAGES, |p| p < set && (p + set - first) % set < count);
            let (next, e) = rounds.next(&dirty, Done { bytes, plain: bytes, took });
            paces.push(rounds.pace());
            match next {
                Next::Copy(set) => send = set,
                end => return (n, paces, end, e),
            }
        }
        panic!("it does not end")
    }

    #[test]
    fn a_machine_that_may_be_slowed_is_slowed_until_it_can_go_as_a_whole() {
        // Over nearly all of memory, a part of it, and a set that is rewritten all the time.
        for set in [60_000, 20_000, 12_000] {
            for follow in [Follow::Never, Follow::IfNeeded] {
                let (n, paces, next, e) = run_slowed(set, 300.0, true, follow);
                assert_eq!(next, Next::Stop, "{set} {follow:?}: {paces:?}");
                assert!(n < 25 && e.downtime <= Duration::from_millis(300), "{n} rounds, {e:?}");
                // From the link's rate, by what one round without progress takes off: no more is needed.
                let last = *paces.last().unwrap();
                assert!((17_900..18_000).contains(&last), "{set} {follow:?}: {paces:?}");
            }
        }
    }

    #[test]
    fn a_machine_that_comes_to_an_end_by_itself_is_not_slowed() {
        for (set, rate) in [(1_000, 0.0), (16_384, 50.0), (1_024, 300.0)] {
            let (_, paces, next, _) = run_slowed(set, rate, true, Follow::Never);
            assert_eq!((next, paces.iter().max()), (Next::Stop, Some(&0)), "{set} at {rate}");
        }
    }

    #[test]
    fn where_slowing_does_not_help_it_is_told_or_followed_and_there_is_a_floor() {
        for (follow, end) in [(Follow::Never, Next::Stalls), (Follow::IfNeeded, Next::Follow)] {
            let (n, paces, next, _) = run_slowed(60_000, 300.0, false, follow);
            assert_eq!(next, end, "{paces:?}");
            assert!(n < 50 && paces.is_sorted_by(|a, b| *a == 0 || a >= b), "{paces:?}");
            let floor = (BW * FLOOR / PAGE as f64).ceil() as u64;
            assert_eq!(paces.last(), Some(&floor));
        }
        // A slow link's floor is what a kernel needs.
        let mut rounds = Rounds::new(1024, Duration::from_millis(1), Duration::ZERO);
        rounds.let_slow();
        rounds.first();
        let all = PageSet::of(1024, |_| true);
        while !matches!(
            rounds.next(&all, Done { bytes: MIB, plain: MIB, took: Duration::from_secs(8) }).0,
            Next::Stalls
        ) {}
        assert_eq!(rounds.pace(), FLOOR_PAGES as u64);
    }

    #[test]
    fn a_writer_that_outruns_the_link_does_not_outrun_what_is_compressed() {
        // Half as much again as the link carries, and a third of it is left by the compressor.
        let set = || writer(65_536, 0, 16_384, 150.0);
        let (_, _, next, e) = run_packed(65_536, 300, Follow::IfNeeded, |_| 0.3, set());
        assert_eq!(next, Next::Stop);
        let real = (e.pending * PAGE) as f64 * 0.3 / BW + 0.002;
        assert!((e.downtime.as_secs_f64() / real - 1.0).abs() < 0.05, "{e:?}, and in fact {real} s");
        assert!(e.downtime < Duration::from_millis(50), "{e:?}");
        assert_eq!(run_with(65_536, 300, Follow::IfNeeded, set()).2, Next::Follow);
        // Nor does one that the compressor does not help with, seen by its second round.
        let first = |n| if n == 1 { 0.3 } else { 1.0 };
        let (n, _, next, _) = run_packed(65_536, 300, Follow::IfNeeded, first, set());
        assert!(next == Next::Follow && n <= 4, "{n} rounds, {next:?}");
    }

    #[test]
    fn memory_that_shrinks_promises_nothing_of_what_is_written() {
        let mut rounds = Rounds::new(65_536, Duration::from_millis(300), Duration::from_millis(2));
        rounds.first();
        // 256 MiB in a second, of which the link saw 64; 1 MiB has been written meanwhile.
        let done = Done { bytes: 64 * MIB, plain: 256 * MIB, took: Duration::from_secs(1) };
        let (next, e) = rounds.next(&PageSet::of(65_536, |p| p < 256), done);
        assert!(matches!(next, Next::Copy(_)), "{next:?}");
        assert!(e.downtime > Duration::from_millis(15), "{e:?}");
        // What is written shrinks as well: now that is known.
        let done = Done { bytes: MIB, plain: 4 * MIB, took: Duration::from_millis(16) };
        let (_, e) = rounds.next(&PageSet::of(65_536, |p| p < 256), done);
        assert!(e.downtime < Duration::from_millis(7), "{e:?}");
    }

    #[test]
    fn pages_that_were_written_lately_are_known() {
        let mut rounds = Rounds::new(128, Duration::from_millis(300), Duration::from_millis(2));
        rounds.first();
        let done = Done { bytes: MIB, plain: MIB, took: Duration::from_millis(10) };
        for round in 0..4 {
            rounds.next(&PageSet::of(128, |p| p == 100 + round), done);
        }
        assert_eq!(rounds.recent().runs().collect::<Vec<_>>(), [(101, 3)]);
    }
}
