//! Members with little room, and clients that come all at once, drawn before the run.

use std::time::Duration;

use fated::{
    kernel::{Entropy, limits},
    mvcc::Part,
    node::{NodeConfig, frontend::Room},
};
use serde::{Deserialize, Serialize};

use crate::{
    draw,
    plan::{ClockPlan, HostilePlan, Plan},
    script::{LeaseStep, Naming, Step, What},
};

/// How much a member takes in at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OverloadPlan {
    /// Calls in flight, and those beyond that which keep something alive.
    pub calls_max: usize,
    pub vital_max: usize,
    /// Bytes of proposals.
    pub proposal_bytes_max: usize,
    /// Committed entries that are not applied.
    pub apply_gap_max: u64,
    /// Bytes that wait for the backend.
    pub overlay_bytes_max: usize,
    /// Keys and bytes of a range that are read in one step.
    pub part_keys: usize,
    pub part_bytes: usize,
    /// Bytes on the way to all watch streams, before each gets little.
    pub windows_bytes_max: u64,
    /// Nothing breaks, so that whatever goes wrong is the load's doing.
    pub calm: bool,
}

impl Default for OverloadPlan {
    /// As in production.
    fn default() -> Self {
        let room = Room::default();
        Self {
            calls_max: room.calls_max,
            vital_max: room.vital_max,
            proposal_bytes_max: room.proposal_bytes_max,
            apply_gap_max: room.apply_gap_max,
            overlay_bytes_max: room.overlay_bytes_max,
            part_keys: limits::RANGE_PART_KEYS,
            part_bytes: limits::RANGE_PART_BYTES,
            windows_bytes_max: limits::STREAM_WINDOWS_BYTES_MAX,
            calm: false,
        }
    }
}

impl OverloadPlan {
    /// Whether members have the room of production.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// The room of a member.
    pub fn room(&self) -> Room {
        Room {
            calls_max: self.calls_max,
            vital_max: self.vital_max,
            proposal_bytes_max: self.proposal_bytes_max,
            apply_gap_max: self.apply_gap_max,
            overlay_bytes_max: self.overlay_bytes_max,
        }
    }

    /// Adds what it says to the settings of a member.
    pub fn settle(&self, config: &mut NodeConfig) {
        config.room = self.room();
        config.range_part = Part {
            keys_max: self.part_keys,
            bytes_max: self.part_bytes,
        };
        config.range_first = config.range_part;
        config.stream_windows_bytes_max = self.windows_bytes_max;
    }

    fn draw(entropy: &mut Entropy) -> Self {
        // Half of the bounds are such that only one of them is met at a time.
        let mut bound = |least: u64, most: u64, standard: usize| match entropy.one_in(2) {
            true => standard,
            false => draw::usize(draw::log_uniform(least, most, entropy)),
        };
        let standard = Self::default();
        let proposal_bytes_max = bound(256, 16 << 10, standard.proposal_bytes_max);
        let overlay_bytes_max = bound(1 << 10, 64 << 10, standard.overlay_bytes_max);
        let apply_gap_max = bound(1, 64, draw::usize(standard.apply_gap_max)) as u64;
        let windows_bytes_max = bound(1, 64 << 10, draw::usize(standard.windows_bytes_max)) as u64;
        Self {
            calls_max: draw::usize(draw::log_uniform(1, 16, entropy)),
            vital_max: 64,
            proposal_bytes_max,
            apply_gap_max,
            overlay_bytes_max,
            part_keys: draw::usize(draw::log_uniform(1, 16, entropy)),
            part_bytes: draw::usize(draw::log_uniform(1, 4096, entropy)),
            windows_bytes_max,
            calm: entropy.one_in(2),
        }
    }
}

/// Little room and floods in one of four seeds; in half of those nothing else is wrong.
pub fn overload(plan: &mut Plan, entropy: &mut Entropy) {
    if !entropy.one_in(4) {
        return;
    }
    flood(plan, entropy);
}

/// Gives the members of a plan little room, and has clients come all at once.
pub fn flood(plan: &mut Plan, entropy: &mut Entropy) {
    plan.overload = OverloadPlan::draw(entropy);
    if plan.overload.calm {
        calm(plan);
    }
    let span_us = plan.faults_ms * 1000;
    let bursts = entropy.between(3, 6);
    let rounds = entropy.between(2, 5);
    let keys = draw::log_uniform(1, 20, entropy);
    let clients = entropy.between(8, 24);
    for _ in 0..clients {
        let mut steps = Vec::new();
        for _ in 0..bursts {
            for round in 0..rounds {
                steps.push(Step {
                    wait_us: if round == 0 { span_us / bursts } else { 0 },
                    what: step(keys, entropy),
                });
            }
        }
        plan.clients.push(steps);
    }
}

fn step(keys: u64, entropy: &mut Entropy) -> What {
    let key = entropy.below(keys);
    match entropy.below(8) {
        0 => What::Get {
            key,
            serializable: entropy.one_in(2),
        },
        1 | 2 => What::Range {
            from: 0,
            to: keys,
            back: 0,
        },
        3 if entropy.one_in(4) => What::Lease(LeaseStep::Grant {
            ttl: 1 + entropy.below(8).cast_signed(),
            naming: Naming::Fresh,
        }),
        3 => What::Lease(LeaseStep::KeepAlive {
            pick: entropy.below(8),
        }),
        _ => What::Put {
            key,
            bytes: 1 + entropy.below(2000),
        },
    }
}

/// Nothing breaks, and messages and disks are quick beside an election.
fn calm(plan: &mut Plan) {
    plan.faults.clear();
    plan.membership = crate::membership::MembershipPlan::default();
    plan.clocks.fill(ClockPlan {
        rate_ppm: 0,
        offset_ms: 0,
    });
    let network = &mut plan.network;
    network.hostile = HostilePlan::default();
    network.loss_ppm = 0;
    network.corrupt_ppm = 0;
    network.client_loss_ppm = 0;
    let election = Duration::from_millis(plan.cluster.election_ms);
    let twentieth = u64::try_from(election.as_micros() / 20).unwrap_or(u64::MAX);
    network.delay_us = network.delay_us.min(twentieth);
    network.jitter_us = network.jitter_us.min(twentieth);
    plan.disks.sync_us = plan.disks.sync_us.min(twentieth);
    plan.cluster.step_us = plan.cluster.step_us.min(twentieth / 10);
}
