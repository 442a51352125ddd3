//! Which unknown operations may stand for each other.
//!
//! Two requests are alike if they are the same, or differ only in values that nobody ever saw:
//! then whatever order one has a place in, the other could have had it. Only the first of those
//! that are alike needs to be tried. Without this, a hundred lost puts of one key are a hundred
//! ways to explain one revision, and ten thousand to explain two.

use std::collections::BTreeMap;

use super::prepare::{Op, Prepared};
use crate::history::*;

/// The classes of unknown operations.
#[derive(Debug, Default)]
pub struct Alike {
    classes: BTreeMap<usize, usize>,
}

impl Alike {
    /// Sorts all unknown operations.
    pub fn new(prepared: &Prepared<'_>) -> Alike {
        let unknown = || {
            let ops = prepared.ops.iter().enumerate();
            ops.filter(|(_, op)| op.source.ret.is_none())
        };
        if unknown().next().is_none() {
            return Alike::default();
        }
        let values = Values::seen_in(prepared, unknown().map(|(_, op)| op));
        let mut known: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        let mut classes = BTreeMap::new();
        for (place, op) in unknown() {
            let next = known.len();
            let class = *known.entry(values.shape_of(&op.request)).or_insert(next);
            classes.insert(place, class);
        }
        Alike { classes }
    }

    /// The class of an unknown operation.
    pub fn class_of(&self, place: usize) -> usize {
        self.classes[&place]
    }
}

/// The values of unknown writes that something depends on.
#[derive(Debug)]
struct Values {
    /// The values that unknown operations would write, by key, and whether anybody saw them.
    seen: BTreeMap<Text, BTreeMap<Text, bool>>,
    /// Whether something depends on values in a way that is not followed up.
    all_matter: bool,
}

impl Values {
    fn seen_in<'p, 'h: 'p>(
        prepared: &'p Prepared<'h>,
        unknown: impl Iterator<Item = &'p Op<'h>>,
    ) -> Values {
        let mut values = Values {
            seen: BTreeMap::new(),
            all_matter: false,
        };
        for op in unknown {
            values.expect(&op.source.request);
        }
        for op in &prepared.ops {
            values.look_at_request(&op.source.request);
            if let Outcome::Ok(response) = &op.source.outcome {
                values.look_at_reply(&response.reply);
            }
        }
        for line in &prepared.history.watches {
            if let WatchItem::Response(response) = &line.item {
                for event in &response.events {
                    values.look_at_pair(&event.kv);
                    event.prev_kv.iter().for_each(|kv| values.look_at_pair(kv));
                }
            }
        }
        values
    }

    fn expect(&mut self, request: &Request) {
        match request {
            Request::Put(put) => {
                let values = self.seen.entry(put.key.clone()).or_default();
                values.insert(put.value.clone(), false);
            }
            Request::Txn(txn) => {
                let ops = txn.success.iter().chain(&txn.failure);
                ops.for_each(|op| self.expect(op));
            }
            Request::Range(_)
            | Request::DeleteRange(_)
            | Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseTimeToLive(_)
            | Request::LeaseLeases => (),
        }
    }

    /// Comparing and sorting may show a value without naming it.
    fn look_at_request(&mut self, request: &Request) {
        match request {
            Request::Range(range) => self.all_matter |= range.sort_target == SortTarget::Value,
            Request::Txn(txn) => {
                for compare in &txn.compare {
                    self.look_at_compare(compare);
                }
                let ops = txn.success.iter().chain(&txn.failure);
                ops.for_each(|op| self.look_at_request(op));
            }
            Request::Put(_)
            | Request::DeleteRange(_)
            | Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseTimeToLive(_)
            | Request::LeaseLeases => (),
        }
    }

    fn look_at_compare(&mut self, compare: &Compare) {
        let CompareTarget::Value(value) = &compare.target else {
            return;
        };
        let is_equality = match compare.result {
            CompareResult::Equal | CompareResult::NotEqual => true,
            CompareResult::Greater | CompareResult::Less => false,
        };
        if is_equality && compare.range_end.is_empty() {
            self.look_at(&compare.key, value);
        } else {
            self.all_matter = true;
        }
    }

    fn look_at_reply(&mut self, reply: &Reply) {
        match reply {
            Reply::Range(reply) => reply.kvs.iter().for_each(|kv| self.look_at_pair(kv)),
            Reply::Put(reply) => reply.prev_kv.iter().for_each(|kv| self.look_at_pair(kv)),
            Reply::DeleteRange(reply) => {
                reply.prev_kvs.iter().for_each(|kv| self.look_at_pair(kv));
            }
            Reply::Txn(reply) => reply.responses.iter().for_each(|it| self.look_at_reply(it)),
            Reply::Compact
            | Reply::LeaseGrant(_)
            | Reply::LeaseRevoke
            | Reply::LeaseKeepAlive(_)
            | Reply::LeaseTimeToLive(_)
            | Reply::LeaseLeases(_) => (),
        }
    }

    fn look_at_pair(&mut self, kv: &KeyValue) {
        self.look_at(&kv.key, &kv.value);
    }

    fn look_at(&mut self, key: &Text, value: &Text) {
        let values = self.seen.get_mut(key);
        if let Some(seen) = values.and_then(|values| values.get_mut(value)) {
            *seen = true;
        }
    }

    /// A request without the values that do not matter, and where they stood.
    fn shape_of(&self, request: &Request) -> Vec<u8> {
        let mut request = request.clone();
        let mut places = Vec::new();
        self.blank(&mut request, &mut places);
        serde_json::to_vec(&(request, places)).expect("a request is plain data")
    }

    fn blank(&self, request: &mut Request, places: &mut Vec<bool>) {
        match request {
            Request::Put(put) => {
                let seen = self
                    .seen
                    .get(&put.key)
                    .and_then(|values| values.get(&put.value));
                let matters = self.all_matter || put.ignore_value || seen != Some(&false);
                places.push(matters);
                if !matters {
                    put.value = Text::default();
                }
            }
            Request::Txn(txn) => {
                for op in txn.success.iter_mut().chain(&mut txn.failure) {
                    self.blank(op, places);
                }
            }
            Request::Range(_)
            | Request::DeleteRange(_)
            | Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseTimeToLive(_)
            | Request::LeaseLeases => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Options;

    /// Goal: puts that differ only in an unseen value are alike, all others are not. Method: by
    /// hand; the value "2" of key "k" is read, "3" is compared with.
    #[test]
    fn unseen_values_make_no_difference() {
        let line = |id: u64, request: &str, outcome: &str| {
            format!(
                "{{\"op\":{{\"id\":{id},\"client\":{id},\"call\":{id},{outcome},\
                 \"request\":{request}}}}}\n"
            )
        };
        let unknown = "\"outcome\":\"unknown\"";
        let put = |key: &str, value: &str| {
            format!("{{\"put\":{{\"key\":\"{key}\",\"value\":\"{value}\"}}}}")
        };
        let read = "\"ret\":99,\"outcome\":{\"ok\":{\"header\":{\"revision\":2},\"reply\":{\
                    \"range\":{\"kvs\":[{\"key\":\"k\",\"value\":\"2\"}],\"count\":1}}}}";
        let compare = "{\"txn\":{\"compare\":[{\"key\":\"k\",\"result\":\"equal\",\
                       \"target\":{\"value\":\"3\"}}]}}";
        let mut file = String::new();
        for (id, (key, value)) in [
            ("k", "0"),
            ("k", "1"),
            ("k", "2"),
            ("k", "3"),
            ("j", "2"),
            ("j", "4"),
        ]
        .into_iter()
        .enumerate()
        {
            file += &line(id as u64, &put(key, value), unknown);
        }
        file += &line(6, "{\"range\":{\"key\":\"k\"}}", read);
        file += &line(7, compare, unknown);
        let history = History::read(file.as_bytes()).unwrap();
        let prepared = Prepared::new(&history, &Options::default()).unwrap();
        let alike = Alike::new(&prepared);
        let classes: Vec<usize> = (0..6).map(|place| alike.class_of(place)).collect();
        assert_eq!(classes, [0, 0, 1, 2, 3, 3]);
    }
}
