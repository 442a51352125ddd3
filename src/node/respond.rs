//! Completes an answer with what only the answering member knows: its header, and how this member
//! calls founders that have not told their names yet.

use std::collections::BTreeMap;

use crate::{
    apply::InitialMember,
    kernel::{ClusterId, MemberId, Response, Term},
    pb::etcdserverpb::{Member, ResponseHeader},
};

/// Names that this member was told, by the ids they belong to.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<MemberId, String>);

impl Names {
    /// The names in the configuration.
    pub fn told(members: &[InitialMember]) -> Self {
        let members = members.iter();
        Self(members.map(|told| (told.id, told.name.clone())).collect())
    }

    /// Names those in the answer who have no name yet.
    pub fn fill(&self, response: &mut Response) {
        for member in members_of(response) {
            if let (true, Some(name)) = (
                member.name.is_empty(),
                self.0.get(&MemberId::new(member.id)),
            ) {
                member.name.clone_from(name);
            }
        }
    }
}

fn members_of(response: &mut Response) -> &mut [Member] {
    match response {
        Response::MemberList(response) => &mut response.members,
        Response::MemberAdd(response) => &mut response.members,
        Response::MemberRemove(response) => &mut response.members,
        Response::MemberUpdate(response) => &mut response.members,
        Response::MemberPromote(response) => &mut response.members,
        Response::Range(_)
        | Response::PartedRange(_)
        | Response::RangeChunk(_)
        | Response::Put(_)
        | Response::DeleteRange(_)
        | Response::Txn(_)
        | Response::PartedTxn(_)
        | Response::Compact(_)
        | Response::LeaseGrant(_)
        | Response::LeaseRevoke(_)
        | Response::LeaseKeepAlive(_)
        | Response::LeaseTimeToLive(_)
        | Response::LeaseLeases(_)
        | Response::Alarm(_)
        | Response::Status(_)
        | Response::Downgrade(_)
        | Response::Hash(_)
        | Response::HashKv(_)
        | Response::Defragment(_)
        | Response::SnapshotOpened { .. }
        | Response::MoveLeader(_)
        | Response::SnapshotChunk { .. }
        | Response::SnapshotClosed
        | Response::Health
        | Response::Metrics(_) => &mut [],
    }
}

/// Fills cluster, member and term in; the revision was set where the request was done.
pub fn fill(response: &mut Response, cluster: ClusterId, member: MemberId, term: Term) {
    let header = match response {
        Response::Range(response) => &mut response.header,
        Response::PartedRange(range) => &mut range.rest.header,
        Response::RangeChunk(chunk) => &mut chunk.response.header,
        Response::Put(response) => &mut response.header,
        Response::DeleteRange(response) => &mut response.header,
        Response::Txn(response) => &mut response.header,
        Response::PartedTxn(txn) => &mut txn.rest.header,
        Response::Compact(response) => &mut response.header,
        Response::LeaseGrant(response) => &mut response.header,
        Response::LeaseRevoke(response) => &mut response.header,
        Response::LeaseKeepAlive(response) => &mut response.header,
        Response::LeaseTimeToLive(response) => &mut response.header,
        Response::LeaseLeases(response) => &mut response.header,
        Response::MemberList(response) => &mut response.header,
        Response::MemberAdd(response) => &mut response.header,
        Response::MemberRemove(response) => &mut response.header,
        Response::MemberUpdate(response) => &mut response.header,
        Response::MemberPromote(response) => &mut response.header,
        Response::Alarm(response) => &mut response.header,
        Response::Status(response) => &mut response.header,
        Response::Downgrade(response) => &mut response.header,
        Response::Hash(response) => &mut response.header,
        Response::HashKv(response) => &mut response.header,
        // These answers carry no header, as in etcd.
        Response::Defragment(_)
        | Response::SnapshotOpened { .. }
        | Response::MoveLeader(_)
        | Response::SnapshotChunk { .. }
        | Response::SnapshotClosed
        | Response::Health
        | Response::Metrics(_) => return,
    };
    complete(header.get_or_insert_default(), cluster, member, term);
}

fn complete(header: &mut ResponseHeader, cluster: ClusterId, member: MemberId, term: Term) {
    header.cluster_id = cluster.get();
    header.member_id = member.get();
    header.raft_term = term.get();
}
