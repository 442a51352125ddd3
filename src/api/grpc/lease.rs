//! Lease: grants, revocations, keep-alives.

use bytes::Bytes;
use futures_util::stream::unfold;
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio_stream::Empty;
use tonic::{Request as Incoming, Status, Streaming};

use super::{
    Answer, Edge, answered, credentials, keeping,
    unary::{self, Instead},
};
use crate::{
    kernel::{Credentials, Request},
    pb::etcdserverpb::{
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
        LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
        LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, lease_server::Lease,
    },
};

#[tonic::async_trait]
impl Lease for Edge {
    type LeaseKeepAliveStream = Empty<Result<LeaseKeepAliveResponse, Status>>;

    async fn lease_grant(
        &self,
        incoming: Incoming<LeaseGrantRequest>,
    ) -> Answer<LeaseGrantResponse> {
        answered!(self.call(incoming, Request::LeaseGrant).await, LeaseGrant)
    }

    async fn lease_revoke(
        &self,
        incoming: Incoming<LeaseRevokeRequest>,
    ) -> Answer<LeaseRevokeResponse> {
        answered!(self.call(incoming, Request::LeaseRevoke).await, LeaseRevoke)
    }

    async fn lease_keep_alive(
        &self,
        incoming: Incoming<Streaming<LeaseKeepAliveRequest>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        let keeping = Keeping {
            credentials: credentials(incoming.metadata())?,
            edge: self.clone(),
            inbound: incoming.into_inner(),
            ended: false,
        };
        // The body itself asks: there is nothing to answer ahead of what the client takes.
        let frames = unfold(keeping, Keeping::next);
        Ok(Instead::answer(StreamBody::new(frames)))
    }

    async fn lease_time_to_live(
        &self,
        incoming: Incoming<LeaseTimeToLiveRequest>,
    ) -> Answer<LeaseTimeToLiveResponse> {
        let answer = self.call(incoming, Request::LeaseTimeToLive).await;
        answered!(answer, LeaseTimeToLive)
    }

    async fn lease_leases(
        &self,
        incoming: Incoming<LeaseLeasesRequest>,
    ) -> Answer<LeaseLeasesResponse> {
        answered!(self.call(incoming, Request::LeaseLeases).await, LeaseLeases)
    }
}

/// One stream of keep-alives that comes the general way: from the JSON gateway, or traced.
struct Keeping {
    edge: Edge,
    credentials: Credentials,
    inbound: Streaming<LeaseKeepAliveRequest>,
    ended: bool,
}

impl Keeping {
    /// The answer to the next message, or the end. One call per message, in order.
    async fn next(mut self) -> Option<(Result<Frame<Bytes>, Status>, Self)> {
        if self.ended {
            return None;
        }
        let frame = match self.answer().await {
            Ok(Some(answer)) => Frame::data(unary::framed(&answer)),
            Ok(None) => {
                self.ended = true;
                Frame::trailers(unary::well())
            }
            Err(status) => {
                self.ended = true;
                Frame::trailers(unary::ended(&status))
            }
        };
        Some((Ok(frame), self))
    }

    async fn answer(&mut self) -> Result<Option<LeaseKeepAliveResponse>, Status> {
        let received = self.inbound.message().await;
        let received = received.map_err(|error| keeping::broken(&self.edge.handle, &error));
        let Some(request) = received? else {
            return Ok(None);
        };
        let id = request.id;
        let call = Request::LeaseKeepAlive(request);
        let answer = self.edge.handle.call(self.credentials.clone(), call).await;
        keeping::answer_of(answer, id).map(Some)
    }
}
