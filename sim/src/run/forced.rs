//! The end of some runs: all members lose power at one moment and all but one their disks. The one
//! that is left goes on alone (`--force-new-cluster`), with everything that was acknowledged and
//! reached its disk, and with nothing that nobody wrote.
//!
//! Who judges: the observer goes on as before with the log of the one that is left, so a state that
//! differs, an entry that nobody proposed and a promise that is broken show as ever. What was
//! acknowledged in the last moments is read back here.

use std::collections::BTreeMap;

use fated::{
    kernel::{ApiError, CallId, LogIndex, Request, Response},
    pb::{
        etcdserverpb as rpc,
        fated::command::{Command, command::Body},
    },
};
use prost::Message as _;

use super::{Answer, Asked, Runner};
use crate::{
    membership::Forced,
    operator::Standing,
    world::{Item, Told, World, disk_image},
};

/// Where the last writes are.
const PREFIX: &str = "forced/";

impl Runner {
    /// Whoever joined with one flag comes to vote, once nothing stands in the way.
    pub(super) async fn await_votes(&self) {
        let all = |world: &World| {
            let mut slots = 0..world.members.len();
            slots.all(|at| !world.belongs(at) || !world.asks_for_its_vote(at))
        };
        if !self.until(self.patience(), all).await {
            self.fail("a member that joins comes to vote", self.story());
        }
    }

    /// All but one are lost.
    pub(super) async fn go_on_alone(&self, forced: &Forced) {
        let (at, calls) = {
            let mut world = self.shared.world();
            let voters = world.voters();
            let Some(leader) = world.leader().filter(|_| voters.len() > 1) else {
                return;
            };
            // The judges of the clients' history know nothing of what comes now.
            world.told = Some(world.told_so_far());
            let mut put = |number| {
                let put = rpc::PutRequest {
                    key: format!("{PREFIX}{number}").into(),
                    value: "kept".into(),
                    ..rpc::PutRequest::default()
                };
                world.own_call(leader, Request::Put(put))
            };
            let calls: Vec<CallId> = (0..forced.writes).map(&mut put).collect();
            (voters[forced.nth % voters.len()], calls)
        };
        self.until(forced.in_flight_us * 1000, |_| false).await;
        let kept = self.shared.world().lose_all_but(at, &calls);
        self.force(at, forced).await;
        self.expect_alone(at, &kept).await;
        // The flag is gone, and whatever was promised must have been stored.
        {
            let mut world = self.shared.world();
            world.members[at].forced = false;
            world.power_cut(at);
            world.after(0, Item::Boot { at });
        }
        self.expect_serving(at).await;
        self.expect_alone(at, &kept).await;
    }

    /// Starts it, and once more if it dies meanwhile.
    async fn force(&self, at: usize, forced: &Forced) {
        {
            let mut world = self.shared.world();
            world.members[at].forced = true;
            world.after(0, Item::Boot { at });
        }
        if let Some((after_us, power)) = forced.dies {
            self.until(after_us * 1000, |_| false).await;
            let mut world = self.shared.world();
            let serves = world.members[at].serving;
            world.counters.hit(match serves {
                true => "members: forced, and died when it served",
                false => "members: forced, and died before it served",
            });
            match power {
                true => world.power_cut(at),
                false => world.kill(at),
            }
            world.after(0, Item::Boot { at });
        }
        self.expect_serving(at).await;
    }

    async fn expect_serving(&self, at: usize) {
        let serving = move |world: &World| world.members[at].serving;
        if !self.until(self.patience(), serving).await {
            self.fail("a member that goes on alone serves", self.story());
        }
    }

    /// It serves, so nobody else belongs to the cluster any more, and nothing was lost.
    async fn expect_alone(&self, at: usize, kept: &[String]) {
        {
            let world = self.shared.world();
            let members = world.observer.roster.cluster().members();
            let ids: Vec<_> = members.map(|member| member.id).collect();
            let own = world.members[at].id;
            drop(world);
            if ids != [own] {
                let story = format!("{own:x?} serves, and the members are {ids:x?}");
                self.fail("a member that goes on alone is alone", story);
            }
        }
        let range = rpc::RangeRequest {
            key: PREFIX.into(),
            range_end: "forced0".into(),
            ..rpc::RangeRequest::default()
        };
        let Some(answers) = self.ask_voters(&Request::Range(range)).await else {
            return self.fail(
                "a member that goes on alone serves",
                "no answer to a read".to_owned(),
            );
        };
        let found: Vec<_> = answers
            .iter()
            .filter_map(|answer| match answer {
                Ok(Response::Range(range)) => Some(&range.kvs),
                _ => None,
            })
            .flatten()
            .map(|kv| String::from_utf8_lossy(&kv.key).into_owned())
            .collect();
        if let Some(lost) = kept.iter().find(|key| !found.contains(key)) {
            let story = format!("{lost} was acknowledged and on its disk; found is {found:?}");
            self.fail("what a member that goes on alone held is kept", story);
        }
        // It writes as well, unless space was short before and still is.
        let put = rpc::PutRequest {
            key: "alone".into(),
            ..rpc::PutRequest::default()
        };
        // At the start much waits to be stored, and there may be no room for more.
        let has_room = |answers: &[Answer]| !matches!(answers, [Err(ApiError::TooManyRequests)]);
        let written = match self.ask_until(&Request::Put(put), has_room).await {
            Asked::Wanted(answers) | Asked::Other(answers) => Some(answers),
            Asked::Nothing => None,
        };
        let may_be_full = {
            let world = self.shared.world();
            world.plan.cluster.upkeep.quota_bytes > 0 && !world.clients.has_space
        };
        let is_well = match written.as_deref() {
            Some([Ok(Response::Put(_))]) => true,
            Some([Err(ApiError::NoSpace)]) => may_be_full,
            _ => false,
        };
        if !is_well {
            let story = format!("a write came to {written:?}");
            self.fail("a member that goes on alone serves", story);
        }
        self.compare_members().await;
    }
}

impl World {
    /// What clients and members have told until now.
    pub fn told_so_far(&self) -> Told {
        Told {
            operations: self.clients.history.len(),
            watched: self.watchers.history.len(),
            log: self.observer.log.values().cloned().collect(),
        }
    }

    /// All lose power, and all but one their disks. Returns the last writes that were acknowledged
    /// and that the one which is left had called durable.
    fn lose_all_but(&mut self, at: usize, calls: &[CallId]) -> Vec<String> {
        let own = self.members[at].id;
        let durable = self.observer.durable_of(own);
        let written = self.last_writes();
        let acknowledged = |call: &CallId| matches!(self.nemesis.answers.get(call), Some(Ok(_)));
        let mut kept = Vec::new();
        let mut lost = 0;
        for (number, _) in calls
            .iter()
            .enumerate()
            .filter(|(_, call)| acknowledged(call))
        {
            let key = format!("{PREFIX}{number}");
            match written.get(&key) {
                Some(index) if *index <= durable.index => kept.push(key),
                Some(_) | None => lost += 1,
            }
        }
        self.counters.hit("members: all lost but one");
        self.counters
            .add("members: write lost with those who held it", lost);
        self.counters
            .add("members: last write to be kept", kept.len() as u64);
        for other in 0..self.members.len() {
            if self.members[other].up {
                self.power_cut(other);
            }
        }
        self.observer.begin_anew(&disk_image(&self.members[at]));
        for other in (0..self.members.len()).filter(|other| *other != at) {
            let member = &mut self.members[other];
            if member.standing.runs() {
                member.wipe();
                member.standing = Standing::Lost;
            }
        }
        kept
    }

    /// Where the last writes stand in the committed log.
    fn last_writes(&self) -> BTreeMap<String, LogIndex> {
        let entries = self.observer.log.values().map(|(_, entry)| entry);
        let puts = entries.filter_map(|entry| {
            let command = Command::decode(entry.data.clone()).ok()?;
            let Some(Body::Put(put)) = command.body else {
                return None;
            };
            let key = String::from_utf8(put.key.to_vec()).ok()?;
            key.starts_with(PREFIX).then_some((key, entry.id.index))
        });
        puts.collect()
    }
}
