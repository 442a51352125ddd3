//! The sending side: appends, heartbeats, commit, read rounds.
//!
//! Appends are not sent when something happens but when the output is taken (`flush_appends`), so
//! one message carries all that a step brought. Invariants: a leader commits only entries of its
//! own term by counting; a read is answered only from a commit index of the own term and after a
//! round that began later than the read.

use crate::{
    kernel::{EntryId, LogIndex, MemberId},
    mutant,
};

use super::{
    Body, ProgressState, Raft, ReadState, Role,
    log::entry_bytes,
    progress::Progress,
    quorum,
    read_index::{Read, Round},
};

impl Raft {
    /// Nothing gets through to the peer: what was sent on trust is probably lost.
    pub fn report_unreachable(&mut self, peer: MemberId) {
        if let Some(progress) = self.peer_mut(peer)
            && progress.state == ProgressState::Replicate
        {
            progress.become_probe();
            self.sends_due = true;
        }
    }

    /// An image up to `index` reached the peer and was staged there, or failed to. Must follow
    /// every `snapshot_wanted`, else the peer gets nothing more.
    pub fn report_snapshot(&mut self, peer: MemberId, index: LogIndex, ok: bool) {
        let last = self.log.last().index;
        if let Some(progress) = self.peer_mut(peer)
            && progress.state == ProgressState::Snapshot
        {
            progress.snapshot_done((ok && index <= last).then_some(index));
        }
    }

    pub(super) fn on_append_reply(&mut self, from: MemberId, matched: EntryId) {
        let last = self.log.last().index;
        let term = self.log.term_at(matched.index);
        let first = self.log.first().index;
        let Some(progress) = self.peer_mut(from) else {
            return;
        };
        progress.recent_active = true;
        // The log below `first` is committed and equal everywhere; above it the terms must agree.
        let ours = matched.index < first || term == Some(matched.term);
        if matched.index > last || !ours {
            return;
        }
        let arrived = match mutant!("reply-counts-all-sent") {
            true => matched.index.max(progress.next.prev()),
            false => matched.index,
        };
        let probed = progress.state == ProgressState::Probe && progress.matched == matched.index;
        if !progress.advance(arrived) && !probed {
            return;
        }
        match progress.state {
            ProgressState::Probe => progress.become_replicate(),
            ProgressState::Replicate => progress.free_inflights(matched.index),
            // Whether by the image or otherwise: the log can go on from there.
            ProgressState::Snapshot if matched.index >= first => progress.become_replicate(),
            ProgressState::Snapshot => {}
        }
        self.sends_due = true;
        if arrived > self.log.committed() {
            self.maybe_commit();
        }
        self.finish_transfer(from);
    }

    pub(super) fn on_append_reject(&mut self, from: MemberId, rejected: LogIndex, hint: EntryId) {
        // Below the hint, only entries of a term not above its own can be equal in both logs.
        let agreed = self.log.agreement_hint(hint.index, hint.term);
        let Some(progress) = self.peer_mut(from) else {
            return;
        };
        progress.recent_active = true;
        if !progress.retreat(rejected, agreed.index.min(hint.index)) {
            return;
        }
        match progress.state {
            ProgressState::Replicate => progress.become_probe(),
            ProgressState::Probe | ProgressState::Snapshot => {}
        }
        if rejected.is_zero() {
            // It refuses the beginning of the log: it joins and knows no configuration.
            progress.become_snapshot();
            self.output.snapshot_wanted.push(from);
        }
        self.sends_due = true;
    }

    pub(super) fn on_heartbeat_reply(&mut self, from: MemberId, round: u64) {
        let last = self.log.last().index;
        let newest = self.reads.round();
        let Some(progress) = self.peer_mut(from) else {
            return;
        };
        progress.recent_active = true;
        let asks = progress.on_heartbeat_reply(last);
        // A round that was never begun is nonsense.
        if round <= newest && round > progress.read_round {
            progress.read_round = round;
            self.confirm_reads();
        }
        self.sends_due |= asks;
    }

    pub(super) fn send_timer_heartbeats(&mut self) {
        for progress in self.progress.values_mut() {
            progress.heartbeat_sent();
        }
        self.send_heartbeats();
    }

    /// Advances the commit index as far as a quorum is durable. Entries of earlier terms are never
    /// committed by counting (thesis 3.6.2), only along with one of the own term.
    pub(super) fn maybe_commit(&mut self) {
        assert!(self.role == Role::Leader, "only leaders count");
        let matched = |id| {
            let progress = self.progress.get(&id);
            progress.map_or(0, |progress| progress.matched.get())
        };
        let index = LogIndex::new(quorum::reached(&self.conf, matched));
        let before = self.log.committed();
        let is_own = self.log.term_at(index) == Some(self.term);
        if index <= before || !(is_own || mutant!("older-term-commit")) {
            return;
        }
        assert!(index <= self.log.last().index, "committed beyond the log");
        self.log.commit_to(index);
        self.release_uncommitted(before);
        self.sends_due = true;
    }

    pub(super) fn flush_appends(&mut self) {
        if !std::mem::take(&mut self.sends_due) {
            return;
        }
        // Taken out so that each entry can be borrowed beside the log and the output.
        let mut peers = std::mem::take(&mut self.progress);
        for (&id, progress) in &mut peers {
            if id != self.config.id {
                self.send_appends(id, progress);
            }
        }
        self.progress = peers;
    }

    /// Whether reads wait and may be confirmed: not before the leader knows what is committed,
    /// which it does once an entry of its own term is (thesis 6.4).
    pub(super) fn reads_ready(&self) -> bool {
        let committed_term = self.log.term_at(self.log.committed());
        let knows = committed_term == Some(self.term) || mutant!("read-before-own-commit");
        self.reads.is_ready() && knows
    }

    pub(super) fn flush_reads(&mut self) {
        if !self.reads_ready() {
            return;
        }
        let index = self.log.committed();
        if mutant!("read-joins-running-round") && self.reads.join_running(index) {
            return;
        }
        let round = self.reads.begin(index);
        if let Some(own) = self.progress.get_mut(&self.config.id) {
            own.read_round = round;
        }
        self.send_heartbeats();
        self.confirm_reads();
    }

    /// Answers the reads of every round that a quorum has confirmed.
    pub(super) fn confirm_reads(&mut self) {
        let (own, newest) = (self.config.id, self.reads.round());
        let confirmed = quorum::reached(&self.conf, |id| {
            let peer = self.progress.get(&id);
            let answered = peer.map_or(0, |progress| progress.read_round);
            let trusted = id == own || mutant!("read-without-quorum");
            if trusted { newest } else { answered }
        });
        while let Some(round) = self.reads.take_confirmed(confirmed) {
            self.answer_reads(round);
        }
    }

    fn answer_reads(&mut self, round: Round) {
        let index = round.index;
        assert!(index <= self.log.committed(), "a read of the future");
        for Read { from, boot, id } in round.reads {
            if from == self.config.id {
                self.output.read_states.push(ReadState { id, index });
            } else {
                self.send(from, Body::ReadIndexReply { boot, id, index });
            }
        }
    }

    fn send_heartbeats(&mut self) {
        let peers = std::mem::take(&mut self.progress);
        let round = self.reads.round();
        for (&id, progress) in &peers {
            if id != self.config.id {
                let commit = match mutant!("heartbeat-commit-unbounded") {
                    true => self.log.committed(),
                    false => progress.matched.min(self.log.committed()),
                };
                self.send(id, Body::Heartbeat { commit, round });
            }
        }
        self.progress = peers;
    }

    fn send_appends(&mut self, to: MemberId, progress: &mut Progress) {
        let (last, commit) = (self.log.last().index, self.log.committed());
        while !progress.is_paused() {
            let Some(prev) = self.log.id_at(progress.next.prev()) else {
                self.want_snapshot(to, progress);
                return;
            };
            let has_entries = progress.takes_entries() && progress.next <= last;
            if !has_entries && !progress.wants_empty(commit) {
                return;
            }
            let entries = if has_entries {
                let bytes_max = self.config.append_bytes_max;
                self.log.slice(progress.next, last, bytes_max)
            } else {
                Vec::new()
            };
            let bytes = entries.iter().map(entry_bytes).sum();
            progress.sent(entries.last().map(|entry| entry.id.index), bytes, commit);
            self.send(
                to,
                Body::Append {
                    prev,
                    entries,
                    commit,
                },
            );
        }
    }

    /// What the peer needs next is compacted. A silent peer gets no image: it could not take it
    /// anyway.
    fn want_snapshot(&mut self, peer: MemberId, progress: &mut Progress) {
        if progress.recent_active {
            progress.become_snapshot();
            self.output.snapshot_wanted.push(peer);
        }
    }

    fn peer_mut(&mut self, peer: MemberId) -> Option<&mut Progress> {
        if self.role != Role::Leader || peer == self.config.id {
            return None;
        }
        self.progress.get_mut(&peer)
    }
}
