//! The methods of etcd's API that the loads use, and requests that several of them make.

use bytes::Bytes;
use fated::pb::etcdserverpb::{
    CompactionRequest, CompactionResponse, Compare, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, RangeStreamResponse, RequestOp,
    SnapshotRequest, SnapshotResponse, StatusRequest, StatusResponse, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest, WatchResponse, compare, request_op::Request,
    watch_request::RequestUnion,
};

use crate::client::Method;

pub const PUT: Method<PutRequest, PutResponse> = Method::new("/etcdserverpb.KV/Put");
pub const RANGE: Method<RangeRequest, RangeResponse> = Method::new("/etcdserverpb.KV/Range");
pub const RANGE_STREAM: Method<RangeRequest, RangeStreamResponse> =
    Method::new("/etcdserverpb.KV/RangeStream");
pub const TXN: Method<TxnRequest, TxnResponse> = Method::new("/etcdserverpb.KV/Txn");
pub const COMPACT: Method<CompactionRequest, CompactionResponse> =
    Method::new("/etcdserverpb.KV/Compact");
pub const WATCH: Method<WatchRequest, WatchResponse> = Method::new("/etcdserverpb.Watch/Watch");
pub const GRANT: Method<LeaseGrantRequest, LeaseGrantResponse> =
    Method::new("/etcdserverpb.Lease/LeaseGrant");
pub const KEEP_ALIVE: Method<LeaseKeepAliveRequest, LeaseKeepAliveResponse> =
    Method::new("/etcdserverpb.Lease/LeaseKeepAlive");
pub const LEASES: Method<LeaseLeasesRequest, LeaseLeasesResponse> =
    Method::new("/etcdserverpb.Lease/LeaseLeases");
pub const STATUS: Method<StatusRequest, StatusResponse> =
    Method::new("/etcdserverpb.Maintenance/Status");
pub const SNAPSHOT: Method<SnapshotRequest, SnapshotResponse> =
    Method::new("/etcdserverpb.Maintenance/Snapshot");

/// A put of a key and a value.
pub fn put(key: impl Into<Bytes>, value: &Bytes) -> PutRequest {
    PutRequest {
        key: key.into(),
        value: value.clone(),
        ..PutRequest::default()
    }
}

/// A range of one key.
pub fn get(key: impl Into<Bytes>) -> RangeRequest {
    RangeRequest {
        key: key.into(),
        ..RangeRequest::default()
    }
}

/// A range from one key to another, which is left out.
pub fn range(from: impl Into<Bytes>, to: impl Into<Bytes>) -> RangeRequest {
    RangeRequest {
        key: from.into(),
        range_end: to.into(),
        ..RangeRequest::default()
    }
}

/// A transaction of these operations, without a condition.
pub fn txn(operations: impl IntoIterator<Item = Request>) -> TxnRequest {
    let operations = operations.into_iter();
    TxnRequest {
        success: operations
            .map(|one| RequestOp { request: Some(one) })
            .collect(),
        ..TxnRequest::default()
    }
}

/// Puts the key if it was changed last at this revision, and reads it otherwise; 0 means that it
/// is not there.
pub fn swap(key: Bytes, value: &Bytes, revision: i64) -> TxnRequest {
    let unchanged = Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(compare::TargetUnion::ModRevision(revision)),
        ..Compare::default()
    };
    let read = Request::RequestRange(get(key.clone()));
    TxnRequest {
        compare: vec![unchanged],
        failure: vec![RequestOp {
            request: Some(read),
        }],
        ..txn([Request::RequestPut(put(key, value))])
    }
}

/// A request for one more watch on a stream.
pub fn watch(create: WatchCreateRequest) -> WatchRequest {
    WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    }
}
