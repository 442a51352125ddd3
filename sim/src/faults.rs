//! What can break, and a schedule of it. Every class of fault is on for half of the seeds, with an
//! intensity of its own.

use fated::kernel::Entropy;
use serde::{Deserialize, Serialize};

use crate::{draw, plan::ClusterPlan};

/// One fault: when, for how long, what.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Fault {
    /// Milliseconds after the cluster began to serve.
    pub at_ms: u64,
    /// How long it lasts, where that means something.
    pub for_ms: u64,
    /// What breaks.
    pub kind: FaultKind,
}

/// Whom it hits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Target {
    /// This member.
    Member(usize),
    /// Whoever leads then.
    Leader,
}

/// What can break.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FaultKind {
    /// The process dies and comes back; the page cache stays.
    Kill { target: Target },
    /// The machine loses power and comes back without its page cache.
    PowerCut { target: Target },
    /// All machines lose power at once.
    PowerCutAll,
    /// The process stands still and goes on.
    Pause { target: Target },
    /// Asked to stop in good order, and started again.
    Terminate { target: Target },
    /// Directed pairs of members lose each other. What is sent is lost, or held until it ends.
    Block {
        shape: Shape,
        pairs: Vec<(usize, usize)>,
        hold: bool,
    },
    /// A member is cut off from all others, in the named directions.
    Isolate {
        target: Target,
        inbound: bool,
        outbound: bool,
        hold: bool,
    },
    /// All links of a member break.
    Reset { target: Target },
    /// The link over which a member next sends or gets a piece of an image breaks there.
    ResetImage { target: Target },
    /// What is sent to a member arrives at this rate at most.
    SlowLinks { target: Target, bytes_per_ms: u64 },
    /// A member's disk is this many times slower.
    SlowDisk { target: Target, times: u64 },
    /// Nothing completes on a member's disk.
    StalledDisk { target: Target },
    /// The next operation of this kind fails; the member halts and comes back.
    DiskError { target: Target, on: DiskFault },
    /// No new segment fits on the disk.
    FullDisk { target: Target },
    /// A bit of the log flips while the member is down.
    Rot { member: usize },
    /// A write of the log lands on an earlier place; the member dies once it is durable.
    Miswrite { member: usize },
    /// At its next start a member reads one sector of its log from another place.
    Misread { member: usize },
    /// A part of the data directory is gone, or all of it.
    LostDisk { member: usize, part: Part },
    /// Civil time jumps; forward, monotonic time does too.
    ClockJump { target: Target, ms: i64 },
    /// Civil time jumps alone.
    WallJump { member: usize, ms: i64 },
    /// The clock runs at another rate.
    ClockRate { target: Target, ppm: i64 },
    /// Dies the next time it comes to an exact point of its disk's work.
    CrashAt {
        target: Target,
        point: Point,
        power: bool,
    },
    /// Whoever comes first to this point dies there.
    CrashFirst { point: Point, power: bool },
    /// Leadership is moved to this member.
    MoveLeader { to: usize },
}

/// Names a partition for people and counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Shape {
    OneWay,
    Pair,
    Split,
    Ring,
    Bridge,
    /// One member of several that are cut off one by one and come back in another order.
    Swizzle,
}

/// What of a data directory is lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Part {
    Log,
    Store,
    All,
}

/// An exact point: right after this step has taken effect, before anybody is told.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Point {
    LogWritten,
    LogSynced,
    SegmentCreated,
    SegmentZeroed,
    SegmentSynced,
    SegmentRenamed,
    SegmentDurable,
    SegmentUnlinked,
    SegmentsRemoved,
    Committed,
    ImagePinned,
    ImageRead,
    StageOpened,
    StageWritten,
    StageSealed,
    StageInstalled,
    /// Right before a commit of the backend.
    CommitBegins,
    /// A commit that records an accepted compaction.
    CompactionAccepted,
    /// A commit that removes a part of what is compacted.
    CompactionSlice,
    /// A commit that marks a compaction as finished.
    CompactionFinished,
    /// Right before an image is made durable.
    SealBegins,
    /// Right before a sealed image becomes the live one; the log has named it already.
    InstallBegins,
    StageDropped,
    /// A part of a rewriting of the store is done, and there are more.
    RewritePart,
    /// The store that was rewritten is the live one.
    Rewritten,
    /// While it starts, before the log is read.
    BootBegun,
    /// A segment that was read is written again, and not synced.
    BootLogWritten,
    BootLogSynced,
    /// An interrupted installation is finished or forgotten.
    BootImageSettled,
    BootLogRead,
    /// A new member is founded, and has no log.
    BootFounded,
    /// A change of the members was applied and is not in the backend yet. Only the operator's
    /// steps name it.
    ChangeApplied,
}

impl Point {
    /// All that a schedule of faults draws from.
    pub const ALL: [Self; 31] = [
        Self::LogWritten,
        Self::LogSynced,
        Self::SegmentCreated,
        Self::SegmentZeroed,
        Self::SegmentSynced,
        Self::SegmentRenamed,
        Self::SegmentDurable,
        Self::SegmentUnlinked,
        Self::SegmentsRemoved,
        Self::Committed,
        Self::ImagePinned,
        Self::ImageRead,
        Self::StageOpened,
        Self::StageWritten,
        Self::StageSealed,
        Self::StageInstalled,
        Self::CommitBegins,
        Self::CompactionAccepted,
        Self::CompactionSlice,
        Self::CompactionFinished,
        Self::SealBegins,
        Self::InstallBegins,
        Self::StageDropped,
        Self::RewritePart,
        Self::Rewritten,
        Self::BootBegun,
        Self::BootLogWritten,
        Self::BootLogSynced,
        Self::BootImageSettled,
        Self::BootLogRead,
        Self::BootFounded,
    ];

    /// Those of images on their way, where a member named beforehand seldom comes.
    pub const OF_IMAGES: [Self; 9] = [
        Self::ImagePinned,
        Self::ImageRead,
        Self::StageOpened,
        Self::StageWritten,
        Self::SealBegins,
        Self::StageSealed,
        Self::InstallBegins,
        Self::StageInstalled,
        Self::StageDropped,
    ];

    /// Whether a member comes here only while it starts.
    pub fn is_at_boot(self) -> bool {
        self >= Self::BootBegun
    }

    /// The name of its counter.
    pub fn counter(self) -> &'static str {
        match self {
            Self::LogWritten => "crash at: log written, not synced",
            Self::LogSynced => "crash at: log synced",
            Self::SegmentCreated => "crash at: segment created",
            Self::SegmentZeroed => "crash at: segment zeroed",
            Self::SegmentSynced => "crash at: segment synced",
            Self::SegmentRenamed => "crash at: segment renamed",
            Self::SegmentDurable => "crash at: segment durable",
            Self::SegmentUnlinked => "crash at: one segment unlinked",
            Self::SegmentsRemoved => "crash at: segments removed",
            Self::Committed => "crash at: backend committed",
            Self::ImagePinned => "crash at: image pinned",
            Self::ImageRead => "crash at: image read",
            Self::StageOpened => "crash at: stage opened",
            Self::StageWritten => "crash at: stage written",
            Self::StageSealed => "crash at: stage sealed",
            Self::StageInstalled => "crash at: stage installed",
            Self::ChangeApplied => "crash at: change of members applied",
            Self::CommitBegins => "crash at: backend commit begins",
            Self::CompactionAccepted => "crash at: compaction accepted",
            Self::CompactionSlice => "crash at: slice of a compaction committed",
            Self::CompactionFinished => "crash at: compaction marked as finished",
            Self::SealBegins => "crash at: sealing an image begins",
            Self::InstallBegins => "crash at: installing an image begins",
            Self::StageDropped => "crash at: stage dropped",
            Self::RewritePart => "crash at: part of a rewriting done",
            Self::Rewritten => "crash at: store rewritten",
            Self::BootBegun => "crash at: boot begun",
            Self::BootLogWritten => "crash at: boot, log written again, not synced",
            Self::BootLogSynced => "crash at: boot, log written again and synced",
            Self::BootImageSettled => "crash at: boot, image settled",
            Self::BootLogRead => "crash at: boot, log read",
            Self::BootFounded => "crash at: boot, member founded",
        }
    }
}

/// Which operation of a disk fails.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum DiskFault {
    Write,
    Sync,
    Prepare,
    Commit,
    /// No space is left for a commit.
    CommitFull,
    /// An image that arrives cannot be written.
    Stage,
    /// No space is left for an image that arrives.
    StageFull,
    /// The log cannot be read at the next start.
    Read,
}

impl DiskFault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Write,
        Self::Sync,
        Self::Prepare,
        Self::Commit,
        Self::CommitFull,
        Self::Stage,
        Self::StageFull,
        Self::Read,
    ];

    /// The name of its counter.
    pub fn counter(self) -> &'static str {
        match self {
            Self::Write => "disk: log write failed",
            Self::Sync => "disk: sync failed",
            Self::Prepare => "disk: making a segment failed",
            Self::Commit => "disk: commit failed",
            Self::CommitFull => "disk: no space for a commit",
            Self::Stage => "disk: writing an image failed",
            Self::StageFull => "disk: no space for an image",
            Self::Read => "disk: read failed at boot",
        }
    }
}

mod hostile;

const CLASSES: usize = 18;

/// The schedule of a plan.
pub fn draw(cluster: &ClusterPlan, faults_ms: u64, entropy: &mut Entropy) -> Vec<Fault> {
    let mut hostile = entropy.fork("hostile");
    let mut faults = draw_common(cluster, faults_ms, entropy);
    let rot = |fault: &&Fault| matches!(fault.kind, FaultKind::Rot { .. });
    let rotten = faults.iter().filter(rot).count();
    let damaged_max = (cluster.members - 1) / 2 - rotten;
    faults.extend(hostile::draw(cluster, faults_ms, damaged_max, &mut hostile));
    faults.sort_by_key(|fault| fault.at_ms);
    faults
}

fn draw_common(cluster: &ClusterPlan, faults_ms: u64, entropy: &mut Entropy) -> Vec<Fault> {
    let on: Vec<usize> = (0..CLASSES).filter(|_| entropy.one_in(2)).collect();
    if on.is_empty() {
        return Vec::new();
    }
    let mean_ms = draw::log_uniform(300, 10_000, entropy);
    let longest_ms = draw::log_uniform(100, 10_000, entropy);
    let mut rot_left = (cluster.members - 1) / 2;
    let mut faults = Vec::new();
    let mut at_ms = entropy.below(2 * mean_ms);
    while at_ms < faults_ms {
        let class = on[draw::index(on.len(), entropy)];
        let for_ms = draw::log_uniform(10, longest_ms, entropy);
        if let Some(kind) = draw_kind(class, cluster, &mut rot_left, entropy) {
            faults.push(Fault {
                at_ms,
                for_ms,
                kind,
            });
        }
        at_ms += 1 + entropy.below(2 * mean_ms);
    }
    faults
}

fn draw_kind(
    class: usize,
    cluster: &ClusterPlan,
    rot_left: &mut usize,
    entropy: &mut Entropy,
) -> Option<FaultKind> {
    let members = cluster.members;
    let target = if entropy.one_in(3) {
        Target::Leader
    } else {
        Target::Member(draw::index(members, entropy))
    };
    Some(match class {
        0 | 1 => FaultKind::Kill { target },
        2 => FaultKind::PowerCut { target },
        3 => FaultKind::PowerCutAll,
        4 => FaultKind::Pause { target },
        5 => FaultKind::Terminate { target },
        6 if members > 1 => {
            let shape = draw_shape(entropy);
            let pairs = pairs(shape, members, entropy);
            let hold = entropy.one_in(3);
            FaultKind::Block { shape, pairs, hold }
        }
        7 if members > 1 => {
            let way = entropy.below(4);
            FaultKind::Isolate {
                target,
                inbound: way != 0,
                outbound: way != 1,
                hold: entropy.one_in(3),
            }
        }
        8 => FaultKind::Reset { target },
        9 => FaultKind::SlowDisk {
            target,
            times: draw::log_uniform(2, 200, entropy),
        },
        10 => FaultKind::StalledDisk { target },
        11 => {
            let kinds = [
                DiskFault::Write,
                DiskFault::Sync,
                DiskFault::Prepare,
                DiskFault::Commit,
            ];
            let on = kinds[draw::index(kinds.len(), entropy)];
            FaultKind::DiskError { target, on }
        }
        12 => FaultKind::FullDisk { target },
        13 if *rot_left > 0 && entropy.one_in(4) => {
            *rot_left -= 1;
            let member = draw::index(members, entropy);
            FaultKind::Rot { member }
        }
        14 => {
            let ms = draw::signed(draw::log_uniform(1, 20_000, entropy), entropy);
            if entropy.one_in(2) {
                FaultKind::ClockJump { target, ms }
            } else {
                let ppm = draw::signed(draw::log_uniform(1, 50_000, entropy), entropy);
                FaultKind::ClockRate { target, ppm }
            }
        }
        16 | 17 => FaultKind::CrashAt {
            target,
            point: Point::ALL[draw::index(Point::ALL.len(), entropy)],
            power: entropy.one_in(2),
        },
        15 if members > 1 => FaultKind::MoveLeader {
            to: draw::index(members, entropy),
        },
        _ => return None,
    })
}

fn draw_shape(entropy: &mut Entropy) -> Shape {
    let shapes = [
        Shape::OneWay,
        Shape::Pair,
        Shape::Split,
        Shape::Ring,
        Shape::Bridge,
    ];
    shapes[draw::index(shapes.len(), entropy)]
}

/// The directed pairs of a partition.
fn pairs(shape: Shape, members: usize, entropy: &mut Entropy) -> Vec<(usize, usize)> {
    let all = (0..members).flat_map(|a| (0..members).map(move |b| (a, b)));
    let all = all.filter(|(a, b)| a != b);
    let first = draw::index(members, entropy);
    let second = (first + 1 + draw::index(members - 1, entropy)) % members;
    match shape {
        Shape::OneWay => vec![(first, second)],
        Shape::Pair => vec![(first, second), (second, first)],
        Shape::Split => {
            let size = 1 + draw::index(members - 1, entropy);
            let one = draw::subset(members, size, entropy);
            all.filter(|(a, b)| one.contains(a) != one.contains(b))
                .collect()
        }
        // Each sees only its two neighbours.
        Shape::Ring => all
            .filter(|(a, b)| {
                let apart = a.abs_diff(*b);
                apart != 1 && apart != members - 1
            })
            .collect(),
        // Two halves that only one member sees both of.
        Shape::Swizzle => unreachable!("a swizzle is drawn as a whole"),
        Shape::Bridge => {
            let side = |member: usize| (member + members - first) % members > members / 2;
            all.filter(|(a, b)| *a != first && *b != first && side(*a) != side(*b))
                .collect()
        }
    }
}
