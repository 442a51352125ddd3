//! Who leads: timers, campaigns, votes, and how terms of others are met.
//!
//! Invariants: a member votes once per term, and only for a log at least as good as its own; a
//! pre-vote changes nothing at either side; with CheckQuorum, a member that hears a leader refuses
//! votes (unless that leader asked for them), and a leader that hears no quorum steps down.

use crate::{
    kernel::{EntryId, LogIndex, MemberId, Term},
    mutant,
};

use super::{
    Body, Entry, EntryKind, Message, Raft, Role,
    progress::Progress,
    quorum::{self, VoteResult},
};

/// Larger terms and indexes never occur; a message that has one is not from a member.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// Whether the entries follow `prev` without gaps and without falling terms.
fn is_run(prev: EntryId, entries: &[Entry]) -> bool {
    let mut before = prev;
    entries.iter().all(|entry| {
        let gap = before.index.get().checked_add(1) != Some(entry.id.index.get());
        let falls = entry.id.term < before.term || entry.id.term.is_zero();
        before = entry.id;
        !gap && !falls
    })
}

/// Why an election begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Campaign {
    /// Nobody leads, as far as this member can tell.
    Timeout,
    /// The leader asked for it: a pre-vote would only be refused because that leader is alive.
    Transfer,
}

impl Raft {
    /// Starts an election now, if this member may.
    pub fn campaign(&mut self) {
        self.start_campaign(Campaign::Timeout);
    }

    /// Forgets who leads, so that this member may support another candidate. Term and timer stay.
    pub fn forget_leader(&mut self) {
        if self.role == Role::Follower {
            self.leader = None;
        }
    }

    /// For tests: when the election timer will fire next.
    pub fn set_randomized_election_timeout(&mut self, ticks: u32) {
        assert!(ticks > 0, "a timer needs an interval");
        self.election_timeout = ticks;
    }

    pub(super) fn draw_election_timeout(&mut self) {
        let base = self.config.election_ticks;
        let extra = self.entropy.below(u64::from(base));
        self.election_timeout = base + u32::try_from(extra).expect("less than the base");
    }

    pub(super) fn tick_election(&mut self) {
        self.election_elapsed = self.election_elapsed.saturating_add(1);
        if self.may_campaign() && self.election_elapsed >= self.election_timeout {
            self.election_elapsed = 0;
            self.start_campaign(Campaign::Timeout);
        }
    }

    pub(super) fn tick_leader(&mut self) {
        self.heartbeat_elapsed += 1;
        self.election_elapsed += 1;
        if self.election_elapsed >= self.config.election_ticks {
            self.election_elapsed = 0;
            let alone = self.config.check_quorum && !self.hears_quorum();
            if alone && !mutant!("leader-never-steps-down") {
                self.become_follower(self.term, None);
                return;
            }
            if !mutant!("transfer-never-given-up") {
                self.abort_transfer();
            }
        }
        if self.heartbeat_elapsed >= self.config.heartbeat_ticks {
            self.heartbeat_elapsed = 0;
            self.send_timer_heartbeats();
        }
    }

    /// Whether the message can come from a member at all. Members the configuration does not name
    /// may be legitimate (the own configuration may lag), so only nonsense is refused here.
    pub(super) fn is_well_formed(&self, message: &Message) -> bool {
        let addressed = message.to == self.config.id && message.from != self.config.id;
        let sane = |id: EntryId| id.index.get() < NUMBER_MAX && id.term <= message.term;
        let body_sane = match &message.body {
            Body::PreVote { last } | Body::Vote { last, .. } => sane(*last),
            Body::Append { prev, entries, .. } => {
                let rooted = prev.index.is_zero() == prev.term.is_zero();
                sane(*prev)
                    && rooted
                    && is_run(*prev, entries)
                    && entries.iter().all(|e| sane(e.id))
            }
            Body::AppendReply { matched } => sane(*matched),
            Body::PreVoteReply { commit, .. } | Body::VoteReply { commit, .. } => sane(*commit),
            Body::AppendReject { rejected, hint } => {
                rejected.get() < NUMBER_MAX && hint.index.get() < NUMBER_MAX
            }
            Body::Heartbeat { .. }
            | Body::HeartbeatReply { .. }
            | Body::Propose { .. }
            | Body::ReadIndex { .. }
            | Body::ReadIndexReply { .. }
            | Body::TransferLeader { .. }
            | Body::TimeoutNow => true,
        };
        let term_sane = !message.term.is_zero() && message.term.get() < NUMBER_MAX;
        addressed && !message.from.is_zero() && term_sane && body_sane
    }

    /// A message of a later term: usually this member moves there. Returns whether to go on with
    /// it.
    pub(super) fn meet_later_term(&mut self, message: &Message) -> bool {
        match message.body {
            Body::PreVote { .. } => !self.hears_leader(),
            Body::Vote { transfer, .. } => {
                if self.hears_leader() && !transfer {
                    return false;
                }
                self.become_follower(message.term, None);
                true
            }
            // It names the term that would begin, not one that has begun.
            Body::PreVoteReply { granted: true, .. } => true,
            Body::Append { .. } | Body::Heartbeat { .. } => {
                self.become_follower(message.term, Some(message.from));
                true
            }
            Body::PreVoteReply { granted: false, .. }
            | Body::VoteReply { .. }
            | Body::AppendReply { .. }
            | Body::AppendReject { .. }
            | Body::HeartbeatReply { .. }
            | Body::Propose { .. }
            | Body::ReadIndex { .. }
            | Body::ReadIndexReply { .. }
            | Body::TransferLeader { .. }
            | Body::TimeoutNow => {
                self.become_follower(message.term, None);
                true
            }
        }
    }

    /// A message of an earlier term. Most are ignored; a leader or pre-candidate that does not know
    /// of the current term is told, else it might never catch up while this member refuses to
    /// disturb others.
    pub(super) fn answer_earlier_term(&mut self, message: &Message) {
        match message.body {
            Body::Append { .. } | Body::Heartbeat { .. } => {
                if self.config.check_quorum || self.config.pre_vote {
                    let matched = EntryId::ZERO;
                    self.send(message.from, Body::AppendReply { matched });
                }
            }
            Body::PreVote { .. } => {
                let (granted, commit) = (false, self.committed_id());
                self.send(message.from, Body::PreVoteReply { granted, commit });
            }
            Body::PreVoteReply { .. }
            | Body::Vote { .. }
            | Body::VoteReply { .. }
            | Body::AppendReply { .. }
            | Body::AppendReject { .. }
            | Body::HeartbeatReply { .. }
            | Body::Propose { .. }
            | Body::ReadIndex { .. }
            | Body::ReadIndexReply { .. }
            | Body::TransferLeader { .. }
            | Body::TimeoutNow => {}
        }
    }

    pub(super) fn on_pre_vote(&mut self, from: MemberId, term: Term, last: EntryId) {
        let free = term > self.term || self.may_vote_for(from);
        let granted = free && self.may_lead_from(last);
        let reply_term = if granted { term } else { self.term };
        let commit = self.committed_id();
        self.send_in_term(from, reply_term, Body::PreVoteReply { granted, commit });
    }

    pub(super) fn on_vote(&mut self, from: MemberId, last: EntryId) {
        let granted = self.may_vote_for(from) && self.may_lead_from(last);
        if granted {
            self.election_elapsed = 0;
            self.vote = Some(from);
        }
        let commit = self.committed_id();
        self.send(from, Body::VoteReply { granted, commit });
    }

    /// A voter tells what it knows committed. Whoever has that very entry has everything before it.
    /// If a change of the configuration is among it, the campaign counted the wrong quorum and
    /// ends.
    pub(super) fn learn_commit(&mut self, commit: EntryId) {
        if self.role == Role::Leader || !self.log.contains(commit) {
            return;
        }
        let moved = self.log.commit_to(commit.index);
        if moved && self.role != Role::Follower && self.has_unapplied_conf_change() {
            self.become_follower(self.term, None);
        }
    }

    pub(super) fn on_pre_vote_reply(&mut self, from: MemberId, term: Term, granted: bool) {
        let of_this = !granted || term == self.term.next();
        let late = self.role == Role::Candidate && term == self.term;
        let counts_late = late && mutant!("pre-vote-counts-as-vote");
        if (self.role == Role::PreCandidate && of_this) || counts_late {
            self.votes.entry(from).or_insert(granted);
            self.decide_campaign();
        }
    }

    pub(super) fn on_vote_reply(&mut self, from: MemberId, granted: bool) {
        if self.role == Role::Candidate {
            // Requests leave only behind the write of term and vote.
            self.term_durable = true;
            self.votes.entry(from).or_insert(granted);
            self.decide_campaign();
        }
    }

    pub(super) fn on_timeout_now(&mut self, from: MemberId) {
        let from_leader = self.leader.is_none_or(|leader| leader == from);
        if self.role == Role::Follower && from_leader {
            self.start_campaign(Campaign::Transfer);
        }
    }

    pub(super) fn become_follower(&mut self, term: Term, leader: Option<MemberId>) {
        assert!(term >= self.term, "terms never go back");
        assert!(leader != Some(self.config.id), "a follower follows another");
        self.enter_term(term);
        self.role = Role::Follower;
        self.leader = leader;
    }

    fn start_campaign(&mut self, reason: Campaign) {
        if self.role == Role::Leader || !self.may_campaign() || self.has_unapplied_conf_change() {
            return;
        }
        match reason {
            Campaign::Timeout if self.config.pre_vote => self.ask_for_pre_votes(),
            Campaign::Timeout | Campaign::Transfer => self.ask_for_votes(reason),
        }
    }

    fn ask_for_pre_votes(&mut self) {
        self.role = Role::PreCandidate;
        self.leader = None;
        self.votes.clear();
        self.votes.insert(self.config.id, true);
        self.draw_election_timeout();
        let last = self.log.last();
        for id in self.other_voters() {
            self.send_in_term(id, self.term.next(), Body::PreVote { last });
        }
        self.decide_campaign();
    }

    fn ask_for_votes(&mut self, reason: Campaign) {
        self.enter_term(self.term.next());
        self.role = Role::Candidate;
        self.vote = Some(self.config.id);
        self.votes.insert(self.config.id, true);
        let last = self.log.last();
        let transfer = reason == Campaign::Transfer;
        for id in self.other_voters() {
            self.send(id, Body::Vote { last, transfer });
        }
        self.decide_campaign();
    }

    fn decide_campaign(&mut self) {
        let result = quorum::vote(&self.conf, |id| self.votes.get(&id).copied());
        match (self.role, result) {
            (_, VoteResult::Pending) => {}
            (Role::PreCandidate, VoteResult::Won) => self.ask_for_votes(Campaign::Timeout),
            (Role::Candidate, VoteResult::Won) => self.become_leader(),
            (Role::PreCandidate | Role::Candidate, VoteResult::Lost) => {
                self.become_follower(self.term, None);
            }
            (Role::Follower | Role::Leader, VoteResult::Won | VoteResult::Lost) => {
                unreachable!("only candidates count votes")
            }
        }
    }

    fn become_leader(&mut self) {
        assert!(self.role == Role::Candidate, "leaders were candidates");
        assert!(
            self.vote == Some(self.config.id),
            "a candidate votes for itself"
        );
        let term_durable = self.term_durable;
        self.enter_term(self.term);
        self.term_durable = term_durable;
        self.role = Role::Leader;
        self.leader = Some(self.config.id);
        let last = self.log.last().index;
        for id in self.conf.members() {
            let progress = Progress::new(last.next(), self.new_inflights());
            self.progress.insert(id, progress);
        }
        let durable = self.log.durable();
        let own = self.progress.get_mut(&self.config.id);
        own.expect("a leader is a voter")
            .become_leader_itself(durable);
        // Changes of earlier terms may be in the log and not applied: no further one until we are
        // past them.
        self.pending_conf = last;
        self.append_entry(EntryKind::Normal, bytes::Bytes::new());
    }

    /// Everything that belongs to a term or a role begins anew.
    fn enter_term(&mut self, term: Term) {
        if term != self.term {
            self.term = term;
            self.vote = None;
            self.term_durable = false;
        }
        self.leader = None;
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        self.draw_election_timeout();
        self.votes.clear();
        self.progress.clear();
        self.transferee = None;
        self.pending_conf = LogIndex::ZERO;
        self.uncommitted_bytes = 0;
        self.reads.clear();
        self.forwards.clear();
        self.sends_due = false;
    }

    fn may_campaign(&self) -> bool {
        self.conf.is_voter(self.config.id)
    }

    fn may_vote_for(&self, id: MemberId) -> bool {
        let free = self.vote.is_none() || mutant!("two-votes-in-a-term");
        self.vote == Some(id) || (free && self.leader.is_none())
    }

    /// Whether a log that ends there misses nothing that may be committed.
    fn may_lead_from(&self, last: EntryId) -> bool {
        last >= self.log.last() || mutant!("votes-ignore-the-log")
    }

    /// Whether a leader was heard within the shortest election timeout, so that others need not
    /// campaign.
    fn hears_leader(&self) -> bool {
        self.config.check_quorum
            && self.leader.is_some()
            && self.election_elapsed < self.config.election_ticks
    }

    /// Whether a quorum said anything since the last time this was asked.
    fn hears_quorum(&mut self) -> bool {
        let own = self.config.id;
        let active = |id| {
            let heard = self
                .progress
                .get(&id)
                .is_some_and(|peer| peer.recent_active);
            Some(id == own || heard)
        };
        let result = quorum::vote(&self.conf, active);
        for (&id, progress) in &mut self.progress {
            progress.recent_active = id == own;
        }
        result == VoteResult::Won
    }

    /// A member that has yet to apply a change may count the wrong quorum.
    fn has_unapplied_conf_change(&self) -> bool {
        let (mut index, committed) = (self.log.applied().next(), self.log.committed());
        while index <= committed {
            let entry = self
                .log
                .entry(index)
                .expect("unapplied entries are retained");
            if entry.kind == EntryKind::ConfChange {
                return true;
            }
            index = index.next();
        }
        false
    }

    fn other_voters(&self) -> Vec<MemberId> {
        let own = self.config.id;
        let members = self.conf.members().into_iter();
        members
            .filter(|&id| id != own && self.conf.is_voter(id))
            .collect()
    }
}
