//! What a request is charged against the space quota, by etcd's rule: the bytes it may add, and an
//! estimate of what is stored beside them. A request that can add nothing costs nothing, and only
//! such a request is let through when space has run out.

use crate::pb::etcdserverpb::{
    PutRequest, RequestOp, TxnRequest, request_op::Request as Operation,
};

/// What a key costs beside its bytes.
const KEY_BYTES: u64 = 256;
/// What a lease costs.
pub const LEASE_BYTES: u64 = 64;

/// A Put.
pub fn put(request: &PutRequest) -> u64 {
    KEY_BYTES + request.key.len() as u64 + request.value.len() as u64
}

/// A Txn: the dearer of its branches.
pub fn txn(request: &TxnRequest) -> u64 {
    branch(&request.success).max(branch(&request.failure))
}

fn branch(operations: &[RequestOp]) -> u64 {
    let cost = |operation: &RequestOp| match &operation.request {
        Some(Operation::RequestPut(request)) => put(request),
        Some(Operation::RequestTxn(request)) => txn(request),
        Some(Operation::RequestRange(_) | Operation::RequestDeleteRange(_)) | None => 0,
    };
    operations.iter().map(cost).sum()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::pb::etcdserverpb::{DeleteRangeRequest, RangeRequest};

    fn operation(request: Operation) -> RequestOp {
        RequestOp {
            request: Some(request),
        }
    }

    fn put_of(key: &'static str, value: usize) -> PutRequest {
        PutRequest {
            key: Bytes::from_static(key.as_bytes()),
            value: vec![0; value].into(),
            ..Default::default()
        }
    }

    #[test]
    fn a_put_costs_its_bytes_and_an_overhead() {
        assert_eq!(put(&put_of("", 0)), 256);
        assert_eq!(put(&put_of("abc", 100)), 256 + 103);
    }

    #[test]
    fn a_txn_costs_its_dearer_branch_through_all_nesting() {
        let deletes = [
            operation(Operation::RequestDeleteRange(DeleteRangeRequest::default())),
            operation(Operation::RequestRange(RangeRequest::default())),
            RequestOp { request: None },
        ];
        let free = TxnRequest {
            success: deletes.to_vec(),
            failure: deletes.to_vec(),
            ..Default::default()
        };
        assert_eq!(txn(&free), 0);
        let nested = TxnRequest {
            success: vec![operation(Operation::RequestTxn(free))],
            failure: vec![
                operation(Operation::RequestPut(put_of("a", 9))),
                operation(Operation::RequestPut(put_of("b", 9))),
            ],
            ..Default::default()
        };
        assert_eq!(txn(&nested), 2 * 266);
        let dear = TxnRequest {
            success: vec![
                operation(Operation::RequestTxn(nested)),
                operation(Operation::RequestPut(put_of("c", 0))),
            ],
            failure: vec![operation(Operation::RequestPut(put_of("d", 700)))],
            ..Default::default()
        };
        assert_eq!(txn(&dear), 957);
    }
}
