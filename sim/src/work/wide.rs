//! Reads with filters, orders and limits, and txns of many operations: nested ones, ones that read
//! the past, and ones with work in both branches.

use fated::{
    kernel::Request,
    pb::etcdserverpb::{self as rpc, compare::TargetUnion},
};

use super::{
    Desk, Job, Once, Turn,
    requests::{self, Author, name},
};
use crate::script::{Condition, LookStep, Of, Part, WideStep};

/// The job of a read.
pub(super) fn look(step: &LookStep) -> Box<dyn Job> {
    let step = step.clone();
    let ask = move |desk: &mut Desk<'_>| {
        desk.counters.hit("work: filtered read");
        Turn::Ask(look_request(&step, desk.revision))
    };
    Box::new(Once::new(ask))
}

/// The job of a txn.
pub(super) fn wide(step: &WideStep) -> Box<dyn Job> {
    let step = step.clone();
    let ask = move |desk: &mut Desk<'_>| {
        desk.counters.hit("work: wide txn");
        let mut builder = Builder { desk, puts: 0 };
        let mark = builder.mark();
        let mut request = builder.txn(&step);
        if let Request::Txn(txn) = &mut request {
            txn.compare.push(mark);
        }
        Turn::Ask(request)
    };
    Box::new(Once::new(ask))
}

/// So many revisions before the last that is known; zero stays zero.
fn at(revision: i64, back: i64) -> i64 {
    match back {
        0 => 0,
        back => (revision - back).max(1),
    }
}

fn look_request(step: &LookStep, revision: i64) -> Request {
    let (key, end) = match step.from == step.to {
        true => (b"\0".to_vec(), b"\0".to_vec()),
        false => (name(step.from).into_bytes(), name(step.to).into_bytes()),
    };
    Request::Range(rpc::RangeRequest {
        limit: step.limit,
        revision: at(revision, step.back),
        sort_order: step.sort_order,
        sort_target: step.sort_target,
        serializable: step.serializable,
        keys_only: step.keys_only,
        count_only: step.count_only,
        min_mod_revision: at(revision, step.mod_from),
        max_mod_revision: at(revision, step.mod_to),
        min_create_revision: at(revision, step.create_from),
        max_create_revision: at(revision, step.create_to),
        ..requests::range(key, end)
    })
}

struct Builder<'b, 'd> {
    desk: &'b Desk<'d>,
    /// Counts what the txn writes, so that nested ones write other values.
    puts: u64,
}

impl Builder<'_, '_> {
    /// A condition that always holds and that no other txn has: it may write nothing of its own.
    fn mark(&self) -> rpc::Compare {
        let Author { client, serial } = self.desk.author;
        let key = format!("{}{client}.{serial}", requests::NEVER_PREFIX);
        requests::compare(key, TargetUnion::Version(0))
    }

    fn txn(&mut self, step: &WideStep) -> Request {
        let compare = step.compare.iter().map(|one| self.condition(one)).collect();
        let success = self.parts(&step.success);
        let failure = self.parts(&step.failure);
        requests::txn_of(compare, success, failure)
    }

    fn parts(&mut self, parts: &[Part]) -> Vec<Request> {
        parts.iter().map(|part| self.part(part)).collect()
    }

    fn part(&mut self, part: &Part) -> Request {
        let author: Author = self.desk.author;
        match part {
            Part::Put {
                key,
                prev_kv,
                lease,
            } => {
                self.puts += 1;
                let mut put = requests::put(name(*key), author, self.puts);
                put.prev_kv = *prev_kv;
                put.lease = lease
                    .and_then(|pick| self.desk.shared.leases.pick(pick))
                    .unwrap_or(0);
                Request::Put(put)
            }
            Part::Touch { key } => Request::Put(rpc::PutRequest {
                key: name(*key).into(),
                ignore_value: true,
                ignore_lease: true,
                ..Default::default()
            }),
            Part::Delete { key } => requests::delete_own(&name(*key), author),
            Part::Read {
                from,
                to,
                back,
                limit,
            } => {
                let end = match from == to {
                    true => Vec::new(),
                    false => name(*to).into_bytes(),
                };
                Request::Range(rpc::RangeRequest {
                    revision: at(self.desk.revision, *back),
                    limit: *limit,
                    ..requests::range(name(*from), end)
                })
            }
            Part::Txn(step) => self.txn(step),
        }
    }

    fn condition(&self, condition: &Condition) -> rpc::Compare {
        let desk = self.desk;
        let union = match condition.of {
            Of::Version(version) => TargetUnion::Version(version),
            Of::Create(back) => TargetUnion::CreateRevision(at(desk.revision, back)),
            Of::Seen => {
                let seen = desk.seen.get(&condition.key).copied();
                TargetUnion::ModRevision(seen.unwrap_or(0))
            }
            Of::Lease(pick) => TargetUnion::Lease(desk.shared.leases.pick(pick).unwrap_or(0)),
            Of::Value => TargetUnion::Value("never".into()),
        };
        let result = rpc::compare::CompareResult::try_from(condition.result);
        let result = result.unwrap_or(rpc::compare::CompareResult::Equal);
        let mut compare = requests::compare_by(name(condition.key), result, union);
        if let Some(to) = condition.to {
            compare.range_end = name(to).into();
        }
        compare
    }
}
