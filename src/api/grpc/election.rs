//! Election: the oldest key leads, and its value is what the leader proclaims.

use bytes::Bytes;
use tokio::sync::mpsc;
use tonic::{Code, Request as Incoming, Response as Outgoing, Status};

use super::{
    Answer, Edge, Stream, credentials,
    recipe::{self, Desk},
    stream,
};
use crate::pb::{
    etcdserverpb::{ResponseHeader, TxnRequest, TxnResponse, range_request::SortOrder},
    mvccpb::{KeyValue, event::EventType},
    v3electionpb::{
        CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse,
        ProclaimRequest, ProclaimResponse, ResignRequest, ResignResponse,
        election_server::Election,
    },
};

const NO_LEADER: &str = "election: no leader";
const NOT_LEADER: &str = "election: not leader";
const NO_LEADER_GIVEN: &str = "\"leader\" field must be provided";

type Leaders = mpsc::Sender<Result<LeaderResponse, Status>>;

#[tonic::async_trait]
impl Election for Edge {
    type ObserveStream = Stream<LeaderResponse>;

    async fn campaign(&self, incoming: Incoming<CampaignRequest>) -> Answer<CampaignResponse> {
        let desk = Desk::new(self.handle.clone(), credentials(incoming.metadata())?);
        campaign(&desk, incoming.into_inner())
            .await
            .map(Outgoing::new)
    }

    async fn proclaim(&self, incoming: Incoming<ProclaimRequest>) -> Answer<ProclaimResponse> {
        let desk = Desk::new(self.handle.clone(), credentials(incoming.metadata())?);
        let ProclaimRequest { leader, value } = incoming.into_inner();
        let leader = leader.ok_or_else(|| Status::unknown(NO_LEADER_GIVEN))?;
        let session = desk.session(leader.lease).await?;
        let answer = proclaim(&desk, &leader.key, leader.rev, &value, session.lease).await?;
        session.keep();
        Ok(Outgoing::new(ProclaimResponse {
            header: answer.header,
        }))
    }

    async fn leader(&self, incoming: Incoming<LeaderRequest>) -> Answer<LeaderResponse> {
        let desk = Desk::new(self.handle.clone(), credentials(incoming.metadata())?);
        let (header, leader) = leader(&desk, &incoming.into_inner().name).await?;
        let kv = leader.ok_or_else(|| Status::unknown(NO_LEADER))?;
        Ok(Outgoing::new(LeaderResponse {
            header,
            kv: Some(kv),
        }))
    }

    async fn observe(&self, incoming: Incoming<LeaderRequest>) -> Answer<Self::ObserveStream> {
        let desk = Desk::new(self.handle.clone(), credentials(incoming.metadata())?);
        let name = incoming.into_inner().name;
        Ok(stream(move |leaders| async move {
            match observe(&desk, &name, leaders).await {
                // A client must hear of a member that stops. Of anything else etcd says nothing.
                Err(status) if status.code() == Code::Unavailable => Err(status),
                Ok(()) | Err(_) => Ok(()),
            }
        }))
    }

    async fn resign(&self, incoming: Incoming<ResignRequest>) -> Answer<ResignResponse> {
        let desk = Desk::new(self.handle.clone(), credentials(incoming.metadata())?);
        let leader = incoming.into_inner().leader;
        let leader = leader.ok_or_else(|| Status::unknown(NO_LEADER_GIVEN))?;
        // etcd makes a lease here for who brings none, which nobody would ever use.
        let removal = recipe::removal(&leader.key, leader.rev);
        let answer = desk.txn(removal).await?;
        Ok(Outgoing::new(ResignResponse {
            header: answer.header,
        }))
    }
}

/// Waits until the key of the caller's lease is the oldest.
async fn campaign(desk: &Desk, request: CampaignRequest) -> Result<CampaignResponse, Status> {
    let CampaignRequest { name, lease, value } = request;
    let session = desk.session(lease).await?;
    let lease = session.lease;
    let prefix = recipe::prefix(&name);
    let key = recipe::own_key(&prefix, lease);
    let answer = desk
        .txn(TxnRequest {
            compare: vec![recipe::created_at(&key, 0)],
            success: vec![recipe::put(&key, &value, lease)],
            failure: vec![recipe::read(recipe::get(&key))],
        })
        .await?;
    let rev = recipe::creation(&answer)?;
    let leave = desk.in_line(&key, rev);
    let before = recipe::first_read(&answer.responses, 0);
    if before.is_some_and(|before| before.value != value) {
        proclaim(desk, &key, rev, &value, lease).await?;
    }
    desk.turn(&prefix, rev - 1).await?;
    leave.disarm();
    session.keep();
    Ok(CampaignResponse {
        header: answer.header,
        leader: Some(LeaderKey {
            name,
            key,
            rev,
            lease,
        }),
    })
}

/// Gives the leader's key another value, if it is still the leader's.
async fn proclaim(
    desk: &Desk,
    key: &Bytes,
    rev: i64,
    value: &Bytes,
    lease: i64,
) -> Result<TxnResponse, Status> {
    let answer = desk
        .txn(TxnRequest {
            compare: vec![recipe::created_at(key, rev)],
            success: vec![recipe::put(key, value, lease)],
            failure: Vec::new(),
        })
        .await?;
    match answer.succeeded {
        true => Ok(answer),
        false => Err(Status::unknown(NOT_LEADER)),
    }
}

/// The oldest key, if there is one, and the header of the answer that says so.
async fn leader(
    desk: &Desk,
    name: &Bytes,
) -> Result<(Option<ResponseHeader>, Option<KeyValue>), Status> {
    let prefix = recipe::prefix(name);
    let request = recipe::by_creation(&prefix, SortOrder::Ascend);
    let answer = desk.range(request).await?;
    Ok((answer.header, answer.kvs.into_iter().next()))
}

/// Tells who leads now and what leaders proclaim from now on. Values may be skipped when leaders
/// change; the last one never is.
async fn observe(desk: &Desk, name: &Bytes, leaders: Leaders) -> Result<(), Status> {
    loop {
        let (mut header, kv) = leader(desk, name).await?;
        let read_at = header.as_ref().map_or(0, |header| header.revision);
        let kv = match kv {
            Some(kv) => kv,
            None => match first_put(desk, name, read_at).await? {
                Some((at, kv)) => {
                    header = at;
                    kv
                }
                None => continue,
            },
        };
        let key = kv.key.clone();
        let told_at = header.as_ref().map_or(0, |header| header.revision);
        let leader = LeaderResponse {
            header,
            kv: Some(kv),
        };
        if leaders.send(Ok(leader)).await.is_err() {
            return Ok(());
        }
        let mut watch = desk.watch(key, Bytes::new(), told_at + 1)?;
        'led: while let Some(response) = watch.next().await? {
            for event in response.events {
                if event.r#type() == EventType::Delete {
                    break 'led;
                }
                let leader = LeaderResponse {
                    header: response.header,
                    kv: event.kv,
                };
                if leaders.send(Ok(leader)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Waits for the first candidate. None when history is gone and the state must be read anew.
async fn first_put(
    desk: &Desk,
    name: &Bytes,
    from: i64,
) -> Result<Option<(Option<ResponseHeader>, KeyValue)>, Status> {
    let prefix = recipe::prefix(name);
    let mut watch = desk.watch(prefix.clone(), recipe::behind(&prefix), from)?;
    while let Some(response) = watch.next().await? {
        let is_put = |event: &crate::pb::mvccpb::Event| event.r#type() == EventType::Put;
        let put = response.events.into_iter().find(is_put);
        if let Some(kv) = put.and_then(|event| event.kv) {
            // The answer may hold later events too, which are told when they are read again.
            let header = response.header.map(|header| ResponseHeader {
                revision: kv.mod_revision,
                ..header
            });
            return Ok(Some((header, kv)));
        }
    }
    Ok(None)
}
