//! Watches all members from above, where a member cannot look, and names the guarantee that breaks.
//!
//! It keeps what was ever true (leaders, votes, entries, commits) over crashes, so a broken promise
//! shows in the step that breaks it.

use std::collections::{BTreeMap, BTreeSet};

use fated::kernel::{EntryId, LogIndex, MemberId, ReadId, Term};
use fated::raft::{Body, ConfState, Entry, EntryKind, Message, Role, quorum};

use super::world::World;

/// Everything that was ever seen to be true.
#[derive(Default)]
pub struct Observer {
    leaders: BTreeMap<Term, MemberId>,
    votes: BTreeMap<(MemberId, Term), MemberId>,
    terms: BTreeMap<MemberId, Term>,
    /// What an entry holds, and what stood before it when it was appended.
    entries: BTreeMap<EntryId, Entry>,
    predecessors: BTreeMap<EntryId, EntryId>,
    /// The committed log of the cluster.
    pub ledger: BTreeMap<LogIndex, EntryId>,
    /// State digest and configuration after each applied index.
    applied: BTreeMap<LogIndex, (u64, ConfState)>,
    /// Data of applied proposals: each at most once.
    payloads: BTreeMap<Vec<u8>, LogIndex>,
    /// What was committed when a read began, by member, boot and name.
    reads: BTreeMap<(MemberId, u64, ReadId), LogIndex>,
    /// What happened, to prove that a run was worth something.
    pub seen: BTreeMap<&'static str, u64>,
    seen_leading: BTreeSet<(MemberId, Term)>,
}

impl Observer {
    /// The cluster begins with a log that is committed and compacted up to here.
    pub fn begins_after(&mut self, id: EntryId) {
        if !id.index.is_zero() {
            self.ledger.insert(id.index, id);
        }
    }

    /// Counts an event.
    pub fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    /// A read begins: whatever is committed anywhere now may have been acknowledged to somebody.
    pub fn read_begins(&mut self, member: MemberId, boot: u64, read: ReadId) {
        let floor = self.committed();
        let before = self.reads.insert((member, boot, read), floor);
        assert!(before.is_none(), "a read name was used twice in a boot");
    }

    /// The highest index committed anywhere.
    pub fn committed(&self) -> LogIndex {
        self.ledger.keys().next_back().copied().unwrap_or_default()
    }

    /// Checks everything that can be checked after a step.
    pub fn check(&mut self, world: &mut World) {
        for (member, entries, before) in std::mem::take(&mut world.written) {
            for entry in &entries {
                assert!(
                    before.is_none_or(|committed| entry.id.index > committed),
                    "{member} rewrites {:?} below its commit index",
                    entry.id
                );
            }
        }
        for entries in std::mem::take(&mut world.persisted) {
            self.see_entries(&entries);
        }
        for message in std::mem::take(&mut world.left) {
            self.see_message(&message);
            self.see_promise(world, &message);
        }
        for id in world.ids() {
            self.see_member(world, id);
        }
        for applied in std::mem::take(&mut world.applied) {
            let committed = self.ledger.get(&applied.entry.id.index);
            assert_eq!(
                committed,
                Some(&applied.entry.id),
                "state-machine safety: {:?} applied what is not committed",
                applied.member
            );
            self.see_applied(&applied.entry, (applied.state.digest, applied.state.conf));
        }
        for id in world.ids() {
            let boot = world.member(id).boots;
            for read in std::mem::take(&mut world.member_mut(id).reads) {
                let floor = self.reads.get(&(id, boot, read.id));
                let floor = floor.expect("an answer to a read nobody asked for in this boot");
                assert!(
                    read.index >= *floor,
                    "linearizable reads: {id} got {} after {floor} was committed",
                    read.index
                );
                self.count("read answered");
            }
        }
    }

    /// Entries that left the memory of a member, to a disk or to another member: from now on they
    /// are facts. (A sole voter that loses its memory may lead the same term again; of what only it
    /// knew, no trace is left.)
    fn see_entries(&mut self, entries: &[Entry]) {
        for entry in entries {
            let known = self
                .entries
                .entry(entry.id)
                .or_insert_with(|| entry.clone());
            assert_eq!(known, entry, "log matching: one id, two entries");
        }
        for pair in entries.windows(2) {
            let before = self.predecessors.entry(pair[1].id).or_insert(pair[0].id);
            assert_eq!(
                *before, pair[0].id,
                "log matching: one entry, two histories"
            );
        }
    }

    fn see_message(&mut self, message: &Message) {
        let voted = match &message.body {
            Body::Vote { .. } => Some(message.from),
            Body::VoteReply { granted: true, .. } => Some(message.to),
            _ => None,
        };
        if let Some(voted) = voted {
            let vote = self.votes.entry((message.from, message.term));
            assert_eq!(
                *vote.or_insert(voted),
                voted,
                "vote once: two votes in a term"
            );
        }
        match &message.body {
            Body::AppendReject { .. } => self.count("append refused"),
            Body::PreVoteReply { granted: false, .. } => self.count("pre-vote refused"),
            Body::Append { entries, .. } => self.see_entries(entries),
            Body::TimeoutNow => self.count("transfer told"),
            _ => {}
        }
    }

    /// What a member promises must be on its disk when the promise leaves.
    fn see_promise(&self, world: &World, message: &Message) {
        let disk = &world.member(message.from).disk;
        match &message.body {
            Body::Vote { .. } | Body::VoteReply { granted: true, .. } => {
                let voted = match message.body {
                    Body::Vote { .. } => message.from,
                    _ => message.to,
                };
                let durable = (disk.hard_state.term, disk.hard_state.vote);
                assert!(
                    durable == (message.term, Some(voted)) || durable.0 > message.term,
                    "a vote leaves before it is durable: {message:?}, durable {durable:?}"
                );
            }
            Body::AppendReply { matched } => assert!(
                disk.id_at(matched.index) == Some(*matched) || matched.index <= disk.first.index,
                "an acknowledgement leaves before the entry is durable: {message:?}"
            ),
            _ => {}
        }
    }

    fn see_member(&mut self, world: &World, id: MemberId) {
        let member = world.member(id);
        let disk_term = member.disk.hard_state.term;
        let term = self.terms.entry(id).or_default();
        assert!(disk_term >= *term, "{id}: the durable term goes back");
        *term = disk_term;
        let Some(raft) = &member.raft else { return };
        raft.check();
        if raft.role() == Role::Leader {
            let leader = *self.leaders.entry(raft.term()).or_insert(id);
            assert_eq!(leader, id, "election safety: two leaders of one term");
            if self.seen_leading.insert((id, raft.term())) {
                self.count("leader elected");
                for (&index, committed) in &self.ledger {
                    let has = raft
                        .term_at(index)
                        .is_none_or(|term| term == committed.term);
                    let long_enough = index <= raft.last().index;
                    assert!(
                        has && long_enough,
                        "leader completeness: {id} lacks {committed:?}"
                    );
                }
            }
        }
        self.see_commits(world, id);
    }

    fn see_commits(&mut self, world: &World, id: MemberId) {
        let raft = world.member(id).raft.as_ref().expect("running");
        let (known, committed) = (self.committed(), raft.committed());
        // Every member agrees with the ledger on what it shares with it.
        let recent = committed.min(known).back(8);
        for (&index, entry) in self.ledger.range(recent..=committed) {
            let term = raft.term_at(index);
            assert!(
                term.is_none_or(|term| term == entry.term),
                "log matching: {id} holds another entry than {entry:?} below its commit index"
            );
        }
        if committed <= known {
            return;
        }
        assert!(
            raft.role() == Role::Leader,
            "{id} commits {committed} before any leader did"
        );
        assert_eq!(
            raft.term_at(committed),
            Some(raft.term()),
            "commit rule (thesis 3.6.2)"
        );
        let newest = EntryId::new(raft.term(), committed);
        let durable = |voter: MemberId| {
            let disk = &world.members.get(&voter)?.disk;
            let proven = disk.id_at(committed) == Some(newest) || disk.first.index >= committed;
            Some(proven)
        };
        let result = quorum::vote(raft.conf_state(), |voter| {
            Some(durable(voter) == Some(true))
        });
        assert_eq!(
            result,
            quorum::VoteResult::Won,
            "commit <= quorum-durable: {id} commits {newest:?}"
        );
        if raft.durable().index < committed {
            self.count("committed before the own disk");
        }
        let mut index = known.next();
        while index <= committed {
            let term = raft
                .term_at(index)
                .expect("uncommitted entries are retained");
            if term < raft.term() {
                self.count("committed an older term");
            }
            self.ledger.insert(index, EntryId::new(term, index));
            index = index.next();
        }
    }

    fn see_applied(&mut self, entry: &Entry, state: (u64, ConfState)) {
        let index = entry.id.index;
        let known = self.applied.entry(index).or_insert_with(|| state.clone());
        assert_eq!(*known, state, "state-machine safety: two states at {index}");
        if entry.kind == EntryKind::ConfChange {
            self.count("configuration changed");
            if state.1.is_joint() {
                self.count("joint entered");
            }
        } else if !entry.data.is_empty() {
            let first = *self.payloads.entry(entry.data.to_vec()).or_insert(index);
            assert_eq!(first, index, "a proposal was applied twice");
        }
    }
}
