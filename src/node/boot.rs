//! From what the disks hold to a running member.

use std::collections::BTreeSet;

use super::{
    Node, NodeConfig, alone, applier::Applier, consensus::Consensus, frontend::Frontend,
    integrity::Integrity, journal::Journal, leases::Leases, peers::Peers, snapshots::Snapshots,
    upkeep::Upkeep, watches::Watches,
};
use crate::{
    apply::StateMachine,
    backend::{Backend, ReadSnapshot},
    kernel::{DiskError, Entropy, EntryId, Fault, MemberId, Outbox, RequestId, limits},
    mutant,
    raft::{self, HardState, Raft, SnapshotMeta},
    wal::{Encoder, Recovered},
};

impl<B: Backend> Node<B> {
    /// A member as its disks left it, or a new one if there is no log. `config` names cluster and
    /// member as the log does.
    pub fn boot(
        config: &NodeConfig,
        mut log: Option<Recovered>,
        backend: B,
        entropy: Entropy,
    ) -> Result<Self, Fault> {
        let size = backend.size()?;
        let mut machine = StateMachine::load(backend, config.min_lease_ttl_seconds())?;
        let new = log.is_none();
        if new && machine.applied() != EntryId::ZERO {
            return Err(Fault::State(
                "the data directory holds a store but no log: acknowledged writes may be missing; \
                 restore the log, or remove the data directory and let the member join again"
                    .to_owned(),
            ));
        }
        let alone = alone::settle(config, log.as_mut(), &machine)?;
        let (recovered, journal) = match log {
            None => {
                // The members are durable before there is a log, so a log always finds them, but
                // for a member that joins: its first state is an image; the log alone won't do.
                if !config.joining {
                    machine.bootstrap(config.cluster, config.member, &config.initial_members)?;
                    machine.commit_now()?;
                }
                let encoder = Encoder::create(config.cluster, config.member, config.segment_bytes);
                let empty = raft::Recovered {
                    hard_state: HardState::default(),
                    first: EntryId::ZERO,
                    entries: Vec::new(),
                    applied: machine.applied_index(),
                    conf_state: machine.conf_state(),
                };
                (empty, Journal::new(encoder))
            }
            Some(log) => restore(config, log, &machine)?,
        };
        let known = match alone {
            true => Vec::new(),
            false => addresses(config, &machine),
        };
        let raft_config = raft_config(config);
        let mut raft = Raft::new(raft_config, recovered, entropy.fork("raft"));
        if alone {
            raft.go_on_alone();
        }
        let (first_request, first_forward) = first_numbers(&entropy);
        let entropy = entropy.fork("node");
        let conf = raft.conf_state();
        let voters: BTreeSet<MemberId> =
            conf.voters.union(&conf.voters_outgoing).copied().collect();
        let integrity = Integrity::new(
            config.member,
            voters,
            machine.applied_index(),
            machine.state_hash(),
        );
        let watches = Watches::new(config, &machine);
        let mut frontend = Frontend::new(config, first_request, first_forward);
        if alone && !mutant!("forced-serves-at-once") {
            frontend.hold();
        }
        Ok(Self {
            member: config.member,
            entropy,
            outbox: Outbox::default(),
            frontend,
            consensus: Consensus::new(raft, config),
            journal,
            applier: Applier::new(machine, size, config),
            watches,
            leases: Leases::new(config),
            peers: Peers::new(config.member),
            snapshots: Snapshots::default(),
            integrity,
            upkeep: Upkeep::new(config),
            started: false,
            advance_ticks: advance_ticks(config, new),
            known,
        })
    }
}

/// The first numbers of requests and of forwarded calls. Far apart for each boot, so that an entry
/// of an earlier life answers nobody of this one, and neither does what a leader says to a call
/// that an earlier life forwarded.
fn first_numbers(entropy: &Entropy) -> (RequestId, u64) {
    let first = |purpose| entropy.fork(purpose).next_u64() >> 1;
    let request = match mutant!("request-ids-shared-by-members") {
        true => 1,
        false => first("requests").max(1),
    };
    let forward = match mutant!("forwards-numbered-from-one") {
        true => 1,
        false => first("forwards"),
    };
    (RequestId::new(request), forward)
}

/// Where the others are reached: as the state says, or, before a joining member has any, as it was
/// told.
fn addresses<B: Backend>(
    config: &NodeConfig,
    machine: &StateMachine<B>,
) -> Vec<(MemberId, Vec<String>)> {
    let own = machine.addresses();
    if !own.is_empty() {
        return own;
    }
    let told = config.initial_members.iter();
    told.map(|member| (member.id, member.peer_urls.clone()))
        .collect()
}

/// Completes or undoes the installation of an image that a crash interrupted, as the log says, and
/// returns the last entry inside the backend. Called between reading the log and finishing it.
pub fn settle_image<B: Backend>(
    backend: &B,
    mark: Option<&SnapshotMeta>,
) -> Result<EntryId, DiskError> {
    let live = backend.snapshot()?.consistent()?;
    if let Some((id, sealed)) = backend.sealed()? {
        // The mark became durable before the image was to be installed; without it, the image
        // counts for nothing, and nobody was told about it.
        if mark.is_some_and(|mark| mark.id == sealed) && sealed.index > live.index {
            backend.stage_install(id)?;
            return Ok(sealed);
        }
        backend.stage_drop(id)?;
    }
    Ok(live)
}

/// A member that restarts need not wait a whole election timeout for a leader that is not there.
fn advance_ticks(config: &NodeConfig, new: bool) -> u32 {
    let alone = config.initial_members.len() <= 1;
    if config.advance_ticks && !(new && alone) {
        config.election_ticks().saturating_sub(2)
    } else {
        0
    }
}

fn raft_config(config: &NodeConfig) -> raft::Config {
    raft::Config {
        id: config.member,
        election_ticks: config.election_ticks(),
        heartbeat_ticks: 1,
        pre_vote: config.pre_vote,
        check_quorum: true,
        append_bytes_max: config.append_bytes_max,
        inflight_appends_max: limits::INFLIGHT_APPENDS_MAX,
        inflight_bytes_max: limits::INFLIGHT_BYTES_MAX,
        uncommitted_bytes_max: limits::UNCOMMITTED_BYTES_MAX,
        apply_bytes_max: limits::APPLY_BYTES_MAX,
    }
}

/// Fits the log to the backend: the log may be ahead, never behind, and never with a gap between.
fn restore<B: Backend>(
    config: &NodeConfig,
    log: Recovered,
    machine: &StateMachine<B>,
) -> Result<(raft::Recovered, Journal), Fault> {
    assert_eq!(
        log.head,
        (config.cluster, config.member),
        "the caller read the ids from this log"
    );
    // A member that joined and was stopped before its image came has promised nothing but votes.
    let blank = log.first == EntryId::ZERO && log.entries.is_empty();
    if machine.members().next().is_none() && !blank {
        return Err(Fault::State(
            "the data directory holds a log but no store: restore both from one backup, or remove \
             the data directory and let the member join again"
                .to_owned(),
        ));
    }
    let encoder = Encoder::resume(&log, config.segment_bytes);
    let recovered = raft::Recovered {
        hard_state: log.hard_state,
        first: log.first,
        entries: log.entries,
        applied: machine.applied_index(),
        conf_state: machine.conf_state(),
    };
    Ok((recovered, Journal::new(encoder)))
}
