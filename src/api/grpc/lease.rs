//! Lease: grants, revocations, keep-alives.

use tokio::sync::mpsc;
use tonic::{Code, Request as Incoming, Status, Streaming};

use super::{Answer, Edge, Stream, answered, credentials, stream};
use crate::{
    api::status,
    kernel::{ApiError, Credentials, Request, Response},
    pb::etcdserverpb::{
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
        LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
        LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, lease_server::Lease,
    },
};

#[tonic::async_trait]
impl Lease for Edge {
    type LeaseKeepAliveStream = Stream<LeaseKeepAliveResponse>;

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
        let credentials = credentials(incoming.metadata())?;
        let edge = self.clone();
        Ok(stream(move |answers| async move {
            let inbound = incoming.into_inner();
            edge.keep_alive(credentials, inbound, answers).await
        }))
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

impl Edge {
    /// One call per message, in order. A lease that is gone is an answer, not an error.
    async fn keep_alive(
        &self,
        credentials: Credentials,
        mut inbound: Streaming<LeaseKeepAliveRequest>,
        answers: mpsc::Sender<Result<LeaseKeepAliveResponse, Status>>,
    ) -> Result<(), Status> {
        loop {
            let received = inbound.message().await;
            let received = received.map_err(|error| {
                if error.code() != Code::Cancelled {
                    let rpcs = self.handle.instruments().rpcs();
                    rpcs.on_broken_stream("lease-keepalive");
                }
                status::of_inbound(&error)
            });
            let Some(request) = received? else {
                return Ok(());
            };
            let id = request.id;
            let call = Request::LeaseKeepAlive(request);
            let answer = match self.handle.call(credentials.clone(), call).await {
                Ok(Response::LeaseKeepAlive(answer)) => answer,
                Ok(_) => return Err(status::mismatch()),
                Err(ApiError::LeaseNotFound) => LeaseKeepAliveResponse {
                    id,
                    ..Default::default()
                },
                Err(error) => return Err(status::of(error)),
            };
            if answers.send(Ok(answer)).await.is_err() {
                return Ok(());
            }
        }
    }
}
