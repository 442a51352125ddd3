//! What locks and elections are made of: keys under leases, of which the oldest is in front, and
//! waits for the deletion of the one before.
//!
//! These are the recipes of etcd's clients, run at the edge by ordinary calls to the core. Nothing
//! is kept here between calls: who waits is a key in the store, and a wait is a watch of its own
//! that ends with its call.
//!
//! Invariant: a call that ends before its turn, however it ends, asks for the removal of its key.

use bytes::{Bytes, BytesMut};
use tokio_stream::StreamExt;
use tonic::{Code, Status};

use crate::{
    api::{
        Handle, check, status,
        streams::{StreamItems, StreamRequests},
    },
    kernel::{ApiError, Credentials, Request, Response},
    pb::{
        etcdserverpb::{
            Compare, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest,
            RangeRequest, RangeResponse, RequestOp, ResponseOp, TxnRequest, TxnResponse,
            WatchCreateRequest, WatchRequest, WatchResponse,
            compare::{CompareTarget, TargetUnion},
            range_request::{SortOrder, SortTarget},
            request_op, response_op, watch_request,
        },
        mvccpb::{KeyValue, event::EventType},
    },
};

/// The lease of a caller that brings none. Nobody keeps it alive.
const SESSION_SECONDS: i64 = 60;

/// Asks the core on behalf of one caller.
#[derive(Clone, Debug)]
pub(super) struct Desk {
    handle: Handle,
    credentials: Credentials,
}

impl Desk {
    /// For a caller with these credentials.
    pub fn new(handle: Handle, credentials: Credentials) -> Self {
        Self {
            handle,
            credentials,
        }
    }

    /// The caller's lease, or a new one.
    pub async fn session(&self, lease: i64) -> Result<Session, Status> {
        if lease != 0 {
            return Ok(Session {
                lease,
                leave: self.on_leave(None),
            });
        }
        let request = LeaseGrantRequest {
            ttl: SESSION_SECONDS,
            id: 0,
        };
        match self.ask(Request::LeaseGrant(request)).await? {
            Response::LeaseGrant(granted) => {
                let revoke = LeaseRevokeRequest { id: granted.id };
                Ok(Session {
                    lease: granted.id,
                    leave: self.on_leave(Some(Request::LeaseRevoke(revoke))),
                })
            }
            _ => Err(status::mismatch()),
        }
    }

    /// A transaction.
    pub async fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        check::txn(&request, self.handle.limits().txn_ops_max).map_err(told)?;
        match self.ask(Request::Txn(request)).await?.joined() {
            Response::Txn(answer) => Ok(answer),
            _ => Err(status::mismatch()),
        }
    }

    /// A linearizable read.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        match self.ask(Request::Range(request)).await?.joined() {
            Response::Range(answer) => Ok(answer),
            _ => Err(status::mismatch()),
        }
    }

    /// Any other call.
    pub async fn ask(&self, request: Request) -> Result<Response, Status> {
        let answer = self.handle.call(self.credentials.clone(), request).await;
        answer.map_err(told)
    }

    /// Waits until no key with the prefix was created at or before a revision.
    pub async fn turn(&self, prefix: &Bytes, created_max: i64) -> Result<(), Status> {
        loop {
            let request = RangeRequest {
                max_create_revision: created_max,
                ..by_creation(prefix, SortOrder::Descend)
            };
            let answer = self.range(request).await?;
            let Some(before) = answer.kvs.into_iter().next() else {
                return Ok(());
            };
            let revision = answer.header.map_or(0, |header| header.revision);
            self.deletion(before.key, revision).await?;
        }
    }

    /// Waits for the deletion of a key. May return too early, when history was compacted.
    async fn deletion(&self, key: Bytes, revision: i64) -> Result<(), Status> {
        let mut watch = self.watch(key, Bytes::new(), revision)?;
        while let Some(response) = watch.next().await? {
            let mut events = response.events.iter();
            if events.any(|event| event.r#type() == EventType::Delete) {
                break;
            }
        }
        Ok(())
    }

    /// Follows a key or a range.
    pub fn watch(&self, key: Bytes, range_end: Bytes, from: i64) -> Result<Watch, Status> {
        // The caller's wish for a leader was heard by the calls before; a wait outlives elections.
        let credentials = Credentials {
            require_leader: false,
            ..self.credentials.clone()
        };
        let (requests, items) = self.handle.open_stream(credentials).map_err(told)?;
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: from,
            ..Default::default()
        };
        requests.send(WatchRequest {
            request_union: Some(watch_request::RequestUnion::CreateRequest(create)),
        });
        Ok(Watch {
            items,
            _requests: requests,
        })
    }

    /// Removes the key that was created then, unless it is disarmed.
    pub fn in_line(&self, key: &Bytes, created: i64) -> Leave {
        self.on_leave(Some(Request::Txn(removal(key, created))))
    }

    fn on_leave(&self, request: Option<Request>) -> Leave {
        Leave {
            desk: self.clone(),
            request,
        }
    }
}

/// One watch of one call.
pub(super) struct Watch {
    items: StreamItems,
    _requests: StreamRequests,
}

impl Watch {
    /// The next response; none when history from here on is gone and the state must be read anew.
    pub async fn next(&mut self) -> Result<Option<WatchResponse>, Status> {
        match self.items.next().await {
            Some(Ok(response)) if response.compact_revision != 0 => Ok(None),
            Some(Ok(response)) if response.canceled => Err(Status::unknown(response.cancel_reason)),
            Some(Ok(response)) => Ok(Some(response)),
            Some(Err(status)) if status.code() == Code::Unavailable => Err(status),
            Some(Err(status)) => Err(Status::unknown(status.message())),
            None => Err(Status::unknown("lost watcher waiting for delete")),
        }
    }
}

/// The lease that a caller's key is under. One that was made for a call ends with a call that
/// fails, and with it whatever the call may have put.
pub(super) struct Session {
    /// Its id.
    pub lease: i64,
    leave: Leave,
}

impl Session {
    /// The call has done its work.
    pub fn keep(self) {
        self.leave.disarm();
    }
}

/// What is asked for when a caller goes before its turn.
pub(super) struct Leave {
    desk: Desk,
    request: Option<Request>,
}

impl Leave {
    /// The caller has what it came for, or has nothing to lose.
    pub fn disarm(mut self) {
        self.request = None;
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        if let Some(request) = self.request.take() {
            let credentials = self.desk.credentials.clone();
            self.desk.handle.tell(credentials, request);
        }
    }
}

/// An error of the core as these services tell it. etcd runs them on a client of its own, whose
/// errors carry a text and no code any more; only what stands before the service keeps its code.
pub(super) fn told(error: ApiError) -> Status {
    match error {
        ApiError::NoLeader
        | ApiError::NotSupportedForLearner
        | ApiError::Stopped
        | ApiError::InvalidClientApiVersion => status::of(error),
        other => Status::unknown(other.text()),
    }
}

/// All keys of a lock or an election start with this.
pub(super) fn prefix(name: &Bytes) -> Bytes {
    let mut prefix = BytesMut::with_capacity(name.len() + 1);
    prefix.extend_from_slice(name);
    prefix.extend_from_slice(b"/");
    prefix.freeze()
}

/// The key of a lease in it. Negative ids have a sign, as in Go.
pub(super) fn own_key(prefix: &Bytes, lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    let hex = format!("{sign}{:x}", lease.unsigned_abs());
    let mut key = BytesMut::with_capacity(prefix.len() + hex.len());
    key.extend_from_slice(prefix);
    key.extend_from_slice(hex.as_bytes());
    key.freeze()
}

/// The key behind all with a prefix that ends with a slash.
pub(super) fn behind(prefix: &Bytes) -> Bytes {
    let mut end = BytesMut::from(&prefix[..]);
    if let Some(last) = end.last_mut() {
        *last = b'/' + 1;
    }
    end.freeze()
}

/// The oldest or the youngest key with a prefix.
pub(super) fn by_creation(prefix: &Bytes, order: SortOrder) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: behind(prefix),
        limit: 1,
        sort_order: order as i32,
        sort_target: SortTarget::Create as i32,
        ..Default::default()
    }
}

/// One key.
pub(super) fn get(key: &Bytes) -> RangeRequest {
    RangeRequest {
        key: key.clone(),
        ..Default::default()
    }
}

/// Whether a key was created at a revision; 0 stands for a key that is not there.
pub(super) fn created_at(key: &Bytes, revision: i64) -> Compare {
    Compare {
        key: key.clone(),
        target: CompareTarget::Create as i32,
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Default::default()
    }
}

/// Removes a key, if it is still the one that was created then.
pub(super) fn removal(key: &Bytes, created: i64) -> TxnRequest {
    let delete = DeleteRangeRequest {
        key: key.clone(),
        ..Default::default()
    };
    TxnRequest {
        compare: vec![created_at(key, created)],
        success: vec![op(request_op::Request::RequestDeleteRange(delete))],
        failure: Vec::new(),
    }
}

/// Puts a value under a lease.
pub(super) fn put(key: &Bytes, value: &Bytes, lease: i64) -> RequestOp {
    op(request_op::Request::RequestPut(PutRequest {
        key: key.clone(),
        value: value.clone(),
        lease,
        ..Default::default()
    }))
}

/// A read within a transaction.
pub(super) fn read(request: RangeRequest) -> RequestOp {
    op(request_op::Request::RequestRange(request))
}

fn op(request: request_op::Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

/// The first key that an operation of a transaction read.
pub(super) fn first_read(responses: &[ResponseOp], place: usize) -> Option<&KeyValue> {
    match responses.get(place)?.response.as_ref()? {
        response_op::Response::ResponseRange(range) => range.kvs.first(),
        response_op::Response::ResponsePut(_)
        | response_op::Response::ResponseDeleteRange(_)
        | response_op::Response::ResponseTxn(_) => None,
    }
}

/// When the caller's key was created: by this transaction, or before it.
pub(super) fn creation(answer: &TxnResponse) -> Result<i64, Status> {
    let created = if answer.succeeded {
        answer.header.as_ref().map(|header| header.revision)
    } else {
        first_read(&answer.responses, 0).map(|kv| kv.create_revision)
    };
    created.ok_or_else(status::mismatch)
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

    use super::*;
    use crate::{
        api::EdgeLimits,
        kernel::{CallId, Event, StreamItem, event::StreamRequest},
        pb::etcdserverpb::ResponseHeader,
    };

    #[test]
    fn keys_are_named_as_etcds_clients_name_them() {
        let prefix = prefix(&Bytes::from_static(b"m"));
        assert_eq!(prefix, "m/");
        assert_eq!(behind(&prefix), "m0");
        assert_eq!(
            own_key(&prefix, 0x2040_a1fd_35b3_9408),
            "m/2040a1fd35b39408"
        );
        assert_eq!(own_key(&prefix, -5), "m/-5");
        assert_eq!(own_key(&prefix, i64::MIN), "m/-8000000000000000");
    }

    #[test]
    fn only_what_stands_before_the_service_keeps_its_code() {
        for error in ApiError::ALL {
            let status = told(*error);
            assert_eq!(status.message(), error.text());
            let kept = matches!(
                error,
                ApiError::NoLeader
                    | ApiError::NotSupportedForLearner
                    | ApiError::Stopped
                    | ApiError::InvalidClientApiVersion
            );
            assert_eq!(status.code() != Code::Unknown, kept, "{error:?}");
        }
    }

    async fn look(events: &mut UnboundedReceiver<Event>) -> (CallId, RangeRequest) {
        loop {
            match events.recv().await {
                Some(Event::Call {
                    call,
                    credentials,
                    request: Request::Range(range),
                }) => {
                    assert!(credentials.require_leader);
                    return (call, range);
                }
                Some(Event::StreamCredit { .. } | Event::StreamClosed { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Goal: who waits goes on waiting when the history that it follows is compacted, and needs no
    /// leader while it only waits.
    #[tokio::test]
    async fn a_wait_outlives_compaction() {
        let (sender, mut events) = unbounded_channel();
        let handle = Handle::new(sender, EdgeLimits::default());
        let credentials = Credentials {
            require_leader: true,
            ..Default::default()
        };
        let desk = Desk::new(handle.clone(), credentials);
        let waiting = tokio::spawn(async move {
            let prefix = prefix(&Bytes::from_static(b"m"));
            desk.turn(&prefix, 5).await
        });
        let answer = |keys: &[&'static str]| {
            Response::Range(RangeResponse {
                header: Some(ResponseHeader {
                    revision: 9,
                    ..Default::default()
                }),
                kvs: keys
                    .iter()
                    .map(|key| KeyValue {
                        key: Bytes::from_static(key.as_bytes()),
                        ..Default::default()
                    })
                    .collect(),
                ..Default::default()
            })
        };
        let (call, range) = look(&mut events).await;
        assert_eq!((range.max_create_revision, range.limit), (5, 1));
        handle.reply(call, Ok(answer(&["m/1"])));
        let Some(Event::StreamOpened {
            stream,
            credentials,
        }) = events.recv().await
        else {
            panic!("a wait is a watch");
        };
        assert!(!credentials.require_leader);
        let Some(Event::StreamItem {
            item: StreamRequest::Watch(request),
            ..
        }) = events.recv().await
        else {
            panic!("of one key");
        };
        let Some(watch_request::RequestUnion::CreateRequest(create)) = request.request_union else {
            panic!("{request:?}");
        };
        assert_eq!(
            (create.key.as_ref(), create.start_revision),
            (&b"m/1"[..], 9)
        );
        let compacted = WatchResponse {
            canceled: true,
            compact_revision: 12,
            ..Default::default()
        };
        for response in [WatchResponse::default(), compacted] {
            let response = Box::new(response);
            handle.stream_item(stream, StreamItem::Watch { response, bytes: 1 });
        }
        let (call, _) = look(&mut events).await;
        handle.reply(call, Ok(answer(&[])));
        waiting.await.unwrap().unwrap();
    }
}
