//! Alarms through the log: what they forbid, who clears them, what a restart keeps.

use prost::Message;

use super::*;
use crate::{
    backend::Memory,
    kernel::{ApiError, EntryId, Instant, LogIndex, Response, Term},
    pb::{
        etcdserverpb::{
            CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RequestOp,
            TxnRequest, request_op::Request as Operation,
        },
        fated::command::{Command, LeaseRevoke, command::Body},
    },
    raft::{Entry, EntryKind},
};

const NOSPACE: AlarmType = AlarmType::Nospace;

struct Log {
    machine: StateMachine<Memory>,
}

impl Log {
    fn new() -> Self {
        let machine = StateMachine::load(Memory::default(), 1).expect("an empty store loads");
        Self { machine }
    }

    fn apply(&mut self, request_id: u64, body: Body) -> Result<Response, ApiError> {
        let command = Command {
            request_id,
            body: Some(body),
            ..Command::default()
        };
        let index = LogIndex::new(self.machine.applied_index().get() + 1);
        let entry = Entry {
            id: EntryId::new(Term::new(1), index),
            kind: EntryKind::Normal,
            data: command.encode_to_vec().into(),
        };
        let applied = self.machine.apply(&entry, Instant::ZERO);
        applied.expect("memory never fails").result
    }

    fn alarm(&mut self, by: u64, action: AlarmAction, member_id: u64, alarm: i32) -> Vec<u64> {
        let request = AlarmRequest {
            action: action as i32,
            member_id,
            alarm,
        };
        match self.apply(by, Body::Alarm(request)) {
            Ok(Response::Alarm(response)) => {
                assert!(response.alarms.iter().all(|one| one.alarm == alarm));
                response.alarms.iter().map(|one| one.member_id).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    fn reload(&mut self) {
        self.machine.commit_now().expect("memory never fails");
        let before = self.machine.alarms().clone();
        self.machine.reload().expect("memory never fails");
        assert_eq!(self.machine.alarms(), &before, "alarms survive a restart");
    }
}

fn put() -> PutRequest {
    PutRequest {
        key: "k".into(),
        ..Default::default()
    }
}

fn txn(operation: Operation) -> Body {
    Body::Txn(TxnRequest {
        failure: vec![RequestOp {
            request: Some(operation),
        }],
        ..Default::default()
    })
}

/// Every kind of write, and whether it is one that grows.
fn writes() -> Vec<(Body, bool)> {
    let delete = DeleteRangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    let grant = LeaseGrantRequest { ttl: 5, id: 7 };
    let revoke = LeaseRevoke {
        ids: vec![7],
        ..Default::default()
    };
    vec![
        (Body::Put(put()), true),
        (txn(Operation::RequestPut(put())), true),
        (Body::LeaseGrant(grant), true),
        (Body::DeleteRange(delete.clone()), false),
        (txn(Operation::RequestDeleteRange(delete)), false),
        (Body::LeaseRevoke(revoke), false),
        (Body::Compact(CompactionRequest::default()), false),
    ]
}

/// Goal: no space stops what grows and nothing else; corruption stops every write; both end when
/// the last alarm of their kind is cleared.
#[test]
fn alarms_forbid_what_they_should() {
    let kinds = [
        (NOSPACE, ApiError::NoSpace),
        (AlarmType::Corrupt, ApiError::Corrupt),
    ];
    for (kind, error) in kinds {
        let mut log = Log::new();
        for member in [1, 2] {
            log.alarm(9, AlarmAction::Activate, member, kind as i32);
        }
        log.alarm(9, AlarmAction::Deactivate, 1, kind as i32);
        log.reload();
        for (body, grows) in writes() {
            let stopped = grows || kind == AlarmType::Corrupt;
            let result = log.apply(9, body.clone());
            assert_eq!(result == Err(error), stopped, "{kind:?}: {body:?}");
        }
        log.alarm(9, AlarmAction::Deactivate, 2, kind as i32);
        for (body, _) in writes() {
            let result = log.apply(9, body.clone());
            assert_ne!(result, Err(error), "{kind:?}: {body:?}");
        }
    }
}

/// Goal: an operator's alarm is the operator's; what a member raised, both may clear.
#[test]
fn members_clear_only_what_members_raised() {
    let kind = NOSPACE as i32;
    let (activate, deactivate) = (AlarmAction::Activate, AlarmAction::Deactivate);
    let mut log = Log::new();
    assert_eq!(log.alarm(9, activate, 1, kind), [1]);
    assert_eq!(log.alarm(0, activate, 1, kind), [1], "it stands already");
    assert_eq!(log.alarm(0, activate, 2, kind), [2]);
    assert_eq!(log.alarm(9, activate, 2, kind), [2]);
    let own: Vec<_> = log
        .machine
        .alarms()
        .by_members(NOSPACE)
        .into_iter()
        .collect();
    assert_eq!(own, [MemberId::new(2)]);
    log.reload();
    assert!(log.alarm(0, deactivate, 1, kind).is_empty());
    assert_eq!(log.alarm(0, deactivate, 2, kind), [2]);
    assert!(log.alarm(9, deactivate, 2, kind).is_empty(), "it is gone");
    assert_eq!(log.alarm(9, deactivate, 1, kind), [1]);
    assert_eq!(log.machine.alarms(), &Alarms::default());
}

/// Goal: member zero stands for all when clearing, kind zero only when listing, and a kind that
/// nobody knows is kept like any other.
#[test]
fn zero_means_all_and_unknown_kinds_are_kept() {
    let mut log = Log::new();
    let (activate, deactivate) = (AlarmAction::Activate, AlarmAction::Deactivate);
    assert!(log.alarm(9, activate, 1, 0).is_empty());
    for (member, kind) in [(1, 1), (2, 1), (3, 2), (4, 77)] {
        assert_eq!(log.alarm(9, activate, member, kind), [member]);
    }
    assert_eq!(log.machine.alarms().list(0).len(), 4);
    assert_eq!(log.machine.alarms().list(77).len(), 1);
    assert!(log.alarm(9, deactivate, 0, 0).is_empty());
    assert_eq!(log.alarm(9, deactivate, 0, 1), [1, 2]);
    assert_eq!(log.alarm(9, AlarmAction::Get, 0, 2), [3]);
    assert_eq!(log.alarm(9, deactivate, 4, 77), [4]);
}
