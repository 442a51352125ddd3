//! Calls of the KV service, and of leases, the short way: from the bytes of a message to the bytes
//! of the answer, with no request or response of HTTP in between. Streams of keep-alives go a way
//! like it.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use prost::Message;
use tonic::Status;

use super::{Edge, Services, credentials_of, keeping::Keeping, kv::Sent, message, unary};
use crate::{
    api::{
        http2::{Head, Reply, Talk},
        metrics::{Counted, Short},
        serve::grpc_timeout,
        status,
    },
    kernel::{ApiError, Credentials, Request},
    pb::etcdserverpb::{
        DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest,
        TxnRequest,
    },
};

/// What the head of such a call says.
#[derive(Debug)]
pub struct Plan {
    action: Action,
    credentials: Credentials,
    timeout: Option<Duration>,
    counts: Short,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Action {
    Range,
    Put,
    Txn,
    DeleteRange,
    LeaseGrant,
    LeaseRevoke,
    KeepAlive,
}

impl Services {
    /// How a call with this head may go the short way.
    pub fn plan(&self, head: &Head) -> Option<Plan> {
        let path = head.uri.path();
        let action = match path {
            "/etcdserverpb.KV/Range" => Action::Range,
            "/etcdserverpb.KV/Put" => Action::Put,
            "/etcdserverpb.KV/Txn" => Action::Txn,
            "/etcdserverpb.KV/DeleteRange" => Action::DeleteRange,
            "/etcdserverpb.Lease/LeaseGrant" => Action::LeaseGrant,
            "/etcdserverpb.Lease/LeaseRevoke" => Action::LeaseRevoke,
            "/etcdserverpb.Lease/LeaseKeepAlive" => Action::KeepAlive,
            _ => return None,
        };
        if head.method != Method::POST || head.headers.contains_key("grpc-encoding") {
            return None;
        }
        Some(Plan {
            action,
            credentials: credentials_of(&head.headers).ok()?,
            timeout: grpc_timeout(&head.headers),
            counts: self.rpcs().short(path, &head.headers)?,
        })
    }

    /// Begins such a call that is a stream. Its deadline is the client's affair, as it is in the
    /// general way: it holds for the head of the answer, and that is there at once.
    pub fn talk(&self, plan: &Plan) -> Option<Box<dyn Talk>> {
        match plan.action {
            Action::Range
            | Action::Put
            | Action::Txn
            | Action::DeleteRange
            | Action::LeaseGrant
            | Action::LeaseRevoke => None,
            Action::KeepAlive => Some(Box::new(Keeping::new(
                self.edge.handle.clone(),
                plan.credentials.clone(),
                plan.counts.open(),
                self.bytes_max,
            ))),
        }
    }

    /// Begins such a call; what is not sound goes back and the general way.
    pub fn begin(
        &self,
        plan: &Plan,
        message: Bytes,
    ) -> Result<impl Future<Output = Reply> + Send + 'static + use<>, Bytes> {
        if message.len() > self.bytes_max {
            return Err(message);
        }
        let call = match plan.action {
            Action::Range => RangeRequest::decode(message.clone()).map(Call::Range),
            Action::Put => PutRequest::decode(message.clone()).map(Call::Put),
            Action::Txn => TxnRequest::decode(message.clone()).map(Call::Txn),
            Action::DeleteRange => {
                DeleteRangeRequest::decode(message.clone()).map(Call::DeleteRange)
            }
            Action::LeaseGrant => LeaseGrantRequest::decode(message.clone()).map(Call::LeaseGrant),
            Action::LeaseRevoke => {
                LeaseRevokeRequest::decode(message.clone()).map(Call::LeaseRevoke)
            }
            Action::KeepAlive => return Err(message), // a stream
        };
        let Ok(call) = call else { return Err(message) };
        let counted = plan.counts.begin(message.len());
        let (edge, credentials, timeout) =
            (self.edge.clone(), plan.credentials.clone(), plan.timeout);
        Ok(async move {
            let answering = edge.answer(credentials, call);
            let answer = match timeout {
                None => answering.await,
                Some(timeout) => tokio::time::timeout(timeout, answering)
                    .await
                    .unwrap_or_else(|_| Err(status::of(ApiError::DeadlineExceeded))),
            };
            reply(counted, answer)
        })
    }
}

enum Call {
    Range(RangeRequest),
    Put(PutRequest),
    Txn(TxnRequest),
    DeleteRange(DeleteRangeRequest),
    LeaseGrant(LeaseGrantRequest),
    LeaseRevoke(LeaseRevokeRequest),
}

impl Edge {
    async fn answer(&self, credentials: Credentials, call: Call) -> Result<Reply, Status> {
        match call {
            Call::Range(request) => sent(self.range_of(credentials, request).await?),
            Call::Put(request) => unary::reply(&self.put_of(credentials, request).await?),
            Call::Txn(request) => sent(self.txn_of(credentials, request).await?),
            Call::DeleteRange(request) => {
                unary::reply(&self.delete_range_of(credentials, request).await?)
            }
            Call::LeaseGrant(request) => {
                let answer = self.ask(credentials, Request::LeaseGrant(request)).await;
                unary::reply(&message!(answer, LeaseGrant)?)
            }
            Call::LeaseRevoke(request) => {
                let answer = self.ask(credentials, Request::LeaseRevoke(request)).await;
                unary::reply(&message!(answer, LeaseRevoke)?)
            }
        }
    }
}

fn sent<T: Message + Default>(answer: Sent<T>) -> Result<Reply, Status> {
    match answer {
        Sent::Whole(message) => unary::reply(&message),
        Sent::Large(large) => Ok(match large.into_message() {
            Ok(message) => Reply::Message(message),
            Err(body) => Reply::Response(Box::new(unary::response(body))),
        }),
    }
}

fn reply(counted: Counted, answer: Result<Reply, Status>) -> Reply {
    match answer {
        Ok(Reply::Message(message)) => {
            counted.end_well(message.len() - unary::HEAD_BYTES);
            Reply::Message(message)
        }
        Ok(Reply::Response(response)) => Reply::Response(Box::new(counted.end_with(*response))),
        Err(status) => Reply::Response(Box::new(counted.end_with(status.into_http()))),
    }
}
