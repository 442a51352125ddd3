//! Makes transactions: compares of every kind, nested branches, too many of everything.

use fated::pb::etcdserverpb::{
    Compare, RequestOp, TxnRequest, compare::TargetUnion, request_op::Request,
};

use crate::{
    generate::{delete_range, put, range},
    newer::has_bad_sort,
    world::World,
};

/// A transaction.
pub fn txn(world: &mut World) -> TxnRequest {
    if world.random.one_in(150) {
        return wide(world);
    }
    let mut txn = nested(world, 3);
    if deletes_a_tail(&txn) {
        keep_nothing(&mut txn);
    }
    txn
}

/// Whether it deletes all keys from one on. Such a deletion may take away a key whose value or
/// lease a put in the same transaction keeps: etcd does not see that they overlap, and ends with a
/// panic.
fn deletes_a_tail(txn: &TxnRequest) -> bool {
    let operations = txn.success.iter().chain(&txn.failure);
    operations.into_iter().any(|one| match &one.request {
        Some(Request::RequestDeleteRange(delete)) => delete.range_end.as_ref() == b"\0",
        Some(Request::RequestTxn(nested)) => deletes_a_tail(nested),
        _ => false,
    })
}

fn keep_nothing(txn: &mut TxnRequest) {
    for one in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut one.request {
            Some(Request::RequestPut(put)) => {
                put.ignore_value = false;
                put.ignore_lease = false;
            }
            Some(Request::RequestTxn(nested)) => keep_nothing(nested),
            _ => {}
        }
    }
}

fn nested(world: &mut World, depth: usize) -> TxnRequest {
    let (compares, then, otherwise) = (
        world.random.of(&[0, 0, 1, 1, 2, 3]),
        world.random.of(&[0, 1, 1, 2, 3]),
        world.random.of(&[0, 0, 1, 2]),
    );
    let reads_only = world.random.one_in(4);
    TxnRequest {
        compare: (0..compares).map(|_| compare(world)).collect(),
        success: (0..then).map(|_| op(world, depth, reads_only)).collect(),
        failure: (0..otherwise)
            .map(|_| op(world, depth, reads_only))
            .collect(),
    }
}

/// As many parts as are allowed, or one more.
fn wide(world: &mut World) -> TxnRequest {
    let count = 127 + world.random.below(3);
    let key = |number: usize| format!("w/{number}").into();
    let operation = |number: usize| RequestOp {
        request: Some(Request::RequestPut(fated::pb::etcdserverpb::PutRequest {
            key: key(number),
            ..Default::default()
        })),
    };
    let mut txn = TxnRequest::default();
    match world.random.below(3) {
        0 => txn.success = (0..count).map(operation).collect(),
        1 => txn.failure = (0..count).map(operation).collect(),
        _ => txn.compare = (0..count).map(|_| compare(world)).collect(),
    }
    txn
}

fn op(world: &mut World, depth: usize, reads_only: bool) -> RequestOp {
    if world.random.one_in(150) {
        return RequestOp { request: None };
    }
    let kind = if reads_only {
        0
    } else {
        world.random.below(10)
    };
    let request = match kind {
        0..=2 => {
            let mut range = range(world);
            if has_bad_sort(&range) {
                range.sort_order = 0;
                range.sort_target = 0;
            }
            if !world.random.one_in(5) {
                range.revision = 0;
            }
            Request::RequestRange(range)
        }
        3..=6 => Request::RequestPut(put(world)),
        7 | 8 => Request::RequestDeleteRange(delete_range(world)),
        _ if depth > 0 => Request::RequestTxn(nested(world, depth - 1)),
        _ => Request::RequestPut(put(world)),
    };
    RequestOp {
        request: Some(request),
    }
}

fn compare(world: &mut World) -> Compare {
    let key = world.key();
    let range_end = match world.random.one_in(4) {
        true => world.range_end(&key),
        false => bytes::Bytes::new(),
    };
    let target = world.number(5);
    // Mostly the operand that belongs to the target, close to what it is compared with.
    let kind = match world.random.one_in(12) {
        true => world.random.below(6),
        false => usize::try_from(target).unwrap_or(0).min(5),
    };
    let revision = match world.random.one_in(3) {
        true => world.any_revision(),
        false => (world.revision - world.random.up_to(12)).max(0),
    };
    let operand = match kind {
        0 => Some(TargetUnion::Version(world.random.up_to(4))),
        1 => Some(TargetUnion::CreateRevision(revision)),
        2 => Some(TargetUnion::ModRevision(revision)),
        3 => Some(TargetUnion::Value(world.value())),
        4 => Some(TargetUnion::Lease(world.lease())),
        _ => None,
    };
    Compare {
        result: world.number(4),
        target,
        key,
        range_end,
        target_union: operand,
    }
}
