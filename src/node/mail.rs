//! What the actors of one node say to each other: one variant per receiver.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;

use crate::{
    kernel::{
        ApiError, CallId, Credentials, DiskError, DiskOutcome, EntryId, LinkId, LogIndex, MemberId,
        ReadId, Request, RequestId, Response, SnapshotId, StoreCursor, StreamId, StreamRequest,
        Term, Ticket, WriteBatch,
    },
    lease::Reset,
    node::reconfigure::Reconfigure,
    pb::{fated::command, fated::peer::SnapshotAck, fated::peer::SnapshotChunk},
    raft::{self, ConfState, Entry, HardState, RoleChange, SnapshotMeta},
};

/// Mail within a node, by receiver.
#[derive(Debug)]
pub enum Mail {
    Frontend(FrontendInput),
    Consensus(ConsensusInput),
    Journal(JournalInput),
    Applier(ApplierInput),
    Watches(WatchesInput),
    Leases(LeasesInput),
    Peers(PeersInput),
    Snapshots(SnapshotsInput),
    Integrity(IntegrityInput),
    Upkeep(UpkeepInput),
}

/// For the actor that owns client calls.
#[derive(Debug)]
pub enum FrontendInput {
    Call {
        call: CallId,
        credentials: Credentials,
        request: Request,
    },
    Cancel {
        call: CallId,
    },
    /// A call has its answer.
    Answer {
        call: CallId,
        result: Result<Response, ApiError>,
    },
    /// An entry of ours was applied.
    Applied {
        request: RequestId,
        index: LogIndex,
        result: Result<Response, ApiError>,
    },
    /// A proposal could not be appended; nothing of it went anywhere.
    Refused {
        request: RequestId,
        data: Bytes,
        conf_change: bool,
        error: ApiError,
    },
    /// The read barrier is passed at this index.
    ReadState {
        id: ReadId,
        index: LogIndex,
    },
    /// The barrier could not be started.
    ReadRefused {
        id: ReadId,
    },
    Role(RoleChange),
    /// Whether this member only listens.
    Learner(bool),
    /// How far apply and commits to the backend are behind; for admission.
    Load {
        applied: LogIndex,
        committed: LogIndex,
        overlay_bytes: usize,
        live_bytes: u64,
    },
    /// The deletions of a compaction up to `revision` are durable; the store stands at `current`.
    CompactionDone {
        revision: i64,
        current: i64,
    },
    /// A peer asks on behalf of its client.
    PeerCall {
        from: MemberId,
        id: u64,
        request: PeerRequest,
    },
    /// A peer answers.
    PeerReply {
        id: u64,
        result: Result<Response, ApiError>,
    },
    /// This member's state differs from the cluster's.
    Corrupt,
    /// The operator wants a stop.
    Terminate,
    /// Our own attributes are published; the member can serve.
    Published,
    /// A renewal needs the lease's recorded remaining time cleared through the log first.
    ResetLease {
        call: CallId,
        reset: Reset,
    },
    /// There is nobody to hand leadership to.
    NoHeir,
    /// A change of the members may be proposed, or not.
    Reconfigured {
        call: CallId,
        outcome: Result<command::ConfChangeCommand, ApiError>,
    },
    /// A call was looked at behind the barrier, and is now to go through the log.
    Decided {
        call: CallId,
        body: command::command::Body,
    },
    /// The cluster removed this member: a member that stays says so, or its own log does.
    Removed {
        told: bool,
    },
    /// Removals up to an index are settled.
    Settled {
        up_to: LogIndex,
    },
    /// A member that goes on alone by force is alone by its log as well.
    Alone,
}

/// What one member may ask another for a client.
#[derive(Clone, PartialEq, Debug)]
pub enum PeerRequest {
    KeepAlive(crate::pb::etcdserverpb::LeaseKeepAliveRequest),
    TimeToLive(crate::pb::etcdserverpb::LeaseTimeToLiveRequest),
    Promote(crate::pb::etcdserverpb::MemberPromoteRequest),
}

/// For the actor around the raft core.
#[derive(Debug)]
pub enum ConsensusInput {
    Step(raft::Message),
    Propose {
        request: RequestId,
        data: Bytes,
        conf_change: bool,
    },
    /// Propose only while this member leads in this term; otherwise the proposal is dropped.
    ProposeAsLeader {
        term: Term,
        data: Bytes,
    },
    ReadIndex {
        id: ReadId,
    },
    /// The log is durable up to this entry.
    Durable(EntryId),
    Applied {
        index: LogIndex,
    },
    ConfChange(raft::ConfChange),
    /// The latest removal that those who stay may not know of, if there is one.
    Unsettled {
        removal: Option<LogIndex>,
    },
    /// The member stops: leadership goes to whoever is fit for it.
    HandOver,
    /// The backend holds everything up to `mark`; entries up to `compact` may go.
    Compact {
        mark: SnapshotMeta,
        compact: LogIndex,
    },
    /// An image up to `meta` is staged.
    Restore {
        snapshot: SnapshotId,
        meta: SnapshotMeta,
        from: MemberId,
        term: Term,
    },
    Unreachable {
        peer: MemberId,
    },
    SnapshotDone {
        peer: MemberId,
        index: LogIndex,
        ok: bool,
    },
    /// A call that needs raft's figures; they are added, then the applier answers.
    Status {
        call: CallId,
        request: Request,
    },
    MoveLeader {
        call: CallId,
        to: MemberId,
    },
    /// A change of the members wants to know how far everybody's log is.
    Reconfigure(Reconfigure),
}

/// For the actor that owns the log on disk.
#[derive(Debug)]
pub enum JournalInput {
    Append(Append),
    /// The log may start behind this point.
    Mark {
        meta: SnapshotMeta,
        keep_after: LogIndex,
        then: Vec<Mail>,
    },
    /// Segments whose entries all lie at or before this index may go.
    Remove {
        keep_after: LogIndex,
    },
    Done {
        ticket: Ticket,
        outcome: Result<DiskOutcome, DiskError>,
    },
}

/// Persist these, then send those.
#[derive(Debug, Default)]
pub struct Append {
    /// Entries for the tail of the log; they replace what stands at their indexes and behind.
    pub entries: Vec<Entry>,
    /// Term, vote and commit, if they changed.
    pub hard_state: Option<HardState>,
    /// Delivered once everything before it is durable.
    pub then: Vec<Mail>,
}

/// Raft's figures at one moment.
#[derive(Clone, Copy, Debug)]
pub struct RaftStatus {
    pub term: Term,
    pub leader: Option<MemberId>,
    pub committed: LogIndex,
    pub is_learner: bool,
}

/// For the actor that owns the state machine.
#[derive(Debug)]
pub enum ApplierInput {
    /// Committed and locally durable entries, in order.
    Apply(Vec<Entry>),
    /// Answer these once the index is applied.
    Read {
        index: LogIndex,
        calls: Vec<(CallId, Request)>,
    },
    Status {
        call: CallId,
        request: Request,
        raft: RaftStatus,
    },
    /// Cut the open batch, then pin the committed state under this id.
    Image {
        id: SnapshotId,
    },
    /// A sealed image is to become the live one.
    Install {
        id: SnapshotId,
        meta: SnapshotMeta,
    },
    Defragment {
        call: CallId,
    },
    Done {
        ticket: Ticket,
        outcome: Result<DiskOutcome, DiskError>,
    },
    /// The reset that stood before a renewal is applied.
    FinishReset {
        call: CallId,
        reset: Reset,
    },
    /// A change of the members wants to be decided.
    Reconfigure(Reconfigure),
}

/// For the actor that owns watch streams.
#[derive(Debug)]
pub enum WatchesInput {
    Opened {
        stream: StreamId,
        credentials: Credentials,
    },
    Item {
        stream: StreamId,
        item: StreamRequest,
    },
    Credit {
        stream: StreamId,
        bytes: u64,
    },
    Closed {
        stream: StreamId,
    },
    Revisions(Vec<(i64, Vec<crate::pb::mvccpb::Event>)>),
    Compacted,
    /// The store was exchanged for an image of this revision. The store itself may be further by
    /// now.
    Installed {
        revision: i64,
    },
    Role(RoleChange),
    /// Every stream ends; the member stops or refuses to serve.
    End(ApiError),
}

/// For the actor that ends and checkpoints leases on the leader.
#[derive(Debug)]
pub enum LeasesInput {
    Role(RoleChange),
    /// The first entry of this term was applied.
    Term(Term),
    /// The whole state was exchanged for an image.
    Installed,
}

/// For the network actor.
#[derive(Debug)]
pub enum PeersInput {
    LinkUp {
        link: LinkId,
        peer: MemberId,
        outgoing: bool,
    },
    LinkDown {
        link: LinkId,
        reason: String,
    },
    Frame {
        link: LinkId,
        bytes: Bytes,
    },
    Raft(raft::Message),
    SnapshotChunk {
        to: MemberId,
        chunk: SnapshotChunk,
    },
    SnapshotAck {
        to: MemberId,
        ack: SnapshotAck,
    },
    StateHash {
        index: LogIndex,
        hash: u64,
    },
    Call {
        to: MemberId,
        id: u64,
        request: PeerRequest,
    },
    Reply {
        to: MemberId,
        id: u64,
        result: Result<Response, ApiError>,
    },
    /// The members and their addresses, and who was removed, whenever they may have changed.
    Members {
        members: Vec<(MemberId, Vec<String>)>,
        removed: Vec<MemberId>,
    },
    /// A change of the members wants to know who is connected.
    Reconfigure(Reconfigure),
}

/// For the actor that moves images in and out.
#[derive(Debug)]
pub enum SnapshotsInput {
    /// A peer needs an image, because the log no longer holds what it lacks.
    Wanted {
        peer: MemberId,
        term: Term,
    },
    /// The applier has cut a batch for the image; this is what the image will hold.
    Cut {
        id: SnapshotId,
        meta: SnapshotMeta,
    },
    Chunk {
        from: MemberId,
        chunk: SnapshotChunk,
    },
    Ack {
        from: MemberId,
        ack: SnapshotAck,
    },
    /// The staged image was refused, because the log is ahead of it.
    Stale {
        snapshot: SnapshotId,
    },
    /// The staged image is live.
    Installed {
        snapshot: SnapshotId,
    },
    Done {
        ticket: Ticket,
        outcome: Result<DiskOutcome, DiskError>,
    },
    Open {
        call: CallId,
    },
    Read {
        call: CallId,
        id: SnapshotId,
        cursor: Option<StoreCursor>,
    },
    Close {
        call: Option<CallId>,
        id: SnapshotId,
    },
    Role(RoleChange),
}

/// For the actor that compares state hashes.
#[derive(Debug)]
pub enum IntegrityInput {
    Applied {
        index: LogIndex,
        hashes: Vec<u64>,
    },
    Report {
        from: MemberId,
        index: LogIndex,
        hash: u64,
    },
    Voters(ConfState),
    Installed {
        index: LogIndex,
        hash: u64,
    },
    Tick,
}

/// For the actor that keeps the cluster in shape.
#[derive(Debug)]
pub enum UpkeepInput {
    Role(RoleChange),
    /// One heartbeat; on a leader, with the members it has not heard of lately.
    Tick {
        silent: BTreeSet<MemberId>,
    },
    /// A client's request of this cost did not fit into the quota.
    Refused {
        cost: u64,
    },
    /// The members' states differ, and no majority of them agrees.
    Divided,
}

/// A command under its header, encoded for the log.
pub fn encode_command(
    request: RequestId,
    proposer: MemberId,
    body: command::command::Body,
) -> Bytes {
    let command = command::Command {
        request_id: request.get(),
        proposer: proposer.get(),
        user: String::new(),
        auth_revision: 0,
        body: Some(body),
    };
    prost::Message::encode_to_vec(&command).into()
}

/// A change of the member set, encoded for the log.
pub fn encode_change(
    request: RequestId,
    proposer: MemberId,
    change: command::ConfChangeCommand,
) -> Bytes {
    let command = command::ConfChangeCommand {
        request_id: request.get(),
        proposer: proposer.get(),
        ..change
    };
    prost::Message::encode_to_vec(&command).into()
}

/// A batch on its way to the backend, with what the log may forget once it is durable.
#[derive(Clone, Debug)]
pub struct Cut {
    /// The writes.
    pub batch: Arc<WriteBatch>,
    /// What the backend will hold.
    pub meta: SnapshotMeta,
}
