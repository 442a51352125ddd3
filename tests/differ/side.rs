//! One server as its client sees it: calls, and watch streams whose responses are collected.

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use fated::pb::{
    etcdserverpb::{
        RangeRequest, RangeResponse, SnapshotRequest, SnapshotResponse, WatchRequest,
        WatchResponse, cluster_client::ClusterClient, kv_client::KvClient,
        lease_client::LeaseClient, maintenance_client::MaintenanceClient,
        watch_client::WatchClient,
    },
    v3electionpb::{LeaderRequest, LeaderResponse, election_client::ElectionClient},
    v3lockpb::lock_client::LockClient,
};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Request, Response, Status,
    transport::{Channel, Endpoint},
};

use crate::ask::{Answer, Ask, Refusal, Reply};

/// What a call may take before that is taken for the answer.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// What a call that may wait for somebody else is given.
const PATIENCE: Duration = Duration::from_millis(300);
const MESSAGE_MAX: usize = 1 << 30;

/// What came on one stream so far, and how it ended.
#[derive(Clone, Default, Debug)]
pub struct Received {
    /// The responses in order.
    pub responses: Vec<WatchResponse>,
    /// The end, when there was one.
    pub end: Option<Refusal>,
}

struct WatchStream {
    requests: UnboundedSender<WatchRequest>,
    received: Arc<Mutex<Received>>,
}

/// A server and its open streams.
pub struct Side {
    channel: Channel,
    streams: BTreeMap<usize, WatchStream>,
}

macro_rules! client {
    ($side:ident, $client:ident) => {
        $client::new($side.channel.clone())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX)
    };
}

macro_rules! unary {
    ($side:ident, $client:ident, $method:ident, $request:ident, $kind:ident) => {{
        let mut client = client!($side, $client);
        bounded(CALL_LIMIT, client.$method($request))
            .await
            .map(Reply::$kind)
    }};
    (patient $side:ident, $client:ident, $method:ident, $request:ident, $kind:ident) => {{
        let mut client = client!($side, $client);
        let mut request = Request::new($request);
        request.set_timeout(PATIENCE);
        bounded(CALL_LIMIT, client.$method(request))
            .await
            .map(Reply::$kind)
    }};
}

impl Side {
    /// A client of `endpoint`; it connects with the first call.
    pub fn new(endpoint: &str) -> Self {
        let endpoint = Endpoint::from_shared(endpoint.to_owned()).expect("a URL");
        Self {
            channel: endpoint.tcp_nodelay(true).connect_lazy(),
            streams: BTreeMap::new(),
        }
    }

    /// Asks, and waits for the answer.
    pub async fn ask(&mut self, ask: Ask) -> Answer {
        match self.call(ask).await {
            Ok(reply) => Ok(reply),
            Err(status) => Err(Refusal {
                code: status.code() as i32,
                text: status.message().to_owned(),
            }),
        }
    }

    async fn call(&mut self, ask: Ask) -> Result<Reply, Status> {
        match ask {
            Ask::Range(r) => unary!(self, KvClient, range, r, Range),
            Ask::RangeStream(r) => self.range_stream(r).await.map(Reply::RangeStream),
            Ask::Put(r) => unary!(self, KvClient, put, r, Put),
            Ask::DeleteRange(r) => unary!(self, KvClient, delete_range, r, DeleteRange),
            Ask::Txn(r) => unary!(self, KvClient, txn, r, Txn),
            Ask::Compact(r) => unary!(self, KvClient, compact, r, Compact),
            Ask::LeaseGrant(r) => unary!(self, LeaseClient, lease_grant, r, LeaseGrant),
            Ask::LeaseRevoke(r) => unary!(self, LeaseClient, lease_revoke, r, LeaseRevoke),
            Ask::LeaseTimeToLive(r) => {
                unary!(self, LeaseClient, lease_time_to_live, r, LeaseTimeToLive)
            }
            Ask::LeaseLeases(r) => unary!(self, LeaseClient, lease_leases, r, LeaseLeases),
            Ask::LeaseKeepAlive(r) => {
                let requests = tokio_stream::iter([r]);
                let mut client = client!(self, LeaseClient);
                let answers = bounded(CALL_LIMIT, client.lease_keep_alive(requests)).await?;
                first(answers).await.map(Reply::LeaseKeepAlive)
            }
            Ask::MemberAdd(r) => unary!(self, ClusterClient, member_add, r, MemberAdd),
            Ask::MemberRemove(r) => unary!(self, ClusterClient, member_remove, r, MemberRemove),
            Ask::MemberUpdate(r) => unary!(self, ClusterClient, member_update, r, MemberUpdate),
            Ask::MemberPromote(r) => unary!(self, ClusterClient, member_promote, r, MemberPromote),
            Ask::MemberList(r) => unary!(self, ClusterClient, member_list, r, MemberList),
            Ask::Alarm(r) => unary!(self, MaintenanceClient, alarm, r, Alarm),
            Ask::Status(r) => unary!(self, MaintenanceClient, status, r, Status),
            Ask::Defragment(r) => unary!(self, MaintenanceClient, defragment, r, Defragment),
            Ask::Hash(r) => unary!(self, MaintenanceClient, hash, r, Hash),
            Ask::HashKv(r) => unary!(self, MaintenanceClient, hash_kv, r, HashKv),
            Ask::Snapshot(r) => self.snapshot(r).await.map(Reply::Snapshot),
            Ask::MoveLeader(r) => unary!(self, MaintenanceClient, move_leader, r, MoveLeader),
            Ask::Downgrade(r) => unary!(self, MaintenanceClient, downgrade, r, Downgrade),
            Ask::Lock(r) => unary!(patient self, LockClient, lock, r, Lock),
            Ask::Unlock(r) => unary!(self, LockClient, unlock, r, Unlock),
            Ask::Campaign(r) => unary!(patient self, ElectionClient, campaign, r, Campaign),
            Ask::Proclaim(r) => unary!(self, ElectionClient, proclaim, r, Proclaim),
            Ask::Leader(r) => unary!(self, ElectionClient, leader, r, Leader),
            Ask::Observe(r) => self.observe(r).await.map(Reply::Observe),
            Ask::Resign(r) => unary!(self, ElectionClient, resign, r, Resign),
            Ask::OpenStream(number) => self.open_stream(number).await,
            Ask::Watch(number, request) => {
                if let Some(stream) = self.streams.get(&number) {
                    // A stream that has ended says so when it is compared.
                    let _ = stream.requests.send(request);
                }
                Ok(Reply::Sent)
            }
            Ask::CloseStream(number) => {
                self.streams.remove(&number);
                Ok(Reply::Sent)
            }
            Ask::Settle | Ask::SettleBehind => Ok(Reply::Sent),
        }
    }

    /// The chunks of a RangeStream put together as one Range.
    async fn range_stream(&self, request: RangeRequest) -> Result<RangeResponse, Status> {
        let mut client = client!(self, KvClient);
        let mut chunks = bounded(CALL_LIMIT, client.range_stream(request)).await?;
        let mut whole = RangeResponse::default();
        while let Some(chunk) = bounded_plain(chunks.message()).await? {
            let chunk = chunk.range_response.unwrap_or_default();
            whole.kvs.extend(chunk.kvs);
            whole.header = chunk.header;
            whole.more = chunk.more;
            whole.count = chunk.count;
        }
        Ok(whole)
    }

    /// The first header and what the last message says is left.
    async fn snapshot(&self, request: SnapshotRequest) -> Result<SnapshotResponse, Status> {
        let mut client = client!(self, MaintenanceClient);
        let mut messages = bounded(CALL_LIMIT, client.snapshot(request)).await?;
        let mut told = SnapshotResponse::default();
        while let Some(message) = bounded_plain(messages.message()).await? {
            told.header = told.header.or(message.header);
            told.version = message.version;
            told.remaining_bytes = message.remaining_bytes;
        }
        Ok(told)
    }

    async fn observe(&self, request: LeaderRequest) -> Result<LeaderResponse, Status> {
        let mut client = client!(self, ElectionClient);
        let waiting = async move { first(client.observe(request).await?.into_inner()).await };
        // etcd sends its headers with the first leader only, so the whole is bounded here.
        let seen = tokio::time::timeout(PATIENCE, waiting).await;
        seen.unwrap_or_else(|_| Err(Status::deadline_exceeded("nobody leads")))
    }

    async fn open_stream(&mut self, number: usize) -> Result<Reply, Status> {
        let (requests, queue) = unbounded_channel();
        let mut client = client!(self, WatchClient);
        let outgoing = UnboundedReceiverStream::new(queue);
        let opening = async move { client.watch(outgoing).await };
        let received = Arc::new(Mutex::new(Received::default()));
        let shelf = Arc::clone(&received);
        // etcd sends its headers only with the first response, so nobody waits for them here.
        tokio::spawn(async move {
            let end = match opening.await {
                Ok(responses) => collect(responses.into_inner(), &shelf).await,
                Err(status) => status,
            };
            let end = Refusal {
                code: end.code() as i32,
                text: end.message().to_owned(),
            };
            shelf.lock().expect("no holder panics").end = Some(end);
        });
        self.streams
            .insert(number, WatchStream { requests, received });
        Ok(Reply::Sent)
    }

    /// What came on each open stream.
    pub fn received(&self) -> BTreeMap<usize, Received> {
        let copy = |stream: &WatchStream| stream.received.lock().expect("no holder panics").clone();
        let streams = self.streams.iter();
        streams
            .map(|(number, stream)| (*number, copy(stream)))
            .collect()
    }
}

async fn collect(
    mut responses: tonic::Streaming<WatchResponse>,
    shelf: &Mutex<Received>,
) -> Status {
    loop {
        match responses.message().await {
            Ok(Some(response)) => {
                shelf
                    .lock()
                    .expect("no holder panics")
                    .responses
                    .push(response);
            }
            Ok(None) => return Status::ok("the stream ended"),
            Err(status) => return status,
        }
    }
}

async fn bounded<T>(
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map(Response::into_inner),
        Err(_) => Err(Status::aborted("no answer in time")),
    }
}

async fn bounded_plain<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::aborted("no answer in time")),
    }
}

async fn first<T>(mut answers: tonic::Streaming<T>) -> Result<T, Status> {
    let answer = bounded_plain(answers.message()).await?;
    answer.ok_or_else(|| Status::aborted("the stream ended without an answer"))
}
