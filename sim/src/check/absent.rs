//! Which keys were not there between two revisions that nobody claims.
//!
//! A range that was read whole shows what was not in it. Whoever guesses that a key was put shortly
//! before must say who deleted it in between; if no known operation can have done that, and no
//! other revision is left to guess about, the guess is refuted at once.

use std::collections::BTreeMap;

use super::prepare::{Kind, Prepared};
use crate::history::*;
use crate::model::KeyRange;

/// How many reads are kept for one revision; the nearest say most.
const SIGHTS_MAX: usize = 64;

/// Everything known about keys that were not there.
#[derive(Debug, Default)]
pub struct Absences {
    /// By the last unclaimed revision before them, whole ranges that were read.
    sights: BTreeMap<i64, Vec<Sight>>,
    /// What known operations can have deleted, by revision.
    deleters: BTreeMap<i64, Vec<KeyRange>>,
}

/// A whole range as it was at a revision.
#[derive(Debug)]
struct Sight {
    range: KeyRange,
    at: i64,
    /// The keys in it, rising.
    keys: Vec<Text>,
}

impl Absences {
    /// A range was read whole at a revision; this is the last one up to there that nobody claims.
    pub fn see(&mut self, hole: i64, at: i64, range: KeyRange, kvs: &[KeyValue]) {
        let sights = self.sights.entry(hole).or_default();
        if sights.len() < SIGHTS_MAX {
            let mut keys: Vec<Text> = kvs.iter().map(|kv| kv.key.clone()).collect();
            keys.sort_unstable();
            sights.push(Sight { range, at, keys });
        }
    }

    /// Notes which known operations delete.
    pub fn conclude(&mut self, prepared: &Prepared<'_>, claims: &BTreeMap<i64, usize>) {
        if self.sights.is_empty() {
            return;
        }
        for (revision, place) in claims {
            let op = &prepared.ops[*place];
            let mut ranges = Vec::new();
            match op.kind {
                Kind::Write(_) | Kind::MaybeWrite => deletes_of(&op.request, &mut ranges),
                Kind::Aside
                | Kind::Read(_)
                | Kind::Grant(_)
                | Kind::Revoke(_)
                | Kind::Compact
                | Kind::MaybeGrant
                | Kind::MaybeCompact => {
                    ranges.push(KeyRange::new(&Text::from("\0"), &Text::from("\0")));
                }
            }
            if !ranges.is_empty() {
                self.deleters.insert(*revision, ranges);
            }
        }
    }

    /// Whether a key can have been put at a revision that nobody claims.
    pub fn allow_put(&self, revision: i64, key: &Text) -> bool {
        let sights = self.sights.get(&revision).map_or(&[][..], Vec::as_slice);
        let contradicts = |sight: &Sight| {
            sight.range.has(key)
                && sight.keys.binary_search(key).is_err()
                && !self.can_be_deleted(key, revision, sight.at)
        };
        !sights.iter().any(contradicts)
    }

    fn can_be_deleted(&self, key: &Text, after: i64, until: i64) -> bool {
        if until <= after {
            return false;
        }
        let mut deleters = self.deleters.range(after + 1..=until);
        deleters.any(|(_, ranges)| ranges.iter().any(|range| range.has(key)))
    }
}

/// Whether a reply shows everything in its range.
pub fn is_whole(range: &RangeRequest, reply: &RangeReply) -> bool {
    let is_filtered = [
        range.min_mod_revision,
        range.max_mod_revision,
        range.min_create_revision,
        range.max_create_revision,
    ];
    let is_filtered = is_filtered.iter().any(|bound| *bound != 0);
    !is_filtered && !reply.more && reply.kvs.len() as i64 == reply.count
}

fn deletes_of(request: &Request, ranges: &mut Vec<KeyRange>) {
    match request {
        Request::DeleteRange(delete) => {
            ranges.push(KeyRange::new(&delete.key, &delete.range_end));
        }
        Request::Txn(txn) => {
            let ops = txn.success.iter().chain(&txn.failure);
            ops.for_each(|op| deletes_of(op, ranges));
        }
        Request::Range(_)
        | Request::Put(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseLeases => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a read refutes just the puts that nothing can have undone. Method: by hand; 5 is
    /// unclaimed, the read is at 9, and "b" may have been deleted at 7.
    #[test]
    fn a_whole_read_refutes_puts() {
        let kv = KeyValue {
            key: "a".into(),
            ..KeyValue::default()
        };
        let mut absences = Absences::default();
        absences.see(5, 9, KeyRange::new(&"a".into(), &"d".into()), &[kv]);
        absences
            .deleters
            .insert(7, vec![KeyRange::new(&"b".into(), &Text::default())]);
        assert!(absences.allow_put(5, &"a".into()));
        assert!(absences.allow_put(5, &"b".into()));
        assert!(!absences.allow_put(5, &"c".into()));
        assert!(absences.allow_put(5, &"d".into()));
        assert!(absences.allow_put(4, &"c".into()));
    }
}
