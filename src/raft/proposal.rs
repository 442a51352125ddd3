//! What enters the log and by whose hand: proposals, configuration changes, reads, leadership
//! transfer.
//!
//! Invariants: a proposal is appended by at most one leader, at most once: a follower forwards it
//! to the leader of its term, once, and never again; the leader takes a numbered forward once. A
//! refused proposal has left no trace.

use bytes::Bytes;

use crate::{
    kernel::{LogIndex, MemberId, ReadId},
    mutant,
};

use super::{
    Body, ConfChange, ConfState, Entry, EntryKind, LEAVE_JOINT, ProposeError, Raft, ReadState,
    Role, log::ENTRY_OVERHEAD_BYTES, progress::Progress, read_index::Read,
};
use crate::kernel::EntryId;

impl Raft {
    /// Proposes a command: appended on the leader, forwarded once on a follower.
    pub fn propose(&mut self, data: Bytes) -> Result<(), ProposeError> {
        self.propose_kind(EntryKind::Normal, data)
    }

    /// Proposes a change of the configuration. If another one is not applied yet, an empty normal
    /// entry takes its place in the log.
    pub fn propose_conf_change(&mut self, data: Bytes) -> Result<(), ProposeError> {
        self.propose_kind(EntryKind::ConfChange, data)
    }

    /// Whether a change of the configuration is under way, as far as this leader knows: one that
    /// was proposed now would come to nothing.
    pub fn is_changing(&self) -> bool {
        let settled = self.pending_conf <= self.log.applied();
        if mutant!("second-change-let-in") {
            return false;
        }
        self.role == Role::Leader && (!settled || self.conf.is_joint())
    }

    /// Puts a change in force; called for each change entry when it is applied, before
    /// `on_applied`, on every member. A change that cannot follow the present configuration changes
    /// nothing.
    pub fn apply_conf_change(&mut self, change: &ConfChange) -> ConfState {
        if self.alone && !change.is_alone() {
            return self.conf.clone();
        }
        self.alone = false;
        if let Ok(next) = self.conf.changed(change) {
            self.conf = next;
            if self.role == Role::Leader {
                self.lead_configuration();
            }
        }
        self.conf.clone()
    }

    /// Right after the start: this member goes on as the only voter, until a change says that it is
    /// (`ChangeKind::Alone`); other changes do not count until then.
    pub fn go_on_alone(&mut self) {
        self.conf = ConfState::of_voters([self.config.id]);
        self.alone = true;
    }

    /// Whether it goes on as the only voter, and the log does not say so yet.
    pub fn is_forced(&self) -> bool {
        self.alone
    }

    /// Asks for a read barrier under a name that is new in this boot. The answer comes in
    /// `Output::read_states`, or never: then ask again under a new name.
    pub fn read_index(&mut self, id: ReadId) -> Result<(), ProposeError> {
        let (boot, from) = (self.boot, self.config.id);
        match (self.role, self.leader) {
            (Role::Leader, _) => self.reads.add(Read { from, boot, id }),
            (_, Some(_)) if mutant!("follower-reads-own-commit") => {
                let index = self.log.committed();
                self.output.read_states.push(ReadState { id, index });
            }
            (_, Some(leader)) => self.send(leader, Body::ReadIndex { boot, id }),
            (_, None) => return Err(ProposeError::NoLeader),
        }
        Ok(())
    }

    /// Hands leadership to a voter: proposals stop until it has the whole log and is told to
    /// campaign, or until an election timeout has passed. On a follower the leader is asked to do
    /// so.
    pub fn transfer_leadership(&mut self, to: MemberId) {
        match (self.role, self.leader) {
            (Role::Leader, _) => self.on_transfer_leader(to),
            (_, Some(leader)) => self.send(leader, Body::TransferLeader { to }),
            (_, None) => {}
        }
    }

    pub(super) fn on_transfer_leader(&mut self, to: MemberId) {
        if self.role != Role::Leader || self.transferee == Some(to) || !self.conf.is_voter(to) {
            return;
        }
        self.abort_transfer();
        if to == self.config.id {
            return;
        }
        self.election_elapsed = 0;
        self.transferee = Some(to);
        self.sends_due = true;
        self.finish_transfer(to);
    }

    /// Sends the transferee into its election once it has everything.
    pub(super) fn finish_transfer(&mut self, peer: MemberId) {
        let last = self.log.last().index;
        let matched = self.progress.get(&peer).map(|progress| progress.matched);
        if self.transferee == Some(peer) && matched == Some(last) {
            self.send(peer, Body::TimeoutNow);
        }
    }

    pub(super) fn abort_transfer(&mut self) {
        if self.transferee.take().is_some() {
            self.maybe_leave_joint();
        }
    }

    pub(super) fn on_propose(
        &mut self,
        from: MemberId,
        boot: u64,
        sequence: u64,
        entries: Vec<(EntryKind, Bytes)>,
    ) {
        if self.role != Role::Leader {
            return;
        }
        if !self.forwards.accept(from, boot, sequence) && !mutant!("forward-taken-twice") {
            return;
        }
        for (kind, data) in entries {
            if self.admit(kind, data).is_err() {
                return;
            }
        }
    }

    pub(super) fn on_read_index(&mut self, from: MemberId, boot: u64, id: ReadId) {
        if self.role == Role::Leader {
            self.reads.add(Read { from, boot, id });
        }
    }

    /// Sends collected proposals to the leader. This is their only chance: whatever happens to the
    /// message, it is not sent again.
    pub(super) fn flush_forwards(&mut self) {
        if self.outbound.is_empty() {
            return;
        }
        self.outbound_bytes = 0;
        let collected = std::mem::take(&mut self.outbound);
        match (self.role, self.leader) {
            (Role::Leader, _) => {
                for (kind, data) in collected {
                    if self.admit(kind, data).is_err() {
                        break;
                    }
                }
            }
            (_, Some(leader)) => self.forward(leader, collected),
            (_, None) => {}
        }
    }

    /// Leaves a joint configuration that asks for it, once no earlier change is pending.
    pub(super) fn maybe_leave_joint(&mut self) {
        let settled = self.pending_conf <= self.log.applied() && self.transferee.is_none();
        if self.role == Role::Leader && self.conf.auto_leave && settled {
            // The own proposal is never refused for its size.
            self.append_entry(EntryKind::ConfChange, Bytes::from_static(LEAVE_JOINT));
        }
    }

    pub(super) fn append_entry(&mut self, kind: EntryKind, data: Bytes) {
        assert!(
            self.role == Role::Leader,
            "only leaders append on their own"
        );
        let id = EntryId::new(self.term, self.log.last().index.next());
        if kind == EntryKind::ConfChange {
            assert!(
                self.pending_conf <= self.log.applied() || mutant!("second-change-let-in"),
                "a change was admitted beside another"
            );
            self.pending_conf = id.index;
        }
        self.uncommitted_bytes += data.len();
        self.log.push(Entry { id, kind, data });
        self.sends_due = true;
    }

    /// Committed entries do not count against the bound of uncommitted bytes any more.
    pub(super) fn release_uncommitted(&mut self, before: LogIndex) {
        let mut index = before.next();
        while index <= self.log.committed() {
            let entry = self.log.entry(index).expect("just committed, so retained");
            if entry.id.term == self.term {
                assert!(
                    entry.data.len() <= self.uncommitted_bytes,
                    "an entry was committed that was never counted"
                );
                self.uncommitted_bytes -= entry.data.len();
            }
            index = index.next();
        }
    }

    fn propose_kind(&mut self, kind: EntryKind, data: Bytes) -> Result<(), ProposeError> {
        match (self.role, self.leader) {
            (Role::Leader, _) => self.admit(kind, data),
            (_, Some(_)) => {
                let waiting = self.outbound_bytes + data.len() + ENTRY_OVERHEAD_BYTES;
                if !self.outbound.is_empty() && waiting > self.config.uncommitted_bytes_max {
                    return Err(ProposeError::Overloaded);
                }
                self.outbound_bytes = waiting;
                self.outbound.push((kind, data));
                Ok(())
            }
            (_, None) => Err(ProposeError::NoLeader),
        }
    }

    fn admit(&mut self, kind: EntryKind, data: Bytes) -> Result<(), ProposeError> {
        if self.transferee.is_some() {
            return Err(ProposeError::Transferring);
        }
        if kind == EntryKind::ConfChange && !self.admits_conf_change(&data) {
            self.append_entry(EntryKind::Normal, Bytes::new());
            return Ok(());
        }
        let bytes = self.uncommitted_bytes + data.len();
        let some = self.uncommitted_bytes > 0 && !data.is_empty();
        if some && bytes > self.config.uncommitted_bytes_max {
            return Err(ProposeError::Overloaded);
        }
        self.append_entry(kind, data);
        Ok(())
    }

    /// Whether a change may enter the log. What only the owner can decode is checked when it is
    /// applied.
    fn admits_conf_change(&self, data: &[u8]) -> bool {
        let settled = self.pending_conf <= self.log.applied() || mutant!("second-change-let-in");
        let fits = ConfChange::decode(data)
            .is_none_or(|change| change.is_leave_joint() == self.conf.is_joint());
        settled && fits
    }

    /// A leader follows the configuration that has just come into force.
    fn lead_configuration(&mut self) {
        if !self.conf.is_voter(self.config.id) {
            self.become_follower(self.term, None);
            return;
        }
        let members = self.conf.members();
        self.progress.retain(|id, _| members.contains(id));
        let next = self.log.last().index.max(LogIndex::new(1));
        for id in members {
            if !self.progress.contains_key(&id) {
                let mut progress = Progress::new(next, self.new_inflights());
                // Else the next check of the quorum could find it silent before it had a chance to
                // speak.
                progress.recent_active = true;
                self.progress.insert(id, progress);
            }
        }
        self.sends_due = true;
        if self.transferee.is_some_and(|to| !self.conf.is_voter(to)) {
            self.transferee = None;
        }
        // A smaller quorum may be reached already.
        self.maybe_commit();
        self.confirm_reads();
    }

    fn forward(&mut self, leader: MemberId, collected: Vec<(EntryKind, Bytes)>) {
        let mut entries = Vec::new();
        let mut bytes = 0;
        for (kind, data) in collected {
            let size = data.len() + ENTRY_OVERHEAD_BYTES;
            if !entries.is_empty() && bytes + size > self.config.append_bytes_max {
                self.send_forward(leader, std::mem::take(&mut entries));
                bytes = 0;
            }
            bytes += size;
            entries.push((kind, data));
        }
        self.send_forward(leader, entries);
    }

    fn send_forward(&mut self, leader: MemberId, entries: Vec<(EntryKind, Bytes)>) {
        self.outbound_sequence += 1;
        let (boot, sequence) = (self.boot, self.outbound_sequence);
        self.send(
            leader,
            Body::Propose {
                boot,
                sequence,
                entries,
            },
        );
    }
}
