//! Cluster: who the members are.

use tonic::Request as Incoming;

use super::{Answer, Edge, answered};
use crate::{
    api::status::not_yet,
    kernel::Request,
    pb::etcdserverpb::{
        MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
        MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
        MemberUpdateRequest, MemberUpdateResponse, cluster_server::Cluster,
    },
};

#[tonic::async_trait]
impl Cluster for Edge {
    async fn member_add(&self, _: Incoming<MemberAddRequest>) -> Answer<MemberAddResponse> {
        Err(not_yet("MemberAdd"))
    }

    async fn member_remove(
        &self,
        _: Incoming<MemberRemoveRequest>,
    ) -> Answer<MemberRemoveResponse> {
        Err(not_yet("MemberRemove"))
    }

    async fn member_update(
        &self,
        _: Incoming<MemberUpdateRequest>,
    ) -> Answer<MemberUpdateResponse> {
        Err(not_yet("MemberUpdate"))
    }

    async fn member_list(
        &self,
        incoming: Incoming<MemberListRequest>,
    ) -> Answer<MemberListResponse> {
        answered!(self.call(incoming, Request::MemberList).await, MemberList)
    }

    async fn member_promote(
        &self,
        _: Incoming<MemberPromoteRequest>,
    ) -> Answer<MemberPromoteResponse> {
        Err(not_yet("MemberPromote"))
    }
}
