//! Where each request goes: through the log, behind the read barrier, to the leader, or straight to
//! local state; and what becomes of it on the way.

use super::Frontend;
use crate::{
    apply::txn,
    kernel::Request,
    mutant,
    node::{mail::PeerRequest, reconfigure::Change},
    pb::{
        etcdserverpb::alarm_request::AlarmAction,
        fated::command::{LeaseRevoke, command::Body},
    },
};

/// Where a request goes.
pub(super) enum Route {
    Propose(Body),
    /// A lease of this TTL, under a name of ours.
    Grant(i64),
    Barrier(Behind),
    Local(Request, bool),
    Leader(PeerRequest),
    Change(Change),
}

/// What happens once the barrier is passed.
#[derive(Debug)]
pub(super) enum Behind {
    Read(Request),
    Publish,
    Change(Change),
}

impl Frontend {
    /// Where a request goes.
    pub(super) fn route(&self, request: Request) -> Route {
        match request {
            Request::Put(request) => Route::Propose(Body::Put(request)),
            Request::DeleteRange(request) => Route::Propose(Body::DeleteRange(request)),
            Request::Txn(request) if txn::is_read_only(&request) => {
                if txn::is_serializable(&request) {
                    Route::Local(Request::Txn(request), true)
                } else {
                    Route::Barrier(Behind::Read(Request::Txn(request)))
                }
            }
            Request::Txn(request) => Route::Propose(Body::Txn(request)),
            Request::Compact(request) => Route::Propose(Body::Compact(request)),
            Request::LeaseGrant(mut request) => {
                // Raised here and not when applied, so that members with other settings agree on
                // it.
                request.ttl = request.ttl.max(self.min_ttl_seconds);
                match request.id {
                    0 => Route::Grant(request.ttl),
                    _ => Route::Propose(Body::LeaseGrant(request)),
                }
            }
            Request::LeaseRevoke(request) => Route::Propose(Body::LeaseRevoke(LeaseRevoke {
                ids: vec![request.id],
                expired: false,
                births: Vec::new(),
            })),
            Request::Alarm(request) if request.action() != AlarmAction::Get => {
                Route::Propose(Body::Alarm(request))
            }
            Request::LeaseKeepAlive(request) => Route::Leader(PeerRequest::KeepAlive(request)),
            Request::LeaseTimeToLive(request) => Route::Leader(PeerRequest::TimeToLive(request)),
            Request::MemberAdd(request) => Route::Change(Change::Add(request)),
            Request::MemberRemove(request) => Route::Change(Change::Remove(request)),
            Request::MemberUpdate(request) => Route::Change(Change::Update(request)),
            // Only the leader knows how far the learner is.
            Request::MemberPromote(request) => Route::Leader(PeerRequest::Promote(request)),
            Request::Range(request) if !self.ready && mutant!("reads-before-the-replay-ends") => {
                Route::Local(Request::Range(request), true)
            }
            Request::Range(request) if !request.serializable => {
                Route::Barrier(Behind::Read(Request::Range(request)))
            }
            Request::RangeChunk(chunk) if !chunk.request.serializable && chunk.after.is_none() => {
                Route::Barrier(Behind::Read(Request::RangeChunk(chunk)))
            }
            Request::MemberList(request) if request.linearizable => {
                Route::Barrier(Behind::Read(Request::MemberList(request)))
            }
            request @ (Request::Alarm(_) | Request::Downgrade(_) | Request::Health) => {
                Route::Barrier(Behind::Read(request))
            }
            request @ (Request::Range(_)
            | Request::RangeChunk(_)
            | Request::MemberList(_)
            | Request::LeaseLeases(_)) => Route::Local(request, true),
            request @ (Request::Status(_)
            | Request::Defragment(_)
            | Request::Hash(_)
            | Request::HashKv(_)
            | Request::MoveLeader(_)
            | Request::SnapshotOpen
            | Request::SnapshotRead { .. }
            | Request::SnapshotClose { .. }) => Route::Local(request, false),
            Request::Metrics => unreachable!("the node answers it from its actors"),
            Request::Invalid(..) => unreachable!("it is answered on arrival"),
        }
    }
}

/// A learner answers what needs no agreement: its status and serializable reads.
pub(super) fn learner_may(request: &Request) -> bool {
    match request {
        Request::Status(_)
        | Request::Metrics
        | Request::Health
        | Request::SnapshotOpen
        | Request::SnapshotRead { .. }
        | Request::SnapshotClose { .. } => true,
        Request::Range(range) => range.serializable,
        Request::Invalid(_, request) => learner_may(request),
        Request::RangeChunk(_)
        | Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Txn(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseLeases(_)
        | Request::MemberList(_)
        | Request::MemberAdd(_)
        | Request::MemberRemove(_)
        | Request::MemberUpdate(_)
        | Request::MemberPromote(_)
        | Request::Alarm(_)
        | Request::Defragment(_)
        | Request::Hash(_)
        | Request::HashKv(_)
        | Request::MoveLeader(_)
        | Request::Downgrade(_) => false,
    }
}
