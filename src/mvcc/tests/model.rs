//! The simplest multi-version store: one full map per revision, and a log of changes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::{KeyRange, RangeQuery, RangeResult, ReadError};
use crate::pb::mvccpb::{Event, KeyValue, event::EventType};

pub type State = BTreeMap<Bytes, KeyValue>;

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    Put(Bytes, Bytes, i64),
    Delete(Bytes, Bytes),
}

/// All states by revision; the first two, revisions 0 and 1, are empty.
#[derive(Clone, Debug)]
pub struct Model {
    pub states: Vec<State>,
    /// Changes by revision, in order.
    pub log: Vec<Vec<Event>>,
    pub compacted: i64,
}

impl Model {
    pub fn new() -> Self {
        Self {
            states: vec![State::new(); 2],
            log: vec![Vec::new(); 2],
            compacted: -1,
        }
    }

    pub fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    /// The state at a revision.
    pub fn at(&self, revision: i64) -> &State {
        &self.states[revision as usize]
    }

    pub fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    /// Runs a transaction and returns its events.
    pub fn txn(&mut self, ops: &[Op]) -> Vec<Event> {
        let revision = self.revision() + 1;
        let mut state = self.now().clone();
        let mut events = Vec::new();
        for op in ops {
            apply(op, revision, &mut state, &mut events);
        }
        if !events.is_empty() {
            self.states.push(state);
            self.log.push(events.clone());
        }
        events
    }

    /// What a read must answer.
    pub fn range(&self, query: &RangeQuery<'_>) -> Result<RangeResult, ReadError> {
        let revision = self.revision();
        let at = match query.revision {
            at if at > revision => return Err(ReadError::FutureRevision),
            at if at <= 0 => revision,
            at => at,
        };
        if at < self.compacted {
            return Err(ReadError::Compacted);
        }
        Ok(range_of(self.at(at), query, revision))
    }
}

/// A query answered from one state.
pub fn range_of(state: &State, query: &RangeQuery<'_>, revision: i64) -> RangeResult {
    let range = KeyRange::new(query.key, query.range_end);
    let inside: Vec<&KeyValue> = state
        .values()
        .filter(|kv| range.contains(&kv.key))
        .collect();
    let limit = match query.limit {
        0 => usize::MAX,
        limit => limit,
    };
    let mut kvs: Vec<KeyValue> = inside.iter().take(limit).map(|kv| (*kv).clone()).collect();
    let mut count = inside.len();
    if query.count_only {
        kvs.clear();
    } else if query.uncounted {
        count = kvs.len();
    }
    if query.keys_only {
        for kv in &mut kvs {
            (kv.value, kv.lease) = (Bytes::new(), 0);
        }
    }
    RangeResult {
        kvs,
        count: count as u64,
        revision,
    }
}

/// Applies one operation; also used for what a transaction sees of itself.
pub fn apply(op: &Op, revision: i64, state: &mut State, events: &mut Vec<Event>) {
    match op {
        Op::Put(key, value, lease) => {
            let old = state.get(key);
            let kv = KeyValue {
                key: key.clone(),
                create_revision: old.map_or(revision, |old| old.create_revision),
                mod_revision: revision,
                version: old.map_or(1, |old| old.version + 1),
                value: value.clone(),
                lease: *lease,
            };
            state.insert(key.clone(), kv.clone());
            events.push(event(EventType::Put, kv));
        }
        Op::Delete(from, to) => {
            let range = KeyRange::new(from, to);
            let keys: Vec<Bytes> = state
                .keys()
                .filter(|key| range.contains(key))
                .cloned()
                .collect();
            for key in keys {
                state.remove(&key);
                let kv = KeyValue {
                    key,
                    mod_revision: revision,
                    ..KeyValue::default()
                };
                events.push(event(EventType::Delete, kv));
            }
        }
    }
}

fn event(kind: EventType, kv: KeyValue) -> Event {
    Event {
        r#type: kind.into(),
        kv: Some(kv),
        prev_kv: None,
    }
}
