//! Lease grants, revocations and checkpoints as replicated commands.

use bytes::Bytes;

use super::{ApplyError, Notice, StateMachine, kv::commit};
use crate::{
    backend::Backend,
    kernel::{ApiError, Instant, LeaseId},
    pb::{
        etcdserverpb::{LeaseGrantRequest, LeaseGrantResponse, LeaseRevokeResponse},
        fated::command::{LeaseCheckpoint, LeaseRevoke},
        mvccpb::Event,
    },
};

impl<B: Backend> StateMachine<B> {
    pub(super) fn lease_grant(
        &mut self,
        request: &LeaseGrantRequest,
        now: Instant,
        notices: &mut Vec<Notice>,
    ) -> Result<LeaseGrantResponse, ApplyError> {
        let id = LeaseId::new(request.id);
        let ttl = self.lessor.grant(&mut self.view, id, request.ttl, now)?;
        notices.push(Notice::Leases);
        Ok(LeaseGrantResponse {
            header: super::kv::header(self.store.revision()),
            id: id.get(),
            ttl,
            error: String::new(),
        })
    }

    /// Ends leases; the keys of each lease go in one revision of their own.
    pub(super) fn lease_revoke(
        &mut self,
        request: &LeaseRevoke,
        revisions: &mut Vec<(i64, Vec<Event>)>,
        notices: &mut Vec<Notice>,
    ) -> Result<LeaseRevokeResponse, ApplyError> {
        let mut missing = false;
        for id in &request.ids {
            match self.lessor.revoke(&mut self.view, LeaseId::new(*id)) {
                Ok(keys) => self.delete_keys(&keys, revisions),
                Err(_) => missing = true,
            }
        }
        notices.push(Notice::Leases);
        // A client names one lease; leases that ran out may be gone already, which is no error.
        if missing && !request.expired {
            return Err(ApiError::LeaseNotFound.into());
        }
        Ok(LeaseRevokeResponse {
            header: super::kv::header(self.store.revision()),
        })
    }

    fn delete_keys(&mut self, keys: &[Bytes], revisions: &mut Vec<(i64, Vec<Event>)>) {
        let mut txn = self.store.write(&mut self.view);
        for key in keys {
            txn.delete_range(key, &[]);
        }
        commit(txn, revisions);
    }

    pub(super) fn lease_checkpoint(
        &mut self,
        request: &LeaseCheckpoint,
        notices: &mut Vec<Notice>,
    ) {
        for lease in &request.leases {
            let id = LeaseId::new(lease.id);
            self.lessor
                .checkpoint(&mut self.view, id, lease.remaining_ms);
        }
        notices.push(Notice::Leases);
    }
}
