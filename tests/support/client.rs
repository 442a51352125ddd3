//! A blocking etcd client over tonic's generated services. Every call is bounded in time.

use std::{future::Future, time::Duration};

use bytes::Bytes;
use fated::pb::etcdserverpb::{
    CompactionRequest, CompactionResponse, DefragmentRequest, DeleteRangeRequest,
    DeleteRangeResponse, HashKvRequest, HashKvResponse, LeaseGrantRequest, LeaseGrantResponse,
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse,
    LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
    MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MoveLeaderRequest, PutRequest, PutResponse, RangeRequest, RangeResponse, StatusRequest,
    StatusResponse, TxnRequest, TxnResponse, WatchCreateRequest, WatchRequest, WatchResponse,
    cluster_client::ClusterClient, kv_client::KvClient, lease_client::LeaseClient,
    maintenance_client::MaintenanceClient, watch_client::WatchClient, watch_request::RequestUnion,
};
use tokio::{
    runtime::Runtime,
    sync::mpsc::{UnboundedSender, unbounded_channel},
};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Response, Status, Streaming,
    transport::{Channel, Endpoint},
};

const CONNECT_LIMIT: Duration = Duration::from_secs(1);
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Answers may be larger than the 4 MiB that tonic allows by itself.
const MESSAGE_MAX: usize = 1 << 30;

/// A connection to one member. It connects anew by itself when the member was away.
#[derive(Debug)]
pub struct Client {
    runtime: Runtime,
    channel: Channel,
    limit: Duration,
}

impl Client {
    /// A client of `endpoint`; it connects with the first call.
    pub fn new(endpoint: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for one thread");
        let endpoint = Endpoint::from_shared(endpoint.to_owned()).expect("a URL");
        let endpoint = endpoint.connect_timeout(CONNECT_LIMIT).tcp_nodelay(true);
        let channel = {
            let _inside = runtime.enter();
            endpoint.connect_lazy()
        };
        Self {
            runtime,
            channel,
            limit: CALL_LIMIT,
        }
    }

    /// The same with another bound for each call.
    pub fn with_timeout(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The channel, for clients of other services; use it within [`Self::run`].
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Runs a call to its end or for the client's time.
    pub fn run<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Status> {
        self.runtime.block_on(async {
            match tokio::time::timeout(self.limit, call).await {
                Ok(result) => result.map(Response::into_inner),
                Err(_) => Err(Status::deadline_exceeded("the client gave up")),
            }
        })
    }

    /// Runs any future on the client's runtime.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    /// The KV service.
    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel()).max_decoding_message_size(MESSAGE_MAX)
    }

    /// Puts a value.
    pub fn put(
        &self,
        key: impl Into<Bytes>,
        value: impl Into<Bytes>,
    ) -> Result<PutResponse, Status> {
        self.put_request(PutRequest {
            key: key.into(),
            value: value.into(),
            ..Default::default()
        })
    }

    /// Puts with options.
    pub fn put_request(&self, request: PutRequest) -> Result<PutResponse, Status> {
        self.run(self.kv().put(request))
    }

    /// Reads the value of a key, linearizably.
    pub fn get(&self, key: impl Into<Bytes>) -> Result<Option<Bytes>, Status> {
        let response = self.range(RangeRequest {
            key: key.into(),
            ..Default::default()
        })?;
        Ok(response.kvs.into_iter().next().map(|kv| kv.value))
    }

    /// Reads all keys with a prefix, linearizably or from this member alone.
    pub fn prefix(&self, prefix: &str, serializable: bool) -> Result<RangeResponse, Status> {
        self.range(RangeRequest {
            key: Bytes::copy_from_slice(prefix.as_bytes()),
            range_end: prefix_end(prefix),
            serializable,
            ..Default::default()
        })
    }

    /// Reads with options.
    pub fn range(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        self.run(self.kv().range(request))
    }

    /// Deletes one key.
    pub fn delete(&self, key: impl Into<Bytes>) -> Result<DeleteRangeResponse, Status> {
        let request = DeleteRangeRequest {
            key: key.into(),
            ..Default::default()
        };
        self.run(self.kv().delete_range(request))
    }

    /// A transaction.
    pub fn txn(&self, request: TxnRequest) -> Result<TxnResponse, Status> {
        self.run(self.kv().txn(request))
    }

    /// Compacts up to a revision.
    pub fn compact(&self, revision: i64) -> Result<CompactionResponse, Status> {
        self.run(self.kv().compact(CompactionRequest {
            revision,
            ..Default::default()
        }))
    }

    /// Grants a lease; 0 lets the server choose its id.
    pub fn grant(&self, ttl: i64, id: i64) -> Result<LeaseGrantResponse, Status> {
        self.run(self.lease().lease_grant(LeaseGrantRequest { ttl, id }))
    }

    /// Revokes a lease.
    pub fn revoke(&self, id: i64) -> Result<LeaseRevokeResponse, Status> {
        self.run(self.lease().lease_revoke(LeaseRevokeRequest { id }))
    }

    /// Renews a lease once.
    pub fn keep_alive(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        let requests = tokio_stream::iter([LeaseKeepAliveRequest { id }]);
        let mut lease = self.lease();
        self.run(async move {
            let mut answers = lease.lease_keep_alive(requests).await?.into_inner();
            let first = answers.message().await?;
            first
                .map(Response::new)
                .ok_or_else(|| Status::cancelled("no answer in the stream"))
        })
    }

    /// The remaining time of a lease.
    pub fn time_to_live(&self, id: i64) -> Result<LeaseTimeToLiveResponse, Status> {
        self.run(
            self.lease()
                .lease_time_to_live(LeaseTimeToLiveRequest { id, keys: true }),
        )
    }

    /// All leases.
    pub fn leases(&self) -> Result<LeaseLeasesResponse, Status> {
        self.run(self.lease().lease_leases(LeaseLeasesRequest {}))
    }

    /// The members.
    pub fn members(&self) -> Result<MemberListResponse, Status> {
        let mut cluster = ClusterClient::new(self.channel());
        self.run(cluster.member_list(MemberListRequest { linearizable: true }))
    }

    /// Adds a member at a peer URL.
    pub fn member_add(&self, url: &str, is_learner: bool) -> Result<MemberAddResponse, Status> {
        let mut cluster = ClusterClient::new(self.channel());
        self.run(cluster.member_add(MemberAddRequest {
            peer_ur_ls: vec![url.to_owned()],
            is_learner,
        }))
    }

    /// Removes a member.
    pub fn member_remove(&self, id: u64) -> Result<MemberRemoveResponse, Status> {
        let mut cluster = ClusterClient::new(self.channel());
        self.run(cluster.member_remove(MemberRemoveRequest { id }))
    }

    /// Makes a learner a voter.
    pub fn member_promote(&self, id: u64) -> Result<MemberPromoteResponse, Status> {
        let mut cluster = ClusterClient::new(self.channel());
        self.run(cluster.member_promote(MemberPromoteRequest { id }))
    }

    /// The state of this member.
    pub fn status(&self) -> Result<StatusResponse, Status> {
        self.run(self.maintenance().status(StatusRequest {}))
    }

    /// Rewrites the store.
    pub fn defragment(&self) -> Result<(), Status> {
        let mut client = MaintenanceClient::new(self.channel());
        self.run(async move { client.defragment(DefragmentRequest {}).await })
            .map(drop)
    }

    /// The hash of the keys up to a revision, on this member.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKvResponse, Status> {
        self.run(self.maintenance().hash_kv(HashKvRequest { revision }))
    }

    /// Hands leadership to another member.
    pub fn move_leader(&self, target_id: u64) -> Result<(), Status> {
        self.run(
            self.maintenance()
                .move_leader(MoveLeaderRequest { target_id }),
        )
        .map(|_| ())
    }

    /// Opens a watch and waits until it is created.
    pub fn watch(&self, request: WatchCreateRequest) -> Result<Watch<'_>, Status> {
        let (requests, source) = unbounded_channel();
        let create = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(request)),
        };
        requests.send(create).expect("the receiver is at hand");
        let mut service = WatchClient::new(self.channel()).max_decoding_message_size(MESSAGE_MAX);
        let responses = self.run(service.watch(UnboundedReceiverStream::new(source)))?;
        let mut watch = Watch {
            client: self,
            requests,
            responses,
        };
        match watch.next(self.limit) {
            Some(Ok(first)) if first.created => Ok(watch),
            Some(Ok(first)) => Err(Status::internal(format!(
                "first answer of a watch: {first:?}"
            ))),
            Some(Err(status)) => Err(status),
            None => Err(Status::deadline_exceeded(
                "the watch was not created in time",
            )),
        }
    }

    /// Watches all keys with a prefix from a revision on; 0 means from now on.
    pub fn watch_prefix(&self, prefix: &str, start_revision: i64) -> Result<Watch<'_>, Status> {
        self.watch(WatchCreateRequest {
            key: Bytes::copy_from_slice(prefix.as_bytes()),
            range_end: prefix_end(prefix),
            start_revision,
            ..Default::default()
        })
    }

    fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel())
    }

    /// The Maintenance service.
    pub fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel())
    }
}

/// A stream with one watch. It ends when this is dropped.
#[derive(Debug)]
pub struct Watch<'a> {
    client: &'a Client,
    requests: UnboundedSender<WatchRequest>,
    responses: Streaming<WatchResponse>,
}

impl Watch<'_> {
    /// The next response; `None` when none comes within `limit`. The end of the stream is an error.
    pub fn next(&mut self, limit: Duration) -> Option<Result<WatchResponse, Status>> {
        self.client.runtime.block_on(async {
            match tokio::time::timeout(limit, self.responses.message()).await {
                Ok(Ok(Some(response))) => Some(Ok(response)),
                Ok(Ok(None)) => Some(Err(Status::unavailable("the stream ended"))),
                Ok(Err(status)) => Some(Err(status)),
                Err(_) => None,
            }
        })
    }

    /// Sends a further request on the stream.
    pub fn send(&self, request: RequestUnion) {
        let request = WatchRequest {
            request_union: Some(request),
        };
        // When the stream has ended, `next` tells.
        let _ = self.requests.send(request);
    }
}

/// The first key after all keys with the prefix.
pub fn prefix_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    let last = end.last_mut().expect("the prefix is not empty");
    *last = last.checked_add(1).expect("prefixes of tests are text");
    end.into()
}
