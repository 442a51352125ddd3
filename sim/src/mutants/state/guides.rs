//! Plans in which what a planted bug needs happens often. They break nothing by themselves.

use fated::kernel::Entropy;

use crate::{
    draw,
    faults::{Fault, FaultKind, Target},
    membership::MembershipPlan,
    mutants::strike_often,
    plan::{ClockPlan, Plan, WatchLimits},
    script::{LeaseStep, Naming, Part, Step, UpkeepStep, What, WideStep},
    watching::{Scope, WatchPlan, WatcherPlan},
};

fn dice(plan: &Plan) -> Entropy {
    Entropy::from_seed(plan.seed).fork("guide of state")
}

/// A cluster of three, so that one member can be missing.
fn of_three(plan: &mut Plan) {
    let even = ClockPlan {
        rate_ppm: 0,
        offset_ms: 0,
    };
    plan.cluster.members = 3;
    plan.clocks.resize(3, even);
    plan.core = draw::subset(3, 2, &mut dice(plan));
    plan.faults.clear();
    plan.membership = MembershipPlan::default();
}

/// Every client repeats what `step` draws, with short pauses.
fn busy(plan: &mut Plan, clients: usize, steps: u64, step: impl Fn(&mut Entropy) -> What) {
    let mut entropy = dice(plan);
    let pause_us = (plan.faults_ms * 1000 / steps).max(2);
    let script = |_| {
        let step = |_| Step {
            wait_us: entropy.below(pause_us),
            what: step(&mut entropy),
        };
        (0..steps).map(step).collect()
    };
    plan.clients = (0..clients).map(script).collect();
}

/// A watcher of all keys that reads at once and stays.
fn watcher() -> WatcherPlan {
    WatcherPlan {
        from: 0,
        to: 40,
        start: None,
        resumes: true,
        prev_kv: true,
        no_put: false,
        no_delete: false,
        progress: true,
        slow_us: 20,
        keep_ms: 60_000,
        fragment: false,
        cancels: false,
        requires_leader: false,
        scope: Scope::Keys,
        more: Vec::new(),
        swaps_ms: 0,
    }
}

/// Streams with two watches of the same keys, of which one wants the pairs before.
pub fn watched_in_pairs(plan: &mut Plan) {
    watched(plan);
    for watcher in &mut plan.watchers {
        watcher.fragment = false;
        let [first] = &watcher.watches()[..] else {
            unreachable!("the guide gives each stream one watch");
        };
        watcher.more = vec![WatchPlan {
            prev_kv: !first.prev_kv,
            ..first.clone()
        }];
    }
}

/// Watchers of all kinds on streams that hold little, slow ones too.
pub fn watched(plan: &mut Plan) {
    let mut entropy = dice(plan);
    plan.cluster.watch = WatchLimits {
        window_bytes: draw::log_uniform(256, 4096, &mut entropy),
        catchup_revisions: draw::usize(draw::log_uniform(1, 16, &mut entropy)),
        fragment_bytes: draw::usize(draw::log_uniform(128, 1024, &mut entropy)),
    };
    plan.cluster.progress_ms = 100;
    let starts = [None, Some(0), Some(-20), Some(-3), Some(6)];
    plan.watchers = (0..6)
        .map(|number| WatcherPlan {
            start: starts[number % starts.len()],
            resumes: number % 2 == 0,
            slow_us: draw::log_uniform(100, 400_000, &mut entropy),
            keep_ms: draw::log_uniform(300, 6000, &mut entropy),
            fragment: number % 3 != 0,
            cancels: number % 3 == 1,
            no_put: number == 4,
            no_delete: number == 5,
            ..watcher()
        })
        .collect();
    busy(plan, 4, 300, |entropy| {
        let key = entropy.below(12);
        match entropy.below(8) {
            0 => What::Delete { key },
            1 => What::DeleteRange {
                from: key,
                to: key + 4,
            },
            2 => What::Txn {
                keys: vec![key, key + 1, key + 2],
            },
            _ => What::Put {
                key,
                bytes: 1 + entropy.below(200),
            },
        }
    });
}

/// Members that miss so much, watched all the while, that only an image helps.
pub fn images(plan: &mut Plan) {
    watched(plan);
    of_three(plan);
    plan.cluster.snapshot_count = 5;
    plan.cluster.catchup_entries = 0;
    let cut = |members: usize, entropy: &mut Entropy| FaultKind::Isolate {
        target: Target::Member(draw::index(members, entropy)),
        inbound: true,
        outbound: true,
        hold: false,
    };
    strike_often(plan, 1200, 1500, cut);
    for (number, watcher) in plan.watchers.iter_mut().enumerate() {
        watcher.slow_us = 20;
        watcher.keep_ms = 5000;
        watcher.start = (number % 2 == 0).then_some(-2);
    }
}

/// Members alone for a long time, with streams that want a leader.
pub fn lonely(plan: &mut Plan) {
    images(plan);
    plan.cluster.heartbeat_ms = 20;
    plan.cluster.election_ms = 200;
    for fault in &mut plan.faults {
        fault.for_ms = 3000;
    }
    for watcher in &mut plan.watchers {
        watcher.requires_leader = true;
    }
}

/// Members that miss much and rewrite their stores all the time.
pub fn rewritten_images(plan: &mut Plan) {
    images(plan);
    plan.patience_ms = 300;
    plan.disks.sync_us = 5000;
    busy(plan, 5, 300, |entropy| match entropy.below(3) {
        0 => What::Upkeep(UpkeepStep::Defragment {
            member: draw::index(3, entropy),
        }),
        _ => What::Put {
            key: entropy.below(10),
            bytes: 10,
        },
    });
}

/// Downgrades that begin and are taken back.
pub fn downgrades(plan: &mut Plan) {
    plan.patience_ms = 300;
    let members = plan.cluster.members;
    busy(plan, 2, 60, |entropy| {
        What::Upkeep(UpkeepStep::Downgrade {
            member: draw::index(members, entropy),
            begins: entropy.below(3) < 2,
        })
    });
}

/// Stores on LMDB that are rewritten again and again, beside few records that always change.
pub fn rewritten(plan: &mut Plan) {
    of_three(plan);
    plan.disks.lmdb = true;
    busy(plan, 4, 400, |entropy| match entropy.below(20) {
        0 => What::Upkeep(UpkeepStep::Defragment {
            member: draw::index(3, entropy),
        }),
        _ => What::Put {
            key: entropy.below(30),
            bytes: 1 + entropy.below(300),
        },
    });
}

/// Deletes and compactions up to the last of them, watched by slow watchers that start there.
pub fn tombstones(plan: &mut Plan) {
    watched(plan);
    for watcher in &mut plan.watchers {
        watcher.resumes = true;
        watcher.no_delete = false;
        watcher.keep_ms = 60_000;
    }
    let back = plan.seed.cast_signed() % 4;
    busy(plan, 2, 500, |entropy| {
        let key = entropy.below(4);
        match entropy.below(10) {
            0..4 => What::Put { key, bytes: 40 },
            4..9 => What::Delete { key },
            _ => What::Compact { back },
        }
    });
}

/// One client deletes and compacts up to that very revision; its members die all the time.
pub fn compacted_to_death(plan: &mut Plan) {
    plan.cluster.compaction_slice = 50;
    plan.cluster.batch_ms = 5;
    let mut steps = Vec::new();
    for _ in 0..250 {
        for what in [
            What::Put { key: 1, bytes: 10 },
            What::Delete { key: 1 },
            What::Compact { back: 0 },
        ] {
            let wait_us = plan.faults_ms * 1000 / 750;
            steps.push(Step { wait_us, what });
        }
    }
    plan.clients = vec![steps];
    deaths(plan, 300);
}

/// Compactions that take long, and members that die meanwhile.
pub fn slow_compactions(plan: &mut Plan) {
    plan.cluster.compaction_slice = 1;
    plan.cluster.batch_ms = 5;
    busy(plan, 4, 300, |entropy| {
        let key = entropy.below(40);
        match entropy.below(20) {
            0 => What::Compact {
                back: entropy.below(10).cast_signed(),
            },
            1..3 => What::Delete { key },
            3..6 => What::Range {
                from: 0,
                to: 40,
                back: entropy.below(60).cast_signed(),
            },
            _ => What::Put { key, bytes: 10 },
        }
    });
    deaths(plan, 1000);
}

fn deaths(plan: &mut Plan, mean_ms: u64) {
    strike_often(plan, mean_ms, 600, |members, entropy| {
        let target = Target::Member(draw::index(members, entropy));
        match entropy.one_in(2) {
            true => FaultKind::Kill { target },
            false => FaultKind::PowerCut { target },
        }
    });
}

fn reads_and_writes(plan: &mut Plan) {
    busy(plan, 8, 300, |entropy| {
        let key = entropy.below(3);
        match entropy.one_in(2) {
            true => What::Put { key, bytes: 10 },
            false => What::Get {
                key,
                serializable: false,
            },
        }
    });
    plan.network.client_loss_ppm = 0;
    plan.patience_ms = 6000;
}

/// Leaders that stand still, or hear nobody, while others lead.
pub fn deposed_leaders(plan: &mut Plan) {
    of_three(plan);
    reads_and_writes(plan);
    plan.patience_ms = 2000;
    let longest_ms = 4 * plan.cluster.election_ms;
    strike_often(plan, 1500, longest_ms, |_, entropy| {
        let target = Target::Leader;
        match entropy.one_in(2) {
            true => FaultKind::Pause { target },
            false => FaultKind::Isolate {
                target,
                inbound: true,
                outbound: true,
                hold: true,
            },
        }
    });
}

/// Members that die and come back with much to learn.
pub fn replays(plan: &mut Plan) {
    of_three(plan);
    reads_and_writes(plan);
    plan.patience_ms = 500;
    plan.cluster.batch_ms = 200;
    plan.cluster.batch_operations = 1000;
    deaths(plan, 700);
}

/// Reads at revisions that are yet to come.
pub fn future_reads(plan: &mut Plan) {
    busy(plan, 4, 300, |entropy| match entropy.below(4) {
        0 => What::Range {
            from: 0,
            to: 10,
            back: -entropy.between(1, 100).cast_signed(),
        },
        _ => What::Put {
            key: entropy.below(10),
            bytes: 5,
        },
    });
}

/// A step of a client with leases that may be renewed.
fn lease_step(entropy: &mut Entropy) -> LeaseStep {
    let pick = entropy.below(8);
    match entropy.below(16) {
        0..4 => LeaseStep::Grant {
            ttl: 1 + entropy.below(3).cast_signed(),
            naming: match entropy.one_in(4) {
                true => Naming::Again { pick },
                false => Naming::Fresh,
            },
        },
        4..12 => LeaseStep::KeepAlive { pick },
        12 => LeaseStep::TimeToLive { pick, keys: true },
        _ => LeaseStep::Put {
            key: entropy.below(10),
            pick,
            bytes: 5,
        },
    }
}

/// Short leases that are renewed, or not, about when they run out; writes take their time.
pub fn short_leases(plan: &mut Plan) {
    of_three(plan);
    plan.cluster.heartbeat_ms = 20;
    plan.cluster.election_ms = 200;
    plan.network.delay_us = 5_000;
    plan.network.jitter_us = 40_000;
    plan.network.client_loss_ppm = 0;
    plan.patience_ms = 4000;
    busy(plan, 8, 200, |entropy| What::Lease(lease_step(entropy)));
}

/// Short leases through members that die and are back before a leader with a slow disk has answered.
pub fn quick_restarts(plan: &mut Plan) {
    short_leases(plan);
    (plan.network.delay_us, plan.network.jitter_us) = (500, 500);
    strike_often(plan, 300, 30, |members, entropy| FaultKind::Kill {
        target: Target::Member(draw::index(members, entropy)),
    });
    let slow = FaultKind::SlowDisk {
        target: Target::Leader,
        times: 100,
    };
    let slow = (0..plan.faults_ms / 1000).map(|second| Fault {
        at_ms: second * 1000,
        for_ms: 900,
        kind: slow.clone(),
    });
    plan.faults.extend(slow);
    plan.faults.sort_by_key(|fault| fault.at_ms);
}

/// Many leases whose names the members choose, and members that start again with a clock that was
/// set back to when they chose others.
pub fn clocks_set_back(plan: &mut Plan) {
    of_three(plan);
    plan.network.client_loss_ppm = 0;
    plan.patience_ms = 4000;
    busy(plan, 8, 300, |entropy| match entropy.one_in(8) {
        true => What::Lease(lease_step(entropy)),
        false => What::Lease(LeaseStep::Grant {
            ttl: 20,
            naming: Naming::Cluster,
        }),
    });
    let mut entropy = dice(plan).fork("clocks");
    for second in 1..plan.faults_ms / 1000 {
        let member = draw::index(3, &mut entropy);
        let target = Target::Member(member);
        let ms = -entropy.between(500, 5000).cast_signed();
        for kind in [
            FaultKind::WallJump { member, ms },
            FaultKind::Kill { target },
        ] {
            plan.faults.push(Fault {
                at_ms: second * 1000,
                for_ms: 20,
                kind,
            });
        }
    }
}

/// Short leases under leaders that come and go.
pub fn moved_short_leases(plan: &mut Plan) {
    short_leases(plan);
    strike_often(plan, 1500, 10, |members, entropy| FaultKind::MoveLeader {
        to: draw::index(members, entropy),
    });
}

/// Leases that nobody renews, under leaders that change before a whole lease can pass. Each
/// leader may lose the time up to its first checkpoint, three eighths of a lease at most, and what
/// a change takes; so from eight seconds at most some five are lost per change, and they end.
pub fn moved_leases(plan: &mut Plan) {
    const TTL: i64 = 8;
    short_leases(plan);
    let network = &mut plan.network;
    (network.delay_us, network.jitter_us) = (500, 500);
    (network.loss_ppm, network.corrupt_ppm) = (0, 0);
    (network.duplicate_ppm, network.reorder_ppm) = (0, 0);
    plan.faults_ms = 50_000;
    plan.lease_late_ms = Some(16_000);
    busy(plan, 3, 300, |entropy| match entropy.below(30) {
        0 => What::Lease(LeaseStep::Grant {
            ttl: TTL,
            naming: Naming::Fresh,
        }),
        1..5 => What::Lease(LeaseStep::Put {
            key: entropy.below(10),
            pick: entropy.below(8),
            bytes: 5,
        }),
        _ => What::Put {
            key: 10 + entropy.below(10),
            bytes: 5,
        },
    });
    plan.faults = (1..10)
        .map(|number| Fault {
            at_ms: number * 5000,
            for_ms: 0,
            kind: FaultKind::MoveLeader {
                to: draw::usize(number % 3),
            },
        })
        .collect();
}

/// Many keys under leases, which are written again so that value and lease stay.
pub fn touched_keys(plan: &mut Plan) {
    busy(plan, 4, 300, |entropy| {
        let key = entropy.below(4);
        match entropy.below(4) {
            0 => What::Lease(lease_step(entropy)),
            1 => What::Lease(LeaseStep::Put {
                key,
                pick: entropy.below(8),
                bytes: 5,
            }),
            2 => What::Get {
                key,
                serializable: false,
            },
            _ => What::Wide(WideStep {
                compare: Vec::new(),
                success: vec![Part::Touch { key }],
                failure: Vec::new(),
            }),
        }
    });
}
