//! The leader's timetable: when each lease runs out, which revokes are under way, and when a
//! checkpoint of the time that is left is due.
//!
//! Invariants:
//! - each lease stands in exactly one of `expiry` (at its deadline) and `retry` (its revoke is
//!   under way), and in `retry` exactly when it stands in `revoking`;
//! - a lease stands in `checkpoints` exactly when its `checkpoint` is not `NEVER`, and never while
//!   it is being revoked;
//! - a lease in `unsettled` has had a checkpoint offered whose fate is unknown.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::kernel::{Instant, LeaseId};
use crate::mutant;

/// A revoke not applied for this long is proposed again, for the proposal may be lost.
pub const REVOKE_RETRY: Duration = Duration::from_secs(3);
/// A new leader spreads deadlines so that no second sees more of them; later ones are put off.
pub const EXPIRIES_PER_SECOND_AFTER_PROMOTION: usize = 750;
/// Checkpoints offered within one second; the rest waits for the next.
pub const CHECKPOINTS_PER_SECOND_MAX: usize = 10_000;

/// Stands for "no such moment".
const NEVER: Instant = Instant::from_nanos(u64::MAX);
const SECOND: Duration = Duration::from_secs(1);
/// etcd's checkpoint interval; ours is never longer.
const CHECKPOINT_INTERVAL_MAX: Duration = Duration::from_secs(300);

/// How long a lease goes without renewal before its first checkpoint: three eighths of its TTL.
/// Clients renew every third, so a lease that is kept alive never costs an entry of the log.
pub fn checkpoint_patience(ttl: i64) -> Duration {
    (span(ttl) * 3 / 8).clamp(SECOND, CHECKPOINT_INTERVAL_MAX)
}

/// How long until the next checkpoint of a lease that is not renewed: an eighth of its TTL.
pub fn checkpoint_period(ttl: i64) -> Duration {
    (span(ttl) / 8).clamp(SECOND, CHECKPOINT_INTERVAL_MAX)
}

/// A TTL as a span of time.
pub(super) fn span(ttl: i64) -> Duration {
    let seconds = u64::try_from(ttl).expect("granted TTLs are positive");
    Duration::from_secs(seconds)
}

/// When things happen to one lease. Meaningless on a member that does not lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Timing {
    /// The lease has run out from this moment on.
    pub(super) deadline: Instant,
    /// When its next checkpoint is due, or `NEVER`.
    checkpoint: Instant,
}

impl Timing {
    /// Outside leadership.
    pub(super) const NONE: Self = Self {
        deadline: NEVER,
        checkpoint: NEVER,
    };

    /// A deadline, and the first moment after `wait` at which a checkpoint is worth its entry: at
    /// least one period must be gone from the TTL, and the lease must still be alive.
    fn new(now: Instant, ttl: i64, deadline: Instant, wait: Duration) -> Self {
        let full_at = Instant::from_nanos(
            deadline
                .as_nanos()
                .saturating_sub(Instant::ZERO.after(span(ttl)).as_nanos()),
        );
        let due = now.after(wait).max(full_at.after(checkpoint_period(ttl)));
        Self {
            deadline,
            checkpoint: if due < deadline { due } else { NEVER },
        }
    }
}

/// Number of a round of offered checkpoints; later rounds have higher numbers.
pub(super) type Round = u64;

/// All timers of a leader. Every operation costs O(log n).
#[derive(Debug)]
pub(super) struct Timetable {
    expiry: BTreeSet<(Instant, LeaseId)>,
    retry: BTreeSet<(Instant, LeaseId)>,
    revoking: BTreeMap<LeaseId, Instant>,
    checkpoints: BTreeSet<(Instant, LeaseId)>,
    unsettled: BTreeMap<LeaseId, Round>,
    /// Renewals before this moment count as made at it: a deposed leader may have answered one up
    /// to an election timeout after the promotion.
    floor: Instant,
    second: Instant,
    offered_in_second: usize,
}

/// What a promotion needs to know of one lease.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promoted {
    pub(super) id: LeaseId,
    pub(super) ttl: i64,
    /// Milliseconds of the last checkpoint; zero when there is none.
    pub(super) remaining_ms: u64,
}

impl Timetable {
    /// Starts a leadership. Returns the timetable and each lease's timing, in the order given.
    pub(super) fn promote(
        now: Instant,
        extend: Duration,
        leases: &[Promoted],
    ) -> (Self, Vec<Timing>) {
        let mut order: Vec<(Instant, LeaseId, usize)> = leases
            .iter()
            .enumerate()
            .map(|(position, lease)| {
                let rest = match lease.remaining_ms {
                    0 if mutant!("promotion-takes-unknown-for-over") => Duration::ZERO,
                    0 => span(lease.ttl),
                    _ if mutant!("promotion-starts-in-full") => span(lease.ttl),
                    rest => Duration::from_millis(rest),
                };
                (now.after(rest).after(extend), lease.id, position)
            })
            .collect();
        order.sort_unstable();
        for at in EXPIRIES_PER_SECOND_AFTER_PROMOTION..order.len() {
            let earliest = order[at - EXPIRIES_PER_SECOND_AFTER_PROMOTION]
                .0
                .after(SECOND);
            order[at].0 = order[at].0.max(earliest);
        }
        let mut timings = vec![Timing::NONE; leases.len()];
        for (deadline, _, position) in &order {
            let lease = &leases[*position];
            // A lease that was idle before is still taken for idle.
            let wait = match lease.remaining_ms {
                0 => checkpoint_patience(lease.ttl),
                _ => checkpoint_period(lease.ttl),
            };
            timings[*position] = Timing::new(now, lease.ttl, *deadline, wait);
        }
        let timetable = Self {
            expiry: order
                .iter()
                .map(|(deadline, id, _)| (*deadline, *id))
                .collect(),
            retry: BTreeSet::new(),
            revoking: BTreeMap::new(),
            checkpoints: leases
                .iter()
                .zip(&timings)
                .filter(|(_, timing)| timing.checkpoint != NEVER)
                .map(|(lease, timing)| (timing.checkpoint, lease.id))
                .collect(),
            unsettled: BTreeMap::new(),
            floor: now.after(extend),
            second: now,
            offered_in_second: 0,
        };
        (timetable, timings)
    }

    /// Times a lease that was granted just now.
    pub(super) fn add(&mut self, id: LeaseId, ttl: i64, now: Instant) -> Timing {
        let timing = Timing::new(now, ttl, now.after(span(ttl)), checkpoint_patience(ttl));
        let fresh = self.expiry.insert((timing.deadline, id));
        assert!(fresh, "a lease was timed twice");
        self.insert_checkpoint(id, timing);
        timing
    }

    /// Forgets a lease.
    pub(super) fn remove(&mut self, id: LeaseId, timing: Timing) {
        self.unsettled.remove(&id);
        if let Some(slot) = self.revoking.remove(&id) {
            assert!(self.retry.remove(&(slot, id)), "a revoke had no retry");
            return;
        }
        assert!(
            self.expiry.remove(&(timing.deadline, id)),
            "a lease had no place in the order of expiry"
        );
        self.checkpoints.remove(&(timing.checkpoint, id));
    }

    /// Starts a lease's time anew. The lease must not have run out.
    pub(super) fn renew(&mut self, id: LeaseId, ttl: i64, old: Timing, now: Instant) -> Timing {
        assert!(now < old.deadline, "a lease that ran out was renewed");
        let deadline = now.max(self.floor).after(span(ttl));
        let timing = Timing::new(now, ttl, deadline, checkpoint_patience(ttl));
        assert!(
            self.expiry.remove(&(old.deadline, id)),
            "a lease had no place in the order of expiry"
        );
        self.expiry.insert((timing.deadline, id));
        self.checkpoints.remove(&(old.checkpoint, id));
        self.insert_checkpoint(id, timing);
        timing
    }

    /// Takes up to `max` leases whose revoke must be proposed, those proposed in vain first.
    pub(super) fn take_expired(
        &mut self,
        now: Instant,
        max: usize,
        timing: impl Fn(LeaseId) -> Timing,
    ) -> Vec<LeaseId> {
        let mut taken = Vec::new();
        let again = now.after(REVOKE_RETRY);
        while taken.len() < max
            && let Some((slot, id)) = self.retry.first().copied()
            && slot <= now
        {
            self.retry.pop_first();
            taken.push(id);
        }
        while taken.len() < max
            && let Some((deadline, id)) = self.expiry.first().copied()
            && deadline <= now
        {
            self.expiry.pop_first();
            self.checkpoints.remove(&(timing(id).checkpoint, id));
            taken.push(id);
        }
        for id in &taken {
            self.retry.insert((again, *id));
            self.revoking.insert(*id, again);
        }
        taken
    }

    /// Takes a lease whose checkpoint is due, if this second has one left.
    pub(super) fn take_due_checkpoint(&mut self, now: Instant) -> Option<LeaseId> {
        if now.since(self.second) >= SECOND {
            self.second = now;
            self.offered_in_second = 0;
        }
        if self.offered_in_second >= CHECKPOINTS_PER_SECOND_MAX {
            return None;
        }
        let (due, id) = self.checkpoints.first().copied()?;
        if due > now {
            return None;
        }
        self.checkpoints.pop_first();
        self.offered_in_second += 1;
        Some(id)
    }

    /// A lease whose checkpoint was taken: `None` when it ran out meanwhile, otherwise the
    /// milliseconds it has left, rounded up so that nothing is ever shortened.
    pub(super) fn offer(
        &mut self,
        id: LeaseId,
        ttl: i64,
        timing: &mut Timing,
        (now, round): (Instant, Round),
    ) -> Option<u64> {
        assert!(timing.checkpoint <= now, "a checkpoint was taken early");
        if timing.deadline <= now {
            timing.checkpoint = NEVER;
            return None;
        }
        *timing = Timing::new(now, ttl, timing.deadline, checkpoint_period(ttl));
        self.insert_checkpoint(id, *timing);
        self.unsettled.insert(id, round);
        let left = timing.deadline.since(now);
        assert!(left < span(ttl), "a checkpoint says nothing new");
        Some(
            u64::try_from(left.as_nanos().div_ceil(1_000_000)).expect("a TTL fits in milliseconds"),
        )
    }

    /// Whether a checkpoint of this lease may still be on its way.
    pub(super) fn is_unsettled(&self, id: LeaseId) -> bool {
        self.unsettled.contains_key(&id)
    }

    /// Everything offered for this lease up to `round` has been applied or is lost.
    pub(super) fn settle(&mut self, id: LeaseId, round: Round) {
        if self.unsettled.get(&id).is_some_and(|last| *last <= round) {
            self.unsettled.remove(&id);
        }
    }

    /// When `take_expired` has something next.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let firsts = [self.expiry.first(), self.retry.first()];
        firsts.into_iter().flatten().map(|(at, _)| *at).min()
    }

    /// When `take_due_checkpoint` has something next.
    pub(super) fn next_checkpoint(&self) -> Option<Instant> {
        let (due, _) = self.checkpoints.first()?;
        if self.offered_in_second < CHECKPOINTS_PER_SECOND_MAX {
            return Some(*due);
        }
        Some((*due).max(self.second.after(SECOND)))
    }

    /// Leases under revocation.
    pub(super) fn revoking(&self) -> usize {
        self.revoking.len()
    }

    /// Asserts that the timetable holds every lease once.
    pub(super) fn check<'a>(&self, leases: impl Iterator<Item = (&'a LeaseId, Timing)>) {
        let (mut count, mut checkpoints) = (0, 0);
        for (id, timing) in leases {
            count += 1;
            match self.revoking.get(id) {
                Some(slot) => assert!(self.retry.contains(&(*slot, *id))),
                None => assert!(self.expiry.contains(&(timing.deadline, *id))),
            }
            if timing.checkpoint != NEVER && !self.revoking.contains_key(id) {
                assert!(timing.checkpoint < timing.deadline);
                assert!(self.checkpoints.contains(&(timing.checkpoint, *id)));
                checkpoints += 1;
            }
        }
        assert_eq!(count, self.expiry.len() + self.retry.len());
        assert_eq!(self.retry.len(), self.revoking.len());
        assert_eq!(checkpoints, self.checkpoints.len());
        assert!(self.unsettled.len() <= count);
    }

    fn insert_checkpoint(&mut self, id: LeaseId, timing: Timing) {
        if timing.checkpoint != NEVER {
            self.checkpoints.insert((timing.checkpoint, id));
        }
    }
}
