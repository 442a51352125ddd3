//! Bugs that need two faults, one on top of the other: neither of them alone shows anything. The
//! guides put such pairs into a world that does nothing else, so whatever breaks is of the pair, and
//! `cargo sim mutants --shrink` finds that none of what is left can go.

use fated::kernel::Entropy;

use super::{
    Check::{self, Holds},
    Planted,
    consensus::guides::{begin, busy, isolated_leaders, set_members},
    guided, of_two_faults, planted,
};
use crate::{
    draw,
    faults::{DiskFault, Fault, FaultKind, Point, Target},
    membership::MembershipPlan,
    plan::{ClockPlan, HostilePlan, Plan},
    script::What,
};

const DURABLE: Check = Holds("what was committed is durable");
const COMES_BACK: Check = Holds("what was durable comes back");
const PROMISE: Check = Holds("a promise outlives a restart");
const SAFETY: Check = Holds("state-machine safety");
const NO_HALT: Check = Holds("a member halts only for a fault of its own disk");

/// Their list.
pub const TABLE: &[Planted] = &[
    of_two_faults(guided(
        planted(
            "failed-sync-ignored",
            "P24; a failed sync, then power cut",
            "A failed operation of the log is taken as done.",
            &[DURABLE, COMES_BACK, PROMISE, NO_HALT],
        ),
        failed_syncs_and_power_cuts,
    )),
    of_two_faults(guided(
        planted(
            "boot-trusts-names",
            "seed 10777; a kill before the directory is synced, then power cut",
            "A start takes a name that it finds for one that stays.",
            &[DURABLE, COMES_BACK, PROMISE, NO_HALT],
        ),
        kills_at_names_and_power_cuts,
    )),
    of_two_faults(guided(
        planted(
            "boot-trusts-the-cache",
            "P1; a kill before a write is synced, then power cut",
            "A start takes what it reads for durable.",
            &[DURABLE, COMES_BACK, PROMISE, NO_HALT],
        ),
        kills_at_writes_and_power_cuts,
    )),
    of_two_faults(guided(
        planted(
            "first-write-of-an-index-wins",
            "P22; a partition, then a kill",
            "A start reads the entry that was written first at an index, and not the last one.",
            &[COMES_BACK, SAFETY, NO_HALT],
        ),
        partitions_and_kills,
    )),
];

/// A world in which nothing goes wrong but what is planned, and which ends with that.
fn calm(plan: &mut Plan) {
    begin(plan);
    busy(plan);
    plan.faults_ms = 10_000;
    let network = &mut plan.network;
    (network.loss_ppm, network.corrupt_ppm) = (0, 0);
    (network.duplicate_ppm, network.reorder_ppm) = (0, 0);
    network.hostile = HostilePlan::default();
    let even = ClockPlan {
        rate_ppm: 0,
        offset_ms: 0,
    };
    plan.clocks.fill(even);
    plan.membership = MembershipPlan::default();
    plan.watchers.clear();
    plan.faults.clear();
    (plan.last_cut, plan.ends_early) = (false, true);
}

/// Pairs of faults of one member, the second so many milliseconds behind the first.
fn pairs(
    plan: &mut Plan,
    apart_ms: (u64, u64),
    first: impl Fn(Target) -> FaultKind,
    second: impl Fn(Target) -> FaultKind,
) {
    let mut entropy = Entropy::from_seed(plan.seed).fork("pairs of faults");
    let mut at_ms = 500;
    while at_ms < plan.faults_ms {
        let target = Target::Member(draw::index(plan.cluster.members, &mut entropy));
        let apart = entropy.between(apart_ms.0, apart_ms.1);
        let mut fault = |at_ms, kind| {
            plan.faults.push(Fault {
                at_ms,
                for_ms: 100,
                kind,
            });
        };
        fault(at_ms, first(target));
        fault(at_ms + apart, second(target));
        at_ms += apart + entropy.between(300, 1_500);
    }
    plan.faults.sort_by_key(|fault| fault.at_ms);
}

/// A sync of a member fails, and it loses power while nothing else has synced the file.
fn failed_syncs_and_power_cuts(plan: &mut Plan) {
    calm(plan);
    let failure = |target| FaultKind::DiskError {
        target,
        on: DiskFault::Sync,
    };
    pairs(plan, (5, 200), failure, |target| FaultKind::PowerCut {
        target,
    });
}

/// A member dies when a segment has its name, and the next time without power. It catches up in
/// small writes, which fit the segment that it finds.
fn kills_at_names_and_power_cuts(plan: &mut Plan) {
    calm(plan);
    plan.cluster.segment_bytes = 16_384;
    plan.cluster.append_bytes = 500;
    plan.disks.sync_us = plan.disks.sync_us.max(2_000);
    for step in plan.clients.iter_mut().flatten() {
        if let What::Put { bytes, .. } = &mut step.what {
            *bytes = 3_500;
        }
    }
    let at = |power| move |target| dies_at(target, Point::SegmentRenamed, power);
    pairs(plan, (200, 900), at(false), at(true));
}

/// A member dies when it has written and not synced, and the next time without power.
fn kills_at_writes_and_power_cuts(plan: &mut Plan) {
    calm(plan);
    let at = |power| move |target| dies_at(target, Point::LogWritten, power);
    pairs(plan, (300, 900), at(false), at(true));
}

fn dies_at(target: Target, point: Point, power: bool) -> FaultKind {
    FaultKind::CrashAt {
        target,
        point,
        power,
    }
}

/// Leaders are cut off with writes on their way, which others overwrite; then members die. Of five,
/// so that what one of them has forgotten is still on a majority.
fn partitions_and_kills(plan: &mut Plan) {
    set_members(plan, 5);
    isolated_leaders(plan);
    let isolated = std::mem::take(&mut plan.faults);
    calm(plan);
    let mut entropy = Entropy::from_seed(plan.seed).fork("pairs of faults");
    for fault in isolated {
        let healed_ms = fault.at_ms + fault.for_ms;
        plan.faults.push(fault);
        for member in 0..plan.cluster.members {
            let target = Target::Member(member);
            plan.faults.push(Fault {
                at_ms: healed_ms + entropy.between(50, 1_000),
                for_ms: 50,
                kind: FaultKind::Kill { target },
            });
        }
    }
    plan.faults.sort_by_key(|fault| fault.at_ms);
}
