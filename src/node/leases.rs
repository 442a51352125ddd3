//! The actor that watches the leader's lease clock: it proposes the end of leases that ran out, and
//! records how much time the others have left.
//!
//! Inputs: `LeasesInput`. Timers: the next expiry, the next checkpoint.
//! Invariants: only a leader proposes, and only under its own term, so that a deposed leader's
//! clock ends no lease.

use std::time::Duration;

use super::{
    NodeConfig,
    mail::{ConsensusInput, LeasesInput, Mail, encode_command},
};
use crate::{
    apply::StateMachine,
    backend::Backend,
    kernel::{Context, Instant, MemberId, RequestId, Term, limits},
    pb::fated::command::{LeaseCheckpoint, LeaseRemaining, LeaseRevoke, command::Body},
    raft::Role,
};

/// The actor that watches the lease clock.
#[derive(Debug)]
pub struct Leases {
    member: MemberId,
    election: Duration,
    /// The term this member leads in.
    leading: Option<Term>,
}

impl Leases {
    /// Nothing runs out until this member leads.
    pub fn new(config: &NodeConfig) -> Self {
        Self {
            member: config.member,
            election: config.election,
            leading: None,
        }
    }

    /// Handles one input.
    pub fn on_input<B: Backend>(
        &mut self,
        input: LeasesInput,
        machine: &mut StateMachine<B>,
        cx: &mut Context<'_, Mail>,
    ) {
        match input {
            LeasesInput::Role(role) => {
                self.leading = (role.role == Role::Leader).then_some(role.term);
                if self.leading.is_none() {
                    machine.lessor_mut().demote();
                }
            }
            // Everything earlier leaders did to leases is applied now; before, their ends and
            // checkpoints might still be under way.
            LeasesInput::Term(term) => {
                if self.leading == Some(term) {
                    // Clients could renew nothing during the election, so it does not count.
                    machine.lessor_mut().promote(cx.now, self.election);
                }
            }
            LeasesInput::Installed => {
                assert!(
                    !machine.lessor().leads(),
                    "a leader never installs an image"
                );
            }
        }
    }

    /// When the next lease runs out or is to be recorded.
    pub fn deadline<B: Backend>(&self, machine: &StateMachine<B>) -> Option<Instant> {
        let lessor = machine.lessor();
        [lessor.next_expiry(), lessor.next_checkpoint()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Proposes what is due.
    pub fn on_deadline<B: Backend>(
        &mut self,
        machine: &mut StateMachine<B>,
        cx: &mut Context<'_, Mail>,
    ) {
        let Some(term) = self.leading else { return };
        let expired = machine
            .lessor_mut()
            .take_expired(cx.now, limits::LEASE_REVOKE_BATCH_MAX);
        if !expired.is_empty() {
            let ids = expired.iter().map(|lease| lease.id.get()).collect();
            let births = expired.iter().map(|lease| lease.birth.get()).collect();
            self.propose(
                term,
                Body::LeaseRevoke(LeaseRevoke {
                    ids,
                    expired: true,
                    births,
                }),
                cx,
            );
        }
        let due = machine
            .lessor_mut()
            .due_checkpoints(cx.now, limits::LEASE_REVOKE_BATCH_MAX);
        if !due.is_empty() {
            let leases = due
                .into_iter()
                .map(|(lease, remaining_ms)| LeaseRemaining {
                    id: lease.id.get(),
                    remaining_ms,
                    birth: lease.birth.get(),
                })
                .collect();
            self.propose(term, Body::LeaseCheckpoint(LeaseCheckpoint { leases }), cx);
        }
    }

    /// Nobody waits for these proposals, so they share the request id zero.
    fn propose(&self, term: Term, body: Body, cx: &mut Context<'_, Mail>) {
        let data = encode_command(RequestId::ZERO, self.member, body);
        cx.tell(Mail::Consensus(ConsensusInput::ProposeAsLeader {
            term,
            data,
        }));
    }
}
