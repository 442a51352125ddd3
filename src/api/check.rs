//! What can be refused by looking at a request alone. Pure functions, in etcd's order of checks, so
//! that a request with two faults gets etcd's error.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::{
    kernel::ApiError,
    pb::etcdserverpb::{
        DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
        range_request::{SortOrder, SortTarget},
        request_op::Request,
    },
};

/// A Range: a key, and sort options that exist.
pub fn range(request: &RangeRequest) -> Result<(), ApiError> {
    if request.key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err()
        || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(ApiError::InvalidSortOption);
    }
    Ok(())
}

/// What a RangeStream cannot do, as the text for the client; a checked request is expected.
pub fn range_stream_unsupported(request: &RangeRequest) -> Option<&'static str> {
    // Without an order the target does not count; by key upwards is the order of the store.
    let unsorted = request.sort_order == SortOrder::None as i32;
    let upwards = request.sort_order == SortOrder::Ascend as i32;
    let by_key = request.sort_target == SortTarget::Key as i32;
    let as_stored = unsorted || (upwards && by_key);
    if !as_stored {
        return Some("RangeStream does not support custom sort orders");
    }
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if filters.iter().any(|revision| *revision != 0) {
        return Some("RangeStream does not support revision filters");
    }
    None
}

/// A Put: a key, and nothing given that is to be ignored.
pub fn put(request: &PutRequest) -> Result<(), ApiError> {
    if request.key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(ApiError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(ApiError::LeaseProvided);
    }
    Ok(())
}

/// A DeleteRange: a key.
pub fn delete_range(request: &DeleteRangeRequest) -> Result<(), ApiError> {
    if request.key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    Ok(())
}

/// A Txn: its size, its parts, and no key changed twice.
pub fn txn(request: &TxnRequest, ops_max: usize) -> Result<(), ApiError> {
    parts(request, ops_max)?;
    changes(&request.success)?;
    changes(&request.failure)?;
    Ok(())
}

/// A nested transaction may use what the longest list around it leaves over.
fn parts(request: &TxnRequest, ops_max: usize) -> Result<(), ApiError> {
    let longest = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    if longest > ops_max {
        return Err(ApiError::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(ApiError::EmptyKey);
    }
    let mut ops = request.success.iter().chain(&request.failure);
    ops.try_for_each(|op| match &op.request {
        Some(Request::RequestRange(request)) => range(request),
        Some(Request::RequestPut(request)) => put(request),
        Some(Request::RequestDeleteRange(request)) => delete_range(request),
        Some(Request::RequestTxn(request)) => parts(request, ops_max - longest),
        None => Err(ApiError::KeyNotFound),
    })
}

/// What one branch changes, nested branches included.
#[derive(Default)]
struct Changes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Spans<'a>,
}

/// Refuses a key that is put twice, or put and deleted, where both can happen in one run.
///
/// The order matters for what is found, and it is etcd's: deletes of this level come first, then
/// nested transactions one by one, then puts of this level. A nested put is therefore not held
/// against the deletes of a later nested transaction.
fn changes(ops: &[RequestOp]) -> Result<Changes<'_>, ApiError> {
    let mut level = Changes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            level.deletes.insert(&delete.key, &delete.range_end);
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(nested)) = &op.request else {
            continue;
        };
        let then = changes(&nested.success)?;
        let otherwise = changes(&nested.failure)?;
        for key in &then.puts {
            level.put(key)?;
        }
        for key in &otherwise.puts {
            // The two branches exclude each other, so both may put the same key.
            if then.puts.contains(key) {
                continue;
            }
            level.put(key)?;
        }
        level.deletes.extend(then.deletes);
        level.deletes.extend(otherwise.deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request {
            level.put(&put.key)?;
        }
    }
    Ok(level)
}

impl<'a> Changes<'a> {
    fn put(&mut self, key: &'a [u8]) -> Result<(), ApiError> {
        if self.deletes.contains(key) || !self.puts.insert(key) {
            return Err(ApiError::DuplicateKey);
        }
        Ok(())
    }
}

/// Half-open spans of keys, joined where they touch, so that a look-up is one step however many
/// deletes a request nests.
///
/// Invariant: begins and ends rise together, and no two spans touch.
#[derive(Default)]
struct Spans<'a> {
    ends: BTreeMap<&'a [u8], Cut<'a>>,
}

/// Where a span ends: before a key, or right behind one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cut<'a> {
    Before(&'a [u8]),
    Behind(&'a [u8]),
}

impl Cut<'_> {
    /// Whether the key lies on the near side.
    fn covers(self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < end,
            Self::Behind(end) => key <= end,
        }
    }

    /// Whether a span that begins at `key` leaves no gap.
    fn touches(self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key <= end,
            Self::Behind(end) => key <= end || is_next(end, key),
        }
    }

    fn reaches_beyond(self, other: Self) -> bool {
        match (self, other) {
            (Self::Before(one), Self::Before(two)) | (Self::Behind(one), Self::Behind(two)) => {
                one > two
            }
            (Self::Before(one), Self::Behind(two)) => one > two && !is_next(two, one),
            (Self::Behind(one), Self::Before(two)) => one >= two,
        }
    }
}

/// Whether `next` is the very next key after `key` in byte order.
fn is_next(key: &[u8], next: &[u8]) -> bool {
    next.len() == key.len() + 1 && next.starts_with(key) && next[key.len()] == 0
}

impl<'a> Spans<'a> {
    /// Adds what a delete names. An end of one zero byte means "everything from the key on" when it
    /// runs, but etcd's check takes it literally, as an empty span; so does this.
    fn insert(&mut self, key: &'a Bytes, range_end: &'a Bytes) {
        if range_end.is_empty() {
            self.join(key, Cut::Behind(key));
        } else if key < range_end {
            self.join(key, Cut::Before(range_end));
        }
    }

    fn extend(&mut self, other: Self) {
        for (begin, end) in other.ends {
            self.join(begin, end);
        }
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.ends
            .range(..=key)
            .next_back()
            .is_some_and(|(_, end)| end.covers(key))
    }

    fn join(&mut self, mut begin: &'a [u8], mut end: Cut<'a>) {
        let before = self.ends.range(..=begin).next_back();
        if let Some((earlier, reach)) = before.map(|(key, cut)| (*key, *cut))
            && reach.touches(begin)
        {
            begin = earlier;
            if reach.reaches_beyond(end) {
                end = reach;
            }
        }
        while let Some((later, reach)) = self.ends.range(begin..).next()
            && end.touches(later)
        {
            let (later, reach) = (*later, *reach);
            self.ends.remove(later);
            if reach.reaches_beyond(end) {
                end = reach;
            }
        }
        self.ends.insert(begin, end);
    }
}

#[cfg(test)]
mod tests;
