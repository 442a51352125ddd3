//! `--force-new-cluster`: a member goes on alone, with the data it has, after the others are lost
//! for ever.
//!
//! Raft starts as if this member were the only voter, so it leads, and everything its log holds is
//! committed: whatever was acknowledged and reached this disk is kept, known as committed or not.
//! The first thing it proposes says that all others are removed; when that is applied, the stored
//! members agree with what raft does already, and only then the member serves.
//!
//! Until then no other member is heard. A crash in between leaves a log that can be forced again.
//!
//! Invariant: the changes of the members that the log still holds are applied to the state, but
//! raft's configuration stays this member alone.

use bytes::Bytes;
use prost::Message;

use super::NodeConfig;
use crate::{
    apply::StateMachine,
    backend::Backend,
    kernel::{Fault, LogIndex, MemberId, RequestId},
    mutant,
    node::mail::encode_change,
    pb::fated::command::{ConfChangeCommand, conf_change_command::Kind},
    raft::{Entry, EntryKind},
    wal::Recovered,
};

/// Whether this member is to go on alone. Cuts the log before the removal of this member if nobody
/// knows that it was committed.
pub(super) fn settle<B: Backend>(
    config: &NodeConfig,
    log: Option<&mut Recovered>,
    machine: &StateMachine<B>,
) -> Result<bool, Fault> {
    let Some(log) = log.filter(|_| config.force_new_cluster) else {
        return Ok(false);
    };
    let cluster = machine.cluster();
    let applied = machine.applied_index();
    let committed = log.hard_state.commit.max(applied);
    let own = config.member;
    let ahead = |entry: &Entry| entry.id.index > applied && removes(entry, own);
    let removal = log.entries.iter().position(ahead);
    let gone = removal.is_some_and(|at| log.entries[at].id.index <= committed);
    if cluster.is_removed(own) || gone {
        return Err(Fault::State(
            "--force-new-cluster: this member was removed from its cluster, so what came after is \
             not in its data; force a member that was not removed, or restore a backup"
                .to_owned(),
        ));
    }
    if cluster.get(own).is_none() {
        return Err(Fault::State(
            "--force-new-cluster: this member has no data of its cluster yet; force one that has, \
             or restore a backup"
                .to_owned(),
        ));
    }
    if let Some(at) = removal {
        log.entries.truncate(at);
    }
    if mutant!("forced-drops-the-tail") {
        log.entries.retain(|entry| entry.id.index <= committed);
    }
    let only = cluster.members().count() == 1;
    let settled = only && !cluster.conf_state().learners.contains(&own);
    Ok(!settled || has_changes(&log.entries, applied))
}

/// What the member proposes first.
pub(super) fn proposal(own: MemberId) -> Bytes {
    let change = ConfChangeCommand {
        kind: Kind::Alone as i32,
        member_id: own.get(),
        ..ConfChangeCommand::default()
    };
    encode_change(RequestId::ZERO, own, change)
}

fn removes(entry: &Entry, own: MemberId) -> bool {
    let change = match entry.kind {
        EntryKind::ConfChange => ConfChangeCommand::decode(entry.data.clone()).ok(),
        EntryKind::Normal => None,
    };
    change.is_some_and(|change| change.kind() == Kind::Remove && change.member_id == own.get())
}

fn has_changes(entries: &[Entry], applied: LogIndex) -> bool {
    let mut ahead = entries.iter().filter(|entry| entry.id.index > applied);
    ahead.any(|entry| entry.kind == EntryKind::ConfChange)
}
