//! The gRPC services: decode, check, ask the core, encode.

mod cluster;
mod election;
mod keeping;
mod kv;
mod lease;
mod lock;
mod maintenance;
mod recipe;
mod short;
pub(super) mod unary;
mod watch;

use std::convert::Infallible;

use http::HeaderMap;
use opentelemetry::{Context, trace::FutureExt};
use tokio::sync::mpsc;
use tonic::{Request as Incoming, Response as Outgoing, Status, body::Body, metadata::MetadataMap};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::ServiceExt;

use super::{Handle, metrics::Rpcs, status};
use crate::{
    kernel::{ApiError, Credentials, Request, Response, limits},
    pb::{
        self,
        etcdserverpb::{
            cluster_server::ClusterServer, kv_server::KvServer, lease_server::LeaseServer,
            maintenance_server::MaintenanceServer, watch_server::WatchServer,
        },
        v3electionpb::election_server::ElectionServer,
        v3lockpb::lock_server::LockServer,
    },
};

/// Services that a client may ask for, for telling it which it may not.
pub const SERVED: &[&str] = &[
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "v3lockpb.Lock",
    "v3electionpb.Election",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Messages of a streamed answer that may wait for the client.
const STREAM_QUEUE_MAX: usize = 1;

type Answer<T> = Result<Outgoing<T>, Status>;
/// The answer to a call that streams.
type Stream<T> = tokio_stream::wrappers::ReceiverStream<Result<T, Status>>;

/// One client API, served by the core behind the handle.
#[derive(Clone, Debug)]
struct Edge {
    handle: Handle,
}

/// Every service of the client port.
#[derive(Clone)]
pub struct Services {
    routes: tonic::service::Routes,
    edge: Edge,
    bytes_max: usize,
}

impl Services {
    /// What the core behind the handle offers. Must be made inside the runtime.
    pub fn new(handle: &Handle) -> Self {
        let bytes_max = handle.limits().request_bytes_max + limits::REQUEST_OVERHEAD_BYTES;
        let edge = Edge {
            handle: handle.clone(),
        };
        Self {
            routes: routes(handle),
            edge,
            bytes_max,
        }
    }

    /// What calls are counted with.
    fn rpcs(&self) -> &Rpcs {
        self.edge.handle.instruments().rpcs()
    }

    /// Answers one call in the general way.
    pub async fn answer(
        self,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Infallible> {
        self.routes.oneshot(request).await
    }
}

fn routes(handle: &Handle) -> tonic::service::Routes {
    let edge = || Edge {
        handle: handle.clone(),
    };
    let bytes_max = handle.limits().request_bytes_max + limits::REQUEST_OVERHEAD_BYTES;
    // Answers have no bound of their own, as with etcd; ranges are bounded by what the core reads.
    macro_rules! bounded {
        ($server:ident) => {
            $server::new(edge())
                .max_decoding_message_size(bytes_max)
                .max_encoding_message_size(usize::MAX)
        };
    }
    // What tools ask the server about itself, in the two versions that are about.
    macro_rules! reflection {
        ($build:ident) => {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .$build()
                .expect("both sets were made by compilers")
        };
    }
    let health = HealthReporter::new();
    tokio::spawn(follow_readiness(handle.clone(), health.clone()));
    let health = tonic_health::pb::health_server::HealthServer::new(
        tonic_health::server::HealthService::from_health_reporter(health),
    );
    tonic::service::Routes::new(bounded!(KvServer))
        .add_service(bounded!(WatchServer))
        .add_service(bounded!(LeaseServer))
        .add_service(bounded!(ClusterServer))
        .add_service(bounded!(MaintenanceServer))
        .add_service(bounded!(LockServer))
        .add_service(bounded!(ElectionServer))
        .add_service(health)
        .add_service(reflection!(build_v1))
        .add_service(reflection!(build_v1alpha))
        .prepare()
}

/// The empty service name stands for the whole member.
async fn follow_readiness(handle: Handle, health: HealthReporter) {
    let mut readiness = handle.readiness();
    loop {
        let ready = *readiness.borrow_and_update();
        let serving = if ready {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        health.set_service_status("", serving).await;
        if readiness.changed().await.is_err() {
            return;
        }
    }
}

impl Edge {
    async fn call<T>(
        &self,
        incoming: Incoming<T>,
        wrap: fn(T) -> Request,
    ) -> Result<Response, Status> {
        let credentials = credentials(incoming.metadata())?;
        self.ask(credentials, wrap(incoming.into_inner())).await
    }

    async fn ask(&self, credentials: Credentials, request: Request) -> Result<Response, Status> {
        let answer = self.handle.call(credentials, request).await;
        answer.map_err(status::of)
    }
}

/// The request, or with its fault what makes the core tell that fault in its turn.
fn found(checked: Result<(), ApiError>, request: Request) -> Request {
    match checked {
        Ok(()) => request,
        Err(error) => Request::Invalid(error, Box::new(request)),
    }
}

/// Answers with a stream. The work ends early when the client goes, and its failure ends the
/// stream.
fn stream<T, F, W>(work: W) -> Outgoing<Stream<T>>
where
    T: Send + 'static,
    F: Future<Output = Result<(), Status>> + Send,
    W: FnOnce(mpsc::Sender<Result<T, Status>>) -> F + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(STREAM_QUEUE_MAX);
    let within = Context::current();
    tokio::spawn(async move {
        tokio::select! {
            result = work(sender.clone()).with_context(within) => {
                if let Err(error) = result {
                    // The client may have gone just now.
                    let _ = sender.send(Err(error)).await;
                }
            }
            () = sender.closed() => {}
        }
    });
    Outgoing::new(Stream::new(receiver))
}

pub use self::short::Plan;

/// Takes the expected kind out of an answer.
macro_rules! message {
    ($answer:expr, $kind:ident) => {
        match $answer? {
            $crate::kernel::Response::$kind(response) => Ok(response),
            _ => Err($crate::api::status::mismatch()),
        }
    };
}
use message;

/// The same, as tonic wants it.
macro_rules! answered {
    ($answer:expr, $kind:ident) => {
        $crate::api::grpc::message!($answer, $kind).map(tonic::Response::new)
    };
}
use answered;

/// Reads who asks out of the metadata.
fn credentials(metadata: &MetadataMap) -> Result<Credentials, Status> {
    credentials_of(metadata.as_ref())
}

fn credentials_of(headers: &HeaderMap) -> Result<Credentials, Status> {
    if let Some(version) = headers.get("client-api-version")
        && std::str::from_utf8(version.as_bytes()).is_err()
    {
        return Err(status::of(ApiError::InvalidClientApiVersion));
    }
    let token = headers
        .get("token")
        .or_else(|| headers.get("authorization"))
        .and_then(|value| std::str::from_utf8(value.as_bytes()).ok())
        .map(|value| value.strip_prefix("Bearer ").unwrap_or(value).to_owned());
    let require_leader = headers
        .get("hasleader")
        .is_some_and(|value| value.as_bytes() == b"true");
    Ok(Credentials {
        token,
        common_name: None,
        require_leader,
    })
}

#[cfg(test)]
mod tests;
