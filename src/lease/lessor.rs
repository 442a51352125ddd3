//! The lessor: owns the leases, their records in the store, and the keys attached to them.
//!
//! Invariants:
//! - every lease has its record in bucket `Lease`, in the batch of the command that changed it;
//! - a key is attached to at most one lease, and only to one that exists; keys without a lease cost
//!   nothing here;
//! - `timetable` exists exactly while this member leads, and holds every lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    time::Duration,
};

use bytes::Bytes;

use super::expiry::{Promoted, Round, Timetable, Timing, span};
use crate::{
    backend::{Backend, Bucket, View},
    kernel::{
        ApiError, DiskError, DiskErrorKind, Entropy, Instant, LeaseId, LogIndex,
        limits::LEASE_TTL_SECONDS_MAX,
    },
    mutant,
};

const RECORD_BYTES: usize = 24;

/// The shortest lease of a cluster: one and a half election timeouts in whole seconds, rounded up,
/// so that a lease outlives a change of leader.
pub fn minimum_ttl_seconds(election_ticks: u32, heartbeat: Duration) -> i64 {
    let span = heartbeat
        * (u64::from(election_ticks) * 3 / 2)
            .try_into()
            .unwrap_or(u32::MAX);
    i64::try_from(span.as_millis().div_ceil(1000)).unwrap_or(LEASE_TTL_SECONDS_MAX)
}

/// All leases of this member.
#[derive(Debug)]
pub struct Lessor {
    min_ttl: i64,
    leases: BTreeMap<LeaseId, Lease>,
    owner: BTreeMap<Bytes, LeaseId>,
    attached: BTreeSet<(LeaseId, Bytes)>,
    timetable: Option<Timetable>,
    round: Round,
}

/// One lease; kept small, for there may be a million.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Lease {
    /// Granted time to live, in seconds. Invariant: from 1 to `LEASE_TTL_SECONDS_MAX`.
    ttl: i64,
    /// What was left at the last checkpoint; zero when the lease was renewed since, or never idle.
    /// Invariant: less than `ttl`.
    remaining_ms: u64,
    /// Where in the log it was granted.
    birth: LogIndex,
    timing: Timing,
}

/// One life of a lease id, which may be granted again after its lease has ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Incarnation {
    /// The id.
    pub id: LeaseId,
    /// Index of the entry that granted it.
    pub birth: LogIndex,
}

/// A grant as it is applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The id the client or the proposer chose.
    pub id: LeaseId,
    /// Time to live in seconds, as `Lessor::admit` gave it to the proposer.
    pub ttl: i64,
    /// Index of the entry that is applied.
    pub birth: LogIndex,
}

/// What became of a keep-alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Renewal {
    /// The lease lives for another TTL, in seconds; answer it.
    Renewed { ttl: i64 },
    /// A checkpoint stands against this lease: propose a reset (a checkpoint of zero milliseconds),
    /// and once it is applied pass the ticket to `finish_reset`. Answer nothing before that.
    ResetFirst(Reset),
    /// The lease ran out and its revoke is on the way: wait for it, then answer TTL 0.
    Expired,
}

/// Ticket for a reset that has to go through the log before a renewal may be answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reset {
    lease: Incarnation,
    round: Round,
}

impl Reset {
    /// The lease to reset.
    pub fn lease(self) -> Incarnation {
        self.lease
    }
}

/// The answer to LeaseTimeToLive, in seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimeToLive {
    /// What is left, rounded down as etcd does; zero when the lease ran out.
    pub remaining: i64,
    /// What was granted.
    pub granted: i64,
}

impl Lessor {
    /// Reads all leases. The caller then scans the live keys and calls `attach` for those with a
    /// lease. `min_ttl_seconds` is the shortest lease this member proposes.
    pub fn load<B: Backend>(view: &View<B>, min_ttl_seconds: i64) -> Result<Self, DiskError> {
        assert!(min_ttl_seconds >= 1, "the shortest lease lasts a second");
        let mut leases = BTreeMap::new();
        let mut corrupt = None;
        view.range(
            Bucket::Lease,
            &[],
            None,
            &mut |key, value| match decode(key, value) {
                Some((id, lease)) => {
                    leases.insert(id, lease);
                    ControlFlow::Continue(())
                }
                None => {
                    corrupt = Some(format!("lease record {key:02x?} holds {value:02x?}"));
                    ControlFlow::Break(())
                }
            },
        )?;
        if let Some(detail) = corrupt {
            return Err(DiskError::new(DiskErrorKind::Corrupt, detail));
        }
        Ok(Self {
            min_ttl: min_ttl_seconds,
            leases,
            owner: BTreeMap::new(),
            attached: BTreeSet::new(),
            timetable: None,
            round: 0,
        })
    }

    // Before a grant is proposed.

    /// The TTL to propose for the TTL a client asks for. The minimum depends on this member's
    /// configuration, so it is settled before the log and not while applying.
    pub fn admit(&self, ttl: i64) -> Result<i64, ApiError> {
        if ttl > LEASE_TTL_SECONDS_MAX {
            return Err(ApiError::LeaseTtlTooLarge);
        }
        Ok(ttl.max(self.min_ttl))
    }

    /// An id for a client that leaves the choice to us: positive, and free at this moment.
    pub fn fresh_id(&self, entropy: &mut Entropy) -> LeaseId {
        loop {
            let positive = i64::try_from(entropy.next_u64() >> 1).expect("63 bits fit");
            let id = LeaseId::new(positive);
            if !id.is_none() && !self.exists(id) {
                return id;
            }
        }
    }

    // The replicated part: same commands, same state on every member. `now` moves deadlines only.

    /// Applies a grant; returns the TTL that was granted.
    pub fn grant<B: Backend>(
        &mut self,
        view: &mut View<B>,
        grant: Grant,
        now: Instant,
    ) -> Result<i64, ApiError> {
        let Grant { id, ttl, birth } = grant;
        if id.is_none() {
            return Err(ApiError::LeaseNotFound);
        }
        if ttl > LEASE_TTL_SECONDS_MAX {
            return Err(ApiError::LeaseTtlTooLarge);
        }
        if let Some(old) = self.leases.get(&id) {
            if !mutant!("living-lease-granted-again") {
                return Err(ApiError::LeaseExist);
            }
            if let Some(timetable) = &mut self.timetable {
                timetable.remove(id, old.timing);
            }
        }
        // The log may come from a proposer that raised nothing; zero and below mean no time at all.
        let ttl = ttl.max(1);
        let timing = match &mut self.timetable {
            Some(timetable) => timetable.add(id, ttl, now),
            None => Timing::NONE,
        };
        let lease = Lease {
            ttl,
            remaining_ms: 0,
            birth,
            timing,
        };
        view.put(Bucket::Lease, record_key(id), encode(&lease));
        self.leases.insert(id, lease);
        Ok(ttl)
    }

    /// Applies a revoke a client asked for, whatever life the id is in; returns the attached keys
    /// in byte order. The caller deletes them in one revision, in the same batch.
    pub fn revoke<B: Backend>(
        &mut self,
        view: &mut View<B>,
        id: LeaseId,
    ) -> Result<Vec<Bytes>, ApiError> {
        let lease = self.leases.remove(&id).ok_or(ApiError::LeaseNotFound)?;
        if let Some(timetable) = &mut self.timetable {
            timetable.remove(id, lease.timing);
        }
        let keys: Vec<Bytes> = self.keys(id).cloned().collect();
        for key in &keys {
            let owner = self.owner.remove(key);
            assert_eq!(owner, Some(id), "a lease held a key of another lease");
            self.attached.remove(&(id, key.clone()));
        }
        view.delete(Bucket::Lease, record_key(id));
        Ok(keys)
    }

    /// Applies a revoke the leader proposed because a lease ran out. An id that was granted again
    /// meanwhile is another lease: that one is not found.
    pub fn revoke_expired<B: Backend>(
        &mut self,
        view: &mut View<B>,
        lease: Incarnation,
    ) -> Result<Vec<Bytes>, ApiError> {
        match self.incarnation(lease.id) {
            Some(living) if living == lease => self.revoke(view, lease.id),
            Some(_) | None => Err(ApiError::LeaseNotFound),
        }
    }

    /// Applies a checkpoint: what is left of a lease; zero, or its TTL and more, means all of it.
    /// A lease that is gone meanwhile is passed over, even if its id was granted again.
    pub fn checkpoint<B: Backend>(
        &mut self,
        view: &mut View<B>,
        Incarnation { id, birth }: Incarnation,
        remaining_ms: u64,
    ) {
        let living = self.leases.get_mut(&id);
        let Some(lease) = living.filter(|lease| lease.birth == birth) else {
            return;
        };
        let full_ms = span(lease.ttl).as_millis();
        let remaining_ms = match u128::from(remaining_ms) < full_ms {
            true => remaining_ms,
            false => 0,
        };
        if lease.remaining_ms == remaining_ms {
            return;
        }
        if mutant!("checkpoint-lost") {
            return;
        }
        lease.remaining_ms = remaining_ms;
        view.put(Bucket::Lease, record_key(id), encode(lease));
    }

    /// Attaches a key, taking it from the lease it had before; `LeaseId::NONE` only takes it away.
    /// The key should share the store's own bytes: a slice of a larger buffer would keep all of it.
    pub fn attach(&mut self, id: LeaseId, key: Bytes) -> Result<(), ApiError> {
        if id.is_none() {
            self.detach(&key);
            return Ok(());
        }
        if !self.exists(id) {
            return Err(ApiError::LeaseNotFound);
        }
        if self.lease_of(&key) == id {
            return Ok(());
        }
        self.detach(&key);
        self.attached.insert((id, key.clone()));
        self.owner.insert(key, id);
        Ok(())
    }

    /// Takes a key from its lease, if it has one.
    pub fn detach(&mut self, key: &[u8]) {
        if let Some((key, id)) = self.owner.remove_entry(key) {
            let held = self.attached.remove(&(id, key));
            assert!(held, "a key had a lease that did not hold it");
        }
    }

    // Queries of the replicated part.

    /// The lease of a key, or `LeaseId::NONE`.
    pub fn lease_of(&self, key: &[u8]) -> LeaseId {
        self.owner.get(key).copied().unwrap_or(LeaseId::NONE)
    }

    /// Whether there is such a lease.
    pub fn exists(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// The keys of a lease, in byte order.
    pub fn keys(&self, id: LeaseId) -> impl Iterator<Item = &Bytes> {
        self.attached
            .range((id, Bytes::new())..)
            .take_while(move |(owner, _)| *owner == id)
            .map(|(_, key)| key)
    }

    /// The life a lease id is in.
    pub fn incarnation(&self, id: LeaseId) -> Option<Incarnation> {
        let birth = self.leases.get(&id)?.birth;
        Some(Incarnation { id, birth })
    }

    /// The TTL a lease was granted, in seconds.
    pub fn granted_ttl(&self, id: LeaseId) -> Option<i64> {
        self.leases.get(&id).map(|lease| lease.ttl)
    }

    /// Milliseconds of a lease's last checkpoint; zero when a new leader would start it in full.
    pub fn checkpointed_ms(&self, id: LeaseId) -> Option<u64> {
        self.leases.get(&id).map(|lease| lease.remaining_ms)
    }

    /// How many leases there are.
    pub fn len(&self) -> usize {
        self.leases.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// How many keys have a lease.
    pub fn keys_len(&self) -> usize {
        self.owner.len()
    }

    // The leader's part: volatile, driven by `now`.

    /// This member leads. Call it once the first entry of its own term is applied, so that every
    /// revoke and checkpoint of earlier leaders is already in the state. `extend` is one election
    /// timeout: as long as the leader before may have gone on answering.
    pub fn promote(&mut self, now: Instant, extend: Duration) {
        let promoted: Vec<Promoted> = self
            .leases
            .iter()
            .map(|(id, lease)| Promoted {
                id: *id,
                ttl: lease.ttl,
                remaining_ms: lease.remaining_ms,
            })
            .collect();
        let (timetable, timings) = Timetable::promote(now, extend, &promoted);
        for (lease, timing) in self.leases.values_mut().zip(timings) {
            lease.timing = timing;
        }
        self.timetable = Some(timetable);
    }

    /// This member does not lead any more: no lease runs out here until the next promotion. Call it
    /// before an entry of a later term is applied.
    pub fn demote(&mut self) {
        self.timetable = None;
        for lease in self.leases.values_mut() {
            lease.timing = Timing::NONE;
        }
    }

    /// Whether this member decides about expiry.
    pub fn leads(&self) -> bool {
        self.timetable.is_some()
    }

    /// A client keeps a lease alive.
    pub fn renew(&mut self, id: LeaseId, now: Instant) -> Result<Renewal, ApiError> {
        if self.timetable.is_none() && mutant!("follower-answers-keep-alive") {
            let lease = self.leases.get(&id).ok_or(ApiError::LeaseNotFound)?;
            return Ok(Renewal::Renewed { ttl: lease.ttl });
        }
        let timetable = self.timetable.as_mut().ok_or(ApiError::NotLeader)?;
        let lease = self.leases.get_mut(&id).ok_or(ApiError::LeaseNotFound)?;
        if lease.timing.deadline <= now {
            if mutant!("keep-alive-of-an-ended-lease") {
                return Ok(Renewal::Renewed { ttl: lease.ttl });
            }
            return Ok(Renewal::Expired);
        }
        // Time starts anew even if a reset has to follow: the client was heard in time.
        lease.timing = timetable.renew(id, lease.ttl, lease.timing, now);
        let checkpointed = lease.remaining_ms != 0 || timetable.is_unsettled(id);
        if checkpointed && !mutant!("renewal-leaves-the-checkpoint") {
            let birth = lease.birth;
            return Ok(Renewal::ResetFirst(Reset {
                lease: Incarnation { id, birth },
                round: self.round,
            }));
        }
        Ok(Renewal::Renewed { ttl: lease.ttl })
    }

    /// The reset of a ticket has been applied, so every checkpoint offered before it is settled.
    /// Tries the renewal again; a checkpoint offered meanwhile asks for another reset.
    pub fn finish_reset(&mut self, reset: Reset, now: Instant) -> Result<Renewal, ApiError> {
        let timetable = self.timetable.as_mut().ok_or(ApiError::NotLeader)?;
        timetable.settle(reset.lease.id, reset.round);
        self.renew(reset.lease.id, now)
    }

    /// How long a lease still lives.
    pub fn time_to_live(&self, id: LeaseId, now: Instant) -> Result<TimeToLive, ApiError> {
        let lease = self.leases.get(&id).ok_or(ApiError::LeaseNotFound)?;
        if !self.leads() {
            return Err(ApiError::LeaderChanged);
        }
        let left = lease.timing.deadline.since(now).as_secs();
        Ok(TimeToLive {
            remaining: i64::try_from(left).unwrap_or(i64::MAX),
            granted: lease.ttl,
        })
    }

    /// All leases, the next to run out first; on a member that does not lead, by id.
    pub fn list(&self) -> Vec<LeaseId> {
        let mut order: Vec<(Instant, LeaseId)> = self
            .leases
            .iter()
            .map(|(id, lease)| (lease.timing.deadline, *id))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| id).collect()
    }

    /// When `take_expired` has something next.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.timetable.as_ref()?.next_expiry()
    }

    /// Up to `max` leases that ran out, the earliest first, for the caller to propose their revoke.
    /// Those whose revoke is not applied within `REVOKE_RETRY` are offered again.
    pub fn take_expired(&mut self, now: Instant, max: usize) -> Vec<Incarnation> {
        let leases = &self.leases;
        let lease = |id| leases.get(&id).expect("timed leases exist");
        let Some(timetable) = &mut self.timetable else {
            return Vec::new();
        };
        let taken = timetable.take_expired(now, max, |id| lease(id).timing);
        let name = |id| Incarnation {
            id,
            birth: lease(id).birth,
        };
        taken.into_iter().map(name).collect()
    }

    /// Leases that ran out and whose revoke was offered and is not applied.
    pub fn revoking(&self) -> usize {
        self.timetable.as_ref().map_or(0, Timetable::revoking)
    }

    /// When `due_checkpoints` has something next.
    pub fn next_checkpoint(&self) -> Option<Instant> {
        self.timetable.as_ref()?.next_checkpoint()
    }

    /// Up to `max` leases with the milliseconds they have left, for the caller to propose as one
    /// command, in the order of the calls.
    pub fn due_checkpoints(&mut self, now: Instant, max: usize) -> Vec<(Incarnation, u64)> {
        let mut offered = Vec::new();
        let Some(timetable) = &mut self.timetable else {
            return offered;
        };
        self.round += 1;
        while offered.len() < max
            && let Some(id) = timetable.take_due_checkpoint(now)
        {
            let lease = self.leases.get_mut(&id).expect("timed leases exist");
            let at = (now, self.round);
            if let Some(left) = timetable.offer(id, lease.ttl, &mut lease.timing, at) {
                let birth = lease.birth;
                offered.push((Incarnation { id, birth }, left));
            }
        }
        offered
    }

    /// Asserts every invariant.
    pub fn check(&self) {
        assert_eq!(self.owner.len(), self.attached.len());
        for (key, id) in &self.owner {
            assert!(self.exists(*id), "a key is attached to no lease");
            assert!(self.attached.contains(&(*id, key.clone())));
        }
        for (id, lease) in &self.leases {
            assert!(!id.is_none(), "a lease has no id");
            assert!((1..=LEASE_TTL_SECONDS_MAX).contains(&lease.ttl));
            assert!(u128::from(lease.remaining_ms) < span(lease.ttl).as_millis());
            if self.timetable.is_none() {
                assert_eq!(lease.timing, Timing::NONE, "a follower times a lease");
            }
        }
        if let Some(timetable) = &self.timetable {
            timetable.check(self.leases.iter().map(|(id, lease)| (id, lease.timing)));
        }
    }
}

fn record_key(id: LeaseId) -> Bytes {
    Bytes::copy_from_slice(&id.get().to_be_bytes())
}

fn encode(lease: &Lease) -> Bytes {
    let mut record = [0; RECORD_BYTES];
    record[..8].copy_from_slice(&lease.ttl.to_be_bytes());
    record[8..16].copy_from_slice(&lease.remaining_ms.to_be_bytes());
    record[16..].copy_from_slice(&lease.birth.get().to_be_bytes());
    Bytes::copy_from_slice(&record)
}

fn decode(key: &[u8], value: &[u8]) -> Option<(LeaseId, Lease)> {
    let id = LeaseId::new(i64::from_be_bytes(key.try_into().ok()?));
    let record: [u8; RECORD_BYTES] = value.try_into().ok()?;
    let ttl = i64::from_be_bytes(record[..8].try_into().ok()?);
    let remaining_ms = u64::from_be_bytes(record[8..16].try_into().ok()?);
    let birth = u64::from_be_bytes(record[16..].try_into().ok()?);
    let valid = !id.is_none()
        && (1..=LEASE_TTL_SECONDS_MAX).contains(&ttl)
        && u128::from(remaining_ms) < span(ttl).as_millis();
    let lease = Lease {
        ttl,
        remaining_ms,
        birth: LogIndex::new(birth),
        timing: Timing::NONE,
    };
    valid.then_some((id, lease))
}
