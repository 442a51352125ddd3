//! Watches all members from above, where a member cannot look, and names the guarantee that breaks
//! in the step that breaks it. What was ever true is kept over crashes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use fated::{
    kernel::{Digest, EntryId, LogIndex, MemberId, SegmentId, Term},
    node::{
        Node,
        wire::{self, Frame},
    },
    pb::fated::command::{Command, command},
    raft::{Body, ConfState, Entry, EntryKind, Message, Role},
    wal::Recovery,
    watch,
};
use prost::Message as _;

use crate::{
    counters::Counters,
    roster::{self, Roster},
    store::Store,
};

/// A guarantee that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which guarantee.
    pub guarantee: String,
    /// What was seen.
    pub story: String,
    /// The virtual time at which it shows, if that was not at the end of the run.
    pub at: Option<u64>,
}

impl Violation {
    /// A guarantee and what broke it.
    pub fn new(guarantee: impl Into<String>, story: impl Into<String>) -> Self {
        Self {
            guarantee: guarantee.into(),
            story: story.into(),
            at: None,
        }
    }

    /// It shows at this time, although it was found later.
    #[must_use]
    pub fn shown_at(mut self, nanos: u64) -> Self {
        self.at = Some(nanos);
        self
    }
}

type Verdict = Result<(), Violation>;

/// Everything that was ever seen to be true.
#[derive(Default, Debug)]
pub struct Observer {
    leaders: BTreeMap<Term, MemberId>,
    votes: BTreeMap<(MemberId, Term), MemberId>,
    /// What each entry holds, and which one stands before it.
    entries: BTreeMap<EntryId, u64>,
    before: BTreeMap<EntryId, EntryId>,
    /// The committed log of the cluster.
    ledger: BTreeMap<LogIndex, EntryId>,
    /// How far members of each term knew the log as committed: it was, in that term or before.
    reached: BTreeMap<Term, LogIndex>,
    /// The entries of the committed log, for a replay, and when each was first known as committed.
    pub log: BTreeMap<LogIndex, (u64, Entry)>,
    /// Virtual time, as the world last told it.
    pub now: u64,
    /// State hash after an applied index.
    states: BTreeMap<LogIndex, (u64, MemberId)>,
    /// The last entry that each member called durable.
    durable: BTreeMap<MemberId, EntryId>,
    /// The same where it must come back after a restart; nothing while an image is on its way in.
    claimed: BTreeMap<MemberId, EntryId>,
    /// The latest term in which each member let others count on it.
    promised: BTreeMap<MemberId, Term>,
    seen: BTreeMap<MemberId, Seen>,
    /// When a leader was last elected.
    pub elected_at: u64,
    /// The term in which each lease was granted.
    leases: BTreeMap<i64, Term>,
    /// Who belongs to the cluster.
    pub roster: Roster,
    /// On what configuration the newest entry was committed; of several, on one of them.
    bases: Vec<ConfState>,
    /// Whether a change of the members came into force in the last turn.
    pub change_applied: bool,
}

/// What a member looked like after its last turn of this boot.
#[derive(Clone, Copy, Default, Debug)]
struct Seen {
    term: Term,
    commit: LogIndex,
    applied: LogIndex,
    leading: bool,
    last: EntryId,
    barriers: u64,
    watches: watch::Counters,
    compacting: bool,
    /// The last change of the members in its log.
    change: Option<EntryId>,
}

impl Observer {
    /// The highest index committed anywhere.
    pub fn committed(&self) -> LogIndex {
        self.ledger.keys().next_back().copied().unwrap_or_default()
    }

    /// The state hash after an index, if any member was seen there.
    pub fn state_at(&self, index: LogIndex) -> Option<u64> {
        self.states.get(&index).map(|(hash, _)| *hash)
    }

    /// A member begins a new life.
    pub fn on_boot(&mut self, member: MemberId) {
        self.seen.remove(&member);
        self.roster.on_boot(member);
    }

    /// All members but one are lost with what only they held: what counts from here on is the log
    /// of the one that is left, as far as it called it durable, and beyond that as far as its disk
    /// happens to hold what was committed: it may even have heard so.
    pub fn begin_anew(&mut self, left: &DiskImage<'_>) {
        let called = self.durable_of(left.member);
        let on_disk = self.ledger.range(called.index.next()..);
        let on_disk = on_disk.take_while(|(_, id)| left.holds(**id) == Ok(true));
        let last = on_disk.last().map_or(called, |(_, id)| *id);
        let member = left.member;
        let behind = last.index.next();
        self.ledger.split_off(&behind);
        for reached in self.reached.values_mut() {
            *reached = last.index.min(*reached);
        }
        self.log.split_off(&behind);
        self.states.split_off(&behind);
        self.roster.begin_anew(last.index);
        self.bases = vec![ConfState::of_voters([member])];
    }

    /// The last entry that a member called durable.
    pub fn durable_of(&self, member: MemberId) -> EntryId {
        self.durable.get(&member).copied().unwrap_or_default()
    }

    /// A member has read its disk: what it let others count on must be there. A member whose disk
    /// is damaged may refuse to start; it may not start with less than it had.
    pub fn on_booted(&mut self, node: &Node<Store>) -> Verdict {
        let (member, raft) = (node.member(), node.raft());
        if let Some(claimed) = self.claimed.get(&member)
            && raft.durable() < *claimed
        {
            let story = format!(
                "{member:x?} called {claimed:?} durable and comes back with {:?}",
                raft.durable()
            );
            return Err(Violation::new("what was durable comes back", story));
        }
        let promised = self.promised.get(&member).copied().unwrap_or_default();
        let voted = self.votes.get(&(member, promised)).copied();
        let kept = raft.term() > promised
            || (raft.term() == promised && (voted.is_none() || raft.vote() == voted));
        if !kept {
            let story = format!(
                "{member:x?} voted for {voted:x?} in term {promised:?} and comes back in term {:?} \
                 with a vote for {:x?}",
                raft.term(),
                raft.vote()
            );
            return Err(Violation::new("a promise outlives a restart", story));
        }
        Ok(())
    }

    /// A member's life ends.
    pub fn on_end(&mut self, member: MemberId, counters: &mut Counters) {
        let Some(seen) = self.seen.remove(&member) else {
            return;
        };
        if seen.compacting {
            counters.hit("compaction: interrupted by the end of a life");
        }
        if seen.leading && seen.last.index > seen.commit {
            counters.hit("raft: leader lost with proposals in flight");
        }
        if let Some(change) = seen.change
            && let Some(name) = roster::stage_counter(change, seen.commit, seen.applied)
        {
            counters.hit(name);
        }
    }

    /// A member finished a turn.
    pub fn on_turn(&mut self, node: &Node<Store>, counters: &mut Counters) -> Verdict {
        let (member, raft) = (node.member(), node.raft());
        let known = self.seen.get(&member).copied();
        let seen = known.unwrap_or_default();
        let leading = raft.role() == Role::Leader;
        if raft.term() < seen.term {
            let story = format!(
                "{member:x?} went from term {:?} to {:?}",
                seen.term,
                raft.term()
            );
            return Err(Violation::new("a term never goes back", story));
        }
        self.durable.insert(member, raft.durable());
        if raft.durable().index > raft.first().index {
            self.claimed.insert(member, raft.durable());
        } else {
            self.claimed.remove(&member);
        }
        if leading && !(seen.leading && seen.term == raft.term()) {
            counters.hit("raft: leader elected");
            self.elected_at = self.now;
            self.on_leader(node)?;
        }
        count_changes(&seen, node, counters);
        if raft.committed() < seen.commit {
            let story = format!(
                "{member:x?} went from {} to {}",
                seen.commit,
                raft.committed()
            );
            return Err(Violation::new("a commit index never goes back", story));
        }
        if raft.committed() > seen.commit {
            self.on_commit(node, seen.commit, counters)?;
        }
        if leading {
            self.roster.one_change(node, seen.last.index)?;
        }
        let applied_before = known.map(|seen| seen.applied);
        self.change_applied = self.roster.on_turn(node, applied_before, counters)?;
        let applied = node.machine().applied_index();
        if applied > seen.applied {
            let hash = node.machine().state_hash();
            let (known, first) = *self.states.entry(applied).or_insert((hash, member));
            if known != hash {
                let story = format!(
                    "after index {applied}, {member:x?} holds {hash:016x} and {first:x?} \
                     {known:016x}"
                );
                return Err(Violation::new("one state after one index", story));
            }
        }
        if node.is_corrupt() {
            let story = format!("{member:x?} believes that its own state is wrong");
            return Err(Violation::new("no false alarm about corruption", story));
        }
        let (term, commit) = (raft.term(), raft.committed());
        let now = Seen {
            term,
            commit,
            applied,
            leading,
            last: raft.last(),
            barriers: node.barriers_repeated(),
            watches: node.watch_counters(),
            compacting: node.machine().store().compaction_running(),
            change: roster::last_change(node, seen.change, seen.last),
        };
        self.seen.insert(member, now);
        Ok(())
    }

    fn on_leader(&mut self, node: &Node<Store>) -> Verdict {
        let (member, raft) = (node.member(), node.raft());
        let first = *self.leaders.entry(raft.term()).or_insert(member);
        if first != member {
            let story = format!("{first:x?} and {member:x?} lead term {:?}", raft.term());
            return Err(Violation::new("election safety", story));
        }
        let voted =
            |voter| voter == member || self.votes.get(&(voter, raft.term())) == Some(&member);
        if !self.roster.reached(node, voted) {
            let story = format!(
                "{member:x?} leads term {:?} of {:?} without the votes of a quorum",
                raft.term(),
                raft.conf_state()
            );
            return Err(Violation::new("a leader has the votes of a quorum", story));
        }
        // Votes that were held on their way may elect a leader whose term is long over: what was
        // committed in a later one it need not have.
        let earlier = self.reached.range(..raft.term()).map(|(_, index)| *index);
        let must = earlier.max().unwrap_or_default();
        if let Some((index, id)) = self.ledger.range(..=must).next_back()
            && *index > raft.first().index
            && raft.term_at(*index) != Some(id.term)
        {
            let story = format!(
                "{member:x?} leads term {:?} without committed {id:?}: its log ends with {:?}",
                raft.term(),
                raft.last()
            );
            return Err(Violation::new("leader completeness", story));
        }
        Ok(())
    }

    fn on_commit(
        &mut self,
        node: &Node<Store>,
        before: LogIndex,
        counters: &mut Counters,
    ) -> Verdict {
        let (member, raft) = (node.member(), node.raft());
        let commit = raft.committed();
        let known = self.committed();
        let mut index = before.max(raft.first().index).next();
        while index <= commit {
            let term = raft
                .term_at(index)
                .expect("committed entries are in the log");
            let id = EntryId::new(term, index);
            let first = *self.ledger.entry(index).or_insert(id);
            if first != id {
                let story = format!("{member:x?} commits {id:?} where {first:?} was committed");
                return Err(Violation::new("state-machine safety", story));
            }
            index = index.next();
        }
        let reached = self.reached.entry(raft.term()).or_default();
        *reached = commit.max(*reached);
        let from = known.max(raft.first().index).next();
        if from <= commit {
            for entry in raft.entries(from, commit, usize::MAX) {
                self.count_entry(&entry, counters);
                self.log.insert(entry.id.index, (self.now, entry));
            }
        }
        if commit > known {
            self.bases = self.roster.bases(node);
        }
        if raft.role() == Role::Leader && commit > known {
            self.check_quorum_durable(node)?;
            let term = raft.term_at(known.next().max(raft.first().index));
            if term.is_some_and(|term| term < raft.term()) {
                counters.hit("raft: older term committed behind a new entry");
            }
            if raft.durable().index < commit {
                counters.hit("raft: committed before the own disk");
            }
        }
        Ok(())
    }

    /// Leases that end by themselves leave nothing but an entry of the log.
    fn count_entry(&mut self, entry: &Entry, counters: &mut Counters) {
        if entry.kind != EntryKind::Normal || entry.data.is_empty() {
            return;
        }
        let Ok(command) = Command::decode(entry.data.clone()) else {
            return;
        };
        match command.body {
            Some(command::Body::LeaseGrant(grant)) => {
                self.leases.insert(grant.id, entry.id.term);
            }
            Some(command::Body::LeaseRevoke(revoke)) if revoke.expired => {
                for id in revoke.ids {
                    counters.hit("lease: ended by the leader");
                    let granted = self.leases.remove(&id);
                    if granted.is_some_and(|term| term < entry.id.term) {
                        counters.hit("lease: ended under a later leader than it was granted");
                    }
                }
            }
            _ => {}
        }
    }

    /// A leader counts only entries of its own term, so whoever holds that term's log so far holds
    /// everything below.
    fn check_quorum_durable(&self, node: &Node<Store>) -> Verdict {
        let raft = node.raft();
        let (term, commit) = (raft.term(), raft.committed());
        let far = |id: &EntryId| id.term > term || (id.term == term && id.index >= commit);
        let holds = |member| self.durable.get(&member).is_some_and(far);
        if !self.roster.reached(node, holds) {
            let story = format!(
                "{:x?} commits index {commit} of term {term:?} in {:?}, durable is {:?}",
                node.member(),
                raft.conf_state(),
                self.durable
            );
            return Err(Violation::new("committed means durable on a quorum", story));
        }
        Ok(())
    }

    /// A frame left a member.
    pub fn on_frame(&mut self, bytes: &Bytes, counters: &mut Counters) -> Verdict {
        match wire::decode(bytes.clone()) {
            Some(Frame::Raft(message)) => self.on_message(&message, counters),
            Some(Frame::Peer(_)) => Ok(()),
            None => Err(Violation::new(
                "what a member sends can be read",
                format!("{bytes:?}"),
            )),
        }
    }

    fn on_message(&mut self, message: &Message, counters: &mut Counters) -> Verdict {
        let voted = match &message.body {
            Body::Vote { .. } => Some(message.from),
            Body::VoteReply { granted: true, .. } => Some(message.to),
            Body::Append { prev, entries, .. } => {
                self.see_entries(*prev, entries)?;
                None
            }
            Body::PreVoteReply { granted: false, .. } => {
                counters.hit("raft: pre-vote refused");
                None
            }
            Body::AppendReject { .. } => {
                self.promise(message);
                counters.hit("raft: append refused");
                None
            }
            Body::TimeoutNow => {
                counters.hit("raft: leadership handed over");
                None
            }
            Body::AppendReply { .. } => {
                self.promise(message);
                None
            }
            Body::VoteReply { granted: false, .. }
            | Body::PreVote { .. }
            | Body::PreVoteReply { granted: true, .. }
            | Body::Heartbeat { .. }
            | Body::HeartbeatReply { .. }
            | Body::Propose { .. }
            | Body::ReadIndex { .. }
            | Body::ReadIndexReply { .. }
            | Body::TransferLeader { .. } => None,
        };
        if let Some(voted) = voted {
            self.promise(message);
            let key = (message.from, message.term);
            let first = *self.votes.entry(key).or_insert(voted);
            if first != voted {
                let story = format!(
                    "{:x?} votes for {first:x?} and {voted:x?} in term {:?}",
                    message.from, message.term
                );
                return Err(Violation::new("one vote in a term", story));
            }
        }
        Ok(())
    }

    /// Whoever hears this counts on the term being durable at its sender.
    fn promise(&mut self, message: &Message) {
        let promised = self.promised.entry(message.from).or_default();
        *promised = message.term.max(*promised);
    }

    fn see_entries(&mut self, prev: EntryId, entries: &[Entry]) -> Verdict {
        let mut before = prev;
        for entry in entries {
            let mut digest = Digest::EMPTY;
            digest.number(entry.kind as u64);
            digest.bytes(&entry.data);
            let known = *self.entries.entry(entry.id).or_insert(digest.value());
            let follows = *self.before.entry(entry.id).or_insert(before);
            if known != digest.value() || follows != before {
                let story = format!(
                    "two entries are {:?}, or it follows both {follows:?} and {before:?}",
                    entry.id
                );
                return Err(Violation::new("log matching", story));
            }
            before = entry.id;
        }
        Ok(())
    }

    /// Whatever was committed must be on the disks of a quorum, whatever the members believe.
    pub fn check_disks(&self, disks: &[DiskImage<'_>], counters: &mut Counters) -> Verdict {
        let Some((_, newest)) = self.ledger.last_key_value() else {
            return Ok(());
        };
        counters.hit("check: disks read for committed entries");
        let mut without = BTreeSet::new();
        let mut story = String::new();
        for disk in disks {
            let holds = disk.holds(*newest);
            if !disk.gone && holds != Ok(true) {
                without.insert(disk.member);
            }
            story += &format!("{:x?}: {holds:?}; ", disk.member);
        }
        // A machine that is no more, as one that was damaged, never votes again; what it held
        // counts as held.
        let held = |base| roster::reached(base, |id| !without.contains(&id));
        if !self.bases.is_empty() && !self.bases.iter().any(held) {
            let bases = &self.bases;
            let story = format!("{newest:?}, committed on {bases:?}, is missing: {story}");
            return Err(Violation::new("what was committed is durable", story));
        }
        Ok(())
    }
}

/// Counts what changed between two turns of a life.
fn count_changes(seen: &Seen, node: &Node<Store>, counters: &mut Counters) {
    let raft = node.raft();
    if seen.leading && raft.role() != Role::Leader {
        counters.hit("raft: leader stepped down");
        if seen.last.index > raft.committed() {
            counters.hit("raft: leader lost with proposals in flight");
        }
        if raft.term() == seen.term && raft.conf_state().voters.contains(&node.member()) {
            counters.hit("raft: leader stepped down for want of a quorum");
        }
    }
    let last = seen.last;
    let first = raft.first().index;
    if last.index > first && raft.term_at(last.index) != Some(last.term) {
        counters.hit("raft: uncommitted tail cut");
    }
    let repeated = node.barriers_repeated() - seen.barriers;
    counters.add("read: barrier started again", repeated);
    let (old, new) = (seen.watches, node.watch_counters());
    counters.add("watch: caught up", new.caught_up - old.caught_up);
    counters.add("watch: fell behind", new.fell_behind - old.fell_behind);
    counters.add("watch: set back by an image", new.set_back - old.set_back);
}

/// What a disk would hold after a power cut.
#[derive(Debug)]
pub struct DiskImage<'a> {
    /// Whose it is.
    pub member: MemberId,
    /// The segments of the log.
    pub segments: BTreeMap<SegmentId, &'a [u8]>,
    /// The last entry in the backend.
    pub backend: EntryId,
    /// The sealed image, if there is one.
    pub sealed: Option<EntryId>,
    /// Whether it was damaged or lost. What it held then counts as held: that a quorum is left is
    /// the plan's business, and such a member never votes again.
    pub gone: bool,
}

impl DiskImage<'_> {
    /// Whether an entry is in the log, or behind an image that replaced that part of the log.
    fn holds(&self, id: EntryId) -> Result<bool, String> {
        if self.backend.index >= id.index {
            return Ok(true);
        }
        let mut recovery = Recovery::new();
        for (segment, bytes) in &self.segments {
            recovery
                .feed(*segment, bytes)
                .map_err(|fault| fault.to_string())?;
        }
        let mark = recovery.mark().map(|mark| mark.id);
        let installs = self.sealed.is_some() && self.sealed == mark;
        let live = match self.sealed {
            Some(sealed) if installs && sealed.index > self.backend.index => sealed,
            Some(_) | None => self.backend,
        };
        if live.index >= id.index {
            return Ok(true);
        }
        let recovered = recovery.finish(live).map_err(|fault| fault.to_string())?;
        let Some(log) = recovered else {
            return Ok(false);
        };
        let at = log.first.index.distance_to(id.index);
        let entry = usize::try_from(at).expect("logs are small").checked_sub(1);
        let entry = entry.and_then(|at| log.entries.get(at));
        Ok(entry.is_some_and(|entry| entry.id == id))
    }
}
