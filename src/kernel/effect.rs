//! Everything that can go out of the core.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    ApiError, CallId, DiskOp, Fault, LinkId, MemberId, PartedRange, PartedTxn, SnapshotId,
    StoreCursor, StreamId, Ticket, WatchId, figure::Metric,
};
use crate::pb::etcdserverpb as rpc;

/// One thing the host must do. It never blocks the loop and never fails: failure comes back as an
/// event.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Run a disk operation on its lane; `Event::DiskDone` brings the ticket back.
    Disk { ticket: Ticket, op: DiskOp },
    /// Use the network between members. A lossy medium: no promise.
    Link(LinkOp),
    /// Answer a call; exactly once per call that was not cancelled.
    Reply {
        call: CallId,
        result: Result<Response, ApiError>,
    },
    /// Send to a watch stream, in order, within its credit.
    Stream { stream: StreamId, item: StreamItem },
    /// One line for the operator.
    Log(LogLine),
    /// The member can serve client requests; said once.
    Ready,
    /// Stop the member.
    Halt(Fault),
}

/// What can be done with links.
#[derive(Clone, Debug)]
pub enum LinkOp {
    /// Connect to a member at one of its peer URLs; `LinkUp` or `LinkDown` follows.
    Dial {
        link: LinkId,
        peer: MemberId,
        urls: Vec<String>,
    },
    /// Send one frame.
    Send { link: LinkId, bytes: Bytes },
    /// Close; no event follows.
    Close { link: LinkId },
}

/// The answer to a call.
#[derive(Clone, PartialEq, Debug)]
pub enum Response {
    Range(rpc::RangeResponse),
    PartedRange(PartedRange),
    RangeChunk(RangeChunkResponse),
    Put(rpc::PutResponse),
    DeleteRange(rpc::DeleteRangeResponse),
    Txn(rpc::TxnResponse),
    PartedTxn(PartedTxn),
    Compact(rpc::CompactionResponse),
    LeaseGrant(rpc::LeaseGrantResponse),
    LeaseRevoke(rpc::LeaseRevokeResponse),
    LeaseKeepAlive(rpc::LeaseKeepAliveResponse),
    LeaseTimeToLive(rpc::LeaseTimeToLiveResponse),
    LeaseLeases(rpc::LeaseLeasesResponse),
    MemberList(rpc::MemberListResponse),
    MemberAdd(rpc::MemberAddResponse),
    MemberRemove(rpc::MemberRemoveResponse),
    MemberUpdate(rpc::MemberUpdateResponse),
    MemberPromote(rpc::MemberPromoteResponse),
    Alarm(rpc::AlarmResponse),
    Status(rpc::StatusResponse),
    Defragment(rpc::DefragmentResponse),
    Hash(rpc::HashResponse),
    HashKv(rpc::HashKvResponse),
    MoveLeader(rpc::MoveLeaderResponse),
    Downgrade(rpc::DowngradeResponse),
    SnapshotOpened {
        id: SnapshotId,
        bytes_estimate: u64,
    },
    SnapshotChunk {
        data: Bytes,
        next: Option<StoreCursor>,
    },
    SnapshotClosed,
    Health,
    Metrics(Vec<Metric>),
}

impl Response {
    /// The same answer with the records of ranges in one list.
    #[must_use]
    pub fn joined(self) -> Self {
        match self {
            Self::PartedRange(range) => Self::Range(range.joined()),
            Self::PartedTxn(txn) => Self::Txn(txn.joined()),
            other => other,
        }
    }
}

/// One chunk of a RangeStream.
#[derive(Clone, PartialEq, Debug)]
pub struct RangeChunkResponse {
    /// The keys of this chunk, and on the last chunk header, `more` and `count`.
    pub response: rpc::RangeResponse,
    /// The revision all chunks are read at.
    pub revision: i64,
    /// Whether this chunk ends the stream.
    pub last: bool,
}

/// What goes out on a watch stream.
#[derive(Clone, PartialEq, Debug)]
pub enum StreamItem {
    /// One response; `bytes` is its size on the wire, which counts against the credit.
    Watch {
        response: Box<rpc::WatchResponse>,
        bytes: u64,
    },
    /// The same for one of many watches that get the same: `response` stands for all of them and
    /// names none.
    Alike {
        watch: WatchId,
        response: Arc<rpc::WatchResponse>,
        bytes: u64,
    },
    /// The stream ends with this error.
    End(ApiError),
}

impl StreamItem {
    /// The item with a response of its own.
    #[must_use]
    pub fn alone(self) -> Self {
        match self {
            Self::Alike {
                watch,
                response,
                bytes,
            } => {
                let response = Box::new(rpc::WatchResponse {
                    watch_id: watch.get(),
                    ..(*response).clone()
                });
                Self::Watch { response, bytes }
            }
            Self::Watch { .. } | Self::End(_) => self,
        }
    }
}

/// How serious a log line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogLevel {
    Debug,
    Info,
    Warn,
    Error,
}

/// One log line as data: the host adds time and renders it.
#[derive(Clone, PartialEq, Debug)]
pub struct LogLine {
    /// How serious it is.
    pub level: LogLevel,
    /// Which part of the core speaks, as `module/file.rs`.
    pub caller: &'static str,
    /// What happened.
    pub message: String,
    /// Further fields, in order.
    pub fields: Vec<(&'static str, String)>,
}
