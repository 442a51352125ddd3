//! Everything that can come into the core.

use bytes::Bytes;

use super::{
    ApiError, CallId, DiskError, DiskOutcome, LinkId, MemberId, SnapshotId, StoreCursor, StreamId,
    Ticket,
};
use crate::pb::etcdserverpb as rpc;

/// One thing that happened outside.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client asks for something; exactly one `Effect::Reply` answers it, unless it is cancelled.
    Call {
        call: CallId,
        credentials: Credentials,
        request: Request,
    },
    /// The client of a call has gone; no answer is wanted any more.
    Cancel { call: CallId },
    /// A watch stream was opened.
    StreamOpened {
        stream: StreamId,
        credentials: Credentials,
    },
    /// A request came in on a watch stream.
    StreamItem {
        stream: StreamId,
        item: StreamRequest,
    },
    /// The client took this many bytes of what was sent to it.
    StreamCredit { stream: StreamId, bytes: u64 },
    /// The client closed the stream or vanished.
    StreamClosed { stream: StreamId },
    /// A link to or from a member is ready; the peer has proven which member it is.
    LinkUp {
        link: LinkId,
        peer: MemberId,
        outgoing: bool,
    },
    /// One frame from a peer, checksum already verified.
    Frame { link: LinkId, bytes: Bytes },
    /// A link ended, or a dial failed.
    LinkDown { link: LinkId, reason: String },
    /// A disk operation completed.
    DiskDone {
        ticket: Ticket,
        outcome: Result<DiskOutcome, DiskError>,
    },
    /// The operator or the system wants something.
    Signal(Signal),
}

/// What an operator can tell the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Signal {
    /// Hand leadership over, finish what is in flight, and stop.
    Terminate,
}

/// Who is asking, as far as the edge could tell without looking at the store.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Credentials {
    /// The `token` or `authorization` metadata, without a `Bearer ` prefix.
    pub token: Option<String>,
    /// The common name of the client's verified certificate.
    pub common_name: Option<String>,
    /// The client wants an error rather than an answer while there is no leader.
    pub require_leader: bool,
}

/// A client's request that gets one answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Request {
    Range(rpc::RangeRequest),
    /// One chunk of a RangeStream; see `RangeChunk`.
    RangeChunk(RangeChunk),
    Put(rpc::PutRequest),
    DeleteRange(rpc::DeleteRangeRequest),
    Txn(rpc::TxnRequest),
    Compact(rpc::CompactionRequest),
    LeaseGrant(rpc::LeaseGrantRequest),
    LeaseRevoke(rpc::LeaseRevokeRequest),
    LeaseKeepAlive(rpc::LeaseKeepAliveRequest),
    LeaseTimeToLive(rpc::LeaseTimeToLiveRequest),
    LeaseLeases(rpc::LeaseLeasesRequest),
    MemberList(rpc::MemberListRequest),
    MemberAdd(rpc::MemberAddRequest),
    MemberRemove(rpc::MemberRemoveRequest),
    MemberUpdate(rpc::MemberUpdateRequest),
    MemberPromote(rpc::MemberPromoteRequest),
    Alarm(rpc::AlarmRequest),
    Status(rpc::StatusRequest),
    Defragment(rpc::DefragmentRequest),
    Hash(rpc::HashRequest),
    HashKv(rpc::HashKvRequest),
    MoveLeader(rpc::MoveLeaderRequest),
    Downgrade(rpc::DowngradeRequest),
    /// Pins the current state; the answer names the snapshot.
    SnapshotOpen,
    /// Reads on in a pinned snapshot.
    SnapshotRead {
        id: SnapshotId,
        cursor: Option<StoreCursor>,
    },
    /// Lets a pinned snapshot go.
    SnapshotClose {
        id: SnapshotId,
    },
    /// What the edge found wrong by looking at a request, answered unless the member refuses every
    /// request anyway: a learner, or one without a leader where the client demands one.
    Invalid(ApiError, Box<Request>),
    /// Whether this member can serve linearizable requests now; for health checks.
    Health,
    /// The member's counters and gauges, for `/metrics`.
    Metrics,
}

/// One step of a RangeStream: the edge asks for chunk after chunk, so that a slow client holds
/// nothing but its own last chunk.
#[derive(Clone, PartialEq, Debug)]
pub struct RangeChunk {
    /// The client's request, with the revision pinned by the first chunk's answer.
    pub request: rpc::RangeRequest,
    /// The last key of the chunk before; none for the first chunk.
    pub after: Option<Bytes>,
    /// At most this many keys.
    pub keys_max: u64,
}

/// A request on a watch stream.
#[derive(Clone, PartialEq, Debug)]
pub enum StreamRequest {
    Watch(rpc::WatchRequest),
}
