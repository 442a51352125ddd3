//! Filters and orders of a Range that the store itself does not know.

use std::cmp::Ordering;

use crate::pb::{
    etcdserverpb::{
        RangeRequest,
        range_request::{SortOrder, SortTarget},
    },
    mvccpb::KeyValue,
};

/// Whether keys in ascending order are what the client wants.
pub fn is_natural(request: &RangeRequest) -> bool {
    // A target other than the key without an order means ascending, so it needs sorting.
    match (request.sort_target(), request.sort_order()) {
        (SortTarget::Key, SortOrder::None | SortOrder::Ascend) => true,
        (SortTarget::Key, SortOrder::Descend) => false,
        (
            SortTarget::Version | SortTarget::Create | SortTarget::Mod | SortTarget::Value,
            SortOrder::None | SortOrder::Ascend | SortOrder::Descend,
        ) => false,
    }
}

/// Whether the limit counts keys as they are stored, before they are sorted. As in etcd a target
/// without an order sorts only what the limit left.
pub fn reads_by_key(request: &RangeRequest) -> bool {
    is_natural(request) || request.sort_order() == SortOrder::None
}

/// Whether the answer is what is read, but for its end.
pub fn is_plain(request: &RangeRequest) -> bool {
    is_natural(request) && !has_filters(request)
}

/// Whether any revision filter is on.
pub fn has_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// Drops what the revision filters exclude; zero means no bound.
pub fn filter(kvs: &mut Vec<KeyValue>, request: &RangeRequest) {
    if !has_filters(request) {
        return;
    }
    let within = |value: i64, low: i64, high: i64| {
        (low == 0 || value >= low) && (high == 0 || value <= high)
    };
    kvs.retain(|kv| {
        within(
            kv.mod_revision,
            request.min_mod_revision,
            request.max_mod_revision,
        ) && within(
            kv.create_revision,
            request.min_create_revision,
            request.max_create_revision,
        )
    });
}

/// Sorts; equal elements keep the order of their keys, also when descending.
pub fn sort(kvs: &mut [KeyValue], request: &RangeRequest) {
    if is_natural(request) {
        return;
    }
    let target = request.sort_target();
    let compare = move |a: &KeyValue, b: &KeyValue| -> Ordering {
        match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    };
    if request.sort_order() == SortOrder::Descend {
        kvs.sort_by(|a, b| compare(b, a));
    } else {
        kvs.sort_by(compare);
    }
}
