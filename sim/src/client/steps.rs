//! What a client asks in a single step, what it remembers of answers, and what errors mean to it.

use std::collections::BTreeMap;

use fated::{
    api::check,
    kernel::{ApiError, Request, Response, error::Code, limits},
    pb::etcdserverpb as rpc,
};

use super::{Client, Script};
use crate::{
    script::What,
    work::requests::{
        Author, behind, compare, delete, name, number_of, read, revision_of, txn, write,
    },
};

/// What the edge of production refuses before the core sees it.
pub(super) fn check_at_the_edge(request: &Request) -> Result<(), ApiError> {
    match request {
        Request::Range(range) => check::range(range),
        Request::Put(put) => check::put(put),
        Request::DeleteRange(delete) => check::delete_range(delete),
        Request::Txn(txn) => check::txn(txn, limits::TXN_OPS_MAX),
        _ => Ok(()),
    }
}

/// Which branch a txn took, if it had work in both.
pub(super) fn branch_counter(request: &Request, response: &Response) -> Option<&'static str> {
    let (Request::Txn(request), Response::Txn(response)) = (request, response) else {
        return None;
    };
    let both = !request.success.is_empty() && !request.failure.is_empty();
    both.then_some(match response.succeeded {
        true => "work: txn took its first branch of two",
        false => "work: txn took its second branch of two",
    })
}

/// Errors after which it is certain that nothing was done and nothing will be.
pub fn changes_nothing(error: ApiError) -> bool {
    match error.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::OutOfRange
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::PermissionDenied
        | Code::Unauthenticated => true,
        Code::Unknown => matches!(
            error,
            ApiError::TooManyRequests | ApiError::MemberNotEnoughStarted
        ),
        Code::Unavailable => error == ApiError::Unhealthy,
        Code::Canceled
        | Code::DeadlineExceeded
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss => false,
    }
}

impl Client {
    pub(super) fn new(script: Script, member: usize) -> Self {
        Self {
            script,
            member,
            moved: false,
            open: None,
            job: None,
            called: 0,
            failed_at: None,
            serial: 0,
            revision: 0,
            seen: BTreeMap::new(),
        }
    }

    /// How long it thinks before its next step.
    pub(super) fn next_wait(&self) -> u64 {
        match &self.script {
            Script::Steps { steps, next } => steps.get(*next).map_or(0, |step| step.wait_us * 1000),
            Script::Probe { .. } => 0,
        }
    }

    pub(super) fn request(&self, number: usize, what: &What) -> Request {
        let author = Author {
            client: number,
            serial: self.serial,
        };
        let behind = |key: u64| behind(&name(key), author);
        match what {
            What::Put { key, bytes } => write(name(*key), author, *bytes),
            What::Get { key, serializable } => Request::Range(rpc::RangeRequest {
                key: name(*key).into(),
                serializable: *serializable,
                ..Default::default()
            }),
            What::Range { from, to, back } => Request::Range(rpc::RangeRequest {
                key: name(*from).into(),
                range_end: name(*to).into(),
                revision: match back {
                    0 => 0,
                    back => (self.revision - back).max(1),
                },
                ..Default::default()
            }),
            What::Delete { key } => delete(name(*key), behind(*key)),
            What::DeleteRange { from, to } => {
                delete(name(*from), behind(to.saturating_sub(1).max(*from)))
            }
            What::Swap { key } => {
                let known = self.seen.get(key).copied().unwrap_or_default();
                let compare = compare(name(*key), rpc::compare::TargetUnion::ModRevision(known));
                let success = vec![write(name(*key), author, 1)];
                let failure = vec![read(name(*key), Vec::new())];
                txn(compare, success, failure)
            }
            What::Txn { keys } => {
                let compare = compare(name(keys[0]), rpc::compare::TargetUnion::Version(0));
                let put = |key: &u64| write(name(*key), author, 1 + *key);
                let success = keys.iter().map(put).collect();
                let mut failure = vec![delete(name(keys[0]), Vec::new())];
                let rest = keys[1..].iter();
                failure.extend(rest.map(|key| read(name(*key), Vec::new())));
                txn(compare, success, failure)
            }
            What::Compact { back } => Request::Compact(rpc::CompactionRequest {
                revision: (self.revision - back).max(1),
                physical: false,
            }),
            What::Look(_)
            | What::Wide(_)
            | What::Lease(_)
            | What::Lock(_)
            | What::Queue(_)
            | What::Kube(_)
            | What::Upkeep(_) => unreachable!("a job does this step"),
        }
    }

    /// Remembers what an answer shows.
    pub(super) fn learn(&mut self, request: &Request, response: &Response) {
        match (request, response) {
            (Request::Range(_), Response::Range(response)) => {
                self.at_revision(response.header.as_ref());
                self.learn_pairs(&response.kvs);
            }
            (Request::Put(put), Response::Put(response)) => {
                self.at_revision(response.header.as_ref());
                if let Some(key) = number_of(&put.key) {
                    let revision = revision_of(response.header.as_ref());
                    self.seen.insert(key, revision);
                }
            }
            (_, Response::Txn(response)) => {
                self.at_revision(response.header.as_ref());
                for op in &response.responses {
                    if let Some(rpc::response_op::Response::ResponseRange(range)) = &op.response {
                        self.learn_pairs(&range.kvs);
                    }
                }
            }
            (_, Response::DeleteRange(response)) => self.at_revision(response.header.as_ref()),
            (_, _) => {}
        }
    }

    fn at_revision(&mut self, header: Option<&rpc::ResponseHeader>) {
        self.revision = self.revision.max(revision_of(header));
    }

    fn learn_pairs(&mut self, pairs: &[fated::pb::mvccpb::KeyValue]) {
        for pair in pairs {
            if let Some(key) = number_of(&pair.key) {
                self.seen.insert(key, pair.mod_revision);
            }
        }
    }
}
