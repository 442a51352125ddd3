//! Plans in which the circumstances of a bug are frequent.
//!
//! Invariant: each is the plan of its seed with some fields drawn otherwise, by the seed alone.

use std::cell::Cell;

use fated::kernel::Entropy;

use super::super::strike_often;
use crate::{
    draw,
    faults::{Fault, FaultKind, Point, Target},
    membership::{Forced, MemberChange, MemberStep, SLOTS_MAX},
    plan::Plan,
    script::What,
};

/// At least three members, and no longer than bugs of this kind need.
pub fn begin(plan: &mut Plan) {
    plan.faults_ms = plan.faults_ms.min(15_000);
    plan.operations_min = 0;
    if plan.cluster.members == 1 {
        set_members(plan, 3);
    }
}

/// A cluster of so many.
pub fn set_members(plan: &mut Plan, members: usize) {
    plan.cluster.members = members;
    let clock = plan.clocks[0].clone();
    plan.clocks.resize(members, clock);
    plan.core = (0..=members / 2).collect();
}

fn any(members: usize, entropy: &mut Entropy) -> Target {
    match entropy.one_in(3) {
        true => Target::Leader,
        false => Target::Member(draw::index(members, entropy)),
    }
}

/// Crashes of all kinds on slow disks, so that writes are on their way when they come.
pub fn crashes(plan: &mut Plan) {
    begin(plan);
    plan.disks.sync_us = plan.disks.sync_us.max(2_000);
    plan.cluster.segment_bytes = 4096;
    strike_often(plan, 500, 1_000, |members, entropy| {
        let target = any(members, entropy);
        match entropy.below(6) {
            0 => FaultKind::Kill { target },
            1 => FaultKind::PowerCutAll,
            2 | 3 => FaultKind::PowerCut { target },
            _ => FaultKind::CrashAt {
                target,
                point: draw_point(entropy),
                power: true,
            },
        }
    });
}

fn draw_point(entropy: &mut Entropy) -> Point {
    let points = [
        Point::LogWritten,
        Point::LogWritten,
        Point::LogSynced,
        Point::SegmentRenamed,
        Point::SegmentDurable,
        Point::Committed,
    ];
    points[draw::index(points.len(), entropy)]
}

/// Power that goes while writes of many sectors are on their way.
pub fn torn_writes(plan: &mut Plan) {
    crashes(plan);
    plan.cluster.segment_bytes = 65_536;
    for (number, fault) in plan.faults.iter_mut().enumerate() {
        if number % 4 > 0 {
            fault.kind = FaultKind::CrashAt {
                target: Target::Member(number % plan.cluster.members),
                point: Point::LogWritten,
                power: true,
            };
        }
    }
    for (number, step) in plan.clients.iter_mut().flatten().enumerate() {
        // A short write behind a long one that was cut leaves the rest of it where it was.
        let bytes = [3_000, 3_000, 10][number % 3];
        let key = number as u64 % 20;
        step.what = What::Put { key, bytes };
    }
}

/// A backend that is far behind a log that keeps little.
pub fn lazy_backend(plan: &mut Plan) {
    crashes(plan);
    plan.cluster.snapshot_count = 1;
    plan.cluster.catchup_entries = 0;
    plan.cluster.batch_operations = plan.cluster.batch_operations.max(20);
    plan.cluster.batch_ms = plan.cluster.batch_ms.max(50);
}

/// The same with large entries, so that a batch of the backend spans segments of the log, and
/// crashes right behind their removal.
pub fn lazy_backend_of_large_entries(plan: &mut Plan) {
    lazy_backend(plan);
    plan.cluster.batch_operations = 1_000;
    plan.cluster.batch_ms = 300;
    let points = [Point::SegmentUnlinked, Point::SegmentsRemoved];
    for (number, fault) in plan.faults.iter_mut().enumerate() {
        if let FaultKind::CrashAt { point, .. } = &mut fault.kind {
            *point = points[number % 2];
        }
    }
    for step in plan.clients.iter_mut().flatten() {
        if let What::Put { bytes, .. } = &mut step.what {
            *bytes = 1_500;
        }
    }
}

/// One member whose log is damaged, early enough that it starts again.
pub fn rot(plan: &mut Plan) {
    begin(plan);
    let mut entropy = Entropy::from_seed(plan.seed).fork("guide");
    // Long segments, so that the damage falls into the last one, behind which nothing shows it.
    plan.cluster.segment_bytes = 65_536;
    // And the backend holds nothing of it, else the gap shows when both are compared.
    plan.cluster.batch_ms = 20_000;
    plan.cluster.batch_operations = 100_000;
    plan.faults = (0..(plan.cluster.members as u64 - 1) / 2)
        .map(|number| Fault {
            at_ms: 3_000 * (number + 1) + entropy.below(2_000),
            for_ms: 100,
            kind: FaultKind::Rot {
                member: draw::index(plan.cluster.members, &mut entropy),
            },
        })
        .collect();
}

/// Leaders whose disk stalls and who lose the others, so that their last write is overwritten while
/// it is on its way.
pub fn stalled_leaders(plan: &mut Plan) {
    isolated_leaders(plan);
    let mut entropy = Entropy::from_seed(plan.seed).fork("stalls");
    let election_ms = plan.cluster.election_ms;
    let mut faults = Vec::new();
    for isolated in &plan.faults {
        let mut stall = isolated.clone();
        stall.kind = FaultKind::StalledDisk {
            target: Target::Leader,
        };
        stall.for_ms = isolated.for_ms + entropy.below(election_ms);
        let cut = Fault {
            at_ms: isolated.at_ms + stall.for_ms + entropy.below(30),
            for_ms: 100,
            kind: FaultKind::PowerCutAll,
        };
        faults.extend([stall, isolated.clone()]);
        faults.extend(entropy.one_in(2).then_some(cut));
    }
    faults.sort_by_key(|fault| fault.at_ms);
    plan.faults = faults;
}

/// Many elections, and crashes in the middle of them.
pub fn elections(plan: &mut Plan) {
    crashes(plan);
    plan.cluster.pre_vote = false;
    plan.disks.sync_us = 5_000;
    plan.cluster.heartbeat_ms = 10;
    plan.cluster.election_ms = 60;
}

/// Many elections of many members with a network that delays.
pub fn probed_elections(plan: &mut Plan) {
    set_members(plan, 5);
    isolated_leaders(plan);
    plan.cluster.pre_vote = true;
    plan.cluster.heartbeat_ms = 10;
    plan.cluster.election_ms = 60;
    plan.network.jitter_us = 20_000;
}

/// Leaders that are cut off under load for about as long as they need to lose the lead.
pub fn isolated_leaders(plan: &mut Plan) {
    isolate(plan, true, true);
}

/// The same, long enough that others go on, while many clients read and write few keys.
pub fn deposed_leaders(plan: &mut Plan) {
    isolated_leaders(plan);
    busy(plan);
    plan.cluster.heartbeat_ms = 40;
    plan.cluster.election_ms = 400;
    for fault in &mut plan.faults {
        fault.for_ms += 500;
    }
}

/// Clients that read and write three keys, quickly, until their scripts end.
pub fn busy(plan: &mut Plan) {
    plan.faults_ms = 6_000;
    plan.patience_ms = 300;
    while plan.clients.len() < 6 {
        let first = plan.clients[0].clone();
        plan.clients.push(first);
    }
    let each = plan
        .clients
        .iter()
        .map(Vec::len)
        .min()
        .expect("six clients")
        .min(200);
    for (client, steps) in plan.clients.iter_mut().enumerate() {
        steps.truncate(each);
        for (number, step) in steps.iter_mut().enumerate() {
            let key = (number / 2 + client) as u64 % 3;
            step.wait_us %= 2 * 6_000_000 / each as u64;
            step.what = match (client + number) % 2 {
                0 => What::Put { key, bytes: 8 },
                _ => What::Get {
                    key,
                    serializable: false,
                },
            };
        }
    }
}

/// Leaders that hear the others and are not heard: what they commit, nobody else learns.
pub fn muted_leaders(plan: &mut Plan) {
    isolate(plan, false, true);
    busy(plan);
    plan.disks.sync_us = 5_000;
    plan.network.delay_us = plan.network.delay_us.max(1_000);
}

fn isolate(plan: &mut Plan, inbound: bool, outbound: bool) {
    begin(plan);
    plan.cluster.heartbeat_ms = 20;
    plan.cluster.election_ms = 160;
    let longest_ms = 4 * plan.cluster.election_ms;
    strike_often(plan, longest_ms, longest_ms, |_, _| FaultKind::Isolate {
        target: Target::Leader,
        inbound,
        outbound,
        hold: false,
    });
    for fault in &mut plan.faults {
        fault.for_ms = fault.for_ms.max(200);
    }
}

/// Appends of one entry each, so that a follower has a part of what its leader sent.
pub fn small_appends(plan: &mut Plan) {
    isolated_leaders(plan);
    plan.cluster.append_bytes = 1;
    plan.network.jitter_us = plan.network.jitter_us.max(5_000);
}

/// A network that repeats and reorders much.
pub fn repeated_frames(plan: &mut Plan) {
    begin(plan);
    plan.network.duplicate_ppm = 200_000;
    plan.network.reorder_ppm = 200_000;
    plan.network.jitter_us = 10_000;
}

/// A network that damages much.
pub fn damaged_frames(plan: &mut Plan) {
    begin(plan);
    plan.network.corrupt_ppm = 5_000;
}

/// Answers to a leader are held until others have elected another one and have gone on.
pub fn held_answers(plan: &mut Plan) {
    begin(plan);
    set_members(plan, 3);
    busy(plan);
    let mut entropy = Entropy::from_seed(plan.seed).fork("guide");
    plan.cluster.heartbeat_ms = 20;
    plan.cluster.election_ms = 300;
    plan.cluster.step_us = plan.cluster.step_us.min(50);
    plan.network.delay_us = 300;
    plan.network.jitter_us = 100;
    plan.network.loss_ppm = 0;
    plan.disks.sync_us = plan.disks.sync_us.min(300);
    // Whoever gets no answer goes on to another member, and comes back with a new read.
    plan.patience_ms = 100;
    plan.clients.extend(plan.clients.clone());
    let isolate = |at_ms, for_ms, inbound, hold| Fault {
        at_ms,
        for_ms,
        kind: FaultKind::Isolate {
            target: Target::Leader,
            inbound,
            outbound: !inbound,
            hold,
        },
    };
    plan.faults.clear();
    let mut at_ms = 200;
    while at_ms < plan.faults_ms {
        let for_ms = entropy.between(380, 620);
        let later = entropy.between(10, 40);
        // The answers of the first moments are held, and what the others say after them is lost.
        plan.faults.extend([
            isolate(at_ms, for_ms, true, true),
            isolate(at_ms + later, for_ms, false, false),
            isolate(at_ms + later + 3, for_ms - later - 5, true, false),
        ]);
        at_ms += for_ms + entropy.between(600, 1_000);
    }
}

/// The lead is moved to a member that the liveness phase leaves behind, deaf.
pub fn deaf_leader(plan: &mut Plan) {
    begin(plan);
    plan.faults_ms = 3_000;
    plan.deaf = true;
    let outside = (0..plan.cluster.members).find(|at| !plan.core.contains(at));
    let outside = outside.expect("a majority is not all");
    plan.faults = (0..10)
        .map(|number| Fault {
            at_ms: 1_000 + 190 * number,
            for_ms: 10,
            kind: FaultKind::MoveLeader { to: outside },
        })
        .collect();
}

/// The lead is moved to a member that cannot be reached and never will be.
pub fn transfer_to_the_dead(plan: &mut Plan) {
    deaf_leader(plan);
    plan.deaf = false;
    let outside = (0..plan.cluster.members).find(|at| !plan.core.contains(at));
    let target = Target::Member(outside.expect("a majority is not all"));
    plan.faults.insert(
        0,
        Fault {
            at_ms: 500,
            for_ms: 10_000,
            kind: FaultKind::Isolate {
                target,
                inbound: true,
                outbound: true,
                hold: false,
            },
        },
    );
}

/// Members that miss more than the log keeps, and crashes while images come in.
pub fn images(plan: &mut Plan) {
    begin(plan);
    plan.cluster.snapshot_count = 1;
    plan.cluster.catchup_entries = 0;
    plan.cluster.batch_ms = plan.cluster.batch_ms.min(20);
    plan.network.duplicate_ppm = 100_000;
    let points = [
        Point::StageSealed,
        Point::StageInstalled,
        Point::StageInstalled,
        Point::LogWritten,
    ];
    strike_often(plan, 400, 1_000, |members, entropy| {
        let target = any(members, entropy);
        match entropy.below(4) {
            0 => FaultKind::Isolate {
                target,
                inbound: true,
                outbound: true,
                hold: false,
            },
            1 => FaultKind::Kill { target },
            _ => FaultKind::CrashAt {
                target,
                point: points[draw::index(points.len(), entropy)],
                power: entropy.one_in(2),
            },
        }
    });
}

/// Members that need an image, die when they have all of it, and then have all the time there is.
pub fn deaths_before_installation(plan: &mut Plan) {
    images(plan);
    plan.faults_ms = 40_000;
    plan.faults.clear();
    let mut entropy = Entropy::from_seed(plan.seed).fork("guided deaths");
    let members = plan.cluster.members;
    for round in 0..4 {
        let target = Target::Member(draw::index(members, &mut entropy));
        let point = match entropy.one_in(2) {
            true => Point::StageSealed,
            false => Point::InstallBegins,
        };
        let cut = FaultKind::Isolate {
            target,
            inbound: true,
            outbound: true,
            hold: false,
        };
        let power = entropy.one_in(2);
        let death = FaultKind::CrashAt {
            target,
            point,
            power,
        };
        plan.faults.extend([cut, death].map(|kind| Fault {
            at_ms: 1_000 + round * 10_000,
            for_ms: 1_500,
            kind,
        }));
    }
}

/// A member set that changes all the time.
fn changing(plan: &mut Plan, mean_ms: u64, change: impl Fn(&mut Entropy) -> MemberChange) {
    begin(plan);
    let clock = plan.clocks[0].clone();
    let membership = &mut plan.membership;
    membership
        .clocks
        .resize(SLOTS_MAX - plan.clocks.len(), clock);
    membership.strict = false;
    membership.learners_max = 3;
    membership.health_ms = 50;
    membership.steps.clear();
    let mut entropy = Entropy::from_seed(plan.seed).fork("guided changes");
    let mut at_ms = 200;
    while at_ms < plan.faults_ms {
        let what = change(&mut entropy);
        membership.steps.push(MemberStep { at_ms, what });
        at_ms += 1 + entropy.below(2 * mean_ms);
    }
    plan.faults.clear();
}

fn nth(entropy: &mut Entropy) -> usize {
    draw::usize(entropy.below(64))
}

/// Learners come, go and move, and members restart.
pub fn many_learners(plan: &mut Plan) {
    changing(plan, 400, |entropy| {
        let nth = nth(entropy);
        match entropy.below(6) {
            0 | 1 => MemberChange::Add { learner: true },
            2 => MemberChange::Remove { nth },
            3 => MemberChange::Move { nth },
            _ => MemberChange::CrashAtChange { nth, power: true },
        }
    });
    plan.network.loss_ppm = plan.network.loss_ppm.max(50_000);
}

/// Voters come and go through joint configurations, on a network that delays.
pub fn joint_changes(plan: &mut Plan) {
    // From four voters to five: three of five may be two of four.
    set_members(plan, 4);
    let turn = Cell::new(0);
    changing(plan, 250, |entropy| {
        turn.set(turn.get() + 1);
        let nth = nth(entropy);
        match turn.get() % 3 {
            1 => MemberChange::Add { learner: true },
            // It has the log by then, so its answers come as soon as those of the others.
            2 => MemberChange::Promote { nth },
            _ => MemberChange::Remove { nth },
        }
    });
    plan.membership.joint = true;
    plan.network.jitter_us = 20_000;
}

/// Members come and go as fast as they can, two operators at once if it may be.
pub fn quick_changes(plan: &mut Plan) {
    changing(plan, 20, |entropy| {
        let nth = nth(entropy);
        match entropy.below(4) {
            0 => MemberChange::Add { learner: true },
            1 => MemberChange::Add { learner: false },
            2 => MemberChange::Promote { nth },
            _ => MemberChange::Remove { nth },
        }
    });
    plan.network.jitter_us = 20_000;
}

/// Members join while the log still reaches back to its beginning.
pub fn joiners_of_a_long_log(plan: &mut Plan) {
    changing(plan, 500, |entropy| MemberChange::Add {
        learner: entropy.one_in(2),
    });
    plan.cluster.snapshot_count = 100_000;
    plan.cluster.catchup_entries = 100_000;
}

/// Members are removed again and again, and some start once more with the disk they had.
pub fn removals(plan: &mut Plan) {
    changing(plan, 500, |entropy| {
        let nth = nth(entropy);
        match entropy.below(6) {
            0 => MemberChange::Add { learner: true },
            1 => MemberChange::Add { learner: false },
            2 | 3 => MemberChange::Remove { nth },
            4 => MemberChange::RemoveLeader,
            _ => MemberChange::Zombie { nth },
        }
    });
}

/// All members but one are lost in the end, learners among them, with writes on their way.
pub fn lost_majorities(plan: &mut Plan) {
    changing(plan, 800, |_| MemberChange::Add { learner: true });
    let mut entropy = Entropy::from_seed(plan.seed).fork("guided end");
    plan.membership.forced = Some(Forced {
        writes: 20,
        in_flight_us: 20_000 + entropy.below(40_000),
        dies: None,
        ..Forced::draw(&mut entropy)
    });
}

/// Members join with one flag while leaders come and go.
pub fn members_that_join(plan: &mut Plan) {
    changing(plan, 600, |entropy| match entropy.below(4) {
        0 | 1 => MemberChange::Join,
        2 => MemberChange::RemoveLeader,
        _ => MemberChange::Replace {
            nth: nth(entropy),
            learner: false,
        },
    });
    strike_often(plan, 500, 2_000, |members, entropy| FaultKind::Isolate {
        target: any(members, entropy),
        inbound: true,
        outbound: true,
        hold: false,
    });
}
