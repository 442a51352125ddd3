//! The actor around the raft core: it feeds ticks, messages and proposals in, and turns what comes
//! out into mail.
//!
//! Inputs: `ConsensusInput`. Timers: one tick per heartbeat interval.
//! Invariants: raft's own (`Raft::check`), and `applied <= min(committed, durable)`.
//!
//! Outputs are taken once the mailbox is empty, so that everything one step brought in becomes one
//! append, one message per peer and one write to the log.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;

use super::{
    NodeConfig, alone,
    mail::{
        Append, ApplierInput, ConsensusInput, FrontendInput, IntegrityInput, JournalInput,
        LeasesInput, Mail, PeersInput, RaftStatus, SnapshotsInput, UpkeepInput, WatchesInput,
        encode_command,
    },
};
use crate::{
    kernel::{
        ApiError, CallId, Context, Effect, EntryId, Instant, LogIndex, MemberId, RequestId,
        Response, SnapshotId, Term, effect::LogLevel, effect::LogLine,
    },
    mutant,
    pb::{
        etcdserverpb::MoveLeaderResponse,
        fated::command::{MembersSettled, command::Body},
    },
    raft::{ProposeError, Raft, Role, RoleChange},
};

/// The actor around the raft core.
#[derive(Debug)]
pub struct Consensus {
    raft: Raft,
    heartbeat: Duration,
    election: Duration,
    next_tick: Instant,
    /// A MoveLeader call that waits for its transfer.
    moving: Option<Moving>,
    /// The image that raft has accepted and the log has not recorded yet.
    restoring: Option<SnapshotId>,
    shown: Option<RoleChange>,
    /// The latest removal that those who stay may not know of.
    unsettled: Option<LogIndex>,
    /// For which one it was proposed to settle it, and in which term.
    settling: Option<(Term, LogIndex)>,
    /// To be proposed as soon as this member, which goes on alone by force, leads.
    alone: Option<Bytes>,
    /// What the frontend was told about this member's vote.
    told_learner: Option<bool>,
}

#[derive(Debug)]
struct Moving {
    call: CallId,
    to: MemberId,
    deadline: Instant,
}

impl Consensus {
    /// Wraps a raft core.
    pub fn new(raft: Raft, config: &NodeConfig) -> Self {
        let alone = raft.is_forced().then(|| alone::proposal(raft.id()));
        Self {
            raft,
            heartbeat: config.heartbeat,
            election: config.election,
            next_tick: Instant::ZERO,
            moving: None,
            restoring: None,
            shown: None,
            unsettled: None,
            settling: None,
            alone,
            told_learner: None,
        }
    }

    /// The core, for reading.
    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    /// Raft's figures at this moment.
    pub fn status(&self) -> RaftStatus {
        RaftStatus {
            term: self.raft.term(),
            leader: self.raft.leader(),
            committed: self.raft.committed(),
            is_learner: self.raft.is_learner(),
        }
    }

    /// Starts the clock; a member that is alone need not wait for an election timeout.
    pub fn start(&mut self, advance_ticks: u32, cx: &mut Context<'_, Mail>) {
        self.next_tick = cx.now.after(self.heartbeat);
        self.tell_learner(cx);
        for _ in 0..advance_ticks {
            self.raft.tick();
        }
        let conf = self.raft.conf_state();
        if conf.voters.len() == 1 && conf.voters_outgoing.is_empty() && !self.raft.is_learner() {
            self.raft.campaign();
        }
    }

    /// Handles one input.
    pub fn on_input(&mut self, input: ConsensusInput, cx: &mut Context<'_, Mail>) {
        match input {
            ConsensusInput::Step(message) => self.raft.step(message),
            ConsensusInput::Propose {
                request,
                data,
                conf_change,
            } => {
                let outcome = if conf_change && self.raft.is_changing() {
                    // Raft would let it come to nothing; its turn comes when the other is done.
                    Err(ProposeError::Changing)
                } else if conf_change {
                    self.raft.propose_conf_change(data.clone())
                } else {
                    self.raft.propose(data.clone())
                };
                if let Err(error) = outcome {
                    let error = match error {
                        ProposeError::NoLeader => ApiError::NoLeader,
                        ProposeError::Transferring => ApiError::LeaderChanged,
                        ProposeError::Overloaded => ApiError::TooManyRequests,
                        ProposeError::Changing => ApiError::Unhealthy,
                    };
                    cx.tell(Mail::Frontend(FrontendInput::Refused {
                        request,
                        data,
                        conf_change,
                        error,
                    }));
                }
            }
            ConsensusInput::ProposeAsLeader { term, data } => {
                if self.raft.role() == Role::Leader && self.raft.term() == term {
                    // Refusal is fine: whoever asks offers the same again later.
                    let _ = self.raft.propose(data);
                }
            }
            ConsensusInput::ReadIndex { id } => {
                if self.raft.read_index(id).is_err() {
                    cx.tell(Mail::Frontend(FrontendInput::ReadRefused { id }));
                }
            }
            ConsensusInput::Durable(id) => self.raft.on_durable(id),
            ConsensusInput::Applied { index } => self.raft.on_applied(index),
            ConsensusInput::ConfChange(change) => {
                let conf_state = self.raft.apply_conf_change(&change);
                if change.is_alone() {
                    cx.tell(Mail::Frontend(FrontendInput::Alone));
                }
                self.tell_learner(cx);
                cx.tell(Mail::Integrity(IntegrityInput::Voters(conf_state)));
            }
            ConsensusInput::Unsettled { removal } => self.unsettled = removal,
            ConsensusInput::HandOver => self.hand_over(cx),
            ConsensusInput::Compact { mark, compact } => self.compact(mark, compact, cx),
            ConsensusInput::Restore {
                snapshot,
                meta,
                from,
                term,
            } => {
                if self.raft.restore(meta, from, term) {
                    self.restoring = Some(snapshot);
                } else {
                    cx.tell(Mail::Snapshots(SnapshotsInput::Stale { snapshot }));
                }
            }
            ConsensusInput::Unreachable { peer } => self.raft.report_unreachable(peer),
            ConsensusInput::SnapshotDone { peer, index, ok } => {
                self.raft.report_snapshot(peer, index, ok);
            }
            ConsensusInput::Status { call, request } => {
                let raft = self.status();
                cx.tell(Mail::Applier(ApplierInput::Status {
                    call,
                    request,
                    raft,
                }));
            }
            ConsensusInput::MoveLeader { call, to } => self.move_leader(call, to, cx),
            ConsensusInput::Reconfigure(mut wanted) => {
                if self.raft.role() == Role::Leader {
                    let progress = self.raft.progress();
                    wanted.matched = Some(progress.map(|(id, view)| (id, view.matched)).collect());
                }
                cx.tell(Mail::Applier(ApplierInput::Reconfigure(wanted)));
            }
        }
    }

    fn tell_learner(&mut self, cx: &mut Context<'_, Mail>) {
        let learner = self.raft.is_learner();
        if self.told_learner.replace(learner) != Some(learner) {
            cx.tell(Mail::Frontend(FrontendInput::Learner(learner)));
        }
    }

    /// Lets the log forget what the backend holds.
    fn compact(
        &mut self,
        mark: crate::raft::SnapshotMeta,
        compact: LogIndex,
        cx: &mut Context<'_, Mail>,
    ) {
        // A commit from before an image may end after the image was accepted. Then the log has
        // begun anew behind it, and its mark never goes back.
        if mark.id.index < self.raft.first().index {
            return;
        }
        let compact = compact.min(self.raft.applied());
        // etcd's texts; its suites and many a person wait for them.
        log_index(
            "saved snapshot to disk",
            "snapshot-index",
            mark.id.index,
            cx,
        );
        if compact > self.raft.first().index {
            self.raft.compact(compact);
            log_index("compacted Raft logs", "compact-index", compact, cx);
        }
        cx.tell(Mail::Journal(JournalInput::Mark {
            meta: mark,
            keep_after: self.raft.first().index,
            then: Vec::new(),
        }));
    }

    /// Passes leadership to the voter that has most of the log, before this member stops.
    fn hand_over(&mut self, cx: &mut Context<'_, Mail>) {
        let own = self.raft.id();
        let voters = &self.raft.conf_state().voters;
        let heir = self
            .raft
            .progress()
            .filter(|(id, view)| *id != own && voters.contains(id) && view.recent_active)
            .max_by_key(|(id, view)| (view.matched, std::cmp::Reverse(*id)))
            .map(|(id, _)| id);
        match heir {
            Some(heir) => self.raft.transfer_leadership(heir),
            None => cx.tell(Mail::Frontend(FrontendInput::NoHeir)),
        }
    }

    fn move_leader(&mut self, call: CallId, to: MemberId, cx: &mut Context<'_, Mail>) {
        let error = if self.raft.role() != Role::Leader {
            Some(ApiError::NotLeader)
        } else if !self.raft.conf_state().voters.contains(&to) {
            Some(ApiError::BadLeaderTransferee)
        } else {
            None
        };
        if let Some(error) = error {
            cx.tell(Mail::Frontend(FrontendInput::Answer {
                call,
                result: Err(error),
            }));
            return;
        }
        if self.raft.leader() == Some(to) {
            cx.tell(Mail::Frontend(moved(call)));
            return;
        }
        if let Some(earlier) = self.moving.take() {
            let result = Err(ApiError::Timeout);
            cx.tell(Mail::Frontend(FrontendInput::Answer {
                call: earlier.call,
                result,
            }));
        }
        self.raft.transfer_leadership(to);
        // Raft gives a transfer up after one election timeout; then the caller hears of it.
        let deadline = cx.now.after(self.election.saturating_mul(2));
        self.moving = Some(Moving { call, to, deadline });
    }

    /// When it wants a tick.
    pub fn deadline(&self) -> Option<Instant> {
        Some(self.next_tick)
    }

    /// One tick. After a long stall there is one tick, not many: time that nobody could use to send
    /// a heartbeat must not count against the others.
    pub fn on_deadline(&mut self, cx: &mut Context<'_, Mail>) {
        self.next_tick = cx.now.after(self.heartbeat);
        self.raft.tick();
        cx.tell(Mail::Integrity(IntegrityInput::Tick));
        let silent = self.silent();
        cx.tell(Mail::Upkeep(UpkeepInput::Tick { silent }));
        if let Some(moving) = self.moving.take_if(|moving| moving.deadline <= cx.now) {
            let result = Err(ApiError::Timeout);
            cx.tell(Mail::Frontend(FrontendInput::Answer {
                call: moving.call,
                result,
            }));
        }
    }

    /// On a leader, the members that it has not heard of since it last looked for a quorum.
    fn silent(&self) -> BTreeSet<MemberId> {
        if self.raft.role() != Role::Leader {
            return BTreeSet::new();
        }
        let own = self.raft.id();
        let progress = self.raft.progress();
        progress
            .filter(|(id, view)| *id != own && !view.recent_active)
            .map(|(id, _)| id)
            .collect()
    }

    /// Takes raft's output; called when the mailbox is empty. Returns whether there was any.
    pub fn flush(&mut self, cx: &mut Context<'_, Mail>) -> bool {
        self.propose_alone();
        self.propose_settled();
        if !self.raft.has_output() {
            return false;
        }
        let mut output = self.raft.take_output();
        if let Some(role) = output.role.take() {
            self.on_role(role, cx);
        }
        for message in output.messages {
            cx.tell(Mail::Peers(PeersInput::Raft(message)));
        }
        let mut then: Vec<Mail> = Vec::with_capacity(output.after_append.len() + 1);
        for message in output.after_append {
            let mail = Mail::Peers(PeersInput::Raft(message));
            match mutant!("ack-before-sync") {
                true => cx.tell(mail),
                false => then.push(mail),
            }
        }
        if let Some(meta) = output.install {
            self.tell_learner(cx);
            let snapshot = self
                .restoring
                .take()
                .expect("raft installs only what was restored");
            let keep_after = meta.id.index;
            let install = ApplierInput::Install {
                id: snapshot,
                meta: meta.clone(),
            };
            cx.tell(Mail::Integrity(IntegrityInput::Voters(
                meta.conf_state.clone(),
            )));
            then.push(Mail::Consensus(ConsensusInput::Durable(meta.id)));
            let mut behind_mark = vec![Mail::Applier(install)];
            if mutant!("image-installed-before-mark") {
                behind_mark.drain(..).for_each(|mail| cx.tell(mail));
            }
            cx.tell(Mail::Journal(JournalInput::Mark {
                meta,
                keep_after,
                then: behind_mark,
            }));
        }
        if let Some(last) = output.append.last() {
            let mail = Mail::Consensus(ConsensusInput::Durable(last.id));
            match mutant!("count-before-sync") {
                true => cx.tell(mail),
                false => then.push(mail),
            }
        }
        if !output.append.is_empty() || output.hard_state.is_some() || !then.is_empty() {
            cx.tell(Mail::Journal(JournalInput::Append(Append {
                entries: output.append,
                hard_state: output.hard_state,
                then,
            })));
        }
        if !output.apply.is_empty() {
            cx.tell(Mail::Applier(ApplierInput::Apply(output.apply)));
        }
        for state in output.read_states {
            let (id, index) = (state.id, state.index);
            cx.tell(Mail::Frontend(FrontendInput::ReadState { id, index }));
        }
        for peer in output.snapshot_wanted {
            let term = self.raft.term();
            cx.tell(Mail::Snapshots(SnapshotsInput::Wanted { peer, term }));
        }
        true
    }

    /// A removal is in force where it is applied, and whoever loses its power then may not know of
    /// it any more. So the leader, who knows, adds an entry: it is written together with a commit
    /// index behind the removal, everywhere. Once a majority of those who stay has it, they never
    /// need the removed member again; before, nobody says that the removal is done.
    fn propose_settled(&mut self) {
        let Some(removal) = self.unsettled else {
            return;
        };
        let wanted = Some((self.raft.term(), removal));
        if self.raft.role() != Role::Leader || self.settling == wanted {
            return;
        }
        let index = removal.get();
        let body = Body::MembersSettled(MembersSettled { index });
        let data = encode_command(RequestId::ZERO, self.raft.id(), body);
        if self.raft.propose(data).is_ok() {
            self.settling = wanted;
        }
    }

    /// Once everything before it is applied, so that it is the last word.
    fn propose_alone(&mut self) {
        let leads = self.raft.role() == Role::Leader && !self.raft.is_changing();
        if let Some(data) = self.alone.take_if(|_| leads)
            && self.raft.propose_conf_change(data.clone()).is_err()
        {
            self.alone = Some(data);
        }
    }

    fn on_role(&mut self, role: RoleChange, cx: &mut Context<'_, Mail>) {
        let before = self.shown.replace(role);
        if before.map(|before| before.leader) != Some(role.leader) {
            log_leader(before.and_then(|before| before.leader), &role, cx);
        }
        if let Some(moving) = self.moving.take() {
            if role.leader == Some(moving.to) {
                cx.tell(Mail::Frontend(moved(moving.call)));
            } else {
                self.moving = Some(moving);
            }
        }
        cx.tell(Mail::Frontend(FrontendInput::Role(role)));
        cx.tell(Mail::Leases(LeasesInput::Role(role)));
        cx.tell(Mail::Upkeep(UpkeepInput::Role(role)));
        cx.tell(Mail::Watches(WatchesInput::Role(role)));
        cx.tell(Mail::Snapshots(SnapshotsInput::Role(role)));
    }

    /// Asserts every invariant.
    pub fn check(&self) {
        self.raft.check();
    }

    /// The last entry of the log.
    pub fn last(&self) -> EntryId {
        self.raft.last()
    }
}

fn moved(call: CallId) -> FrontendInput {
    let response = MoveLeaderResponse { header: None };
    FrontendInput::Answer {
        call,
        result: Ok(Response::MoveLeader(response)),
    }
}

fn log_index(message: &str, name: &'static str, index: LogIndex, cx: &mut Context<'_, Mail>) {
    cx.emit(Effect::Log(LogLine {
        level: LogLevel::Info,
        caller: "node/consensus.rs",
        message: message.to_owned(),
        fields: vec![(name, index.to_string())],
    }));
}

fn log_leader(before: Option<MemberId>, role: &RoleChange, cx: &mut Context<'_, Mail>) {
    let message = match (before, role.leader) {
        (_, Some(_)) if role.role == Role::Leader => "became leader",
        (None, Some(_)) => "elected leader",
        (Some(_), Some(_)) => "changed leader",
        (Some(_), None) => "lost leader",
        // A member that never had a leader has lost none.
        (None, None) => return,
    };
    let name = |id: Option<MemberId>| id.map_or(String::new(), |id| format!("{:x}", id.get()));
    cx.emit(Effect::Log(LogLine {
        level: LogLevel::Info,
        caller: "node/consensus.rs",
        message: message.to_owned(),
        fields: vec![
            ("term", role.term.get().to_string()),
            ("leader-member-id", name(role.leader)),
            ("previous-leader-member-id", name(before)),
        ],
    }));
}
