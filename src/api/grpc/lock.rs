//! Lock: mutual exclusion by the oldest key.

use tonic::{Request as Incoming, Response as Outgoing, Status};

use super::{
    Answer, Edge, credentials,
    recipe::{self, Desk},
};
use crate::{
    api::{check, status},
    kernel::{Request, Response},
    pb::{
        etcdserverpb::{DeleteRangeRequest, TxnRequest, range_request::SortOrder},
        v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse, lock_server::Lock},
    },
};

#[tonic::async_trait]
impl Lock for Edge {
    async fn lock(&self, incoming: Incoming<LockRequest>) -> Answer<LockResponse> {
        let desk = Desk::new(self.handle.clone(), credentials(incoming.metadata())?);
        acquire(&desk, incoming.into_inner())
            .await
            .map(Outgoing::new)
    }

    async fn unlock(&self, incoming: Incoming<UnlockRequest>) -> Answer<UnlockResponse> {
        let desk = Desk::new(self.handle.clone(), credentials(incoming.metadata())?);
        let request = DeleteRangeRequest {
            key: incoming.into_inner().key,
            ..Default::default()
        };
        check::delete_range(&request).map_err(recipe::told)?;
        match desk.ask(Request::DeleteRange(request)).await? {
            Response::DeleteRange(answer) => Ok(Outgoing::new(UnlockResponse {
                header: answer.header,
            })),
            _ => Err(status::mismatch()),
        }
    }
}

/// Waits until the key of the caller's lease is the oldest.
async fn acquire(desk: &Desk, request: LockRequest) -> Result<LockResponse, Status> {
    let session = desk.session(request.lease).await?;
    let lease = session.lease;
    let prefix = recipe::prefix(&request.name);
    let key = recipe::own_key(&prefix, lease);
    let owner = || recipe::read(recipe::by_creation(&prefix, SortOrder::Ascend));
    let put = recipe::put(&key, &bytes::Bytes::new(), lease);
    let answer = desk
        .txn(TxnRequest {
            compare: vec![recipe::created_at(&key, 0)],
            success: vec![put, owner()],
            failure: vec![recipe::read(recipe::get(&key)), owner()],
        })
        .await?;
    let created = recipe::creation(&answer)?;
    let holder = recipe::first_read(&answer.responses, 1);
    if holder.is_none_or(|holder| holder.create_revision == created) {
        session.keep();
        let header = answer.header;
        return Ok(LockResponse { header, key });
    }
    let leave = desk.in_line(&key, created);
    desk.turn(&prefix, created - 1).await?;
    // The lease may have ended meanwhile, and the key with it.
    let own = desk.range(recipe::get(&key)).await?;
    leave.disarm();
    if own.kvs.is_empty() {
        return Err(Status::unknown("mutex: session is expired"));
    }
    session.keep();
    Ok(LockResponse {
        header: own.header,
        key,
    })
}
