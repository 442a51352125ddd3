//! etcd, done one request after the other: the judge that every answer is compared with.
//!
//! Written from what etcd answers, not from the server's source, and as simple as it can be: one
//! ordered map, one revision, one set of leases. It shares no code with what it judges.
//!
//! Invariants:
//! - Every change goes through [`Model::set_key`] and its two siblings, which keep the fingerprint
//!   and the undo list; so a search may try a request and take it back.
//! - A request that is refused, and one that only reads, changes nothing.
//! - What a lease's deadline says is no concern of the model: a lease ends when it is revoked.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::history::*;

mod agree;
mod archive;
mod range;
#[cfg(test)]
mod tests;
mod txn;

pub use agree::{agree, agrees, with_chosen_lease};
pub use archive::Archive;
pub use range::{KeyRange, answers_as_at};

/// The longest TTL that etcd grants, in seconds.
pub const LEASE_TTL_MAX: i64 = 9_000_000_000;

/// The model chooses lease ids above this.
const CHOSEN_LEASES_AFTER: i64 = 1 << 40;

/// The errors that follow from request and state alone. All others (no leader, too many requests,
/// no space) say nothing about the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A key is empty.
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that is not there.
    KeyNotFound,
    /// A value with `ignore_value`.
    ValueProvided,
    /// A lease with `ignore_lease`.
    LeaseProvided,
    /// A txn with too many operations.
    TooManyOps,
    /// A txn that writes a key twice.
    DuplicateKey,
    /// The lease is not there.
    LeaseNotFound,
    /// The lease is there already.
    LeaseExist,
    /// The TTL is too long.
    LeaseTtlTooLarge,
    /// The revision is forgotten.
    Compacted,
    /// The revision is not there yet.
    FutureRevision,
}

/// All refusals, with code and text.
const REFUSALS: [(Refusal, u32, &str); 11] = [
    (Refusal::EmptyKey, 3, "etcdserver: key is not provided"),
    (Refusal::KeyNotFound, 3, "etcdserver: key not found"),
    (Refusal::ValueProvided, 3, "etcdserver: value is provided"),
    (Refusal::LeaseProvided, 3, "etcdserver: lease is provided"),
    (
        Refusal::TooManyOps,
        3,
        "etcdserver: too many operations in txn request",
    ),
    (
        Refusal::DuplicateKey,
        3,
        "etcdserver: duplicate key given in txn request",
    ),
    (
        Refusal::LeaseNotFound,
        5,
        "etcdserver: requested lease not found",
    ),
    (Refusal::LeaseExist, 9, "etcdserver: lease already exists"),
    (
        Refusal::LeaseTtlTooLarge,
        11,
        "etcdserver: too large lease TTL",
    ),
    (
        Refusal::Compacted,
        11,
        "etcdserver: mvcc: required revision has been compacted",
    ),
    (
        Refusal::FutureRevision,
        11,
        "etcdserver: mvcc: required revision is a future revision",
    ),
];

impl Refusal {
    /// The refusal that an error reports, if its text is that of one.
    pub fn of(failure: &Failure) -> Option<Refusal> {
        let found = REFUSALS.iter().find(|(_, _, text)| *text == failure.text);
        found.map(|(refusal, _, _)| *refusal)
    }

    /// The error as a client sees it.
    pub fn failure(self) -> Failure {
        let (_, code, text) = REFUSALS
            .iter()
            .find(|(refusal, _, _)| *refusal == self)
            .expect("the table has every refusal");
        Failure {
            code: *code,
            text: (*text).into(),
        }
    }

    /// Whether an error reports it.
    pub fn is(self, failure: &Failure) -> bool {
        let entry = REFUSALS.iter().find(|(refusal, _, _)| *refusal == self);
        entry.is_some_and(|(_, code, text)| failure.code == *code && failure.text == *text)
    }

    /// Whether the request alone decides, so that the answer is the same at any time.
    pub fn is_timeless(self) -> bool {
        match self {
            Refusal::EmptyKey
            | Refusal::ValueProvided
            | Refusal::LeaseProvided
            | Refusal::TooManyOps
            | Refusal::DuplicateKey
            | Refusal::LeaseTtlTooLarge => true,
            Refusal::KeyNotFound
            | Refusal::LeaseNotFound
            | Refusal::LeaseExist
            | Refusal::Compacted
            | Refusal::FutureRevision => false,
        }
    }
}

/// A reply and the revision of its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The revision before the request.
    pub before: i64,
    /// The revision after the request.
    pub revision: i64,
    /// The reply proper.
    pub reply: Reply,
}

/// What a change replaced.
#[derive(Clone, Debug)]
enum Undo {
    Key(Text, Option<KeyValue>),
    Lease(i64, Option<i64>),
    Revisions(i64, i64),
}

/// The whole state.
#[derive(Clone, Debug)]
pub struct Model {
    revision: i64,
    /// -1 if nothing was ever compacted, as in etcd.
    compacted: i64,
    kvs: BTreeMap<Text, KeyValue>,
    /// Granted TTL of each lease.
    leases: BTreeMap<i64, i64>,
    lease_ttl_min: i64,
    txn_ops_max: usize,
    /// XOR over the hashes of all pairs and leases.
    fingerprint: u64,
    undo: Vec<Undo>,
    /// What the last step did to keys, in order.
    events: Vec<WatchEvent>,
    /// Of each range of the last step that is sorted by anything but the key, everything that may
    /// be in its answer, in order.
    sorted: Vec<Vec<KeyValue>>,
    /// Everything that the last step could have been refused for. Which of it a server names
    /// depends on its version.
    refusals: Vec<Refusal>,
    /// All versions, if they are kept.
    archive: Option<Archive>,
}

impl Model {
    /// The state that a history begins with.
    pub fn new(meta: &Meta) -> Model {
        let mut model = Model {
            revision: meta.revision,
            compacted: meta.compact_revision,
            kvs: BTreeMap::new(),
            leases: BTreeMap::new(),
            lease_ttl_min: meta.lease_ttl_min,
            txn_ops_max: meta.txn_ops_max,
            fingerprint: 0,
            undo: Vec::new(),
            events: Vec::new(),
            sorted: Vec::new(),
            refusals: Vec::new(),
            archive: None,
        };
        for kv in &meta.kvs {
            model.set_key(&kv.key, Some(kv.clone()));
        }
        for (id, ttl) in &meta.leases {
            model.set_lease(*id, Some(*ttl));
        }
        model.keep();
        model
    }

    /// The same with all versions kept, so that reads at old revisions are answered. Nothing can
    /// be taken back then.
    pub fn with_archive(meta: &Meta) -> Model {
        let mut model = Model::new(meta);
        model.archive = Some(Archive::new(meta));
        model
    }

    /// The state at a revision of an archive. Its leases and compactions are not known.
    pub fn at(archive: &Archive, revision: i64, meta: &Meta) -> Model {
        let everything = KeyRange::new(&Text::from("\0"), &Text::from("\0"));
        Model::new(&Meta {
            revision,
            compact_revision: -1,
            kvs: archive.range_at(&everything, revision),
            leases: Vec::new(),
            ..meta.clone()
        })
    }

    /// The current revision.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The compacted revision; -1 for none.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// All pairs.
    pub fn kvs(&self) -> &BTreeMap<Text, KeyValue> {
        &self.kvs
    }

    /// All leases with their granted TTL.
    pub fn leases(&self) -> &BTreeMap<i64, i64> {
        &self.leases
    }

    /// The keys of a lease.
    pub fn keys_of(&self, lease: i64) -> Vec<Text> {
        let attached = self.kvs.values().filter(|kv| kv.lease == lease);
        attached.map(|kv| kv.key.clone()).collect()
    }

    /// What the last step did to keys.
    pub fn events(&self) -> &[WatchEvent] {
        &self.events
    }

    /// The versions, if they are kept.
    pub fn archive(&self) -> Option<&Archive> {
        self.archive.as_ref()
    }

    /// The archive of a replay that is over.
    pub fn into_archive(self) -> Option<Archive> {
        self.archive
    }

    /// A number that differs, but for a chance of one in 2^64, if the state differs.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.fingerprint, self.revision, self.compacted).hash(&mut hasher);
        hasher.finish()
    }

    /// Where the state stands, to come back to by [`Model::take_back`].
    pub fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Undoes everything since the mark.
    pub fn take_back(&mut self, mark: usize) {
        assert!(self.archive.is_none(), "an archive forgets nothing");
        assert!(mark <= self.undo.len(), "a mark is used before older ones");
        while self.undo.len() > mark {
            match self.undo.pop().expect("longer than the mark") {
                Undo::Key(key, before) => {
                    self.replace_key(key, before);
                }
                Undo::Lease(id, before) => {
                    self.replace_lease(id, before);
                }
                Undo::Revisions(revision, compacted) => {
                    self.revision = revision;
                    self.compacted = compacted;
                }
            }
        }
    }

    /// Makes everything final: marks set before are void.
    pub fn keep(&mut self) {
        self.undo.clear();
    }

    /// Carries out one request and answers it.
    pub fn step(&mut self, request: &Request) -> Result<Answer, Refusal> {
        self.events.clear();
        self.sorted.clear();
        self.refusals.clear();
        self.check(request)?;
        let next = self.revision + 1;
        let reply = match request {
            Request::Range(range) => {
                self.check_revision(range.revision)?;
                Reply::Range(self.range(range))
            }
            Request::Put(put) => {
                self.check_put(put)?;
                Reply::Put(self.put(put, next))
            }
            Request::DeleteRange(delete) => Reply::DeleteRange(self.delete_range(delete, next)),
            Request::Txn(txn) => Reply::Txn(self.txn(txn)?),
            Request::Compact(compact) => self.compact(compact.revision)?,
            Request::LeaseGrant(grant) => Reply::LeaseGrant(self.lease_grant(grant)?),
            Request::LeaseRevoke(lease) => self.lease_revoke(lease.id)?,
            Request::LeaseKeepAlive(lease) => Reply::LeaseKeepAlive(LeaseReply {
                id: lease.id,
                ttl: self.leases.get(&lease.id).copied().unwrap_or(0),
            }),
            Request::LeaseTimeToLive(lease) => Reply::LeaseTimeToLive(self.time_to_live(lease)),
            Request::LeaseLeases => Reply::LeaseLeases(LeaseLeasesReply {
                leases: self.leases.keys().copied().collect(),
            }),
        };
        self.settle();
        Ok(Answer {
            before: next - 1,
            revision: self.revision,
            reply,
        })
    }

    /// Moves the revision if the step changed a key.
    fn settle(&mut self) {
        if self.events.is_empty() {
            return;
        }
        self.set_revisions(self.revision + 1, self.compacted);
        if let Some(archive) = &mut self.archive {
            archive.push(self.revision, self.events.clone());
        }
    }

    /// What the request alone forbids.
    fn check(&self, request: &Request) -> Result<(), Refusal> {
        match request {
            Request::Range(range) => not_empty(&range.key),
            Request::Put(put) => {
                not_empty(&put.key)?;
                if put.ignore_value && !put.value.is_empty() {
                    return Err(Refusal::ValueProvided);
                }
                if put.ignore_lease && put.lease != 0 {
                    return Err(Refusal::LeaseProvided);
                }
                Ok(())
            }
            Request::DeleteRange(delete) => not_empty(&delete.key),
            Request::Txn(txn) => txn::check(self, txn),
            Request::LeaseGrant(grant) if grant.ttl > LEASE_TTL_MAX => {
                Err(Refusal::LeaseTtlTooLarge)
            }
            Request::Compact(_)
            | Request::LeaseGrant(_)
            | Request::LeaseRevoke(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseTimeToLive(_)
            | Request::LeaseLeases => Ok(()),
        }
    }

    fn check_revision(&self, revision: i64) -> Result<(), Refusal> {
        match revision {
            ..=0 => Ok(()),
            _ if revision > self.revision => Err(Refusal::FutureRevision),
            _ if revision < self.compacted => Err(Refusal::Compacted),
            _ => Ok(()),
        }
    }

    fn check_put(&mut self, put: &PutRequest) -> Result<(), Refusal> {
        let lease_missing = put.lease != 0 && !self.leases.contains_key(&put.lease);
        let needs_key = put.ignore_value || put.ignore_lease;
        let key_missing = needs_key && !self.kvs.contains_key(&put.key);
        self.refusals
            .extend(lease_missing.then_some(Refusal::LeaseNotFound));
        self.refusals
            .extend(key_missing.then_some(Refusal::KeyNotFound));
        self.first_refusal()
    }

    fn first_refusal(&self) -> Result<(), Refusal> {
        self.refusals
            .first()
            .map_or(Ok(()), |refusal| Err(*refusal))
    }

    fn put(&mut self, put: &PutRequest, revision: i64) -> PutReply {
        let before = self.kvs.get(&put.key).cloned();
        let mut kv = KeyValue {
            key: put.key.clone(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            value: put.value.clone(),
            lease: put.lease,
        };
        if let Some(before) = &before {
            kv.create_revision = before.create_revision;
            kv.version = before.version + 1;
            if put.ignore_value {
                kv.value = before.value.clone();
            }
            if put.ignore_lease {
                kv.lease = before.lease;
            }
        }
        self.events.push(WatchEvent {
            kind: EventKind::Put,
            kv: kv.clone(),
            prev_kv: before.clone(),
        });
        self.set_key(&put.key, Some(kv));
        PutReply {
            prev_kv: before.filter(|_| put.prev_kv),
        }
    }

    fn delete_range(&mut self, delete: &DeleteRangeRequest, revision: i64) -> DeleteRangeReply {
        let range = KeyRange::new(&delete.key, &delete.range_end);
        let gone: Vec<KeyValue> = range.of(&self.kvs).map(|(_, kv)| kv.clone()).collect();
        for kv in &gone {
            self.delete(kv, revision);
        }
        DeleteRangeReply {
            deleted: gone.len() as i64,
            prev_kvs: if delete.prev_kv { gone } else { Vec::new() },
        }
    }

    fn delete(&mut self, before: &KeyValue, revision: i64) {
        self.set_key(&before.key, None);
        self.events.push(WatchEvent {
            kind: EventKind::Delete,
            kv: KeyValue {
                key: before.key.clone(),
                mod_revision: revision,
                ..KeyValue::default()
            },
            prev_kv: Some(before.clone()),
        });
    }

    fn compact(&mut self, revision: i64) -> Result<Reply, Refusal> {
        if revision <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if revision > self.revision {
            return Err(Refusal::FutureRevision);
        }
        self.set_revisions(self.revision, revision);
        Ok(Reply::Compact)
    }

    fn lease_grant(&mut self, grant: &LeaseGrantRequest) -> Result<LeaseReply, Refusal> {
        let mut id = grant.id;
        if id == 0 {
            // The cluster chooses. Whoever replays fills in what it chose; else it is any id that
            // nobody would ask for.
            let last = self.leases.last_key_value().map_or(0, |(last, _)| *last);
            id = last.max(CHOSEN_LEASES_AFTER).saturating_add(1);
        }
        if self.leases.contains_key(&id) {
            return Err(Refusal::LeaseExist);
        }
        let ttl = grant.ttl.max(self.lease_ttl_min);
        self.set_lease(id, Some(ttl));
        Ok(LeaseReply { id, ttl })
    }

    fn lease_revoke(&mut self, id: i64) -> Result<Reply, Refusal> {
        if !self.leases.contains_key(&id) {
            return Err(Refusal::LeaseNotFound);
        }
        let next = self.revision + 1;
        let attached: Vec<KeyValue> = self
            .kvs
            .values()
            .filter(|kv| kv.lease == id)
            .cloned()
            .collect();
        for kv in &attached {
            self.delete(kv, next);
        }
        self.set_lease(id, None);
        Ok(Reply::LeaseRevoke)
    }

    fn time_to_live(&self, request: &LeaseTimeToLiveRequest) -> LeaseTimeToLiveReply {
        let Some(&granted_ttl) = self.leases.get(&request.id) else {
            return LeaseTimeToLiveReply {
                id: request.id,
                ttl: -1,
                ..LeaseTimeToLiveReply::default()
            };
        };
        LeaseTimeToLiveReply {
            id: request.id,
            ttl: granted_ttl,
            granted_ttl,
            keys: if request.keys {
                self.keys_of(request.id)
            } else {
                Vec::new()
            },
        }
    }

    fn set_key(&mut self, key: &Text, after: Option<KeyValue>) {
        let before = self.replace_key(key.clone(), after);
        if self.archive.is_none() {
            self.undo.push(Undo::Key(key.clone(), before));
        }
    }

    fn set_lease(&mut self, id: i64, after: Option<i64>) {
        let before = self.replace_lease(id, after);
        if self.archive.is_none() {
            self.undo.push(Undo::Lease(id, before));
        }
    }

    fn set_revisions(&mut self, revision: i64, compacted: i64) {
        if self.archive.is_none() {
            self.undo
                .push(Undo::Revisions(self.revision, self.compacted));
        }
        self.revision = revision;
        self.compacted = compacted;
    }

    fn replace_key(&mut self, key: Text, after: Option<KeyValue>) -> Option<KeyValue> {
        if let Some(after) = &after {
            self.fingerprint ^= hash_of(after);
        }
        let before = match after {
            Some(after) => self.kvs.insert(key, after),
            None => self.kvs.remove(&key),
        };
        if let Some(before) = &before {
            self.fingerprint ^= hash_of(before);
        }
        before
    }

    fn replace_lease(&mut self, id: i64, after: Option<i64>) -> Option<i64> {
        let before = match after {
            Some(ttl) => self.leases.insert(id, ttl),
            None => self.leases.remove(&id),
        };
        for ttl in [before, after].into_iter().flatten() {
            self.fingerprint ^= hash_of(&(id, ttl));
        }
        before
    }
}

fn not_empty(key: &Text) -> Result<(), Refusal> {
    if key.is_empty() {
        Err(Refusal::EmptyKey)
    } else {
        Ok(())
    }
}

fn hash_of(value: &impl Hash) -> u64 {
    // Fixed keys: the same state has the same number in every run.
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The leases that a request names, through all nested lists.
pub fn leases_of(request: &Request, into: &mut BTreeSet<i64>) {
    match request {
        Request::Put(put) if put.lease != 0 => {
            into.insert(put.lease);
        }
        Request::Txn(txn) => {
            for op in txn.success.iter().chain(&txn.failure) {
                leases_of(op, into);
            }
        }
        Request::LeaseGrant(grant) => {
            into.insert(grant.id);
        }
        Request::LeaseRevoke(lease) | Request::LeaseKeepAlive(lease) => {
            into.insert(lease.id);
        }
        Request::LeaseTimeToLive(lease) => {
            into.insert(lease.id);
        }
        Request::Range(_)
        | Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Compact(_)
        | Request::LeaseLeases => (),
    }
}
