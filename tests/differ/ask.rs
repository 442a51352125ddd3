//! What is asked and what comes back, as values that can be printed, compared and translated.

use fated::pb::{
    etcdserverpb::{
        AlarmRequest, AlarmResponse, CompactionRequest, CompactionResponse, DefragmentRequest,
        DefragmentResponse, DeleteRangeRequest, DeleteRangeResponse, DowngradeRequest,
        DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest, HashResponse,
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
        LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse,
        LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, MemberAddRequest, MemberAddResponse,
        MemberListRequest, MemberListResponse, MemberPromoteRequest, MemberPromoteResponse,
        MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest, MemberUpdateResponse,
        MoveLeaderRequest, MoveLeaderResponse, PutRequest, PutResponse, RangeRequest,
        RangeResponse, RequestOp, ResponseHeader, ResponseOp, SnapshotRequest, SnapshotResponse,
        StatusRequest, StatusResponse, TxnRequest, TxnResponse, WatchRequest, WatchResponse,
        compare::TargetUnion, request_op, response_op,
    },
    mvccpb::KeyValue,
    v3electionpb::{
        CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse,
        ProclaimRequest, ProclaimResponse, ResignRequest, ResignResponse,
    },
    v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse},
};

macro_rules! exchange {
    ($($name:ident $request:ident $response:ident)*) => {
        /// One request.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Ask {
            $($name($request),)*
            /// Opens a watch stream of this number.
            OpenStream(usize),
            /// Sends on a watch stream.
            Watch(usize, WatchRequest),
            /// Closes a watch stream.
            CloseStream(usize),
            /// Waits until both servers have sent the same on every stream.
            Settle,
            /// The same, but not before etcd has read on in history, which it does every 100 ms.
            SettleBehind,
        }

        /// What a good answer says.
        #[derive(Clone, PartialEq, Debug)]
        pub enum Reply {
            $($name($response),)*
            /// It was sent; what comes back is compared when streams settle.
            Sent,
        }

        impl Ask {
            /// The call by name.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => stringify!($name),)*
                    Self::OpenStream(_) => "OpenStream",
                    Self::Watch(..) => "Watch",
                    Self::CloseStream(_) => "CloseStream",
                    Self::Settle | Self::SettleBehind => "Settle",
                }
            }
        }

        impl Reply {
            fn header(&mut self) -> Option<&mut ResponseHeader> {
                match self {
                    $(Self::$name(reply) => reply.header.as_mut(),)*
                    Self::Sent => None,
                }
            }
        }
    };
}

exchange! {
    Range RangeRequest RangeResponse
    RangeStream RangeRequest RangeResponse
    Put PutRequest PutResponse
    DeleteRange DeleteRangeRequest DeleteRangeResponse
    Txn TxnRequest TxnResponse
    Compact CompactionRequest CompactionResponse
    LeaseGrant LeaseGrantRequest LeaseGrantResponse
    LeaseRevoke LeaseRevokeRequest LeaseRevokeResponse
    LeaseKeepAlive LeaseKeepAliveRequest LeaseKeepAliveResponse
    LeaseTimeToLive LeaseTimeToLiveRequest LeaseTimeToLiveResponse
    LeaseLeases LeaseLeasesRequest LeaseLeasesResponse
    MemberAdd MemberAddRequest MemberAddResponse
    MemberRemove MemberRemoveRequest MemberRemoveResponse
    MemberUpdate MemberUpdateRequest MemberUpdateResponse
    MemberPromote MemberPromoteRequest MemberPromoteResponse
    MemberList MemberListRequest MemberListResponse
    Alarm AlarmRequest AlarmResponse
    Status StatusRequest StatusResponse
    Defragment DefragmentRequest DefragmentResponse
    Hash HashRequest HashResponse
    HashKv HashKvRequest HashKvResponse
    Snapshot SnapshotRequest SnapshotResponse
    MoveLeader MoveLeaderRequest MoveLeaderResponse
    Downgrade DowngradeRequest DowngradeResponse
    Lock LockRequest LockResponse
    Unlock UnlockRequest UnlockResponse
    Campaign CampaignRequest CampaignResponse
    Proclaim ProclaimRequest ProclaimResponse
    Leader LeaderRequest LeaderResponse
    Observe LeaderRequest LeaderResponse
    Resign ResignRequest ResignResponse
}

/// A refusal: gRPC's code by its number, and the text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// gRPC's code.
    pub code: i32,
    /// The text that clients compare.
    pub text: String,
}

/// What came back.
pub type Answer = Result<Reply, Refusal>;

/// Ids that each server chose by itself, etcd's beside fated's.
#[derive(Default)]
pub struct Ids {
    leases: Vec<(i64, i64)>,
    members: Vec<(u64, u64)>,
}

impl Ids {
    /// Notes a lease that both servers granted under ids of their own.
    pub fn lease(&mut self, reference: i64, subject: i64) {
        if reference != subject {
            self.leases.push((reference, subject));
        }
    }

    /// Notes a member that both servers added under ids of their own.
    pub fn member(&mut self, reference: u64, subject: u64) {
        if reference != subject {
            self.members.push((reference, subject));
        }
    }

    fn lease_to_subject(&self, id: &mut i64) {
        if let Some((_, subject)) = self.leases.iter().find(|(reference, _)| reference == id) {
            *id = *subject;
        }
    }

    fn lease_to_reference(&self, id: &mut i64) {
        if let Some((reference, _)) = self.leases.iter().find(|(_, subject)| subject == id) {
            *id = *reference;
        }
    }

    fn member_to_subject(&self, id: &mut u64) {
        if let Some((_, subject)) = self.members.iter().find(|(reference, _)| reference == id) {
            *id = *subject;
        }
    }

    fn member_to_reference(&self, id: &mut u64) {
        if let Some((reference, _)) = self.members.iter().find(|(_, subject)| subject == id) {
            *id = *reference;
        }
    }

    /// The request as fated must be asked it.
    pub fn for_subject(&self, ask: &Ask) -> Ask {
        let mut ask = ask.clone();
        match &mut ask {
            Ask::Put(put) => self.lease_to_subject(&mut put.lease),
            Ask::Txn(txn) => self.txn_to_subject(txn),
            Ask::LeaseGrant(request) => self.lease_to_subject(&mut request.id),
            Ask::LeaseRevoke(request) => self.lease_to_subject(&mut request.id),
            Ask::LeaseKeepAlive(request) => self.lease_to_subject(&mut request.id),
            Ask::LeaseTimeToLive(request) => self.lease_to_subject(&mut request.id),
            Ask::Lock(request) => self.lease_to_subject(&mut request.lease),
            Ask::Campaign(request) => self.lease_to_subject(&mut request.lease),
            Ask::Proclaim(ProclaimRequest { leader, .. })
            | Ask::Resign(ResignRequest { leader }) => {
                if let Some(LeaderKey { lease, .. }) = leader {
                    self.lease_to_subject(lease);
                }
            }
            Ask::MemberRemove(request) => self.member_to_subject(&mut request.id),
            Ask::MemberUpdate(request) => self.member_to_subject(&mut request.id),
            Ask::MemberPromote(request) => self.member_to_subject(&mut request.id),
            Ask::Alarm(request) => self.member_to_subject(&mut request.member_id),
            Ask::MoveLeader(request) => self.member_to_subject(&mut request.target_id),
            _ => {}
        }
        ask
    }

    fn txn_to_subject(&self, txn: &mut TxnRequest) {
        for compare in &mut txn.compare {
            if let Some(TargetUnion::Lease(lease)) = &mut compare.target_union {
                self.lease_to_subject(lease);
            }
        }
        for RequestOp { request } in txn.success.iter_mut().chain(&mut txn.failure) {
            match request {
                Some(request_op::Request::RequestPut(put)) => self.lease_to_subject(&mut put.lease),
                Some(request_op::Request::RequestTxn(nested)) => self.txn_to_subject(nested),
                _ => {}
            }
        }
    }

    /// Puts etcd's ids in the place of fated's.
    pub fn in_reply(&self, reply: &mut Reply) {
        reply.each_kv(&mut |kv| self.lease_to_reference(&mut kv.lease));
        match reply {
            Reply::LeaseGrant(reply) => self.lease_to_reference(&mut reply.id),
            Reply::LeaseKeepAlive(reply) => self.lease_to_reference(&mut reply.id),
            Reply::LeaseTimeToLive(reply) => self.lease_to_reference(&mut reply.id),
            Reply::LeaseLeases(reply) => {
                for lease in &mut reply.leases {
                    self.lease_to_reference(&mut lease.id);
                }
            }
            Reply::Campaign(reply) => {
                if let Some(leader) = &mut reply.leader {
                    self.lease_to_reference(&mut leader.lease);
                }
            }
            Reply::MemberAdd(reply) => {
                if let Some(member) = &mut reply.member {
                    self.member_to_reference(&mut member.id);
                }
            }
            Reply::Alarm(reply) => {
                for alarm in &mut reply.alarms {
                    self.member_to_reference(&mut alarm.member_id);
                }
            }
            _ => {}
        }
        let members = reply.members();
        let in_order = members.is_sorted_by_key(|member| member.id);
        for member in &mut *members {
            self.member_to_reference(&mut member.id);
        }
        // Both list by id; where the ids are other ones, so is the order.
        if in_order {
            members.sort_by_key(|member| member.id);
        }
    }

    /// The same for what comes on a watch stream.
    pub fn in_watch(&self, response: &mut WatchResponse) {
        for event in &mut response.events {
            for kv in event.kv.iter_mut().chain(&mut event.prev_kv) {
                self.lease_to_reference(&mut kv.lease);
            }
        }
    }
}

impl Reply {
    /// Visits every header, nested ones included.
    pub fn each_header(&mut self, visit: &mut dyn FnMut(&mut ResponseHeader)) {
        if let Some(header) = self.header() {
            visit(header);
        }
        if let Self::Txn(txn) = self {
            txn_headers(txn, visit);
        }
    }

    /// Visits every record.
    pub fn each_kv(&mut self, visit: &mut dyn FnMut(&mut KeyValue)) {
        match self {
            Self::Range(reply) | Self::RangeStream(reply) => reply.kvs.iter_mut().for_each(visit),
            Self::Put(reply) => reply.prev_kv.iter_mut().for_each(visit),
            Self::DeleteRange(reply) => reply.prev_kvs.iter_mut().for_each(visit),
            Self::Leader(reply) | Self::Observe(reply) => reply.kv.iter_mut().for_each(visit),
            Self::Txn(reply) => txn_kvs(reply, visit),
            _ => {}
        }
    }

    /// The members it lists.
    pub fn members(&mut self) -> &mut [fated::pb::etcdserverpb::Member] {
        match self {
            Self::MemberAdd(reply) => &mut reply.members,
            Self::MemberRemove(reply) => &mut reply.members,
            Self::MemberUpdate(reply) => &mut reply.members,
            Self::MemberPromote(reply) => &mut reply.members,
            Self::MemberList(reply) => &mut reply.members,
            _ => &mut [],
        }
    }
}

fn txn_headers(txn: &mut TxnResponse, visit: &mut dyn FnMut(&mut ResponseHeader)) {
    for ResponseOp { response } in &mut txn.responses {
        let header = match response {
            Some(response_op::Response::ResponseRange(reply)) => reply.header.as_mut(),
            Some(response_op::Response::ResponsePut(reply)) => reply.header.as_mut(),
            Some(response_op::Response::ResponseDeleteRange(reply)) => reply.header.as_mut(),
            Some(response_op::Response::ResponseTxn(nested)) => {
                txn_headers(nested, visit);
                nested.header.as_mut()
            }
            None => None,
        };
        header.into_iter().for_each(&mut *visit);
    }
}

fn txn_kvs(txn: &mut TxnResponse, visit: &mut dyn FnMut(&mut KeyValue)) {
    for ResponseOp { response } in &mut txn.responses {
        match response {
            Some(response_op::Response::ResponseRange(reply)) => {
                reply.kvs.iter_mut().for_each(&mut *visit);
            }
            Some(response_op::Response::ResponsePut(reply)) => {
                reply.prev_kv.iter_mut().for_each(&mut *visit);
            }
            Some(response_op::Response::ResponseDeleteRange(reply)) => {
                reply.prev_kvs.iter_mut().for_each(&mut *visit);
            }
            Some(response_op::Response::ResponseTxn(nested)) => txn_kvs(nested, visit),
            None => {}
        }
    }
}
