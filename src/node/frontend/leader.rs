//! What needs the leader: the read barrier, and calls that only the leader can answer.
//!
//! Invariants: one barrier is on its way at a time, and reads that come meanwhile wait for the
//! next; a barrier that is tried again gets a fresh id, so that a late confirmation proves nothing.

use super::{Behind, Forwarded, Frontend, OFFER_AGAIN, RETRY, Round, meter::PROMOTE, reconfigure};
use crate::{
    kernel::{ApiError, CallId, Context, LogIndex, MemberId, ReadId, Request, Response},
    lease::Reset,
    mutant,
    node::{
        mail::{
            ApplierInput, ConsensusInput, FrontendInput, Mail, PeerRequest, PeersInput,
            encode_command,
        },
        pending::Asker,
        reconfigure::Change,
    },
    pb::fated::command::{LeaseCheckpoint, LeaseRemaining, command::Body},
    raft::Role,
};

impl Frontend {
    // ---- the read barrier ----

    /// Starts a barrier for the reads that wait; called when the mailbox is empty.
    pub fn flush(&mut self, cx: &mut Context<'_, Mail>) -> bool {
        if self.round.is_some() || self.reads.is_empty() {
            return false;
        }
        let calls = std::mem::take(&mut self.reads);
        self.start_round(calls, cx);
        if mutant!("leader-reads-without-a-round") && self.role.role == Role::Leader {
            self.on_read_state(self.next_read, LogIndex::ZERO, cx);
        }
        true
    }

    fn start_round(&mut self, calls: Vec<(CallId, Behind)>, cx: &mut Context<'_, Mail>) {
        self.next_read = self.next_read.next();
        let id = self.next_read;
        self.round = Some(Round {
            id,
            calls,
            retry: cx.now.after(RETRY),
        });
        cx.tell(Mail::Consensus(ConsensusInput::ReadIndex { id }));
    }

    /// How many barriers were started again since boot.
    pub fn barriers_repeated(&self) -> u64 {
        self.barriers_repeated
    }

    /// Tries the barrier again under a fresh id, so that late confirmations of the old one count
    /// for nothing.
    pub(super) fn retry_round(&mut self, cx: &mut Context<'_, Mail>) {
        let Some(round) = self.round.take() else {
            return;
        };
        let pending = &self.pending;
        let alive = |(call, behind): &(CallId, Behind)| {
            matches!(behind, Behind::Publish) || pending.contains(*call)
        };
        let calls: Vec<_> = round.calls.into_iter().filter(alive).collect();
        if calls.is_empty() {
            self.meter.barriers_failed += 1;
        } else {
            self.barriers_repeated += 1;
            self.start_round(calls, cx);
        }
    }

    pub(super) fn on_read_state(
        &mut self,
        id: ReadId,
        index: LogIndex,
        cx: &mut Context<'_, Mail>,
    ) {
        let Some(round) = self.round.take_if(|round| round.id == id) else {
            return;
        };
        let mut reads = Vec::with_capacity(round.calls.len());
        for (call, behind) in round.calls {
            match behind {
                Behind::Read(request) => reads.push((call, request)),
                Behind::Publish => cx.tell(Mail::Frontend(FrontendInput::Published)),
                Behind::Change(change) => reconfigure(call, change, cx),
            }
        }
        if !reads.is_empty() {
            cx.tell(Mail::Applier(ApplierInput::Read {
                index,
                calls: reads,
            }));
        }
    }

    // ---- what only the leader answers ----

    pub(super) fn ask_leader(
        &mut self,
        call: CallId,
        request: PeerRequest,
        cx: &mut Context<'_, Mail>,
    ) {
        match self.role.leader {
            Some(_) if mutant!("follower-answers-keep-alive") => self.lead(call, request),
            Some(leader) if leader == self.member => self.lead(call, request),
            Some(leader) => {
                let id = self.next_forward;
                self.next_forward += 1;
                let retry = cx.now.after(RETRY);
                cx.tell(Mail::Peers(PeersInput::Call {
                    to: leader,
                    id,
                    request: request.clone(),
                }));
                self.forwarded.insert(
                    id,
                    Forwarded {
                        call,
                        request,
                        retry,
                    },
                );
            }
            None => self.leaderless.push((call, request)),
        }
    }

    /// As leader: a lease is renewed or read only behind the barrier, so that a deposed leader
    /// which does not know it yet can promise nothing, and one that has not applied a grant yet
    /// does not take its lease for gone.
    fn lead(&mut self, call: CallId, request: PeerRequest) {
        let behind = match request {
            PeerRequest::KeepAlive(request) => Behind::Read(Request::LeaseKeepAlive(request)),
            PeerRequest::TimeToLive(request) => Behind::Read(Request::LeaseTimeToLive(request)),
            PeerRequest::Promote(request) => Behind::Change(Change::Promote(request)),
        };
        self.reads.push((call, behind));
    }

    pub(super) fn on_peer_call(
        &mut self,
        from: MemberId,
        id: u64,
        request: PeerRequest,
        cx: &mut Context<'_, Mail>,
    ) {
        let refusal = if self.corrupt {
            Some(ApiError::Corrupt)
        } else if self.role.leader != Some(self.member) {
            Some(ApiError::NotLeader)
        } else if !self.has_room_for_peers() {
            Some(ApiError::TooManyRequests)
        } else {
            None
        };
        if let Some(error) = refusal {
            cx.tell(Mail::Peers(PeersInput::Reply {
                to: from,
                id,
                result: Err(error),
            }));
            return;
        }
        let call = self.pending.peer_call();
        self.wait(call, Asker::Peer(from, id), true, cx.now);
        if matches!(request, PeerRequest::Promote(_)) {
            self.pending.time(call, Some(PROMOTE), cx.now);
        }
        self.lead(call, request);
    }

    pub(super) fn on_peer_reply(
        &mut self,
        forwarded: Forwarded,
        result: Result<Response, ApiError>,
        cx: &mut Context<'_, Mail>,
    ) {
        // The leader moved on; ask the next one.
        if result == Err(ApiError::NotLeader) {
            if self.pending.contains(forwarded.call) {
                self.leaderless.push((forwarded.call, forwarded.request));
                self.parked_retry.get_or_insert(cx.now.after(OFFER_AGAIN));
            }
            return;
        }
        self.answer(forwarded.call, result, cx);
    }

    pub(super) fn ask_again(&mut self, cx: &mut Context<'_, Mail>) {
        for (call, request) in std::mem::take(&mut self.leaderless) {
            if self.pending.contains(call) {
                self.ask_leader(call, request, cx);
            }
        }
    }

    pub(super) fn retry_forwarded(&mut self, overdue_only: bool, cx: &mut Context<'_, Mail>) {
        let now = cx.now;
        let due: Vec<u64> = self
            .forwarded
            .iter()
            .filter(|(_, forwarded)| !overdue_only || forwarded.retry <= now)
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            let Some(mut forwarded) = self.forwarded.remove(&id) else {
                continue;
            };
            if !self.pending.contains(forwarded.call) {
                continue;
            }
            if may_repeat(&forwarded.request) {
                self.ask_leader(forwarded.call, forwarded.request, cx);
            } else {
                forwarded.retry = now.after(RETRY);
                self.forwarded.insert(id, forwarded);
            }
        }
    }

    /// Clears a lease's recorded remaining time, so that no later leader shortens the renewal that
    /// waits for it.
    pub(super) fn reset_lease(&mut self, call: CallId, reset: Reset, cx: &mut Context<'_, Mail>) {
        let pending = &self.pending;
        self.resets.retain(|_, (call, _)| pending.contains(*call));
        let request = self.next_request;
        self.next_request = request.next();
        let lease = reset.lease();
        let leases = vec![LeaseRemaining {
            id: lease.id.get(),
            remaining_ms: 0,
            birth: lease.birth.get(),
        }];
        let body = Body::LeaseCheckpoint(LeaseCheckpoint { leases });
        let data = encode_command(request, self.member, body);
        self.resets.insert(request, (call, reset));
        cx.tell(Mail::Consensus(ConsensusInput::Propose {
            request,
            data,
            conf_change: false,
        }));
    }
}

/// Whether asking twice does no more than asking once. A second promotion would be refused for what
/// the first one did.
fn may_repeat(request: &PeerRequest) -> bool {
    match request {
        PeerRequest::KeepAlive(_) | PeerRequest::TimeToLive(_) => true,
        PeerRequest::Promote(_) => false,
    }
}
