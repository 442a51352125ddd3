//! Sorted ranges whose records tie. etcd sorts with Go's `sort.Sort`, which leaves ties in any
//! order, so those may stand otherwise, and a limit may cut among them otherwise.

use std::collections::BTreeSet;

use fated::pb::{
    etcdserverpb::{
        RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse, range_request::SortTarget,
        request_op::Request, response_op::Response,
    },
    mvccpb::KeyValue,
};

use crate::{
    ask::{Ask, Reply},
    compare::Pair,
};

/// Puts our ties where etcd has them, if they are the same otherwise.
pub fn even(pair: &mut Pair<'_>) -> bool {
    match (pair.ask, &pair.reference, &mut pair.subject) {
        (Ask::Range(request), Ok(Reply::Range(one)), Ok(Reply::Range(two))) => {
            even_range(request, one, two)
        }
        (Ask::Txn(request), Ok(Reply::Txn(one)), Ok(Reply::Txn(two))) => {
            even_txn(request, one, two)
        }
        _ => false,
    }
}

fn even_txn(request: &TxnRequest, one: &TxnResponse, two: &mut TxnResponse) -> bool {
    if one.succeeded != two.succeeded {
        return false;
    }
    let branch = if one.succeeded {
        &request.success
    } else {
        &request.failure
    };
    let mut used = false;
    let answers = one.responses.iter().zip(&mut two.responses);
    for (RequestOp { request }, (left, right)) in branch.iter().zip(answers) {
        used |= match (request, &left.response, &mut right.response) {
            (
                Some(Request::RequestRange(request)),
                Some(Response::ResponseRange(one)),
                Some(Response::ResponseRange(two)),
            ) => even_range(request, one, two),
            (
                Some(Request::RequestTxn(request)),
                Some(Response::ResponseTxn(one)),
                Some(Response::ResponseTxn(two)),
            ) => even_txn(request, one, two),
            _ => false,
        };
    }
    used
}

/// What a record is sorted by. Values are compared although keys-only answers drop them, so those
/// tie with everything.
fn rank(target: SortTarget, keys_only: bool, kv: &KeyValue) -> Vec<u8> {
    match target {
        SortTarget::Key => kv.key.to_vec(),
        SortTarget::Version => kv.version.to_be_bytes().to_vec(),
        SortTarget::Create => kv.create_revision.to_be_bytes().to_vec(),
        SortTarget::Mod => kv.mod_revision.to_be_bytes().to_vec(),
        SortTarget::Value if keys_only => Vec::new(),
        SortTarget::Value => kv.value.to_vec(),
    }
}

fn even_range(request: &RangeRequest, one: &RangeResponse, two: &mut RangeResponse) -> bool {
    if one.kvs == two.kvs || one.kvs.len() != two.kvs.len() || one.kvs.len() < 2 {
        // With a limit of one, both must have one of the best.
        let single = one.kvs.len() == 1 && two.kvs.len() == 1 && one.more;
        if !single || one.kvs == two.kvs {
            return false;
        }
    }
    let target = request.sort_target();
    let ranks = |kvs: &[KeyValue]| -> Vec<Vec<u8>> {
        kvs.iter()
            .map(|kv| rank(target, request.keys_only, kv))
            .collect()
    };
    let (left, right) = (ranks(&one.kvs), ranks(&two.kvs));
    if left != right {
        return false;
    }
    // Whole groups of ties hold the same records; the last one may have been cut.
    let cut = if one.more { left.last() } else { None };
    let keys = |kvs: &[KeyValue]| -> BTreeSet<(Vec<u8>, Vec<u8>)> {
        let whole = kvs.iter().zip(&left).filter(|(_, rank)| Some(*rank) != cut);
        whole
            .map(|(kv, rank)| (rank.clone(), kv.key.to_vec()))
            .collect()
    };
    if keys(&one.kvs) != keys(&two.kvs) {
        return false;
    }
    two.kvs.clone_from(&one.kvs);
    true
}
