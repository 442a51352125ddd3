//! Locks and elections, as etcd's own clients make them: a key under a lease, and whoever has the
//! oldest key of the lock holds it.
//!
//! What is claimed is what leases give and no more: while a holder's lease cannot have ended yet,
//! nobody else is told that it holds the lock. What a holder writes is guarded by the creation of
//! its key, and the judges see whether a guarded write was done without the lock.

use std::collections::BTreeMap;

use fated::{
    kernel::{Request, Response},
    pb::etcdserverpb::{self as rpc, compare::TargetUnion},
};

use super::{
    Desk, Job, Shared, Turn, answer,
    leases::{fresh_id, grant, keep_alive, note_use, revoke},
    requests::{self, behind_prefix, compare, range_in, revision_of},
};
use crate::{client::Outcome, script::LockStep};

/// How often a waiting client looks whether its turn has come, and how long at most.
const LOOK_NANOS: u64 = 100_000_000;
const LOOKS_MAX: u32 = 40;

/// Who held which lock. Judged when the run is over, for a clock that jumps may shorten a lease
/// after it was promised.
#[derive(Debug, Default)]
pub(super) struct Holds {
    by_lock: BTreeMap<String, BTreeMap<(usize, u64), Hold>>,
}

/// A time during which a client was told to hold a lock.
#[derive(Clone, Copy, Debug)]
struct Hold {
    from: u64,
    /// The last answer that promised its lease.
    promise: Promise,
    /// When it was given back.
    given_back: Option<u64>,
}

/// A lease was granted or renewed for so long, by a request sent then.
#[derive(Clone, Copy, Default, Debug)]
struct Promise {
    called: u64,
    seconds: i64,
}

impl Shared {
    /// Two that held a lock at once, if there were.
    pub fn judge_locks(&mut self) {
        let mut found = None;
        for (lock, holds) in &self.holds.by_lock {
            let mut spans: Vec<(u64, u64, (usize, u64))> = holds
                .iter()
                .map(|(who, hold)| (hold.from, self.end_of(hold), *who))
                .filter(|(from, until, _)| from <= until)
                .collect();
            spans.sort_unstable();
            let pairs = spans.windows(2);
            let overlap = pairs.filter(|pair| pair[1].0 <= pair[0].1);
            for pair in overlap {
                found.get_or_insert_with(|| format!("{lock}: {:?} and {:?}", pair[0], pair[1]));
            }
        }
        if let Some(story) = found {
            self.fail("no two hold a lock while their leases live", story);
        }
    }

    fn end_of(&self, hold: &Hold) -> u64 {
        let until = self.lives_until(hold.promise.called, hold.promise.seconds);
        hold.given_back.map_or(until, |back| until.min(back))
    }
}

/// The job of a step.
pub(super) fn job(step: &LockStep) -> Box<dyn Job> {
    Box::new(Locker {
        prefix: match step.election {
            true => format!("elect/{}/", step.lock),
            false => format!("lock/{}/", step.lock),
        },
        writes: step.writes,
        step: step.clone(),
        stage: Stage::Grant,
        lease: 0,
        serial: 0,
        promise: Promise::default(),
        created: 0,
        looks: 0,
        held: false,
        paused: false,
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Grant,
    /// Makes its key, or finds it.
    Acquire,
    /// Looks whether an older key is there.
    Wait,
    KeepAlive,
    /// Writes under the lock.
    Write,
    Unlock,
    Revoke,
    Done,
}

#[derive(Debug)]
struct Locker {
    step: LockStep,
    prefix: String,
    stage: Stage,
    lease: i64,
    serial: u64,
    promise: Promise,
    /// The revision at which its key was created.
    created: i64,
    looks: u32,
    writes: u64,
    /// Whether it holds the lock.
    held: bool,
    paused: bool,
}

impl Locker {
    fn key(&self) -> String {
        format!("{}{:x}", self.prefix, self.lease)
    }

    fn mine(&self) -> rpc::Compare {
        compare(self.key(), TargetUnion::CreateRevision(self.created))
    }

    /// The oldest key of the lock.
    fn owner(&self) -> rpc::RangeRequest {
        rpc::RangeRequest {
            limit: 1,
            sort_order: rpc::range_request::SortOrder::Ascend as i32,
            sort_target: rpc::range_request::SortTarget::Create as i32,
            ..requests::range(self.prefix.clone(), behind_prefix(&self.prefix))
        }
    }

    /// The youngest key that is older than its own.
    fn predecessor(&self) -> rpc::RangeRequest {
        rpc::RangeRequest {
            limit: 1,
            max_create_revision: self.created - 1,
            sort_order: rpc::range_request::SortOrder::Descend as i32,
            sort_target: rpc::range_request::SortTarget::Create as i32,
            ..requests::range(self.prefix.clone(), behind_prefix(&self.prefix))
        }
    }

    fn acquire(&self, desk: &Desk<'_>) -> Request {
        let key = self.key();
        let mut put = requests::put(key.clone(), desk.author, 1);
        put.lease = self.lease;
        let absent = compare(key.clone(), TargetUnion::CreateRevision(0));
        let owner = || Request::Range(self.owner());
        let get = requests::read(key, Vec::new());
        requests::txn(absent, vec![Request::Put(put), owner()], vec![get, owner()])
    }

    /// A value that belongs to the lock, or the proclamation of an election.
    fn guarded(&self, desk: &Desk<'_>) -> Request {
        let mut put = requests::put(format!("guarded/{}", self.prefix), desk.author, 1);
        if self.step.election {
            put = requests::put(self.key(), desk.author, 1);
            put.lease = self.lease;
        }
        let get = Request::Range(self.owner());
        requests::txn(self.mine(), vec![Request::Put(put)], vec![get])
    }

    fn unlock(&self, desk: &Desk<'_>) -> Request {
        let delete = requests::delete_own(&self.key(), desk.author);
        requests::txn(
            self.mine(),
            vec![delete],
            vec![Request::Range(self.owner())],
        )
    }

    /// From the answer that showed it to be the oldest on.
    fn hold(&mut self, desk: &mut Desk<'_>) {
        self.held = true;
        desk.counters.hit(match (self.step.election, self.looks) {
            (false, 0) => "work: lock acquired at once",
            (false, _) => "work: lock acquired after a wait",
            (true, 0) => "work: election won at once",
            (true, _) => "work: election won after a wait",
        });
        let hold = Hold {
            from: desk.now,
            promise: self.promise,
            given_back: None,
        };
        let who = self.who(desk);
        let holds = desk.shared.holds.by_lock.entry(self.prefix.clone());
        holds.or_default().insert(who, hold);
        self.stage = match self.writes {
            0 => self.give_back(),
            _ => Stage::Write,
        };
    }

    fn who(&self, desk: &Desk<'_>) -> (usize, u64) {
        (desk.author.client, self.serial)
    }

    fn my_hold<'d>(&self, desk: &'d mut Desk<'_>) -> Option<&'d mut Hold> {
        let who = self.who(desk);
        let holds = desk.shared.holds.by_lock.get_mut(&self.prefix);
        holds.and_then(|holds| holds.get_mut(&who))
    }

    fn on_promise(&mut self, seconds: i64, desk: &mut Desk<'_>) {
        self.promise = Promise {
            called: desk.called,
            seconds,
        };
        let promise = self.promise;
        if let Some(hold) = self.my_hold(desk) {
            hold.promise = promise;
        }
    }

    fn give_back(&self) -> Stage {
        match self.step.gives_back {
            true => Stage::Unlock,
            false => Stage::Done,
        }
    }
}

impl Job for Locker {
    fn next(&mut self, desk: &mut Desk<'_>) -> Turn {
        if std::mem::take(&mut self.paused) {
            return Turn::Pause(match self.stage {
                Stage::Wait => LOOK_NANOS,
                _ => self.step.pause_us * 1000,
            });
        }
        Turn::Ask(match self.stage {
            Stage::Grant => {
                self.lease = fresh_id(desk.author);
                self.serial = desk.author.serial;
                note_use(desk);
                grant(self.lease, self.step.ttl)
            }
            Stage::Acquire => self.acquire(desk),
            Stage::Wait => Request::Range(self.predecessor()),
            Stage::KeepAlive => keep_alive(self.lease),
            Stage::Write => self.guarded(desk),
            Stage::Unlock => {
                // From now on it may be gone.
                let now = desk.now;
                if let Some(hold) = self.my_hold(desk) {
                    hold.given_back.get_or_insert(now);
                }
                self.unlock(desk)
            }
            Stage::Revoke => revoke(self.lease),
            Stage::Done => return Turn::Done,
        })
    }

    fn hear(&mut self, desk: &mut Desk<'_>, outcome: &Outcome) {
        let Some(response) = answer(outcome) else {
            self.looks += 1;
            let for_certain = matches!(outcome, Outcome::Failed(_));
            self.stage = match self.stage {
                _ if for_certain || self.looks >= LOOKS_MAX => Stage::Done,
                // The key may be there or not; the next try finds out.
                Stage::Acquire => Stage::Acquire,
                Stage::Wait | Stage::KeepAlive => Stage::KeepAlive,
                Stage::Grant | Stage::Write | Stage::Unlock | Stage::Revoke | Stage::Done => {
                    Stage::Done
                }
            };
            return;
        };
        match (self.stage, response) {
            (Stage::Grant, Response::LeaseGrant(lease)) => {
                self.on_promise(lease.ttl, desk);
                self.stage = Stage::Acquire;
            }
            (Stage::Acquire, Response::Txn(response)) => self.on_acquired(response, desk),
            (Stage::Wait, Response::Range(response)) => self.on_look(response, desk),
            (Stage::KeepAlive, Response::LeaseKeepAlive(lease)) if lease.ttl > 0 => {
                self.on_promise(lease.ttl, desk);
                self.stage = match self.held {
                    false => Stage::Wait,
                    true => Stage::Write,
                };
            }
            (Stage::Write, Response::Txn(response)) => self.on_written(response, desk),
            (Stage::Unlock, Response::Txn(response)) => {
                desk.counters.hit(match response.succeeded {
                    true => "work: lock given back",
                    false => "work: lock lost before it was given back",
                });
                self.stage = Stage::Revoke;
            }
            (_, _) => {
                if self.stage == Stage::KeepAlive {
                    desk.counters.hit("work: lock lost with its lease");
                }
                self.stage = Stage::Done;
            }
        }
    }
}

impl Locker {
    fn on_acquired(&mut self, response: &rpc::TxnResponse, desk: &mut Desk<'_>) {
        self.created = match response.succeeded {
            true => revision_of(response.header.as_ref()),
            false => {
                let found = range_in(response, 0).and_then(|range| range.kvs.first());
                found.map_or(0, |pair| pair.create_revision)
            }
        };
        let owner = range_in(response, 1).and_then(|range| range.kvs.first());
        match owner {
            Some(owner) if owner.create_revision == self.created => self.hold(desk),
            Some(_) if self.created > 0 => {
                desk.counters.hit("work: lock contended");
                self.stage = Stage::Wait;
            }
            Some(_) | None => self.stage = Stage::Done,
        }
    }

    /// Nobody older is there. That makes it the holder only if its own key still is; as the
    /// recipe does, it looks at that too, by renewing its lease first and writing guarded.
    fn on_look(&mut self, response: &rpc::RangeResponse, desk: &mut Desk<'_>) {
        self.looks += 1;
        if response.kvs.is_empty() {
            if desk.now
                <= desk
                    .shared
                    .lives_until(self.promise.called, self.promise.seconds)
            {
                return self.hold(desk);
            }
            // Its own lease may be over: it has to ask anew.
            self.stage = Stage::Acquire;
        } else if self.looks < LOOKS_MAX {
            self.paused = true;
            if self.looks.is_multiple_of(8) {
                self.stage = Stage::KeepAlive;
                self.paused = false;
            }
        } else {
            desk.counters.hit("work: lock given up");
            self.stage = Stage::Unlock;
        }
    }

    fn on_written(&mut self, response: &rpc::TxnResponse, desk: &mut Desk<'_>) {
        if !response.succeeded {
            desk.counters.hit("work: guarded write refused");
            self.stage = Stage::Done;
            return;
        }
        desk.counters.hit("work: guarded write done");
        self.writes -= 1;
        self.paused = true;
        self.stage = match self.writes {
            0 => self.give_back(),
            left if left % 2 == 1 => Stage::KeepAlive,
            _ => Stage::Write,
        };
    }
}
