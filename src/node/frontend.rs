//! The actor that owns client calls: admission, the read barrier, and the one answer each call
//! gets.
//!
//! Inputs: `FrontendInput`. Timers: call deadlines, retry of the read barrier, retry of what waits
//! for a leader.
//! Invariants: `Pending`'s; a proposal is handed to raft again only when raft refused it untouched,
//! so that nothing can be applied twice.

mod change;
mod grant;
mod leader;
mod meter;
mod promotion;
mod publish;
mod room;
mod route;
mod space;

use std::{collections::BTreeMap, collections::VecDeque, time::Duration};

use bytes::Bytes;

pub use self::room::{Crowd, Room};
use self::{
    change::{Leaving, reconfigure},
    meter::{Meter, timed},
    promotion::Promotion,
    route::{Behind, Route, learner_may},
};
use super::{
    NodeConfig,
    mail::{
        ApplierInput, ConsensusInput, FrontendInput, Mail, PeerRequest, PeersInput, SnapshotsInput,
        WatchesInput, encode_command,
    },
    pending::{Asker, Kind, Pending, Waiting},
    respond,
};
use crate::{
    kernel::{
        ApiError, CallId, ClusterId, Context, Credentials, Effect, Fault, Instant, LogIndex,
        MemberId, ReadId, Request, RequestId, Response, Term,
        effect::{LogLevel, LogLine},
    },
    lease::Reset,
    mutant,
    pb::{etcdserverpb::CompactionResponse, fated::command::command::Body},
    raft::{Role, RoleChange},
};

/// A barrier or a forwarded call that was not answered in this time is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// How often refused proposals are offered again.
const OFFER_AGAIN: Duration = Duration::from_millis(50);

/// The actor that owns client calls.
#[derive(Debug)]
pub struct Frontend {
    cluster: ClusterId,
    member: MemberId,
    name: String,
    names: respond::Names,
    client_urls: Vec<String>,
    request_bytes_max: usize,
    election: Duration,
    pending: Pending,
    next_request: RequestId,
    /// Reads that wait for the next barrier.
    reads: Vec<(CallId, Behind)>,
    /// The barrier on its way.
    round: Option<Round>,
    /// Barriers that were started again since boot.
    barriers_repeated: u64,
    next_read: ReadId,
    /// Proposals that raft refused untouched, offered again until their callers' time is over.
    parked: VecDeque<(RequestId, Bytes, bool)>,
    parked_retry: Option<Instant>,
    /// Calls that only the leader can answer, waiting for one.
    leaderless: Vec<(CallId, PeerRequest)>,
    /// Calls forwarded to the leader, by our number for them, which no other life gives again.
    forwarded: BTreeMap<u64, Forwarded>,
    next_forward: u64,
    /// Renewals that wait for a reset of theirs to be applied.
    resets: BTreeMap<RequestId, (CallId, Reset)>,
    min_ttl_seconds: i64,
    last_lease_id: u64,
    role: RoleChange,
    leader_changes: u64,
    learner: bool,
    room: Room,
    apply_gap: u64,
    overlay_bytes: usize,
    live_bytes: u64,
    quota_bytes: i64,
    corrupt: bool,
    stopping: Option<Instant>,
    /// This member was removed from the cluster.
    leaving: Option<Leaving>,
    /// Removals that are applied and not settled, and their answers.
    removals: Vec<(LogIndex, CallId, Result<Response, ApiError>)>,
    publishing: Option<Publishing>,
    promotion: Promotion,
    ready: bool,
    meter: Meter,
    /// See `hold`.
    held: bool,
}

#[derive(Debug)]
struct Round {
    id: ReadId,
    calls: Vec<(CallId, Behind)>,
    retry: Instant,
}

#[derive(Debug)]
struct Forwarded {
    call: CallId,
    request: PeerRequest,
    retry: Instant,
}

#[derive(Debug)]
struct Publishing {
    /// Everything that was proposed for it: where a commit takes long, an earlier one comes first.
    requests: Vec<RequestId>,
    retry: Instant,
}

impl Frontend {
    /// A frontend without calls. Both numbers must be far from those of any earlier boot: what was
    /// asked then may be answered now.
    pub fn new(config: &NodeConfig, first_request: RequestId, first_forward: u64) -> Self {
        // etcd's request timeout: five seconds for queues and disks, two elections.
        let time_to_live = Duration::from_secs(5) + config.election.saturating_mul(2);
        Self {
            cluster: config.cluster,
            member: config.member,
            name: config.name.clone(),
            names: respond::Names::told(&config.initial_members),
            client_urls: config.client_urls.clone(),
            request_bytes_max: config.request_bytes_max,
            election: config.election,
            pending: Pending::new(time_to_live),
            next_request: first_request,
            reads: Vec::new(),
            round: None,
            barriers_repeated: 0,
            next_read: ReadId::ZERO,
            parked: VecDeque::new(),
            parked_retry: None,
            leaderless: Vec::new(),
            forwarded: BTreeMap::new(),
            next_forward: first_forward,
            resets: BTreeMap::new(),
            min_ttl_seconds: config.min_lease_ttl_seconds(),
            last_lease_id: 0,
            role: RoleChange {
                role: Role::Follower,
                term: Term::ZERO,
                leader: None,
            },
            leader_changes: 0,
            learner: false,
            room: config.room,
            apply_gap: 0,
            overlay_bytes: 0,
            live_bytes: 0,
            quota_bytes: config.quota_bytes,
            corrupt: false,
            stopping: None,
            leaving: None,
            removals: Vec::new(),
            publishing: None,
            promotion: Promotion::new(config.promote_itself),
            ready: false,
            meter: Meter::default(),
            held: false,
        }
    }

    /// Handles one input.
    pub fn on_input(&mut self, input: FrontendInput, cx: &mut Context<'_, Mail>) {
        match input {
            FrontendInput::Call {
                call,
                credentials,
                request,
            } => {
                self.on_call(call, &credentials, request, cx);
            }
            FrontendInput::Cancel { call } => {
                if mutant!("cancelled-call-keeps-its-room") {
                    return;
                }
                if let Some(waiting) = self.pending.remove(call) {
                    self.meter.on_cancelled(&waiting);
                }
            }
            FrontendInput::Answer { call, result } => self.answer(call, result, cx),
            FrontendInput::Applied {
                request,
                index,
                result,
            } => self.on_applied(request, index, result, cx),
            FrontendInput::Settled { up_to } => self.on_settled(up_to, cx),
            FrontendInput::Refused {
                request,
                data,
                conf_change,
                error,
            } => {
                self.on_refused(request, data, conf_change, error, cx);
            }
            FrontendInput::ReadState { id, index } => self.on_read_state(id, index, cx),
            FrontendInput::ReadRefused { id } => {
                // The barrier is tried again when a leader appears, or after a while.
                if let Some(round) = self.round.as_mut().filter(|round| round.id == id) {
                    round.retry = cx.now.after(RETRY);
                }
            }
            FrontendInput::Role(role) => self.on_role(role, cx),
            FrontendInput::Learner(learner) => {
                self.learner = learner;
                self.maybe_ask_promotion(cx);
            }
            FrontendInput::Load {
                applied,
                committed,
                overlay_bytes,
                live_bytes,
            } => {
                self.apply_gap = applied.distance_to(committed);
                self.overlay_bytes = overlay_bytes;
                self.live_bytes = live_bytes;
            }
            FrontendInput::CompactionDone { revision, current } => {
                for call in self.pending.compacted(revision) {
                    let header = crate::apply::kv::header(current);
                    let response = Response::Compact(CompactionResponse { header });
                    self.answer(call, Ok(response), cx);
                }
            }
            FrontendInput::PeerCall { from, id, request } => {
                self.on_peer_call(from, id, request, cx);
            }
            FrontendInput::PeerReply { id, result } => {
                if let Some(forwarded) = self.forwarded.remove(&id) {
                    self.on_peer_reply(forwarded, result, cx);
                }
            }
            FrontendInput::Corrupt => self.on_corrupt(cx),
            FrontendInput::Terminate => self.on_terminate(cx),
            FrontendInput::Published => self.on_published(cx),
            FrontendInput::NoHeir => self.stop(cx),
            FrontendInput::ResetLease { call, reset } => self.reset_lease(call, reset, cx),
            FrontendInput::Reconfigured { call, outcome } => {
                self.on_reconfigured(call, outcome, cx);
            }
            FrontendInput::Decided { call, body } => self.on_decided(call, body, cx),
            FrontendInput::Removed { told } => self.on_removed(told, cx),
            FrontendInput::Alone => {
                self.held = false;
                self.maybe_publish(cx);
            }
        }
    }

    // ---- calls ----

    fn on_call(
        &mut self,
        call: CallId,
        credentials: &Credentials,
        request: Request,
        cx: &mut Context<'_, Mail>,
    ) {
        let admitted = self.admit(credentials, &request);
        // Told only now: who may not ask at all is told that first, as by etcd.
        let (fault, asked) = match &request {
            Request::Invalid(error, asked) => (Err(*error), asked.as_ref()),
            request => (Ok(()), request),
        };
        let admitted = admitted
            .and_then(|()| self.refuse_growth(asked, cx))
            .and(fault)
            .and_then(|()| self.has_room(asked));
        if let Err(error) = admitted {
            cx.emit(Effect::Reply {
                call,
                result: Err(error),
            });
            return;
        }
        let timed = timed(&request);
        match self.route(request) {
            Route::Propose(body) => self.propose(call, Asker::Client, body, cx),
            Route::Grant(ttl) => self.grant_chosen(call, ttl, cx),
            Route::Barrier(behind) => {
                self.wait(call, Asker::Client, true, cx.now);
                self.reads.push((call, behind));
            }
            Route::Local(request, timed) => {
                self.wait(call, Asker::Client, timed, cx.now);
                self.run_local(call, request, cx);
            }
            Route::Change(change) => {
                self.wait(call, Asker::Client, true, cx.now);
                reconfigure(call, change, cx);
            }
            Route::Leader(request) => {
                self.wait(call, Asker::Client, true, cx.now);
                self.ask_leader(call, request, cx);
            }
        }
        self.pending.time(call, timed, cx.now);
    }

    /// What is refused before anything is done.
    fn admit(&self, credentials: &Credentials, request: &Request) -> Result<(), ApiError> {
        let looks_only = matches!(request, Request::Status(_) | Request::MemberList(_));
        if (self.stopping.is_some() || self.leaving.is_some()) && !looks_only {
            return Err(ApiError::Stopped);
        }
        if self.corrupt && !looks_only {
            return Err(ApiError::Corrupt);
        }
        if self.learner && !learner_may(request) {
            return Err(ApiError::NotSupportedForLearner);
        }
        if credentials.require_leader && self.role.leader.is_none() {
            return Err(ApiError::NoLeader);
        }
        Ok(())
    }

    fn wait(&mut self, call: CallId, asker: Asker, timed: bool, now: Instant) {
        let leader_changes = self.leader_changes;
        let waiting = Waiting {
            bytes: 0,
            kind: Kind::Other,
            asker,
            leader_changes,
            physical: None,
            compaction: None,
            chosen: None,
            timed: None,
        };
        self.pending.insert(call, waiting, now, timed);
    }

    /// A planted bug: what the compares of the next transaction came to is decided now, and
    /// travels as the parity of its request id.
    pub fn foresee(&mut self, holds: bool) {
        let even = (self.next_request.get() | 1) + 1;
        self.next_request = RequestId::new(even | u64::from(holds));
    }

    fn propose(&mut self, call: CallId, asker: Asker, body: Body, cx: &mut Context<'_, Mail>) {
        let physical = if let Body::Compact(request) = &body {
            request.physical.then_some(request.revision)
        } else {
            None
        };
        let request = self.next_request;
        let data = encode_command(request, self.member, body);
        if data.len() > self.request_bytes_max {
            cx.emit(Effect::Reply {
                call,
                result: Err(ApiError::RequestTooLarge),
            });
            return;
        }
        self.next_request = request.next();
        let waiting = Waiting {
            bytes: data.len(),
            kind: Kind::Write(request),
            asker,
            leader_changes: self.leader_changes,
            physical,
            compaction: None,
            chosen: None,
            timed: None,
        };
        self.pending
            .insert(call, waiting, cx.now, physical.is_none());
        if mutant!("proposal-offered-again") {
            self.parked.push_back((request, data.clone(), false));
        }
        cx.tell(Mail::Consensus(ConsensusInput::Propose {
            request,
            data,
            conf_change: false,
        }));
    }

    fn run_local(&mut self, call: CallId, request: Request, cx: &mut Context<'_, Mail>) {
        match request {
            Request::Status(_) => cx.tell(Mail::Consensus(ConsensusInput::Status { call })),
            Request::Defragment(_) => cx.tell(Mail::Applier(ApplierInput::Defragment { call })),
            Request::MoveLeader(request) => {
                let to = MemberId::new(request.target_id);
                cx.tell(Mail::Consensus(ConsensusInput::MoveLeader { call, to }));
            }
            Request::SnapshotOpen => cx.tell(Mail::Snapshots(SnapshotsInput::Open { call })),
            Request::SnapshotRead { id, cursor } => {
                cx.tell(Mail::Snapshots(SnapshotsInput::Read { call, id, cursor }));
            }
            Request::SnapshotClose { id } => {
                cx.tell(Mail::Snapshots(SnapshotsInput::Close {
                    call: Some(call),
                    id,
                }));
            }
            request => cx.tell(Mail::Applier(ApplierInput::Read {
                index: LogIndex::ZERO,
                calls: vec![(call, request)],
            })),
        }
    }

    /// Sends an answer, unless the call is gone.
    fn answer(
        &mut self,
        call: CallId,
        result: Result<Response, ApiError>,
        cx: &mut Context<'_, Mail>,
    ) {
        let Some(waiting) = self.pending.remove(call) else {
            // Nobody will read the pinned image that was meant for this call.
            if let Ok(Response::SnapshotOpened { id, .. }) = result {
                cx.tell(Mail::Snapshots(SnapshotsInput::Close { call: None, id }));
            }
            return;
        };
        self.meter
            .on_answered(&waiting, &result, self.role.role, cx.now);
        match waiting.asker {
            Asker::Client => {
                let result = result.map(|mut response| {
                    respond::fill(&mut response, self.cluster, self.member, self.role.term);
                    self.names.fill(&mut response);
                    response
                });
                cx.emit(Effect::Reply { call, result });
            }
            Asker::Peer(to, id) => cx.tell(Mail::Peers(PeersInput::Reply { to, id, result })),
            Asker::Itself => self.on_promotion_answer(result, cx),
        }
    }

    fn on_applied(
        &mut self,
        request: RequestId,
        index: LogIndex,
        result: Result<Response, ApiError>,
        cx: &mut Context<'_, Mail>,
    ) {
        if self
            .publishing
            .as_ref()
            .is_some_and(|publishing| publishing.requests.contains(&request))
        {
            self.publishing = None;
            // The member serves once it has caught up with what the cluster had committed by now.
            let call = self.pending.peer_call();
            self.reads.push((call, Behind::Publish));
            return;
        }
        if let Some((call, reset)) = self.resets.remove(&request) {
            cx.tell(Mail::Applier(ApplierInput::FinishReset { call, reset }));
            return;
        }
        let Some(call) = self.pending.call_of(request) else {
            return;
        };
        if self.chooses_again(call, &result, cx) {
            return;
        }
        if let Some(leaving) = self.leaving.as_mut()
            && leaving.until.is_none()
        {
            leaving.last_words.push((call, result));
            return;
        }
        if matches!(result, Ok(Response::MemberRemove(_))) {
            self.removals.push((index, call, result));
            return;
        }
        if let Ok(Response::Compact(_)) = &result
            && let Some(waiting) = self.pending.get_mut(call)
            && waiting.physical.is_some()
        {
            // The deletion goes on in slices; `CompactionDone` answers.
            waiting.compaction = waiting.physical;
            return;
        }
        self.answer(call, result, cx);
    }

    fn on_refused(
        &mut self,
        request: RequestId,
        data: Bytes,
        conf_change: bool,
        error: ApiError,
        cx: &mut Context<'_, Mail>,
    ) {
        if error == ApiError::TooManyRequests
            && let Some(call) = self.pending.call_of(request)
        {
            self.answer(call, Err(error), cx);
            return;
        }
        self.parked.push_back((request, data, conf_change));
        self.parked_retry.get_or_insert(cx.now.after(OFFER_AGAIN));
    }

    fn offer_parked(&mut self, cx: &mut Context<'_, Mail>) {
        self.parked_retry = None;
        for (request, data, conf_change) in std::mem::take(&mut self.parked) {
            if self.pending.call_of(request).is_some() {
                cx.tell(Mail::Consensus(ConsensusInput::Propose {
                    request,
                    data,
                    conf_change,
                }));
            }
        }
    }

    // ---- leadership, life and death ----

    fn on_role(&mut self, role: RoleChange, cx: &mut Context<'_, Mail>) {
        let leader_changed = role.leader != self.role.leader;
        let was_leader = self.role.role == Role::Leader;
        self.role = role;
        if mutant!("reads-served-after-stepping-down") && was_leader && role.role != Role::Leader {
            if self.round.is_none() {
                self.flush(cx);
            }
            self.on_read_state(self.next_read, LogIndex::ZERO, cx);
        }
        if !leader_changed {
            return;
        }
        self.leader_changes += 1;
        if role.leader.is_some() {
            self.meter.leaders_seen += 1;
            self.offer_parked(cx);
            // In this order, so that what waited for a leader is not asked twice.
            self.retry_forwarded(false, cx);
            self.ask_again(cx);
            self.retry_round(cx);
            self.maybe_publish(cx);
        }
        if self.stopping.is_some() && role.role != Role::Leader {
            self.stop(cx);
        }
    }

    fn on_corrupt(&mut self, cx: &mut Context<'_, Mail>) {
        self.corrupt = true;
        for call in self.pending.all() {
            self.answer(call, Err(ApiError::Corrupt), cx);
        }
        cx.tell(Mail::Watches(WatchesInput::End(ApiError::Corrupt)));
    }

    fn on_terminate(&mut self, cx: &mut Context<'_, Mail>) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(cx.now.after(self.election));
        cx.tell(Mail::Watches(WatchesInput::End(ApiError::Stopped)));
        if self.role.role == Role::Leader {
            cx.tell(Mail::Consensus(ConsensusInput::HandOver));
        } else {
            self.stop(cx);
        }
    }

    fn stop(&mut self, cx: &mut Context<'_, Mail>) {
        for call in self.pending.all() {
            self.answer(call, Err(ApiError::Stopped), cx);
        }
        cx.emit(Effect::Halt(Fault::Stopped));
    }

    /// When it wants `on_deadline`.
    pub fn deadline(&self) -> Option<Instant> {
        let round = self.round.as_ref().map(|round| round.retry);
        let publishing = self.publishing.as_ref().map(|publishing| publishing.retry);
        // Numbers rise with time and all wait equally long, so the first is due first.
        let forwarded = self
            .forwarded
            .first_key_value()
            .map(|(_, first)| first.retry);
        [
            round,
            publishing,
            forwarded,
            self.parked_retry,
            self.stopping,
            self.leaving.as_ref().and_then(|leaving| leaving.until),
            self.promotion.retry,
            self.pending.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Retries and gives up what is due.
    pub fn on_deadline(&mut self, cx: &mut Context<'_, Mail>) {
        while let Some(call) = self.pending.next_overdue(cx.now) {
            let error = self.timeout_of(call);
            self.answer(call, Err(error), cx);
        }
        if self
            .round
            .as_ref()
            .is_some_and(|round| round.retry <= cx.now)
        {
            self.retry_round(cx);
        }
        if self.parked_retry.is_some_and(|retry| retry <= cx.now) {
            self.offer_parked(cx);
            self.ask_again(cx);
        }
        self.retry_forwarded(true, cx);
        if self
            .publishing
            .as_ref()
            .is_some_and(|publishing| publishing.retry <= cx.now)
        {
            self.publish(cx);
        }
        if self.stopping.is_some_and(|deadline| deadline <= cx.now) {
            self.stop(cx);
        }
        if self
            .promotion
            .retry
            .take_if(|retry| *retry <= cx.now)
            .is_some()
        {
            self.maybe_ask_promotion(cx);
        }
        let over = |leaving: &Leaving| leaving.until.is_some_and(|until| until <= cx.now);
        if self.leaving.as_ref().is_some_and(over) {
            self.leave(cx);
        }
    }

    fn timeout_of(&mut self, call: CallId) -> ApiError {
        let changes = self.leader_changes;
        match self.pending.get_mut(call) {
            Some(waiting) if waiting.leader_changes != changes => ApiError::TimeoutDueToLeaderFail,
            Some(_) | None => ApiError::Timeout,
        }
    }

    /// Asserts every invariant.
    pub fn check(&self) {
        self.pending.check();
        assert!(
            self.round
                .as_ref()
                .is_none_or(|round| !round.calls.is_empty()),
            "a barrier is on its way for nobody"
        );
    }

    /// A line for the operator about this member's state.
    pub fn describe(&self) -> LogLine {
        LogLine {
            level: LogLevel::Debug,
            caller: "node/frontend.rs",
            message: "calls in flight".to_owned(),
            fields: vec![("count", self.pending.len().to_string())],
        }
    }
}
