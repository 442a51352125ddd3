//! Compaction by the clock, as etcd does it. Every member takes samples of the revision; only the
//! leader compacts, so that a new one has its window filled already.
//!
//! - *Periodic*, keeping a period: a sample every tenth of the period, of an hour at most. What is
//!   compacted is the oldest sample, from a period and a tenth ago: for the first time after one
//!   period, then every period, every hour at most. What failed is tried again at the next sample.
//! - *Revision*, keeping a number: every five minutes, to the current revision less that number.
//!
//! Invariant: a revision that was compacted is not compacted again.

use std::{collections::VecDeque, time::Duration};

use crate::{kernel::Instant, mvcc::Store};

/// The longest time between two compactions of the periodic mode.
const PERIOD_MAX: Duration = Duration::from_secs(3600);
/// Samples in that time.
const SAMPLES: u32 = 10;
/// The time between two compactions that keep a number of revisions.
pub const REVISION_EVERY: Duration = Duration::from_secs(300);

/// What is kept of the history by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AutoCompaction {
    /// The history of this time; at least `AutoCompaction::PERIOD_MIN`.
    Periodic { keep: Duration },
    /// So many revisions, looked at in this rhythm.
    Revision { keep: i64, every: Duration },
}

impl AutoCompaction {
    /// The shortest period; a sample every millisecond would serve nobody.
    pub const PERIOD_MIN: Duration = Duration::from_millis(10);

    fn rhythm(self) -> Duration {
        match self {
            Self::Periodic { keep } => keep.max(Self::PERIOD_MIN).min(PERIOD_MAX) / SAMPLES,
            Self::Revision { every, .. } => every.max(Duration::from_millis(1)),
        }
    }

    /// How many samples reach back over the period.
    fn window(self) -> usize {
        match self {
            Self::Periodic { keep } => {
                let samples = keep.as_nanos() / self.rhythm().as_nanos() + 1;
                usize::try_from(samples).unwrap_or(usize::MAX)
            }
            Self::Revision { .. } => 1,
        }
    }
}

/// The samples, and what became of the last compaction.
#[derive(Debug)]
pub struct Compactor {
    kind: AutoCompaction,
    next: Option<Instant>,
    samples: VecDeque<i64>,
    /// The last revision that was compacted by the clock, and when.
    last: i64,
    last_at: Instant,
    /// Whether the first compaction is still to come, which waits for the whole period.
    first: bool,
    /// What was proposed and has not shown yet.
    proposed: Option<(i64, Instant)>,
}

impl Compactor {
    /// A compactor whose clock begins with the first look.
    pub fn new(kind: AutoCompaction) -> Self {
        Self {
            kind,
            next: None,
            samples: VecDeque::new(),
            last: 0,
            last_at: Instant::ZERO,
            first: true,
            proposed: None,
        }
    }

    /// When it wants to look; at once for the first time.
    pub fn deadline(&self) -> Instant {
        self.next.unwrap_or(Instant::ZERO)
    }

    /// Looks at the revision. The revision to compact, if it is time and this member leads.
    pub fn on_time(&mut self, now: Instant, store: &Store, leads: bool) -> Option<i64> {
        self.look(now, store.revision(), store.compact_revision(), leads)
    }

    fn look(&mut self, now: Instant, revision: i64, compacted: i64, leads: bool) -> Option<i64> {
        let Some(due) = self.next else {
            self.next = Some(now.after(self.kind.rhythm()));
            self.last_at = now;
            self.sample(revision);
            return None;
        };
        if now < due {
            return None;
        }
        self.next = Some(now.after(self.kind.rhythm()));
        self.settle(compacted);
        let wanted = match self.kind {
            AutoCompaction::Periodic { keep } => self.periodic(keep, now),
            AutoCompaction::Revision { keep, .. } => {
                let target = revision.saturating_sub(keep);
                (target > 0).then_some(target)
            }
        };
        let wanted = wanted.filter(|target| leads && *target != self.last);
        if let Some(target) = wanted {
            self.first = false;
            self.proposed = Some((target, now));
        }
        self.sample(revision);
        wanted
    }

    /// A compaction that came about sets the clock, and one by somebody else does as well.
    fn settle(&mut self, compacted: i64) {
        if let Some((target, at)) = self.proposed.take()
            && compacted >= target
        {
            self.last = target;
            self.last_at = at;
        }
    }

    fn periodic(&self, keep: Duration, now: Instant) -> Option<i64> {
        let keep = keep.max(AutoCompaction::PERIOD_MIN);
        let wait = match self.first {
            true => keep,
            false => keep.min(PERIOD_MAX),
        };
        let oldest = self.samples.front().copied();
        match now.since(self.last_at) >= wait {
            true => oldest,
            false => None,
        }
    }

    fn sample(&mut self, revision: i64) {
        self.samples.push_back(revision);
        while self.samples.len() > self.kind.window() {
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000_000_000;

    /// Runs a compactor over minutes in which the revision rises by one hundred each, and answers
    /// at which minute it compacted what. `fails` says in which minute a proposal comes to nothing.
    fn run(
        kind: AutoCompaction,
        minutes: u64,
        leads: impl Fn(u64) -> bool,
        fails: impl Fn(u64) -> bool,
    ) -> Vec<(u64, i64)> {
        let mut compactor = Compactor::new(kind);
        let (mut compacted, mut done) = (-1, Vec::new());
        // Ten looks a minute, as often as a step may come for another reason.
        for tick in 0..=minutes * 10 {
            let now = Instant::from_nanos(tick * MINUTE / 10);
            let revision = 1 + (tick * 10).cast_signed();
            let minute = tick / 10;
            if let Some(target) = compactor.look(now, revision, compacted, leads(minute)) {
                done.push((minute, target));
                if !fails(minute) {
                    compacted = target;
                }
            }
        }
        done
    }

    fn minutes(count: u64) -> Duration {
        Duration::from_nanos(count * MINUTE)
    }

    #[test]
    fn a_period_of_an_hour_compacts_hourly_to_the_revision_of_an_hour_ago() {
        let kind = AutoCompaction::Periodic { keep: minutes(60) };
        let done = run(kind, 190, |_| true, |_| false);
        assert_eq!(done, [(60, 1), (120, 5401), (180, 11_401)]);
    }

    #[test]
    fn a_long_period_is_waited_for_once_and_then_compacts_hourly() {
        let kind = AutoCompaction::Periodic { keep: minutes(180) };
        let done = run(kind, 310, |_| true, |_| false);
        assert_eq!(done, [(180, 1), (240, 5401), (300, 11_401)]);
    }

    #[test]
    fn a_short_period_compacts_in_its_own_rhythm() {
        let kind = AutoCompaction::Periodic { keep: minutes(10) };
        let done = run(kind, 35, |_| true, |_| false);
        assert_eq!(done, [(10, 1), (20, 901), (30, 1901)]);
    }

    #[test]
    fn what_failed_is_tried_again_at_the_next_sample() {
        let kind = AutoCompaction::Periodic { keep: minutes(10) };
        let done = run(kind, 24, |_| true, |minute| (10..13).contains(&minute));
        assert_eq!(done, [(10, 1), (11, 1), (12, 101), (13, 201), (23, 1201)]);
    }

    #[test]
    fn a_new_leader_has_its_window_filled() {
        let kind = AutoCompaction::Periodic { keep: minutes(10) };
        let done = run(kind, 30, |minute| minute >= 17, |_| false);
        assert_eq!(done, [(17, 601), (27, 1601)]);
    }

    #[test]
    fn revisions_are_kept_by_number_every_five_minutes() {
        let every = REVISION_EVERY;
        let keep = AutoCompaction::Revision { keep: 1000, every };
        let done = run(keep, 21, |_| true, |minute| minute == 15);
        assert_eq!(done, [(10, 1), (15, 501), (20, 1001)]);
        let still = AutoCompaction::Revision {
            keep: 1_000_000,
            every,
        };
        assert_eq!(run(still, 60, |_| true, |_| false), []);
    }

    #[test]
    fn nothing_new_is_not_compacted_again() {
        let keep = Duration::from_secs(10);
        let mut compactor = Compactor::new(AutoCompaction::Periodic { keep });
        let mut done = Vec::new();
        for second in 0..100 {
            let now = Instant::from_nanos(second * 1_000_000_000);
            let compacted = if done.is_empty() { -1 } else { 7 };
            done.extend(compactor.look(now, 7, compacted, true));
        }
        assert_eq!(done, [7]);
    }
}
