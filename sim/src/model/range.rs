//! Reading: which keys a range has, and how an answer is filtered, sorted and cut.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

use super::{Archive, Model};
use crate::history::*;

/// A range of keys in etcd's way of writing it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    first: Text,
    /// One key if absent.
    end: Option<RangeEnd>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum RangeEnd {
    Before(Text),
    Open,
}

impl KeyRange {
    /// An empty end is one key, a zero byte everything from the key on.
    pub fn new(key: &Text, range_end: &Text) -> KeyRange {
        let end = match range_end.bytes() {
            [] => None,
            [0] => Some(RangeEnd::Open),
            _ => Some(RangeEnd::Before(range_end.clone())),
        };
        KeyRange {
            first: key.clone(),
            end,
        }
    }

    /// Whether the key is in it.
    pub fn has(&self, key: &Text) -> bool {
        match &self.end {
            None => *key == self.first,
            Some(RangeEnd::Open) => *key >= self.first,
            Some(RangeEnd::Before(end)) => *key >= self.first && key < end,
        }
    }

    /// The entries of a map that are in it, in order.
    pub fn of<'m, V>(
        &self,
        map: &'m BTreeMap<Text, V>,
    ) -> impl Iterator<Item = (&'m Text, &'m V)> + use<'m, V> {
        let first = Bound::Included(self.first.clone());
        let last = match &self.end {
            None => Bound::Included(self.first.clone()),
            Some(RangeEnd::Open) => Bound::Unbounded,
            Some(RangeEnd::Before(end)) if *end > self.first => Bound::Excluded(end.clone()),
            // An end at or before the start is an empty range.
            Some(RangeEnd::Before(_)) => Bound::Excluded(self.first.clone()),
        };
        map.range((first, last))
    }
}

impl Model {
    /// Answers a range whose revision is known to be readable.
    pub(super) fn range(&mut self, request: &RangeRequest) -> RangeReply {
        let range = KeyRange::new(&request.key, &request.range_end);
        let found: Vec<KeyValue> = if request.revision <= 0 {
            range.of(&self.kvs).map(|(_, kv)| kv.clone()).collect()
        } else if request.revision == self.revision {
            self.before_this_step(&range)
        } else {
            let archive = self.archive.as_ref();
            archive.map_or(Vec::new(), |archive| {
                archive.range_at(&range, request.revision)
            })
        };
        if request.sort_target != SortTarget::Key && !request.count_only {
            let unlimited = RangeRequest {
                limit: 0,
                keys_only: false,
                ..request.clone()
            };
            let considered = considered(found.clone(), request);
            self.sorted.push(answer_range(considered, &unlimited).kvs);
        }
        answer_range(found, request)
    }

    /// The pairs of a range without what the txn that is under way has done so far: who names a
    /// revision does not see what is being written on top of it.
    fn before_this_step(&self, range: &KeyRange) -> Vec<KeyValue> {
        let now = range.of(&self.kvs);
        let mut kvs: BTreeMap<Text, KeyValue> =
            now.map(|(k, kv)| (k.clone(), kv.clone())).collect();
        for event in self
            .events
            .iter()
            .rev()
            .filter(|event| range.has(&event.kv.key))
        {
            match &event.prev_kv {
                Some(before) => kvs.insert(event.kv.key.clone(), before.clone()),
                None => kvs.remove(&event.kv.key),
            };
        }
        kvs.into_values().collect()
    }
}

/// Whether a range was answered as the archive has it at a revision.
pub fn answers_as_at(
    archive: &Archive,
    request: &RangeRequest,
    revision: i64,
    observed: &RangeReply,
) -> bool {
    let range = KeyRange::new(&request.key, &request.range_end);
    let found = archive.range_at(&range, revision);
    let unlimited = RangeRequest {
        limit: 0,
        keys_only: false,
        ..request.clone()
    };
    let allowed = answer_range(considered(found.clone(), request), &unlimited).kvs;
    let model = answer_range(found, request);
    (model.more, model.count) == (observed.more, observed.count)
        && pairs_agree(request, &model.kvs, &observed.kvs, &allowed)
}

/// The answer to a range, from all pairs in it, which are sorted by key.
pub(super) fn answer_range(mut kvs: Vec<KeyValue>, request: &RangeRequest) -> RangeReply {
    let count = kvs.len() as i64;
    if request.count_only {
        return RangeReply {
            count,
            ..RangeReply::default()
        };
    }
    kvs = considered(kvs, request);
    kvs.retain(|kv| passes(kv, request));
    kvs.sort_by(|a, b| by_target(a, b, request));
    let mut more = false;
    if request.limit > 0 && kvs.len() as i64 > request.limit {
        kvs.truncate(request.limit as usize);
        more = true;
    }
    if request.keys_only {
        for kv in &mut kvs {
            kv.value = Text::default();
        }
    }
    RangeReply { kvs, more, count }
}

/// What a read looks at before it sorts. With a limit and no order etcd stops behind the limit, also
/// if a target is named: it sorts what it has found until then.
fn considered(mut kvs: Vec<KeyValue>, request: &RangeRequest) -> Vec<KeyValue> {
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    let has_filters = filters.iter().any(|revision| *revision != 0);
    if request.limit > 0 && request.sort_order == SortOrder::None && !has_filters {
        let most = usize::try_from(request.limit).unwrap_or(usize::MAX);
        kvs.truncate(most.saturating_add(1));
    }
    kvs
}

fn passes(kv: &KeyValue, request: &RangeRequest) -> bool {
    let within = |revision: i64, min: i64, max: i64| {
        (min == 0 || revision >= min) && (max == 0 || revision <= max)
    };
    within(
        kv.mod_revision,
        request.min_mod_revision,
        request.max_mod_revision,
    ) && within(
        kv.create_revision,
        request.min_create_revision,
        request.max_create_revision,
    )
}

fn by_target(a: &KeyValue, b: &KeyValue, request: &RangeRequest) -> Ordering {
    let ascending = match request.sort_target {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    match request.sort_order {
        // A target without an order sorts upwards.
        SortOrder::None | SortOrder::Ascend => ascending,
        SortOrder::Descend => ascending.reverse(),
    }
}

/// Whether two lists of pairs are the same answer. etcd leaves open how pairs that sort alike
/// stand to each other, and with a limit which of them are in: `allowed` is what may be in, sorted.
pub(super) fn pairs_agree(
    request: &RangeRequest,
    model: &[KeyValue],
    observed: &[KeyValue],
    allowed: &[KeyValue],
) -> bool {
    // Whether a lease is told with a key alone depends on the server's version.
    let is_same = |model: &KeyValue, observed: &KeyValue| {
        let bare = || KeyValue {
            lease: 0,
            ..model.clone()
        };
        model == observed || (request.keys_only && bare() == *observed)
    };
    let mut pairs = model.iter().zip(observed);
    if model.len() == observed.len() && pairs.all(|(a, b)| is_same(a, b)) {
        return true;
    }
    if request.sort_target == SortTarget::Key || model.len() != observed.len() {
        return false;
    }
    let mut chosen: Vec<&KeyValue> = Vec::new();
    for kv in observed {
        let Some(full) = allowed.iter().find(|full| full.key == kv.key) else {
            return false;
        };
        let mut stripped = full.clone();
        if request.keys_only {
            stripped.value = Text::default();
        }
        if !is_same(&stripped, kv) || chosen.iter().any(|other| other.key == kv.key) {
            return false;
        }
        chosen.push(full);
    }
    // Alike in what they are sorted by, place for place.
    let mut pairs = allowed.iter().zip(chosen);
    pairs.all(|(a, b)| by_target(a, b, request) == Ordering::Equal)
}
