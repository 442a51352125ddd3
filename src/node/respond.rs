//! Completes the header of an answer with what only the answering member knows.

use crate::{
    kernel::{ClusterId, MemberId, Response, Term},
    pb::etcdserverpb::ResponseHeader,
};

/// Fills cluster, member and term in; the revision was set where the request was done.
pub fn fill(response: &mut Response, cluster: ClusterId, member: MemberId, term: Term) {
    let header = match response {
        Response::Range(response) => &mut response.header,
        Response::RangeChunk(chunk) => &mut chunk.response.header,
        Response::Put(response) => &mut response.header,
        Response::DeleteRange(response) => &mut response.header,
        Response::Txn(response) => &mut response.header,
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
