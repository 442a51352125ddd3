//! What a run came to that only shows afterwards, counted: what became of requests of unknown
//! outcome, and who ended leases.

use std::collections::{BTreeMap, BTreeSet};

use fated::{
    pb::fated::command::{Command, command::Body},
    raft::{Entry, EntryKind},
};
use prost::Message;

use crate::{
    counters::Counters,
    history::{History, Outcome, Request, WatchItem},
};

/// Counts over a history and the log behind it.
pub fn count<'a>(
    history: &History,
    log: impl Iterator<Item = &'a (u64, Entry)>,
    counters: &mut Counters,
) {
    count_unknown(history, counters);
    count_leases(log, counters);
    count_watches(history, counters);
}

fn count_unknown(history: &History, counters: &mut Counters) {
    let commits = history.commits.iter();
    let logged: BTreeSet<u64> = commits.filter_map(|commit| commit.op).collect();
    for op in &history.ops {
        let is_write = match &op.request {
            Request::Put(_) | Request::DeleteRange(_) | Request::Compact(_) => true,
            Request::LeaseGrant(_) | Request::LeaseRevoke(_) => true,
            Request::Txn(txn) => {
                let mut ops = txn.success.iter().chain(&txn.failure);
                ops.any(|op| matches!(op, Request::Put(_) | Request::DeleteRange(_)))
            }
            Request::Range(_)
            | Request::LeaseKeepAlive(_)
            | Request::LeaseTimeToLive(_)
            | Request::LeaseLeases => false,
        };
        if is_write && op.outcome == Outcome::Unknown {
            counters.hit(match logged.contains(&op.id) {
                true => "work: unknown outcome was applied",
                false => "work: unknown outcome was not applied",
            });
        }
    }
}

fn count_leases<'a>(log: impl Iterator<Item = &'a (u64, Entry)>, counters: &mut Counters) {
    let mut terms = BTreeMap::new();
    for (_, entry) in log {
        if entry.kind != EntryKind::Normal || entry.data.is_empty() {
            continue;
        }
        let command = Command::decode(entry.data.clone()).expect("members propose commands");
        match command.body {
            Some(Body::LeaseGrant(grant)) => {
                terms.entry(grant.id).or_insert(entry.id.term);
            }
            Some(Body::LeaseRevoke(revoke)) => {
                for id in revoke.ids {
                    let Some(term) = terms.remove(&id) else {
                        continue;
                    };
                    if revoke.expired {
                        counters.hit(match term == entry.id.term {
                            true => "work: lease ended by the leader that granted it",
                            false => "work: lease ended by a later leader",
                        });
                    }
                }
            }
            Some(Body::LeaseCheckpoint(_)) => counters.hit("work: leases checkpointed"),
            Some(
                Body::Put(_)
                | Body::DeleteRange(_)
                | Body::Txn(_)
                | Body::Compact(_)
                | Body::Alarm(_)
                | Body::MemberPublish(_)
                | Body::ClusterVersion(_)
                | Body::MembersSettled(_)
                | Body::Downgrade(_),
            )
            | None => {}
        }
    }
}

fn count_watches(history: &History, counters: &mut Counters) {
    let fragments = history
        .watches
        .iter()
        .filter(|line| matches!(&line.item, WatchItem::Response(response) if response.fragment));
    counters.add("watch: responses in pieces", fragments.count() as u64);
}
