//! Pure consensus: Raft with PreVote, CheckQuorum, pipelined replication, joint consensus,
//! learners, leadership transfer and safe batched reads. No clock, no disk, no network: the owner
//! calls in, and `take_output` says what is to be done.
//!
//! Invariants, asserted by `check`:
//! - `applied <= applying <= min(committed, durable)`, and nothing committed is ever cut from the
//!   log.
//! - A promise (vote, append reply) leaves only behind the write that makes it true:
//!   `Output::after_append`.
//! - A leader counts itself only for what `on_durable` reported, and commits by counting only
//!   entries of its own term. It may commit by the replies of others before its own disk is done.
//! - A configuration is in force from the moment its entry is applied, on every member alike; a
//!   leader admits no second change before the first is applied, so successive quorums intersect.
//! - Sends are batched: what one step appends, commits and reads leaves in one message per peer.

mod confchange;
mod config;
mod election;
pub mod entry;
mod follower;
mod forward;
mod inflights;
mod log;
mod message;
mod output;
mod progress;
mod proposal;
pub mod quorum;
mod read_index;
mod replication;

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{
    kernel::{Entropy, EntryId, LogIndex, MemberId, Term},
    mutant,
};

pub use confchange::{ChangeKind, ConfChange, ConfChangeError, LEAVE_JOINT, Transition};
pub use config::{Config, Recovered};
pub use entry::{ConfState, Entry, EntryKind, HardState, SnapshotMeta};
pub use message::{Body, Message};
pub use output::{Output, ProposeError, ReadState, Role, RoleChange};
pub use progress::{ProgressState, ProgressView};

use forward::Forwards;
use inflights::Inflights;
use log::Log;
use progress::Progress;
use read_index::Reads;

/// One member's consensus core.
#[derive(Clone, Debug)]
pub struct Raft {
    config: Config,
    entropy: Entropy,
    /// Drawn at boot; tells answers to this boot's requests from those to an earlier one's.
    boot: u64,

    term: Term,
    vote: Option<MemberId>,
    role: Role,
    leader: Option<MemberId>,
    log: Log,
    conf: ConfState,
    /// Whether `conf` is this member alone against what the log says so far.
    alone: bool,

    election_elapsed: u32,
    heartbeat_elapsed: u32,
    election_timeout: u32,
    /// Answers to the running (pre-)campaign, the own one included.
    votes: BTreeMap<MemberId, bool>,
    /// Whether the own term is known durable. A sole voter wins before its disk is done; until then
    /// its messages wait like promises.
    term_durable: bool,

    /// Only on a leader: every member of the configuration, itself included.
    progress: BTreeMap<MemberId, Progress>,
    transferee: Option<MemberId>,
    /// A further change of the configuration must wait until this entry is applied.
    pending_conf: LogIndex,
    /// Data bytes of own-term entries above the commit index.
    uncommitted_bytes: usize,
    reads: Reads,
    forwards: Forwards,
    /// A leader has something to tell some peer.
    sends_due: bool,

    /// Proposals for the leader, not yet sent.
    outbound: Vec<(EntryKind, Bytes)>,
    outbound_bytes: usize,
    outbound_sequence: u64,

    emitted: HardState,
    told: RoleChange,
    output: Output,
}

impl Raft {
    /// A member that comes up with what its disk holds. `entropy` must differ between boots.
    pub fn new(config: Config, recovered: Recovered, mut entropy: Entropy) -> Self {
        config.check();
        recovered.conf_state.check();
        let mut log = Log::new(recovered.first, recovered.entries, recovered.applied);
        log.commit_to(recovered.hard_state.commit);
        // Entries may survive a crash whose hard state did not: then nothing of that term was
        // promised yet.
        let mut hard_state = recovered.hard_state;
        if log.last().term > hard_state.term {
            hard_state.term = log.last().term;
            hard_state.vote = None;
        }
        let boot = entropy.next_u64();
        let mut raft = Self {
            config,
            entropy,
            boot,
            term: hard_state.term,
            vote: hard_state.vote,
            role: Role::Follower,
            leader: None,
            log,
            conf: recovered.conf_state,
            alone: false,
            election_elapsed: 0,
            heartbeat_elapsed: 0,
            election_timeout: 0,
            votes: BTreeMap::new(),
            term_durable: false,
            progress: BTreeMap::new(),
            transferee: None,
            pending_conf: LogIndex::ZERO,
            uncommitted_bytes: 0,
            reads: Reads::default(),
            forwards: Forwards::default(),
            sends_due: false,
            outbound: Vec::new(),
            outbound_bytes: 0,
            outbound_sequence: 0,
            emitted: recovered.hard_state,
            told: RoleChange {
                role: Role::Follower,
                term: hard_state.term,
                leader: None,
            },
            output: Output::default(),
        };
        raft.draw_election_timeout();
        raft.check();
        raft
    }

    /// One tick of the owner's clock.
    pub fn tick(&mut self) {
        match self.role {
            Role::Leader => self.tick_leader(),
            Role::Follower | Role::PreCandidate | Role::Candidate => self.tick_election(),
        }
    }

    /// A message from the network: whatever it says, it never panics and never breaks a promise.
    pub fn step(&mut self, message: Message) {
        if !self.is_well_formed(&message) {
            return;
        }
        if message.term > self.term {
            if !self.meet_later_term(&message) {
                return;
            }
        } else if message.term < self.term {
            self.answer_earlier_term(&message);
            return;
        }
        let Message {
            from, term, body, ..
        } = message;
        match body {
            Body::PreVote { last } => self.on_pre_vote(from, term, last),
            Body::Vote { last, .. } => self.on_vote(from, last),
            Body::PreVoteReply { granted, commit } => {
                self.learn_commit(commit);
                self.on_pre_vote_reply(from, term, granted);
            }
            Body::VoteReply { granted, commit } => {
                self.learn_commit(commit);
                self.on_vote_reply(from, granted);
            }
            Body::Append {
                prev,
                entries,
                commit,
            } => self.on_append(from, prev, entries, commit),
            Body::Heartbeat { commit, round } => self.on_heartbeat(from, commit, round),
            Body::AppendReply { matched } => self.on_append_reply(from, matched),
            Body::AppendReject { rejected, hint } => self.on_append_reject(from, rejected, hint),
            Body::HeartbeatReply { round } => self.on_heartbeat_reply(from, round),
            Body::Propose {
                boot,
                sequence,
                entries,
            } => self.on_propose(from, boot, sequence, entries),
            Body::ReadIndex { boot, id } => self.on_read_index(from, boot, id),
            Body::ReadIndexReply { boot, id, index } => self.on_read_index_reply(boot, id, index),
            Body::TransferLeader { to } => self.on_transfer_leader(to),
            Body::TimeoutNow => self.on_timeout_now(from),
        }
    }

    /// The log, and every hard state handed out with it or before, is durable up to this entry.
    pub fn on_durable(&mut self, id: EntryId) {
        if !self.log.on_durable(id) || self.role != Role::Leader {
            return;
        }
        if id.term == self.term {
            self.term_durable = true;
        }
        let durable = self.log.durable();
        if let Some(own) = self.progress.get_mut(&self.config.id) {
            own.advance(durable);
        }
        self.maybe_commit();
    }

    /// The state machine has come this far. Configuration changes up to here went through
    /// `apply_conf_change` before.
    pub fn on_applied(&mut self, index: LogIndex) {
        self.log.on_applied(index);
        self.maybe_leave_joint();
    }

    /// Forgets entries up to `upto`, which must be applied.
    pub fn compact(&mut self, upto: LogIndex) {
        self.log.compact(upto);
    }

    /// Whether `take_output` would return anything.
    pub fn has_output(&self) -> bool {
        let leading = self.role == Role::Leader;
        (leading && (self.sends_due || self.reads_ready()))
            || !self.outbound.is_empty()
            || self.log.taken() < self.log.last().index
            || self.log.has_apply()
            || self.hard_state_changed()
            || self.role_now() != self.told
            || !self.output.is_empty()
    }

    /// Everything that became due. Call it after each round of inputs.
    pub fn take_output(&mut self) -> Output {
        self.flush_forwards();
        if self.role == Role::Leader {
            self.flush_appends();
            self.flush_reads();
        }
        self.output.append = self.log.take_writes();
        let commit_rides = !self.output.append.is_empty() || self.output.install.is_some();
        let commit_moved = self.log.committed() != self.emitted.commit;
        if self.hard_state_changed() || (commit_rides && commit_moved) {
            self.emitted = self.hard_state();
            if commit_rides || !mutant!("hard-state-unwritten") {
                self.output.hard_state = Some(self.emitted);
            }
        }
        self.output.apply = self.log.take_apply(self.config.apply_bytes_max);
        let now = self.role_now();
        if now != self.told {
            self.told = now;
            self.output.role = Some(now);
        }
        std::mem::take(&mut self.output)
    }

    /// This member.
    pub fn id(&self) -> MemberId {
        self.config.id
    }

    /// The current term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whom it voted for in the current term.
    pub fn vote(&self) -> Option<MemberId> {
        self.vote
    }

    /// Its role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The leader of the term, if known.
    pub fn leader(&self) -> Option<MemberId> {
        self.leader
    }

    /// Highest index known committed.
    pub fn committed(&self) -> LogIndex {
        self.log.committed()
    }

    /// Highest index applied.
    pub fn applied(&self) -> LogIndex {
        self.log.applied()
    }

    /// The last entry of the log, durable or not.
    pub fn last(&self) -> EntryId {
        self.log.last()
    }

    /// The entry just before the first retained one.
    pub fn first(&self) -> EntryId {
        self.log.first()
    }

    /// The last entry that is durable here.
    pub fn durable(&self) -> EntryId {
        let id = self.log.id_at(self.log.durable());
        id.expect("durable lies between first and last")
    }

    /// The term of an entry, unless it is compacted or not there yet.
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        self.log.term_at(index)
    }

    /// Retained entries in `from..=to`, about `bytes_max` of them but at least one if there is one.
    /// `from` must lie after `first()`.
    pub fn entries(&self, from: LogIndex, to: LogIndex, bytes_max: usize) -> Vec<Entry> {
        self.log.slice(from, to, bytes_max)
    }

    /// Whether the configuration in force gives it the log and no vote.
    pub fn is_learner(&self) -> bool {
        self.conf.is_learner(self.config.id)
    }

    /// The configuration in force.
    pub fn conf_state(&self) -> &ConfState {
        &self.conf
    }

    /// To whom leadership is being handed.
    pub fn transferee(&self) -> Option<MemberId> {
        self.transferee
    }

    /// On a leader, what it knows of each member, itself included; elsewhere nothing.
    pub fn progress(&self) -> impl Iterator<Item = (MemberId, ProgressView)> + '_ {
        self.progress
            .iter()
            .map(|(&id, progress)| (id, progress.view(self.conf.is_learner(id))))
    }

    /// Term, vote and commit as a restart would need them.
    pub fn hard_state(&self) -> HardState {
        HardState {
            term: self.term,
            vote: self.vote,
            commit: self.log.committed(),
        }
    }

    /// Asserts every invariant that shows from the inside.
    pub fn check(&self) {
        self.log.check();
        self.conf.check();
        self.reads.check();
        assert!(
            self.log.last().term <= self.term,
            "the log is ahead of the term"
        );
        assert!(self.emitted.term <= self.term, "the term went back");
        assert!(
            (self.role == Role::Leader) == (self.leader == Some(self.config.id)),
            "a leader, and only a leader, follows itself"
        );
        assert!(self.transferee.is_none() || self.role == Role::Leader);
        match self.role {
            Role::Leader => self.check_leader(),
            Role::Candidate => assert!(self.vote == Some(self.config.id) && self.leader.is_none()),
            Role::PreCandidate => assert!(self.leader.is_none()),
            Role::Follower => {}
        }
        assert!(self.role == Role::Leader || self.progress.is_empty());
    }

    fn check_leader(&self) {
        assert!(
            self.conf.is_voter(self.config.id),
            "a leader must be a voter"
        );
        assert!(
            self.log.last().term == self.term,
            "a leader begins with an entry"
        );
        assert!(
            self.progress.keys().eq(&self.conf.members()),
            "progress and configuration name different members"
        );
        for (&id, progress) in &self.progress {
            progress.check();
            assert!(progress.matched <= self.log.last().index);
            assert!(id != self.config.id || progress.matched == self.log.durable());
        }
    }

    fn committed_id(&self) -> EntryId {
        let id = self.log.id_at(self.log.committed());
        id.expect("the commit index lies between first and last")
    }

    fn hard_state_changed(&self) -> bool {
        (self.term, self.vote) != (self.emitted.term, self.emitted.vote)
    }

    fn role_now(&self) -> RoleChange {
        RoleChange {
            role: self.role,
            term: self.term,
            leader: self.leader,
        }
    }

    fn new_inflights(&self) -> Inflights {
        Inflights::new(
            self.config.inflight_appends_max,
            self.config.inflight_bytes_max,
        )
    }

    fn send(&mut self, to: MemberId, body: Body) {
        self.send_in_term(to, self.term, body);
    }

    fn send_in_term(&mut self, to: MemberId, term: Term, body: Body) {
        assert!(to != self.config.id, "a member does not write to itself");
        let promise = match body {
            Body::Vote { .. } | Body::VoteReply { .. } => !mutant!("vote-before-sync"),
            Body::PreVoteReply { .. } | Body::AppendReply { .. } | Body::AppendReject { .. } => {
                true
            }
            Body::PreVote { .. }
            | Body::Append { .. }
            | Body::Heartbeat { .. }
            | Body::HeartbeatReply { .. }
            | Body::Propose { .. }
            | Body::ReadIndex { .. }
            | Body::ReadIndexReply { .. }
            | Body::TransferLeader { .. }
            | Body::TimeoutNow => self.role == Role::Leader && !self.term_durable,
        };
        let message = Message {
            from: self.config.id,
            to,
            term,
            body,
        };
        if promise {
            self.output.after_append.push(message);
        } else {
            self.output.messages.push(message);
        }
    }
}
