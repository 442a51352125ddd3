//! A server of the same gRPC stack that answers at once and stores nothing: what remains is what
//! the stack and the machine allow.
//!
//! One thread serves, as in fated. Answers have the size of real ones: a read of one key brings a
//! value of the usual size.

use std::{net::SocketAddr, pin::Pin};

use bytes::Bytes;
use clap::Args;
use fated::pb::{
    etcdserverpb::{
        CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
        LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
        LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeRequest,
        RangeResponse, RangeStreamResponse, ResponseHeader, TxnRequest, TxnResponse,
        kv_server::{Kv, KvServer},
        lease_server::{Lease, LeaseServer},
    },
    mvccpb::KeyValue,
};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::client::text;

/// Bytes of the value that a read brings.
const VALUE_BYTES: usize = 256;

#[derive(Args)]
pub struct Options {
    /// Where it listens
    #[arg(long, default_value = "127.0.0.1:2379")]
    pub listen: SocketAddr,
}

/// Serves for ever.
pub async fn run(options: &Options) -> Result<(), String> {
    let null = Null {
        value: Bytes::from(vec![b'n'; VALUE_BYTES]),
    };
    tonic::transport::Server::builder()
        .tcp_nodelay(true)
        .add_service(KvServer::new(null.clone()))
        .add_service(LeaseServer::new(null))
        .serve(options.listen)
        .await
        .map_err(text)
}

/// What it is made of.
#[derive(Clone)]
struct Null {
    value: Bytes,
}

/// A header like that of a real answer.
fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: u64::MAX / 3,
        member_id: u64::MAX / 5,
        revision: 1_000_000,
        raft_term: 2,
    })
}

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Kv for Null {
    type RangeStreamStream = Messages<RangeStreamResponse>;

    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let kv = KeyValue {
            key: request.into_inner().key,
            create_revision: 1_000_000,
            mod_revision: 1_000_000,
            version: 1,
            value: self.value.clone(),
            lease: 0,
        };
        Ok(Response::new(RangeResponse {
            header: header(),
            kvs: vec![kv],
            more: false,
            count: 1,
        }))
    }

    async fn range_stream(
        &self,
        _: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("it stores nothing"))
    }

    async fn put(&self, _: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        Ok(Response::new(PutResponse {
            header: header(),
            prev_kv: None,
        }))
    }

    async fn delete_range(
        &self,
        _: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        Ok(Response::new(DeleteRangeResponse {
            header: header(),
            ..DeleteRangeResponse::default()
        }))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Ok(Response::new(TxnResponse {
            header: header(),
            succeeded: true,
            responses: Vec::new(),
        }))
    }

    async fn compact(
        &self,
        _: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        Ok(Response::new(CompactionResponse { header: header() }))
    }
}

#[tonic::async_trait]
impl Lease for Null {
    type LeaseKeepAliveStream = Messages<LeaseKeepAliveResponse>;

    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let asked = request.into_inner();
        Ok(Response::new(LeaseGrantResponse {
            header: header(),
            id: asked.id.max(1),
            ttl: asked.ttl,
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        _: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        Ok(Response::new(LeaseRevokeResponse { header: header() }))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let answers = request.into_inner().map(|asked| {
            asked.map(|asked| LeaseKeepAliveResponse {
                header: header(),
                id: asked.id,
                ttl: 100,
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        _: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        Err(Status::unimplemented("it stores nothing"))
    }

    async fn lease_leases(
        &self,
        _: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        Err(Status::unimplemented("it stores nothing"))
    }
}
