//! The end of the clients' work: scripts come to their end, and what spans many requests is judged.

use fated::kernel::{LogIndex, Response};

use super::{PATIENCE_NANOS, Runner};
use crate::{observe::Violation, work, world::World};

impl Runner {
    /// A plan holds a number of requests; where faults held clients up, they go on without.
    pub(super) async fn finish_scripts(&self) {
        let least = {
            let mut world = self.shared.world();
            world.clients.hurry = true;
            world.plan.operations_min
        };
        let enough =
            |world: &World| world.clients.history.len() as u64 >= least || world.clients.are_done();
        if least > 0 && !self.until(4 * PATIENCE_NANOS, enough).await {
            self.fail(
                "a healed cluster serves",
                "clients do not come to an end".to_owned(),
            );
        }
    }

    /// What was asked last is answered or given up, so that clients know all they will ever know.
    pub(super) async fn await_answers(&self) {
        let patience = self.shared.world().plan.patience_ms * 1_000_000;
        let none_open = |world: &World| world.clients.calls_open() == 0;
        assert!(
            self.until(patience + PATIENCE_NANOS, none_open).await,
            "the patience of every client ends"
        );
    }

    /// What only shows when nothing happens any more: all leases end, nothing is lost from queues,
    /// no two held a lock, and snapshots were of states that were.
    pub(super) async fn judge_work(&self) {
        if self.shared.world().clients.shared.has_leases() {
            let over = |world: &World| {
                let mut members = (0..world.members.len()).filter(|at| world.belongs(*at));
                members.all(|at| world.members[at].leases == 0)
            };
            if !self.until(2 * self.patience(), over).await {
                self.fail("a lease that nobody renews ends", self.story());
            }
        }
        let mut world = self.shared.world();
        world.clients.shared.judge_locks();
        for (index, hash) in std::mem::take(&mut world.clients.shared.snapshots) {
            let Some(right) = world.observer.state_at(LogIndex::new(index)) else {
                continue;
            };
            world.counters.hit("work: snapshot compared with its state");
            if right != hash {
                let story = format!("the state at {index} is {right:016x}, not {hash:016x}");
                world.fail(Violation::new(
                    "a snapshot is a whole image of a state that was",
                    story,
                ));
            }
        }
        let broken = world.clients.shared.broken.take();
        if let Some(violation) = broken {
            world.fail(violation);
        }
        let used = world.clients.shared.has_items();
        drop(world);
        if used {
            self.judge_queues().await;
        }
    }

    async fn judge_queues(&self) {
        let (call, leader) = {
            let mut world = self.shared.world();
            let Some(leader) = world.leader() else { return };
            let prefix = work::queue_prefix();
            let end = work::requests::behind_prefix(prefix);
            let request = work::requests::read(prefix.to_owned(), end);
            (world.own_call(leader, request), leader)
        };
        let answered = |world: &World| world.nemesis.answers.contains_key(&call);
        let in_time = self.until(self.patience(), answered).await;
        let mut world = self.shared.world();
        let Some(Ok(Response::Range(range))) = world.nemesis.answers.get(&call).cloned() else {
            let story = format!("no answer about queues from m{leader} ({in_time})");
            drop(world);
            return self.fail("a healed cluster serves", story);
        };
        let there: Vec<Vec<u8>> = range.kvs.iter().map(|pair| pair.key.to_vec()).collect();
        world.clients.shared.judge_queues(&there);
        if let Some(violation) = world.clients.shared.broken.take() {
            world.fail(violation);
        }
    }
}
