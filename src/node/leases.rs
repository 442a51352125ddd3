//! The actor of what only a leader proposes: the end of leases that ran out on its clock, how much
//! time the others have left, and the version of a new cluster.
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
    mutant,
    pb::fated::command::{
        ClusterVersion, LeaseCheckpoint, LeaseRemaining, LeaseRevoke, command::Body,
    },
    raft::Role,
};

/// The actor that watches the lease clock.
#[derive(Debug)]
pub struct Leases {
    member: MemberId,
    election: Duration,
    /// The version of this server.
    version: String,
    /// The term this member leads in.
    leading: Option<Term>,
    /// Leases whose end this member proposed because their time was over.
    expired: u64,
}

impl Leases {
    /// Nothing runs out until this member leads.
    pub fn new(config: &NodeConfig) -> Self {
        Self {
            member: config.member,
            election: config.election,
            version: config.version.clone(),
            leading: None,
            expired: 0,
        }
    }

    /// Leases whose end this member proposed, as the leader, because their time was over.
    pub fn expired(&self) -> u64 {
        self.expired
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
                let leading = (role.role == Role::Leader).then_some(role.term);
                // Also from one leadership to the next: others may have led between.
                if mutant!("deposed-leader-ends-leases") && leading.is_none() {
                    return;
                }
                if self.leading != leading {
                    self.leading = leading;
                    machine.lessor_mut().demote();
                }
            }
            // Everything earlier leaders did to leases is applied now; before, their ends and
            // checkpoints might still be under way.
            LeasesInput::Term(term) => {
                if self.leading == Some(term) {
                    // Clients could renew nothing during the election, so it does not count.
                    machine.lessor_mut().promote(cx.now, self.election);
                    self.maybe_set_version(term, machine, cx);
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

    /// A new cluster gets its version from its first leader.
    fn maybe_set_version<B: Backend>(
        &self,
        term: Term,
        machine: &StateMachine<B>,
        cx: &mut Context<'_, Mail>,
    ) {
        if machine.cluster().cluster_version().is_none() {
            let version = self.version.clone();
            self.propose(term, Body::ClusterVersion(ClusterVersion { version }), cx);
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
            self.expired += expired.len() as u64;
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
        if mutant!("deposed-leader-ends-leases") {
            cx.tell(Mail::Consensus(ConsensusInput::Propose {
                request: RequestId::ZERO,
                data,
                conf_change: false,
            }));
            return;
        }
        cx.tell(Mail::Consensus(ConsensusInput::ProposeAsLeader {
            term,
            data,
        }));
    }
}
