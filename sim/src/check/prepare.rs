//! What each operation can mean for the order of all, decided once.
//!
//! An operation that is known to have moved the revision claims the revision of its answer: only
//! it can be the step from the one before. An unknown one may fill a revision that nobody claims.
//! Everything else known must stand while its revision is the current one.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::{Guarantee, Options, Violation, Weakness};
use crate::history::*;
use crate::model::{Archive, Model, Refusal, agree, leases_of, with_chosen_lease};

/// What an operation can do to the order of all operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: it says nothing about the order, or is judged elsewhere.
    Aside,
    /// Known, without effect; at this revision if its answer names one.
    Read(Option<i64>),
    /// Known to be the step to this revision.
    Write(i64),
    /// A known grant while this revision was current.
    Grant(i64),
    /// A known revocation: the step to this revision, or no step at all.
    Revoke(i64),
    /// A known compaction.
    Compact,
    /// Perhaps a step to some revision.
    MaybeWrite,
    /// Perhaps a grant.
    MaybeGrant,
    /// Perhaps a compaction.
    MaybeCompact,
}

impl Kind {
    /// The revision that must not be passed without it.
    pub fn revision(self) -> Option<i64> {
        match self {
            Kind::Read(revision) => revision,
            Kind::Write(revision) | Kind::Grant(revision) | Kind::Revoke(revision) => {
                Some(revision)
            }
            Kind::Aside
            | Kind::Compact
            | Kind::MaybeWrite
            | Kind::MaybeGrant
            | Kind::MaybeCompact => None,
        }
    }
}

/// One operation, ready to be placed.
#[derive(Clone, Debug)]
pub struct Op<'h> {
    /// As it stands in the history.
    pub source: &'h Operation,
    /// What was asked, with the lease id that the cluster chose.
    pub request: Cow<'h, Request>,
    /// What it can do to the order.
    pub kind: Kind,
    /// The leases it names.
    pub leases: BTreeSet<i64>,
}

/// A history whose lines fit together.
#[derive(Debug)]
pub struct Prepared<'h> {
    /// The lines.
    pub history: &'h History,
    /// The operations, in the order of the file.
    pub ops: Vec<Op<'h>>,
    /// Where an id stands in `ops`.
    pub by_id: BTreeMap<u64, usize>,
}

/// One step of an order that explains a history.
#[derive(Clone, Debug)]
pub struct TimelineEntry {
    /// The operation, by its place; absent for the end of a lease that nobody asked for.
    pub op: Option<usize>,
    /// What was done.
    pub request: Request,
    /// The revision after it.
    pub revision: i64,
    /// When it was applied, if the log said so.
    pub time: Option<Time>,
}

/// An order that explains a history, and all that follows from it.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Everything that has or may have an effect, in order.
    pub entries: Vec<TimelineEntry>,
    /// All versions of all keys.
    pub archive: Archive,
    /// Unknown writes that may have been done at other places, or not at all.
    pub unresolved: Vec<usize>,
    /// Whether the order is that of the log. Otherwise it is one of those that explain the
    /// history, and the end of a lease without keys stands anywhere.
    pub is_log: bool,
}

impl<'h> Prepared<'h> {
    /// Sorts operations by what they can do. Refuses a history whose lines contradict each other.
    pub fn new(history: &'h History, options: &Options) -> Result<Prepared<'h>, Violation> {
        let mut by_id = BTreeMap::new();
        for (place, op) in history.ops.iter().enumerate() {
            if by_id.insert(op.id, place).is_some() {
                return Err(wrong(op, "its id is used twice".into()));
            }
        }
        check_processes(history)?;
        check_commits(history, &by_id)?;
        let mut ops = Vec::with_capacity(history.ops.len());
        for source in &history.ops {
            let chosen = with_chosen_lease(&source.request, &source.outcome);
            let request = chosen.map_or(Cow::Borrowed(&source.request), Cow::Owned);
            let mut leases = BTreeSet::new();
            leases_of(&request, &mut leases);
            ops.push(Op {
                source,
                kind: kind_of(source, options)?,
                request,
                leases,
            });
        }
        Ok(Prepared {
            history,
            ops,
            by_id,
        })
    }

    /// Refusals that must follow from the request alone, but do not. They are wrong at any time.
    pub fn timeless_violations(&self) -> Vec<Violation> {
        let mut model = Model::new(&self.history.meta);
        let mut violations = Vec::new();
        for op in &self.ops {
            let Outcome::Failed(failure) = &op.source.outcome else {
                continue;
            };
            if !Refusal::of(failure).is_some_and(Refusal::is_timeless) {
                continue;
            }
            let mark = model.mark();
            let answer = model.step(&op.request);
            let verdict = agree(&model, &op.request, &answer, &op.source.outcome);
            model.take_back(mark);
            if let Err(text) = verdict {
                violations.push(broken(Guarantee::Linearizable, op, text));
            }
        }
        violations
    }
}

/// A violation shown by one operation.
pub fn broken(guarantee: Guarantee, op: &Op<'_>, text: String) -> Violation {
    let Operation { id, request, .. } = op.source;
    Violation {
        guarantee,
        ops: vec![*id],
        time: op.source.ret.unwrap_or(op.source.call),
        text: format!("{} {id} {text}", name_of(request)),
    }
}

fn wrong(op: &Operation, text: String) -> Violation {
    Violation {
        guarantee: Guarantee::Format,
        ops: vec![op.id],
        time: op.call,
        text: format!("operation {}: {text}", op.id),
    }
}

/// One thread does one thing at a time; after an unknown outcome it may go on.
fn check_processes(history: &History) -> Result<(), Violation> {
    let mut order: Vec<&Operation> = history.ops.iter().collect();
    order.sort_by_key(|op| (op.client, op.process, op.call));
    for pair in order.windows(2) {
        let [before, after] = pair else { continue };
        let same = (before.client, before.process) == (after.client, after.process);
        if same && before.ret.is_some_and(|ret| ret > after.call) {
            let text = format!(
                "called while operation {} of its process was open",
                before.id
            );
            return Err(wrong(after, text));
        }
    }
    Ok(())
}

fn check_commits(history: &History, by_id: &BTreeMap<u64, usize>) -> Result<(), Violation> {
    let mut last: Option<&Commit> = None;
    for commit in &history.commits {
        let is_revoke = |commit: &Commit| matches!(commit.request, Request::LeaseRevoke(_));
        let falls = |last: &Commit| match is_revoke(last) && is_revoke(commit) {
            true => commit.index < last.index,
            false => commit.index <= last.index,
        };
        let text = if last.is_some_and(falls) {
            "the log does not rise"
        } else if commit.op.is_some_and(|id| !by_id.contains_key(&id)) {
            "carries an operation that is not in the history"
        } else {
            last = Some(commit);
            continue;
        };
        return Err(Violation {
            guarantee: Guarantee::Format,
            ops: commit.op.into_iter().collect(),
            time: commit.time.unwrap_or(0),
            text: format!("log entry {}: {text}", commit.index),
        });
    }
    Ok(())
}

fn kind_of(op: &Operation, options: &Options) -> Result<Kind, Violation> {
    if is_serializable(&op.request) {
        return Ok(Kind::Aside);
    }
    match &op.outcome {
        Outcome::Unknown if options.is_weak(Weakness::UnknownNeverApplied) => Ok(Kind::Aside),
        Outcome::Unknown => Ok(kind_of_unknown(&op.request)),
        Outcome::Failed(_) if options.is_weak(Weakness::NoErrors) => Ok(Kind::Aside),
        Outcome::Failed(failure) => match Refusal::of(failure) {
            // Timeless refusals are judged without an order; other errors say nothing.
            Some(refusal) if !refusal.is_timeless() => Ok(Kind::Read(None)),
            Some(_) | None => Ok(Kind::Aside),
        },
        Outcome::Ok(response) => match kind_of_known(op, response)? {
            Kind::Read(_) if options.is_weak(Weakness::NoHeaders) => Ok(Kind::Read(None)),
            kind => Ok(kind),
        },
    }
}

fn kind_of_unknown(request: &Request) -> Kind {
    match request {
        Request::Put(_) | Request::DeleteRange(_) => Kind::MaybeWrite,
        Request::Txn(txn) if may_write(txn) => Kind::MaybeWrite,
        Request::Compact(_) => Kind::MaybeCompact,
        // The id that the cluster chose was never told to anybody.
        Request::LeaseGrant(grant) if grant.id == 0 => Kind::Aside,
        Request::LeaseGrant(_) => Kind::MaybeGrant,
        // A lease may end at any time by itself; an unknown revocation adds nothing to that.
        Request::LeaseRevoke(_) => Kind::Aside,
        Request::Range(_)
        | Request::Txn(_)
        | Request::LeaseKeepAlive(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseLeases => Kind::Aside,
    }
}

fn kind_of_known(op: &Operation, response: &Response) -> Result<Kind, Violation> {
    let revision = response.header.revision;
    let kind = match &op.request {
        Request::Compact(_) => return Ok(Kind::Compact),
        // Members answer these from what they know; the lease checks judge them.
        Request::LeaseKeepAlive(_) | Request::LeaseTimeToLive(_) | Request::LeaseLeases => {
            return Ok(Kind::Aside);
        }
        Request::Range(_) => Kind::Read(Some(revision)),
        Request::Put(_) => Kind::Write(revision),
        Request::DeleteRange(_) | Request::Txn(_) if moves(&op.request, &response.reply) => {
            Kind::Write(revision)
        }
        Request::DeleteRange(_) | Request::Txn(_) => Kind::Read(Some(revision)),
        Request::LeaseGrant(_) => Kind::Grant(revision),
        Request::LeaseRevoke(_) => Kind::Revoke(revision),
    };
    if revision < 1 {
        return Err(wrong(
            op,
            "its answer lacks the revision of the header".into(),
        ));
    }
    Ok(kind)
}

/// Whether a request may be answered from a stale state.
pub fn is_serializable(request: &Request) -> bool {
    match request {
        Request::Range(range) => range.serializable,
        Request::Txn(txn) => {
            let mut ops = txn.success.iter().chain(&txn.failure).peekable();
            ops.peek().is_some()
                && ops.all(|op| matches!(op, Request::Range(range) if range.serializable))
        }
        Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseLeases => false,
    }
}

fn may_write(txn: &TxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Request::Put(_) | Request::DeleteRange(_) => true,
        Request::Txn(inner) => may_write(inner),
        Request::Range(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_)
        | Request::LeaseTimeToLive(_)
        | Request::LeaseLeases => false,
    })
}

/// Whether the answer says that something was written.
fn moves(request: &Request, reply: &Reply) -> bool {
    match (request, reply) {
        (Request::Put(_), _) => true,
        (_, Reply::DeleteRange(delete)) => delete.deleted > 0,
        (Request::Txn(txn), Reply::Txn(reply)) => {
            let ops = if reply.succeeded {
                &txn.success
            } else {
                &txn.failure
            };
            ops.iter()
                .zip(&reply.responses)
                .any(|(op, reply)| moves(op, reply))
        }
        (_, _) => false,
    }
}

/// Calls and returns in the order of time. What is called at the very time of a return overlaps it.
pub fn events_by_time<'p>(
    ops: impl Iterator<Item = (usize, &'p Operation)>,
    options: &Options,
) -> Vec<(Time, Moment, usize)> {
    let mut events = Vec::new();
    for (place, op) in ops {
        let call = if options.is_weak(Weakness::NoRealTime) {
            0
        } else {
            op.call
        };
        events.push((call, Moment::Call, place));
        events.extend(op.ret.map(|ret| (ret, Moment::Return, place)));
    }
    events.sort_unstable();
    events
}

/// Which end of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// Its beginning.
    Call,
    /// Its end.
    Return,
}
