//! Refusals for want of space, held against what the member that refuses could know.
//!
//! A member may refuse what grows while the alarm stands in its state, or when its own live data
//! leave no room for the request. What does not grow is never refused.

use fated::{
    apply::cost,
    backend::ReadSnapshot,
    kernel::{CallId, Request},
    node::Node,
    pb::etcdserverpb::AlarmType,
};

use crate::{observe::Violation, store::Store, world::World};

/// A refusal that was just given.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    at: usize,
    cost: u64,
}

impl World {
    /// A member answers that there is no space.
    pub(super) fn on_no_space(&mut self, at: usize, call: CallId) {
        let Some(operation) = self.clients.open.get(&call) else {
            return;
        };
        let cost = match &self.clients.history[*operation].request {
            Request::Put(put) => cost::put(put),
            Request::Txn(txn) => cost::txn(txn),
            Request::LeaseGrant(_) => cost::LEASE_BYTES,
            // Its disk has no room for a copy.
            Request::Defragment(_) => return,
            other => {
                let story = format!("m{at} has no space for {other:?}");
                return self.fail(Violation::new(GROWS, story));
            }
        };
        if cost == 0 {
            let story = format!("m{at} has no space for a transaction without puts");
            return self.fail(Violation::new(GROWS, story));
        }
        self.counters.hit("space: a write was refused");
        self.clients.was_full = true;
        self.clients.refused.push(Refused { at, cost });
    }

    /// After the turn in which a member refused: the alarm stood before or stands now, or the
    /// request did not fit.
    pub fn judge_refusals(&mut self, at: usize, node: &Node<Store>) {
        let alarmed = node.machine().alarms().any(AlarmType::Nospace);
        let live = live_bytes(node);
        let member = &mut self.members[at];
        let before = member.space;
        // The disk may hold what it has not reported yet. Until all is reported, the member can
        // know no less than it knew before the first of it.
        let known = match node.machine().view().flying() {
            0 => live,
            _ => live.max(before.1),
        };
        member.space = (alarmed, known);
        let quota = self.plan.cluster.upkeep.quota_bytes.cast_unsigned();
        for refused in std::mem::take(&mut self.clients.refused) {
            let fits = live.max(before.1) + refused.cost < quota;
            if refused.at == at && !alarmed && !before.0 && (fits || quota == 0) {
                let story = format!(
                    "m{at} with {live} live bytes of {quota} refused {} more",
                    refused.cost
                );
                self.fail(Violation::new(
                    "a write is refused only where space is short",
                    story,
                ));
            }
        }
    }
}

const GROWS: &str = "only what grows is refused for want of space";

/// What a record takes besides its bytes, as the backend in memory has it.
const RECORD_BYTES: u64 = 16;

/// What a member's data take, counted beside its own account: what it knows to be committed, and
/// what is on its way.
fn live_bytes(node: &Node<Store>) -> u64 {
    let view = node.machine().view();
    let stored = view.base().extent().unwrap_or_default();
    stored.bytes + stored.records * RECORD_BYTES + view.overlay_bytes() as u64
}
