//! Lease grants, revocations and checkpoints as replicated commands.

use bytes::Bytes;

use super::{ApplyError, Notice, StateMachine, kv::commit};
use crate::{
    backend::Backend,
    kernel::{Instant, LeaseId, LogIndex},
    lease::{Grant, Incarnation},
    mutant,
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
        birth: LogIndex,
        now: Instant,
        notices: &mut Vec<Notice>,
    ) -> Result<LeaseGrantResponse, ApplyError> {
        let id = LeaseId::new(request.id);
        let grant = Grant {
            id,
            ttl: request.ttl,
            birth,
        };
        let ttl = self.lessor.grant(&mut self.view, grant, now)?;
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
        if request.expired {
            for (id, birth) in request.ids.iter().zip(&request.births) {
                let id = LeaseId::new(*id);
                let lease = Incarnation {
                    id,
                    birth: LogIndex::new(*birth),
                };
                // One that is gone, or was granted anew meanwhile, is passed over.
                if let Ok(keys) = self.lessor.revoke_expired(&mut self.view, lease) {
                    self.delete_keys(&keys, revisions);
                }
            }
        } else {
            for id in &request.ids {
                let keys = self.lessor.revoke(&mut self.view, LeaseId::new(*id))?;
                self.delete_keys(&keys, revisions);
            }
        }
        notices.push(Notice::Leases);
        let header = super::kv::header(self.store.revision());
        Ok(LeaseRevokeResponse { header })
    }

    fn delete_keys(&mut self, keys: &[Bytes], revisions: &mut Vec<(i64, Vec<Event>)>) {
        let whole = match mutant!("revoke-in-several-revisions") {
            true => 1,
            false => keys.len().max(1),
        };
        let left = usize::from(mutant!("revoke-leaves-a-key"));
        for keys in keys[left.min(keys.len())..].chunks(whole) {
            let mut txn = self.store.write(&mut self.view);
            for key in keys {
                txn.delete_range(key, &[]);
            }
            commit(txn, revisions);
        }
        if mutant!("revoke-without-events") {
            revisions.iter_mut().for_each(|(_, events)| events.clear());
        }
    }

    pub(super) fn lease_checkpoint(
        &mut self,
        request: &LeaseCheckpoint,
        notices: &mut Vec<Notice>,
    ) {
        for lease in &request.leases {
            let id = LeaseId::new(lease.id);
            let incarnation = Incarnation {
                id,
                birth: LogIndex::new(lease.birth),
            };
            self.lessor
                .checkpoint(&mut self.view, incarnation, lease.remaining_ms);
        }
        notices.push(Notice::Leases);
    }
}
