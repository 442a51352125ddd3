//! Bugs in how the members agree and what they keep: elections, replication, the log on disk,
//! images, restarts.

use fated::kernel::Entropy;

use super::{
    Check::{self, Asserts, Holds},
    Planted, strike_often,
};
use crate::{
    draw,
    faults::{DiskFault, Fault, FaultKind, Point, Target},
    plan::Plan,
    script::What,
};

const DURABLE: Check = Holds("what was committed is durable");
const ON_QUORUM: Check = Holds("committed means durable on a quorum");
const COMES_BACK: Check = Holds("what was durable comes back");
const PROMISE: Check = Holds("a promise outlives a restart");
const ONE_VOTE: Check = Holds("one vote in a term");
const VOTES: Check = Holds("a leader has the votes of a quorum");
const ELECTION: Check = Holds("election safety");
const COMPLETE: Check = Holds("leader completeness");
const SAFETY: Check = Holds("state-machine safety");
const MATCHING: Check = Holds("log matching");
const ONE_STATE: Check = Holds("one state after one index");
const NO_HALT: Check = Holds("a member halts only for a fault of its own disk");
const REFUSED: Check = Holds("a damaged log is never accepted");
const SERVES: Check = Holds("a healthy majority serves");
const EQUAL: Check = Holds("healed members become equal");
const LINEARIZABLE: Check = Holds("Linearizable");
const COMMITTED: Check = Holds("Committed");
const CUT: Check = Asserts("a committed entry never goes away");

/// A bug that chance alone finds soon.
const fn planted(
    name: &'static str,
    source: &'static str,
    breaks: &'static str,
    checks: &'static [Check],
) -> Planted {
    Planted {
        name,
        breaks,
        source,
        checks,
        guide: None,
        seeds_max: 60,
    }
}

/// A bug whose circumstances a guide makes more frequent.
const fn guided(bug: Planted, guide: fn(&mut Plan)) -> Planted {
    Planted {
        guide: Some(guide),
        ..bug
    }
}

/// Their list.
pub const TABLE: &[Planted] = &[
    // What is on disk.
    guided(
        planted(
            "ack-before-sync",
            "P1",
            "A follower acknowledges entries before they are durable.",
            &[ON_QUORUM, DURABLE],
        ),
        crashes,
    ),
    guided(
        planted(
            "count-before-sync",
            "P1",
            "A member counts its own log before it is durable.",
            &[DURABLE, COMES_BACK],
        ),
        crashes,
    ),
    guided(
        planted(
            "journal-releases-early",
            "P1, etcd 14370",
            "The log lets replies go when it has written and not yet synced.",
            &[DURABLE, COMES_BACK, PROMISE],
        ),
        crashes,
    ),
    guided(
        planted(
            "log-write-unsynced",
            "P1, etcd 14370",
            "Writes of the log are never synced.",
            &[DURABLE, COMES_BACK, PROMISE],
        ),
        crashes,
    ),
    guided(
        planted(
            "failed-sync-ignored",
            "P24",
            "A failed operation of the log is taken as done.",
            &[DURABLE, COMES_BACK, PROMISE],
        ),
        failing_disks,
    ),
    guided(
        planted(
            "segment-name-unsynced",
            "P24, etcd 6368",
            "The directory is not synced after a segment got its name.",
            &[DURABLE, COMES_BACK, PROMISE, NO_HALT],
        ),
        crashes,
    ),
    guided(
        planted(
            "segments-removed-early",
            "P18",
            "Segments of the log go before the backend holds their entries.",
            &[NO_HALT, DURABLE],
        ),
        lazy_backend,
    ),
    guided(
        planted(
            "mark-before-commit",
            "P18, etcd changelog 11888",
            "The log is marked and cut before the backend has committed.",
            &[NO_HALT, DURABLE],
        ),
        lazy_backend,
    ),
    guided(
        planted(
            "applied-before-durable",
            "second wave",
            "Entries are applied that are committed elsewhere and not durable here.",
            &[
                Asserts("self.applying <= self.durable"),
                NO_HALT,
                Asserts("an applied entry never goes away"),
            ],
        ),
        crashes,
    ),
    guided(
        planted(
            "applied-index-apart",
            "P19, etcd 13766",
            "The applied index is committed before the last write of its entry.",
            &[ONE_STATE, EQUAL, Holds("Serializable"), LINEARIZABLE],
        ),
        crashes,
    ),
    guided(
        planted(
            "damage-cut-as-torn",
            "P23",
            "A damaged write is cut from the log as if it had never been whole.",
            &[COMES_BACK, REFUSED, PROMISE, COMPLETE],
        ),
        rot,
    ),
    guided(
        planted(
            "torn-write-accepted",
            "P23",
            "A write of the log counts although its checksum is wrong.",
            &[NO_HALT, DURABLE, ONE_STATE, MATCHING, SAFETY],
        ),
        torn_writes,
    ),
    guided(
        planted(
            "torn-tail-kept",
            "P23",
            "The rest of a torn write is not zeroed when the log goes on.",
            &[NO_HALT, DURABLE, COMES_BACK],
        ),
        torn_writes,
    ),
    guided(
        planted(
            "late-write-counts",
            "etcd raft: append ABA race",
            "A write whose entries were overwritten meanwhile counts as theirs.",
            &[
                DURABLE,
                COMES_BACK,
                ON_QUORUM,
                Asserts("durable before it was written"),
            ],
        ),
        stalled_leaders,
    ),
    // Elections.
    guided(
        planted(
            "vote-before-sync",
            "P2",
            "A vote leaves before it is durable.",
            &[PROMISE, ONE_VOTE, ELECTION],
        ),
        elections,
    ),
    guided(
        planted(
            "hard-state-unwritten",
            "P2",
            "Term and vote are written only along with entries.",
            &[PROMISE, ONE_VOTE, ELECTION],
        ),
        elections,
    ),
    guided(
        planted(
            "two-votes-in-a-term",
            "P2",
            "A member votes for whoever asks, also twice in a term.",
            &[
                ONE_VOTE,
                ELECTION,
                Asserts("the vote changes within term"),
                Asserts("self.vote == Some(self.config.id)"),
            ],
        ),
        elections,
    ),
    guided(
        planted(
            "pre-vote-counts-as-vote",
            "second wave",
            "A late answer to a pre-vote counts as a vote.",
            &[VOTES, ELECTION],
        ),
        probed_elections,
    ),
    guided(
        planted(
            "votes-ignore-the-log",
            "Raft 5.4.1",
            "Votes are given to candidates whose log misses entries.",
            &[COMPLETE],
        ),
        isolated_leaders,
    ),
    guided(
        planted(
            "leader-never-steps-down",
            "second wave",
            "A leader that hears nobody goes on leading.",
            &[SERVES],
        ),
        deaf_leader,
    ),
    guided(
        planted(
            "transfer-never-given-up",
            "second wave",
            "A transfer of leadership to a dead member blocks proposals for ever.",
            &[SERVES, EQUAL],
        ),
        transfer_to_the_dead,
    ),
    // Replication.
    guided(
        planted(
            "older-term-commit",
            "P3, Raft figure 8",
            "A leader commits entries of earlier terms by counting.",
            &[ON_QUORUM, COMPLETE, SAFETY],
        ),
        small_appends,
    ),
    guided(
        planted(
            "log-match-unchecked",
            "Raft 5.3",
            "An append is accepted although the entry before it differs.",
            &[
                MATCHING,
                COMPLETE,
                SAFETY,
                ON_QUORUM,
                Asserts("terms in the log never fall"),
                Asserts("of a lower term"),
            ],
        ),
        deposed_leaders,
    ),
    guided(
        planted(
            "truncate-on-overlap",
            "P22",
            "An append that overlaps cuts the log, also where nothing conflicts.",
            &[ON_QUORUM, COMPLETE, DURABLE],
        ),
        repeated_frames,
    ),
    guided(
        planted(
            "heartbeat-commit-unbounded",
            "second wave",
            "A heartbeat commits entries at a follower that were never compared.",
            &[SAFETY, CUT],
        ),
        isolated_leaders,
    ),
    planted(
        "reply-counts-all-sent",
        "second wave",
        "A reply to one append acknowledges all that were sent.",
        &[ON_QUORUM],
    ),
    planted(
        "probe-never-goes-back",
        "second wave",
        "A leader does not go back in its log when a follower refuses an append.",
        &[EQUAL, SERVES],
    ),
    guided(
        planted(
            "forward-taken-twice",
            "second wave",
            "A forwarded proposal that the network repeats is appended twice.",
            &[LINEARIZABLE, COMMITTED],
        ),
        repeated_frames,
    ),
    guided(
        planted(
            "frame-checksum-unchecked",
            "second wave",
            "A damaged message between members is taken for what it says.",
            &[Holds("a link takes only whole frames")],
        ),
        damaged_frames,
    ),
    // Reads.
    guided(
        planted(
            "read-without-quorum",
            "P5",
            "A leader answers reads without asking whether it still leads.",
            &[LINEARIZABLE],
        ),
        deposed_leaders,
    ),
    guided(
        planted(
            "read-before-own-commit",
            "P6, etcd 7331",
            "A new leader answers reads before it knows what is committed.",
            &[LINEARIZABLE],
        ),
        muted_leaders,
    ),
    guided(
        planted(
            "read-joins-running-round",
            "P7, etcd 20418",
            "A read is confirmed by answers that are older than the read.",
            &[LINEARIZABLE],
        ),
        held_answers,
    ),
    guided(
        planted(
            "follower-reads-own-commit",
            "P5",
            "A follower answers reads from what it knows committed, without its leader.",
            &[LINEARIZABLE],
        ),
        deposed_leaders,
    ),
    // Images.
    guided(
        planted(
            "image-index-off-by-one",
            "P18",
            "An image says that it holds one entry more than it does.",
            &[
                Asserts("the image is not what its sender said it was"),
                NO_HALT,
            ],
        ),
        images,
    ),
    guided(
        planted(
            "stale-image-installed",
            "etcd 18055",
            "An image replaces a state that is newer.",
            &[Asserts("an image never takes back a commit")],
        ),
        images,
    ),
    guided(
        planted(
            "image-installed-before-mark",
            "P18, etcd changelog 11888",
            "An image becomes the state before the log is marked with it.",
            &[NO_HALT],
        ),
        images,
    ),
];

/// At least three members, and no longer than bugs of this kind need.
fn begin(plan: &mut Plan) {
    plan.faults_ms = plan.faults_ms.min(15_000);
    plan.operations_min = 0;
    if plan.cluster.members == 1 {
        set_members(plan, 3);
    }
}

fn set_members(plan: &mut Plan, members: usize) {
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
fn crashes(plan: &mut Plan) {
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
fn torn_writes(plan: &mut Plan) {
    crashes(plan);
    plan.cluster.segment_bytes = 65_536;
    for (number, fault) in plan.faults.iter_mut().enumerate() {
        if number % 3 > 0 {
            fault.kind = FaultKind::CrashAt {
                target: Target::Member(number % plan.cluster.members),
                point: Point::LogWritten,
                power: true,
            };
        }
    }
    for step in plan.clients.iter_mut().flatten() {
        if let What::Put { bytes, .. } = &mut step.what {
            *bytes = 3_000;
        }
    }
}

/// Writes and syncs that fail, and crashes after them.
fn failing_disks(plan: &mut Plan) {
    begin(plan);
    strike_often(plan, 500, 1_000, |members, entropy| {
        let target = any(members, entropy);
        match entropy.below(4) {
            0 => FaultKind::DiskError {
                target,
                on: DiskFault::Write,
            },
            1 | 2 => FaultKind::DiskError {
                target,
                on: DiskFault::Sync,
            },
            _ => FaultKind::PowerCut { target },
        }
    });
}

/// A backend that is far behind a log that keeps little.
fn lazy_backend(plan: &mut Plan) {
    crashes(plan);
    plan.cluster.snapshot_count = 1;
    plan.cluster.catchup_entries = 0;
    plan.cluster.batch_operations = plan.cluster.batch_operations.max(20);
    plan.cluster.batch_ms = plan.cluster.batch_ms.max(50);
}

/// One member whose log is damaged, early enough that it starts again.
fn rot(plan: &mut Plan) {
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
fn stalled_leaders(plan: &mut Plan) {
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
fn elections(plan: &mut Plan) {
    crashes(plan);
    plan.cluster.pre_vote = false;
    plan.disks.sync_us = 5_000;
    plan.cluster.heartbeat_ms = 10;
    plan.cluster.election_ms = 60;
}

/// Many elections of many members with a network that delays.
fn probed_elections(plan: &mut Plan) {
    set_members(plan, 5);
    isolated_leaders(plan);
    plan.cluster.pre_vote = true;
    plan.cluster.heartbeat_ms = 10;
    plan.cluster.election_ms = 60;
    plan.network.jitter_us = 20_000;
}

/// Leaders that are cut off under load for about as long as they need to lose the lead.
fn isolated_leaders(plan: &mut Plan) {
    isolate(plan, true, true);
}

/// The same, long enough that others go on, while many clients read and write few keys.
fn deposed_leaders(plan: &mut Plan) {
    isolated_leaders(plan);
    busy(plan);
    plan.cluster.heartbeat_ms = 40;
    plan.cluster.election_ms = 400;
    for fault in &mut plan.faults {
        fault.for_ms += 500;
    }
}

/// Clients that read and write three keys, quickly, until their scripts end.
fn busy(plan: &mut Plan) {
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
fn muted_leaders(plan: &mut Plan) {
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
fn small_appends(plan: &mut Plan) {
    isolated_leaders(plan);
    plan.cluster.append_bytes = 1;
    plan.network.jitter_us = plan.network.jitter_us.max(5_000);
}

/// A network that repeats and reorders much.
fn repeated_frames(plan: &mut Plan) {
    begin(plan);
    plan.network.duplicate_ppm = 200_000;
    plan.network.reorder_ppm = 200_000;
    plan.network.jitter_us = 10_000;
}

/// A network that damages much.
fn damaged_frames(plan: &mut Plan) {
    begin(plan);
    plan.network.corrupt_ppm = 5_000;
}

/// Answers to a leader are held until others have elected another one and have gone on.
fn held_answers(plan: &mut Plan) {
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
fn deaf_leader(plan: &mut Plan) {
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
fn transfer_to_the_dead(plan: &mut Plan) {
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
fn images(plan: &mut Plan) {
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
