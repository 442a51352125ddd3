//! Who belongs to the cluster, seen from above: the member set after each applied index, whose
//! configuration is in force where, and whether a quorum of one is reached.
//!
//! Quorums are counted here by hand, and not by the core's own functions: a mistake there must
//! show.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use fated::{
    kernel::{EntryId, LogIndex, MemberId},
    membership::Cluster,
    node::Node,
    raft::{ConfState, EntryKind},
};

use crate::{counters::Counters, observe::Violation, store::Store};

/// Every member set that was ever applied.
#[derive(Default, Debug)]
pub struct Roster {
    /// The highest index that anybody applied who stays.
    newest: LogIndex,
    /// The member set behind it.
    cluster: Arc<Cluster>,
    at: BTreeMap<LogIndex, Arc<Cluster>>,
    /// What each member had in force after its last turn of this life.
    in_force: BTreeMap<MemberId, ConfState>,
    /// Counts the changes of the newest member set.
    version: u64,
    /// Members that applied their own removal.
    left: BTreeSet<MemberId>,
}

impl Roster {
    /// The newest member set that anybody applied.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Whether a member was removed, as anybody knows, be it itself alone.
    pub fn has_left(&self, id: MemberId) -> bool {
        self.cluster.is_removed(id) || self.left.contains(&id)
    }

    /// Counts the changes of the newest member set.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// What was applied behind an index is lost with those who knew of it.
    pub fn begin_anew(&mut self, last: LogIndex) {
        self.at.split_off(&last.next());
        self.newest = self.newest.min(last);
        if let Some((_, cluster)) = self.at.last_key_value() {
            self.cluster = cluster.clone();
        }
    }

    /// A member begins a new life.
    pub fn on_boot(&mut self, member: MemberId) {
        self.in_force.remove(&member);
    }

    /// Whether the quorum is reached that a member needed in its last turn. A change that came into
    /// force within the turn may have come before or behind what is asked about.
    pub fn reached(&self, node: &Node<Store>, holds: impl Fn(MemberId) -> bool) -> bool {
        let now = node.raft().conf_state();
        let before = self.in_force.get(&node.member()).unwrap_or(now);
        reached(before, &holds) || reached(now, &holds)
    }

    /// The configurations that a member's last turn may have stood on.
    pub fn bases(&self, node: &Node<Store>) -> Vec<ConfState> {
        let now = node.raft().conf_state();
        let before = self.in_force.get(&node.member()).unwrap_or(now);
        match before == now {
            true => vec![now.clone()],
            false => vec![before.clone(), now.clone()],
        }
    }

    /// A member finished a turn. Says whether a change of the members came into force in it.
    pub fn on_turn(
        &mut self,
        node: &Node<Store>,
        applied_before: Option<LogIndex>,
        counters: &mut Counters,
    ) -> Result<bool, Violation> {
        let (raft, machine) = (node.raft(), node.machine());
        let applied = machine.applied_index();
        let known = self.in_force.get(&node.member());
        let changed = known.is_some_and(|known| known != raft.conf_state());
        if known != Some(raft.conf_state()) {
            let conf = raft.conf_state().clone();
            self.in_force.insert(node.member(), conf);
        }
        // While an image is being installed, raft is already there and the state is not.
        if applied_before == Some(applied) || raft.applied() != applied {
            return Ok(false);
        }
        // A member that is forced to go on alone does so before its log says it.
        if machine.conf_state() != *raft.conf_state() && !raft.is_forced() {
            let story = format!(
                "{:x?} at {applied}: raft has {:?}, the stored members say {:?}",
                node.member(),
                raft.conf_state(),
                machine.conf_state()
            );
            return Err(Violation::new("raft and stored members agree", story));
        }
        if !applied.is_zero() {
            self.compare(node, applied, counters)?;
        }
        Ok(changed && applied_before.is_some())
    }

    fn compare(
        &mut self,
        node: &Node<Store>,
        applied: LogIndex,
        counters: &mut Counters,
    ) -> Result<(), Violation> {
        let cluster = node.machine().cluster();
        if let Some(known) = self.at.get(&applied) {
            if **known != *cluster {
                let story = format!(
                    "after index {applied}, {:x?} has {cluster:?} and another had {known:?}",
                    node.member()
                );
                return Err(Violation::new("one member set after one index", story));
            }
            return Ok(());
        }
        let mut found = self.cluster.clone();
        // What only a member on its way out knows is not yet known to the cluster.
        let leaves = cluster.is_removed(node.member());
        if leaves {
            self.left.insert(node.member());
        }
        if *found != *cluster {
            found = Arc::new(cluster.clone());
            if applied > self.newest && !leaves {
                count(&self.cluster, cluster, counters);
                self.cluster = found.clone();
                self.version += 1;
            }
        }
        if !leaves {
            self.newest = self.newest.max(applied);
        }
        self.at.insert(applied, found);
        Ok(())
    }

    /// A leader lets a second change into its log only behind the first one's coming into force.
    pub fn one_change(&self, node: &Node<Store>, last_before: LogIndex) -> Result<(), Violation> {
        let raft = node.raft();
        let last = raft.last().index;
        let from = raft.applied().max(raft.first().index).next();
        if last <= last_before || last < from {
            return Ok(());
        }
        let entries = raft.entries(from, last, usize::MAX);
        let changes = entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::ConfChange);
        let mut earlier = None;
        for change in changes {
            if let Some(earlier) = earlier
                && change.id.term == raft.term()
                && change.id.index > last_before
            {
                let story = format!(
                    "{:x?} let {:?} in while {earlier:?} is not in force",
                    node.member(),
                    change.id
                );
                return Err(Violation::new("one change of the members at a time", story));
            }
            earlier = Some(change.id);
        }
        Ok(())
    }
}

/// The last change of the members in a member's log, from what it was when the log ended elsewhere.
pub fn last_change(
    node: &Node<Store>,
    known: Option<EntryId>,
    last_before: EntryId,
) -> Option<EntryId> {
    let raft = node.raft();
    let (first, last) = (raft.first().index, raft.last());
    let is_there = |id: &EntryId| raft.term_at(id.index) == Some(id.term);
    if last == last_before {
        return known;
    }
    // What was overwritten may have been one; the log is then read from where it is compacted to.
    let from = match is_there(&last_before) {
        true => last_before.index.max(first).next(),
        false => first.next(),
    };
    if last.index < from {
        return known.filter(is_there);
    }
    let entries = raft.entries(from, last.index, usize::MAX);
    let mut changes = entries.iter().rev();
    let newest = changes.find(|entry| entry.kind == EntryKind::ConfChange);
    newest.map(|entry| entry.id).or(known.filter(is_there))
}

/// Where a change of the members stood at a member whose life ends: nowhere if it was in force.
pub fn stage_counter(change: EntryId, commit: LogIndex, applied: LogIndex) -> Option<&'static str> {
    if change.index > commit {
        Some("members: life ended with a change in the log, not committed")
    } else if change.index > applied {
        Some("members: life ended with a change committed, not applied")
    } else {
        None
    }
}

/// Whether more than half of the voters hold something, in both halves of a joint configuration.
pub fn reached(conf: &ConfState, holds: impl Fn(MemberId) -> bool) -> bool {
    [&conf.voters, &conf.voters_outgoing]
        .into_iter()
        .all(|voters| {
            let holders = voters.iter().filter(|id| holds(**id)).count();
            voters.is_empty() || 2 * holders > voters.len()
        })
}

fn count(before: &Cluster, after: &Cluster, counters: &mut Counters) {
    if before.members().next().is_none() {
        return;
    }
    for member in after.members() {
        match before.get(member.id) {
            None if member.learner => counters.hit("members: learner added"),
            None => counters.hit("members: voter added"),
            Some(old) if old.learner && !member.learner => {
                counters.hit("members: learner promoted");
            }
            Some(old) if old.peer_urls != member.peer_urls => counters.hit("members: moved"),
            Some(_) => {}
        }
    }
    let gone = before.members().filter(|old| after.get(old.id).is_none());
    counters.add("members: removed", gone.count() as u64);
    let joint = |cluster: &Cluster| !cluster.conf_state().voters_outgoing.is_empty();
    match (joint(before), joint(after)) {
        (false, true) => counters.hit("members: joint configuration entered"),
        (true, false) => counters.hit("members: joint configuration left"),
        (true, true) | (false, false) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_joint_configuration_needs_both_halves() {
        let ids = |numbers: &[u64]| numbers.iter().copied().map(MemberId::new).collect();
        let conf = ConfState {
            voters: ids(&[1, 2, 3, 4]),
            voters_outgoing: ids(&[1, 2, 3]),
            ..ConfState::default()
        };
        let held = |numbers: &'static [u64]| move |id: MemberId| numbers.contains(&id.get());
        assert!(reached(&conf, held(&[1, 2, 4])));
        assert!(!reached(&conf, held(&[1, 2])), "half of four");
        assert!(!reached(&conf, held(&[1, 4, 9])), "one of three");
    }
}
