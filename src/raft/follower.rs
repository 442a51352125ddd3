//! The receiving side: entries and heartbeats of a leader, and images that replace the log.
//!
//! Invariants: an append cuts the log only where it truly conflicts, so a late or repeated one
//! removes nothing; nothing at or below the commit index is ever looked at again.

use crate::{
    kernel::{EntryId, LogIndex, MemberId, ReadId, Term},
    mutant,
};

use super::{Body, Entry, Raft, ReadState, Role, SnapshotMeta, election::NUMBER_MAX};

impl Raft {
    /// The owner has staged an image up to `meta.id`, which `from` sent as leader of `term`. True:
    /// the image must be installed (`Output::install`) and the log starts after it. False: this
    /// member needs it no more; whoever sent it is told how far we are.
    pub fn restore(&mut self, meta: SnapshotMeta, from: MemberId, term: Term) -> bool {
        let nonsense = from == self.config.id
            || !meta.conf_state.is_sound()
            || meta.conf_state.voters.is_empty()
            || meta.id.term > term
            || meta.id.term.is_zero()
            || term.get().max(meta.id.index.get()) >= NUMBER_MAX;
        if nonsense || term < self.term {
            return false;
        }
        if term > self.term {
            self.become_follower(term, Some(from));
        }
        if !self.follow(from) {
            return false;
        }
        let known = meta.id.index <= self.log.committed();
        let needless = known || self.log.contains(meta.id);
        if needless && !mutant!("stale-image-installed") {
            // The log has it all; at most it did not know that so much is committed.
            self.log.commit_to(meta.id.index);
            self.acknowledge_committed(from);
            return false;
        }
        self.log.restart_after(meta.id);
        self.conf = meta.conf_state.clone();
        self.send(from, Body::AppendReply { matched: meta.id });
        self.output.install = Some(meta);
        true
    }

    pub(super) fn on_append(
        &mut self,
        from: MemberId,
        prev: EntryId,
        entries: Vec<Entry>,
        commit: LogIndex,
    ) {
        if !self.follow(from) {
            return;
        }
        if self.conf.voters.is_empty() && !mutant!("joiner-takes-the-log") {
            // A member that joins knows no configuration, so the log alone cannot tell it the later
            // ones: refusing even the very beginning asks for an image.
            let (rejected, hint) = (prev.index, EntryId::ZERO);
            self.send(from, Body::AppendReject { rejected, hint });
        } else if prev.index < self.log.committed() {
            self.acknowledge_committed(from);
        } else if self.log.contains(prev)
            || (mutant!("log-match-unchecked") && prev.index <= self.log.last().index)
        {
            let matched = entries.last().map_or(prev, |entry| entry.id);
            self.accept_entries(entries);
            self.log.commit_to(commit.min(matched.index));
            self.acknowledge(from, matched);
        } else {
            let hint = self.log.agreement_hint(prev.index, prev.term);
            let rejected = prev.index;
            self.send(from, Body::AppendReject { rejected, hint });
        }
    }

    pub(super) fn on_heartbeat(&mut self, from: MemberId, commit: LogIndex, round: u64) {
        if self.follow(from) {
            self.log.commit_to(commit);
            self.send(from, Body::HeartbeatReply { round });
        }
    }

    pub(super) fn on_read_index_reply(&mut self, boot: u64, id: ReadId, index: LogIndex) {
        if boot == self.boot {
            self.output.read_states.push(ReadState { id, index });
        }
    }

    /// Accepts the sender as leader of the current term. False if that cannot be: then it is not
    /// heard.
    fn follow(&mut self, from: MemberId) -> bool {
        match self.role {
            Role::Leader => return false,
            Role::PreCandidate | Role::Candidate => self.become_follower(self.term, Some(from)),
            Role::Follower => {
                self.election_elapsed = 0;
                self.leader = Some(from);
            }
        }
        true
    }

    /// Adds what is new and cuts what conflicts. The entry before them matches and is not below the
    /// commit index, so no cut can reach a committed entry; `truncate` asserts it.
    fn accept_entries(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if self.log.contains(entry.id) && !mutant!("truncate-on-overlap") {
                continue;
            }
            if entry.id.index <= self.log.last().index {
                self.log.truncate(entry.id.index);
            }
            self.log.push(entry);
        }
    }

    fn acknowledge_committed(&mut self, to: MemberId) {
        self.acknowledge(to, self.committed_id());
    }

    /// Acknowledges; of several acknowledgements that wait for the same write, the highest says it
    /// all.
    fn acknowledge(&mut self, to: MemberId, matched: EntryId) {
        let term = self.term;
        if let Some(last) = self.output.after_append.last_mut()
            && (last.to, last.term) == (to, term)
            && let Body::AppendReply { matched: earlier } = &mut last.body
        {
            *earlier = matched.max(*earlier);
        } else {
            self.send(to, Body::AppendReply { matched });
        }
    }
}
