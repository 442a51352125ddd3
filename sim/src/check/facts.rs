//! What answers say about the time between revisions, key by key.
//!
//! A pair that was seen at a revision tells more than its own: from its last change up to there
//! nothing touched the key, nothing deleted it since it was created, and its version counts all
//! puts since then. Where the known puts are as many as that, no unknown one was among them. So a
//! guess for a revision that nobody claims is refuted when it is made, and not by an answer that
//! comes much later, when a thousand other guesses stand on it.

use std::collections::{BTreeMap, BTreeSet};

use super::prepare::{Kind, Prepared};
use crate::history::*;

/// Facts about all keys.
#[derive(Debug, Default)]
pub struct Facts {
    keys: BTreeMap<Text, Key>,
}

/// Facts about one key. Spans name their first and last revision; they rise and keep apart once
/// all is gathered.
#[derive(Debug, Default)]
struct Key {
    sights: BTreeSet<Sight>,
    /// Revisions of known puts.
    puts: BTreeSet<i64>,
    /// Where no revision that nobody claims touched it.
    quiet: Vec<(i64, i64)>,
    /// Where it was not deleted.
    kept: Vec<(i64, i64)>,
}

/// A pair that was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sight {
    create: i64,
    modified: i64,
    version: i64,
}

impl Facts {
    /// A pair was there, and up to this revision.
    pub fn see(&mut self, kv: &KeyValue, until: i64) {
        if !self.keys.contains_key(&kv.key) {
            self.keys.insert(kv.key.clone(), Key::default());
        }
        let key = self.keys.get_mut(&kv.key).expect("just made");
        key.sights.insert(Sight {
            create: kv.create_revision,
            modified: kv.mod_revision,
            version: kv.version,
        });
        if until > kv.mod_revision {
            key.quiet.push((kv.mod_revision + 1, until));
        }
        if kv.mod_revision > kv.create_revision {
            key.kept.push((kv.create_revision + 1, kv.mod_revision));
        }
    }

    /// Draws the conclusions, once everything is seen.
    pub fn conclude(&mut self, prepared: &Prepared<'_>, claims: &BTreeMap<i64, usize>) {
        if self.keys.is_empty() {
            return;
        }
        for (revision, place) in claims {
            let op = &prepared.ops[*place];
            let keys = &mut self.keys;
            let mut put = |put: &PutRequest| {
                if let Some(key) = keys.get_mut(&put.key) {
                    key.puts.insert(*revision);
                }
            };
            match (op.kind, &op.source.outcome, &*op.request) {
                (Kind::Write(_), Outcome::Ok(response), request) => {
                    puts_of(request, &response.reply, &mut put);
                }
                // Found out by what it wrote, so it was done.
                (Kind::MaybeWrite, _, Request::Put(request)) => put(request),
                (_, _, _) => (),
            }
        }
        for key in self.keys.values_mut() {
            key.conclude(claims);
        }
    }

    /// Whether a guess what a revision did, which nobody claims, fits everything known.
    pub fn allow(&self, revision: i64, events: &[WatchEvent]) -> bool {
        events.iter().all(|event| {
            let key = &event.kv.key;
            let kept = self.keys.get(key).map_or(&[][..], |key| &key.kept);
            let is_kept = event.kind == EventKind::Delete && covers(kept, revision);
            !is_kept && self.allow_put(revision, key)
        })
    }
}

impl Facts {
    /// Whether a put may have touched a key at a revision that nobody claims.
    pub fn allow_put(&self, revision: i64, key: &Text) -> bool {
        let key = self.keys.get(key);
        key.is_none_or(|key| !covers(&key.quiet, revision))
    }
}

impl Key {
    fn conclude(&mut self, claims: &BTreeMap<i64, usize>) {
        let mut before: Option<Sight> = None;
        for sight in std::mem::take(&mut self.sights) {
            let birth = Sight {
                modified: sight.create,
                version: 1,
                ..sight
            };
            let from = before.filter(|before| before.create == sight.create);
            let from = from.unwrap_or(birth);
            before = Some(sight);
            if sight.modified <= from.modified {
                continue;
            }
            let known = self.puts.range(from.modified + 1..=sight.modified).count() as i64;
            let own = i64::from(!claims.contains_key(&sight.modified));
            if known + own == sight.version - from.version && sight.modified > from.modified + 1 {
                self.quiet.push((from.modified + 1, sight.modified - 1));
            }
        }
        merge(&mut self.quiet);
        merge(&mut self.kept);
    }
}

/// Makes spans rise and keep apart.
fn merge(spans: &mut Vec<(i64, i64)>) {
    spans.sort_unstable();
    let mut merged: Vec<(i64, i64)> = Vec::new();
    for (first, last) in spans.drain(..) {
        match merged.last_mut() {
            Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
            Some(_) | None => merged.push((first, last)),
        }
    }
    *spans = merged;
}

fn covers(spans: &[(i64, i64)], revision: i64) -> bool {
    let after = spans.partition_point(|(first, _)| *first <= revision);
    let before = after.checked_sub(1).map(|at| spans[at]);
    before.is_some_and(|(_, last)| revision <= last)
}

/// The puts that an answered request has done.
fn puts_of(request: &Request, reply: &Reply, see: &mut impl FnMut(&PutRequest)) {
    match (request, reply) {
        (Request::Put(put), _) => see(put),
        (Request::Txn(txn), Reply::Txn(reply)) => {
            let ops = if reply.succeeded {
                &txn.success
            } else {
                &txn.failure
            };
            for (op, reply) in ops.iter().zip(&reply.responses) {
                puts_of(op, reply, see);
            }
        }
        (_, _) => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a sight forbids just what it refutes. Method: one key, by hand: created at 10 and put
    /// by known operations at 12 and 20; 15 and 18 are claimed by nobody.
    #[test]
    fn a_sight_forbids_what_it_refutes() {
        let kv = |modified, version| KeyValue {
            key: "k".into(),
            create_revision: 10,
            mod_revision: modified,
            version,
            ..KeyValue::default()
        };
        let event = |kind| WatchEvent {
            kind,
            kv: kv(0, 0),
            prev_kv: None,
        };
        let facts = |version| {
            let mut facts = Facts::default();
            facts.see(&kv(20, version), 25);
            let key = facts.keys.get_mut(&Text::from("k")).unwrap();
            key.puts.extend([12, 20]);
            let claims = [10, 12, 20].map(|revision| (revision, 0)).into();
            key.conclude(&claims);
            facts
        };
        let put = [event(EventKind::Put)];
        let delete = [event(EventKind::Delete)];
        // Two puts since it was created, both known.
        assert!(!facts(3).allow(15, &put));
        // Three puts: one is unknown.
        assert!(facts(4).allow(15, &put));
        assert!(!facts(4).allow(15, &delete));
        assert!(!facts(4).allow(22, &put));
        assert!(facts(4).allow(26, &put) && facts(4).allow(26, &delete));
        assert!(facts(3).allow(9, &delete));
    }
}
