//! Requests that took long, told as etcd tells them; and all of them, for whoever debugs.
//!
//! Invariant: values are never told, only their sizes; keys are.

use std::{
    fmt::{self, Write},
    time::{Duration, Instant},
};

use prost::Message;

use crate::{
    kernel::{ApiError, Request, Response},
    pb::etcdserverpb::{PutRequest, RangeRequest, RequestOp, TxnRequest, request_op},
};

/// What is told of one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SlowRequest {
    /// From its arrival to its answer.
    pub took: Duration,
    /// For example `/etcdserverpb.KV/Range`.
    pub method: &'static str,
    /// Writes in the request; -1 where nobody counts.
    pub request_count: i64,
    /// Bytes of the request, or -1.
    pub request_size: i64,
    /// Records in the answer, or -1.
    pub response_count: i64,
    /// Bytes of the answer, or -1.
    pub response_size: i64,
    /// The request, without values.
    pub content: String,
}

/// Who listens.
pub trait Listener: Send + Sync {
    /// Requests that take longer than this are told.
    fn limit(&self) -> Duration;

    /// Is told of one.
    fn tell(&self, slow: SlowRequest);
}

/// Listens for requests that take longer than a limit.
pub struct SlowLog(Box<dyn Listener>);

impl fmt::Debug for SlowLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SlowLog({:?})", self.0.limit())
    }
}

impl SlowLog {
    /// Tells this listener.
    pub fn new(listener: impl Listener + 'static) -> Self {
        Self(Box::new(listener))
    }

    /// What must be remembered of a request until its answer is there; nothing for one that no
    /// client makes.
    pub(super) fn begin(&self, request: &Request) -> Option<Begun> {
        let method = method(request)?;
        let kept = match request {
            Request::Range(_) | Request::Put(_) | Request::DeleteRange(_) | Request::Txn(_) => {
                Some(request.clone()) // counts references, copies no value
            }
            _ => None,
        };
        Some(Begun {
            at: Instant::now(),
            method,
            kept,
        })
    }

    /// The answer is there.
    pub(super) fn end(&self, begun: Begun, answer: &Result<Response, ApiError>) {
        let took = begun.at.elapsed();
        if took <= self.0.limit() {
            return;
        }
        let mut slow = SlowRequest {
            took,
            method: begun.method,
            request_count: -1,
            request_size: -1,
            response_count: -1,
            response_size: -1,
            content: String::new(),
        };
        if let Some(request) = &begun.kept {
            describe(&mut slow, request, answer.as_ref().ok());
        }
        self.0.tell(slow);
    }
}

/// A request on its way.
#[derive(Debug)]
pub(super) struct Begun {
    at: Instant,
    method: &'static str,
    kept: Option<Request>,
}

fn method(request: &Request) -> Option<&'static str> {
    Some(match request {
        Request::Range(_) => "/etcdserverpb.KV/Range",
        Request::Put(_) => "/etcdserverpb.KV/Put",
        Request::DeleteRange(_) => "/etcdserverpb.KV/DeleteRange",
        Request::Txn(_) => "/etcdserverpb.KV/Txn",
        Request::Compact(_) => "/etcdserverpb.KV/Compact",
        Request::LeaseGrant(_) => "/etcdserverpb.Lease/LeaseGrant",
        Request::LeaseRevoke(_) => "/etcdserverpb.Lease/LeaseRevoke",
        Request::LeaseTimeToLive(_) => "/etcdserverpb.Lease/LeaseTimeToLive",
        Request::LeaseLeases(_) => "/etcdserverpb.Lease/LeaseLeases",
        Request::MemberList(_) => "/etcdserverpb.Cluster/MemberList",
        Request::MemberAdd(_) => "/etcdserverpb.Cluster/MemberAdd",
        Request::MemberRemove(_) => "/etcdserverpb.Cluster/MemberRemove",
        Request::MemberUpdate(_) => "/etcdserverpb.Cluster/MemberUpdate",
        Request::MemberPromote(_) => "/etcdserverpb.Cluster/MemberPromote",
        Request::Alarm(_) => "/etcdserverpb.Maintenance/Alarm",
        Request::Status(_) => "/etcdserverpb.Maintenance/Status",
        Request::Defragment(_) => "/etcdserverpb.Maintenance/Defragment",
        Request::Hash(_) => "/etcdserverpb.Maintenance/Hash",
        Request::HashKv(_) => "/etcdserverpb.Maintenance/HashKV",
        Request::MoveLeader(_) => "/etcdserverpb.Maintenance/MoveLeader",
        Request::Downgrade(_) => "/etcdserverpb.Maintenance/Downgrade",
        // Streams last as long as their clients want, and the rest is no client's.
        _ => return None,
    })
}

fn size(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}

fn describe(slow: &mut SlowRequest, request: &Request, answer: Option<&Response>) {
    (slow.request_count, slow.response_count) = (0, 0);
    match request {
        Request::Range(range) => {
            slow.request_size = size(range.encoded_len());
            put_range(&mut slow.content, range);
        }
        Request::Put(put) => {
            slow.request_count = 1;
            slow.request_size = size(put.encoded_len());
            put_put(&mut slow.content, put);
        }
        Request::DeleteRange(delete) => {
            slow.request_size = size(delete.encoded_len());
            put_keys(&mut slow.content, &delete.key, &delete.range_end);
        }
        Request::Txn(txn) => {
            let succeeded = match answer {
                Some(Response::Txn(txn)) => txn.succeeded,
                Some(Response::PartedTxn(txn)) => txn.rest.succeeded,
                _ => false,
            };
            let taken = if succeeded {
                &txn.success
            } else {
                &txn.failure
            };
            slow.request_count = size(taken.len());
            slow.request_size = taken.iter().map(|op| size(op.encoded_len())).sum();
            put_txn(&mut slow.content, txn);
        }
        _ => {}
    }
    slow.response_size = match answer {
        Some(Response::Range(range)) => {
            slow.response_count = range.count;
            size(range.encoded_len())
        }
        Some(Response::PartedRange(range)) => {
            slow.response_count = range.rest.count;
            size(range.encoded_len())
        }
        Some(Response::Put(put)) => size(put.encoded_len()),
        Some(Response::DeleteRange(delete)) => {
            slow.response_count = delete.deleted;
            size(delete.encoded_len())
        }
        Some(Response::Txn(txn)) => size(txn.encoded_len()),
        Some(Response::PartedTxn(txn)) => size(txn.encoded_len()),
        _ => 0,
    };
}

/// Bytes as protobuf's text form has them.
fn put_bytes(out: &mut String, name: &str, bytes: &[u8]) {
    if !bytes.is_empty() {
        let gap = if out.is_empty() || out.ends_with('<') {
            ""
        } else {
            " "
        };
        let _ = write!(out, "{gap}{name}:\"{}\"", bytes.escape_ascii());
    }
}

fn put_number(out: &mut String, name: &str, number: i64) {
    if number != 0 {
        let _ = write!(out, " {name}:{number}");
    }
}

fn put_keys(out: &mut String, key: &[u8], range_end: &[u8]) {
    put_bytes(out, "key", key);
    put_bytes(out, "range_end", range_end);
}

fn put_range(out: &mut String, range: &RangeRequest) {
    put_keys(out, &range.key, &range.range_end);
    put_number(out, "limit", range.limit);
    put_number(out, "revision", range.revision);
    for (name, on) in [
        ("serializable", range.serializable),
        ("keys_only", range.keys_only),
        ("count_only", range.count_only),
    ] {
        if on {
            let _ = write!(out, " {name}:true");
        }
    }
}

fn put_put(out: &mut String, put: &PutRequest) {
    put_bytes(out, "key", &put.key);
    put_number(out, "value_size", size(put.value.len()));
    put_number(out, "lease", put.lease);
}

fn put_txn(out: &mut String, txn: &TxnRequest) {
    out.push_str("compare:<");
    for compare in &txn.compare {
        put_keys(out, &compare.key, &compare.range_end);
    }
    out.push_str("> success:<");
    put_operations(out, &txn.success);
    out.push_str("> failure:<");
    put_operations(out, &txn.failure);
    out.push('>');
}

fn put_operations(out: &mut String, operations: &[RequestOp]) {
    for operation in operations {
        let (name, content) = match &operation.request {
            Some(request_op::Request::RequestRange(range)) => {
                let mut content = String::new();
                put_range(&mut content, range);
                ("request_range", content)
            }
            Some(request_op::Request::RequestPut(put)) => {
                let mut content = String::new();
                put_put(&mut content, put);
                ("request_put", content)
            }
            Some(request_op::Request::RequestDeleteRange(delete)) => {
                let mut content = String::new();
                put_keys(&mut content, &delete.key, &delete.range_end);
                ("request_delete_range", content)
            }
            Some(request_op::Request::RequestTxn(txn)) => {
                let mut content = String::new();
                put_txn(&mut content, txn);
                ("request_txn", content)
            }
            None => continue,
        };
        let gap = if out.ends_with('<') { "" } else { " " };
        let _ = write!(out, "{gap}{name}:<{content}>");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;
    use crate::pb::etcdserverpb::{Compare, PutResponse, TxnResponse};

    struct Ear(Duration, Sender<SlowRequest>);

    impl Listener for Ear {
        fn limit(&self) -> Duration {
            self.0
        }

        fn tell(&self, slow: SlowRequest) {
            self.1.send(slow).unwrap();
        }
    }

    fn told(limit: Duration, request: &Request, answer: Response) -> Option<SlowRequest> {
        let (sender, told) = channel();
        let log = SlowLog::new(Ear(limit, sender));
        let begun = log.begin(request)?;
        log.end(begun, &Ok(answer));
        told.try_recv().ok()
    }

    fn put() -> PutRequest {
        PutRequest {
            key: "a\"b".into(),
            value: "secret".into(),
            lease: 7,
            ..Default::default()
        }
    }

    #[test]
    fn slow_requests_are_told_without_their_values() {
        let answer = || Response::Put(PutResponse::default());
        let request = Request::Put(put());
        let slow = told(Duration::ZERO, &request, answer()).unwrap();
        assert_eq!(slow.method, "/etcdserverpb.KV/Put");
        assert_eq!(slow.content, "key:\"a\\\"b\" value_size:6 lease:7");
        assert_eq!((slow.request_count, slow.response_count), (1, 0));
        assert_eq!(slow.request_size, size(put().encoded_len()));
        assert_eq!(told(Duration::from_secs(60), &request, answer()), None);
        assert_eq!(told(Duration::ZERO, &Request::Health, answer()), None);
    }

    #[test]
    fn a_transaction_is_counted_by_the_branch_it_took() {
        let operation = |request| RequestOp {
            request: Some(request),
        };
        let txn = TxnRequest {
            compare: vec![Compare {
                key: "c".into(),
                ..Default::default()
            }],
            success: vec![
                operation(request_op::Request::RequestPut(put())),
                operation(request_op::Request::RequestRange(RangeRequest {
                    key: "r".into(),
                    limit: 3,
                    ..Default::default()
                })),
            ],
            failure: Vec::new(),
        };
        let answer = Response::Txn(TxnResponse {
            succeeded: true,
            ..Default::default()
        });
        let slow = told(Duration::ZERO, &Request::Txn(txn), answer).unwrap();
        assert_eq!(slow.request_count, 2);
        assert_eq!(
            slow.content,
            "compare:<key:\"c\"> success:<request_put:<key:\"a\\\"b\" value_size:6 lease:7> \
             request_range:<key:\"r\" limit:3>> failure:<>"
        );
        assert!(!slow.content.contains("secret"));
    }
}
