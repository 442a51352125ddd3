//! What can be made easier without leaving anything out: fewer members, a network and disks that do
//! as they are asked, limits that nobody comes to, shorter pauses, and crashes at an exact point in
//! place of such at a time.

use super::{Shrink, Size};
use crate::{
    faults::{Fault, FaultKind, Point, Target},
    plan::{HostilePlan, NetworkPlan, Plan, UpkeepPlan, WatchLimits},
};
use fated::kernel::limits;

/// With no more steps than these it is not worth looking for exact points.
const AIM_ABOVE: usize = 4;
/// With more faults than these it is too early to.
const AIM_FAULTS_MAX: usize = 5;

impl Shrink<'_> {
    /// Smaller clusters, the smallest first.
    pub(super) fn cut_members(&mut self) {
        let sizes = [1, 2, 3, 5];
        let smaller = sizes
            .into_iter()
            .filter(|size| *size < self.plan.cluster.members);
        let candidates = smaller.map(|size| with_members(&self.plan, size)).collect();
        self.keep_first("members", candidates);
    }

    /// Whatever makes the world harder without being a fault: all of it at once, else one after the
    /// other.
    pub(super) fn cut_hardships(&mut self) {
        let mut plan = self.plan.clone();
        HARDSHIPS.iter().for_each(|easier| easier(&mut plan));
        if plan == self.plan || self.keep_first("all hardships", vec![plan]).is_some() {
            return;
        }
        self.keep_each("hardships", HARDSHIPS);
    }

    /// Shorter pauses, shorter faults, an earlier end.
    pub(super) fn cut_times(&mut self) {
        self.keep_each("time at the end", &[end_soon]);
        loop {
            let mut plan = self.plan.clone();
            halve(&mut plan);
            if plan == self.plan || self.keep_first("half of its time", vec![plan]).is_none() {
                break;
            }
        }
        self.keep_each(
            "pauses",
            &[|plan| {
                let steps = plan.clients.iter_mut().flatten();
                steps.for_each(|step| step.wait_us = 0);
            }],
        );
    }

    /// A crash that must hit a moment needs steps that make the moment long. One at an exact point
    /// does not; it takes its place if that saves steps.
    pub(super) fn aim_crashes(&mut self) {
        let is_worth_it = |plan: &Plan| {
            let size = Size::of(plan);
            size.operations > AIM_ABOVE && size.faults <= AIM_FAULTS_MAX
        };
        for at in 0..self.plan.faults.len() {
            for point in Point::ALL {
                let Some(kind) = self.plan.faults.get(at).and_then(|it| aimed(it, point)) else {
                    break;
                };
                if !is_worth_it(&self.plan) || !self.trial.may_go_on() {
                    return;
                }
                let before = (self.plan.clone(), self.broken.clone());
                let mut plan = self.plan.clone();
                plan.faults[at].kind = kind;
                if self
                    .keep_first("a moment that must be hit", vec![plan])
                    .is_none()
                {
                    continue;
                }
                self.cut_steps();
                if Size::of(&self.plan).operations < Size::of(&before.0).operations {
                    break;
                }
                (self.plan, self.broken) = before;
            }
        }
    }
}

/// The same crash at an exact point; nothing for what is no crash of one member at a time.
fn aimed(fault: &Fault, point: Point) -> Option<FaultKind> {
    let (target, power) = match fault.kind {
        FaultKind::Kill { target } => (target, false),
        FaultKind::PowerCut { target } => (target, true),
        _ => return None,
    };
    Some(FaultKind::CrashAt {
        target,
        point,
        power,
    })
}

/// Each takes one hardship away. Limits become so large that what is left of a plan, which is little,
/// never comes to them.
const HARDSHIPS: &[fn(&mut Plan)] = &[
    |plan| plan.network = still(&plan.network),
    |plan| plan.network.loss_ppm = 0,
    |plan| plan.network.duplicate_ppm = 0,
    |plan| plan.network.reorder_ppm = 0,
    |plan| plan.network.corrupt_ppm = 0,
    |plan| plan.network.client_loss_ppm = 0,
    |plan| plan.network.hostile = HostilePlan::default(),
    |plan| plan.network.jitter_us = 0,
    |plan| plan.network.delay_us = plan.network.delay_us.min(200),
    |plan| {
        let clocks = plan.clocks.iter_mut().chain(&mut plan.membership.clocks);
        clocks.for_each(|clock| (clock.rate_ppm, clock.offset_ms) = (0, 0));
    },
    |plan| plan.disks.lmdb = false,
    |plan| plan.disks.failed_sync_reverts = false,
    |plan| plan.disks.write_us = plan.disks.write_us.min(10),
    |plan| plan.disks.sync_us = plan.disks.sync_us.min(100),
    |plan| plan.cluster.pre_vote = true,
    |plan| plan.cluster.step_us = plan.cluster.step_us.min(5),
    |plan| plan.cluster.append_bytes = limits::APPEND_BYTES_MAX,
    |plan| plan.cluster.watch = WatchLimits::default(),
    |plan| plan.cluster.upkeep = UpkeepPlan::default(),
    |plan| plan.cluster.snapshot_count = 10_000,
    |plan| plan.cluster.catchup_entries = 5_000,
    |plan| plan.cluster.segment_bytes = 64 << 10,
    |plan| plan.cluster.compaction_slice = 1_000,
    |plan| plan.cluster.batch_operations = 10_000,
    |plan| plan.cluster.progress_ms = 600_000,
];

/// A network that does what it is asked to.
fn still(network: &NetworkPlan) -> NetworkPlan {
    NetworkPlan {
        loss_ppm: 0,
        duplicate_ppm: 0,
        reorder_ppm: 0,
        corrupt_ppm: 0,
        client_loss_ppm: 0,
        hostile: HostilePlan::default(),
        ..network.clone()
    }
}

/// The phase of faults ends with the last thing that is planned for it, and a second more.
fn end_soon(plan: &mut Plan) {
    let faults = plan.faults.iter().map(|it| it.at_ms + it.for_ms);
    let changes = plan.membership.steps.iter().map(|it| it.at_ms);
    let scripts = plan.clients.iter().map(|steps| {
        let waits: u64 = steps.iter().map(|step| step.wait_us).sum();
        waits / 1000
    });
    let last = faults.chain(changes).chain(scripts).max().unwrap_or(0);
    plan.faults_ms = plan.faults_ms.min(last + 1_000);
}

/// Everything comes in half the time.
fn halve(plan: &mut Plan) {
    plan.faults_ms /= 2;
    for fault in &mut plan.faults {
        (fault.at_ms, fault.for_ms) = (fault.at_ms / 2, fault.for_ms / 2);
    }
    plan.membership
        .steps
        .iter_mut()
        .for_each(|it| it.at_ms /= 2);
    let steps = plan.clients.iter_mut().flatten();
    steps.for_each(|step| step.wait_us /= 2);
}

/// The same for the first members alone. What hit others hits one of those that are left.
fn with_members(plan: &Plan, members: usize) -> Plan {
    let mut plan = plan.clone();
    plan.cluster.members = members;
    plan.clocks.truncate(members);
    plan.core = (0..=members / 2).collect();
    plan.faults.retain_mut(|fault| stays_within(fault, members));
    plan
}
/// Whether a fault still means something among so many members.
fn stays_within(fault: &mut Fault, members: usize) -> bool {
    match &mut fault.kind {
        FaultKind::Kill { target }
        | FaultKind::PowerCut { target }
        | FaultKind::Pause { target }
        | FaultKind::Terminate { target }
        | FaultKind::Isolate { target, .. }
        | FaultKind::Reset { target }
        | FaultKind::ResetImage { target }
        | FaultKind::SlowLinks { target, .. }
        | FaultKind::SlowDisk { target, .. }
        | FaultKind::StalledDisk { target }
        | FaultKind::DiskError { target, .. }
        | FaultKind::FullDisk { target }
        | FaultKind::ClockJump { target, .. }
        | FaultKind::ClockRate { target, .. }
        | FaultKind::CrashAt { target, .. } => {
            if let Target::Member(at) = target {
                *at %= members;
            }
            true
        }
        FaultKind::Block { pairs, .. } => {
            pairs.retain(|(from, to)| *from < members && *to < members);
            !pairs.is_empty()
        }
        FaultKind::Rot { member }
        | FaultKind::Miswrite { member }
        | FaultKind::Misread { member }
        | FaultKind::LostDisk { member, .. }
        | FaultKind::WallJump { member, .. } => {
            *member %= members;
            true
        }
        FaultKind::MoveLeader { to } => {
            *to %= members;
            true
        }
        FaultKind::PowerCutAll | FaultKind::CrashFirst { .. } => true,
    }
}
