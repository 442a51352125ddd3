//! Put, DeleteRange, Range and Compact.

use bytes::Bytes;

use super::{ApplyError, Notice, StateMachine, order};
use crate::{
    backend::Backend,
    kernel::{ApiError, LeaseId, PartedRange, RangeChunk, RangeChunkResponse, Response, limits},
    lease::Lessor,
    mutant,
    mvcc::{Part, RangeQuery, RangeResult, RangeWalk, Store, Walked, WriteTxn},
    pb::{
        etcdserverpb::{
            CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
            PutRequest, PutResponse, RangeRequest, RangeResponse, ResponseHeader,
            range_request::{SortOrder, SortTarget},
        },
        mvccpb::{Event, KeyValue},
    },
};

/// A header that says only the revision; the member that answers fills in the rest.
pub fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

/// The store's question for an API range request.
pub fn query(request: &RangeRequest, limit: usize) -> RangeQuery<'_> {
    RangeQuery {
        key: &request.key,
        range_end: &request.range_end,
        revision: request.revision,
        limit,
        count_only: request.count_only,
        // Straight from the index, unless values decide the order.
        keys_only: request.keys_only && request.sort_target() != SortTarget::Value,
        uncounted: false,
    }
}

impl<B: Backend> StateMachine<B> {
    pub(super) fn put(
        &mut self,
        request: PutRequest,
        revisions: &mut Vec<(i64, Vec<Event>)>,
    ) -> Result<PutResponse, ApplyError> {
        check_lease(&self.lessor, &request)?;
        let mut txn = self.store.write(&mut self.view);
        check_previous(&txn, &request)?;
        let response = put_in(&mut txn, &mut self.lessor, request)?;
        commit(txn, revisions);
        Ok(response)
    }

    pub(super) fn delete_range(
        &mut self,
        request: &DeleteRangeRequest,
        revisions: &mut Vec<(i64, Vec<Event>)>,
    ) -> Result<DeleteRangeResponse, ApplyError> {
        if mutant!("delete-in-several-revisions") {
            return self.delete_one_by_one(request, revisions);
        }
        let mut txn = self.store.write(&mut self.view);
        let response = delete_in(&mut txn, &mut self.lessor, request)?;
        commit(txn, revisions);
        Ok(response)
    }

    /// A planted bug: each key goes in a revision of its own.
    fn delete_one_by_one(
        &mut self,
        request: &DeleteRangeRequest,
        revisions: &mut Vec<(i64, Vec<Event>)>,
    ) -> Result<DeleteRangeResponse, ApplyError> {
        let query = RangeQuery {
            key: &request.key,
            range_end: &request.range_end,
            ..RangeQuery::default()
        };
        let mut response = DeleteRangeResponse::default();
        for kv in self.store.range(&self.view, &query)?.kvs {
            let one = DeleteRangeRequest {
                key: kv.key,
                range_end: Bytes::new(),
                ..request.clone()
            };
            let mut txn = self.store.write(&mut self.view);
            let deleted = delete_in(&mut txn, &mut self.lessor, &one)?;
            commit(txn, revisions);
            response.deleted += deleted.deleted;
            response.prev_kvs.extend(deleted.prev_kvs);
        }
        response.header = header(self.store.revision());
        Ok(response)
    }

    /// Answers a Range from the current state.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, ApplyError> {
        range_of(request, |query| Ok(self.store.range(&self.view, query)?))
    }

    /// Begins to read a range that may be large.
    pub fn range_walk(&self, request: &RangeRequest) -> Result<RangeWalk, ApplyError> {
        Ok(self.store.walk(&query(request, limit_of(request)))?)
    }

    /// Whether it reads no more keys than this, as far as that can be told before.
    pub fn walk_is_within(&self, walk: &RangeWalk, keys: usize) -> bool {
        walk.is_within(keys, &self.store)
    }

    /// Reads a part of it; whether there is more.
    pub fn walk_on(&self, walk: &mut RangeWalk, part: Part) -> Result<bool, ApplyError> {
        Ok(walk.step(&self.store, &self.view, part)?)
    }

    /// The answer, once all is read. A large one stays as it was read, unless it is to be sorted or
    /// filtered.
    pub fn range_answer(&self, request: &RangeRequest, walk: RangeWalk) -> Response {
        let large = walk.bytes() >= limits::LARGE_READ_BYTES;
        let walked = walk.finish(&self.store);
        // Values that only decide the order are read all the same, and a plain range has no order.
        if (large || walked.parts.len() > 1) && order::is_plain(request) {
            return Response::PartedRange(parted_answer(request, walked));
        }
        let result = RangeResult {
            kvs: PartedRange::records(walked.parts),
            count: walked.count,
            revision: walked.revision,
        };
        Response::Range(answer_of(request, result))
    }

    /// Answers one chunk of a RangeStream. The first chunk pins the revision.
    pub fn range_chunk(&self, chunk: &RangeChunk) -> Result<RangeChunkResponse, ApplyError> {
        let mut request = chunk.request.clone();
        // Chunks follow each other by key. The edge refuses other orders, and a target without an
        // order would only mix the keys within each chunk, and with them where the next begins.
        request.sort_order = SortOrder::None as i32;
        request.sort_target = SortTarget::Key as i32;
        let current = self.store.revision();
        let revision = if request.revision > 0 {
            request.revision
        } else {
            current
        };
        if chunk.after.is_some() {
            request.revision = revision;
        }
        if request.count_only {
            let mut response = self.range(&request)?;
            response.kvs.clear();
            return Ok(RangeChunkResponse {
                response,
                revision,
                last: true,
            });
        }
        if let Some(after) = &chunk.after {
            // The first key behind the last one that was sent.
            let mut next = Vec::with_capacity(after.len() + 1);
            next.extend_from_slice(after);
            next.push(0);
            request.key = next.into();
        }
        // Counting the whole range for every chunk would make a long stream quadratic.
        let whole = (chunk.request.key.clone(), request.range_end.clone());
        let keys_max = i64::try_from(chunk.keys_max.max(1)).unwrap_or(i64::MAX);
        let wanted = request.limit;
        request.limit = if wanted > 0 {
            wanted.min(keys_max)
        } else {
            keys_max
        };
        let read = |query: &RangeQuery<'_>| {
            let query = RangeQuery {
                uncounted: true,
                ..*query
            };
            Ok(self.store.range(&self.view, &query)?)
        };
        let mut response = range_of(&request, read)?;
        let sent = i64::try_from(response.kvs.len()).unwrap_or(i64::MAX);
        let last = !response.more || (wanted > 0 && sent >= wanted);
        response.count = 0;
        if last {
            let count = self.store.count(&whole.0, &whole.1, revision)?;
            response.count = i64::try_from(count).unwrap_or(i64::MAX);
        }
        Ok(RangeChunkResponse {
            response,
            revision,
            last,
        })
    }

    pub(super) fn compact(
        &mut self,
        request: &CompactionRequest,
        notices: &mut Vec<Notice>,
    ) -> Result<CompactionResponse, ApplyError> {
        self.store.compact(&mut self.view, request.revision)?;
        notices.push(Notice::Compacted {
            revision: request.revision,
            physical: request.physical,
        });
        Ok(CompactionResponse {
            header: header(self.store.revision()),
        })
    }
}

/// Ends a transaction and keeps its events when it changed something.
pub(super) fn commit<B: Backend>(txn: WriteTxn<'_, B>, revisions: &mut Vec<(i64, Vec<Event>)>) {
    let committed = txn.finish();
    if !committed.events.is_empty() {
        revisions.push((committed.revision, committed.events));
    }
}

/// Refuses a put under a lease that does not exist.
pub(super) fn check_lease(lessor: &Lessor, request: &PutRequest) -> Result<(), ApiError> {
    let lease = LeaseId::new(request.lease);
    if lease.is_none() || lessor.exists(lease) {
        Ok(())
    } else {
        Err(ApiError::LeaseNotFound)
    }
}

/// Refuses `ignore_value` and `ignore_lease` where there is nothing to keep.
fn check_previous<B: Backend>(txn: &WriteTxn<'_, B>, request: &PutRequest) -> Result<(), ApiError> {
    let needed = request.ignore_value || request.ignore_lease;
    if needed && txn.meta(&request.key).is_none() {
        return Err(ApiError::KeyNotFound);
    }
    Ok(())
}

/// Refuses what `check_previous` refuses, before a transaction has begun.
pub(super) fn check_previous_in_store(store: &Store, request: &PutRequest) -> Result<(), ApiError> {
    let needed = request.ignore_value || request.ignore_lease;
    if needed && store.meta(&request.key).is_none() {
        return Err(ApiError::KeyNotFound);
    }
    Ok(())
}

/// Puts within a transaction whose checks have passed.
pub(super) fn put_in<B: Backend>(
    txn: &mut WriteTxn<'_, B>,
    lessor: &mut Lessor,
    request: PutRequest,
) -> Result<PutResponse, ApplyError> {
    let needs_previous = request.prev_kv || request.ignore_value || request.ignore_lease;
    let previous = if needs_previous {
        txn.get(&request.key)?
    } else {
        None
    };
    let mut value = request.value;
    let mut lease = LeaseId::new(request.lease);
    if let Some(previous) = &previous {
        if request.ignore_value && !mutant!("ignore-value-ignored") {
            value = previous.value.clone();
        }
        if request.ignore_lease && !mutant!("ignore-lease-ignored") {
            lease = LeaseId::new(previous.lease);
        }
    }
    // A transaction may delete a key that a later put of it wants to keep parts of; then there is
    // nothing to keep, and the put goes ahead with empty parts, because its checks passed before.
    if !(lease.is_none() && mutant!("overwritten-key-keeps-lease")) {
        lessor.detach(&request.key);
    }
    if !lease.is_none() {
        // A copy of its own: the request's bytes are a slice of a whole frame of the log.
        lessor.attach(lease, Bytes::copy_from_slice(&request.key))?;
    }
    let key = request.key.clone();
    txn.put(request.key, value, lease.get());
    let previous = match mutant!("previous-pair-of-the-new-revision") {
        true => txn.get(&key)?,
        false => previous,
    };
    Ok(PutResponse {
        header: header(txn.revision_seen()),
        prev_kv: if request.prev_kv { previous } else { None },
    })
}

/// Deletes within a transaction.
pub(super) fn delete_in<B: Backend>(
    txn: &mut WriteTxn<'_, B>,
    lessor: &mut Lessor,
    request: &DeleteRangeRequest,
) -> Result<DeleteRangeResponse, ApplyError> {
    let mut previous = Vec::new();
    if request.prev_kv {
        let query = RangeQuery {
            key: &request.key,
            range_end: &request.range_end,
            ..RangeQuery::default()
        };
        previous = txn.range(&query)?.kvs;
    }
    let deleted = txn.delete_range(&request.key, &request.range_end);
    for key in &deleted {
        lessor.detach(key);
    }
    Ok(DeleteRangeResponse {
        header: header(txn.revision_seen()),
        deleted: i64::try_from(deleted.len()).unwrap_or(i64::MAX),
        prev_kvs: previous,
    })
}

/// A Range over whatever `read` reads: filters, sorts, cuts and strips as etcd does.
pub(super) fn range_of(
    request: &RangeRequest,
    read: impl Fn(&RangeQuery<'_>) -> Result<RangeResult, ApplyError>,
) -> Result<RangeResponse, ApplyError> {
    let result = read(&query(request, limit_of(request)))?;
    Ok(answer_of(request, result))
}

/// Whether a Range may have many records, and its answer is what is read but for its end.
pub(super) fn is_parted(request: &RangeRequest) -> bool {
    !request.range_end.is_empty() && !request.count_only && order::is_plain(request)
}

/// The answer to such a Range; its records stay encoded.
pub(super) fn parted_of(
    request: &RangeRequest,
    read: impl Fn(&RangeQuery<'_>) -> Result<Walked, ApplyError>,
) -> Result<PartedRange, ApplyError> {
    let walked = read(&query(request, limit_of(request)))?;
    Ok(parted_answer(request, walked))
}

/// How many records must be read; zero is all.
fn limit_of(request: &RangeRequest) -> usize {
    let wanted = usize::try_from(request.limit).unwrap_or(0);
    // Reading in the order of keys without filters stops early; one key more tells whether there
    // are more.
    let by_key = order::reads_by_key(request) || mutant!("limit-before-sort");
    let early = by_key && !order::has_filters(request);
    if early && wanted > 0 {
        wanted.saturating_add(1)
    } else {
        0
    }
}

/// Filters, sorts, cuts and strips what was read.
fn answer_of(request: &RangeRequest, result: RangeResult) -> RangeResponse {
    let mut kvs = result.kvs;
    order::filter(&mut kvs, request);
    order::sort(&mut kvs, request);
    let (mut answer, keys) = frame_of(request, kvs.len(), result.count, result.revision);
    kvs.truncate(keys);
    if request.keys_only {
        kvs.iter_mut().for_each(strip_value);
    }
    answer.kvs = kvs;
    answer
}

/// The same for parts that need neither filters nor an order. Only their end is looked at.
fn parted_answer(request: &RangeRequest, walked: Walked) -> PartedRange {
    let (rest, keys) = frame_of(request, walked.records, walked.count, walked.revision);
    let parts = walked.parts;
    let mut answer = PartedRange { rest, parts };
    (keys..walked.records).for_each(|_| answer.pop());
    answer
}

/// An answer without its records, of which so many were found; and how many of them belong to it.
fn frame_of(
    request: &RangeRequest,
    found: usize,
    count: u64,
    revision: i64,
) -> (RangeResponse, usize) {
    let wanted = usize::try_from(request.limit).unwrap_or(0);
    let more = match mutant!("more-at-the-exact-limit") {
        true => wanted > 0 && found >= wanted,
        false => wanted > 0 && found > wanted,
    };
    let keys = if more { wanted } else { found };
    let count = match mutant!("count-of-what-is-returned") {
        true if wanted > 0 => found.min(wanted) as u64,
        true | false => count,
    };
    let answer = RangeResponse {
        header: header(revision),
        kvs: Vec::new(),
        more,
        count: i64::try_from(count).unwrap_or(i64::MAX),
    };
    (answer, keys)
}

fn strip_value(kv: &mut KeyValue) {
    kv.value = Bytes::new();
}
