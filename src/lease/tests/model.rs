//! Goal: over any history of grants, keep-alives, attachments, checkpoints, lost proposals, changes
//! of leader, stale leaders and restarts, no lease ends before what a client was told, each ends
//! exactly when its leader's clock says so, and all members agree.
//!
//! Method: three members apply one log. A naive model keeps every deadline in a map and is asked
//! for all that ran out after each step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;
use crate::backend::Backend;

const MEMBERS: usize = 3;
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

#[derive(Clone, Debug)]
enum Step {
    Grant { id: i64, ttl: i64 },
    Revoke { id: i64 },
    Put { key: usize, id: i64 },
    Renew { id: i64 },
    RenewAtDeposed { id: i64 },
    Advance { ms: u64 },
    Commit { count: usize },
    Lose { position: usize },
    ChangeLeader { to: usize, survive: usize },
    Follow { member: usize },
    Flush { member: usize },
    Restart { member: usize },
}

#[derive(Clone, Debug)]
enum Command {
    Grant { id: LeaseId, ttl: i64 },
    Revoke { id: LeaseId },
    Expire { lease: Incarnation },
    Put { key: usize, id: LeaseId },
    Checkpoint { leases: Vec<(Incarnation, u64)> },
    Reset { reset: Reset },
}

struct Member {
    backend: Memory,
    view: View<Memory>,
    lessor: Lessor,
    keys: BTreeMap<usize, LeaseId>,
    applied: usize,
    flushed: (usize, BTreeMap<usize, LeaseId>),
    /// Clocks of members have nothing in common but their pace.
    offset: u64,
}

#[derive(Clone, Copy)]
struct Naive {
    ttl: i64,
    /// Where in the log it was granted.
    birth: usize,
    checkpoint: u64,
    deadline: u64,
    /// No leader may end the lease before this moment of true time.
    promised: u64,
}

struct World {
    now: u64,
    members: Vec<Member>,
    leader: usize,
    /// When the leader was promoted.
    promoted: u64,
    deposed: Option<usize>,
    log: Vec<Command>,
    /// Proposed and not committed.
    flying: VecDeque<Command>,
    naive: BTreeMap<LeaseId, Naive>,
    naive_keys: BTreeMap<usize, LeaseId>,
    /// When each revoke was last offered.
    offered: BTreeMap<LeaseId, u64>,
}

impl Member {
    fn new(offset: u64) -> Self {
        let backend = Memory::default();
        let view = View::new(backend.clone()).unwrap();
        Self {
            lessor: Lessor::load(&view, 1).unwrap(),
            backend,
            view,
            keys: BTreeMap::new(),
            applied: 0,
            flushed: (0, BTreeMap::new()),
            offset,
        }
    }

    fn clock(&self, now: u64) -> Instant {
        at(now + self.offset)
    }

    fn apply(&mut self, command: &Command, now: u64) {
        let clock = self.clock(now);
        match command {
            Command::Grant { id, ttl } => {
                let birth = LogIndex::new(self.applied as u64);
                let (id, ttl) = (*id, *ttl);
                let grant = Grant { id, ttl, birth };
                let _ = self.lessor.grant(&mut self.view, grant, clock);
            }
            Command::Revoke { id } => {
                let revoked = self.lessor.revoke(&mut self.view, *id);
                self.revoked(*id, revoked);
            }
            Command::Expire { lease } => {
                let revoked = self.lessor.revoke_expired(&mut self.view, *lease);
                self.revoked(lease.id, revoked);
            }
            Command::Put { key, id } => {
                if self.lessor.attach(*id, super::key(KEYS[*key])).is_ok() {
                    self.keys.insert(*key, *id);
                }
            }
            Command::Checkpoint { leases } => {
                for (lease, left) in leases {
                    self.lessor.checkpoint(&mut self.view, *lease, *left);
                }
            }
            Command::Reset { reset } => {
                self.lessor.checkpoint(&mut self.view, reset.lease(), 0);
            }
        }
        self.applied += 1;
    }

    fn revoked(&mut self, id: LeaseId, revoked: Result<Vec<Bytes>, ApiError>) {
        let Ok(keys) = revoked else {
            return;
        };
        let held: Vec<Bytes> = self
            .keys
            .iter()
            .filter(|(_, owner)| **owner == id)
            .map(|(key, _)| super::key(KEYS[*key]))
            .collect();
        assert_eq!(keys, held);
        self.keys.retain(|_, owner| *owner != id);
    }

    fn flush(&mut self) {
        if let Some(batch) = self.view.cut() {
            self.backend.commit(&batch).unwrap();
            self.view.committed().unwrap();
        }
        self.flushed = (self.applied, self.keys.clone());
    }

    fn restart(&mut self) {
        self.view = View::new(self.backend.clone()).unwrap();
        self.lessor = Lessor::load(&self.view, 1).unwrap();
        (self.applied, self.keys) = self.flushed.clone();
        for (key, id) in &self.keys {
            self.lessor.attach(*id, super::key(KEYS[*key])).unwrap();
        }
    }
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: 0,
            members: (0..MEMBERS)
                .map(|member| Member::new(member as u64 * 777))
                .collect(),
            leader: 0,
            promoted: 0,
            deposed: None,
            log: Vec::new(),
            flying: VecDeque::new(),
            naive: BTreeMap::new(),
            naive_keys: BTreeMap::new(),
            offered: BTreeMap::new(),
        };
        world.change_leader(0, 0);
        world
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Grant { id, ttl } => self.propose(Command::Grant {
                id: super::id(id),
                ttl,
            }),
            Step::Revoke { id } => self.propose(Command::Revoke { id: super::id(id) }),
            Step::Put { key, id } => self.propose(Command::Put {
                key,
                id: super::id(id),
            }),
            Step::Renew { id } => self.renew(super::id(id)),
            Step::RenewAtDeposed { id } => self.renew_at_deposed(super::id(id)),
            Step::Advance { ms } => self.advance(ms),
            Step::Commit { count } => (0..count).for_each(|_| self.commit_one()),
            Step::Lose { position } => drop(self.flying.remove(position)),
            Step::ChangeLeader { to, survive } => self.change_leader(to, survive),
            Step::Follow { member } => self.follow(member),
            Step::Flush { member } => self.members[member].flush(),
            Step::Restart { member } if member != self.leader => {
                self.members[member].restart();
                self.deposed = self.deposed.filter(|deposed| *deposed != member);
            }
            Step::Restart { .. } => {}
        }
        self.check();
    }

    fn propose(&mut self, command: Command) {
        self.flying.push_back(command);
    }

    fn clock(&self) -> Instant {
        self.members[self.leader].clock(self.now)
    }

    fn answered(&mut self, id: LeaseId, outcome: Result<Renewal, ApiError>) {
        let floor = self.promoted + EXTEND.as_millis() as u64;
        let Ok(outcome) = outcome else {
            assert!(!self.naive.contains_key(&id));
            return;
        };
        let naive = self.naive.get_mut(&id).expect("the lease exists");
        let runs = naive.deadline > self.now;
        if runs {
            naive.deadline = self.now.max(floor) + naive.ttl as u64 * 1000;
        }
        match outcome {
            Renewal::Renewed { ttl } => {
                assert!(runs, "a lease that ran out was renewed");
                assert_eq!(ttl, naive.ttl);
                naive.promised = naive.promised.max(self.now + ttl as u64 * 1000);
            }
            Renewal::ResetFirst(reset) => {
                assert!(runs);
                self.propose(Command::Reset { reset });
            }
            Renewal::Expired => assert!(!runs, "a living lease was called expired"),
        }
    }

    fn renew(&mut self, id: LeaseId) {
        let clock = self.clock();
        let outcome = self.members[self.leader].lessor.renew(id, clock);
        self.answered(id, outcome);
    }

    /// The leader before does not know yet that it was deposed; its proposals lead nowhere.
    fn renew_at_deposed(&mut self, id: LeaseId) {
        let since = self.now - self.promoted;
        let Some(deposed) = self.deposed.filter(|_| since <= EXTEND.as_millis() as u64) else {
            return;
        };
        let clock = self.members[deposed].clock(self.now);
        let outcome = self.members[deposed].lessor.renew(id, clock);
        if let (Ok(Renewal::Renewed { ttl }), Some(naive)) = (outcome, self.naive.get_mut(&id)) {
            naive.promised = naive.promised.max(self.now + ttl as u64 * 1000);
        }
    }

    /// Time moves, and the leader's timers fire as they are due.
    fn advance(&mut self, ms: u64) {
        self.now += ms;
        let clock = self.clock();
        let leases = self.members[self.leader].lessor.due_checkpoints(clock, 3);
        for (lease, left) in &leases {
            let naive = &self.naive[&lease.id];
            assert_eq!(*left, naive.deadline - self.now);
            assert!(*left < naive.ttl as u64 * 1000);
        }
        if !leases.is_empty() {
            self.propose(Command::Checkpoint { leases });
        }
        self.expire();
    }

    fn expire(&mut self) {
        let (now, clock) = (self.now, self.clock());
        let taken = self.members[self.leader]
            .lessor
            .take_expired(clock, usize::MAX);
        let taken_set: BTreeSet<LeaseId> = taken.iter().map(|lease| lease.id).collect();
        let retry = REVOKE_RETRY.as_millis() as u64;
        let expected: BTreeSet<LeaseId> = self
            .naive
            .iter()
            .filter(|(_, naive)| naive.deadline <= now)
            .filter(|(id, _)| self.offered.get(id).is_none_or(|at| at + retry <= now))
            .map(|(id, _)| *id)
            .collect();
        assert_eq!(taken_set, expected);
        for lease in taken {
            let naive = &self.naive[&lease.id];
            assert!(naive.promised <= now, "a promise was broken");
            assert_eq!(naive.birth as u64, lease.birth.get());
            self.offered.insert(lease.id, now);
            self.propose(Command::Expire { lease });
        }
    }

    fn commit_one(&mut self) {
        let Some(command) = self.flying.pop_front() else {
            return;
        };
        self.record(&command);
        self.log.push(command.clone());
        self.follow(self.leader);
        if let Command::Reset { reset } = command {
            let clock = self.clock();
            let outcome = self.members[self.leader].lessor.finish_reset(reset, clock);
            self.answered(reset.lease().id, outcome);
        }
    }

    /// The naive state after a committed command.
    fn record(&mut self, command: &Command) {
        match command {
            Command::Grant { id, ttl } => {
                let deadline = self.now + *ttl as u64 * 1000;
                let naive = Naive {
                    ttl: *ttl,
                    birth: self.log.len(),
                    checkpoint: 0,
                    deadline,
                    promised: deadline,
                };
                self.naive.entry(*id).or_insert(naive);
            }
            Command::Revoke { id } => self.end(*id),
            Command::Expire { lease } => {
                if let Some(naive) = self.living(*lease) {
                    assert!(naive.promised <= self.now, "a lease ended early");
                    self.end(lease.id);
                }
            }
            Command::Put { key, id } => {
                if self.naive.contains_key(id) {
                    self.naive_keys.insert(*key, *id);
                }
            }
            Command::Checkpoint { leases } => {
                for (lease, left) in leases {
                    if let Some(naive) = self.living(*lease) {
                        naive.checkpoint = *left;
                    }
                }
            }
            Command::Reset { reset } => {
                if let Some(naive) = self.living(reset.lease()) {
                    naive.checkpoint = 0;
                }
            }
        }
    }

    fn living(&mut self, lease: Incarnation) -> Option<&mut Naive> {
        let naive = self.naive.get_mut(&lease.id)?;
        (naive.birth as u64 == lease.birth.get()).then_some(naive)
    }

    fn end(&mut self, id: LeaseId) {
        self.naive.remove(&id);
        self.offered.remove(&id);
        self.naive_keys.retain(|_, owner| *owner != id);
    }

    /// A prefix of what was proposed survives; the rest is lost.
    fn change_leader(&mut self, to: usize, survive: usize) {
        let survivors: Vec<Command> = self.flying.drain(..).take(survive).collect();
        for command in survivors {
            self.record(&command);
            self.log.push(command);
        }
        if let Some(deposed) = self.deposed.take() {
            self.members[deposed].lessor.demote();
        }
        if to != self.leader {
            self.deposed = Some(self.leader);
        } else {
            self.members[to].lessor.demote();
        }
        self.leader = to;
        self.follow(to);
        self.promoted = self.now;
        self.offered.clear();
        let extend = EXTEND.as_millis() as u64;
        for naive in self.naive.values_mut() {
            let rest = match naive.checkpoint {
                0 => naive.ttl as u64 * 1000,
                rest => rest,
            };
            naive.deadline = self.now + rest + extend;
        }
        let clock = self.clock();
        self.members[to].lessor.promote(clock, EXTEND);
    }

    /// Whoever receives entries of a later term knows that it was deposed.
    fn follow(&mut self, member: usize) {
        if self.deposed == Some(member) {
            self.members[member].lessor.demote();
            self.deposed = None;
        }
        let member = &mut self.members[member];
        for command in &self.log[member.applied..] {
            member.apply(command, self.now);
        }
    }

    fn check(&self) {
        for member in &self.members {
            member.lessor.check();
            if member.applied < self.log.len() {
                continue;
            }
            assert_eq!(member.lessor.len(), self.naive.len());
            assert_eq!(member.keys, self.naive_keys);
            assert_eq!(member.lessor.keys_len(), self.naive_keys.len());
            for (id, naive) in &self.naive {
                assert_eq!(member.lessor.granted_ttl(*id), Some(naive.ttl));
                assert_eq!(member.lessor.checkpointed_ms(*id), Some(naive.checkpoint));
            }
        }
        let lessor = &self.members[self.leader].lessor;
        for (id, naive) in &self.naive {
            assert!(naive.promised <= naive.deadline, "a promise will be broken");
            let left = lessor.time_to_live(*id, self.clock()).unwrap();
            let expected = naive.deadline.saturating_sub(self.now) / 1000;
            assert_eq!(left.remaining, expected as i64);
        }
    }

    /// Without faults and renewals every lease ends within its time and the extension.
    fn heal(&mut self) {
        self.flying.clear();
        self.change_leader(self.leader, 0);
        let longest = self.naive.values().map(|naive| naive.ttl as u64).max();
        for _ in 0..longest.unwrap_or(0) + 2 {
            self.advance(1000);
            (0..self.flying.len()).for_each(|_| self.commit_one());
            self.check();
        }
        assert!(self.naive.is_empty());
        for member in 0..MEMBERS {
            self.follow(member);
            self.members[member].flush();
            self.members[member].restart();
            assert!(self.members[member].lessor.is_empty());
        }
    }
}

fn steps() -> impl Strategy<Value = Step> {
    let id = 1..4i64;
    let member = 0..MEMBERS;
    prop_oneof![
        2 => (id.clone(), 1..20i64).prop_map(|(id, ttl)| Step::Grant { id, ttl }),
        1 => id.clone().prop_map(|id| Step::Revoke { id }),
        3 => (0..KEYS.len(), id.clone()).prop_map(|(key, id)| Step::Put { key, id }),
        6 => id.clone().prop_map(|id| Step::Renew { id }),
        2 => id.prop_map(|id| Step::RenewAtDeposed { id }),
        8 => (0..4000u64).prop_map(|ms| Step::Advance { ms }),
        8 => (1..4usize).prop_map(|count| Step::Commit { count }),
        1 => (0..3usize).prop_map(|position| Step::Lose { position }),
        1 => (member.clone(), 0..4usize)
            .prop_map(|(to, survive)| Step::ChangeLeader { to, survive }),
        1 => member.clone().prop_map(|member| Step::Follow { member }),
        1 => member.clone().prop_map(|member| Step::Flush { member }),
        1 => member.prop_map(|member| Step::Restart { member }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn promises_hold_and_members_agree(steps in prop::collection::vec(steps(), 1..150)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.heal();
    }
}
