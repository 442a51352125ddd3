//! Requests as clients make them. Every write carries something that no other ever does (a value,
//! or the end of a range), so that each entry of the log tells whose it is.

use fated::{
    kernel::Request,
    pb::etcdserverpb::{self as rpc, compare::TargetUnion},
};
use prost::Message;

use crate::draw;

/// What keys that are never written begin with; conditions on them tell txns apart.
pub const NEVER_PREFIX: &str = "never/";

/// What the keys of Kubernetes' objects begin with.
pub const OBJECTS: &str = "registry/pods/";

/// Who asks, and for which time: what makes a write unlike all others.
#[derive(Clone, Copy, Debug)]
pub struct Author {
    /// The client.
    pub client: usize,
    /// Its requests are counted.
    pub serial: u64,
}

/// The key of a number.
pub fn name(key: u64) -> String {
    format!("k{key:03}")
}

/// The number of a key, if it is one of those.
pub fn number_of(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key.strip_prefix(b"k")?)
        .ok()?
        .parse()
        .ok()
}

/// The first key behind all that begin so.
pub fn behind_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().expect("a prefix has a last byte") += 1;
    end
}

/// A read, as it is asked for by default.
pub fn range(key: impl Into<Vec<u8>>, range_end: Vec<u8>) -> rpc::RangeRequest {
    rpc::RangeRequest {
        key: key.into().into(),
        range_end: range_end.into(),
        ..Default::default()
    }
}

/// A read.
pub fn read(key: String, range_end: Vec<u8>) -> Request {
    Request::Range(range(key, range_end))
}

/// A write of a value that nobody else ever writes, about this long.
pub fn put(key: String, author: Author, bytes: u64) -> rpc::PutRequest {
    let mut value = format!("{}.{}.{key}", author.client, author.serial);
    value.extend(std::iter::repeat_n('x', draw::usize(bytes)));
    rpc::PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

/// The same as a request.
pub fn write(key: String, author: Author, bytes: u64) -> Request {
    Request::Put(put(key, author, bytes))
}

/// A deletion.
pub fn delete(key: String, range_end: Vec<u8>) -> Request {
    Request::DeleteRange(rpc::DeleteRangeRequest {
        key: key.into(),
        range_end: range_end.into(),
        prev_kv: true,
    })
}

/// A deletion of one key, told from all others by its range end.
pub fn delete_own(key: &str, author: Author) -> Request {
    delete(key.to_owned(), behind(key, author))
}

/// An end of a range, right behind a key, that nobody else ever uses.
pub fn behind(key: &str, author: Author) -> Vec<u8> {
    format!("{key}\0{}.{}", author.client, author.serial).into_bytes()
}

/// The condition that something of a key equals this.
pub fn compare(key: String, union: TargetUnion) -> rpc::Compare {
    compare_by(key, rpc::compare::CompareResult::Equal, union)
}

/// A condition on one key.
pub fn compare_by(
    key: String,
    result: rpc::compare::CompareResult,
    union: TargetUnion,
) -> rpc::Compare {
    use rpc::compare::CompareTarget;
    let target = match union {
        TargetUnion::Version(_) => CompareTarget::Version,
        TargetUnion::CreateRevision(_) => CompareTarget::Create,
        TargetUnion::ModRevision(_) => CompareTarget::Mod,
        TargetUnion::Value(_) => CompareTarget::Value,
        TargetUnion::Lease(_) => CompareTarget::Lease,
    };
    rpc::Compare {
        result: result as i32,
        target: target as i32,
        key: key.into(),
        target_union: Some(union),
        ..Default::default()
    }
}

/// A txn with one condition.
pub fn txn(compare: rpc::Compare, success: Vec<Request>, failure: Vec<Request>) -> Request {
    txn_of(vec![compare], success, failure)
}

/// A txn.
pub fn txn_of(compare: Vec<rpc::Compare>, success: Vec<Request>, failure: Vec<Request>) -> Request {
    let ops = |requests: Vec<Request>| requests.into_iter().map(request_op).collect();
    Request::Txn(rpc::TxnRequest {
        compare,
        success: ops(success),
        failure: ops(failure),
    })
}

fn request_op(request: Request) -> rpc::RequestOp {
    use rpc::request_op::Request as Op;
    let op = match request {
        Request::Range(range) => Op::RequestRange(range),
        Request::Put(put) => Op::RequestPut(put),
        Request::DeleteRange(delete) => Op::RequestDeleteRange(delete),
        Request::Txn(txn) => Op::RequestTxn(txn),
        other => unreachable!("no txn of this client holds {other:?}"),
    };
    rpc::RequestOp { request: Some(op) }
}

/// The pairs of a range within the answer of a txn.
pub fn range_in(response: &rpc::TxnResponse, at: usize) -> Option<&rpc::RangeResponse> {
    match response.responses.get(at)?.response.as_ref()? {
        rpc::response_op::Response::ResponseRange(range) => Some(range),
        _ => None,
    }
}

/// The revision of a header.
pub fn revision_of(header: Option<&rpc::ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// What the member decodes of what the client encoded.
pub fn over_the_wire(request: &Request) -> Request {
    fn twin<M: Message + Default>(message: &M) -> M {
        M::decode(message.encode_to_vec().as_slice()).expect("what was encoded can be decoded")
    }
    match request {
        Request::Range(range) => Request::Range(twin(range)),
        Request::Put(put) => Request::Put(twin(put)),
        Request::DeleteRange(delete) => Request::DeleteRange(twin(delete)),
        Request::Txn(txn) => Request::Txn(twin(txn)),
        Request::Compact(compact) => Request::Compact(twin(compact)),
        Request::LeaseGrant(grant) => Request::LeaseGrant(twin(grant)),
        Request::LeaseRevoke(revoke) => Request::LeaseRevoke(twin(revoke)),
        Request::LeaseKeepAlive(lease) => Request::LeaseKeepAlive(twin(lease)),
        Request::LeaseTimeToLive(lease) => Request::LeaseTimeToLive(twin(lease)),
        other => other.clone(),
    }
}
