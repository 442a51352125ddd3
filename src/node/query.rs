//! Answers that need only the state machine: reads, lists and status.

use super::mail::RaftStatus;
use crate::{
    apply::{ApplyError, StateMachine, kv::header},
    backend::Backend,
    kernel::{ApiError, BackendSize, Instant, LeaseId, MemberId, Request, Response},
    lease::TimeToLive,
    membership::version::Version,
    pb::etcdserverpb::{
        AlarmMember, AlarmResponse, AlarmType, DowngradeInfo, HashResponse, LeaseLeasesResponse,
        LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, StatusResponse,
    },
};

/// What a status needs besides the state machine.
#[derive(Debug)]
pub struct Facts<'a> {
    /// Raft's figures.
    pub raft: RaftStatus,
    /// Size of the backend.
    pub size: BackendSize,
    /// The version this server reports.
    pub version: &'a str,
    /// The space quota; less than one is none.
    pub quota_bytes: i64,
}

/// Answers a read from the current state.
pub fn answer<B: Backend>(
    machine: &StateMachine<B>,
    request: Request,
    now: Instant,
) -> Result<Response, ApplyError> {
    Ok(match request {
        Request::Range(request) => Response::Range(machine.range(&request)?),
        Request::RangeChunk(chunk) => Response::RangeChunk(machine.range_chunk(&chunk)?),
        Request::Txn(request) => machine.read_txn(&request)?,
        Request::LeaseTimeToLive(request) => {
            Response::LeaseTimeToLive(time_to_live(machine, &request, now)?)
        }
        Request::LeaseLeases(_) => Response::LeaseLeases(LeaseLeasesResponse {
            header: header(machine.store().revision()),
            leases: leases(machine),
        }),
        Request::MemberList(_) => Response::MemberList(machine.member_list()),
        Request::Alarm(request) => Response::Alarm(AlarmResponse {
            header: header(machine.store().revision()),
            alarms: machine.alarms().list(request.alarm),
        }),
        Request::Hash(_) => Response::Hash(HashResponse {
            header: header(machine.store().revision()),
            hash: machine.hash_backend()?,
        }),
        Request::Health => {
            if machine.alarms().any(AlarmType::Corrupt) {
                return Err(ApiError::Corrupt.into());
            }
            Response::Health
        }
        Request::Put(_)
        | Request::DeleteRange(_)
        | Request::Compact(_)
        | Request::LeaseGrant(_)
        | Request::LeaseRevoke(_)
        | Request::LeaseKeepAlive(_)
        | Request::MemberAdd(_)
        | Request::MemberRemove(_)
        | Request::MemberUpdate(_)
        | Request::MemberPromote(_)
        | Request::Status(_)
        | Request::Defragment(_)
        | Request::HashKv(_)
        | Request::MoveLeader(_)
        | Request::Downgrade(_)
        | Request::SnapshotOpen
        | Request::SnapshotRead { .. }
        | Request::SnapshotClose { .. }
        | Request::Invalid(..)
        | Request::Metrics => unreachable!("the frontend routes this request elsewhere"),
    })
}

fn time_to_live<B: Backend>(
    machine: &StateMachine<B>,
    request: &LeaseTimeToLiveRequest,
    now: Instant,
) -> Result<LeaseTimeToLiveResponse, ApiError> {
    let id = LeaseId::new(request.id);
    let header = header(machine.store().revision());
    let lessor = machine.lessor();
    match lessor.time_to_live(id, now) {
        Ok(TimeToLive { remaining, granted }) => Ok(LeaseTimeToLiveResponse {
            header,
            id: request.id,
            ttl: remaining,
            granted_ttl: granted,
            keys: if request.keys {
                lessor.keys(id).cloned().collect()
            } else {
                Vec::new()
            },
        }),
        // A lease that is not there is an answer, not an error.
        Err(ApiError::LeaseNotFound) => {
            let id = request.id;
            Ok(LeaseTimeToLiveResponse {
                header,
                id,
                ttl: -1,
                ..Default::default()
            })
        }
        Err(error) => Err(error),
    }
}

fn leases<B: Backend>(machine: &StateMachine<B>) -> Vec<LeaseStatus> {
    machine
        .lessor()
        .list()
        .into_iter()
        .map(|id| LeaseStatus { id: id.get() })
        .collect()
}

/// The answer to Status.
pub fn status<B: Backend>(machine: &StateMachine<B>, facts: &Facts<'_>) -> StatusResponse {
    let mut errors = Vec::new();
    if facts.raft.leader.is_none() {
        errors.push(ApiError::NoLeader.text().to_owned());
    }
    for AlarmMember { member_id, alarm } in machine.alarms().list(AlarmType::None as i32) {
        errors.push(alarm_text(member_id, alarm));
    }
    StatusResponse {
        header: header(machine.store().revision()),
        version: facts.version.to_owned(),
        db_size: facts.size.file_bytes.cast_signed(),
        db_size_in_use: facts.size.used_bytes.cast_signed(),
        db_size_quota: facts.quota_bytes,
        leader: facts.raft.leader.map_or(0, MemberId::get),
        raft_index: facts.raft.committed.get(),
        raft_applied_index: machine.applied_index().get(),
        raft_term: facts.raft.term.get(),
        errors,
        is_learner: facts.raft.is_learner,
        storage_version: storage_version(machine),
        downgrade_info: Some(downgrade_info(machine.cluster().downgrade())),
    }
}

/// The text form of an alarm, which leaves out what is zero.
fn alarm_text(member: u64, alarm: i32) -> String {
    let member = (member != 0).then(|| format!("memberID:{member}"));
    let alarm = match AlarmType::try_from(alarm) {
        Ok(known) => format!("alarm:{}", known.as_str_name()),
        Err(_) => format!("alarm:{alarm}"),
    };
    let parts: Vec<String> = member.into_iter().chain([alarm]).collect();
    parts.join(" ")
}

fn downgrade_info(target: Option<Version>) -> DowngradeInfo {
    DowngradeInfo {
        enabled: target.is_some(),
        target_version: target.map_or(String::new(), |target| target.to_string()),
    }
}

/// The version of the stored format: that of the cluster, as etcd shows it.
fn storage_version<B: Backend>(machine: &StateMachine<B>) -> String {
    machine
        .cluster()
        .cluster_version()
        .map_or(String::new(), |version| version.to_string())
}
