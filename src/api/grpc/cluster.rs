//! Cluster: who the members are, and changes of them.

use tonic::Request as Incoming;

use super::{Answer, Edge, answered};
use crate::{
    kernel::Request,
    pb::etcdserverpb::{
        MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse,
        MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
        MemberUpdateRequest, MemberUpdateResponse, cluster_server::Cluster,
    },
};

#[tonic::async_trait]
impl Cluster for Edge {
    async fn member_add(&self, incoming: Incoming<MemberAddRequest>) -> Answer<MemberAddResponse> {
        answered!(self.call(incoming, Request::MemberAdd).await, MemberAdd)
    }

    async fn member_remove(
        &self,
        incoming: Incoming<MemberRemoveRequest>,
    ) -> Answer<MemberRemoveResponse> {
        answered!(
            self.call(incoming, Request::MemberRemove).await,
            MemberRemove
        )
    }

    async fn member_update(
        &self,
        incoming: Incoming<MemberUpdateRequest>,
    ) -> Answer<MemberUpdateResponse> {
        answered!(
            self.call(incoming, Request::MemberUpdate).await,
            MemberUpdate
        )
    }

    async fn member_list(
        &self,
        incoming: Incoming<MemberListRequest>,
    ) -> Answer<MemberListResponse> {
        answered!(self.call(incoming, Request::MemberList).await, MemberList)
    }

    async fn member_promote(
        &self,
        incoming: Incoming<MemberPromoteRequest>,
    ) -> Answer<MemberPromoteResponse> {
        answered!(
            self.call(incoming, Request::MemberPromote).await,
            MemberPromote
        )
    }
}
