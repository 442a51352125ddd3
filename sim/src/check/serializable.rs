//! Reads that need not be fresh: they must show one state that was there, the very one that they
//! name, and none from the future.

use super::prepare::{Op, Prepared, broken, is_serializable};
use super::times::Times;
use super::{Guarantee, Options, Timeline, Violation, Weakness};
use crate::history::*;
use crate::model::{Model, Refusal, agree, answers_as_at};

/// Compares every stale read and every read at a named revision with the archive.
pub fn check(prepared: &Prepared<'_>, timeline: &Timeline, options: &Options) -> Vec<Violation> {
    if options.is_weak(Weakness::NoSerializable) {
        return Vec::new();
    }
    let times = Times::new(prepared, timeline);
    let mut violations = Vec::new();
    for op in &prepared.ops {
        let verdict = match &op.source.outcome {
            Outcome::Ok(response) => check_answer(op, response, timeline, &times, prepared),
            Outcome::Failed(failure) => check_failure(op, failure, &times),
            Outcome::Unknown => Ok(()),
        };
        if let Err(text) = verdict {
            violations.push(broken(Guarantee::Serializable, op, text));
        }
    }
    violations
}

fn check_answer(
    op: &Op<'_>,
    response: &Response,
    timeline: &Timeline,
    times: &Times,
    prepared: &Prepared<'_>,
) -> Result<(), String> {
    let revision = response.header.revision;
    let ret = op.source.ret.expect("an answer has a time");
    if is_serializable(&op.request) {
        let (first, last) = (timeline.archive.first(), timeline.archive.last());
        if !(first..=last).contains(&revision) {
            return Err(format!("answered at revision {revision}, which never was"));
        }
        if times.born(revision) > ret {
            return Err(format!(
                "answered at revision {revision}, which was yet to come"
            ));
        }
        if let Request::Txn(_) = &*op.request {
            let mut model = Model::at(&timeline.archive, revision, &prepared.history.meta);
            let answer = model.step(&op.request);
            agree(&model, &op.request, &answer, &op.source.outcome)?;
        }
    }
    check_ranges(&op.request, &response.reply, revision, timeline)
}

/// Every range within the answer whose content depends on one known revision alone.
fn check_ranges(
    request: &Request,
    reply: &Reply,
    revision: i64,
    timeline: &Timeline,
) -> Result<(), String> {
    match (request, reply) {
        (Request::Range(range), Reply::Range(observed)) => {
            let at = if range.revision > 0 {
                range.revision
            } else {
                revision
            };
            let is_judged_here = range.revision > 0 || range.serializable;
            if !is_judged_here || at < timeline.archive.first() {
                return Ok(());
            }
            if at > revision {
                return Err(format!("answered for revision {at} at revision {revision}"));
            }
            if answers_as_at(&timeline.archive, range, at, observed) {
                return Ok(());
            }
            Err(format!("does not show the state at revision {at}"))
        }
        (Request::Txn(txn), Reply::Txn(reply)) => {
            let ops = if reply.succeeded {
                &txn.success
            } else {
                &txn.failure
            };
            for (op, reply) in ops.iter().zip(&reply.responses) {
                // What the txn itself wrote is no matter of the archive; the order judges it.
                if matches!(op, Request::Range(range) if range.revision <= 0) {
                    continue;
                }
                check_ranges(op, reply, revision, timeline)?;
            }
            Ok(())
        }
        (_, _) => Ok(()),
    }
}

fn check_failure(op: &Op<'_>, failure: &Failure, times: &Times) -> Result<(), String> {
    let Request::Range(range) = &*op.request else {
        return Ok(());
    };
    let ret = op.source.ret.expect("a failure has a time");
    let claims_compaction = Refusal::of(failure) == Some(Refusal::Compacted);
    if range.serializable && claims_compaction && !times.may_be_compacted(range.revision, ret) {
        return Err(format!(
            "says that revision {} is compacted",
            range.revision
        ));
    }
    Ok(())
}
