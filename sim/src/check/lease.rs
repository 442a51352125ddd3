//! Leases in time: none ends before its time, none lives on for long after it, and what members
//! say about them is true.
//!
//! A lease ends by itself no earlier than its TTL after its last renewal, on the clock of a member
//! that may run fast by the drift of [`Meta`]. A renewal that was acknowledged counts from its
//! call: the member cannot have had it earlier. So the bounds hold for any delay of the network.

use std::collections::{BTreeMap, BTreeSet};

use super::prepare::{Op, Prepared, broken};
use super::times::Times;
use super::{Guarantee, Options, Timeline, TimelineEntry, Violation, Weakness};
use crate::history::*;
use crate::model::KeyRange;

mod asked;

use asked::{Asked, Spans};

const SECOND: Time = 1_000_000_000;
const MILLION: Time = 1_000_000;

/// One life of a lease, from its grant to its end.
#[derive(Clone, Debug)]
struct Life {
    ttl: i64,
    /// The grant, unless the history began with it.
    grant: Option<usize>,
    /// It was not there before, and was there after.
    begin: (Time, Time),
    /// It was there before, and gone after.
    end: (Time, Time),
    /// Whether it ended although nobody asked.
    ended_by_itself: bool,
    /// Whether no unknown write could tell another story of it.
    is_certain: bool,
}

/// Judges all leases.
pub fn check(prepared: &Prepared<'_>, timeline: &Timeline, options: &Options) -> Vec<Violation> {
    let times = Times::new(prepared, timeline);
    let lives = lives(prepared, timeline, &times);
    let mut checker = Checker {
        prepared,
        asked: Asked::new(prepared),
        lives,
        violations: Vec::new(),
    };
    if !options.is_weak(Weakness::NoLeaseAnswer) {
        checker.check_answers();
        checker.check_keys(timeline);
    }
    if !options.is_weak(Weakness::NoLeaseEarly) {
        checker.check_early();
    }
    if !options.is_weak(Weakness::NoLeaseLate) {
        checker.check_late();
    }
    checker.violations
}

/// The lives of each lease, in order.
fn lives(prepared: &Prepared<'_>, timeline: &Timeline, times: &Times) -> BTreeMap<i64, Vec<Life>> {
    let mut lives: BTreeMap<i64, Vec<Life>> = BTreeMap::new();
    let meta = &prepared.history.meta;
    for (id, ttl) in &meta.leases {
        lives.entry(*id).or_default().push(Life {
            ttl: *ttl,
            grant: None,
            begin: (0, 0),
            end: (Time::MAX, Time::MAX),
            ended_by_itself: false,
            is_certain: true,
        });
    }
    let shown = deletions_shown(prepared);
    let mut granted = Vec::new();
    let mut before = meta.revision;
    let mut latest_call = 0;
    for entry in &timeline.entries {
        let op = entry.op.map(|place| prepared.ops[place].source);
        match &entry.request {
            Request::LeaseGrant(grant) => {
                granted.extend(entry.op);
                let life = begin(entry, grant, op, meta);
                lives.entry(grant.id).or_default().push(life);
            }
            Request::LeaseRevoke(revoke) => {
                let life = lives.get_mut(&revoke.id).and_then(|lives| lives.last_mut());
                if let Some(life) = life {
                    let moved = entry.revision > before;
                    life.end = end(
                        entry,
                        op,
                        (moved, timeline.is_log, latest_call),
                        life,
                        times,
                    );
                    life.ended_by_itself = op.is_none();
                }
                let is_guess = op.is_none() && !timeline.is_log;
                if is_guess && entry.revision > before && !shown.contains(&entry.revision) {
                    let others = may_be_another(prepared, timeline, times.seen(entry.revision));
                    mark_rivals(&mut lives, &attached(timeline, before), others);
                }
            }
            Request::Range(_)
            | Request::Put(_)
            | Request::DeleteRange(_)
            | Request::Txn(_)
            | Request::Compact(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseTimeToLive(_)
            | Request::LeaseLeases => (),
        }
        before = entry.revision;
        if timeline.is_log || op.is_none_or(|op| has_its_place(&entry.request, op)) {
            latest_call = latest_call.max(entry.time.or(op.map(|op| op.call)).unwrap_or(0));
        }
    }
    open_ends(&mut lives, timeline, latest_call);
    add_unplaced_grants(&mut lives, prepared, &granted);
    mark_uncertain(&mut lives, prepared, timeline);
    if !timeline.is_log {
        mark_exchangeable(&mut lives, prepared);
    }
    lives
}

/// Whether an answer names the revision at which the operation was done. What does not may stand
/// anywhere in an order that a search found, so that its call says nothing of what comes behind.
fn has_its_place(request: &Request, op: &Operation) -> bool {
    let is_told = match request {
        Request::Range(_)
        | Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Txn(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_) => true,
        Request::Compact(_)
        | Request::LeaseKeepAlive(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseLeases => false,
    };
    is_told && matches!(op.outcome, Outcome::Ok(_))
}

/// The leases that have keys at a revision.
fn attached(timeline: &Timeline, revision: i64) -> BTreeSet<i64> {
    let everything = KeyRange::new(&Text::from("\0"), &Text::from("\0"));
    let kvs = timeline.archive.range_at(&everything, revision);
    let leases = kvs.iter().map(|kv| kv.lease);
    leases.filter(|lease| *lease != 0).collect()
}

/// The revisions of which a watch has shown that they deleted something.
fn deletions_shown(prepared: &Prepared<'_>) -> BTreeSet<i64> {
    let lines = prepared.history.watches.iter();
    let responses = lines.filter_map(|line| match &line.item {
        WatchItem::Response(response) => Some(response),
        WatchItem::Created(_) | WatchItem::Canceled(_) | WatchItem::Closed => None,
    });
    let events = responses.flat_map(|response| &response.events);
    let deletions = events.filter(|event| event.kind == EventKind::Delete);
    deletions.map(|event| event.kv.mod_revision).collect()
}

/// Whether an unknown write could have made a revision that was seen at this time.
fn may_be_another(prepared: &Prepared<'_>, timeline: &Timeline, seen: Option<Time>) -> bool {
    let until = seen.unwrap_or(Time::MAX);
    let mut unresolved = timeline.unresolved.iter();
    unresolved.any(|place| prepared.ops[*place].source.call <= until)
}

/// A revision that only a guess explains as the end of a lease: any lease with keys could have
/// ended there, if not an unknown write has made it.
fn mark_rivals(lives: &mut BTreeMap<i64, Vec<Life>>, rivals: &BTreeSet<i64>, may_be_another: bool) {
    if rivals.len() < 2 && !may_be_another {
        return;
    }
    for id in rivals {
        if let Some(life) = lives.get_mut(id).and_then(|lives| lives.last_mut()) {
            life.is_certain = false;
        }
    }
}

/// Where a grant and a revocation of one lease overlap, a search may have told which life the
/// revocation ended the other way round.
fn mark_exchangeable(lives: &mut BTreeMap<i64, Vec<Life>>, prepared: &Prepared<'_>) {
    let mut grants: BTreeMap<i64, Vec<(Time, Time)>> = BTreeMap::new();
    let mut ends: BTreeMap<i64, Vec<(Time, Time)>> = BTreeMap::new();
    for op in &prepared.ops {
        let when = (op.source.call, op.source.ret.unwrap_or(Time::MAX));
        match &*op.request {
            _ if matches!(op.source.outcome, Outcome::Failed(_)) => (),
            Request::LeaseGrant(grant) => grants.entry(grant.id).or_default().push(when),
            Request::LeaseRevoke(lease) => ends.entry(lease.id).or_default().push(when),
            Request::Range(_)
            | Request::Put(_)
            | Request::DeleteRange(_)
            | Request::Txn(_)
            | Request::Compact(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseTimeToLive(_)
            | Request::LeaseLeases => (),
        }
    }
    let overlap = |one: (Time, Time), other: (Time, Time)| one.0 <= other.1 && other.0 <= one.1;
    for (id, lives) in lives {
        let (Some(grants), Some(ends)) = (grants.get(id), ends.get(id)) else {
            continue;
        };
        for end in ends {
            let others = grants.iter().filter(|grant| overlap(**grant, *end));
            for grant in others {
                let both = (grant.0.min(end.0), grant.1.max(end.1));
                let touched = lives.iter_mut();
                let touched = touched.filter(|life| overlap((life.begin.0, life.end.1), both));
                touched.for_each(|life| life.is_certain = false);
            }
        }
    }
}

/// Where an unknown write touches a key that a lease ever had, the search may have told the end of
/// the lease and the write for each other.
fn mark_uncertain(
    lives: &mut BTreeMap<i64, Vec<Life>>,
    prepared: &Prepared<'_>,
    timeline: &Timeline,
) {
    if timeline.unresolved.is_empty() {
        return;
    }
    for (id, lives) in lives {
        let keys = timeline.archive.keys_ever_of(*id);
        let uncertain = timeline.unresolved.iter().any(|place| {
            let op = &prepared.ops[*place];
            op.leases.contains(id) || keys.iter().any(|key| touches(&op.request, key))
        });
        if uncertain {
            lives.iter_mut().for_each(|life| life.is_certain = false);
        }
    }
}

fn touches(request: &Request, key: &Text) -> bool {
    match request {
        Request::Put(put) => put.key == *key,
        Request::DeleteRange(delete) => KeyRange::new(&delete.key, &delete.range_end).has(key),
        Request::Txn(txn) => {
            let mut ops = txn.success.iter().chain(&txn.failure);
            ops.any(|inner| touches(inner, key))
        }
        Request::Range(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseLeases => false,
    }
}

fn begin(
    entry: &TimelineEntry,
    grant: &LeaseGrantRequest,
    op: Option<&Operation>,
    meta: &Meta,
) -> Life {
    let earliest = entry.time.or(op.map(|op| op.call)).unwrap_or(0);
    let latest = entry.time.or(op.and_then(|op| op.ret)).unwrap_or(Time::MAX);
    Life {
        ttl: grant.ttl.max(meta.lease_ttl_min),
        grant: entry.op,
        begin: (earliest, latest),
        end: (Time::MAX, Time::MAX),
        ended_by_itself: false,
        is_certain: true,
    }
}

/// Bounds on the moment of an end.
fn end(
    entry: &TimelineEntry,
    op: Option<&Operation>,
    (moved, is_log, latest_call): (bool, bool, Time),
    life: &Life,
    times: &Times,
) -> (Time, Time) {
    if let Some(time) = entry.time {
        return (time, time);
    }
    let mut latest = op.and_then(|op| op.ret).unwrap_or(Time::MAX);
    if moved {
        latest = latest.min(times.seen(entry.revision).unwrap_or(Time::MAX));
    }
    // A search puts the end of a lease without keys wherever it is needed, so that what stands
    // before it says nothing.
    let is_in_order = moved || is_log;
    let mut earliest = if is_in_order {
        latest_call
    } else {
        life.begin.0
    };
    earliest = earliest.max(op.map_or(0, |op| op.call));
    (earliest, latest)
}

/// A lease that no entry ends is there until the end of the log; of an order that a search found
/// it is only known if it has keys.
fn open_ends(lives: &mut BTreeMap<i64, Vec<Life>>, timeline: &Timeline, latest_call: Time) {
    if timeline.is_log {
        return;
    }
    let attached = attached(timeline, timeline.archive.last());
    for (id, lives) in lives {
        let Some(life) = lives.last_mut() else {
            continue;
        };
        if life.end == (Time::MAX, Time::MAX) {
            let lower = if attached.contains(id) {
                latest_call
            } else {
                life.begin.0
            };
            life.end = (lower, Time::MAX);
        }
    }
}

/// An unknown grant that the order did not need may have been done all the same.
fn add_unplaced_grants(
    lives: &mut BTreeMap<i64, Vec<Life>>,
    prepared: &Prepared<'_>,
    granted: &[usize],
) {
    for (place, op) in prepared.ops.iter().enumerate() {
        let Request::LeaseGrant(grant) = &*op.request else {
            continue;
        };
        if op.source.ret.is_none() && !granted.contains(&place) {
            lives.entry(grant.id).or_default().push(Life {
                ttl: grant.ttl.max(prepared.history.meta.lease_ttl_min),
                grant: Some(place),
                begin: (op.source.call, Time::MAX),
                end: (op.source.call, Time::MAX),
                ended_by_itself: false,
                is_certain: false,
            });
        }
    }
}

/// The life that an answer is about, if it can be about no other.
fn one_life(op: &Op<'_>, lives: &[Life], spans: &Spans) -> Option<usize> {
    let (call, ret) = (op.source.call, op.source.ret.unwrap_or(Time::MAX));
    let near = spans.within(call, ret);
    let mut possible = near.filter(|at| lives[*at].begin.0 <= ret && call <= lives[*at].end.1);
    let first = possible.next()?;
    possible.next().is_none().then_some(first)
}

struct Checker<'p, 'h> {
    prepared: &'p Prepared<'h>,
    asked: Asked,
    lives: BTreeMap<i64, Vec<Life>>,
    violations: Vec<Violation>,
}

/// What an answer says about a lease.
enum Claim<'o> {
    /// It is there, with this granted TTL and this rest.
    Alive {
        granted: i64,
        rest: i64,
        keys: &'o [Text],
    },
    Gone,
}

impl<'p> Checker<'p, '_> {
    /// Known answers about one lease.
    fn claims(&self) -> Vec<(&'p Op<'p>, i64, Claim<'p>)> {
        let mut claims = Vec::new();
        for op in &self.prepared.ops {
            let Outcome::Ok(response) = &op.source.outcome else {
                continue;
            };
            let (id, claim) = match (&*op.request, &response.reply) {
                (Request::LeaseKeepAlive(lease), Reply::LeaseKeepAlive(reply)) => {
                    let alive = Claim::Alive {
                        granted: reply.ttl,
                        rest: reply.ttl,
                        keys: &[],
                    };
                    (lease.id, if reply.ttl > 0 { alive } else { Claim::Gone })
                }
                (Request::LeaseTimeToLive(lease), Reply::LeaseTimeToLive(reply)) => {
                    let alive = Claim::Alive {
                        granted: reply.granted_ttl,
                        rest: reply.ttl,
                        keys: &reply.keys,
                    };
                    (lease.id, if reply.ttl >= 0 { alive } else { Claim::Gone })
                }
                (_, _) => continue,
            };
            claims.push((op, id, claim));
        }
        claims
    }

    fn report(&mut self, guarantee: Guarantee, op: &Op<'_>, text: String) {
        self.violations.push(broken(guarantee, op, text));
    }

    /// What an operation promised was broken at a later time: then it shows.
    fn report_later(&mut self, guarantee: Guarantee, op: &Op<'_>, at: Time, text: String) {
        let mut violation = broken(guarantee, op, text);
        violation.time = violation.time.max(at);
        self.violations.push(violation);
    }

    fn check_answers(&mut self) {
        for (op, id, claim) in self.claims() {
            if let Err(text) = self.check_claim(op, id, &claim) {
                self.report(Guarantee::LeaseAnswer, op, text);
            }
        }
        self.check_names();
        for op in &self.prepared.ops {
            let Outcome::Ok(response) = &op.source.outcome else {
                continue;
            };
            let Reply::LeaseLeases(reply) = &response.reply else {
                continue;
            };
            let ret = op.source.ret.expect("an answer has a time");
            // A member may be behind, so a lease that is over may be listed; one to come may not.
            if self.asked.may_be_chosen(ret) {
                continue;
            }
            let unborn = reply.leases.iter().find(|id| {
                let lives = self.lives.get(id).map_or(&[][..], Vec::as_slice);
                !lives.iter().any(|life| life.begin.0 <= ret)
            });
            if let Some(id) = unborn {
                self.report(
                    Guarantee::LeaseAnswer,
                    op,
                    format!("lists lease {id}, never granted"),
                );
            }
        }
    }

    /// What is said about a lease names the one that was asked about.
    fn check_names(&mut self) {
        for op in &self.prepared.ops {
            let Outcome::Ok(response) = &op.source.outcome else {
                continue;
            };
            let (asked, told) = match (&*op.request, &response.reply) {
                (Request::LeaseKeepAlive(asked), Reply::LeaseKeepAlive(told)) => {
                    (asked.id, told.id)
                }
                (Request::LeaseTimeToLive(asked), Reply::LeaseTimeToLive(told)) => {
                    (asked.id, told.id)
                }
                (_, _) => continue,
            };
            if asked != told {
                let text = format!("was asked about lease {asked} and tells of {told}");
                self.report(Guarantee::LeaseAnswer, op, text);
            }
        }
    }

    /// The keys of a lease are those that are attached to it at the revision of the answer.
    fn check_keys(&mut self, timeline: &Timeline) {
        let archive = &timeline.archive;
        let everything = KeyRange::new(&Text::from("\0"), &Text::from("\0"));
        for op in &self.prepared.ops {
            let (Request::LeaseTimeToLive(asked), Outcome::Ok(response)) =
                (&*op.request, &op.source.outcome)
            else {
                continue;
            };
            let Reply::LeaseTimeToLive(reply) = &response.reply else {
                continue;
            };
            let revision = response.header.revision;
            let is_known =
                timeline.is_log && (archive.first()..=archive.last()).contains(&revision);
            if !asked.keys || reply.ttl < 0 || !is_known {
                continue;
            }
            let attached = archive.range_at(&everything, revision).into_iter();
            let attached = attached.filter(|kv| kv.lease == asked.id);
            let mut told = reply.keys.clone();
            told.sort_unstable();
            if !attached.map(|kv| kv.key).eq(told) {
                let text = format!("does not show the keys of lease {} at {revision}", asked.id);
                self.report(Guarantee::LeaseAnswer, op, text);
            }
        }
    }

    fn check_claim(&self, op: &Op<'_>, id: i64, claim: &Claim<'_>) -> Result<(), String> {
        let (call, ret) = (op.source.call, op.source.ret.expect("an answer has a time"));
        let lives = self.lives.get(&id).map_or(&[][..], Vec::as_slice);
        match claim {
            Claim::Gone => {
                let alive =
                    |life: &Life| life.is_certain && life.begin.1 <= call && ret <= life.end.0;
                if lives.iter().any(alive) {
                    return Err(format!("says that lease {id} is gone, but it lives"));
                }
                Ok(())
            }
            Claim::Alive { granted, keys, .. } => {
                let mut possible = lives
                    .iter()
                    .filter(|life| life.begin.0 <= ret)
                    .filter(|life| call <= life.end.1 || !life.is_certain)
                    .peekable();
                if possible.peek().is_none() {
                    return Err(format!("says that lease {id} lives, but it does not"));
                }
                let ttls: Vec<i64> = possible.map(|life| life.ttl).collect();
                if !ttls.contains(granted) {
                    return Err(format!("says that lease {id} has {granted} s of {ttls:?}"));
                }
                let mut sorted = keys.to_vec();
                sorted.dedup();
                if sorted.len() != keys.len() {
                    return Err(format!("lists a key of lease {id} twice"));
                }
                Ok(())
            }
        }
    }

    /// How long a lease lives at least, in nanoseconds of the history's clock.
    fn least(&self, seconds: i64) -> Time {
        let nanos = u64::try_from(seconds).unwrap_or(0).saturating_mul(SECOND);
        let drift = self.prepared.history.meta.drift_ppm.min(MILLION);
        nanos - (nanos / MILLION).saturating_mul(drift)
    }

    fn most(&self, seconds: i64) -> Time {
        let nanos = u64::try_from(seconds).unwrap_or(0).saturating_mul(SECOND);
        nanos.saturating_add((nanos / MILLION).saturating_mul(self.prepared.history.meta.drift_ppm))
    }

    /// How long a lease lives at least that was promised at a moment.
    fn least_from(&self, from: Time, seconds: i64) -> Time {
        let until = from.saturating_add(self.least(seconds));
        let jumps = self.prepared.history.meta.clock_jumps.iter();
        let within = jumps.filter(|(at, _)| (from..=until).contains(at));
        let lost = within.fold(0, |sum: Time, (_, by)| sum.saturating_add(*by));
        until.saturating_sub(lost)
    }

    fn check_early(&mut self) {
        let mut claims: BTreeMap<i64, Vec<_>> = BTreeMap::new();
        for (op, id, claim) in self.claims() {
            claims.entry(id).or_default().push((op, claim));
        }
        for (id, lives) in self.lives.clone() {
            let spans = Spans::new(&lives);
            let claims = claims.get(&id).map_or(&[][..], Vec::as_slice);
            let mut about: BTreeMap<usize, Vec<_>> = BTreeMap::new();
            for (op, claim) in claims {
                if let (Claim::Alive { rest, .. }, Some(at)) = (claim, one_life(op, &lives, &spans))
                {
                    about.entry(at).or_default().push((*op, *rest));
                }
            }
            for (at, life) in lives.iter().enumerate() {
                let gone = life.end.1;
                let is_known = life.ended_by_itself && life.is_certain && gone != Time::MAX;
                if !is_known || self.asked.may_be_revoked(id, gone) {
                    continue;
                }
                // From its grant, and from each answer that promised more.
                let grant = life.grant.map(|place| &self.prepared.ops[place]);
                let granted = grant.into_iter().map(|op| (op, life.begin.0, life.ttl));
                let renewals = about.get(&at).into_iter().flatten();
                let renewals = renewals
                    .filter(|(op, _)| op.source.call <= gone)
                    .map(|(op, rest)| (*op, op.source.call.max(life.begin.0), *rest));
                let promises: Vec<_> = granted.chain(renewals).collect();
                for (op, from, seconds) in promises {
                    let until = self.least_from(from, seconds);
                    if gone < until {
                        let text =
                            format!("promised lease {id} until {until}, but it was gone at {gone}");
                        self.report_later(Guarantee::LeaseEarly, op, gone, text);
                    }
                }
            }
        }
    }

    fn check_late(&mut self) {
        let Some(late) = self.prepared.history.meta.lease_late_max else {
            return;
        };
        for (id, lives) in self.lives.clone() {
            for life in lives.iter().filter(|life| life.is_certain) {
                let Some(grant) = life.grant.map(|place| &self.prepared.ops[place]) else {
                    continue;
                };
                // The latest moment at which its time can have begun anew.
                let renewed = self.asked.last_renewal(id, life.end.1);
                let last = renewed.map_or(life.begin.1, |at| at.max(life.begin.1));
                let due = last
                    .saturating_add(self.most(life.ttl))
                    .saturating_add(late);
                let alive = if life.end.0 == Time::MAX {
                    self.asked.last
                } else {
                    life.end.0
                };
                if due < alive {
                    let text = format!("lease {id} was due at {due}, but there at {alive}");
                    self.report_later(Guarantee::LeaseLate, grant, alive, text);
                }
            }
        }
    }
}
