//! Whether an answer that a client saw is the one that the model gives.
//!
//! Not compared, because etcd does not say: the revision in the header of a compaction beyond that
//! it is not too small, that of lease reads, how long a lease still lives, the order of pairs that
//! sort alike.

use super::range::pairs_agree;
use super::{Answer, Model, Refusal};
use crate::history::*;

/// Whether the model's answer, right after the step that gave it, is an outcome that is known.
pub fn agrees(
    model: &Model,
    request: &Request,
    answer: &Result<Answer, Refusal>,
    outcome: &Outcome,
) -> bool {
    match (answer, outcome) {
        (_, Outcome::Unknown) => true,
        (Ok(answer), Outcome::Ok(response)) => {
            let mut sorted = model.sorted.iter();
            let comparison = Comparison {
                past_known: model.archive.is_some(),
                before: answer.before,
            };
            headers_agree(request, answer.revision, response.header.revision)
                && comparison.replies(request, &answer.reply, &response.reply, &mut sorted)
        }
        (Err(refusal), Outcome::Failed(failure)) => {
            let mut refusals = model.refusals.iter().chain([refusal]);
            refusals.any(|refusal| refusal.is(failure))
        }
        (Err(_), Outcome::Ok(_)) | (Ok(_), Outcome::Failed(_)) => false,
    }
}

/// The same, and what differs if it is not.
pub fn agree(
    model: &Model,
    request: &Request,
    answer: &Result<Answer, Refusal>,
    outcome: &Outcome,
) -> Result<(), String> {
    if agrees(model, request, answer, outcome) {
        return Ok(());
    }
    Err(match (answer, outcome) {
        (_, Outcome::Unknown) => unreachable!("every answer agrees with one that is not known"),
        (Ok(answer), Outcome::Ok(response)) => {
            let (right, observed) = (answer.revision, response.header.revision);
            if headers_agree(request, right, observed) {
                differ(&response.reply, &answer.reply)
            } else {
                format!("answered at revision {observed}, but {right} is right")
            }
        }
        (Err(refusal), Outcome::Ok(response)) => differ(&response.reply, refusal),
        (Err(refusal), Outcome::Failed(failure)) => differ(failure, refusal),
        (Ok(answer), Outcome::Failed(failure)) => differ(failure, &answer.reply),
    })
}

/// The request with the lease id that the cluster chose, if it had to choose one.
pub fn with_chosen_lease(request: &Request, outcome: &Outcome) -> Option<Request> {
    let Request::LeaseGrant(grant) = request else {
        return None;
    };
    let Outcome::Ok(Response { reply, .. }) = outcome else {
        return None;
    };
    let Reply::LeaseGrant(lease) = reply else {
        return None;
    };
    (grant.id == 0 && lease.id > 0).then(|| {
        Request::LeaseGrant(LeaseGrantRequest {
            id: lease.id,
            ..grant.clone()
        })
    })
}

fn differ(observed: &impl std::fmt::Debug, model: &impl std::fmt::Debug) -> String {
    format!(
        "answered {}, but {} is right",
        shorten(observed),
        shorten(model)
    )
}

fn shorten(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    match text.char_indices().nth(400) {
        Some((at, _)) => format!("{}..", &text[..at]),
        None => text,
    }
}

fn headers_agree(request: &Request, model: i64, observed: i64) -> bool {
    match request {
        // The revision of a compaction's header is read some time after the compaction.
        Request::Compact(_) => observed == 0 || observed >= model,
        Request::LeaseKeepAlive(_) | Request::LeaseTimeToLive(_) | Request::LeaseLeases => true,
        Request::Range(_)
        | Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Txn(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_) => observed == 0 || observed == model,
    }
}

struct Comparison {
    past_known: bool,
    before: i64,
}

impl Comparison {
    fn replies<'m>(
        &self,
        request: &Request,
        model: &Reply,
        observed: &Reply,
        sorted: &mut impl Iterator<Item = &'m Vec<KeyValue>>,
    ) -> bool {
        match (request, model, observed) {
            (Request::Range(range), Reply::Range(model), Reply::Range(observed)) => {
                let is_sorted = range.sort_target != SortTarget::Key && !range.count_only;
                let allowed = if is_sorted { sorted.next() } else { None };
                self.ranges(range, model, observed, allowed.map_or(&[], Vec::as_slice))
            }
            (Request::Txn(txn), Reply::Txn(model), Reply::Txn(observed)) => {
                let ops = if model.succeeded {
                    &txn.success
                } else {
                    &txn.failure
                };
                model.succeeded == observed.succeeded
                    && model.responses.len() == observed.responses.len()
                    && ops
                        .iter()
                        .zip(model.responses.iter().zip(&observed.responses))
                        .all(|(op, (model, observed))| {
                            self.replies(op, model, observed, &mut *sorted)
                        })
            }
            (_, Reply::LeaseTimeToLive(model), Reply::LeaseTimeToLive(observed)) => {
                let keys_agree = model.keys.len() == observed.keys.len()
                    && model.keys.iter().all(|key| observed.keys.contains(key));
                (model.id, model.granted_ttl) == (observed.id, observed.granted_ttl)
                    && (model.ttl == -1) == (observed.ttl == -1)
                    && observed.ttl <= model.ttl
                    && keys_agree
            }
            (_, Reply::LeaseLeases(model), Reply::LeaseLeases(observed)) => {
                let mut leases = observed.leases.clone();
                leases.sort_unstable();
                model.leases == leases
            }
            // The id that the cluster chose is no matter of right or wrong.
            (Request::LeaseGrant(grant), Reply::LeaseGrant(model), Reply::LeaseGrant(observed))
                if grant.id == 0 =>
            {
                model.ttl == observed.ttl && observed.id > 0
            }
            (_, model, observed) => model == observed,
        }
    }

    fn ranges(
        &self,
        request: &RangeRequest,
        model: &RangeReply,
        observed: &RangeReply,
        allowed: &[KeyValue],
    ) -> bool {
        let is_past = request.revision > 0 && request.revision < self.before;
        if is_past && !self.past_known {
            return true;
        }
        (model.more, model.count) == (observed.more, observed.count)
            && pairs_agree(request, &model.kvs, &observed.kvs, allowed)
    }
}
