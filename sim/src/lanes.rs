//! A member's disk at work: four lanes, each doing one operation after the other in steps that a
//! crash may fall between. The log lies on the simulated disk; the backend is an image in memory
//! whose commits are atomic, as a transaction is.
//!
//! Invariant: a ticket comes back exactly once, in the order of its lane, or its member has died.

use std::collections::VecDeque;

use fated::{
    backend::Bucket,
    kernel::{
        DiskError, DiskErrorKind, DiskOp, DiskOutcome, Entropy, Event, Lane, SegmentId, Ticket,
    },
    mutant,
    wal::{parse_segment_name, segment_name},
};

use crate::{
    faults::{DiskFault, Point},
    world::{Item, World},
};

/// One lane of one member.
#[derive(Default, Debug)]
pub struct LaneState {
    queue: VecDeque<(Ticket, DiskOp)>,
    work: Option<Work>,
    /// The failure after which nothing more is done.
    failed: Option<DiskError>,
    /// Nothing completes before this moment.
    pub stalled_until: u64,
    /// When the running step ends.
    pub busy_until: u64,
}

#[derive(Debug)]
struct Work {
    ticket: Ticket,
    op: DiskOp,
    step: u32,
    /// What a backend operation brought that took effect before it is reported.
    early: Option<Outcome>,
    /// Segments that a removal has still to unlink.
    doomed: Vec<String>,
}

type Outcome = Result<DiskOutcome, DiskError>;

enum Progress {
    More,
    Done(Outcome),
}

/// The lanes, in the order in which a crash looks at them.
pub const LANES: [Lane; 4] = [Lane::Wal, Lane::Keep, Lane::Backend, Lane::Snapshot];

impl World {
    /// Takes an operation onto its lane.
    pub fn execute_disk(&mut self, at: usize, ticket: Ticket, op: DiskOp) {
        let lane = op.lane();
        let state = self.members[at].lanes.entry(lane).or_default();
        state.queue.push_back((ticket, op));
        if state.work.is_none() {
            self.start_next(at, lane);
        }
    }

    fn start_next(&mut self, at: usize, lane: Lane) {
        let member = &mut self.members[at];
        let state = member.lanes.entry(lane).or_default();
        let Some((ticket, op)) = state.queue.pop_front() else {
            return;
        };
        if let Some(error) = state.failed.clone() {
            let outcome = Err(error);
            self.event_now(at, Event::DiskDone { ticket, outcome });
            return self.start_next(at, lane);
        }
        // A transaction is durable at some moment between its start and its answer.
        let backend = matches!(lane, Lane::Backend | Lane::Snapshot);
        let early = backend && member.entropy.one_in(2);
        let fails = failures_of(&op);
        let fails = member
            .failing
            .is_some_and(|failing| fails.contains(&failing));
        let early = (early && !fails).then(|| member.vault().execute(&op));
        let state = member.lanes.entry(lane).or_default();
        state.work = Some(Work {
            ticket,
            op,
            step: 0,
            early,
            doomed: Vec::new(),
        });
        self.lane_later(at, lane);
    }

    fn lane_later(&mut self, at: usize, lane: Lane) {
        let plan = &self.plan.disks;
        let member = &mut self.members[at];
        let state = member.lanes.get_mut(&lane).expect("a lane at work");
        let quick = lane == Lane::Wal && state.work.as_ref().is_some_and(|work| work.step == 0);
        let base = if quick { plan.write_us } else { plan.sync_us };
        let factor = 1 << member.entropy.below(4);
        let nanos = base * 1000 * factor + member.entropy.below(1000);
        let when = (self.now + nanos * member.slow_times).max(state.stalled_until);
        state.busy_until = when;
        let boot = member.boot;
        if member.slow_times > 1 {
            self.counters.hit("disk: operation slowed down");
        }
        self.at(when, Item::Lane { at, boot, lane });
    }

    /// The running operation of a lane goes one step on.
    pub fn on_lane(&mut self, at: usize, boot: u64, lane: Lane) {
        if self.members[at].boot != boot || !self.members[at].up {
            return;
        }
        let stalled_until = self.members[at].lanes[&lane].stalled_until;
        if stalled_until > self.now {
            self.counters.hit("disk: operation held by a stall");
            self.at(stalled_until, Item::Lane { at, boot, lane });
            return;
        }
        let state = &self.members[at].lanes[&lane];
        if let Some(work) = &state.work
            && let Some(point) = point_before(work)
        {
            self.maybe_crash(at, &[point]);
            if !self.members[at].up {
                return;
            }
        }
        let state = self.members[at].lanes.get_mut(&lane);
        let work = state.and_then(|state| state.work.take());
        let mut work = work.expect("a lane at work");
        let progress = self.work_on(at, &mut work);
        if self.members[at].misplaced && matches!(progress, Progress::More) {
            self.counters.hit("disk: misdirected write");
            self.note(&format!("member {at} writes its log at another place"));
        }
        if matches!(work.op, DiskOp::StageDrop { .. }) {
            self.counters.hit("image: thrown away");
        }
        self.maybe_crash(at, &points_of(&work, &progress));
        if !self.members[at].up {
            return;
        }
        match progress {
            Progress::More => {
                work.step += 1;
                let state = self.members[at]
                    .lanes
                    .get_mut(&lane)
                    .expect("a lane at work");
                state.work = Some(work);
                self.lane_later(at, lane);
            }
            Progress::Done(outcome) => {
                let ticket = work.ticket;
                match &outcome {
                    Ok(DiskOutcome::Rewriting) => self.counters.hit("rewriting: part done"),
                    _ if matches!(work.op, DiskOp::Defragment { .. }) => {
                        self.counters.hit("rewriting: ended");
                    }
                    Ok(_) | Err(_) => {}
                }
                let failed = outcome.as_ref().err().filter(|_| lane != Lane::Snapshot);
                if let Some(error) = failed {
                    let state = self.members[at].lanes.get_mut(&lane);
                    state.expect("a lane at work").failed = Some(error.clone());
                }
                self.event_now(at, Event::DiskDone { ticket, outcome });
                self.start_next(at, lane);
            }
        }
    }

    fn work_on(&mut self, at: usize, work: &mut Work) -> Progress {
        let reverts = self.plan.disks.failed_sync_reverts;
        let member = &mut self.members[at];
        let outcome = match &work.op {
            DiskOp::WalWrite {
                segment,
                offset,
                bytes,
                sync,
            } => {
                let name = segment_name(*segment);
                if work.step == 0 {
                    match member.write_log(*segment, *offset, bytes) {
                        Ok(()) if *sync => return Progress::More,
                        written => written,
                    }
                } else if member.take_failure(DiskFault::Sync) {
                    member.disk.fail_sync(&name, reverts, &mut member.entropy);
                    Err(failed(&name))
                } else {
                    member.must_refuse |= std::mem::take(&mut member.misplaced);
                    member.disk.sync(&name)
                }
            }
            DiskOp::WalPrepare { segment, bytes } => {
                match member.prepare_step(*segment, *bytes, work.step) {
                    Ok(true) => Ok(()),
                    Ok(false) => return Progress::More,
                    Err(error) => Err(error),
                }
            }
            DiskOp::WalRemove { before } => match member.remove_step(*before, work) {
                Ok(true) => Ok(()),
                Ok(false) => return Progress::More,
                Err(error) => Err(error),
            },
            op => {
                let fails = failures_of(op).iter();
                let fails = fails.copied().find(|on| member.take_failure(*on));
                if let Some(on) = fails {
                    self.counters.hit(on.counter());
                    member.expects_halt = true;
                    let kind = match on {
                        DiskFault::CommitFull | DiskFault::StageFull => DiskErrorKind::Full,
                        _ => DiskErrorKind::Io,
                    };
                    return Progress::Done(Err(DiskError::new(kind, "the backend")));
                }
                let early = work.early.take();
                let outcome = early.unwrap_or_else(|| member.vault().execute(op));
                return Progress::Done(outcome);
            }
        };
        if let Err(error) = &outcome {
            self.counters.hit(match (error.kind, &work.op) {
                (DiskErrorKind::Full, _) => "disk: no space for a segment",
                (_, DiskOp::WalWrite { .. }) if work.step == 0 => DiskFault::Write.counter(),
                (_, DiskOp::WalWrite { .. }) => DiskFault::Sync.counter(),
                (_, _) => DiskFault::Prepare.counter(),
            });
            self.members[at].expects_halt = true;
        }
        Progress::Done(outcome.map(|()| DiskOutcome::Done))
    }

    /// The member dies: of each lane's running step nobody knows whether it was done. What waits
    /// behind never began.
    pub fn drop_lanes(&mut self, at: usize) {
        let mut entropy = self.members[at].entropy.clone();
        for lane in LANES {
            let work = self.members[at]
                .lanes
                .remove(&lane)
                .and_then(|state| state.work);
            if let Some(mut work) = work
                && entropy.one_in(2)
            {
                self.counters.hit(match lane {
                    Lane::Wal => "crash: inside a log write",
                    Lane::Keep => "crash: inside segment keeping",
                    Lane::Backend => "crash: inside a backend operation",
                    Lane::Snapshot => "crash: inside an image operation",
                });
                self.work_on(at, &mut work);
            }
        }
        // One draw, so that what the steps took from the stream above does not matter.
        self.members[at].entropy = Entropy::from_seed(entropy.next_u64());
        self.members[at].expects_halt = false;
    }
}

impl crate::world::Member {
    /// The first step of a log write: into the page cache, if all goes well.
    fn write_log(
        &mut self,
        segment: SegmentId,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), DiskError> {
        let name = segment_name(segment);
        if self.take_failure(DiskFault::Write) {
            return Err(failed(&name));
        }
        if self.miswrites {
            let Self { disk, entropy, .. } = self;
            if disk
                .write_elsewhere(&name, offset, bytes, entropy)
                .is_some()
            {
                self.miswrites = false;
                self.misplaced = true;
                self.rotten = true;
                // Nobody acts on it: what would be lost was never told to anybody.
                self.crash_at = Some((Point::LogSynced, false));
                return Ok(());
            }
        }
        if self.log_writes[0] != (segment, offset) {
            self.log_writes = [(segment, offset), self.log_writes[0]];
        }
        self.disk.write(&name, offset, bytes)
    }

    /// One step of making a segment, as the production host does it. True at the end.
    fn prepare_step(
        &mut self,
        segment: SegmentId,
        bytes: u64,
        step: u32,
    ) -> Result<bool, DiskError> {
        let name = segment_name(segment);
        let temporary = format!("{name}.tmp");
        match step {
            0 => self.disk.create(&temporary),
            1 => {
                if self.take_failure(DiskFault::Prepare) {
                    return Err(failed(&temporary));
                }
                let zeros = vec![0; usize::try_from(bytes).expect("small segments")];
                self.disk.write(&temporary, 0, &zeros)?;
            }
            2 => self.disk.sync(&temporary)?,
            3 => self.disk.rename(&temporary, &name)?,
            _ => {
                if !mutant!("segment-name-unsynced") {
                    self.disk.sync_names();
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One step of removing old segments. True at the end.
    fn remove_step(&mut self, before: SegmentId, work: &mut Work) -> Result<bool, DiskError> {
        if work.step == 0 {
            let names = self.disk.names().into_iter();
            let old = |name: &String| parse_segment_name(name).is_some_and(|id| id < before);
            work.doomed = names.filter(old).rev().collect();
        }
        match work.doomed.pop() {
            Some(name) => {
                self.disk.unlink(&name)?;
                Ok(false)
            }
            None => {
                self.disk.sync_names();
                Ok(true)
            }
        }
    }

    /// Whether the next operation of this kind is to fail; it is then used up.
    pub fn take_failure(&mut self, on: DiskFault) -> bool {
        self.failing.take_if(|failing| *failing == on).is_some()
    }
}

/// The planned failures that can meet an operation of the backend.
fn failures_of(op: &DiskOp) -> &'static [DiskFault] {
    match op {
        DiskOp::Commit { .. } => &[DiskFault::Commit, DiskFault::CommitFull],
        DiskOp::StageWrite { .. } => &[DiskFault::Stage, DiskFault::StageFull],
        _ => &[],
    }
}

/// Where a member stands before an operation that has had no effect yet.
fn point_before(work: &Work) -> Option<Point> {
    if work.early.is_some() || work.step > 0 {
        return None;
    }
    match &work.op {
        DiskOp::Commit { .. } => Some(Point::CommitBegins),
        DiskOp::StageSeal { .. } => Some(Point::SealBegins),
        DiskOp::StageInstall { .. } => Some(Point::InstallBegins),
        _ => None,
    }
}

/// Where a member stands when a step has just been done; nowhere when it failed.
fn points_of(work: &Work, progress: &Progress) -> Vec<Point> {
    if matches!(progress, Progress::Done(Err(_))) {
        return Vec::new();
    }
    let mut points: Vec<Point> = point_of(work, progress).into_iter().collect();
    if let DiskOp::Commit { batch } = &work.op {
        let writes = |bucket| batch.writes.get(&bucket).into_iter().flatten();
        let marks = |name: &[u8]| writes(Bucket::Meta).any(|(key, _)| key[..] == *name);
        points.extend(marks(b"scheduledCompactRev").then_some(Point::CompactionAccepted));
        points.extend(marks(b"finishedCompactRev").then_some(Point::CompactionFinished));
        let removes = writes(Bucket::Key).any(|(_, value)| value.is_none());
        points.extend(removes.then_some(Point::CompactionSlice));
    }
    points
}

fn point_of(work: &Work, progress: &Progress) -> Option<Point> {
    Some(match &work.op {
        DiskOp::WalWrite { .. } if work.step == 0 => Point::LogWritten,
        DiskOp::WalWrite { .. } => Point::LogSynced,
        DiskOp::WalPrepare { .. } => match work.step {
            0 => Point::SegmentCreated,
            1 => Point::SegmentZeroed,
            2 => Point::SegmentSynced,
            3 => Point::SegmentRenamed,
            _ => Point::SegmentDurable,
        },
        DiskOp::WalRemove { .. } => match progress {
            Progress::More => Point::SegmentUnlinked,
            Progress::Done(_) => Point::SegmentsRemoved,
        },
        DiskOp::Commit { .. } => Point::Committed,
        DiskOp::SnapshotOpen { .. } => Point::ImagePinned,
        DiskOp::SnapshotRead { .. } => Point::ImageRead,
        DiskOp::StageOpen { .. } => Point::StageOpened,
        DiskOp::StageWrite { .. } => Point::StageWritten,
        DiskOp::StageSeal { .. } => Point::StageSealed,
        DiskOp::StageInstall { .. } => Point::StageInstalled,
        DiskOp::StageDrop { .. } => Point::StageDropped,
        DiskOp::Defragment { .. } => match progress {
            Progress::Done(Ok(DiskOutcome::Rewriting)) => Point::RewritePart,
            Progress::Done(_) | Progress::More => Point::Rewritten,
        },
        DiskOp::SnapshotClose { .. } | DiskOp::RemoveReplaced => return None,
    })
}

fn failed(what: &str) -> DiskError {
    DiskError::new(DiskErrorKind::Io, what)
}
