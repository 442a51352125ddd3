//! Watch: one stream of the core per stream of the client.

use opentelemetry::Context;
use tokio_stream::Empty;
use tonic::{Code, Request as Incoming, Status, Streaming};

use super::{Answer, Edge, credentials, unary::Instead};
use crate::{
    api::{
        metrics::Rpcs,
        status,
        streams::{StreamBody, StreamRequests},
        trace,
    },
    kernel::ApiError,
    pb::etcdserverpb::{
        WatchRequest, WatchResponse, watch_request::RequestUnion, watch_server::Watch,
    },
};

#[tonic::async_trait]
impl Watch for Edge {
    type WatchStream = Empty<Result<WatchResponse, Status>>;

    async fn watch(
        &self,
        incoming: Incoming<Streaming<WatchRequest>>,
    ) -> Answer<Self::WatchStream> {
        let credentials = credentials(incoming.metadata())?;
        let opened = self.handle.open_stream(credentials);
        let (requests, items) = opened.map_err(status::of)?;
        let rpcs = self.handle.instruments().rpcs().clone();
        let within = Context::current();
        tokio::spawn(forward(incoming.into_inner(), requests, rpcs, within));
        Ok(Instead::answer(StreamBody::new(items)))
    }
}

/// Hands requests to the core until the client has no more. A client that ends its side of the
/// stream still wants events; one that vanished drops the other half, and with it the stream.
async fn forward(
    mut inbound: Streaming<WatchRequest>,
    requests: StreamRequests,
    rpcs: Rpcs,
    within: Context,
) {
    loop {
        match inbound.message().await {
            Ok(Some(request)) => {
                if let Some(RequestUnion::CreateRequest(create)) = &request.request_union {
                    trace::watch(&within, create);
                }
                requests.send(request);
            }
            Ok(None) => return,
            Err(error) if error.code() == Code::Cancelled => {
                return requests.fail(status::of(ApiError::WatchCanceled));
            }
            Err(error) => {
                rpcs.on_broken_stream("watch");
                return requests.fail(status::of_inbound(&error));
            }
        }
        // One request per turn, so that a flood on one stream does not fill the event queue.
        tokio::task::yield_now().await;
    }
}
